"""The destination of a run: a directory, generations or a bucket, each with its storage and its manifest."""

import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import ExitStack, closing, suppress
from dataclasses import replace
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from secrets import token_hex
from time import monotonic

from job.atomic_write import map_os_errors, replacing
from job.errors import StorageError
from job.exit_code import ExitCode, outcome_name
from job.file_table import FileTable
from job.inputs import Inputs
from job.layout import (
    CHANGES_DIRECTORY,
    CHANGES_FILES,
    CHECKSUM_VERSIONS_DIRECTORY,
    CHECKSUMS,
    CHECKSUMS_FILES,
    CLOCK_TOLERANCE,
    LOCK,
    OWN_DIRECTORY,
    Shard,
    is_bucket,
    manifest_name,
    name_folding,
    segments_prefix,
    sortable_time,
)
from job.manifest import DEMO_SERVER, Manifest, ManifestScope
from job.model import Stored
from job.settings import Publish, Settings
from job.storage import (
    DEFAULT_TIMEOUTS,
    BucketStorage,
    DirectoryStorage,
    GenerationStorage,
    Storage,
    scratch_directory,
)

_UPLOAD_RESULTS = 1000
_UPLOAD_SECONDS = 10.0
"""After so many results, or with the first result after so long, a bucket's manifest is uploaded: a killed run loses
no more than that."""
_SEGMENT_BYTES = 8 * 1024 * 1024
_MAX_SEGMENTS = 20
"""How many segments a manifest may have, beside one for each 8 MiB, before it is compacted."""
_KEPT_CHANGES = 10
_LISTED_URLS = "URLs of a list"
"""What the manifest has for an origin if only the list says where the files are."""


class Destination(ABC):
    """Where one run writes. `open` and `close` are called once each; between them threads may use the storage."""

    storage: Storage
    manifest: Manifest
    folded: FileTable | None = None
    """After `open`, where the destination takes different names for one file: the table by which items must be unique,
    too (`codes.refuse_folded`)."""

    @abstractmethod
    def open(self, *, accept_new_origin: bool) -> None:
        """Get ready; raise StorageError if it is not writable, UsageError if it was filled from another origin."""

    def count_results(self, number: int) -> Callable[[], None] | None:
        """Count so many more results in the manifest, and return the upload that is due, if any.

        The caller runs it, since it may take long. A manifest in a local file has nothing to upload.
        """
        del number
        return None

    @abstractmethod
    def close(self, *, publish: bool) -> bool:
        """Make everything durable, and return whether readers see it; raise StorageError where that fails.

        `publish` says whether a set of files may be shown; where files are visible one by one it does not matter.
        """

    @abstractmethod
    def write_report(self, name: str, page: bytes) -> None:
        """Write the page of a run, whole or not at all, below the own directory; raise StorageError.

        With sets it lies beside the generations: it is also about those that were not published.
        """


def destination_for(settings: Settings, inputs: Inputs, stack: ExitStack, table: FileTable) -> Destination:
    """Return the destination that the settings name; `stack` removes its temporary directory after the run.

    `table` is the one by which the inputs are unique.
    """
    origin = DEMO_SERVER if inputs.built_in else inputs.template.origin or _LISTED_URLS
    shard = Shard(settings.shard_index, settings.shard_count)
    scope = ManifestScope(origin, shard, table, settings.url_ignore_query)
    if is_bucket(settings.dest):
        scratch = scratch_directory(stack)
        return BucketDestination(_bucket_storage(settings, scratch), scratch, scope)
    root = Path(settings.dest)
    required_free_bytes = min(settings.workers, inputs.known or settings.workers) * settings.max_bytes
    if settings.publish is Publish.SET:
        return GenerationDestination(root, settings.keep, scope, required_free_bytes)
    return DirectoryDestination(root, scope, required_free_bytes)


def _bucket_storage(settings: Settings, scratch: Path) -> BucketStorage:
    retry_seconds = min(DEFAULT_TIMEOUTS.retry_seconds, settings.item_timeout)
    timeouts = replace(DEFAULT_TIMEOUTS, retry_seconds=retry_seconds)
    ca_bundle = Path(settings.ca_bundle) if settings.ca_bundle else None
    return BucketStorage(settings.dest, scratch / "bodies", timeouts=timeouts, ca_bundle=ca_bundle)


def _write_own_file(directory: Path, name: str, data: bytes) -> None:
    with map_os_errors(directory):
        directory.mkdir(exist_ok=True)
    with replacing(directory / name, directory / LOCK) as file:
        file.write(data)


def _folded_table(root: Path) -> FileTable | None:
    """Return a table that folds names as the file system of a directory does, or None if that keeps them apart."""
    fold = name_folding(root)
    return None if fold is None else FileTable(fold)


