"""Telemetry: one record per transition, log lines with ids as fields, and the trace from cause to effect."""

import itertools
import logging

import pytest

from earnorm import (
    Abort,
    BaseModel,
    StringField,
    caused_by,
    current_event,
    dispatch,
    emit,
    event_handler,
    on_event,
    post_save,
    pre_save,
    telemetry,
)
from earnorm.testing import expect_failures
from tests.flows.stories import log

seen = []


@pytest.fixture
def Note(db):
    seen.clear()

    class Note(BaseModel):
        text = StringField()

        @pre_save
        def before(self):
            pass

        @post_save
        def after(self):
            pass

        @on_event("read")
        def on_read(self):
            pass

    db.ready()
    return Note


@pytest.fixture
def told():
    """Every record, as its type and its handler's last name."""
    records = []
    telemetry.listen(records.append)
    return records


def short(records):
    return [(type(record).__name__, getattr(record, "handler", "").rpartition(".")[2]) for record in records]


def test_a_save_tells_each_transition_once(Note, told):
    Note(text="one").save()

    assert [
        ("HandlerStarted", "before"),
        ("HandlerDone", "before"),
        ("Emitted", ""),
        ("HandlerStarted", "after"),
        ("HandlerDone", "after"),
        ("Appended", ""),
    ] == short(told)


def test_a_rollback_is_told(db, Note, told):
    with pytest.raises(KeyError):
        with db.transaction():
            Note(text="one").save()
            raise KeyError

    assert ("RolledBack", "") == short(told)[-1]
    assert "Appended" not in [name for name, _ in short(told)]


def test_a_failure_in_the_transaction_is_told_once_as_propagated(told, db):
    class Note(BaseModel):
        text = StringField()

        @post_save
        def fails(self):
            raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        Note(text="one").save()

    assert [True] == [record.propagated for record in told if isinstance(record, telemetry.HandlerFailed)]


def test_a_failure_after_the_commit_is_told_once(db, Note, told):
    @event_handler("note.created", delivery="after_commit", name="fails")
    def fails(note):
        raise ValueError("no")

    with expect_failures():
        Note(text="one").save()

    failures = [record for record in told if isinstance(record, telemetry.HandlerFailed)]
    assert [False] == [record.propagated for record in failures]


def test_a_condition_that_is_not_met_is_told(db, Note, told):
    @event_handler("note.created", delivery="transaction", when=lambda note: False, name="never")
    def never(note):
        pass

    Note(text="one").save()

    assert [("never", "when")] == [(r.handler, r.reason) for r in told if isinstance(r, telemetry.HandlerSkipped)]


def test_a_listener_hears_only_the_types_it_asked_for(Note):
    records = []
    undo = telemetry.listen(records.append, telemetry.Appended)
    Note(text="one").save()
    undo()
    Note(text="two").save()

    assert ["Appended"] == [type(record).__name__ for record in records]


def test_a_listener_that_fails_harms_nobody(Note, look, caplog):
    def broken(record):
        raise ValueError("broken listener")

    telemetry.listen(broken)
    Note(text="one").save()

    assert 1 == look.rows("notes")
    assert any("listener failed" in message for message in caplog.messages)


def test_a_log_line_has_the_ids_as_fields_and_never_the_payload(Note, caplog):
    with caplog.at_level(logging.DEBUG, "earnorm"):
        note = Note(text="very secret").save()
        handle = note.emit("read", by="somebody private")

    (record,) = [r for r in caplog.records if r.__dict__.get("transition") == "Emitted" and r.event_name == "note.read"]
    assert (str(handle.id), f"note:{note.id}") == (record.event_id, record.event_key)
    assert (str(handle.id), None, 1) == (record.correlation_id, record.causation_id, record.attempt)
    ours = [r for r in caplog.records if r.name.startswith("earnorm")]
    assert all("secret" not in f"{r.getMessage()}{r.__dict__}" for r in ours)
    assert all("private" not in f"{r.getMessage()}{r.__dict__}" for r in ours)


def test_nothing_is_logged_above_debug_for_a_save_that_goes_well(Note, caplog):
    Note(text="one").save()

    assert [] == [record for record in caplog.records if record.levelno > logging.DEBUG]


