"""Storage in a local directory: temporary file, fsync, rename; the last good copy of a file survives any failure."""

import os
import re
import shutil
from contextlib import closing, suppress
from hashlib import file_digest
from itertools import count
from pathlib import Path
from stat import S_ISREG
from threading import Lock
from typing import TYPE_CHECKING

from job.atomic_write import lock, map_os_errors, name_error, sync_directory
from job.body import Body, temporary_stem
from job.errors import PathError, StorageError
from job.layout import OWN_DIRECTORY, PROBE, TEMPORARY_DIRECTORY
from job.model import Stored

if TYPE_CHECKING:
    from collections.abc import Callable

_MAX_UNSYNCED_DIRECTORIES = 1000
_MOUNTINFO = Path("/proc/self/mountinfo")
_NETWORK_FILE_SYSTEMS = set(b"nfs nfs4 cifs smb3 smbfs ceph glusterfs lustre 9p afs beegfs gpfs fuse".split())
"""With `fuse.*`, whose servers are mostly clients of something far away; virtiofs is a file system of the host."""
_MOUNT = re.compile(rb"^(?:[^ \n]+ ){4}([^ \n]+) .*? - ([^ \n]+) ", re.MULTILINE)
"""A line of mountinfo, see proc(5): `36 35 98:0 /root /mount/point rw,noatime master:1 - ext4 /dev/sda1 rw`."""
_OCTAL_ESCAPE = re.compile(rb"\\([0-3][0-7]{2})")
"""A blank, a line break or a backslash in a mount point."""
_CANNOT_SYNC_FILES = "it cannot flush files to the disk: a power cut may lose what a run has written"
_CANNOT_SYNC_DIRECTORIES = "it cannot flush directories to the disk: a power cut may lose the names of files"
_NO_FREE_FIGURE = "it does not report free space: a run may start that does not fit"
_OTHER_TIMES = "files have other times than were recorded, but the same bytes: their digests were compared"
_MTIME = re.compile("[0-9]{1,19}")
"""A version: nanoseconds since 1970."""
_CLOCK_UNITS = (100, 1_000, 1_000_000, 1_000_000_000, 2_000_000_000)
"""Units, in nanoseconds, of the clocks to which a time may be cut: SMB and NTFS, most archives, some servers, WebDAV
and tar, FAT."""
SWEEP_AGE_SECONDS = 60
"""A temporary file or link that is younger is never swept: it is unlocked for a moment after it was made and before
it is renamed, and then looks like one of a dead run."""


