"""Generations of a directory: a run prepares all files out of sight, then publishes them at once by flipping a link.

Below the destination lie `generations/`, with a directory for each published set of files, and `current`, a symbolic
link to one of them. A reader opens `current/br.gif` and sees:

    while a run prepares `generations/.new-TIME`       the old generation, by `current`
    when it is renamed to `generations/TIME`           the old generation, by `current`
    when `current` is replaced by a link to it         the new generation; a file opened before stays readable
    when the oldest generations are pruned             the new generation

A crash between two steps leaves readers where they were. A later run removes what is left: `.old-*`, which was to be
removed, and `.new-*` if its run is dead (`_sweep`). After a crash between the rename and the flip a complete generation
remains that readers have never seen; it is pruned like an old one.

The order of the generations is what each of them records: the one from which it was made, and a number that is greater
than those of all that were published before. Names show the time of a clock that may have been wrong.
"""

import os
import shutil
from contextlib import ExitStack, suppress
from datetime import UTC, datetime
from pathlib import Path
from secrets import token_hex

from job.atomic_write import lock, map_os_errors, sync_directory, sync_file
from job.errors import StorageError
from job.layout import (
    CURRENT,
    DISCARDED_PREFIX,
    GENERATION_LOCK,
    GENERATION_NUMBER,
    GENERATIONS,
    OWN_DIRECTORY,
    PARENT,
    PREPARED_PREFIX,
    TEMPORARY_DIRECTORY,
    sortable_time,
)
from job.storage.directory import SWEEP_AGE_SECONDS, DirectoryStorage, is_young

_QUIET_SECONDS = 3600
"""What another machine prepares and has changed more recently is never swept: a lock may be known to one machine only.
No step of a run takes nearly as long without a file, a line of the manifest or a temporary file."""
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
"""A text that is the same for all processes of one kernel, in whatever container, and for no other (random(4))."""


class Generations:
    """The published generations of a destination. For one thread; of two processes that flip, the last one wins."""

    def __init__(self, destination: Path) -> None:
        self._destination = destination
        self.directory = destination / GENERATIONS
        """The directory of all generations, published or not."""
        self._link = destination / CURRENT

    @property
    def current(self) -> Path | None:
        """The generation that readers see, or None before the first."""
        with suppress(OSError):  # there is no such link
            target = self._destination / self._link.readlink()
            return target if target.is_dir() else None
        return None

    def list_published(self) -> list[Path]:
        """Return the generations with a final name that were not pruned, in the order in which they were published.

        Those of early versions of flagjob have no number, and go before the others; among them each comes after the one
        from which it was made, and otherwise their names decide.
        """
        found: list[Path] = []
        with suppress(FileNotFoundError):
            found += (path for path in self.directory.iterdir() if not path.name.startswith("."))
        found.sort(key=lambda path: (_number_of(path), path.name))
        waiting = {path.name: path for path in found}
        parents = {path.name: _parent_name(path) for path in found}
        ordered: list[Path] = []
        while waiting:
            # Without the default nothing would follow where two name each other: what they record is damaged.
            following = next((name for name in waiting if parents[name] not in waiting), next(iter(waiting)))
            ordered.append(waiting.pop(following))
        return ordered

    def next_number(self) -> int:
        """Return a number that is greater than those of all published generations."""
        return 1 + max(map(_number_of, self.list_published()), default=0)

    def flip(self, generation: Path) -> None:
        """Show another generation to readers, in one step; raise StorageError where that fails."""
        # A symbolic link cannot be changed, and between its removal and a new one readers would find nothing. A
        # rename replaces it atomically.
        link = self.directory / f"{PREPARED_PREFIX}{token_hex(8)}"
        with map_os_errors(self._link):
            link.symlink_to(generation.relative_to(self._destination))
            try:
                link.replace(self._link)
            except OSError:
                link.unlink()
                raise
            # Readers see the new generation already; from here on also after a power cut.
            sync_directory(self._destination)

    def roll_back(self) -> Path:
        """Show the generation from which the current one was made, and return it; raise StorageError if there is none.

        If that was pruned or is not recorded, show the one that was published before the current one.
        """
        current = self.current
        published = self.list_published()
        names = [path.name for path in published]
        older = published[: names.index(current.name)] if current and current.name in names else []
        if not older or current is None:
            raise StorageError(f"{self.directory}: there is no generation before the current one")
        parent = _parent_name(current)
        target = next((path for path in older if path.name == parent), older[-1])
        self.flip(target)
        return target

    def prune(self, keep: int) -> None:
        """Remove all but the newest `keep` generations; the current one always stays."""
        current = self.current
        for path in self.list_published()[:-keep]:
            if not current or path.name != current.name:
                _discard(path)

    def begin(self, generation: Path) -> "_GenerationLock":
        """Make the directory of a generation and return its lock, after the leftovers of dead runs were removed.

        The lock on the generation tells other runs that this one is alive; it must be held until the generation is
        published or removed. Raises OSError.
        """
        (generation / OWN_DIRECTORY).mkdir(parents=True)
        # Until it is locked, a moment later, only its age keeps another run from sweeping it.
        held = _GenerationLock(generation, os.O_CREAT)
        with suppress(OSError):  # a file system without locks is no error: there nothing is swept
            held.acquire()
            # After the lock was had, never before: who reads it knows that the run was locked.
            held.sign()
        # By the clock of the file system, which may be another machine's: ours may be set otherwise.
        now = generation.stat().st_mtime
        for path in self.directory.glob(f"{DISCARDED_PREFIX}*"):
            shutil.rmtree(path, ignore_errors=True)
        for path in self.directory.glob(f"{PREPARED_PREFIX}*"):
            if path != generation:
                with suppress(OSError):  # a lock is held by a living run
                    _sweep(path, now)
        return held


