"""PostgreSQL's triggers of a captured table, and the stored values that they write down.

A row is kept as `to_jsonb` writes it, and read back by `jsonb_populate_record`: the database itself knows its types.
"""

from __future__ import annotations

import json
from typing import Any

from sqlalchemy import DDL, Connection, Table, text

from earnorm.backends.sqlalchemy import tables
from earnorm.backends.sqlalchemy.capture.target import Target
from earnorm.backends.sqlalchemy.dialects.postgresql import CAPTURED

__all__ = ["OWN_TRANSACTION", "Triggers", "stored_values", "try_alone"]

FUNCTION = "earnorm_capture"
_ROWS, _TRUNCATE = "earnorm_capture", "earnorm_capture_truncate"

OWN_TRANSACTION = "pg_current_xact_id()::text::bigint"

# SECURITY DEFINER, since who may write the model's table need not write ours; so the path is fixed, and pg_temp last.
# The three settings are those by which a session could make the text of a value inexact or ambiguous.
# A primary key that changes is one record that goes and one that comes. TRUNCATE is told before, row by row.
_BODY = f"""\
DO $earnorm$
BEGIN
  EXECUTE replace($create$
    CREATE OR REPLACE FUNCTION {FUNCTION}() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, <schema>, pg_temp
    SET bytea_output = 'hex' SET extra_float_digits = '1' SET intervalstyle = 'postgres' AS $body$
    DECLARE
      spec jsonb := TG_ARGV[0]::jsonb;
      before jsonb; after jsonb; was jsonb; is_now jsonb; was_key jsonb; is_key jsonb;
      veiled jsonb := '[]';
    BEGIN
      IF TG_OP = 'TRUNCATE' THEN
        EXECUTE format(
          'INSERT INTO {tables.capture.name} (subject, key, operation, old, hidden, transaction, at)
           SELECT $1->>''subject'', (SELECT jsonb_agg(to_jsonb(t)->name ORDER BY n)
                    FROM jsonb_array_elements_text($1->''key'') WITH ORDINALITY AS k(name, n))::text, ''D'',
                  (SELECT jsonb_object_agg(name, to_jsonb(t)->name)
                    FROM jsonb_array_elements_text($1->''kept'') AS k(name))::text,
                  ''[]'', {OWN_TRANSACTION}, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint
           FROM ONLY %I.%I AS t', TG_TABLE_SCHEMA, TG_TABLE_NAME) USING spec;
        PERFORM set_config('{CAPTURED}', 'y', true);
        RETURN NULL;
      END IF;
      IF TG_OP <> 'INSERT' THEN
        before := to_jsonb(OLD);
        SELECT jsonb_object_agg(name, before->name) INTO was
          FROM jsonb_array_elements_text(spec->'kept') AS k(name);
        SELECT jsonb_agg(before->name ORDER BY n) INTO was_key
          FROM jsonb_array_elements_text(spec->'key') WITH ORDINALITY AS k(name, n);
      END IF;
      IF TG_OP <> 'DELETE' THEN
        after := to_jsonb(NEW);
        SELECT jsonb_object_agg(name, after->name) INTO is_now
          FROM jsonb_array_elements_text(spec->'kept') AS k(name);
        SELECT jsonb_agg(after->name ORDER BY n) INTO is_key
          FROM jsonb_array_elements_text(spec->'key') WITH ORDINALITY AS k(name, n);
      END IF;
      IF TG_OP = 'UPDATE' THEN
        SELECT coalesce(jsonb_agg(name), '[]') INTO veiled FROM jsonb_array_elements_text(spec->'hidden') AS k(name)
          WHERE before->name IS DISTINCT FROM after->name;
        IF was::text = is_now::text AND veiled = '[]' THEN
          RETURN NULL;
        END IF;
      END IF;
      PERFORM set_config('{CAPTURED}', 'y', true);
      IF TG_OP = 'UPDATE' AND was_key = is_key THEN
        INSERT INTO {tables.capture.name} (subject, key, operation, old, new, hidden, transaction, at)
        VALUES (spec->>'subject', is_key::text, 'U', was::text, is_now::text, veiled::text, {OWN_TRANSACTION},
                (extract(epoch FROM clock_timestamp()) * 1000000)::bigint);
        RETURN NULL;
      END IF;
      IF TG_OP <> 'INSERT' THEN
        INSERT INTO {tables.capture.name} (subject, key, operation, old, hidden, transaction, at)
        VALUES (spec->>'subject', was_key::text, 'D', was::text, '[]', {OWN_TRANSACTION},
                (extract(epoch FROM clock_timestamp()) * 1000000)::bigint);
      END IF;
      IF TG_OP <> 'DELETE' THEN
        INSERT INTO {tables.capture.name} (subject, key, operation, new, hidden, transaction, at)
        VALUES (spec->>'subject', is_key::text, 'I', is_now::text, '[]', {OWN_TRANSACTION},
                (extract(epoch FROM clock_timestamp()) * 1000000)::bigint);
      END IF;
      RETURN NULL;
    END $body$
  $create$, '<schema>', quote_ident(current_schema()));
END $earnorm$"""  # noqa: S608  names of ours

