"""The throttle of an origin: when each attempt may start, by rate limit, Retry-After pauses and circuit breaker."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from random import uniform
from threading import Lock
from time import monotonic

from job.cancellation import Sleeper
from job.errors import AttemptError, NetworkError, Reason
from job.model import NotModified, Reply
from job.resilience.circuit_breaker import CircuitBreaker
from job.resilience.rate_limiter import RateLimiter
from job.resilience.retrying import RetryBudget, RetryEvent, RetryPolicy
from job.resilience.types import (
    MAX_RETRY_AFTER_SECONDS,
    NO_EVENTS,
    ItemRequest,
    Permit,
    Source,
    ThrottleEvents,
    ThrottleLimits,
    ignore,
)

_LONGEST_WAIT_SECONDS = 1.0
"""After so long at most an attempt asks again: the pause that it waits for may have ended early."""
_SHORT_PAUSE_SECONDS = 0.5
"""The pause after a 429 without a Retry-After."""
_PAUSING_STATUSES = {403, 420, HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE, 509, *range(520, 528)}
"""The statuses whose Retry-After is meant for all requests (RFC 6585, 4; RFC 9110, 15.6.4): 403 is GitHub's rate limit,
420 and 509 are those of others, and 520 to 527 are a CDN's words about its whole origin."""
_LASTING_REASONS = {Reason.DNS, Reason.TLS}
"""A name that nobody has, or a bad certificate: no hiccup, and nothing that seconds heal."""
_Notify = Callable[[], None]
"""Calls the callback of an event; only once the lock is free."""


@dataclass(frozen=True, slots=True)
class _Effect:
    """What the result of an attempt leads to."""

    is_ignored: bool = False
    """The failure does not count against its item, which is tried again."""
    notify: _Notify = ignore


_NO_EFFECT = _Effect()


