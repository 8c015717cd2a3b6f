"""The simulation: its expected time is computed, and its timeline is that of the real pool."""

import io
import json
import re
import threading

import pytest

from job.cancellation import Cancellation
from job.errors import Reason
from job.log import RunLog
from job.settings import Executor
from job.simulate import Plan, Timeline, simulate


@pytest.mark.parametrize(
    ("plan", "seconds"),
    [
        (Plan(5, 3, None, 0), 5),  # loiter of *Fluent Python*: tasks 1, 2 and 3 at once, then 4 after 1
        (Plan(1000, 50, 0.1, 0), 2),
        (Plan(1001, 50, 0.1, 0), 2.1),
        (Plan(10, 1, 1, 0), 10),
        (Plan(3, 30, 1, 0), 1),
        (Plan(11, 30, 1, 10), 2),
        (Plan(30, 5, 0.1, 20), 1.55),
        (Plan(4, 2, 1, 10), 2.1),
    ],
)
def test_the_expected_time_is_the_end_of_the_last_task(plan: Plan, seconds: float) -> None:
    """Each task begins as soon as a worker is free and the rate allows it."""
    assert plan.expected_seconds() == pytest.approx(seconds)


@pytest.fixture(params=[Executor.THREADS, Executor.GREENLETS])
def how(request: pytest.FixtureRequest) -> Executor:
    """Return each executor in turn."""
    found: Executor = request.param
    return found


def drawn(
    plan: Plan, cancellation: Cancellation | None = None, how: Executor = Executor.THREADS
) -> tuple[bool, list[str]]:
    out = io.StringIO()
    return simulate(plan, cancellation or Cancellation(), Timeline(out), how), out.getvalue().splitlines()


def test_the_timeline_reads_like_that_of_the_book(how: Executor) -> None:
    """Each line begins with the time, each task has its indentation, and results come in the order of the tasks."""
    done, lines = drawn(Plan(5, 3, 0, 0), how=how)
    words = [line[11:] for line in lines]
    assert done
    assert all(re.match(r"\[\d\d:\d\d:\d\d\] ", line) for line in lines)
    assert words[0] == "5 tasks on 3 workers: expected 0.00s"
    assert {f"{'    ' * n}loiter({n}): doing nothing for 0s" for n in range(5)} <= set(words)
    assert {f"{'    ' * n}loiter({n}): done" for n in range(5)} <= set(words)
    assert [word for word in words if word.startswith("result")] == [f"result {n}: ok" for n in range(5)]
    assert words[-1].startswith("5 of 5 tasks done in ")


def test_a_task_is_done_after_it_began(how: Executor) -> None:
    """The line that a task is done comes after the line that it began."""
    _, lines = drawn(Plan(20, 5, 0.001, 0), how=how)
    for number in range(20):
        begins = next(n for n, line in enumerate(lines) if f"loiter({number}): doing" in line)
        assert f"loiter({number}): done" in "".join(lines[begins:])


def test_tasks_print_one_at_a_time() -> None:
    """Tasks on several threads never write to the output at once."""
    out = UnsafeOutput()
    assert simulate(Plan(20, 20, 0, 0), Cancellation(), Timeline(out))
    assert not out.was_shared


def test_the_timeline_fits_a_terminal() -> None:
    """No line is wider than 80 columns; with more than a hundred tasks only the first and the last are printed."""
    _, some = drawn(Plan(100, 50, 0, 0))
    _, many = drawn(Plan(101, 50, 0, 0))
    assert max(map(len, some)) <= 80
    assert len(some) == 302
    assert len(many) == 2


def test_a_cancelled_simulation_counts_the_tasks_that_were_done(how: Executor) -> None:
    """Cancelled tasks are not counted as done."""
    cancellation = Cancellation()
    cancellation.request(Reason.SIGNAL)
    done, lines = drawn(Plan(3, 2, 1000, 0), cancellation, how)
    assert not done
    assert "0 of 3 tasks done" in lines[-1]


class UnsafeOutput(io.StringIO):
    """An output that is not thread-safe, like every text file; it records whether two threads used it at once."""

    def __init__(self) -> None:
        super().__init__()
        self._in_use = threading.Lock()
        self.was_shared = False

    def write(self, text: str, /) -> int:
        """Write slowly enough for other threads to come in between."""
        if not self._in_use.acquire(blocking=False):
            self.was_shared = True
            return len(text)
        threading.Event().wait(0.001)
        self._in_use.release()
        return super().write(text)


class CancellingOutput(io.StringIO):
    """An output that cancels the run as soon as a task begins."""

    def __init__(self, cancellation: Cancellation) -> None:
        super().__init__()
        self._cancellation = cancellation

    def write(self, text: str, /) -> int:
        if "doing nothing" in text:
            self._cancellation.request(Reason.SIGNAL)
        return super().write(text)


def test_a_cancellation_wakes_a_sleeping_task(how: Executor) -> None:
    """A task that sleeps ends at once."""
    cancellation = Cancellation()
    out = CancellingOutput(cancellation)
    assert not simulate(Plan(2, 1, 1000, 0), cancellation, Timeline(out), how)
    assert "result 0: cancelled" in out.getvalue()


def test_a_shortage_is_a_line_of_the_timeline() -> None:
    """That this machine has no thread is shown without an indentation."""
    out = io.StringIO()
    Timeline(out).log_storage_error("can't start new thread")
    assert out.getvalue()[11:] == "can't start new thread\n"


def test_a_log_gets_the_timeline_as_events() -> None:
    """Off a terminal each line of the timeline is an event in JSON."""
    stdout = io.BytesIO()
    assert simulate(Plan(3, 2, 0.0, 0), Cancellation(), RunLog(stdout))
    first, *others, last = [json.loads(line) for line in stdout.getvalue().splitlines()]
    assert (first["event"], first["tasks"], first["workers"], first["expected_s"]) == ("simulation_started", 3, 2, 0)
    kinds = sorted((line["event"], line["task"]) for line in others)
    assert kinds == [(event, task) for event in ("task_begun", "task_done", "task_result") for task in range(3)]
    assert (last["event"], last["done"], last["tasks"]) == ("simulation_finished", 3, 3)
