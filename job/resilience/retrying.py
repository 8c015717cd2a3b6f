"""Retries: which failures are tried again, the back-off between tries, and when to stop; decided by tenacity."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from math import inf
from threading import Lock
from time import monotonic
from typing import Generic, TypeVar, cast

import tenacity

from job.client import SecretHeaders
from job.errors import AttemptError, ContentError, NotFoundError, OriginDownError, Reason
from job.model import NotModified, Reply, Validators, WorkItem
from job.resilience.types import MAX_RETRY_AFTER_SECONDS, ItemRequest, Source

T = TypeVar("T")

_BACKOFF = tenacity.wait_random_exponential(multiplier=0.5, max=10)
"""Full jitter (AWS Architecture Blog, "Exponential Backoff And Jitter"), in seconds."""
_JITTER = tenacity.wait_random(0, 1)
"""Added to a Retry-After, so that items do not come back all at once, in seconds."""
_REFUSALS_IN_A_ROW = 100
_ANY = "*"
"""In If-None-Match the validator that every file matches (RFC 9110, 13.1.2)."""
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

    @classmethod
    def of_ignored(cls, request: ItemRequest, error: AttemptError, policy: RetryPolicy) -> "RetryEvent":
        """Return the event of a failure that does not count against its item, and is counted as ignored already."""
        return cls(request.attempts, policy.max_attempts + request.ignored_failures, 0.0, error, ignored=True)


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
                tenacity.stop_after_attempt(self._policy.max_attempts - tries.request.spent_attempts)
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


class Authorized:
    """Wraps `get`: notices that the origin refuses what it gave before, as it does after a token has expired.

    A *refusal* is an answer that is not the file, whichever form it has: 401, 403, another 4xx, a redirect to the page
    for a login, or that page itself. It is none that a file does not exist, nor that the origin is in trouble. A
    refused item is tried once more, at no cost, if there are other secret headers than those that were sent.

    A refusal may be its item's own: object stores answer 403 for an object that they have not. What tells is the
    *witness*, the item that was accepted last, which is asked for again (`If-None-Match: *` spares its body).

    | refusals alike in a row   | what follows                                                                         |
    |---------------------------|--------------------------------------------------------------------------------------|
    | 1, and later 10, then 100 | the witness is asked for: if that is not refused alike, the row begins anew, and the |
    |                           | witness is asked for next after ten times as many, 100 at most                       |
    | refused as the witness is | a later run may fare better: the failure is retryable                                |
    | 100 of them               | `on_all_refused` is called, once, with the reason and their number                   |

    Any item that is accepted ends the row. Refusals from the start, before anything was accepted, are left to the
    cutoff for repeated failures.

    Thread-safe. `_lock` guards the row, which only refusals touch; it is never held while a request is under way. Who
    succeeds writes one attribute, `_accepted`, and a row knows by that which witness it began with.
    """

    def __init__(
        self,
        source: Source,
        headers: SecretHeaders,
        *,
        policy: RetryPolicy,
        on_retry: Callable[[str, RetryEvent], None],
        on_all_refused: Callable[[str, int], None],
    ) -> None:
        self._source = source
        self._headers = headers
        self._policy = policy
        self._on_retry = on_retry
        self._on_all_refused = on_all_refused
        self._accepted: WorkItem | None = None
        self._lock = Lock()
        self._witness: WorkItem | None = None
        """The item that had been accepted last when the row began."""
        self._reason = ""
        self._row = 0
        self._ask_after = 1
        """How many refusals in a row lead to the witness."""
        self._is_confirmed = False
        """The witness was refused, too."""
        self._is_reported = False

    def get(self, request: ItemRequest) -> Reply | NotModified:
        """Return what the wrapped `get` returns; raise its error, which is retryable if all is refused by now."""
        sent = self._headers.lines
        try:
            reply = self._source.get(request)
        except AttemptError as error:
            if not _is_refused(error):
                raise
            if not self._headers.is_newer_than(sent):
                self._count(error)
                raise
            request.ignored_failures += 1
            self._on_retry(request.item.code, RetryEvent.of_ignored(request, error, self._policy))
            reply = self._get_again(request)
        self._accepted = request.item
        return reply

    def _get_again(self, request: ItemRequest) -> Reply | NotModified:
        """Send a request with other headers than before; that is the last time, even if there are others again."""
        try:
            return self._source.get(request)
        except AttemptError as error:
            if _is_refused(error):
                self._count(error)
            raise

    def _count(self, error: AttemptError) -> None:
        """Count a refusal; change its failure to a retryable one if the witness is refused, too."""
        reason = error.failure.reason
        witness = self._extend_row(reason)
        if witness is not None:
            self._ask_for(witness, reason)
        with self._lock:
            is_confirmed = self._is_confirmed and self._reason == reason
            row = self._row
            is_enough = is_confirmed and row >= _REFUSALS_IN_A_ROW and not self._is_reported
            self._is_reported = self._is_reported or is_enough
        if is_confirmed:
            error.failure = replace(error.failure, is_deferred=True)
        if is_enough:
            self._on_all_refused(reason, row)

    def _extend_row(self, reason: str) -> WorkItem | None:
        """Add a refusal to its row; return the witness if it is to be asked for now."""
        with self._lock:
            if self._accepted is not self._witness or reason != self._reason:
                self._begin_row(reason)
            self._row += 1
            return self._witness if self._row == self._ask_after else None

    def _begin_row(self, reason: str) -> None:
        """Begin a row after an item was accepted, or at a refusal of another kind. With the lock only."""
        self._witness = self._accepted
        self._reason = reason
        self._row = 0
        self._is_confirmed = False

    def _ask_for(self, witness: WorkItem, reason: str) -> None:
        """Ask for the item that was accepted last, and record whether it is refused in the same way."""
        is_refused = False
        try:
            reply = self._source.get(ItemRequest(witness, Validators(_ANY, None)))
        except AttemptError as error:
            is_refused = error.failure.reason == reason
        else:
            if isinstance(reply, Reply):
                reply.body.close()
        with self._lock:
            # Or the row has ended meanwhile: an item was accepted, or refused in another way.
            is_same_row = self._accepted is witness and reason == self._reason
            if is_refused:
                self._is_confirmed = self._is_confirmed or is_same_row
                return
            self._ask_after = min(10 * self._ask_after, _REFUSALS_IN_A_ROW)
            if is_same_row:
                self._row = 0


def _is_refused(error: AttemptError) -> bool:
    """Return whether the origin is well and answered, but neither with the file nor that there is none."""
    failure = error.failure
    if failure.http_status is None or isinstance(error, NotFoundError):
        return False
    return isinstance(error, ContentError) or not failure.retryable


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
    if not isinstance(error, AttemptError) or isinstance(error, OriginDownError):
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
