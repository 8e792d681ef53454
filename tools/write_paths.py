"""Write paths: every way a row can change, and what its model's hooks and events make of it; tested and printed.

`tests/flows/test_write_paths.py` walks every path on every database and holds each cell to what happens;
`docs/reference/write-paths.md` is printed from the same table.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from sqlalchemy import delete, insert, text, update

from tools.stage import (
    World,
    add,
    change,
    delete_account,
    delete_in_database,
    delete_statement,
    delete_with_parts,
    follow_email,
    from_select,
    lose_the_race,
    merge,
    save_changed_objects,
    save_objects,
    tag_account,
    upsert,
)

__all__ = ["PATHS", "Expected", "WritePath"]

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


# --- the paths -------------------------------------------------------------------------------

CREATED = (Expected("account.created", "account:2"),)
RENAMED = (Expected("account.updated", "account:1", {"name": ("Ada", "Eve")}),)
VISITED = (Expected("account.updated", "account:1", {"visits": (1, 2)}),)
ACCOUNT_GONE = (Expected("account.deleted", "account:1"),)
TAKEN_ALONG = (
    Expected("trace.deleted", "trace:1"),
    Expected("note.updated", "note:1", {"account_id": (1, None)}),
)
MOVED = {"email": ("ada@example.com", "eve@example.com")}

BULK_CREATED: dict[str, Any] = {"batch": "bulk_created", "refuse": True}
BULK_UPDATED: dict[str, Any] = {"pre": "refused", "batch": "bulk_updated", "refuse": True}
BULK_DELETED: dict[str, Any] = {"batch": "bulk_deleted", "refuse": True}

PATHS: tuple[WritePath, ...] = (
    # --- the unit of work
    WritePath("new record, save", "Account(name=…).save()", lambda w: w.Account(id=2, name="Bob").save(), CREATED),
    WritePath("new record, add", "session.add(account)", add, CREATED),
    WritePath("new record, merge", "session.merge(account)", lambda w: merge(w, id=2, name="Bob"), CREATED),
    WritePath("changed record", 'account.name = "Eve"', lambda w: change(w, name="Eve"), RENAMED),
    WritePath("nothing changed", 'account.name = "Ada"', lambda w: change(w, name="Ada"), (), pre="none", post="none"),
    WritePath(
        "changed by expression",
        "account.visits = Account.visits + 1",
        lambda w: change(w, visits=w.Account.visits + 1),
        VISITED,
    ),
    WritePath(
        "changed record, merge",
        "session.merge(account)",
        lambda w: merge(w, id=1, name="Eve", visits=1, email="ada@example.com"),
        RENAMED,
    ),
    WritePath("deleted record", "session.delete(account)", delete_account, ACCOUNT_GONE),
    WritePath(
        "deleted by the ORM's cascade",
        'relationship(cascade="all, delete")',
        delete_with_parts,
        (Expected("account.deleted", "account:1"), Expected("part.deleted", "part:1")),
    ),
    WritePath(
        "lost race of get_or_create",
        "with session.begin_nested(): session.add(account)",
        lose_the_race,
        (),
        post="none",
    ),
    WritePath(
        "many-to-many",
        "account.tags.append(tag)",
        tag_account,
        (Expected("account.tags.changed", "account:1"),),
        pre="none",
        post="none",
    ),
    # --- the database by itself
    WritePath(
        "deleted or emptied by the database's cascade",
        "ON DELETE CASCADE, ON DELETE SET NULL",
        delete_in_database,
        (*ACCOUNT_GONE, *reversed(TAKEN_ALONG)),
        refuse=True,
    ),
    WritePath(
        "a key changed that the database has others follow",
        "ON UPDATE CASCADE, SET NULL, SET DEFAULT",
        follow_email,
        (
            Expected("account.updated", "account:1", MOVED),
            Expected("label.updated", "label:1", MOVED),
        ),
        refuse=True,
    ),
    # --- INSERT
    WritePath(
        "INSERT of dictionaries",
        "session.execute(insert(Account), [{…}, …])",
        lambda w: w.run(insert(w.Account), [{"id": 2, "name": "Bob"}]),
        CREATED,
        **BULK_CREATED,
    ),
    WritePath(
        "INSERT of dictionaries, RETURNING",
        "session.scalars(insert(Account).returning(Account), [{…}, …])",
        lambda w: w.run(insert(w.Account).returning(w.Account), [{"id": 2, "name": "Bob"}]),
        CREATED,
        **BULK_CREATED,
    ),
    WritePath(
        "INSERT of values",
        "session.execute(insert(Account).values(name=…))",
        lambda w: w.run(insert(w.Account).values(id=2, name="Bob")),
        CREATED,
        pre="refused",
        **BULK_CREATED,
    ),
    WritePath(
        "INSERT of many values",
        "session.execute(insert(Account).values([{…}, …]))",
        lambda w: w.run(insert(w.Account).values([{"id": 2, "name": "Bob"}])),
        CREATED,
        pre="refused",
        **BULK_CREATED,
    ),
    WritePath(
        "INSERT from a SELECT",
        "session.execute(insert(Account).from_select(…))",
        from_select,
        CREATED,
        pre="refused",
        **BULK_CREATED,
    ),
    WritePath(
        "upsert of a new row",
        "insert(Account).on_conflict_do_update(…)",
        lambda w: upsert(w, id=2, name="Bob", email="bob@example.com"),
        CREATED,
        pre="refused",
        **BULK_CREATED,
    ),
    WritePath(
        "upsert of a row that is there",
        "insert(Account).on_conflict_do_update(…)",
        lambda w: upsert(w, id=2, name="Eve", email="ada@example.com"),
        RENAMED,
        pre="refused",
        **BULK_CREATED,
    ),
    WritePath(
        "INSERT that a row stands against",
        "insert(Account).on_conflict_do_nothing()",
        lambda w: w.run(w.upsert.on_conflict_do_nothing(), [{"id": 1, "name": "Eve"}]),
        (),
        post="none",
        **BULK_CREATED,
    ),
    # --- UPDATE
    WritePath(
        "UPDATE where",
        "session.execute(update(Account).where(…).values(name=…))",
        lambda w: w.run(update(w.Account).where(w.Account.id == 1).values(name="Eve")),
        RENAMED,
        **BULK_UPDATED,
    ),
    WritePath(
        "UPDATE by expression",
        "session.execute(update(Account).values(visits=Account.visits + 1))",
        lambda w: w.run(update(w.Account).values(visits=w.Account.visits + 1)),
        VISITED,
        **BULK_UPDATED,
    ),
    WritePath(
        "UPDATE, RETURNING",
        "session.execute(update(Account).values(name=…).returning(Account.id))",
        lambda w: w.run(update(w.Account).values(name="Eve").returning(w.Account.id)),
        RENAMED,
        **BULK_UPDATED,
    ),
    WritePath(
        "UPDATE by primary key",
        'session.execute(update(Account), [{"id": 1, …}, …])',
        lambda w: w.run(update(w.Account), [{"id": 1, "name": "Eve"}]),
        RENAMED,
        **BULK_UPDATED,
    ),
    WritePath(
        "UPDATE that changes nothing",
        "session.execute(update(Account).values(name=Account.name))",
        lambda w: w.run(update(w.Account).values(name=w.Account.name)),
        (),
        post="none",
        **BULK_UPDATED,
    ),
    # --- DELETE
    WritePath(
        "DELETE where",
        "session.execute(delete(Account).where(…))",
        lambda w: delete_statement(w, delete(w.Account).where(w.Account.id == 1)),
        ACCOUNT_GONE,
        **BULK_DELETED,
    ),
    WritePath(
        "DELETE of all rows",
        "session.execute(delete(Account))",
        lambda w: delete_statement(w, delete(w.Account)),
        ACCOUNT_GONE,
        **BULK_DELETED,
    ),
    WritePath(
        "DELETE, RETURNING",
        "session.execute(delete(Account).returning(Account.name))",
        lambda w: delete_statement(w, delete(w.Account).returning(w.Account.name)),
        ACCOUNT_GONE,
        **BULK_DELETED,
    ),
    # --- bulk methods
    WritePath(
        "bulk_save_objects of new ones", "session.bulk_save_objects(accounts)", save_objects, CREATED, **BULK_CREATED
    ),
    WritePath(
        "bulk_save_objects of changed ones",
        "session.bulk_save_objects(accounts)",
        save_changed_objects,
        RENAMED,
        batch="bulk_updated",
        refuse=True,
    ),
    WritePath(
        "bulk_insert_mappings",
        "session.bulk_insert_mappings(Account, [{…}, …])",
        lambda w: w.session.bulk_insert_mappings(w.Account, [{"id": 2, "name": "Bob"}]),
        CREATED,
        **BULK_CREATED,
    ),
    WritePath(
        "bulk_update_mappings",
        'session.bulk_update_mappings(Account, [{"id": 1, …}, …])',
        lambda w: w.session.bulk_update_mappings(w.Account, [{"id": 1, "name": "Eve"}]),
        RENAMED,
        **BULK_UPDATED,
    ),
    # --- past the models
    WritePath(
        "Core",
        "session.execute(insert(Account.__table__))",
        lambda w: w.run(insert(w.Account.__table__).values(id=2, name="Bob", visits=0)),
        (),
        pre="none",
        post="none",
    ),
    WritePath(
        "text",
        'session.execute(text("UPDATE accounts …"))',
        lambda w: w.run(text("UPDATE accounts SET name = 'Eve'")),
        (),
        pre="none",
        post="none",
    ),
)
