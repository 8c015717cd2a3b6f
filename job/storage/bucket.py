"""Storage in a bucket of S3, Google Cloud Storage or Azure: an object for each file, each put by one request."""

import os
from array import array
from bisect import bisect_left, insort
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from secrets import token_hex
from tempfile import TemporaryDirectory
from threading import Lock

from job.atomic_write import map_os_errors
from job.body import Body, temporary_stem
from job.errors import Fault, PathError, StorageError, UsageError
from job.layout import (
    OWN_DIRECTORY,
    PROBE_PREFIX,
    SEGMENTS_DIRECTORY,
    BucketLocation,
    Shard,
    manifest_name,
    shards_of_segments,
)
from job.model import Stored
from job.storage.bucket_client import DEFAULT_TIMEOUTS, BucketClient, BucketTimeouts

_CREDENTIAL_PREFIXES = {"s3": "AWS_", "gs": "GOOGLE_BEARER_TOKEN", "az": "AZURE_"}
"""Prefixes of the variables whose values are sent as they are; Google's others name files, or contain JSON."""
_OTHER_ETAGS = "its listing has other ETags than were recorded, for the same bytes: their digests were compared"
_SHELVES = 1024
"""An insertion moves what follows it on its shelf: 4 kB with a million objects."""


class BucketStorage:
    """A prefix in a bucket of S3, Google Cloud Storage or Azure Blob Storage.

    `new_body`, `publish` and `is_intact` may be called by any thread, once `open` has returned.

    Credentials, region and endpoint come from each cloud's environment variables, as obstore reads them:
    AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN, AWS_REGION or AWS_DEFAULT_REGION, AWS_ENDPOINT_URL
    or AWS_ENDPOINT_URL_S3, the roles of EKS, ECS and EC2 (no profiles from ~/.aws); GOOGLE_APPLICATION_CREDENTIALS
    or the metadata server; AZURE_STORAGE_ACCOUNT_NAME with AZURE_STORAGE_ACCOUNT_KEY, AZURE_STORAGE_SAS_TOKEN, a
    client secret or a federated token. An endpoint without TLS is used where its variable begins with http://.
    HTTPS_PROXY and NO_PROXY are honoured.
    """

    may_block_long = True

    def __init__(
        self, url: str, scratch: Path, *, timeouts: BucketTimeouts = DEFAULT_TIMEOUTS, ca_bundle: Path | None = None
    ) -> None:
        """Take the URL, a local directory for bodies above 64 KiB, and certificate authorities beside the system's.

        Raises UsageError for an invalid URL, for credentials that cannot be sent, and where obstore is missing.
        """
        self._location = _usable_location(url)
        self._scratch = scratch
        self._temporary_stem = temporary_stem(scratch)
        self._body_numbers = count()
        self._timeouts = timeouts
        self._ca_bundle = ca_bundle
        self._listing = ObjectListing()
        self._listed_etags: dict[str, str] = {}
        """The ETag of each path, if the store lists others than it gives when an object is put."""
        self.on_limitation: Callable[[str], None] = lambda _: None
        """Called, by any thread and perhaps often, with what the bucket does in its own way."""

    def open(self) -> None:
        """Prove with an object that the bucket is writable, and list it; raise StorageError if one of them fails.

        Listing takes a request for every 1,000 objects below the prefix, and 8 bytes of memory for each of them. A
        store whose listing shows another ETag than the put of the probe gave is listed twice, and takes the memory of
        all paths and ETags.
        """
        with map_os_errors(self._scratch):
            self._scratch.mkdir(parents=True, exist_ok=True)
        self._client = BucketClient(self._location, self._timeouts, self._ca_bundle)
        probe, etag = self._put_probe()
        self._client.expect_answers()
        probes = {probe}
        lists_other_etags = False
        for found in self._client.list_objects():
            if found.path.startswith(PROBE_PREFIX):
                # The probe of a run that was killed here, or of another one that starts now. That run has put its
                # probe, which is all that it wanted to know, and deleting it twice is no error.
                probes.add(found.path)
                lists_other_etags |= found.path == probe and found.etag != etag
            else:
                self._listing.add(found.path, found.size, found.etag)
        self._client.delete(sorted(probes))
        if lists_other_etags:
            self._listed_etags = {found.path: found.etag for found in self._client.list_objects()}

    def _put_probe(self) -> tuple[str, str]:
        """Put an object that the caller deletes; return its path and its ETag. Raises StorageError if that fails."""
        probe = f"{PROBE_PREFIX}{token_hex(8)}"
        return probe, self._client.put(probe, b"flagjob\n")

    @property
    def state(self) -> "StateObjects":
        """The objects of flagjob's own, beside the files."""
        return StateObjects(self._client)

    def new_body(self) -> Body:
        """Return an empty body; nothing of it is in the bucket until it is published."""
        return Body(f"{self._temporary_stem}{next(self._body_numbers)}")  # `next` of a counter is atomic

    def publish(self, body: Body, file: str, media_type: str | None) -> str:
        """Put a body into the bucket and return the object's ETag: it appears whole, or, with StorageError, not at all.

        The object is durable then; an older object of that name is replaced. All of the body is in memory meanwhile.
        After an error whose response was lost the new object may be there nonetheless, whole. It is a PathError where
        the bucket refuses only this object.
        """
        body.rewind()
        with map_os_errors(self._scratch):
            data = body.read()
        try:
            etag = self._client.put(file, data, media_type, body.sha256)
        except PathError as error:
            self._raise_for_all(error)
            raise
        self._listing.add(file, body.size, etag)
        return etag

    def _raise_for_all(self, error: PathError) -> None:
        """Raise the error of one object as a StorageError if the bucket refuses a probe, too: then it refuses all."""
        try:
            probe, _ = self._put_probe()
            self._client.delete([probe])
        except StorageError as cause:
            raise StorageError(str(error)) from cause

    def is_intact(self, stored: Stored) -> bool:
        """Return whether an object is as it was published, by size and ETag.

        It is compared with the listing that `open` made and `publish` adds to.

        Sends no request: a million items would be a million requests.
        """
        if stored.version is None:
            return False
        return self._listing.contains(stored.path, stored.bytes, stored.version)

    def verified_version(self, stored: Stored) -> str | None:
        """Return the ETag that the listing has of an object with another one than was recorded, but the same bytes.

        That is an object that was copied or encrypted anew, or any in a store whose listing shows other ETags. One
        request reads it; None if it has other bytes, or is not there, or nothing vouches for it.
        """
        if stored.version is None:
            return None
        try:
            etag, digest = self._client.digest(stored.path, stored.bytes)
        except PathError:
            return None
        if not digest or digest != stored.sha256:
            return None
        self.on_limitation(_OTHER_ETAGS)
        return self._listed_etags.get(stored.path, etag)


