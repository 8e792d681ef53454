"""A transaction belongs to the task or thread that opened it; sync doors belong to sync code and to hooks."""

import asyncio
import contextvars
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import create_engine, select
from sqlalchemy.orm import Session

from earnorm import BaseModel, IntegerField, StringField, connect, on_event, post_save, pre_save
from earnorm.errors import DrainInTransaction, NotConnected, SyncDoorInCoroutine, TransactionError, TransactionNotYours
from tests.flows.stories import log, names

seen = []


@pytest.fixture
def Note(db):
    seen.clear()

    class Note(BaseModel):
        text = StringField()

        @on_event("read")
        def on_read(self):
            pass

    db.ready()
    return Note


async def test_a_save_from_a_gathered_task_is_refused_with_the_remedy(db, Note):
    async with db.transaction():
        found = await asyncio.gather(Note(text="one").asave(), Note(text="two").asave(), return_exceptions=True)

    assert [TransactionNotYours, TransactionNotYours] == [type(error) for error in found]
    assert "one of its own" in str(found[0])
    assert [] == names(db)


DOORS = {
    "asave": lambda Note, note: Note(text="two").asave(),
    "adelete": lambda Note, note: note.adelete(),
    "aemit": lambda Note, note: note.aemit("read"),
    "arefresh": lambda Note, note: note.arefresh(),
    "aget": lambda Note, note: Note.aget(note.id),
    "afind": lambda Note, note: Note.afind(),
}


@pytest.mark.parametrize("door", DOORS)
async def test_no_door_lets_another_task_in(db, Note, door):
    note = await Note(text="one").asave()

    async with db.transaction():
        with pytest.raises(TransactionNotYours):
            await asyncio.create_task(DOORS[door](Note, note))


async def test_a_task_may_open_a_transaction_of_its_own(db, Note):
    async def work(word):
        async with db.transaction():
            await Note(text=word).asave()

    await asyncio.gather(*(work(word) for word in "abcd"))

    assert sorted("abcd") == sorted(event.payload["text"] for event in log(db))


async def test_a_task_started_in_a_transaction_may_work_when_it_is_over(db, Note):
    over = asyncio.Event()

    async def work():
        await over.wait()
        await Note(text="late").asave()

    async with db.transaction():
        task = asyncio.create_task(work())
        await Note(text="early").asave()
    over.set()
    await task

    assert ["early", "late"] == [event.payload["text"] for event in log(db)]


def in_thread(work, context=None):
    """What `work` raised or returned in a thread that has this context (a copy of ours), as executors have."""
    context = context or contextvars.copy_context()
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(context.run, work)
        return future.exception() or future.result()


def test_a_save_from_another_thread_is_refused(db, Note):
    with db.transaction():
        error = in_thread(lambda: Note(text="one").save())

    assert isinstance(error, TransactionNotYours)
    assert "thread" in str(error)
    assert [] == names(db)


def test_a_nested_transaction_from_another_thread_is_refused(db, Note):
    def work():
        with db.transaction():
            pass

    with db.transaction():
        error = in_thread(work)

    assert isinstance(error, TransactionNotYours)


def test_a_thread_with_a_context_of_its_own_has_its_own_transaction(db, Note):
    words = []

    def work():
        Note(text="thread").save()
        words.append("done")

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()

    assert (["done"], ["note.created"]) == (words, names(db))


async def test_to_thread_out_of_a_transaction_is_refused(db, Note):
    async with db.transaction():
        with pytest.raises(TransactionNotYours):
            await asyncio.to_thread(Note(text="one").save)


async def test_a_sync_door_in_a_coroutine_is_refused_and_writes_nothing(db, Note):
    with pytest.raises(SyncDoorInCoroutine, match=r"await asave\(\)"):
        Note(text="one").save()

    assert [] == names(db)


async def test_a_sync_door_in_a_coroutine_is_refused_inside_its_transaction_too(db, Note):
    async with db.transaction():
        with pytest.raises(SyncDoorInCoroutine):
            Note(text="one").save()


async def test_sync_doors_in_a_thread_of_a_loop_work(db, Note):
    await asyncio.to_thread(Note(text="one").save)

    assert ["note.created"] == names(db)


