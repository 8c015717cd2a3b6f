"""Pool: runs the download of many items at the same time, with a bounded number in flight, and yields their results."""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from itertools import islice
from threading import Event
from time import monotonic, sleep

from job.cancellation import Cancellation
from job.errors import Reason
from job.model import Item, Result

_POLL_SECONDS = 0.1
"""How soon the main thread notices a cancellation while no future completes."""
_BATCH_SECONDS = 0.02
"""How long a result may wait for others, so that they are handed over together."""
_INTERRUPT_SECONDS = 1.0
"""How long interrupted tasks have to end before they are abandoned."""
_PUT_BACK_SECONDS = 1.0
"""How long an item that was put back stays away."""
_PUT_BACK_POLL_SECONDS = 0.02
"""How long the main thread waits for an item that was put back where there is no other one."""
_MOST_PUT_BACK = 1000
"""How many items may be put back, before the pool takes no new ones: memory must not grow with the list."""


NewExecutor = Callable[[int], Executor]
"""Takes the number of workers and returns an executor that is ready; raises RuntimeError if the system refuses a
thread, and OSError if it refuses anything else."""


def ignore(*_: object) -> None:
    """Do nothing with an event."""


def start_threads(executor: ThreadPoolExecutor, threads: int) -> None:
    """Start all threads of an executor before its first task; raise RuntimeError if the system refuses one.

    The executor starts a thread in `submit`, after it has queued the task. If the system refused that thread, the task
    would be in the queue without a future to find it by. Here the queue holds only waits for an event.
    """
    all_submitted = Event()
    try:
        for _ in range(threads):
            # Each wait occupies a thread, because an idle thread would keep the executor from starting another.
            ThreadPoolExecutor.submit(executor, all_submitted.wait)
    except RuntimeError:
        executor.shutdown(wait=False)
        raise
    finally:
        all_submitted.set()


def thread_pool(workers: int) -> Executor:
    """Return a ThreadPoolExecutor with all of its threads started; raise RuntimeError if the system refuses one."""
    executor = ThreadPoolExecutor(workers, thread_name_prefix="flagjob")
    start_threads(executor, workers)
    return executor


class _ReturningItems:
    """The items of a run, and those that were put back, each of which comes again after a while. For one thread."""

    def __init__(self, items: Iterator[Item | None], cancellation: Cancellation) -> None:
        self._items = items
        self._cancellation = cancellation
        self._put_back: deque[tuple[float, Item]] = deque()

    def put_back(self, item: Item) -> None:
        """Take an item that comes again."""
        self._put_back.append((monotonic() + _PUT_BACK_SECONDS, item))

    def __iter__(self) -> Iterator[Item | None]:
        return self

    def __next__(self) -> Item | None:
        """Return the next item, or None after waiting if there is none at the moment; StopIteration is not the last."""
        is_over = bool(self._cancellation.reason)
        if self._put_back and (is_over or self._put_back[0][0] <= monotonic()):
            return self._put_back.popleft()[1]
        if len(self._put_back) < _MOST_PUT_BACK:
            try:
                return next(self._items)
            except StopIteration:
                if not self._put_back:
                    raise
        sleep(_PUT_BACK_POLL_SECONDS)
        return None