class ObjectListing:
    """The objects of a bucket, in eight bytes each: their paths, sizes and ETags as 64-bit hashes. Thread-safe.

    The chance that an object is taken for one of a million others is 1 in 10**13.
    """

    def __init__(self) -> None:
        self._shelves = [array("Q") for _ in range(_SHELVES)]
        """Sorted hashes; each lies on the shelf of its remainder."""
        # Keeps a worker that publishes an object from moving the hashes of a shelf between the two steps of another
        # worker that has found the index of a hash and not yet read what is there.
        self._lock = Lock()

    def add(self, path: str, size: int, etag: str) -> None:
        """Add an object; an older version of it remains, too."""
        key = _object_hash(path, size, etag)
        with self._lock:
            insort(self._shelves[key % _SHELVES], key)

    def contains(self, path: str, size: int, etag: str) -> bool:
        """Return whether an object was added with just this size and ETag."""
        key = _object_hash(path, size, etag)
        shelf = self._shelves[key % _SHELVES]
        with self._lock:
            index = bisect_left(shelf, key)
            return index < len(shelf) and shelf[index] == key


def _object_hash(path: str, size: int, etag: str) -> int:
    return hash((path, size, etag)) % 2**64


class StateObjects:
    """The objects of flagjob's own under `PREFIX/.flagjob/`, by their names below it. Thread-safe.

    An object cannot be appended to, so a file that grows is written as segments, such as
    `manifest/0-of-1/20261122T041700.000000Z-3f9c12ab`: each is there whole or not at all, and stays when its writer is
    killed. Compaction writes the new segment first and deletes those that it replaces after that: a crash in between
    leaves lines twice, never none. Two pods may do this at once, so each name has a random part, and a segment that
    another pod has deleted reads as empty. Every method raises StorageError where the bucket fails.
    """

    def __init__(self, client: BucketClient) -> None:
        self._client = client

    def list_names(self, directory: str) -> list[str]:
        """Return the names that begin with the segments of `directory` (`a` has `a/b`, not `ab`), in order."""
        root = f"{OWN_DIRECTORY}/"
        return sorted({found.path.removeprefix(root) for found in self._client.list_objects(root + directory)})

    def read(self, name: str) -> Iterator[bytes]:
        """Yield an object's bytes in chunks of any length, not in lines; nothing if there is no such object."""
        return self._client.read(f"{OWN_DIRECTORY}/{name}")

    def write(self, name: str, data: bytes, media_type: str | None = None) -> None:
        """Write an object or replace it; it is durable when this returns."""
        self._client.put(f"{OWN_DIRECTORY}/{name}", data, media_type)

    def delete(self, names: Sequence[str]) -> None:
        """Delete objects; a missing one is no error."""
        self._client.delete([f"{OWN_DIRECTORY}/{name}" for name in names])

    def download_manifests(self, directory: Path, prefix: str = "") -> list[str]:
        """Append each segment of a manifest to a local copy of it, and return the names of those that `prefix` begins.

        Only those are downloaded, or all if there are none. `directory` is made.
        """
        with map_os_errors(directory):
            directory.mkdir(parents=True)
        # Another pod may compact the segments meanwhile: one that it deletes after our listing reads as empty, but
        # its lines are in a segment that was written before. So list again until there is nothing new.
        seen: list[str] = []
        while True:
            new = {name: shard for name, shard in self._list_segments(prefix).items() if name not in seen}
            if not new:
                break
            for name, shard in new.items():
                path = directory / manifest_name(shard)
                with map_os_errors(path), path.open("ab") as file:
                    file.writelines(self.read(name))
            seen.extend(new)
        return [name for name in seen if name.startswith(prefix)]

    def _list_segments(self, prefix: str) -> dict[str, Shard]:
        """Return the segments that a prefix begins, in order; if there are none, those of every shard."""
        segments = shards_of_segments(self.list_names(SEGMENTS_DIRECTORY))
        own = {name: shard for name, shard in segments.items() if name.startswith(prefix)}
        return own or segments


