"""The stage of the write paths: models whose hooks take down what they see, rows, and verbs that write."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import Column, ForeignKey, String, Table, insert, literal, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session, mapped_column, relationship

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

__all__ = [
    "World",
    "add",
    "change",
    "delete_account",
    "delete_in_database",
    "delete_statement",
    "delete_with_parts",
    "follow_email",
    "from_select",
    "leave_alone",
    "lose_the_race",
    "make_world",
    "merge",
    "save_changed_objects",
    "save_objects",
    "tag_account",
    "upsert",
]


@dataclass(slots=True)
class World:
    """Models on a Session. There are Account 1, a Part of the ORM's cascade, a Trace and a Note of the database's."""

    models: dict[str, Any]
    seen: list[str]
    session: Any = None

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
        return self.session.get(self.Account, 1)

    def run(self, statement: Any, parameters: Any = None) -> None:
        self.session.execute(statement, parameters)

    @property
    def upsert(self) -> Any:
        """An INSERT in the words of the database that there is."""
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
    follows = ForeignKey("accounts.email", onupdate="CASCADE")
    label = type("Label", (BaseModel,), body(email=mapped_column(String, follows)))
    models = {"Account": account_class, "Tag": tag, "Part": part, "Trace": trace, "Note": note, "Label": label}
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


# --- verbs -----------------------------------------------------------------------------------


def change(world: World, **values: Any) -> None:
    account = world.account
    for name, value in values.items():
        setattr(account, name, value)
    world.session.flush()


def add(world: World) -> None:
    world.session.add(world.Account(id=2, name="Bob"))
    world.session.flush()


def merge(world: World, **values: Any) -> None:
    world.session.merge(world.Account(**values))
    world.session.flush()


def follow_email(world: World) -> None:
    # Not among the seeds: it stands against the deletion of its account.
    label: Any = world.Label.__table__
    world.session.connection().execute(label.insert(), {"id": 1, "email": "ada@example.com"})
    change(world, email="eve@example.com")


def delete_account(world: World) -> None:
    for model in (world.Trace, world.Note, world.Part):
        world.session.connection().execute(model.__table__.delete())
    world.session.delete(world.account)
    world.session.flush()


def delete_with_parts(world: World) -> None:
    for model in (world.Trace, world.Note):
        world.session.connection().execute(model.__table__.delete())
    world.session.delete(world.account)
    world.session.flush()


def delete_in_database(world: World) -> None:
    world.session.connection().execute(world.Part.__table__.delete())
    world.session.delete(world.account)
    world.session.flush()


def tag_account(world: World) -> None:
    account = world.account
    account.tags.append(world.session.get(world.Tag, 1))
    world.session.flush()


def lose_the_race(world: World) -> None:
    """get_or_create: somebody else has made the row since it was looked for."""
    try:
        with world.session.begin_nested():
            world.session.add(world.Account(id=3, name="Ada", email="ada@example.com"))
    except IntegrityError:
        world.session.scalars(select(world.Account).filter_by(email="ada@example.com")).one()


def upsert(world: World, **values: Any) -> None:
    statement = world.upsert
    statement = statement.on_conflict_do_update(index_elements=["email"], set_={"name": statement.excluded.name})
    world.run(statement, [values])


def leave_alone(world: World) -> None:
    """Nothing refers to the account any more."""
    for model in (world.Trace, world.Note, world.Part):
        world.session.connection().execute(model.__table__.delete())


def delete_statement(world: World, statement: Any) -> None:
    leave_alone(world)
    world.run(statement)


def save_objects(world: World) -> None:
    world.session.bulk_save_objects([world.Account(id=2, name="Bob")])


def save_changed_objects(world: World) -> None:
    account = world.account
    world.session.expunge(account)
    account.name = "Eve"
    world.session.bulk_save_objects([account])


def from_select(world: World) -> None:
    world.run(
        insert(world.Account).from_select(["id", "name", "visits"], select(literal(2), literal("Bob"), literal(0)))
    )
