"""All manifests of a directory, whatever the shards, as one."""

from collections.abc import Collection, Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

from job.atomic_write import map_os_errors
from job.layout import find_manifests, manifest_name
from job.manifest import lines, sums
from job.manifest.journal import Journal, newest
from job.manifest.line_file import LineFile
from job.model import Entry
from job.shard import Shard


def entries(directory: Path) -> Iterator[Entry]:
    """Yield what is known of each code in any manifest; of several entries the one of the latest check.

    Writes nothing, so that it may be used beside a run. Memory: about 110 bytes an entry. Raises StorageError.
    """
    with _opened(directory) as journals:
        for line in newest(list(journals.values())):
            if row := lines.load(line):
                yield row.entry


def forget(directory: Path, sums_path: Path, codes: Collection[str]) -> None:
    """Take codes out of every manifest that knows them, and their files out of SHA256SUMS.

    The files themselves stay. `sums_path` is that of a run without shards. Raises StorageError.
    """
    with _opened(directory) as journals:
        for shard, journal in journals.items():
            known = [code for code in codes if journal.row(code)]
            if known:
                _append(directory / manifest_name(shard), map(lines.forgotten, known))
                journal.learn()
                sums.write(sums.checksums_path(sums_path, shard), directory, journal.live())


@contextmanager
def _opened(directory: Path) -> Iterator[dict[Shard, Journal]]:
    """Open every manifest of a directory to be read."""
    with map_os_errors(directory):
        journals = {shard: Journal(path) for shard, path in find_manifests(directory).items()}
    with ExitStack() as stack:
        for journal in journals.values():
            stack.callback(journal.close)
            journal.read()
        yield journals


def _append(path: Path, added: Iterable[bytes]) -> None:
    file = LineFile(path)
    with closing(file):
        file.open(write=True)
        for line in added:
            file.append(line)
        file.sync()
