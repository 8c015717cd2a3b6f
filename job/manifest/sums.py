"""The SHA256SUMS file, for `sha256sum -c`."""

from collections.abc import Iterable
from pathlib import Path

from job.atomic_write import replacing
from job.layout import LOCK, checksums_name
from job.manifest import lines
from job.shard import Shard


def checksums_path(path: Path, shard: Shard) -> Path:
    """Return where a shard lists its files, such as `SHA256SUMS-3-of-8`."""
    return path.with_name(checksums_name(shard))


def write(path: Path, directory: Path, entries: Iterable[bytes]) -> None:
    """List the file of each entry, given as lines, that has one; raise StorageError if that fails.

    Paths are below the directory of `path`. They hold no character that the format would need escaped.
    """
    with replacing(path, directory / LOCK) as file:
        for line in entries:
            row = lines.load(line)
            if row and row.entry.stored:
                file.write(f"{row.entry.stored.sha256}  {row.entry.stored.path}\n".encode())
