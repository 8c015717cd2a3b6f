"""Terminal output: the progress bar, log lines above it, and the summary in the book's words."""

import errno
import io
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_book import on_terminal, screen

from job.display import width
from job.model import Cause, Result, Status, Summary
from job.progress import Bar, LinesAboveBar, Terminal, closing_lines, summary_text

OK = Result(Status.OK, None, "BR")


def summary_lines(seconds: float = 1.064, **counts: int) -> list[str]:
    totals = {status: counts.get(status.name.lower(), 0) for status in Status}
    return summary_text(Summary(totals, 0, 0, seconds, 0, "ok")).split("\n")


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
def test_the_summary_has_a_line_for_each_status_that_occurred(counts: dict[str, int], lines: list[str]) -> None:
    """The number of downloaded flags comes first, then every status that occurred, in singular or plural."""
    assert summary_lines(**counts)[:-1] == lines


@pytest.mark.parametrize(
    ("seconds", "line"),
    [(1.064, "Elapsed time: 1.06s"), (0.0, "Elapsed time: 0.00s"), (3661.5, "Elapsed time: 3661.50s")],
)
def test_the_summary_ends_with_the_elapsed_time(seconds: float, line: str) -> None:
    """The last line is the elapsed time in seconds, with two digits after the point."""
    assert summary_lines(seconds)[-1] == line


COUNTS = dict.fromkeys(Status, 0) | {Status.OK: 17, Status.UNCHANGED: 3, Status.NOT_FOUND: 12, Status.ERROR: 2}
REASONS = {"http_404": 12, "timeout": 1, "connection": 1, "empty": 1}
EXAMPLES = {"http_404": "ZZ: HTTP error 404 - Not Found", "timeout": "CN: no byte within 10 s", "connection": "US"}
FAILED = Summary(
    COUNTS, 12_345, 0, 0.5, 3, "retryable", cause=Cause("timeout", "late"), reasons=REASONS, examples=EXAMPLES
)


def test_a_terminal_gets_speed_reasons_and_what_to_do() -> None:
    """The book's lines come first, then speed, the three most frequent reasons with an example, and what to do."""
    assert [line.text for line in closing_lines(FAILED, "flag", 80)] == [
        "17 flags downloaded.",
        "3 flags unchanged.",
        "12 not found.",
        "2 errors.",
        "Elapsed time: 0.50s",
        "Speed: 40 flags/s, 25 kB/s",
        "Cause: timeout: late",
        "Why, most frequent first:",
        "  12 http_404, such as ZZ: HTTP error 404 - Not Found",
        "   1 timeout, such as CN: no byte within 10 s",
        "   1 connection, such as US",
        "What to do:",
        "  timeout: Try again later; if it stays, raise FLAGJOB_READ_TIMEOUT or",
        "    FLAGJOB_ATTEMPT_TIMEOUT.",
        "  http_404: Remove these codes from the list, or raise FLAGJOB_MAX_NOT_FOUND; if",
        "    all fail, correct the URL.",
        "  connection: Try again later; if it stays, lower FLAGJOB_WORKERS and check",
        "    firewalls and proxies.",
        "  Run the same command again: only what is missing is asked for again.",
        "  More: docs/runbook.md#exit-code-3",
    ]


def test_a_run_that_is_well_needs_no_advice() -> None:
    """With exit code 0 there is nothing to do; reasons within the budgets are shown; nothing is divided by no time."""
    counts = dict.fromkeys(Status, 0) | {Status.OK: 1, Status.NOT_FOUND: 1}
    well = Summary(counts, 0, 0, 0.0, 0, "ok", reasons={"http_404": 1})
    assert [line.text for line in closing_lines(well, "file", 80)] == [
        "1 file downloaded.",
        "1 not found.",
        "Elapsed time: 0.00s",
        "Why, most frequent first:",
        "  1 http_404",
    ]


def test_a_run_without_bytes_has_its_speed_in_files() -> None:
    """Where nothing but confirmations came, there is no speed in bytes; without any file there is none at all."""
    unchanged = Summary(dict.fromkeys(Status, 0) | {Status.UNCHANGED: 30}, 0, 0, 2.0, 0, "ok")
    nothing = Summary(dict.fromkeys(Status, 0), 0, 0, 2.0, 129, "signal_1")
    assert [line.text for line in closing_lines(unchanged, "flag", 80)][-1] == "Speed: 15 flags/s"
    assert [line.text for line in closing_lines(nothing, "flag", 80)] == [
        "0 flags downloaded.",
        "Elapsed time: 2.00s",
        "What to do:",
        "  Start the run again.",
        "  More: docs/runbook.md#exit-code-129",
    ]


