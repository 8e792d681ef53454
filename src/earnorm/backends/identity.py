"""An identity: the name under which a handler's subscription is recorded, whatever its handler is called by now."""

from __future__ import annotations

from collections.abc import Collection

from earnorm.errors import NameTakenTwice
from earnorm.store import Registration

__all__ = ["identify"]


def identify(given: Registration, aliases: dict[str, str], known: Collection[str]) -> str:
    """The recorded name: a former one, where that is `known`; what was learned of names is added to `aliases`.

    Old and new versions of a program may come in any order and side by side: each name leads to the one recorded.
    Raises NameTakenTwice.
    """
    name = aliases.get(given.name, given.name)
    for former in given.formerly:
        recorded = aliases.get(former, former)
        if recorded == name:
            continue
        if recorded in known and name in known:
            raise NameTakenTwice(given.name, former)
        if recorded in known:
            aliases[name] = recorded
            name = recorded
        else:
            aliases[former] = name
    return name