async def test_every_sync_door_works_in_a_hook_under_asave(db):
    class Note(BaseModel):
        text = StringField()
        size = IntegerField(default=0)

        @post_save
        def do_everything(self):
            if self.text != "one":
                return
            other = Note(text="two").save()
            assert other is Note.get(other.id)
            assert [other] == Note.find(text="two")
            other.size = 5
            other.save()
            other.emit("read")
            other.refresh()
            seen.append(other.size)
            other.delete()

        @on_event("read")
        def on_read(self):
            seen.append("read")

    seen.clear()
    await Note(text="one").asave()

    assert [5, "read"] == seen
    assert ["note.created", "note.read"] == names(db)


async def test_a_post_hook_may_open_a_savepoint_under_asave(db):
    class Note(BaseModel):
        text = StringField()

        @post_save
        def try_something(self):
            if self.text == "one":
                try:
                    with db.transaction():
                        Note(text="two").save()
                        raise KeyError
                except KeyError:
                    seen.append("gone")

    seen.clear()
    await Note(text="one").asave()

    assert ["gone"] == seen
    assert ["one"] == [event.payload["text"] for event in log(db)]


def test_a_savepoint_in_a_pre_hook_is_refused_since_it_would_lose_the_record(db):
    class Note(BaseModel):
        text = StringField()

        @pre_save
        def try_something(self):
            with db.transaction():
                pass

    with pytest.raises(TransactionError, match="open it in a post hook"):
        Note(text="one").save()


def test_a_transaction_of_another_database_inside_is_its_own(db, Note, second_url):
    with connect(second_url, name="second", worker=False) as second:
        with db.transaction():
            Note(text="first").save()
            with second.transaction():
                Note(text="second").save()
            assert (["note.created"], []) == (names(second), names(db))

        assert ["note.created"] == names(db)


async def test_adrain_in_a_transaction_is_refused(db, Note):
    async with db.transaction():
        with pytest.raises(DrainInTransaction):
            await db.adrain()


# --- hooks that take only `self`, on a bus in memory ----------------------------------------


@pytest.fixture
def engine(tmp_path):
    engine = create_engine(f"sqlite:///{tmp_path}/plain.db")
    yield engine
    engine.dispose()


@pytest.mark.parametrize("hook", [pre_save, post_save])
def test_the_transaction_of_a_plain_hook_is_its_own_thread_s(engine, hook):
    class Line(BaseModel):
        text = StringField()

    class Page(BaseModel):
        text = StringField()

        @hook
        def write(self):
            Line(text="from here").save()
            seen.append(in_thread(lambda: Line(text="from elsewhere").save()))
            Line(text="from here again").save()

    seen.clear()
    BaseModel.metadata.create_all(engine)
    with Session(engine) as session:
        session.add(Page(text="b"))
        session.commit()
        lines = session.scalars(select(Line.text).order_by(Line.text)).all()

    assert [TransactionNotYours] == [type(error) for error in seen]
    assert ["from here", "from here again"] == lines


def test_a_context_kept_from_a_plain_hook_is_in_no_transaction_when_the_hook_is_over(engine):
    class Page(BaseModel):
        text = StringField()

        @post_save
        def keep(self):
            seen.append(contextvars.copy_context())

    seen.clear()
    BaseModel.metadata.create_all(engine)
    with Session(engine) as session:
        session.add(Page(text="b"))
        session.commit()

    assert isinstance(in_thread(lambda: Page(text="later").save(), seen[0]), NotConnected)


def test_what_a_plain_hook_emits_waits_for_the_hooks_that_are_running(engine):
    class Page(BaseModel):
        text = StringField()

        @post_save
        def first(self):
            self.emit("read")
            seen.append("first")

        @post_save
        def second(self):
            seen.append("second")

        @on_event("read")
        def on_read(self):
            seen.append("read")

    seen.clear()
    BaseModel.metadata.create_all(engine)
    with Session(engine) as session:
        session.add(Page(text="b"))
        session.commit()

    assert ["first", "second", "read"] == seen
