"""The gate: one pace, one pause and one judgement of the origin for all threads."""

import itertools
import threading
from collections.abc import Callable
from contextlib import suppress
from itertools import pairwise

import pytest
from throttling import Attempt, enter

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


class Site:
    """A gate, the clock that only sleeping moves, and all that was told."""

    def __init__(self, rate: float = 0, **settings: float) -> None:
        self.now = 1000.0
        self.slept: list[float] = []
        self.told: list[tuple[object, ...]] = []
        self.paces: list[float] = []
        self.numbers = itertools.count()
        news = ThrottleEvents(
            paused=lambda error, seconds: self.told.append(("paused", error.failure.reason, pytest.approx(seconds))),
            resumed=self.paces.append,
            recovered=lambda: self.told.append(("back",)),
            gave_up=lambda error: self.told.append(("down", error.failure.reason)),
            budget_spent=lambda: self.told.append(("spent",)),
        )
        jitter = settings.pop("jitter", 0.0)
        items = int(settings.pop("items", 0)) or None
        limits = ThrottleLimits(rate=rate, workers=WORKERS, items=items, **settings)
        self.throttle = Throttle(limits, news, clock=lambda: self.now, jitter=lambda: jitter)

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds

    def enter(self, item: str | None = None, **before: bool) -> Attempt:
        """Enter for an item, another one each time unless it is named."""
        return enter(self.throttle, self.sleep, item or f"c{next(self.numbers)}", **before)

    def ends(self, *errors: BaseException | None, item: str | None = None, again: bool = False) -> list[bool]:
        """Send a request for each, one after the other; tell which failures were excused."""
        return [self.throttle.release(self.enter(item, is_retry=again), error) for error in errors]

    def burst(self, *errors: BaseException | None) -> list[bool]:
        """Send them all at once, then let them end in this order."""
        tickets = [self.enter() for _ in errors]
        return [self.throttle.release(permit, error) for permit, error in zip(tickets, errors, strict=True)]

    def starts(self, count: int) -> list[float]:
        """Give the times at which so many requests start, all answered, counted from now."""
        began, times = self.now, []
        for _ in range(count):
            permit = self.enter()
            times.append(round(self.now - began, 3))
            self.throttle.release(permit, None)
        return times


def test_without_a_rate_nobody_waits() -> None:
    """0 is no limit."""
    site = Site(0)
    assert site.starts(100) == [0.0] * 100
    assert site.slept == []


def test_requests_keep_their_distance() -> None:
    """At 20 a second each follows the one before by 50 ms; the first does not wait."""
    site = Site(20)
    waits = [site.enter().waited_seconds for _ in range(5)]
    assert waits == pytest.approx([0, 0.05, 0.05, 0.05, 0.05])
    assert site.now == pytest.approx(1000.2)


def test_an_idle_time_is_no_credit() -> None:
    """After a pause of its own making a run does not burst: the rate holds for every pair of requests."""
    site = Site(10)
    site.enter()
    site.now += 60
    assert site.starts(3) == pytest.approx([0, 0.1, 0.2])


class Meeting(float):
    """A time at whose comparison two threads meet, if both can be there at once; one alone goes on after a moment."""

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


def test_two_threads_never_take_one_slot() -> None:
    """A thread that looks for the next slot is alone until it has reserved it."""
    Meeting.barrier = threading.Barrier(2)
    throttle = Throttle(ThrottleLimits(rate=10), clock=lambda: Meeting(1000.0))
    permits = [Permit(), Permit()]
    threads = [threading.Thread(target=throttle.acquire, args=(permit,)) for permit in permits]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(permit.slot or 0.0 for permit in permits) == pytest.approx([1000.0, 1000.1])


def test_who_may_not_wait_is_not_held() -> None:
    """What the sleep raises comes out: a stop ends the wait."""
    throttle = Throttle(ThrottleLimits(rate=0.001))
    enter(throttle, lambda _: None)

    def stopped(_seconds: float) -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        enter(throttle, stopped)


@pytest.mark.parametrize("status", [429, 503])
def test_a_retry_after_holds_everyone(status: int) -> None:
    """One answer with Retry-After: 7 is enough; who comes next waits 7 s, and that is not the item's time."""
    site = Site()
    assert site.ends(busy(7, status)) == [True]
    assert site.enter().waited_seconds == pytest.approx(7)
    assert site.told == [("paused", f"http_{status}", 7)]


