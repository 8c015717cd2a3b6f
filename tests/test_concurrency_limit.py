"""The limit on concurrency: lowered where attempts are turned away while others are answered, and raised again."""

import itertools
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from throttling import Attempt, acquire

from job.cancellation import Sleeper
from job.errors import AttemptError, Cancelled, HttpError, NetworkError, NotFoundError, Reason
from job.model import NotModified, WorkItem
from job.resilience import (
    ItemRequest,
    Permit,
    RetryEvent,
    Retrying,
    RetryPolicy,
    Throttle,
    Throttled,
    ThrottleEvents,
    ThrottleLimits,
    wait_for_permit,
)
from job.resilience.rate_limiter import ConcurrencyLimiter
from job.resilience.types import FREE_TRIES

RESET = NetworkError(Reason.CONNECTION, "connection reset")
WORKERS = 30


def unconnected() -> NetworkError:
    """Return the failure of an attempt whose packets were dropped."""
    error = NetworkError(Reason.TIMEOUT, "no connection in time")
    error.is_unconnected = True
    return error


# The limiter


def answered(limiter: ConcurrencyLimiter, count: int) -> int:
    """Record so many answers as the throttle does, and return the limit."""
    for _ in range(count):
        if limiter.needs_answers:
            limiter.record_answer()
    return limiter.limit


def limited(under_way: int, workers: int = WORKERS) -> ConcurrencyLimiter:
    """Return a limiter that was lowered when so many attempts were under way."""
    limiter = ConcurrencyLimiter(workers)
    while not limiter.record_turned_away(under_way, limiter.epoch):
        pass
    return limiter


def test_without_a_failure_there_is_no_limit() -> None:
    """At first nothing is limited, and answers need not be recorded."""
    limiter = ConcurrencyLimiter(WORKERS)
    assert (limiter.limit >= 10**6, limiter.needs_answers) == (True, False)


@pytest.mark.parametrize(("under_way", "limit"), [(2, 1), (3, 1), (4, 2), (5, 2), (16, 8), (30, 15)])
def test_the_limit_is_half_of_what_is_under_way(under_way: int, limit: int) -> None:
    """The limit is half of what was under way, one at least."""
    assert limited(under_way).limit == limit


@pytest.mark.parametrize(("under_way", "failures"), [(2, 1), (4, 1), (5, 2), (8, 2), (30, 8)])
def test_a_few_failures_do_not_lower_the_limit(under_way: int, failures: int) -> None:
    """A quarter of as many failures as attempts under way lowers the limit, not fewer."""
    limiter = ConcurrencyLimiter(under_way)
    assert [limiter.record_turned_away(under_way, 0) for _ in range(failures)] == [False] * (failures - 1) + [True]


def test_without_a_limit_many_workers_need_several_failures() -> None:
    """Without a limit four failures lower that of thirty workers, however few of them have a request under way."""
    limiter = ConcurrencyLimiter(WORKERS)
    assert [limiter.record_turned_away(3, 0) for _ in range(4)] == [False] * 3 + [True]
    assert limiter.limit == 1


def test_failures_count_within_a_round_of_answers() -> None:
    """Failures with thirty answers in between are single items', and never lower the limit of thirty."""
    limiter = ConcurrencyLimiter(WORKERS)
    for _ in range(20):
        assert not any(limiter.record_turned_away(30, 0) for _ in range(7))
        answered(limiter, 30)
    assert (limiter.epoch, limiter.needs_answers) == (0, False)


def test_attempts_from_before_do_not_lower_it_again() -> None:
    """What started before the limit was lowered does not lower it once more; what started after it does."""
    limiter = limited(30)
    assert [limiter.record_turned_away(16, 0) for _ in range(22)] == [False] * 22
    assert limiter.limit == 15
    assert [limiter.record_turned_away(16, 1) for _ in range(4)] == [False] * 3 + [True]
    assert (limiter.limit, limiter.epoch) == (7, 2)


def test_an_attempt_that_is_alone_lowers_nothing() -> None:
    """An attempt beside which nothing is under way any more does not lower the limit."""
    limiter = ConcurrencyLimiter(WORKERS)
    assert not any(limiter.record_turned_away(1, 0) for _ in range(50))


def test_the_limit_grows_by_one_each_round() -> None:
    """After as many answers as the limit allows it is one more, and without limit again at the number of workers."""
    limiter = limited(9, workers=7)
    assert [answered(limiter, count) for count in (3, 1, 4, 1, 5)] == [4, 5, 5, 6, 6]
    assert (answered(limiter, 1) >= 10**6, limiter.needs_answers) == (True, False)


def test_what_was_too_much_is_tried_again_later() -> None:
    """The number that was too high is tried again after eight rounds, and is no longer special if it goes well."""
    limiter = limited(5)
    assert [answered(limiter, count) for count in (2, 3, 31, 1, 5)] == [3, 4, 4, 5, 6]