def open_state(url: str, ca_bundle: Path | None) -> StateObjects:
    """Return the objects of flagjob's own in a bucket, to be read only: unlike `BucketStorage.open`, write nothing.

    Raises UsageError as BucketStorage does.
    """
    return StateObjects(BucketClient(_usable_location(url), DEFAULT_TIMEOUTS, ca_bundle))


def scratch_directory(stack: ExitStack) -> Path:
    """Return a temporary directory for what goes into or comes out of a bucket; the stack removes it."""
    try:
        return Path(stack.enter_context(TemporaryDirectory(prefix="flagjob-")))
    except OSError as error:
        problem = f"must be a directory that can be written, for what goes into a bucket ({error.strerror})"
        raise UsageError(Fault("TMPDIR", None, problem)) from error


def _usable_location(url: str) -> BucketLocation:
    """Return the location that a bucket's URL names; raise UsageError for whatever no request could succeed with."""
    location = location_of(url)
    check_credentials(location, os.environ)
    if find_spec("obstore") is None:
        raise UsageError(Fault("FLAGJOB_DEST", url, "buckets need obstore: pip install 'flagjob[objects]'"))
    return location


def check_credentials(location: BucketLocation, environment: Mapping[str, str]) -> None:
    """Raise UsageError for variables with a control character, such as the line break of a secret made by `echo`.

    obstore would fail with a message about header values that names no variable.
    """
    prefix = _CREDENTIAL_PREFIXES[location.scheme]
    names = sorted(name for name in environment if name.startswith(prefix) and not environment[name].isprintable())
    if names:
        raise UsageError(*(Fault(name, None, "has a line break or another control character") for name in names))


def location_of(url: str) -> BucketLocation:
    """Return the location that a bucket's URL names; raise UsageError if the URL is invalid."""
    try:
        return BucketLocation.parse(url)
    except ValueError as error:
        shown = None if "@" in url else url  # the text before an @ may be a password
        raise UsageError(Fault("FLAGJOB_DEST", shown, str(error))) from error
