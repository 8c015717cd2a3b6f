"""Counters, gauges and histograms of a run in a registry of their own, and the textfile for node_exporter."""

import platform
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from http import HTTPStatus
from pathlib import Path
from threading import Lock

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Metric,
    disable_created_metrics,
    write_to_textfile,
)
from prometheus_client.registry import Collector

from job.errors import TOO_MANY_CHANGED, Failure, Outcome, Reason
from job.metrics.endpoint import Endpoint
from job.model import Cause, Result, Status, Summary
from job.resilience import RetryEvent

_ITEM_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_ATTEMPT_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_RETRY_GROUPS = (
    Outcome.TOO_MANY_REQUESTS,
    Outcome.SERVER_ERROR,
    Outcome.TIMEOUT,
    Outcome.CONNECTION,
    Outcome.INVALID,
)
CHANGES = ("new", "changed", "gone")
"""The values of the label `change`: the words of `Summary.changes`."""
_OTHER_STATUS = "http_other"
CAUSES = frozenset({"none", TOO_MANY_CHANGED, *Reason, *(f"http_{status}" for status in HTTPStatus), _OTHER_STATUS})
"""The closed list of the label `reason` of `flagjob_last_run_info`."""


class Metrics(Collector):
    """The metrics of one run. Times are in seconds, sizes in bytes.

    Thread-safe: prometheus_client guards each value with a lock. Workers take none of these locks for an attempt: they
    append it to a list, which is counted with each batch of results and whenever the metrics are read. Every label
    value exists from the start, at 0, because Prometheus computes no rate for the first sample of a series.
    """

    def __init__(self, version: str, revision: str, shards: int = 1) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # prometheus_client left it out
        self.revision = revision
        self.registry = CollectorRegistry()
        """What is scraped, pushed and written; reading it calls `collect`."""
        self.registry.register(self)
        self._values = CollectorRegistry()
        # The attempts that have ended and are not counted yet. Workers append; `_count_attempts` takes from the left.
        # Both are atomic, so neither loses an attempt or sees one twice.
        self._attempts: deque[tuple[Outcome, float, int]] = deque()
        self._counting = Lock()
        self._received_bytes = 0
        self.selected = 0
        """The number of items taken from the source so far. Only the main thread changes it."""
        self._downloads = self._counters("downloads", "Items by how they ended.", "status", tuple(Status))
        self._requests = self._counters("http_requests", "Attempts by their outcome.", "outcome", tuple(Outcome))
        self._retries = self._counters("retries", "Attempts that are tried again.", "reason", _RETRY_GROUPS)
        self._waits = self._counters("retry_wait_seconds", "Time between tries.", "reason", _RETRY_GROUPS)
        self._received = Counter("flagjob_received_bytes", "Bytes of bodies.", registry=self._values)
        self._item_seconds = self._histogram("download", "Time an item took, retries included.", _ITEM_BUCKETS)
        self._attempt_seconds = self._histogram("http_request", "Time an attempt took.", _ATTEMPT_BUCKETS)
        self._workers = self._gauge("workers", "Most downloads at the same time.")
        self._active = self._gauge("active_downloads", "Downloads in flight.")
        self._pending = self._gauge("pending_downloads", "Items that wait for a worker.")
        self._concurrency = self._gauge("concurrency_limit", "Most requests at the same time that the origin bears.")
        self._gauge("selected_codes", "Items taken from the source so far.").set_function(lambda: self.selected)
        self._gauge("shards", "Into how many shares the codes are divided.").set(shards)
        self._start_time = self._gauge("last_run_start_timestamp_seconds", "When the run began.")
        build = Gauge("flagjob_build_info", "What runs.", ["version", "revision", "python"], registry=self._values)
        build.labels(version, revision, platform.python_version()).set(1)

    @property
    def received_bytes(self) -> int:
        """Return the number of body bytes received so far."""
        self._count_attempts()
        return self._received_bytes

    def count_attempt(self, outcome: Outcome, seconds: float, received_bytes: int) -> None:
        """Count one attempt, with its duration and the size of the body that it received."""
        self._attempts.append((outcome, seconds, received_bytes))

    def count_retry(self, retry: RetryEvent) -> None:
        """Count one retry, with the time that the item waits for it."""
        group = _retry_group(retry.error.failure)
        self._retries[group].inc()
        self._waits[group].inc(retry.wait_seconds)

    def count_results(self, results: Sequence[Result]) -> None:
        """Count items by status, with their durations; an item without any attempt has no duration."""
        self._count_attempts()
        statuses: dict[Status, int] = {}
        for result in results:
            statuses[result.status] = statuses.get(result.status, 0) + 1
            if result.attempts:
                self._item_seconds.observe(result.duration_seconds)
        for status, number in statuses.items():
            self._downloads[status].inc(number)

    def collect(self) -> Iterable[Metric]:
        """Return the metrics, with every attempt that has ended; prometheus_client calls this to read the registry."""
        self._count_attempts()
        return self._values.collect()

    def record_start(
        self, timestamp: float, workers: int, active: Callable[[], int], pending: Callable[[], int]
    ) -> None:
        """Record the start of the run (Unix time, in seconds) and its number of workers.

        `active` returns the number of items under way, `pending` that of waiting ones. A scrape calls them on the
        endpoint's threads, so they must only read values that another thread may change at the same time.
        """
        self._start_time.set(timestamp)
        self._workers.set(workers)
        self._active.set_function(active)
        self._pending.set_function(pending)

    def record_throttle(self, concurrency_limit: Callable[[], int]) -> None:
        """Take what returns how many requests may be under way; a scrape calls it, so it must only read a value."""
        self._concurrency.set_function(concurrency_limit)

    def record_end(self, summary: Summary, timestamp: float) -> None:
        """Record the end of the run (Unix time, in seconds), once; only a successful run gets a time of success.

        These series exist only from now on. A run that goes on would otherwise look like one that ended with exit code
        0, to whoever scrapes it.
        """
        self._end_gauge("last_run_timestamp_seconds", "When the run ended.", timestamp)
        self._end_gauge("last_run_duration_seconds", "How long the run took.", summary.duration_seconds)
        self._end_gauge("last_run_exit_code", "How the run ended.", summary.exit_code)
        changes = Gauge("flagjob_last_run_changes", "Files by what became of them.", ["change"], registry=self._values)
        for change in CHANGES:
            changes.labels(change).set(summary.changes.get(change, 0))
        if summary.exit_code == 0:
            self._end_gauge("last_success_timestamp_seconds", "When the last successful run ended.", timestamp)
        # Each has one series: a push replaces the series of this name that the run before has left. Where a run is only
        # scraped nothing is replaced; the time tells then which of several is the newest. It comes last, so that a
        # scrape which has it has all.
        cause = _cause_label(summary.cause)
        self._outcome_gauge("info", "How the run ended, and the cause.").labels(summary.outcome, cause).set(1)
        ended = self._outcome_gauge("outcome_timestamp_seconds", "When the run ended, how, and the cause.")
        ended.labels(summary.outcome, cause).set(timestamp)

    def serve(self, host: str, port: int) -> Endpoint:
        """Start serving /metrics; raise OSError if the address is in use or does not belong to this machine."""
        return Endpoint(self.registry, host, port)

    def write_textfile(self, path: Path) -> None:
        """Write the textfile for node_exporter atomically; raise OSError if that fails."""
        write_to_textfile(str(path), self.registry)

    def _count_attempts(self) -> None:
        """Count the attempts that have ended since the last call."""
        # The main thread and the endpoint's threads may come here at the same time. Without the lock, a scrape could
        # find no attempt left while the main thread has taken some and not counted them yet, and would miss them.
        with self._counting:
            # Workers may append meanwhile. Those attempts are left for the next call, or this one might not end.
            outcomes: dict[Outcome, int] = {}
            received_bytes = 0
            for _ in range(len(self._attempts)):
                outcome, seconds, size = self._attempts.popleft()
                outcomes[outcome] = outcomes.get(outcome, 0) + 1
                received_bytes += size
                self._attempt_seconds.observe(seconds)
            for outcome, number in outcomes.items():
                self._requests[outcome].inc(number)
            self._received.inc(received_bytes)
            self._received_bytes += received_bytes

    def _counters(self, name: str, text: str, label: str, values: Sequence[str]) -> dict[str, Counter]:
        counter = Counter(f"flagjob_{name}", text, [label], registry=self._values)
        return {value: counter.labels(value) for value in values}

    def _histogram(self, name: str, text: str, buckets: Sequence[float]) -> Histogram:
        return Histogram(f"flagjob_{name}_duration_seconds", text, buckets=buckets, registry=self._values)

    def _gauge(self, name: str, text: str) -> Gauge:
        return Gauge(f"flagjob_{name}", text, registry=self._values)

    def _end_gauge(self, name: str, text: str, value: float) -> None:
        # Registered after it has its value: a scrape that comes between the two must not find 0.
        gauge = Gauge(f"flagjob_{name}", text, registry=None)
        gauge.set(value)
        self._values.register(gauge)

    def _outcome_gauge(self, name: str, text: str) -> Gauge:
        return Gauge(f"flagjob_last_run_{name}", text, ["outcome", "reason"], registry=self._values)


def _cause_label(cause: Cause | None) -> str:
    """Return the cause as one of few values."""
    if cause is None:
        return "none"
    return cause.reason if cause.reason in CAUSES else _OTHER_STATUS


def _retry_group(failure: Failure) -> Outcome:
    """Return the class that a retry is counted by: 408 is a timeout, every other retried 4xx (425) is invalid."""
    if failure.kind is None and failure.http_status == HTTPStatus.REQUEST_TIMEOUT:
        return Outcome.TIMEOUT
    if failure.outcome in _RETRY_GROUPS:
        return failure.outcome
    return Outcome.INVALID
