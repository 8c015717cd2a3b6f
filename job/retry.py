"""When to try again, how long to wait, when to give up."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
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
_DNS_ATTEMPTS = 2
"""A name that does not resolve is looked up once more, not as often as a busy server is asked."""


@dataclass(frozen=True, slots=True)
class Policy:
    """How long one item is worth trying: attempts in all, and seconds from the first attempt's start."""

    max_attempts: int
    item_timeout_seconds: float


@dataclass(frozen=True, slots=True)
class Retry:
    """One decision to try again, for logs and metrics."""

    attempt: int
    """The attempt that failed, from 1."""
    wait_seconds: float
    error: AttemptError


def call(
    attempt: Callable[[], T],
    policy: Policy,
    *,
    sleep: Callable[[float], None],
    on_retry: Callable[[Retry], None],
    excused: Callable[[], float] = lambda: 0.0,
) -> T:
    """Call `attempt` until it succeeds or is not worth another try, and raise its last error.

    `sleep` takes seconds, and may raise to end the waiting. `excused` says how many seconds so far were spent on
    what all items share, and do not count as this one's. Thread-safe: one tenacity controller a call
    (a shared one keeps its statistics in one place for all threads).
    """
    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_exception(_worth_retrying),
        stop=tenacity.stop_any(
            tenacity.stop_after_attempt(policy.max_attempts),
            _OutOfTime(policy.item_timeout_seconds, excused),
            _LookedUpEnough(),
        ),
        wait=_wait,
        sleep=sleep,
        before_sleep=lambda state: on_retry(Retry(state.attempt_number, state.upcoming_sleep, _error(state))),
        reraise=True,
    )
    return retrying(attempt)


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
    return error.retryable and (error.retry_after or 0.0) <= MAX_RETRY_AFTER_SECONDS


class _OutOfTime(tenacity.stop.stop_base):
    """The next wait would end beyond the item's time, as `tenacity.stop_before_delay`, but for what is excused."""

    def __init__(self, seconds: float, excused: Callable[[], float]) -> None:
        self._seconds = seconds
        self._excused = excused

    def __call__(self, retry_state: tenacity.RetryCallState) -> bool:
        spent = (retry_state.seconds_since_start or 0.0) - self._excused()
        return spent + retry_state.upcoming_sleep >= self._seconds


class _LookedUpEnough(tenacity.stop.stop_base):
    def __call__(self, retry_state: tenacity.RetryCallState) -> bool:
        return _error(retry_state).reason == Reason.DNS and retry_state.attempt_number >= _DNS_ATTEMPTS


def _wait(state: tenacity.RetryCallState) -> float:
    asked = _error(state).retry_after
    return _BACKOFF(state) if asked is None else asked + _JITTER(state)


def _error(state: tenacity.RetryCallState) -> AttemptError:
    """Return the failure of a finished attempt; only asked for where `_worth_retrying` saw one."""
    return cast("AttemptError", state.outcome and state.outcome.exception())
