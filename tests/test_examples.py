"""The examples: each runs, prints what its last comment says, and holds the specification's block unchanged."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
EXAMPLES = sorted((ROOT / "examples").glob("[0-9]*.py"))
SPEC = re.findall(r"### ([^\n]+)\n```python\n(.*?)```", (ROOT / "tests/examples/spec_blocks.md").read_text(), re.DOTALL)
PRINTS = "\n# Prints:\n#\n"


def run(path):
    """A fresh process in which a warning is an error, without the settings of whoever runs the suite."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("EARNORM_")}
    env["PYTHONPATH"] = str(ROOT / "src")
    command = [sys.executable, "-W", "error", str(path)]
    return subprocess.run(command, capture_output=True, text=True, env=env, timeout=60, check=False)


def promised(path):
    """What the comment at the end of an example says it prints."""
    source, _, comment = path.read_text().rpartition(PRINTS)
    assert source, f"{path.name} does not end with what it prints"
    return [line.removeprefix("#").removeprefix(" ") for line in comment.splitlines()]


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_prints_what_it_says(path):
    ended = run(path)

    assert (0, "") == (ended.returncode, ended.stderr)
    assert promised(path) == ended.stdout.splitlines()


# From ten on they are about frameworks, which have doors of their own.
@pytest.mark.parametrize("path", [path for path in EXAMPLES if path.stem < "10"], ids=lambda path: path.stem)
def test_an_example_shows_both_doors(path):
    source = path.read_text()

    assert "with connect(" in source
    assert "async with connect(" in source


@pytest.mark.parametrize("number, title, block", [(n, *found) for n, found in enumerate(SPEC, start=1)])
def test_the_specification_stands_in_its_example_word_for_word(number, title, block):
    name = f"{number:02}_{title.lower().replace(' ', '_')}.py"

    assert block in (ROOT / "examples" / name).read_text()


def test_the_specification_has_four_blocks():
    assert ["Model Lifecycle Events", "Custom Events", "Event Handlers", "Async Events"] == [title for title, _ in SPEC]
