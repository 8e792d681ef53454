"""A verdict: how each test of a suite ended without us and with us, and which of them we broke."""

import re
from collections import Counter
from dataclasses import dataclass

_READ_BACK = (
    "somebody hears of the event, so a value that the database made is read back at once, not when it is asked for"
)

# Differences that are promised, or that no listener on every Session could avoid: by name of the test, and why.
EXEMPT = {
    "SessionEventsTest::test_sessionmaker_gen_after_session_listen": "calls every listener of before_flush without "
    "its arguments",
    "ClauseAttributesTest::test_clauseelement_accessor": _READ_BACK,
    "ClauseAttributesTest::test_update": _READ_BACK,
    "ClauseAttributesTest::test_multi_update": _READ_BACK,
    "ClauseAttributesTest::test_update_special_comparator": _READ_BACK,
    "DefaultTest::test_insert[not_eager_defaults]": _READ_BACK,
    "OptimizedLoadTest::test_load_expired_on_pending[not_eager_defaults]": _READ_BACK,
    "OptimizedLoadTest::test_load_expired_on_pending_twolevel": _READ_BACK,
    "ComputedDefaultsOnUpdateTest::test_insert_computed[noneager]": _READ_BACK,
    "ComputedDefaultsOnUpdateTest::test_update_computed": _READ_BACK,
    "LifecycleTest::test_attr_not_inserted_fetched": _READ_BACK,
    "MapperEventsTest::test_inheritance": _READ_BACK,
    "MapperEventsTest::test_inheritance_subclass_deferred": _READ_BACK,
    "BatchInsertsTest::test_batch_interaction": _READ_BACK,
    "EagerDefaultsSettingTest::test_eager_default_setting_inserts_no_pks": _READ_BACK,
    "EagerDefaultsSettingTest::test_eager_default_setting_updates": _READ_BACK,
    "EagerDefaultsTest::test_clientsql_update_defaults_nonpresent": _READ_BACK,
    "EagerDefaultsTest::test_server_update_defaults_nonpresent": _READ_BACK,
    "EagerDefaultsTest::test_update_defaults_present_as_expr": _READ_BACK,
    "ServerVersioningTest::test_multi_update": _READ_BACK,
    "ServerVersioningTest::test_update_col": _READ_BACK,
    "ServerVersioningTest::test_update_col_eager_defaults": _READ_BACK,
    "BindIntegrationTest::test_bind_through_execute": "hands out a mock for the result, which has no number of rows",
}


@dataclass(frozen=True)
class Verdict:
    """`without` and `with_us` are outcomes by test. A test that did not run with us counts as broken."""

    without: dict
    with_us: dict

    @property
    def broken(self):
        """What passed without us and does not with us, and why."""
        return {
            test: self.with_us.get(test, "did not run")
            for test, outcome in self.without.items()
            if outcome == "passed" and self.with_us.get(test, "did not run") != "passed" and exemption(test) is None
        }

    def table(self):
        """Rows of module, passed without us, passed with us, broken, exempt."""
        modules = sorted({module_of(test) for test in self.without})
        without, with_us = _passed(self.without), _passed(self.with_us)
        broken = Counter(map(module_of, self.broken))
        exempt = Counter(
            module_of(test)
            for test, outcome in self.without.items()
            if outcome == "passed" and self.with_us.get(test, "did not run") != "passed" and exemption(test) is not None
        )
        return [(m, without[m], with_us[m], broken[m], exempt[m]) for m in modules]


def exemption(test):
    """Why this test is exempt, or None. The database's name in that of its class does not count."""
    _, _, name = re.sub(r"_\w+\+[\w.]+(?=::)", "", test).partition("::")
    return EXEMPT.get(name) or EXEMPT.get(name.partition("[")[0])


def module_of(test):
    return test.partition("::")[0]


def _passed(outcomes):
    return Counter(module_of(test) for test, outcome in outcomes.items() if outcome == "passed")
