"""An attachment: our hooks on every mapper and Session of a process, to see whether anybody notices.

Ways to attach, from the quietest to the one that looks at everything:

quiet   every mapped class is known, and nobody listens
hooks   hooks before and after the SQL that take only `self`
events  hooks that take all there is, handlers of every event and of the change of every field, telemetry
log     as `events`, and every event is kept in a log, which only counts
"""

from collections import Counter
from itertools import count

from sqlalchemy import Column, Engine, event
from sqlalchemy.orm import Mapper

from earnorm import telemetry
from earnorm.backends.sqlalchemy import boundary, flushing, mapping, opening
from earnorm.backends.sqlalchemy.appending import Appending
from earnorm.bus import EventBus
from earnorm.handler import Options, Phase, make_handler
from earnorm.multitude import singly
from earnorm.registry import ModelInfo

WAYS = ("quiet", "hooks", "events", "log")

_HOOKS = [
    (f"{when}_{what}", phase)
    for when, phase in (("pre", Phase.BEFORE), ("post", Phase.TRANSACTION))
    for what in ("save", "create", "update", "delete")
]


class Attachment:
    """What `way` of attaching does; `calls` counts what came of it, so that nobody takes silence for harmony."""

    def __init__(self, way):
        self.way = way
        self.calls = Counter()
        self.bus = EventBus("compat")
        self._numbers = count(1)
        self._seen = lambda record: self.calls.update([type(record).__name__])

    def attach(self):
        """Listen to every mapper and engine from here on."""
        if self.way in ("events", "log"):
            self.bus.on("**", delivery="transaction", name="all")(self._handler("handlers"))
            telemetry.listen(self._seen, telemetry.Emitted, telemetry.HandlerFailed, telemetry.RolledBack)
        if self.way == "log":
            self.bus.attach_door(_Door())
        self.renew()

    def renew(self):
        """Listen again: some tests of SQLAlchemy's take every listener away when they are done."""
        for part in (flushing, opening, boundary):
            part.listen()
        if not event.contains(Mapper, "after_mapper_constructed", self._known):
            event.listen(Mapper, "after_mapper_constructed", self._known)
        if self.way == "log" and not event.contains(Engine, "engine_connect", self._connected):
            event.listen(Engine, "engine_connect", self._connected)

    def _known(self, mapper, cls):
        info = ModelInfo(cls, f"{cls.__name__.lower().strip('_') or 'model'}_{next(self._numbers)}", _stored(mapper))
        info.handlers = self._handlers(info)
        mapping.register(cls, info, self.bus, info.fields)
        # A bulk write can run no pre hook, and is refused to a model with some unless one event for all is enough.
        info.bulk = "batch" if any(handler.phase is Phase.BEFORE for handler in info.handlers) else "rows"

    def _handlers(self, info):
        if self.way == "quiet":
            return []
        hook = self._simple_hook() if self.way == "hooks" else self._curious_hook()
        words = [(word, phase) for word, phase in _HOOKS if self.way != "log" or phase is not Phase.BEFORE]
        found = [make_handler(hook, word, phase, Options(), model=info.cls) for word, phase in words]
        if self.way != "hooks":
            found.append(make_handler(self._handler("views"), "on_event", Phase.TRANSACTION, Options(), model=info.cls))
            found[-1].events.extend(f"{field}.changed" for field in info.fields)
        return found

    def _connected(self, connection):
        if boundary.log_of(connection.engine) is None:
            boundary.connect_engine(connection.engine, CountingLog(self.bus, self.calls))

    # --- what hears ---------------------------------------------------------------------------

    def _simple_hook(self):
        def hook(model):
            self.calls["hooks"] += 1

        return hook

    def _curious_hook(self):
        def hook(model, event, changes, created, session):
            self.calls["hooks"] += 1
            assert event.subject is model
            assert event.changes == changes

        return hook

    def _handler(self, name):
        def handler(subject, event, changes):
            self.calls[name] += 1

        return handler


class CountingLog:
    """A log that keeps nothing."""

    name = "compat"

    def __init__(self, bus, calls):
        self.bus = bus
        self._calls = calls

    def keeps_of(self, info):
        return True

    def look(self, connection):
        """It keeps everything, whoever is subscribed."""

    def join(self, connection):
        """Nothing has an idempotency key here, and nobody asks for more."""

    def append(self, connection, told, muted, *, with_commit):
        self._calls["appended"] += sum(1 for _ in singly(told))
        return Appending(told)

    def appended(self, appending):
        self._calls["committed"] += sum(1 for _ in singly(appending.kept))

    def refresh(self, occurrence):
        return occurrence


class _Door:
    connected = True


def _stored(mapper):
    """The attributes that are columns of the mapper's tables, not expressions of them."""
    return tuple(key for key, column in mapper.columns.items() if isinstance(column, Column))
