"""Places: whose turn it is among the lanes of a batch."""

from types import SimpleNamespace

from earnorm.places import Entrance, Places
from earnorm.preload import Share


class Records:
    """Those of three deliveries, asked for and not there yet."""

    is_over = False
    records = ()

    def __init__(self):
        self.asked = []

    def loads(self, delivery):
        return True

    def is_stale(self, share):
        return False

    def share(self, batch, lane, index):
        return Share(self, lane)

    def tell(self, back, place):
        self.back = back
        self.asked.append(place)

    def concurrency(self, name):
        return None


def test_lanes_whose_records_have_come_go_on_in_their_order():
    """In that of the threads that had asked, a handler of a low priority began first."""
    records, resumed = Records(), []
    batch = SimpleNamespace(closed=False, lanes=[[SimpleNamespace(subscription="mail")] for _ in range(3)])
    entrance = Entrance(records, records)
    places = Places(batch, range(3), entrance, resume=lambda _, count: resumed.append(count), left=resumed.append)
    assert places.take() is None

    records.back([records.asked[place] for place in (2, 0, 1)])

    assert [0, 1, 2] == [places.take().lane for _ in range(3)]
    assert [3] == resumed
