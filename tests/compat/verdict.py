"""A verdict: how each test of a suite ended without us and with us, and which of them we broke."""

from collections import Counter
from dataclasses import dataclass

# Tests that no listener on every Session can pass, whoever's it is.
EXEMPT = {
    "SessionEventsTest::test_sessionmaker_gen_after_session_listen": "calls every listener of before_flush without "
    "its arguments",
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
            if outcome == "passed" and self.with_us.get(test) != "passed" and exemption(test) is None
        }

    def table(self):
        """Rows of module, passed without us, passed with us, broken, exempt."""
        modules = sorted({module_of(test) for test in self.without})
        without, with_us = _passed(self.without), _passed(self.with_us)
        broken = Counter(map(module_of, self.broken))
        exempt = Counter(module_of(t) for t in self.without if exemption(t) and self.with_us.get(t) != "passed")
        return [(m, without[m], with_us[m], broken[m], exempt[m]) for m in modules]


def exemption(test):
    return next((why for name, why in EXEMPT.items() if f"::{name}" in test), None)


def module_of(test):
    return test.partition("::")[0]


def _passed(outcomes):
    return Counter(module_of(test) for test, outcome in outcomes.items() if outcome == "passed")
