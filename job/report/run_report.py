"""The report of one run: what gathers its page, and where the page is written at the end."""

from collections.abc import Callable
from pathlib import Path

from job.atomic_write import replace_file
from job.layout import Shard, is_local_path
from job.report.collector import Collector
from job.report.gallery import Clean, View
from job.report.recorder import AttemptRecorder
from job.report.view import RunFacts, run_view, simulation_view
from job.settings import Publish, Settings, SimulateOptions
from job.storage import DirectoryStorage, Generations, Storage


class Report:
    """Gathers the page of a run, and writes it. For the main thread, but for what the recorder observes."""

    def __init__(self, settings: Settings) -> None:
        """Take the settings of a run that asks for a report; the time of the page begins now."""
        self.recorder = AttemptRecorder()
        self.collector = Collector(self.recorder, _previous_set(settings))
        self.target = str(settings.report)
        """The path, or the name below the destination's own directory."""
        if not is_local_path(self.target):
            name = Path(self.target)
            self.target = Shard(settings.shard_index, settings.shard_count).name(name.stem, name.suffix)
        self.readable = False
        """Whether files could be read back, for their pictures."""

    def read_pictures(self, storage: Storage) -> None:
        """Read the pictures while the files are there: those of a set that is not published are removed after that."""
        self.readable = isinstance(storage, DirectoryStorage)
        self.collector.read_pictures(storage.root if isinstance(storage, DirectoryStorage) else None)

    def write(self, facts: RunFacts, clean: Clean, write_own: Callable[[str, bytes], None]) -> None:
        """Write the page to its path, or by `write_own` to the destination; raise StorageError if that fails."""
        page = rendered(run_view(facts, self.collector, clean))
        if is_local_path(self.target):
            replace_file(Path(self.target), page)
        else:
            write_own(self.target, page)


class SimulationReport:
    """Gathers the page of a simulation, and writes it. For the main thread, but for what the recorder observes."""

    def __init__(self, options: SimulateOptions) -> None:
        """Take the options of a simulation; the time of the page begins now."""
        self.collector = Collector(AttemptRecorder())
        self._options = options

    def write(self, path: Path, expected_seconds: float) -> None:
        """Write the page to a path; raise StorageError if that fails."""
        took = self.collector.recorder.now()
        replace_file(path, rendered(simulation_view(self._options, self.collector, expected_seconds, took)))


def rendered(view: View) -> bytes:
    """Return a page; Jinja2 is imported only now."""
    from job.report.page import render  # noqa: PLC0415  (a run downloads without it)

    return render(view)


def _previous_set(settings: Settings) -> Callable[[], Path | None]:
    """Return what returns the directory of the set that readers see until this run publishes another one."""
    if settings.publish is not Publish.SET:
        return lambda: None
    return lambda: Generations(Path(settings.dest)).current