class GenerationStorage(DirectoryStorage):
    """A new generation: it begins as a copy of the current one, by hard links; readers see it from `commit` on.

    The manifest is part of a generation, so it is published, rolled back and discarded with it.
    """

    def __init__(self, destination: Path, keep: int, required_free_bytes: int = 0) -> None:
        """Take the destination, how many generations to keep, and the bytes that a run may need beside them."""
        self._generations = Generations(destination)
        self._keep = keep
        self._lock: _GenerationLock | None = None
        # With a random part: a clock that is set back may show the same time again, and so may that of another machine.
        name = f"{sortable_time(datetime.now(UTC))}-{token_hex(2)}"
        self._final = self._generations.directory / name
        super().__init__(self._generations.directory / f"{PREPARED_PREFIX}{name}", required_free_bytes)

    def open(self) -> None:
        """Prepare the generation; raise StorageError if the destination cannot be written."""
        with map_os_errors(self.root):
            self._lock = self._generations.begin(self.root)
            current = self._generations.current
            if current:
                _hard_link_tree(current, self.root)
                _write(self.own_directory / PARENT, current.name)
        super().open()
        self._prove_links()

    def _prove_links(self) -> None:
        """Raise StorageError unless both kinds of links can be made: a set needs them, the first one at its very end.

        Its directory is removed before it is published, and so are these links.
        """
        source = self.root / GENERATION_LOCK
        symbolic = self._temporary / "symbolic"
        hard = self._temporary / "hard"
        try:
            symbolic.symlink_to(source)
            os.link(source, hard)
            symbolic.unlink()
            hard.unlink()
        except OSError as error:
            raise _no_links(hard, error) from error

    def commit(self) -> None:
        """Make the generation durable and show it to readers; after a StorageError, `abandon` it."""
        with map_os_errors(self.root):
            shutil.rmtree(self._temporary)
            # The number as late as possible: another run may have published since this one began.
            _write(self.own_directory / GENERATION_NUMBER, str(self._generations.next_number()))
            # The files are durable since `publish`. Now their names, in every directory, before the generation gets
            # its own: a power cut must not leave a published generation without some of its files.
            for directory, _, _ in os.walk(self.root):
                self._sync_directory(Path(directory))
            # The lock is on a file below, whatever the path, so it survives the rename.
            self.root.rename(self._final)
            # The link must not be durable before its target.
            sync_directory(self._final.parent)
        self._generations.flip(self._final)
        self._generations.prune(self._keep)
        self._unlock()

    def abandon(self) -> None:
        """Remove the generation, in whatever state; readers go on with the old one. May be called again.

        A generation that readers see already stays: the disk has failed after the flip, which then may not be durable.
        """
        # First, since NFS keeps a file that is open under another name: its directory could not be removed.
        self._unlock()
        _discard(self.root)
        if self._generations.current != self._final:
            _discard(self._final)

    def _unlock(self) -> None:
        if self._lock:
            self._lock.close()
            self._lock = None


