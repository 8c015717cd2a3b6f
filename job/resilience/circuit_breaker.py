"""The circuit breaker: is the origin there at all; opens after failures in a row, then probes with back-off."""

from enum import Enum
from http import HTTPStatus
from random import uniform

from job.errors import AttemptError, NetworkError, Reason
from job.resilience.types import MAX_RETRY_AFTER_SECONDS, ThrottleLimits

_MIN_FAILURES = 20
"""Failures in a row that a run with few workers bears."""
_MAX_FAILURES_WITH_PATIENCE = 45
"""With patience the breaker opens earlier, because waiting costs little; also if all of a short list failed twice."""
_FIRST_PROBE_SECONDS = 1.0
_LONGEST_PROBE_SECONDS = 30.0
"""Bounds of the pause between probes, which doubles each time; up to one random second is added to each."""
_PAUSING_STATUSES = {403, 420, HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE, 509, *range(520, 528)}
"""The statuses whose Retry-After is meant for all requests (RFC 6585, 4; RFC 9110, 15.6.4): 403 is GitHub's rate limit,
420 and 509 are those of others, and 520 to 527 are a CDN's words about its whole origin."""
_GATEWAY_STATUSES = {HTTPStatus.BAD_GATEWAY, HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.GATEWAY_TIMEOUT}
"""What a gateway, or a load balancer, says of an origin that it does not reach (RFC 9110, 15.6.3 to 15.6.5)."""
_REJECTING_REASONS = {Reason.CONNECTION, Reason.PROXY}
_REJECTING_STATUSES = {HTTPStatus.BAD_GATEWAY, HTTPStatus.SERVICE_UNAVAILABLE}
"""How an origin, or a proxy before it, turns away what is too much for it: it refuses or resets, or says 502 or 503."""