def test_control_characters_cannot_forge_a_line(db, caplog):
    class Note(BaseModel):
        code = StringField(primary_key=True)

    @event_handler("note.created", delivery="after_commit", name="fails")
    def fails(note):
        raise ValueError("first\nERROR forged\x1b[31m")

    with expect_failures(), caplog.at_level(logging.DEBUG, "earnorm"):
        Note(code="a\nb\u2028c\x1b[2J").save()

    ours = [record for record in caplog.records if record.name.startswith("earnorm")]
    assert ours
    assert all(record.getMessage().isprintable() for record in ours)
    assert all(record.event_key.isprintable() for record in ours if hasattr(record, "event_key"))


@pytest.mark.parametrize("text", ["\n", "\r\n", "\x00", "\x1b[31m", "\u2028", "\u202e", "\ud800", "\x85"])
def test_escaping_leaves_one_printable_line(text):
    assert telemetry.escaped(f"a{text}b").isprintable()


def test_plain_text_is_not_escaped():
    assert "Ærø: ok ✓" == telemetry.escaped("Ærø: ok ✓")


# --- the budget of hooks ---


@pytest.mark.parametrize("step, expected", [(0.049, []), (0.051, ["before", "after"])])
def test_a_hook_over_its_budget_is_told_by_name(Note, monkeypatch, step, expected):
    records = []
    telemetry.listen(records.append, telemetry.HookSlow)
    monkeypatch.setattr(dispatch.time, "perf_counter", itertools.count(step=step).__next__)

    Note(text="one").save()

    assert expected == [record.handler.rpartition(".")[2] for record in records]


def test_a_slow_hook_is_logged_with_the_remedy(Note, monkeypatch, caplog):
    monkeypatch.setattr(dispatch.time, "perf_counter", itertools.count(step=0.2).__next__)

    Note(text="one").save()

    messages = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert all("move it after the commit: post_save_async" in message for message in messages)
    assert ["Note.before" in messages[0], "Note.after" in messages[1]] == [True, True]


def test_a_handler_after_the_commit_has_no_budget(db, monkeypatch):
    class Note(BaseModel):
        text = StringField()

    @event_handler("note.created", delivery="after_commit", name="slow")
    def slow(note):
        pass

    records = []
    telemetry.listen(records.append, telemetry.HookSlow)
    monkeypatch.setattr(dispatch.time, "perf_counter", itertools.count(step=9).__next__)
    Note(text="one").save()

    assert [] == records


# --- cause and effect ---


def test_the_first_event_of_a_chain_is_its_correlation(Note):
    event = emit("system.started").event

    assert (event.id, None, 0) == (event.correlation_id, event.causation_id, event.depth)


def test_a_chain_keeps_its_correlation_over_hooks_commits_and_workers(db):
    class Order(BaseModel):
        status = StringField(default="open")

        @on_event("paid")
        def on_paid(self):
            self.status = "paid"
            self.save()

    @Order.on("status_changed", name="ship")
    def ship(order):
        order.emit("shipped")

    @Order.on("shipped", name="thank")
    async def thank(order):
        await order.aemit("thanked")

    order = Order().save()
    order.emit("paid")
    for _ in range(3):
        db.drain()

    paid, updated, shipped, thanked = log(db)[1:]
    assert ["order.paid", "order.updated", "order.shipped", "order.thanked"] == [
        event.name for event in (paid, updated, shipped, thanked)
    ]
    assert {paid.id} == {event.correlation_id for event in (paid, updated, shipped, thanked)}
    assert [None, paid.id, updated.id, shipped.id] == [e.causation_id for e in (paid, updated, shipped, thanked)]
    assert [0, 1, 2, 3] == [event.depth for event in (paid, updated, shipped, thanked)]


def test_current_event_is_known_in_a_handler_and_nowhere_else(db):
    class Note(BaseModel):
        text = StringField()

        @pre_save
        def before(self):
            seen.append(current_event().name)

        @post_save
        def after(self):
            seen.append(current_event().name)

    seen.clear()
    Note(text="one").save()

    assert (["note.created", "note.created"], None) == (seen, current_event())


def test_a_hop_of_ones_own_is_carried_by_hand(db, Note):
    first = emit("system.started").event

    with caused_by(first):
        second = emit("system.noticed").event

    assert (first.id, first.id, 1) == (second.correlation_id, second.causation_id, second.depth)


def test_an_abort_is_no_failure_to_be_noted(db):
    class Note(BaseModel):
        text = StringField()

        @post_save
        def veto(self):
            raise Abort("no")

    with pytest.raises(Abort) as raised:
        Note(text="one").save()

    assert [] == getattr(raised.value, "__notes__", [])
