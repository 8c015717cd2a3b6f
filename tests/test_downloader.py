"""The downloader: every item ends as exactly one Result, whatever happens to it."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, cast

import pytest
from bodies import MemoryBody
from images import GIF, HTML
from throttling import acquire

from job.body import Body
from job.cancellation import Cancellation
from job.downloader import Downloader
from job.errors import (
    ContentError,
    Deferred,
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
    ItemRequest,
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
    """A client, a storage, a manifest and three callbacks: scripted answers, and a record of the calls."""

    replies: Sequence[bytes | Exception | NotModified] = (GIF,)
    etag: str | None = None
    redirected_to: str | None = None
    entry: Entry | None = None
    version: str = "v1"
    verified: str | None = None
    validators_sent: list[Validators | None] = field(default_factory=list)
    publish_error: Exception | None = None
    on_get: Callable[[], None] = lambda: None
    bodies: list[MemoryBody] = field(default_factory=list)
    published: dict[str, bytes] = field(default_factory=dict)
    sent: int = 0
    attempts: list[tuple[Outcome, int]] = field(default_factory=list)
    retries: list[tuple[str, int, str]] = field(default_factory=list)
    bugs: list[tuple[str, str]] = field(default_factory=list)
    may_block_long: bool = False

    def get(self, url: str, validators: Validators | None, *, keeps_gzip: bool | None) -> Reply | NotModified:
        assert (url, keeps_gzip) == (BR.url, None)
        self.validators_sent.append(validators)
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

    def verified_version(self, stored: Stored) -> str | None:
        assert stored == STORED
        return self.verified

    def find(self, code: str) -> Entry | None:
        assert code
        return self.entry

    def recorded_url(self, url: str) -> str:
        return url.removeprefix("http://localhost")

    def publish(self, body: Body, file: str, media_type: str | None) -> str:
        assert media_type == "image/gif"
        if self.publish_error:
            raise self.publish_error
        self.published[file] = body.read()
        return "v1"

    def open(self) -> None: ...

    def new_body(self) -> MemoryBody:
        return MemoryBody()

    def attempt(self, outcome: Outcome, seconds: float, received_bytes: int) -> None:
        assert seconds >= 0
        self.attempts.append((outcome, received_bytes))

    def retry(self, code: str, retry: RetryEvent) -> None:
        self.retries.append((code, retry.attempt, retry.error.failure.reason))

    def bug(self, code: str, error: Exception) -> None:
        self.bugs.append((code, repr(error)))


class NoWait(Cancellation):
    """A cancellation whose sleeps end at once."""

    def sleep(self, seconds: float) -> None:
        super().sleep(0 * seconds)


POLICY = RetryPolicy(max_attempts=3, item_timeout_seconds=60)


def download_with(  # noqa: PLR0913  (what a test may choose, by name)
    script: Script,
    cancellation: Cancellation | None = None,
    throttle: Throttle | None = None,
    *,
    digests: dict[str, str] | None = None,
    revalidation: RevalidationPolicy | None = None,
    policy: RetryPolicy = POLICY,
) -> Callable[[WorkItem | InvalidItem], Result]:
    """Return the `download` method of a downloader that is wired as a run wires it."""
    downloader = downloader_with(
        script, cancellation, throttle, digests=digests, revalidation=revalidation, policy=policy
    )
    return lambda item: cast("Result", downloader.download(item))


def downloader_with(  # noqa: PLR0913  (the same)
    script: Script,
    cancellation: Cancellation | None = None,
    throttle: Throttle | None = None,
    *,
    digests: dict[str, str] | None = None,
    revalidation: RevalidationPolicy | None = None,
    policy: RetryPolicy = POLICY,
) -> Downloader:
    cancellation = cancellation or NoWait()
    throttle = throttle or Throttle(ThrottleLimits())
    validated = Validated(cast("Client", script), (FileType.GIF,), digests or {})
    measured = Measured(validated, script.attempt)
    throttled = Throttled(measured, throttle, policy=policy, sleeper=cancellation, on_retry=script.retry)
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


def test_a_valid_answer_is_published() -> None:
    """A valid answer is published after one attempt, and its Result describes the file."""
    script = Script()
    result = download_with(script)(BR)
    assert (result.status, result.code, result.url, result.reason) == (Status.OK, "BR", BR.url, None)
    assert result.data == Stored("br.gif", len(GIF), MemoryBody(GIF).sha256, "image/gif", version="v1")
    assert (result.http_status, result.attempts, result.speculative) == (200, 1, True)
    assert script.published == {"br.gif": GIF}
    assert script.attempts == [(Outcome.OK, len(GIF))]
    assert script.bodies[0].closed


def test_a_retryable_failure_is_retried() -> None:
    """Two retryable failures cost two retries, and the third attempt's file is published."""
    script = Script([HttpError(503, "busy"), HTML, GIF])
    result = download_with(script)(BR)
    assert (result.status, result.attempts) == (Status.OK, 3)
    assert script.retries == [("BR", 1, "http_503"), ("BR", 2, "bad_content")]
    assert script.attempts == [("5xx", 0), ("invalid", len(HTML)), ("2xx", len(GIF))]


