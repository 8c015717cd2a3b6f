"""One item: whatever happens to it, it ends as exactly one Result."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, cast

import pytest
from bodies import MemoryBody
from images import GIF, HTML
from throttling import enter

from job.body import Body
from job.cancellation import Cancellation
from job.downloader import Downloader
from job.errors import (
    ContentError,
    HttpError,
    LogError,
    NetworkError,
    NotFoundError,
    Outcome,
    PathError,
    Reason,
    StorageError,
)
from job.model import (
    Entry,
    FileType,
    InvalidItem,
    NotModified,
    Refresh,
    Reply,
    Result,
    Status,
    Stored,
    Validators,
    WorkItem,
)
from job.resilience import (
    Measured,
    Permit,
    RetryEvent,
    Retrying,
    RetryPolicy,
    Throttle,
    Throttled,
    ThrottleEvents,
    ThrottleLimits,
    Validated,
)
from job.revalidation import RevalidationPolicy

if TYPE_CHECKING:
    from job.client import Client
    from job.manifest import Manifest

BR = WorkItem("BR", "http://localhost/br.gif", "br.gif", speculative=True)


@dataclass
class Script:
    """An origin, a storage, a manifest and three callbacks: what they return, and what they were called with."""

    replies: Sequence[bytes | Exception | NotModified] = (GIF,)
    etag: str | None = None
    redirected_to: str | None = None
    entry: Entry | None = None
    version: str = "v1"
    asked: list[Validators | None] = field(default_factory=list)
    refusal: Exception | None = None
    on_get: Callable[[], None] = lambda: None
    bodies: list[MemoryBody] = field(default_factory=list)
    published: dict[str, bytes] = field(default_factory=dict)
    sent: int = 0
    attempts: list[tuple[Outcome, int]] = field(default_factory=list)
    retries: list[tuple[str, int, str]] = field(default_factory=list)
    bugs: list[tuple[str, str]] = field(default_factory=list)

    def get(self, url: str, validators: Validators | None) -> Reply | NotModified:
        assert url == BR.url
        self.asked.append(validators)
        self.on_get()
        reply = self.replies[min(self.sent, len(self.replies) - 1)]
        self.sent += 1
        if isinstance(reply, Exception):
            raise reply
        if isinstance(reply, NotModified):
            return reply
        self.bodies.append(MemoryBody(reply))
        return Reply(self.bodies[-1], etag=self.etag, redirected_to=self.redirected_to)

    def is_intact(self, stored: Stored) -> bool:
        return stored.version == self.version

    def find(self, code: str) -> Entry | None:
        assert code
        return self.entry

    def recorded_url(self, url: str) -> str:
        return url.removeprefix("http://localhost")

    def publish(self, body: Body, file: str, media_type: str | None) -> str:
        assert media_type == "image/gif"
        if self.refusal:
            raise self.refusal
        self.published[file] = body.read()
        return "v1"

    def open(self) -> None: ...

    def sync(self) -> None: ...

    def new_body(self) -> MemoryBody:
        return MemoryBody()

    def attempt(self, outcome: Outcome, seconds: float, received_bytes: int) -> None:
        assert seconds >= 0
        self.attempts.append((outcome, received_bytes))

    def retry(self, code: str, retry: RetryEvent) -> None:
        self.retries.append((code, retry.attempt, retry.error.failure.reason))

    def bug(self, code: str, error: Exception) -> None:
        self.bugs.append((code, repr(error)))


class Unhurried(Cancellation):
    """A stop whose waits are over at once."""

    def sleep(self, seconds: float) -> None:
        super().sleep(0 * seconds)


POLICY = RetryPolicy(max_attempts=3, item_timeout_seconds=60)


def downloader(  # noqa: PLR0913  (what a test may choose, by name)
    script: Script,
    cancellation: Cancellation | None = None,
    throttle: Throttle | None = None,
    *,
    digests: dict[str, str] | None = None,
    revalidation: RevalidationPolicy | None = None,
    policy: RetryPolicy = POLICY,
) -> Callable[[WorkItem | InvalidItem], Result]:
    """Return the `download` of the parts, wired as a run wires them."""
    return wired(script, cancellation, throttle, digests=digests, revalidation=revalidation, policy=policy).download


def wired(  # noqa: PLR0913  (the same)
    script: Script,
    cancellation: Cancellation | None = None,
    throttle: Throttle | None = None,
    *,
    digests: dict[str, str] | None = None,
    revalidation: RevalidationPolicy | None = None,
    policy: RetryPolicy = POLICY,
) -> Downloader:
    cancellation = cancellation or Unhurried()
    throttle = throttle or Throttle(ThrottleLimits())
    validated = Validated(cast("Client", script), (FileType.GIF,), digests or {})
    measured = Measured(validated, script.attempt)
    throttled = Throttled(measured, throttle, policy=policy, cancellation=cancellation, on_retry=script.retry)
    retrying = Retrying(
        throttled, policy, sleep=cancellation.sleep, may_retry=throttle.may_retry, on_retry=script.retry
    )
    return Downloader(
        source=retrying,
        storage=script,
        manifest=cast("Manifest", script),
        expected_digests=digests or {},
        policy=revalidation or RevalidationPolicy(),
        cancellation=cancellation,
        on_bug=script.bug,
    )


def test_a_good_answer_becomes_a_file() -> None:
    """One attempt, one file, and a Result that says where it is and what it holds."""
    script = Script()
    result = downloader(script)(BR)
    assert (result.status, result.code, result.url, result.reason) == (Status.OK, "BR", BR.url, None)
    assert result.data == Stored("br.gif", len(GIF), MemoryBody(GIF).sha256, "image/gif", version="v1")
    assert (result.http_status, result.attempts, result.speculative) == (200, 1, True)
    assert script.published == {"br.gif": GIF}
    assert script.attempts == [(Outcome.OK, len(GIF))]
    assert script.bodies[0].closed


def test_a_passing_failure_is_tried_again() -> None:
    """Two failures that pass cost two retries, and the third attempt's file counts."""
    script = Script([HttpError(503, "busy"), HTML, GIF])
    result = downloader(script)(BR)
    assert (result.status, result.attempts) == (Status.OK, 3)
    assert script.retries == [("BR", 1, "http_503"), ("BR", 2, "bad_content")]
    assert script.attempts == [("5xx", 0), ("invalid", len(HTML)), ("2xx", len(GIF))]


