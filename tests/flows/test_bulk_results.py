"""What a bulk statement gives its caller back is what it would be without us; what we could not tell of is refused."""

import pytest
from sqlalchemy import bindparam, delete, insert, update
from sqlalchemy.exc import ResourceClosedError
from sqlalchemy.orm import aliased, relationship, selectinload

from earnorm import BaseModel, ForeignKeyField, IntegerField, StringField, post_delete
from earnorm.errors import BulkRefused
from tests.flows.stories import names


def make_user(**body):
    fields = {"name": StringField(max_length=20), "visits": IntegerField(default=0)}
    return type("User", (BaseModel,), {"__module__": __name__, "__qualname__": "User", **fields, **body})


@pytest.fixture(params=["nobody", "a hook"])
def users(request, db):
    body = {} if request.param == "nobody" else {"gone": post_delete(lambda self: None)}
    User = make_user(**body)
    with db.session() as session:
        session.execute(insert(User), [{"name": "Ada"}, {"name": "Bob"}, {"name": "Cy"}])
        session.commit()
    return User


@pytest.mark.parametrize("synchronize", ["fetch", "evaluate", "auto", False])
def test_update_and_delete_say_how_many_rows_they_wrote_however_the_session_is_synchronized(db, users, synchronize):
    options = {"synchronize_session": synchronize}
    with db.session() as session:
        few = session.query(users).filter(users.name != "Ada")

        assert 2 == few.update({"visits": 1}, **options)
        assert 2 == few.delete(**options)
        assert 1 == session.execute(delete(users), execution_options=options).rowcount


def test_an_insert_that_nobody_asked_rows_of_has_a_closed_result(db, users):
    with db.session() as session:
        result = session.execute(insert(users), [{"name": "Di"}, {"name": "Eve"}])

        assert 2 == result.rowcount
        with pytest.raises(ResourceClosedError):
            result.all()


def test_records_that_a_statement_returns_are_loaded_as_its_options_say(db):
    class Order(BaseModel):
        number = IntegerField()

    class Line(BaseModel):
        label = StringField(max_length=20)
        order_id = ForeignKeyField(Order)
        order = relationship(Order)

    with db.session() as session:
        session.add(Line(label="tea", order=Order(number=1)))
        session.commit()
        session.expunge_all()
        statement = update(Line).values(label="coffee").returning(Line).options(selectinload(Line.order))

        assert "order" in vars(session.scalars(statement).one())


@pytest.mark.parametrize("write", [lambda model: update(model).values(visits=9), delete])
def test_a_statement_on_an_alias_is_refused_since_its_rows_are_not_found_by_its_criteria(db, users, write):
    other = aliased(users)
    before = names(db)

    with pytest.raises(BulkRefused, match=r"of User is refused.*alias of its table; name the model"), db.session() as s:
        s.execute(write(other).where(other.name == "Ada"), execution_options={"synchronize_session": False})

    assert before == names(db)


def test_criteria_for_each_set_of_parameters_are_refused(db, users):
    statement = update(users).where(users.name == bindparam("who")).values(visits=bindparam("times"))

    with pytest.raises(BulkRefused, match="for each set of parameters; execute it once for each"), db.session() as s:
        s.execute(
            statement,
            [{"who": "Ada", "times": 1}, {"who": "Bob", "times": 2}],
            execution_options={"dml_strategy": "orm", "synchronize_session": None},
        )


@pytest.mark.parametrize("write", [insert, delete])
def test_a_schema_that_the_statement_alone_names_is_refused_since_its_rows_are_read_from_another(db, users, write):
    options = {"schema_translate_map": {None: "elsewhere"}}

    with (
        pytest.raises(BulkRefused, match="schema_translate_map is not that of its connection"),
        db.session() as session,
    ):
        session.execute(write(users), {"name": "Di"} if write is insert else None, execution_options=options)
