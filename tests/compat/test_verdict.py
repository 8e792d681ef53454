"""The verdict on somebody else's tests: what passed without us and does not with us, and nothing else."""

from tests.compat.verdict import EXEMPT, Verdict, exemption


def test_what_failed_without_us_is_not_our_doing():
    verdict = Verdict(
        {"a.py::one": "passed", "a.py::two": "call: oh"}, {"a.py::one": "passed", "a.py::two": "call: oh"}
    )

    assert {} == verdict.broken


def test_what_passed_without_us_and_fails_with_us_is_broken():
    verdict = Verdict({"a.py::one": "passed", "b.py::two": "passed"}, {"a.py::one": "call: oh", "b.py::two": "passed"})

    assert {"a.py::one": "call: oh"} == verdict.broken
    assert [("a.py", 1, 0, 1, 0), ("b.py", 1, 1, 0, 0)] == verdict.table()


def test_what_did_not_run_with_us_is_broken():
    assert {"a.py::one": "did not run"} == Verdict({"a.py::one": "passed"}, {}).broken


def test_what_is_exempt_says_why_and_is_counted_apart():
    test = "a.py::ClauseAttributesTest_sqlite+pysqlite_3_40_1::test_multi_update"

    verdict = Verdict({test: "passed"}, {test: "call: desired statement count 1 does not match 0"})

    assert {} == verdict.broken
    assert [("a.py", 1, 0, 0, 1)] == verdict.table()
    assert exemption(test) in EXEMPT.values()


def test_a_test_with_a_name_like_that_of_an_exempt_one_is_not_exempt():
    assert exemption("a.py::ClauseAttributesTest::test_update_column") is None