def test_the_last_failure_is_told() -> None:
    """When the attempts are used up, the Result says why, and that a later run may heal it."""
    script = Script([HTML])
    result = downloader(script)(BR)
    assert (result.status, result.data, result.reason) == (Status.ERROR, None, "bad_content")
    assert (result.retryable, result.http_status, result.attempts) == (True, 200, 3)
    assert result.error == "the body is of no known type, not gif"
    assert script.published == {}
    assert all(body.closed for body in script.bodies)


def test_an_answer_counts_although_the_last_attempt_got_none() -> None:
    """An origin that was busy and then silent is not down: it answered."""
    silent = NetworkError(Reason.TIMEOUT, "silence")
    mixed, never = downloader(Script([HttpError(503, "busy"), silent]))(BR), downloader(Script([silent]))(BR)
    assert (mixed.http_status, mixed.answered, mixed.reason) == (None, True, "timeout")
    assert (never.http_status, never.answered, never.reason) == (None, False, "timeout")


def test_a_missing_file_is_asked_for_once() -> None:
    """404 is an answer, not a failure to try again."""
    script = Script([NotFoundError(404, "HTTP error 404 - Not Found")])
    result = downloader(script)(BR)
    assert (result.status, result.reason, result.http_status) == (Status.NOT_FOUND, "http_404", 404)
    assert (result.attempts, result.retryable, len(script.attempts)) == (1, False, 1)


def test_a_failure_that_no_retry_heals_is_tried_once() -> None:
    """A file beyond the cap stays beyond it."""
    result = downloader(Script([ContentError(Reason.TOO_LARGE, "too large")]))(BR)
    assert (result.status, result.reason, result.retryable) == (Status.ERROR, "too_large", False)
    assert result.attempts == 1


def test_an_invalid_code_sends_no_request() -> None:
    """What is no code ends as an error without an attempt."""
    script = Script()
    result = downloader(script)(InvalidItem("../../etc/passwd"))
    assert (result.status, result.code, result.reason) == (Status.ERROR, "../../etc/passwd", "invalid_code")
    assert (result.attempts, result.url, result.retryable, script.attempts) == (0, None, False, [])


def test_a_full_disk_ends_the_run() -> None:
    """Where the destination fails no other item would fare better: the run is stopped, and nothing is tried again."""
    script, cancellation = Script(refusal=StorageError("/data: No space left on device")), Cancellation()
    result = downloader(script, cancellation)(BR)
    assert (result.status, result.reason, result.attempts) == (Status.ERROR, "storage", 1)
    assert result.error == "/data: No space left on device"
    assert cancellation.reason is Reason.STORAGE
    assert script.bodies[0].closed


