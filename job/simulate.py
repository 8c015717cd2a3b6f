"""Simulation: the real pool and throttle run tasks that only sleep, drawn as a timeline, to plan concurrency."""

import heapq
from dataclasses import dataclass, field
from itertools import chain
from threading import Lock
from time import monotonic, strftime
from typing import TextIO

from job.cancellation import Cancellation, Sleeper
from job.errors import Cancelled
from job.model import Item, Result, Status, WorkItem
from job.pool import NewExecutor, Pool, thread_pool
from job.resilience import Permit, Throttle, ThrottleLimits, wait_for_permit
from job.settings import Executor

_DRAWN_MAX = 100
"""A timeline of more tasks is unreadable, so only its first and last line are printed."""
_INDENT_COLUMNS = 4
_INDENT_LEVELS = 8
"""How many levels of indentation fit into 80 columns beside the text."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The tasks to simulate. The latency is in seconds, the rate in tasks a second (0: no limit)."""

    tasks: int
    workers: int
    latency: float | None
    """How long each task takes; None: task n takes n seconds, like `loiter` in *Fluent Python*."""
    rate: float

    def seconds(self, task: int) -> float:
        """Return how long a task sleeps."""
        return float(task) if self.latency is None else self.latency

    def expected_seconds(self) -> float:
        """Return when the last task should end: each begins as soon as a worker is free and the rate allows it."""
        workers_free_at = [0.0] * min(self.workers, self.tasks)
        interval = 1 / self.rate if self.rate else 0.0
        next_slot = 0.0
        for task in range(self.tasks):
            begins = max(heapq.heappop(workers_free_at), next_slot)
            next_slot = begins + interval
            heapq.heappush(workers_free_at, begins + self.seconds(task))
        return max(workers_free_at)


@dataclass(slots=True)
class _Timeline:
    """Prints lines that begin with the time, like `display` in *Fluent Python*. Thread-safe."""

    out: TextIO
    _lock: Lock = field(default_factory=Lock)

    def show(self, text: str, level: int = 0) -> None:
        """Print a line, indented by its level."""
        indent = " " * _INDENT_COLUMNS * (level % _INDENT_LEVELS)
        # Tasks print on their worker threads. Without the lock, a line could be written between another thread's
        # write and its flush, and a text file's buffer is not safe for two writers.
        with self._lock:
            self.out.write(f"{strftime('[%H:%M:%S]')} {indent}{text}\n")
            self.out.flush()


def simulate(plan: Plan, cancellation: Cancellation, out: TextIO, executor: Executor = Executor.THREADS) -> bool:
    """Print the expected time, the timeline and the actual time; return whether every task was done."""
    began = monotonic()
    sleeper, new_executor = _waits(plan.workers, cancellation, executor)
    throttle = Throttle(ThrottleLimits(rate=plan.rate))
    timeline = _Timeline(out)
    show = timeline.show if plan.tasks <= _DRAWN_MAX else lambda *_: None

    def loiter(item: Item) -> Result:
        task = int(item.code)
        wait_for_permit(throttle, Permit(), sleeper.sleep)
        show(f"loiter({task}): doing nothing for {plan.seconds(task):g}s", task)
        sleeper.sleep(plan.seconds(task))
        show(f"loiter({task}): done", task)
        return Result(Status.OK, None, item.code)

    def cancelled_result(item: Item) -> Result:
        return Result(Status.CANCELLED, None, item.code)

    def loiter_or_cancel(item: Item) -> Result:
        try:
            return loiter(item)
        except Cancelled:
            return cancelled_result(item)

    pool = Pool(
        task=loiter_or_cancel,
        cancelled=cancelled_result,
        workers=plan.workers,
        cancellation=cancellation,
        drain_seconds=lambda: 0.0,
        on_shortage=timeline.show,
        interrupt=lambda: None,
        new_executor=new_executor,
        max_batch=1,  # each result appears when it is there
        as_submitted=True,
    )
    timeline.show(f"{plan.tasks} tasks on {plan.workers} workers: expected {plan.expected_seconds():.2f}s")
    done = 0
    batches = pool.results(WorkItem(str(task), "", "") for task in range(plan.tasks))
    for result in chain.from_iterable(batches):
        show(f"result {result.code}: {result.status}")
        if result.status is Status.OK:
            done += 1
    timeline.show(f"{done} of {plan.tasks} tasks done in {monotonic() - began:.2f}s")
    return done == plan.tasks


def _waits(workers: int, cancellation: Cancellation, executor: Executor) -> tuple[Sleeper, NewExecutor]:
    """Return where tasks sleep, and what runs others meanwhile."""
    if executor is not Executor.GREENLETS:
        return cancellation, thread_pool
    from job.greenlet_executor import GreenletExecutor  # noqa: PLC0415  (others start without greenlet)

    greenlets = GreenletExecutor(workers, cancellation)
    return greenlets, lambda _: greenlets.start()