@pytest.mark.parametrize("seconds", [0, None])
def test_a_429_that_says_no_time_holds_everyone_a_moment(seconds: float | None) -> None:
    """It is slowed down as for any other, but the item pays: nothing was asked for that it could obey."""
    site = Site(jitter=0.2)
    assert site.ends(busy(seconds)) == [False]
    assert site.enter().waited_seconds == pytest.approx(0.7)


def test_a_503_that_says_no_time_is_no_pause() -> None:
    """0 seconds, or a date in the past: nobody is held back, and nobody excused."""
    site = Site()
    assert site.ends(busy(0, 503), busy(None, 503)) == [False, False]
    assert (site.enter().waited_seconds, site.told) == (0, [])


def test_pauses_of_many_shards_do_not_end_together() -> None:
    """Something random is added to what was asked for."""
    site = Site(jitter=0.4)
    site.ends(busy(7))
    assert site.enter().waited_seconds == pytest.approx(7.4)


def test_a_pause_of_its_own_making_is_a_second_longer_at_most() -> None:
    """Without a jitter of the test's, up to a second is added: enough to part the shards, not enough to matter."""
    pauses: list[float] = []
    for _ in range(100):
        events = ThrottleEvents(paused=lambda _, seconds: pauses.append(seconds))
        throttle = Throttle(ThrottleLimits(), events, clock=lambda: 1000.0)
        throttle.release(enter(throttle, lambda _: None), busy(7))
    assert 7 <= min(pauses) < max(pauses) <= 8


def test_one_burst_is_one_pause() -> None:
    """Thirty refusals of requests that were under way together are excused, and told once; the longest counts."""
    site = Site()
    assert site.burst(*[busy(2)] * 29, busy(5)) == [True] * 30
    assert site.told == [("paused", "http_429", 2)]
    assert site.enter().waited_seconds == pytest.approx(5)


def test_a_shorter_pause_changes_nothing() -> None:
    """Who was refused for less time waits with the others all the same."""
    site = Site()
    site.burst(busy(5), busy(2))
    assert site.enter().waited_seconds == pytest.approx(5)


def test_who_waits_already_waits_for_the_longer_pause_too() -> None:
    """A request that has its slot after a pause loses it when the pause grows meanwhile."""
    site = Site()
    first, second = site.enter(), site.enter()
    site.throttle.release(first, busy(2))
    times: list[float] = []

    def sleep(seconds: float) -> None:
        if not times:
            site.throttle.release(second, busy(6))
        times.append(site.now)
        site.sleep(seconds)

    assert enter(site.throttle, sleep).waited_seconds == pytest.approx(6)


def test_after_a_pause_the_pace_is_half_of_what_was_answered() -> None:
    """Of a burst of thirty an origin answered twenty: ten a second are let in, soon nearly twenty, later more."""
    site = Site()
    site.burst(*[None] * 20, *[busy(1)] * 10)
    times = site.starts(120)
    assert (times[:2], site.paces) == ([1.0, 1.1], [10])
    gaps = [after - before for before, after in pairwise(times)]
    assert all(later < earlier + 0.002 for earlier, later in pairwise(gaps))
    assert times[70] == pytest.approx(5, abs=0.2)  # after four seconds it is where it was
    assert 1 / gaps[70] == pytest.approx(20, abs=0.5)
    assert 1 / gaps[-1] == pytest.approx(22, abs=2)


def test_answers_that_were_under_way_still_count() -> None:
    """What the origin answers after it refused somebody tells as much of what it bears, also if others wait already."""
    site = Site()
    tickets = [site.enter() for _ in range(31)]
    site.throttle.release(tickets[0], busy(1))

    def sleep(seconds: float) -> None:
        for permit in tickets[1:21]:
            site.throttle.release(permit, None)
        del tickets[1:21]
        site.sleep(seconds)

    enter(site.throttle, sleep)
    assert site.paces == [10]


def test_a_second_refusal_halves_the_pace_that_was_allowed() -> None:
    """Ten a second, grown to some sixteen, was too much, too."""
    site = Site()
    site.burst(*[None] * 20, *[busy(1)] * 10)
    site.starts(20)
    site.ends(busy(1), None)
    assert site.paces == [10, pytest.approx(8, abs=1)]


