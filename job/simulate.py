"""The pool and the gate over tasks that only sleep, drawn as a timeline: what concurrency buys, for planning."""

import heapq
from dataclasses import dataclass, field
from threading import Lock
from time import monotonic, strftime
from typing import TextIO

from job.cancellation import Cancellation
from job.errors import Cancelled
from job.model import Item, Result, Status, WorkItem
from job.pool import Pool
from job.resilience import Permit, Throttle, ThrottleLimits, wait_for_permit

_MOST_DRAWN = 100
"""A timeline of more tasks shows nothing to anybody; their facts are still printed."""
_INDENT, _LEVELS = 4, 8
"""Columns a level, and how many levels fit into 80 columns beside the words."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to simulate. The latency is in seconds, the rate in tasks a second (0: no limit)."""

    tasks: int
    workers: int
    latency: float | None
    """How long each task takes; None: task n takes n seconds, as the seed's loiter."""
    rate: float

    def seconds(self, task: int) -> float:
        """Return how long a task sleeps."""
        return float(task) if self.latency is None else self.latency

    def expected_seconds(self) -> float:
        """Return when the last task should end: each begins as soon as a worker is free and the gate lets it in."""
        free = [0.0] * min(self.workers, self.tasks)
        interval = 1 / self.rate if self.rate else 0.0
        slot = 0.0
        for task in range(self.tasks):
            begins = max(heapq.heappop(free), slot)
            slot = begins + interval
            heapq.heappush(free, begins + self.seconds(task))
        return max(free)


@dataclass(slots=True)
class _Timeline:
    """Lines with the time before them, as the seed's `display` prints them. Thread-safe."""

    out: TextIO
    _lock: Lock = field(default_factory=Lock)

    def show(self, text: str, level: int = 0) -> None:
        indent = " " * _INDENT * (level % _LEVELS)
        with self._lock:
            self.out.write(f"{strftime('[%H:%M:%S]')} {indent}{text}\n")
            self.out.flush()


def simulate(plan: Plan, cancellation: Cancellation, out: TextIO) -> bool:
    """Print the expectation, the timeline and how long it took; return whether every task was done."""
    timeline, throttle, began = _Timeline(out), Throttle(ThrottleLimits(rate=plan.rate)), monotonic()
    show = timeline.show if plan.tasks <= _MOST_DRAWN else lambda *_: None

    def loiter(item: Item) -> Result:
        task = int(item.code)
        wait_for_permit(throttle, Permit(), cancellation.sleep)
        show(f"loiter({task}): doing nothing for {plan.seconds(task):g}s", task)
        cancellation.sleep(plan.seconds(task))
        show(f"loiter({task}): done", task)
        return Result(Status.OK, None, item.code)

    def cancelled(item: Item) -> Result:
        return Result(Status.CANCELLED, None, item.code)

    def unless_stopped(item: Item) -> Result:
        try:
            return loiter(item)
        except Cancelled:
            return cancelled(item)

    pool = Pool(
        task=unless_stopped,
        cancelled=cancelled,
        workers=plan.workers,
        cancellation=cancellation,
        drain_seconds=lambda: 0.0,
        on_shortage=timeline.show,
        interrupt=lambda: None,
        as_submitted=True,
    )
    timeline.show(f"{plan.tasks} tasks on {plan.workers} workers: expected {plan.expected_seconds():.2f}s")
    done = 0
    for result in pool.results(WorkItem(str(task), "", "") for task in range(plan.tasks)):
        show(f"result {result.code}: {result.status}")
        done += result.status is Status.OK
    timeline.show(f"{done} of {plan.tasks} tasks done in {monotonic() - began:.2f}s")
    return done == plan.tasks
