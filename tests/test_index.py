"""The index of a manifest behaves as a dict of its entries, in less memory."""

import tracemalloc

from hypothesis import given
from hypothesis import strategies as st

from job.manifest.index import Index

KEYS = st.integers(0, 40) | st.integers(0, 2**60 - 1)  # few and close together, so that they meet, or any
STEPS = st.lists(st.tuples(KEYS, st.none() | st.integers(2, 2**50)), max_size=200)


@given(STEPS)
def test_it_holds_what_a_dict_would(steps: list[tuple[int, int | None]]) -> None:
    """Whatever is put and removed, each key has the last offset that it was given."""
    index, known = Index(), dict[int, int]()
    for key, offset in steps:
        if offset is None:
            index.remove(key)
            known.pop(key, None)
        else:
            index.put(key, offset)
            known[key] = offset
    assert len(index) == len(known)
    assert {key: index.get(key) for key, _ in steps} == {key: known.get(key) for key, _ in steps}


def spread(number: int) -> int:
    """Give a key as a hash gives them: evenly spread (Knuth's multiplicative hash)."""
    return number * 0x9E3779B97F4A7C15 % 2**64


def test_it_grows_with_its_entries_and_not_with_what_was_removed() -> None:
    """Many entries are all found again, also after as many others came and went."""
    index = Index()
    for number in range(1, 40_000, 2):
        index.put(spread(number), number + 2)
        index.put(spread(number + 1), 7)
        index.remove(spread(number + 1))
    assert len(index) == 20_000
    assert [index.get(spread(number)) for number in range(1, 40_000, 2)] == [n + 2 for n in range(1, 40_000, 2)]
    assert {index.get(spread(number)) for number in range(2, 40_000, 2)} == {None}


def test_it_takes_little_memory() -> None:
    """At most 48 bytes an entry once it is built."""
    tracemalloc.start()
    index = Index()
    for key in range(50_000):
        index.put(spread(key), key + 2)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held / len(index) < 48
