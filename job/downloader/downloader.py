"""The way of one item."""

from contextlib import closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from http import HTTPStatus
from math import inf
from time import monotonic

from job import revalidation, validation
from job.cancellation import Cancellation
from job.downloader.requirements import Destination, Hooks, Memory, Requirements, Source
from job.errors import AttemptError, Cancelled, NetworkError, NotFoundError, PathError, Reason, StorageError
from job.model import (
    InvalidItem,
    Item,
    NotModified,
    Reply,
    Result,
    Status,
    Stored,
    WorkItem,
)
from job.resilience import Permit, Throttle
from job.resilience import retrying as retry

_VALIDATOR_MAX = 512


@dataclass(slots=True)
class _Progress:
    """How far one item came; belongs to the thread that works on it."""

    known: revalidation.PriorState
    attempts: int = 0
    http_status: int | None = None
    answered: bool = False
    received_bytes: int = 0
    excused_seconds: float = 0.0
    """Spent at the gate: the origin's pace is no fault of an item."""
    excuses: int = 0
    """Attempts that failed by no fault of the item."""
    doubted: bool = False
    """It failed while others were answered."""
    passed_over: int = 0
    """How often others were answered while it was asked to wait."""
    refused_since: float = inf
    """When it was first asked to wait, on the monotonic clock."""
    fault: str | None = None
    """What the last attempt failed of."""

    def saw(self, http_status: int | None) -> None:
        """Note the last attempt's status, None where no answer came."""
        self.http_status = http_status
        self.answered = self.answered or http_status is not None


