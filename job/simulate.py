"""Simulation: the real pool and throttle run tasks that only sleep, drawn as a timeline, to plan concurrency."""

import heapq
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import chain
from threading import Lock
from time import monotonic, strftime
from typing import TYPE_CHECKING, TextIO, cast

from job.cancellation import Cancellation, Sleeper
from job.errors import Cancelled
from job.log import RunLog
from job.model import Item, Result, Status, WorkItem
from job.pool import NewExecutor, Pool, thread_pool
from job.resilience import Permit, Throttle, ThrottleLimits, wait_for_permit
from job.settings import Executor

if TYPE_CHECKING:
    from job.report import Collector

_DRAWN_MAX = 100
"""A timeline of more tasks is unreadable, so only its first and last line are logged."""
_INDENT_COLUMNS = 4
_INDENT_LEVELS = 8
"""How many levels of indentation fit into 80 columns beside the text."""
_TEXTS = {
    "simulation_started": "{tasks} tasks on {workers} workers: expected {expected_s:.2f}s",
    "task_begun": "loiter({task}): doing nothing for {sleeps_s:g}s",
    "task_done": "loiter({task}): done",
    "task_result": "result {task}: {status}",
    "simulation_finished": "{done} of {tasks} tasks done in {duration_s:.2f}s",
}
_TASK_EVENTS = {"task_begun", "task_done"}


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
class Timeline:
    """Draws events as lines that begin with the time, like `display` in *Fluent Python*. Thread-safe."""

    out: TextIO
    _lock: Lock = field(default_factory=Lock)

    def info(self, event: str, **fields: object) -> None:
        """Print an event; those of a task are indented by its number."""
        task = fields["task"] if event in _TASK_EVENTS else 0
        self._print(_TEXTS[event].format(**fields), cast("int", task))

    def log_storage_error(self, problem: str) -> None:
        """Print that this machine is short of something."""
        self._print(problem, 0)

    def _print(self, text: str, level: int) -> None:
        indent = " " * _INDENT_COLUMNS * (level % _INDENT_LEVELS)
        # Tasks print on their worker threads. Without the lock, a line could be written between another thread's
        # write and its flush, and a text file's buffer is not safe for two writers.
        with self._lock:
            self.out.write(f"{strftime('[%H:%M:%S]')} {indent}{text}\n")
            self.out.flush()


def simulate(
    plan: Plan,
    cancellation: Cancellation,
    log: Timeline | RunLog,
    executor: Executor = Executor.THREADS,
    collector: "Collector | None" = None,
) -> bool:
    """Log the expected time, what each task does and the actual time; return whether every task was done.

    `collector` gets the results for the page of a report, if there is to be one.
    """
    began = monotonic()
    sleeper, new_executor = _waits(plan.workers, cancellation, executor)
    throttle = Throttle(ThrottleLimits(rate=plan.rate))
    is_drawn = plan.tasks <= _DRAWN_MAX

    def loiter(item: Item) -> Result:
        task = int(item.code)
        wait_for_permit(throttle, Permit(), sleeper.sleep)
        if is_drawn:
            log.info("task_begun", task=task, sleeps_s=plan.seconds(task))
        with collector.recorder.attempt(item.code) if collector else nullcontext():
            sleeper.sleep(plan.seconds(task))
        if is_drawn:
            log.info("task_done", task=task)
        return Result(Status.OK, None, item.code, attempts=1)

    def cancelled_result(item: Item) -> Result:
        return Result(Status.CANCELLED, None, item.code)

    def loiter_or_cancel(item: Item) -> Result:
        try:
            return loiter(item)
        except Cancelled:
            return cancelled_result(item)

    pool = Pool(
        task=collector.recorder.observe_task(loiter_or_cancel) if collector else loiter_or_cancel,
        cancelled=cancelled_result,
        workers=plan.workers,
        cancellation=cancellation,
        drain_seconds=lambda: 0.0,
        on_shortage=log.log_storage_error,
        interrupt=lambda: None,
        new_executor=new_executor,
        max_batch=1,  # each result appears when it is there
        as_submitted=True,
    )
    expected_seconds = round(plan.expected_seconds(), 3)
    log.info("simulation_started", tasks=plan.tasks, workers=plan.workers, expected_s=expected_seconds)
    batches = pool.results(WorkItem(str(task), "", "") for task in range(plan.tasks))
    done = 0
    for result in chain.from_iterable(batches):
        done += _count_result(result, collector, log if is_drawn else None)
    log.info("simulation_finished", tasks=plan.tasks, done=done, duration_s=round(monotonic() - began, 3))
    return done == plan.tasks


def _count_result(result: Result, collector: "Collector | None", log: Timeline | RunLog | None) -> int:
    """Hand a result to what wants it; return 1 if its task was done, else 0."""
    if collector:
        collector.add([result])
    if log:
        log.info("task_result", task=int(result.code), status=result.status)
    return int(result.status is Status.OK)


def _waits(workers: int, cancellation: Cancellation, executor: Executor) -> tuple[Sleeper, NewExecutor]:
    """Return where tasks sleep, and what runs others meanwhile."""
    if executor is not Executor.GREENLETS:
        return cancellation, thread_pool
    from job.greenlet_executor import GreenletExecutor  # noqa: PLC0415  (others start without greenlet)

    greenlets = GreenletExecutor(workers, cancellation)
    return greenlets, lambda _: greenlets.start()
