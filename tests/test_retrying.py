"""Retries: which failures are tried again, the back-off between attempts, and when to stop."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from threading import Barrier, Thread
from time import monotonic

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from job.client import SecretHeaders, retry_after_seconds
from job.errors import (
    AttemptError,
    Cancelled,
    ContentError,
    HttpError,
    NetworkError,
    NotFoundError,
    Reason,
    RedirectError,
    StorageError,
)
from job.model import NotModified, Reply, WorkItem
from job.resilience import MAX_RETRY_AFTER_SECONDS, Authorized, ItemRequest, RetryEvent, Retrying, RetryPolicy
from job.resilience.circuit_breaker import probe_wait_seconds

BOUND = 20
NOW = datetime(2024, 2, 29, 12, 0, 0, tzinfo=UTC)
TIMEOUT = NetworkError(Reason.TIMEOUT, "silence")
DNS = NetworkError(Reason.DNS, "no such name")


def busy(seconds: float | None) -> HttpError:
    return HttpError(503, "HTTP error 503 - Busy", seconds)


ITEM = WorkItem("BR", "http://localhost/br.gif", "br.gif")


class ScriptedSource:
    """A source whose attempts end as scripted, the last outcome repeated, and a record of its calls."""

    def __init__(self, *outcomes: BaseException | str) -> None:
        self._outcomes = outcomes
        self.attempts = 0
        self.slept: list[float] = []
        self.retries: list[RetryEvent] = []

    def get(self, request: ItemRequest) -> NotModified:
        outcome = self._outcomes[min(self.attempts, len(self._outcomes) - 1)]
        self.attempts += 1
        request.attempts += 1
        if isinstance(outcome, BaseException):
            raise outcome
        return NotModified(etag=outcome)

    def run(
        self,
        attempts: int = 4,
        item_timeout: float = 1e6,
        sleep: Callable[[float], None] | None = None,
        **policy: float,
    ) -> str:
        return self.run_with(
            RetryPolicy(attempts, item_timeout, **policy), sleep=sleep or self.slept.append, may_retry=lambda _: True
        )

    def run_with(
        self, policy: RetryPolicy, *, sleep: Callable[[float], None], may_retry: Callable[[AttemptError], bool]
    ) -> str:
        def on_retry(code: str, event: RetryEvent) -> None:
            assert code == "BR"
            self.retries.append(event)

        retrying = Retrying(self, policy, sleep=sleep, may_retry=may_retry, on_retry=on_retry)
        reply = retrying.get(ItemRequest(ITEM))
        assert isinstance(reply, NotModified)
        return reply.etag or ""

    def failure(self, attempts: int = 4, item_timeout: float = 1e6) -> BaseException:
        with pytest.raises((AttemptError, StorageError, Cancelled, ValueError, KeyboardInterrupt)) as caught:
            self.run(attempts, item_timeout)
        return caught.value


def test_a_success_is_not_retried() -> None:
    """A successful attempt is the only one."""
    calls = ScriptedSource("file")
    assert calls.run() == "file"
    assert (calls.attempts, calls.slept, calls.retries) == (1, [], [])


def test_attempts_before_an_item_was_put_back_count() -> None:
    """Two attempts were made before the item came again, so one of three is left."""
    calls = ScriptedSource(TIMEOUT)
    retrying = Retrying(
        calls,
        RetryPolicy(3, 1e6),
        sleep=calls.slept.append,
        may_retry=lambda _: True,
        on_retry=lambda _, event: calls.retries.append(event),
    )
    with pytest.raises(NetworkError):
        retrying.get(ItemRequest(ITEM, spent_attempts=2))
    assert (calls.attempts, calls.retries) == (1, [])


def test_a_success_after_failures_is_returned() -> None:
    """Two retryable failures cost two waits, and the third attempt's answer is returned."""
    calls = ScriptedSource(TIMEOUT, busy(None), "file")
    assert calls.run() == "file"
    assert (calls.attempts, len(calls.slept)) == (3, 2)


@pytest.mark.parametrize("attempts", [1, 2, 4, 100])
def test_attempts_end_at_the_maximum(attempts: int) -> None:
    """There are as many attempts as the policy allows, and the last error is raised."""
    last = busy(None)
    calls = ScriptedSource(*[TIMEOUT] * (attempts - 1), last)
    assert calls.failure(attempts) is last
    assert (calls.attempts, len(calls.slept), len(calls.retries)) == (attempts, attempts - 1, attempts - 1)


