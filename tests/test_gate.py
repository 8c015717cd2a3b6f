"""The gate: one pace, one pause and one judgement of the origin for all threads."""

import threading
from collections.abc import Callable
from itertools import pairwise

import pytest

from job.errors import AttemptError, ContentError, HttpError, NetworkError, NotFoundError, Reason, StorageError
from job.gate import Gate, News, Ticket

REFUSED = NetworkError(Reason.CONNECTION, "connection refused")
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
        news = News(
            paused=lambda error, seconds: self.told.append(("paused", error.reason, pytest.approx(seconds))),
            back=lambda: self.told.append(("back",)),
            down=lambda error: self.told.append(("down", error.reason)),
            spent=lambda: self.told.append(("spent",)),
        )
        self.gate = Gate(
            rate,
            workers=WORKERS,
            patience=settings.get("patience", 0.0),
            fruitless=settings.get("fruitless", 90.0),
            news=news,
            clock=lambda: self.now,
            jitter=lambda: settings.get("jitter", 0.0),
        )

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds

    def enter(self) -> Ticket:
        return self.gate.enter(self.sleep)

    def ends(self, *errors: BaseException | None) -> list[bool]:
        """Send a request for each, one after the other; tell which failures were excused."""
        return [self.gate.left(self.enter(), error) for error in errors]

    def burst(self, *errors: BaseException | None) -> list[bool]:
        """Send them all at once, then let them end in this order."""
        tickets = [self.enter() for _ in errors]
        return [self.gate.left(ticket, error) for ticket, error in zip(tickets, errors, strict=True)]

    def starts(self, count: int) -> list[float]:
        """Give the times at which so many requests start, all answered, counted from now."""
        began, times = self.now, []
        for _ in range(count):
            ticket = self.enter()
            times.append(round(self.now - began, 3))
            self.gate.left(ticket, None)
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


