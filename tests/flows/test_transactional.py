"""transactional=True: what a handler writes and the mark that it is done are one commit, on both doors."""

import asyncio
import threading
import warnings

import pytest
from sqlalchemy import ForeignKey, select, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Mapped, Session, mapped_column, relationship

from earnorm import (
    BaseModel,
    Dead,
    IntegerField,
    Retry,
    RetryLater,
    Skipped,
    StringField,
    aemit,
    connect,
    current_tenant,
    emit,
    event_handler,
    event_handler_async,
    on_event,
    post_create,
    tenant,
)
from earnorm.backends.sqlalchemy.store import SQLAlchemyTransaction
from earnorm.errors import (
    LeaseLost,
    NotConnected,
    OptionWithoutMeaning,
    StopPropagation,
    UnsatisfiableArgument,
    WrongColour,
)
from earnorm.telemetry import HandlerStuck, listen
from tests.flows.stories import log, names, pairs

NONE = {"done": 0, "retry": 0, "dead": 0, "skipped": 0}

pytestmark = pytest.mark.expect_failures


@pytest.fixture
def models():
    class Note(BaseModel):
        __tablename__ = "tx_notes"
        text = StringField()

    class Account(BaseModel):
        __tablename__ = "tx_accounts"
        name = StringField()
        balance = IntegerField(default=0)

    return Account, Note


@pytest.fixture(params=["sync", "async"])
def handle(request):
    """Registers a transactional handler that does something with its session, plain or async."""

    def register(names, does, **options):
        options = {"name": "tx", "transactional": True} | options

        def handler(event, session):
            return does(session, event)

        async def ahandler(event, session):
            assert isinstance(session, AsyncSession)
            await asyncio.sleep(0)
            return await session.run_sync(does, event)

        event_handler(names, **options)(ahandler if request.param == "async" else handler)

    return register


async def let_others_run():
    """Wait for something that the loop does, as for a socket."""
    loop = asyncio.get_running_loop()
    turn = loop.create_future()
    loop.call_soon(turn.set_result, None)
    await turn


def open_shops(db):
    """Three events of one transaction, for a handler to have in one turn."""
    with db.transaction():
        for word in "abc":
            emit("shop.opened", text=word)


def texts(db, Note):
    with db.session() as session:
        return sorted(session.scalars(select(Note.text)))


def rows(db):
    with db.store.begin(readonly=True) as transaction:
        return transaction.deliveries()


def retried_at_once(db):
    """Drain until nothing is due, however often what is due at once is set aside again."""
    counts = db.drain()
    return {outcome: counts[outcome] + more for outcome, more in db.drain().items()}


# --- what stands -----------------------------------------------------------------------------


def test_effects_and_mark_are_one_commit_for_many_deliveries(db, models, handle):
    _, Note = models
    connections = set()

    def write(session, event):
        connections.add(session.connection())
        session.add(Note(text=str(event.payload["number"])))

    handle("shop.opened", write)
    with db.transaction():
        for number in range(20):
            emit("shop.opened", number=number)

    assert {**NONE, "done": 20} == db.drain()
    assert 20 == len(texts(db, Note))
    assert len(connections) < 20


def test_a_failing_one_takes_its_own_effects_alone_and_is_set_aside_with_the_mark_of_the_others(db, models, handle):
    _, Note = models

    def write(session, event):
        session.add(Note(text=event.payload["text"]))
        session.flush()
        if event.payload["text"] == "b" and event.attempt == 1:
            raise RetryLater(0)

    handle("shop.opened", write)
    open_shops(db)

    assert {**NONE, "done": 3, "retry": 1} == retried_at_once(db)
    assert ["a", "b", "c"] == texts(db, Note)


@pytest.mark.parametrize("end", [Retry(0), Dead("no"), Skipped("not today")], ids=lambda end: type(end).__name__)
def test_an_outcome_other_than_done_keeps_nothing(db, models, handle, end):
    _, Note = models

    def write(session, event):
        session.add(Note(text="never"))
        session.flush()
        return end if event.attempt == 1 else None

    handle("shop.opened", write)
    emit("shop.opened")
    db.worker.run_once()
    db.worker.drain(0)

    assert [] == texts(db, Note) or isinstance(end, Retry)