def test_what_is_in_the_way_of_one_file_does_not_end_the_run() -> None:
    """A directory of the file's name is that item's error only."""
    cancellation = Cancellation()
    result = downloader(Script(refusal=PathError("/data/br.gif: Is a directory")), cancellation)(BR)
    assert (result.status, result.reason) == (Status.ERROR, "storage")
    assert cancellation.reason is None


def test_a_bug_costs_one_item() -> None:
    """An exception that nobody foresaw is told as a bug, and the Result still comes."""
    script = Script([ZeroDivisionError("oops")])
    result = downloader(script)(BR)
    assert (result.status, result.reason, result.retryable) == (Status.ERROR, "internal", False)
    assert result.error == "ZeroDivisionError: oops"
    assert script.bugs == [("BR", "ZeroDivisionError('oops')")]
    assert script.attempts == [("invalid", 0)]


def test_after_a_stop_nothing_is_attempted() -> None:
    """An item that begins after the stop is cancelled, without a request."""
    script, cancellation = Script(), Cancellation()
    cancellation.request(Reason.SIGNAL)
    result = downloader(script, cancellation)(BR)
    assert (result.status, result.reason, result.attempts) == (Status.CANCELLED, "signal", 0)
    assert script.attempts == []


def test_a_transfer_that_the_stop_breaks_is_cancelled() -> None:
    """A connection that fails because the run ends is no error of the origin's, and is not tried again."""
    cancellation = Cancellation()
    script = Script(
        [NetworkError(Reason.CONNECTION, "shut down")], on_get=lambda: cancellation.request(Reason.DEADLINE)
    )
    result = downloader(script, cancellation)(BR)
    assert (result.status, result.reason, result.attempts) == (Status.CANCELLED, "deadline", 1)
    assert script.retries == []


def test_a_wait_between_tries_ends_with_the_run() -> None:
    """A stop during the wait cancels the item at once, however long the wait would be."""
    cancellation = Cancellation()
    script = Script([HttpError(503, "busy", retry_after=50)], on_get=lambda: cancellation.request(Reason.SIGNAL))
    result = downloader(script, cancellation)(BR)
    assert (result.status, result.attempts) == (Status.CANCELLED, 1)
    assert script.retries == [("BR", 1, "http_503")]


def test_every_attempt_passes_the_throttle_on_the_runs_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pace of all threads holds for retries too, and what it costs is not taken from the item's time."""
    now = itertools.count(step=1000)

    class Slow(Throttle):
        permits = 0

        def acquire(self, permit: Permit) -> float:
            self.permits += 1
            return super().acquire(permit)

    throttle = Slow(ThrottleLimits())
    with monkeypatch.context() as patch:
        patch.setattr("job.resilience.throttle.monotonic", lambda: float(next(now)))  # far more than 60 seconds a wait
        result = downloader(Script([HTML, HTML, GIF]), throttle=throttle)(BR)
    assert (result.status, result.attempts, throttle.permits) == (Status.OK, 3, 3)


def test_an_item_that_failed_while_others_were_answered_is_in_doubt() -> None:
    """The gate is told so at each further attempt, and not before."""
    doubts: list[bool] = []

    class Busy(Throttle):
        def acquire(self, permit: Permit) -> float:
            if permit.item:
                doubts.append(permit.fails_while_others_succeed)
            return super().acquire(permit)

        def release(self, permit: Permit, error: BaseException | None) -> bool:
            if len(doubts) == 2:
                super().release(enter(self, lambda _: None), None)
            return super().release(permit, error)

    refused = NetworkError(Reason.CONNECTION, "refused")
    result = downloader(Script([refused, refused, GIF]), throttle=Busy(ThrottleLimits()))(BR)
    assert (result.status, doubts) == (Status.OK, [False, False, True])


def leaping(limits: ThrottleLimits) -> Throttle:
    """Give a gate whose clock leaps on by ten seconds each time that it is looked at: every pause is over."""
    times = itertools.count(step=10)
    return Throttle(limits, clock=lambda: float(next(times)))