@pytest.mark.parametrize(
    "error",
    [
        NetworkError(Reason.TLS, "expired"),
        NetworkError(Reason.PROTOCOL, "not HTTP"),
        NotFoundError(404, "HTTP error 404 - Not Found"),
        HttpError(403, "HTTP error 403 - Forbidden"),
        HttpError(501, "HTTP error 501 - Not Implemented"),
        RedirectError(Reason.REDIRECT_REFUSED, "elsewhere"),
        ContentError(Reason.TOO_LARGE, "too much"),
        ContentError(Reason.UNEXPECTED_ENCODING, "gzip"),
        StorageError("full"),
        Cancelled(Reason.SIGNAL),
        ValueError("a bug"),
        KeyboardInterrupt(),
    ],
    ids=repr,
)
def test_a_permanent_failure_is_not_retried(error: BaseException) -> None:
    """Permanent failures, a full disk, a cancellation and bugs are raised at once, unchanged."""
    calls = ScriptedSource(error, "file")
    assert calls.failure() is error
    assert (calls.attempts, calls.slept, calls.retries) == (1, [], [])


@pytest.mark.parametrize(
    "error",
    [
        TIMEOUT,
        NetworkError(Reason.CONNECTION, "reset"),
        NetworkError(Reason.PROXY, "refused"),
        HttpError(429, "HTTP error 429 - Slow Down"),
        HttpError(599, "HTTP error 599 - Odd"),
        HttpError(501, "HTTP error 501 - Not Implemented", 1.0),
        ContentError(Reason.TRUNCATED, "half"),
        ContentError(Reason.EMPTY, "nothing"),
        ContentError(Reason.BAD_CONTENT, "a page"),
    ],
    ids=repr,
)
def test_a_retryable_failure_is_retried(error: AttemptError) -> None:
    """Time-outs, broken connections, busy servers and invalid bodies are tried again."""
    calls = ScriptedSource(error, "file")
    assert calls.run() == "file"
    assert calls.attempts == 2


def test_the_back_off_grows_with_full_jitter() -> None:
    """The wait after attempt n is drawn from 0 to 0.5 * 2 ** (n - 1) seconds, 10 s at most."""
    draws: dict[int, list[float]] = {}
    for _ in range(400):
        calls = ScriptedSource(TIMEOUT)
        calls.failure(attempts=9)
        for event in calls.retries:
            draws.setdefault(event.attempt, []).append(event.wait_seconds)
    bounds = {attempt: min(0.5 * 2 ** (attempt - 1), 10) for attempt in range(1, 9)}
    assert draws.keys() == bounds.keys()
    assert [a for a, waits in draws.items() if min(waits) < 0 or max(waits) > bounds[a]] == []
    assert [a for a, waits in draws.items() if min(waits) > 0.05 * bounds[a] or max(waits) < 0.95 * bounds[a]] == []


@pytest.mark.parametrize("retry_after", [0.0, 7.0, MAX_RETRY_AFTER_SECONDS])
def test_a_retry_after_is_obeyed_with_jitter(retry_after: float) -> None:
    """After a Retry-After the wait is that time plus up to one second of jitter."""
    waits = []
    for _ in range(100):
        calls = ScriptedSource(busy(retry_after), "file")
        calls.run()
        waits += calls.slept
    assert retry_after <= min(waits) < retry_after + 0.25
    assert retry_after + 0.75 < max(waits) <= retry_after + 1


@pytest.mark.parametrize("retry_after", [60.001, 3600.0, 1e9])
def test_a_retry_after_of_over_a_minute_ends_the_item(retry_after: float) -> None:
    """A Retry-After of more than a minute ends the item after one request, as a retryable failure."""
    calls = ScriptedSource(busy(retry_after), "file")
    error = calls.failure()
    assert (calls.attempts, calls.slept) == (1, [])
    assert isinstance(error, HttpError)
    assert error.failure.retryable


@pytest.mark.parametrize(("item_timeout", "attempts"), [(60.0, 1), (59.0, 1), (120.0, 2)])
def test_no_wait_exceeds_the_time_of_the_item(item_timeout: float, attempts: int) -> None:
    """A wait that would end after the item's time-out is not begun: the item fails at once."""
    calls = ScriptedSource(busy(60.0), "file")
    outcome = calls.run(item_timeout=item_timeout) if attempts > 1 else calls.failure(item_timeout=item_timeout)
    assert (calls.attempts, len(calls.slept), len(calls.retries)) == (attempts, attempts - 1, attempts - 1)
    assert isinstance(outcome, HttpError) == (attempts == 1)


