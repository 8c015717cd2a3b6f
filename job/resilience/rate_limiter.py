"""How many requests a second: evenly spaced, slower after a pause, and faster again with time."""

from math import inf

_RECOVERY_SECONDS = 4.0
"""After a pause the pace is back at what was too much: it gets there soon, stays about there, and then goes beyond."""
_LEAST = 0.5
"""Requests a second that any origin bears: with less, a run would stand still and nobody would know why."""
_UNHINDERED = 1000.0
"""Requests a second at which a pace that nobody asked for is none any more."""
_SHORTEST_SECONDS = 1.0
"""A burst says nothing of what an origin bears in the long run: it is taken for what it bears in a second."""


class RateLimiter:
    """Gives each request its time to start. Not thread-safe: the gate's lock guards it.

    `most` is in requests a second, 0 for no limit. `guess` is what an origin is thought to bear that has not answered
    anybody yet. Times are those of one monotonic clock, in seconds.
    """

    def __init__(self, most: float, guess: float, now: float) -> None:
        self._most = most or inf
        self._too_much = guess
        self._rate = self._most
        self._next = self._since = now
        self._is_hindered = False
        self._answered = 0
        self._held_seconds: float | None = None
        """How long the pace had held that is to be halved."""

    def slot(self, now: float) -> float:
        """Return when the next request may start, and reserve that time."""
        slot = max(now, self._next)
        if self._is_hindered:
            self._rate = self._recovered(slot - self._since)
        self._next = slot + 1 / self._rate
        return slot

    def answered(self) -> None:
        """Note that a request was answered; after `slow`, one that had been sent before."""
        self._answered += 1

    def slow(self, now: float) -> None:
        """Go on at half the pace after this."""
        self._held_seconds = now - self._since
        self._is_hindered = True

    def resume(self, now: float) -> float:
        """Begin anew, by what was answered before, and return the pace; from then on it grows."""
        if self._held_seconds is not None and self._answered:  # else nothing was learned since the last time
            self._too_much = self._estimate(self._answered / max(self._held_seconds, _SHORTEST_SECONDS))
        self._held_seconds = None
        self._answered = 0
        self._next = self._since = now
        return self._recovered(0.0)

    def _estimate(self, answered: float) -> float:
        """Return what was too much: the pace that was allowed, if that was really made use of."""
        return max(answered if self._rate == inf else min(self._rate, 2 * answered), 2 * _LEAST)

    def _recovered(self, seconds: float) -> float:
        """Return the pace after a time, by TCP CUBIC's curve (RFC 9438, 4.2), which begins at a half here."""
        rate = self._too_much * (1 + 0.5 * (seconds / _RECOVERY_SECONDS - 1) ** 3)
        self._is_hindered = rate < min(self._most, _UNHINDERED)
        return rate if self._is_hindered else self._most
