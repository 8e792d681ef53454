"""Salvage: records of a transaction that was rolled back can be read, mended and saved again; nothing set is lost."""

import asyncio

import pytest
from sqlalchemy import event, text
from sqlalchemy.exc import IntegrityError

from earnorm import BaseModel, IntegerField, StringField, emit, post_save
from earnorm.errors import TransactionFailed
from tests.flows.stories import log, names, pairs

# Connections that were cut off make the pool warn.
pytestmark = pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SAWarning")


@pytest.fixture
def Seat():
    class Seat(BaseModel, version=True):
        place = StringField(unique=True)
        row = IntegerField(default=0)
        note = StringField(required=False)

    return Seat


@pytest.fixture
def taken(db, Seat):
    return Seat(place="A1").save()


def test_a_record_whose_update_was_refused_keeps_all_that_was_set(db, Seat, taken):
    """It was expired: what had been set beside the fault was gone, and the next save wrote the mended field alone."""
    seat = Seat(place="A2").save()
    seat.place, seat.row = "A1", 7
    with pytest.raises(IntegrityError):
        seat.save()
    assert ("A1", 7, 1) == (seat.place, seat.row, seat.version)

    seat.place = "A3"
    seat.save()

    assert ("A3", 7, 2) == (Seat.get(seat.id).place, Seat.get(seat.id).row, seat.version)
    assert {"place": ("A2", "A3"), "row": (0, 7), "version": (1, 2)} == pairs(log(db)[-1])


async def test_a_record_whose_asave_was_refused_keeps_all_that_was_set(db, Seat):
    await Seat(place="A1").asave()
    seat = await Seat(place="A2").asave()
    seat.place, seat.row = "A1", 7
    with pytest.raises(IntegrityError):
        await seat.asave()

    seat.place = "A3"
    await seat.asave()

    found = await Seat.aget(seat.id)
    assert ("A3", 7) == (found.place, found.row)


def test_what_a_rolled_back_transaction_had_written_is_to_be_saved_again(db, Seat, taken):
    with pytest.raises(ZeroDivisionError):
        with db.transaction():
            taken.row = 1
            taken.save()
            taken.row, taken.note = 2, "window"
            taken.save()
            1 / 0
    assert (2, "window", 1) == (taken.row, taken.note, taken.version)

    taken.save()

    assert (2, "window", 2) == (Seat.get(taken.id).row, Seat.get(taken.id).note, taken.version)
    assert {"row": (0, 2), "note": (None, "window"), "version": (1, 2)} == pairs(log(db)[-1])


def test_what_is_set_back_after_a_rollback_is_no_change(db, Seat, taken):
    with pytest.raises(ZeroDivisionError):
        with db.transaction():
            taken.row = 1
            taken.save()
            1 / 0

    taken.row = 0
    taken.save()

    assert ["seat.created"] == names(db)


def test_the_other_records_of_a_transaction_that_was_refused_can_be_read(db, Seat, taken):
    with pytest.raises(IntegrityError):
        with db.transaction():
            seat = Seat.get(taken.id)
            Seat(place="A1").save()

    assert "A1" == seat.place


def test_a_record_whose_deletion_was_rolled_back_is_as_before(db, Seat, taken):
    with pytest.raises(ZeroDivisionError):
        with db.transaction():
            taken.row = 3
            taken.save()
            taken.delete()
            1 / 0
    assert ("A1", 3) == (taken.place, taken.row)

    taken.save()
    assert 3 == Seat.get(taken.id).row
    taken.delete()
    assert [] == Seat.find()


def test_a_new_record_that_was_changed_before_the_rollback_is_new_again(db, Seat):
    with pytest.raises(ZeroDivisionError):
        with db.transaction():
            seat = Seat(place="B1").save()
            seat.row = 4
            seat.save()
            1 / 0

    seat.save()

    assert ["seat.created"] == names(db)
    assert 4 == Seat.get(seat.id).row


def test_the_key_of_a_record_is_what_it_was_before_the_rollback(db):
    class Box(BaseModel):
        code = StringField(primary_key=True)

    box = Box(code="a").save()
    with pytest.raises(ZeroDivisionError):
        with db.transaction():
            box.code = "b"
            box.save()
            1 / 0

    box.save()
    assert ["b"] == [found.code for found in Box.find()]


