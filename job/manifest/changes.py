"""What this run changed, a line each as it happens, beside those of the ten runs before."""

import re
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import orjson

from job.atomic_write import map_os_errors
from job.manifest.history import Change
from job.manifest.line_file import LineFile
from job.model import Stored
from job.shard import Shard

_KEPT = 10
_SUMMARY = b'{"change":"summary",'
_TAIL_BYTES = 4096


class Changes:
    """The changes of one run. For one thread; everything may raise StorageError."""

    def __init__(self, directory: Path, shard: Shard, now: Callable[[], datetime]) -> None:
        self.counts = dict.fromkeys(Change, 0)
        """How many codes so far; UNCHANGED is counted and not told."""
        self.follows_a_whole_run = False
        """The run before told its summary, which is the last thing that a run does."""
        self._stem = shard.name("changes")
        self._file = LineFile(directory / f"{self._stem}.jsonl")
        self._now = now
        self._started_at = ""

    def open(self) -> None:
        """Begin this run's file; that of the run before goes aside, named by when it was last written."""
        self._started_at = stamp(self._now())
        path = self._file.path
        with map_os_errors(path):
            with suppress(FileNotFoundError):  # the first run, or another pod of this shard was faster
                self.follows_a_whole_run = _last_line(path).startswith(_SUMMARY)
                path.replace(self._name_aside(path))
            for _, old in self._aside()[:-_KEPT]:
                old.unlink(missing_ok=True)
        self._file.open(write=True)

    def add(self, change: Change, code: str, file: Stored, before: Stored | None) -> None:
        """Count a change, and tell it; `file` is the one that is there now, `before` the one that it replaces."""
        self.counts[change] += 1
        if change is Change.UNCHANGED:
            return
        old = {"old_sha256": before.sha256} if before and change is Change.CHANGED else {}
        self._file.append(
            orjson.dumps({"change": change, "code": code, "file": file.path, **old, "sha256": file.sha256})
        )

    def finish(self) -> None:
        """Tell the summary, and put every line on the disk."""
        counts = {change.value: number for change, number in self.counts.items()}
        times = {"started_at": self._started_at, "finished_at": stamp(self._now())}
        self._file.append(orjson.dumps({"change": "summary", **counts, **times}))
        self._file.sync()

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()

    def _name_aside(self, path: Path) -> Path:
        date = f"{datetime.fromtimestamp(path.stat().st_mtime, UTC):%Y%m%dT%H%M%SZ}"
        last = max((number for (when, number), _ in self._aside() if when == date), default=-1)
        return path.with_name(f"{self._stem}-{date}{f'-{last + 1}' if last >= 0 else ''}.jsonl")

    def _aside(self) -> list[tuple[tuple[str, int], Path]]:
        """Return the older runs' files by date, and by number within a second, the oldest first."""
        pattern = re.compile(rf"{self._stem}-(\d{{8}}T\d{{6}}Z)(?:-(\d+))?\.jsonl")
        found = ((pattern.fullmatch(path.name), path) for path in self._file.path.parent.iterdir())
        return sorted(((name[1], int(name[2] or 0)), path) for name, path in found if name)


def stamp(time: datetime) -> str:
    """Return a time as it is recorded: ISO 8601 in UTC, to the second, so that texts compare as times do."""
    return f"{time.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"


def _last_line(path: Path) -> bytes:
    with path.open("rb") as file:
        file.seek(max(path.stat().st_size - _TAIL_BYTES, 0))
        return (file.read().splitlines() or [b""])[-1]