class Throttle:
    """Holds the state of one origin, and says how long each attempt must wait. It never sleeps itself.

    An attempt asks `acquire` until that returns 0.0, and reports its result by `release`; an attempt that stops waiting
    calls `withdraw`. `wait_for_permit` does the waiting.

    Thread-safe. `_lock` guards all state, breaker, limiter and budget included, because one decision reads several of
    them: without it two threads would take the same slot, both become the probe of an open circuit, or start while a
    third is just recording the pause that holds them. It is never held across a wait or a callback: a callback may
    block (a log whose reader is slow), and all workers would block behind it.

    `clock` is a monotonic clock in seconds; `jitter` returns the seconds that are added to a pause.
    """

    def __init__(
        self,
        limits: ThrottleLimits,
        events: ThrottleEvents = NO_EVENTS,
        *,
        clock: Callable[[], float] = monotonic,
        jitter: Callable[[], float] = lambda: uniform(0, 1),  # noqa: S311  (no secret)
    ) -> None:
        self._lock = Lock()
        self._clock = clock
        self._jitter = jitter
        self._events = events
        self._limits = limits
        self._waiting: dict[Permit, None] = {}
        """An ordered set: the attempt that has waited longest comes first."""
        self._epoch = 0
        """How many pauses there were. A result of an older epoch was under way when the pause began: no news."""
        self._answers = 0
        self._resume_at = 0.0
        self._is_paused = False
        """There was a pause, and no attempt has started since."""
        self._only_throttled_since: float | None = None
        self._limiter = RateLimiter(limits.rate, limits.workers, clock())
        self._breaker = CircuitBreaker(limits)
        self._budget = RetryBudget()
        self._is_budget_reported = False

    def acquire(self, permit: Permit) -> float:
        """Return how many seconds to wait before asking again; 0.0 means that the attempt may start now."""
        with self._lock:
            now = self._clock()
            self._waiting.setdefault(permit)
            wait, notify = self._time_until_turn(permit, now)
            if wait == 0.0:
                del self._waiting[permit]
                permit.epoch = self._epoch
                permit.answers_before = self._answers
        notify()
        return min(wait, _LONGEST_WAIT_SECONDS)

    def withdraw(self, permit: Permit) -> None:
        """Forget an attempt that will not start: it must not stay first in the queue for the next probe."""
        with self._lock:
            self._waiting.pop(permit, None)

    def release(self, permit: Permit, error: BaseException | None) -> bool:
        """Record how an attempt ended (None: well); return whether its failure is not counted against the item.

        A failure that is ignored should be tried again: all attempts wait here, for as long as it takes. Errors that
        are not the origin's change nothing, such as a body that a full disk did not take.
        """
        with self._lock:
            now = self._clock()
            permit.others_succeeded = self._answers > permit.answers_before
            if permit.is_probe:
                self._breaker.end_probe()
            effect = self._record(permit, error, now)
        effect.notify()
        return effect.is_ignored

    def may_retry(self, error: AttemptError) -> bool:
        """Take a retry out of the run's budget; return False if that is spent, so that the item should end.

        With a patience that the user asked for, failures of an origin that is away cost nothing: they are waited for
        anyway.
        """
        if self._limits.patience and not self._limits.is_for_hiccups and _is_failure(error):
            return True
        with self._lock:
            is_paid = self._budget.spend()
            is_first_time = not is_paid and not self._is_budget_reported
            if is_first_time:
                self._is_budget_reported = True
        if is_first_time:
            self._events.budget_spent()
        return is_paid

    def _time_until_turn(self, permit: Permit, now: float) -> tuple[float, _Notify]:
        """Return the seconds until an attempt may start, and the event to report."""
        if not self._breaker.is_closed:
            return self._time_until_probe(permit, now), ignore
        if now < self._resume_at:
            return self._resume_at - now, ignore
        notify = self._end_pause(now) if self._is_paused else ignore
        if permit.slot is None:
            permit.slot = self._limiter.reserve(now)
        return max(permit.slot - now, 0.0), notify

    def _time_until_probe(self, permit: Permit, now: float) -> float:
        """Make the attempt that has waited longest the probe: the next probe is then another item's."""
        is_first = next(iter(self._waiting)) is permit
        if not is_first or not self._breaker.may_probe:
            return _LONGEST_WAIT_SECONDS
        wait = self._breaker.begin_probe(now)
        permit.is_probe = wait == 0.0
        return wait

    def _end_pause(self, now: float) -> _Notify:
        """Deal new slots to all that wait, in the order in which they came: nobody is overtaken after a pause."""
        self._is_paused = False
        rate = self._limiter.resume(now)
        for permit in self._waiting:
            permit.slot = self._limiter.reserve(now)
        return partial(self._events.resumed, rate)

    def _pause_until(self, time: float) -> None:
        """Delay all attempts until that time. Attempts that are under way belong to an older epoch from now on."""
        self._epoch += 1
        self._is_paused = True
        self._resume_at = time

    def _record(self, permit: Permit, error: BaseException | None, now: float) -> _Effect:
        if error is None:
            self._budget.refill(retried=permit.is_retry)
            return self._record_answer(permit, now)
        if not isinstance(error, AttemptError):
            return _NO_EFFECT
        if _is_throttling(error) and self._breaker.is_closed:
            return self._record_throttling(permit, error, now)
        if _is_failure(error):
            return self._record_failure(permit, error, now)
        return self._record_answer(permit, now)

    def _record_throttling(self, permit: Permit, error: AttemptError, now: float) -> _Effect:
        """Pause all attempts; open the circuit if the origin has done nothing but throttle for too long."""
        pause = error.retry_after or _SHORT_PAUSE_SECONDS
        is_ignored = bool(error.retry_after)  # without a time there is nothing that the item could have obeyed
        if permit.epoch != self._epoch:  # it started before the pause, which it can only make longer
            if is_ignored and now + pause > self._resume_at:
                self._pause_until(now + pause)
            return _Effect(is_ignored)
        if self._only_throttled_since is None:
            self._only_throttled_since = now
        elif now - self._only_throttled_since > self._limits.max_pauses_seconds:
            return self._open_circuit(error, now)
        self._limiter.record_throttled(now)
        self._pause_until(now + pause + self._jitter())
        return _Effect(is_ignored, partial(self._events.paused, error, self._resume_at - now))

    def _record_failure(self, permit: Permit, error: AttemptError, now: float) -> _Effect:
        """Count a failure while closed; otherwise schedule the next probe if this was one."""
        if not self._breaker.is_closed:
            if permit.is_probe:
                self._breaker.schedule_probe(now, error.retry_after or 0.0)
                if self._breaker.has_given_up:
                    return _Effect(notify=partial(self._events.gave_up, error))
            return _Effect(is_ignored=not self._breaker.has_given_up)
        if permit.epoch != self._epoch:
            return _NO_EFFECT
        counts_again = isinstance(error, NetworkError) and not permit.fails_while_others_succeed
        if self._breaker.record_failure(permit.item, counts_again=counts_again):
            return self._open_circuit(error, now)
        return _NO_EFFECT

    def _open_circuit(self, error: AttemptError, now: float) -> _Effect:
        """Open the circuit, so that only probes start; without patience give the origin up at once."""
        patience = self._patience_with(error)
        self._limiter.record_throttled(now)
        self._breaker.open(now, error.retry_after or 0.0, patience)
        if self._breaker.has_given_up:
            return _Effect(notify=partial(self._events.gave_up, error))
        return _Effect(is_ignored=True, notify=partial(self._events.paused, error, patience))

    def _patience_with(self, error: AttemptError) -> float:
        """Return how many seconds an origin is probed that is away because of this failure."""
        limits = self._limits
        if limits.is_for_hiccups and error.failure.kind in _LASTING_REASONS:
            return 0.0
        if limits.patience_once_answered is not None and self._answers:
            return limits.patience_once_answered
        return limits.patience

    def _record_answer(self, permit: Permit, now: float) -> _Effect:
        """Record that the origin is there; one that was away must show it by a probe."""
        self._answers += 1
        if self._breaker.is_closed:
            self._breaker.record_answer()
            self._only_throttled_since = None
            self._limiter.record_answer()
            return _NO_EFFECT
        if self._breaker.has_given_up or not permit.is_probe:
            return _NO_EFFECT
        self._breaker.record_answer()
        self._only_throttled_since = None
        self._pause_until(now)
        return _Effect(notify=self._events.recovered)


