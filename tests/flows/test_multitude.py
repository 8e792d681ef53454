"""Records by the dozen that the log alone hears of: told as one value, and kept as if each had been told alone."""

import asyncio
from datetime import date, datetime
from decimal import Decimal
from uuid import UUID

import pytest
from sqlalchemy import JSON, LargeBinary, Numeric, Uuid, case, delete, insert, text, update
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

import earnorm
from earnorm import BaseModel, IntegerField, StringField, default_bus, event_handler, telemetry, tenant
from earnorm.backends.sqlalchemy.bulk import shape
from earnorm.backends.sqlalchemy.bulk.shape import Shape
from earnorm.backends.sqlalchemy.store import SQLAlchemyTransaction
from earnorm.codec import decode
from earnorm.event import caused_by
from earnorm.telemetry import Appended, RolledBack
from tests.flows.stories import execute, log, names, pairs, unbundle

DOZEN = [{"name": f"n{number}"} for number in range(12)]


@pytest.fixture
def User():
    class User(BaseModel):
        id = IntegerField(primary_key=True)
        name = StringField()
        visits = IntegerField(default=0)
        token = StringField(default="", sensitive=True)

    return User


@pytest.fixture
def together(monkeypatch):
    """How many entries each append of many alike was handed."""
    sizes = []
    real = SQLAlchemyTransaction.append_many_meeting

    def append_many_meeting(self, entries):
        sizes.append(len(entries))
        return real(self, entries)

    monkeypatch.setattr(SQLAlchemyTransaction, "append_many_meeting", append_many_meeting)
    return sizes


def entries(db):
    unbundle(db)
    with db.store.begin(readonly=True) as transaction:
        return transaction.read(0, transaction.horizon(), 100_000)


def insert_statement(db, model):
    execute(db, (insert(model), DOZEN))


def bulk_mappings(db, model):
    with db.session() as session:
        session.bulk_insert_mappings(model, DOZEN)
        session.commit()


def one_flush(db, model):
    with db.session() as session:
        session.add_all(model(**values) for values in DOZEN)
        session.commit()


def one_async_flush(db, model):
    async def save():
        async with db.asession() as session:
            session.add_all(model(**values) for values in DOZEN)
            await session.commit()

    db.ready()
    asyncio.run(save())


@pytest.mark.parametrize("create", [insert_statement, bulk_mappings, one_flush, one_async_flush])
def test_a_dozen_records_go_to_the_log_together_in_their_order(db, User, together, create):
    create(db, User)

    kept = entries(db)

    assert [12] == together
    assert [(f"user:{n + 1}", f"n{n}") for n in range(12)] == [(e.key, e.payload["name"]) for e in log(db)]
    assert {("user.created", "user", 0, None, None, 1)} == {
        (e.name, e.subject, e.depth, e.causation_id, e.tenant, e.version) for e in kept
    }
    assert [e.id for e in kept] == sorted({e.id for e in kept}) == [e.correlation_id for e in kept]
    assert {7} == {e.id.version for e in kept}


def test_a_few_are_told_one_by_one(db, User, together):
    execute(db, (insert(User), DOZEN[:7]))

    assert ([], 7) == (together, len(log(db)))


def test_a_handler_in_this_process_is_handed_each(db, User, together):
    seen = []
    event_handler("user.created", delivery="after_commit")(lambda event: seen.append(event.key))
    execute(db, (insert(User), DOZEN))

    assert ([], 12, 12) == (together, len(log(db)), len(seen))


def test_a_durable_handler_alone_is_the_log_s_to_serve(db, User, together):
    event_handler("user.created", name="greet")(lambda _event: None)
    execute(db, (insert(User), DOZEN))

    assert ([12], 12) == (together, len(log(db)))