def test_a_name_is_looked_up_twice() -> None:
    """A host name that does not resolve is looked up twice, however many attempts are allowed."""
    calls = ScriptedSource(DNS, DNS, "file")
    assert calls.failure() is DNS
    assert calls.attempts == 2


def test_a_name_that_resolves_late_has_all_attempts() -> None:
    """A failed look-up does not reduce the attempts that other failures may use."""
    calls = ScriptedSource(DNS, TIMEOUT, TIMEOUT, "file")
    assert calls.run() == "file"
    assert calls.attempts == 4


def test_a_cancelled_wait_ends_the_retries() -> None:
    """A cancellation during a wait is raised unchanged, and no further attempt is made."""
    calls = ScriptedSource(TIMEOUT, "file")
    cancelled = Cancelled(Reason.SIGNAL)

    def sleep(_seconds: float) -> None:
        raise cancelled

    with pytest.raises(Cancelled) as caught:
        calls.run(sleep=sleep)
    assert caught.value is cancelled
    assert calls.attempts == 1


def test_a_retry_is_reported_before_its_wait() -> None:
    """Each retry is reported before its wait, with the attempt, its error and the seconds to wait."""
    first, second = busy(3.0), NetworkError(Reason.CONNECTION, "reset")
    calls = ScriptedSource(first, second, "file")
    reported_before: list[int] = []

    def sleep(seconds: float) -> None:
        reported_before.append(len(calls.retries))
        calls.slept.append(seconds)

    calls.run(sleep=sleep)
    assert calls.retries == [RetryEvent(1, 4, calls.slept[0], first), RetryEvent(2, 4, calls.slept[1], second)]
    assert reported_before == [1, 2]


def test_threads_count_their_attempts_separately() -> None:
    """Attempts are counted for each item separately, however many threads retry at the same time."""
    together = Barrier(8)
    items = [ScriptedSource(TIMEOUT) for _ in range(8)]

    def work(calls: ScriptedSource) -> None:
        for _ in range(50):
            together.wait(BOUND)
            calls.attempts = 0
            calls.failure()

    threads = [Thread(target=work, args=(calls,)) for calls in items]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(BOUND)
    assert [[event.attempt for event in calls.retries] for calls in items] == [[1, 2, 3] * 50] * 8


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0.0),
        ("7", 7.0),
        (" 120 ", 120.0),
        ("0000000000000060", 60.0),
        ("31622400", 31622400.0),
        ("Thu, 29 Feb 2024 12:00:30 GMT", 30.0),
        ("Thursday, 29-Feb-24 12:01:00 GMT", 60.0),
        ("Thu Feb 29 12:02:00 2024", 120.0),
        ("Thu, 29 Feb 2024 13:00:30 +0100", 30.0),
        ("Thu, 29 Feb 2024 12:00:00 GMT", 0.0),
        ("Thu, 29 Feb 2024 11:59:59 GMT", 0.0),
        ("Sun Nov  6 08:49:37 1994", 0.0),
        ("Sunday, 06-Nov-94 08:49:37 GMT", 0.0),
        ("Mon, 01 Jan 0001 00:00:00 +2359", 0.0),
    ],
)
def test_a_valid_retry_after_is_parsed(value: str, seconds: float) -> None:
    """A Retry-After is whole seconds or a date in one of HTTP's three forms; a past date is 0."""
    assert retry_after_seconds(value, NOW) == seconds


@pytest.mark.parametrize(
    "value",
    [
        None,
        "",
        " ",
        "abc",
        "3.5",
        "-1",
        "+7",
        "1e3",
        "0x10",
        "7 s",
        "7, 8",
        "nan",
        "inf",
        "1_0",
        "2024-02-29T12:00:30Z",
        "2024-02-29 12:00:30",
        "Fri, 31 Dec 9999 23:59:59 GMT",
        "Thu, 29 Feb 2024 25:00:00 GMT",
        "Fri, 30 Feb 2024 12:00:00 GMT",
        "Mon, 01 Jan 99999999999999 00:00:00 GMT",
        "Mon, 99999999999999999999 Jan 2024 00:00:00 GMT",
        "Mon, 01 Jan 2024 00:00:00 +99999999999999999999",
        "Mon, 01 Jan 2024 00:00:00 +9900",
        "\u0667",
        "\u00b2",
        "\uff17",
        "31622401",
        "9" * 400,
        "9" * 100_000,
    ],
    ids=lambda value: repr(value)[:40],
)
def test_an_invalid_retry_after_is_ignored(value: str | None) -> None:
    """An invalid or absurdly long Retry-After is None, without an exception."""
    assert retry_after_seconds(value, NOW) is None


