"""An identity: the name under which a handler's subscription is recorded, whatever its handler is called by now."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from earnorm.errors import NameTakenTwice, SubscriptionShared
from earnorm.store import Registration

__all__ = ["identities"]


def identities(
    registrations: Sequence[Registration], aliases: dict[str, str], known: Collection[str]
) -> dict[str, str]:
    """The recorded name of each; what was learned of names is added to `aliases`.

    Raises NameTakenTwice, and SubscriptionShared: of two handlers behind one subscription only one would be called.
    """
    names: dict[str, str] = {}
    owners: dict[str, str] = {}
    for given in registrations:
        recorded = names[given.name] = _identify(given, aliases, known, owners)
        owner = owners.setdefault(recorded, given.name)
        if owner != given.name:
            raise SubscriptionShared(recorded, owner, given.name)
    return names


def _identify(given: Registration, aliases: dict[str, str], known: Collection[str], new: Collection[str]) -> str:
    """The recorded name: a former one, where that is `known`, or another's that is `new` with it.

    Old and new versions of a program may come in any order and side by side: each name leads to the one recorded.
    """
    name = aliases.get(given.name, given.name)
    for former in given.formerly:
        recorded = aliases.get(former, former)
        if recorded == name:
            continue
        if recorded in known and name in known:
            raise NameTakenTwice(given.name, former)
        if recorded in known or recorded in new:
            aliases[name] = recorded
            name = recorded
        else:
            aliases[former] = name
    return name
