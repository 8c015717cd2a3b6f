"""Pool: runs the download of many items on threads, with a bounded number in flight, and yields one result for each."""

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
"""How soon the main thread notices a cancellation while no future completes."""
_INTERRUPT_SECONDS = 1.0
"""How long interrupted tasks have to end before they are abandoned."""


def _ignore(*_: object) -> None: ...


@dataclass(slots=True)
class Pool:
    """Runs `task` on each item, each in a future of its own, on at most `workers` threads.

    The futures are in a dict from future to item, like `to_do_map` in *Fluent Python*, for two reasons: a future that
    is cancelled before it runs has no result that could name its item, and a dict keeps the order of submission.
    The dict is a window of the list: it holds at most twice as many items as there are workers, one half running and
    one half waiting, so that no worker waits for the main thread, and memory does not grow with the list.

    All methods run on one thread (the main thread); workers only run `task` and put completed futures into a queue.
    `pending` may be read on any thread.
    """

    task: Callable[[Item], Result]
    """Called on a worker thread. What it raises is raised by `results`."""
    cancelled: Callable[[Item], Result]
    """Returns the result of an item that was never started, or was abandoned."""
    workers: int
    cancellation: Cancellation
    drain_seconds: Callable[[], float]
    """Returns how long running items may take to end by themselves; called after a cancellation."""
    interrupt: Callable[[], None]
    """Breaks off the items that are still running after that time."""
    as_submitted: bool = False
    """Yield results in the order of the items, like `executor.map`, instead of as they complete."""
    on_shortage: Callable[[str], None] = _ignore
    """Called with a message if the system does not start all threads, which cancels the run."""
    on_drain: Callable[[int, int], None] = _ignore
    """Called after a cancellation with two numbers: the items in flight, and the items of the window not started."""
    on_scheduled: Callable[[Item, "Future[Result]"], None] = _ignore
    on_done: Callable[[Item, "Future[Result]"], None] = _ignore
    abandoned: int = 0
    """The number of items that were still running when they were given up."""
    _to_do: dict["Future[Result]", Item] = field(default_factory=dict)
    _completed: "SimpleQueue[Future[Result]]" = field(default_factory=SimpleQueue)

    @property
    def pending(self) -> int:
        """Return how many items of the window wait for a worker."""
        return max(len(self._to_do) - self.workers, 0)

    def results(self, items: Iterable[Item]) -> Generator[Result, None, None]:
        """Yield exactly one result for each item, also after a cancellation, which cancels what was not started."""
        source = iter(items)
        executor = ThreadPoolExecutor(self.workers, thread_name_prefix="flagjob")
        try:
            self._start_threads(executor)
            self._fill_window(executor, source)
            while self._to_do and not self.cancellation.reason:
                yield from self._next_results()
                self._fill_window(executor, source)
            yield from self._drain()
            yield from map(self.cancelled, source)
        except BaseException:
            # A task raised, or the consumer closed this generator: nobody takes the other results any more.
            self._abort()
            raise
        finally:
            # Do not wait: every thread that could end has ended, and an abandoned one may never end.
            executor.shutdown(wait=False, cancel_futures=True)

    def _start_threads(self, executor: ThreadPoolExecutor) -> None:
        """Start all worker threads before the first item is submitted.

        The executor starts a thread in `submit`, after it has queued the item. If the system refused that thread, the
        item would be in the queue without a future to find it by. Here the queue holds only waits for an event.
        """
        all_submitted = Event()
        try:
            for _ in range(self.workers):
                # Each wait occupies a thread, because an idle thread would keep the executor from starting another.
                executor.submit(all_submitted.wait)
        except RuntimeError as error:
            self.cancellation.request(Reason.STORAGE)
            self.on_shortage(f"this machine does not allow {self.workers} threads: {error}")
        finally:
            all_submitted.set()

    def _fill_window(self, executor: ThreadPoolExecutor, source: Iterator[Item]) -> None:
        """Submit items until the window is full: one for each worker, and as many waiting."""
        if self.cancellation.reason:
            return
        for item in islice(source, 2 * self.workers - len(self._to_do)):
            future = executor.submit(self._run_unless_cancelled, item)
            # Only this thread reads the dict and the queue, so a worker may complete the future before the next lines.
            self._to_do[future] = item
            future.add_done_callback(self._completed.put)
            self.on_scheduled(item, future)

    def _run_unless_cancelled(self, item: Item) -> Result:
        """Run the task on a worker, unless the run was cancelled while the item waited.

        The main thread cancels waiting futures, but notices a cancellation later than a worker that becomes free.
        """
        return self.cancelled(item) if self.cancellation.reason else self.task(item)

    def _next_results(self) -> Iterator[Result]:
        """Wait until a future completes, for at most as long as a cancellation may go unnoticed; yield what is due."""
        try:
            future = self._completed.get(timeout=_POLL_SECONDS)
        except Empty:
            return
        if not self.as_submitted:
            yield self._take_result(future)
            return
        # The dict keeps the order of submission: yield its head for as long as the head is done. A completed future
        # behind an unfinished head stays in the dict, so that the window does not grow while the head is slow.
        while self._to_do:
            head = next(iter(self._to_do))
            if not head.done():
                return
            yield self._take_result(head)

    def _drain(self) -> Iterator[Result]:
        """Yield the results of the window after a cancellation, in steps that get harder; without one it is empty."""
        # 1. Cancel what waits. An item that a worker takes between these two lines counts as not started, rightly:
        #    the worker sees the cancellation and returns at once.
        in_flight = len([future for future in self._to_do if future.running()])
        for future in self._to_do:
            future.cancel()
        if self.cancellation.reason:
            self.on_drain(in_flight, len(self._to_do) - in_flight)
        # 2. Let the items in flight end by themselves.
        yield from self._results_within(self.drain_seconds())
        # 3. Break off the rest, whose results still count.
        if self._to_do:
            self.interrupt()
        yield from self._results_within(_INTERRUPT_SECONDS)
        # 4. Abandon what even that does not end, such as a name look-up.
        for future in list(self._to_do):
            yield self._take_result(future)

    def _abort(self) -> None:
        """End the items of the window without their results."""
        # First the cancellation, so that no worker starts an item while the futures are cancelled one by one.
        self.cancellation.request(Reason.INTERNAL)
        running = [future for future in self._to_do if not future.cancel()]
        self.interrupt()
        self.abandoned += len(wait(running, _INTERRUPT_SECONDS).not_done)

    def _results_within(self, seconds: float) -> Iterator[Result]:
        until = monotonic() + seconds
        while self._to_do and monotonic() < until:
            yield from self._next_results()

    def _take_result(self, future: "Future[Result]") -> Result:
        """Remove a future from the window and return its result; a future that is not done is abandoned."""
        item = self._to_do.pop(future)
        self.on_done(item, future)
        # Ask once: a worker may complete the future at any moment, and an abandoned item must have no other result.
        is_done = future.done()
        if not is_done:
            self.abandoned += 1
        if not is_done or future.cancelled():
            return self.cancelled(item)
        return future.result()