@pytest.mark.parametrize(("seconds", "pace"), [(10, 1.0), (30, 0.5)])
def test_a_pace_without_meaning_is_not_halved_on_and_on(seconds: int, pace: float) -> None:
    """A pace that grew far beyond what is really sent, to fifty a second or to none, is cut to about what was sent."""
    site = Site()
    site.burst(*[None] * 20, *[busy(1)] * 10)
    for _ in range(seconds):
        site.now += 1
        site.ends(None)
    site.ends(busy(1), None)
    assert site.paces[1] == pytest.approx(pace, abs=0.2)


def test_refusals_alone_do_not_slow_it_further() -> None:
    """An origin that is busy for a minute is not asked once an hour after that."""
    site = Site()
    site.burst(*[None] * 20, *[busy(1)] * 10)
    site.ends(*[busy(1)] * 20)
    site.ends(None)
    assert site.paces == [10] * 21


def test_a_pace_has_a_floor() -> None:
    """After a lull, three requests in twenty minutes, it is not taken for a law."""
    site = Site()
    for _ in range(3):
        site.now += 400
        site.ends(None)
    site.ends(busy(5), None)
    assert site.paces == [0.5]
    assert site.starts(20)[-1] < 20


def test_a_pace_grows_until_it_is_none() -> None:
    """Minutes after the last refusal nobody waits any more."""
    site = Site()
    site.burst(*[None] * 20, *[busy(1)] * 10)
    site.starts(1)
    site.now += 120
    assert site.starts(50) == [0.0] * 50


def test_who_waited_longest_goes_first_after_a_pause() -> None:
    """Whoever was refused asks again behind those who wait already, and cannot hold them up a second time."""
    site = Site()
    refused = site.enter()
    site.throttle.release(refused, busy(1))
    order: list[str] = []

    def inner(_seconds: float) -> None:
        site.now = 1000.5 if not order else site.now
        if not order:
            order.append("asked")
            order.append(f"{enter(site.throttle, site.sleep).slot}")
        site.sleep(1)

    first = enter(site.throttle, inner)
    assert first.slot
    assert order[1] > f"{first.slot}"


def test_a_pace_never_grows_beyond_the_rate() -> None:
    """The user's limit holds before and after a pause."""
    site = Site(20)
    site.ends(None, None, busy(1), None)
    site.now += 3600
    assert site.starts(3) == pytest.approx([0, 0.05, 0.1])


def test_an_origin_that_answered_nobody_is_asked_slowly() -> None:
    """Without any answer to go by, half as many requests a second as there are workers."""
    site = Site()
    site.ends(busy(2), None)
    assert site.paces == [WORKERS / 2]


def test_too_long_a_pause_is_not_waited_for() -> None:
    """More than a minute: no pause, no excuse; such an origin counts as one that does not answer."""
    site = Site()
    assert site.ends(busy(61)) == [False]
    assert site.enter().waited_seconds == 0
    site.burst(*[busy(61)] * 29)
    assert site.told == [("down", "http_429")]


def test_an_origin_that_only_asks_for_pauses_is_down() -> None:
    """One pause after the other, and nobody answered in between: that ends when an item's time is over."""
    site = Site(max_pauses_seconds=10)
    excused = site.ends(*[busy(3, 503)] * 5)
    assert (excused, site.told[-1]) == ([True] * 4 + [False], ("down", "http_503"))
    assert site.now == pytest.approx(1012, abs=1)


def test_one_long_pause_is_obeyed() -> None:
    """However short the patience: what was asked for once says nothing against the origin."""
    site = Site(max_pauses_seconds=2)
    assert site.ends(busy(50), None) == [True, False]
    assert [name for name, *_ in site.told] == ["paused"]


def test_an_answer_between_pauses_shows_that_waiting_helps() -> None:
    """Ten pauses with an answer after each are no reason to give up."""
    site = Site(max_pauses_seconds=10)
    assert site.ends(*[busy(3), None] * 10) == [True, False] * 10
    assert [name for name, *_ in site.told] == ["paused"] * 10


def test_a_429_without_a_time_is_no_answer_either() -> None:
    """It shows that the origin is there, but not that waiting helped."""
    site = Site(max_pauses_seconds=5)
    site.ends(busy(3), busy(None), busy(3), busy(3))
    assert site.told[-1] == ("down", "http_429")


