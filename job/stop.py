"""Whether the run must end now, and why: asked by every thread, decided once."""

from threading import Event
from time import monotonic

from job.errors import Reason, Stopped

_GRACED = {Reason.SIGNAL, Reason.DEADLINE}


class Stop:
    """A request to end, with its cause; the first one counts. Thread-safe.

    `request` may be called from a signal handler: whoever appends first is first, whatever comes in between, and
    a handler that interrupts `request` later leaves the event alone, whose lock the interrupted code may hold.
    """

    def __init__(self) -> None:
        self._event = Event()
        self._causes: list[tuple[Reason, int | None]] = []
        self._signalled = False
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

    def request(self, reason: Reason, signal: int | None = None) -> None:
        """Ask the run to end, because of a signal if one is given; every wait ends at once."""
        if signal is not None:
            self._signalled = True
        if self._grace_began is None and reason in _GRACED:
            self._grace_began = monotonic()
        if not self._causes:
            self._causes.append((reason, signal))
            self._event.set()

    def check(self) -> None:
        """Raise Stopped if the run must end."""
        if self._causes:
            raise Stopped(self._causes[0][0])

    def sleep(self, seconds: float) -> None:
        """Wait, or raise Stopped the moment that the run must end."""
        self._event.wait(seconds)
        self.check()
