"""Write paths: every way a row can change, and what its model's hooks and events make of it. One table, tested and printed.

`tests/flows/test_write_paths.py` walks every path on every database and holds each cell to what happens;
`docs/reference/write-paths.md` is printed from the same table.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from sqlalchemy import Column, ForeignKey, Table, delete, insert, literal, select, text, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session, relationship

from earnorm import (
    BaseModel,
    ForeignKeyField,
    IntegerField,
    StringField,
    post_delete,
    post_save,
    pre_delete,
    pre_save,
)

__all__ = ["PATHS", "Expected", "World", "WritePath", "make_world"]

Hooks = Literal["runs", "refused", "none"]
Batch = Literal["", "bulk_created", "bulk_updated", "bulk_deleted"]


@dataclass(frozen=True, slots=True)
class Expected:
    """One event: its name, whose it is, and the old and new values of what it says has changed."""

    name: str
    key: str
    changes: dict[str, tuple[Any, Any]] = field(default_factory=dict[str, tuple[Any, Any]])


@dataclass(frozen=True, slots=True)
class WritePath:
    """One way to write, and the cells of its row.

    events  what is told with `__bulk__ = "rows"`, in order
    pre     pre_ hooks of the model whose rows are written: they run, the write is refused, or there are none to run
    post    its post_ hooks
    batch   the one event with `__bulk__ = "batch"`; "" where the write is no bulk write, and is told row by row
    refuse  whether `__bulk__ = "refuse"` refuses it
    """

    title: str
    code: str
    write: Callable[[World], object]
    events: tuple[Expected, ...]
    pre: Hooks = "runs"
    post: Hooks = "runs"
    batch: Batch = ""
    refuse: bool = False

    @property
    def id(self) -> str:
        return self.title.replace(" ", "-").replace(",", "")


# --- the stage -------------------------------------------------------------------------------


@dataclass(slots=True)
class World:
    """Models on a Session. There is Account 1 with a Part (of the ORM's cascade), a Trace and a Note (of the database's)."""

    models: dict[str, Any]
    seen: list[str]
    session: Session | None = None

    def __getattr__(self, name: str) -> Any:
        return self.models[name]

    def open(self, session: Session) -> None:
        self.session = session

    def seed(self, session: Session) -> None:
        """Rows that were there before, written past everything."""
        rows: dict[str, dict[str, Any]] = {
            "Account": {"id": 1, "name": "Ada", "visits": 1, "email": "ada@example.com"},
            "Part": {"id": 1, "account_id": 1},
            "Trace": {"id": 1, "account_id": 1},
            "Note": {"id": 1, "account_id": 1},
            "Tag": {"id": 1, "name": "red"},
        }
        for model, values in rows.items():
            session.connection().execute(self.models[model].__table__.insert(), values)
        session.commit()

    @property
    def account(self) -> Any:
        return self.session.get(self.Account, 1)  # type: ignore[union-attr]  # open by then

    def run(self, statement: Any, parameters: Any = None) -> None:
        assert self.session is not None
        self.session.execute(statement, parameters)

    @property
    def upsert(self) -> Any:
        """An INSERT in the words of the database that there is."""
        assert self.session is not None
        dialect = postgresql if self.session.get_bind().dialect.name == "postgresql" else sqlite
        return dialect.insert(self.Account)


def make_world(hooks: Literal["", "pre", "post"] = "", policy: str = "rows") -> World:
    """Models with hooks of one phase that take down whom they have seen."""
    seen: list[str] = []

    def body(**fields: Any) -> dict[str, Any]:
        return {
            "__module__": __name__,
            "__bulk__": policy,
            "id": IntegerField(primary_key=True),
            **fields,
            **_hooks(hooks, seen),
        }

    account = {
        "name": StringField(max_length=20),
        "visits": IntegerField(default=0),
        "email": StringField(required=False, unique=True),
        "parts": relationship("Part", cascade="all, delete-orphan"),
        "tags": relationship("Tag", secondary="account_tags"),
    }
    account_class = type("Account", (BaseModel,), body(**account))
    tag = type("Tag", (BaseModel,), body(name=StringField()))
    Table(
        "account_tags",
        BaseModel.metadata,
        Column("account_id", ForeignKey("accounts.id"), primary_key=True),
        Column("tag_id", ForeignKey("tags.id"), primary_key=True),
    )
    key: dict[str, Any] = {"type_": int}
    part = type("Part", (BaseModel,), body(account_id=ForeignKeyField("Account", **key)))
    trace = type("Trace", (BaseModel,), body(account_id=ForeignKeyField("Account", **key, on_delete="cascade")))
    loose = ForeignKeyField("Account", **key, required=False, on_delete="set null")
    note = type("Note", (BaseModel,), body(account_id=loose))
    models = {"Account": account_class, "Tag": tag, "Part": part, "Trace": trace, "Note": note}
    return World(models, seen)


def _hooks(phase: str, seen: list[str]) -> dict[str, Any]:
    def on_save(self: Any) -> None:
        seen.append(f"{type(self).__name__} saved")

    def on_delete(self: Any) -> None:
        seen.append(f"{type(self).__name__} deleted")

    on_save.__qualname__, on_delete.__qualname__ = "Model.on_save", "Model.on_delete"
    if not phase:
        return {}
    save, gone = (pre_save, pre_delete) if phase == "pre" else (post_save, post_delete)
    return {"on_save": save(on_save), "on_delete": gone(on_delete)}


# --- the paths -------------------------------------------------------------------------------

CREATED = (Expected("account.created", "account:2"),)
RENAMED = (Expected("account.updated", "account:1", {"name": ("Ada", "Eve")}),)
VISITED = (Expected("account.updated", "account:1", {"visits": (1, 2)}),)
ACCOUNT_GONE = (Expected("account.deleted", "account:1"),)
TAKEN_ALONG = (
    Expected("trace.deleted", "trace:1"),
    Expected("note.updated", "note:1", {"account_id": (1, None)}),
)


def _set(world: World, **values: Any) -> None:
    account = world.account
    for name, value in values.items():
        setattr(account, name, value)
    world.session.flush()  # type: ignore[union-attr]  # open by then


def _add(world: World) -> None:
    world.session.add(world.Account(id=2, name="Bob"))  # type: ignore[union-attr]  # open by then
    world.session.flush()  # type: ignore[union-attr]  # as above


def _merge(world: World, **values: Any) -> None:
    world.session.merge(world.Account(**values))  # type: ignore[union-attr]  # open by then
    world.session.flush()  # type: ignore[union-attr]  # as above


def _delete_account(world: World) -> None:
    for model in (world.Trace, world.Note, world.Part):
        world.session.connection().execute(model.__table__.delete())  # type: ignore[union-attr]  # open by then
    world.session.delete(world.account)  # type: ignore[union-attr]  # as above
    world.session.flush()  # type: ignore[union-attr]  # as above


def _delete_with_parts(world: World) -> None:
    for model in (world.Trace, world.Note):
        world.session.connection().execute(model.__table__.delete())  # type: ignore[union-attr]  # open by then
    world.session.delete(world.account)  # type: ignore[union-attr]  # as above
    world.session.flush()  # type: ignore[union-attr]  # as above


def _delete_in_database(world: World) -> None:
    world.session.connection().execute(world.Part.__table__.delete())  # type: ignore[union-attr]  # open by then
    world.session.delete(world.account)  # type: ignore[union-attr]  # as above
    world.session.flush()  # type: ignore[union-attr]  # as above


def _tag(world: World) -> None:
    account = world.account
    account.tags.append(world.session.get(world.Tag, 1))  # type: ignore[union-attr]  # open by then
    world.session.flush()  # type: ignore[union-attr]  # as above


def _lose_the_race(world: World) -> None:
    """get_or_create: somebody else has made the row since it was looked for."""
    try:
        with world.session.begin_nested():  # type: ignore[union-attr]  # open by then
            world.session.add(world.Account(id=3, name="Ada", email="ada@example.com"))  # type: ignore[union-attr]  # as above
    except IntegrityError:
        world.session.scalars(select(world.Account).filter_by(email="ada@example.com")).one()  # type: ignore[union-attr]  # as above


def _upsert(world: World, **values: Any) -> None:
    statement = world.upsert
    statement = statement.on_conflict_do_update(index_elements=["email"], set_={"name": statement.excluded.name})
    world.run(statement, [values])


def _alone(world: World) -> None:
    """Nothing refers to the account any more."""
    for model in (world.Trace, world.Note, world.Part):
        world.session.connection().execute(model.__table__.delete())  # type: ignore[union-attr]  # open by then


def _delete_statement(world: World, statement: Any) -> None:
    _alone(world)
    world.run(statement)


def _save_objects(world: World) -> None:
    world.session.bulk_save_objects([world.Account(id=2, name="Bob")])  # type: ignore[union-attr]  # open by then


def _save_changed_objects(world: World) -> None:
    account = world.account
    world.session.expunge(account)  # type: ignore[union-attr]  # open by then
    account.name = "Eve"
    world.session.bulk_save_objects([account])  # type: ignore[union-attr]  # as above


def _from_select(world: World) -> None:
    world.run(
        insert(world.Account).from_select(["id", "name", "visits"], select(literal(2), literal("Bob"), literal(0)))
    )


BULK_CREATED: dict[str, Any] = {"batch": "bulk_created", "refuse": True}
BULK_UPDATED: dict[str, Any] = {"pre": "refused", "batch": "bulk_updated", "refuse": True}
BULK_DELETED: dict[str, Any] = {"batch": "bulk_deleted", "refuse": True}

PATHS: tuple[WritePath, ...] = (
    # --- the unit of work
    WritePath("new record, save", "Account(name=…).save()", lambda w: w.Account(id=2, name="Bob").save(), CREATED),
    WritePath("new record, add", "session.add(account)", _add, CREATED),
    WritePath("new record, merge", "session.merge(account)", lambda w: _merge(w, id=2, name="Bob"), CREATED),
    WritePath("changed record", 'account.name = "Eve"', lambda w: _set(w, name="Eve"), RENAMED),
    WritePath("nothing changed", 'account.name = "Ada"', lambda w: _set(w, name="Ada"), (), pre="none", post="none"),
    WritePath("changed by expression", "account.visits = Account.visits + 1", lambda w: _set(w, visits=w.Account.visits + 1), VISITED),
    WritePath("changed record, merge", "session.merge(account)", lambda w: _merge(w, id=1, name="Eve", visits=1, email="ada@example.com"), RENAMED),
    WritePath("deleted record", "session.delete(account)", _delete_account, ACCOUNT_GONE),
    WritePath("deleted by the ORM's cascade", 'relationship(cascade="all, delete")', _delete_with_parts, (Expected("account.deleted", "account:1"), Expected("part.deleted", "part:1"))),
    WritePath("lost race of get_or_create", "with session.begin_nested(): session.add(account)", _lose_the_race, (), post="none"),
    WritePath("many-to-many", "account.tags.append(tag)", _tag, (Expected("account.tags.changed", "account:1"),), pre="none", post="none"),
    # --- the database by itself
    WritePath("deleted or emptied by the database's cascade", "ON DELETE CASCADE, ON DELETE SET NULL", _delete_in_database, (*ACCOUNT_GONE, *reversed(TAKEN_ALONG)), refuse=True),
    # --- INSERT
    WritePath("INSERT of dictionaries", "session.execute(insert(Account), [{…}, …])", lambda w: w.run(insert(w.Account), [{"id": 2, "name": "Bob"}]), CREATED, **BULK_CREATED),
    WritePath("INSERT of dictionaries, RETURNING", "session.scalars(insert(Account).returning(Account), [{…}, …])", lambda w: w.run(insert(w.Account).returning(w.Account), [{"id": 2, "name": "Bob"}]), CREATED, **BULK_CREATED),
    WritePath("INSERT of values", "session.execute(insert(Account).values(name=…))", lambda w: w.run(insert(w.Account).values(id=2, name="Bob")), CREATED, pre="refused", **BULK_CREATED),
    WritePath("INSERT of many values", "session.execute(insert(Account).values([{…}, …]))", lambda w: w.run(insert(w.Account).values([{"id": 2, "name": "Bob"}])), CREATED, pre="refused", **BULK_CREATED),
    WritePath("INSERT from a SELECT", "session.execute(insert(Account).from_select(…))", _from_select, CREATED, pre="refused", **BULK_CREATED),
    WritePath("upsert of a new row", "insert(Account).on_conflict_do_update(…)", lambda w: _upsert(w, id=2, name="Bob", email="bob@example.com"), CREATED, pre="refused", **BULK_CREATED),
    WritePath("upsert of a row that is there", "insert(Account).on_conflict_do_update(…)", lambda w: _upsert(w, id=2, name="Eve", email="ada@example.com"), RENAMED, pre="refused", **BULK_CREATED),
    WritePath("INSERT that a row stands against", "insert(Account).on_conflict_do_nothing()", lambda w: w.run(w.upsert.on_conflict_do_nothing(), [{"id": 1, "name": "Eve"}]), (), post="none", **BULK_CREATED),
    # --- UPDATE
    WritePath("UPDATE where", "session.execute(update(Account).where(…).values(name=…))", lambda w: w.run(update(w.Account).where(w.Account.id == 1).values(name="Eve")), RENAMED, **BULK_UPDATED),
    WritePath("UPDATE by expression", "session.execute(update(Account).values(visits=Account.visits + 1))", lambda w: w.run(update(w.Account).values(visits=w.Account.visits + 1)), VISITED, **BULK_UPDATED),
    WritePath("UPDATE, RETURNING", "session.execute(update(Account).values(name=…).returning(Account.id))", lambda w: w.run(update(w.Account).values(name="Eve").returning(w.Account.id)), RENAMED, **BULK_UPDATED),
    WritePath("UPDATE by primary key", 'session.execute(update(Account), [{"id": 1, …}, …])', lambda w: w.run(update(w.Account), [{"id": 1, "name": "Eve"}]), RENAMED, **BULK_UPDATED),
    WritePath("UPDATE that changes nothing", "session.execute(update(Account).values(name=Account.name))", lambda w: w.run(update(w.Account).values(name=w.Account.name)), (), post="none", **BULK_UPDATED),
    # --- DELETE
    WritePath("DELETE where", "session.execute(delete(Account).where(…))", lambda w: _delete_statement(w, delete(w.Account).where(w.Account.id == 1)), ACCOUNT_GONE, **BULK_DELETED),
    WritePath("DELETE of all rows", "session.execute(delete(Account))", lambda w: _delete_statement(w, delete(w.Account)), ACCOUNT_GONE, **BULK_DELETED),
    WritePath("DELETE, RETURNING", "session.execute(delete(Account).returning(Account.name))", lambda w: _delete_statement(w, delete(w.Account).returning(w.Account.name)), ACCOUNT_GONE, **BULK_DELETED),
    # --- bulk methods
    WritePath("bulk_save_objects of new ones", "session.bulk_save_objects(accounts)", _save_objects, CREATED, **BULK_CREATED),
    WritePath("bulk_save_objects of changed ones", "session.bulk_save_objects(accounts)", _save_changed_objects, RENAMED, batch="bulk_updated", refuse=True),
    WritePath("bulk_insert_mappings", "session.bulk_insert_mappings(Account, [{…}, …])", lambda w: w.session.bulk_insert_mappings(w.Account, [{"id": 2, "name": "Bob"}]), CREATED, **BULK_CREATED),
    WritePath("bulk_update_mappings", 'session.bulk_update_mappings(Account, [{"id": 1, …}, …])', lambda w: w.session.bulk_update_mappings(w.Account, [{"id": 1, "name": "Eve"}]), RENAMED, **BULK_UPDATED),
    # --- past the models
    WritePath("Core", "session.execute(insert(Account.__table__))", lambda w: w.run(insert(w.Account.__table__).values(id=2, name="Bob", visits=0)), (), pre="none", post="none"),
    WritePath("text", 'session.execute(text("UPDATE accounts …"))', lambda w: w.run(text("UPDATE accounts SET name = 'Eve'")), (), pre="none", post="none"),
)  # fmt: skip
