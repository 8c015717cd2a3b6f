"""The file table behaves like two dicts, in less memory."""

import sys
import tracemalloc
from collections.abc import Iterator
from itertools import count
from threading import Event, Thread

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rows import row

from job.file_table import Claim, FileTable

FILES = st.sampled_from([f"{number}.gif" for number in range(40)]) | st.text()
OFFSETS = st.integers(2, 2**40 - 1)
STEPS = st.lists(st.tuples(FILES, st.none() | OFFSETS | st.sampled_from(["BR", "br", "CN"])), max_size=200)
WORST = 2**17 * 2 // 3 + 2
"""A number of files that has just filled two thirds of the arrays, so that larger ones were made."""


@given(STEPS)
def test_the_table_behaves_like_two_dicts(steps: list[tuple[str, int | str | None]]) -> None:
    """Whatever is set, removed and claimed, each file has its last offset and its first code."""
    table = FileTable()
    offsets: dict[str, int] = {}
    codes: dict[str, str] = {}
    for file, step in steps:
        if step is None:
            table.remove_offset(file)
            offsets.pop(file, None)
        elif isinstance(step, int):
            table.set_offset(file, step)
            offsets[file] = step
        else:
            expected = Claim.FIRST if file not in codes else Claim.TAKEN
            if codes.setdefault(file, step) == step and expected is Claim.TAKEN:
                expected = Claim.REPEATED
            assert table.claim(file, step) is expected
    assert table.lines == len(offsets)
    assert {file: table.offset_of(file) for file, _ in steps} == {file: offsets.get(file) for file, _ in steps}


def test_all_files_are_found_after_removals() -> None:
    """Many files are all found again, also after as many others came and went."""
    table = FileTable()
    for number in range(1, 40_000, 2):
        table.set_offset(str(number), number + 2)
        table.set_offset(str(number + 1), 7)
        table.remove_offset(str(number + 1))
    assert table.lines == 20_000
    assert [table.offset_of(str(number)) for number in range(1, 40_000, 2)] == [n + 2 for n in range(1, 40_000, 2)]
    assert {table.offset_of(str(number)) for number in range(2, 40_000, 2)} == {None}


def test_a_removed_line_leaves_the_claim() -> None:
    """A file whose line another process takes back during a run is still in the list of the run."""
    table = FileTable()
    assert table.claim("br.gif", "BR") is Claim.FIRST
    table.set_offset("br.gif", 2**40 - 1)
    table.remove_offset("br.gif")
    for number in range(5000):
        table.claim(str(number), "CN")
    assert (table.offset_of("br.gif"), table.claim("br.gif", "BR")) == (None, Claim.REPEATED)


@row(48)
@pytest.mark.parametrize("recorded", [0, 1], ids=["a first run", "a second run"])
@pytest.mark.slow
def test_a_file_takes_at_most_110_bytes(recorded: int) -> None:
    """A file costs at most 110 bytes for its line and its uniqueness, also while the table grows."""
    table = FileTable()
    tracemalloc.start()
    try:
        for number in range(WORST):
            file = f"a-directory-with-a-long-name/{number}.gif"
            if recorded:
                table.set_offset(file, number + 2)
            table.claim(file, file)
        for number in range(WORST):
            table.set_offset(f"a-directory-with-a-long-name/{number}.gif", number + 2)
        held, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert table.lines == WORST
    assert 70 < held / WORST < 73
    assert 105 < peak / WORST < 110


@pytest.fixture
def frequent_switches() -> Iterator[None]:
    """Let the interpreter switch between threads as often as it can."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


@pytest.mark.usefixtures("frequent_switches")
def test_any_thread_finds_a_file_while_the_table_grows() -> None:
    """Without a lock, a reader sees the arrays before or after they are replaced, and never another file's offset."""
    table = FileTable()
    table.set_offset("0", 7)
    is_done = Event()
    offsets: set[int | None] = set()
    others: set[tuple[int, int]] = set()

    def read() -> None:
        for number in count():
            offsets.add(table.offset_of("0"))
            other = number % 20_000 + 1
            offset = table.offset_of(str(other))
            if offset is not None and offset != other + 7:
                others.add((other, offset))
            if is_done.is_set():
                return

    reader = Thread(target=read)
    reader.start()
    for number in range(1, 20_000):
        table.set_offset(str(number), number + 7)
    is_done.set()
    reader.join()
    assert (offsets, others) == ({7}, set())


@pytest.mark.usefixtures("frequent_switches")
def test_two_threads_may_write() -> None:
    """A thread that opens a manifest after it was abandoned loses none of the claims of the main thread."""
    table = FileTable()

    def index() -> None:
        for number in range(20_000):
            table.set_offset(f"old/{number}", number + 2)

    writer = Thread(target=index)
    writer.start()
    claims = [table.claim(str(number), "BR") for number in range(20_000)]
    writer.join()
    assert set(claims) == {Claim.FIRST}
    assert {table.claim(str(number), "BR") for number in range(20_000)} == {Claim.REPEATED}
    assert [table.offset_of(f"old/{number}") for number in range(20_000)] == list(range(2, 20_002))
