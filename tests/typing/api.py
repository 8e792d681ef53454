"""What type checkers see of the public names: models, doors, decorators, databases, tests' own helpers."""

from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal, assert_type
from uuid import UUID

from sqlalchemy import ColumnElement
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

import earnorm
from earnorm import (
    Abort,
    Backoff,
    BaseModel,
    Change,
    Database,
    Dead,
    Done,
    Emit,
    Event,
    EventBus,
    Handle,
    Handler,
    IntegerField,
    Retry,
    RetryLater,
    Skipped,
    SoftDelete,
    StringField,
    attach,
    connect,
    current_event,
    current_tenant,
    default_bus,
    event_handler,
    event_handler_async,
    event_type,
    on_event,
    on_event_async,
    post_commit,
    post_restore_async,
    post_save,
    post_save_async,
    pre_save,
    pre_save_async,
    pre_trash,
    tenant,
)
from earnorm.alembic import include_name
from earnorm.delivery import Delivery, Outcome
from earnorm.fastapi import lifespan
from earnorm.operations import ALL, Selection
from earnorm.orm.captures import Installed
from earnorm.telemetry import HandlerFailed, listen
from earnorm.testing import expect_failures, isolated, rolled_back


def named(user: "User") -> bool:
    return bool(user.name)


class User(BaseModel):
    name = StringField()
    nick = StringField(required=False)
    visits = IntegerField(default=0)

    @pre_save
    def before(self) -> None:
        self.visits += 1

    @pre_save_async
    async def check(self, session: AsyncSession) -> int:
        return len(self.name)

    @post_save(priority=3, delivery="after_commit")
    def after(self, event: Event, changes: dict[str, Change]) -> str:
        return event.name

    @post_save_async(name="notify")
    async def notify(self) -> None: ...

    @post_commit
    def committed(self) -> None: ...

    @on_event("login", ["logout", "user.*"], when=named)
    def seen(self, session: Session, where: str = "here") -> str:
        return where

    @on_event_async("login")
    async def later(self) -> None: ...


@event_type("user.moved", version=2)
@dataclass(frozen=True)
class UserMoved:
    city: str


# --- records ---


def a_record(user: User) -> None:
    assert_type(user.name, str)
    assert_type(user.nick, str | None)
    assert_type(user.visits, int)
    assert_type(User.name == "Ada", ColumnElement[bool])
    assert_type(user.save(), User)
    assert_type(user.delete(), None)
    assert_type(user.refresh(), User)
    assert_type(user.changes["name"], Change)
    assert_type(User.get(1), User)
    assert_type(User.find(User.name == "Ada", visits=3), list[User])


def retried() -> None:
    assert_type(Backoff(attempts=5, first="1m", longest=timedelta(hours=1)).wait(1, 0.5), float)
    assert_type(Retry("5m", "no paper").after, float)
    raise RetryLater("5m", "no paper") from None


@event_handler("order.placed", retry={TimeoutError: Backoff(), ValueError: False}, timeout="30s", concurrency=2)
def ships(user: User) -> Done | Retry | Skipped | Dead:
    return Dead("no such country") if user.name else Skipped("a test order")


async def its_twins(user: User) -> None:
    assert_type(await user.asave(), User)
    assert_type(await user.adelete(), None)
    assert_type(await user.arefresh(), User)
    assert_type(await User.aget(1), User)
    assert_type(await User.afind(name="Ada"), list[User])
    assert_type(await user.aemit("login", where="there"), Handle)


def its_events(user: User) -> None:
    assert_type(user.emit("login", where="there"), Handle)
    assert_type(user.emit(UserMoved(city="Oslo")).id, UUID)
    assert_type(earnorm.emit("system.started", level=3), Handle)
    assert_type(earnorm.emit("user.seen", user, by="Ada"), Handle)
    assert_type(UserMoved("Oslo").city, str)


async def once_and_later(db: Database, user: User, at: datetime) -> None:
    handle = user.emit("login", Emit(key="r1", delay="1h"), where="there")
    assert_type(user.emit(UserMoved(city="Oslo"), Emit(at=at)), Handle)
    assert_type(earnorm.emit("system.started", None, Emit(delay=timedelta(hours=1)), level=3), Handle)
    assert_type(await user.aemit("login", Emit(delay=90)), Handle)
    assert_type(handle.repeated, bool)
    assert_type(handle.outcomes(), Mapping[str, Outcome])
    assert_type(await handle.aoutcomes(timeout="10s"), Mapping[str, Outcome])
    assert_type(db.handle(handle.id), Handle)
    for outcome in db.handle(str(handle.id)).outcomes(timeout=3).values():
        match outcome:
            case Dead(error):
                assert_type(error, str)
            case Done():
                pass
            case Retry() | Skipped():
                pass


# --- decorators keep what they decorate ---


def signatures(user: User, event: Event, session: Session) -> None:
    assert_type(user.before(), None)
    assert_type(user.after(event, {}), str)
    assert_type(user.seen(session, where="there"), str)


@event_handler("user.created", User, UserMoved, priority=1)
def hears(user: User, event: Event) -> int:
    return 1


@event_handler_async(["user.login", "!user.logout"])
async def hears_later(user: User) -> str:
    return user.name


@User.on("created", delivery="transaction")
def hears_now(user: User) -> bytes:
    return b""


