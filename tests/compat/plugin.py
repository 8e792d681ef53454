"""A pytest plugin for somebody else's suite: it attaches our hooks, and writes down how each test ended."""

import json
from pathlib import Path

import pytest


def pytest_addoption(parser):
    group = parser.getgroup("compat")
    group.addoption("--compat-way", default="none", help="how our hooks are attached: none, or one of attachment.WAYS")
    group.addoption("--compat-outcomes", help="the file that takes down how each test ended")


def pytest_configure(config):
    config.pluginmanager.register(Recorder(config))


class Recorder:
    """Outcomes by test: passed, skipped, or the first thing that failed."""

    def __init__(self, config):
        self.path = config.getoption("--compat-outcomes")
        self.way = config.getoption("--compat-way")
        self.is_worker = hasattr(config, "workerinput")
        self.attachment = None
        self.outcomes = {}
        self.calls = {}

    def pytest_sessionstart(self):
        if self.way != "none":
            # Not earlier: the suite's own plugin wants to be the first to import SQLAlchemy.
            from tests.compat.attachment import Attachment

            self.attachment = Attachment(self.way)
            self.attachment.attach()

    def pytest_runtest_setup(self):
        if self.attachment is not None:
            self.attachment.renew()

    def pytest_runtest_logreport(self, report):
        if report.failed:
            self.outcomes[report.nodeid] = f"{report.when}: {report.longrepr}"
        elif report.when == "call" or report.skipped:
            self.outcomes.setdefault(report.nodeid, "xfailed" if hasattr(report, "wasxfail") else report.outcome)

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node):
        for name, number in getattr(node, "workeroutput", {}).get("compat", {}).items():
            self.calls[name] = self.calls.get(name, 0) + number

    def pytest_sessionfinish(self, session):
        if self.attachment is not None:
            self.calls.update(self.attachment.calls)
        if self.is_worker:
            session.config.workeroutput["compat"] = self.calls
        elif self.path:
            Path(self.path).write_text(json.dumps({"outcomes": self.outcomes, "calls": self.calls}))
