"""The verdict on somebody else's tests: what passed without us and does not with us, and nothing else."""

from tests.compat.exemptions import exemption
from tests.compat.verdict import Verdict


def test_what_failed_without_us_is_not_our_doing():
    verdict = Verdict(
        {"a.py::one": "passed", "a.py::two": "call: oh"}, {"a.py::one": "passed", "a.py::two": "call: oh"}, "hooks"
    )

    assert {} == verdict.broken


def test_what_passed_without_us_and_fails_with_us_is_broken():
    verdict = Verdict(
        {"a.py::one": "passed", "b.py::two": "passed"}, {"a.py::one": "call: oh", "b.py::two": "passed"}, "hooks"
    )

    assert {"a.py::one": "call: oh"} == verdict.broken
    assert [("a.py", 1, 0, 1, 0), ("b.py", 1, 1, 0, 0)] == verdict.table()


def test_what_did_not_run_with_us_is_broken():
    assert {"a.py::one": "did not run"} == Verdict({"a.py::one": "passed"}, {}, "hooks").broken


def test_what_is_exempt_says_why_and_is_counted_apart():
    test = "a.py::ClauseAttributesTest_sqlite+pysqlite_3_40_1::test_multi_update"

    verdict = Verdict({test: "passed"}, {test: "call: desired statement count 1 does not match 0"}, "events")

    assert {} == verdict.broken
    assert [("a.py", 1, 0, 0, 1)] == verdict.table()
    assert "read back at once" in verdict.exempt[test]


def test_a_test_with_a_name_like_that_of_an_exempt_one_is_not_exempt():
    assert exemption("a.py::ClauseAttributesTest::test_update_column", "log") is None


def test_what_differs_where_rows_are_told_one_by_one_is_not_exempt_where_they_are_not():
    test = "a.py::BulkInsertUpdateTest::test_bulk_update[update_stmt]"

    assert ["SELECT" in (exemption(test, way) or "") for way in ("hooks", "events", "log")] == [False, False, True]