class _GenerationLock:
    """An exclusive lock on a generation, held until it is closed or its process ends.

    It is on a file that is open to be written: NFS has no locks on directories, where each machine has its own, and
    exclusive ones on files only for writers. It belongs to one descriptor (flock, which NFS turns into a lock of the
    whole file at the server): a lock of fcntl would go when the process closes any other descriptor of the file.
    """

    def __init__(self, generation: Path, flags: int = 0) -> None:
        """Open the file; raise FileNotFoundError if there is none, unless the flags make it, or another OSError."""
        self._descriptor = os.open(generation / GENERATION_LOCK, os.O_RDWR | flags, 0o666)

    def acquire(self) -> None:
        """Take the lock.

        Raises BlockingIOError if a living run has it, and another OSError where the file system has no locks.
        """
        lock(self._descriptor, wait=False)

    def sign(self) -> None:
        """Write down which machine has the lock; raise OSError."""
        os.write(self._descriptor, _machine())

    @property
    def is_of_this_machine(self) -> bool:
        """Return whether a run of this machine had the lock: then nobody else can have it, whatever NFS does."""
        machine = _machine()
        return machine != b"" and os.pread(self._descriptor, len(machine) + 1, 0) == machine

    def close(self) -> None:
        """Release the lock."""
        os.close(self._descriptor)


def _machine() -> bytes:
    """Return what tells this machine's kernel from others; nothing if that is not known."""
    with suppress(OSError):
        return _BOOT_ID.read_bytes()
    return b""


def _sweep(path: Path, now: float) -> None:
    """Remove a generation or a link that a dead run has prepared; raise OSError if its run is alive.

    A run is dead if its lock is free. Another machine's lock may be unknown here, as with `nolock` of NFS, so that its
    generation must be quiet, too; and so must one without a lock: it was made a moment ago, or by an early version.
    """
    if path.is_symlink():
        # A link cannot be locked. It exists only for the moment of a flip, so an old one belongs to a dead run.
        if not is_young(path, now, SWEEP_AGE_SECONDS):
            path.unlink()
        return
    with ExitStack() as stack:
        is_of_this_machine = False
        with suppress(FileNotFoundError):
            held = _GenerationLock(path)
            stack.callback(held.close)
            held.acquire()
            is_of_this_machine = held.is_of_this_machine
        if not is_of_this_machine and _is_in_use(path, now):
            return
        # On NFS the locked file, and the directories above, stay until it is closed: the next run removes them.
        _discard(path)


def _discard(generation: Path) -> None:
    """Remove a generation that nobody needs.

    It is renamed first: a run that is killed while it removes the files must leave neither what looks complete, nor
    what looks as if it were prepared. If a leftover has the hidden name the rename fails: then this run removes the
    leftover, and a later run the generation.
    """
    hidden = generation.with_name(f"{DISCARDED_PREFIX}{generation.name.removeprefix(PREPARED_PREFIX)}")
    with suppress(OSError):
        generation.rename(hidden)
    shutil.rmtree(hidden, ignore_errors=True)


def _is_in_use(generation: Path, now: float) -> bool:
    """Return whether anything in a generation has changed lately: a file, the manifest, a temporary file."""
    own = generation / OWN_DIRECTORY
    signs = (generation, own, *own.glob("*"), *(generation / TEMPORARY_DIRECTORY).glob("*"))
    return any(is_young(path, now, _QUIET_SECONDS) for path in signs)


def _write(path: Path, text: str) -> None:
    """Write a small file durably; raise OSError."""
    with path.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        sync_file(file.fileno())


def _number_of(generation: Path) -> int:
    """Return the number of a generation, or 0 if it is not recorded."""
    with suppress(OSError, ValueError):
        return int((generation / OWN_DIRECTORY / GENERATION_NUMBER).read_text("ascii"))
    return 0


def _parent_name(generation: Path) -> str | None:
    """Return the name of the generation from which this one was made, or None if it is not recorded."""
    with suppress(OSError, ValueError):
        return (generation / OWN_DIRECTORY / PARENT).read_text("utf-8")
    return None


def _hard_link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError as error:
        # Raised as our own, which ends the copying: copytree would collect an OSError for each file.
        raise _no_links(target, error) from error


def _no_links(path: Path | str, error: OSError) -> StorageError:
    hint = "sets need hard and symbolic links; FLAGJOB_PUBLISH=each needs none"
    return StorageError(f"{path}: {error.strerror} ({hint})")


def _hard_link_tree(source: Path, target: Path) -> None:
    """Copy a generation by giving each file a second name; flagjob's own files are copied, as they are appended to."""
    shutil.copytree(
        source,
        target,
        symlinks=True,
        ignore=lambda directory, _: [OWN_DIRECTORY] if Path(directory) == source else [],
        copy_function=_hard_link,
        dirs_exist_ok=True,
    )
    not_copied = shutil.ignore_patterns(Path(GENERATION_LOCK).name)
    shutil.copytree(source / OWN_DIRECTORY, target / OWN_DIRECTORY, ignore=not_copied, dirs_exist_ok=True)