def test_a_commit_of_its_own_does_not_separate_effect_from_mark(db, models, handle):
    _, Note = models

    def write(session, event):
        session.add(Note(text=f"committed {event.attempt}"))
        session.commit()
        session.add(Note(text="rolled back"))
        session.flush()
        session.rollback()
        session.add(Note(text=f"added {event.attempt}"))
        session.commit()
        if event.attempt == 1:
            raise RetryLater(0)

    handle("shop.opened", write)
    emit("shop.opened")

    assert {**NONE, "done": 1, "retry": 1} == retried_at_once(db)
    assert ["added 2", "committed 2"] == texts(db, Note)


@pytest.mark.parametrize("verb", ["commit", "rollback", "close"])
def test_the_connection_is_not_the_handler_s_to_end(db, models, handle, verb):
    """A commit of it kept the effects of those before without their marks, so that they were made again."""
    _, Note = models

    def write(session, event):
        session.add(Note(text=event.payload["text"]))
        session.flush()
        if event.payload["text"] == "b":
            getattr(session.connection(), verb)()

    handle("shop.opened", write, retry=1)
    open_shops(db)

    assert NONE | {"done": 2, "dead": 1} == db.drain()
    assert ["a", "c"] == texts(db, Note)
    assert f"TransactionError: {verb}() of the connection would end" in rows(db)[0].error


async def test_the_async_connection_is_not_the_handler_s_to_end(url, models):
    _, Note = models

    @event_handler("shop.opened", name="tx", transactional=True, retry=1)
    async def write(event, session):
        session.add(Note(text=event.payload["text"]))
        await session.flush()
        if event.payload["text"] == "b":
            await (await session.connection()).commit()

    async with connect(url, worker=False) as db:
        async with db.transaction():
            for word in "abc":
                await aemit("shop.opened", text=word)

        assert NONE | {"done": 2, "dead": 1} == await db.adrain()
        assert ["a", "c"] == sorted(note.text for note in await Note.afind())


def test_a_settle_that_is_refused_takes_the_effects_with_it(db, models, handle, monkeypatch):
    _, Note = models
    settle, refused = SQLAlchemyTransaction.settle, []

    def refusing(transaction, settlement):
        if any(advance.cursor.name == "tx" for advance in settlement.advances) and not refused:
            refused.append(settlement)
            raise LeaseLost(settlement.worker, "tx")
        settle(transaction, settlement)

    monkeypatch.setattr(SQLAlchemyTransaction, "settle", refusing)
    handle("shop.opened", lambda session, event: session.add(Note(text="once")))
    emit("shop.opened")

    assert {**NONE, "done": 1} == db.drain()
    assert refused
    assert ["once"] == texts(db, Note)


def test_what_the_database_refuses_at_the_commit_is_the_attempt_of_the_one_that_wrote_it(db, models, handle):
    """A deferred constraint is asked at the COMMIT, when all of the transaction is at stake."""
    _, Note = models

    class Parent(BaseModel):
        __tablename__ = "tx_parents"

    class Child(BaseModel):
        __tablename__ = "tx_children"
        parent_id: Mapped[str] = mapped_column(ForeignKey("tx_parents.id", initially="DEFERRED", deferrable=True))

    def write(session, event):
        session.add(Note(text=event.payload["text"]))
        if event.payload["text"] == "b":
            session.flush()
            child = Child(parent_id=event.id)
            session.add(child)

    handle("shop.opened", write)
    open_shops(db)

    assert {**NONE, "done": 2, "retry": 1} == db.drain()
    assert ["a", "c"] == texts(db, Note)
    assert ["IntegrityError"] == [row.error.partition(":")[0] for row in rows(db)]


def test_a_statement_that_fails_and_is_swallowed_is_no_success(db, models, handle):
    """PostgreSQL takes nothing more in a transaction with an error; the others of it stand all the same."""
    _, Note = models

    def write(session, event):
        session.add(Note(text=event.payload["text"]))
        session.flush()
        if event.payload["text"] == "b" and event.attempt == 1:
            try:
                session.add(Note(id=session.scalars(select(Note.id)).first(), text="twice"))
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    session.flush()
            except Exception:
                return

    handle("shop.opened", write)
    open_shops(db)

    assert {**NONE, "done": 2, "retry": 1} == db.drain()
    assert ["a", "c"] == texts(db, Note)