def test_the_last_failure_is_reported() -> None:
    """When all attempts failed, the Result has the last reason and is retryable."""
    script = Script([HTML])
    result = download_with(script)(BR)
    assert (result.status, result.data, result.reason) == (Status.ERROR, None, "bad_content")
    assert (result.retryable, result.http_status, result.attempts) == (True, 200, 3)
    assert result.error == "the body is of no known type, not gif"
    assert script.published == {}
    assert all(body.closed for body in script.bodies)


def test_an_earlier_answer_is_remembered() -> None:
    """`answered` is true if any attempt got an HTTP answer, even if the last one got none."""
    silent = NetworkError(Reason.TIMEOUT, "silence")
    mixed, never = download_with(Script([HttpError(503, "busy"), silent]))(BR), download_with(Script([silent]))(BR)
    assert (mixed.http_status, mixed.answered, mixed.reason) == (None, True, "timeout")
    assert (never.http_status, never.answered, never.reason) == (None, False, "timeout")


def test_a_404_is_not_retried() -> None:
    """A 404 ends the item as not found, after one attempt."""
    script = Script([NotFoundError(404, "HTTP error 404 - Not Found")])
    result = download_with(script)(BR)
    assert (result.status, result.reason, result.http_status) == (Status.NOT_FOUND, "http_404", 404)
    assert (result.attempts, result.retryable, len(script.attempts)) == (1, False, 1)


def test_a_permanent_failure_is_not_retried() -> None:
    """A body that is too large ends the item after one attempt."""
    result = download_with(Script([ContentError(Reason.TOO_LARGE, "too large")]))(BR)
    assert (result.status, result.reason, result.retryable) == (Status.ERROR, "too_large", False)
    assert result.attempts == 1


def test_an_item_that_comes_again_keeps_its_attempts_and_begins_its_time_anew() -> None:
    """What it waited before is none of its time; its two attempts stay, one of them ignored."""
    seen: list[tuple[int, int, float]] = []

    class PutBack:
        def get(self, request: ItemRequest) -> Reply | NotModified:
            seen.append((request.attempts, request.spent_attempts, request.throttled_seconds))
            if len(seen) > 1:
                raise HttpError(403, "HTTP error 403 - Forbidden")
            request.attempts = 2
            request.ignored_failures = 1
            request.throttled_seconds = 5.0
            raise Deferred

    downloader = replace(downloader_with(Script()), source=PutBack())
    assert downloader.download(BR) is None
    result = downloader.download(BR)
    assert result is not None
    assert (seen, result.attempts, result.reason) == ([(0, 0, 0.0), (2, 1, 0.0)], 2, "http_403")


def test_an_invalid_code_sends_no_request() -> None:
    """An invalid code ends as an error without an attempt."""
    script = Script()
    result = download_with(script)(InvalidItem("../../etc/passwd"))
    assert (result.status, result.code, result.reason) == (Status.ERROR, "../../etc/passwd", "invalid_code")
    assert (result.attempts, result.url, result.retryable, script.attempts) == (0, None, False, [])
    assert result.error == "not a valid code or ID: no request was sent"


def test_an_invalid_item_tells_its_problem() -> None:
    """A code whose file is another code's has a message of its own."""
    result = download_with(Script())(InvalidItem("BB", "its file b.gif is that of another code in the list"))
    assert (result.reason, result.file) == ("invalid_code", None)
    assert result.error == "its file b.gif is that of another code in the list: no request was sent"


