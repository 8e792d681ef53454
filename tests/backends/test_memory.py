"""The memory store: the suite, and what is its own."""

import threading

import pytest

from earnorm.backends.memory import MemoryStore
from earnorm.store import Registration, Store
from earnorm.testing.store_suite import StoreSuite


class TestMemoryStore(StoreSuite):
    @pytest.fixture
    def store(self, clock):
        return MemoryStore(clock)

    @pytest.fixture
    def caller(self, store):
        return store.begin


def test_it_is_a_store():
    assert isinstance(MemoryStore(), Store)


def test_what_is_joined_is_a_transaction_of_its_own():
    with pytest.raises(TypeError, match="begin"):
        MemoryStore().join(object())


def test_a_transaction_inside_another_of_the_same_thread_is_refused_rather_than_waited_for():
    store = MemoryStore()
    with store.begin(), pytest.raises(RuntimeError, match="already"):
        with store.begin():
            raise AssertionError("not reached")


def test_threads_subscribing_at_once_lose_none():
    store = MemoryStore()

    def work(name):
        for number in range(100):
            with store.begin() as t:
                t.subscribe([Registration(name=f"{name}:{number}")])

    threads = [threading.Thread(target=work, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    with store.begin() as t:
        assert 400 == len(t.followers())