@given(st.text(st.characters(exclude_categories=["Cc", "Cs", "Cf", "Zl", "Zp"])), st.integers(50, 200))
def test_the_closing_words_fit_the_terminal(example: str, columns: int) -> None:
    """Whatever an example consists of, no line is wider than the terminal."""
    summary = Summary(COUNTS, 1, 0, 0.5, 3, "retryable", reasons={"http_404": 12}, examples={"http_404": example})
    assert max(width(line.text) for line in closing_lines(summary, "flag", columns)) <= columns


@pytest.mark.parametrize("columns", [40, 80])
def test_the_closing_words_of_a_real_run_fit_its_terminal(tmp_path: Path, columns: int) -> None:
    """Each line of reasons and advice fits, and the run says what to do next."""
    code, sent = on_terminal("BR", "ZZ", "not/a/code", cwd=tmp_path, columns=columns)
    lines = screen(sent)
    words = lines[lines.index("Why, most frequent first:") :]
    assert (code, max(map(width, words)) <= columns) == (4, True)
    assert "  More: docs/runbook.md#exit-code-4" in words


@contextmanager
def terminal() -> Iterator[io.BytesIO]:
    """Make standard output and error one stream, as on a terminal, and yield the bytes that it receives."""
    sent = io.BytesIO()
    stream = io.TextIOWrapper(sent, "utf-8", write_through=True)
    with redirect_stdout(stream), redirect_stderr(stream):
        yield sent
    stream.detach()  # or it would close what the test still reads


def shown(sent: io.BytesIO) -> list[str]:
    """Return the lines that the terminal shows; a cleared bar leaves none."""
    return screen(sent.getvalue().decode())


def test_the_bar_counts_to_the_total() -> None:
    """Each result advances the bar; a closed bar stays, and the next line is empty."""
    out = io.StringIO()
    bar = Bar(20, out)
    for _ in range(20):
        bar.advance([OK])
    bar.close()
    *_, last, free = screen(out.getvalue())
    assert last.startswith("100%|")
    assert "| 20/20 [" in last
    assert "flag/s]" in last
    assert free == ""


def test_a_bar_that_is_closed_early_keeps_its_count() -> None:
    """A bar that is closed early shows how many items were done."""
    out = io.StringIO()
    bar = Bar(20, out)
    bar.advance([OK])
    bar.close()
    assert screen(out.getvalue())[-2].startswith("  5%|")
    assert "| 1/20 [" in out.getvalue()


def test_a_bar_without_a_total_only_counts() -> None:
    """If the number of items is unknown, the bar shows no percentage."""
    out = io.StringIO()
    bar = Bar(None, out)
    bar.advance([OK])
    bar.advance([OK])
    bar.close()
    assert screen(out.getvalue())[-2].startswith("2flag [")
    assert "%" not in out.getvalue()


def test_the_bar_starts_no_thread() -> None:
    """The monitor thread of tqdm does not run, because the bar advances with each item."""
    bar = Bar(1, io.StringIO())
    kinds = {type(thread).__name__ for thread in threading.enumerate()}
    bar.close()
    assert "TMonitor" not in kinds


def test_lines_appear_above_the_bar() -> None:
    """Each line, also of a batch, is complete and on a row of its own; the bar continues below them."""
    with terminal() as sent:
        bar = Bar(3, sys.stderr)
        above = LinesAboveBar(sent)
        written = above.write("BR não encontrado\n".encode())
        bar.advance([OK])
        above.write(b"CN not found\nIN not found\n")
        bar.advance([OK, OK])
        bar.close()
    *rows, last, free = shown(sent)
    assert (rows, free) == (["BR não encontrado", "CN not found", "IN not found"], "")
    assert last.startswith("100%|")
    assert written == len("BR não encontrado\n".encode())


def test_lines_of_many_threads_never_mix() -> None:
    """Lines that workers write while the main thread advances the bar stay complete."""
    lines = [f"{worker:02} again in {number:.1f}s" for worker in range(8) for number in range(25)]
    with terminal() as sent:
        bar = Bar(len(lines), sys.stderr)
        above = LinesAboveBar(sent)
        with ThreadPoolExecutor(8) as executor:
            for _ in executor.map(lambda line: above.write(f"{line}\n".encode()), lines):
                bar.advance([OK])
        bar.close()
    *found, last, free = shown(sent)
    assert sorted(found) == sorted(lines)
    assert last.startswith("100%|")
    assert free == ""