def test_an_answer_that_asks_all_to_wait_costs_no_attempt() -> None:
    """Three attempts, and five times 429 with Retry-After before: the file arrives all the same."""
    script = Script([*[HttpError(429, "slow down", retry_after=1)] * 5, HTML, HTML, GIF])
    result = downloader(script, throttle=leaping(ThrottleLimits(max_pauses_seconds=1e6)))(BR)
    assert (result.status, result.attempts) == (Status.OK, 8)


def test_an_item_that_alone_is_refused_while_others_are_answered_ends() -> None:
    """It holds up all others each time: as many excuses as it has attempts, and then its attempts count."""
    throttle = leaping(ThrottleLimits())

    def others_are_answered() -> None:
        throttle.release(enter(throttle, lambda _: None), None)

    script = Script([HttpError(429, "slow down", retry_after=1)], on_get=others_are_answered)
    result = downloader(script, throttle=throttle)(BR)
    assert (result.status, result.reason, result.attempts) == (Status.ERROR, "http_429", 6)


def test_an_item_that_was_refused_for_longer_than_its_time_ends() -> None:
    """From then on its attempts count; whether the origin is away is another question."""
    script = Script([HttpError(429, "slow down", retry_after=1)])
    policy = RetryPolicy(3, 60, patience_seconds=0.0)
    result = downloader(script, throttle=leaping(ThrottleLimits(max_pauses_seconds=1e6)), policy=policy)(BR)
    assert (result.status, result.reason, result.retryable) == (Status.ERROR, "http_429", True)
    assert result.attempts == 4  # the first refusal was excused


def test_a_retry_that_worked_is_given_back_to_the_run() -> None:
    """With one retry left an item fails once, and then its file comes: the next item may fail once, too."""
    page, throttle = ContentError(Reason.BAD_CONTENT, "a page"), Throttle(ThrottleLimits())
    for _ in range(49):
        assert throttle.may_retry(page)
    for _ in range(2):
        assert downloader(Script([HTML, GIF]), throttle=throttle)(BR).status is Status.OK


def test_time_spent_on_excused_attempts_is_not_the_items(monkeypatch: pytest.MonkeyPatch) -> None:
    """A probe that took ten seconds leaves an item of five seconds its own retry. (Only a clock of ours can tell.)."""

    class Ignoring(Throttle):
        def release(self, permit: Permit, error: BaseException | None) -> bool:
            return super().release(permit, None) or isinstance(error, HttpError)

    now = [1000.0]
    script = Script([HttpError(502, "away"), HTML, GIF])
    script.on_get = lambda: now.append(now[-1] + 10 * (not script.attempts))
    download = downloader(script, throttle=Ignoring(ThrottleLimits()), policy=RetryPolicy(3, 5))
    with monkeypatch.context() as patch:
        for module in ("throttle", "retrying"):
            patch.setattr(f"job.resilience.{module}.monotonic", lambda: now[-1])
        result = download(BR)
    assert (result.status, result.attempts) == (Status.OK, 3)


def test_an_ignored_failure_costs_no_attempt_and_no_pause_of_its_own() -> None:
    """Five refusals leave an item its two attempts, are reported as ignored, and make no later back-off longer."""
    busy = HttpError(503, "busy", retry_after=7)
    slept: list[float] = []
    events: list[RetryEvent] = []

    class Noting(Unhurried):
        def sleep(self, seconds: float) -> None:
            slept.append(seconds)

    script = Script([*[busy] * 5, HTML, GIF])
    script.retry = lambda _code, event: events.append(event)  # type: ignore[method-assign,assignment]  # (to see all of it)
    throttle = leaping(ThrottleLimits(max_pauses_seconds=1e6))
    result = downloader(script, Noting(), throttle, policy=RetryPolicy(2, 60))(BR)
    assert (result.status, result.attempts) == (Status.OK, 7)
    assert [(event.attempt, event.max_attempts, event.ignored) for event in events] == [
        *[(n, 2 + n, True) for n in range(1, 6)],
        (6, 7, False),
    ]
    assert [event.wait_seconds for event in events[:5]] == [0.0] * 5
    assert events[5].wait_seconds <= 0.5


def test_an_ignored_failure_outlasts_the_items_time() -> None:
    """An origin that is waited for is no item's fault, however long that takes."""
    script = Script([HttpError(503, "busy", retry_after=7), GIF])
    throttle = leaping(ThrottleLimits(max_pauses_seconds=1e6))
    assert downloader(script, throttle=throttle, policy=RetryPolicy(1, 0.0))(BR).status is Status.OK