@dataclass(slots=True)
class Pool:
    """Runs `task` on each item, each in a future of its own, at most `workers` of them at the same time.

    The futures are in a dict from future to item, like `to_do_map` in *Fluent Python*, for two reasons: a future that
    is cancelled before it runs has no result that could name its item, and a dict keeps the order of submission.
    The dict is a window of the list, so that memory does not grow with the list: beside the items that run it holds
    as many that wait, and two batches at least, so that no worker waits for the main thread.

    All methods run on one thread (the main thread); workers only run `task` and note completed futures.
    `pending` and `active` may be read on any thread.
    """

    task: Callable[[Item], Result | None]
    """Called by the executor. What it raises is raised by `results`. None puts the item back: it comes again later."""
    cancelled: Callable[[Item], Result]
    """Returns the result of an item that was never started, or was abandoned."""
    workers: int
    cancellation: Cancellation
    drain_seconds: Callable[[], float]
    """Returns how long running items may take to end by themselves; called after a cancellation."""
    interrupt: Callable[[], None]
    """Breaks off the items that are still running after that time."""
    new_executor: NewExecutor = thread_pool
    threads_left: Callable[[], int] = lambda: 0
    """Returns how many threads of the executor have not ended a moment after its last task."""
    max_batch: int = 64
    """The most results that are handed over together."""
    singly: int = 0
    """How many results are handed over one by one before the first batch: what fails for all items is noticed soon."""
    puts_back: bool = False
    """The task may put items back."""
    as_submitted: bool = False
    """Yield results in the order of the items, like `executor.map`, instead of as they complete."""
    on_shortage: Callable[[str], None] = ignore
    """Called with a message if the system does not start all threads, which cancels the run."""
    on_drain: Callable[[int, int], None] = ignore
    """Called after a cancellation with two numbers: the items in flight, and the items of the window not started."""
    on_scheduled: Callable[[Item, "Future[Result | None]"], None] = ignore
    on_done: Callable[[Item, "Future[Result | None]"], None] = ignore
    abandoned: int = 0
    """The number of items that were still running when they were given up."""
    _to_do: dict["Future[Result | None]", Item] = field(default_factory=dict)
    _put_back: Callable[[Item], None] = ignore
    _completed: "deque[Future[Result | None]]" = field(default_factory=deque)
    """Futures in the order of their completion, which the main thread has not seen yet."""
    _seen: int = 0
    """The number of futures that the main thread has seen complete."""
    _unseen: int = 0
    """The number of futures that the main thread has not seen complete, those in `_completed` included."""
    _wake_at: int = 1
    """How many completed futures wake the main thread."""
    _is_wake_due: Event = field(default_factory=Event)

    @property
    def active(self) -> int:
        """Return how many items run."""
        return max(min(self._unfinished, self.workers), 0)

    @property
    def pending(self) -> int:
        """Return how many items of the window wait for a worker."""
        return max(self._unfinished - self.workers, 0)

    @property
    def _unfinished(self) -> int:
        return self._unseen - len(self._completed)

    @property
    def _batch_size(self) -> int:
        return 1 if self._seen < self.singly else self.max_batch

    def results(self, items: Iterable[Item | None]) -> Generator[list[Result], None, None]:
        """Yield batches with exactly one result for each item; a cancellation cancels what was not started.

        A None among the items means that the source has nothing at the moment, and has waited for a while: results
        that have come meanwhile are yielded before it is asked again.
        """
        source = iter(items)
        if self.puts_back:
            source = returning = _ReturningItems(source, self.cancellation)
            self._put_back = returning.put_back
        executor = self._start_executor()
        try:
            if executor:
                yield from self._run(executor, source)
            yield from self._drain()
            yield from self._cancel_rest(source)
        except BaseException:
            # A task raised, or the consumer closed this generator: nobody takes the other results any more.
            self._abort()
            raise
        finally:
            # Do not wait: every thread that could end has ended, and an abandoned one may never end.
            if executor:
                executor.shutdown(wait=False, cancel_futures=True)

    def _start_executor(self) -> Executor | None:
        """Return an executor that is ready; without its threads the run is cancelled, and there is none."""
        try:
            return self.new_executor(self.workers)
        except RuntimeError as error:
            problem = f"this machine does not allow {self.workers} threads: {error}"
        except OSError as error:
            problem = f"this machine does not allow {self.workers} workers: {error.strerror}"
        self.cancellation.request(Reason.STORAGE)
        self.on_shortage(problem)
        return None

    def _run(self, executor: Executor, source: Iterator[Item | None]) -> Iterator[list[Result]]:
        """Yield the results of all items as they come, until the source ends or the run is cancelled."""
        while not self.cancellation.reason:
            has_waited = self._fill_window(executor, source)
            if not self._to_do and not has_waited:
                return
            batch = self._next_batch(0.0 if has_waited else _POLL_SECONDS)
            if batch:
                yield batch

    def _fill_window(self, executor: Executor, source: Iterator[Item | None]) -> bool:
        """Submit items until the window is full or the source ends; return True if the source has nothing yet."""
        window = self.workers + max(self.workers, 2 * self._batch_size)
        while len(self._to_do) < window and not self.cancellation.reason:
            try:
                item = next(source)
            except StopIteration:
                return False
            if item is None:
                return True
            future = executor.submit(self._run_unless_cancelled, item)
            # Only this thread reads the dict, so the future may complete before the next lines. It is counted before
            # its callback is there, so that no thread sees more completed futures than there are.
            self._to_do[future] = item
            self._unseen += 1
            future.add_done_callback(self._note_completed)
            self.on_scheduled(item, future)
        return False

    def _run_unless_cancelled(self, item: Item) -> Result | None:
        """Run the task on a worker, unless the run was cancelled while the item waited.

        The main thread cancels waiting futures, but notices a cancellation later than a worker that becomes free.
        """
        return self.cancelled(item) if self.cancellation.reason else self.task(item)

    def _note_completed(self, future: "Future[Result | None]") -> None:
        """Hand a completed future to the main thread, and wake that if enough of them have come. Any thread calls it.

        A thread that is woken for each future takes the interpreter's lock from the workers each time, and loses it
        to them each time: with thirty workers it then becomes the bottleneck.
        """
        self._completed.append(future)
        # First append, then compare; the main thread first sets the number, then counts: one of the two always sees
        # what the other has done, so that no wake-up is lost.
        if len(self._completed) >= self._wake_at and not self._is_wake_due.is_set():
            self._is_wake_due.set()

    def _next_batch(self, seconds: float) -> list[Result]:
        """Wait until a future completes, for `seconds` at most, and a moment for more of them; take what is due."""
        if seconds and not self._is_head_done():
            self._wait_for(1, seconds)
            if self._completed:
                self._wait_for(min(self._batch_size, self._unseen), _BATCH_SECONDS)
        return self._take_submitted() if self.as_submitted else self._take_completed()

    def _wait_for(self, futures: int, seconds: float) -> None:
        """Wait until so many futures have completed, for `seconds` at most."""
        self._is_wake_due.clear()
        self._wake_at = futures
        if len(self._completed) < futures:
            self._is_wake_due.wait(seconds)

    def _take_completed(self) -> list[Result]:
        """Take the futures that completed first, one batch of them."""
        number = min(len(self._completed), self._batch_size)
        return self._take_results(self._see_completed() for _ in range(number))

    def _take_submitted(self) -> list[Result]:
        """Take the futures that were submitted first, as far as they are done, one batch of them.

        A completed future behind an unfinished one stays in the dict, so that the window does not grow meanwhile.
        """
        while self._completed:
            self._see_completed()
        batch: list[Result] = []
        while self._is_head_done() and len(batch) < self._batch_size:
            batch += self._take_results([next(iter(self._to_do))])
        return batch

    def _is_head_done(self) -> bool:
        """Return whether results are ordered, and the next one in this order is there."""
        return self.as_submitted and bool(self._to_do) and next(iter(self._to_do)).done()

    def _see_completed(self) -> "Future[Result | None]":
        future = self._completed.popleft()
        self._unseen -= 1
        self._seen += 1
        return future

    def _drain(self) -> Iterator[list[Result]]:
        """Yield the results of the window after a cancellation, in steps that get harder; without one it is empty."""
        # 1. Cancel what waits. An item that a worker takes between these two lines counts as not started, rightly:
        #    the worker sees the cancellation and returns at once.
        in_flight = len([future for future in self._to_do if future.running()])
        for future in self._to_do:
            future.cancel()
        if self.cancellation.reason:
            self.on_drain(in_flight, len(self._to_do) - in_flight)
        # 2. Let the items in flight end by themselves.
        yield from self._batches_within(self.drain_seconds())
        # 3. Break off the rest, whose results still count.
        if self._to_do:
            self.interrupt()
        yield from self._batches_within(_INTERRUPT_SECONDS)
        # 4. Abandon what even that does not end, such as a name look-up.
        rest = iter(list(self._to_do))
        while futures := list(islice(rest, self._batch_size)):
            yield self._take_results(futures)
        self._unseen = 0

    def _cancel_rest(self, source: Iterator[Item | None]) -> Iterator[list[Result]]:
        """Yield results for the items that were never submitted, in batches that end where the source pauses."""
        batch: list[Result] = []
        for item in source:
            if item is not None:
                batch.append(self.cancelled(item))
            if batch and (item is None or len(batch) == self._batch_size):
                yield batch
                batch = []
        if batch:
            yield batch

    def _abort(self) -> None:
        """End the items of the window without their results."""
        # First the cancellation, so that no worker starts an item while the futures are cancelled one by one.
        self.cancellation.request(Reason.INTERNAL)
        running = [future for future in self._to_do if not future.cancel()]
        self.interrupt()
        self.abandoned += len(wait(running, _INTERRUPT_SECONDS).not_done)

    def _batches_within(self, seconds: float) -> Iterator[list[Result]]:
        until = monotonic() + seconds
        while self._to_do and monotonic() < until:
            batch = self._next_batch(_POLL_SECONDS)
            if batch:
                yield batch

    def _take_results(self, futures: "Iterable[Future[Result | None]]") -> list[Result]:
        """Remove futures from the window and return their results."""
        return [result for future in futures if (result := self._take_result(future))]

    def _take_result(self, future: "Future[Result | None]") -> Result | None:
        """Remove a future from the window and return its result; a future that is not done is abandoned.

        There is no result of an item that is put back.
        """
        item = self._to_do.pop(future)
        self.on_done(item, future)
        # Ask once: a worker may complete the future at any moment, and an abandoned item must have no other result.
        is_done = future.done()
        if not is_done:
            self.abandoned += 1
        if not is_done or future.cancelled():
            return self.cancelled(item)
        result = future.result()
        if result is None:
            self._put_back(item)
        return result
