"""The docs run: every Python block of the README and of docs/, page by page, each page in a process of its own."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.snippets.page import PageError, blocks, pages, run

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "tests" / "snippets" / "page.py"
WITH_PYTHON = [page for page in pages(ROOT) if "```py" in page.read_text()]


@pytest.mark.parametrize("page", WITH_PYTHON, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_page_does_what_it_shows(page, tmp_path):
    env = {name: value for name, value in os.environ.items() if not name.startswith("EARNORM_")}
    env["PYTHONPATH"] = str(ROOT / "src")
    command = [sys.executable, "-W", "error", str(PAGE), str(page)]
    ended = subprocess.run(command, capture_output=True, text=True, env=env, cwd=tmp_path, timeout=60, check=False)

    assert (0, "") == (ended.returncode, ended.stderr)


def test_what_the_readme_points_at_is_there():
    text = (ROOT / "README.md").read_text()
    linked = re.findall(r"\]\(([^)#]+)\)", text) + re.findall(r"`((?:tests|examples)/[\w/]+\.py)", text)
    proofs = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", text)

    assert [] == [path for path in linked if not (ROOT / path).exists()]
    assert proofs
    assert [] == [name for path, name in proofs if f"def {name}(" not in (ROOT / path).read_text()]


def written(folder, text):
    page = folder / "page.md"
    page.write_text(text)
    return page


def test_blocks_of_a_page_share_their_names_and_may_await(tmp_path):
    page = written(
        tmp_path, "```python\nx = 1\n```\n\n```python\nimport asyncio\nawait asyncio.sleep(0)\nassert x == 1\n```"
    )

    run(page)


def test_a_text_block_behind_a_block_is_what_it_prints(tmp_path):
    good = "```python\nprint('a', object())\n```\n\n```text\na <object object at ...>\n```\n"
    run(written(tmp_path, good))

    with pytest.raises(PageError, match="line 2: the page promises"):
        run(written(tmp_path, good.replace("print('a'", "print('b'")))


def test_a_failing_block_shows_the_line_of_its_page(tmp_path):
    page = written(tmp_path, "# Title\n\n```python\n1 / 0\n```\n")

    with pytest.raises(ZeroDivisionError) as failed:
        run(page)
    assert (str(page), 4) == (failed.traceback[-1].frame.code.raw.co_filename, failed.traceback[-1].lineno + 1)


def test_a_block_that_does_not_run_says_why():
    assert [False] == [block.runs for block in blocks("```python no-run\n# not run: needs a server\nf()\n```")]
    with pytest.raises(PageError, match="the reason"):
        blocks("```python no-run\nf()\n```")


def test_a_fence_that_only_looks_like_python_is_refused():
    with pytest.raises(PageError, match="the fence says 'py'"):
        blocks("```py\nf()\n```")


def test_a_block_in_a_list_loses_its_indent():
    assert ["f()\n"] == [block.source for block in blocks("* so:\n\n  ```python\n  f()\n  ```\n")]
