"""The gate that all workers share."""

from collections.abc import Callable
from functools import partial
from http import HTTPStatus
from threading import Lock
from time import monotonic

from job.errors import AttemptError, NetworkError
from job.resilience.circuit_breaker import CircuitBreaker
from job.resilience.rate_limiter import RateLimiter
from job.resilience.retry_budget import RetryBudget
from job.resilience.retrying import MAX_RETRY_AFTER_SECONDS, jitter_seconds
from job.resilience.types import NOBODY, Permit, ThrottleEvents, ThrottleLimits, ignore

_LOOK_SECONDS = 1.0
"""How late a request may be that waited when a pause ended early."""
_SHORT_PAUSE_SECONDS = 0.5
"""After a 429 that does not say how long."""
_PAUSING = {HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE}
"""What comes with a Retry-After that is meant for everyone (RFC 6585, 4; RFC 9110, 15.6.4)."""
Then = Callable[[], None]
"""Whom to tell of what was learned, once the lock is free."""


class Throttle:
    """Lets requests in at a pace, holds them back while the origin asks for it, and notices an origin that is away.

    `clock` is a monotonic clock in seconds, `jitter` gives what is added to a pause. Who waited longest goes first.
    Thread-safe: `_lock` guards all of it. After `enter` comes `left`, or the gate learns nothing.
    """

    def __init__(
        self,
        limits: ThrottleLimits,
        news: ThrottleEvents = NOBODY,
        *,
        clock: Callable[[], float] = monotonic,
        jitter: Callable[[], float] = jitter_seconds,
    ) -> None:
        self._lock = Lock()
        self._clock = clock
        self._jitter = jitter
        self._news = news
        self._limits = limits
        self._waiting: dict[Permit, None] = {}
        self._epoch = self._answers = 0
        self._resume_at = 0.0
        self._paused = False
        """There was a pause, and nobody was let in since."""
        self._fruitless_since: float | None = None
        self._pace = RateLimiter(limits.rate, limits.workers, clock())
        self._breaker = CircuitBreaker(limits)
        self._budget = RetryBudget()
        self._told_spent = False

    def enter(
        self, sleep: Callable[[float], None], item: str = "", *, again: bool = False, doubted: bool = False
    ) -> Permit:
        """Wait until an item's request may start, by `sleep`, which may raise to end the wait.

        `again` says that the item failed before, by its own fault; `doubted`, that it did while others were answered.
        """
        began, permit = self._clock(), Permit(item, again, doubted)
        try:
            while wait := self._wait(permit):
                sleep(wait)
        finally:
            with self._lock:
                self._waiting.pop(permit, None)
        permit.waited_seconds = self._clock() - began
        return permit

    def left(self, permit: Permit, error: BaseException | None) -> bool:
        """Learn from how a request ended (None: well); return whether its failure is no fault of its item.

        A failure that is excused should be tried again: all wait at the gate, for as long as it takes.
        What is neither an answer nor a failure of the origin, as a full disk, teaches nothing.
        """
        with self._lock:
            now = self._clock()
            self._breaker.probing = self._breaker.probing and not permit.probe
            permit.passed_over = self._answers > permit.answers
            excused, tell = self._learned(permit, error, now)
        tell()
        return excused

    def may_retry(self, error: AttemptError) -> bool:
        """Pay for a retry out of the run's budget; False when that is spent, and the item should end.

        Who has patience with an origin that is away does not pay for having asked it.
        """
        if self._limits.patience and _is_failure(error):
            return True
        with self._lock:
            paid = self._budget.spend()
            told, self._told_spent = self._told_spent, self._told_spent or not paid
        if not paid and not told:
            self._news.spent()
        return paid

    def _wait(self, permit: Permit) -> float:
        """Return how long to wait before asking again; 0: come in."""
        with self._lock:
            now = self._clock()
            self._waiting.setdefault(permit)
            wait, tell = self._turn(permit, now)
            if not wait:
                del self._waiting[permit]
                permit.epoch, permit.answers = self._epoch, self._answers
        tell()
        return min(wait, _LOOK_SECONDS)

    def _turn(self, permit: Permit, now: float) -> tuple[float, Then]:
        """Return how long it is until a ticket's turn, and whom to tell what."""
        if self._breaker.is_open:
            return self._wait_for_probe(permit, now), ignore
        if now < self._resume_at:
            return self._resume_at - now, ignore
        tell = self._deal(now) if self._paused else ignore
        if permit.slot is None:
            permit.slot = self._pace.slot(now)
        return max(permit.slot - now, 0.0), tell

    def _wait_for_probe(self, permit: Permit, now: float) -> float:
        """Let the one who waited longest be the probe: the next one is another item's."""
        if self._breaker.probing or self._breaker.given_up or next(iter(self._waiting)) is not permit:
            return _LOOK_SECONDS
        wait = self._breaker.wait(now)
        permit.probe = not wait
        return wait

    def _deal(self, now: float) -> Then:
        """End a pause: those who wait get their slots in the order in which they came."""
        self._paused = False
        pace = self._pace.resume(now)
        for permit in self._waiting:
            permit.slot = self._pace.slot(now)
        return partial(self._news.resumed, pace)

    def _hold(self, until: float) -> None:
        """Let nobody start before that time; slots are dealt anew then."""
        self._epoch += 1
        self._paused = True
        self._resume_at = until

    def _learned(self, permit: Permit, error: BaseException | None, now: float) -> tuple[bool, Then]:
        """Return whether a failure is excused, and whom to tell what."""
        if error is None:
            self._budget.refill(retried=permit.again)
            return False, self._answered(permit, now)
        if not isinstance(error, AttemptError):
            return False, ignore
        if _asks_all_to_wait(error) and not self._breaker.is_open:
            return self._refused(permit, error, now)
        if _is_failure(error):
            return self._failed(permit, error, now)
        return False, self._answered(permit, now)

    def _refused(self, permit: Permit, error: AttemptError, now: float) -> tuple[bool, Then]:
        """Hold everyone back, unless the origin has done nothing else for too long."""
        pause, excused = error.retry_after or _SHORT_PAUSE_SECONDS, bool(error.retry_after)
        if permit.epoch != self._epoch:  # it was sent before the pause, which it can only make longer
            if excused and now + pause > self._resume_at:
                self._hold(now + pause)
            return excused, ignore
        if self._fruitless_since is None:
            self._fruitless_since = now
        elif now - self._fruitless_since > self._limits.fruitless:
            return self._opened(error, now)
        self._pace.slow(now)
        self._hold(now + pause + self._jitter())
        return excused, partial(self._news.paused, error, self._resume_at - now)

    def _failed(self, permit: Permit, error: AttemptError, now: float) -> tuple[bool, Then]:
        """Count a failure of the origin, or learn from a probe that it still is away."""
        if self._breaker.is_open:
            if permit.probe:
                self._breaker.schedule(now, error.retry_after or 0.0)
                return not self._breaker.given_up, self._farewell(error)
            return not self._breaker.given_up, ignore
        counts_again = isinstance(error, NetworkError) and not permit.doubted
        if permit.epoch == self._epoch and self._breaker.failed(permit.item, counts_again=counts_again):
            return self._opened(error, now)
        return False, ignore

    def _opened(self, error: AttemptError, now: float) -> tuple[bool, Then]:
        """Let nobody in but probes; without patience give the origin up."""
        self._pace.slow(now)
        self._breaker.open(now, error.retry_after or 0.0)
        if self._breaker.given_up:
            return False, self._farewell(error)
        return True, partial(self._news.paused, error, self._limits.patience)

    def _farewell(self, error: AttemptError) -> Then:
        return partial(self._news.down, error) if self._breaker.given_up else ignore

    def _answered(self, permit: Permit, now: float) -> Then:
        """Note that the origin is there; one that was away must show it by a probe."""
        self._answers += 1
        if self._breaker.is_open and (self._breaker.given_up or not permit.probe):
            return ignore
        was_away = self._breaker.is_open
        self._breaker.answered()
        self._fruitless_since = None
        if was_away:
            self._hold(now)
            return self._news.back
        self._pace.answered()
        return ignore


def _asks_all_to_wait(error: AttemptError) -> bool:
    """Tell an answer with a pause that is worth waiting for, and one that says that it was too much."""
    wait = error.retry_after or 0.0
    if error.http_status == HTTPStatus.TOO_MANY_REQUESTS and not wait:
        return True
    return error.http_status in _PAUSING and 0 < wait <= MAX_RETRY_AFTER_SECONDS


def _is_failure(error: AttemptError) -> bool:
    """Tell the origin's failures: no answer at all, or one that says so, or a pause beyond all patience."""
    if isinstance(error, NetworkError):
        return True
    status = error.http_status or 0
    return status >= HTTPStatus.INTERNAL_SERVER_ERROR or (status in _PAUSING and (error.retry_after or 0) > 0)
