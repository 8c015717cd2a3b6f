"""The throttle: rate limit, pauses and circuit breaker, shared by all threads."""

import itertools
import threading
from collections.abc import Callable
from contextlib import suppress
from itertools import pairwise

import pytest
from throttling import Attempt, acquire

from job.errors import (
    AttemptError,
    Cancelled,
    ContentError,
    HttpError,
    NetworkError,
    NotFoundError,
    Reason,
    StorageError,
)
from job.resilience import Permit, Throttle, ThrottleEvents, ThrottleLimits

REFUSED = NetworkError(Reason.CONNECTION, "connection refused")
TIMED_OUT = NetworkError(Reason.TIMEOUT, "silence")
BROKEN = HttpError(500, "HTTP error 500")
MISSING = NotFoundError(404, "HTTP error 404")
WORKERS = 30


def busy(seconds: float | None, status: int = 429) -> HttpError:
    return HttpError(status, f"HTTP error {status}", seconds)


class Harness:
    """A throttle, a clock that only `sleep` moves, and the events that were reported."""

    def __init__(self, rate: float = 0, *, is_for_hiccups: bool = False, **settings: float) -> None:
        self.now = 1000.0
        self.slept: list[float] = []
        self.events: list[tuple[object, ...]] = []
        self.rates: list[float] = []
        self.numbers = itertools.count()
        callbacks = ThrottleEvents(
            paused=lambda error, seconds: self.events.append(("paused", error.failure.reason, pytest.approx(seconds))),
            resumed=self.rates.append,
            recovered=lambda: self.events.append(("recovered",)),
            gave_up=lambda error: self.events.append(("gave_up", error.failure.reason)),
            budget_spent=lambda: self.events.append(("budget_spent",)),
        )
        jitter = settings.pop("jitter", 0.0)
        items = int(settings.pop("items", 0)) or None
        limits = ThrottleLimits(rate=rate, workers=WORKERS, items=items, is_for_hiccups=is_for_hiccups, **settings)
        self.throttle = Throttle(limits, callbacks, clock=lambda: self.now, jitter=lambda: jitter)

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds

    def acquire(self, item: str | None = None, **before: bool) -> Attempt:
        """Acquire a permit for an item: a new item each time, unless it is named."""
        return acquire(self.throttle, self.sleep, item or f"c{next(self.numbers)}", **before)

    def send_each(self, *errors: BaseException | None, item: str | None = None, again: bool = False) -> list[bool]:
        """Send a request for each outcome, one after the other; return which failures were ignored."""
        return [self.throttle.release(self.acquire(item, is_retry=again), error) for error in errors]

    def send_burst(self, *errors: BaseException | None) -> list[bool]:
        """Acquire all permits first, then release them in this order; return which failures were ignored."""
        permits = [self.acquire() for _ in errors]
        return [self.throttle.release(permit, error) for permit, error in zip(permits, errors, strict=True)]

    def start_times(self, count: int) -> list[float]:
        """Return when so many requests start, all of them answered, in seconds from now."""
        began, times = self.now, []
        for _ in range(count):
            permit = self.acquire()
            times.append(round(self.now - began, 3))
            self.throttle.release(permit, None)
        return times


def test_a_rate_of_zero_is_no_limit() -> None:
    """With a rate of 0 no request waits."""
    harness = Harness(0)
    assert harness.start_times(100) == [0.0] * 100
    assert harness.slept == []


def test_a_rate_spaces_requests_evenly() -> None:
    """At 20 requests a second each starts 50 ms after the one before; the first does not wait."""
    harness = Harness(20)
    waits = [harness.acquire().waited_seconds for _ in range(5)]
    assert waits == pytest.approx([0, 0.05, 0.05, 0.05, 0.05])
    assert harness.now == pytest.approx(1000.2)


def test_idle_time_earns_no_burst() -> None:
    """The rate limit holds for every pair of requests, also after an idle time."""
    harness = Harness(10)
    harness.acquire()
    harness.now += 60
    assert harness.start_times(3) == pytest.approx([0, 0.1, 0.2])


