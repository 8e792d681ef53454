"""A tenure: the lease as one worker holds it. Taken when there is work, renewed when a third of it has passed."""

from __future__ import annotations

import logging
import os
import secrets
import socket
from pathlib import Path

from earnorm.clock import Clock
from earnorm.errors import ConnectionLost
from earnorm.store import Lease, Store

__all__ = ["Tenure"]

_log = logging.getLogger("earnorm.worker")


def _here() -> str:
    """This host, and on Linux the process namespace, so that containers of one name are not taken for one host."""
    try:
        return f"{socket.gethostname()}:{Path('/proc/self/ns/pid').stat().st_ino}"
    except OSError:
        return socket.gethostname()


def _is_dead(worker: str) -> bool:
    """Whether a worker's process is known to be gone: it ran on this host, and its process id is free."""
    place, _, rest = worker.rpartition("/")[0].rpartition("/")
    if place != _here() or not rest.isdigit():
        return False
    try:
        os.kill(int(rest), 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False


class Tenure:
    """Claims, keeps and gives back the lease under an identity that no other process or fork ever has."""

    def __init__(self, store: Store, clock: Clock, seconds: float) -> None:
        self.worker = f"{_here()}/{os.getpid()}/{secrets.token_hex(4)}"
        self.lease: Lease | None = None
        self.third = seconds / 3
        self._store = store
        self._clock = clock
        self._seconds = seconds
        self._since = 0.0

    @property
    def fresh(self) -> bool:
        return self.lease is not None and self._clock.monotonic() - self._since < self.third

    def take(self) -> bool:
        """Claim or renew the lease; False while another worker has it."""
        since = self._clock.monotonic()
        with self._store.begin() as transaction:
            lease = transaction.claim(self.worker, self._seconds)
            if lease is None and (held := transaction.holder()) is not None and _is_dead(held.worker):
                # Killed beside us: nobody needs to wait until its lease runs out.
                transaction.release(held)
                lease = transaction.claim(self.worker, self._seconds)
        self.lease, self._since = lease, since
        return lease is not None

    def keep(self) -> None:
        """Renew the lease while handlers run, if it is time. Should that fail, the settle will tell."""
        if self.lease is None or self.fresh:
            return
        try:
            self.take()
        except ConnectionLost:
            # Behind the next connection may stand a server that knows less: what runs is not to be settled there.
            self.lease = None
            _log.warning("the connection broke while handlers ran; their events are handled again", exc_info=True)
        except Exception:  # noqa: BLE001  a store may raise anything, and handlers are under way
            self._since = self._clock.monotonic()
            _log.warning("the lease could not be renewed; trying again", exc_info=True)

    def forget(self, fence: int) -> None:
        """That lease is lost. A newer one, taken again while handlers ran, is still ours to use and to give back."""
        if self.lease is not None and self.lease.fence == fence:
            self.lease = None

    def release(self) -> None:
        """Give the lease back, so that another process need not wait for it to run out."""
        lease, self.lease = self.lease, None
        if lease is None:
            return
        try:
            with self._store.begin() as transaction:
                transaction.release(lease)
        except Exception:  # noqa: BLE001  a store may raise anything, and nothing depends on it
            _log.warning("the lease could not be given back; it runs out by itself", exc_info=True)
