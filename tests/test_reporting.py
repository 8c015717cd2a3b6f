"""Reporting: every consumer takes every batch of results, and only the log may end a run."""

import json
from contextlib import redirect_stderr
from io import BytesIO, StringIO

import pytest

from job.cancellation import Cancellation
from job.errors import LogError
from job.model import InvalidItem, Result, Status
from job.reporting import Reporting
from job.settings import load, parse_arguments

OK = Result(Status.OK, None, "BR", attempts=1)
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