# --- models ----------------------------------------------------------------------------------


def test_self_is_of_the_session_and_everything_it_does_is_of_the_transaction(db):
    class Owner(BaseModel):
        __tablename__ = "tx_owners"
        name = StringField()
        pets: Mapped[list["Pet"]] = relationship()

        @on_event("fed")
        def note(self):
            self.name += " (fed)"
            self.save()

    class Pet(BaseModel):
        __tablename__ = "tx_pets"
        name = StringField()
        owner_id: Mapped[str] = mapped_column(ForeignKey("tx_owners.id"))

        @post_create
        def count(self):
            created.append(self.name)

    created = []

    @event_handler("owner.created", name="tx", transactional=True)
    def welcome(owner, session: Session):
        assert owner in session
        assert [] == owner.pets
        Pet(name="Rex", owner_id=owner.id).save()
        owner.emit("fed")
        assert ["Rex"] == [pet.name for pet in Pet.find()]
        if len(created) == 1:
            raise RetryLater(0)

    Owner(name="Ada").save()

    assert {**NONE, "done": 1, "retry": 1} == retried_at_once(db)
    assert ["Rex", "Rex"] == created
    assert ["Ada (fed)"] == [owner.name for owner in Owner.find()]
    assert ["owner.created", "owner.fed", "owner.updated", "pet.created"] == sorted(names(db))


async def test_an_async_handler_has_all_of_it_on_the_application_s_loop(url, models):
    Account, Note = models
    loops = []

    @event_handler_async("account.created", name="tx", transactional=True)
    async def welcome(account, session: AsyncSession, event):
        loops.append(asyncio.get_running_loop())
        account.balance += 10
        await account.asave()
        await let_others_run()
        await Note(text="welcome").asave()
        await account.aemit("welcomed")
        assert 1 == len((await session.scalars(select(Note))).all())
        if event.attempt == 1:
            raise RetryLater(0)

    async with connect(url, worker=True) as db:
        await Account(name="Ada").asave()
        await db.adrain()
        await db.adrain()

        assert [10] == [account.balance for account in await Account.afind()]
        assert ["welcome"] == [note.text for note in await Note.afind()]
        assert {asyncio.get_running_loop()} == set(loops)
        assert 1 == names(db).count("account.welcomed")


def test_of_one_record_each_delivery_tells_its_own_change(db, models):
    """Within a transaction changes of a record are told as one; these are two transactions to who wrote them."""
    Account, _ = models
    account = Account(name="Ada").save()

    @event_handler("coin.given", name="tx", transactional=True)
    def give(event, *, to):
        found = Account.get(to)
        found.balance += 1
        found.save()
        found.balance += 1
        found.save()

    with db.transaction():
        for _ in range(3):
            emit("coin.given", to=account.id)
    db.drain()

    assert [(0, 2), (2, 4), (4, 6)] == [pairs(e)["balance"] for e in log(db) if e.name == "account.updated"]
    given = [e.id for e in log(db) if e.name == "coin.given"]
    assert given == [e.causation_id for e in log(db) if e.name == "account.updated"]


def test_a_record_s_events_run_in_order_and_wait_behind_one_that_failed(db, models):
    Account, _ = models
    ran = []

    @event_handler("account.moved", name="tx", transactional=True)
    def move(account, event):
        ran.append((account.name, event.payload["number"]))
        if event.payload["number"] == 1 and event.attempt == 1 and account.name == "Ada":
            raise RetryLater(0)

    with db.transaction():
        people = [Account(name=name).save() for name in ("Ada", "Bob")]
        for number in range(3):
            for person in people:
                person.emit("moved", number=number)

    counts = [db.drain() for _ in range(3)]

    assert 6 == sum(count["done"] for count in counts)
    assert [0, 1, 1, 2] == [number for name, number in ran if name == "Ada"]
    assert [0, 1, 2] == [number for name, number in ran if name == "Bob"]


