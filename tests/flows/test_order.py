"""The order of handlers: total, the same on every run, whatever was imported first."""

import itertools
import subprocess
import sys
import textwrap

import pytest

from earnorm import BaseModel, StringField, default_bus, emit, event_handler, on_event, post_save, pre_save
from earnorm.errors import OrderCycle, UnknownNeighbour

seen = []


@pytest.fixture(autouse=True)
def nothing_seen(db):
    seen.clear()


def test_hooks_run_in_the_order_they_are_defined():
    class Note(BaseModel):
        text = StringField()

        @post_save
        def z(self):
            seen.append("first")

        @post_save
        def a(self):
            seen.append("second")

    Note(text="one").save()

    assert ["first", "second"] == seen


def test_priority_goes_before_definition():
    class Note(BaseModel):
        text = StringField()

        @pre_save
        def usual(self):
            seen.append("usual")

        @pre_save(priority=-1)
        def late(self):
            seen.append("late")

        @pre_save(priority=1)
        def early(self):
            seen.append("early")

    Note(text="one").save()

    assert ["early", "usual", "late"] == seen


def test_a_base_class_goes_before_its_subclass():
    class Base(BaseModel):
        __abstract__ = True

        @post_save
        def z_of_base(self):
            seen.append("base")

    class Middle(Base):
        __abstract__ = True

        @post_save
        def m_of_middle(self):
            seen.append("middle")

    class Note(Middle):
        text = StringField()

        @post_save
        def a_of_note(self):
            seen.append("note")

    Note(text="one").save()

    assert ["base", "middle", "note"] == seen


def test_a_mixin_goes_before_the_class_that_mixes_it_in():
    class Stamped:
        @pre_save
        def stamp(self):
            seen.append("mixin")

    class Note(Stamped, BaseModel):
        text = StringField()

        @pre_save
        def own(self):
            seen.append("note")

    Note(text="one").save()

    assert ["mixin", "note"] == seen


def test_before_and_after_go_before_priority():
    class Note(BaseModel):
        text = StringField()

        @post_save(priority=9, after="Note.second")
        def third(self):
            seen.append("third")

        @post_save
        def second(self):
            seen.append("second")

        @post_save(priority=-9, before="Note.second")
        def first(self):
            seen.append("first")

    Note(text="one").save()

    assert ["first", "second", "third"] == seen


def test_before_and_after_take_the_function_itself():
    class Note(BaseModel):
        text = StringField()

        @post_save
        def second(self):
            seen.append("second")

        @post_save(before=second)
        def first(self):
            seen.append("first")

    Note(text="one").save()

    assert ["first", "second"] == seen


def test_the_rest_keeps_its_order_around_a_constraint():
    class Note(BaseModel):
        text = StringField()

        @post_save
        def one(self):
            seen.append("one")

        @post_save(after="Note.four")
        def two(self):
            seen.append("two")

        @post_save
        def three(self):
            seen.append("three")

        @post_save
        def four(self):
            seen.append("four")

    Note(text="one").save()

    assert ["one", "three", "four", "two"] == seen


def test_a_constraint_on_a_handler_of_another_event_means_nothing():
    class Note(BaseModel):
        text = StringField()

        @post_save(after="Note.on_read")
        def saved(self):
            seen.append("saved")

        @on_event("read")
        def on_read(self):
            pass

    Note(text="one").save()

    assert ["saved"] == seen


def test_a_circle_is_refused_with_its_names():
    with pytest.raises(OrderCycle, match=r"Note\.one.*->.*Note\.two") as raised:

        class Note(BaseModel):
            text = StringField()

            @post_save(before="Note.two")
            def one(self):
                pass

            @post_save(before="Note.one")
            def two(self):
                pass

        Note(text="one").save()

    assert {"one", "two"} <= {name.rpartition(".")[2] for name in raised.value.names}


def test_what_overrides_a_hook_stands_in_its_place():
    class Base(BaseModel):
        __abstract__ = True

        @post_save
        def second(self):
            seen.append("second of the base")

        @post_save(before=second)
        def first(self):
            seen.append("first")

    class Note(Base):
        text = StringField()

        @post_save
        def second(self):
            seen.append("second")

    Note(text="one").save()

    assert ["first", "second"] == seen