DATES = "Mon Mon, Sunday, 1 31 -1 Jan feb 06-Nov-94 --- 24 1994 9999 0 08:49:37 8:49 8.49 99:99:99 : , GMT EST"
ZONES = "+0100 -0000 +99999999999 99999999999"
WORDS = st.sampled_from([*DATES.split(), *ZONES.split()])


@settings(deadline=None, max_examples=500)
@given(st.text() | st.lists(WORDS, max_size=7).map(" ".join))
@example("Mon, 01 Jan 0001 00:00:00 +2359")
def test_any_retry_after_is_bounded(value: str) -> None:
    """Any header value yields None or a number of seconds between 0 and a year."""
    seconds = retry_after_seconds(value, NOW)
    assert seconds is None or 0 <= seconds <= 366 * 86400


@settings(deadline=None)
@given(st.integers(0, 366 * 86400 - 1))
def test_a_date_equals_its_seconds(seconds: int) -> None:
    """A Retry-After as a date within a year yields the same seconds as a number."""
    date = format_datetime(NOW + timedelta(seconds=seconds), usegmt=True)
    assert retry_after_seconds(date, NOW) == retry_after_seconds(str(seconds), NOW) == seconds


def test_the_retry_budget_is_used_once_for_each_retry() -> None:
    """A failure that is not retried for another reason uses nothing of the run's retry budget."""
    budget_calls: list[None] = []

    def may_retry(_error: AttemptError) -> bool:
        budget_calls.append(None)
        return len(budget_calls) < 3

    for calls, attempts in ((ScriptedSource(NotFoundError(404, "no")), 4), (ScriptedSource(TIMEOUT), 1)):
        with pytest.raises(AttemptError):
            calls.run_with(RetryPolicy(attempts, 1e6), sleep=calls.slept.append, may_retry=may_retry)
    assert budget_calls == []
    calls = ScriptedSource(TIMEOUT)
    with pytest.raises(NetworkError):
        calls.run_with(RetryPolicy(9, 1e6), sleep=calls.slept.append, may_retry=may_retry)
    assert (calls.attempts, len(budget_calls)) == (3, 3)


def test_no_wait_exceeds_the_time_of_the_run() -> None:
    """A wait that would end after the run's deadline is not begun, and the item keeps its own reason."""
    calls = ScriptedSource(busy(1.0))
    with pytest.raises(HttpError):
        calls.run(ends_at=monotonic() + 0.5)
    assert (calls.attempts, calls.slept) == (1, [])


def test_throttled_time_is_not_the_items() -> None:
    """Seconds spent waiting for a permit do not count against the item's time-out."""

    class ThrottledSource(ScriptedSource):
        def get(self, request: ItemRequest) -> NotModified:
            request.throttled_seconds += 1000.0
            return super().get(request)

    assert ThrottledSource(busy(59.0), "file").run(item_timeout=60.0) == "file"


def test_probes_back_off_exponentially() -> None:
    """The wait before a probe doubles from 1 s, with up to 1 s of jitter, and is 30 s at most."""
    waits = [probe_wait_seconds(probe) for probe in range(1, 40)]
    assert all(2 ** (n - 1) <= wait <= 2 ** (n - 1) + 1 for n, wait in enumerate(waits[:5], 1))
    assert all(wait <= 30 for wait in waits)


# Refusals


class Origin:
    """A source that refuses some items, and from a request on all of them; its parts are those of one run."""

    def __init__(self, refuses: Callable[[str, int], BaseException | None], reread: list[str] | None = None) -> None:
        """Take what it answers to the item of a code at the n-th request: an error, or None for the file."""
        self._refuses = refuses
        self.asked: list[str] = []
        self.conditions: list[str | None] = []
        self.ends: list[tuple[str, int]] = []
        self.retries: list[RetryEvent] = []
        values = list(reread or [])
        headers = SecretHeaders({"X": "old"}, lambda: {"X": values.pop(0)} if values else None, {})
        self.authorized = Authorized(
            self,
            headers,
            policy=RetryPolicy(1, 1e6),
            on_retry=lambda _, event: self.retries.append(event),
            on_all_refused=lambda reason, number: self.ends.append((reason, number)),
        )

    def get(self, request: ItemRequest) -> Reply | NotModified:
        self.asked.append(request.item.code)
        self.conditions.append(request.validators.etag if request.validators else None)
        request.attempts += 1
        error = self._refuses(request.item.code, len(self.asked))
        if error:
            raise error
        return NotModified()

    def run(self, codes: list[str]) -> list[AttemptError | None]:
        """Return how each item ends."""
        return [self.outcome(code) for code in codes]

    def outcome(self, code: str) -> AttemptError | None:
        try:
            self.authorized.get(ItemRequest(WorkItem(code, "u", "f")))
        except AttemptError as error:
            return error
        return None


