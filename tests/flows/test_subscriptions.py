"""Subscriptions from the outside: several workers, groups, late starts, renames, pauses, and what nobody knows."""

import threading
from collections import Counter
from datetime import UTC, datetime

import pytest

from earnorm import connect, emit, event_handler
from earnorm.bus import EventBus
from earnorm.errors import ConfigurationError, InvalidOption, NameTakenTwice, OptionWithoutMeaning
from earnorm.orm.database import Database
from earnorm.testing._store_verbs import entry

NONE = {"done": 0, "retry": 0, "dead": 0, "skipped": 0}


class Program:
    """One process's handlers on the database, with a bus and a worker of its own."""

    def __init__(self, url, **options):
        self.bus = EventBus()
        self.heard = []
        self.database = Database(url, worker=False, bus=self.bus, **options)

    def on(self, name, events="**", **options):
        def handler(event):
            self.heard.append((name, event.payload.get("number")))

        self.bus.on(events, name=name, **options)(handler)
        return self

    def numbers(self, name):
        return sorted(number for heard, number in self.heard if heard == name)

    def drain(self):
        return self.database.drain()

    def close(self):
        self.database.close()


@pytest.fixture
def programs(url):
    made = []

    def start(**options):
        made.append(Program(url, **options))
        return made[-1]

    yield start
    for program in made:
        program.close()


@pytest.fixture
def writer(url):
    """Writes events, and knows no handler."""
    with connect(url, worker=False, name="writer") as db:
        yield db


def write(db, *numbers):
    with db.transaction():
        for number in numbers:
            emit("order.placed", number=number)


def followers(db):
    with db.store.begin(readonly=True) as transaction:
        return {f.name: f for f in transaction.followers()}


# --- late starts ---


def test_a_new_handler_hears_what_comes_and_one_that_says_since_hears_what_was(programs, writer):
    first = programs().on("mail")
    first.drain()
    write(writer, 1, 2, 3)
    first.drain()
    late = programs().on("mail").on("now").on("all", since="beginning").on("part", since=2)
    late.drain()
    write(writer, 4)
    late.drain()

    assert ([1, 2, 3], [4]) == (first.numbers("mail"), late.numbers("mail"))
    assert ([4], [1, 2, 3, 4], [2, 3, 4]) == tuple(late.numbers(name) for name in ("now", "all", "part"))


def test_it_catches_up_and_then_goes_on_with_the_others(programs, writer):
    first = programs().on("mail")
    first.drain()
    write(writer, *range(500))
    first.drain()
    late = programs().on("mail").on("all", since="beginning")
    assert {**NONE, "done": 500} == late.drain()
    assert {"mail": False, "all": True} == {name: f.apart for name, f in followers(writer).items()}
    write(writer, 500)
    assert {**NONE, "done": 2} == late.drain()

    assert list(range(501)) == late.numbers("all")
    assert {"mail": False, "all": False} == {name: f.apart for name, f in followers(writer).items()}


def test_it_may_start_at_a_time(programs, writer):
    write(writer, 1)
    noon = datetime.now(UTC)
    write(writer, 2)
    late = programs().on("part", since=noon)
    late.drain()

    assert [2] == late.numbers("part")


# --- renames and deploys ---


def test_a_renamed_handler_goes_on_where_it_was_beside_the_old_version_and_after_a_rollback(programs, writer):
    old = programs().on("old")
    old.drain()
    write(writer, 1)
    old.drain()
    new = programs().on("new", formerly="old")
    write(writer, 2)
    new.drain()
    write(writer, 3)
    old.drain()
    write(writer, 4)
    new.drain()

    assert ([1, 3], [2, 4]) == (old.numbers("old"), new.numbers("new"))
    assert ["old"] == list(followers(writer))


def test_two_that_were_recorded_are_not_made_one(programs):
    programs().on("old").on("new").drain()
    merged = programs().on("new", formerly=["old"])

    with pytest.raises(NameTakenTwice, match="retire 'old'"):
        merged.drain()


def test_a_handler_that_the_worker_does_not_know_yet_loses_nothing(programs, writer):
    """A web process is deployed before the worker."""
    worker = programs().on("mail")
    worker.drain()
    web = programs().on("mail").on("audit")
    web.database.ready()
    write(writer, 1, 2)
    worker.drain()
    write(writer, 3)
    worker.drain()
    deployed = programs().on("mail").on("audit")
    deployed.drain()

    assert ([1, 2, 3], [1, 2, 3]) == (worker.numbers("mail"), deployed.numbers("audit"))


