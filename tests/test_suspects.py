"""Suspects: what kills its process reaches the dead letters, and whatever else was under way does not."""

from __future__ import annotations

from random import Random

import pytest

from earnorm.clock import VirtualClock
from tests.test_worker import NONE, NOON, Rig

pytestmark = pytest.mark.expect_failures


class Death(BaseException):
    """The end of the process: nothing is settled, and nothing given back."""


class Mortal(Rig):
    """A rig whose workers die, and are followed by others."""

    def __init__(self) -> None:
        super().__init__(VirtualClock(NOON))
        self.deaths = 0

    def die(self) -> None:
        self.deaths += 1
        self.store.down = True
        raise Death

    def live(self, turns=30) -> None:
        """A worker takes turns until it dies or has nothing to do; the next one comes when it is known to be dead."""
        self.workers.clear()
        worker = self.worker(lease=10)
        for _ in range(turns):
            before = len(self.ran), self.kept(), self.cursors()
            worker.run_once()
            if self.store.down:
                break
            if before == (len(self.ran), self.kept(), self.cursors()):
                break
        self.store.down = False
        self.clock.advance(10)

    def suspects(self) -> list[str]:
        with self.memory.begin() as transaction:
            return [delivery.entry.key for delivery in transaction.deliveries() if delivery.suspect]


@pytest.fixture
def rig():
    return Mortal()


def killing(rig, *keys):
    def mail(event):
        rig.note("mail", event)
        if event.key in keys:
            rig.die()

    return mail


def test_after_a_death_the_window_is_run_again_and_charged_to_nobody(rig):
    killers = ["order:2"]
    rig.on(lambda event: killers and event.key == killers[0] and killers.pop() and rig.die())
    rig.worker()
    rig.append("order:1", "order:2", "order:3")
    rig.live()
    assert ([], {"mail": 0}) == (rig.kept(), rig.cursors())
    rig.live()

    assert ([], {"mail": 3}, 1) == (rig.kept(), rig.cursors(), rig.deaths)


def test_after_three_deaths_each_of_the_window_is_run_alone(rig):
    rig.on(killing(rig, "order:2"))
    rig.worker()
    rig.append("order:1", "order:2", "order:3")
    for _ in range(3):
        rig.live()
    assert ([], 3) == (rig.suspects(), rig.deaths)
    rig.live()

    assert ["order:2", "order:3"] == rig.suspects() or ["order:2"] == rig.suspects()
    assert {"mail": 3} == rig.cursors()


def test_what_kills_its_process_every_time_is_a_dead_letter_after_its_attempts(rig):
    rig.on(killing(rig, "order:2"))
    rig.worker()
    rig.append("order:1", "order:2", "order:3")
    for _ in range(60):
        rig.live()
        rig.clock.advance(25_000)

    with rig.memory.begin() as transaction:
        (letter,) = transaction.deliveries()
        attempts = transaction.attempts(letter.id)
    assert [(n, "ProcessDied") for n in range(1, 17)] == [(a.number, a.error.partition(":")[0]) for a in attempts]
    assert ("order:2", 16, "dead") == (letter.entry.key, letter.attempt, letter.state)
    assert letter.error.startswith("ProcessDied: the process died while it ran nothing but mail, attempt 16")
    assert 3 + 16 == rig.deaths
    assert 1 == len({position for _, key, position in rig.ran if key == "order:3"})


@pytest.mark.parametrize("last", ["a death", "an error"])
def test_a_dead_letter_of_a_suspect_that_is_retried_runs_once_more(rig, last):
    mended = []

    def mail(event):
        rig.note("mail", event)
        if not mended and (rig.deaths < 3 or last == "a death"):
            rig.die()
        if not mended:
            raise ValueError("no such address")

    rig.on(mail)
    rig.worker()
    rig.append("order:1")
    for _ in range(30):
        rig.live()
        rig.clock.advance(25_000)
    ran = len(rig.ran)
    mended.append(True)
    with rig.memory.begin() as transaction:
        (letter,) = transaction.deliveries()
        assert [letter.id] == transaction.reopen([letter.id])
    rig.live()

    assert (ran + 1, []) == (len(rig.ran), rig.kept())


def test_a_dead_letter_that_is_retried_and_kills_again_is_one_again(rig):
    rig.on(killing(rig, "order:1"))
    rig.worker()
    rig.append("order:1")
    for again in range(2):
        for _ in range(30):
            rig.live()
            rig.clock.advance(25_000)
        with rig.memory.begin() as transaction:
            (letter,) = transaction.deliveries()
            attempts = transaction.attempts(letter.id)
            assert ("dead", 16 + again, 3 + 16 + again) == (letter.state, letter.attempt, rig.deaths)
            assert 16 + again == attempts[-1].number
            transaction.reopen([letter.id])


def test_of_a_suspect_each_attempt_is_kept_as_what_it_came_to(rig):
    runs = []

    def mail(event):
        runs.append(event)
        if len(runs) in {1, 2, 3, 4, 6}:  # three that make it a suspect, and the first and the third of its attempts
            rig.die()
        raise ValueError("no such address")

    rig.on(mail)
    rig.worker()
    rig.append("order:1")
    for _ in range(30):
        rig.live()
        rig.clock.advance(25_000)

    with rig.memory.begin() as transaction:
        (letter,) = transaction.deliveries()
        attempts = transaction.attempts(letter.id)
    came_to = [a.error.partition(":")[0] for a in attempts]
    assert list(range(1, 17)) == [a.number for a in attempts]
    assert ["ProcessDied", "ValueError", "ProcessDied", *["ValueError"] * 13] == came_to


def test_sixty_deaths_by_chance_make_no_dead_letter(rig):
    chance, victims = Random(7), []

    def mail(event):
        rig.note("mail", event)
        if len(victims) < 60 and chance.random() < 0.3:
            victims.append(event.position)
            rig.die()

    rig.on(mail)
    rig.worker()
    rig.append(*(f"order:{n}" for n in range(60)))
    for _ in range(200):
        rig.live(turns=200)
        rig.clock.advance(600)

    assert (60, []) == (rig.deaths, rig.kept())
    assert set(range(1, 61)) == {position for _, _, position in rig.ran}


def test_a_delivery_set_aside_that_kills_its_process_is_found_too(rig):
    fails = [True]

    def mail(event):
        rig.note("mail", event)
        if event.key == "order:2":
            if fails:
                fails.clear()
                raise ValueError("first it fails")
            rig.die()

    rig.on(mail)
    rig.worker()
    rig.append("order:1", "order:2", "order:3")
    rig.live()
    for _ in range(60):
        rig.clock.advance(25_000)
        rig.live()

    assert [("mail", 2, 16, "dead")] == rig.kept()


def test_a_suspect_that_is_innocent_is_done_once(rig):
    rig.on(killing(rig, "order:2"))
    rig.worker()
    rig.append("order:1", "order:3", "order:2")
    for _ in range(3):
        rig.live()
    rig.ran.clear()
    for _ in range(3):
        rig.live()

    assert ["order:1", "order:3"] == sorted(key for _, key, _ in rig.ran if key != "order:2")


def test_what_ends_well_alone_leaves_nothing_behind(rig):
    deadly = [True]
    rig.on(lambda event: deadly and rig.die())
    rig.worker()
    rig.append("order:1")
    for _ in range(3):
        rig.live()
    deadly.clear()
    rig.live()

    assert ([], {"mail": 1}) == (rig.kept(), rig.cursors())
    assert NONE == rig.worker().drain()
