"""How many requests a second: evenly spaced, slower after a pause, and faster again with time."""

from math import inf

_GROWTH = 1.1
"""A second after a pause the pace is this much higher: twice in 7.3 seconds."""
_UNHINDERED = 1000.0
"""Requests a second at which a pace that nobody asked for is none any more."""
_LONG_ENOUGH_SECONDS = 1000.0
"""By then every pace has grown beyond any use."""
_SHORTEST_SECONDS = 1.0
"""A burst says nothing of what an origin bears in the long run: it is taken for what it bears in a second."""


class Pace:
    """Gives each request its time to start. Not thread-safe: the gate's lock guards it.

    `most` is in requests a second, 0 for no limit. `guess` is what an origin is thought to bear that has not answered
    anybody yet. Times are those of one monotonic clock, in seconds.
    """

    def __init__(self, most: float, guess: float, now: float) -> None:
        self._most = most or inf
        self._guess = guess
        self._first = self._rate = self._most
        self._next = self._since = now
        self._answered = 0
        self._slowed_after: float | None = None
        """How many seconds the pace had held that is to be halved."""

    def slot(self, now: float) -> float:
        """Return when the next request may start, and reserve that time."""
        slot = max(now, self._next)
        if self._slowed_after is not None:
            self._first = self._halved(max(self._slowed_after, _SHORTEST_SECONDS))
            self._slowed_after, self._answered = None, 0
        self._rate = self._grown(slot)
        self._next = slot + 1 / self._rate
        return slot

    def answered(self) -> None:
        """Note that a request was answered; after `slow`, one that had been sent before."""
        self._answered += 1

    def slow(self, now: float) -> None:
        """Go on at half the pace after this."""
        self._slowed_after = now - self._since

    def resume(self, at: float) -> None:
        """Let nobody start before that time; from then on the pace grows."""
        self._next = self._since = at

    def _halved(self, seconds: float) -> float:
        """Return half the pace that was allowed, but no more than what was really answered in that time."""
        if self._rate == inf:
            return (self._answered / seconds or self._guess) / 2
        return min(self._rate / 2, max(self._answered, 1) / seconds)

    def _grown(self, slot: float) -> float:
        rate = self._first * _GROWTH ** min(slot - self._since, _LONG_ENOUGH_SECONDS)
        return self._most if rate >= min(self._most, _UNHINDERED) else rate
