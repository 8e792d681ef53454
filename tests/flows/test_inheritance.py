"""Hooks and handlers of mixins, abstract bases, subclasses; and subclasses that share a table."""

import pytest
from sqlalchemy import select

from earnorm import (
    BaseModel,
    IntegerField,
    StringField,
    default_bus,
    emit,
    event_handler,
    on_event,
    post_delete,
    post_save,
    post_update,
    pre_save,
)
from earnorm.errors import SubjectTaken
from tests.flows.stories import log, names

seen = []


@pytest.fixture(autouse=True)
def nothing_seen(db):
    seen.clear()


class Stamped:
    """A plain mixin, known to several models."""

    @pre_save
    def stamp(self):
        seen.append(f"stamp {type(self).__name__}")


def test_a_mixins_hooks_run_for_each_model_that_mixes_it_in():
    class Note(Stamped, BaseModel):
        text = StringField()

    class Order(Stamped, BaseModel):
        number = IntegerField()

    Note(text="one").save()
    Order(number=1).save()

    assert ["stamp Note", "stamp Order"] == seen


def test_an_abstract_base_gives_fields_and_hooks(db):
    class Named(BaseModel):
        __abstract__ = True
        name = StringField()

        @post_save
        def saved(self):
            seen.append(self.name)

    class User(Named):
        pass

    class Group(Named):
        pass

    User(name="Ada").save()
    Group(name="Admins").save()

    assert (["Ada", "Admins"], ["user.created", "group.created"]) == (seen, names(db))


def test_an_override_replaces_the_hook_and_keeps_its_role():
    class Note(Stamped, BaseModel):
        text = StringField()

        def stamp(self):
            seen.append("mine")

    Note(text="one").save()

    assert ["mine"] == seen


def test_an_override_may_call_what_it_replaces():
    class Note(Stamped, BaseModel):
        text = StringField()

        def stamp(self):
            super().stamp()
            seen.append("and mine")

    Note(text="one").save()

    assert ["stamp Note", "and mine"] == seen


def test_an_override_that_is_decorated_itself_has_that_role():
    class Note(Stamped, BaseModel):
        text = StringField()

        @post_update
        def stamp(self):
            seen.append("updated")

    note = Note(text="one").save()
    assert [] == seen
    note.text = "two"
    note.save()

    assert ["updated"] == seen


def test_none_disables_a_hook():
    class Note(Stamped, BaseModel):
        text = StringField()
        stamp = None

    Note(text="one").save()

    assert [] == seen


def test_a_hook_disabled_in_one_model_runs_in_the_next():
    class Quiet(Stamped, BaseModel):
        text = StringField()
        stamp = None

    class Loud(Stamped, BaseModel):
        text = StringField()

    Quiet(text="one").save()
    Loud(text="one").save()

    assert ["stamp Loud"] == seen


def test_two_decorators_on_one_function_are_two_roles():
    class Note(BaseModel):
        text = StringField()

        @post_save
        @post_delete
        def told(self, event):
            seen.append(event.name)

    Note(text="one").save().delete()

    assert ["note.created", "note.deleted"] == seen


def animals():
    class Animal(BaseModel):
        name = StringField()

        @post_save
        def saved(self):
            seen.append(f"animal {self.name}")

    class Dog(Animal):
        tricks = IntegerField(default=0)

        @post_save
        def dog_saved(self):
            seen.append(f"dog {self.name}")

    class Cat(Animal):
        pass

    return Animal, Dog, Cat


def test_a_subclass_of_a_model_shares_its_table_and_comes_back_as_itself(look):
    Animal, Dog, Cat = animals()
    for record in (Animal(name="a"), Dog(name="d", tricks=3), Cat(name="c")):
        record.save()

    found = {record.name: type(record) for record in Animal.find()}

    assert {"a": Animal, "d": Dog, "c": Cat} == found
    assert (3, ["d"]) == (look.rows("animals"), [dog.name for dog in Dog.find()])
    assert Dog.__table__ is Animal.__table__


def test_a_subclass_emits_under_its_own_name(db):
    _, Dog, _ = animals()
    Dog(name="d").save()

    assert ["dog.created"] == names(db)
    assert log(db)[0].key.startswith("dog:")


def test_a_subclass_inherits_hooks_base_first():
    _, Dog, Cat = animals()
    Dog(name="d").save()
    Cat(name="c").save()

    assert ["animal d", "dog d", "animal c"] == seen


def test_a_handler_of_the_class_hears_its_subclasses_and_a_string_pattern_does_not(db):
    Animal, Dog, _ = animals()
    heard = []

    @event_handler(Animal, name="class")
    def by_class(animal, event):
        heard.append(("class", event.name))

    @event_handler("animal.*", name="pattern")
    def by_pattern(animal, event):
        heard.append(("pattern", event.name))

    Animal(name="a").save()
    Dog(name="d").save()
    db.drain()

    assert sorted([("class", "animal.created"), ("pattern", "animal.created"), ("class", "dog.created")]) == sorted(
        heard
    )


def test_a_class_hears_each_event_once_and_no_views(db):
    Animal, Dog, _ = animals()
    heard = []

    @event_handler(Animal, name="class")
    def by_class(animal, event):
        heard.append(event.name)

    dog = Dog(name="d").save()
    dog.name = "e"
    dog.save()
    dog.emit("barked")
    db.drain()
    dog.delete()
    db.drain()

    assert ["dog.created", "dog.updated", "dog.barked", "dog.deleted"] == heard


def test_a_class_hears_what_is_emitted_under_its_name_about_no_record(db):
    Animal, _, _ = animals()
    heard = []
    event_handler(Animal, name="class")(lambda animal, event: heard.append((animal, event.name)))

    emit("animal.counted")
    emit("dog.counted")
    emit("dog.tail.counted")
    db.drain()

    assert {(None, "animal.counted"), (None, "dog.counted")} == set(heard)


def test_on_event_of_the_base_is_relative_to_each_class(db):
    class Animal(BaseModel):
        name = StringField()

        @on_event("fed")
        def on_fed(self, event):
            seen.append(event.name)

        @on_event("name_change")
        def renamed(self, old_name, new_name):
            seen.append((old_name, new_name))

    class Dog(Animal):
        pass

    dog = Dog(name="d").save()
    dog.emit("fed")
    dog.name = "e"
    dog.save()

    assert ["dog.fed", ("d", "e")] == seen


def test_a_discriminator_of_ones_own_is_left_alone():
    class Animal(BaseModel):
        kind = StringField()
        name = StringField()
        __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "any"}

    class Dog(Animal):
        __mapper_args__ = {"polymorphic_identity": "woof"}

    Dog(name="d").save()

    assert [("woof", Dog)] == [(animal.kind, type(animal)) for animal in Animal.find()]


def test_plain_select_knows_the_hierarchy(db):
    Animal, Dog, _ = animals()
    Dog(name="d").save()

    with db.session() as session:
        assert [Dog] == [type(animal) for animal in session.scalars(select(Animal))]


def test_a_subclass_may_not_take_another_models_name():
    Animal, _, _ = animals()

    with pytest.raises(SubjectTaken):

        class Wolf(Animal):
            __event_name__ = "dog"


def test_the_bus_lists_an_inherited_hook_once():
    class Note(Stamped, BaseModel):
        text = StringField()

    class Order(Stamped, BaseModel):
        number = IntegerField()

    names = [handler.name for handler in default_bus.handlers()]
    assert 1 == sum(name.endswith("Stamped.stamp") for name in names)
    assert len(names) == len(set(names))