@pytest.mark.parametrize("error", [REFUSED, BROKEN, NetworkError(Reason.TLS, "expired"), busy(None, 503), busy(0, 503)])
def test_as_many_failures_in_a_row_as_workers_give_the_origin_up(error: AttemptError) -> None:
    """The thirtieth of thirty is told, and no other one."""
    site = Site()
    site.ends(*[error] * 29)
    assert site.told == []
    assert site.ends(error) == [False]
    site.throttle.release(Permit(), error)
    assert site.told == [("down", error.failure.reason)]


def test_few_workers_bear_twenty_failures() -> None:
    """One worker alone must not give up after one failure."""
    told: list[str] = []
    throttle = Throttle(
        ThrottleLimits(workers=1), ThrottleEvents(gave_up=lambda error: told.append(error.failure.reason))
    )
    for n in range(19):
        throttle.release(enter(throttle, lambda _: None, f"c{n}"), REFUSED)
    assert told == []
    throttle.release(enter(throttle, lambda _: None, "c19"), REFUSED)
    assert told == ["connection"]


def test_few_items_that_always_fail_are_not_the_origin() -> None:
    """Seven of twenty, each tried four times and the last of a run: nobody else is left who could be answered."""
    site = Site()
    for item in [f"bad{n}" for n in range(14)] * 4:
        site.ends(REFUSED, item=item)
    assert site.told == []
    site.ends(REFUSED)
    assert site.told == [("down", "connection")]


NO_HTTP = NetworkError(Reason.PROTOCOL, "Received HTTP/0.9 when not allowed")


def test_who_speaks_no_http_is_no_origin() -> None:
    """Another service on the port is not asked ten thousand times, nor probed without a pause."""
    site = Site(patience=60)
    site.ends(*[NO_HTTP] * 30)
    assert site.told == [("paused", "protocol", 60)]
    while site.throttle.release(site.enter(), NO_HTTP) is not False:
        assert len(site.slept) < 1000
    assert site.told[-1] == ("down", "protocol")
    assert site.now >= 60


def test_slow_items_at_the_end_of_a_run_are_not_the_origin() -> None:
    """What fails while others are answered is in doubt: that it fails again, when nobody else is left, is no news."""
    site = Site()
    slow = [site.enter(f"bad{n}") for n in range(29)]
    site.ends(*[None] * 100)
    doubted = [(permit.item, site.throttle.release(permit, TIMED_OUT), permit.others_succeeded) for permit in slow]
    assert {others_succeeded for *_, others_succeeded in doubted} == {True}
    for item in [f"bad{n}" for n in range(29)] * 3:
        site.throttle.release(site.enter(item, fails_while_others_succeed=True), TIMED_OUT)
    assert site.told == []
    site.ends(TIMED_OUT)
    assert site.told == [("down", "timeout")]


@pytest.mark.parametrize("items", [1, 2, 5, 9])
def test_patience_is_for_short_lists_too(items: int) -> None:
    """Where all of a few items fail twice, and nobody is answered, the origin is waited for; without patience not."""
    patient, hasty = Site(patience=60, items=items), Site(items=items)
    for site in (patient, hasty):
        for number in range(2 * items):
            site.ends(REFUSED, item=f"c{number % items}")
    assert (patient.told, hasty.told) == ([("paused", "connection", 60)], [])


def test_that_a_broken_path_is_still_broken_is_no_news() -> None:
    """A path that answers 500 each time is the path's fault: its retries do not count."""
    site = Site()
    for item in [f"bad{n}" for n in range(29)] * 4:
        site.ends(BROKEN, item=item)
    assert site.told == []


def test_a_retry_counts_that_is_the_first_failure_since_an_answer() -> None:
    """Items that failed before somebody was answered, and fail again now, are as many items that fail."""
    site = Site()
    items = [f"c{n}" for n in range(30)]
    for item in items[:29]:
        site.ends(BROKEN, item=item)
    site.ends(None)
    for item in items:
        assert site.told == []
        site.ends(BROKEN, item=item, again=True)
    assert site.told == [("down", "http_500")]


@pytest.mark.parametrize("answer", [None, MISSING, ContentError(Reason.EMPTY, "0 bytes")])
def test_any_answer_begins_the_count_anew(answer: AttemptError | None) -> None:
    """Whoever says 404 is there."""
    site = Site()
    site.ends(*[REFUSED] * 29, answer, *[REFUSED] * 29)
    assert site.told == []


