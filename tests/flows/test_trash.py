"""The trash: records that are put away and taken out again, with hooks and events of their own, by every door."""

from datetime import datetime

import pytest
from sqlalchemy import select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from earnorm import (
    Abort,
    BaseModel,
    SoftDelete,
    StringField,
    attach,
    emit,
    event_handler,
    on_event,
    post_delete,
    post_restore,
    post_restore_async,
    post_save,
    post_trash,
    post_trash_async,
    pre_restore,
    pre_restore_async,
    pre_save,
    pre_trash,
    pre_trash_async,
)
from earnorm.errors import (
    AsyncHandlerUnderSync,
    DeletedSubject,
    EventError,
    InvalidValue,
    NotFound,
    NoTrash,
    ReservedFieldName,
    SaveInPreHook,
    UnsavedSubject,
    ValidationFailed,
)
from tests.flows.stories import log, names

SEEN: list[str] = []


@pytest.fixture(autouse=True)
def seen():
    SEEN.clear()
    yield SEEN
    SEEN.clear()


@pytest.fixture
def Order():
    class Order(SoftDelete):
        label = StringField(default="", max_length=9)

        @pre_save
        def a(self):
            SEEN.append("pre_save")

        @post_save
        def b(self):
            SEEN.append("post_save")

        @pre_trash
        def c(self):
            SEEN.append(f"pre_trash {self.trashed}")
            if self.label == "keep":
                raise Abort("kept")

        @post_trash
        def d(self, event):
            SEEN.append(f"post_trash {event}")

        @pre_restore
        def e(self):
            SEEN.append(f"pre_restore {self.trashed}")
            if self.label == "gone":
                raise Abort("stays")

        @post_restore
        def f(self, event):
            SEEN.append(f"post_restore {event}")

        @post_delete
        def g(self):
            SEEN.append("post_delete")

        @on_event("trashed_at_changed")
        def h(self, old_trashed_at, new_trashed_at):
            SEEN.append(f"{type(old_trashed_at).__name__} -> {type(new_trashed_at).__name__}")

    return Order


# --- doors: each trashes and restores a saved record ---


class ByDoor:
    def trash(self, db, order):
        order.trash()

    def restore(self, db, order):
        order.restore()


class ByDelete(ByDoor):
    def trash(self, db, order):
        order.delete()


class ByAsyncDoor:
    def trash(self, db, order):
        import asyncio

        asyncio.run(order.atrash())

    def restore(self, db, order):
        import asyncio

        asyncio.run(order.arestore())


class ByAsyncDelete(ByAsyncDoor):
    def trash(self, db, order):
        import asyncio

        asyncio.run(order.adelete())


class BySession:
    """Whoever sets the field."""

    def _set(self, db, order, at):
        with Session(db.engine, expire_on_commit=False) as session:
            session.add(order)
            order.trashed_at = at
            session.commit()

    def trash(self, db, order):
        self._set(db, order, datetime.now().astimezone())

    def restore(self, db, order):
        self._set(db, order, None)


DOORS = [ByDoor, ByDelete, ByAsyncDoor, ByAsyncDelete, BySession]


@pytest.mark.parametrize("door", DOORS)
def test_trashing_and_restoring_have_their_own_hooks_and_events(db, Order, seen, door):
    order = Order(label="a").save()
    seen.clear()
    door().trash(db, order)
    assert order.trashed
    assert ["pre_trash True", "post_trash order.trashed", "NoneType -> datetime"] == sorted(seen, key=_rank)
    seen.clear()
    door().restore(db, order)
    assert not order.trashed
    assert ["pre_restore False", "post_restore order.restored", "datetime -> NoneType"] == sorted(seen, key=_rank)
    assert ["order.created", "order.trashed", "order.restored"] == names(db)


def _rank(word):
    return (not word.startswith("pre"), not word.startswith("post"))


def test_async_hooks_of_the_trash(db):
    import asyncio

    class Order(SoftDelete):
        @pre_trash_async
        async def a(self):
            SEEN.append("pre_trash_async")

        @pre_restore_async
        async def b(self):
            SEEN.append("pre_restore_async")

        @post_trash_async(name="c")
        async def c(self, event):
            SEEN.append(str(event))

        @post_restore_async(name="d")
        async def d(self, event):
            SEEN.append(str(event))

    order = Order().save()
    with pytest.raises(AsyncHandlerUnderSync, match=r"await atrash\(\)"):
        order.trash()
    with pytest.raises(AsyncHandlerUnderSync, match=r"await adelete\(\)|await atrash\(\)"):
        order.delete()
    asyncio.run(order.atrash())
    db.drain()
    asyncio.run(order.arestore())
    db.drain()

    assert ["pre_trash_async", "order.trashed", "pre_restore_async", "order.restored"] == SEEN