class DirectoryStorage:
    """A directory. `new_body`, `publish` and `is_intact` may be called by any thread, all else by one at a time."""

    def __init__(self, root: Path, required_free_bytes: int = 0) -> None:
        """Take the directory, and how many bytes a run may need in it beside the files that are there."""
        self.root = root
        """The directory of the files."""
        self.own_directory = root / OWN_DIRECTORY
        """The directory of the manifest and the changes."""
        self.may_block_long = False
        """Whether the directory is on a network file system, as `open` has found."""
        self.on_limitation: Callable[[str], None] = lambda _: None
        """Called, by any thread and perhaps often, with what the file system cannot do."""
        self._required_free_bytes = required_free_bytes
        self._temporary = root / TEMPORARY_DIRECTORY
        self._temporary_stem = temporary_stem(self._temporary)
        self._body_numbers = count()
        self._prefix = f"{root / '-'}".removesuffix("-")
        """What stands before the path of a file: the directory with a slash, or nothing if it is the working one."""
        self._unsynced: set[str] = set()
        """Directories, below this one, in which a power cut could still take back names of this run."""
        # Keeps a worker from adding a directory to the set that `sync`, in another thread, has just taken away and goes
        # through: that directory would never be synced.
        self._unsynced_lock = Lock()

    def open(self) -> None:
        """Make the directory and prove with a file that it is writable; raise StorageError if it is not."""
        with map_os_errors(self._temporary):
            self._temporary.mkdir(parents=True, exist_ok=True)
            self.may_block_long = is_network_file_system(self.root)
            self._sweep()
        self._check_free_bytes()
        if not self._prove_writable():
            self.on_limitation(_CANNOT_SYNC_FILES)
        self._sync_directory(self.root)

    def _check_free_bytes(self) -> None:
        """Raise StorageError if there is less free space than the run may need.

        FUSE servers may report none, or no figure at all, although there is room. If a disk with 0 bytes is really full
        the next step, the probe, shows that.
        """
        free = 0
        with suppress(OSError):
            free = shutil.disk_usage(self._temporary).free
        if free == 0:
            self.on_limitation(_NO_FREE_FIGURE)
        elif free < self._required_free_bytes:
            numbers = f"{free} bytes are free, {self._required_free_bytes} may be needed"
            raise StorageError(f"{self.root}: {numbers} (FLAGJOB_WORKERS x FLAGJOB_MAX_BYTES)")

    def _prove_writable(self) -> bool:
        """Publish a file beside the others and remove it; return whether it was durable. Raises StorageError."""
        probe = self.root / PROBE
        with closing(self.new_body()) as body:
            body.write(b"flagjob\n")
            body.commit(str(probe))
        with map_os_errors(probe):
            probe.unlink(missing_ok=True)  # another thread, or another run, may have removed it
        return body.is_durable

    def _sync_directory(self, directory: Path) -> None:
        """Make the names in a directory durable, or say that this cannot be done; raise StorageError if it fails."""
        if not sync_directory(directory):
            self.on_limitation(_CANNOT_SYNC_DIRECTORIES)

    def _sweep(self) -> None:
        """Remove the temporary files of killed runs.

        The file of a living run is locked while it is open; between its creation and the lock, and between its close
        and the rename, it is young. A file that is neither locked nor young belongs to nobody.
        """
        try:
            # The clock of the file system, which may be another machine's: ours may be set otherwise.
            os.utime(self._temporary)
            now = self._temporary.stat().st_mtime
        except OSError:  # without a time nothing is known to be old
            return
        for path in self._temporary.iterdir():
            # Opened for writing: NFS has exclusive locks only for writers. A file that is locked, or gone, is passed.
            with suppress(OSError), path.open("r+b") as file:
                lock(file.fileno(), wait=False)
                if not is_young(path, now, SWEEP_AGE_SECONDS):
                    path.unlink()

    def new_body(self) -> Body:
        """Return an empty body, whose temporary file will lie in this directory's file system."""
        return Body(f"{self._temporary_stem}{next(self._body_numbers)}")  # `next` of a counter is atomic

    def publish(self, body: Body, file: str, media_type: str | None) -> str:
        """Store a body under its name and return the version: the file appears whole or, with StorageError, not at all.

        An older file, or a symbolic link, of that name is replaced; the link's target is left alone. It is a PathError
        where only this name, or its directory, is refused.
        The media type is not stored: web servers derive it from the suffix.
        """
        del media_type
        final = self._prefix + file
        directory = file.rpartition("/")[0]
        try:
            # Read without the lock: if `sync` empties the set in between, the directory is there all the same.
            if directory not in self._unsynced:
                self._make_directory(directory, final)
            version = body.commit(final)
        except PathError as error:
            self._raise_for_all(error)
            raise
        # Read again, as `sync` may have taken the set away before the file got its name. A set that is taken away
        # after this look is synced after the rename, so it needs no lock either.
        if directory not in self._unsynced:
            self._remember_unsynced(directory)
        return version

    def _make_directory(self, directory: str, final: str) -> None:
        """Make the directory of a file; raise PathError, about the file, if that is refused."""
        try:
            (self.root / directory).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise name_error(final, error) from error

    def _raise_for_all(self, error: PathError) -> None:
        """Raise the error of one name as a StorageError if the probe's name is refused, too: then every name is."""
        try:
            self._prove_writable()
        except StorageError as cause:
            raise StorageError(str(error)) from cause

    def _remember_unsynced(self, directory: str) -> None:
        """Add a directory to those that `sync` must make durable; sync them if they are too many."""
        with self._unsynced_lock:
            self._unsynced.add(directory)
            is_full = len(self._unsynced) >= _MAX_UNSYNCED_DIRECTORIES
        if is_full:
            self.sync()

    def is_intact(self, stored: Stored) -> bool:
        """Return whether a file is still as it was published, by size and mtime; `verify` compares digests."""
        found = self._find(stored)
        return found is not None and is_same_time(stored.version, found.st_mtime_ns)

    def verified_version(self, stored: Stored) -> str | None:
        """Return the version of a file that has another time than was recorded, but the same bytes; else None.

        That is a file of a restored copy, or of a destination that sets times its own way. A recorded file without a
        version belongs to another URL, and nothing vouches for it.
        """
        # The time before the bytes: if the file is replaced in between, the next run finds that it has another one.
        found = self._find(stored)
        if found is None or stored.version is None:
            return None
        try:
            with Path(self._prefix + stored.path).open("rb") as file:
                has_same_bytes = file_digest(file, "sha256").hexdigest() == stored.sha256
        except OSError:
            return None
        if not has_same_bytes:
            return None
        self.on_limitation(_OTHER_TIMES)
        return str(found.st_mtime_ns)

    def _find(self, stored: Stored) -> os.stat_result | None:
        """Return what is known of a file, or None if there is none, or one of another size, or no regular one."""
        try:
            found = os.lstat(self._prefix + stored.path)
        except OSError:
            return None
        return found if S_ISREG(found.st_mode) and found.st_size == stored.bytes else None

    def sync(self) -> None:
        """Make the names of published files durable; raise StorageError if that fails.

        Until then a power cut may lose names of this run, never a part of a file: its bytes were synced first.
        """
        with self._unsynced_lock:
            taken = self._unsynced
            self._unsynced = set()
        # Nobody adds to the taken set any more, so the slow part needs no lock. A new directory is durable only when
        # the one above it is synced, too.
        directories = {self.root / directory for directory in taken}
        for directory in directories.copy():
            directories.update(directory.parents)
        for directory in directories:
            if directory.is_relative_to(self.root):
                self._sync_directory(directory)


