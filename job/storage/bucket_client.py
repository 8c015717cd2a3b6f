"""The client of object stores: the one door to obstore, with its exceptions translated to StorageError.

obstore takes 20 ms and 7 MB, so only runs with a bucket import it: when the first client is made.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from datetime import timedelta
from hashlib import sha256
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, TypeVar

from job import __version__
from job.errors import PathError, StorageError, map_exceptions
from job.layout import BucketLocation

if TYPE_CHECKING:
    from obstore import Attributes, ListStream, ObjectMeta
    from obstore.store import ClientConfig, ObjectStore, RetryConfig

T = TypeVar("T")

_PAGE_OBJECTS = 1000  # the most that a server lists at once (S3, ListObjectsV2)
_CHUNK_BYTES = 1 << 20
_FIRST_PAUSE = timedelta(seconds=0.2)
_MAX_RETRIES = 1_000_000
"""Time ends retries, not their number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BucketTimeouts:
    """How long one operation on a bucket may take: no longer than `retry_seconds` and one more request."""

    connect_seconds: float = 5.0
    """From the name look-up to the connection."""
    request_seconds: float = 30.0
    """From the connect to the last byte of the response."""
    retry_seconds: float = 30.0
    """No retry begins later than this after the first request: a bucket that is busy for some seconds ends no run."""
    first_retry_seconds: float = 5.0
    """The same for a bucket that has not answered yet and to which no connection comes about, as a wrong name or port
    does not heal; and for every call after one that has failed for `retry_seconds`, as the run ends."""
    longest_pause_seconds: float = 5.0
    """Pauses between retries are random, and grow up to this."""


DEFAULT_TIMEOUTS = BucketTimeouts()


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """An object in a listing: its path below the prefix, its size in bytes, its ETag."""

    path: str
    size: int
    etag: str


