"""`earnorm status`, `pause`, `resume` and `handlers`, as a shell runs them, beside workers at work."""

import json
import os
import re
import sys
import textwrap
import threading
from datetime import timedelta
from types import SimpleNamespace

import pytest
from click.testing import CliRunner
from sqlalchemy import create_engine, text

from earnorm import connect, emit, event_handler
from earnorm.cli import main
from earnorm.errors import PayloadError
from earnorm.store import Presence, Registration
from earnorm.testing._store_verbs import entry

DAY = 86_400_000_000


@pytest.fixture
def handled():
    """Two handlers in two groups; each says what it has handled."""
    done = {"mail": [], "bill": []}
    more = threading.Semaphore(0)

    @event_handler("order.placed", name="mail")
    def mail(event, *, number):
        done["mail"].append(number)
        more.release()

    @event_handler("order.placed", name="bill", group="money")
    def bill(event, *, number):
        done["bill"].append(number)
        more.release()

    done["more"] = more
    return done


def place(db, *numbers):
    for number in numbers:
        with db.transaction():
            emit("order.placed", number=number)


def run(url, *words):
    return CliRunner().invoke(main, list(map(str, words)), env={"EARNORM_DATABASE_URL": url})


def looked(url, *words):
    told = run(url, "status", "--json", *words)
    return told.exit_code, json.loads(told.stdout)


def by_name(found):
    return {one["name"]: one for one in found["subscriptions"]}


def make_old(url, table, column, days):
    engine = create_engine(url)
    with engine.begin() as connection:
        connection.execute(text(f"UPDATE {table} SET {column} = {column} - {int(days * DAY)}"))
    engine.dispose()


# --- status ---


def test_status_tells_of_groups_handlers_leases_and_workers(url, handled):
    with connect(url, worker=True) as db:
        place(db, 1)
        db.drain()
        code, found = looked(url)

    assert (0, []) == (code, found["problems"])
    assert {"default", "money"} == {group["name"] for group in found["groups"]}
    mail = by_name(found)["mail"]
    assert ("default", 0, 0.0, 0, 0) == tuple(mail[k] for k in ("group", "waiting", "seconds", "set_aside", "dead"))
    assert (True, False, 0) == tuple(mail[k] for k in ("known", "paused", "missed"))
    (worker,) = found["workers"]
    assert (True, False, 2) == (worker["alive"], worker["dedicated"], worker["knows"])
    assert worker["pid"] == os.getpid()
    assert {(0, 63)} == {(lease["first"], lease["last"]) for lease in found["leases"]}
    assert found["horizon"] == found["leases"][0]["position"]


def test_what_waits_is_counted_and_dated(url, handled):
    with connect(url, worker=False) as db:
        place(db, 1, 2, 3)
        make_old(url, "earnorm_log", "at", 1)
        code, found = looked(url)

    mail = by_name(found)["mail"]
    assert (3, False) == (mail["waiting"], mail["known"])
    assert 86_400 <= mail["seconds"] < 86_500
    assert 1 == code
    assert "mail has had events waiting for" in found["problems"][1]
    assert found["problems"][1].endswith("or: earnorm handlers retire mail")


def test_events_that_have_just_come_are_no_problem(url, handled):
    with connect(url, worker=False) as db:
        place(db, 1)

        assert (0, []) == (looked(url)[0], looked(url)[1]["problems"])


def test_a_lag_may_be_too_long(url, handled):
    with connect(url, worker=False) as db:
        place(db, 1)
        make_old(url, "earnorm_log", "at", 10 / 86_400)

        assert 0 == looked(url, "--max-lag", "1h")[0]
        code, found = looked(url, "--max-lag", "5s")

    assert 1 == code
    (problem, _) = found["problems"]
    assert re.fullmatch(r"events of group default have waited for \d\d s, more than 5 s", problem)


@pytest.mark.expect_failures
def test_dead_and_set_aside_are_counted(url):
    @event_handler("order.placed", name="fails")
    def fails(event, *, number):
        if number:
            raise PayloadError("number", number, "for good")
        raise ValueError("for now")

    with connect(url, worker=False) as db:
        place(db, 0, 1, 2)
        db.drain()
        found = looked(url)[1]

    assert (1, 2, 2) == (by_name(found)["fails"]["set_aside"], by_name(found)["fails"]["dead"], found["dead"])