@settings(deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(1, 60), st.integers(0, 3))), st.integers(1, 50))
def test_the_limit_has_bounds(steps: list[tuple[bool, int, int]], workers: int) -> None:
    """Whatever happens the limit is one at least, and below what was under way when it was lowered."""
    limiter = ConcurrencyLimiter(workers)
    for is_answer, under_way, age in steps:
        before = limiter.epoch
        if is_answer:
            answered(limiter, 1)
        elif limiter.record_turned_away(under_way, before - age):
            assert (age, limiter.epoch) == (0, before + 1)
            assert 1 <= limiter.limit <= under_way // 2
        assert limiter.limit >= 1


@settings(deadline=None)
@given(st.integers(1, 40), st.integers(2, 60))
def test_the_limit_finds_what_the_origin_bears(most: int, workers: int) -> None:
    """An origin that bears some requests has at least half as many under way, and mostly not too many."""
    limiter = ConcurrencyLimiter(workers)
    used = []
    for _ in range(400):
        epoch, under_way = limiter.epoch, min(limiter.limit, workers)
        for _ in range(max(under_way - most, 0)):
            limiter.record_turned_away(min(under_way, most) + 1, epoch)
        answered(limiter, min(under_way, most))
        used.append(min(under_way, most))
    assert sum(used[100:]) / 300 >= min(most, workers) / 2


# The throttle


class Harness:
    """A throttle whose clock only `sleep` moves, and the events that were reported."""

    def __init__(self, rate: float = 0.0, patience: float = 0.0, workers: int = WORKERS) -> None:
        self.now = 1000.0
        self.slept: list[float] = []
        self.overloads: list[tuple[str, int]] = []
        self.gave_up: list[str] = []
        self.numbers = itertools.count()
        events = ThrottleEvents(
            overloaded=lambda error, limit: self.overloads.append((error.failure.reason, limit)),
            gave_up=lambda error: self.gave_up.append(error.failure.reason),
        )
        limits = ThrottleLimits(rate=rate, patience=patience, workers=workers)
        self.throttle = Throttle(limits, events, clock=lambda: self.now)

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds

    def start(self, free_tries: int = FREE_TRIES) -> Attempt:
        """Start an attempt of another item; it must not have to wait."""
        permit = Attempt(f"c{next(self.numbers)}", free_tries=free_tries)
        assert self.throttle.acquire(permit) == 0.0
        return permit

    def settle(self, permit: Permit) -> tuple[bool, bool]:
        """Settle an undecided failure; return whether it is ignored, and whether it is decided."""
        assert permit.undecided
        is_ignored = self.throttle.settle(permit, permit.undecided)
        return is_ignored, permit.undecided is None

    def turn_away(self, *permits: Attempt, error: AttemptError = RESET) -> None:
        """Fail attempts, answer another one meanwhile, and settle them: all are ignored."""
        other = self.start()
        for permit in permits:
            assert self.throttle.release(permit, error)
        self.throttle.release(other, None)
        assert [self.settle(permit) for permit in permits] == [(True, True)] * len(permits)


@pytest.mark.parametrize(
    "error",
    [RESET, NetworkError(Reason.PROXY, "refused"), HttpError(503, "busy"), HttpError(502, "cut")],
)
def test_what_is_turned_away_while_others_are_answered_is_ignored(error: AttemptError) -> None:
    """Refusals, resets, dropped packets, 502 and 503 are ignored while others are answered; one line tells it."""
    harness = Harness()
    permits = [harness.start() for _ in range(30)]
    harness.turn_away(*permits[:26], error=error)
    assert harness.overloads == [(error.failure.reason, 2)]
    assert (harness.throttle.concurrency_limit, harness.gave_up) == (2, [])


def test_failures_from_before_a_limit_take_none_of_its_places() -> None:
    """Once the limit is lowered, what was undecided until then keeps no place of it: others start as it allows."""
    harness = Harness()
    permits = [harness.start() for _ in range(30)]
    harness.turn_away(*permits[:26])
    for permit in permits[26:]:
        harness.throttle.release(permit, None)
    for _ in range(harness.throttle.concurrency_limit):
        harness.start()


@pytest.mark.parametrize(
    "error",
    [NetworkError(Reason.TIMEOUT, "silence"), HttpError(500, "bug"), HttpError(504, "late"), NotFoundError(404, "no")],
)
def test_other_failures_are_their_items(error: AttemptError) -> None:
    """Silence, 500, 504 and 404 count at once, whatever others get."""
    harness = Harness()
    harness.start()
    permit = harness.start()
    assert (harness.throttle.release(permit, error), permit.undecided) == (False, None)