class DirectoryDestination(Destination):
    """A directory: readers see each file as soon as it is published."""

    def __init__(self, root: Path, scope: ManifestScope, required_free_bytes: int = 0) -> None:
        self._directory = DirectoryStorage(root, required_free_bytes)
        self.storage = self._directory
        self.manifest = Manifest(root / OWN_DIRECTORY, root / CHECKSUMS, scope)

    def open(self, *, accept_new_origin: bool) -> None:
        """Open the storage, then the manifest."""
        self._directory.open()
        self.folded = _folded_table(self._directory.root)
        self.manifest.open(accept_new_origin=accept_new_origin, table=self.folded)

    def close(self, *, publish: bool) -> bool:
        """Make the names of files and the manifest durable."""
        del publish
        # The files before the checksums, which the manifest writes when it is closed: a power cut in between must not
        # leave a durable SHA256SUMS that lists a file whose name it took back.
        self._directory.sync()
        self.manifest.close()
        return True

    def write_report(self, name: str, page: bytes) -> None:
        """Write the page beside the manifest."""
        _write_own_file(self._directory.own_directory, name, page)


class GenerationDestination(Destination):
    """A generation: readers see all files of a run at once, with their manifest, or none."""

    def __init__(self, root: Path, keep: int, scope: ManifestScope, required_free_bytes: int = 0) -> None:
        self._generation = GenerationStorage(root, keep, required_free_bytes)
        self._changes_directory = root / OWN_DIRECTORY
        self.storage = self._generation
        self.manifest = Manifest(self._generation.own_directory, self._generation.root / CHECKSUMS, scope)

    def open(self, *, accept_new_origin: bool) -> None:
        """Prepare a generation; it is abandoned if it must not be filled from this origin."""
        with ExitStack() as on_failure:
            on_failure.callback(self._generation.abandon)
            self._generation.open()
            self.folded = _folded_table(self._generation.root)
            self.manifest.open(accept_new_origin=accept_new_origin, table=self.folded)
            on_failure.pop_all()

    def close(self, *, publish: bool) -> bool:
        """Publish the generation or abandon it; in both cases its changes can be read beside the generations."""
        with ExitStack() as on_failure:
            on_failure.callback(self._generation.abandon)
            self.manifest.close()
            # Before the flip, which nothing may follow that takes time or can fail.
            is_copied = self._copy_changes()
            if publish:
                if is_copied:
                    on_failure.callback(self._amend_changes)
                self._generation.commit()
                on_failure.pop_all()
        return publish

    def write_report(self, name: str, page: bytes) -> None:
        """Write the page beside the copies of the changes."""
        _write_own_file(self._changes_directory, name, page)

    def _copy_changes(self) -> bool:
        """Copy the list of changes to where it outlives an abandoned generation, beside those of earlier runs.

        Returns whether that succeeded.
        """
        with suppress(OSError, StorageError):  # a convenience for users: a run does not fail for it
            self._changes_directory.mkdir(exist_ok=True)
            self.manifest.copy_changes(self._changes_directory)
            return True
        return False

    def _amend_changes(self) -> None:
        """Correct the copy: the generation could not be published after its changes said how the run had ended."""
        with suppress(StorageError):
            code = ExitCode.STORAGE
            facts = {"outcome": outcome_name(code), "exit_code": code}
            self.manifest.amend_copied_changes(self._changes_directory, facts)