def test_a_handler_that_nobody_has_any_more_holds_nobody_up_and_can_be_retired(programs, writer):
    before = programs().on("mail").on("gone")
    before.drain()
    before.close()
    after = programs().on("mail")
    write(writer, 1, 2)
    assert {**NONE, "done": 2} == after.drain()
    assert {"gone", "mail"} == set(followers(writer))
    with writer.store.begin() as transaction:
        assert 0 == transaction.retire("gone")

    assert {"mail"} == set(followers(writer))


# --- groups ---


def test_a_worker_may_keep_to_some_groups(programs, writer):
    def on(program):
        return program.on("mail").on("resize", group="slow")

    quick, slow = on(programs(groups=["default"])), on(programs(groups=["slow"]))
    quick.drain()
    slow.drain()
    write(writer, 1, 2)
    quick.drain()
    assert ([1, 2], []) == (quick.numbers("mail"), quick.numbers("resize"))
    slow.drain()

    assert ([], [1, 2]) == (slow.numbers("mail"), slow.numbers("resize"))


def test_a_handler_moves_to_another_group_where_it_stands(programs, writer):
    before = programs().on("mail").on("resize")
    before.drain()
    write(writer, 1)
    before.drain()
    write(writer, 2)
    after = programs().on("mail").on("resize", group="slow")
    after.drain()

    assert [2] == after.numbers("resize")
    assert "slow" == followers(writer)["resize"].group


def test_groups_are_a_list(programs):
    with pytest.raises(ConfigurationError, match=r"write groups=\['slow'\]"):
        programs(groups="slow")


# --- pauses ---


def test_a_paused_handler_hears_later_what_it_missed(programs, writer):
    program = programs().on("mail").on("audit")
    program.drain()
    with writer.store.begin() as transaction:
        assert transaction.pause("mail", paused=True)
    write(writer, 1, 2)
    assert {**NONE, "done": 2} == program.drain()
    assert ([], [1, 2]) == (program.numbers("mail"), program.numbers("audit"))
    with writer.store.begin() as transaction:
        assert transaction.pause("mail", paused=False)
    program.drain()
    write(writer, 3)
    program.drain()

    assert ([1, 2, 3], [1, 2, 3]) == (program.numbers("mail"), program.numbers("audit"))


def test_a_paused_group_stands_still_over_restarts(programs, writer):
    programs().on("mail").drain()
    with writer.store.begin() as transaction:
        assert transaction.pause_group("default", paused=True)
    write(writer, 1)
    assert NONE == programs().on("mail").drain()
    with writer.store.begin() as transaction:
        assert transaction.pause_group("default", paused=False)

    assert {**NONE, "done": 1} == programs().on("mail").drain()


# --- several at once ---


def test_several_workers_handle_each_event_once_and_each_record_in_order(programs, writer):
    crew = [programs() for _ in range(3)]
    heard, lock = [], threading.Lock()

    def note(event):
        with lock:
            heard.append((event.key, event.position))

    for program in crew:
        program.bus.on("order.*", name="mail")(note)
        program.database.ready()
        program.database.worker.start()
    with writer.store.begin() as transaction:
        transaction.append([entry("order.placed", f"order:{number % 50}") for number in range(1_000)])
    for program in crew:
        program.database.worker.wake()
    for program in crew:
        program.database.worker.drain()

    assert {1} == set(Counter(heard).values())
    assert 1_000 == len(heard)
    for key in {key for key, _ in heard}:
        positions = [position for its, position in heard if its == key]
        assert sorted(positions) == positions


# --- wrong use ---


@pytest.mark.parametrize(
    "options, expected",
    [
        ({"since": datetime(2026, 1, 1)}, "with a time zone"),
        ({"since": -1}, "a position"),
        ({"since": "yesterday"}, "'beginning'"),
        ({"group": ""}, "printable name"),
        ({"formerly": [3]}, "a name, or a list of names"),
    ],
)
def test_an_option_that_means_nothing_is_refused(options, expected):
    with pytest.raises(InvalidOption, match=expected):
        event_handler("order.placed", name="mail", **options)(lambda: None)


@pytest.mark.parametrize("options", [{"since": "beginning"}, {"group": "slow"}, {"formerly": "old"}])
def test_an_option_of_the_log_has_no_meaning_in_a_transaction(options):
    with pytest.raises(OptionWithoutMeaning, match="only durable handlers"):
        event_handler("order.placed", name="mail", delivery="transaction", **options)(lambda: None)