def test_one_item_lowers_nothing() -> None:
    """An item that is turned away again and again is counted once, as long as there is no limit."""
    harness = Harness(workers=8)
    for free_tries in (4, 3, 2, 3, 2):
        permits = [harness.start() for _ in range(7)]
        failing = harness.start(free_tries)
        harness.turn_away(failing)
        for permit in permits:
            harness.throttle.release(permit, None)
    assert (harness.throttle.concurrency_limit, harness.overloads) == (8, [])


def test_packets_that_are_dropped_while_others_are_answered_are_ignored() -> None:
    """A connection that does not come about in time is ignored only if others were answered meanwhile."""
    harness = Harness()
    first, second, other = harness.start(), harness.start(), harness.start()
    assert (harness.throttle.release(first, unconnected()), first.undecided) == (False, None)
    harness.throttle.release(other, None)
    assert harness.throttle.release(second, unconnected())
    assert harness.settle(second) == (True, True)


def test_a_failure_is_undecided_while_others_are_under_way() -> None:
    """A failure waits for the others, and is ignored as soon as one is answered."""
    harness = Harness()
    other, permit = harness.start(), harness.start()
    assert harness.throttle.release(permit, RESET)
    assert harness.settle(permit) == (True, False)
    harness.throttle.release(other, None)
    assert harness.settle(permit) == (True, True)


def test_a_failure_counts_if_nobody_is_answered() -> None:
    """A failure counts as soon as the others have failed, too."""
    harness = Harness()
    other, permit = harness.start(), harness.start()
    harness.throttle.release(permit, RESET)
    harness.throttle.release(other, RESET)
    assert harness.settle(permit) == (False, True)


def test_a_failure_counts_if_others_are_silent() -> None:
    """A failure does not wait for longer than ten seconds for others that get no answer."""
    harness = Harness()
    harness.start()
    permit = harness.start()
    harness.throttle.release(permit, RESET)
    harness.now += 9.9
    assert harness.settle(permit) == (True, False)
    harness.now += 0.1
    assert harness.settle(permit) == (False, True)


def test_a_failure_without_free_tries_counts_at_once() -> None:
    """An item that was turned away often enough fails at once."""
    harness = Harness()
    harness.start()
    assert harness.throttle.release(harness.start(0), RESET) is False


def test_a_failure_during_an_outage_is_ignored() -> None:
    """A failure that is undecided when the circuit opens costs its item nothing."""
    harness = Harness(patience=60)
    harness.start()
    permit = harness.start()
    harness.throttle.release(permit, RESET)
    for _ in range(30):
        harness.throttle.release(harness.start(0), RESET)
    assert harness.settle(permit) == (True, True)


def test_dead_origins_are_found_as_soon_as_before() -> None:
    """Thirty undecided failures of thirty workers give up an origin that answers nobody."""
    harness = Harness()
    permits = [harness.start() for _ in range(30)]
    for permit in permits:
        harness.throttle.release(permit, RESET)
    assert [harness.settle(permit) for permit in permits[:-1]] == [(False, True)] * 29
    assert harness.gave_up == ["connection"]
    assert harness.overloads == []


def test_no_more_are_under_way_than_the_limit_allows() -> None:
    """While as many attempts are under way as may be, the others ask again, all together 400 times a second."""
    harness = Harness()
    first, *others = [harness.start() for _ in range(5)]
    harness.turn_away(*others)
    assert harness.throttle.concurrency_limit == 1
    waiting = [Permit(free_tries=FREE_TRIES) for _ in range(100)]
    waits = [harness.throttle.acquire(permit) for permit in waiting * 2][100:]
    assert min(waits) >= 0.125
    assert max(waits) <= 0.375
    harness.throttle.release(first, None)
    assert harness.throttle.acquire(waiting[50]) == 0.0


def test_a_place_is_no_slot_of_the_rate_limit() -> None:
    """An attempt that waited for a place has a slot of the rate limit after that, not one that is long over."""
    harness = Harness(rate=10, workers=4)
    clock = harness.sleep
    permits = [acquire(harness.throttle, clock, f"c{number}") for number in range(4)]
    for permit in permits:
        permit.free_tries = FREE_TRIES
    harness.throttle.release(permits[0], RESET)
    harness.throttle.release(permits[1], None)
    assert harness.settle(permits[0]) == (True, True)
    assert harness.throttle.concurrency_limit == 1
    late = Permit()
    assert harness.throttle.acquire(late) > 0
    harness.now += 60
    harness.throttle.release(permits[2], None)
    harness.throttle.release(permits[3], None)
    assert harness.throttle.acquire(late) == 0.0
    harness.throttle.release(late, None)
    assert harness.throttle.acquire(Permit()) == pytest.approx(0.1)


