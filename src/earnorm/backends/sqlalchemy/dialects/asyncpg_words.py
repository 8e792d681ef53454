"""What a URL says in libpq's words, in those of asyncpg: one URL is for both halves of a database."""

from __future__ import annotations

import inspect
import re
from importlib import import_module
from typing import Any

from sqlalchemy.engine import URL

from earnorm.errors import UnsupportedDatabase

__all__ = ["for_asyncpg"]

# The words of SQLAlchemy's dialect itself.
_OF_THE_DIALECT = frozenset({"prepared_statement_cache_size", "prepared_statement_name_func"})

# What is said otherwise, and what is psycopg's own business.
_TRANSLATED = ("options", "application_name", "connect_timeout", "prepare_threshold")

_WORD = re.compile(r"(?:\\.|[^\\\s])+")
_SETTING = re.compile(r"(?:-c\s*|--)([\w.-]+)=(.*)", re.DOTALL)


def for_asyncpg(url: URL) -> tuple[URL, dict[str, Any]]:
    """The URL as asyncpg reads it, and what it takes as `connect_args`. Raises UnsupportedDatabase."""
    said = {word: _last(url, word) for word in _TRANSLATED if word in url.query}
    connect: dict[str, Any] = {}
    settings = _settings(url, said["options"]) if "options" in said else {}
    if "application_name" in said:
        settings["application_name"] = said["application_name"]
    if settings:
        connect["server_settings"] = settings
    if "connect_timeout" in said:
        connect["timeout"] = _seconds(url, said["connect_timeout"])
    url = url.difference_update_query(_TRANSLATED)
    _refuse_unknown(url)
    return url, connect


def _last(url: URL, word: str) -> str:
    value = url.query[word]
    return value if isinstance(value, str) else value[-1]


def _settings(url: URL, options: str) -> dict[str, str]:
    """What libpq's `options` set, as a server reads them: -c name=value, or --name=value."""
    words = (re.sub(r"\\(.)", r"\1", word, flags=re.DOTALL) for word in _WORD.findall(options))
    settings: dict[str, str] = {}
    for word in words:
        found = _SETTING.fullmatch(word + next(words, "") if word == "-c" else word)
        if found is None:
            raise UnsupportedDatabase(
                url.render_as_string(), f"options={options!r} is more than settings (-c name=value)"
            )
        settings[found[1].replace("-", "_")] = found[2]
    return settings


def _seconds(url: URL, text: str) -> float | None:
    """None for libpq's "without end"."""
    try:
        seconds = float(text)
    except ValueError:
        raise UnsupportedDatabase(url.render_as_string(), f"connect_timeout={text!r} is no number") from None
    return seconds if seconds > 0 else None


def _refuse_unknown(url: URL) -> None:
    asyncpg = import_module("asyncpg")

    known = _OF_THE_DIALECT.union(inspect.signature(asyncpg.connect).parameters)
    for word in url.query:
        if word not in known:
            raise UnsupportedDatabase(
                url.render_as_string(),
                f"asyncpg knows no {word!r}; give connect() an AsyncEngine whose connect_args say what you mean",
            )