def test_a_full_disk_ends_the_run() -> None:
    """A StorageError is not retried, and cancels the run."""
    script, cancellation = Script(publish_error=StorageError("/data: No space left on device")), Cancellation()
    result = download_with(script, cancellation)(BR)
    assert (result.status, result.reason, result.attempts) == (Status.ERROR, "storage", 1)
    assert result.error == "/data: No space left on device"
    assert cancellation.reason is Reason.STORAGE
    assert script.bodies[0].closed


def test_a_path_error_does_not_end_the_run() -> None:
    """A directory with the file's name fails that item only."""
    cancellation = Cancellation()
    result = download_with(Script(publish_error=PathError("/data/br.gif: Is a directory")), cancellation)(BR)
    assert (result.status, result.reason) == (Status.ERROR, "storage")
    assert cancellation.reason is None


def test_a_bug_costs_one_item() -> None:
    """An unexpected exception is reported as a bug, and its item still ends with a Result."""
    script = Script([ZeroDivisionError("oops")])
    result = download_with(script)(BR)
    assert (result.status, result.reason, result.retryable) == (Status.ERROR, "internal", False)
    assert result.error == "ZeroDivisionError: oops"
    assert script.bugs == [("BR", "ZeroDivisionError('oops')")]
    assert script.attempts == [("invalid", 0)]


def test_no_attempt_starts_after_a_cancellation() -> None:
    """An item that begins after the cancellation is cancelled without a request."""
    script, cancellation = Script(), Cancellation()
    cancellation.request(Reason.SIGNAL)
    result = download_with(script, cancellation)(BR)
    assert (result.status, result.reason, result.attempts) == (Status.CANCELLED, "signal", 0)
    assert script.attempts == []


def test_an_interrupted_transfer_is_cancelled() -> None:
    """A connection that breaks because the run ends cancels its item, and is not retried."""
    cancellation = Cancellation()
    script = Script(
        [NetworkError(Reason.CONNECTION, "shut down")], on_get=lambda: cancellation.request(Reason.DEADLINE)
    )
    result = download_with(script, cancellation)(BR)
    assert (result.status, result.reason, result.attempts) == (Status.CANCELLED, "deadline", 1)
    assert script.retries == []


def test_a_cancellation_ends_the_back_off() -> None:
    """A cancellation during the back-off cancels the item at once."""
    cancellation = Cancellation()
    script = Script([HttpError(503, "busy", retry_after=50)], on_get=lambda: cancellation.request(Reason.SIGNAL))
    result = download_with(script, cancellation)(BR)
    assert (result.status, result.attempts) == (Status.CANCELLED, 1)
    assert script.retries == [("BR", 1, "http_503")]


def test_every_attempt_acquires_a_permit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retries acquire a permit too, and the time that this takes does not count against the item."""
    now = itertools.count(step=1000)

    class CountingThrottle(Throttle):
        permits = 0

        def acquire(self, permit: Permit) -> float:
            self.permits += 1
            return super().acquire(permit)

    throttle = CountingThrottle(ThrottleLimits())
    with monkeypatch.context() as patch:
        patch.setattr("job.resilience.attempt.monotonic", lambda: float(next(now)))  # far more than 60 seconds a wait
        result = download_with(Script([HTML, HTML, GIF]), throttle=throttle)(BR)
    assert (result.status, result.attempts, throttle.permits) == (Status.OK, 3, 3)


@pytest.mark.parametrize(("reason", "is_marked"), [(Reason.TIMEOUT, True), (Reason.CONNECTION, False)])
def test_an_item_that_fails_while_others_succeed_is_marked(reason: Reason, *, is_marked: bool) -> None:
    """The permit of each later attempt says so, unless the origin turned the item away because of the others."""
    marks: list[bool] = []

    class RecordingThrottle(Throttle):
        def acquire(self, permit: Permit) -> float:
            if permit.item:
                marks.append(permit.fails_while_others_succeed)
            return super().acquire(permit)

        def release(self, permit: Permit, error: BaseException | None) -> bool:
            if len(marks) == 2:
                super().release(acquire(self, lambda _: None), None)
            return super().release(permit, error)

    failure = NetworkError(reason, "no answer")
    result = download_with(Script([failure, failure, GIF]), throttle=RecordingThrottle(ThrottleLimits()))(BR)
    assert (result.status, marks) == (Status.OK, [False, False, is_marked])


def throttle_with_fast_clock(limits: ThrottleLimits) -> Throttle:
    """Return a throttle whose clock advances ten seconds at each reading, so that every pause is over."""
    times = itertools.count(step=10)
    return Throttle(limits, clock=lambda: float(next(times)))


def test_a_429_with_retry_after_costs_no_attempt() -> None:
    """Five answers of 429 with Retry-After leave an item its three attempts."""
    script = Script([*[HttpError(429, "slow down", retry_after=1)] * 5, HTML, HTML, GIF])
    result = download_with(script, throttle=throttle_with_fast_clock(ThrottleLimits(max_pauses_seconds=1e6)))(BR)
    assert (result.status, result.attempts) == (Status.OK, 8)


def test_an_item_that_is_refused_while_others_succeed_ends() -> None:
    """As many refusals are ignored as an item has attempts; further ones use up its attempts."""
    throttle = throttle_with_fast_clock(ThrottleLimits())

    def let_another_item_succeed() -> None:
        throttle.release(acquire(throttle, lambda _: None), None)

    script = Script([HttpError(429, "slow down", retry_after=1)], on_get=let_another_item_succeed)
    result = download_with(script, throttle=throttle)(BR)
    assert (result.status, result.reason, result.attempts) == (Status.ERROR, "http_429", 6)


def test_refusals_count_after_the_patience() -> None:
    """After the policy's patience, refusals count as attempts of the item."""
    script = Script([HttpError(429, "slow down", retry_after=1)])
    policy = RetryPolicy(3, 60, patience_seconds=0.0)
    result = download_with(
        script, throttle=throttle_with_fast_clock(ThrottleLimits(max_pauses_seconds=1e6)), policy=policy
    )(BR)
    assert (result.status, result.reason, result.retryable) == (Status.ERROR, "http_429", True)
    assert result.attempts == 4  # the first refusal was ignored


