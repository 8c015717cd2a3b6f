"""Sets of files that appear as a whole: a generation is prepared beside the others, then a link is flipped."""

import os
import shutil
import time
from contextlib import closing, suppress
from datetime import UTC, datetime
from pathlib import Path
from secrets import token_hex

from job.atomic_write import lock, map_os_errors, sync_directory
from job.errors import StorageError
from job.layout import OWN_DIRECTORY
from job.storage.local import SWEPT_SECONDS, DirectoryStorage

_BEFORE = "before"
"""The file, among what flagjob remembers, that names the generation from which this one was made."""
_PREPARED = ".new-"
"""How the name of a generation begins that is not published: hidden, and swept when its run is dead."""


class Generations:
    """The published sets below a destination. For one thread; two processes may flip, the last one wins."""

    def __init__(self, destination: Path) -> None:
        self._destination = destination
        self.directory = destination / "generations"
        self._link = destination / "current"

    @property
    def current(self) -> Path | None:
        """The generation that readers see, or None before the first."""
        with suppress(OSError):  # there is no such link
            found = self._destination / self._link.readlink()
            return found if found.is_dir() else None
        return None

    def published(self) -> list[Path]:
        """Return the generations that were published and are kept, the oldest first."""
        with suppress(FileNotFoundError):
            return sorted(path for path in self.directory.iterdir() if not path.name.startswith("."))
        return []

    def flip(self, generation: Path) -> None:
        """Show another generation to readers, in one step; raise StorageError where that fails."""
        link = self.directory / f"{_PREPARED}{token_hex(8)}"
        with map_os_errors(self._link):
            link.symlink_to(generation.relative_to(self._destination))
            try:
                link.replace(self._link)
            except OSError:
                link.unlink()
                raise
            sync_directory(self._destination)

    def roll_back(self) -> Path:
        """Show the generation from which the current one was made, and return it; raise StorageError if there is none.

        Where that was pruned it is the newest of the older ones.
        """
        current = self.current
        older = [path for path in self.published() if current and path.name < current.name]
        if not older or current is None:
            raise StorageError(f"{self.directory}: there is no generation before the current one")
        before = next((path for path in older if path.name == _made_from(current)), older[-1])
        self.flip(before)
        return before

    def prune(self, keep: int) -> None:
        """Remove all but the newest `keep` generations; the current one always stays."""
        current = self.current
        for path in self.published()[:-keep]:
            if not current or path.name != current.name:
                doomed = path.with_name(f"{_PREPARED}{path.name}")  # half of it must not be there under its name
                with suppress(OSError):
                    path.rename(doomed)
                shutil.rmtree(doomed, ignore_errors=True)

    def begin(self, generation: Path) -> "_Lock":
        """Make a directory and lock it, after what dead runs had prepared was removed.

        A living run has its generation locked, its link only for a moment. One run does this at a time, or what one
        has made and not locked yet would be taken for a dead one's by another.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        with closing(_Lock(self.directory, waits=True)):
            for path in self.directory.glob(f"{_PREPARED}*"):
                with suppress(OSError):
                    _remove(path)
            generation.mkdir()
            return _Lock(generation)


class GenerationStorage(DirectoryStorage):
    """A new generation: it begins as the current one, by hard links, and readers see none of it until `commit`.

    What flagjob remembers is part of a generation, so that it is published, rolled back and thrown away with it.
    """

    def __init__(self, destination: Path, keep: int, room: int = 0) -> None:
        self._generations = Generations(destination)
        self._keep = keep
        self._lock: _Lock | None = None
        name = f"{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}"
        self._final = self._generations.directory / name
        super().__init__(self._generations.directory / f"{_PREPARED}{name}", room)

    def open(self) -> None:
        """Prepare the generation; raise StorageError if the destination cannot be written."""
        with map_os_errors(self.root):
            self._lock = self._generations.begin(self.root)
            current = self._generations.current
            if current:
                _link_tree(current, self.root)
                (self.own / _BEFORE).write_text(current.name)
        super().open()

    def commit(self) -> None:
        """Make the generation durable and show it to readers; where StorageError comes out, it is to be abandoned."""
        with map_os_errors(self.root):
            shutil.rmtree(self._drafts)
            for directory, _, _ in os.walk(self.root):
                sync_directory(Path(directory))
            self.root.rename(self._final)
            sync_directory(self._final.parent)
        self._generations.flip(self._final)
        self._generations.prune(self._keep)
        self._unlock()

    def abandon(self) -> None:
        """Throw the generation away, as far as it came; readers go on with the old one.

        Only what they see already stays: where the disk failed just then, a power cut may take them back.
        """
        shutil.rmtree(self.root, ignore_errors=True)
        if self._generations.current != self._final:
            shutil.rmtree(self._final, ignore_errors=True)
        self._unlock()

    def _unlock(self) -> None:
        if self._lock:
            self._lock.close()
            self._lock = None


class _Lock:
    """A lock on a directory, held until it is closed or its process ends.

    One that does not wait for another raises BlockingIOError.
    """

    def __init__(self, path: Path, *, waits: bool = False) -> None:
        self._descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            lock(self._descriptor, wait=waits)
        except OSError:
            self.close()
            raise

    def close(self) -> None:
        os.close(self._descriptor)


def _remove(path: Path) -> None:
    if not path.is_symlink():
        with closing(_Lock(path)):
            shutil.rmtree(path)
    elif path.lstat().st_mtime < time.time() - SWEPT_SECONDS:
        path.unlink()


def _made_from(generation: Path) -> str | None:
    with suppress(OSError):
        return (generation / OWN_DIRECTORY / _BEFORE).read_text("utf-8")
    return None


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError as error:  # told at once: copytree would gather one for each file
        why = f"{error.strerror} (a set has hard links to what is unchanged; FLAGJOB_PUBLISH=each needs none)"
        raise StorageError(f"{target}: {why}") from error


def _link_tree(source: Path, target: Path) -> None:
    """Give each file a second name; what flagjob remembers is copied, because it is written to."""
    shutil.copytree(
        source,
        target,
        symlinks=True,
        ignore=lambda directory, _: [OWN_DIRECTORY] if Path(directory) == source else [],
        copy_function=_link,
        dirs_exist_ok=True,
    )
    shutil.copytree(source / OWN_DIRECTORY, target / OWN_DIRECTORY)
