"""What a run counts, and the textfile of it."""

import platform
from collections.abc import Callable, Sequence
from pathlib import Path

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    write_to_textfile,
)

from job.errors import Failure, Outcome
from job.metrics.endpoint import Endpoint
from job.model import Item, Result, Status, Summary
from job.resilience import RetryEvent

_ITEM_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_ATTEMPT_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_RETRIED = ("429", "5xx", "timeout", "connection", "invalid")


class Metrics:
    """What a run counts. Thread-safe, as prometheus_client's metrics are; times in seconds, sizes in bytes.

    Every label value is there from the start, at 0: a series that appears late has no rate.
    """

    def __init__(self, version: str, revision: str, shards: int = 1) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # prometheus_client left it out
        self.revision = revision
        self.registry = CollectorRegistry()
        self._downloads = self._counters("downloads", "Items by how they ended.", "status", tuple(Status))
        self._requests = self._counters("http_requests", "Attempts by their outcome.", "outcome", tuple(Outcome))
        self._retries = self._counters("retries", "Attempts that are tried again.", "reason", _RETRIED)
        self._waits = self._counters("retry_wait_seconds", "Time between tries.", "reason", _RETRIED)
        self._received = Counter("flagjob_received_bytes", "Bytes of bodies.", registry=self.registry)
        self._item_seconds = self._histogram("download", "Time an item took, retries included.", _ITEM_BUCKETS)
        self._attempt_seconds = self._histogram("http_request", "Time an attempt took.", _ATTEMPT_BUCKETS)
        self._workers = self._gauge("workers", "Most downloads at the same time.")
        self._active = self._gauge("active_downloads", "Downloads under way.")
        self._pending = self._gauge("pending_downloads", "Items that wait for a worker.")
        self.selected = self._gauge("selected_codes", "Items taken from the source so far.")
        self._gauge("shards", "Into how many shares the codes are divided.").set(shards)
        self._started = self._gauge("last_run_start_timestamp_seconds", "When the run began.")
        self._ended = self._gauge("last_run_timestamp_seconds", "When the run ended.")
        self._duration = self._gauge("last_run_duration_seconds", "How long the run took.")
        self._exit_code = self._gauge("last_run_exit_code", "How the run ended.")
        build = Gauge("flagjob_build_info", "What runs.", ["version", "revision", "python"], registry=self.registry)
        build.labels(version, revision, platform.python_version()).set(1)

    @property
    def received_bytes(self) -> int:
        """How many bytes of bodies came so far."""
        return int(self.registry.get_sample_value("flagjob_received_bytes_total") or 0)

    def tracked(self, task: Callable[[Item], Result]) -> Callable[[Item], Result]:
        """Return a task that counts as under way while it runs."""

        def tracked(item: Item) -> Result:
            with self._active.track_inprogress():
                return task(item)

        return tracked

    def attempt(self, outcome: Outcome, seconds: float, received_bytes: int) -> None:
        """Count one attempt."""
        self._requests[outcome].inc()
        self._attempt_seconds.observe(seconds)
        self._received.inc(received_bytes)

    def retry(self, retry: RetryEvent) -> None:
        """Count one decision to try again."""
        group = _retry_group(retry.error.failure)
        self._retries[group].inc()
        self._waits[group].inc(retry.wait_seconds)

    def result(self, result: Result) -> None:
        """Count one item."""
        self._downloads[result.status].inc()
        if result.attempts:  # what nobody asked for took no time
            self._item_seconds.observe(result.duration_seconds)

    def started(self, timestamp: float, workers: int, pending: Callable[[], int]) -> None:
        """Note when the run began, in seconds of the Unix epoch, with how many workers, and who knows what waits."""
        self._started.set(timestamp)
        self._workers.set(workers)
        self._pending.set_function(pending)

    def finished(self, summary: Summary, timestamp: float) -> None:
        """Note how and when the run ended; a run that failed leaves no time of success behind."""
        self._ended.set(timestamp)
        self._duration.set(summary.duration_seconds)
        self._exit_code.set(summary.exit_code)
        if summary.exit_code == 0:
            self._gauge("last_success_timestamp_seconds", "When the last successful run ended.").set(timestamp)

    def serve(self, host: str, port: int) -> Endpoint:
        """Answer /metrics from now on; raises OSError where the address is taken or is not ours."""
        return Endpoint(self.registry, host, port)

    def write(self, path: Path) -> None:
        """Write the textfile for node_exporter, atomically; raise OSError where that fails."""
        write_to_textfile(str(path), self.registry)

    def _counters(self, name: str, text: str, label: str, values: Sequence[str]) -> dict[str, Counter]:
        counter = Counter(f"flagjob_{name}", text, [label], registry=self.registry)
        return {value: counter.labels(value) for value in values}

    def _histogram(self, name: str, text: str, buckets: Sequence[float]) -> Histogram:
        return Histogram(f"flagjob_{name}_duration_seconds", text, buckets=buckets, registry=self.registry)

    def _gauge(self, name: str, text: str) -> Gauge:
        return Gauge(f"flagjob_{name}", text, registry=self.registry)


def _retry_group(failure: Failure) -> str:
    """Return the group of a retry: 408 is a timeout, what remains of 4xx (425) is invalid."""
    group = Outcome.TIMEOUT if failure.http_status == 408 else failure.outcome  # noqa: PLR2004
    return group if group in _RETRIED else "invalid"