def test_of_several_databases_the_session_is_that_of_the_event(db, second_url, models):
    Account, Note = models

    @event_handler("account.created", name="tx", transactional=True)
    def note(account, session, event):
        session.add(Note(text=event.database))

    with connect(second_url, name="second", worker=False) as second:
        Account(name="Ada").save()
        with second.transaction():
            Account(name="Bob").save()
        db.drain()
        second.drain()

        assert (["default"], ["second"]) == (texts(db, Note), texts(second, Note))


# --- tenants ---------------------------------------------------------------------------------


@pytest.fixture
def schemas(url, add_schema, models):
    """Each tenant's tables in a schema of its own, beside those of nobody."""
    _, Note = models
    made = {}
    with connect(url, worker=False, schemas=made.get) as db:
        for name in ("acme", "bolt"):
            made[name] = add_schema(db, f"t_{name}")
            with tenant(name):
                Note.metadata.create_all(db.tenant_engine)
        yield db


def texts_of(db, Note, name):
    with tenant(name):
        return texts(db, Note)


def open_shops_of(db, *names):
    """An event of each tenant in turn, for a handler to have in one turn."""
    with db.transaction():
        for number, name in enumerate(names):
            with tenant(name):
                emit("shop.opened", text=f"{name}{number}")


def test_each_tenant_s_effects_are_in_its_own_tables_in_one_transaction(schemas, models, handle):
    _, Note = models
    connections = []

    def write(session, event):
        connections.append(session.connection())
        assert event.tenant == current_tenant()
        session.add(Note(text=event.payload["text"]))

    handle("shop.opened", write)
    open_shops_of(schemas, "acme", None, "bolt", "acme")

    assert {**NONE, "done": 4} == schemas.drain()
    assert 1 == len(set(connections))
    assert [["None1"], ["acme0", "acme3"], ["bolt2"]] == [
        texts_of(schemas, Note, name) for name in (None, "acme", "bolt")
    ]


def test_of_a_tenant_s_that_failed_nothing_stands_and_the_others_do(schemas, models, handle):
    _, Note = models

    def write(session, event):
        session.add(Note(text=event.payload["text"]))
        session.flush()
        if event.tenant == "bolt":
            raise RetryLater(60)

    handle("shop.opened", write)
    open_shops_of(schemas, "acme", "bolt", None, "bolt")

    assert {**NONE, "done": 2, "retry": 2} == schemas.drain()
    assert [["None2"], ["acme0"], []] == [texts_of(schemas, Note, name) for name in (None, "acme", "bolt")]


def test_a_commit_of_its_own_stays_with_its_tenant(schemas, models, handle):
    """What follows a handler's own commit stands on a further savepoint, of the same tables."""
    _, Note = models

    def write(session, event):
        session.add(Note(text=f"{event.payload['text']} before"))
        session.commit()
        session.add(Note(text=f"{event.payload['text']} after"))

    handle("shop.opened", write)
    open_shops_of(schemas, "acme", "bolt")

    assert {**NONE, "done": 2} == schemas.drain()
    assert ["acme0 after", "acme0 before"] == texts_of(schemas, Note, "acme")
    assert ["bolt1 after", "bolt1 before"] == texts_of(schemas, Note, "bolt")
    assert [] == texts_of(schemas, Note, None)


def test_what_it_saves_and_emits_is_its_tenant_s(schemas, models):
    Account, Note = models
    heard = []

    @event_handler("account.created", name="tx", transactional=True)
    def welcome(account, session):
        account.balance += 10
        Note(text=f"welcome {account.name}").save()
        account.emit("welcomed")

    @event_handler_async("account.welcomed", name="atx", transactional=True)
    async def count(account, session: AsyncSession):
        heard.append((current_tenant(), account.name, account.balance))
        await Note(text=f"seen {account.name}").asave()

    for name in ("acme", "bolt"):
        with tenant(name):
            Account(name=f"{name}'s").save()
    schemas.drain()

    assert [("acme", "acme's", 10), ("bolt", "bolt's", 10)] == sorted(heard)
    assert ["seen acme's", "welcome acme's"] == texts_of(schemas, Note, "acme")
    assert ["seen bolt's", "welcome bolt's"] == texts_of(schemas, Note, "bolt")