def test_doing_it_twice_is_doing_it_once(db, Order):
    order = Order().save()
    order.restore()
    first = order.trash().trashed_at
    order.trash()
    order.delete()

    assert first == order.trashed_at
    assert ["order.created", "order.trashed"] == names(db)


def test_a_veto_leaves_the_record_where_it_was(db, Order):
    order = Order(label="keep").save()
    with pytest.raises(Abort, match="kept"):
        order.trash()
    assert not order.trashed
    assert 1 == len(Order.find())

    other = Order(label="a").save().trash()
    other.label = "gone"
    with pytest.raises(Abort, match="stays"):
        other.restore()
    assert other.trashed
    assert 1 == len(Order.find(trashed="only"))


def test_a_rollback_takes_it_back(db, Order):
    order = Order().save()
    with pytest.raises(RuntimeError, match="stop"):
        with db.transaction():
            order.trash()
            raise RuntimeError("stop")

    assert (1, ["order.created"]) == (len(Order.find()), names(db))


def test_handlers_after_the_commit_get_the_record(db, Order):
    event_handler("order.trashed", "order.restored", name="all")(
        lambda order, event: SEEN.append(f"{event} {order.trashed} {order.label}")
    )
    event_handler("order.updated", "order.saved", name="none")(lambda order, event: SEEN.append(f"{event}!"))
    order = Order(label="x").save()
    db.drain()
    SEEN.clear()
    order.trash()
    db.drain()
    order.restore()
    db.drain()

    assert ["order.trashed True x", "order.restored False x"] == [word for word in SEEN if word.endswith("x")]
    assert [] == [word for word in SEEN if word.endswith("!")]


def test_a_handler_of_the_class_and_of_the_field_hears_it(db, Order):
    heard = []
    event_handler(Order, name="class")(lambda order, event: heard.append(("class", event.name)))
    event_handler("order.trashed_at_changed", name="field")(lambda order, event: heard.append(("field", event.name)))
    Order().save().trash()
    db.drain()

    assert [("class", "order.created"), ("class", "order.trashed"), ("field", "order.trashed")] == sorted(heard)


# --- the row --------------------------------------------------------------------------------


def test_the_row_is_deleted_if_one_says_so(db, Order, seen):
    kept, gone = Order().save().trash(), Order().save()
    seen.clear()
    kept.delete(force=True)
    gone.delete(force=True)

    assert ["post_delete", "post_delete"] == seen
    assert [] == Order.find(trashed="with")
    assert ["order.deleted", "order.deleted"] == names(db)[-2:]


async def test_the_row_is_deleted_in_async_code_too(db, Order):
    order = await Order().asave()
    await order.adelete(force=True)

    assert [] == await Order.afind(trashed="with")


def test_a_session_deletes_the_row(db, Order):
    """`Session.delete` is SQLAlchemy's word, and means what it says."""
    order = Order().save()
    with db.session() as session:
        session.delete(session.merge(order))
        session.commit()

    assert "order.deleted" == names(db)[-1]


# --- queries --------------------------------------------------------------------------------


def test_find_leaves_the_trash_out_unless_asked(db, Order):
    Order(label="a").save()
    Order(label="b").save().trash()

    def labels(**options):
        return sorted(order.label for order in Order.find(**options))

    assert (["a"], ["a", "b"], ["b"]) == (labels(), labels(trashed="with"), labels(trashed="only"))
    assert [] == labels(label="b")
    assert ["b"] == labels(label="b", trashed="with")


async def test_afind_and_aget_do_as_well(db, Order):
    order = await (await Order(label="b").asave()).atrash()

    assert [] == await Order.afind()
    assert ["b"] == [found.label for found in await Order.afind(trashed="only")]
    with pytest.raises(NotFound):
        await Order.aget(order.id)
    assert "b" == (await Order.aget(order.id, trashed="with")).label


def test_get_leaves_the_trash_out_unless_asked(db, Order):
    order = Order().save()
    with pytest.raises(NotFound):
        Order.get(order.id, trashed="only")
    order.trash()
    with pytest.raises(NotFound):
        Order.get(order.id)

    assert order.id == Order.get(order.id, trashed="with").id == Order.get(order.id, trashed="only").id


def test_select_sees_all_rows(db, Order):
    Order().save().trash()
    with db.session() as session:
        assert 1 == len(session.scalars(select(Order)).all())
        assert 0 == len(session.scalars(select(Order).where(Order.trashed_at.is_(None))).all())


