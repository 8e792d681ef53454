"""The stage suite: what every `Stages` must do, as tests for a backend to inherit."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextvars import Context
from functools import partial
from typing import Any

import pytest

from earnorm.errors import LeaseLost
from earnorm.stage import Stage, Stages
from earnorm.store import Store
from earnorm.testing._store_verbs import cursor_of, entry, move, read_all, settle, settlement, take

__all__ = ["StageSuite"]

Write = Callable[[Stage, str], None]
Perform = Callable[[Callable[[Stage], Any]], Any]


class StageSuite:
    """Inherit it, and give the fixtures below: `stages`, `store`, and how to write and to look.

    Each test runs by both doors. `doors` says which there are.
    """

    doors: tuple[str, ...] = ("perform", "aperform")

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        if "door" in metafunc.fixturenames:
            metafunc.parametrize("door", self.doors)

    @pytest.fixture
    def stages(self) -> Stages:
        """Those that are tried."""
        raise NotImplementedError("a backend gives its own stages")

    @pytest.fixture
    def store(self) -> Store:
        """The store whose verbs their transactions have."""
        raise NotImplementedError("a backend gives its own store")

    @pytest.fixture
    def write(self, door: str) -> Write:
        """Writes a word with what an attempt is given: `session`, or by `aperform` the `async_session()`."""
        raise NotImplementedError("a backend says how its sessions write")

    @pytest.fixture
    def spoil(self) -> Write:
        """Writes what is refused at the COMMIT, and not before."""
        pytest.skip("nothing is refused as late as that")

    @pytest.fixture
    def written(self) -> Callable[[], list[str]]:
        """The words that were written and committed, in any order."""
        raise NotImplementedError("a backend says where its sessions write to")

    @pytest.fixture
    def perform(self, stages: Stages, door: str) -> Perform:
        """One of the two doors."""
        if door == "perform":
            return stages.perform
        return lambda work: asyncio.run(stages.aperform(work))

    # --- one commit ---

    def test_what_was_kept_and_its_mark_are_committed_together(
        self, store: Store, perform: Perform, write: Write, written: Callable[[], list[str]]
    ) -> None:
        lease = take(store)

        def work(stage: Stage) -> str:
            attempt(stage, write, "a")
            attempt(stage, write, "b", "c")
            stage.transaction.settle(settlement(lease, advances=move(lease, lease.position + 2)))
            return "done"

        assert "done" == perform(work)
        assert ["a", "b", "c"] == sorted(written())
        assert lease.position + 2 == cursor_of(store).position

    def test_a_mark_that_is_refused_takes_what_was_kept_with_it(
        self, store: Store, perform: Perform, write: Write, written: Callable[[], list[str]]
    ) -> None:
        stale = take(store)
        settle(store, stale, advances=move(stale, stale.position + 1))

        def work(stage: Stage) -> None:
            attempt(stage, write, "a")
            stage.transaction.settle(settlement(stale, advances=move(stale, stale.position + 2)))

        with pytest.raises(LeaseLost):
            perform(work)
        assert [] == written()
        assert stale.position + 1 == cursor_of(store).position

    def test_work_that_raises_leaves_neither_effect_nor_mark(
        self, store: Store, perform: Perform, write: Write, written: Callable[[], list[str]]
    ) -> None:
        def work(stage: Stage) -> None:
            attempt(stage, write, "a")
            stage.transaction.append([entry("mark")])
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            perform(work)
        assert ([], []) == (written(), marks(store))

    def test_a_stage_that_nobody_entered_commits_its_mark(self, store: Store, perform: Perform) -> None:
        perform(lambda stage: stage.transaction.append([entry("mark")]))

        assert ["mark"] == marks(store)

    def test_one_after_the_other_sees_what_was_committed(
        self, perform: Perform, write: Write, written: Callable[[], list[str]]
    ) -> None:
        for word in "abc":
            perform(partial(write_one, write, word))

        assert ["a", "b", "c"] == sorted(written())

    # --- attempts ---

    def test_what_was_dropped_is_undone_and_the_others_stand(
        self, perform: Perform, write: Write, written: Callable[[], list[str]]
    ) -> None:
        def work(stage: Stage) -> None:
            attempt(stage, write, "a")
            attempt(stage, write, "b", "c", keep=False)
            attempt(stage, write, "d")
            attempt(stage, write, "e", keep=False)
            attempt(stage, write, "f")

        perform(work)
        assert ["a", "d", "f"] == sorted(written())

    def test_an_attempt_that_wrote_nothing_is_kept_and_dropped_like_any_other(
        self, perform: Perform, write: Write, written: Callable[[], list[str]]
    ) -> None:
        def work(stage: Stage) -> None:
            attempt(stage, write)
            attempt(stage, write, keep=False)
            attempt(stage, write, "a")
            attempt(stage, write)
            attempt(stage, write, keep=False)

        perform(work)
        assert ["a"] == written()

    def test_many_are_kept_and_dropped_in_turns(
        self, perform: Perform, write: Write, written: Callable[[], list[str]]
    ) -> None:
        def work(stage: Stage) -> int:
            tried = 0
            while not stage.is_full and tried < 80:
                attempt(stage, write, f"{tried:02}", keep=tried % 3 != 0)
                tried += 1
            return tried

        tried = perform(work)
        assert tried > 1
        assert [f"{number:02}" for number in range(tried) if number % 3] == sorted(written())

    def test_a_stage_that_was_not_used_is_not_full(self, perform: Perform) -> None:
        assert not perform(lambda stage: stage.is_full)

    def test_an_error_that_has_nothing_to_do_with_stages_gets_no_hint(self, perform: Perform) -> None:
        assert perform(lambda stage: stage.hint(ValueError("no"))) is None

    # --- broken and refused ---

    def test_what_stood_on_a_severed_stage_is_gone_and_the_next_one_works(
        self, store: Store, perform: Perform, write: Write, written: Callable[[], list[str]]
    ) -> None:
        def work(stage: Stage) -> None:
            attempt(stage, write, "a")
            cut = threading.Thread(target=stage.sever)
            cut.start()
            cut.join()
            stage.transaction.append([entry("mark")])

        with pytest.raises(Exception):  # noqa: B017, PT011  whatever the driver says
            perform(work)
        assert ([], []) == (written(), marks(store))
        perform(lambda stage: attempt(stage, write, "b"))
        assert ["b"] == written()

    def test_what_is_severed_amid_an_attempt_is_gone_too(
        self, perform: Perform, write: Write, written: Callable[[], list[str]]
    ) -> None:
        def work(stage: Stage) -> None:
            attempt(stage, write, "a")
            context = Context()
            context.run(stage.enter)
            context.run(write, stage, "b")
            stage.sever()
            context.run(stage.keep)

        with pytest.raises(Exception):  # noqa: B017, PT011  whatever the driver says
            perform(work)
        assert [] == written()

    def test_what_the_commit_refuses_is_to_blame_on_who_wrote_it_and_takes_all_along(
        self,
        stages: Stages,
        store: Store,
        perform: Perform,
        write: Write,
        spoil: Write,
        written: Callable[[], list[str]],
    ) -> None:
        def work(stage: Stage) -> None:
            attempt(stage, write, "a")
            attempt(stage, spoil, "b")
            stage.transaction.append([entry("mark")])

        with pytest.raises(Exception) as refused:  # noqa: PT011  whatever the driver says
            perform(work)
        assert stages.blames(refused.value)
        assert ([], []) == (written(), marks(store))


def marks(store: Store) -> list[str]:
    """What was committed by the verbs of stages."""
    return [read.name for read in read_all(store) if read.name == "mark"]


def write_one(write: Write, word: str, stage: Stage) -> None:
    attempt(stage, write, word)


def attempt(stage: Stage, write: Write, *words: str, keep: bool = True) -> None:
    """An attempt as a worker makes it: in a context of its own, in which it writes."""
    context = Context()
    context.run(stage.enter)
    for word in words:
        context.run(write, stage, word)
    if keep:
        context.run(stage.keep)
    else:
        stage.drop()
