"""The gate that all workers share."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from threading import Lock
from time import monotonic

from job.errors import AttemptError, NetworkError, Reason
from job.gate.breaker import Breaker
from job.gate.budget import RetryBudget
from job.gate.pace import Pace
from job.retry import MAX_RETRY_AFTER_SECONDS, jitter_seconds

_LOOK_SECONDS = 1.0
"""How late a request may be that waited when a pause ended early."""
_PAUSING = {429, 503}
"""What comes with a Retry-After that is meant for everyone (RFC 6585, 4; RFC 9110, 15.6.4)."""
Then = Callable[[], None]
"""Whom to tell of what was learned, once the lock is free."""


@dataclass(slots=True, eq=False)
class Ticket:
    """One request's permission to start; belongs to the thread that asked for it."""

    epoch: int = -1
    slot: float = 0.0
    probe: bool = False
    waited_seconds: float = 0.0
    """How long the gate held the request back: that is no fault of its item."""


def _ignore(*_: object) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class News:
    """Who is told of what happens at the gate. Called in worker threads, without the lock; must not raise."""

    paused: Callable[[AttemptError, float], None] = _ignore
    """Everyone waits, because of this answer or failure, for so many seconds at most."""
    back: Callable[[], None] = _ignore
    """An origin that was away has answered."""
    down: Callable[[AttemptError], None] = _ignore
    """The origin is given up, and this was its last failure: the run should end."""
    spent: Callable[[], None] = _ignore
    """The retry budget is spent for the first time."""


