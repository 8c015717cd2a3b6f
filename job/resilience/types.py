"""What the wrappers around `get` share: the item's request, the throttle's permit, its limits and its events."""

from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from typing import NamedTuple, Protocol

from job.errors import AttemptError
from job.model import NotModified, Reply, Validators, WorkItem

MAX_RETRY_AFTER_SECONDS = 60.0
"""An origin that asks for a longer wait is not waited for: the item ends (as with curl's --retry-max-time)."""
FREE_TRIES = 4
"""How often an origin may turn an item away while it answers others; the last of these tries is made alone."""


@dataclass(slots=True)
class ItemRequest:
    """The request of one item, with what its attempts have shown so far. Belongs to the thread that works on the item.

    It travels through all wrappers; each writes only what it finds out itself.
    """

    item: WorkItem
    validators: Validators | None = None
    """What makes the request conditional; None for a plain one."""
    attempts: int = 0
    """Attempts that were sent."""
    http_status: int | None = None
    """The status of the last attempt; None where no answer came."""
    answered: bool = False
    """Some attempt got an HTTP answer, the last one or not."""
    received_bytes: int = 0
    """Size of the body of the last attempt."""
    error: str | None = None
    """Why the last attempt failed, in one line for people."""
    throttled_seconds: float = 0.0
    """Time spent on the origin's rate limit, pauses and outages: it does not count against the item."""
    ignored_failures: int = 0
    """Failures that do not count against the item."""
    throttled_since: float | None = None
    """When the origin first asked this item to wait, on the monotonic clock."""
    throttled_while_others_succeed: int = 0
    """How often the origin asked this item to wait while it answered other items."""
    fails_while_others_succeed: bool = False
    """An attempt of this item failed while other items were answered."""
    free_tries: int = FREE_TRIES
    """How often the origin may still turn this item away while it answers others, before that counts against it."""
    spent_attempts: int = 0
    """Attempts that counted against the item before it was put back (`Deferred`)."""

    def record_status(self, http_status: int | None) -> None:
        """Record the status of an attempt, None where no answer came."""
        self.http_status = http_status
        self.answered = self.answered or http_status is not None


class Source(Protocol):
    """One wrapper around `get`, or the innermost part that it wraps."""

    def get(self, request: ItemRequest, /) -> Reply | NotModified:
        """Return a 200 answer, whose body the caller closes, or the 304 to a conditional request.

        Raises an AttemptError, a StorageError where this machine is at fault, or Cancelled.
        """
        ...


class Undecided(NamedTuple):
    """A failure of which others' attempts will show whether it counts."""

    error: AttemptError
    since: float
    """When it came, on the throttle's clock."""
    under_way: int
    """How many attempts were under way then, the failed one included."""


@dataclass(slots=True, eq=False)
class Permit:
    """The permission for one attempt to start. Belongs to the thread that asked for it; the throttle's lock guards it.

    Permits are compared by identity: two attempts of one item are two permits.
    """

    item: str = ""
    """The code of the item."""
    is_retry: bool = False
    """The item failed before, and that counted against it."""
    fails_while_others_succeed: bool = False
    """The item failed while others were answered: that it fails again says nothing about the origin."""
    epoch: int = -1
    """How many pauses there had been when the attempt started; an older attempt's result is no news."""
    slot: float | None = None
    """When the rate limiter lets the attempt start, on the throttle's clock."""
    is_probe: bool = False
    """The attempt shows whether an origin that was away is back."""
    answers_before: int = 0
    """How many answers there had been when the attempt started."""
    failures_before: int = 0
    """How many failures had been recorded when the attempt started."""
    others_succeeded: bool = False
    """Other attempts were answered while this one was under way."""
    free_tries: int = 0
    """How often the item may still be turned away for free; 1: this attempt should be the only one under way."""
    limit_epoch: int = 0
    """How often the limit on concurrency had been lowered when the attempt started."""
    undecided: Undecided | None = None
    """The failure, as long as it is open whether the origin turned the attempt away while it answered others."""


def ignore(*_: object) -> None:
    """Do nothing with an event."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ThrottleEvents:
    """Callbacks for what happens at the throttle. Called in worker threads, without the lock."""

    paused: Callable[[AttemptError, float], None] = ignore
    """All requests wait. The arguments are the answer or failure that caused it, and the longest wait in seconds."""
    resumed: Callable[[float], None] = ignore
    """The pause is over; the argument is the rate in requests a second, which grows from then on."""
    recovered: Callable[[], None] = ignore
    """An origin that was away has answered: the circuit is closed."""
    gave_up: Callable[[AttemptError], None] = ignore
    """The origin is given up, and this was its last failure: the run should end."""
    overloaded: Callable[[AttemptError, int], None] = ignore
    """The origin has turned attempts away while it answered others, for the first time. The arguments are one of these
    failures, and how many requests are sent at the same time from now on."""
    budget_spent: Callable[[], None] = ignore
    """The retry budget is spent for the first time."""


NO_EVENTS = ThrottleEvents()


@dataclass(frozen=True, slots=True, kw_only=True)
class ThrottleLimits:
    """How an origin is treated. Times are in seconds, `ends_at` is one of the monotonic clock."""

    rate: float = 0.0
    """Requests a second, all threads together; 0 is no limit."""
    workers: int = 1
    items: int | None = None
    """How many items there are, if that is known: few items can fail only a few times."""
    patience: float = 0.0
    """How long an origin that is away is probed before it is given up."""
    patience_once_answered: float | None = None
    """The same from the first answer on; None is no difference."""
    is_for_hiccups: bool = False
    """Patience is the default one, which bridges a hiccup. It is not for failures that last (a name, a certificate),
    opens the circuit no earlier for a short list, and retries cost the run's budget as without it."""
    max_pauses_seconds: float = 180.0
    """How long the origin may ask for one pause after the other without answering any request."""
    ends_at: float = inf
    """When the run ends, and with it all patience."""