@pytest.mark.parametrize("door", ["find", "get"])
def test_another_word_is_refused(db, Order, door):
    order = Order().save()
    with pytest.raises(InvalidValue, match="trashed='without', 'with' or 'only'"):
        getattr(Order, door)(*([order.id] if door == "get" else []), trashed="yes")


# --- several at once ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "story,told",
    [
        (["trash"], ["trashed"]),
        (["trash", "restore"], []),
        (["save", "trash"], ["trashed"]),
        (["trash", "save"], ["trashed"]),
        (["save", "trash", "restore"], ["updated"]),
        (["trash", "force"], ["deleted"]),
    ],
)
def test_one_transaction_is_one_event(db, Order, story, told):
    order = Order(label="a").save()
    with db.transaction():
        for number, step in enumerate(story):
            if step == "save":
                order.label = str(number)
                order.save()
            elif step == "force":
                order.delete(force=True)
            else:
                getattr(order, step)()

    assert [f"order.{verb}" for verb in told] == names(db)[1:]


def test_made_and_trashed_in_one_transaction_is_made(db, Order):
    with db.transaction():
        Order().save().trash()

    assert ["order.created"] == names(db)
    assert log(db)[0].payload["trashed_at"] is not None


def test_a_restored_record_of_the_transaction_before_is_restored(db, Order):
    order = Order().save().trash()
    with db.transaction():
        order.label = "x"
        order.save()
        order.restore()

    assert {"label", "trashed_at"} == set(log(db)[-1].changes)
    assert "order.restored" == names(db)[-1]


def test_what_is_saved_while_in_the_trash_is_an_update(db, Order):
    order = Order().save().trash()
    order.label = "x"
    order.save()

    assert "order.updated" == names(db)[-1]


# --- what cannot be -------------------------------------------------------------------------


def test_a_new_record_has_no_trash_to_go_to(db, Order):
    with pytest.raises(UnsavedSubject):
        Order().trash()


def test_a_deleted_record_neither(db, Order):
    order = Order().save()
    order.delete(force=True)
    with pytest.raises(DeletedSubject):
        order.trash()


def test_unsaved_changes_go_with_it_and_are_checked(db, Order):
    order = Order().save()
    order.label = "far too long"
    with pytest.raises(ValidationFailed):
        order.trash()
    assert not order.trashed


def test_its_events_are_not_emitted_by_hand(db, Order):
    order = Order().save()
    with pytest.raises(EventError, match=r"order.trashed is raised by"):
        order.emit("trashed")


def test_a_model_without_a_trash_may_emit_events_of_that_name(db):
    class Bin(BaseModel):
        label = StringField(default="")

        @on_event("trashed")
        def note(self, by):
            SEEN.append(by)

    Bin().save().emit("trashed", by="ada")

    assert ["ada"] == SEEN


def test_trashing_itself_before_its_sql_is_refused(db):
    class Order(SoftDelete):
        @pre_save
        def wrong(self):
            self.trash()

    with pytest.raises(SaveInPreHook):
        Order().save()


def test_hooks_of_the_trash_need_one():
    with pytest.raises(NoTrash, match=r"@post_trash in Bin, whose records have no trash; derive Bin from"):

        class Bin(BaseModel):
            label = StringField()

            @post_trash
            def never(self): ...


@pytest.mark.parametrize("word", ["trash", "restore", "trashed"])
def test_its_words_are_no_fields(word):
    with pytest.raises(ReservedFieldName):
        type("Bin", (SoftDelete,), {word: StringField(), "__module__": __name__})


# --- a base of one's own --------------------------------------------------------------------


@pytest.mark.parametrize("field,put,take", [("deleted_at", "2026-01-01", None), ("is_deleted", True, False)])
def test_a_model_of_ones_own_may_have_a_trash(db, field, put, take):
    class Base(DeclarativeBase):
        pass

    class Order(Base):
        __tablename__ = "orders"
        id: Mapped[int] = mapped_column(primary_key=True)
        deleted_at: Mapped[str | None]
        is_deleted: Mapped[bool] = mapped_column(default=False)

        @post_trash
        def away(self, event):
            SEEN.append(str(event))

    class Note(Base):
        __tablename__ = "notes"
        id: Mapped[int] = mapped_column(primary_key=True)

    attach(Base, log="all", trash=field)
    Base.metadata.create_all(db.engine)
    with Session(db.engine) as session:
        session.add_all([order := Order(), Note()])
        session.commit()
        setattr(order, field, put)
        session.commit()
        setattr(order, field, take)
        session.commit()
        with pytest.raises(EventError):
            emit("order.restored", order)

    assert ["order.trashed"] == SEEN
    assert ["note.created", "order.created", "order.restored", "order.trashed"] == sorted(names(db))
