"""Composition: what a transaction did to each record, as at most one event, against a fold that keeps only states."""

from hypothesis import given
from hypothesis import strategies as st

from earnorm.composition import compose
from earnorm.event import Change
from earnorm.occurrence import Occurrence
from earnorm.registry import ModelInfo

NOTE = ModelInfo(type("Note", (), {}), "note", ("text", "size"))

values = st.fixed_dictionaries({"text": st.sampled_from("abc"), "size": st.sampled_from([1, 2, True, 1.0])})


@st.composite
def histories(draw):
    """What sessions may do to a few records that may exist before: only changes that the rows allow, and emits."""
    before = draw(st.dictionaries(st.integers(1, 3), values, max_size=3))
    rows, steps = dict(before), []
    for _ in range(draw(st.integers(0, 14))):
        key = draw(st.integers(1, 3))
        if draw(st.integers(0, 5)) == 0:
            steps.append(("event", key, None, None))
        elif key not in rows:
            rows[key] = draw(values)
            steps.append(("created", key, None, rows[key]))
        elif draw(st.booleans()):
            new = draw(values)
            if differing(rows[key], new):
                steps.append(("updated", key, rows[key], new))
            rows[key] = new
        else:
            steps.append(("deleted", key, rows[key], rows.pop(key)))
    return before, rows, steps


def differing(old, new):
    return {f for f in new if type(old[f]) is not type(new[f]) or old[f] != new[f]}


def occurrence(kind, key, old, new):
    changes = {f: Change(old[f], new[f]) for f in differing(old, new)} if kind == "updated" else {}
    name = "note.read" if kind == "event" else f"note.{kind}"
    return Occurrence(name, None, new or {}, kind=kind, changes=changes, info=NOTE, identity=(key,))


def composed(steps):
    return compose([occurrence(*step) for step in steps])


@given(histories())
def test_a_record_has_at_most_one_lifecycle_event_and_it_says_what_became_of_it(history):
    before, after, steps = history

    found = {o.identity[0]: o for o in composed(steps) if o.kind != "event"}

    for key in (1, 2, 3):
        kind = expected_kind(before.get(key), after.get(key))
        assert kind == (found[key].kind if key in found else None)
        if kind in ("created", "updated"):
            assert after[key] == found[key].payload
    assert len(found) == sum(o.kind != "event" for o in composed(steps))


def expected_kind(old, new):
    if old is None:
        return None if new is None else "created"
    if new is None:
        return "deleted"
    return "updated" if differing(old, new) else None


@given(histories())
def test_an_update_goes_from_the_first_old_to_the_last_new_values(history):
    before, after, steps = history

    for o in composed(steps):
        if o.kind == "updated":
            old, new = before[o.identity[0]], after[o.identity[0]]
            assert {f: (old[f], new[f]) for f in differing(old, new)} == {f: tuple(c) for f, c in o.changes.items()}


@given(histories())
def test_custom_events_are_never_composed_and_keep_their_order(history):
    _, _, steps = history

    customs = [step[1] for step in steps if step[0] == "event"]
    assert customs == [o.identity[0] for o in composed(steps) if o.kind == "event"]


@given(histories())
def test_a_change_stands_where_its_first_flush_stood_and_a_deletion_where_its_last_did(history):
    before, _, steps = history
    customs = iter([i for i, step in enumerate(steps) if step[0] == "event"])

    places = [next(customs) if o.kind == "event" else place(steps, before, o) for o in composed(steps)]

    known = [place for place in places if place is not None]
    assert sorted(known) == known


def place(steps, before, o):
    """The index of the flush an event stands for; None if on the way the record was once as it began, or was gone."""
    mine = [(i, kind, new) for i, (kind, key, _, new) in enumerate(steps) if key == o.identity[0] and kind != "event"]
    if o.kind == "deleted":
        return mine[-1][0]
    states = [None if kind == "deleted" else new for _, kind, new in mine[:-1]]
    began = before.get(o.identity[0])
    if None in states or any(began is not None and not differing(began, state) for state in states):
        return None
    return mine[0][0]


@given(histories())
def test_composing_twice_changes_nothing_more(history):
    _, _, steps = history

    once = composed(steps)
    again = compose(once)

    assert [(o.name, o.identity, o.changes) for o in once] == [(o.name, o.identity, o.changes) for o in again]


@given(histories())
def test_an_event_keeps_the_id_it_had_when_it_was_emitted(history):
    _, _, steps = history
    emitted = [occurrence(*step) for step in steps]
    ids = {o.event.id for o in emitted}

    assert {o.event.id for o in compose(emitted)} <= ids
