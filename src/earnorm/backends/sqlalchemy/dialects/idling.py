"""Idling: how long a transaction that holds what others wait for may stand still, where a server can end it."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Boolean
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql import ColumnElement

__all__ = ["LimitIdling", "limit_idling"]

_IDLE = "idle_in_transaction_session_timeout"


def limit_idling(seconds: int) -> str:
    """PostgreSQL's condition that always holds, and sets the limit for this transaction. A shorter one stays."""
    own = f"current_setting('{_IDLE}')"
    shorter = f"{own}::interval BETWEEN '1 microsecond' AND '{seconds} seconds'"
    return f"(SELECT set_config('{_IDLE}', CASE WHEN {shorter} THEN {own} ELSE '{seconds}s' END, true)) IS NOT NULL"


class LimitIdling(ColumnElement[bool]):
    """In the statement that takes a lock it costs no round trip. SQLite, a file on this host, has no such limit."""

    inherit_cache = True
    type = Boolean()

    def __init__(self, seconds: int) -> None:
        self.seconds = seconds


@compiles(LimitIdling)
def _nowhere_else(_element: LimitIdling, _compiler: Any, **_options: Any) -> str:
    return "1 = 1"


@compiles(LimitIdling, "postgresql")
def _on_postgresql(element: LimitIdling, _compiler: Any, **_options: Any) -> str:
    return limit_idling(element.seconds)
