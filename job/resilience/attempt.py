"""One attempt: the innermost wrappers, which validate its answer, measure it, and wait for the throttle before it."""

from collections.abc import Callable, Collection, Mapping
from hashlib import md5
from http import HTTPStatus
from random import uniform
from threading import Lock
from time import monotonic
from typing import BinaryIO

from job import validation
from job.cancellation import Sleeper
from job.client import Client, wait_seconds
from job.errors import (
    AttemptError,
    ContentError,
    Deferred,
    FlagjobError,
    NetworkError,
    OriginDownError,
    Outcome,
    Reason,
)
from job.model import FileType, NotModified, Reply
from job.resilience.retrying import RetryEvent, RetryPolicy
from job.resilience.throttle import Throttle, wait_for_permit
from job.resilience.types import FREE_TRIES, ItemRequest, Permit, Source

_CHUNK_BYTES = 256 * 1024
_UNDECIDED_WAIT_SECONDS = 0.05
"""How long an attempt that may have been turned away waits, at first, before it is looked at what others got."""
_LONGEST_UNDECIDED_WAIT_SECONDS = 1.0


class Validated:
    """Wraps the client: an answer is only one if its body is the file that was asked for.

    `expected_digests` are sha256 in hex, by the file's path below the destination; `placeholders` are those of bodies
    that stand for no file. `accepted` is None where each file is of the type that its own suffix names. Thread-safe.
    """

    def __init__(
        self,
        client: Client,
        accepted: tuple[FileType, ...] | None,
        expected_digests: Mapping[str, str],
        placeholders: Collection[str] = (),
    ) -> None:
        self._client = client
        self._accepted = accepted
        self._expected_digests = expected_digests
        self._placeholders = placeholders

    def get(self, request: ItemRequest) -> Reply | NotModified:
        """Return the answer, with the media type of its body; raise ContentError or PlaceholderError for any other."""
        item = request.item
        accepted = validation.accepted_types(item.suffix or "") if self._accepted is None else self._accepted
        keeps_gzip = None if item.suffix is None else validation.keeps_gzip(accepted, item.suffix)
        reply = self._client.get(item.url, request.validators, keeps_gzip=keeps_gzip)
        if isinstance(reply, NotModified):
            return reply
        request.received_bytes = reply.received_bytes
        try:
            digest = item.sha256 or self._expected_digests.get(item.file)
            reply.media_type = validation.validate(reply, accepted, digest, self._placeholders)
            _check_size(reply, item.size)
            _check_md5(reply, item.md5)
        except ContentError as error:
            error.retry_after = wait_seconds(reply.retry_after)
            reply.body.close()
            raise
        except BaseException:
            reply.body.close()
            raise
        return reply


def _check_size(reply: Reply, size: int | None) -> None:
    """Raise ContentError if the file has another size than its row says."""
    if size is not None and size != reply.body.size:
        raise ContentError(Reason.CHECKSUM, f"the file has {reply.body.size} bytes, but its row says {size}")


def _check_md5(reply: Reply, digest: str | None) -> None:
    """Raise ContentError if the file has another MD5 than its row says; it is computed only for such a row."""
    if digest is None:
        return
    found = reply.body.examine(_md5_of)
    if found != digest:
        raise ContentError(Reason.CHECKSUM, f"the file's MD5 is {found}, but its row says {digest}")


def _md5_of(file: BinaryIO) -> str:
    digest = md5(usedforsecurity=False)
    while chunk := file.read(_CHUNK_BYTES):
        digest.update(chunk)
    return digest.hexdigest()


class Measured:
    """Wraps `get`: counts each attempt, and reports its outcome and its time, which ends with the answer's last byte.

    `on_attempt` takes the outcome, seconds and the size of the body in bytes. It is called in worker threads and must
    not raise. Attempts that this machine broke off, by a full disk or a lack of sockets, are not reported: they are not
    the origin's. Attempts that the end of the run broke off are, as `connection`.
    Thread-safe.
    """

    def __init__(self, source: Source, on_attempt: Callable[[Outcome, float, int], None]) -> None:
        self._source = source
        self._on_attempt = on_attempt

    def get(self, request: ItemRequest) -> Reply | NotModified:
        """Return what the wrapped `get` returns."""
        request.attempts += 1
        request.received_bytes = 0
        began = monotonic()
        try:
            reply = self._source.get(request)
        except AttemptError as error:
            request.record_status(error.failure.http_status)
            self._on_attempt(error.failure.outcome, monotonic() - began, request.received_bytes)
            raise
        except FlagjobError:
            raise
        except Exception:  # a bug: it must not hide among the attempts that succeeded
            self._on_attempt(Outcome.INVALID, monotonic() - began, request.received_bytes)
            raise
        if isinstance(reply, NotModified):
            request.record_status(HTTPStatus.NOT_MODIFIED)
            self._on_attempt(Outcome.NOT_MODIFIED, monotonic() - began, 0)
        else:
            request.record_status(HTTPStatus.OK)
            self._on_attempt(Outcome.OK, monotonic() - began, request.received_bytes)
        return reply


