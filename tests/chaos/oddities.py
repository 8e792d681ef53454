"""Payloads and rows that nobody meant: seeded, so that a failure can be had again."""

import json
from datetime import UTC, datetime
from random import Random
from uuid import UUID

from earnorm.slots import slot_of

STRINGS = (
    "\0",
    "\ud800",
    "a\u0301" * 50,
    "\u202eevil",
    "\U0001f4a9",
    "'; DROP TABLE earnorm_log; --",
    "\x1b[2J\r\n",
    "",
)
NUMBERS = (float("nan"), float("inf"), -0.0, 1e308 * 10, 2**80, -(2**63) - 1, 1e-400)


def payload(chance: Random):
    """Something to emit that may well be refused."""
    match chance.randrange(9):
        case 0:
            return chance.choice(NUMBERS)
        case 1:
            return chance.choice(STRINGS) * chance.randint(1, 20)
        case 2:
            return _deep(chance.randint(1, 2_000))
        case 3:
            return {chance.choice((1, None, ("a",), b"k", "__class__")): 1}
        case 4:
            return object()
        case 5:
            return {str(number): number for number in range(chance.randint(0, 10_000))}
        case 6:
            return "x" * chance.choice((0, 1, 1_000, 300_000, 1_000_000))
        case 7:
            return {1, 2} if chance.random() < 0.5 else {"__proto__": {"__class__": "os.system"}}
        case _:
            return [chance.choice(STRINGS[2:]), chance.randbytes(chance.randint(0, 50))]


def _deep(levels):
    made = []
    for _ in range(levels):
        made = [made]
    return made


def data(chance: Random):
    """Bytes that stand where an entry's data should."""
    valid = json.dumps({"payload": {"number": 1}, "changes": {}}).encode()
    match chance.randrange(7):
        case 0:
            return chance.randbytes(chance.randint(0, 200))
        case 1:
            return valid[: chance.randrange(len(valid))]
        case 2:
            return chance.choice((b"null", b"1e400", b"[]", b'"text"', b"NaN", b"-0", b"{}", b"\xff\xfe", b"\0"))
        case 3:
            return b"[" * chance.randint(100, 50_000)
        case 4:
            return b'{"payload": ' + chance.choice((b"[1]", b"7", b"null", b'"p"', b"{1: 2}")) + b"}"
        case 5:
            return b'{"payload": {"a": 1, "a": 2}, "changes": {"b": [1]}}'
        case _:
            return b'{"payload": {"__t": "pickle", "v": "gASV"}, "changes": 7}'


def row(chance: Random):
    """A row of the log, as raw SQL would write it."""
    made = chance.randbytes(16)
    key = chance.choice(("odd:1", "odd:2", "", "odd:'\"%s", "no such:9"))
    return {
        "id": made,
        "name": chance.choice(("odd.sent", "odd.sent", "odd.created", "odd", "odd..", "ODD.sent")),
        "subject": chance.choice(("odd", "", "no such")),
        "key": key,
        "slot": slot_of(key, made),
        "data": data(chance),
        "at": chance.choice((0, 1, int(datetime.now(UTC).timestamp() * 1e6))),
        "correlation_id": UUID(bytes=made).bytes,
        "causation_id": None,
        "depth": chance.choice((0, 1, 31)),
        "tenant": None,
        "version": chance.choice((1, 1, 2, 99)),
    }