@pytest.mark.expect_failures
def test_dead_letters_are_wrong_also_those_of_a_handler_that_is_retired(url):
    @event_handler("order.placed", name="fails")
    def fails(event, *, number):
        raise PayloadError("number", number, "for good")

    with connect(url, worker=False) as db:
        place(db, 1, 2)
        db.drain()
        told = run(url, "status")
        assert 0 == run(url, "handlers", "retire", "fails").exit_code
        code, found = looked(url)

    said = "2 dead letters, of fails (2); see: earnorm dead list, then earnorm dead retry or discard"
    assert (1, said) == (told.exit_code, told.stdout.splitlines()[-1])
    assert (1, [said], 2, []) == (code, found["problems"], found["dead"], found["subscriptions"])


@pytest.mark.expect_failures
def test_what_is_meant_so_is_told_though_nothing_is_wrong(url):
    @event_handler("order.placed", name="fails")
    def fails(event, *, number):
        raise ValueError("for now")

    with connect(url, worker=False) as db:
        place(db, 1)
        db.drain()
        run(url, "pause", "fails")
        told = run(url, "status")

    said = "nothing is wrong at position 1, but no worker is alive; paused: fails; 1 set aside until their next attempt"
    assert (0, said) == (told.exit_code, told.stdout.splitlines()[-1])


def test_a_handler_that_the_workers_do_not_know_is_named_before_anything_waits_for_it(url, handled):
    with connect(url, worker=False) as db:
        place(db, 1)
        db.drain()
        with db.store.begin() as t:
            lives = t.now() + timedelta(seconds=600)
            t.enter(Presence(worker="box:17/4711/ab12", expires=lives, knows=frozenset({"mail"}), dedicated=True))
        told = run(url, "status")

    said = "nothing is wrong at position 1, but no worker knows bill"
    assert (0, said) == (told.exit_code, told.stdout.splitlines()[-1])


def test_status_for_the_eye(url, handled):
    with connect(url, worker=True) as db:
        place(db, 1)
        db.drain()
        told = run(url, "status")

    assert 0 == told.exit_code
    lines = [line.split() for line in told.stdout.splitlines()]
    assert ["GROUP", "WAITING", "SINCE"] in lines
    assert ["mail", "default", "0", "0", "0"] in lines
    assert any(line[:3] == ["group", "default", "0"] for line in lines)
    assert "all is well at position 1" == told.stdout.splitlines()[-1]


def test_a_worker_that_died_is_shown_as_not_heard_of(url, handled):
    with connect(url, worker=False) as db:
        with db.store.begin() as t:
            died = t.now() - timedelta(seconds=600)
            t.enter(Presence(worker="box:17/4711/ab12", expires=died, knows=frozenset({"mail"}), dedicated=True))
        told = run(url, "status")
        (worker,) = looked(url)[1]["workers"]

    assert ["ab12", "box", "4711", "0", "1"] == told.stdout.splitlines()[-3].split()[:5]
    assert "not heard of for 10 m, dedicated" in told.stdout
    assert (False, "box", 4711) == (worker["alive"], worker["host"], worker["pid"])


def test_the_holder_of_a_stalled_horizon_is_named(postgresql, handled):
    with connect(postgresql, worker=False) as db, db.store.begin() as writer:
        writer.append([entry()])
        found = looked(postgresql)[1]

    assert found["stall"]["holder"].startswith("process ")
    assert "pg_terminate_backend" in found["stall"]["remedy"]


def test_watching_ends_with_ctrl_c(url, handled, monkeypatch):
    looks = []

    def sleep(seconds):
        looks.append(seconds)
        if len(looks) == 2:
            raise KeyboardInterrupt

    # By its name alone the module is hidden behind its command.
    monkeypatch.setattr(sys.modules["earnorm.cli.status"], "time", SimpleNamespace(sleep=sleep))
    with connect(url, worker=False):
        told = run(url, "status", "--watch", "--json")

    assert [2.0, 2.0] == looks
    assert 2 == len([json.loads(line) for line in told.stdout.splitlines() if line])


# --- pause and resume ---


def test_a_paused_handler_is_run_by_nobody_until_it_is_resumed(url, handled):
    with connect(url, worker=True) as db:
        place(db, 1)
        db.drain()
        assert "handler mail paused\n" == run(url, "pause", "mail").stdout
        db.worker.drain(0)
        heeded(db, "mail")
        place(db, 2)
        db.drain()
        assert ([1], [1, 2]) == (handled["mail"], handled["bill"])
        assert by_name(looked(url)[1])["mail"]["paused"]

    with connect(url, worker=True) as db:
        place(db, 3)
        db.drain()
        assert ([1], [1, 2, 3]) == (handled["mail"], handled["bill"])

        assert "handler mail resumed\n" == run(url, "resume", "mail").stdout
        while len(handled["mail"]) < 3:
            assert handled["more"].acquire(timeout=30)
        assert [1, 2, 3] == handled["mail"]


