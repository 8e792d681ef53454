"""Rows that a bulk write reads back by the column, on SQLite: what JSON cannot hold as it is comes as it always did."""

from datetime import UTC, date, datetime

import pytest
from sqlalchemy import insert, text, update

from earnorm import BaseModel, BooleanField, DateField, DateTimeField, IntegerField, JSONField, StringField
from earnorm.backends.sqlalchemy.bulk import arrays, shape, statements
from tests.flows.stories import execute, log, pairs

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)


@pytest.fixture
def Thing():
    class Thing(BaseModel):
        id = IntegerField(primary_key=True)
        name = StringField(required=False)
        size = IntegerField(default=0)
        is_new = BooleanField(default=True)
        at = DateTimeField(required=False)
        day = DateField(required=False)
        about = JSONField(required=False)

    return Thing


@pytest.fixture
def singly(monkeypatch):
    """The reads of rows that went one by one."""
    counted, lots = [], shape.Shape.lots

    def counting(self, *given, **words):
        counted.append(True)
        return lots(self, *given, **words)

    monkeypatch.setattr(shape.Shape, "lots", counting)
    return counted


def things(**words):
    return [{"size": number, **words} for number in range(20)]


def test_every_kind_of_value_comes_back_as_it_was(db, Thing, singly):
    given = {
        "name": 'a"\\ \u2028 é',
        "is_new": False,
        "at": NOON,
        "day": date(2026, 1, 31),
        "about": {"a": [1.5, None]},
    }
    execute(db, (insert(Thing), things(**given)))
    execute(db, (update(Thing), [{"id": number, "size": 2**31 - 1} for number in range(1, 21)]))
    created, updated = (e for e in log(db) if e.key == "thing:7")

    assert {"id": 7, "size": 6, **given} == dict(created.payload)
    assert {"size": (6, 2**31 - 1)} == pairs(updated)
    assert {"id": 7, "size": 2**31 - 1, **given} == dict(updated.payload)
    assert [] == singly


def test_keys_with_gaps_are_read_by_themselves(db, Thing, singly):
    execute(db, (insert(Thing), things()))
    execute(db, (update(Thing), [{"id": number, "name": "odd"} for number in range(1, 21, 2)]))

    assert [f"thing:{n}" for n in range(1, 21, 2)] == [e.key for e in log(db) if e.name == "thing.updated"]
    assert [] == singly


def test_a_key_that_is_not_there_is_told_nothing_of(db, Thing):
    execute(db, (insert(Thing), things()))
    execute(db, (update(Thing).where(Thing.id > 0), {"name": "x"}))
    with pytest.raises(Exception, match="expected to update 21 row"):
        execute(db, (update(Thing), [{"id": number, "name": "y"} for number in range(1, 22)]))


@pytest.mark.parametrize("odd", ["1.5", "x'00ff'"])
def test_what_another_program_left_in_a_column_is_read_one_by_one(db, Thing, singly, odd):
    execute(db, (insert(Thing), things()))
    with db.engine.begin() as connection:
        connection.exec_driver_sql(f"UPDATE things SET size = {odd} WHERE id = 3")
    execute(db, (update(Thing), [{"id": number, "name": "n"} for number in range(1, 21)]))
    found = {e.key: e for e in log(db) if e.name == "thing.updated"}

    assert {"name": (None, "n")} == pairs(found["thing:3"])
    assert (1.5 if odd == "1.5" else b"\x00\xff") == found["thing:3"].payload["size"]
    assert singly


def test_a_text_with_a_nul_is_not_cut(db, Thing, singly):
    execute(db, (insert(Thing), things()))
    with db.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE things SET name = 'a' || char(0) || 'b' WHERE id = 3")
    with db.engine.connect() as connection:
        seen = arrays.by_keys(connection, shape.shape_of(Thing.__mapper__), [[3, 4]])

    assert ["a\0b", None] in [list(column) for column in seen]


def test_more_than_one_statement_reads(db, Thing, singly, monkeypatch):
    monkeypatch.setattr(arrays, "_MOST", 7)
    execute(db, (insert(Thing), things()))
    execute(db, (update(Thing), [{"id": number, "name": "n"} for number in range(1, 21)]))
    found = [(e.name, e.key) for e in log(db)]

    assert [(f"thing.{verb}", f"thing:{n}") for verb in ("created", "updated") for n in range(1, 21)] == found
    assert [] == singly


def test_numbers_far_above_those_that_were_there_are_read_one_by_one(db, Thing):
    execute(db, (insert(Thing), things()))
    with db.engine.connect() as connection:
        assert arrays.rising(connection, shape.shape_of(Thing.__mapper__), -(2**40), 20) is None


@pytest.fixture
def one_by_one(monkeypatch):
    """UPDATE statements whose rows came by RETURNING."""
    counted, beside = [], statements._beside

    def counting(*given):
        counted.append(True)
        return beside(*given)

    monkeypatch.setattr(statements, "_beside", counting)
    return counted


def test_one_statement_for_hundreds_tells_old_and_new_values_by_the_column(db, Thing, one_by_one):
    given = {"name": 'a"\\ \u2028 é', "at": NOON, "about": {"a": [1.5, None]}}
    execute(db, (insert(Thing), [{"size": number, **given} for number in range(200)]))
    execute(db, (update(Thing).where(Thing.size % 2 == 0).values(size=Thing.size + 1), None))
    told = [e for e in log(db) if e.name == "thing.updated"]

    assert [f"thing:{n}" for n in range(1, 200, 2)] == [e.key for e in told]
    assert [{"size": (n, n + 1)} for n in range(0, 200, 2)] == [pairs(e) for e in told]
    assert {"id": 7, "size": 7, "is_new": True, "day": None, **given} == dict(told[3].payload)
    assert [] == one_by_one


def test_one_statement_tells_what_a_trigger_made_of_its_values(db, Thing):
    execute(db, (insert(Thing), [{"size": number} for number in range(200)]))
    trigger = "AFTER UPDATE ON things WHEN new.id = 3 BEGIN UPDATE things SET size = 70 WHERE id = 3; END"
    with db.engine.begin() as connection:
        connection.execute(text(f"CREATE TRIGGER caps {trigger}"))
    execute(db, (update(Thing).values(size=0), None))
    told = {e.key: pairs(e) for e in log(db) if e.name == "thing.updated"}

    assert (199, {"size": (2, 70)}) == (len(told), told["thing:3"])


@pytest.mark.parametrize("odd", ["1.5", "x'00ff'"])
def test_one_statement_for_what_another_program_left_goes_by_the_row(db, Thing, one_by_one, odd):
    execute(db, (insert(Thing), [{"size": number} for number in range(200)]))
    with db.engine.begin() as connection:
        connection.execute(text(f"UPDATE things SET size = {odd} WHERE id = 5"))
    execute(db, (update(Thing).values(is_new=False), None))

    assert (200, [True]) == (sum(e.name == "thing.updated" for e in log(db)), one_by_one)


def test_a_statement_that_is_rolled_back_tells_nothing(db, Thing):
    execute(db, (insert(Thing), [{"size": number} for number in range(200)]))
    with db.session() as session:
        session.execute(update(Thing).values(size=Thing.size + 1))
        session.rollback()

    assert {"thing.created"} == {e.name for e in log(db)}