class State(Enum):
    """The state of the circuit; the table in `CircuitBreaker` says what leads from one to another."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"
    GIVEN_UP = "given up"


class CircuitBreaker:
    """Opens when as many attempts in a row found no origin as there are workers. Not thread-safe: the throttle's lock.

    An *answer* is any HTTP answer but those below. A *failure* is no answer at all, a 5xx, or a Retry-After that is too
    long. A *throttling* answer is a 429, or a 503 (or 403, 420, 509, 520 to 527) with a Retry-After that is worth
    waiting for.

    | state     | answer                      | failure                             | throttling                       |
    |-----------|-----------------------------|-------------------------------------|----------------------------------|
    | closed    | closed, count from 0        | counted; open at the limit          | all pause; open if nothing else  |
    |           |                             |                                     | came for `max_pauses_seconds`    |
    | open      | no change: the request was  | ignored: the request was sent       | as failure                       |
    |           | sent before the outage      | before, and is tried again          |                                  |
    | half-open | of the probe: closed, all   | of the probe: open, next probe      | as failure; the next probe waits |
    |           | resume at half the rate     | later; given up if patience is over | as long as it asks for           |
    | given up  | no change                   | counts against its item             | as failure                       |

    A 429 without a time to wait is an answer unless the circuit is closed. Without patience, closed leads to given up
    at once. In half-open, attempts other than the probe count as in open. A probe that ends without any of the three
    (a full disk, a cancelled run) leads back to open, and the next request in the queue is the probe.

    Half of the failures that open it must be of different items: few items that always fail are not the origin. In a
    row means that no attempt was answered which began after the first of them.
    Probing ends after the patience that `open` is given, and before `ends_at`, when the run ends. Times are those of
    one monotonic clock, in seconds.
    """

    def __init__(self, limits: ThrottleLimits) -> None:
        self._limit = _failure_limit(limits)
        self._ends_at = limits.ends_at
        self._failures = 0
        self._failed_items: set[str] = set()
        self.recorded = 0
        """How many failures there were in all."""
        self._row_began = 0
        """How many there were when the first one of the present row was recorded, this one included."""
        self._probes = 0
        self._next_probe_at = 0.0
        self._give_up_at = 0.0
        self.state = State.CLOSED

    @property
    def is_closed(self) -> bool:
        """Return whether requests may start as the rate limiter lets them."""
        return self.state is State.CLOSED

    @property
    def may_probe(self) -> bool:
        """Return whether a probe may start, when its time has come: none is under way, and there is still patience."""
        return self.state is State.OPEN

    @property
    def has_given_up(self) -> bool:
        """Return whether the origin is given up for the rest of the run."""
        return self.state is State.GIVEN_UP

    def record_failure(self, item: str, *, counts_again: bool) -> bool:
        """Count a failure while closed; return whether the circuit must open.

        `counts_again` is False for an item whose repeated failure says nothing new about the origin.
        """
        self.recorded += 1
        if not self._failed_items:
            self._row_began = self.recorded
        if item not in self._failed_items or counts_again:
            self._failures += 1
        self._failed_items.add(item)
        return self._failures >= self._limit and 2 * len(self._failed_items) >= self._limit

    def record_answer(self, recorded_before: int) -> None:
        """Close the circuit: the origin is there.

        `recorded_before` is what `recorded` was when the attempt began. While closed, an attempt that began before the
        first failure of the row ends no row: the origin may have gone since.
        """
        if self.is_closed and recorded_before < self._row_began:
            return
        self._failures = 0
        self._probes = 0
        self._failed_items.clear()
        self.state = State.CLOSED

    def open(self, now: float, pause: float, patience: float) -> None:
        """Open the circuit for `patience` seconds at most; the first probe comes after `pause` seconds at least."""
        self._give_up_at = min(now + patience, self._ends_at)
        self.schedule_probe(now, pause)

    def schedule_probe(self, now: float, pause: float) -> None:
        """Set the time of the next probe, `pause` seconds ahead at least; give up if patience is over."""
        self.state = State.GIVEN_UP if now >= self._give_up_at else State.OPEN
        self._probes += 1
        self._next_probe_at = min(now + max(probe_wait_seconds(self._probes), pause), self._give_up_at)

    def begin_probe(self, now: float) -> float:
        """Return how long to wait for the next probe; 0.0 makes the caller that probe: the circuit is half-open."""
        if now < self._next_probe_at:
            return self._next_probe_at - now
        self.state = State.HALF_OPEN
        return 0.0

    def end_probe(self) -> None:
        """Go back from half-open to open; what the probe found out is recorded after this."""
        self.state = State.OPEN


def probe_wait_seconds(probe: int) -> float:
    """Return how long to wait before a probe, counted from 1: exponential back-off with jitter, 30 s at most."""
    return min(_FIRST_PROBE_SECONDS * 2.0 ** min(probe - 1, 16) + uniform(0, 1), _LONGEST_PROBE_SECONDS)  # noqa: S311  (no secret)


def _failure_limit(limits: ThrottleLimits) -> int:
    limit = max(_MIN_FAILURES, limits.workers)
    if not limits.patience:
        return limit
    limit_of_list = 2 * limits.items if limits.items and not limits.is_for_hiccups else limit
    return min(limit, _MAX_FAILURES_WITH_PATIENCE, limit_of_list)


def is_throttling(error: AttemptError) -> bool:
    """Return whether an answer asks all requests to wait: for a time that is worth it, or a 429 without a time."""
    status = error.failure.http_status
    retry_after = error.retry_after or 0.0
    if status == HTTPStatus.TOO_MANY_REQUESTS and not retry_after:
        return True
    return status in _PAUSING_STATUSES and 0 < retry_after <= MAX_RETRY_AFTER_SECONDS


def is_failure(error: AttemptError) -> bool:
    """Return whether an attempt shows an origin in trouble: no answer, a 5xx, or a Retry-After that is too long."""
    if isinstance(error, NetworkError):
        return True
    status = error.failure.http_status or 0
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return True
    return status in _PAUSING_STATUSES and (error.retry_after or 0) > 0


def is_missing(error: AttemptError) -> bool:
    """Return whether nobody is there who could answer: no answer at all, or a gateway's word that it got none.

    Any other 5xx may be one item's, so that the same item's second one is no news.
    """
    return isinstance(error, NetworkError) or error.failure.http_status in _GATEWAY_STATUSES


def is_rejection(error: AttemptError) -> bool:
    """Return whether an attempt may have failed because others were under way: refused, reset, or a 502 or 503.

    So may one whose packets a firewall drops, which is no connection in time. One with a time to wait has its own way.
    """
    if isinstance(error, NetworkError):
        return error.failure.kind in _REJECTING_REASONS or error.is_unconnected
    return error.failure.http_status in _REJECTING_STATUSES and not error.retry_after
