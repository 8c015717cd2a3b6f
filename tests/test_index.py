"""The index of a manifest behaves like a dict, in less memory."""

import sys
import tracemalloc
from collections.abc import Iterator
from threading import Event, Thread

import pytest
from hypothesis import given
from hypothesis import strategies as st

from job.manifest.journal import OffsetIndex

NEIGHBOURS = st.integers(0, 40)
COLLIDING = st.builds(lambda slot, turn: slot + 2**20 * turn, st.integers(0, 3), st.integers(0, 7))
KEYS = NEIGHBOURS | COLLIDING | st.integers(0, 2**60 - 1)
STEPS = st.lists(st.tuples(KEYS, st.none() | st.integers(2, 2**50)), max_size=200)


@given(STEPS)
def test_the_index_behaves_like_a_dict(steps: list[tuple[int, int | None]]) -> None:
    """Whatever is put and removed, each key has its last offset."""
    index = OffsetIndex()
    expected: dict[int, int] = {}
    for key, offset in steps:
        if offset is None:
            index.remove(key)
            expected.pop(key, None)
        else:
            index.put(key, offset)
            expected[key] = offset
    assert len(index) == len(expected)
    assert {key: index.get(key) for key, _ in steps} == {key: expected.get(key) for key, _ in steps}


def spread(number: int) -> int:
    """Return a key that is evenly spread, as hashes are (Knuth's multiplicative hash)."""
    return number * 0x9E3779B97F4A7C15 % 2**64


def test_the_index_finds_all_entries_after_removals() -> None:
    """Many entries are all found again, also after as many others came and went."""
    index = OffsetIndex()
    for number in range(1, 40_000, 2):
        index.put(spread(number), number + 2)
        index.put(spread(number + 1), 7)
        index.remove(spread(number + 1))
    assert len(index) == 20_000
    assert [index.get(spread(number)) for number in range(1, 40_000, 2)] == [n + 2 for n in range(1, 40_000, 2)]
    assert {index.get(spread(number)) for number in range(2, 40_000, 2)} == {None}


def test_the_index_takes_little_memory() -> None:
    """An entry takes at most 48 bytes once the index is built."""
    tracemalloc.start()
    index = OffsetIndex()
    for key in range(50_000):
        index.put(spread(key), key + 2)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held / len(index) < 48


@pytest.fixture
def frequent_switches() -> Iterator[None]:
    """Let the interpreter switch between threads as often as it can."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


@pytest.mark.usefixtures("frequent_switches")
def test_any_thread_finds_an_entry_while_the_index_grows() -> None:
    """Without a lock, a reader sees the whole table before or after it is replaced by a larger one."""
    index = OffsetIndex()
    index.put(spread(0), 7)
    is_done = Event()
    offsets: set[int | None] = set()

    def read() -> None:
        while not is_done.is_set():
            offsets.add(index.get(spread(0)))

    reader = Thread(target=read)
    reader.start()
    for number in range(1, 20_000):
        index.put(spread(number), number + 7)
    is_done.set()
    reader.join()
    assert offsets == {7}