class RacingTime(float):
    """A time whose comparison waits for a second thread to compare too; a thread alone goes on after a moment."""

    barrier: threading.Barrier

    def __lt__(self, other: float) -> bool:
        self._meet()
        return float(self) < float(other)

    def __gt__(self, other: float) -> bool:
        self._meet()
        return float(self) > float(other)

    def _meet(self) -> None:
        with suppress(threading.BrokenBarrierError):
            self.barrier.wait(0.2)


def test_two_threads_never_reserve_the_same_slot() -> None:
    """A thread reads and reserves the next slot without another thread in between."""
    RacingTime.barrier = threading.Barrier(2)
    throttle = Throttle(ThrottleLimits(rate=10), clock=lambda: RacingTime(1000.0))
    permits = [Permit(), Permit()]
    threads = [threading.Thread(target=throttle.acquire, args=(permit,)) for permit in permits]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(permit.slot or 0.0 for permit in permits) == pytest.approx([1000.0, 1000.1])


def test_an_exception_of_sleep_ends_the_wait() -> None:
    """An exception that `sleep` raises, as a cancellation does, ends the wait for a permit."""
    throttle = Throttle(ThrottleLimits(rate=0.001))
    acquire(throttle, lambda _: None)

    def raise_interrupted(_seconds: float) -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        acquire(throttle, raise_interrupted)


@pytest.mark.parametrize("status", [403, 420, 429, 503, 509, 520, 527])
def test_a_retry_after_pauses_all_requests(status: int) -> None:
    """One answer with `Retry-After: 7` makes the next request wait 7 s, and the failure is ignored."""
    harness = Harness()
    assert harness.send_each(busy(7, status)) == [True]
    assert harness.acquire().waited_seconds == pytest.approx(7)
    assert harness.events == [("paused", f"http_{status}", 7)]


@pytest.mark.parametrize("seconds", [0, None])
def test_a_429_without_retry_after_slows_all_requests(seconds: float | None) -> None:
    """A 429 without a time slows the throttle down for a moment, and counts against its item."""
    harness = Harness(jitter=0.2)
    assert harness.send_each(busy(seconds)) == [False]
    assert harness.acquire().waited_seconds == pytest.approx(0.7)


def test_a_503_without_retry_after_is_no_pause() -> None:
    """A 503 whose Retry-After is missing, 0 or in the past holds no request back and is not ignored."""
    harness = Harness()
    assert harness.send_each(busy(0, 503), busy(None, 503)) == [False, False]
    assert (harness.acquire().waited_seconds, harness.events) == (0, [])


def test_a_pause_has_jitter() -> None:
    """A random time is added to each pause, so that many shards do not resume together."""
    harness = Harness(jitter=0.4)
    harness.send_each(busy(7))
    assert harness.acquire().waited_seconds == pytest.approx(7.4)


def test_the_default_jitter_is_at_most_a_second() -> None:
    """The default jitter adds up to one second to a pause."""
    pauses: list[float] = []
    for _ in range(100):
        events = ThrottleEvents(paused=lambda _, seconds: pauses.append(seconds))
        throttle = Throttle(ThrottleLimits(), events, clock=lambda: 1000.0)
        throttle.release(acquire(throttle, lambda _: None), busy(7))
    assert 7 <= min(pauses) < max(pauses) <= 8


def test_a_burst_of_refusals_is_one_pause() -> None:
    """Thirty refusals of concurrent requests are ignored and reported once; the longest pause counts."""
    harness = Harness()
    assert harness.send_burst(*[busy(2)] * 29, busy(5)) == [True] * 30
    assert harness.events == [("paused", "http_429", 2)]
    assert harness.acquire().waited_seconds == pytest.approx(5)


def test_a_shorter_pause_does_not_replace_a_longer_one() -> None:
    """A refusal that asks for less time does not shorten the pause."""
    harness = Harness()
    harness.send_burst(busy(5), busy(2))
    assert harness.acquire().waited_seconds == pytest.approx(5)


