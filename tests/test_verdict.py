"""What is kept of a failed attempt: its text, and a fingerprint that finds its like."""

from __future__ import annotations

import json
from uuid import uuid4

from earnorm.verdict import Verdict


def caught(function, *arguments) -> BaseException:
    try:
        function(*arguments)
    except Exception as error:
        return error
    raise AssertionError("it was to fail")


def refuse(message):
    raise ValueError(message)


def refuse_elsewhere(message):
    raise ValueError(message)


def fingerprint(function, *arguments) -> str:
    return Verdict.of(caught(function, *arguments), "mail").fingerprint


class TestFingerprints:
    def test_ids_numbers_addresses_and_quoted_values_do_not_tell_errors_apart(self):
        messages = [
            f"order {uuid4()} of 'Ada' at {object()} costs 12.50",
            f"order {uuid4()} of 'Bob' at {object()} costs 7",
        ]

        assert 1 == len({fingerprint(refuse, message) for message in messages})

    def test_words_types_and_places_do(self):
        def other(message):
            raise KeyError(message)

        found = {
            fingerprint(refuse, "closed"),
            fingerprint(refuse, "open"),
            fingerprint(refuse_elsewhere, "closed"),
            fingerprint(other, "closed"),
        }

        assert 4 == len(found)

    def test_the_place_is_the_innermost_one_outside_libraries(self):
        def load():
            json.loads("{")

        def load_twice():
            json.loads("{")

        assert fingerprint(load) == fingerprint(load)
        assert fingerprint(load) != fingerprint(load_twice)

    def test_they_are_the_same_in_every_process(self):
        assert "6f9d9a31e425" == Verdict.of(ValueError("order 7 is closed"), "mail").fingerprint

    def test_reasons_without_an_error_have_one_too(self):
        one, same, other = (Verdict.of_words("Dead", words, "mail") for words in ("no 1", "no 2", "never"))

        assert one.fingerprint == same.fingerprint != other.fingerprint
