"""Many items in a ThreadPoolExecutor: a bounded number in flight, results as completed or as submitted."""

from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from itertools import islice
from queue import Empty, SimpleQueue
from threading import Event
from time import monotonic

from job.cancellation import Cancellation
from job.errors import Reason
from job.model import Item, Result

_POLL_SECONDS = 0.1
"""How soon the main thread notices a stop when no future completes."""
_GIVE_UP_SECONDS = 1.0


def _ignore(*_: object) -> None: ...


@dataclass(slots=True)
class Pool:
    """Runs `task` on items, each in a future of its own, on at most `workers` threads.

    The seed's `to_do_map` from future to item, but only ever a window of the list long: memory stays flat
    however many items there are. For one thread's use; `pending` may be read by any.
    """

    task: Callable[[Item], Result]
    """Called in a worker thread; what it raises comes out of `results`."""
    cancelled: Callable[[Item], Result]
    """Says how an item ended that was never begun, or could not be waited for."""
    workers: int
    cancellation: Cancellation
    drain_seconds: Callable[[], float]
    """How long the items in flight may still take to end by themselves; asked after a stop."""
    interrupt: Callable[[], None]
    """Breaks what is still in flight then; what even that does not end within a second is given up."""
    as_submitted: bool = False
    """Results in the order of the items (as `executor.map` gives them), not as they complete."""
    on_shortage: Callable[[str], None] = _ignore
    """Told when the system gives fewer threads than there are workers, which stops the run."""
    on_drain: Callable[[int, int], None] = _ignore
    """Told at a stop how many items are in flight, and how many others were taken from the source already."""
    on_scheduled: Callable[[Item, "Future[Result]"], None] = _ignore
    on_done: Callable[[Item, "Future[Result]"], None] = _ignore
    abandoned: int = 0
    """How many items were still running when they were given up."""
    _to_do: dict["Future[Result]", Item] = field(default_factory=dict)
    _done: "SimpleQueue[Future[Result]]" = field(default_factory=SimpleQueue)

    @property
    def pending(self) -> int:
        """How many items wait in the window for a worker."""
        return max(len(self._to_do) - self.workers, 0)

    def results(self, items: Iterable[Item]) -> Generator[Result, None, None]:
        """Yield exactly one result an item, also after a stop: what was not begun then is cancelled."""
        source = iter(items)
        executor = ThreadPoolExecutor(self.workers, thread_name_prefix="flagjob")
        try:
            self._staff(executor)
            self._fill(executor, source)
            while self._to_do and not self.cancellation.reason:
                yield from self._completed()
                self._fill(executor, source)
            yield from self._drain()
            yield from map(self.cancelled, source)
        except BaseException:
            self._leave()
            raise
        finally:
            executor.shutdown(wait=False, cancel_futures=True)

    def _staff(self, executor: ThreadPoolExecutor) -> None:
        """Start every thread at once: one that the system refused later would take the item along that needed it."""
        ready = Event()
        try:
            for _ in range(self.workers):
                executor.submit(ready.wait)
        except RuntimeError as error:
            self.cancellation.request(Reason.STORAGE)
            self.on_shortage(f"this machine does not allow {self.workers} threads: {error}")
        finally:
            ready.set()

    def _fill(self, executor: ThreadPoolExecutor, source: Iterator[Item]) -> None:
        """Keep every worker busy and as many items waiting, and no more."""
        if self.cancellation.reason:
            return
        for item in islice(source, 2 * self.workers - len(self._to_do)):
            future = executor.submit(self._begin, item)
            self._to_do[future] = item
            future.add_done_callback(self._done.put)
            self.on_scheduled(item, future)

    def _begin(self, item: Item) -> Result:
        """Run the task in a worker, unless the run was stopped while the item waited for one."""
        return self.cancelled(item) if self.cancellation.reason else self.task(item)

    def _completed(self) -> Iterator[Result]:
        """Wait for a future to end, as `as_completed` does, but not for longer than a stop may go unnoticed."""
        try:
            future = self._done.get(timeout=_POLL_SECONDS)
        except Empty:
            return
        if not self.as_submitted:
            yield self._take(future)
        while self.as_submitted and self._to_do and (head := next(iter(self._to_do))).done():
            yield self._take(head)

    def _drain(self) -> Iterator[Result]:
        """After a stop: cancel what waits, let what runs end within its time, and give up on the rest."""
        in_flight = sum(future.running() for future in self._to_do)
        for future in self._to_do:
            future.cancel()
        if self.cancellation.reason:
            self.on_drain(in_flight, len(self._to_do) - in_flight)
        yield from self._await(self.drain_seconds())
        if self._to_do:
            self.interrupt()
        yield from self._await(_GIVE_UP_SECONDS)
        for future in list(self._to_do):
            yield self._take(future)

    def _leave(self) -> None:
        """End what runs, where nobody takes its results any more."""
        self.cancellation.request(Reason.INTERNAL)
        running = [future for future in self._to_do if not future.cancel()]
        self.interrupt()
        self.abandoned += len(wait(running, _GIVE_UP_SECONDS).not_done)

    def _await(self, seconds: float) -> Iterator[Result]:
        until = monotonic() + seconds
        while self._to_do and monotonic() < until:
            yield from self._completed()

    def _take(self, future: "Future[Result]") -> Result:
        item = self._to_do.pop(future)
        self.on_done(item, future)
        self.abandoned += not future.done()
        if future.cancelled() or not future.done():
            return self.cancelled(item)
        return future.result()