def test_a_waiting_request_obeys_a_longer_pause() -> None:
    """A request that has a slot after a pause loses it when the pause grows meanwhile."""
    harness = Harness()
    first, second = harness.acquire(), harness.acquire()
    harness.throttle.release(first, busy(2))
    times: list[float] = []

    def sleep(seconds: float) -> None:
        if not times:
            harness.throttle.release(second, busy(6))
        times.append(harness.now)
        harness.sleep(seconds)

    assert acquire(harness.throttle, sleep).waited_seconds == pytest.approx(6)


def test_a_pause_halves_the_measured_rate() -> None:
    """After an origin answered 20 of 30 requests, 10 a second start, nearly 20 soon after, then more."""
    harness = Harness()
    harness.send_burst(*[None] * 20, *[busy(1)] * 10)
    times = harness.start_times(120)
    assert (times[:2], harness.rates) == ([1.0, 1.1], [10])
    gaps = [after - before for before, after in pairwise(times)]
    assert all(later < earlier + 0.002 for earlier, later in pairwise(gaps))
    assert times[70] == pytest.approx(5, abs=0.2)  # after four seconds the rate is back where it was
    assert 1 / gaps[70] == pytest.approx(20, abs=0.5)
    assert 1 / gaps[-1] == pytest.approx(22, abs=2)


def test_answers_during_a_pause_count_for_the_rate() -> None:
    """Answers that arrive after the refusal count for the measured rate, also while requests wait."""
    harness = Harness()
    permits = [harness.acquire() for _ in range(31)]
    harness.throttle.release(permits[0], busy(1))

    def sleep(seconds: float) -> None:
        for permit in permits[1:21]:
            harness.throttle.release(permit, None)
        del permits[1:21]
        harness.sleep(seconds)

    acquire(harness.throttle, sleep)
    assert harness.rates == [10]


def test_a_second_refusal_halves_the_allowed_rate() -> None:
    """A refusal at a rate that grew from 10 to about 16 a second halves that rate."""
    harness = Harness()
    harness.send_burst(*[None] * 20, *[busy(1)] * 10)
    harness.start_times(20)
    harness.send_each(busy(1), None)
    assert harness.rates == [10, pytest.approx(8, abs=1)]


@pytest.mark.parametrize(("seconds", "rate"), [(10, 1.0), (30, 0.5)])
def test_an_unused_rate_is_cut_to_the_measured_one(seconds: int, rate: float) -> None:
    """A rate that grew far beyond what was sent is cut to about what was sent."""
    harness = Harness()
    harness.send_burst(*[None] * 20, *[busy(1)] * 10)
    for _ in range(seconds):
        harness.now += 1
        harness.send_each(None)
    harness.send_each(busy(1), None)
    assert harness.rates[1] == pytest.approx(rate, abs=0.2)


def test_refusals_without_answers_do_not_lower_the_rate_again() -> None:
    """Further refusals without an answer in between leave the rate as it is."""
    harness = Harness()
    harness.send_burst(*[None] * 20, *[busy(1)] * 10)
    harness.send_each(*[busy(1)] * 20)
    harness.send_each(None)
    assert harness.rates == [10] * 21


def test_the_rate_has_a_minimum() -> None:
    """A lull of three requests in twenty minutes does not lower the rate below its minimum."""
    harness = Harness()
    for _ in range(3):
        harness.now += 400
        harness.send_each(None)
    harness.send_each(busy(5), None)
    assert harness.rates == [0.5]
    assert harness.start_times(20)[-1] < 20


def test_the_rate_grows_until_it_is_unlimited() -> None:
    """Two minutes after the last refusal no request waits any more."""
    harness = Harness()
    harness.send_burst(*[None] * 20, *[busy(1)] * 10)
    harness.start_times(1)
    harness.now += 120
    assert harness.start_times(50) == [0.0] * 50


def test_a_refused_request_queues_behind_the_waiting_ones() -> None:
    """A refused request queues behind the requests that already wait."""
    harness = Harness()
    refused = harness.acquire()
    harness.throttle.release(refused, busy(1))
    order: list[str] = []

    def inner(_seconds: float) -> None:
        harness.now = 1000.5 if not order else harness.now
        if not order:
            order.append("asked")
            order.append(f"{acquire(harness.throttle, harness.sleep).slot}")
        harness.sleep(1)

    first = acquire(harness.throttle, inner)
    assert first.slot
    assert order[1] > f"{first.slot}"


