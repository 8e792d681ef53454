"""A verdict: how each test of a suite ended without us and with us, and which of them we broke."""

from collections import Counter
from dataclasses import dataclass

from tests.compat.exemptions import exemption


@dataclass(frozen=True)
class Verdict:
    """`without` and `with_us` are outcomes by test, with hooks attached in `way`. What did not run counts as broken."""

    without: dict
    with_us: dict
    way: str

    @property
    def broken(self):
        """What passed without us and does not with us, and why."""
        return {test: ended for test, ended in self._differing() if exemption(test, self.way) is None}

    @property
    def exempt(self):
        """What differs and may, and why."""
        return {test: why for test, _ in self._differing() if (why := exemption(test, self.way)) is not None}

    def _differing(self):
        for test, outcome in self.without.items():
            ended = self.with_us.get(test, "did not run")
            if outcome == "passed" and ended != "passed":
                yield test, ended

    def table(self):
        """Rows of module, passed without us, passed with us, broken, exempt."""
        modules = sorted({module_of(test) for test in self.without})
        without, with_us = _passed(self.without), _passed(self.with_us)
        broken = Counter(map(module_of, self.broken))
        exempt = Counter(map(module_of, self.exempt))
        return [(m, without[m], with_us[m], broken[m], exempt[m]) for m in modules]


def module_of(test):
    return test.partition("::")[0]


def _passed(outcomes):
    return Counter(module_of(test) for test, outcome in outcomes.items() if outcome == "passed")
