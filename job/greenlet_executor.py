"""Greenlet executor: one thread drives all downloads, each in a greenlet that gives the thread up while it waits."""

import heapq
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from functools import partial
from itertools import count
from time import monotonic
from typing import Any, ParamSpec, TypeVar

from greenlet import getcurrent, greenlet

from job.cancellation import Cancellation
from job.pool import start_threads
from job.transport import MultiTransfers

P = ParamSpec("P")
T = TypeVar("T")

_POLL_SECONDS = 0.1
"""How soon the driving thread notices a cancellation while nothing happens."""
_MAX_STORAGE_THREADS = 32
_MOMENT_SECONDS = 0.5
"""How long the driving thread may take to end once all tasks have ended."""


class GreenletExecutor(ThreadPoolExecutor):
    """Runs tasks as greenlets, at most `slots` at the same time, on one thread; its other threads wait for disks.

    A task is plain blocking code. There are three places where it may wait, and only they know of greenlets: sending
    (`transfers`), sleeping (`sleep`) and storing (`run_aside`). Each of them notes what resumes its greenlet and
    switches to the hub, the driving thread's loop, which runs others meanwhile. Everything else blocks all tasks, so
    it must be short; and no lock may be held at a waiting place: the next greenlet that wants it would block the
    thread, and with it the one that has the lock.

    The driving thread owns everything here but `_inbox` and `_ready`, deques whose operations are atomic: other threads
    append tasks and the results of storage, and then wake the loop.
    """

    def __init__(self, slots: int, cancellation: Cancellation) -> None:
        """Take how many tasks may run at the same time; `start` must be called before the first one is submitted."""
        self._thread_count = 1 + min(slots, _MAX_STORAGE_THREADS)
        super().__init__(self._thread_count, thread_name_prefix="flagjob")
        self.transfers = MultiTransfers(slots, current=self._current, suspend=self._suspend)
        """Performs the transfers of this executor's tasks."""
        self._cancellation = cancellation
        self._inbox: deque[tuple[Future[Any], Callable[[], Any]]] = deque()
        self._ready: deque[Callable[[], object]] = deque()
        """What resumes each greenlet whose storage call has ended."""
        self._sleeping: list[tuple[float, int, Callable[[], object]]] = []
        """A heap of wake-up times, with what resumes each greenlet; equal times come in the order of their numbers."""
        self._numbers = count()
        self._unused_slots = slots
        """How many greenlets may still be made; they are made when they are needed."""
        self._idle: list[greenlet] = []
        self._running: set[Future[Any]] = set()
        self._is_asleep = False
        self._is_shut_down = False
        self._driver: Future[None] | None = None

    def start(self) -> "GreenletExecutor":
        """Start all threads and return this executor; raise RuntimeError or OSError if the system refuses it."""
        self.transfers.open()
        start_threads(self, self._thread_count)
        self._driver = super().submit(self._drive)
        return self

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> "Future[T]":
        """Run a call in a greenlet as soon as one is free, and return its future; RuntimeError after `shutdown`."""
        if self._is_shut_down:
            raise RuntimeError("cannot schedule new futures after shutdown")
        future: Future[T] = Future()
        self._inbox.append((future, partial(fn, *args, **kwargs)))
        self._wake_if_asleep()
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: FBT001, FBT002  (the library's)
        """Accept no more tasks; the threads end when all tasks have ended. With `cancel_futures`, cancel what waits."""
        self._is_shut_down = True
        if cancel_futures:
            for future, _ in list(self._inbox):
                future.cancel()
        self.transfers.wake()
        if wait and self._driver:
            self._driver.result()

    def threads_left(self) -> int:
        """Return how many threads still run a moment after `shutdown`: one that waits for a silent name server."""
        return len(wait_for([self._driver] if self._driver else [], _MOMENT_SECONDS).not_done)

    def check(self) -> None:
        """Raise Cancelled if the run must end."""
        self._cancellation.check()

    def sleep(self, seconds: float) -> None:
        """Wait `seconds` while other tasks run, or raise Cancelled as soon as the run must end. For tasks only."""
        self.check()
        heapq.heappush(self._sleeping, (monotonic() + seconds, next(self._numbers), self._current()))
        self._suspend()
        self.check()

    def run_aside(self, work: Callable[[], T]) -> T:
        """Return or raise what blocking work does; another thread does it, and tasks run meanwhile. For tasks only."""
        future = super().submit(work)
        resume = self._current()

        def note_done(_: object) -> None:
            self._ready.append(resume)
            self._wake_if_asleep()

        future.add_done_callback(note_done)
        self._suspend()
        try:
            return future.result()
        finally:
            del future  # as in `_run_task`

    def _current(self) -> Callable[..., object]:
        """Return what resumes the present greenlet; its argument is what `_suspend` returns there."""
        resume: Callable[..., object] = getcurrent().switch
        return resume

    def _suspend(self) -> Any:  # noqa: ANN401  (what the greenlet is resumed with)
        """Switch to the hub until the present greenlet is resumed; return what it is resumed with."""
        return self._hub.switch()

    def _drive(self) -> None:
        """Run all tasks: the hub, which is entered whenever a greenlet waits or has nothing to do."""
        self._hub = getcurrent()
        try:
            while not self._is_shut_down or self._inbox or self._running:
                self._start_tasks()
                while self._ready:
                    self._ready.popleft()()
                self._resume_sleepers()
                self._poll()
            self.transfers.close()
        except BaseException as error:
            # A bug in the loop: no greenlet is ever resumed again, and nobody may wait for the futures in vain.
            self._is_shut_down = True
            for future in [*self._running, *(future for future, _ in self._inbox)]:
                if not future.done():
                    future.set_exception(error)
            raise
        finally:
            super().shutdown(wait=False)

    def _start_tasks(self) -> None:
        """Start the tasks that wait: in idle greenlets, then in new ones."""
        while self._inbox and self._idle:
            self._idle.pop().switch()
        while self._inbox and self._unused_slots:
            self._unused_slots -= 1
            greenlet(self._run_tasks, self._hub).switch()

    def _can_start(self) -> bool:
        """Return whether a task waits, and a greenlet can take it."""
        return bool(self._inbox) and bool(self._idle or self._unused_slots)

    def _run_tasks(self) -> None:
        """Run one task after the other, as one greenlet does it; wait in the hub while there is none."""
        this = getcurrent()
        while True:
            while self._inbox:
                self._run_task(*self._inbox.popleft())
            self._idle.append(this)
            self._suspend()

    def _run_task(self, future: "Future[Any]", call: Callable[[], Any]) -> None:
        if not future.set_running_or_notify_cancel():
            return
        self._running.add(future)
        try:
            result = call()
        except BaseException as error:  # noqa: BLE001  (whoever asks the future for its result gets it)
            self._running.discard(future)
            future.set_exception(error)
            # The error's traceback refers to this frame. If that still referred to the future, which has the error,
            # all that the task held would wait for the garbage collector.
            del future
        else:
            self._running.discard(future)
            future.set_result(result)

    def _resume_sleepers(self) -> None:
        """Resume every greenlet whose time has come; all of them if the run must end, since `sleep` says so to them."""
        now = monotonic()
        while self._sleeping and (self._cancellation.reason or self._sleeping[0][0] <= now):
            _, _, resume = heapq.heappop(self._sleeping)
            resume()

    def _poll(self) -> None:
        """Wait until there is something to do, for 0.1 s at most, and resume the tasks whose transfers have ended."""
        seconds = _POLL_SECONDS
        if self._sleeping:
            seconds = min(seconds, max(self._sleeping[0][0] - monotonic(), 0.0))
        # First the flag, then the deques; other threads first append, then read the flag. So either this thread finds
        # what was appended, or the other one wakes it.
        self._is_asleep = True
        is_due = bool(self._ready) or self._can_start()
        self.transfers.poll(0.0 if is_due else seconds)
        self._is_asleep = False

    def _wake_if_asleep(self) -> None:
        """Wake the driving thread, once for all that it will find then. Any thread may call it."""
        if self._is_asleep:
            self._is_asleep = False
            self.transfers.wake()
