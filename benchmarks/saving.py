"""Saving: contestants that each save one record after the other, every one in a process of its own.

A process of its own, since EarnORM's listeners hang on every Session of a process that knows a model, and Django and
the bus have one configuration each. `python -m benchmarks.saving NAME FOLDER` answers each number on stdin with
the seconds of CPU time so many turns took.
"""

import asyncio
import contextvars
import gc
import itertools
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from benchmarks.timing import Clocked

__all__ = ["CONTESTANTS", "Turn", "answer", "earnorm_model", "plain_engine", "plain_model", "running"]

ROOT = Path(__file__).parent.parent
# Without waiting for the disk, so that what is added shows; all contestants alike.
UNSAFE = "synchronous=OFF"
PRAGMAS = ("journal_mode=WAL", UNSAFE, "foreign_keys=ON")

Turn = Callable[[int], object]


@contextmanager
def running(
    targets: Mapping[str, str], module: str = "benchmarks.saving", *, seed: int | None = None
) -> Iterator[tuple[dict[str, Clocked], dict[str, str]]]:
    """The contestants of a module as clocks, each on its target, and why the others do not run here.

    With a `seed` the hashes of all are alike, and the same in the next run.
    """
    ready: dict[str, Clocked] = {}
    missing: dict[str, str] = {}
    with ExitStack() as stack:
        for name, target in targets.items():
            process = stack.enter_context(_start([sys.executable, "-m", module, name, target], seed))
            assert process.stdout is not None
            word, _, why = process.stdout.readline().strip().partition(" ")
            if word == "ready":
                ready[name] = _asking(process)
            else:
                missing[name] = why or "failed to start"
        yield ready, missing


@contextmanager
def _start(command: list[str], seed: int | None) -> Iterator["subprocess.Popen[str]"]:
    pipe = subprocess.PIPE
    environment = os.environ if seed is None else {**os.environ, "PYTHONHASHSEED": str(seed)}
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, cwd=ROOT, env=environment) as process:
        try:
            yield process
        finally:
            # Some libraries leave a thread behind that would wait for ever.
            process.terminate()


def _asking(process: "subprocess.Popen[str]") -> Clocked:
    def clocked(turns: int) -> float:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(f"{turns}\n")
        process.stdin.flush()
        return float(process.stdout.readline())

    return clocked


def answer(build: Callable[[], Turn], clock: Callable[[], float]) -> None:
    """In the contestant's own process: make it, then answer each number on stdin with the seconds of so many turns."""
    try:
        turn = build()
    except ImportError as error:
        print(f"missing not installed ({error.name or error})", flush=True)
        return
    numbers = itertools.count()
    gc.disable()
    print("ready", flush=True)
    for line in sys.stdin:
        print(_clocked(turn, list(itertools.islice(numbers, int(line))), clock), flush=True)


def _clocked(turn: Turn, numbers: list[int], clock: Callable[[], float]) -> float:
    # Who imports more has more to collect, and its caches are colder then: freeze it, and warm up out of the clock.
    gc.collect()
    gc.freeze()
    for number in numbers[::4]:
        turn(-number)
    started = clock()
    for number in numbers:
        turn(number)
    return clock() - started


# --- SQLAlchemy ------------------------------------------------------------------------------


def plain_engine(url: str, *pragmas: str) -> Any:
    """As EarnORM opens a database, written out here, so that nothing of it is imported."""
    from sqlalchemy import create_engine, event

    engine = create_engine(url)
    if engine.dialect.name != "sqlite":
        return engine

    @event.listens_for(engine, "connect")
    def prepare(connection: Any, _record: Any) -> None:
        connection.isolation_level = None
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", *pragmas):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def begin(connection: Any) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


def _engine(path: Path) -> Any:
    return plain_engine(f"sqlite:///{path}", UNSAFE)


def plain_model() -> Any:
    from sqlalchemy import String
    from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

    class Base(DeclarativeBase):
        pass

    class Person(Base):
        __tablename__ = "people"
        id: Mapped[int] = mapped_column(primary_key=True)
        name: Mapped[str] = mapped_column(String(255))
        email: Mapped[str] = mapped_column(String(255))
        visits: Mapped[int]

    return Person


def _added(model: Any, path: Path) -> Turn:
    engine = _engine(path)
    model.metadata.create_all(engine)
    return _committed(model, engine)


def _committed(model: Any, engine: Any) -> Turn:
    """`Session.add` and `commit` of a new record, a Session each, as in a web request."""
    from sqlalchemy.orm import Session

    def turn(number: int) -> None:
        with Session(engine, expire_on_commit=False) as session:
            session.add(model(name=f"name {number}", email="ada@example.com", visits=number))
            session.commit()

    return turn


