"""The two limiters: how many requests start in a second (TCP CUBIC's curve), and how many are under way (AIMD)."""

import sys
from math import ceil, inf

_BETA = 0.5
"""What remains of the rate after a pause (CUBIC's multiplicative decrease; its own is 0.7, RFC 9438, 4.6)."""
_RECOVERY_SECONDS = 4.0
"""CUBIC's K: how long after a pause the rate is back at `w_max`, where it lingers before it grows beyond."""
_MINIMUM_RATE = 0.5
"""Requests a second that any origin can answer: with less, a run would stand still without a visible cause."""
_UNLIMITED_RATE = 1000.0
"""Requests a second at which a rate that nobody configured stops being a limit."""
_SHORTEST_MEASUREMENT_SECONDS = 1.0
"""The answers to a shorter burst count as if they had taken this long: a burst shows no sustainable rate."""
_UNLIMITED = sys.maxsize
_LOWERING_SHARE = 0.25
"""The limit is lowered when a quarter of as many attempts as are under way at the same time were turned away: an item
that is always reset is one of thirty, and tells nothing about the other twenty-nine."""
_ROUNDS_BEFORE_TOO_MANY = 8
"""How often as many attempts as the limit allows must be answered before a limit that was too high is tried again."""


class RateLimiter:
    """Reserves the time at which each request may start. Not thread-safe: the throttle's lock guards it.

    `max_rate` is the configured rate in requests a second, 0 for no limit. `first_w_max` is the rate assumed to be too
    high for an origin that has not answered any request yet. Times are those of one monotonic clock, in seconds.
    """

    def __init__(self, max_rate: float, first_w_max: float, now: float) -> None:
        self._max_rate = max_rate or inf
        self._w_max = first_w_max
        self._rate = self._max_rate
        self._next_slot = now
        self._resumed_at = now
        self._is_throttled = False
        self._answers = 0
        self._measured_seconds: float | None = None
        """How long the rate had been in force that the last pause has shown to be too high; None if that is used up."""

    def reserve(self, now: float) -> float:
        """Return when the next request may start, and reserve that time."""
        slot = max(now, self._next_slot)
        if self._is_throttled:
            self._rate = self._cubic_rate(slot - self._resumed_at)
        self._next_slot = slot + 1 / self._rate
        return slot

    def record_answer(self) -> None:
        """Count an answer; after `record_throttled` it is one to a request that had been sent before the pause."""
        self._answers += 1

    def record_throttled(self, now: float) -> None:
        """Record that the present rate is too high: after the pause it is halved."""
        self._measured_seconds = now - self._resumed_at
        self._is_throttled = True

    def resume(self, now: float) -> float:
        """Start again after a pause and return the rate; `w_max` follows from what was answered before the pause."""
        if self._measured_seconds is not None and self._answers:  # otherwise nothing was learned since the last pause
            measured_rate = self._answers / max(self._measured_seconds, _SHORTEST_MEASUREMENT_SECONDS)
            self._w_max = self._estimate_w_max(measured_rate)
        self._measured_seconds = None
        self._answers = 0
        self._next_slot = now
        self._resumed_at = now
        return self._cubic_rate(0.0)

    def _estimate_w_max(self, measured_rate: float) -> float:
        """Return the rate that was too high: the one that was allowed, if requests really came that fast."""
        used_rate = measured_rate if self._rate == inf else min(self._rate, 2 * measured_rate)
        return max(used_rate, _MINIMUM_RATE / _BETA)

    def _cubic_rate(self, seconds: float) -> float:
        """Return the rate so many seconds after a pause, on CUBIC's curve (RFC 9438, 4.2) scaled to begin at beta."""
        rate = self._w_max * (1 + (1 - _BETA) * (seconds / _RECOVERY_SECONDS - 1) ** 3)
        self._is_throttled = rate < min(self._max_rate, _UNLIMITED_RATE)
        return rate if self._is_throttled else self._max_rate


class ConcurrencyLimiter:
    """Limits how many requests are under way at the same time. Not thread-safe: the throttle's lock guards it.

    There is no limit until the origin turns attempts away (refuses, resets or says 503) while it answers others. Then
    half of what was under way is the limit, and one more each time that as many attempts were answered (additive
    increase, multiplicative decrease, as in TCP), up to `workers`, which is no limit again. A limit that was too high
    is tried again later. What started before the limit was lowered does not lower it once more.
    """

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._too_many = _UNLIMITED
        """What was under way when the limit was lowered."""
        self._turned_away = 0
        self._answered = 0
        self._round = 1
        """How many answers make a round: as many as may be under way. What was turned away counts within a round."""
        self._rounds = 1
        """How many rounds lead to a higher limit."""
        self.limit = _UNLIMITED
        self.epoch = 0
        """How often the limit was lowered."""
        self.needs_answers = False
        """Answers must be recorded: there is a limit, or something was turned away."""

    @property
    def is_limited(self) -> bool:
        """Return whether there is a limit."""
        return self.limit < _UNLIMITED

    def record_turned_away(self, under_way: int, epoch: int) -> bool:
        """Record an attempt that started in an epoch and was turned away; return whether the limit is lowered.

        `under_way` is the number of attempts at the same time, this one included.
        """
        if epoch != self.epoch or under_way <= 1:
            return False
        under_way = min(under_way, self.limit)
        # Where there is no limit many workers may be busy with something else, such as items that are always reset.
        whole = under_way if self.is_limited else max(under_way, self._workers // 2)
        if not self.needs_answers:
            self._begin_rounds(whole)
        self._turned_away += 1
        if self._turned_away < ceil(whole * _LOWERING_SHARE):
            return False
        self._too_many = under_way
        self.limit = max(under_way // 2, 1)
        self.epoch += 1
        self._begin_rounds(self.limit)
        return True

    def record_answer(self) -> None:
        """Count an answer; after as many as are due, allow one more request at the same time."""
        self._answered += 1
        if self._answered % self._round == 0:
            self._turned_away = 0
        if self._answered < self._round * self._rounds:
            return
        if self.limit + 1 < self._workers:
            self.limit += 1
            self._begin_rounds(self.limit)
        else:
            self.limit = _UNLIMITED
            self.needs_answers = False

    def _begin_rounds(self, under_way: int) -> None:
        self.needs_answers = True
        self._turned_away = 0
        self._answered = 0
        self._round = under_way
        self._rounds = _ROUNDS_BEFORE_TOO_MANY if under_way + 1 == self._too_many else 1
