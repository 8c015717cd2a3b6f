"""The simulation: its expectation is arithmetic, its timeline is the real pool's."""

import io
import re

import pytest

from job.cancellation import Cancellation
from job.errors import Reason
from job.simulate import Plan, simulate


@pytest.mark.parametrize(
    ("plan", "seconds"),
    [
        (Plan(5, 3, None, 0), 5),  # the seed's loiter: 1, 2 and 3 side by side, then 4 after 1
        (Plan(1000, 50, 0.1, 0), 2),
        (Plan(1001, 50, 0.1, 0), 2.1),
        (Plan(10, 1, 1, 0), 10),
        (Plan(3, 30, 1, 0), 1),
        (Plan(11, 30, 1, 10), 2),
        (Plan(30, 5, 0.1, 20), 1.55),
        (Plan(4, 2, 1, 10), 2.1),
    ],
)
def test_the_expectation_is_when_the_last_task_ends(plan: Plan, seconds: float) -> None:
    """Each task begins as soon as a worker is free and the rate allows it."""
    assert plan.expected_seconds() == pytest.approx(seconds)


def drawn(plan: Plan, cancellation: Cancellation | None = None) -> tuple[bool, list[str]]:
    out = io.StringIO()
    return simulate(plan, cancellation or Cancellation(), out), out.getvalue().splitlines()


def test_the_timeline_reads_as_the_seeds() -> None:
    """Each line has its time, each task its indentation, and results come in the order of the tasks."""
    done, lines = drawn(Plan(5, 3, 0, 0))
    words = [line[11:] for line in lines]
    assert done
    assert all(re.match(r"\[\d\d:\d\d:\d\d\] ", line) for line in lines)
    assert words[0] == "5 tasks on 3 workers: expected 0.00s"
    assert {f"{'    ' * n}loiter({n}): doing nothing for 0s" for n in range(5)} <= set(words)
    assert {f"{'    ' * n}loiter({n}): done" for n in range(5)} <= set(words)
    assert [word for word in words if word.startswith("result")] == [f"result {n}: ok" for n in range(5)]
    assert words[-1].startswith("5 of 5 tasks done in ")


def test_a_task_sleeps_between_its_two_lines() -> None:
    """What is drawn is what happens: a task is done after it began."""
    _, lines = drawn(Plan(20, 5, 0.001, 0))
    for number in range(20):
        begins = next(n for n, line in enumerate(lines) if f"loiter({number}): doing" in line)
        assert f"loiter({number}): done" in "".join(lines[begins:])


def test_the_timeline_fits_a_terminal() -> None:
    """However many tasks, no line is wider than 80 columns; beyond a hundred tasks only the facts are printed."""
    _, some = drawn(Plan(100, 50, 0, 0))
    _, many = drawn(Plan(101, 50, 0, 0))
    assert max(map(len, some)) <= 80
    assert len(some) == 302
    assert len(many) == 2


def test_a_stop_ends_it_and_is_told() -> None:
    """Interrupted tasks are not counted as done."""
    cancellation = Cancellation()
    cancellation.request(Reason.SIGNAL)
    done, lines = drawn(Plan(3, 2, 1000, 0), cancellation)
    assert not done
    assert "0 of 3 tasks done" in lines[-1]


class StopsAtTheFirst(io.StringIO):
    """An output that asks for the stop as soon as a task begins."""

    def __init__(self, cancellation: Cancellation) -> None:
        super().__init__()
        self._cancellation = cancellation

    def write(self, text: str, /) -> int:
        if "doing nothing" in text:
            self._cancellation.request(Reason.SIGNAL)
        return super().write(text)


def test_a_sleeping_task_wakes_at_a_stop() -> None:
    """A task in the middle of its sleep ends at once."""
    cancellation = Cancellation()
    out = StopsAtTheFirst(cancellation)
    assert not simulate(Plan(2, 1, 1000, 0), cancellation, out)
    assert "result 0: cancelled" in out.getvalue()
