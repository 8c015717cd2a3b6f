"""What the gate is told, what it hands out, and whom it tells."""

from collections.abc import Callable
from dataclasses import dataclass
from math import inf

from job.errors import AttemptError


@dataclass(slots=True, eq=False)
class Permit:
    """One request's permission to start; belongs to the thread that asked for it."""

    item: str = ""
    """Whose request it is."""
    again: bool = False
    """The item failed before, and that was its own fault."""
    doubted: bool = False
    """The item failed while others were answered: that it fails again says nothing of the origin."""
    epoch: int = -1
    slot: float | None = None
    probe: bool = False
    answers: int = 0
    waited_seconds: float = 0.0
    """How long the gate held the request back: that is no fault of its item."""
    passed_over: bool = False
    """Others were answered while this one was not."""


def ignore(*_: object) -> None:
    """Listen to nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ThrottleEvents:
    """Who is told of what happens at the gate. Called in worker threads, without the lock; must not raise."""

    paused: Callable[[AttemptError, float], None] = ignore
    """Everyone waits, because of this answer or failure, for so many seconds at most."""
    resumed: Callable[[float], None] = ignore
    """The pause is over: so many requests a second are let in, and soon more."""
    back: Callable[[], None] = ignore
    """An origin that was away has answered."""
    down: Callable[[AttemptError], None] = ignore
    """The origin is given up, and this was its last failure: the run should end."""
    spent: Callable[[], None] = ignore
    """The retry budget is spent for the first time."""


NOBODY = ThrottleEvents()


@dataclass(frozen=True, slots=True, kw_only=True)
class ThrottleLimits:
    """How an origin is treated. Times are in seconds, `ends_at` is one of the monotonic clock."""

    rate: float = 0.0
    """Requests a second, all threads together; 0 is no limit."""
    workers: int = 1
    items: int | None = None
    """How many there are, if that is known: of few, few can fail."""
    patience: float = 0.0
    """How long an origin that is away is probed before it is given up."""
    fruitless: float = 180.0
    """How long it may ask for one pause after the other without answering anybody."""
    ends_at: float = inf
    """When the run ends, and with it all patience."""