class Gate:
    """Lets requests in at a pace, holds them back while the origin asks for it, and notices an origin that is away.

    `rate` is in requests a second, all threads together; 0 is no limit. `patience` is how long an origin that is away
    is probed before it is given up, `fruitless` how long it may ask for one pause after the other without answering
    anybody, both in seconds. `clock` is a monotonic clock in seconds, `jitter` gives what is added to a pause.

    Thread-safe: `_lock` guards all of it. After `enter` comes `left`, always.
    """

    def __init__(  # noqa: PLR0913  (a setting each, by name)
        self,
        rate: float = 0.0,
        *,
        workers: int = 1,
        patience: float = 0.0,
        fruitless: float = 90.0,
        news: News = News(),
        clock: Callable[[], float] = monotonic,
        jitter: Callable[[], float] = jitter_seconds,
    ) -> None:
        self._lock = Lock()
        self._clock = clock
        self._jitter = jitter
        self._news = news
        self._patience = patience
        self._fruitless = fruitless
        self._fruitless_since: float | None = None
        self._paused_until = 0.0
        self._epoch = 0
        self._pace = Pace(rate, workers, clock())
        self._breaker = Breaker(workers, patience)
        self._budget = RetryBudget()
        self._told_spent = False

    def enter(self, sleep: Callable[[float], None]) -> Ticket:
        """Wait until a request may start, by `sleep`, which may raise to end the wait."""
        began, ticket = self._clock(), Ticket()
        while wait := self._wait(ticket):
            sleep(wait)
        ticket.waited_seconds = self._clock() - began
        return ticket

    def left(self, ticket: Ticket, error: BaseException | None) -> bool:
        """Learn from how a request ended (None: well); return whether its failure is no fault of its item.

        A failure that is excused should be tried again: all wait at the gate, for as long as it takes.
        What is neither an answer nor a failure of the origin, as a full disk, teaches nothing.
        """
        with self._lock:
            now = self._clock()
            self._breaker.probing = self._breaker.probing and not ticket.probe
            excused, tell = self._learned(ticket, error, now)
        tell()
        return excused

    def may_retry(self) -> bool:
        """Pay for a retry out of the run's budget; False when that is spent, and the item should end."""
        with self._lock:
            paid = self._budget.spend()
            told, self._told_spent = self._told_spent, self._told_spent or not paid
        if not paid and not told:
            self._news.spent()
        return paid

    def _wait(self, ticket: Ticket) -> float:
        """Return how long to wait before asking again; 0: come in."""
        with self._lock:
            now = self._clock()
            if self._breaker.is_open:
                wait = self._breaker.wait(now)
                ticket.probe, ticket.epoch = not wait, self._epoch
                return min(wait, _LOOK_SECONDS)
            if ticket.epoch != self._epoch or not ticket.slot:
                ticket.epoch, ticket.slot = self._epoch, self._pace.slot(now)
            return min(max(ticket.slot - now, 0.0), _LOOK_SECONDS)

    def _learned(self, ticket: Ticket, error: BaseException | None, now: float) -> tuple[bool, Then]:
        """Return whether a failure is excused, and whom to tell what."""
        if error is None:
            self._budget.refill()
            return False, self._answered(now, fruit=True)
        if not isinstance(error, AttemptError) or error.reason == Reason.PROTOCOL:
            return False, _ignore
        if _asks_all_to_wait(error) and not self._breaker.is_open:
            return self._refused(ticket, error, now)
        if _is_failure(error):
            return self._failed(ticket, error, now)
        return False, self._answered(now, fruit=error.http_status != HTTPStatus.TOO_MANY_REQUESTS)

    def _refused(self, ticket: Ticket, error: AttemptError, now: float) -> tuple[bool, Then]:
        """Hold everyone back, unless the origin has done nothing else for too long."""
        pause = error.retry_after or 0.0
        if ticket.epoch != self._epoch:  # it was sent before the pause, which it can only make longer
            if now + pause > self._paused_until:
                self._hold(now + pause)
            return True, _ignore
        if self._fruitless_since is None:
            self._fruitless_since = now
        if now + pause - self._fruitless_since > self._fruitless:
            return self._opened(error, now)
        self._pace.slow(now)
        self._hold(now + pause + self._jitter())
        return True, partial(self._news.paused, error, self._paused_until - now)

    def _failed(self, ticket: Ticket, error: AttemptError, now: float) -> tuple[bool, Then]:
        """Count a failure of the origin, or learn from a probe that it still is away."""
        if self._breaker.is_open:
            if ticket.probe:
                self._breaker.schedule(now, error.retry_after or 0.0)
                return not self._breaker.given_up, self._farewell(error)
            return not self._breaker.given_up, _ignore
        if ticket.epoch == self._epoch and self._breaker.failed():
            return self._opened(error, now)
        return False, _ignore

    def _opened(self, error: AttemptError, now: float) -> tuple[bool, Then]:
        """Let nobody in but probes; without patience give the origin up."""
        self._epoch += 1
        self._pace.slow(now)
        self._breaker.open(now, error.retry_after or 0.0)
        if self._breaker.given_up:
            return False, self._farewell(error)
        return True, partial(self._news.paused, error, self._patience)

    def _farewell(self, error: AttemptError) -> Then:
        return partial(self._news.down, error) if self._breaker.given_up else _ignore

    def _answered(self, now: float, *, fruit: bool) -> Then:
        """Note that the origin is there; `fruit` is any answer that does not ask for patience."""
        if self._breaker.given_up:
            return _ignore
        was_away = self._breaker.is_open
        self._breaker.answered()
        if was_away:
            self._hold(now)
        elif fruit:
            self._pace.answered()
        if fruit:
            self._fruitless_since = None
        return self._news.back if was_away else _ignore

    def _hold(self, until: float) -> None:
        """Let nobody start before that time; who has a slot already asks for another one."""
        self._epoch += 1
        self._paused_until = until
        self._pace.resume(until)


def _asks_all_to_wait(error: AttemptError) -> bool:
    """Tell an answer with a pause that is worth waiting for."""
    wait = error.retry_after
    return error.http_status in _PAUSING and wait is not None and 0 < wait <= MAX_RETRY_AFTER_SECONDS


def _is_failure(error: AttemptError) -> bool:
    """Tell the origin's failures: no answer at all, or one that says so."""
    if isinstance(error, NetworkError):
        return True
    status = error.http_status or 0
    return status >= HTTPStatus.INTERNAL_SERVER_ERROR or (status in _PAUSING and (error.retry_after or 0) > 0)
