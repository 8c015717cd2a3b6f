"""The index of a manifest behaves like a dict, in less memory."""

import tracemalloc

from hypothesis import given
from hypothesis import strategies as st

from job.manifest.journal import OffsetIndex

KEYS = st.integers(0, 40) | st.integers(0, 2**60 - 1)  # few and close together, so that they meet, or any
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
