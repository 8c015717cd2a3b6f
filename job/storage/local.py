"""A local directory: a file under its final name is whole, and the last good copy survives any failure."""

import shutil
import time
from contextlib import closing, suppress
from pathlib import Path
from secrets import token_hex
from stat import S_ISREG
from threading import Lock

from job.atomic_write import lock, map_os_errors, sync_directory
from job.body import Body
from job.errors import StorageError
from job.layout import OWN_DIRECTORY
from job.model import Stored

_DIRECTORIES_KEPT = 1000
SWEPT_SECONDS = 60
"""A draft is locked and named a moment after it was made and closed: so long it may look as if nobody had it."""


class DirectoryStorage:
    """A directory. `new_body` and `publish` may be called by any thread, all else by one at a time."""

    def __init__(self, root: Path, room: int = 0) -> None:
        """Take the directory, and how many bytes may have to be there at once beside what it holds already."""
        self.root = root
        """Where the files are."""
        self.own = root / OWN_DIRECTORY
        """Where what flagjob remembers of them is."""
        self._room = room
        self._drafts = root / OWN_DIRECTORY / "tmp"
        self._unsynced: set[Path] = set()  # directories with names that a power cut could take back
        self._syncing = Lock()  # guards it

    def open(self) -> None:
        """Make the directory, and show by a file that it can be written; raise StorageError if not."""
        with map_os_errors(self._drafts):
            self._drafts.mkdir(parents=True, exist_ok=True)
            self._sweep()
            free = shutil.disk_usage(self._drafts).free
        if free < self._room:
            what = f"{free} bytes are free, {self._room} may be needed (FLAGJOB_WORKERS x FLAGJOB_MAX_BYTES)"
            raise StorageError(f"{self.root}: {what}")
        name = str(self._drafts.relative_to(self.root) / f"probe-{token_hex(8)}")  # a killed run's is swept there
        with closing(self.new_body()) as probe:
            probe.write(b"flagjob\n")
            self.publish(probe, name, None)
        with map_os_errors(self.root):
            (self.root / name).unlink()

    def _sweep(self) -> None:
        """Remove the drafts that runs which were killed left behind; those of a living run are locked, or new."""
        oldest = time.time() - SWEPT_SECONDS
        for path in self._drafts.iterdir():
            with suppress(OSError), path.open("r+b") as draft:  # NFS locks for who may write only
                lock(draft.fileno(), wait=False)
                if path.stat().st_mtime < oldest:
                    path.unlink()

    def new_body(self) -> Body:
        """Begin a file; it has no name yet."""
        return Body(self._drafts / token_hex(8))  # random: two pods on one volume have the same process id

    def publish(self, body: Body, file: str, media_type: str | None) -> str:
        """Give a body its name and return the file's version: it appears whole or, with StorageError, not at all.

        An older file, or a symbolic link, of that name is replaced; what the link points to is left alone.
        A directory keeps no media type: web servers tell it by the suffix.
        """
        del media_type
        final = self.root / file
        if final.parent not in self._unsynced:
            with map_os_errors(final):
                final.parent.mkdir(parents=True, exist_ok=True)
        version = body.commit(final)
        with self._syncing:
            self._unsynced.add(final.parent)
            full = len(self._unsynced) >= _DIRECTORIES_KEPT
        if full:
            self.sync()
        return version

    def has(self, stored: Stored) -> bool:
        """Tell whether a file is there just as it was stored, by its size and mtime: digests are for `verify`."""
        try:
            found = (self.root / stored.path).lstat()
        except OSError:
            return False
        return S_ISREG(found.st_mode) and (found.st_size, str(found.st_mtime_ns)) == (stored.bytes, stored.version)

    def sync(self) -> None:
        """Make the names durable, too; raise StorageError if that fails.

        Until then a power cut may take back names of this run, never a part of a file.
        """
        with self._syncing:
            directories, self._unsynced = self._unsynced, set()
        for directory in directories | {above for below in directories for above in below.parents}:
            if directory.is_relative_to(self.root):
                sync_directory(directory)