def test_the_configured_rate_is_never_exceeded() -> None:
    """The configured rate limit holds before and after a pause."""
    harness = Harness(20)
    harness.send_each(None, None, busy(1), None)
    harness.now += 3600
    assert harness.start_times(3) == pytest.approx([0, 0.05, 0.1])


def test_without_answers_the_rate_follows_the_workers() -> None:
    """Without an answer to measure by, half as many requests a second start as there are workers."""
    harness = Harness()
    harness.send_each(busy(2), None)
    assert harness.rates == [WORKERS / 2]


def test_a_retry_after_of_over_a_minute_is_a_failure() -> None:
    """A Retry-After of more than a minute pauses nothing and counts as a failure of the origin."""
    harness = Harness()
    assert harness.send_each(busy(61)) == [False]
    assert harness.acquire().waited_seconds == 0
    harness.send_burst(*[busy(61)] * 29)
    assert harness.events == [("gave_up", "http_429")]


def test_an_origin_that_only_asks_for_pauses_is_given_up() -> None:
    """Pauses without an answer in between end in giving up after `max_pauses_seconds`."""
    harness = Harness(max_pauses_seconds=10)
    ignored = harness.send_each(*[busy(3, 503)] * 5)
    assert (ignored, harness.events[-1]) == ([True] * 4 + [False], ("gave_up", "http_503"))
    assert harness.now == pytest.approx(1012, abs=1)


def test_one_long_pause_is_obeyed() -> None:
    """A single pause is obeyed even if it is longer than `max_pauses_seconds`."""
    harness = Harness(max_pauses_seconds=2)
    assert harness.send_each(busy(50), None) == [True, False]
    assert [name for name, *_ in harness.events] == ["paused"]


def test_an_answer_resets_the_limit_of_pauses() -> None:
    """Ten pauses with an answer after each do not give the origin up."""
    harness = Harness(max_pauses_seconds=10)
    assert harness.send_each(*[busy(3), None] * 10) == [True, False] * 10
    assert [name for name, *_ in harness.events] == ["paused"] * 10


def test_a_429_without_retry_after_does_not_reset_the_limit_of_pauses() -> None:
    """A 429 without a time between pauses does not count as an answer."""
    harness = Harness(max_pauses_seconds=5)
    harness.send_each(busy(3), busy(None), busy(3), busy(3))
    assert harness.events[-1] == ("gave_up", "http_429")


@pytest.mark.parametrize("error", [REFUSED, BROKEN, NetworkError(Reason.TLS, "expired"), busy(None, 503), busy(0, 503)])
def test_the_circuit_opens_after_as_many_failures_as_workers(error: AttemptError) -> None:
    """The thirtieth failure of thirty workers gives the origin up, and is reported once."""
    harness = Harness()
    harness.send_each(*[error] * 29)
    assert harness.events == []
    assert harness.send_each(error) == [False]
    harness.throttle.release(Permit(), error)
    assert harness.events == [("gave_up", error.failure.reason)]


def test_the_circuit_bears_at_least_nineteen_failures() -> None:
    """A single worker gives the origin up at the twentieth failure, not before."""
    events: list[str] = []
    throttle = Throttle(
        ThrottleLimits(workers=1), ThrottleEvents(gave_up=lambda error: events.append(error.failure.reason))
    )
    for n in range(19):
        throttle.release(acquire(throttle, lambda _: None, f"c{n}"), REFUSED)
    assert events == []
    throttle.release(acquire(throttle, lambda _: None, "c19"), REFUSED)
    assert events == ["connection"]


def test_few_failing_items_do_not_open_the_circuit() -> None:
    """Repeated failures of fourteen items do not open the circuit; those of fifteen do."""
    harness = Harness()
    for item in [f"bad{n}" for n in range(14)] * 4:
        harness.send_each(REFUSED, item=item)
    assert harness.events == []
    harness.send_each(REFUSED)
    assert harness.events == [("gave_up", "connection")]


NO_HTTP = NetworkError(Reason.PROTOCOL, "Received HTTP/0.9 when not allowed")


