"""Retries: which failures are tried again, the back-off between tries, and when to stop; decided by tenacity."""

from collections.abc import Callable
from dataclasses import dataclass, field
from math import inf
from time import monotonic
from typing import Generic, TypeVar, cast

import tenacity

from job.errors import AttemptError, Reason
from job.model import NotModified, Reply
from job.resilience.types import MAX_RETRY_AFTER_SECONDS, ItemRequest, Source

T = TypeVar("T")

_BACKOFF = tenacity.wait_random_exponential(multiplier=0.5, max=10)
"""Full jitter (AWS Architecture Blog, "Exponential Backoff And Jitter"), in seconds."""
_JITTER = tenacity.wait_random(0, 1)
"""Added to a Retry-After, so that items do not come back all at once, in seconds."""
_DNS_ATTEMPTS = 2
"""A name that does not resolve is looked up once more, not as often as a busy server is asked."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How long one item is worth trying: attempts that count, and seconds from the first attempt's start."""

    max_attempts: int
    item_timeout_seconds: float
    patience_seconds: float = MAX_RETRY_AFTER_SECONDS
    """How long the origin may ask an item to wait, in all, before that counts against the item."""
    ends_at: float = inf
    """When the run ends, on the monotonic clock: no wait ends after that."""


@dataclass(frozen=True, slots=True)
class RetryEvent:
    """One decision to try again, for logs and metrics."""

    attempt: int
    """The attempt that failed, from 1."""
    max_attempts: int
    """How many there may be in all: one more for each failure that was ignored."""
    wait_seconds: float
    """The back-off, not counting what the throttle adds."""
    error: AttemptError
    ignored: bool = False
    """The failure does not count against the item: all items wait for the origin."""


class Retrying:
    """Wraps `get`: tries an item again until it succeeds or is not worth another try, and raises its last error.

    `sleep` takes seconds, and may raise to end the wait. `may_retry` is asked when all else speaks for another try: it
    takes the retry out of the run's budget, or returns False. Thread-safe: each item that fails has a tenacity
    controller of its own (a shared one keeps its statistics in one place for all threads).
    """

    def __init__(
        self,
        source: Source,
        policy: RetryPolicy,
        *,
        sleep: Callable[[float], None],
        may_retry: Callable[[AttemptError], bool],
        on_retry: Callable[[str, RetryEvent], None],
    ) -> None:
        self._source = source
        self._policy = policy
        self._sleep = sleep
        self._may_retry = may_retry
        self._on_retry = on_retry

    def get(self, request: ItemRequest) -> Reply | NotModified:
        """Return what the wrapped `get` returns, as soon as one attempt succeeds."""
        began = monotonic()
        try:
            return self._source.get(request)  # nearly always enough, and no controller is built for it
        except AttemptError as error:
            if not _is_worth_retrying(error):
                raise
            tries = _Tries(self._source, request, began, first_error=error)
        return self._retry(tries)

    def _retry(self, tries: "_Tries") -> Reply | NotModified:
        """Make further attempts as tenacity decides; the first attempt counts as its first."""
        controller = tenacity.Retrying(
            retry=tenacity.retry_if_exception(_is_worth_retrying),
            wait=_wait_seconds,
            stop=(
                tenacity.stop_after_attempt(self._policy.max_attempts)
                | _StopIf(_has_looked_up_enough)
                | _StopIf(lambda state: self._would_exceed_limits(state, tries))
                # Last, because asking takes a retry from the budget.
                | _StopIf(lambda state: not self._may_retry(_error(state)))
            ),
            sleep=self._sleep,
            before_sleep=lambda state: self._report(state, tries.request),
            reraise=True,
        )
        return controller(tries)

    def _would_exceed_limits(self, state: tenacity.RetryCallState, tries: "_Tries") -> bool:
        """Return whether the next wait would end beyond a limit, as `tenacity.stop_before_delay` does."""
        now = monotonic()
        spent = now - tries.began - tries.request.throttled_seconds
        if spent + state.upcoming_sleep >= self._policy.item_timeout_seconds:
            return True
        return now + state.upcoming_sleep >= self._policy.ends_at

    def _report(self, state: tenacity.RetryCallState, request: ItemRequest) -> None:
        max_attempts = self._policy.max_attempts + request.ignored_failures
        event = RetryEvent(request.attempts, max_attempts, state.upcoming_sleep, _error(state))
        self._on_retry(request.item.code, event)


