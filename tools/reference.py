"""The reference pages that are made from the code: `python tools/reference.py` writes them, a test says when to."""

from __future__ import annotations

import ast
import inspect
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args

from earnorm import handler, lifecycle
from earnorm.backoff import RetryRules
from earnorm.errors import HandlerError
from earnorm.handler import DeliveryMode, Options, Phase, make_handler

ROOT = Path(__file__).parent.parent
REFERENCE = ROOT / "docs" / "reference"
MADE = "<!-- Made by tools/reference.py from the code; edit that, and run it. -->\n"


def main() -> None:
    for name, page in PAGES.items():
        (REFERENCE / name).write_text(page())


def table(head: list[str], rows: Iterator[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *rows])


def text(words: str) -> str:
    """Words for a table's cell: on one line, with what Markdown would read escaped outside code."""
    pieces = re.split(r"(`[^`]*`)", " ".join(words.split()))
    return "".join(p if p.startswith("`") else re.sub(r"([|_*<>\[\]])", r"\\\1", p) for p in pieces)


# --- options ---------------------------------------------------------------------------------


def options_page() -> str:
    return f"""# Options

{MADE}
What a decorator may be told: `@pre_save(priority=10)`, `@event_handler("user.created", name="welcome")`.
An option that does not exist, has the wrong kind of value, or means nothing where it stands is an error at the
decorator.

{table(["option", "what it says", "it takes", "default"], _described())}

## Options and phases

Where an option means something.

{table(["option", *(phase.value for phase in Phase)], _by_phase())}

## Delivery

Which `delivery=` a decorator takes, and the phase it then runs in. One that takes none names its own moment. Those that
end in `_async` take a coroutine function, the others of a model a plain one; `event_handler` and `Model.on` take both.

{table(["decorator", "without delivery=", *(f'delivery="{mode}"' for mode in get_args(DeliveryMode))], _by_delivery())}

## Retries and outcomes

What `retry=` takes, and what a durable handler may return: [Retry, time out and give
up](../how-to/retry-and-give-up.md).
Durations are numbers of seconds, `timedelta`, or texts such as `"250ms"`, `"90s"`, `"5m"`, `"1h30m"`, `"2d"`, `"1w"`.

::: earnorm.Backoff

::: earnorm.Done

::: earnorm.Retry

::: earnorm.Skipped

::: earnorm.Dead

## Colours

How a coroutine function runs depends on its phase: before the SQL and in the transaction it is awaited, which needs
`asave`, `adelete` or `aemit`; after the commit it runs on the application's loop or the worker's own.
"""


def _described() -> Iterator[list[str]]:
    meanings = dict(_meanings())
    for field in fields(Options):
        _, expected = handler._CHECKS[field.name]
        default = DEFAULTS.get(field.name, f"`{field.default!r}`")
        yield [f"`{field.name}`", text(meanings[field.name]), text(expected), default]


def _meanings() -> Iterator[tuple[str, str]]:
    """The lines `name, name   meaning` of the docstring of Options."""
    for line in inspect.cleandoc(Options.__doc__ or "").splitlines():
        if found := re.fullmatch(r"(\w+(?:, \w+)*) {2,}(\S.*)", line):
            yield from ((name, re.sub(r" \(default.*\)$", "", found[2])) for name in found[1].split(", "))


# What None stands for.
DEFAULTS = {"name": "import path and qualified name", "delivery": "as the decorator says", "ordered": "`True`"}
DEFAULTS |= {"retry": "16 attempts, 5 s doubling to 6 h", "timeout": "none", "delay": "none"}
DEFAULTS |= {"concurrency": "as the worker's", "transactional": "`False`"}
SAMPLES: dict[str, Any] = {
    "name": "a_name",
    "priority": 1,
    "before": ("other",),
    "after": ("other",),
    "when": lambda: True,
    "ordered": False,
    "retry": RetryRules.parse(3),
    "timeout": 30.0,
    "delay": 3600.0,
    "concurrency": 1,
    "transactional": True,
    "group": "mail",
    "since": "beginning",
    "formerly": ("old",),
}
# A decorator of each phase.
STANDS_FOR = {
    Phase.BEFORE: "pre_save",
    Phase.TRANSACTION: "post_save",
    Phase.AFTER_COMMIT: "post_commit",
    Phase.DURABLE: "post_save_async",
    Phase.ROLLBACK: "post_rollback",
}


def _by_phase() -> Iterator[list[str]]:
    for option, sample in SAMPLES.items():
        taken = [_phase(STANDS_FOR[phase], phase, Options(**{option: sample})) for phase in Phase]
        yield [f"`{option}`", *("yes" if phase is not None else "error" for phase in taken)]
    yield ["`delivery`", *("see below" for _ in Phase)]


def _by_delivery() -> Iterator[list[str]]:
    for decorator, phase in _decorators().items():
        chosen = (_phase(decorator, phase, Options(delivery=mode)) for mode in get_args(DeliveryMode))
        yield [f"`{decorator}`", phase.value, *(p.value if p is not None else "error" for p in chosen)]


def _decorators() -> dict[str, Phase]:
    """Every decorator with the phase it has by itself: the model's hooks from the code, then what takes event names."""
    hooks = [name for name in vars(lifecycle) if name in lifecycle.__all__ and name.startswith(("pre_", "post_"))]
    found = {name: _own_phase(name) for name in hooks}
    on = {"on_event": Phase.TRANSACTION, "on_event_async": Phase.DURABLE}
    return {
        **found,
        **on,
        "event_handler": Phase.DURABLE,
        "event_handler_async": Phase.DURABLE,
        "Model.on": Phase.DURABLE,
    }