class Throttled:
    """Wraps `get`: waits for the throttle before each attempt, and repeats attempts whose failure it ignores.

    Such a failure costs the item neither an attempt nor its time, only the wait that all attempts share. Thread-safe
    as far as its parts are.
    """

    def __init__(
        self,
        source: Source,
        throttle: Throttle,
        *,
        policy: RetryPolicy,
        sleeper: Sleeper,
        on_retry: Callable[[str, RetryEvent], None],
    ) -> None:
        self._source = source
        self._throttle = throttle
        self._policy = policy
        self._sleeper = sleeper
        self._on_retry = on_retry

    def get(self, request: ItemRequest) -> Reply | NotModified:
        """Return what the wrapped `get` returns; raise its error if that counts against the item."""
        while True:
            permit = self._wait(request)
            began = monotonic()
            try:
                reply = self._send(request)
            except BaseException as error:
                is_ignored = self._throttle.release(permit, error)
                if permit.undecided:
                    is_ignored = self._settle(request, permit)
                if not is_ignored:  # what the origin turned away for others' sake says nothing about the item
                    request.fails_while_others_succeed |= permit.others_succeeded
                if not isinstance(error, AttemptError) or not is_ignored:
                    raise
                if not self._ignores(error, permit, request) or not error.failure.retryable:
                    raise
                request.ignored_failures += 1
                request.throttled_seconds += monotonic() - began
                self._on_retry(request.item.code, RetryEvent.of_ignored(request, error, self._policy))
            else:
                self._release(permit, reply)
                return reply

    def _wait(self, request: ItemRequest) -> Permit:
        permit = Permit(
            request.item.code,
            is_retry=request.attempts > request.ignored_failures,
            fails_while_others_succeed=request.fails_while_others_succeed,
            free_tries=request.free_tries,
        )
        if permit.free_tries == 1:  # this attempt is alone: if it fails, it is not because of others
            request.free_tries = 0
        began = monotonic()
        wait_for_permit(self._throttle, permit, self._sleep)
        request.throttled_seconds += monotonic() - began
        return permit

    def _sleep(self, seconds: float) -> None:
        """Wait for the throttle, or raise what ends the wait."""
        self._sleeper.sleep(seconds)

    def _send(self, request: ItemRequest) -> Reply | NotModified:
        self._sleeper.check()
        try:
            return self._source.get(request)
        except AttemptError as error:
            if isinstance(error, NetworkError):
                self._sleeper.check()  # the end of the run breaks transfers off: that is not the origin's failure
            request.error = str(error)
            raise

    def _settle(self, request: ItemRequest, permit: Permit) -> bool:
        """Wait until others' attempts show whether the origin turned this one away; return whether it is ignored."""
        is_ignored = False
        began = monotonic()
        longest = _UNDECIDED_WAIT_SECONDS * 2 ** (FREE_TRIES - permit.free_tries)
        while permit.undecided:
            self._sleeper.sleep(uniform(longest / 2, longest))  # noqa: S311  (no secret)
            is_ignored = self._throttle.settle(permit, permit.undecided)
            longest = min(2 * longest, _LONGEST_UNDECIDED_WAIT_SECONDS)
        if is_ignored:
            request.free_tries = permit.free_tries - 1
        else:
            request.throttled_seconds += monotonic() - began
        return is_ignored

    def _release(self, permit: Permit, reply: Reply | NotModified) -> None:
        try:
            self._throttle.release(permit, None)
        except BaseException:  # a callback failed, such as a log that nobody reads: the body has no owner yet
            if isinstance(reply, Reply):
                reply.body.close()
            raise

    def _ignores(self, error: AttemptError, permit: Permit, request: ItemRequest) -> bool:
        """Return whether a failure stays ignored: not for an item that alone is throttled.

        Such an item would hold up all others. The limits are the number of attempts that it may make, counted while
        other items are answered, and the patience with one item.
        """
        if not error.retry_after:
            return True
        now = monotonic()
        if request.throttled_since is None:
            request.throttled_since = now
        if permit.others_succeeded:
            request.throttled_while_others_succeed += 1
        if request.throttled_while_others_succeed > self._policy.max_attempts:
            return False
        return now - request.throttled_since <= self._policy.patience_seconds


class Origins:
    """Wraps the sources of all origins, each of which is made when its first item comes.

    Thread-safe. `_lock` guards that no origin has two sources, and with them two throttles.
    """

    def __init__(self, new_source: Callable[[str], Source]) -> None:
        """Take what makes the source of an origin, as items name it."""
        self._new_source = new_source
        self._lock = Lock()
        self._sources: dict[str, Source] = {}

    def get(self, request: ItemRequest) -> Reply | NotModified:
        """Return what the source of the item's origin returns."""
        origin = request.item.origin
        source = self._sources.get(origin) or self._add(origin)
        return source.get(request)

    def _add(self, origin: str) -> Source:
        with self._lock:  # another thread may have been faster
            return self._sources.get(origin) or self._sources.setdefault(origin, self._new_source(origin))


class ThrottledAmongOthers(Throttled):
    """Wraps `get` as `Throttled` does, for one of several origins: a worker must not wait where others have work.

    One item waits for an origin that is away or pauses, so that somebody sends the next probe. The others end with
    Deferred, and come again later. Once the origin is given up, its items end without a request.
    """

    def __init__(  # noqa: PLR0913  (the keywords of Throttled, and two more)
        self,
        source: Source,
        throttle: Throttle,
        *,
        policy: RetryPolicy,
        sleeper: Sleeper,
        on_retry: Callable[[str, RetryEvent], None],
        origin: str,
        may_defer: bool,
    ) -> None:
        """Take what `Throttled` takes, the origin's name for errors, and whether items may come again later.

        With one worker, or in the order of the list, they wait.
        """
        super().__init__(source, throttle, policy=policy, sleeper=sleeper, on_retry=on_retry)
        self._origin = origin
        self._may_defer = may_defer

    def _sleep(self, seconds: float) -> None:
        if self._throttle.has_given_up:
            raise OriginDownError(f"{self._origin} is down: it is asked no more in this run")
        if self._may_defer and self._throttle.is_crowded:
            raise Deferred
        super()._sleep(seconds)
