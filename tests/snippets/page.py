"""A page: its fenced Python blocks, run in order in one namespace, and what each of them prints.

As a script it runs one page and says what went wrong: `python tests/snippets/page.py README.md`.
A ```text block right behind a ```python block is what that one prints; `...` in it stands for anything on its line.
A block fenced ```python no-run begins with the comment `# not run: ` and the reason.
"""

import ast
import asyncio
import contextlib
import inspect
import io
import re
import sys
import textwrap
import types
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

FENCE = re.compile(r"^(?P<indent> *)```(?P<info>[^\n`]*)\n(?P<body>.*?)^(?P=indent)```[ ]*$", re.DOTALL | re.MULTILINE)
REASON = "# not run: "
# A block may await at its top level, as in an interactive session.
FLAGS = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT


class PageError(Exception):
    """What a page shows is not what happens."""


@dataclass(frozen=True)
class Block:
    """One Python block: where it stands and, if the page says so, what it prints."""

    line: int
    source: str
    runs: bool
    prints: str | None


def blocks(text: str) -> list[Block]:
    """The Python blocks of a page. Raises PageError for one that nobody would run, or that hides why."""
    found: list[Block] = []
    fences = list(FENCE.finditer(text))
    for fence, following in zip(fences, [*fences[1:], None], strict=True):
        info = fence["info"].strip()
        if info.partition(" ")[0] not in ("python", "py", "python3"):
            continue
        line = text.count("\n", 0, fence.start()) + 2
        source = textwrap.dedent(fence["body"])
        if info not in ("python", "python no-run"):
            raise PageError(f"line {line - 1}: the fence says {info!r}; write python or python no-run")
        if info != "python" and not source.startswith(REASON):
            raise PageError(f"line {line}: a block that is not run begins with {REASON!r} and the reason")
        found.append(Block(line, source, info == "python", _prints(text, fence, following)))
    return found


def _prints(text: str, fence: re.Match[str], following: re.Match[str] | None) -> str | None:
    if following is None or following["info"].strip() != "text" or text[fence.end() : following.start()].strip():
        return None
    return textwrap.dedent(following["body"])


def run(path: Path) -> None:
    """Run every block of a page. Raises what a block raises, and PageError where one prints something else."""
    page = types.ModuleType("page")
    sys.modules["page"] = page
    with asyncio.Runner() as runner:
        for block in blocks(path.read_text()):
            if block.runs:
                printed = _run(block, path, page, runner)
                _compare(block, printed)


def _run(block: Block, path: Path, page: types.ModuleType, runner: asyncio.Runner) -> str:
    """Run one block; tracebacks show the page's own lines."""
    code = compile("\n" * (block.line - 1) + block.source, str(path), "exec", flags=FLAGS)
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        if code.co_flags & inspect.CO_COROUTINE:
            runner.run(_awaited(code, page))
        else:
            exec(code, vars(page))
    return printed.getvalue()


async def _awaited(code: types.CodeType, page: types.ModuleType) -> None:
    await eval(code, vars(page))


def _compare(block: Block, printed: str) -> None:
    if block.prints is None or printed.rstrip() == block.prints.rstrip():
        return
    pattern = re.escape(block.prints.rstrip()).replace(re.escape("..."), "[^\n]*")
    if not re.fullmatch(pattern, printed.rstrip()):
        raise PageError(f"line {block.line}: the page promises\n{block.prints}\nand this was printed\n{printed}")


def pages(root: Path) -> Iterator[Path]:
    yield root / "README.md"
    yield from sorted((root / "docs").rglob("*.md"))


if __name__ == "__main__":
    # Pages about tests show what holds under pytest, where the plugin watches.
    from earnorm.testing.failures import watched

    with watched():
        run(Path(sys.argv[1]))