def test_the_last_free_try_is_made_alone() -> None:
    """An attempt that should be alone waits until nothing is under way, and others wait for it."""
    harness = Harness()
    other, alone, late = harness.start(), Permit(free_tries=1), Permit(free_tries=FREE_TRIES)
    assert 0 < harness.throttle.acquire(alone) < 0.01
    assert harness.throttle.acquire(late) > 0
    harness.throttle.release(other, None)
    assert harness.throttle.acquire(late) > 0
    assert harness.throttle.acquire(alone) == 0.0
    assert harness.throttle.acquire(late) > 0
    assert (harness.throttle.release(alone, RESET), alone.undecided) == (False, None)
    assert harness.throttle.acquire(late) == 0.0


def test_nobody_waits_long_for_the_one_that_is_alone() -> None:
    """After two seconds others start beside the attempt that should be alone, and it starts beside others."""
    harness = Harness()
    harness.start()
    alone, second, late = Permit(free_tries=1), Permit(free_tries=1), Permit()
    assert [harness.throttle.acquire(permit) > 0 for permit in (alone, second, late)] == [True] * 3
    harness.now += 2
    assert [harness.throttle.acquire(permit) for permit in (alone, second, late)] == [0.0] * 3
    assert harness.throttle.release(alone, RESET)
    assert alone.undecided


def test_an_attempt_that_is_withdrawn_holds_nobody_up() -> None:
    """An attempt that should be alone and is cancelled while it waits lets the others start."""
    harness = Harness()
    harness.start()

    def cancel(_seconds: float) -> None:
        raise Cancelled(Reason.SIGNAL)

    with pytest.raises(Cancelled):
        wait_for_permit(harness.throttle, Permit(free_tries=1), cancel)
    assert harness.throttle.acquire(Permit()) == 0.0


def test_an_attempt_whose_event_fails_is_not_under_way() -> None:
    """An attempt that does not start, because the log cannot be written, takes no place."""

    def fail(_rate: float) -> None:
        raise BrokenPipeError

    times = [1000.0]
    throttle = Throttle(ThrottleLimits(), ThrottleEvents(resumed=fail), clock=lambda: times[-1])
    throttle.release(acquire(throttle, lambda _: None), HttpError(429, "slow", 0.5))
    times.append(1010.0)
    with pytest.raises(BrokenPipeError):
        acquire(throttle, lambda _: None)
    times.append(1020.0)
    assert throttle.acquire(Permit(free_tries=1)) == 0.0  # nothing else is under way


# An item


class Others(Sleeper):
    """Other attempts, which start, fail or are answered whenever somebody sleeps, as `actions` say."""

    def __init__(self, harness: Harness, actions: Iterator[str]) -> None:
        self._harness = harness
        self._actions = actions
        self._under_way: list[Permit] = []

    def check(self) -> None:
        """Go on: the run does not end."""

    def sleep(self, seconds: float) -> None:
        """Let time pass, and something happen."""
        self._harness.sleep(seconds)
        self.act()

    def act(self) -> None:
        """Do the next action."""
        action, throttle = next(self._actions, "end"), self._harness.throttle
        permit = Permit(f"other{next(self._harness.numbers)}")
        if action == "start" and throttle.acquire(permit):
            throttle.withdraw(permit)
        elif action == "start":
            self._under_way.append(permit)
        elif action != "wait" and self._under_way:
            throttle.release(self._under_way.pop(), None if action == "end" else HttpError(500, "broken"))


class Turned:
    """A source that turns an item away each time; others act while an attempt is under way."""

    def __init__(self, others: Others) -> None:
        self._others = others

    def get(self, request: ItemRequest) -> NotModified:
        """Raise a reset."""
        request.attempts += 1
        self._others.act()
        raise RESET


@settings(deadline=None, max_examples=200)
@given(st.lists(st.sampled_from(["start", "end", "fail", "wait"]), max_size=200))
def test_an_item_that_is_always_turned_away_ends(actions: list[str]) -> None:
    """Whatever others get, an item has no more than its own tries and four for free."""
    harness, retries = Harness(), list[RetryEvent]()
    others = Others(harness, iter(actions))
    policy = RetryPolicy(3, 1e6)
    request = ItemRequest(WorkItem("BR", "http://localhost/br.gif", "br.gif"))

    def note(_code: str, event: RetryEvent) -> None:
        retries.append(event)

    throttled = Throttled(Turned(others), harness.throttle, policy=policy, sleeper=others, on_retry=note)
    retrying = Retrying(throttled, policy, sleep=others.sleep, may_retry=lambda _: True, on_retry=note)
    with pytest.raises(NetworkError):
        retrying.get(request)
    assert 3 <= request.attempts <= 3 + FREE_TRIES
    assert request.attempts == 3 + len([event for event in retries if event.ignored])
