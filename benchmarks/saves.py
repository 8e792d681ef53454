"""Saves: what hooks, the log and emits about a record add to saving one, in microseconds and per cent."""

import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping

from benchmarks.beside import Beside, beside
from benchmarks.report import Row
from benchmarks.saving import running
from benchmarks.timing import Cast, Pace, measure

__all__ = ["models", "saves"]

SAVING = "Saving a new record: what is added to plain SQLAlchemy"
BESIDE = "Saving a new record: what is added to plain SQLAlchemy in the same process"
EMITTING = "Emitting about a record"

# What is measured beside plain SQLAlchemy, each in a process of its own. A commit that waits for a disk takes longer,
# so that per cent are fewer.
ADDED: dict[str, str] = {
    "plain_again": "nothing: plain SQLAlchemy once more",
    "plain_beside": "a plain model, EarnORM imported",
    "connected": "a plain model on a connected engine",
    "attached": "the same, attached, nobody hears of it",
    "attached_heard": "the same, its events in the log",
    "no_hook_no_log": "a model with neither hook nor log",
    "hooks": "a model with pre_save and post_save",
    "log": "a model, its events in the log",
    "log_save": "the same by record.save()",
}
# What is so little that it takes one process to tell, with its targets in µs and per cent.
LITTLE: dict[str, tuple[str, float | None, float | None]] = {
    "plain_again": ("nothing: plain SQLAlchemy once more", None, None),
    "no_hook_no_log": ("a model with neither hook nor log", 0, None),
    "hooks": ("a model with pre_save and post_save", 6, 2.5),
}
OWN_LISTENERS = "SQLAlchemy before_flush, after_flush"
PEERS = {
    OWN_LISTENERS: ("plain_listeners", "plain"),
    "Django signals": ("django_signals", "django_plain"),
    "peewee signals": ("peewee_signals", "peewee_plain"),
    "Tortoise signals": ("tortoise_signals", "tortoise_plain"),
}


def saves(pace: Pace) -> Iterator[Row]:
    names = ["plain", *ADDED, *dict.fromkeys(name for pair in PEERS.values() for name in pair if name != "plain")]
    yield from _little(beside(pace.processes * 2, pace.rounds * 5))
    found, missing = _cast(names, pace)
    for name, what in ADDED.items():
        yield from _added(name, what, found, missing)
    yield _attaching(found["attached"], found["connected"])


def _little(found: Beside) -> Iterator[Row]:
    plain = found.took["plain"].typical
    theirs = found.added["plain_listeners"].typical
    for name, (what, microseconds, per_cent) in LITTLE.items():
        added, noise = found.added[name].typical, found.added[name].noise
        raw = {"plain SQLAlchemy": plain, "earnorm": plain + added}
        peers: dict[str, float | str] = {OWN_LISTENERS: theirs / 1000} if name == "hooks" else {}
        gross = 5.0 if microseconds == 0 else None
        yield Row(BESIDE, what, added / 1000, "µs", microseconds, noise / 1000, raw, peers, gross_at=gross)
        if per_cent is not None:
            peers, scale = {OWN_LISTENERS: theirs / plain * 100}, 100 / plain
            yield Row(BESIDE, what, added * scale, "%", per_cent, noise * scale, peers=peers)
        calls = found.calls[name] - found.calls["plain"]
        remark = f"{found.calls[name]} functions written in Python are called, {found.calls['plain']} without EarnORM"
        yield Row(BESIDE, what, calls, "calls", remark=remark)


def _cast(names: Iterable[str], pace: Pace) -> tuple[dict[str, Cast], dict[str, str]]:
    """Each contestant in one process after the other, beside the others; and why some do not run here."""
    typical: dict[str, list[float]] = defaultdict(list)
    missing: dict[str, str] = {}
    for cast in range(pace.processes):
        with (
            tempfile.TemporaryDirectory() as folder,
            running(dict.fromkeys(names, folder), seed=cast) as (ready, absent),
        ):
            missing = absent
            for name, sample in measure(ready, pace).items():
                typical[name].append(sample.typical)
    return {name: Cast(tuple(values)) for name, values in typical.items()}, missing


def _attaching(attached: Cast, connected: Cast) -> Row:
    """What `attach` alone adds to saving a record that nobody hears of."""
    added, noise = attached.beside(connected)
    raw = {"not attached": connected.typical, "attached": attached.typical}
    return Row(SAVING, "attach() of a model nobody hears of", added / 1000, "µs", 0, noise / 1000, raw, gross_at=25.0)


def _added(name: str, what: str, found: Mapping[str, Cast], missing: Mapping[str, str]) -> Iterator[Row]:
    plain, ours = found["plain"], found[name]
    added, noise = ours.beside(plain)
    raw = {"plain SQLAlchemy": plain.typical, "earnorm": ours.typical}
    with_peers = name == "hooks"
    peers = {peer: _peer(one, other, found, missing) for peer, (one, other) in PEERS.items()} if with_peers else {}
    yield Row(SAVING, what, added / 1000, "µs", None, noise / 1000, raw, peers)
    if name in ("hooks", "log"):
        peers = {peer: _share(one, other, found, missing) for peer, (one, other) in PEERS.items()} if with_peers else {}
        scale = 100 / plain.typical
        yield Row(SAVING, what, added * scale, "%", None, noise * scale, peers=peers)


def _peer(one: str, other: str, found: Mapping[str, Cast], missing: Mapping[str, str]) -> float | str:
    """What a peer's own hooks add to its own save."""
    if why := missing.get(one) or missing.get(other):
        return why
    return found[one].beside(found[other])[0] / 1000


def _share(one: str, other: str, found: Mapping[str, Cast], missing: Mapping[str, str]) -> float | str:
    if why := missing.get(one) or missing.get(other):
        return why
    return found[one].beside(found[other])[0] / found[other].typical * 100


def models(pace: Pace) -> Iterator[Row]:
    """What `record.emit("seen")` costs, one handler in the transaction."""
    rows = {
        "emit_in_memory": ("record.emit(name), in memory", 1),
        "emit_connected": ("record.emit(name), connected, a transaction each", 1),
        "emit_in_transaction": ("record.emit(name), connected, each of 100 in a transaction", 100),
    }
    found, _missing = _cast(rows, pace)
    for name, (what, turns) in rows.items():
        yield Row(EMITTING, what, found[name].typical / turns / 1000, "µs")
