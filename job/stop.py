"""Whether the run must end now, and why: asked by every thread, decided once."""

from collections.abc import Callable
from threading import Event, Thread, Timer
from time import monotonic

from job.errors import Reason, Stopped, StorageError

_POLL_SECONDS = 0.1
_LEAST_SECONDS = 1.0
_GRACED = {Reason.SIGNAL, Reason.DEADLINE}


class Stop:
    """A request to end, with its cause; the first one counts. Thread-safe.

    `request` may be called from a signal handler: whoever appends first is first, whatever comes in between, and
    a handler that interrupts `request` later leaves the event alone, whose lock the interrupted code may hold.
    """

    def __init__(self) -> None:
        self._event = Event()
        self._causes: list[tuple[Reason, int | None]] = []
        self._signalled = self._storage = False
        self._grace_began: float | None = None

    @property
    def reason(self) -> Reason | None:
        """Why the run ends, or None while it may go on."""
        return self._causes[0][0] if self._causes else None

    @property
    def signal(self) -> int | None:
        """The number of the signal that ends the run, if one does."""
        return self._causes[0][1] if self._causes else None

    @property
    def grace_began(self) -> float | None:
        """When a signal or the deadline first came, on the monotonic clock; the grace counts from then."""
        return self._grace_began

    @property
    def signalled(self) -> bool:
        """Whether a signal came, also to a run that ended already: nothing may be waited for any more."""
        return self._signalled

    @property
    def storage_failed(self) -> bool:
        """Whether destination or machine failed, be it only when the run ended already."""
        return self._storage

    def request(self, reason: Reason, signal: int | None = None) -> None:
        """Ask the run to end, because of a signal if one is given; every wait ends at once."""
        if signal is not None:
            self._signalled = True
        if reason is Reason.STORAGE:
            self._storage = True
        if self._grace_began is None and reason in _GRACED:
            self._grace_began = monotonic()
        if not self._causes:
            self._causes.append((reason, signal))
            self._event.set()

    def after(self, seconds: float) -> Callable[[], None]:
        """Request the end of the run for its deadline, so many seconds from now; what is returned takes that back.

        Raises StorageError where the system gives no thread.
        """
        timer = Timer(seconds, self.request, [Reason.DEADLINE])
        timer.daemon = True
        _start(timer)
        return timer.cancel

    def check(self) -> None:
        """Raise Stopped if the run must end."""
        if self._causes:
            raise Stopped(self._causes[0][0])

    def unless(self, work: Callable[[], None]) -> None:
        """Do work on a thread of its own and raise what it raises, or Stopped the moment that the run must end.

        For what nothing else could interrupt, a file system or a library that waits for an answer. The thread is
        left to itself then. Raises StorageError where the system gives no thread.
        """
        self.check()
        self._watch(_started(work), self.check)

    def within(self, grace_seconds: float, work: Callable[[], None]) -> None:
        """Do the same for work that belongs to the run's end: Stopped comes out when the grace is over.

        A second it has in any case: what can be ended at once is.
        """
        least = monotonic() + _LEAST_SECONDS

        def check() -> None:
            began, now = self._grace_began, monotonic()
            if began is not None and now >= max(began + grace_seconds, least):
                self.check()

        try:
            aside = _started(work)
        except StorageError:  # there is no thread to be had, but perhaps no need of one
            work()
        else:
            self._watch(aside, check)

    def _watch(self, aside: "_Aside", check: Callable[[], None]) -> None:
        while aside.is_alive():
            check()
            aside.join(_POLL_SECONDS)
        if aside.failure:
            raise aside.failure

    def sleep(self, seconds: float) -> None:
        """Wait, or raise Stopped the moment that the run must end."""
        self._event.wait(seconds)
        self.check()


class _Aside(Thread):
    """Does work on a thread of its own, and keeps what it raised."""

    def __init__(self, work: Callable[[], None]) -> None:
        super().__init__(name="aside", daemon=True)
        self._work = work
        self.failure: BaseException | None = None

    def run(self) -> None:
        """Do the work, on this thread."""
        try:
            self._work()
        except BaseException as error:  # noqa: BLE001  (whoever waits for it raises it)
            self.failure = error


def _started(work: Callable[[], None]) -> _Aside:
    aside = _Aside(work)
    _start(aside)
    return aside


def _start(thread: Thread) -> None:
    try:
        thread.start()
    except RuntimeError as error:
        raise StorageError(f"this machine does not allow a thread: {error}") from error
