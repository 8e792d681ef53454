"""How PostgreSQL reads the log: along its index, as far as it is asked, whatever it knows of the table."""

import pytest

from earnorm.backends.sqlalchemy.dialects.postgresql_engines import postgresql_engine
from earnorm.backends.sqlalchemy.dialects.postgresql_glance import _words
from earnorm.backends.sqlalchemy.migrations import upgrade

FAR = (1 << 63) - 1
MANY = 20_000
# Unseen by the planner, as a log is until autovacuum has come by.
FILL = f"""
    ALTER TABLE earnorm_log SET (autovacuum_enabled = false);
    INSERT INTO earnorm_log (id, name, subject, key, data, at, correlation_id, depth, version, slot)
    SELECT decode(md5(n::text), 'hex'), 'user.created', 'user', 'user:' || n, '{{}}', n, decode(md5(n::text), 'hex'), 0,
           1, mod(n, 64)
    FROM generate_series(1, {MANY}) n
"""


@pytest.fixture
def connection(postgresql):
    engine = postgresql_engine(postgresql)
    try:
        with engine.begin() as connection:
            upgrade(connection)
            for statement in FILL.split(";"):
                connection.exec_driver_sql(statement)
        with engine.connect() as connection:
            yield connection
    finally:
        engine.dispose()


def plan(connection, mode, slots):
    """What becomes of a statement that is prepared, with its values in sight or without."""
    reading, values = _words().reading(0, FAR, 1_000, slots)
    connection.exec_driver_sql(f"SET LOCAL plan_cache_mode = {mode}")
    connection.exec_driver_sql(f"PREPARE reading AS {reading.text}")
    given = ", ".join(str(value) for value in reading.ordered(values))
    rows = connection.exec_driver_sql(f"EXPLAIN (ANALYZE, TIMING OFF) EXECUTE reading ({given})").scalars().all()
    return "\n".join(rows)


@pytest.mark.parametrize("analysed", [False, True])
@pytest.mark.parametrize("mode", ["force_custom_plan", "force_generic_plan"])
@pytest.mark.parametrize("slots", [[], [(0, 31)], [(0, 15), (40, 47)]])
def test_a_batch_is_read_along_the_index_without_sorting_the_backlog_behind_it(connection, analysed, mode, slots):
    """Each batch of a new log's backlog read and sorted all that was left of it, until autovacuum came by."""
    if analysed:
        connection.exec_driver_sql("ANALYZE earnorm_log")

    found = plan(connection, mode, slots)

    assert "Sort" not in found
    assert "Index Scan using earnorm_log_pkey" in found