@event_handler(User.event("created"))
def hears_an_object(user: User, moved: UserMoved) -> float:
    return 1.0


async def handlers(user: User, event: Event) -> None:
    assert_type(hears(user, event), int)
    assert_type(await hears_later(user), str)
    assert_type(hears_now(user), bytes)
    assert_type(hears_an_object(user, UserMoved("Oslo")), float)
    known: Callable[[User], Coroutine[Any, Any, str]] = hears_later
    assert_type(await known(user), str)


# --- buses and databases ---


def a_bus(bus: EventBus) -> None:
    assert_type(default_bus.handlers(), list[Handler])
    assert_type(bus.emit("a.b"), Handle)
    assert_type(bus.off(hears), bool)
    assert_type(current_event(), Event | None)
    with bus.capture("user.*") as events:
        assert_type(events, list[Event])
    with bus.muted("user.*", reason="an import"):
        pass


def a_database() -> None:
    with connect("sqlite://", name="other", worker=False, tables="check") as db:
        assert_type(db, Database)
        assert_type(db.drain(timeout=1.0), dict[str, int])
        assert_type(db.session(), Session)
        assert_type(db.asession(), AsyncSession)
        with db.transaction() as opened:
            assert_type(opened.session, Session)


async def an_async_database() -> None:
    async with connect("sqlite://") as db:
        assert_type(await db.adrain(), dict[str, int])
        assert_type(await db.operations.adead(Selection(handler="mail")), list[Delivery])
        assert_type(await db.operations.aretry(ALL), int)
        assert_type((await db.operations.astatus()).problems, Sequence[str])
        assert_type(await db.operations.apause("mail", "handler"), Literal["handler", "group"])
        assert_type(await db.operations.aprune("30d", dry_run=True), int)
        async with db.transaction() as opened:
            assert_type(opened.session, AsyncSession)


# --- telemetry and tests ---


def in_tests() -> None:
    slate: AbstractContextManager[None] = isolated()
    with slate, rolled_back(connect("sqlite://")) as undone:
        assert_type(undone, Database)
    with expect_failures() as failures:
        assert_type(failures, list[HandlerFailed])
    assert_type(listen(lambda record: None, HandlerFailed), Callable[[], None])
    assert_type(Abort("no").reason, str)


# --- models of one's own ---


class Base(DeclarativeBase):
    pass


class Invoice(Base):
    __tablename__ = "invoices"
    id: Mapped[int] = mapped_column(primary_key=True)
    total: Mapped[int] = mapped_column()

    @pre_save
    def tidy(self) -> None:
        assert_type(self.total, int)

    @on_event("total_changed")
    def note(self, old_total: int, new_total: int) -> None: ...


class Ticket(SoftDelete):
    label = StringField()

    @pre_trash
    def check(self) -> None: ...

    @post_restore_async
    async def back(self) -> None: ...


def trashing(ticket: Ticket) -> None:
    assert_type(ticket.trash(), Ticket)
    assert_type(ticket.restore(), Ticket)
    assert_type(ticket.trashed, bool)
    assert_type(ticket.trashed_at, datetime | None)
    assert_type(Ticket.find(trashed="only"), list[Ticket])
    assert_type(Ticket.get(1, trashed="with"), Ticket)
    ticket.delete(force=True)
    Ticket.find(trashed="all")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # one of three words


async def trashing_in_async_code(ticket: Ticket) -> None:
    assert_type(await ticket.atrash(), Ticket)
    assert_type(await ticket.arestore(), Ticket)
    await ticket.adelete(force=True)
    assert_type(await Ticket.afind(trashed="with"), list[Ticket])


def tenants() -> None:
    with tenant("acme"):
        assert_type(current_tenant(), str | None)
    connect("sqlite://", schemas=lambda name: f"t_{name}")
    connect("sqlite://", schemas=lambda name: {None: name, "shared": None})


def attaching() -> None:
    attach(Base)
    attach(Invoice, log="all")
    attach(Base.registry, log="subscribed")
    attach(Base, log="some")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # one of two words
    attach(Invoice())  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # an instance
    connect(url="sqlite://", log="subscribed")
    connect("sqlite://", retention=timedelta(days=7))
    connect("sqlite://", retention=None)


def other_programs(db: Database) -> None:
    assert_type(db.captures.install(Invoice, "orders"), list[str])
    assert_type(db.captures.remove(Invoice), list[str])
    for found in db.captures.installed():
        assert_type(found.state, Literal["current", "stale", "unknown"])
    for drift in db.audit(Invoice):
        assert_type(drift.kind, Literal["differs", "missing", "extra"])
        assert_type(drift.fields, dict[str, tuple[Any, Any]])
    db.captures.install(Invoice())  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # an instance


async def other_programs_in_async_code(db: Database) -> None:
    assert_type(await db.captures.ainstall(Invoice, "orders"), list[str])
    assert_type(await db.captures.aremove(Invoice), list[str])
    assert_type(await db.captures.ainstalled(), list[Installed])
    async for drift in db.audit(Invoice):
        assert_type(drift.kind, Literal["differs", "missing", "extra"])


# --- frameworks ---


async def at_the_door() -> None:
    async with lifespan("sqlite://", tables="check")(object()):
        assert_type(include_name("orders", "table", {}), bool)
