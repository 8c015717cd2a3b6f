"""The door to obstore: one prefix in a bucket of S3, Google Cloud Storage or Azure."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from obstore.store import from_url

from job import __version__
from job.layout import BucketLocation
from job.storage.place import BucketTimeouts
from job.storage.refusal import told

if TYPE_CHECKING:
    from obstore import Attributes
    from obstore.store import ClientConfig, RetryConfig

_PAGE_OBJECTS = 1000  # what a server gives at once (S3, ListObjectsV2)
_CHUNK_BYTES = 1 << 20
_FIRST_PAUSE, _LONGEST_PAUSE = timedelta(seconds=0.2), timedelta(seconds=2)


@dataclass(frozen=True, slots=True)
class Found:
    """An object in a listing: its path below the prefix, its size in bytes, its ETag."""

    path: str
    size: int
    etag: str


class Bucket:
    """A prefix in a bucket. Thread-safe; the connections are shared, and calls wait without holding up other threads.

    Every method raises PathError for what concerns one object only, and StorageError for all else.
    """

    def __init__(self, location: BucketLocation, patience: BucketTimeouts, ca_bundle: Path | None) -> None:
        """Read the credentials from the environment; no request is sent. `ca_bundle` adds to the system's."""
        self._url = location.url
        client: ClientConfig = {
            "allow_http": True,  # only where an endpoint begins with http://, as with the AWS command line
            "connect_timeout": timedelta(seconds=patience.connect_seconds),
            "timeout": timedelta(seconds=patience.request_seconds),
            "user_agent": f"flagjob/{__version__}",
        }
        retry: RetryConfig = {
            "max_retries": patience.retries,
            "retry_timeout": timedelta(seconds=patience.retry_seconds),
            "backoff": {"init_backoff": _FIRST_PAUSE, "max_backoff": _LONGEST_PAUSE},
        }
        with told(self._url, "opened"):
            if ca_bundle:
                client["root_certificate"] = ca_bundle.read_bytes()
            self._store = from_url(self._url, client_options=client, retry_config=retry)

    def put(self, key: str, data: bytes, media_type: str | None = None, sha256: str | None = None) -> str:
        """Write an object by one request, so that nobody ever sees a part of it; return its ETag."""
        attributes: Attributes = {}
        if media_type:
            attributes["Content-Type"] = media_type
        if sha256:
            attributes["sha256"] = sha256
        with told(f"{self._url}/{key}", "written"):
            return _opaque(self._store.put(key, data, attributes=attributes, use_multipart=False)["e_tag"])

    def objects(self, below: str | None = None) -> Iterator[Found]:
        """Give every object whose path begins with the segments of `below`, by pages of 1,000."""
        with told(self._url, "listed"):
            for page in self._store.list(below, chunk_size=_PAGE_OBJECTS):
                for item in page:
                    yield Found(item["path"], item["size"], _opaque(item["e_tag"]))

    def read(self, key: str) -> Iterator[bytes]:
        """Give an object's bytes by and by; nothing if it is not there."""
        with told(f"{self._url}/{key}", "read"), suppress(FileNotFoundError):
            for chunk in self._store.get(key).stream(_CHUNK_BYTES):
                yield bytes(chunk)

    def delete(self, keys: Sequence[str]) -> None:
        """Delete objects, many by one request where the cloud can; one that is not there is as good as deleted."""
        with told(self._url, "deleted from"):
            try:
                self._store.delete(keys)
            except FileNotFoundError:  # Google and Azure stop at it
                self._delete_each(keys)

    def _delete_each(self, keys: Sequence[str]) -> None:
        for key in keys:
            with suppress(FileNotFoundError):
                self._store.delete(key)


def _opaque(etag: str | None) -> str:
    """Return what an ETag says (RFC 9110, 8.8.3): Azure's listing leaves out the quotes that its headers have."""
    return (etag or "").removeprefix("W/").strip('"')
