"""The downloader: the way of one item from its URL to a stored file; always a Result, never an exception."""

from collections.abc import Callable, Collection, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from time import monotonic

from job import revalidation
from job.cancellation import Cancellation
from job.errors import AttemptError, Cancelled, Deferred, NotFoundError, PathError, Reason, StorageError
from job.manifest import Manifest
from job.model import InvalidItem, Item, NotModified, Reply, Result, Status, Stored, WorkItem
from job.resilience import ItemRequest, Source
from job.revalidation import PriorState, RevalidationPolicy
from job.storage import Publisher

_VALIDATOR_MAX_CHARACTERS = 512
_NOTHING_KNOWN = PriorState()


@dataclass(slots=True)
class _Ending:
    """The part of a Result that depends on how the item ended."""

    status: Status
    data: Stored | None = None
    reason: str | None = None
    retryable: bool = False
    error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Downloader:
    """Downloads, validates and publishes items. Thread-safe, as far as its parts are."""

    source: Source
    """The client in its wrappers: retries, throttle, measurement, validation."""
    storage: Publisher
    manifest: Manifest
    expected_digests: Mapping[str, str]
    """The sha256, in hex, that a file must have, by its path below the destination."""
    policy: RevalidationPolicy
    cancellation: Cancellation
    placeholders: Collection[str] = ()
    """The sha256, in hex, of bodies that stand for no file: one that was stored before they were known is none."""
    on_bug: Callable[[str, Exception], None]
    """Called in worker threads with an item's code and an exception that nobody foresaw; must not raise."""
    _begun: dict[str, ItemRequest] = field(default_factory=dict)
    """The requests of items that come again later, by their files. Each operation on it is atomic."""

    def download(self, item: Item) -> Result | None:
        """Return how the item ended, or None if it should come again later; raises nothing.

        A StorageError stops the run: no other item would fare better.
        """
        if isinstance(item, InvalidItem):
            error = f"{item.problem}: no request was sent"
            return Result(Status.ERROR, None, item.code, reason=item.reason, error=error)
        began = monotonic()
        request = (self._begun.pop(item.file, None) if self._begun else None) or ItemRequest(item)
        try:
            ending = self._download(request)
        except Deferred:
            self._put_back(request)
            return None
        except Exception as error:  # noqa: BLE001  (a bug costs one item, not the run)
            ending = self._end_failed(request, error)
        return Result(
            ending.status,
            ending.data,
            item.code,
            url=item.url,
            file=item.file,
            reason=ending.reason,
            retryable=ending.retryable,
            speculative=item.speculative,
            http_status=request.http_status,
            answered=request.answered,
            attempts=request.attempts,
            duration_seconds=monotonic() - began,
            error=ending.error,
        )

    def cancelled(self, item: Item) -> Result:
        """Return how an item ended that was never begun, or could not be waited for."""
        result = Result(Status.CANCELLED, None, item.code, reason=self.cancellation.reason)
        return replace(result, url=item.url, file=item.file) if isinstance(item, WorkItem) else result

    def _put_back(self, request: ItemRequest) -> None:
        """Remember what the attempts at an item have shown so far; its time begins anew."""
        request.spent_attempts = request.attempts - request.ignored_failures
        request.throttled_seconds = 0.0
        self._begun[request.item.file] = request

    def _download(self, request: ItemRequest) -> _Ending:
        """Look up what is known, get what is asked for, publish what came."""
        prior = self._look_up(request.item)
        status = revalidation.status_without_request(prior, self.policy, datetime.now(UTC))
        if status is Status.UNCHANGED:
            return _Ending(status, prior.intact_file)
        if status is not None and prior.entry:
            return _Ending(status, reason=prior.entry.reason)
        request.validators = revalidation.validators_to_send(prior, self.policy)
        reply = self.source.get(request)
        if isinstance(reply, NotModified):
            return _Ending(Status.UNCHANGED, prior.intact_file and _with_validators(prior.intact_file, reply))
        with closing(reply.body):
            return self._publish(request.item, reply, prior.intact_file)

    def _look_up(self, item: WorkItem) -> PriorState:
        """Return what earlier runs recorded of an item, and whether its file is still there."""
        entry = self.manifest.find(item.file)
        if entry is None:
            return _NOTHING_KNOWN
        return PriorState(entry, self._intact(item, entry.stored), self.manifest.recorded_url(item.url))

    def _intact(self, item: WorkItem, stored: Stored | None) -> Stored | None:
        """Return the file that an item has, if it is the one that it should have, untouched since it was stored."""
        if stored is None or stored.path != item.file:
            return None
        digest = item.sha256 or self.expected_digests.get(item.file, stored.sha256)
        if digest != stored.sha256 or stored.sha256 in self.placeholders:
            return None
        if item.size not in {None, stored.bytes} or item.md5 not in {None, stored.md5}:
            return None
        if self.storage.is_intact(stored):
            return stored
        # The file is gone, or another one, or its destination sets times or ETags its own way. In the last case the
        # new version is recorded with this item's result, so that the bytes are compared once and not in every run.
        version = self.storage.verified_version(stored)
        return None if version is None else replace(stored, version=version)

    def _publish(self, item: WorkItem, reply: Reply, intact: Stored | None) -> _Ending:
        """Publish a body; leave a file that has the same bytes already as it is, inode and mtime too."""
        digest = reply.body.sha256
        if intact and intact.sha256 == digest:
            same = replace(intact, etag=None, last_modified=None, redirected_to=reply.redirected_to)
            return _Ending(Status.UNCHANGED, _with_validators(same, reply))
        version = self.storage.publish(reply.body, item.file, reply.media_type)
        stored = Stored(
            item.file,
            reply.body.size,
            digest,
            reply.media_type,
            etag=_sendable(reply.etag),
            last_modified=_sendable(reply.last_modified),
            version=version,
            redirected_to=reply.redirected_to,
            md5=item.md5,
        )
        return _Ending(Status.OK, stored)

    def _end_failed(self, request: ItemRequest, error: Exception) -> _Ending:
        """Return what an exception means for its item; a destination that fails ends the run, too."""
        if isinstance(error, Cancelled):
            return _Ending(Status.CANCELLED, reason=error.reason, error=request.error)
        if isinstance(error, AttemptError):
            status = Status.NOT_FOUND if isinstance(error, NotFoundError) else Status.ERROR
            failure = error.failure
            return _Ending(status, reason=failure.reason, retryable=failure.retryable, error=str(error))
        if isinstance(error, StorageError):
            if not isinstance(error, PathError):
                self.cancellation.request(Reason.STORAGE)
            return _Ending(Status.ERROR, reason=Reason.STORAGE, error=str(error))
        self.on_bug(request.item.code, error)
        return _Ending(Status.ERROR, reason=Reason.INTERNAL, error=f"{type(error).__name__}: {error}")


def _with_validators(stored: Stored, reply: Reply | NotModified) -> Stored:
    """Return a stored file with the validators of an answer; those that the answer does not bring stay."""
    return replace(
        stored,
        etag=_sendable(reply.etag) or stored.etag,
        last_modified=_sendable(reply.last_modified) or stored.last_modified,
    )


def _sendable(validator: str | None) -> str | None:
    """Return a validator that can be sent back as it came; a hostile one counts as none."""
    if not validator or len(validator) > _VALIDATOR_MAX_CHARACTERS:
        return None
    return validator if validator.isascii() and validator.isprintable() else None