def heeded(db, name):
    """Wait until the worker has seen that it is paused: a look is good for a second."""
    pause = threading.Event()
    while (view := db.worker._tenure.view) is not None and not all(f.paused for f in view.followers if f.name == name):
        db.worker.wake()
        pause.wait(0.05)


def test_a_paused_group_waits_as_one(url, handled):
    with connect(url, worker=False) as db:
        assert {"paused": "money", "kind": "group"} == json.loads(run(url, "pause", "money", "--json").stdout)
        place(db, 1)
        db.drain()
        assert ([1], []) == (handled["mail"], handled["bill"])
        found = looked(url)[1]
        assert [True] == [group["paused"] for group in found["groups"] if group["name"] == "money"]

        assert "group money resumed\n" == run(url, "resume", "--group", "money").stdout
        db.drain()
        assert [1] == handled["bill"]


def test_who_is_not_there_cannot_be_paused(url, handled):
    with connect(url, worker=False):
        told = run(url, "pause", "mial")
        assert 1 == told.exit_code
        assert "no handler or group named 'mial' is recorded here; did you mean 'mail'?" in told.stderr
        assert 1 == run(url, "pause", "--group", "mail").exit_code
        assert 2 == run(url, "pause").exit_code
        assert 2 == run(url, "pause", "a:b", "mail", "bill").exit_code


def test_a_name_of_both_has_to_be_said_which(url):
    @event_handler("order.placed", name="money", group="money")
    def bill(event): ...

    with connect(url, worker=False):
        told = run(url, "pause", "money")
        assert 1 == told.exit_code
        assert "is the name of a handler and of a group" in told.stderr
        assert not by_name(looked(url)[1])["money"]["paused"]
        assert "handler money paused\n" == run(url, "pause", "--handler", "money").stdout


# --- handlers ---


def test_handlers_are_listed_with_when_they_were_last_seen(url, handled):
    with connect(url, worker=False):
        told = run(url, "handlers", "list")
        listed = json.loads(run(url, "handlers", "list", "--json").stdout)

    assert ["HANDLER", "GROUP", "LAST", "SEEN"] == told.stdout.splitlines()[0].split()
    assert ["bill", "mail"] == [one["name"] for one in listed]


def test_a_handler_that_is_gone_is_retired(url, handled):
    with connect(url, worker=False) as db:
        place(db, 1)
        told = run(url, "handlers", "retire", "mail")

        assert (0, "handler mail retired; 0 open deliveries dropped\n") == (told.exit_code, told.stdout)
        assert ["bill"] == list(by_name(looked(url)[1]))
        told = run(url, "handlers", "retire", "mail")
        assert 1 == told.exit_code
        assert "no handler named 'mail' is recorded here" in told.stderr


def test_a_handler_that_a_worker_knows_is_not_retired(url, handled):
    with connect(url, worker=True) as db:
        place(db, 1)
        db.drain()
        told = run(url, "handlers", "retire", "mail")

    assert 1 == told.exit_code
    assert "mail is known to workers that are alive" in told.stderr


def test_nor_by_a_former_or_a_later_name(url, handled):
    """Workers say the name under which it was recorded, so any other one passed, and its place was lost."""
    with connect(url, worker=False, name="newer") as newer, newer.store.begin() as transaction:
        transaction.subscribe([Registration(name="letters", formerly=("mail",))])
    with connect(url, worker=True) as db:
        place(db, 1)
        db.drain()
        told = run(url, "handlers", "retire", "letters")

    assert 1 == told.exit_code
    assert "letters is known to workers that are alive" in told.stderr
    assert ["bill", "mail"] == list(by_name(looked(url)[1]))


def test_the_application_may_be_named_instead(tmp_path, monkeypatch, url):
    name = f"paused_{tmp_path.name}".replace("-", "_")
    source = f"""
        from earnorm import connect, event_handler

        db = connect({url!r}, worker=False)

        @event_handler("order.placed", name="mail")
        def mail(event): ...
    """
    (tmp_path / f"{name}.py").write_text(textwrap.dedent(source))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    with __import__(name).db:
        assert "handler mail paused\n" == run(None, "pause", f"{name}:db", "mail").stdout
        assert 0 == run(None, "status", f"{name}:db").exit_code
        assert "mail" in run(None, "handlers", "list", f"{name}:db").stdout
        assert {"retired": "mail", "dropped": 0} == json.loads(
            run(None, "handlers", "retire", "--json", f"{name}:db", "mail").stdout
        )