def test_events_emitted_by_one_that_failed_never_were(db, handle):
    heard = []

    def tell(session, event):
        emit("shop.lit", attempt=event.attempt)
        if event.attempt == 1:
            raise RetryLater(0)

    handle("shop.opened", tell)

    @event_handler("shop.lit", name="lit")
    def lit(event):
        heard.append(event.payload["attempt"])

    emit("shop.opened")
    retried_at_once(db)
    db.drain()

    assert [2] == heard
    assert ["shop.opened", "shop.lit"] == names(db)


# --- ends that are none ----------------------------------------------------------------------


def test_one_that_stops_propagation_is_a_dead_letter_and_keeps_nothing(db, models, handle):
    _, Note = models

    def stop(session, event):
        session.add(Note(text="never"))
        session.flush()
        raise StopPropagation

    handle("shop.opened", stop)
    emit("shop.opened")

    assert {**NONE, "dead": 1} == db.drain()
    assert [] == texts(db, Note)


def test_an_async_one_that_times_out_is_cancelled_and_keeps_nothing(db, models):
    _, Note = models

    @event_handler_async("shop.opened", name="tx", transactional=True, timeout=0.5, retry=1)
    async def slow(event, session):
        await Note(text=event.payload["text"]).asave()
        if event.payload["text"] == "b":
            await asyncio.Event().wait()

    open_shops(db)

    assert {**NONE, "done": 2, "dead": 1} == db.drain()
    assert ["a", "c"] == texts(db, Note)


def test_one_cancelled_amid_a_statement_takes_the_transaction_along_and_the_others_are_done_again(db, models, kind):
    """A connection that was left in the middle of a statement is nothing to go on with."""
    _, Note = models

    @event_handler_async("shop.opened", name="tx", transactional=True, timeout=1, retry=1)
    async def handler(event, session):
        await Note(text=event.payload["text"]).asave()
        if event.payload["text"] == "b" and kind == "postgresql":
            await session.execute(text("SELECT pg_sleep(60)"))
        elif event.payload["text"] == "b":
            await asyncio.Event().wait()

    open_shops(db)

    assert {**NONE, "done": 2, "dead": 1} == db.drain()
    assert ["a", "c"] == texts(db, Note)


def test_one_that_cannot_be_stopped_is_cut_off_from_the_database(db, models):
    """Its transaction ends without it: neither are its locks in the way, nor does anything of it ever commit."""
    _, Note = models
    release, ended, stuck = threading.Event(), threading.Event(), []

    @event_handler("shop.opened", name="tx", transactional=True, timeout=1, retry=1)
    def hang(event, session):
        session.add(Note(text=event.payload["text"]))
        session.flush()
        if event.payload["text"] == "b":
            release.wait(30)
            try:
                session.add(Note(text="late"))
                session.flush()
            finally:
                ended.set()

    listen(stuck.append, HandlerStuck)
    open_shops(db)
    counts = db.drain()
    release.set()
    assert ended.wait(30)

    assert {**NONE, "done": 2, "dead": 1} == counts
    assert ["a", "c"] == texts(db, Note)
    assert ["tx"] == [record.handler for record in stuck]


def test_a_session_is_no_good_once_its_handler_has_ended(db):
    kept = []
    event_handler("shop.opened", name="tx", transactional=True)(lambda event, session: kept.append(session))
    emit("shop.opened")
    db.drain()

    with pytest.raises(Exception, match="ends with it"):
        kept[0].execute(text("SELECT 1"))


# --- who follows what ------------------------------------------------------------------------


def test_it_has_a_cursor_of_its_own_for_good_and_joins_the_others_when_it_is_transactional_no_more(url):
    def cursors(db):
        with db.store.begin(readonly=True) as transaction:
            return {cursor.name for cursor in transaction.cursors()}

    found = []
    for transactional in (False, True, False):
        with connect(url, worker=False) as db:
            remove = event_handler("shop.opened", name="tx", transactional=transactional)(_nothing)
            event_handler("shop.opened", name="other")(_nothing_else)
            emit("shop.opened")
            assert 2 == db.drain()["done"]
            found.append(cursors(db))
            db.bus.off(remove)
            db.bus.off(_nothing_else)

    assert [{""}, {"", "tx"}, {""}] == found