def test_updates_and_deletions_carry_what_they_changed(db, User, together):
    execute(db, (insert(User), DOZEN))
    execute(db, (update(User).values(visits=User.id * 2),))
    with db.session() as session:
        for user in session.query(User).order_by(User.id):
            user.name = user.name.upper()
        session.commit()
    execute(db, (delete(User),))

    found = log(db)

    assert [12, 12, 12, 12] == together
    assert [{"visits": (0, 2 * n)} for n in range(1, 13)] == [pairs(event) for event in found[12:24]]
    assert sorted((f"n{n}", f"N{n}") for n in range(12)) == sorted(pairs(event)["name"] for event in found[24:36])
    assert {("user.deleted", 0)} == {(event.name, len(event.changes)) for event in found[36:]}
    assert {f"N{n}" for n in range(12)} == {event.payload["name"] for event in found[36:]}


# --- composition -----------------------------------------------------------------------------


def test_a_record_written_again_in_the_transaction_is_still_one_event(db, User, together):
    with db.session() as session:
        session.execute(insert(User), DOZEN)
        ada = session.get(User, 3)
        ada.name = "Ada"
        session.flush()
        session.delete(session.get(User, 5))
        session.commit()

    assert [] == together
    assert ["user.created"] * 11 == names(db)
    assert [1, 2, 3, 4, 6, 7, 8, 9, 10, 11, 12] == [event.payload["id"] for event in log(db)]
    assert "Ada" == log(db)[2].payload["name"]


def test_two_writes_of_the_same_rows_are_one_event_each(db, User, together):
    execute(db, (insert(User), DOZEN))
    execute(db, (update(User).values(visits=1),), (update(User).values(visits=2),))

    assert [12] == together
    assert [{"visits": (0, 2)}] * 12 == [pairs(event) for event in log(db)[12:]]


@pytest.mark.parametrize("count", [1, 12])
def test_a_handler_after_the_commit_gets_a_record_that_a_bulk_write_changed_unseen(db, User, count):
    seen = []
    event_handler("user.created", delivery="after_commit")(lambda user: seen.append((user.id, user.visits)))
    with db.session() as session:
        session.add_all(User(name="n") for _ in range(count))
        session.flush()
        session.execute(update(User).values(visits=7))
        session.commit()

    assert [(n, 7) for n in range(1, count + 1)] == seen


def test_what_came_back_to_where_it_began_is_nothing(db, User):
    execute(db, (insert(User), DOZEN))
    execute(db, (update(User).values(visits=1),), (update(User).values(visits=0),))

    assert 12 == len(log(db))


def test_other_records_of_the_transaction_leave_it_together(db, User, together):
    with db.session() as session:
        session.add(User(id=100, name="first"))
        session.flush()
        session.execute(insert(User), [{"id": n, "name": "n"} for n in range(1, 13)])
        session.add_all(User(id=n, name="n") for n in range(13, 25))
        session.commit()

    assert [12, 12] == together
    assert ["user:100", *(f"user:{n}" for n in range(1, 25))] == [event.key for event in log(db)]


def test_a_savepoint_rolled_back_takes_them_all(db, User, together):
    with db.session() as session:
        session.execute(insert(User), [{"id": 1, "name": "kept"}])
        savepoint = session.begin_nested()
        session.execute(insert(User), [{"id": n, "name": "lost"} for n in range(2, 14)])
        savepoint.rollback()
        with session.begin_nested():
            session.execute(insert(User), [{"id": n, "name": "kept"} for n in range(20, 32)])
        session.commit()

    assert [12] == together
    assert {"kept"} == {event.payload["name"] for event in log(db)}
    assert 13 == len(log(db))


def test_a_rollback_leaves_nothing(db, User, together):
    with db.session() as session:
        session.execute(insert(User), DOZEN)
        session.rollback()

    assert ([], []) == (together, log(db))


# --- what an event carries -------------------------------------------------------------------


