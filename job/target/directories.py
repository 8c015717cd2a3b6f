"""Destinations in a file system: files that appear one by one, or as a set."""

import shutil
from contextlib import ExitStack, suppress
from pathlib import Path

from job.store import OWN_DIRECTORY, GenerationStore, LocalStore
from job.target.face import SUMS, Share, Store, manifest_of


class Directory:
    """Each file appears as it is accepted."""

    def __init__(self, root: Path, share: Share, room: int = 0) -> None:
        self.store: Store = LocalStore(root, room)
        self.manifest = manifest_of(root / OWN_DIRECTORY, root / SUMS, share)

    def open(self, *, accept_new_origin: bool) -> None:
        """Make ready."""
        self.store.open()
        self.manifest.open(accept_new_origin=accept_new_origin)

    def told(self) -> None:
        """Return nothing to be done: the line is in the file."""

    def close(self, *, publish: bool) -> bool:
        """Make names and memory durable; files are seen already."""
        del publish
        self.store.sync()
        self.manifest.close()
        return True


class SetOfFiles:
    """All files appear together, or none does; what is remembered belongs to the set."""

    def __init__(self, destination: Path, keep: int, share: Share, room: int = 0) -> None:
        self._generation = GenerationStore(destination, keep, room)
        self._told = destination / OWN_DIRECTORY
        self.store: Store = self._generation
        self.manifest = manifest_of(self._generation.own, self._generation.root / SUMS, share)

    def open(self, *, accept_new_origin: bool) -> None:
        """Prepare a generation, which is thrown away again if it may not be filled from this origin."""
        with ExitStack() as failed:
            failed.callback(self._generation.abandon)
            self.store.open()
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