class HalvingStream(io.BytesIO):
    """A stream that writes to another one in two halves, with time for another thread between them."""

    def __init__(self, below: io.BytesIO) -> None:
        super().__init__()
        self.below = below
        self.is_halfway = threading.Event()
        self.is_bar_drawn = threading.Event()

    def write(self, data: Any, /) -> int:
        half = len(data) // 2
        self.below.write(data[:half])
        self.is_halfway.set()
        self.is_bar_drawn.wait(0.2)
        self.below.write(data[half:])
        return len(data)


def test_a_bar_is_never_drawn_within_a_line() -> None:
    """The main thread waits with its bar until a worker's line is complete."""
    with terminal() as sent, ThreadPoolExecutor(1) as executor:
        bar = Bar(1, sys.stderr)
        halving = HalvingStream(sent)
        line = executor.submit(LinesAboveBar(halving).write, b"BR again in 0.8s\n")
        halving.is_halfway.wait(10)
        bar.close()
        halving.is_bar_drawn.set()
        line.result(10)
    assert "BR again in 0.8s" in shown(sent)


class BrokenTerminal(io.StringIO):
    """A terminal that fails while it is broken."""

    is_broken = False

    def write(self, text: str, /) -> int:
        if self.is_broken:
            raise BrokenPipeError(32, "Broken pipe")
        return super().write(text)


def advance_until_drawn(bar: Bar) -> None:
    while True:  # tqdm draws ten times a second
        bar.advance([OK])


def test_a_bar_that_cannot_be_drawn_blocks_no_line() -> None:
    """After the failure, workers still write their lines, without the bar."""
    out = BrokenTerminal()
    written = io.BytesIO()
    with redirect_stdout(out), redirect_stderr(out), ThreadPoolExecutor(1) as executor:
        bar = Bar(None, out)
        out.is_broken = True
        with pytest.raises(BrokenPipeError):
            advance_until_drawn(bar)
        executor.submit(LinesAboveBar(written).write, b"BR not found\n").result(10)
        bar.close()
    assert written.getvalue() == b"BR not found\n"
    next_out = io.StringIO()
    Bar(1, next_out).close()
    assert "\x1b[A" not in next_out.getvalue()  # the failed bar takes no place above it any more


def test_a_line_is_flushed_at_once(tmp_path: Path) -> None:
    """Each line is flushed as it is written, or the bar would be drawn before it; `flush` does nothing more."""
    path = tmp_path / "terminal"
    with path.open("wb") as buffered:
        above = LinesAboveBar(buffered)
        above.write(b"BR not found\n")
        assert path.read_bytes() == b"BR not found\n"
        above.flush()
        assert path.read_bytes() == b"BR not found\n"


def test_without_a_terminal_tqdm_is_not_even_imported() -> None:
    """A run without a terminal does not pay for the import, which is a fifth of its start-up time."""
    program = "import sys, job.run; sys.exit('tqdm' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


class _Failing(io.BytesIO):
    """A stream whose every write and flush fails."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self._number = number

    def write(self, _data: object, /) -> int:
        raise OSError(self._number, os.strerror(self._number))

    def flush(self) -> None:
        raise OSError(self._number, os.strerror(self._number))


def test_a_terminal_that_is_gone_takes_every_line() -> None:
    """A write to a terminal that is gone counts as written, and is reported; a flush, too."""
    hangups: list[str] = []
    terminal = Terminal(_Failing(errno.EIO), lambda: hangups.append("gone"))
    assert terminal.write(b"line\n") == 5
    terminal.flush()
    assert hangups == ["gone", "gone"]


def test_another_failure_of_a_terminal_is_no_hangup() -> None:
    """Only the error of a terminal that is gone is one: any other is raised."""
    terminal = Terminal(_Failing(errno.ENOSPC), pytest.fail)
    with pytest.raises(OSError, match="No space"):
        terminal.write(b"line\n")
    with pytest.raises(OSError, match="No space"):
        terminal.flush()


def test_a_terminal_shows_what_is_written() -> None:
    """A terminal that is there gets every byte."""
    shown = io.BytesIO()
    terminal = Terminal(shown, pytest.fail)
    assert terminal.write(b"line\n") == 5
    terminal.flush()
    assert shown.getvalue() == b"line\n"
