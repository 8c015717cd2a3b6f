"""Reporting: every consumer takes every batch of results, and only the log may end a run."""

import json
import random
import tracemalloc
from contextlib import redirect_stderr
from io import BytesIO, StringIO

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from job.cancellation import Cancellation
from job.errors import LogError
from job.model import InvalidItem, Result, Status, Stored, Summary
from job.reporting import Reporting
from job.settings import load, parse_arguments
from job.validation import SameBytes

OK = Result(Status.OK, None, "BR", attempts=1)
URL = "https://example.org/{cc}.gif"
MISSING = Result(Status.NOT_FOUND, None, "ZZ", attempts=1)


class Terminal(StringIO):
    """A terminal whose writes fail from the moment on at which it has an error."""

    error: Exception | None = None

    def isatty(self) -> bool:
        return True

    def write(self, text: str, /) -> int:
        if self.error:
            raise self.error
        return super().write(text)


def reporting(stdout: BytesIO, *words: str) -> Reporting:
    return Reporting(load(parse_arguments(["BR", *words]), {}), Cancellation(), stdout, terminal=False)


def events(stdout: BytesIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stdout.getvalue().splitlines()]


def test_every_consumer_takes_every_batch() -> None:
    """A batch is counted, logged, and handed to the consumer that the run adds."""
    stdout = BytesIO()
    taken: list[Result] = []
    report = reporting(stdout)
    report.consumers.append(taken.extend)
    report.report([OK, MISSING])
    report.report([OK])
    count = report.metrics.registry.get_sample_value("flagjob_downloads_total", {"status": "ok"})
    assert [line["code"] for line in events(stdout)] == ["BR", "ZZ", "BR"]
    assert (count, taken) == (2, [OK, MISSING, OK])


def test_items_are_counted_as_they_are_taken() -> None:
    """An item counts as selected when the pool takes it, not before."""
    report = reporting(BytesIO())
    items = report.count_selected(iter([InvalidItem("BR"), InvalidItem("ZZ")]))
    counts = [report.metrics.registry.get_sample_value("flagjob_selected_codes") for _ in items]
    assert counts == [1, 2]


@pytest.mark.parametrize(
    ("error", "problem"),
    [(BrokenPipeError(32, "Broken pipe"), "Broken pipe"), (ValueError("buffer is detached"), "buffer is detached")],
)
def test_a_consumer_that_fails_is_logged_once_and_changes_nothing_else(error: Exception, problem: str) -> None:
    """Results go on to the other consumers after a failure of the progress bar, which is not called again."""
    stdout = BytesIO()
    terminal = Terminal()
    with redirect_stderr(terminal):
        report = reporting(stdout, "--log-results=problems")
        with report.progress_bar(None):
            terminal.error = error
            while not events(stdout):  # tqdm draws ten times a second
                report.report([OK])
            report.report([MISSING])
    warning, result = events(stdout)
    assert (warning["event"], warning["target"], warning["error"]) == ("sink_failed", "progress bar", problem)
    assert (result["event"], result["code"]) == ("result", "ZZ")


def test_the_bar_takes_results_only_while_it_is_shown() -> None:
    """A bar is one consumer more, from the start of its block to its end."""
    with redirect_stderr(Terminal()):
        report = reporting(BytesIO())
        before = len(report.consumers)
        with report.progress_bar(1):
            during = len(report.consumers)
    assert (during, len(report.consumers)) == (before + 1, before)


def test_a_log_that_cannot_be_written_is_not_ignored() -> None:
    """The log is the one consumer whose failure comes out of `report`."""
    stdout = BytesIO()
    report = reporting(stdout)
    stdout.close()
    with pytest.raises(LogError):
        report.report([OK])


@pytest.mark.parametrize(
    ("words", "settings", "noun"),
    [
        (["BR"], {}, "flags"),
        ([], {}, "flags"),
        ([], {"url": URL}, "flags"),
        (["all", "POP20"], {"url": URL}, "flags"),
        ([], {"url": URL, "codes": "EVERY"}, "flags"),
        (["BR"], {"url": URL}, "files"),
        ([], {"url": URL, "codes": "ALL,BR"}, "files"),
        ([], {"url": URL, "codes_file": "-"}, "files"),
        (["ALL"], {"url": URL, "codes_file": "-"}, "flags"),
    ],
)
def test_words_are_about_flags_only_where_flags_are(words: list[str], settings: dict[str, str], noun: str) -> None:
    """The demo server has flags, and sets of countries name some; everything else is files."""
    stdout = BytesIO()
    environ = {f"FLAGJOB_{name.upper()}": text for name, text in settings.items()}
    report = Reporting(load(parse_arguments(words), environ), Cancellation(), stdout, terminal=False)
    report.report_end(Summary(dict.fromkeys(Status, 0), 0, 0, 0.0, 0, "ok"))
    assert str(events(stdout)[-1]["summary"]).startswith(f"0 {noun} downloaded.")


# The same bytes for many codes


def ok_results(*digests: str) -> list[Result]:
    return [Result(Status.OK, Stored("f", 1, digest, None), "C", attempts=1) for digest in digests]


def counted(*digests: str) -> SameBytes:
    same = SameBytes()
    same.add(ok_results(*digests))
    return same


def test_many_codes_with_the_same_new_bytes_are_found() -> None:
    """Twenty codes and one in a hundred must have them; files that did not change, or did not come, do not count."""
    assert counted(*["a"] * 19).most_frequent(19) is None
    assert counted(*["a"] * 20, "b").most_frequent(21) == ("a", 20)
    assert counted(*["a"] * 20).most_frequent(2001) is None
    assert counted().most_frequent(0) is None
    same = SameBytes()
    unchanged = [Result(Status.UNCHANGED, result.data, "C") for result in ok_results(*["a"] * 30)]
    same.add([*unchanged, *[MISSING] * 30, *[OK] * 30])
    assert same.most_frequent(90) is None


@settings(deadline=None, max_examples=30)
@given(share=st.integers(10, 200), seed=st.integers())
@pytest.mark.slow
def test_frequent_bytes_are_found_among_many(share: int, seed: int) -> None:
    """Among many files, all others unique, bytes of at least one in a hundred are found, and no much rarer ones."""
    items = 10_000
    digests = [*["same"] * share, *map(str, range(items - share))]
    random.Random(seed).shuffle(digests)
    found = counted(*digests).most_frequent(items)
    if share >= 100:
        assert found is not None
        assert found[0] == "same"
        assert share - 10 <= found[1] <= share
    if share < 90:
        assert found is None


@pytest.mark.slow
def test_unique_bytes_take_no_memory() -> None:
    """A run of many files, each other bytes, remembers a thousand of them."""
    same = SameBytes()
    tracemalloc.start()
    for number in range(100_000):
        same.add(ok_results(f"{number:064}"))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 600_000