def test_sensitive_values_stay_out(db, User, together):
    execute(db, (insert(User), [{"name": "n", "token": f"secret{n}"} for n in range(12)]))
    execute(db, (update(User).values(token="new secret"),))

    assert [12, 12] == together
    assert not any(b"secret" in entry.data for entry in entries(db))
    assert {("token",)} == {tuple(event.changes) for event in log(db)[12:]}


def test_each_is_of_the_tenant_and_the_cause_it_happened_under(db, User, together):
    cause = earnorm.Event("import.started")
    with tenant("acme"), caused_by(cause, "importer"):
        execute(db, (insert(User), DOZEN))

    assert [12] == together
    assert {("acme", cause.id, cause.id, 1)} == {
        (e.tenant, e.causation_id, e.correlation_id, e.depth) for e in entries(db)
    }


class Base(DeclarativeBase):
    pass


class Parcel(Base):
    __tablename__ = "parcels"
    code: Mapped[str] = mapped_column(primary_key=True)
    part: Mapped[int] = mapped_column(primary_key=True)
    uid: Mapped[UUID] = mapped_column(Uuid)
    sent: Mapped[datetime]
    day: Mapped[date]
    price: Mapped[Decimal] = mapped_column(Numeric(10, 2))
    weight: Mapped[float]
    seal: Mapped[bytes] = mapped_column(LargeBinary)
    tags: Mapped[list[str]] = mapped_column(JSON)
    note: Mapped[str | None]


def parcel(number, **values):
    return {
        "code": f"a/b {number} ü\n",
        "part": number,
        "uid": UUID(int=number),
        "sent": datetime(2026, 1, 1, number % 24),
        "day": date(2026, 1, 1 + number % 28),
        "price": Decimal(number) / 4,
        "weight": number / 8,
        "seal": bytes([number]),
        "tags": ["x" * number, str(number)],
        "note": None if number % 2 else "odd",
        **values,
    }


@pytest.fixture
def parcels(db):
    earnorm.attach(Parcel, log="all")
    Base.metadata.create_all(db.engine)
    return db


def test_values_of_every_type_come_back_as_they_were(parcels, together):
    sent = [parcel(number) for number in range(12)]
    execute(parcels, (insert(Parcel), sent))

    found = log(parcels)

    assert [12] == together
    assert [{**values, "sent": values["sent"].astimezone()} for values in sent] == [event.payload for event in found]
    assert "parcel:a%2Fb 3 ü\n/3" == found[3].key


@pytest.mark.parametrize(
    "value, kept", [("\\u0000 spelled out", "\\u0000 spelled out"), ("x" * 300_000, None)], ids=["escape", "huge"]
)
def test_one_that_is_strange_is_kept_as_it_would_be_alone(parcels, value, kept):
    sent = [parcel(number) for number in range(12)]
    execute(parcels, (insert(Parcel), [*sent, parcel(12, note=value)]))

    found = log(parcels)

    assert kept == found[-1].payload.get("note")
    assert [values["tags"] for values in sent] == [event.payload["tags"] for event in found[:-1]]


# --- who watches -----------------------------------------------------------------------------


def test_captured_and_muted_ones_are_looked_at_one_by_one(db, User, together):
    with default_bus.capture("user.*") as seen:
        execute(db, (insert(User), DOZEN))
    with default_bus.muted("user.*", reason="an import"):
        execute(db, (insert(User), DOZEN))

    assert ([], 12, 12) == (together, len(seen), len(log(db)))
    assert [event.id for event in log(db)] == [event.id for event in seen]


def test_what_triggers_saw_as_well_is_told_once(db, User, together):
    db.captures.install(User)
    with db.session() as session:
        session.execute(insert(User), DOZEN)
        session.execute(text("UPDATE users SET name = 'raw' WHERE id = 3"))
        session.commit()

    found = log(db)

    assert [12] == together
    assert [(f"user:{n}", "raw" if n == 3 else f"n{n - 1}") for n in range(1, 13)] == [
        (event.key, event.payload["name"]) for event in found
    ]
    assert 12 == len({event.id for event in found})

    # From now on the process knows that triggers see this table.
    execute(db, (update(User).values(visits=User.id),))

    assert [12] == together
    assert {f"user:{n}": {"visits": (0, n)} for n in range(1, 13)} == {e.key: pairs(e) for e in log(db)[12:]}
    assert 24 == len(log(db))


