"""One run of the job: its items drained through the pool, its results reported and recorded, its exit code found."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from functools import partial
from typing import TYPE_CHECKING

from job import __version__, codes
from job.cancellation import Cancellation
from job.destination import Destination, destination_for
from job.errors import Cancelled, Reason, StorageError, UsageError
from job.exit_code import (
    ExitCode,
    RepeatedFailureCutoff,
    Totals,
    exit_code,
    find_cause,
    is_over_budget,
    outcome_name,
    signal_exit_code,
)
from job.file_table import FileTable
from job.inputs import Inputs, open_inputs
from job.log import RunLog
from job.manifest import Change
from job.model import Item, LogStream, Result, Status, Summary, WorkItem
from job.reporting import Consumer, Reporting
from job.settings import NewOrigin, Publish, Settings
from job.wiring import Wiring

if TYPE_CHECKING:
    from job.pool import Pool
    from job.report import Report


class Run:
    """One run, on the main thread; what it hands to the pool runs on other threads."""

    def __init__(self, settings: Settings, cancellation: Cancellation, stdout: LogStream, *, terminal: bool) -> None:
        self._settings = settings
        self._cancellation = cancellation
        self._reporting = Reporting(settings, cancellation, stdout, terminal=terminal)
        self._totals = Totals()
        self._ends_at = time.monotonic() + settings.deadline
        self._stack = ExitStack()
        self._is_open = False
        self._abandoned_calls = 0
        self._pool: Pool | None = None
        self._began = 0.0

    @property
    def abandoned(self) -> int:
        """Return how many threads were still at work when the run gave them up; joining them could take for ever."""
        in_pool = self._pool.abandoned + self._pool.threads_left() if self._pool else 0
        return self._abandoned_calls + in_pool + self._reporting.abandoned

    @property
    def log(self) -> RunLog:
        """Return the log of the run, which knows its secrets."""
        return self._reporting.log

    def execute(self) -> int:
        """Do all of it and return the exit code; raise UsageError before anything was attempted."""
        try:
            with self._stack:
                code = self._execute()
        except UsageError as error:
            self._reporting.report_usage_error(error)
            raise
        else:
            self._reporting.linger()  # last, so that a process that only waits holds nothing
        finally:
            self._reporting.close()
        return code

    def _execute(self) -> int:
        self._start_deadline()
        # One table for both: which files have their item in this run, and what the manifest has of each.
        table = FileTable()
        inputs = open_inputs(self._settings, self._cancellation, self._stack, table)
        if self._settings.dry_run:
            return self._list_items(inputs)
        destination = destination_for(self._settings, inputs, self._stack, table)
        self._open(destination)
        return self._download_all(inputs, destination)

    def _start_deadline(self) -> None:
        """Cancel the run at its deadline, wherever the main thread may wait then."""
        try:
            self._stack.callback(self._cancellation.cancel_after(self._ends_at - time.monotonic()))
        except StorageError as error:
            self._end_for_storage(str(error))

    def _list_items(self, inputs: Inputs) -> int:
        """Log the settings and what each item would be; send no request."""
        log = self._reporting.log
        log.log_plan("settings", **self._settings.changed)
        for item in (item for item in inputs.items if item is not None):
            url = item.url if isinstance(item, WorkItem) else None
            file = item.file if isinstance(item, WorkItem) else None
            log.log_plan("item", code=item.code, url=url, file=file)
        signal = self._cancellation.signal
        return signal_exit_code(signal) if signal else ExitCode.OK

    def _open(self, destination: Destination) -> None:
        """Make the destination ready; where that fails, or takes longer than the run, every item is cancelled."""
        accept_new_origin = self._settings.new_origin is NewOrigin.ACCEPT
        destination.storage.on_limitation = self._reporting.report_limitation
        try:
            self._cancellation.run_interruptible(lambda: destination.open(accept_new_origin=accept_new_origin))
        except StorageError as error:
            self._end_for_storage(f"the destination cannot be written: {error}")
        except Cancelled:
            self._abandoned_calls += 1  # it may still be under way; that it had not begun makes no difference
        else:
            self._is_open = True

    def _download_all(self, inputs: Inputs, destination: Destination) -> int:
        """Drain the items through the pool, report each result, close the destination, and return the exit code."""
        self._began = time.monotonic()
        report = self._begin_report(destination)
        recorder = report.recorder if report else None
        wiring = Wiring(self._settings, self._cancellation, self._reporting, self._ends_at, inputs, recorder)
        pool = wiring.pool(destination, self._stack, self._end_for_storage)
        self._pool = pool
        cutoff = RepeatedFailureCutoff(pool.singly)
        consumers: list[Consumer] = [
            self._count,
            partial(self._record, destination),  # before the log, so that a result which is told is also recorded
            self._reporting.report,
            partial(self._stop_if_all_fail, cutoff, inputs),
        ]
        if report:
            consumers.append(self._reporting.protected("report", report.collector.add))
        self._reporting.report_start(inputs, pool.workers, lambda: pool.active, lambda: pool.pending)
        distinct = inputs.items if destination.folded is None else codes.refuse_folded(inputs.items, destination.folded)
        items = self._reporting.count_selected(self._until_unreadable(distinct))
        with self._reporting.progress_bar(inputs.known), closing(pool.results(items)) as batches:
            for results in batches:
                for consume in consumers:
                    consume(results)
        if report:
            self._try_report(report, lambda: report.read_pictures(destination.storage))
        is_published = self._close(destination)
        changes = destination.manifest.counts
        code = self._exit_code(changes)
        summary = Summary(
            self._totals.counts,
            self._reporting.metrics.received_bytes,
            self._totals.retries,
            time.monotonic() - self._began,
            code,
            outcome_name(code),
            changes={change.value: count for change, count in changes.items() if change is not Change.UNCHANGED},
            published=is_published,
            cause=find_cause(code, self._totals, self._reporting.endings, is_over_budget=self._is_over_budget()),
            reasons=self._totals.most_frequent_reasons,
            examples=self._totals.examples,
        )
        if report:
            self._write_report(report, inputs, destination, summary)
        self._reporting.report_end(summary)
        return code

    def _begin_report(self, destination: Destination) -> "Report | None":
        """Return what gathers the page of this run, if it is to have one; nothing of it is imported otherwise."""
        if self._settings.report is None:
            return None
        from job.report import Report  # noqa: PLC0415  (see above)

        report = Report(self._settings)
        destination.manifest.on_change = report.collector.add_change
        return report

    def _write_report(self, report: "Report", inputs: Inputs, destination: Destination, summary: Summary) -> None:
        """Write the page of this run, before anything waits for a gateway."""
        from job.report import RunFacts  # noqa: PLC0415  (as above)

        reporting = self._reporting
        facts = RunFacts(
            settings=self._settings,
            summary=summary,
            cause=reporting.shown_cause(summary.cause),
            url=inputs.template.text,
            workers=self._pool.workers if self._pool else 0,
            version=__version__,
            run_id=reporting.run_id,
            readable=report.readable,
        )
        self._try_report(report, lambda: report.write(facts, reporting.log.masked, destination.write_report))

    def _try_report(self, report: "Report", work: Callable[[], None]) -> None:
        """Do work for the page while there is time; what fails is one warning and changes nothing else."""
        try:
            self._cancellation.run_within_grace(self._settings.shutdown_grace, work)
        except Cancelled:
            self._abandoned_calls += 1
            self._reporting.log.warning("sink_failed", target=report.target, error="it took longer than the grace")
        except Exception as error:  # noqa: BLE001  (a page about a run must not change its result)
            self._reporting.log.warning("sink_failed", target=report.target, error=str(error))

    def _until_unreadable(self, items: Iterator[Item | None]) -> Iterator[Item | None]:
        """Yield the items; a list that cannot be read to its end ends the run, but in good order."""
        try:
            yield from items
        except OSError as error:
            self._end_for_storage(f"the rest of the list cannot be read: {error.strerror or error}")

    def _count(self, results: Sequence[Result]) -> None:
        for result in results:
            self._totals.add(result)

    def _record(self, destination: Destination, results: Sequence[Result]) -> None:
        """Record results in the manifest; a destination that cannot be written ends the run."""
        if self._cancellation.storage_failed:
            problems = [result.error for result in results if result.reason == Reason.STORAGE and result.error]
            if problems:
                self._end_for_storage(problems[0])
        if not self._is_open:
            return
        try:
            destination.manifest.record(results)
            upload = destination.count_results(len(results))
            if upload:
                self._run_within_grace(upload)
        except StorageError as error:
            self._end_for_storage(f"the manifest cannot be written: {error}")

    def _stop_if_all_fail(self, cutoff: RepeatedFailureCutoff, inputs: Inputs, results: Sequence[Result]) -> None:
        """End a run whose items all fail with one reason, unless the user allows that: a wrong path stays wrong.

        If the list has URLs, the first items may be those of one origin, and say nothing about the others.
        """
        if inputs.has_urls:
            return
        failure = next(filter(None, [cutoff.add(result) for result in results]), None)
        if failure is None or self._cancellation.reason:
            return
        if self._is_over_budget(inputs.known or 0):
            self._totals.uniform_failure = failure
            self._cancellation.request(Reason.UNIFORM_REFUSAL)
            self._reporting.report_uniform_failure(failure, self._totals.items)

    def _close(self, destination: Destination) -> bool:
        """Make everything durable; publish a set only if every budget holds. Return whether something is new."""
        if not self._is_open:
            return False
        code = self._exit_code(destination.manifest.counts)
        publish = code == ExitCode.OK
        # Before it is closed: whatever fails from here on is in the log, but not in the summary of the changes.
        destination.manifest.summary_facts = self._summary_facts(code)
        is_published: list[bool] = []
        try:
            self._run_within_grace(lambda: is_published.append(destination.close(publish=publish)))
        except StorageError as error:
            self._end_for_storage(f"the downloaded files could not be flushed to the disk: {error}")
            return False
        if not is_published[0]:
            self._reporting.log.error("set_not_published", problem="a budget was exceeded, or the run was stopped")
        return is_published[0] and (self._settings.publish is Publish.SET or self._totals.counts[Status.OK] > 0)

    def _summary_facts(self, code: int) -> dict[str, object]:
        """Return what the summary of the changes says of the run, under the names that its log lines have."""
        return {
            "job": self._settings.name,
            "run_id": self._reporting.run_id,
            "outcome": outcome_name(code),
            "exit_code": code,
            "reasons": self._totals.most_frequent_reasons,
            "counts": {status.value: count for status, count in self._totals.counts.items()},
            "bytes": self._reporting.metrics.received_bytes,
            "duration_s": round(time.monotonic() - self._began, 3),
        }

    def _run_within_grace(self, work: Callable[[], None]) -> None:
        """Run work of the destination while there is time; after that it is not used any more."""
        try:
            self._cancellation.run_within_grace(self._settings.shutdown_grace, work)
        except Cancelled:
            self._abandoned_calls += 1
            self._is_open = False
            raise StorageError("it did not answer within FLAGJOB_SHUTDOWN_GRACE") from None

    def _end_for_storage(self, problem: str) -> None:
        self._cancellation.request(Reason.STORAGE)
        self._reporting.report_storage_failure(problem)

    def _is_over_budget(self, known: int = 0) -> bool:
        settings = self._settings
        items = max(self._totals.items, known)
        return is_over_budget(self._totals, items, errors=settings.max_errors, not_found=settings.max_not_found)

    def _exit_code(self, changes: Mapping[Change, int]) -> int:
        settings = self._settings
        is_set = settings.publish is Publish.SET
        return exit_code(
            self._totals,
            self._cancellation,
            errors=settings.max_errors,
            not_found=settings.max_not_found,
            too_many_changed=is_set and not settings.max_changed.allows(changes[Change.CHANGED], self._totals.items),
        )
