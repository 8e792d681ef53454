"""Severing: a connection ended under whoever uses it in another thread or task, and its transaction rolled back."""

from __future__ import annotations

import os
import socket
import sqlite3
from typing import Any

__all__ = ["sever"]


def sever(connection: Any) -> None:
    """End a driver's connection, of which nobody here has any more use; who still has it gets errors."""
    driver = getattr(connection, "driver_connection", None) or connection
    # Below aiosqlite: who closes one that was only told to stop, and has not yet, waits for an answer for ever.
    driver = getattr(driver, "_connection", None) or driver
    if isinstance(driver, sqlite3.Connection):
        # Not closed: a thread that is inside SQLite would go on with freed memory. Not only rolled back: what came
        # after would commit by itself. What runs on it now ends first.
        driver.interrupt()
        driver.set_authorizer(_only_rollback)
        driver.rollback()
    elif hasattr(driver, "pgconn"):
        # Below psycopg, whose own close is nothing for another thread. The server rolls back when it sees the end.
        with socket.socket(fileno=os.dup(driver.pgconn.socket)) as wire:
            wire.shutdown(socket.SHUT_RDWR)
    else:
        driver.terminate()


def _only_rollback(action: int, operation: str | None, *_: str | None) -> int:
    is_rollback = action == sqlite3.SQLITE_TRANSACTION and operation == "ROLLBACK"
    return sqlite3.SQLITE_OK if is_rollback else sqlite3.SQLITE_DENY