def test_telemetry_of_the_commit_tells_each_under_the_id_in_the_log(db, User, together):
    told = []
    undo = telemetry.listen(lambda record: told.append(record.event), Appended)
    try:
        execute(db, (insert(User), DOZEN))
    finally:
        undo()

    assert [12] == together
    assert [(e.id, e.key, e.name) for e in log(db)] == [(e.id, e.key, e.name) for e in told]


def test_telemetry_that_begins_meanwhile_tells_each_that_is_lost(db, User):
    told = []
    with db.session() as session:
        session.execute(insert(User), DOZEN)
        undo = telemetry.listen(lambda record: told.append(record.event.key), RolledBack)
        try:
            session.rollback()
        finally:
            undo()

    assert [f"user:{n}" for n in range(1, 13)] == told


def test_a_handler_that_comes_before_the_commit_is_handed_each(db, User):
    seen = []
    with db.session() as session:
        session.add_all(User(**values) for values in DOZEN)
        session.flush()
        event_handler("user.created", delivery="after_commit")(lambda user: seen.append(user.name))
        session.commit()

    assert [values["name"] for values in DOZEN] == seen


def test_of_what_is_subscribed_to_the_rows_that_somebody_hears_are_kept(url, together):
    with earnorm.connect(url, worker=False, log="subscribed") as db:

        class User(BaseModel):
            id = IntegerField(primary_key=True)
            name = StringField()
            visits = IntegerField(default=0)

        event_handler("user.visits.changed", name="count")(lambda _event: None)
        with db.session() as session:
            session.execute(insert(User), DOZEN)
            session.commit()
            for user in session.query(User).order_by(User.id):
                user.name = "renamed"
                if user.id % 2:
                    user.visits = 1
            session.commit()

        assert [6] == together
        assert {f"user:{n}" for n in range(1, 13, 2)} == {event.key for event in log(db)}
        assert 6 == len(log(db))


def test_twenty_five_thousand_rows(db, User, together):
    execute(db, (insert(User), [{"name": f"n{number}"} for number in range(25_000)]))

    kept = entries(db)

    # They were left in bundles.
    assert [] == together
    assert [f"user:{n}" for n in range(1, 25_001)] == [e.key for e in kept]
    assert 25_000 == len({e.id for e in kept})
    assert [e.id for e in kept] == sorted(e.id for e in kept)


def test_a_session_on_a_connection_that_others_commit(db, User, together):
    db.ready()
    with db.engine.begin() as connection:
        with Session(connection, join_transaction_mode="create_savepoint") as session:
            session.execute(insert(User), DOZEN)
            session.commit()
        assert [] == together

    assert ([12], 12) == (together, len(log(db)))


# --- rows that are written by one statement --------------------------------------------------


def test_an_update_tells_of_each_row_what_changed_in_it_alone(db, User, together):
    execute(db, (insert(User), DOZEN))
    odd = case((User.id % 2 == 1, User.visits + 1), else_=User.visits)
    third = case((User.id % 3 == 0, "third"), else_=User.name)
    execute(db, (update(User).values(visits=odd, name=third),))

    found = log(db)[12:]

    assert [12, 8] == together
    assert [1, 3, 5, 6, 7, 9, 11, 12] == [event.payload["id"] for event in found]
    assert [{"visits": (0, 1)}, {"visits": (0, 1), "name": ("n2", "third")}] == [pairs(event) for event in found[:2]]
    assert {"name": ("n5", "third")} == pairs(found[3])
    assert "third" == found[3].payload["name"]


