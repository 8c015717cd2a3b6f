"""May a request to the origin start now: one pace for all threads."""

from collections.abc import Callable
from threading import Lock
from time import monotonic


class Gate:
    """Lets requests in at a rate, in the order in which they came. Thread-safe: one lock guards the next free slot.

    `rate` is in requests a second, all threads together; 0 is no limit. `clock` is a monotonic clock in seconds.
    """

    def __init__(self, rate: float, clock: Callable[[], float] = monotonic) -> None:
        self._interval = 1 / rate if rate else 0.0
        self._clock = clock
        self._lock = Lock()
        self._next = clock()

    def enter(self, sleep: Callable[[float], None]) -> float:
        """Wait for a slot by `sleep`, which may raise to end the wait, and return how many seconds that took."""
        if not self._interval:
            return 0.0
        with self._lock:
            now = self._clock()
            slot = max(now, self._next)
            self._next = slot + self._interval
        if slot > now:
            sleep(slot - now)
        return slot - now