def _own_phase(decorator: str) -> Phase:
    def plain(self: Any) -> None: ...

    async def coroutine(self: Any) -> None: ...

    function: Any = coroutine if decorator.endswith("_async") else plain
    function.__qualname__ = f"Model.{decorator}"
    marked = getattr(lifecycle, decorator)(function)
    phase: Phase = marked.__earnorm_marks__[0].phase
    return phase


def _phase(decorator: str, phase: Phase, options: Options) -> Phase | None:
    try:
        return make_handler(main, decorator, phase, options).phase
    except HandlerError:
        return None


# --- errors ----------------------------------------------------------------------------------


def errors_page() -> str:
    module = ast.parse((ROOT / "src" / "earnorm" / "errors.py").read_text())
    classes = [node for node in module.body if isinstance(node, ast.ClassDef) and node.bases]
    parents = {node.name: ast.unparse(node.bases[0]) for node in classes}
    groups = [node for node in classes if parents[node.name] in ("EarnORMError", "Exception")]
    root, *groups = groups

    def within(name: str, group: str) -> bool:
        parent = parents.get(name)
        return parent is not None and (parent == group or within(parent, group))

    sections = "\n\n".join(_section(group, [n for n in classes if within(n.name, group.name)]) for group in groups)
    return f"""# Errors

{MADE}
All errors are in `earnorm.errors`, in one tree. {text(ast.get_docstring(root) or "")}
Each says what was wrong, with the value, and what to do next; its facts are attributes. Words in *italics* are filled
in.

{sections}

## In the package

::: earnorm.EarnORMError

::: earnorm.Abort

::: earnorm.StopPropagation

::: earnorm.Discard

::: earnorm.RetryLater
"""


def _section(group: ast.ClassDef, members: list[ast.ClassDef]) -> str:
    rows = ([f"`{node.name}`", text(_first(node)), _message(node)] for node in members)
    return f"## {group.name}\n\n{text(_first(group))}\n\n{table(['error', 'when', 'what it says'], rows)}"


def _first(node: ast.ClassDef) -> str:
    return (ast.get_docstring(node) or "").strip()


def _message(node: ast.ClassDef) -> str:
    """The text given to `super().__init__`, with what is filled in by name."""
    for call in ast.walk(node):
        if isinstance(call, ast.Call) and ast.unparse(call.func).endswith(".__init__"):
            return _template(call.args[0 if ast.unparse(call.func).startswith("super()") else 1])
    return ""


def _template(node: ast.expr) -> str:
    match node:
        case ast.IfExp(body=body):
            return _template(body)
        case ast.Constant(value=value):
            return text(str(value)) if str(value).strip() else str(value)
        case ast.JoinedStr(values=values):
            return " ".join("".join(_piece(value) for value in values).split())
        case _:
            return f"*{ast.unparse(node)}*"


def _piece(node: ast.expr) -> str:
    if isinstance(node, ast.Constant):
        return re.sub(r"^.*$", lambda found: _kept(found[0]), str(node.value), flags=re.MULTILINE)
    if not isinstance(node, ast.FormattedValue):
        return _template(node)
    name = node.value
    if isinstance(name, ast.Call) and ast.unparse(name.func) == "_did_you_mean":
        return "; "
    while isinstance(name, ast.Call):
        name = name.args[0] if name.args else name.func
    if isinstance(name, ast.BoolOp):
        name = name.values[0]
    return f"*{text(ast.unparse(name))}*"


def _kept(words: str) -> str:
    """`text`, with the blanks at both ends."""
    return (
        words[: len(words) - len(words.lstrip())] + text(words) + words[len(words.rstrip()) :]
        if words.strip()
        else words
    )


# --- write paths -----------------------------------------------------------------------------


def write_paths_page() -> str:
    sys.path.insert(0, str(ROOT))
    from tools.write_paths import PATHS

    return f"""# Write paths

{MADE}
Every way a row can change, and what its model's hooks and events make of it. Each cell is a test on SQLite and on
PostgreSQL. How to choose the policy: [Write many rows at once](../how-to/bulk-writes.md).

{table(PATH_COLUMNS, map(_path, PATHS))}

* *refused* is `BulkRefused`, before anything is written.
* `pre_` hooks of an INSERT of dictionaries run on a record made of each; what they set is written.
* An upsert tells what happened to each row: `created` of a new one, `updated` with old and new values of one that was
  there, nothing of one that stays as it is.
* A database's cascade onto a model with `__bulk__ = "refuse"` is refused; with `"batch"` it tells one event a model.
* Statements on a table (Core) and text tell nothing: they know no model. Write through the model.
"""


PATH_COLUMNS = ["the write", "as written", "events, with `__bulk__ = 'rows'`", "`pre_` hooks", "`post_` hooks"]
PATH_COLUMNS += ["`'batch'`", "`'refuse'`"]


def _path(path: Any) -> list[str]:
    events = ", ".join(f"`{event.name}`" + (" (old, new)" if event.changes else "") for event in path.events)
    batch = f"`account.{path.batch}`" if path.batch else "as `'rows'`"
    words = {"runs": "run", "refused": "*refused*", "none": "-"}
    refuse = "*refused*" if path.refuse else "as `'rows'`"
    if not path.events and path.pre == path.post == "none":
        batch = refuse = "-"
    return [text(path.title), f"`{path.code}`", events or "none", words[path.pre], words[path.post], batch, refuse]


PAGES: dict[str, Callable[[], str]] = {
    "errors.md": errors_page,
    "options.md": options_page,
    "write-paths.md": write_paths_page,
}

if __name__ == "__main__":
    main()
