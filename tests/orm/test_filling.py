"""The values a record is made with: as SQLAlchemy's own constructor would have set them."""

from __future__ import annotations

from inspect import signature
from typing import Any

import pytest
from sqlalchemy import JSON, event, inspect
from sqlalchemy.ext.mutable import MutableDict
from sqlalchemy.orm import Mapped, Session, mapped_column, validates

from earnorm import BaseModel, IntegerField, StringField, connect
from earnorm.errors import UnknownField


def test_a_value_given_is_history_as_if_it_had_been_assigned() -> None:
    class Person(BaseModel):
        name = StringField()
        age = IntegerField(required=False)

    given, assigned = Person(id=None, name="Ada"), Person()
    assigned.id = None
    assigned.name = "Ada"

    for name in ("id", "name", "age"):
        assert inspect(assigned).attrs[name].history == inspect(given).attrs[name].history
    assert inspect(given).modified
    assert inspect(assigned).committed_state == inspect(given).committed_state


def test_a_validator_of_sqlalchemys_has_its_say() -> None:
    class Person(BaseModel):
        name = StringField()

        @validates("name")
        def shout(self, _key: str, name: str) -> str:
            return name.upper()

    assert Person(name="ada").name == "ADA"


def test_who_listens_to_an_attribute_is_told_also_when_records_were_made_before() -> None:
    class Person(BaseModel):
        name = StringField()

    Person(name="Grace")
    heard: list[object] = []
    event.listen(Person.name, "set", lambda _target, value, _old, _initiator: heard.append(value))
    Person(name="Ada")

    assert ["Ada"] == heard


def test_a_mutable_value_tells_of_its_changes() -> None:
    class Person(BaseModel):
        tags: Mapped[dict[str, int]] = mapped_column(MutableDict.as_mutable(JSON))

    with connect("sqlite://", worker=False) as db:
        person = Person(tags={"a": 1})
        with db.session() as session:
            session.add(person)
            session.commit()
            person.tags["b"] = 2
            session.commit()

        assert {"a": 1, "b": 2} == Person.get(person.id).tags


def test_a_class_that_has_a_say_in_how_it_is_set_keeps_it() -> None:
    seen: list[str] = []

    class Person(BaseModel):
        name = StringField()

        def __setattr__(self, name: str, value: object) -> None:
            seen.append(name)
            super().__setattr__(name, value)

    Person(name="Ada")

    assert "name" in seen


def test_a_property_in_the_way_of_a_column_is_set() -> None:
    class Person(BaseModel):
        name = StringField()

        @property
        def nick(self) -> str:
            return self.name

        @nick.setter
        def nick(self, nick: str) -> None:
            self.name = nick.title()

    assert Person(nick="ada").name == "Ada"


def test_a_record_in_a_session_already_is_marked_there() -> None:
    class Person(BaseModel):
        name = StringField()

        def __init__(self, session: Session, **values: Any) -> None:
            session.add(self)
            super().__init__(**values)

    with connect("sqlite://", worker=False) as db, db.session() as session:
        person = Person(session, name="Ada")
        session.commit()

        assert Person.get(person.id).name == "Ada"


def test_a_name_that_is_no_attribute_is_refused_with_those_there_are() -> None:
    class Person(BaseModel):
        name = StringField()

    with pytest.raises(UnknownField, match="nmae"):
        Person(nmae="Ada")


def test_who_listens_to_the_making_of_records_is_told() -> None:
    class Person(BaseModel):
        name = StringField()

    Person(name="Grace")
    heard: list[object] = []
    event.listen(Person, "init", lambda _target, _args, kwargs: kwargs.setdefault("name", "Ada"))
    event.listen(Person, "init_failure", lambda _target, _args, kwargs: heard.append(dict(kwargs)))

    assert "Ada" == Person().name
    with pytest.raises(UnknownField):
        Person(age=1)
    assert [{"age": 1, "name": "Ada"}] == heard


def test_a_record_that_could_not_be_made_is_told() -> None:
    class Person(BaseModel):
        name = StringField()

    heard: list[object] = []
    event.listen(Person, "init_failure", lambda _target, _args, kwargs: heard.append(dict(kwargs)))
    with pytest.raises(UnknownField):
        Person(age=1)

    assert [{"age": 1}] == heard


def test_a_constructor_of_ones_own_is_called_and_so_is_that_of_a_subclass() -> None:
    class Person(BaseModel):
        name = StringField()

        def __init__(self, name: str, **values: Any) -> None:
            super().__init__(name=name.title(), **values)

    class Animal(BaseModel):
        name = StringField()

    class Dog(Animal):
        barks = IntegerField(default=3)

        def __init__(self, **values: Any) -> None:
            super().__init__(**{"name": "Rex", **values})

    class Puppy(Dog): ...

    assert "Ada" == Person("ada").name
    assert ("Rex", 3, "dog") == ((dog := Dog()).name, dog.barks, inspect(dog).dict["kind"])
    assert ("Rex", "puppy") == ((puppy := Puppy()).name, inspect(puppy).dict["kind"])
    assert ("Tom", "animal") == ((cat := Animal(name="Tom")).name, inspect(cat).dict["kind"])


def test_a_constructor_says_of_itself_what_sqlalchemys_says() -> None:
    class Person(BaseModel):
        name = StringField()

    assert "(self, **values)" == str(signature(Person.__init__))
    with pytest.raises(TypeError, match="positional"):
        Person("ada")  # type: ignore[call-arg]  # it is refused
