"""All manifests of a directory, whatever the shards, as one."""

from collections.abc import Collection, Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

from job.disk import named
from job.manifest import lines, sums
from job.manifest.disk import LineFile
from job.manifest.journal import Journal, newest
from job.manifest.names import Shard, manifests
from job.model import Entry


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
                _append(directory / shard.name("manifest", ".jsonl"), map(lines.forgotten, known))
                journal.learn()
                sums.write(sums.path_of(sums_path, shard), directory, journal.live())


@contextmanager
def _opened(directory: Path) -> Iterator[dict[Shard, Journal]]:
    """Open every manifest of a directory to be read."""
    with named(directory):
        journals = {shard: Journal(path) for shard, path in manifests(directory).items()}
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