class BucketClient:
    """A prefix in a bucket of S3, Google Cloud Storage or Azure Blob Storage.

    Thread-safe: threads share the connections, and obstore releases the interpreter lock while it waits.
    Every method raises PathError for an error that may concern one object only, and StorageError for any other.
    """

    def __init__(self, location: BucketLocation, timeouts: BucketTimeouts, ca_bundle: Path | None) -> None:
        """Read the credentials from the environment; no request is sent. `ca_bundle` adds to the system's."""
        self._url = location.url
        self._timeouts = timeouts
        self._ca_bundle = ca_bundle
        self._retry_seconds = timeouts.retry_seconds
        self._short_seconds = min(timeouts.first_retry_seconds, timeouts.retry_seconds)
        self._store = self._new_store(self._short_seconds)

    def expect_answers(self) -> None:
        """Try for `retry_seconds` from now on, also where no connection comes about: the bucket has answered."""
        self._store = self._new_store(self._retry_seconds)

    def _expect_no_answers(self) -> None:
        """Try for `first_retry_seconds` only from now on, in whatever the run still does before it ends."""
        if self._retry_seconds > self._short_seconds:
            # Several threads may do this at once. A call that is under way keeps its client, or takes the new one.
            self._retry_seconds = self._short_seconds
            self._store = self._new_store(self._short_seconds)

    def _new_store(self, retry_seconds: float) -> "ObjectStore":
        """Return obstore's client, which retries by itself for so long.

        It does so after a failed connection, a time-out, a 429 or a 5xx, also within a response to a deletion.
        """
        from obstore.store import from_url  # noqa: PLC0415  (imported late, see the module's docstring)

        timeouts = self._timeouts
        client: ClientConfig = {
            "allow_http": True,  # only where an endpoint begins with http://, as with the AWS command line
            "connect_timeout": timedelta(seconds=timeouts.connect_seconds),
            "timeout": timedelta(seconds=timeouts.request_seconds),
            "user_agent": f"flagjob/{__version__}",
        }
        longest_pause = timedelta(seconds=timeouts.longest_pause_seconds)
        retry: RetryConfig = {
            "max_retries": _MAX_RETRIES,
            "retry_timeout": timedelta(seconds=retry_seconds),
            "backoff": {"init_backoff": min(_FIRST_PAUSE, longest_pause), "max_backoff": longest_pause},
        }
        with map_client_errors(self._url, "opened"):
            if self._ca_bundle:
                client["root_certificate"] = self._ca_bundle.read_bytes()
            return from_url(self._url, client_options=client, retry_config=retry)

    def _call(self, work: Callable[[], T]) -> T:
        """Return what a call of obstore returns, within `retry_seconds`."""
        began = monotonic()
        try:
            return self._call_until(began + self._retry_seconds, work)
        except Exception as error:
            # No retry begins whose pause would end too late, so the last one may be earlier by a pause.
            is_over = monotonic() - began >= self._retry_seconds - self._timeouts.longest_pause_seconds
            if is_over and _status(str(error)) not in _REFUSED:  # a refusal may be this object's
                self._expect_no_answers()
            raise

    def _call_until(self, ends_at: float, work: Callable[[], T]) -> T:
        """Call again where waiting may help, but obstore does not retry.

        It does not after a request time-out that S3 reports with 400, after a connection that broke in a deletion or in
        the body of a listing, and, until the bucket has answered, after `first_retry_seconds`.
        """
        try:
            return work()
        except Exception as error:
            if not is_temporary(error):
                raise
            from job.resilience import retry_until  # noqa: PLC0415  (whatever only reads settings starts without it)

            longest_pause = self._timeouts.longest_pause_seconds
            return retry_until(ends_at, work, error, is_temporary=is_temporary, longest_pause=longest_pause)

    def put(self, key: str, data: bytes, media_type: str | None = None, sha256: str | None = None) -> str:
        """Write an object by one request, so that no reader ever sees a part of it; return its ETag."""
        attributes: Attributes = {}
        if media_type:
            attributes["Content-Type"] = media_type
        if sha256:
            attributes["sha256"] = sha256
        with map_client_errors(f"{self._url}/{key}", "written"):
            result = self._call(lambda: self._store.put(key, data, attributes=attributes, use_multipart=False))
            return _opaque_tag(result["e_tag"])

    def list_objects(self, directory: str | None = None) -> Iterator[ObjectInfo]:
        """Yield every object, or every object whose path begins with the segments of `directory`.

        Sends one request for every 1,000 objects. Clouds need not list them by name. Where one does not, an object may
        come twice: a listing that broke begins again then.
        """
        listing = _Listing(self._store, directory)
        with map_client_errors(self._url, "listed"):
            while (objects := self._call(listing.next_page)) is not None:
                yield from objects

    def read(self, key: str) -> Iterator[bytes]:
        """Yield an object's bytes in chunks of any length; nothing if there is no such object."""
        with map_client_errors(f"{self._url}/{key}", "read"), suppress(FileNotFoundError):
            for chunk in self._call(lambda: self._store.get(key)).stream(_CHUNK_BYTES):
                yield bytes(chunk)

    def digest(self, key: str, size: int) -> tuple[str, str]:
        """Return the ETag and the sha256 of an object; both are empty if there is none of this size."""
        with map_client_errors(f"{self._url}/{key}", "read"), suppress(FileNotFoundError):
            response = self._call(lambda: self._store.get(key))
            if response.meta["size"] == size:
                hashed = sha256()
                for chunk in response.stream(_CHUNK_BYTES):
                    hashed.update(chunk)
                return _opaque_tag(response.meta["e_tag"]), hashed.hexdigest()
        return "", ""

    def delete(self, keys: Sequence[str]) -> None:
        """Delete objects, many by one request where the cloud can; a missing object is no error."""
        with map_client_errors(self._url, "deleted from"):
            self._call(lambda: self._delete(keys))

    def _delete(self, keys: Sequence[str]) -> None:
        try:
            self._store.delete(keys)
        except FileNotFoundError:  # Google and Azure stop at the first missing object
            for key in keys:
                with suppress(FileNotFoundError):
                    self._store.delete(key)


class _Listing:
    """A listing that goes on after a page that broke: behind its last object, if the cloud lists objects by name."""

    def __init__(self, store: "ObjectStore", directory: str | None) -> None:
        self._store = store
        self._directory = directory
        self._pages: ListStream[Sequence[ObjectMeta]] | None = None
        self._last = ""
        self._is_by_name = True

    def next_page(self) -> list[ObjectInfo] | None:
        """Return the objects of the next page; None after the last one. May be called again after an exception."""
        if self._pages is None:
            offset = self._last if self._last and self._is_by_name else None
            self._pages = self._store.list(self._directory, offset=offset, chunk_size=_PAGE_OBJECTS)
        try:
            page = next(self._pages, None)
        except Exception:
            self._pages = None
            raise
        if page is None:
            return None
        for item in page:
            self._is_by_name &= item["path"] > self._last
            self._last = item["path"]
        return [ObjectInfo(item["path"], item["size"], _opaque_tag(item["e_tag"])) for item in page]


def _opaque_tag(etag: str | None) -> str:
    """Return the opaque-tag of an ETag (RFC 9110, 8.8.3), as Azure quotes it in headers and not in listings."""
    return (etag or "").removeprefix("W/").strip('"')


