"""What the stories of waking share."""

import time

from earnorm import emit

EVENTUALLY = 30.0


def until(condition):
    """Spin, with the other threads, until they have got there."""
    give_up = time.monotonic() + EVENTUALLY
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0)


def ring(db):
    with db.transaction():
        emit("door.rang")