_FIND = text(
    "SELECT n.nspname, c.relname, convert_from(rtrim_zero.args, 'UTF8') FROM pg_trigger t "
    "JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_namespace n ON n.oid = c.relnamespace "
    "JOIN pg_proc p ON p.oid = t.tgfoid JOIN pg_namespace f ON f.oid = p.pronamespace, "
    "LATERAL (SELECT substring(t.tgargs FROM 1 FOR length(t.tgargs) - 1) AS args) AS rtrim_zero "
    "WHERE t.tgname = :name AND p.proname = :function AND f.nspname = current_schema() AND t.tgparentid = 0"
)


class Triggers:
    """The triggers of a table, by its name with its schema."""

    def name_of(self, connection: Connection, table: Table) -> str:
        schema = table.schema or connection.exec_driver_sql("SELECT current_schema()").scalar_one()
        return f"{schema}.{table.name}"

    def specification(self, target: Target) -> str:
        return target.specification

    def require_fit(self, connection: Connection, target: Target) -> None:
        """Every table will do."""

    def find(self, connection: Connection) -> dict[str, str]:
        """The captured tables, and what their triggers were made from."""
        rows = connection.execute(_FIND, {"name": _ROWS, "function": FUNCTION})
        return {f"{schema}.{table}": specification for schema, table, specification in rows}

    def install(self, connection: Connection, target: Target) -> None:
        _run(connection, _BODY)
        table, argument = _table(connection, target.table), "'" + target.specification.replace("'", "''") + "'"
        _run(
            connection,
            f"CREATE OR REPLACE TRIGGER {_ROWS} AFTER INSERT OR UPDATE OR DELETE ON {table} "
            f"FOR EACH ROW EXECUTE FUNCTION {FUNCTION}({argument})",
        )
        _run(
            connection,
            f"CREATE OR REPLACE TRIGGER {_TRUNCATE} BEFORE TRUNCATE ON {table} "
            f"FOR EACH STATEMENT EXECUTE FUNCTION {FUNCTION}({argument})",
        )

    def remove(self, connection: Connection, target: Target) -> None:
        for name in (_ROWS, _TRUNCATE):
            _run(connection, f"DROP TRIGGER IF EXISTS {name} ON {_table(connection, target.table)}")


def _run(connection: Connection, statement: str) -> None:
    connection.execute(DDL(statement.replace("%", "%%")))  # type: ignore[no-untyped-call]  # SQLAlchemy left it so


def _table(connection: Connection, table: Table) -> str:
    return connection.dialect.identifier_preparer.format_table(table)


def stored_values(
    connection: Connection, target: Target, documents: list[str], *, is_there: bool
) -> list[tuple[dict[str, Any], Any]]:
    """The stored values, by column, as the driver gives them, and the driver's types of them.

    They are of the types that the table's columns have now, and left out where it has none of that name any more. If
    it is not there, they are of the types that its model says.
    """
    record = _record_of_table(connection, target) if is_there else _record_of_model(connection, target)
    found = connection.execute(
        text(
            "SELECT r.* FROM jsonb_array_elements(CAST(:documents AS jsonb)) WITH ORDINALITY AS e(document, n), "  # noqa: S608  names of the model
            f"LATERAL {record} ORDER BY e.n"
        ),
        {"documents": f"[{', '.join(documents)}]"},
    )
    cursor: Any = found.cursor
    names = [part[0] for part in cursor.description]
    types = {part[0]: part[1] for part in cursor.description}
    kept = [json.loads(document).keys() for document in documents]
    rows = [dict(zip(names, row, strict=True)) for row in found]
    return [({name: row[name] for name in there if name in row}, types) for row, there in zip(rows, kept, strict=True)]


def _record_of_table(connection: Connection, target: Target) -> str:
    return f"jsonb_populate_record(NULL::{_table(connection, target.table)}, e.document) AS r"


def _record_of_model(connection: Connection, target: Target) -> str:
    quote = connection.dialect.identifier_preparer.quote
    columns = (f"{quote(name)} {column.type.compile(connection.dialect)}" for name, column in target.columns.items())
    return f"jsonb_to_record(e.document) AS r({', '.join(columns)})"


def is_there(connection: Connection, target: Target) -> bool:
    """Whether the table is, by the name that its model has for it: it may have been renamed since."""
    name = _table(connection, target.table)
    return connection.execute(text("SELECT to_regclass(:name) IS NOT NULL"), {"name": name}).scalar_one() is True


def try_alone(connection: Connection) -> bool:
    """Whether this transaction alone turns captured rows into events: two at once could change their order."""
    statement = "SELECT pg_try_advisory_xact_lock(hashtext('earnorm capture'), hashtext(current_schema()))"
    return bool(connection.exec_driver_sql(statement).scalar_one())
