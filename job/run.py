"""One run of the job: its parts wired, its items drained, its exit code found."""

import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from typing import BinaryIO

from job import accept
from job.download import Downloader, Hooks, Terms
from job.errors import Reason, Stopped, StorageError
from job.fetch import Fetcher, Wire
from job.gate import Gate, Limits
from job.inputs import Inputs, open_inputs
from job.log import RunLog
from job.manifest import Change
from job.model import Item, Result, Summary, WorkItem
from job.pool import Pool
from job.refresh import Policy as RefreshPolicy
from job.retry import MAX_RETRY_AFTER_SECONDS, Policy
from job.settings import Executor, NewOrigin, Order, Publish, Settings
from job.sinks import Sinks
from job.stop import Stop
from job.target import Target, target_of
from job.transport import CurlAdapter
from job.verdict import Exit, Refusals, Tally, exit_code, is_over_budget, outcome

_ENOUGH_REFUSALS = 100
_LAST_SECOND = 1.0
"""Who waits for an origin until the run's deadline gives up a second before, and so can say why."""
_HINT = "every item was refused in the same way: look at the URL's path, the token, the list of codes"


class Run:
    """One run, on the main thread; what it hands to the pool runs on others."""

    def __init__(self, settings: Settings, stop: Stop, stdout: BinaryIO, *, terminal: bool) -> None:
        self._settings = settings
        self._stop = stop
        self._sinks = Sinks(settings, stop, stdout, terminal=terminal)
        self._tally = Tally()
        self._stack = ExitStack()
        self._is_open = False
        self._storage_told = False
        self._given_up = 0
        self._ends_at = time.monotonic() + settings.deadline
        self._patience = max(settings.item_timeout, MAX_RETRY_AFTER_SECONDS)

    @property
    def abandoned(self) -> int:
        """How many threads were still at work when the run gave them up; joining them could take for ever."""
        return self._given_up + self._sinks.abandoned

    @property
    def log(self) -> RunLog:
        """Where the run says things, and which knows its secrets."""
        return self._sinks.log

    def execute(self) -> int:
        """Do all of it and return the exit code; raise UsageError before anything was attempted."""
        with self._sinks, self._stack:
            inputs = open_inputs(self._settings, self._stop, self._stack)
            if self._settings.dry_run:
                return self._dry_run(inputs.items)
            self._limit_time()
            target = target_of(self._settings, inputs, self._stack)
            self._open(target)
            return self._drain(inputs, target)

    def _dry_run(self, items: Iterator[Item]) -> int:
        log = self._sinks.log
        log.plan("settings", **self._settings.changed)
        for item in items:
            facts = {"url": item.url, "file": item.file} if isinstance(item, WorkItem) else {"url": None, "file": None}
            log.plan("item", code=item.code, **facts)
        return Exit.OK

    def _open(self, target: Target) -> None:
        """Make the destination ready; where that fails, or does not end before the run, every item is cancelled."""
        accept_new_origin = self._settings.new_origin is NewOrigin.ACCEPT
        try:
            self._stop.unless(lambda: target.open(accept_new_origin=accept_new_origin))
        except StorageError as error:
            self._storage_failed(f"the destination cannot be written: {error}")
        except Stopped:
            self._given_up += 1  # unless the stop came first
        else:
            self._is_open = True

    def _drain(self, inputs: Inputs, target: Target) -> int:
        began = time.monotonic()
        pool = self._pool(inputs, target)
        refusals = Refusals(max(_ENOUGH_REFUSALS, 2 * pool.workers))
        self._sinks.started(inputs, pool.workers, lambda: pool.pending)
        with self._sinks.bar(inputs.known):
            for result in pool.results(self._sinks.counted(inputs.items)):
                self._tally.add(result)
                self._sinks.result(result)
                self._remember(result, target)
                self._judge(refusals.add(result), inputs.known)
        self._given_up += pool.abandoned
        published, changes = self._close(target), target.manifest.counts
        code = self._code(changes)
        summary = Summary(
            self._tally.counts,
            self._sinks.metrics.received_bytes,
            self._tally.retries,
            time.monotonic() - began,
            code,
            outcome(code),
            changes={change.value: count for change, count in changes.items() if change is not Change.UNCHANGED},
            published=published,
        )
        self._sinks.finished(summary)
        return code

    def _remember(self, result: Result, target: Target) -> None:
        """Tell the manifest; a destination that cannot be written ends the run."""
        if self._stop.reason is Reason.STORAGE and result.reason == Reason.STORAGE and result.error:
            self._storage_failed(result.error)
        if result.url is None or result.file is None or not self._is_open:
            return
        try:
            target.manifest.record(WorkItem(result.code, result.url, result.file), result)
            target.told()
        except StorageError as error:
            self._storage_failed(f"the manifest cannot be written: {error}")

    def _judge(self, refused: str | None, known: int | None) -> None:
        """End a run that is refused everything, unless the user allows that: a wrong path is wrong a million times."""
        settings, tally = self._settings, self._tally
        items = max(tally.items, known or 0)
        budgets = {"errors": settings.max_errors, "not_found": settings.max_not_found}
        if refused and not self._stop.reason and is_over_budget(tally, items, **budgets):
            self._stop.request(Reason.UNIFORM_REFUSAL)
            self._sinks.log.error("uniform_refusal", reason=refused, outcomes=tally.items, hint=_HINT)

    def _close(self, target: Target) -> bool:
        """Make everything durable; publish a set only if every budget holds."""
        if not self._is_open:
            return False
        try:
            published = target.close(publish=self._code(target.manifest.counts) == Exit.OK)
        except StorageError as error:
            self._storage_failed(f"what was downloaded is not durable: {error}")
            return False
        if not published:
            self._sinks.log.error("set_not_published", problem="a budget does not hold, or the run was stopped")
        return published

    def _storage_failed(self, problem: str) -> None:
        """End the run, and say why once: what fails after that fails for the same reason."""
        self._stop.request(Reason.STORAGE)
        if not self._storage_told:
            self._storage_told = True
            self._sinks.log.storage_failed(problem)

    def _code(self, changes: Mapping[Change, int]) -> int:
        settings, tally = self._settings, self._tally
        is_set = settings.publish is Publish.SET
        return exit_code(
            tally,
            self._stop,
            errors=settings.max_errors,
            not_found=settings.max_not_found,
            too_many_changed=is_set and not settings.max_changed.allows(changes[Change.CHANGED], tally.items),
        )

    def _limit_time(self) -> None:
        """Stop the run at its deadline, wherever the main thread may wait then."""
        try:
            self._stack.callback(self._stop.after(self._ends_at - time.monotonic()))
        except StorageError as error:
            self._storage_failed(str(error))

    def _pool(self, inputs: Inputs, target: Target) -> Pool:
        settings = self._settings
        adapter = CurlAdapter(new_body=target.store.new_body, max_bytes=settings.max_bytes)
        download = self._downloader(inputs, target, adapter)
        return Pool(
            task=self._sinks.metrics.tracked(download),
            cancelled=download.cancelled,
            workers=self._workers(inputs),
            stop=self._stop,
            drain_seconds=self._drain_seconds,
            interrupt=adapter.interrupt,
            as_submitted=settings.executor is Executor.SEQUENTIAL or settings.order is Order.SUBMITTED,
            on_shortage=self._storage_failed,
            on_drain=self._interrupted,
            on_scheduled=self._sinks.log.scheduled,
            on_done=self._sinks.log.done,
        )

    def _interrupted(self, in_flight: int, cancelled: int) -> None:
        """Tell of an end that comes from outside; all others were told by what found them."""
        stop, number = self._stop, self._stop.signal
        if stop.reason in {Reason.SIGNAL, Reason.DEADLINE}:
            name = Exit(128 + number).name if number else None
            facts = {"reason": stop.reason, "signal": name, "in_flight": in_flight, "cancelled": cancelled}
            self._sinks.log.warning("interrupted", **facts)

    def _drain_seconds(self) -> float:
        """Half the grace for what is in flight; nothing for what waits for an origin that is not there."""
        return 0.0 if self._stop.reason is Reason.ORIGIN_DOWN else self._settings.shutdown_grace / 2

    def _workers(self, inputs: Inputs) -> int:
        settings = self._settings
        if settings.executor is Executor.SEQUENTIAL:
            return 1
        return max(1, min(settings.workers, inputs.known or settings.workers))

    def _gate(self, inputs: Inputs) -> Gate:
        settings = self._settings
        limits = Limits(
            rate=settings.rate_limit,
            workers=self._workers(inputs),
            patience=settings.origin_patience,
            fruitless=2 * self._patience,  # an item that is refused alone has given up by then
            ends_at=self._ends_at - _LAST_SECOND,
        )
        return Gate(limits, self._sinks.news(inputs.template.origin))

    def _downloader(self, inputs: Inputs, target: Target, adapter: CurlAdapter) -> Downloader:
        settings, sinks = self._settings, self._sinks
        wire = Wire(
            user_agent=settings.user_agent,
            secret_headers=settings.secret_headers,
            connect_timeout=settings.connect_timeout,
            read_timeout=settings.read_timeout,
            attempt_timeout=settings.attempt_timeout,
            max_bytes=settings.max_bytes,
            ca_bundle=settings.ca_bundle,
            redirect_hosts=settings.redirect_hosts,
        )
        fetcher = Fetcher(adapter, wire, target.store.new_body)
        self._stack.callback(fetcher.close)
        return Downloader(
            source=fetcher,
            destination=target.store,
            memory=target.manifest,
            terms=Terms(
                settings.accept or accept.types_for(inputs.template.suffix),
                settings.sums,
                RefreshPolicy(settings.refresh, settings.not_found_ttl),
            ),
            policy=Policy(settings.max_attempts, settings.item_timeout, self._patience, self._ends_at),
            gate=self._gate(inputs),
            stop=self._stop,
            hooks=Hooks(attempt=sinks.metrics.attempt, retry=sinks.retry, bug=sinks.bug),
        )
