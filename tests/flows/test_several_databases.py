"""Several databases: each with its own log; sessions that write to more than one, whoever chooses the bind."""

import pytest
from sqlalchemy import create_engine, event
from sqlalchemy.exc import UnboundExecutionError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, scoped_session, sessionmaker
from sqlalchemy.pool import NullPool, StaticPool

from earnorm import BaseModel, StringField, attach, connect, emit, event_handler, on_event, post_create
from earnorm.errors import BindNotConnected
from tests import postgresql as postgres
from tests.flows.stories import names


class Two:
    """Models for two databases, on one base."""

    def __init__(self):
        class Base(DeclarativeBase):
            pass

        class Order(Base):
            __tablename__ = "orders"
            id: Mapped[int] = mapped_column(primary_key=True)
            label: Mapped[str] = mapped_column(default="")

        class Metric(Base):
            __tablename__ = "metrics"
            __bind_key__ = "metrics"
            id: Mapped[int] = mapped_column(primary_key=True)
            label: Mapped[str] = mapped_column(default="")

        attach(Base, log="all")
        self.Base, self.Order, self.Metric = Base, Order, Metric


@pytest.fixture
def two(db, metrics):
    two = Two()
    two.Order.__table__.create(db.engine)
    two.Metric.__table__.create(metrics.engine)
    return two


@pytest.fixture
def metrics(second_url):
    with connect(second_url, name="metrics", worker=False) as metrics:
        yield metrics


def by_binds(db, metrics, two):
    return lambda: Session(binds={two.Order: db.engine, two.Metric: metrics.engine}, expire_on_commit=False)


def by_bind_key(db, metrics, two):
    """As Flask-SQLAlchemy does it."""
    engines = {None: db.engine, "metrics": metrics.engine}

    class BindSession(Session):
        def get_bind(self, mapper=None, **options):
            if mapper is not None:
                return engines[getattr(mapper.class_, "__bind_key__", None)]
            return super().get_bind(mapper, **options)

    return lambda: BindSession(db.engine, expire_on_commit=False)


def by_scoped_session(db, metrics, two):
    binds = {two.Order: db.engine, two.Metric: metrics.engine}
    return scoped_session(sessionmaker(binds=binds, expire_on_commit=False))


@pytest.mark.parametrize("way", [by_binds, by_bind_key, by_scoped_session])
def test_each_log_has_the_events_of_its_own_rows(db, metrics, two, way):
    seen = []
    event_handler("order.*", "metric.*", name="all")(
        lambda record, event: seen.append((event.name, event.database, record.label))
    )
    session = way(db, metrics, two)()
    order, metric = two.Order(label="o"), two.Metric(label="m")
    session.add_all([order, metric])
    session.commit()
    emit("metric.read", metric)
    session.commit()
    session.close()

    assert (["order.created"], ["metric.created", "metric.read"]) == (names(db), names(metrics))
    db.drain()
    metrics.drain()
    assert [
        ("metric.created", "metrics", "m"),
        ("metric.read", "metrics", "m"),
        ("order.created", "default", "o"),
    ] == sorted(seen)


def test_another_database_is_got_ready_inside_a_transaction_of_the_first(db, metrics):
    """Its first use was a transaction inside another database's, and found no tables there."""

    class Note(BaseModel):
        text = StringField()

    with db.transaction():
        Note(text="here").save()
        with metrics.transaction():
            Note(text="there").save()

    assert (["note.created"], ["note.created"]) == (names(db), names(metrics))


@pytest.mark.parametrize("transactional", [False, True])
@pytest.mark.parametrize("colour", ["plain", "async"])
def test_and_by_a_handler_of_the_first(db, metrics, colour, transactional):
    class Note(BaseModel):
        text = StringField()

    def write(event):
        with metrics.transaction():
            Note(text="there").save()

    async def awrite(event):
        async with metrics.transaction():
            await Note(text="there").asave()

    options = {"name": "write", "transactional": transactional}
    event_handler("shop.opened", **options)(awrite if colour == "async" else write)
    emit("shop.opened")

    assert 1 == db.drain()["done"]
    assert ["note.created"] == names(metrics)


def test_a_rollback_takes_the_events_of_both(db, metrics, two):
    with by_binds(db, metrics, two)() as session:
        session.add_all([two.Order(), two.Metric()])
        session.flush()
        session.rollback()

    assert ([], []) == (names(db), names(metrics))


