"""Primary keys of types that no log knows, value objects, addresses, ranges: it has them as their columns do."""

from dataclasses import dataclass
from enum import Enum
from ipaddress import ip_address, ip_network
from uuid import UUID

import pytest
from sqlalchemy import ForeignKey, Integer, String, TypeDecorator, Uuid, delete, insert, text, update
from sqlalchemy.dialects.postgresql import ARRAY, CIDR, INET, INT4RANGE, Range
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from sqlalchemy.types import UserDefinedType

from earnorm import (
    BaseModel,
    BytesField,
    DateField,
    DateTimeField,
    DecimalField,
    EnumField,
    FloatField,
    IntegerField,
    JSONField,
    StringField,
    UUIDField,
    attach,
    emit,
    event_handler,
)
from earnorm.backends.sqlalchemy.mapping import mapping_of
from earnorm.envelope import identity_of
from earnorm.errors import PayloadError
from tests.flows.stories import log, names, unbundle


@dataclass(frozen=True)
class Number:
    """A value object: no plain data, and with a text of its own."""

    value: UUID

    def __str__(self):
        return f"No. {self.value}"


class NumberType(TypeDecorator):
    impl = Uuid
    cache_ok = True

    def process_bind_param(self, value, dialect):
        return None if value is None else value.value

    def process_result_value(self, value, dialect):
        return None if value is None else Number(value)


class Coin:
    def __init__(self, cents):
        self.cents = cents

    def __eq__(self, other):
        return isinstance(other, Coin) and self.cents == other.cents

    def __hash__(self):
        return hash(self.cents)

    def __lt__(self, other):
        return self.cents < other.cents


class CoinType(TypeDecorator):
    impl = Integer
    cache_ok = True

    def process_bind_param(self, value, dialect):
        return None if value is None else value.cents

    def process_result_value(self, value, dialect):
        return None if value is None else Coin(value)


class Kind(Enum):
    SMALL = 1


NUMBER = UUID(int=7)
CASES = {
    "value object": (NumberType(), Number(NUMBER), Number(UUID(int=8)), f"thing:{NUMBER}"),
    "no text of its own": (CoinType(), Coin(5), Coin(6), "thing:5"),
    "address": (INET(), ip_address("10.0.0.1"), ip_address("10.0.0.2"), "thing:10.0.0.1"),
    "network": (CIDR(), ip_network("10.0.0.0/8"), ip_network("11.0.0.0/8"), "thing:10.0.0.0%2F8"),
    "range": (INT4RANGE(), Range(1, 5), Range(5, 9), "thing:[1,5)"),
}
ONLY_POSTGRESQL = {"address", "network", "range"}


@pytest.fixture(params=CASES)
def case(request, kind):
    if kind == "sqlite" and request.param in ONLY_POSTGRESQL:
        pytest.skip("a type of PostgreSQL's")
    return CASES[request.param]


@pytest.fixture
def Thing(case, db):
    class Base(DeclarativeBase):
        pass

    class Thing(Base):
        __tablename__ = "things"
        id: Mapped[object] = mapped_column(case[0], primary_key=True)
        name: Mapped[str] = mapped_column(String(20))

    attach(Base, log="all")
    Base.metadata.create_all(db.engine)
    return Thing


@pytest.fixture
def heard():
    heard = []

    @event_handler("thing.*", name="hear")
    def hear(thing, event):
        heard.append((event.name, event.key, thing.id, thing.name))

    return heard


def write(db, *statements):
    with db.session() as session:
        for statement, *parameters in statements:
            session.execute(statement, *parameters)
        session.commit()