@dataclass(frozen=True, slots=True)
class _Ended:
    """The part of a Result that depends on how the last attempt ended."""

    status: Status
    data: Stored | None = None
    reason: str | None = None
    retryable: bool = False
    error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Downloader:
    """Fetches, checks and publishes items. Thread-safe, as far as its parts are."""

    source: Source
    destination: Destination
    memory: Memory
    terms: Requirements
    policy: retry.RetryPolicy
    throttle: Throttle
    cancellation: Cancellation
    hooks: Hooks

    def __call__(self, item: Item) -> Result:
        """Return how the item ended; raises nothing. A StorageError stops the run: no other item would fare better."""
        if isinstance(item, InvalidItem):
            what = "no valid code or id: no request was sent"
            return Result(Status.ERROR, None, item.code, reason=Reason.INVALID_CODE, error=what)
        began, progress = monotonic(), _Progress(revalidation.PriorState())
        try:
            ended = self._ended(item, progress)
        except Exception as error:  # noqa: BLE001  (a bug costs one item, not the run)
            ended = self._failed(item, error, progress)
        return Result(
            ended.status,
            ended.data,
            item.code,
            url=item.url,
            file=item.file,
            reason=ended.reason,
            retryable=ended.retryable,
            speculative=item.speculative,
            http_status=progress.http_status,
            answered=progress.answered,
            attempts=progress.attempts,
            duration_seconds=monotonic() - began,
            error=ended.error,
        )

    def cancelled(self, item: Item) -> Result:
        """Return how an item ended that was never begun, or could not be waited for."""
        cancelled = Result(Status.CANCELLED, None, item.code, reason=self.cancellation.reason)
        return replace(cancelled, url=item.url, file=item.file) if isinstance(item, WorkItem) else cancelled

    def _failed(self, item: WorkItem, error: Exception, progress: _Progress) -> _Ended:
        """Say what an exception means for its item, and for the run."""
        if isinstance(error, Cancelled):
            return _Ended(Status.CANCELLED, reason=error.reason, error=progress.fault)
        if isinstance(error, AttemptError):
            status = Status.NOT_FOUND if isinstance(error, NotFoundError) else Status.ERROR
            return _Ended(status, reason=error.reason, retryable=error.retryable, error=str(error))
        if isinstance(error, StorageError):
            if not isinstance(error, PathError):
                self.cancellation.request(Reason.STORAGE)
            return _Ended(Status.ERROR, reason=Reason.STORAGE, error=str(error))
        self.hooks.bug(item.code, error)
        return _Ended(Status.ERROR, reason=Reason.INTERNAL, error=f"{type(error).__name__}: {error}")

    def _ended(self, item: WorkItem, progress: _Progress) -> _Ended:
        """End an item by what is known of it, or by as many attempts as it takes."""
        known = progress.known = self._known(item)
        status_without_request = revalidation.status_without_request(known, self.terms.revalidation, datetime.now(UTC))
        if status_without_request is Status.UNCHANGED:
            return _Ended(status_without_request, known.intact)
        if status_without_request and known.entry:
            return _Ended(status_without_request, reason=known.entry.reason)
        return retry.call(
            lambda: self._attempt(item, progress),
            self.policy,
            sleep=self.cancellation.sleep,
            on_retry=lambda event: self.hooks.retry(item.code, event),
            account=retry.Account(lambda: progress.excused_seconds, self.throttle.may_retry),
        )

    def _known(self, item: WorkItem) -> revalidation.PriorState:
        entry = self.memory.find(item.code)
        if entry is None:
            return revalidation.PriorState()
        return revalidation.PriorState(entry, self._intact(item, entry.stored), self.memory.recorded_url(item.url))

    def _intact(self, item: WorkItem, stored: Stored | None) -> Stored | None:
        """Return the file that an item has, if it is the one that it should have."""
        if stored is None or stored.path != item.file:
            return None
        if self.terms.checksums.get(item.file, stored.sha256) != stored.sha256:
            return None
        return stored if self.destination.has(stored) else None

    def _attempt(self, item: WorkItem, progress: _Progress) -> _Ended:
        """Try once, when the gate lets it, and tell the gate how it went."""
        again = progress.attempts > progress.excuses
        permit = self.throttle.enter(self.cancellation.sleep, item.code, again=again, doubted=progress.doubted)
        progress.excused_seconds += permit.waited_seconds
        began = monotonic()
        try:
            ended = self._tried(item, progress)
        except BaseException as error:
            excused = self.throttle.left(permit, error)
            progress.doubted |= permit.passed_over
            if isinstance(error, AttemptError):
                error.excused = excused and self._is_excusable(error, permit, progress)
                progress.excuses += error.excused
                progress.excused_seconds += error.excused * (monotonic() - began)
            raise
        self.throttle.left(permit, None)
        return ended

    def _is_excusable(self, error: AttemptError, permit: Permit, progress: _Progress) -> bool:
        """Tell an item that waits with the others from one that alone is refused, and would hold them up for ever."""
        if not error.retry_after:
            return True
        now = monotonic()
        progress.passed_over += permit.passed_over
        progress.refused_since = min(progress.refused_since, now)
        waited = now - progress.refused_since
        return progress.passed_over <= self.policy.max_attempts and waited <= self.policy.patience_seconds

    def _tried(self, item: WorkItem, progress: _Progress) -> _Ended:
        """Send a request, and tell the hook how it went."""
        self.cancellation.check()
        progress.attempts += 1
        began = monotonic()
        reason: str | None = Reason.INTERNAL
        try:
            ended = self._fetched(item, progress)
            reason = "http_304" if progress.http_status == HTTPStatus.NOT_MODIFIED else None
        except StorageError:
            reason = Reason.STORAGE
            raise
        except AttemptError as error:
            reason = error.reason
            progress.saw(error.http_status)
            if isinstance(error, NetworkError):
                self.cancellation.check()  # the stop itself may have broken the transfer
            progress.fault = str(error)
            raise
        finally:
            self.hooks.attempt(reason, monotonic() - began, progress.received_bytes)
        return ended

    def _fetched(self, item: WorkItem, progress: _Progress) -> _Ended:
        progress.received_bytes = 0
        known = progress.known
        reply = self.source.get(item.url, revalidation.validators_to_send(known, self.terms.revalidation))
        if isinstance(reply, NotModified):
            progress.saw(HTTPStatus.NOT_MODIFIED)
            return _Ended(Status.UNCHANGED, known.intact and _renewed(known.intact, reply))
        with closing(reply.body):
            progress.saw(HTTPStatus.OK)
            progress.received_bytes = reply.body.size
            return self._kept(item, reply, known.intact)

    def _kept(self, item: WorkItem, reply: Reply, intact: Stored | None) -> _Ended:
        """Publish an acceptable body; leave a file that has these bytes already as it is, inode and mtime too."""
        digest = reply.body.sha256
        media_type = validation.validate(reply, self.terms.accepted, self.terms.checksums.get(item.file))
        if intact and intact.sha256 == digest:
            same = replace(intact, etag=None, last_modified=None, redirected_to=reply.redirected_to)
            return _Ended(Status.UNCHANGED, _renewed(same, reply))
        version = self.destination.publish(reply.body, item.file, media_type)
        stored = Stored(item.file, reply.body.size, digest, media_type, version=version)
        return _Ended(Status.OK, _renewed(replace(stored, redirected_to=reply.redirected_to), reply))


def _renewed(stored: Stored, reply: Reply | NotModified) -> Stored:
    """Return what is stored with the validators of an answer; those that it does not bring stay."""
    return replace(
        stored,
        etag=_sendable(reply.etag) or stored.etag,
        last_modified=_sendable(reply.last_modified) or stored.last_modified,
    )


def _sendable(value: str | None) -> str | None:
    """Return a validator that can be sent back as it came; a hostile one counts as none."""
    return value if value and len(value) <= _VALIDATOR_MAX and value.isascii() and value.isprintable() else None
