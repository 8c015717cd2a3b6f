"""When to try again, how long to wait, when to give up."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from math import inf
from time import monotonic
from typing import TypeVar, cast

import tenacity

from job.errors import AttemptError, Reason

T = TypeVar("T")

MAX_RETRY_AFTER_SECONDS = 60.0
"""An origin that asks for more is not worth waiting for: the item ends (as curl's --retry-max-time)."""
_FURTHEST_SECONDS = 366 * 86400.0
"""A Retry-After beyond a year is a mistake, not a request."""
_BACKOFF = tenacity.wait_random_exponential(multiplier=0.5, max=10)
"""Full jitter (AWS Architecture Blog, "Exponential Backoff And Jitter"), in seconds."""
_JITTER = tenacity.wait_random(0, 1)
"""On top of a Retry-After, so that waiting items do not come back all at once, in seconds."""
_PROBES = tenacity.wait_exponential_jitter(initial=1, max=30, jitter=1)
"""Between probes of an origin that is away, in seconds."""
_DNS_ATTEMPTS = 2
"""A name that does not resolve is looked up once more, not as often as a busy server is asked."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How long one item is worth trying: attempts that count, and seconds from the first attempt's start."""

    max_attempts: int
    item_timeout_seconds: float
    patience_seconds: float = MAX_RETRY_AFTER_SECONDS
    """How long it may be asked to wait, in all, before that counts as its own failure."""
    ends_at: float = inf
    """When the run ends, by the monotonic clock: nobody waits for what would come after."""


@dataclass(frozen=True, slots=True)
class RetryEvent:
    """One decision to try again, for logs and metrics."""

    attempt: int
    """The attempt that failed, from 1."""
    max_attempts: int
    """How many there may be in all; one more for each that was excused."""
    wait_seconds: float
    """Not counting what the gate adds."""
    error: AttemptError


@dataclass(frozen=True, slots=True)
class Account:
    """What an item does not answer for alone."""

    excused_seconds: Callable[[], float] = lambda: 0.0
    """How long so far it waited for what all items share: that is not its time."""
    may_retry: Callable[[AttemptError], bool] = lambda _: True
    """Asked when all else speaks for another try: it pays for that out of the run's budget, or says no."""


def call(
    attempt: Callable[[], T],
    policy: RetryPolicy,
    *,
    sleep: Callable[[float], None],
    on_retry: Callable[[RetryEvent], None],
    account: Account = Account(),
) -> T:
    """Call `attempt` until it succeeds or is not worth another try, and raise its last error.

    `sleep` takes seconds, and may raise to end the waiting. An error that is excused costs nothing, and is tried again
    at once. Thread-safe: one tenacity controller a call (a shared one keeps its statistics in one place for all).
    """
    enough = _Enough(policy, account)

    def tell(state: tenacity.RetryCallState) -> None:
        error, most = _error(state), policy.max_attempts + enough.excused_attempts
        on_retry(RetryEvent(state.attempt_number, most, state.upcoming_sleep, error))

    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_exception(_worth_retrying),
        stop=enough,
        wait=enough.wait,
        sleep=sleep,
        before_sleep=tell,
        reraise=True,
    )
    return retrying(attempt)


def probe_wait_seconds(probe: int) -> float:
    """Return how long to wait before a probe, counted from 1, of an origin that is away."""
    return _PROBES(_after(probe))


def jitter_seconds() -> float:
    """Return what is added to a pause that an origin asked for."""
    return _JITTER(_after(1))


def _after(attempts: int) -> tenacity.RetryCallState:
    """Return a state that tells tenacity's waits how often was tried."""
    state = tenacity.RetryCallState(tenacity.Retrying(), None, (), {})
    state.attempt_number = attempts
    return state


def retry_after_seconds(value: str | None, now: datetime) -> float | None:
    """Read a Retry-After header (RFC 9110, 10.2.3: whole seconds, or a date); nonsense counts as none.

    A date in the past is 0, what lies more than a year ahead is nonsense. Never raises, if `now` has a time zone.
    """
    text = (value or "").strip()
    try:
        seconds = float(text) if text.isascii() and text.isdigit() else _seconds_until(text, now)
    except (ValueError, OverflowError):
        return None
    return max(seconds, 0.0) if seconds <= _FURTHEST_SECONDS else None


def _seconds_until(text: str, now: datetime) -> float:
    date = parsedate_to_datetime(text)
    return ((date if date.tzinfo else date.replace(tzinfo=UTC)) - now).total_seconds()


def _worth_retrying(error: BaseException) -> bool:
    if not isinstance(error, AttemptError):
        return False
    return error.retryable and (error.excused or (error.retry_after or 0.0) <= MAX_RETRY_AFTER_SECONDS)


class _Enough(tenacity.stop.stop_base):
    """Whether an item that failed has had its attempts, or its time, or the run its retries."""

    def __init__(self, policy: RetryPolicy, account: Account) -> None:
        self._policy = policy
        self._account = account
        self.excused_attempts = 0

    def __call__(self, retry_state: tenacity.RetryCallState) -> bool:
        if _error(retry_state).excused:
            self.excused_attempts += 1
            return False
        return (
            self._tried_enough(retry_state)
            or self._out_of_time(retry_state)
            or not self._account.may_retry(_error(retry_state))
        )

    def wait(self, state: tenacity.RetryCallState) -> float:
        """Return how long to wait before the next try, in seconds; of an excused one the gate knows."""
        error = _error(state)
        if error.excused:
            return 0.0
        if error.retry_after is None:
            return _BACKOFF(_after(state.attempt_number - self.excused_attempts))
        return error.retry_after + _JITTER(state)

    def _tried_enough(self, state: tenacity.RetryCallState) -> bool:
        most = self._policy.max_attempts
        if _error(state).reason == Reason.DNS:
            most = min(most, _DNS_ATTEMPTS)
        return state.attempt_number - self.excused_attempts >= most

    def _out_of_time(self, state: tenacity.RetryCallState) -> bool:
        """Tell whether the next wait would end beyond a limit, as `tenacity.stop_before_delay` does."""
        spent = (state.seconds_since_start or 0.0) - self._account.excused_seconds()
        if spent + state.upcoming_sleep >= self._policy.item_timeout_seconds:
            return True
        return monotonic() + state.upcoming_sleep >= self._policy.ends_at


def _error(state: tenacity.RetryCallState) -> AttemptError:
    """Return the failure of a finished attempt; only asked for where `_worth_retrying` saw one."""
    return cast("AttemptError", state.outcome and state.outcome.exception())