def plain(path: Path) -> Turn:
    return _added(plain_model(), path)


def plain_again(path: Path) -> Turn:
    """The same once more: what is found between the two is the measurement's own."""
    return plain(path)


def plain_beside(path: Path) -> Turn:
    import earnorm  # noqa: F401  to have what it does to a process

    return _added(plain_model(), path)


def connected(path: Path) -> Turn:
    """On an engine of ours, a model that we know nothing of."""
    model, database = plain_model(), _connected(path)
    model.metadata.create_all(database.engine)
    return _committed(model, database.engine)


def attached(path: Path) -> Turn:
    """The same, attached: nobody hears of it here, and who does elsewhere is looked up every few seconds."""
    import earnorm

    model = plain_model()
    earnorm.attach(model)
    database = _connected(path)
    model.metadata.create_all(database.engine)
    return _committed(model, database.engine)


def attached_heard(path: Path) -> Turn:
    """The same with a durable handler, so that its events are kept."""
    import earnorm

    model = plain_model()
    earnorm.attach(model)
    earnorm.event_handler("person.created", name="heard")(_seen)
    database = _connected(path)
    model.metadata.create_all(database.engine)
    return _committed(model, database.engine)


def plain_listeners(path: Path, listeners: dict[str, Callable[..., None]] | None = None) -> Turn:
    """With listeners of SQLAlchemy's own, which are put into `listeners`."""
    from sqlalchemy import event
    from sqlalchemy.orm import Session

    model = plain_model()

    def before(session: Session, _context: Any, _instances: Any) -> None:
        for record in session.new:
            if isinstance(record, model):
                _seen(record)

    def after(session: Session, _context: Any) -> None:
        for record in session.new:
            if isinstance(record, model):
                _seen(record)

    for name, listener in (found := {"before_flush": before, "after_flush": after}).items():
        event.listen(Session, name, listener)
    if listeners is not None:
        listeners.update(found)
    return _added(model, path)


def _seen(_record: Any) -> None:
    """A hook that does nothing."""


# --- EarnORM ---------------------------------------------------------------------------------


def earnorm_model() -> Any:
    from earnorm import BaseModel, IntegerField, StringField

    class Person(BaseModel):
        id = IntegerField(primary_key=True)
        name = StringField()
        email = StringField()
        visits = IntegerField()

    return Person


def _model_with_hooks() -> Any:
    from earnorm import BaseModel, IntegerField, StringField, post_save, pre_save

    class Member(BaseModel):
        id = IntegerField(primary_key=True)
        name = StringField()
        email = StringField()
        visits = IntegerField()

        @pre_save
        def before(self) -> None: ...

        @post_save
        def after(self) -> None: ...

    return Member


def _connected(path: Path) -> Any:
    from earnorm import connect

    return connect(f"sqlite:///{path}?synchronous=OFF", worker=False)


def no_hook_no_log(path: Path) -> Turn:
    return _added(earnorm_model(), path)


def hooks(path: Path) -> Turn:
    return _added(_model_with_hooks(), path)


def log(path: Path) -> Turn:
    model, database = earnorm_model(), _connected(path)

    def turn(number: int) -> None:
        with database.session() as session:
            session.add(model(name=f"name {number}", email="ada@example.com", visits=number))
            session.commit()

    return turn


def log_save(path: Path) -> Turn:
    model = earnorm_model()
    _connected(path)
    return lambda number: model(name=f"name {number}", email="ada@example.com", visits=number).save()


# --- events of a record ----------------------------------------------------------------------


def _listening() -> Any:
    from earnorm import BaseModel, IntegerField, on_event

    class Person(BaseModel):
        id = IntegerField(primary_key=True)

        @on_event("seen")
        def note(self) -> None: ...

    return Person


def emit_in_memory(path: Path) -> Turn:
    from sqlalchemy.orm import Session

    model, engine = _listening(), _engine(path)
    model.metadata.create_all(engine)
    with Session(engine, expire_on_commit=False) as session:
        session.add(record := model(id=1))
        session.commit()
    return lambda _: record.emit("seen")


def emit_connected(path: Path) -> Turn:
    model = _listening()
    _connected(path)
    record = model(id=1).save()
    return lambda _: record.emit("seen")


def emit_in_transaction(path: Path) -> Turn:
    model, database = _listening(), _connected(path)
    record = model(id=1).save()

    def turn(_: int) -> None:
        with database.transaction():
            for _ in range(100):
                record.emit("seen")

    return turn


