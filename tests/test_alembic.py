"""Alembic beside us: autogenerate leaves our tables alone, and a migration of the user's upgrades them."""

import textwrap

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy import Column, Integer, MetaData, Table, create_engine, inspect

from earnorm import connect
from earnorm.alembic import include_name, upgrade
from earnorm.backends.sqlalchemy import migrations
from earnorm.errors import MigrationWithoutConnection, UnknownStep

LAST = len(migrations.STEPS)

ENV = """
    from alembic import context
    from sqlalchemy import create_engine, MetaData
    from earnorm.alembic import include_name

    url = context.config.get_main_option("sqlalchemy.url")
    if context.is_offline_mode():
        context.configure(url=url, literal_binds=True)
        with context.begin_transaction():
            context.run_migrations()
    else:
        engine = create_engine(url)
        try:
            with engine.connect() as connection:
                context.configure(connection=connection, target_metadata=MetaData(), include_name=include_name)
                with context.begin_transaction():
                    context.run_migrations()
        finally:
            engine.dispose()
"""
MIGRATION = """
    import sqlalchemy as sa
    from alembic import op
    from earnorm.alembic import upgrade as upgrade_log

    revision, down_revision, branch_labels, depends_on = "{revision}", {down}, None, None

    def upgrade():
        {work}

    def downgrade():
        pass
"""


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request, tmp_path):
    return f"sqlite:///{tmp_path}/app.db" if request.param == "sqlite" else request.getfixturevalue("postgresql")


@pytest.fixture
def alembic(tmp_path, url):
    """A user's Alembic project, with a migration for each piece of work given."""
    folder = tmp_path / "migrations"
    (folder / "versions").mkdir(parents=True)
    (folder / "env.py").write_text(textwrap.dedent(ENV))
    # What `alembic init` lays there; only autogenerate into a file would need more.
    (folder / "script.py.mako").write_text("")
    config = Config()
    config.set_main_option("script_location", str(folder))
    config.set_main_option("path_separator", "os")
    config.set_main_option("sqlalchemy.url", url.replace("%", "%%"))

    def write(*works):
        for number, work in enumerate(works, start=1):
            down = f'"{number - 1}"' if number > 1 else None
            source = textwrap.dedent(MIGRATION).format(revision=number, down=down, work=work)
            (folder / "versions" / f"{number}.py").write_text(source)
        return config

    return write


@pytest.fixture
def user_tables():
    metadata = MetaData()
    Table("orders", metadata, Column("id", Integer, primary_key=True))
    return metadata


def proposals(url, metadata, **options):
    engine = create_engine(url)
    try:
        with engine.connect() as connection:
            found = compare_metadata(MigrationContext.configure(connection, opts=options), metadata)
        # A change is a tuple that begins with its verb; changes of one column come as a list of such.
        return sorted((change[0], change[1].name) for change in found if isinstance(change, tuple))
    finally:
        engine.dispose()


def current_steps(url):
    engine = create_engine(url)
    try:
        with engine.connect() as connection:
            return list(migrations.status(connection).applied)
    finally:
        engine.dispose()


# --- autogenerate ---


def test_autogenerate_would_drop_our_tables(url, user_tables):
    with connect(url, worker=False):
        pass

    proposed = proposals(url, user_tables)

    assert ("add_table", "orders") in proposed
    assert ("remove_table", "earnorm_log") in proposed
    assert ("remove_table", "earnorm_delivery") in proposed


def test_with_include_name_it_proposes_nothing_about_them(url, user_tables):
    with connect(url, worker=False):
        pass

    assert [("add_table", "orders")] == proposals(url, user_tables, include_name=include_name)


def test_include_name_knows_every_table_of_ours_and_no_other(url):
    with connect(url, worker=False):
        pass
    engine = create_engine(url)
    made = [name for name in inspect(engine).get_table_names() if name.startswith("earnorm")]
    engine.dispose()

    assert made
    assert not any(include_name(name, "table", {"schema_name": None}) for name in made)
    assert include_name("orders", "table", {"schema_name": None})
    assert include_name(None, "schema", {})
    assert include_name("earnorm_note", "column", {"table_name": "orders"})


# --- upgrade from a migration ---


def test_a_migration_upgrades_the_log(alembic, url):
    command.upgrade(alembic(f"upgrade_log(op.get_bind(), to={LAST})"), "head")

    with connect(url, worker=False, tables="check") as db:
        assert 0 == db.drain()["done"]


def test_each_migration_may_name_the_step_it_goes_to(alembic, url):
    config = alembic(
        "upgrade_log(op.get_bind(), to=2)",
        'op.create_table("orders", sa.Column("id", sa.Integer, primary_key=True))',
        "upgrade_log(op.get_bind(), to=3)",
    )

    command.upgrade(config, "1")
    assert [1, 2] == current_steps(url)
    command.upgrade(config, "head")
    assert [1, 2, 3] == current_steps(url)


def test_running_it_where_the_tables_are_there_does_nothing(alembic, url):
    with connect(url, worker=False):
        pass

    command.upgrade(alembic("upgrade_log(op.get_bind(), to=2)"), "head")

    assert list(range(1, LAST + 1)) == current_steps(url)


def test_a_migration_that_fails_leaves_a_state_that_the_next_run_finishes(alembic, url):
    """Under Alembic a migration on SQLite is no transaction: what was run may stay, and running again goes on."""
    config = alembic("upgrade_log(op.get_bind(), to=2); op.execute('SELECT * FROM nowhere')")
    with pytest.raises(Exception, match="nowhere"):
        command.upgrade(config, "head")

    command.upgrade(alembic(f"upgrade_log(op.get_bind(), to={LAST})"), "head")

    assert list(range(1, LAST + 1)) == current_steps(url)


def test_offline_there_is_no_connection_and_the_error_names_the_script(alembic):
    with pytest.raises(MigrationWithoutConnection, match="earnorm db sql"):
        command.upgrade(alembic("upgrade_log(op.get_bind(), to=1)"), "head", sql=True)


def test_an_engine_is_no_connection(url):
    engine = create_engine(url)
    with pytest.raises(MigrationWithoutConnection, match=r"op\.get_bind\(\)"):
        upgrade(engine)
    engine.dispose()


def test_a_step_that_is_not_there_is_refused(url):
    engine = create_engine(url)
    with engine.begin() as connection, pytest.raises(UnknownStep, match="the steps 1 to"):
        upgrade(connection, to=LAST + 1)
    with engine.begin() as connection:
        assert [] == inspect(connection).get_table_names()
    engine.dispose()
