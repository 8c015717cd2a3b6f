"""What people on a terminal see: the bar, lines above it, and how a run ended, in the seed's words."""

import io
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
from test_book import screen

from job.model import Status, Summary
from job.progress import Above, Bar, closing


def closed(seconds: float = 1.064, **counts: int) -> list[str]:
    totals = {status: counts.get(status.name.lower(), 0) for status in Status}
    return closing(Summary(totals, 0, 0, seconds, 0, "ok")).split("\n")


@pytest.mark.parametrize(
    ("counts", "lines"),
    [
        ({"ok": 20}, ["20 flags downloaded."]),
        ({"ok": 1}, ["1 flag downloaded."]),
        ({}, ["0 flags downloaded."]),
        ({"ok": 2, "unchanged": 1}, ["2 flags downloaded.", "1 flag unchanged."]),
        ({"unchanged": 3}, ["0 flags downloaded.", "3 flags unchanged."]),
        ({"ok": 1, "not_found": 1}, ["1 flag downloaded.", "1 not found."]),
        ({"not_found": 2}, ["0 flags downloaded.", "2 not found."]),
        ({"ok": 1, "error": 1}, ["1 flag downloaded.", "1 error."]),
        ({"error": 2}, ["0 flags downloaded.", "2 errors."]),
        ({"cancelled": 1}, ["0 flags downloaded.", "1 cancelled."]),
        (
            {"ok": 5, "unchanged": 4, "not_found": 3, "error": 2, "cancelled": 1},
            ["5 flags downloaded.", "4 flags unchanged.", "3 not found.", "2 errors.", "1 cancelled."],
        ),
    ],
)
def test_the_closing_tells_what_there_is_to_tell(counts: dict[str, int], lines: list[str]) -> None:
    """So many flags downloaded, then only what did happen, one of each or many."""
    assert closed(**counts)[:-1] == lines


@pytest.mark.parametrize(
    ("seconds", "line"),
    [(1.064, "Elapsed time: 1.06s"), (0.0, "Elapsed time: 0.00s"), (3661.5, "Elapsed time: 3661.50s")],
)
def test_the_closing_ends_with_the_time(seconds: float, line: str) -> None:
    """Elapsed time in seconds, to the hundredth, is the last line."""
    assert closed(seconds)[-1] == line


@contextmanager
def terminal() -> Iterator[io.BytesIO]:
    """Make standard output and error one stream, as they are on a terminal, and give what lies below both."""
    sent = io.BytesIO()
    stream = io.TextIOWrapper(sent, "utf-8", write_through=True)
    with redirect_stdout(stream), redirect_stderr(stream):
        yield sent
    stream.detach()  # or it would close what the test still reads


def shown(sent: io.BytesIO) -> list[str]:
    """Give the lines that the terminal shows; a bar that was cleared leaves none."""
    return screen(sent.getvalue().decode())


def test_the_bar_counts_to_the_total() -> None:
    """Every item that is told moves the bar; closed, it stays, and the next line is free."""
    out = io.StringIO()
    bar = Bar(20, out)
    for _ in range(20):
        bar.tell()
    bar.close()
    *_, last, free = screen(out.getvalue())
    assert last.startswith("100%|")
    assert "| 20/20 [" in last
    assert "flag/s]" in last
    assert free == ""


def test_the_bar_of_a_run_that_was_stopped() -> None:
    """A bar that is closed early says how far the run came."""
    out = io.StringIO()
    bar = Bar(20, out)
    bar.tell()
    bar.close()
    assert screen(out.getvalue())[-2].startswith("  5%|")
    assert "| 1/20 [" in out.getvalue()


def test_a_bar_without_a_total_only_counts() -> None:
    """Where nobody knows how many items there are, no percentage is made up."""
    out = io.StringIO()
    bar = Bar(None, out)
    bar.tell()
    bar.tell()
    bar.close()
    assert screen(out.getvalue())[-2].startswith("2flag [")
    assert "%" not in out.getvalue()


def test_the_bar_starts_no_thread() -> None:
    """A bar that is told of each item needs no thread that watches it."""
    bar = Bar(1, io.StringIO())
    kinds = {type(thread).__name__ for thread in threading.enumerate()}
    bar.close()
    assert "TMonitor" not in kinds


def test_lines_appear_above_the_bar() -> None:
    """A line is on a row of its own, whole; the bar goes on below it."""
    with terminal() as sent:
        bar = Bar(2, sys.stderr)
        above = Above(sent)
        written = above.write("BR não encontrado\n".encode())
        bar.tell()
        above.write(b"CN not found\n")
        bar.tell()
        bar.close()
    first, second, last, free = shown(sent)
    assert (first, second, free) == ("BR não encontrado", "CN not found", "")
    assert last.startswith("100%|")
    assert written == len("BR não encontrado\n".encode())


def test_lines_of_many_threads_never_mix() -> None:
    """Retries are told by workers while the main thread moves the bar: every line stays whole."""
    lines = [f"{worker:02} again in {number:.1f}s" for worker in range(8) for number in range(25)]
    with terminal() as sent:
        bar, above = Bar(len(lines), sys.stderr), Above(sent)
        with ThreadPoolExecutor(8) as executor:
            for _ in executor.map(lambda line: above.write(f"{line}\n".encode()), lines):
                bar.tell()
        bar.close()
    *found, last, free = shown(sent)
    assert sorted(found) == sorted(lines)
    assert last.startswith("100%|")
    assert free == ""


def test_a_line_is_seen_at_once(tmp_path: Path) -> None:
    """Each line is flushed as it is written, or the bar would be drawn before it; a flush more changes nothing."""
    path = tmp_path / "terminal"
    with path.open("wb") as buffered:
        above = Above(buffered)
        above.write(b"BR not found\n")
        assert path.read_bytes() == b"BR not found\n"
        above.flush()
        assert path.read_bytes() == b"BR not found\n"


def test_without_a_terminal_tqdm_is_not_even_imported() -> None:
    """It takes a fifth of a run's start, which a scheduled run need not pay."""
    program = "import sys, job.cli; sys.exit('tqdm' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
