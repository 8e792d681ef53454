"""Emits one after the other in one transaction: what is the same for all of them is found out once, and stays right."""

import sys

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from earnorm import connect, emit, event_handler
from earnorm.backends.sqlalchemy.scope import Scope, within
from earnorm.errors import MissingPayload

# An emit of a plain payload with its append: 60 written in Python, and room for another version of it.
MOST_CALLS = 68


@pytest.fixture
def db(url):
    with connect(url, worker=False) as db:
        db.ready()
        yield db


def logged(db):
    with db.engine.connect() as connection:
        rows = connection.execute(text("SELECT name FROM earnorm_log ORDER BY position"))
        return [name for (name,) in rows]


def test_an_emit_passes_through_few_functions(db):
    calls = 0

    def count(_frame, what, _argument):
        nonlocal calls
        calls += what == "call"

    def emitted(times):
        nonlocal calls
        calls = 0
        sys.setprofile(count)
        try:
            with db.transaction():
                for number in range(times):
                    emit("tick.told", number=number)
        finally:
            sys.setprofile(None)
        return calls

    emitted(2)
    few, many = emitted(10), emitted(110)

    assert (many - few) / 100 < MOST_CALLS


def test_a_savepoint_between_them_takes_its_own_and_no_other(db):
    with db.transaction() as opened:
        emit("tick.first")
        with pytest.raises(RuntimeError), db.transaction():
            emit("tick.lost")
            raise RuntimeError
        emit("tick.second")
        with db.transaction():
            emit("tick.third")
        assert opened.session.in_transaction()

    assert ["tick.first", "tick.second", "tick.third"] == logged(db)


def test_each_transaction_has_its_own(db):
    with db.transaction() as opened:
        emit("tick.first")
        opened.session.commit()
        emit("tick.second")
        opened.session.rollback()
        emit("tick.third")

    assert ["tick.first", "tick.third"] == logged(db)


def test_a_handler_that_comes_between_them_hears_the_next(db):
    heard = []
    with db.transaction():
        emit("tick.told", number=1)
        event_handler("tick.told", name="hear", delivery="transaction")(lambda *, number: heard.append(number))
        emit("tick.told", number=2)

    assert [2] == heard


def test_a_payload_that_a_new_handler_misses_is_refused(db):
    with db.transaction():
        emit("tick.told")
        event_handler("tick.told", name="hear")(lambda *, number: None)
        with pytest.raises(MissingPayload):
            emit("tick.told")

    assert ["tick.told"] == logged(db)


def test_a_session_of_ones_own_is_asked_each_time_where_its_events_go(db):
    asked = []

    class Routed(Session):
        def get_bind(self, *args, **options):
            asked.append(args)
            return super().get_bind(*args, **options)

    with Routed(db.engine) as session, session.begin(), within(Scope(session, db)):
        emit("tick.first")
        before = len(asked)
        emit("tick.second")

    assert before < len(asked)
    assert ["tick.first", "tick.second"] == logged(db)


def test_their_ids_rise_and_one_that_was_asked_for_stays(db):
    with db.transaction():
        handles = [emit("tick.told", number=number) for number in range(20)]
        asked = handles[7].id

    ids = [handle.id for handle in handles]
    with db.engine.connect() as connection:
        rows = connection.execute(text("SELECT id FROM earnorm_log ORDER BY position")).scalars()
        assert [id_.bytes for id_ in ids] == [bytes(row) for row in rows]
    others = [*ids[:7], *ids[8:]]
    assert asked == ids[7]
    assert sorted(set(others)) == others
