"""Captured tables on SQLite: REPLACE, wide tables, odd names, and files that it needs."""

import sqlite3
from contextlib import closing

import pytest
from sqlalchemy import Integer, String
from sqlalchemy.orm import mapped_column

from earnorm import BaseModel, IntegerField, StringField, connect
from earnorm.errors import NotCapturable
from tests.flows.stories import log, pairs


@pytest.fixture
def Order():
    class Order(BaseModel):
        id = IntegerField(primary_key=True)
        status = StringField(default="new")

    return Order


@pytest.fixture
def other(path):
    with closing(sqlite3.connect(path, timeout=10)) as connection:
        yield connection


def write(connection, *statements):
    for statement in statements:
        connection.execute(statement)
    connection.commit()


def told(db):
    db.drain()
    return [(event.key, event.name.partition(".")[2], pairs(event)) for event in log(db)]


@pytest.mark.parametrize("recursive", [False, True])
def test_a_replaced_row_is_told_with_what_it_was(Order, db, other, recursive):
    db.captures.install(Order)
    other.execute(f"PRAGMA recursive_triggers = {int(recursive)}")
    write(other, "INSERT INTO orders VALUES (1, 'a')")
    # Its insert meets a row and is none: it leaves a note that means nothing.
    write(other, "INSERT OR IGNORE INTO orders VALUES (1, 'ignored')")
    write(other, "REPLACE INTO orders VALUES (1, 'b')", "REPLACE INTO orders VALUES (2, 'c')")

    replaced = [("order:1", "updated", {"status": ("a", "b")})]
    if recursive:
        replaced = [("order:1", "deleted", {}), ("order:1", "created", {})]
    found = told(db)
    assert [("order:1", "created", {}), *replaced] == [fact for fact in found if fact[0] == "order:1"]
    assert ("order:2", "created", {}) in found


def test_a_wide_table_with_odd_names_is_told(db, other):
    columns = {f"column {number}'\"": mapped_column(f"column {number}'\"", String) for number in range(120)}
    names = {f"c{number}": column for number, column in enumerate(columns.values())}
    Wide = type(
        "Wide",
        (BaseModel,),
        {"__tablename__": "wi'de\" table", "id": mapped_column(Integer, primary_key=True), **names},
    )
    db.captures.install(Wide)
    Wide(id=1, **dict.fromkeys(names, "x")).save()
    write(other, 'UPDATE "wi\'de"" table" SET "column 119\'""" = \'y\'')

    assert ("wide:1", "updated", {"c119": ("x", "y")}) == told(db)[-1]


def test_a_file_without_wal_is_refused(Order, path):
    with connect(f"sqlite:///{path}?journal_mode=delete", worker=False) as db:
        with pytest.raises(NotCapturable, match=r"journal_mode is delete.*PRAGMA journal_mode = WAL"):
            db.captures.install(Order)
