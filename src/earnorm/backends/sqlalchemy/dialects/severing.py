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
    if isinstance(driver, sqlite3.Connection):
        # What runs on it now ends first.
        driver.interrupt()
        driver.close()
    elif hasattr(driver, "pgconn"):
        # Below psycopg, whose own close is nothing for another thread. The server rolls back when it sees the end.
        with socket.socket(fileno=os.dup(driver.pgconn.socket)) as wire:
            wire.shutdown(socket.SHUT_RDWR)
    elif hasattr(driver, "terminate"):
        driver.terminate()
    else:
        driver.stop()