def test_threads_share_one_pace() -> None:
    """Thirty threads that ask at once get thirty different slots."""
    ready, lock = threading.Barrier(30), threading.Lock()
    times = iter(range(10_000))
    slots: list[float] = []

    def enter() -> None:
        ready.wait(10)
        ticket = gate.enter(lambda _: None)
        with lock:
            slots.append(ticket.slot)

    gate = Gate(10, clock=lambda: next(times) / 1e3)
    threads = [threading.Thread(target=enter) for _ in range(30)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(slots) == 30
    assert min(after - before for before, after in pairwise(sorted(slots))) > 0.0999


def test_who_may_not_wait_is_not_held() -> None:
    """What the sleep raises comes out: a stop ends the wait."""
    gate = Gate(0.001)
    gate.enter(lambda _: None)

    def stopped(_seconds: float) -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        gate.enter(stopped)


@pytest.mark.parametrize("status", [429, 503])
def test_a_retry_after_holds_everyone(status: int) -> None:
    """One answer with Retry-After: 7 is enough; who comes next waits 7 s, and that is not the item's time."""
    site = Site()
    assert site.ends(busy(7, status)) == [True]
    assert site.enter().waited_seconds == pytest.approx(7)
    assert site.told == [("paused", f"http_{status}", 7)]


def test_a_retry_after_of_nothing_is_no_pause() -> None:
    """0 seconds, or a date in the past: nobody is held back, and nobody excused."""
    site = Site()
    assert site.ends(busy(0), busy(0, 503)) == [False, False]
    assert (site.enter().waited_seconds, site.told) == (0, [])


def test_pauses_of_many_shards_do_not_end_together() -> None:
    """Something random is added to what was asked for."""
    site = Site(jitter=0.4)
    site.ends(busy(7))
    assert site.enter().waited_seconds == pytest.approx(7.4)


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
    site.gate.left(first, busy(2))
    times: list[float] = []

    def sleep(seconds: float) -> None:
        if not times:
            site.gate.left(second, busy(6))
        times.append(site.now)
        site.sleep(seconds)

    assert site.gate.enter(sleep).waited_seconds == pytest.approx(6)


def test_after_a_pause_the_pace_is_half_of_what_was_answered() -> None:
    """Of a burst of thirty an origin answered twenty: ten a second are let in, then more and more."""
    site = Site()
    site.burst(*[None] * 20, *[busy(1)] * 10)
    times = site.starts(120)
    assert times[:3] == [1.0, 1.1, pytest.approx(1.2, abs=0.01)]
    gaps = [after - before for before, after in pairwise(times)]
    assert all(later < earlier + 0.002 for earlier, later in pairwise(gaps))
    assert times[-1] == pytest.approx(9, abs=1)  # twice the pace after 7.3 s


def test_answers_that_were_under_way_still_count() -> None:
    """What the origin answers after it refused somebody tells as much of what it bears."""
    site = Site()
    site.burst(*[busy(1)] * 10, *[None] * 20)
    assert site.starts(2) == [1.0, 1.1]


def test_a_second_refusal_halves_the_pace_that_was_allowed() -> None:
    """Ten a second was too much, too: five, whatever the growth in between."""
    site = Site()
    site.burst(*[None] * 20, *[busy(1)] * 10)
    site.starts(1)
    site.starts(20)
    pace = site.enter()
    site.gate.left(pace, busy(1))
    first, second = site.starts(2)
    assert second - first == pytest.approx(1 / 5.5, abs=0.03)


def test_a_pace_without_meaning_is_not_halved_on_and_on() -> None:
    """A pace that grew far beyond what is really sent is cut to what was sent."""
    site = Site()
    site.burst(*[None] * 20, *[busy(1)] * 10)
    for _ in range(30):  # one a second, while hundred a second would be let in
        site.now += 1
        site.ends(None)
    site.ends(busy(1))
    first, second = site.starts(2)
    assert second - first == pytest.approx(1, abs=0.1)


def test_a_pace_grows_until_it_is_none() -> None:
    """Minutes after the last refusal nobody waits any more."""
    site = Site()
    site.burst(*[None] * 20, *[busy(1)] * 10)
    site.now += 60
    assert site.starts(50) == [0.0] * 50


def test_a_pace_never_grows_beyond_the_rate() -> None:
    """The user's limit holds before and after a pause."""
    site = Site(20)
    site.ends(None, None, busy(1))
    site.now += 3600
    assert site.starts(3) == pytest.approx([0, 0.05, 0.1])


def test_an_origin_that_answered_nobody_is_asked_slowly() -> None:
    """Without any answer to go by, half as many requests a second as there are workers."""
    site = Site()
    site.ends(busy(2))
    first, second = site.starts(2)
    assert second - first == pytest.approx(2 / WORKERS, abs=0.001)


def test_too_long_a_pause_is_not_waited_for() -> None:
    """More than a minute: no pause, no excuse; such an origin counts as one that does not answer."""
    site = Site()
    assert site.ends(busy(61)) == [False]
    assert site.enter().waited_seconds == 0
    site.burst(*[busy(61)] * 29)
    assert site.told == [("down", "http_429")]


def test_an_origin_that_only_asks_for_pauses_is_down() -> None:
    """One pause after the other, and nobody answered in between: that ends when an item's time is over."""
    site = Site(fruitless=10)
    excused = site.ends(*[busy(3, 503)] * 4)
    assert (excused, site.told[-1]) == ([True, True, True, False], ("down", "http_503"))
    assert site.now == pytest.approx(1009)


def test_an_answer_between_pauses_shows_that_waiting_helps() -> None:
    """Ten pauses with an answer after each are no reason to give up."""
    site = Site(fruitless=10)
    assert site.ends(*[busy(3), None] * 10) == [True, False] * 10
    assert [name for name, *_ in site.told] == ["paused"] * 10


def test_a_429_without_a_time_is_no_answer_either() -> None:
    """It shows that the origin is there, but not that waiting helped."""
    site = Site(fruitless=5)
    site.ends(busy(3), busy(None), busy(3))
    assert site.told[-1] == ("down", "http_429")


@pytest.mark.parametrize("error", [REFUSED, BROKEN, NetworkError(Reason.TLS, "expired"), busy(None, 503), busy(0, 503)])
def test_as_many_failures_in_a_row_as_workers_give_the_origin_up(error: AttemptError) -> None:
    """The thirtieth of thirty is told, and no other one."""
    site = Site()
    site.ends(*[error] * 29)
    assert site.told == []
    assert site.ends(error) == [False]
    site.gate.left(Ticket(), error)
    assert site.told == [("down", error.reason)]


def test_few_workers_bear_twenty_failures() -> None:
    """One worker alone must not give up after one failure."""
    told: list[str] = []
    gate = Gate(workers=1, news=News(down=lambda error: told.append(error.reason)))
    for _ in range(19):
        gate.left(gate.enter(lambda _: None), REFUSED)
    assert told == []
    gate.left(gate.enter(lambda _: None), REFUSED)
    assert told == ["connection"]


@pytest.mark.parametrize("answer", [None, MISSING, busy(None), ContentError(Reason.EMPTY, "0 bytes")])
def test_any_answer_begins_the_count_anew(answer: AttemptError | None) -> None:
    """Whoever says 404 is there."""
    site = Site()
    site.ends(*[REFUSED] * 29, answer, *[REFUSED] * 29)
    assert site.told == []


@pytest.mark.parametrize(
    "neutral", [StorageError("disk full"), NetworkError(Reason.PROTOCOL, "two lengths"), ValueError(), busy(1)]
)
def test_what_says_nothing_of_the_origin_changes_no_count(neutral: Exception) -> None:
    """A full disk, a malformed answer, a bug or a pause: neither a failure in a row, nor an end of the row."""
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
        if probe.probe:
            assert site.gate.left(probe, REFUSED)
            probe.probe = False

    following = site.gate.enter(fails_first)
    assert 2 <= following.waited_seconds <= 4


def test_probes_come_less_and_less_often() -> None:
    """Ten minutes of a dead origin cost some 20 requests, each at most half a minute after the last."""
    site, probes = dead(600), 0
    while site.told[-1][0] != "down":
        began = site.now
        site.gate.left(site.enter(), REFUSED)
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
    assert site.ends(*[REFUSED] * 29) == [False] * 29
    assert len(site.told) == 2


def test_an_answer_that_was_under_way_opens_the_gate_too() -> None:
    """Nobody waits for a probe when an older request shows that the origin is there."""
    site = Site(patience=600)
    slow = site.enter()
    site.ends(*[REFUSED] * 30)
    site.gate.left(slow, None)
    assert (site.told[-1], site.enter().waited_seconds) == (("back",), 0)


def test_failures_from_before_do_not_close_it_again() -> None:
    """Requests that were sent while the origin was away say nothing of it now that it is back."""
    site = Site(patience=600)
    old = [site.enter() for _ in range(60)]
    for ticket in old[:30]:
        site.gate.left(ticket, REFUSED)
    site.ends(None)
    assert [site.gate.left(ticket, REFUSED) for ticket in old[30:]] == [False] * 30
    assert [name for name, *_ in site.told] == ["paused", "back"]


def test_failures_while_it_is_away_are_excused() -> None:
    """An item that was under way must not end because its origin is being waited for."""
    site = Site(patience=600)
    late = site.enter()
    site.ends(*[REFUSED] * 30)
    assert site.gate.left(late, REFUSED)


def test_a_probe_that_cannot_be_judged_leaves_the_next_one_free() -> None:
    """A probe that ended of a full disk, say, must not be waited for for ever."""
    site = dead(600)
    assert site.gate.left(site.enter(), StorageError("disk full")) is False
    assert site.enter().probe


def test_a_pause_is_obeyed_by_probes() -> None:
    """An origin under repair that asks for 20 seconds is not probed before."""
    site = dead(600)
    assert site.gate.left(site.enter(), busy(20, 503))
    assert site.enter().waited_seconds >= 20


def test_an_answer_after_giving_up_changes_nothing() -> None:
    """The run is ending: who still waits is not let in."""
    site = Site()
    slow = site.enter()
    site.ends(*[REFUSED] * 30)
    assert site.gate.left(slow, None) is False

    def stopped(_seconds: float) -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        site.gate.enter(stopped)
    assert site.told == [("down", "connection")]


def spent(site: Site) -> int:
    """Count the retries that are left."""
    count = 0
    while site.gate.may_retry():
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


def test_successes_are_not_saved_up() -> None:
    """After a million files a run has no more retries than at its beginning."""
    site = Site()
    site.ends(*[None] * 1000)
    assert spent(site) == 50


@pytest.mark.parametrize("act", [lambda gate: gate.left(gate.enter(lambda _: None), REFUSED), Gate.may_retry])
def test_nobody_has_to_listen(act: Callable[[Gate], object]) -> None:
    """A gate that nobody is told of gives up an origin, and runs out of retries, all the same."""
    gate = Gate(patience=0)
    for _ in range(20):
        act(gate)
    assert [gate.may_retry() for _ in range(51)][-1] is False