def _nothing(event): ...


def _nothing_else(event): ...


# --- what cannot be right --------------------------------------------------------------------


def test_what_has_no_mark_to_commit_with_is_refused_where_it_is_written():
    with pytest.raises(OptionWithoutMeaning, match="only durable handlers have a mark"):
        post_create(transactional=True)(lambda self: None)
    with pytest.raises(OptionWithoutMeaning, match="one after another"):
        event_handler("shop.opened", name="tx", transactional=True, concurrency=2)(_nothing)


def test_a_session_is_for_transactional_handlers(db):
    with pytest.raises(UnsatisfiableArgument, match="without transactional=True"):
        event_handler("shop.opened", name="tx")(lambda event, session: None)


def test_a_session_of_the_other_colour_is_refused():
    """A coroutine that took its AsyncSession for a Session awaited nothing, wrote nothing, and was done."""

    async def write(event, session: Session):
        session.execute(text("SELECT 1"))

    def awrite(event, other: AsyncSession): ...

    with pytest.raises(WrongColour, match="an async handler is given an AsyncSession; write session: AsyncSession"):
        event_handler("shop.opened", name="tx", transactional=True)(write)
    with pytest.raises(WrongColour, match="a plain handler is given a Session; write other: Session"):
        event_handler("shop.opened", name="txa", transactional=True)(awrite)


def test_without_a_database_there_is_no_mark():
    event_handler("shop.opened", name="tx", transactional=True)(_nothing)

    with pytest.raises(NotConnected, match="tx is transactional"):
        emit("shop.opened")


def test_another_connection_waits_in_vain_for_sqlite_s_one_lock_and_the_error_says_why(tmp_path, models):
    _, Note = models
    with connect(f"sqlite:///{tmp_path}/locked.db?busy_timeout=50", worker=False) as db:

        @event_handler("shop.opened", name="tx", transactional=True, retry=1)
        def write(event):
            Note(text="here").save()
            with db.session() as other:
                other.add(Note(text="there"))
                other.commit()

        emit("shop.opened")

        assert 1 == db.drain()["dead"]
        assert "one write lock" in rows(db)[0].error
        assert OperationalError.__name__ in rows(db)[0].error


def test_between_two_of_a_long_row_sqlite_s_one_lock_is_left_to_other_writers(tmp_path, monkeypatch):
    """In a backlog they followed each other within a moment: saves beside them waited for seconds, and gave up."""
    monkeypatch.setattr("earnorm.errand._SPAN", 0)
    monkeypatch.setattr("earnorm.errands._LONG", 0)
    monkeypatch.setattr("earnorm.errands._GAP", 3600)
    heard = []
    with connect(f"sqlite:///{tmp_path}/rows.db", worker=False) as db:

        @event_handler("shop.opened", name="tx", transactional=True)
        def hear(event, session):
            heard.append(event.payload["text"])

        open_shops(db)
        while not db.worker.run_once().done:
            pass
        db.worker.run_once()
        assert (0, ["a"]) == (len(db.worker._errands), heard)

        monkeypatch.setattr("earnorm.errands._GAP", 0)
        db.worker._errands._free = 0
        assert 3 == db.drain()["done"]


async def test_both_doors_are_open_at_once(url, models):
    """Plain and async ones of one worker, each on an engine of its colour."""
    Account, Note = models

    @event_handler("account.created", name="plain", transactional=True)
    def plain(account, session: Session):
        session.add(Note(text="plain"))

    @event_handler("account.created", name="awaited", transactional=True)
    async def awaited(account, session: AsyncSession):
        session.add(Note(text="awaited"))

    async with connect(url, worker=True) as db:
        for number in range(5):
            await Account(name=str(number)).asave()
        await aemit("shop.opened")
        await db.adrain()

        assert ["awaited"] * 5 + ["plain"] * 5 == sorted(note.text for note in await Note.afind())
