"""The phase rule: what is in the log, and what after-commit handlers saw, is exactly what committed, in order.

Random programs of saves, emits, flushes, savepoints, errors and rollbacks run against a reference that knows only
what a database knows: a stack of savepoints, each with the events that would go with it.
"""

import contextlib
import tempfile
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from earnorm import BaseModel, IntegerField, connect, event_handler, on_event, post_commit
from earnorm.testing import isolated
from tests.flows.stories import log

KEYS = (1, 2)

simple = st.one_of(
    st.tuples(st.just("save"), st.sampled_from(KEYS), st.integers(0, 3)),
    st.tuples(st.just("delete"), st.sampled_from(KEYS)),
    st.tuples(st.just("emit"), st.sampled_from(KEYS), st.integers(0, 9)),
    st.tuples(st.just("fail"), st.sampled_from(KEYS)),
    st.tuples(st.just("add"), st.sampled_from(KEYS), st.integers(0, 3)),
)
programs = st.recursive(
    st.lists(simple, max_size=5),
    lambda inner: st.lists(
        st.one_of(simple, st.tuples(st.just("nested"), st.sampled_from(["ends", "raises"]), inner)), max_size=5
    ),
    max_leaves=12,
)
transactions = st.lists(st.tuples(st.sampled_from(["commits", "raises"]), programs), min_size=1, max_size=4)


class Boom(Exception):
    """What a program raises on purpose."""


class World:
    """The program run for real."""

    def __init__(self, db, Box):
        self.db, self.Box = db, Box
        self.boxes = {}

    def run(self, transactions):
        for end, program in transactions:
            self.block(end, lambda session, program=program: self.steps(program, session))

    def block(self, end, work):
        """A transaction, or inside one a savepoint. What it did to objects in memory is forgotten with it."""
        kept = list(self.boxes)
        try:
            with self.db.transaction() as opened:
                work(opened.session)
                if end == "raises":
                    raise Boom
        except Boom:
            self.boxes = {key: self.Box.get(key) for key in kept}

    def steps(self, program, session):
        for verb, *rest in program:
            if verb == "nested":
                end, inner = rest
                self.block(end, lambda session, inner=inner: self.steps(inner, session))
            else:
                self.step(session, verb, *rest)

    def step(self, session, verb, key, value=None):
        box = self.boxes.get(key)
        if verb in ("save", "add"):
            self.put(session, key, value)
            if verb == "save":
                self.boxes[key].save()
        elif box is not None:
            session.add(box)
            session.flush()
            self.act(verb, key, box, value)

    def put(self, session, key, value):
        if key in self.boxes:
            self.boxes[key].size = value
        else:
            self.boxes[key] = self.Box(id=key, size=value)
        session.add(self.boxes[key])

    def act(self, verb, key, box, value):
        if verb == "delete":
            del self.boxes[key]
            box.delete()
        elif verb == "emit":
            box.emit("shaken", times=value)
        else:
            with contextlib.suppress(Boom):
                box.emit("broken")


class Reference:
    """The same program on dictionaries. `stored` is what was flushed; `pending` what was only set."""

    def __init__(self):
        self.rows = {}
        self.log = []
        self.heard = []

    def run(self, transactions):
        for end, program in transactions:
            stored, events = self.block(program, dict(self.rows))
            if end == "commits":
                composed = expected(self.rows, stored, events)
                self.log += composed
                # Nobody can be told about a record that is gone, but that it is deleted.
                self.heard += [event for event in composed if event[0] == "deleted" or event[1] in stored]
                self.rows = stored

    def block(self, program, stored):
        """What the rows are after the block, and its events, if it ends well."""
        pending, events = {}, []

        def flush():
            new = [(key, value) for key, value in pending.items() if key not in stored]
            changed = sorted((key, value) for key, value in pending.items() if stored.get(key, value) != value)
            events.extend(("created", key, value) for key, value in new)
            events.extend(("updated", key, value) for key, value in changed)
            stored.update(pending)
            pending.clear()

        for verb, *rest in program:
            if verb == "nested":
                flush()
                after, inside = self.block(rest[1], dict(stored))
                if rest[0] == "ends":
                    stored, events = after, events + inside
                continue
            key, *value = rest
            if verb in ("save", "add"):
                pending[key] = value[0]
                if verb == "save":
                    flush()
            elif key in stored or key in pending:
                flush()
                if verb == "delete":
                    events.append(("deleted", key, stored.pop(key)))
                elif verb == "emit":
                    events.append(("shaken", key, value[0]))
        flush()
        return stored, events


def expected(before, after, events):
    """The log of a transaction: its custom events, and for each record what became of it, where it belongs."""
    found = [(i, event) for i, event in enumerate(events) if event[0] == "shaken"]
    for key in {key for _, key, _ in events}:
        mine = [(i, kind, value) for i, (kind, k, value) in enumerate(events) if k == key and kind != "shaken"]
        old, new = before.get(key), after.get(key)
        if old == new:
            continue
        kind = "created" if old is None else "deleted" if new is None else "updated"
        place = mine[-1][0] if kind == "deleted" else started(old, mine)
        found.append((place, (kind, key, mine[-1][2])))
    return [event for _, event in sorted(found)]


def started(old, mine):
    """Where the change began that was not undone: back at its beginning a record begins again, as after a deletion."""
    place = None
    for i, kind, value in mine:
        state = None if kind == "deleted" else value
        if place is None or kind == "deleted":
            place = i
        if state == old:
            place = None
    return place


def told(event):
    return event.name.removeprefix("box."), int(event.key.removeprefix("box:")), event.payload


def short(kind, key, payload):
    return kind, key, payload["times"] if kind == "shaken" else payload["size"]


@given(transactions)
def test_the_log_and_the_handlers_after_the_commit_have_exactly_what_committed_in_order(transactions):
    with tempfile.TemporaryDirectory() as folder, isolated():
        heard, committed = [], []

        class Box(BaseModel):
            id = IntegerField(primary_key=True)
            size = IntegerField()

            @on_event("shaken")
            def on_shaken(self, times):
                pass

            @on_event("broken")
            def on_broken(self):
                self.emit("shaken", times=99)
                raise Boom

            @post_commit
            def on_commit(self, event):
                committed.append(told(event))

        @event_handler("box.*", delivery="after_commit", name="hears")
        def hears(box, event):
            heard.append(told(event))

        with connect(f"sqlite:///{Path(folder) / 'boxes.db'}?synchronous=OFF", worker=False) as db:
            World(db, Box).run(transactions)
            reference = Reference()
            reference.run(transactions)

            logged = [short(*told(event)) for event in log(db)]
            with db.session() as session:
                rows = {box.id: box.size for box in session.query(Box)}

    assert reference.rows == rows
    assert reference.log == logged
    assert reference.heard == [short(*event) for event in heard]
    assert [event for event in reference.log if event[0] != "shaken"] == [short(*event) for event in committed]