def test_a_record_whose_commit_was_refused_is_saved_by_the_next_save(db, Seat, taken):
    """A refused COMMIT is no rollback to SQLAlchemy: the record was taken for stored, and the next save did nothing."""

    def refuse(_connection):
        raise ValueError("not today")

    seat, taken.row = Seat(place="C1"), 5
    event.listen(db.engine, "commit", refuse)
    for record in (seat, taken):
        with pytest.raises(ValueError, match="not today"):
            record.save()
    event.remove(db.engine, "commit", refuse)
    seat.save()
    taken.save()

    assert {("A1", 5), ("C1", 0)} == {(found.place, found.row) for found in Seat.find()}


def test_after_a_savepoint_s_rollback_a_record_is_as_the_database_has_it(db, Seat, taken):
    with db.transaction():
        with pytest.raises(ZeroDivisionError):
            with db.transaction():
                taken.row = 6
                taken.save()
                1 / 0
        assert 0 == taken.row

    assert 0 == Seat.get(taken.id).row


async def test_after_a_savepoint_s_rollback_a_coroutine_can_read_the_record(db, Seat):
    """It was expired, and reading it raised MissingGreenlet."""
    seat = await Seat(place="A1").asave()
    async with db.transaction():
        with pytest.raises(ZeroDivisionError):
            async with db.transaction():
                seat.row = 6
                await seat.asave()
                1 / 0
        assert 0 == seat.row

    assert 0 == (await Seat.aget(seat.id)).row


def test_a_hook_that_refuses_after_the_sql_leaves_what_was_set(db):
    class Till(BaseModel):
        sum = IntegerField(default=0)
        by = StringField(default="ada")

        @post_save
        def refuse(self):
            if self.sum < 0:
                raise ValueError("less than nothing")

    till = Till().save()
    till.sum, till.by = -1, "eve"
    with pytest.raises(ValueError, match="less than nothing"):
        till.save()

    till.sum = 1
    till.save()

    assert (1, "eve") == (Till.get(till.id).sum, Till.get(till.id).by)


def test_a_save_that_is_cancelled_at_its_commit_is_cancelled(db, Seat, monkeypatch):
    """The driver's connection is cut off then; asking it for a rollback raised PendingRollbackError instead."""

    def cut_off(connection, *_, **__):
        connection.invalidate()
        raise asyncio.CancelledError

    seat = Seat(place="D1")
    with monkeypatch.context() as patched:
        patched.setattr(db.log, "append", cut_off)
        with pytest.raises(asyncio.CancelledError):
            seat.save()
    assert [] == Seat.find()

    seat.save()
    with db.session() as session:
        assert 1 == session.scalar(text("SELECT count(*) FROM seats"))


def test_a_transaction_whose_write_failed_is_used_no_more(db, Seat, taken):
    """SQLAlchemy spoke of a Session to roll back, which a block of `db.transaction()` has no need of."""
    with pytest.raises(TransactionFailed, match=r"the end of db.transaction\(\): an earlier write .* \(IntegrityError"):
        with db.transaction():
            with pytest.raises(IntegrityError):
                Seat(place="A1").save()
            with pytest.raises(TransactionFailed, match=r"Seat.save\(\): an earlier write"):
                Seat(place="A2").save()
            with pytest.raises(TransactionFailed, match=r"Seat.find\(\)"):
                Seat.find()
            with pytest.raises(TransactionFailed, match=r"emit of system.started: an earlier write"):
                emit("system.started")
            with pytest.raises(TransactionFailed, match=r"db.transaction\(\)"):
                with db.transaction():
                    pass

    assert ["A1"] == [seat.place for seat in Seat.find()]


def test_a_savepoint_whose_write_failed_leaves_the_rest(db, Seat, taken):
    with db.transaction():
        Seat(place="A2").save()
        with pytest.raises(TransactionFailed):
            with db.transaction():
                with pytest.raises(IntegrityError):
                    Seat(place="A1").save()
        Seat(place="A3").save()

    assert ["A1", "A2", "A3"] == sorted(seat.place for seat in Seat.find())


async def test_a_transaction_whose_write_failed_is_used_no_more_in_coroutines(db, Seat):
    await Seat(place="A1").asave()
    with pytest.raises(TransactionFailed):
        async with db.transaction():
            with pytest.raises(IntegrityError):
                await Seat(place="A1").asave()
            with pytest.raises(TransactionFailed):
                await Seat(place="A2").asave()
