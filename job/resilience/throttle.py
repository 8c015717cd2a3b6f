"""The throttle of an origin: when each attempt may start, by its limits, Retry-After pauses and circuit breaker."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from random import uniform
from threading import Lock
from time import monotonic

from job.errors import AttemptError, Reason
from job.resilience.circuit_breaker import CircuitBreaker, is_failure, is_missing, is_rejection, is_throttling
from job.resilience.rate_limiter import ConcurrencyLimiter, RateLimiter
from job.resilience.retrying import RetryBudget
from job.resilience.types import FREE_TRIES, NO_EVENTS, Permit, ThrottleEvents, ThrottleLimits, Undecided, ignore

_LONGEST_WAIT_SECONDS = 1.0
"""After so long at most an attempt asks again: the pause that it waits for may have ended early."""
_SHORT_PAUSE_SECONDS = 0.5
"""The pause after a 429 without a Retry-After."""
_ASKS_PER_SECOND = 400
"""How often all attempts together ask whether there is a place, while the number under way is limited."""
_ASKS_PER_SECOND_WHEN_HELD_UP = 2000
"""The same while they let one pass, which takes moments: after that there are many places at once."""
_ALONE_SECONDS = 2.0
"""How long others wait at most for an attempt that should be the only one under way."""
_ALONE_ASK_SECONDS = 0.005
_UNDECIDED_SECONDS = 10.0
"""How long a failure may wait for an answer to other attempts, which shows that the origin is there."""
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
_IGNORED = _Effect(is_ignored=True)


class Throttle:
    """Holds the state of one origin, and says how long each attempt must wait. It never sleeps itself.

    An attempt asks `acquire` until that returns 0.0, and reports its result by `release`; an attempt that stops waiting
    calls `withdraw`. `wait_for_permit` does the waiting. A failure that leaves the permit undecided is for `settle`
    later on: what the other attempts got shows whether the origin turned this one away.

    Thread-safe. `_lock` guards all state, breaker, limiters and budget included, because one decision reads several of
    them: without it two threads would take the same slot, both become the probe of an open circuit, or start while a
    third is just recording the pause that holds them. It is never held across a wait or a callback: a callback may
    block (a log whose reader is slow), and all workers would block behind it.

    Nobody is woken when the number under way is limited and one of them ends: mostly its worker starts another item at
    once. Those that wait ask again, rarely if they are many, and find what is free.

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
        self._in_flight = 0
        self._undecided = 0
        """Failures that are undecided, of the present epoch of the limit on concurrency: each keeps its place."""
        self._alone: Permit | None = None
        """The attempt that others let pass, so that it is the only one under way, until `_alone_until` at most."""
        self._alone_until = 0.0
        self._concurrency = ConcurrencyLimiter(limits.workers)
        self._is_overload_reported = False
        self._limiter = RateLimiter(limits.rate, limits.workers, clock())
        self._breaker = CircuitBreaker(limits)
        self._budget = RetryBudget()
        self._is_budget_reported = False

    @property
    def concurrency_limit(self) -> int:
        """Return how many attempts may be under way at the same time; any thread may ask, without the lock."""
        return min(self._concurrency.limit, self._limits.workers)

    @property
    def is_crowded(self) -> bool:
        """Return whether no attempt may start at the moment, and more than one waits; any thread may ask, as above."""
        is_held = not self._breaker.is_closed or self._clock() < self._resume_at
        return is_held and len(self._waiting) > 1

    @property
    def has_given_up(self) -> bool:
        """Return whether the origin is given up; any thread may ask, as above."""
        return self._breaker.has_given_up

    def acquire(self, permit: Permit) -> float:
        """Return how many seconds to wait before asking again; 0.0 means that the attempt may start now."""
        with self._lock:
            now = self._clock()
            self._waiting.setdefault(permit)
            wait, notify = self._time_until_turn(permit, now)
            if wait == 0.0:
                del self._waiting[permit]
                self._in_flight += 1
                permit.epoch = self._epoch
                permit.limit_epoch = self._concurrency.epoch
                permit.answers_before = self._answers
                permit.failures_before = self._breaker.recorded
        notify()
        return min(wait, _LONGEST_WAIT_SECONDS)

    def withdraw(self, permit: Permit) -> None:
        """Forget an attempt that will not start: it must not stay first in the queue for the next probe."""
        with self._lock:
            if permit in self._waiting:
                del self._waiting[permit]
            else:  # it had the permission, and the callback of an event failed
                self._in_flight -= 1
            self._end_alone(permit)

    def release(self, permit: Permit, error: BaseException | None) -> bool:
        """Record how an attempt ended (None: well); return whether its failure is not counted against the item.

        A failure that is ignored should be tried again: all attempts wait here, for as long as it takes. Errors that
        are not the origin's change nothing, such as a body that a full disk did not take.
        """
        with self._lock:
            now = self._clock()
            permit.others_succeeded = self._answers > permit.answers_before
            self._in_flight -= 1
            self._end_alone(permit)
            if permit.is_probe:
                self._breaker.end_probe()
            if isinstance(error, AttemptError) and self._may_be_turned_away(permit, error):
                permit.undecided = Undecided(error, now, self._in_flight + 1)
                if permit.limit_epoch == self._concurrency.epoch:
                    self._undecided += 1
                effect = _IGNORED
            else:
                effect = self._record(permit, error, now)
        effect.notify()
        return effect.is_ignored

    def settle(self, permit: Permit, undecided: Undecided) -> bool:
        """Decide about a failure once others have ended; return whether it is ignored, as far as it is decided.

        It is ignored if other attempts were answered since it started: the origin turned it away, and fewer should be
        under way. Else it is recorded like any failure, as soon as no other attempt is left, or after 10 s.
        """
        with self._lock:
            now = self._clock()
            permit.others_succeeded = self._answers > permit.answers_before
            is_open = bool(self._in_flight) and self._breaker.is_closed and now - undecided.since < _UNDECIDED_SECONDS
            if is_open and not permit.others_succeeded:
                return True
            permit.undecided = None
            if permit.limit_epoch == self._concurrency.epoch:
                self._undecided -= 1
            if permit.others_succeeded:
                effect = self._record_turned_away(permit, undecided)
            else:
                effect = self._record(permit, undecided.error, now)
        effect.notify()
        return effect.is_ignored

    def may_retry(self, error: AttemptError) -> bool:
        """Take a retry out of the run's budget; return False if that is spent, so that the item should end.

        With a patience that the user asked for, failures of an origin that is away cost nothing: they are waited for
        anyway.
        """
        if self._limits.patience and not self._limits.is_for_hiccups and is_failure(error):
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
        if self._is_full() or self._alone is not None or permit.free_tries == 1:
            wait = self._time_until_place(permit, now)
            if wait:
                permit.slot = None  # it is used up by the time that there is a place
                return wait, notify
        if permit.slot is None:
            permit.slot = self._limiter.reserve(now)
        return max(permit.slot - now, 0.0), notify

    def _time_until_place(self, permit: Permit, now: float) -> float:
        """Return 0.0 if one more attempt may be under way, or how long to wait before asking again."""
        if permit.free_tries == 1 and self._alone is None:
            self._alone = permit
            self._alone_until = now + _ALONE_SECONDS
        is_held_up = self._alone is not None and now < self._alone_until
        if self._alone is permit and is_held_up:
            return _ALONE_ASK_SECONDS if self._in_flight else 0.0
        if is_held_up or self._is_full():
            asks_per_second = _ASKS_PER_SECOND_WHEN_HELD_UP if is_held_up else _ASKS_PER_SECOND
            return len(self._waiting) / asks_per_second * uniform(0.5, 1.5)  # noqa: S311  (no secret)
        return 0.0

    def _is_full(self) -> bool:
        return self._in_flight + self._undecided >= self._concurrency.limit

    def _end_alone(self, permit: Permit) -> None:
        if self._alone is permit:
            self._alone = None

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
        if is_throttling(error) and self._breaker.is_closed:
            return self._record_throttling(permit, error, now)
        if is_failure(error):
            return self._record_failure(permit, error, now)
        return self._record_answer(permit, now)

    def _may_be_turned_away(self, permit: Permit, error: AttemptError) -> bool:
        """Return whether a failure may be due to the others, which then tell: they are under way, or were answered."""
        if not permit.free_tries or not self._breaker.is_closed or not is_rejection(error):
            return False
        if error.failure.kind is Reason.TIMEOUT:  # it took seconds: an answer to others would have come by now
            return permit.others_succeeded
        return permit.others_succeeded or self._in_flight > 0

    def _record_turned_away(self, permit: Permit, undecided: Undecided) -> _Effect:
        """Lower the limit on concurrency if this is not just one item's failure; the failure is ignored.

        As long as there is no limit only an item's first failure is counted: one that is always reset fails often.
        """
        if permit.free_tries < FREE_TRIES and not self._concurrency.is_limited:
            return _IGNORED
        # The others that were answered meanwhile are what the origin bears, or those that are under way now.
        answered = min(self._answers - permit.answers_before, undecided.under_way - 1)
        under_way = max(self._in_flight, answered) + 1
        if not self._concurrency.record_turned_away(under_way, permit.limit_epoch):
            return _IGNORED
        self._undecided = 0
        if self._is_overload_reported:
            return _IGNORED
        self._is_overload_reported = True
        notify = partial(self._events.overloaded, undecided.error, self._concurrency.limit)
        return _Effect(is_ignored=True, notify=notify)

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
        counts_again = is_missing(error) and not permit.fails_while_others_succeed
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
            self._breaker.record_answer(permit.failures_before)
            self._only_throttled_since = None
            self._limiter.record_answer()
            if self._concurrency.needs_answers:
                self._concurrency.record_answer()
            return _NO_EFFECT
        if self._breaker.has_given_up or not permit.is_probe:
            return _NO_EFFECT
        self._breaker.record_answer(permit.failures_before)
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