def wait_for_permit(throttle: Throttle, permit: Permit, sleep: Callable[[float], None]) -> None:
    """Wait until an attempt may start. `sleep` takes seconds and may raise to end the wait."""
    try:
        while seconds := throttle.acquire(permit):
            sleep(seconds)
    except BaseException:
        throttle.withdraw(permit)
        raise


class Throttled:
    """Wraps `get`: waits for the throttle before each attempt, and repeats attempts whose failure it ignores.

    Such a failure costs the item neither an attempt nor its time, only the wait that all attempts share. Thread-safe
    as far as its parts are.
    """

    def __init__(
        self,
        source: Source,
        throttle: Throttle,
        *,
        policy: RetryPolicy,
        sleeper: Sleeper,
        on_retry: Callable[[str, RetryEvent], None],
    ) -> None:
        self._source = source
        self._throttle = throttle
        self._policy = policy
        self._sleeper = sleeper
        self._on_retry = on_retry

    def get(self, request: ItemRequest) -> Reply | NotModified:
        """Return what the wrapped `get` returns; raise its error if that counts against the item."""
        while True:
            permit = self._wait(request)
            began = monotonic()
            try:
                reply = self._send(request)
            except BaseException as error:
                is_ignored = self._throttle.release(permit, error)
                request.fails_while_others_succeed |= permit.others_succeeded
                if not isinstance(error, AttemptError) or not is_ignored:
                    raise
                if not self._ignores(error, permit, request) or not error.failure.retryable:
                    raise
                request.ignored_failures += 1
                request.throttled_seconds += monotonic() - began
                self._report(request, error)
            else:
                self._release(permit, reply)
                return reply

    def _wait(self, request: ItemRequest) -> Permit:
        permit = Permit(
            request.item.code,
            is_retry=request.attempts > request.ignored_failures,
            fails_while_others_succeed=request.fails_while_others_succeed,
        )
        began = monotonic()
        wait_for_permit(self._throttle, permit, self._sleeper.sleep)
        request.throttled_seconds += monotonic() - began
        return permit

    def _send(self, request: ItemRequest) -> Reply | NotModified:
        self._sleeper.check()
        try:
            return self._source.get(request)
        except AttemptError as error:
            if isinstance(error, NetworkError):
                self._sleeper.check()  # the end of the run breaks transfers off: that is not the origin's failure
            request.error = str(error)
            raise

    def _release(self, permit: Permit, reply: Reply | NotModified) -> None:
        try:
            self._throttle.release(permit, None)
        except BaseException:  # a callback failed, such as a log that nobody reads: the body has no owner yet
            if isinstance(reply, Reply):
                reply.body.close()
            raise

    def _ignores(self, error: AttemptError, permit: Permit, request: ItemRequest) -> bool:
        """Return whether a failure stays ignored: not for an item that alone is throttled.

        Such an item would hold up all others. The limits are the number of attempts that it may make, counted while
        other items are answered, and the patience with one item.
        """
        if not error.retry_after:
            return True
        now = monotonic()
        if request.throttled_since is None:
            request.throttled_since = now
        if permit.others_succeeded:
            request.throttled_while_others_succeed += 1
        if request.throttled_while_others_succeed > self._policy.max_attempts:
            return False
        return now - request.throttled_since <= self._policy.patience_seconds

    def _report(self, request: ItemRequest, error: AttemptError) -> None:
        max_attempts = self._policy.max_attempts + request.ignored_failures
        self._on_retry(request.item.code, RetryEvent(request.attempts, max_attempts, 0.0, error, ignored=True))


def _is_throttling(error: AttemptError) -> bool:
    """Return whether an answer asks all requests to wait: for a time that is worth it, or a 429 without a time."""
    status = error.failure.http_status
    retry_after = error.retry_after or 0.0
    if status == HTTPStatus.TOO_MANY_REQUESTS and not retry_after:
        return True
    return status in _PAUSING_STATUSES and 0 < retry_after <= MAX_RETRY_AFTER_SECONDS


def _is_failure(error: AttemptError) -> bool:
    """Return whether an attempt shows an origin in trouble: no answer, a 5xx, or a Retry-After that is too long."""
    if isinstance(error, NetworkError):
        return True
    status = error.failure.http_status or 0
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return True
    return status in _PAUSING_STATUSES and (error.retry_after or 0) > 0
