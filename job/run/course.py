"""The course of a run: its destination opened, its items drained, its exit code found."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing
from typing import BinaryIO

from job.cancellation import Cancellation
from job.destination import Destination, destination_for
from job.errors import Cancelled, Reason, StorageError
from job.exit_code import ExitCode, RepeatedFailureCutoff, Totals, exit_code, is_over_budget, outcome_name
from job.inputs import Inputs, open_inputs
from job.log import RunLog
from job.manifest import Change
from job.model import Item, Result, Summary, WorkItem
from job.reporting import Reporting
from job.run.parts import Parts
from job.settings import NewOrigin, Publish, Settings

_ENOUGH_REFUSALS = 100
_HINT = "every item was refused in the same way: look at the URL's path, the token, the list of codes"


class Run:
    """One run, on the main thread; what it hands to the pool runs on others."""

    def __init__(self, settings: Settings, cancellation: Cancellation, stdout: BinaryIO, *, terminal: bool) -> None:
        self._settings = settings
        self._cancellation = cancellation
        self._reporting = Reporting(settings, cancellation, stdout, terminal=terminal)
        self._totals = Totals()
        self._stack = ExitStack()
        self._is_open = False
        self._storage_told = False
        self._given_up = 0
        self._in_pool: Callable[[], int] = lambda: 0
        self._parts = Parts(settings, cancellation, self._reporting, time.monotonic() + settings.deadline)

    @property
    def abandoned(self) -> int:
        """How many threads were still at work when the run gave them up; joining them could take for ever."""
        return self._given_up + self._in_pool() + self._reporting.abandoned

    @property
    def log(self) -> RunLog:
        """Where the run says things, and which knows its secrets."""
        return self._reporting.log

    def execute(self) -> int:
        """Do all of it and return the exit code; raise UsageError before anything was attempted."""
        with self._reporting, self._stack:
            self._limit_time()
            inputs = open_inputs(self._settings, self._cancellation, self._stack)
            if self._settings.dry_run:
                return self._dry_run(inputs.items)
            target = destination_for(self._settings, inputs, self._stack)
            self._open(target)
            return self._drain(inputs, target)

    def _dry_run(self, items: Iterator[Item]) -> int:
        log = self._reporting.log
        log.plan("settings", **self._settings.changed)
        for item in items:
            facts = {"url": item.url, "file": item.file} if isinstance(item, WorkItem) else {"url": None, "file": None}
            log.plan("item", code=item.code, **facts)
        return 128 + self._cancellation.signal if self._cancellation.signal else ExitCode.OK

    def _open(self, target: Destination) -> None:
        """Make the destination ready; where that fails, or does not end before the run, every item is cancelled."""
        accept_new_origin = self._settings.new_origin is NewOrigin.ACCEPT
        try:
            self._cancellation.run_interruptible(lambda: target.open(accept_new_origin=accept_new_origin))
        except StorageError as error:
            self._storage_failed(f"the destination cannot be written: {error}")
        except Cancelled:
            self._given_up += 1  # unless the stop came first
        else:
            self._is_open = True

    def _drain(self, inputs: Inputs, target: Destination) -> int:
        began = time.monotonic()
        pool = self._parts.pool(inputs, target, self._stack, self._storage_failed)
        self._in_pool = lambda: pool.abandoned
        cutoff = RepeatedFailureCutoff(max(_ENOUGH_REFUSALS, 2 * pool.workers))
        self._reporting.started(inputs, pool.workers, lambda: pool.pending)
        items = self._reporting.counted(self._readable(inputs.items))
        with self._reporting.bar(inputs.known), closing(pool.results(items)) as results:
            for result in results:
                self._totals.add(result)
                self._reporting.result(result)
                self._remember(result, target)
                self._judge(cutoff.add(result), inputs.known)
        published, changes = self._close(target), target.manifest.counts
        code = self._code(changes)
        summary = Summary(
            self._totals.counts,
            self._reporting.metrics.received_bytes,
            self._totals.retries,
            time.monotonic() - began,
            code,
            outcome_name(code),
            changes={change.value: count for change, count in changes.items() if change is not Change.UNCHANGED},
            published=published,
        )
        self._reporting.finished(summary)
        return code

    def _readable(self, items: Iterator[Item]) -> Iterator[Item]:
        """Give the items; a list that cannot be read on ends the run, but in good order."""
        try:
            yield from items
        except OSError as error:
            self._storage_failed(f"the list of codes cannot be read on: {error.strerror or error}")

    def _remember(self, result: Result, target: Destination) -> None:
        """Tell the manifest; a destination that cannot be written ends the run."""
        if self._cancellation.storage_failed and result.reason == Reason.STORAGE and result.error:
            self._storage_failed(result.error)
        if result.url is None or result.file is None or not self._is_open:
            return
        try:
            target.manifest.record(WorkItem(result.code, result.url, result.file), result)
            due = target.told()
            if due:
                self._within_grace(due)
        except StorageError as error:
            self._storage_failed(f"the manifest cannot be written: {error}")

    def _judge(self, refused: str | None, known: int | None) -> None:
        """End a run that is refused everything, unless the user allows that: a wrong path is wrong a million times."""
        settings, totals = self._settings, self._totals
        items = max(totals.items, known or 0)
        budgets = {"errors": settings.max_errors, "not_found": settings.max_not_found}
        if refused and not self._cancellation.reason and is_over_budget(totals, items, **budgets):
            self._cancellation.request(Reason.UNIFORM_REFUSAL)
            self._reporting.log.error("uniform_refusal", reason=refused, outcomes=totals.items, hint=_HINT)

    def _close(self, target: Destination) -> bool:
        """Make everything durable; publish a set only if every budget holds."""
        if not self._is_open:
            return False
        published: list[bool] = []
        publish = self._code(target.manifest.counts) == ExitCode.OK
        try:
            self._within_grace(lambda: published.append(target.close(publish=publish)))
        except StorageError as error:
            self._storage_failed(f"what was downloaded is not durable: {error}")
            return False
        if not published[0]:
            self._reporting.log.error("set_not_published", problem="a budget does not hold, or the run was stopped")
        return published[0]

    def _within_grace(self, work: Callable[[], None]) -> None:
        """Let the destination do something for as long as there is time; after that it is left alone for good."""
        try:
            self._cancellation.run_within_grace(self._settings.shutdown_grace, work)
        except Cancelled:
            self._given_up += 1
            self._is_open = False
            raise StorageError("it did not answer within FLAGJOB_SHUTDOWN_GRACE") from None

    def _storage_failed(self, problem: str) -> None:
        """End the run, and say why once: what fails after that fails for the same reason."""
        self._cancellation.request(Reason.STORAGE)
        if not self._storage_told:
            self._storage_told = True
            self._reporting.log.storage_failed(problem)

    def _code(self, changes: Mapping[Change, int]) -> int:
        settings, totals = self._settings, self._totals
        is_set = settings.publish is Publish.SET
        return exit_code(
            totals,
            self._cancellation,
            errors=settings.max_errors,
            not_found=settings.max_not_found,
            too_many_changed=is_set and not settings.max_changed.allows(changes[Change.CHANGED], totals.items),
        )

    def _limit_time(self) -> None:
        """Stop the run at its deadline, wherever the main thread may wait then."""
        try:
            self._stack.callback(self._cancellation.cancel_after(self._parts.ends_at - time.monotonic()))
        except StorageError as error:
            self._storage_failed(str(error))