@pytest.mark.parametrize("neutral", [StorageError("disk full"), ValueError(), busy(1)])
def test_what_says_nothing_of_the_origin_changes_no_count(neutral: Exception) -> None:
    """A full disk, a bug or a pause: neither a failure in a row, nor an end of the row."""
    site = Site()
    site.ends(*[REFUSED] * 15, neutral, *[REFUSED] * 14)
    assert "down" not in [name for name, *_ in site.told]
    site.ends(REFUSED)
    assert site.told[-1] == ("down", "connection")


def dead(patience: float) -> Site:
    """Give a site whose origin has just been found dead."""
    site = Site(patience=patience)
    assert site.ends(*[REFUSED] * 30) == [False] * 29 + [True]
    assert site.told == [("paused", "connection", patience)]
    return site


def test_with_patience_one_request_at_a_time_looks() -> None:
    """While a probe is under way nobody else comes in; when it has failed, the next one waits longer."""
    site = dead(600)
    probe = site.enter()
    assert 1 <= probe.waited_seconds <= 2

    def fails_first(seconds: float) -> None:
        site.sleep(seconds)
        if probe.is_probe:
            assert site.throttle.release(probe, REFUSED)
            probe.is_probe = False

    following = enter(site.throttle, fails_first)
    assert 2 <= following.waited_seconds <= 4


def test_probes_come_less_and_less_often() -> None:
    """Ten minutes of a dead origin cost some 20 requests, each at most half a minute after the last."""
    site, probes = dead(600), 0
    while site.told[-1][0] != "down":
        began = site.now
        site.throttle.release(site.enter(), REFUSED)
        assert site.now - began <= 31
        probes += 1
    assert (site.told[-1], 20 <= probes <= 30) == (("down", "connection"), True)
    assert site.now == pytest.approx(1600)


def test_an_origin_that_is_back_is_told_and_asked_slowly() -> None:
    """The first answer opens the gate, at half the pace of old; the row of failures is forgotten."""
    site = Site(patience=600)
    site.burst(*[None] * 20)
    site.ends(*[REFUSED] * 30)
    site.ends(REFUSED, None)
    assert site.told[1:] == [("back",)]
    assert site.starts(3) == pytest.approx([0, 0.1, 0.2], abs=0.01)
    assert site.paces == [10]
    assert site.ends(*[REFUSED] * 29) == [False] * 29
    assert len(site.told) == 2


def test_an_answer_that_was_under_way_is_no_proof() -> None:
    """It was sent before the origin went away: only a probe shows that it is back."""
    site = Site(patience=600)
    slow = site.enter()
    site.ends(*[REFUSED] * 30)
    site.throttle.release(slow, None)
    assert (site.told[-1][0], site.enter().is_probe) == ("paused", True)


def test_each_probe_is_another_item() -> None:
    """An item that always fails must not stand for its origin: the next in the queue has its turn."""
    site = dead(600)
    probes: list[str] = []

    def waits(_seconds: float) -> None:
        site.now += 1
        if len(probes) == 0:
            probes.append("second comes")
            permit = enter(site.throttle, stops)
            probes.append("second was let in" if permit.is_probe else "?")

    def stops(_seconds: float) -> None:
        site.now += 1
        if site.now > 1010:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        enter(site.throttle, waits)
    assert probes == ["second comes"]  # who came first is first, and was asleep all the while
    assert site.enter().is_probe


def test_patience_begins_sooner_with_many_workers() -> None:
    """Waiting costs little, and a thousand items must not fail before it begins."""
    throttle = Throttle(ThrottleLimits(workers=1000, patience=60))
    tickets = [enter(throttle, lambda _: None, f"c{n}") for n in range(45)]
    assert [throttle.release(permit, REFUSED) for permit in tickets] == [False] * 44 + [True]


def test_patience_ends_with_the_run() -> None:
    """An origin that is away when the time is over is told as such."""
    site = Site(patience=600, ends_at=1010.0)
    site.ends(*[REFUSED] * 30)
    while site.told[-1][0] != "down":
        site.ends(REFUSED)
    assert site.now == pytest.approx(1010)


def test_with_patience_an_origin_that_is_away_costs_no_retries() -> None:
    """They are for what fails while the origin is there."""
    site = Site(patience=600)
    assert [site.throttle.may_retry(REFUSED) for _ in range(200)] == [True] * 200
    assert spent(site) == 50