def refusal(status: int = 401) -> HttpError:
    return HttpError(status, f"HTTP error {status}")


@settings(deadline=None)
@given(st.sets(st.integers(0, 400)), st.none() | st.integers(1, 200))
@example(set(range(100, 400)), None)
@example(set(range(30)), 1)
def test_only_an_origin_that_refuses_what_it_gave_ends_the_run(own: set[int], expires_at: int | None) -> None:
    """Whatever items are refused by themselves, the run ends if the token expires, after 100 more, and only then."""
    expired = False

    def refuses(code: str, _: int) -> BaseException | None:
        return refusal(403) if expired or int(code) in own else None

    origin = Origin(refuses)
    before = list(range(400 if expires_at is None else expires_at))
    origin.run([str(code) for code in before])
    assert origin.ends == []
    accepted = set(before) - own
    expired = True
    after = origin.run([str(code) for code in range(1000, 1200)])
    assert len(origin.ends) == (1 if accepted else 0)
    assert all(isinstance(error, HttpError) for error in after)
    assert after[-1] is not None
    assert after[-1].failure.retryable is bool(accepted)
    assert len(origin.asked) <= len(before) + len(after) + 2 + len(own) // 100 + 2


def test_the_witness_is_asked_for_without_its_body() -> None:
    """At the first refusal the last accepted item is asked for; the condition holds for whatever file it is."""
    origin = Origin(lambda code, _: refusal() if code == "c" else None)
    origin.run(["a", "b", "c", "d"])
    assert (origin.asked, origin.conditions) == (["a", "b", "c", "b", "d"], [None, None, None, "*", None])


def test_a_witness_that_fails_in_another_way_shows_nothing() -> None:
    """A witness that is missing, or gets no answer, does not make refusals retryable."""
    for other in (NotFoundError(404, "gone"), TIMEOUT, refusal(403)):
        origin = Origin(lambda code, n, other=other: None if n == 1 else other if code == "a" else refusal())  # type: ignore[misc]
        outcomes = origin.run(["a", *map(str, range(150))])
        assert [error.failure.retryable for error in outcomes if error] == [False] * 150
        assert origin.ends == []


@pytest.mark.parametrize(
    "error",
    [NotFoundError(404, "gone"), TIMEOUT, busy(None), HttpError(403, "wait", 5), StorageError("full")],
)
def test_other_failures_are_no_refusals(error: BaseException) -> None:
    """Missing files, an origin in trouble, pauses that it asks for and failures of this machine count for nothing."""
    origin = Origin(lambda code, _: None if code == "a" else error, ["new"])
    origin.run(["a"])
    for _ in range(120):
        with pytest.raises(type(error)):
            origin.authorized.get(ItemRequest(ITEM))
    assert (origin.ends, origin.retries, len(origin.asked)) == ([], [], 121)


@pytest.mark.parametrize(("of_witness", "asked"), [(refusal(), list("abaxcx")), (None, list("abaxc"))])
def test_a_row_ends_where_something_is_accepted_meanwhile(of_witness: HttpError | None, asked: list[str]) -> None:
    """An item that is accepted while the witness is asked for begins another row: what that shows is no news."""

    def refuses(code: str, number: int) -> BaseException | None:
        if number == 3:
            origin.run(["x"])
            return of_witness
        return None if code in {"a", "x"} else refusal()

    origin = Origin(refuses)
    outcomes = origin.run(["a", "b", "c"])
    assert origin.asked == asked
    assert [error and error.failure.retryable for error in outcomes] == [None, False, False]


def test_a_refused_item_is_tried_again_once_for_new_headers() -> None:
    """Other headers are worth one more try, which is no attempt of the item's own, however often they change."""
    origin = Origin(lambda _, n: None if n == 2 else refusal(), ["new", "newer", "newest"])
    assert origin.run(["a", "b"])[0] is None
    assert (origin.asked, len(origin.retries)) == (["a", "a", "b", "b", "a"], 2)
    event = origin.retries[0]
    assert (event.attempt, event.max_attempts, event.wait_seconds, event.ignored) == (1, 2, 0.0, True)


def test_a_failure_after_new_headers_is_the_items_own() -> None:
    """What fails with new headers, and is no refusal, is raised as it is."""
    origin = Origin(lambda _, n: refusal() if n == 1 else TIMEOUT, ["new"])
    assert origin.outcome("a") is TIMEOUT