def test_a_successful_retry_is_refunded() -> None:
    """With one retry left in the budget, two items that each need one retry succeed one after the other."""
    page, throttle = ContentError(Reason.BAD_CONTENT, "a page"), Throttle(ThrottleLimits())
    for _ in range(49):
        assert throttle.may_retry(page)
    for _ in range(2):
        assert download_with(Script([HTML, GIF]), throttle=throttle)(BR).status is Status.OK


def test_ignored_attempts_do_not_use_the_items_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A probe of ten seconds does not count against an item's time-out. (Only a patched clock can show it.)."""

    class IgnoringThrottle(Throttle):
        def release(self, permit: Permit, error: BaseException | None) -> bool:
            return super().release(permit, None) or isinstance(error, HttpError)

    now = [1000.0]
    script = Script([HttpError(502, "away"), HTML, GIF])
    script.on_get = lambda: now.append(now[-1] + 10 * (not script.attempts))
    download = download_with(script, throttle=IgnoringThrottle(ThrottleLimits()), policy=RetryPolicy(3, 5))
    with monkeypatch.context() as patch:
        for module in ("attempt", "retrying"):
            patch.setattr(f"job.resilience.{module}.monotonic", lambda: now[-1])
        result = download(BR)
    assert (result.status, result.attempts) == (Status.OK, 3)


def test_an_ignored_failure_costs_no_attempt_and_no_back_off() -> None:
    """Five ignored refusals use no attempt, are reported as ignored, and lengthen no later back-off."""
    busy = HttpError(503, "busy", retry_after=7)
    slept: list[float] = []
    events: list[RetryEvent] = []

    class RecordingSleep(NoWait):
        def sleep(self, seconds: float) -> None:
            slept.append(seconds)

    script = Script([*[busy] * 5, HTML, GIF])
    script.retry = lambda _code, event: events.append(event)  # type: ignore[method-assign,assignment]  # (to see all of it)
    throttle = throttle_with_fast_clock(ThrottleLimits(max_pauses_seconds=1e6))
    result = download_with(script, RecordingSleep(), throttle, policy=RetryPolicy(2, 60))(BR)
    assert (result.status, result.attempts) == (Status.OK, 7)
    assert [(event.attempt, event.max_attempts, event.ignored) for event in events] == [
        *[(n, 2 + n, True) for n in range(1, 6)],
        (6, 7, False),
    ]
    assert [event.wait_seconds for event in events[:5]] == [0.0] * 5
    assert events[5].wait_seconds <= 0.5


def test_an_ignored_failure_outlasts_the_items_time() -> None:
    """Ignored failures do not end an item whose time is over."""
    script = Script([HttpError(503, "busy", retry_after=7), GIF])
    throttle = throttle_with_fast_clock(ThrottleLimits(max_pauses_seconds=1e6))
    assert download_with(script, throttle=throttle, policy=RetryPolicy(1, 0.0))(BR).status is Status.OK


