"""Destinations in a file system: files that appear one by one, or as a set."""

import shutil
from contextlib import ExitStack, suppress
from pathlib import Path

from job.destination.face import Scope, manifest_for
from job.layout import CHECKSUMS, OWN_DIRECTORY
from job.storage import DirectoryStorage, GenerationStorage, Storage


class DirectoryDestination:
    """Each file appears as it is accepted."""

    def __init__(self, root: Path, scope: Scope, room: int = 0) -> None:
        self.storage: Storage = DirectoryStorage(root, room)
        self.manifest = manifest_for(root / OWN_DIRECTORY, root / CHECKSUMS, scope)

    def open(self, *, accept_new_origin: bool) -> None:
        """Make ready."""
        self.storage.open()
        self.manifest.open(accept_new_origin=accept_new_origin)

    def told(self) -> None:
        """Return nothing to be done: the line is in the file."""

    def close(self, *, publish: bool) -> bool:
        """Make names and memory durable; files are seen already."""
        del publish
        self.storage.sync()
        self.manifest.close()
        return True


class GenerationDestination:
    """All files appear together, or none does; what is remembered belongs to the set."""

    def __init__(self, destination: Path, keep: int, scope: Scope, room: int = 0) -> None:
        self._generation = GenerationStorage(destination, keep, room)
        self._told = destination / OWN_DIRECTORY
        self.storage: Storage = self._generation
        self.manifest = manifest_for(self._generation.own, self._generation.root / CHECKSUMS, scope)

    def open(self, *, accept_new_origin: bool) -> None:
        """Prepare a generation, which is thrown away again if it may not be filled from this origin."""
        with ExitStack() as failed:
            failed.callback(self._generation.abandon)
            self.storage.open()
            self.manifest.open(accept_new_origin=accept_new_origin)
            failed.pop_all()

    def told(self) -> None:
        """Return nothing to be done: the line is in the file."""

    def close(self, *, publish: bool) -> bool:
        """Show the generation to readers if it may be published, else throw it away; its changes are told anyhow."""
        with ExitStack() as failed:
            failed.callback(self._generation.abandon)
            self.manifest.close()
            self._tell_changes()
            if publish:
                self._generation.commit()
                failed.pop_all()
        return publish

    def _tell_changes(self) -> None:
        """Keep a copy where it outlives a generation that is thrown away."""
        with suppress(OSError):  # it is a courtesy
            self._told.mkdir(exist_ok=True)
            now = {path.name: path for path in self._generation.own.glob("changes*.jsonl")}
            for name, path in now.items():
                shutil.copyfile(path, self._told / name)
            for old in self._told.glob("changes*.jsonl"):
                if old.name not in now:
                    old.unlink()