class BucketDestination(Destination):
    """A bucket: readers see each object as soon as it is put. The manifest is a local copy, uploaded as segments.

    A segment is an object with a header and whole lines; the segments of a shard, in the order of their names, are
    its manifest. What a killed run recorded in its last 1,000 results or 10 seconds is downloaded again.
    """

    def __init__(
        self,
        bucket: BucketStorage,
        scratch: Path,
        scope: ManifestScope,
        *,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        """Take the storage, a local directory that is empty but for its own, and a clock that counts seconds."""
        self._bucket = bucket
        self.storage = self._bucket
        self.manifest = Manifest(scratch / OWN_DIRECTORY, scratch / CHECKSUMS, scope)
        self._scratch = scratch
        self._copy = scratch / OWN_DIRECTORY / manifest_name(scope.shard)
        self._prefix = segments_prefix(scope.shard)
        self._segments: list[str] = []
        self._latest_segment = ""
        self._uploaded_bytes = 0
        self._results = 0
        self._clock = clock
        self._uploaded_at = clock()
        self._upload_failed = False

    def open(self, *, accept_new_origin: bool) -> None:
        """Download the manifest; those of another number of shards only if this shard has none."""
        self._bucket.open()
        self._segments = self._bucket.state.download_manifests(self._copy.parent, self._prefix)
        self._latest_segment = max(self._segments, default="")
        header = self._header()
        self.manifest.open(accept_new_origin=accept_new_origin)
        if self._segments:
            self._uploaded_bytes = self._copy_size
            if self._header() != header:
                # A new origin was accepted. The segments still name the old one, and the next run would refuse them.
                self._compact()

    def count_results(self, number: int) -> Callable[[], None] | None:
        """Count results; return the upload of the manifest after 1,000 results or 10 seconds, if none has failed.

        Otherwise, with a server that does not answer, every further result would wait for one more time-out.
        """
        self._results += number
        is_due = self._results >= _UPLOAD_RESULTS or self._clock() - self._uploaded_at >= _UPLOAD_SECONDS
        return self._try_upload if is_due and not self._upload_failed else None

    def close(self, *, publish: bool) -> bool:
        """Upload the rest, compact the segments where it pays, then upload the changes and the checksums."""
        del publish
        self._upload()
        size = self._copy_size
        self.manifest.close()
        # Smaller than before: the manifest has dropped superseded lines, which the segments still have.
        if self._copy_size < size or len(self._segments) > _MAX_SEGMENTS + size // _SEGMENT_BYTES:
            self._compact()
        self._upload_changes()
        self._upload_checksums()
        return True

    def write_report(self, name: str, page: bytes) -> None:
        """Put the page as an object."""
        self._bucket.state.write(name, page, "text/html; charset=utf-8")

    @property
    def _copy_size(self) -> int:
        return self._copy.stat().st_size

    def _header(self) -> bytes:
        """Return the first line of the local copy; nothing if there is none."""
        with map_os_errors(self._copy), suppress(FileNotFoundError), self._copy.open("rb") as file:
            return file.readline()
        return b""

    def _try_upload(self) -> None:
        # Set first and cleared at the end, so that it stays set after an exception and when the caller gives up
        # waiting for a server.
        self._upload_failed = True
        self._upload()
        self._upload_failed = False

    def _upload(self) -> None:
        """Write the lines of the local copy that no segment has to new segments of at most about 8 MiB."""
        with map_os_errors(self._copy), self._copy.open("rb") as file:
            header = file.readline()
            file.seek(max(self._uploaded_bytes, len(header)))
            while lines := file.readlines(_SEGMENT_BYTES):
                # The order of the names is that of the lines, also where a clock was ahead and has been set right.
                time = sortable_time(datetime.now(UTC), after=self._latest_segment.removeprefix(self._prefix))
                name = f"{self._prefix}{time}-{token_hex(4)}"
                self._bucket.state.write(name, header + b"".join(lines))
                self._segments.append(name)
                self._latest_segment = name
                self._uploaded_bytes = file.tell()
        self._results = 0
        self._uploaded_at = self._clock()

    def _compact(self) -> None:
        """Upload all of the local copy, then delete the segments that it replaces; never the other way round.

        A crash in between leaves lines twice, of which the last counts.
        """
        replaced = self._segments
        self._segments = []
        self._uploaded_bytes = 0
        self._upload()
        self._bucket.state.delete(replaced)

    def _upload_changes(self) -> None:
        """Upload this run's changes, and keep those of nine earlier runs."""
        state = self._bucket.state
        now = datetime.now(UTC)
        for path in self._copy.parent.glob(CHANGES_FILES):
            stem = f"{CHANGES_DIRECTORY}/{path.stem}"
            with map_os_errors(path):
                state.write(f"{stem}-{sortable_time(now)}{path.suffix}", path.read_bytes())
            same_shard = [name for name in state.list_names(CHANGES_DIRECTORY) if name.rpartition("-")[0] == stem]
            # Times to come are those of a clock that was ahead: they go first, or they would keep out all later ones.
            horizon = f"{stem}-{sortable_time(now + CLOCK_TOLERANCE)}"
            to_come = [name for name in same_shard if name >= horizon]
            others = [name for name in same_shard if name < horizon]
            state.delete([*to_come, *others][:-_KEPT_CHANGES])

    def _upload_checksums(self) -> None:
        """Upload the checksums, unless the object has the same lines in some order and nobody has replaced it."""
        state = self._bucket.state
        for path in self._scratch.glob(CHECKSUMS_FILES):
            with map_os_errors(path), path.open("rb") as file, closing(self.storage.new_body()) as body:
                # The sum of the lines' digests does not depend on their order, which is that of the results.
                fingerprint = f"{sum(int.from_bytes(sha256(line).digest()) for line in file):x}"
                record = f"{CHECKSUM_VERSIONS_DIRECTORY}/{path.name}"
                recorded = b"".join(state.read(record)).decode()
                former, version, digest = f"{recorded}  ".split(" ")[:3]
                uploaded = Stored(path.name, file.tell(), digest, None, version=version)
                if former == fingerprint and self.storage.is_intact(uploaded):
                    continue
                verified = self.storage.verified_version(uploaded) if former == fingerprint else None
                if verified is None:
                    file.seek(0)
                    shutil.copyfileobj(file, body)
                    verified = self.storage.publish(body, path.name, "text/plain")
                    digest = body.sha256
                state.write(record, f"{fingerprint} {verified} {digest}".encode())