def test_a_server_without_http_opens_the_circuit() -> None:
    """A service that does not speak HTTP opens the circuit, and is probed with pauses until it is given up."""
    harness = Harness(patience=60)
    harness.send_each(*[NO_HTTP] * 30)
    assert harness.events == [("paused", "protocol", 60)]
    while harness.throttle.release(harness.acquire(), NO_HTTP) is not False:
        assert len(harness.slept) < 1000
    assert harness.events[-1] == ("gave_up", "protocol")
    assert harness.now >= 60


def test_items_that_fail_while_others_succeed_do_not_open_the_circuit() -> None:
    """Retries of items that failed while others succeeded do not count towards the circuit breaker."""
    harness = Harness()
    slow = [harness.acquire(f"bad{n}") for n in range(29)]
    harness.send_each(*[None] * 100)
    released = [(permit.item, harness.throttle.release(permit, TIMED_OUT), permit.others_succeeded) for permit in slow]
    assert {others_succeeded for *_, others_succeeded in released} == {True}
    for item in [f"bad{n}" for n in range(29)] * 3:
        harness.throttle.release(harness.acquire(item, fails_while_others_succeed=True), TIMED_OUT)
    assert harness.events == []
    harness.send_each(TIMED_OUT)
    assert harness.events == [("gave_up", "timeout")]


def test_answers_from_before_an_outage_do_not_hide_it() -> None:
    """Answers to attempts that began before the first failure come in between, and the circuit opens all the same."""
    harness = Harness(patience=60)
    answered = [harness.acquire() for _ in range(10)]
    failing = [harness.acquire() for _ in range(WORKERS)]
    for number, permit in enumerate(failing):
        harness.throttle.release(permit, TIMED_OUT)
        if number < len(answered):
            harness.throttle.release(answered[number], None)
    assert harness.events == [("paused", "timeout", 60)]


