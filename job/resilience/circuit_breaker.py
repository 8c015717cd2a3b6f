"""Is the origin there at all: failures in a row, and the probing of an origin that is not."""

from job.resilience.retrying import probe_wait_seconds
from job.resilience.types import ThrottleLimits

_FEWEST = 20
"""Failures in a row that a run of few workers bears."""
_MOST_WITH_PATIENCE = 45
"""Waiting is cheap, so that with patience it begins sooner; and also where there are few items, if each fails twice."""


class CircuitBreaker:
    """Opens when as many requests in a row found no origin as there are workers. Not thread-safe: the gate's lock.

    Half of them must be of different items: a few that always fail are not the origin. Open, it lets one request at a
    time through, with pauses between that grow, for `patience` seconds, but not beyond `ends_at`, when the run ends.
    Times are those of one monotonic clock, in seconds.
    """

    def __init__(self, limits: ThrottleLimits) -> None:
        limit = max(_FEWEST, limits.workers)
        self._limit = min(limit, _MOST_WITH_PATIENCE, 2 * (limits.items or limit)) if limits.patience else limit
        self._patience = limits.patience
        self._ends_at = limits.ends_at
        self._failures = self._probes = 0
        self._items: set[str] = set()
        self._next = self._until = 0.0
        self.is_open = self.given_up = False
        self.probing = False
        """A request is under way to see whether the origin is back."""

    def failed(self, item: str, *, counts_again: bool) -> bool:
        """Count a failure while closed; return whether it is one too many.

        `counts_again` says that it is news although the item failed before.
        """
        is_news = item not in self._items or counts_again
        self._items.add(item)
        self._failures += is_news
        return self._failures >= self._limit and 2 * len(self._items) >= self._limit

    def answered(self) -> None:
        """Note that the origin is there."""
        self._failures = self._probes = 0
        self._items.clear()
        self.is_open = False

    def open(self, now: float, pause: float) -> None:
        """Let nobody in but a probe, the first one after a pause."""
        self.is_open = True
        self._until = min(now + self._patience, self._ends_at)
        self.schedule(now, pause)

    def schedule(self, now: float, pause: float) -> None:
        """Set the next probe's time, one at least as far off as was asked for; without any patience left, give up."""
        self.given_up = now >= self._until
        self._probes += 1
        self._next = min(now + max(probe_wait_seconds(self._probes), pause), self._until)

    def wait(self, now: float) -> float:
        """Return how long to wait for the next probe; 0 makes the caller that probe."""
        self.probing = now >= self._next
        return max(self._next - now, 0.0)