def test_every_way_to_write_tells_one_key_and_handlers_get_the_record(Thing, case, db, heard):
    """A bulk UPDATE, and a plain save as well, failed with PayloadError in the middle of the write."""
    _, key, other, name = case

    with db.session() as session:
        session.add(Thing(id=key, name="saved"))
        session.commit()
        session.get(Thing, (key,)).name = "changed"
        session.commit()
    db.drain()
    write(db, (update(Thing).values(name=Thing.name + "!"),))
    db.drain()
    write(db, (update(Thing), [{"id": key, "name": "by key"}]))
    db.drain()
    write(db, (delete(Thing),), (insert(Thing), [{"id": other, "name": "other"}]))
    write(db, (delete(Thing).where(Thing.id == other),), (insert(Thing).values(id=key, name="back"),))
    db.drain()

    mine = [(name_, thing_id, thing_name) for name_, event_key, thing_id, thing_name in heard if event_key == name]
    assert [
        ("thing.created", key, "changed"),
        ("thing.updated", key, "changed"),
        ("thing.updated", key, "changed!"),
        ("thing.updated", key, "by key"),
        ("thing.deleted", key, "by key"),
        ("thing.created", key, "back"),
    ] == mine


def test_many_written_together_are_kept_under_their_keys(Thing, case, db):
    kind, key, other, _ = case
    write(db, (insert(Thing), [{"id": key, "name": "one"}, {"id": other, "name": "two"}]))
    rows = [{"id": one, "name": "many"} for one in MANY(kind)]
    write(db, (insert(Thing), rows))
    write(db, (update(Thing).values(name="more"),))

    assert 2 * (2 + len(rows)) == len(names(db))
    assert [] == list(db.audit(Thing))


def MANY(kind):
    match kind:
        case NumberType():
            return [Number(UUID(int=number)) for number in range(100, 1200)]
        case CoinType():
            return [Coin(number) for number in range(100, 1200)]
        case INET():
            return [ip_address(number) for number in range(100, 1200)]
        case CIDR():
            return [ip_network(number) for number in range(100, 1200)]
        case _:
            return [Range(number, number + 1) for number in range(100, 1200)]


def test_an_audit_finds_what_changed_unseen(Thing, case, db):
    _, key, other, name = case
    write(db, (insert(Thing), [{"id": key, "name": "one"}, {"id": other, "name": "two"}]))
    assert [] == list(db.audit(Thing))

    with db.engine.begin() as connection:
        connection.execute(update(Thing.__table__).where(Thing.__table__.c.id == key).values(name="unseen"))
        connection.execute(delete(Thing.__table__).where(Thing.__table__.c.id == other))

    differs, missing = db.audit(Thing)
    assert (name, "differs", {"name": ("one", "unseen")}) == (differs.key, differs.kind, differs.fields)
    assert "missing" == missing.kind


def test_a_captured_table_tells_the_same_key(Thing, case, db, heard):
    _, key, _, name = case
    db.captures.install(Thing)
    with db.session() as session:
        session.add(Thing(id=key, name="saved"))
        session.commit()
    db.drain()
    with db.engine.begin() as connection:
        connection.execute(text("UPDATE things SET name = 'raw'"))
    assert [] == list(db.audit(Thing))
    db.drain()

    assert [("thing.created", name, key, "saved"), ("thing.updated", name, key, "raw")] == heard
    assert [] == list(db.audit(Thing))


def test_events_of_one_transaction_are_one_whoever_tells_them(Thing, case, db):
    _, key, _, name = case
    with db.session() as session:
        session.add(Thing(id=key, name="saved"))
        session.flush()
        session.execute(update(Thing).values(name="changed"))
        session.commit()

    assert [("thing.created", name, "changed")] == [(e.name, e.key, e.payload["name"]) for e in log(db)]


def test_a_record_may_be_emitted_about_and_be_part_of_a_payload(Thing, case, db, heard):
    _, key, _, name = case
    got = []

    @event_handler("shelf.filled", name="filled")
    def filled(_subject, thing):
        got.append((thing.id, thing.name))

    with db.session() as session:
        thing = Thing(id=key, name="saved")
        session.add(thing)
        session.commit()
        emit("thing.used", thing)
        emit("shelf.filled", thing=thing)
        session.commit()
    db.drain()

    assert ("thing.used", name, key, "saved") == heard[-1]
    assert [(key, "saved")] == got


def test_the_log_has_the_key_as_its_column_stores_it(Thing, case, db):
    _, key, _, name = case
    with db.session() as session:
        session.add(Thing(id=key, name="saved"))
        session.commit()
    unbundle(db)

    with db.store.begin(readonly=True) as transaction:
        (entry,) = transaction.read(0, transaction.horizon(), 10)
    (part,) = identity_of(entry)
    assert name == f"thing:{str(part).replace('/', '%2F')}"


