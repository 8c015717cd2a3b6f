"""Cancellation of a run: whether it must end now, and why; every thread asks, the first cause counts."""

from collections.abc import Callable
from threading import Event, Thread, Timer
from time import monotonic
from typing import Protocol

from job.errors import Cancelled, Reason, StorageError

_POLL_SECONDS = 0.1
_MINIMUM_GRACE_SECONDS = 1.0
_GRACED_REASONS = {Reason.SIGNAL, Reason.DEADLINE}


class Sleeper(Protocol):
    """Waits for those who must notice at once that the run ends. Both methods raise Cancelled then."""

    def check(self) -> None:
        """Raise Cancelled if the run must end."""
        ...

    def sleep(self, seconds: float) -> None:
        """Wait `seconds`, or raise Cancelled as soon as the run must end."""
        ...


class Cancellation:
    """A request to end the run, with its cause; the first request wins. Thread-safe.

    `request` may be called from a signal handler, which can interrupt another `request` on the main thread. Appending
    to the list is atomic, so whichever call appends first is the cause. Only that call sets the event: a handler that
    interrupts `Event.set` must not call it again, because the interrupted code may hold the event's lock.
    """

    def __init__(self) -> None:
        self._event = Event()
        self._causes: list[tuple[Reason, int | None]] = []
        self._signalled = False
        self._storage_failed = False
        self._grace_began: float | None = None

    @property
    def reason(self) -> Reason | None:
        """Return why the run ends, or None while it may go on."""
        return self._causes[0][0] if self._causes else None

    @property
    def signal(self) -> int | None:
        """Return the number of the signal that ends the run, or None."""
        return self._causes[0][1] if self._causes else None

    @property
    def grace_began(self) -> float | None:
        """Return when a signal or the deadline first came (monotonic seconds); the grace period starts there."""
        return self._grace_began

    @property
    def signalled(self) -> bool:
        """Return whether a signal came, even if the run had ended for another reason: nothing may wait any more."""
        return self._signalled

    @property
    def storage_failed(self) -> bool:
        """Return whether the destination or this machine failed, even if the run had ended for another reason."""
        return self._storage_failed

    def request(self, reason: Reason, signal: int | None = None) -> None:
        """Ask the run to end, because of a signal if one is given; every wait ends at once."""
        if signal is not None:
            self._signalled = True
        if reason is Reason.STORAGE:
            self._storage_failed = True
        if self._grace_began is None and reason in _GRACED_REASONS:
            self._grace_began = monotonic()
        if not self._causes:
            self._causes.append((reason, signal))
            self._event.set()

    def cancel_after(self, seconds: float) -> Callable[[], None]:
        """Request the end of the run at its deadline, `seconds` from now; return a function that revokes the timer.

        Raises StorageError if the system cannot start a thread.
        """
        timer = Timer(seconds, self.request, [Reason.DEADLINE])
        timer.daemon = True
        _start(timer)
        return timer.cancel

    def check(self) -> None:
        """Raise Cancelled if the run must end."""
        if self._causes:
            raise Cancelled(self._causes[0][0])

    def sleep(self, seconds: float) -> None:
        """Wait `seconds`, or raise Cancelled as soon as the run must end."""
        self._event.wait(seconds)
        self.check()

    def run_interruptible(self, work: Callable[[], None]) -> None:
        """Run blocking work on a thread of its own; raise what it raises, or Cancelled as soon as the run must end.

        Use it for calls that nothing can interrupt, such as a file system or a library that waits for an answer. After
        Cancelled the thread is abandoned. Raises StorageError if the system cannot start a thread.
        """
        self.check()
        self._watch(_start_worker(work), self.check)

    def run_within_grace(self, grace_seconds: float, work: Callable[[], None]) -> None:
        """Run work that belongs to the end of the run; raise Cancelled when the grace period is over.

        The work always gets at least one second, so that what can finish promptly does.
        """
        earliest_end = monotonic() + _MINIMUM_GRACE_SECONDS

        def check() -> None:
            began = self._grace_began
            if began is not None and monotonic() >= max(began + grace_seconds, earliest_end):
                self.check()

        try:
            worker = _start_worker(work)
        except StorageError:  # no thread can be started, but the work may not block at all
            work()
        else:
            self._watch(worker, check)

    def _watch(self, worker: "_Worker", check: Callable[[], None]) -> None:
        while worker.is_alive():
            check()
            worker.join(_POLL_SECONDS)
        if worker.failure:
            raise worker.failure


class _Worker(Thread):
    """A thread that runs `work` and keeps the exception it raised."""

    def __init__(self, work: Callable[[], None]) -> None:
        super().__init__(name="interruptible", daemon=True)
        self._work = work
        self.failure: BaseException | None = None

    def run(self) -> None:
        """Run the work on this thread."""
        try:
            self._work()
        except BaseException as error:  # noqa: BLE001  (the waiting thread raises it)
            self.failure = error


def _start_worker(work: Callable[[], None]) -> _Worker:
    worker = _Worker(work)
    _start(worker)
    return worker


def _start(thread: Thread) -> None:
    try:
        thread.start()
    except RuntimeError as error:
        raise StorageError(f"this machine does not allow a thread: {error}") from error