def test_an_ignored_permanent_failure_ends_its_item() -> None:
    """A TLS failure ends its item at once, even if the throttle ignores it."""

    class IgnoringThrottle(Throttle):
        def release(self, permit: Permit, error: BaseException | None) -> bool:
            super().release(permit, error)
            return True

    script = Script([NetworkError(Reason.TLS, "expired")])
    result = download_with(script, throttle=IgnoringThrottle(ThrottleLimits()))(BR)
    assert (result.reason, result.attempts) == ("tls", 1)


def test_a_failing_callback_leaves_no_body_open() -> None:
    """An exception while a permit is released closes the body of the answer."""

    class FailingThrottle(Throttle):
        def release(self, permit: Permit, error: BaseException | None) -> bool:
            super().release(permit, error)
            raise LogError("gone")

    for reply in (GIF, NotModified()):
        script = Script([reply], entry=KNOWN)
        assert download_with(script, throttle=FailingThrottle(ThrottleLimits()))(BR).reason == "internal"
        assert all(body.closed for body in script.bodies)


def test_a_spent_retry_budget_ends_items_at_their_first_failure() -> None:
    """Without retries left in the budget an item ends at its first failure."""
    throttle = Throttle(ThrottleLimits())
    while throttle.may_retry(ContentError(Reason.BAD_CONTENT, "a page")):
        pass
    result = download_with(Script([HTML, GIF]), throttle=throttle)(BR)
    assert (result.status, result.reason, result.attempts) == (Status.ERROR, "bad_content", 1)


def test_a_dead_origin_is_given_up() -> None:
    """Twenty failures give the origin up; the cancelled item keeps the error of its last attempt."""
    cancellation = NoWait()
    events = ThrottleEvents(gave_up=lambda _: cancellation.request(Reason.ORIGIN_DOWN))
    script = Script([NetworkError(Reason.CONNECTION, "refused")])
    download = download_with(script, cancellation, Throttle(ThrottleLimits(), events))
    results = [download(replace(BR, code=f"c{number}")) for number in range(10)]
    assert [result.reason for result in results] == ["connection"] * 9 + ["origin_down"]
    assert (results[9].status, results[9].attempts, results[9].error) == (Status.CANCELLED, 1, "refused")


def test_a_bug_releases_its_permit() -> None:
    """A permit is released with the exception that ended its attempt, an unexpected one too."""
    script, errors_released = Script([ZeroDivisionError("oops")]), []

    class ListeningThrottle(Throttle):
        def release(self, permit: Permit, error: BaseException | None) -> bool:
            errors_released.append(repr(error))
            return super().release(permit, error)

    download_with(script, throttle=ListeningThrottle(ThrottleLimits()))(BR)
    assert errors_released == ["ZeroDivisionError('oops')"]


@pytest.mark.parametrize("item", [BR, InvalidItem("cn?x")])
def test_an_item_that_never_began_is_cancelled(item: WorkItem | InvalidItem) -> None:
    """An item that no worker took is cancelled with the reason of the cancellation."""
    cancellation = Cancellation()
    cancellation.request(Reason.DEADLINE)
    result = downloader_with(Script(), cancellation).cancelled(item)
    assert (result.status, result.reason, result.code) == (Status.CANCELLED, "deadline", item.code)


STORED = Stored("br.gif", len(GIF), MemoryBody(GIF).sha256, "image/gif", etag='"a"', last_modified="then", version="v1")
KNOWN = Entry("BR", "/br.gif", "br.gif", Status.OK, STORED, "2026-11-22T04:17:00Z", "2026-11-01T04:17:00Z", 1, None)
VALIDATORS = Validators('"a"', "then")


def test_a_known_file_is_requested_conditionally() -> None:
    """A 304 publishes nothing, and its validators replace the recorded ones."""
    script = Script([NotModified(etag='"b"')], entry=KNOWN)
    result = download_with(script)(BR)
    assert script.validators_sent == [VALIDATORS]
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
def test_validators_are_only_sent_for_the_same_url_and_an_intact_file(script: Script) -> None:
    """No validators are sent if the URL, the name or the file changed, or none are recorded."""
    download_with(script)(BR)
    assert script.validators_sent == [None]