def test_a_handler_after_the_commit_in_this_process_gets_the_record_of_a_bulk_write(Thing, case, db):
    _, key, _, name = case
    heard = []

    @event_handler("thing.created", name="soon", delivery="after_commit")
    def soon(thing, event):
        heard.append((event.key, thing.id))

    write(db, (insert(Thing).values(id=key, name="one"),))

    assert [(name, key)] == heard


def test_values_of_arrays_come_as_their_types_have_them(db, kind):
    if kind == "sqlite":
        pytest.skip("a type of PostgreSQL's")

    class Base(DeclarativeBase):
        pass

    class Net(Base):
        __tablename__ = "nets"
        id: Mapped[int] = mapped_column(primary_key=True)
        hosts: Mapped[list[object]] = mapped_column(ARRAY(INET))
        coins: Mapped[list[object]] = mapped_column(ARRAY(CoinType, dimensions=2))

    attach(Base, log="all")
    Base.metadata.create_all(db.engine)
    heard = []

    @event_handler("net.updated", name="hear")
    def hear(net, old_hosts, new_hosts, old_coins):
        heard.append((old_hosts, new_hosts, old_coins))

    first, second = ip_address("10.0.0.1"), ip_address("10.0.0.2")
    with db.session() as session:
        session.add(net := Net(id=1, hosts=[first, None], coins=[[Coin(1)], [Coin(2)]]))
        session.commit()
        net.hosts, net.coins = [second], [[Coin(3)]]
        session.commit()
    db.drain()

    assert [([first, None], [second], [[Coin(1)], [Coin(2)]])] == heard
    assert [] == list(db.audit(Net))


def test_a_foreign_key_has_its_type_though_it_was_mapped_before_what_it_refers_to(db):
    class Base(DeclarativeBase):
        pass

    attach(Base, log="all")

    class Bill(Base):
        __tablename__ = "bills"
        id: Mapped[int] = mapped_column(primary_key=True)
        number: Mapped[object] = mapped_column(ForeignKey("orders.number"))

    class Order(Base):
        __tablename__ = "orders"
        number: Mapped[object] = mapped_column(NumberType, primary_key=True)

    Base.metadata.create_all(db.engine)
    heard = []

    @event_handler("bill.updated", name="hear")
    def hear(bill, old_number, new_number):
        heard.append((old_number, new_number))

    first, second = Number(UUID(int=1)), Number(UUID(int=2))
    with db.session() as session:
        session.add_all([Order(number=first), Order(number=second)])
        session.flush()
        session.add(bill := Bill(id=1, number=first))
        session.commit()
        bill.number = second
        session.commit()
    db.drain()

    assert [(first, second)] == heard


def test_no_field_of_ours_is_looked_at():
    """It would be asked of each value in each commit."""

    class Whole(BaseModel):
        text = StringField()
        number = IntegerField()
        moment = DateTimeField()
        total = DecimalField(precision=5, scale=2)
        kind = EnumField(Kind)
        document = JSONField()
        share = FloatField()
        day = DateField()
        code = UUIDField()
        data = BytesField()

    assert mapping_of(Whole).info.strange is None


def test_a_key_without_any_text_is_refused_where_it_is_met(db, kind):
    """Its text would be another in every process: `<Blob object at 0x7f...>`."""
    if kind != "sqlite":
        pytest.skip("by an adapter of sqlite3's")

    class Blob:
        def __conform__(self, protocol):
            return "blob"

    class BlobType(UserDefinedType):
        cache_ok = True

        def get_col_spec(self, **_):
            return "TEXT"

    class Base(DeclarativeBase):
        pass

    class Lump(Base):
        __tablename__ = "lumps"
        id: Mapped[object] = mapped_column(BlobType(), primary_key=True)

    attach(Base, log="all")
    Base.metadata.create_all(db.engine)

    with Session(db.engine) as session:
        session.add(Lump(id=Blob()))
        with pytest.raises(PayloadError, match=r"lump\.id.*Blob has no text.*process_bind_param"):
            session.commit()
        session.rollback()
        assert [] == session.execute(text("SELECT id FROM lumps")).all()