@dataclass(slots=True)
class _Tries:
    """The attempts at one item, as tenacity calls them: the first call only raises what the first attempt raised."""

    source: Source
    request: ItemRequest
    began: float
    first_error: AttemptError | None = field(repr=False)

    def __call__(self) -> Reply | NotModified:
        if self.first_error is not None:
            error = self.first_error
            self.first_error = None
            raise error
        return self.source.get(self.request)


def _is_worth_retrying(error: BaseException) -> bool:
    if not isinstance(error, AttemptError):
        return False
    return error.failure.retryable and (error.retry_after or 0.0) <= MAX_RETRY_AFTER_SECONDS


def _wait_seconds(state: tenacity.RetryCallState) -> float:
    """Return how long to wait before the next attempt: what the origin asked for, or the back-off."""
    retry_after = _error(state).retry_after
    return _BACKOFF(state) if retry_after is None else retry_after + _JITTER(state)


class _StopIf(tenacity.stop.stop_base):
    """Stops if a condition holds; to be composed with tenacity's own stops by `|`, which asks them in order."""

    def __init__(self, condition: Callable[[tenacity.RetryCallState], bool]) -> None:
        self._condition = condition

    def __call__(self, retry_state: tenacity.RetryCallState) -> bool:
        return self._condition(retry_state)


def _has_looked_up_enough(state: tenacity.RetryCallState) -> bool:
    return _error(state).failure.kind is Reason.DNS and state.attempt_number >= _DNS_ATTEMPTS


def _error(state: tenacity.RetryCallState) -> AttemptError:
    """Return the failure of a finished attempt; only asked for where `_is_worth_retrying` saw one."""
    return cast("AttemptError", state.outcome and state.outcome.exception())


@dataclass(slots=True)
class _CallsAfter(Generic[T]):
    """The calls of some work, as tenacity makes them: the first one only raises what the work raised before."""

    first_error: BaseException | None
    work: Callable[[], T]

    def __call__(self) -> T:
        if self.first_error is not None:
            error = self.first_error
            self.first_error = None
            raise error
        return self.work()


def retry_until(
    ends_at: float,
    work: Callable[[], T],
    first_error: BaseException,
    *,
    is_temporary: Callable[[BaseException], bool],
    longest_pause: float,
) -> T:
    """Return what `work` returns after it raised `first_error`; raise its last error if waiting does not help.

    For work that has nothing to do with the origin. No call begins after `ends_at`, on the monotonic clock. The thread
    waits between the calls, for random seconds, up to `longest_pause`.
    """
    controller = tenacity.Retrying(
        retry=tenacity.retry_if_exception(is_temporary),
        wait=tenacity.wait_random_exponential(multiplier=0.5, max=longest_pause),
        stop=tenacity.stop_before_delay(ends_at - monotonic()),
        reraise=True,
    )
    return controller(_CallsAfter(first_error, work))


_CAPACITY = 100.0
_RETRY_COST = 1.0
_SUCCESS_REFUND = 0.1
_NO_RETRIES_BELOW = 50.0
"""As gRPC throttles retries (gRFC A6): a success pays for a tenth of a retry; half of the bucket may be used."""


class RetryBudget:
    """The tokens that retries of a whole run cost. Not thread-safe: the throttle's lock guards it.

    A failing origin is then asked less, not more. The throttle owns the budget, because one lock guards both.
    """

    def __init__(self) -> None:
        self._tokens = _CAPACITY

    def refill(self, *, retried: bool) -> None:
        """Record a success; a retry that succeeds is refunded, as with the AWS SDKs' standard mode."""
        self._tokens = min(self._tokens + (_RETRY_COST if retried else _SUCCESS_REFUND), _CAPACITY)

    def spend(self) -> bool:
        """Pay for a retry; return False if too few tokens are left."""
        if self._tokens - _RETRY_COST < _NO_RETRIES_BELOW:
            return False
        self._tokens -= _RETRY_COST
        return True