def test_an_ignored_failure_that_no_retry_heals_ends_its_item() -> None:
    """A bad certificate stays bad, although the origin is waited for."""

    class Ignoring(Throttle):
        def release(self, permit: Permit, error: BaseException | None) -> bool:
            super().release(permit, error)
            return True

    script = Script([NetworkError(Reason.TLS, "expired")])
    result = downloader(script, throttle=Ignoring(ThrottleLimits()))(BR)
    assert (result.reason, result.attempts) == ("tls", 1)


def test_a_callback_that_fails_leaves_no_body_open() -> None:
    """The log may have no reader any more when the origin is back: the body that came is closed all the same."""

    class Unheard(Throttle):
        def release(self, permit: Permit, error: BaseException | None) -> bool:
            super().release(permit, error)
            raise LogError("gone")

    for reply in (GIF, NotModified()):
        script = Script([reply], entry=KNOWN)
        assert downloader(script, throttle=Unheard(ThrottleLimits()))(BR).reason == "internal"
        assert all(body.closed for body in script.bodies)


def test_a_run_without_retries_left_ends_items_at_their_first_failure() -> None:
    """Where most things fail, trying everything again makes it worse."""
    throttle = Throttle(ThrottleLimits())
    while throttle.may_retry(ContentError(Reason.BAD_CONTENT, "a page")):
        pass
    result = downloader(Script([HTML, GIF]), throttle=throttle)(BR)
    assert (result.status, result.reason, result.attempts) == (Status.ERROR, "bad_content", 1)


def test_an_origin_that_is_not_there_is_noticed() -> None:
    """Twenty items that nobody answers open the breaker; what the last attempt failed of is told with the item."""
    cancellation = Unhurried()
    news = ThrottleEvents(gave_up=lambda _: cancellation.request(Reason.ORIGIN_DOWN))
    script = Script([NetworkError(Reason.CONNECTION, "refused")])
    download = downloader(script, cancellation, Throttle(ThrottleLimits(), news))
    results = [download(replace(BR, code=f"c{number}")) for number in range(10)]
    assert [result.reason for result in results] == ["connection"] * 9 + ["origin_down"]
    assert (results[9].status, results[9].attempts, results[9].error) == (Status.CANCELLED, 1, "refused")


def test_a_bug_teaches_the_gate_nothing() -> None:
    """The gate hears of every end, also of one that nobody foresaw, or a probe would never be over."""
    script, told = Script([ZeroDivisionError("oops")]), []

    class Listening(Throttle):
        def release(self, permit: Permit, error: BaseException | None) -> bool:
            told.append(repr(error))
            return super().release(permit, error)

    downloader(script, throttle=Listening(ThrottleLimits()))(BR)
    assert told == ["ZeroDivisionError('oops')"]


@pytest.mark.parametrize("item", [BR, InvalidItem("cn?x")])
def test_what_was_never_begun_is_cancelled_with_the_cause(item: WorkItem | InvalidItem) -> None:
    """The pool asks how an item ends that no worker took."""
    cancellation = Cancellation()
    cancellation.request(Reason.DEADLINE)
    result = wired(Script(), cancellation).cancelled(item)
    assert (result.status, result.reason, result.code) == (Status.CANCELLED, "deadline", item.code)


STORED = Stored("br.gif", len(GIF), MemoryBody(GIF).sha256, "image/gif", etag='"a"', last_modified="then", version="v1")
KNOWN = Entry("BR", "/br.gif", "br.gif", Status.OK, STORED, "2026-11-22T04:17:00Z", "2026-11-01T04:17:00Z", 1, None)
VALIDATORS = Validators('"a"', "then")


def test_what_is_known_is_asked_for_on_a_condition() -> None:
    """A 304 costs no body, publishes nothing, and renews the validators that it brings."""
    script = Script([NotModified(etag='"b"')], entry=KNOWN)
    result = downloader(script)(BR)
    assert script.asked == [VALIDATORS]
    assert (result.status, result.data) == (Status.UNCHANGED, replace(STORED, etag='"b"'))
    assert (result.http_status, result.attempts, script.published) == (304, 1, {})
    assert script.attempts == [("304", 0)]


