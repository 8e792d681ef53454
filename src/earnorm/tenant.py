"""The tenant: on whose behalf code runs here. Events carry it, and their handlers run on the same behalf."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar, Token

from earnorm.errors import InvalidTenant

__all__ = ["act_for", "acting_for", "current_tenant", "tenant"]

_tenant: ContextVar[str | None] = ContextVar("earnorm_tenant", default=None)
# The first tenant that was ever acted for in this process. While there is none, an emit in memory need not ask which
# one is acted for now: that would cost as much as a handler.
_first: list[str] = []


def current_tenant() -> str | None:
    """On whose behalf this task or thread runs; None outside any `with tenant(...)`."""
    return _tenant.get()


@contextmanager
def tenant(name: str | None) -> Iterator[None]:
    """Run what is inside on behalf of a tenant, in this task or thread; None for nobody's.

    Events that happen inside carry the name. Whatever handles them, in this process or another, loads their records
    and runs on the same behalf. Raises InvalidTenant.
    """
    if name is not None and not _is_name(name):
        raise InvalidTenant(name)
    with acting_for(name):
        yield


def _is_name(name: object) -> bool:
    return isinstance(name, str) and bool(name) and "\0" not in name


def act_for(name: str | None) -> Token[str | None]:
    """Act for a tenant in this context until the token resets it."""
    if name is not None and not _first:
        _first.append(name)
    return _tenant.set(name)


@contextmanager
def acting_for(name: str | None) -> Iterator[None]:
    """`tenant`, for a name that an event brings along."""
    token = act_for(name)
    try:
        yield
    finally:
        _tenant.reset(token)