def test_an_update_that_changes_nothing_tells_nothing(db, User, together):
    execute(db, (insert(User), DOZEN), (update(User).where(User.id > 99).values(visits=1),))
    execute(db, (update(User).values(visits=User.visits),))

    assert ([12], 12) == (together, len(log(db)))


def test_values_that_a_trigger_sets_are_told(db, User, together):
    execute(db, (insert(User), DOZEN))
    if db.engine.dialect.name == "sqlite":
        pytest.skip("a trigger of SQLite's sets no value of the row that is about to be written")
    with db.engine.begin() as connection:
        connection.exec_driver_sql(
            "CREATE FUNCTION louder() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN NEW.name = upper(NEW.name); RETURN NEW; END $$"
        )
        connection.exec_driver_sql(
            f"CREATE TRIGGER louder BEFORE UPDATE ON {User.__table__.name} FOR EACH ROW EXECUTE FUNCTION louder()"
        )
    execute(db, (update(User).values(visits=7),))

    assert {"visits": (0, 7), "name": ("n0", "N0")} == pairs(log(db)[12])


def test_new_rows_have_their_own_numbers_among_old_and_given_ones(db, User):
    execute(db, (insert(User), [{"id": 100, "name": "given"}, *({"id": n + 101, "name": "given"} for n in range(9))]))
    execute(db, (delete(User).where(User.id > 105),), (insert(User), [{"id": 7, "name": "below"}]))
    if db.engine.dialect.name != "sqlite":
        # PostgreSQL counts by itself, whatever was given.
        return
    execute(db, (insert(User), DOZEN))

    found = [(event.key, event.payload["name"]) for event in log(db) if event.name == "user.created"]

    assert [(f"user:{106 + n}", f"n{n}") for n in range(12)] == found[-12:]


@pytest.mark.parametrize("highest", [-50, 2**62, 2**63 - 1])
def test_where_sqlite_counts_in_no_order_each_row_is_told_all_the_same(db, User, highest):
    if db.engine.dialect.name != "sqlite":
        pytest.skip("SQLite's row ids")
    db.ready()
    with db.engine.begin() as connection:
        far = {"id": highest, "name": "far", "visits": 0, "token": ""}
        connection.execute(insert(User.__table__), far)
    execute(db, (insert(User), DOZEN))

    with db.session() as session:
        there = {f"user:{user.id}": user.name for user in session.query(User) if user.id != highest}
    assert there == {event.key: event.payload["name"] for event in log(db)}
    assert 12 == len(there)


def test_updates_by_key_are_told_in_columns_with_old_and_new_values(db, User, together, monkeypatch):
    insert_statement(db, User)
    monkeypatch.setattr(Shape, "rows", None)
    execute(db, (update(User), [{"id": number, "name": f"new {number}"} for number in range(1, 13)]))

    assert [12, 12] == together
    assert [f"new {number}" for number in range(1, 13)] == [
        decode(entry.data)["changes"]["name"][1] for entry in entries(db)[12:]
    ]


@pytest.mark.parametrize("key", [IntegerField, StringField])
def test_updates_by_key_find_their_rows_in_lots_of_any_size(db, together, monkeypatch, key):
    """Numbers are one value for the database, where it has such; of other keys each is a parameter."""
    monkeypatch.setattr(shape, "ROWS_A_STATEMENT", 4)
    monkeypatch.setattr(shape, "_KEYS_A_VALUE", 6)

    class Item(BaseModel):
        code = key(primary_key=True)
        size = IntegerField()

    codes = [number if key is IntegerField else f"code {number}" for number in range(20)]
    execute(db, (insert(Item), [{"code": code, "size": 1} for code in codes]))
    execute(db, (update(Item), [{"code": code, "size": 2} for code in reversed(codes)]))

    assert [20, 20] == together
    told = log(db)[20:]
    assert {f"item:{code}" for code in codes} == {event.key for event in told}
    assert {(1, 2)} == {tuple(event.changes["size"]) for event in told}