@pytest.mark.parametrize(("status", "is_open"), [(500, False), (502, True), (503, True), (504, True)])
def test_a_gateway_counts_again_for_one_item(status: int, *, is_open: bool) -> None:
    """That a gateway reaches no origin is news each time; an item's own error is none when it comes again."""
    harness = Harness(patience=60)
    for item in [f"c{number}" for number in range(WORKERS // 2)] * 2:
        harness.send_each(HttpError(status, "no origin", None), item=item)
    assert harness.events == [("paused", f"http_{status}", 60)] * is_open


def test_an_answer_after_a_failure_ends_the_row() -> None:
    """An answer to an attempt that began after the first failure shows that the origin is there."""
    harness = Harness(patience=60)
    harness.send_each(*[TIMED_OUT] * (WORKERS - 1), None, *[TIMED_OUT] * (WORKERS - 1))
    assert harness.events == []


@pytest.mark.parametrize("items", [1, 2, 5, 9])
def test_patience_applies_to_short_lists(items: int) -> None:
    """With patience the circuit opens after all of a few items failed twice; without patience it stays closed."""
    patient, hasty = Harness(patience=60, items=items), Harness(items=items)
    for harness in (patient, hasty):
        for number in range(2 * items):
            harness.send_each(REFUSED, item=f"c{number % items}")
    assert (patient.events, hasty.events) == ([("paused", "connection", 60)], [])


def hiccup_harness(items: int = 0) -> Harness:
    """Return a harness with the patience that a run has by default."""
    return Harness(patience=5, patience_once_answered=30, is_for_hiccups=True, items=items)


@pytest.mark.parametrize("items", [1, 2, 5, 9])
def test_the_default_patience_leaves_short_lists_alone(items: int) -> None:
    """With the default patience a list of a few items that fail again and again leaves the circuit closed."""
    harness = hiccup_harness(items)
    for number in range(4 * items):
        harness.send_each(REFUSED, item=f"c{number % items}")
    assert harness.events == []


@pytest.mark.parametrize(("before", "seconds"), [([], 5), ([None], 30), ([MISSING], 30), ([BROKEN], 5)])
def test_the_default_patience_is_longer_once_the_origin_answered(
    before: list[AttemptError | None], seconds: float
) -> None:
    """An origin that has answered in this run is probed for 30 s, any other for 5 s; both times are told."""
    harness = hiccup_harness()
    harness.send_each(*before, *[REFUSED] * (30 - before.count(BROKEN)))
    began = harness.now
    assert harness.events == [("paused", "connection", seconds)]
    while harness.events[-1][0] != "gave_up":
        harness.send_each(REFUSED)
    assert harness.now - began == pytest.approx(seconds, abs=1.5)


@pytest.mark.parametrize("reason", [Reason.DNS, Reason.TLS])
@pytest.mark.parametrize("before", [[], [None]])
def test_the_default_patience_is_not_for_what_lasts(reason: Reason, before: list[None]) -> None:
    """A name that does not exist and a bad certificate are not waited for; a user's own patience covers them, too."""
    failures = [NetworkError(reason, "lasts")] * 30
    harness, patient = hiccup_harness(), Harness(patience=5)
    harness.send_each(*before, *failures)
    patient.send_each(*before, *failures)
    assert (harness.events, patient.events) == ([("gave_up", reason)], [("paused", reason, 5)])


def test_the_default_patience_spares_no_retry_budget() -> None:
    """With the default patience retries cost the run's budget, as without any: most origins that fail are not away."""
    harness = hiccup_harness()
    assert [harness.throttle.may_retry(REFUSED) for _ in range(60)] == [True] * 50 + [False] * 10


def test_a_hiccup_costs_no_item_a_failure() -> None:
    """Failures while the circuit is open are ignored, and the next answer closes it."""
    harness = hiccup_harness()
    harness.send_each(*[REFUSED] * 30)
    assert harness.send_each(REFUSED, None, None) == [True, False, False]
    assert [name for name, *_ in harness.events] == ["paused", "recovered"]


def test_repeated_500s_of_few_items_do_not_open_the_circuit() -> None:
    """A repeated 500 of one path counts once: 29 broken paths leave the circuit of 30 workers closed."""
    harness = Harness()
    for item in [f"bad{n}" for n in range(29)] * 4:
        harness.send_each(BROKEN, item=item)
    assert harness.events == []


def test_a_retry_counts_as_the_first_failure_since_an_answer() -> None:
    """A retry counts if it is its item's first failure since the last answer."""
    harness = Harness()
    items = [f"c{n}" for n in range(30)]
    for item in items[:29]:
        harness.send_each(BROKEN, item=item)
    harness.send_each(None)
    for item in items:
        assert harness.events == []
        harness.send_each(BROKEN, item=item, again=True)
    assert harness.events == [("gave_up", "http_500")]


@pytest.mark.parametrize("answer", [None, MISSING, ContentError(Reason.EMPTY, "0 bytes")])
def test_any_answer_resets_the_count_of_failures(answer: AttemptError | None) -> None:
    """An answer, a 404 or an invalid body among them, resets the count of failures."""
    harness = Harness()
    harness.send_each(*[REFUSED] * 29, answer, *[REFUSED] * 29)
    assert harness.events == []


@pytest.mark.parametrize("neutral", [StorageError("disk full"), ValueError(), busy(1)])
def test_other_errors_do_not_change_the_count_of_failures(neutral: Exception) -> None:
    """A full disk, a bug or a pause neither adds to the count of failures nor resets it."""
    harness = Harness()
    harness.send_each(*[REFUSED] * 15, neutral, *[REFUSED] * 14)
    assert "gave_up" not in [name for name, *_ in harness.events]
    harness.send_each(REFUSED)
    assert harness.events[-1] == ("gave_up", "connection")


def harness_with_open_circuit(patience: float) -> Harness:
    """Return a harness whose circuit breaker has just opened."""
    harness = Harness(patience=patience)
    assert harness.send_each(*[REFUSED] * 30) == [False] * 29 + [True]
    assert harness.events == [("paused", "connection", patience)]
    return harness


def test_one_probe_runs_at_a_time() -> None:
    """No request starts while a probe is under way; the probe after a failed one waits longer."""
    harness = harness_with_open_circuit(600)
    probe = harness.acquire()
    assert 1 <= probe.waited_seconds <= 2

    def sleep_and_fail_probe(seconds: float) -> None:
        harness.sleep(seconds)
        if probe.is_probe:
            assert harness.throttle.release(probe, REFUSED)
            probe.is_probe = False

    following = acquire(harness.throttle, sleep_and_fail_probe)
    assert 2 <= following.waited_seconds <= 4


def test_probes_back_off() -> None:
    """Ten minutes of an outage cost 20 to 30 probes, at most 31 s apart."""
    harness, probes = harness_with_open_circuit(600), 0
    while harness.events[-1][0] != "gave_up":
        began = harness.now
        harness.throttle.release(harness.acquire(), REFUSED)
        assert harness.now - began <= 31
        probes += 1
    assert (harness.events[-1], 20 <= probes <= 30) == (("gave_up", "connection"), True)
    assert harness.now == pytest.approx(1600)


def test_a_recovered_origin_is_reported_and_resumed_at_half_the_rate() -> None:
    """The first answer closes the circuit, is reported, halves the rate and resets the count of failures."""
    harness = Harness(patience=600)
    harness.send_burst(*[None] * 20)
    harness.send_each(*[REFUSED] * 30)
    harness.send_each(REFUSED, None)
    assert harness.events[1:] == [("recovered",)]
    assert harness.start_times(3) == pytest.approx([0, 0.1, 0.2], abs=0.01)
    assert harness.rates == [10]
    assert harness.send_each(*[REFUSED] * 29) == [False] * 29
    assert len(harness.events) == 2


def test_an_answer_from_before_the_outage_does_not_close_the_circuit() -> None:
    """An answer to a request that was sent before the outage leaves the circuit open: only a probe closes it."""
    harness = Harness(patience=600)
    slow = harness.acquire()
    harness.send_each(*[REFUSED] * 30)
    harness.throttle.release(slow, None)
    assert (harness.events[-1][0], harness.acquire().is_probe) == ("paused", True)


def test_the_next_probe_is_the_next_item_in_the_queue() -> None:
    """A waiting request becomes the probe in its turn, so that one failing item does not stand for the origin."""
    harness = harness_with_open_circuit(600)
    probes: list[str] = []

    def sleep_and_queue_second(_seconds: float) -> None:
        harness.now += 1
        if len(probes) == 0:
            probes.append("second waits")
            permit = acquire(harness.throttle, interrupt_sleep)
            probes.append("second is the probe" if permit.is_probe else "?")

    def interrupt_sleep(_seconds: float) -> None:
        harness.now += 1
        if harness.now > 1010:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        acquire(harness.throttle, sleep_and_queue_second)
    assert probes == ["second waits"]  # the first in the queue stays first, and slept all the while
    assert harness.acquire().is_probe


def test_patience_caps_the_failures_that_open_the_circuit() -> None:
    """With patience the circuit opens after 45 failures, however many workers there are."""
    throttle = Throttle(ThrottleLimits(workers=1000, patience=60))
    permits = [acquire(throttle, lambda _: None, f"c{n}") for n in range(45)]
    assert [throttle.release(permit, REFUSED) for permit in permits] == [False] * 44 + [True]


def test_patience_ends_with_the_run() -> None:
    """Probing ends when the run ends, even if patience is left."""
    harness = Harness(patience=600, ends_at=1010.0)
    harness.send_each(*[REFUSED] * 30)
    while harness.events[-1][0] != "gave_up":
        harness.send_each(REFUSED)
    assert harness.now == pytest.approx(1010)


def test_patience_spares_the_retry_budget() -> None:
    """With patience, retries of connection failures cost nothing of the retry budget."""
    harness = Harness(patience=600)
    assert [harness.throttle.may_retry(REFUSED) for _ in range(200)] == [True] * 200
    assert count_retries_left(harness) == 50


def test_failures_from_before_the_recovery_do_not_open_the_circuit() -> None:
    """Failures of requests that were sent during the outage do not open the circuit again."""
    harness = Harness(patience=600)
    old = [harness.acquire() for _ in range(60)]
    for permit in old[:30]:
        harness.throttle.release(permit, REFUSED)
    harness.send_each(None)
    assert [harness.throttle.release(permit, REFUSED) for permit in old[30:]] == [False] * 30
    assert [name for name, *_ in harness.events] == ["paused", "recovered"]


def test_failures_while_the_circuit_is_open_are_ignored() -> None:
    """A failure of a request that was under way when the circuit opened is ignored."""
    harness = Harness(patience=600)
    late = harness.acquire()
    harness.send_each(*[REFUSED] * 30)
    assert harness.throttle.release(late, REFUSED)


def test_a_late_failure_frees_no_second_probe() -> None:
    """A request from before the outage that ends during a probe does not let a second probe start."""
    harness = Harness(patience=600)
    late = harness.acquire()
    harness.send_each(*[REFUSED] * 30)
    assert harness.acquire().is_probe
    assert harness.throttle.release(late, REFUSED)

    def interrupt_sleep(_seconds: float) -> None:
        raise Cancelled(Reason.SIGNAL)

    harness.now += 60
    with pytest.raises(Cancelled):
        acquire(harness.throttle, interrupt_sleep)


def test_a_probe_without_an_outcome_frees_the_next_one() -> None:
    """A probe that ends without an answer or failure of the origin lets the next probe start."""
    harness = harness_with_open_circuit(600)
    assert harness.throttle.release(harness.acquire(), StorageError("disk full")) is False
    assert harness.acquire().is_probe


def test_probes_obey_a_retry_after() -> None:
    """A probe that is refused with `Retry-After: 20` delays the next probe by 20 s."""
    harness = harness_with_open_circuit(600)
    assert harness.throttle.release(harness.acquire(), busy(20, 503))
    assert harness.acquire().waited_seconds >= 20


def test_an_answer_after_giving_up_changes_nothing() -> None:
    """A late answer after the origin was given up changes nothing, and no waiting request starts."""
    harness = Harness()
    slow = harness.acquire()
    harness.send_each(*[REFUSED] * 30)
    assert harness.throttle.release(slow, None) is False

    def raise_interrupted(_seconds: float) -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        acquire(harness.throttle, raise_interrupted)
    assert harness.events == [("gave_up", "connection")]


def count_retries_left(harness: Harness) -> int:
    """Spend the retry budget, and return how many retries it had."""
    count = 0
    while harness.throttle.may_retry(ContentError(Reason.BAD_CONTENT, "a page")):
        count += 1
    return count


def test_the_retry_budget_starts_at_fifty() -> None:
    """A run has fifty retries in advance; that they are spent is reported once."""
    harness = Harness()
    assert (count_retries_left(harness), count_retries_left(harness)) == (50, 0)
    assert harness.events == [("budget_spent",)]


def test_ten_successes_add_a_retry() -> None:
    """Ten successes add one retry to the budget; failures add none."""
    harness = Harness()
    count_retries_left(harness)
    harness.send_each(*[MISSING] * 100)
    assert count_retries_left(harness) == 0
    harness.send_each(*[None] * 101)
    assert count_retries_left(harness) == 10


def test_a_successful_retry_is_refunded() -> None:
    """A retry that succeeds is refunded to the budget."""
    harness = Harness()
    page = ContentError(Reason.BAD_CONTENT, "a page")
    for _ in range(500):
        assert harness.throttle.may_retry(page)
        harness.send_each(None, again=True)
    assert count_retries_left(harness) == 50


def test_the_retry_budget_has_a_maximum() -> None:
    """A thousand successes do not raise the budget above fifty retries."""
    harness = Harness()
    harness.send_each(*[None] * 1000)
    assert count_retries_left(harness) == 50


@pytest.mark.parametrize(
    "act",
    [
        lambda throttle: throttle.release(acquire(throttle, lambda _: None), REFUSED),
        lambda throttle: throttle.release(acquire(throttle, lambda _: None), busy(None)),
        lambda throttle: throttle.may_retry(MISSING),
    ],
)
def test_callbacks_are_optional(act: Callable[[Throttle], object]) -> None:
    """A throttle without callbacks gives up, pauses and spends its budget without an error."""
    times = iter(range(10_000))
    throttle = Throttle(ThrottleLimits(), clock=lambda: 1.0 * next(times))
    for _ in range(20):
        act(throttle)
    assert [throttle.may_retry(MISSING) for _ in range(51)][-1] is False