# --- names that nobody has ---


def test_a_name_that_no_handler_has_is_refused_at_the_first_use():
    class Note(BaseModel):
        text = StringField()

        @pre_save
        def make_slug(self):
            pass

        @pre_save(after="make_slgu")
        def show(self):
            pass

    with pytest.raises(UnknownNeighbour, match=r"show is to run after 'make_slgu'.*did you mean .*make_slug") as raised:
        Note(text="one").save()
    assert [default_bus.handlers()[0].name] == list(raised.value.near)


def test_a_name_like_no_other_is_refused_as_well():
    event_handler("note.read", name="one", delivery="after_commit", before="audit")(lambda event: None)

    with pytest.raises(UnknownNeighbour, match=r"one is to run before 'audit', .* is its module imported"):
        emit("note.read")


def test_a_handler_that_comes_before_the_first_use_may_be_named_earlier():
    event_handler("note.read", name="one", delivery="after_commit", after="two")(lambda event: seen.append("one"))
    event_handler("note.read", name="two", delivery="after_commit")(lambda event: seen.append("two"))

    emit("note.read")

    assert ["two", "one"] == seen


def test_one_that_goes_later_is_missed_by_nobody():
    two = event_handler("note.read", name="two", delivery="after_commit")(lambda event: seen.append("two"))
    event_handler("note.read", name="one", delivery="after_commit", after="two")(lambda event: seen.append("one"))
    emit("note.read")
    default_bus.off(two)

    emit("note.read")

    assert ["two", "one", "one"] == seen


def test_a_hook_may_name_one_that_a_subclass_has_disabled():
    class Base(BaseModel):
        __abstract__ = True

        @post_save
        def stamp(self):
            seen.append("stamp")

        @post_save(after=stamp)
        def show(self):
            seen.append("show")

    class Note(Base):
        text = StringField()
        stamp = None

    Note(text="one").save()

    assert ["show"] == seen


def test_a_durable_handler_may_name_one_that_another_process_has():
    event_handler("note.read", name="one", after="shop.audit")(lambda event: seen.append("one"))

    emit("note.read")


def test_a_models_own_hooks_and_global_handlers_share_one_order():
    class Note(BaseModel):
        text = StringField()

        @on_event("created", priority=1)
        def own(self):
            seen.append("own 1")

    @event_handler("note.created", delivery="transaction", priority=2)
    def early(note):
        seen.append("global 2")

    @event_handler("note.created", delivery="transaction", priority=0)
    def late(note):
        seen.append("global 0")

    Note(text="one").save()

    assert ["global 2", "own 1", "global 0"] == seen


def test_the_handlers_of_views_stand_in_the_same_order():
    class Note(BaseModel):
        text = StringField()

        @on_event("text_change", priority=1)
        def changed(self):
            seen.append("view")

        @on_event("updated", priority=2)
        def updated(self):
            seen.append("updated")

        @on_event("saved", priority=3)
        def saved(self):
            seen.append("saved")

    note = Note(text="one").save()
    seen.clear()
    note.text = "two"
    note.save()

    assert ["saved", "updated", "view"] == seen


MODULES = ("alpha", "beta", "gamma")


@pytest.mark.parametrize("imported", list(itertools.permutations(MODULES)), ids="-".join)
def test_the_order_of_imports_changes_nothing(tmp_path, imported):
    for name in MODULES:
        (tmp_path / f"{name}.py").write_text(
            textwrap.dedent(f"""
                from earnorm import event_handler

                @event_handler("a.b", delivery="transaction")
                def first(event):
                    print("{name} 1")

                @event_handler("a.b", delivery="transaction")
                def second(event):
                    print("{name} 2")
            """)
        )
    program = "\n".join([*(f"import {name}" for name in imported), "from earnorm import emit", "emit('a.b')"])
    told = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)

    assert [f"{name} {n}" for name in MODULES for n in (1, 2)] == told.stdout.split("\n")[:-1]


def test_the_list_of_handlers_is_in_the_order_they_run():
    @event_handler("a.b", priority=-1)
    def first(event):
        pass

    @event_handler("a.b", priority=9)
    def second(event):
        pass

    assert ["second", "first"] == [handler.name.rpartition(".")[2] for handler in default_bus.handlers()]