def is_young(path: Path, now: float, seconds: float) -> bool:
    """Return whether a path has changed within so many seconds; False if it is gone.

    `now` is a time of the file system's clock. What has changed in the future was changed before that clock was set
    back, and is not young.
    """
    try:
        return abs(now - path.lstat().st_mtime) < seconds
    except OSError:
        return False


def is_same_time(version: str | None, mtime_ns: int) -> bool:
    """Return whether a file has the mtime of its version, or that time as a coarser clock has it, which cuts it."""
    if version == str(mtime_ns):
        return True
    if not version or not _MTIME.fullmatch(version):
        return False
    recorded = int(version)
    return any(mtime_ns == recorded - recorded % unit for unit in _CLOCK_UNITS)


def is_network_file_system(directory: Path, mounts: Path = _MOUNTINFO) -> bool:
    """Return whether a directory is on a file system whose calls may wait for a network; False if that is not known.

    `mounts` has the form of /proc/self/mountinfo. What counts is the longest mount point that contains the directory,
    and of equal ones the last, which covers the others.
    """
    try:
        lines = mounts.read_bytes()
    except OSError:
        return False
    path = os.path.realpath(os.fsencode(directory)) + b"/"
    found = b""
    longest = 0
    for escaped, file_system in _MOUNT.findall(lines):
        mount_point = _OCTAL_ESCAPE.sub(_unescape, escaped).rstrip(b"/") + b"/"
        if path.startswith(mount_point) and len(mount_point) >= longest:
            found = file_system
            longest = len(mount_point)
    return found in _NETWORK_FILE_SYSTEMS or found.startswith(b"fuse.")


def _unescape(escape: re.Match[bytes]) -> bytes:
    return bytes([int(escape[1], 8)])
