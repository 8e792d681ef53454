"""Lists: what several commands show of the same kind, for the eye and for programs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import click

from earnorm.telemetry import escaped

__all__ = ["as_json", "columns", "counted", "say_json"]

as_json = click.option("--json", "as_json", is_flag=True, help="For programs.")


def say_json(value: Any) -> None:
    click.echo(json.dumps(value, indent=2))


def columns(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> Iterator[str]:
    """Lines with one row each, below their heads. What comes from outside cannot forge lines or colours."""
    cells = [list(heads), *([escaped(str(cell)) for cell in row] for row in rows)]
    widths = [max(len(row[place]) for row in cells) for place in range(len(heads))]
    for row in cells:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def counted(number: int, one: str, many: str = "") -> str:
    """`1 dead letter`, `2 dead letters`."""
    return f"{number:,} {one}" if number == 1 else f"{number:,} {many or f'{one}s'}"