async def test_an_async_session_over_two_databases(db, metrics, two):
    async with AsyncSession(binds={two.Order: db.async_engine, two.Metric: metrics.async_engine}) as session:
        session.add_all([two.Order(), two.Metric()])
        await session.commit()

    assert (["order.created"], ["metric.created"]) == (names(db), names(metrics))


def test_an_event_about_nothing_goes_where_the_event_went_whose_handler_emits_it(db, metrics):
    class Base(DeclarativeBase):
        pass

    class Metric(Base):
        __tablename__ = "metrics"
        id: Mapped[int] = mapped_column(primary_key=True)

        @post_create
        def tell(self):
            emit("metrics.grew")

    attach(Base, log="all")
    Base.metadata.create_all(metrics.engine)
    with Session(binds={Metric: metrics.engine}) as session:
        session.add(Metric())
        session.commit()

    assert ([], ["metric.created", "metrics.grew"]) == (names(db), names(metrics))


def test_a_handlers_own_saves_go_to_the_database_of_its_event(db, metrics):
    class Note(BaseModel):
        text = StringField()

        @on_event("created")
        def nothing(self): ...

    event_handler("note.created", name="copy")(
        lambda note: Note(text=f"{note.text} again").save() if "again" not in note.text else None
    )
    with metrics.transaction():
        Note(text="a").save()
    metrics.drain()
    db.drain()

    assert ([], ["note.created", "note.created"]) == (names(db), names(metrics))


def test_one_of_two_binds_that_is_not_connected_is_refused_before_anything_is_written(db, tmp_path):
    two = Two()
    elsewhere = create_engine(f"sqlite:///{tmp_path}/elsewhere.db")
    two.Order.__table__.create(db.engine)
    two.Metric.__table__.create(elsewhere)
    written = []
    for engine in (db.engine, elsewhere):
        event.listen(engine, "before_cursor_execute", lambda *a: written.append(a[2]))

    with Session(binds={two.Order: db.engine, two.Metric: elsewhere}) as session:
        session.add_all([two.Order(), two.Metric()])
        with pytest.raises(BindNotConnected, match=r"elsewhere\.db"):
            session.commit()
    elsewhere.dispose()

    assert [] == [statement for statement in written if statement.startswith("INSERT")]


@pytest.mark.parametrize("driver", ["psycopg", "asyncpg"])
def test_a_schema_of_its_own_is_a_database_of_its_own_by_any_driver(driver):
    """asyncpg is told of a search_path beside the URL: an engine without one was taken for the same database."""
    pytest.importorskip(driver)
    two = Two()
    with postgres.database() as place:
        engine = create_engine(place)
        two.Order.__table__.create(engine)
        schema = place.set(drivername=f"postgresql+{driver}", query={"options": "-csearch_path=tenant"})
        with engine.begin() as connection:
            connection.exec_driver_sql("CREATE SCHEMA tenant")
        with connect(schema, worker=False) as db, Session(engine) as session:
            two.Order.__table__.create(db.engine)
            session.add(two.Order())
            with pytest.raises(BindNotConnected):
                session.commit()
            with Session(create_engine(db.engine.url, poolclass=NullPool)) as other:
                other.add(two.Order())
                other.commit()
            assert ["order.created"] == names(db)
        engine.dispose()


def test_a_model_without_a_bind_is_sqlalchemys_own_error(db, two):
    with Session(binds={two.Order: db.engine}) as session:
        session.add(two.Metric())
        with pytest.raises(UnboundExecutionError):
            session.commit()


@pytest.mark.parametrize("written_with", ["the same options", "others", "none"])
def test_an_engine_with_options_is_the_database_of_the_engine_behind_it(two, memory_engine, written_with):
    same = memory_engine.execution_options(logging_token="same")
    engines = {"the same options": same, "others": memory_engine.execution_options(), "none": memory_engine}

    with connect(same, name="optional", worker=False) as optional:
        two.Order.__table__.create(memory_engine)
        with Session(engines[written_with]) as session:
            session.add(two.Order())
            session.commit()

        assert ["order.created"] == names(optional)


@pytest.fixture
def memory_engine():
    engine = create_engine("sqlite://", poolclass=StaticPool)
    yield engine
    engine.dispose()
