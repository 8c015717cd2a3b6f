"""Is the origin there at all: failures in a row, and the probing of an origin that is not."""

from job.retry import probe_wait_seconds

_FEWEST = 20
"""Failures in a row that a run of few workers bears."""
_LOOK_SECONDS = 0.1
"""How soon who waits for a probe's outcome sees it."""


class Breaker:
    """Opens when as many requests in a row found no origin as there are workers. Not thread-safe: the gate's lock.

    Open, it lets one request at a time through, with pauses between that grow, for `patience` seconds.
    Times are those of one monotonic clock, in seconds.
    """

    def __init__(self, workers: int, patience: float) -> None:
        self._limit = max(_FEWEST, workers)
        self._patience = patience
        self._failures = 0
        self._probes = 0
        self._next = self._until = 0.0
        self.is_open = self.given_up = False
        self.probing = False
        """A request is under way to see whether the origin is back."""

    def failed(self) -> bool:
        """Count a failure while closed; return whether it is one too many."""
        self._failures += 1
        return self._failures >= self._limit

    def answered(self) -> None:
        """Note that the origin is there."""
        self._failures = self._probes = 0
        self.is_open = False

    def open(self, now: float, pause: float) -> None:
        """Let nobody in but a probe, the first one after a pause."""
        self.is_open = True
        self._until = now + self._patience
        self.schedule(now, pause)

    def schedule(self, now: float, pause: float) -> None:
        """Set the next probe's time, one at least as far off as was asked for; without any patience left, give up."""
        self.given_up = now >= self._until
        self._probes += 1
        self._next = min(now + max(probe_wait_seconds(self._probes), pause), self._until)

    def wait(self, now: float) -> float:
        """Return how long to wait until looking again; 0 makes the caller the probe."""
        if self.probing or self.given_up:
            return _LOOK_SECONDS
        if now < self._next:
            return self._next - now
        self.probing = True
        return 0.0
