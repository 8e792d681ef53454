"""A story: producers and workers of several versions on one store, what a seed lets go wrong, then fair weather."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from contextlib import suppress
from random import Random
from unittest.mock import patch
from uuid import UUID

from earnorm import driving
from earnorm.backoff import Backoff
from earnorm.bus import EventBus
from earnorm.errors import RetryLater, StoreError
from earnorm.event import Entry, Event, Origin
from earnorm.operations import ALL, Operations
from earnorm.runner import Hydrated, Runner
from earnorm.settling import settling_here
from earnorm.worker import Worker
from tests.simulation.faults import LEASE, Faults, Line, Trouble, Weather
from tests.simulation.kernel import START, Greenlets, Kernel, Lock, Process, ProcessClock, Thread
from tests.simulation.loop import OwnLoop
from tests.simulation.stages import Stages
from tests.simulation.truth import PAID, Subscribed, Truth, Violation

HANDLERS = (
    Subscribed("mail", "order.placed"),
    Subscribed("stock", "order.placed"),
    Subscribed("audit", "**", ordered=False),
    Subscribed("bill", "order.paid"),
    Subscribed("pay", "order.placed", transactional=True),
)
# The version before knows fewer of them; both are deployed at once.
VERSIONS = ((*HANDLERS[:3], HANDLERS[4]), HANDLERS)
KEYS = ("order:1", "order:2", "order:3", "")

# Fair weather must bring everything home within so many steps, and so much of virtual time.
PATIENCE = 20_000
LONGEST = 6 * 3600.0


class Undone(Exception):
    """Roll this back."""


class Story:
    """One seed on one ground."""

    def __init__(self, seed: object, ground) -> None:
        self.seed = seed
        self.kernel = Kernel(seed)
        self.chance: Random = self.kernel.chance
        self.truth = Truth(HANDLERS)
        self.ground = ground(self.kernel)
        self.truth.ground = self.ground
        self.faults = Faults(self, self.kernel, Weather(self.chance, self.ground.kinds, self.ground.always))
        self.ground.between = self.faults.between
        self.closing = False
        # Producers and operators; what one of them has begun in bad weather may still end in fair weather.
        self._outside = 0
        self._cast = (self.chance.randint(1, 3), self.chance.randint(self.ground.fewest, 4))
        # A story's log is short, and what stands apart in it has never far to go by the usual measure.
        self._near = self.chance.choice((2, 1_000))
        self._count = 0

    # --- telling it ---

    def tell(self, steps: int, *, to_the_end: bool = True) -> None:
        """Play `steps` steps of it in bad weather, then the rest in fair weather. Raises Violation."""
        producers, workers = self._cast
        # The first to come records what it hears, before anything happens.
        for _ in range(producers):
            self._start("producer", self._produce)
        for _ in range(workers):
            self._start("worker", self._work)
        self._start("operator", self._operate)
        while self.kernel.deeds < steps:
            self._step()
        if not to_the_end:
            return
        self._clear_up()
        self._run_until(lambda: not self._outside and self._is_drained(), "is drained")
        self.closing = True
        self._run_until(lambda: not self.kernel._tasks, "has ended")
        self.truth.check_order()
        self.truth.check_emitted()
        self.truth.check_end()
        self._look()

    def _step(self) -> None:
        self.kernel.step()
        self._look()

    def _look(self) -> None:
        if self.truth.broken is not None:
            raise self.truth.broken

    def _clear_up(self) -> None:
        self.faults.weather.fair = True
        self.ground.calm = True
        for task in self.kernel._tasks:
            task.process.frozen = 0.0
            task.wakes = min(task.wakes, self.kernel.now + LEASE)
        self.kernel.tell(None, "the weather is fair from here on")

    def _run_until(self, holds, what: str) -> None:
        until = self.kernel.now + LONGEST
        for step in range(PATIENCE):
            if step % 20 == 0 and holds():
                return
            if not self.kernel._tasks or self.kernel.now > until:
                break
            self._step()
        if not holds():
            raise Violation(f"the log never {what}")

    def _is_drained(self) -> bool:
        with self.ground.peek() as transaction:
            if transaction.waiting():
                return False
            horizon, cursors = transaction.horizon(), transaction.cursors()
        return all(cursor.position >= horizon for cursor in cursors)

    # --- processes ---

    def _start(self, kind: str, part, after: float = 0.0) -> None:
        self._count += 1
        process = Process(f"{kind} {self._count}")
        self._outside += kind != "worker"

        def again() -> None:
            self._outside -= kind != "worker"
            if not self.closing and not (kind != "worker" and self.faults.weather.fair):
                self._start(kind, part, self.chance.random() * 3.0)

        process.on_end = again
        self.kernel.spawn(process, lambda: part(process), after)

    # --- producing ---

    def _produce(self, process: Process) -> None:
        store = self.ground.store_for(process)
        while not self.faults.weather.fair:
            self.kernel.pause(self.chance.random() * 4.0)
            # Connected anew, so that a server that took over is written to before workers know of it.
            line = Line(self, process, store)
            entries = [self._entry() for _ in range(self.chance.randint(1, 3))]
            self._append(process, line, entries)

    def _append(self, process: Process, line: Line, entries: list[Entry]) -> None:
        undone = self.chance.random() < 0.15
        if not undone:
            self.truth.begun.update(entry.id for entry in entries)
        try:
            with line.begin() as transaction:
                transaction.append(entries)
                self.kernel.pause(2.0 * self.chance.random() if self.chance.random() < 0.5 else 0.0)
                if undone:
                    raise Undone
            self.kernel.tell(process, "appends", len(entries))
        except (Undone, StoreError, Trouble, *self.ground.refusals):
            return

    def _entry(self, name: str = "", cause: UUID | None = None) -> Entry:
        made = UUID(int=self.chance.getrandbits(128), version=4)
        name = name or self.chance.choice(("order.placed", "order.placed", "order.paid"))
        if self.chance.random() < 0.02 and cause is None:
            self.truth.poison.add(made)
        return Entry.of(
            id=made,
            name=name,
            subject="order",
            key=self.chance.choice(KEYS),
            data=b"",
            at=START,
            correlation_id=made,
            causation_id=cause,
            depth=0,
        )

    # --- operating ---

    def _operate(self, process: Process) -> None:
        """Dead letters are tried again, what all have passed is pruned, a handler is retired while it is at work."""
        line = Line(self, process, self.ground.store_for(process))
        operations = Operations(line, clock=ProcessClock(self.kernel, process))
        while not self.faults.weather.fair:
            self.kernel.pause(60.0 * self.chance.random(), lambda: self.faults.weather.fair)
            with suppress(StoreError, Trouble, *self.ground.refusals):
                match self.chance.randrange(3):
                    case 0:
                        operations.retry(ALL)
                    case 1:
                        operations.prune(0.001, batch=3)
                    case _:
                        with line.begin() as transaction:
                            transaction.retire("stock")

    # --- working ---

    def _work(self, process: Process) -> None:
        """The worker's own thread; another one stops it some day, or when the story ends."""
        loop = OwnLoop(self.kernel, process)
        worker = self.worker(process, loop)
        task = self.kernel.spawn(process, worker._serve)
        worker._thread = Thread(self.kernel, task)
        self.kernel.pause(600.0 * self.chance.random() ** 2, lambda: self.closing)
        worker.stop(5.0)
        loop.close()
        self.kernel.tell(process, "stops")

    def worker(self, process: Process, loop: OwnLoop) -> Worker:
        """The shipped worker, with its threads and its loop made of tasks."""
        bus = EventBus()
        for handler in VERSIONS[self.chance.random() < 0.7]:
            options = {"name": handler.name, "ordered": handler.ordered, "transactional": handler.transactional}
            colour = self._plain if self.chance.random() < 0.5 else self._awaited
            does = self._paying(process) if handler.transactional else colour(process, handler.name)
            bus.on(handler.pattern, **options)(does)
        clock = ProcessClock(self.kernel, process)
        line = Line(self, process, self.ground.store_for(process))
        runner = Runner(
            bus,
            lambda entry, event: Hydrated(),
            decode,
            database="simulated",
            backoff=Backoff(attempts=4, first=2.0, longest=30.0),
            random=Random(self.chance.random()),
        )
        batch = self.chance.choice((2, 5, 50))
        stages = Stages(line)
        worker = Worker(bus, line, runner, clock=clock, lease=LEASE, batch=batch, loop=loop, stages=stages)
        worker._tenure.worker = process.name
        worker._tenure.near = self._near
        worker._passing = Lock(self.kernel)
        threads = Greenlets(self.kernel, process)
        worker._lanes._serving.threads = worker._errands._threads = threads
        worker._lanes._driving._loaders = threads
        return worker

    def _plain(self, process: Process, name: str):
        def handle(event: Event) -> None:
            self._wait_through(self._handle(process, name, event))

        return handle

    def _awaited(self, process: Process, name: str):
        async def handle(event: Event) -> None:
            for seconds in self._handle(process, name, event):
                await asyncio.sleep(seconds)

        return handle

    def _paying(self, process: Process):
        def pay(event: Event, session) -> None:
            self._wait_through(self._may_fail(event))
            self.faults.handling(process)
            paid = self._entry(PAID, cause=event.id)
            self.truth.begun.add(paid.id)
            session.append([paid])
            self.kernel.pause()
            self._wait_through(self._may_fail(event))
            self.faults.handling(process)

        return pay

    def _wait_through(self, waits: Iterator[float]) -> None:
        for seconds in waits:
            self.kernel.pause(seconds)

    def _handle(self, process: Process, name: str, event: Event) -> Iterator[float]:
        """What a handler does; it waits for as long as is said here."""
        yield from self._may_fail(event)
        self.faults.handling(process)
        self.truth.effect(name, event.id, event.key)
        yield 0.0
        self.faults.handling(process)
        if name == "mail" and self.chance.random() < 0.2:
            self._emit(event)

    def _may_fail(self, event: Event) -> Iterator[float]:
        chance, fair = self.chance, self.faults.weather.fair
        if not fair and chance.random() < 0.02:
            yield chance.random() * 2.5 * LEASE
        if event.id in self.truth.poison:
            raise ValueError("poison")
        if not fair and event.attempt <= 2 and chance.random() < 0.1:
            raise RetryLater(chance.random() * 30.0) if chance.random() < 0.5 else ValueError("not now")

    def _emit(self, event: Event) -> None:
        entry = self._entry("mail.sent", cause=event.id)
        self.truth.begun.add(entry.id)
        here = settling_here("simulated")
        assert here is not None
        here.add(entry)


def decode(entry: Entry, attempt: int) -> Event:
    origin = Origin(position=entry.position, attempt=attempt)
    return Event(entry.name, None, {}, key=entry.key, origin=origin, _id=entry.id)


def tell(story: Story, steps: int, *, to_the_end: bool = True) -> None:
    """The story to its end. What breaks it names the seed and says what happened before."""
    # Thousands of failures are meant, and each would be logged.
    logging.disable(logging.CRITICAL)
    try:
        # How long a handler really takes is no part of it.
        with patch.object(driving, "_SLICE", float("inf")):
            story.tell(steps, to_the_end=to_the_end)
    except Violation as broken:
        before = "\n".join(story.kernel.trace)
        raise Violation(f"{broken}\nEARNORM_SIM_SEED={story.seed}\n{before}") from None
    finally:
        story.kernel.close()
        story.ground.close()
        logging.disable(logging.NOTSET)
