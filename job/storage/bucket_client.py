"""The client of object stores: the one door to obstore, with its exceptions translated to StorageError.

obstore takes 20 ms and 7 MB, so only runs with a bucket import it: when the first client is made.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from datetime import timedelta
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from job import __version__
from job.errors import PathError, StorageError, map_exceptions
from job.layout import BucketLocation

if TYPE_CHECKING:
    from obstore import Attributes
    from obstore.store import ClientConfig, RetryConfig

_PAGE_OBJECTS = 1000  # the most that a server lists at once (S3, ListObjectsV2)
_CHUNK_BYTES = 1 << 20
_FIRST_BACKOFF = timedelta(seconds=0.2)
_MAX_BACKOFF = timedelta(seconds=2)


@dataclass(frozen=True, slots=True, kw_only=True)
class BucketTimeouts:
    """How long one operation on a bucket may take: no longer than `retry_seconds` and one more request."""

    connect_seconds: float = 5.0
    """From the name look-up to the connection."""
    request_seconds: float = 30.0
    """From the connect to the last byte of the response."""
    retries: int = 2
    """Retries after a failed connection, a time-out or a 5xx (the AWS SDKs' standard mode: 3 attempts in all)."""
    retry_seconds: float = 10.0
    """No retry begins later than this after the first request."""


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
        from obstore.store import from_url  # noqa: PLC0415  (imported late, see the module's docstring)

        self._url = location.url
        client: ClientConfig = {
            "allow_http": True,  # only where an endpoint begins with http://, as with the AWS command line
            "connect_timeout": timedelta(seconds=timeouts.connect_seconds),
            "timeout": timedelta(seconds=timeouts.request_seconds),
            "user_agent": f"flagjob/{__version__}",
        }
        retry: RetryConfig = {
            "max_retries": timeouts.retries,
            "retry_timeout": timedelta(seconds=timeouts.retry_seconds),
            "backoff": {"init_backoff": _FIRST_BACKOFF, "max_backoff": _MAX_BACKOFF},
        }
        with map_client_errors(self._url, "opened"):
            if ca_bundle:
                client["root_certificate"] = ca_bundle.read_bytes()
            self._store = from_url(self._url, client_options=client, retry_config=retry)

    def put(self, key: str, data: bytes, media_type: str | None = None, sha256: str | None = None) -> str:
        """Write an object by one request, so that no reader ever sees a part of it; return its ETag."""
        attributes: Attributes = {}
        if media_type:
            attributes["Content-Type"] = media_type
        if sha256:
            attributes["sha256"] = sha256
        with map_client_errors(f"{self._url}/{key}", "written"):
            return _opaque_tag(self._store.put(key, data, attributes=attributes, use_multipart=False)["e_tag"])

    def list_objects(self, directory: str | None = None) -> Iterator[ObjectInfo]:
        """Yield every object, or every object whose path begins with the segments of `directory`.

        Sends one request for every 1,000 objects. Clouds need not list them by name.
        """
        with map_client_errors(self._url, "listed"):
            for page in self._store.list(directory, chunk_size=_PAGE_OBJECTS):
                for item in page:
                    yield ObjectInfo(item["path"], item["size"], _opaque_tag(item["e_tag"]))

    def read(self, key: str) -> Iterator[bytes]:
        """Yield an object's bytes in chunks of any length; nothing if there is no such object."""
        with map_client_errors(f"{self._url}/{key}", "read"), suppress(FileNotFoundError):
            for chunk in self._store.get(key).stream(_CHUNK_BYTES):
                yield bytes(chunk)

    def digest(self, key: str, size: int) -> tuple[str, str]:
        """Return the ETag and the sha256 of an object; both are empty if there is none of this size."""
        with map_client_errors(f"{self._url}/{key}", "read"), suppress(FileNotFoundError):
            response = self._store.get(key)
            if response.meta["size"] == size:
                hashed = sha256()
                for chunk in response.stream(_CHUNK_BYTES):
                    hashed.update(chunk)
                return _opaque_tag(response.meta["e_tag"]), hashed.hexdigest()
        return "", ""

    def delete(self, keys: Sequence[str]) -> None:
        """Delete objects, many by one request where the cloud can; a missing object is no error."""
        with map_client_errors(self._url, "deleted from"):
            try:
                self._store.delete(keys)
            except FileNotFoundError:  # Google and Azure stop at the first missing object
                self._delete_each(keys)

    def _delete_each(self, keys: Sequence[str]) -> None:
        for key in keys:
            with suppress(FileNotFoundError):
                self._store.delete(key)


def _opaque_tag(etag: str | None) -> str:
    """Return the opaque-tag of an ETag (RFC 9110, 8.8.3), as Azure quotes it in headers and not in listings."""
    return (etag or "").removeprefix("W/").strip('"')


_ONE_OBJECT_CODES = {"KeyTooLong", "KeyTooLongError", "EntityTooLarge", "InvalidResourceName", "RequestBodyTooLarge"}
"""Error codes of S3, Google Cloud Storage and Azure Blob Storage that concern one object."""
_REFUSED = {400, 403, 405, 409, 412, 423}
"""Statuses of a request that the server does not carry out. It may be this object's: a policy on a prefix, an object
that is locked or immutable."""
_STATUS = re.compile(r"status code: (\d{3}[^:\n]*)")
_CODE = re.compile(r"<Code>([A-Za-z0-9.]{1,60})</Code>")
_DEBUG_CAUSES = [
    (re.compile(r"kind: Timeout"), "no answer in time"),
    (re.compile(r'message: "([^"]+)"'), r"\1"),
    (re.compile(r'error: "(failed to lookup [^"]+)"'), r"\1"),
    (re.compile(r"InvalidCertificate\(\s*(\w+)"), r"certificate refused: \1"),
    (re.compile(r"IncompleteMessage|kind: Body"), "the connection broke"),
]
"""Patterns in obstore's debug text of a request without a response, and the cause that each shows."""
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
        status = _STATUS.search(str(error))
        if status and int(status[1][:3]) in _REFUSED:
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


def error_cause(text: str) -> str:
    """Return the cause of a failure from obstore's text about it, pages long: at most 300 characters, no secret."""
    summary, _, debug = text.partition("\n\nDebug source:")
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