@pytest.mark.parametrize(
    "script",
    [
        Script(entry=replace(KNOWN, url="/other.gif")),
        Script(entry=replace(KNOWN, stored=replace(STORED, path="other.gif"))),
        Script(entry=replace(KNOWN, stored=None)),
        Script(entry=KNOWN, version="somebody else's"),
        Script(entry=replace(KNOWN, stored=replace(STORED, etag=None, last_modified=None))),
    ],
    ids=["another URL", "another name", "no file", "a changed file", "no validators"],
)
def test_a_validator_is_only_sent_for_the_same_url_and_an_intact_file(script: Script) -> None:
    """What may have become another file is asked for without a condition."""
    downloader(script)(BR)
    assert script.asked == [None]


def test_the_same_bytes_again_are_unchanged() -> None:
    """A 200 with the digest on record leaves the file alone; the new answer's validators count."""
    script = Script(entry=KNOWN, etag='"c"')
    result = downloader(script)(BR)
    assert (result.status, script.published, script.bodies[0].closed) == (Status.UNCHANGED, {}, True)
    assert result.data == replace(STORED, etag='"c"', last_modified=None)


@pytest.mark.parametrize("body", [GIF, GIF[:-1] + b"\x00;"], ids=["the same bytes", "others"])
def test_validators_are_kept_with_the_url_that_they_are_of(body: bytes) -> None:
    """Where a redirect leads elsewhere than before, or no more, those of the answer belong there."""
    before = replace(KNOWN, stored=replace(STORED, redirected_to="before"))
    for now in ("now", None):
        result = downloader(Script([body], entry=before, etag='"c"', redirected_to=now))(BR)
        assert result.data is not None
        assert (result.data.etag, result.data.redirected_to) == ('"c"', now)


def test_other_bytes_replace_the_file() -> None:
    """A 200 with another digest is published, with its validators."""
    other = GIF[:-1] + b"\x00;"
    script = Script([other], entry=KNOWN, etag='"c"')
    result = downloader(script)(BR)
    assert (result.status, script.published) == (Status.OK, {"br.gif": other})
    assert result.data is not None
    assert (result.data.sha256, result.data.etag) == (MemoryBody(other).sha256, '"c"')


def test_missing_means_that_a_file_that_is_there_is_left_alone() -> None:
    """With refresh=missing only what is not there and whole is asked for."""
    policy = RevalidationPolicy(Refresh.MISSING)
    there, gone = Script(entry=KNOWN), Script(entry=KNOWN, version="other")
    assert (downloader(there, revalidation=policy)(BR).status, there.asked) == (Status.UNCHANGED, [])
    assert (downloader(gone, revalidation=policy)(BR).status, gone.asked) == (Status.OK, [None])


def test_always_means_without_a_condition() -> None:
    """With refresh=always the file is fetched again; the same bytes are still unchanged."""
    script = Script(entry=KNOWN)
    result = downloader(script, revalidation=RevalidationPolicy(Refresh.ALWAYS))(BR)
    assert (result.status, script.asked) == (Status.UNCHANGED, [None])


def test_a_404_is_believed_for_its_time() -> None:
    """Within the time to live a missing file is not asked for again; its file of older days stays known."""
    policy = RevalidationPolicy(not_found_ttl=3600)
    entry = replace(KNOWN, status=Status.NOT_FOUND, reason="http_404", checked_at=datetime.now(UTC).isoformat())
    script = Script(entry=entry)
    result = downloader(script, revalidation=policy)(BR)
    assert (result.status, result.reason, result.attempts) == (Status.NOT_FOUND, "http_404", 0)
    assert script.asked == []


def test_an_expected_digest_is_enforced() -> None:
    """A body with another digest is never stored, and may pass by the next attempt."""
    script = Script()
    result = downloader(script, digests={"br.gif": "0" * 64})(BR)
    assert (result.status, result.reason, result.attempts, script.published) == (Status.ERROR, "checksum", 3, {})


def test_a_file_of_another_digest_than_expected_is_fetched_again() -> None:
    """What is on record does not satisfy a new list of checksums: no condition, no `unchanged`."""
    other = GIF[:-1] + b"\x00;"
    script = Script([other], entry=KNOWN)
    result = downloader(script, digests={"br.gif": MemoryBody(other).sha256})(BR)
    assert (result.status, script.asked, script.published) == (Status.OK, [None], {"br.gif": other})


@pytest.mark.parametrize("etag", ['"é"', '"a\r\nX: y"', "x" * 513, ""])
def test_a_validator_that_cannot_be_sent_back_counts_as_none(etag: str) -> None:
    """A hostile ETag is not kept."""
    result = downloader(Script(etag=etag))(BR)
    assert result.data is not None
    assert result.data.etag is None