def test_failures_from_before_do_not_close_it_again() -> None:
    """Requests that were sent while the origin was away say nothing of it now that it is back."""
    site = Site(patience=600)
    old = [site.enter() for _ in range(60)]
    for permit in old[:30]:
        site.throttle.release(permit, REFUSED)
    site.ends(None)
    assert [site.throttle.release(permit, REFUSED) for permit in old[30:]] == [False] * 30
    assert [name for name, *_ in site.told] == ["paused", "back"]


def test_failures_while_it_is_away_are_excused() -> None:
    """An item that was under way must not end because its origin is being waited for."""
    site = Site(patience=600)
    late = site.enter()
    site.ends(*[REFUSED] * 30)
    assert site.throttle.release(late, REFUSED)


def test_what_was_sent_before_frees_no_second_probe() -> None:
    """While one looks whether the origin is back, a request of old that ends late lets nobody else in."""
    site = Site(patience=600)
    late = site.enter()
    site.ends(*[REFUSED] * 30)
    assert site.enter().is_probe
    assert site.throttle.release(late, REFUSED)

    def stops(_seconds: float) -> None:
        raise Cancelled(Reason.SIGNAL)

    site.now += 60
    with pytest.raises(Cancelled):
        enter(site.throttle, stops)


def test_a_probe_that_cannot_be_judged_leaves_the_next_one_free() -> None:
    """A probe that ended of a full disk, say, must not be waited for for ever."""
    site = dead(600)
    assert site.throttle.release(site.enter(), StorageError("disk full")) is False
    assert site.enter().is_probe


def test_a_pause_is_obeyed_by_probes() -> None:
    """An origin under repair that asks for 20 seconds is not probed before."""
    site = dead(600)
    assert site.throttle.release(site.enter(), busy(20, 503))
    assert site.enter().waited_seconds >= 20


def test_an_answer_after_giving_up_changes_nothing() -> None:
    """The run is ending: who still waits is not let in."""
    site = Site()
    slow = site.enter()
    site.ends(*[REFUSED] * 30)
    assert site.throttle.release(slow, None) is False

    def stopped(_seconds: float) -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        enter(site.throttle, stopped)
    assert site.told == [("down", "connection")]


def spent(site: Site) -> int:
    """Count the retries that are left."""
    count = 0
    while site.throttle.may_retry(ContentError(Reason.BAD_CONTENT, "a page")):
        count += 1
    return count


def test_a_run_may_retry_fifty_times_for_nothing() -> None:
    """Then it is told once that there are no more."""
    site = Site()
    assert (spent(site), spent(site)) == (50, 0)
    assert site.told == [("spent",)]


def test_ten_successes_pay_for_a_retry() -> None:
    """A tenth each; failures pay for nothing."""
    site = Site()
    spent(site)
    site.ends(*[MISSING] * 100)
    assert spent(site) == 0
    site.ends(*[None] * 101)
    assert spent(site) == 10


def test_a_retry_that_worked_has_cost_nothing() -> None:
    """An origin of which each fourth answer fails, and the next one does not, is retried without end."""
    site = Site()
    page = ContentError(Reason.BAD_CONTENT, "a page")
    for _ in range(500):
        assert site.throttle.may_retry(page)
        site.ends(None, again=True)
    assert spent(site) == 50


def test_successes_are_not_saved_up() -> None:
    """After a million files a run has no more retries than at its beginning."""
    site = Site()
    site.ends(*[None] * 1000)
    assert spent(site) == 50


@pytest.mark.parametrize(
    "act",
    [
        lambda throttle: throttle.release(enter(throttle, lambda _: None), REFUSED),
        lambda throttle: throttle.release(enter(throttle, lambda _: None), busy(None)),
        lambda throttle: throttle.may_retry(MISSING),
    ],
)
def test_nobody_has_to_listen(act: Callable[[Throttle], object]) -> None:
    """A gate that nobody is told of gives up an origin, pauses and runs out of retries all the same."""
    times = iter(range(10_000))
    throttle = Throttle(ThrottleLimits(), clock=lambda: 1.0 * next(times))
    for _ in range(20):
        act(throttle)
    assert [throttle.may_retry(MISSING) for _ in range(51)][-1] is False