# --- Django ----------------------------------------------------------------------------------


def _django_model(path: Path) -> Any:
    import django
    from django.conf import settings
    from django.db import connection, models

    options = {"init_command": "; ".join(f"PRAGMA {pragma}" for pragma in PRAGMAS), "transaction_mode": "IMMEDIATE"}
    database = {"ENGINE": "django.db.backends.sqlite3", "NAME": str(path), "OPTIONS": options}
    settings.configure(DATABASES={"default": database}, DEFAULT_AUTO_FIELD="django.db.models.AutoField")
    django.setup()

    class Person(models.Model):  # noqa: DJ008  never shown
        name = models.CharField(max_length=255)
        email = models.CharField(max_length=255)
        visits = models.IntegerField()

        class Meta:
            app_label = "benchmarks"

    with connection.schema_editor() as editor:
        editor.create_model(Person)
    return Person


def _django_turn(model: Any) -> Turn:
    return lambda number: model(name=f"name {number}", email="ada@example.com", visits=number).save()


def django_plain(path: Path) -> Turn:
    return _django_turn(_django_model(path))


def django_signals(path: Path) -> Turn:
    from django.db.models.signals import post_save, pre_save

    model = _django_model(path)

    def receive(sender: Any, instance: Any, **_: Any) -> None:
        _seen(instance)

    for signal in (pre_save, post_save):
        signal.connect(receive, sender=model, weak=False)
    return _django_turn(model)


# --- peewee ----------------------------------------------------------------------------------


def _peewee_model(path: Path, base: Any) -> Any:
    import peewee

    database = peewee.SqliteDatabase(str(path), pragmas=[tuple(pragma.split("=")) for pragma in PRAGMAS])

    class Person(base):  # type: ignore[misc, valid-type]  # one of two bases
        name = peewee.CharField()
        email = peewee.CharField()
        visits = peewee.IntegerField()

        class Meta:
            pass

    Person.bind(database)
    database.create_tables([Person])
    return Person


def _peewee_turn(model: Any) -> Turn:
    return lambda number: model(name=f"name {number}", email="ada@example.com", visits=number).save()


def peewee_plain(path: Path) -> Turn:
    import peewee

    return _peewee_turn(_peewee_model(path, peewee.Model))


def peewee_signals(path: Path) -> Turn:
    from playhouse import signals

    model = _peewee_model(path, signals.Model)

    def receive(_model: Any, instance: Any, created: bool) -> None:
        _seen(instance)

    for number, signal in enumerate((signals.pre_save, signals.post_save)):
        signal.connect(receive, name=f"receive {number}", sender=model)
    return _peewee_turn(model)


# --- Tortoise --------------------------------------------------------------------------------


def _tortoise(path: Path, *, listening: bool) -> Turn:
    from tortoise import Tortoise

    from benchmarks import tortoise_model

    # Tortoise keeps its connections in a context variable, so everything runs in one context.
    loop, context = asyncio.new_event_loop(), contextvars.copy_context()
    url = f"sqlite://{path}?journal_mode=WAL&synchronous=OFF"

    async def prepare() -> None:
        await Tortoise.init(db_url=url, modules={"models": [tortoise_model.__name__]})
        await Tortoise.generate_schemas()

    def run(work: Any) -> None:
        loop.run_until_complete(loop.create_task(work, context=context))

    run(prepare())
    if listening:
        tortoise_model.listen()

    def turn(number: int) -> None:
        run(tortoise_model.Person(name=f"name {number}", email="ada@example.com", visits=number).save())

    return turn


def tortoise_plain(path: Path) -> Turn:
    return _tortoise(path, listening=False)


def tortoise_signals(path: Path) -> Turn:
    return _tortoise(path, listening=True)


CONTESTANTS: dict[str, Callable[[Path], Turn]] = {
    build.__name__: build
    for build in (
        plain,
        plain_again,
        plain_beside,
        connected,
        attached,
        attached_heard,
        plain_listeners,
        no_hook_no_log,
        hooks,
        log,
        log_save,
        emit_in_memory,
        emit_connected,
        emit_in_transaction,
        django_plain,
        django_signals,
        peewee_plain,
        peewee_signals,
        tortoise_plain,
        tortoise_signals,
    )
}

if __name__ == "__main__":
    chosen, place = sys.argv[1], Path(sys.argv[2])
    # Not the clock on the wall: what a hook adds is small beside what the scheduler takes away.
    answer(lambda: CONTESTANTS[chosen](place / f"{chosen}.db"), time.process_time)