def test_a_new_version_of_the_same_bytes_is_remembered() -> None:
    """A file with other times and the same bytes is requested conditionally, and its new version is recorded."""
    script = Script([NotModified()], entry=KNOWN, version="v2", verified="v2")
    result = download_with(script)(BR)
    assert script.validators_sent == [VALIDATORS]
    assert (result.status, result.data) == (Status.UNCHANGED, replace(STORED, version="v2"))


def test_the_same_bytes_again_are_unchanged() -> None:
    """A 200 with the recorded digest leaves the file alone, and its validators replace the recorded ones."""
    script = Script(entry=KNOWN, etag='"c"')
    result = download_with(script)(BR)
    assert (result.status, script.published, script.bodies[0].closed) == (Status.UNCHANGED, {}, True)
    assert result.data == replace(STORED, etag='"c"', last_modified=None)


@pytest.mark.parametrize("body", [GIF, GIF[:-1] + b"\x00;"], ids=["the same bytes", "others"])
def test_validators_are_recorded_with_their_redirect(body: bytes) -> None:
    """The recorded validators and redirect target are those of the last answer."""
    before = replace(KNOWN, stored=replace(STORED, redirected_to="before"))
    for now in ("now", None):
        result = download_with(Script([body], entry=before, etag='"c"', redirected_to=now))(BR)
        assert result.data is not None
        assert (result.data.etag, result.data.redirected_to) == ('"c"', now)


def test_other_bytes_replace_the_file() -> None:
    """A 200 with another digest is published, and its validators are recorded."""
    other = GIF[:-1] + b"\x00;"
    script = Script([other], entry=KNOWN, etag='"c"')
    result = download_with(script)(BR)
    assert (result.status, script.published) == (Status.OK, {"br.gif": other})
    assert result.data is not None
    assert (result.data.sha256, result.data.etag) == (MemoryBody(other).sha256, '"c"')


def test_refresh_missing_requests_only_missing_files() -> None:
    """With refresh=missing an intact file is not requested, and a changed one is."""
    policy = RevalidationPolicy(Refresh.MISSING)
    there, gone = Script(entry=KNOWN), Script(entry=KNOWN, version="other")
    assert (download_with(there, revalidation=policy)(BR).status, there.validators_sent) == (Status.UNCHANGED, [])
    assert (download_with(gone, revalidation=policy)(BR).status, gone.validators_sent) == (Status.OK, [None])


def test_refresh_always_requests_unconditionally() -> None:
    """With refresh=always the request has no validators; the same bytes are still unchanged."""
    script = Script(entry=KNOWN)
    result = download_with(script, revalidation=RevalidationPolicy(Refresh.ALWAYS))(BR)
    assert (result.status, script.validators_sent) == (Status.UNCHANGED, [None])


def test_a_recent_404_is_not_requested_again() -> None:
    """Within `not_found_ttl` a recorded 404 ends the item without a request."""
    policy = RevalidationPolicy(not_found_ttl=3600)
    entry = replace(KNOWN, status=Status.NOT_FOUND, reason="http_404", checked_at=datetime.now(UTC).isoformat())
    script = Script(entry=entry)
    result = download_with(script, revalidation=policy)(BR)
    assert (result.status, result.reason, result.attempts) == (Status.NOT_FOUND, "http_404", 0)
    assert script.validators_sent == []


def test_an_expected_digest_is_enforced() -> None:
    """A body with another digest than expected is retried, and never published."""
    script = Script()
    result = download_with(script, digests={"br.gif": "0" * 64})(BR)
    assert (result.status, result.reason, result.attempts, script.published) == (Status.ERROR, "checksum", 3, {})


def test_a_file_with_an_unexpected_digest_is_requested_again() -> None:
    """A recorded file with another digest than expected is requested without validators."""
    other = GIF[:-1] + b"\x00;"
    script = Script([other], entry=KNOWN)
    result = download_with(script, digests={"br.gif": MemoryBody(other).sha256})(BR)
    assert (result.status, script.validators_sent, script.published) == (Status.OK, [None], {"br.gif": other})


@pytest.mark.parametrize("etag", ['"é"', '"a\r\nX: y"', "x" * 513, ""])
def test_an_unsendable_etag_is_not_recorded(etag: str) -> None:
    """An ETag that is not ASCII, not printable, empty or too long is not recorded."""
    result = download_with(Script(etag=etag))(BR)
    assert result.data is not None
    assert result.data.etag is None