_ONE_OBJECT_CODES = {"KeyTooLong", "KeyTooLongError", "EntityTooLarge", "InvalidResourceName", "RequestBodyTooLarge"}
"""Error codes of S3, Google Cloud Storage and Azure Blob Storage that concern one object."""
_REFUSED = {400, 403, 405, 409, 412, 423}
"""Statuses of a request that the server does not carry out. It may be this object's: a policy on a prefix, an object
that is locked or immutable."""
_TEMPORARY_STATUSES = {408, 425, 429, 500, 502, 503, 504}
_TEMPORARY_CODES = {
    "InternalError",
    "OperationAborted",
    "OperationTimedOut",
    "RequestTimeout",
    "ServerBusy",
    "ServiceUnavailable",
    "SlowDown",
    "Throttling",
    "TooManyRequests",
}
"""Error codes of S3, Google Cloud Storage and Azure Blob Storage that ask to come again, whatever the status is."""
_BROKEN = re.compile(r"IncompleteMessage|kind: Body|kind: Interrupted")
"""In obstore's debug text of a request that was sent, and whose response did not come, or not whole."""
_STATUS = re.compile(r"status code: (\d{3}[^:\n]*)")
_CODE = re.compile(r"<Code>([A-Za-z0-9.]{1,60})</Code>")
_DEBUG = "\n\nDebug source:"
_DEBUG_CAUSES = [
    (re.compile(r"kind: Timeout"), "no answer in time"),
    (re.compile(r'message: "([^"]+)"'), r"\1"),
    (re.compile(r'error: "(failed to lookup [^"]+)"'), r"\1"),
    (re.compile(r"InvalidCertificate\(\s*(\w+)"), r"certificate refused: \1"),
    (re.compile(r"IncompleteMessage|kind: Body"), "the connection broke"),
]
"""Patterns in obstore's debug text of a request without a response, and the cause that each shows."""
_CREDENTIALS_SERVER = re.compile(r"Error performing \w+ https?://(169\.254\.\d+\.\d+|sts\.[a-z0-9.-]+)")
"""A request for credentials: to a metadata server, the last resort in every cloud, an agent on the node, or STS."""
_PREAMBLE = re.compile(r"^Generic \S+ error: |Error performing .*? - ")
_SECRET = re.compile(r'(?<=[?"])[^\s"]+')
"""Text that may be secret: a URL's query can have a signature, and parts of a broken key file are quoted."""


def map_client_errors(subject: str, participle: str) -> AbstractContextManager[None]:
    """Raise "SUBJECT: cannot be PARTICIPLE: CAUSE" in place of an exception of obstore.

    It is a PathError where perhaps only one object is concerned, else a StorageError. An exception that is not
    obstore's, an interrupt or a bug of ours, passes.
    """
    from obstore.exceptions import (  # noqa: PLC0415  (imported late, see the module's docstring)
        AlreadyExistsError,
        BaseError,
        InvalidPathError,
        PreconditionError,
    )

    def path_error(error: BaseException) -> StorageError:
        return PathError(f"{subject}: cannot be {participle}: {error_cause(str(error))}")

    def storage_error(error: BaseException) -> StorageError:
        code = _CODE.search(str(error))
        if code and code[1] in _ONE_OBJECT_CODES:
            return path_error(error)
        if _status(str(error)) in _REFUSED:
            return path_error(error)
        return StorageError(f"{subject}: cannot be {participle}: {error_cause(str(error))}")

    def panic_error(error: BaseException) -> StorageError | None:
        # A panic in Rust comes as pyo3's PanicException: no Exception, and of a class that cannot be imported.
        return storage_error(error) if type(error).__name__ == "PanicException" else None

    return map_exceptions(
        {
            InvalidPathError: path_error,
            AlreadyExistsError: path_error,
            PreconditionError: path_error,
            ValueError: path_error,  # the key is invalid
            BaseError: storage_error,
            OSError: storage_error,
            BaseException: panic_error,
        }
    )


def is_temporary(error: BaseException) -> bool:
    """Return whether the same call may succeed soon: the server says so, or the connection broke after it was there."""
    text = str(error)
    summary, _, debug = text.partition(_DEBUG)
    status = _status(summary)
    if status in _TEMPORARY_STATUSES:
        return True
    if not _TEMPORARY_CODES.isdisjoint(_CODE.findall(summary)):
        return True
    return status is None and bool(_BROKEN.search(debug))


def _status(text: str) -> int | None:
    """Return the status that obstore's text about a failure names, if there was an answer."""
    status = _STATUS.search(text)
    return int(status[1][:3]) if status else None


def error_cause(text: str) -> str:
    """Return the cause of a failure from obstore's text about it, pages long: at most 300 characters, no secret."""
    summary, _, debug = text.partition(_DEBUG)
    server = _CREDENTIALS_SERVER.search(summary)
    cause = _request_cause(summary, debug)
    return f"no credentials from {server[1]}: {cause}"[:300] if server else cause


def _request_cause(summary: str, debug: str) -> str:
    status = _STATUS.search(summary)
    if status:
        code = _CODE.search(summary)
        suffix = f" ({code[1]})" if code else ""
        return status[1].strip() + suffix
    for pattern, words in _DEBUG_CAUSES:
        match = pattern.search(debug)
        if match:
            return match.expand(words)
    first_line = summary.split("\n", 1)[0]
    return _SECRET.sub("...", _PREAMBLE.sub("", first_line))[:300]
