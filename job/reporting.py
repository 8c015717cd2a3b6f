"""Reporting of a run: hands its results to log, metrics and progress bar, and publishes how it ended everywhere."""

import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from secrets import token_hex
from threading import Lock

from job import __version__, advice, display, progress, redaction
from job.cancellation import Cancellation
from job.codes import NAMED_SETS
from job.errors import LOCAL_REASONS, TOO_MANY_CHANGED, AttemptError, Reason, UsageError
from job.exit_code import ExitCode, signal_exit_code
from job.inputs import Inputs
from job.log import RunLog, termination_message
from job.metrics import Endpoint, Metrics, Pings, Push
from job.model import Cause, Item, LogStream, Result, Status, Summary
from job.resilience import RetryEvent, ThrottleEvents
from job.settings import LogFormat, LogResults, Pushgateway, Settings, header_secrets
from job.tables import is_table_name
from job.validation import SameBytes

Consumer = Callable[[Sequence[Result]], None]
"""Takes a batch of results, on the main thread."""

_LOGGED_STATUSES = {
    LogResults.ALL: frozenset(Status),
    LogResults.CHANGED: frozenset(Status) - {Status.UNCHANGED},
    LogResults.PROBLEMS: frozenset({Status.NOT_FOUND, Status.ERROR}),
}
_LOCAL_REASONS = {*LOCAL_REASONS, TOO_MANY_CHANGED}
"""Causes that are none of the origin's."""
_CAUSE_BYTES = 500
"""How much of a cause's error is kept. It stands twice in the termination message, in which JSON may double it."""
_PUSH_SECONDS = 5.0
"""How long a push may take, and a ping."""
_MAX_LOGGED_RATE = 1e6
"""Requests per second; more than a run can send. JSON has no infinity, which is the rate without a limit."""


class Reporting:
    """Reports one run. Create it before the run, call `linger` after everything else is closed, and `close` last.

    `consumers` take each batch of results in order: metrics, log, progress bar. A consumer of metrics or progress bar
    that fails is logged once and changes nothing else. The log is not protected: LogError ends the run.

    Workers may call `report_retry`, `report_bug`, `report_limitation`, `report_headers`, `end_for_refusals`, the events
    of `throttle_events` and the methods of `metrics` and `log`, which are thread-safe. Only the main thread may call
    everything else.
    """

    def __init__(self, settings: Settings, cancellation: Cancellation, stdout: LogStream, *, terminal: bool) -> None:
        self._settings = settings
        self._cancellation = cancellation
        self._endpoint: Endpoint | None = None
        self.abandoned = 0
        """Number of threads that still push but are no longer waited for: joining them could block forever."""
        is_for_people = terminal if settings.log_format is LogFormat.AUTO else settings.log_format is LogFormat.CONSOLE
        self._is_for_people = is_for_people
        self._noun = _noun(settings)
        self._has_bar = not settings.verbose and display.is_terminal(sys.stderr)
        self._logged_statuses = _LOGGED_STATUSES[settings.log_results]
        if self._has_bar and is_for_people and "log_results" not in settings.changed:
            # The bar counts the other results, and the last line has the number of cancelled ones.
            self._logged_statuses = _LOGGED_STATUSES[LogResults.PROBLEMS]
        self.run_id = token_hex(8)
        """What each line of the log names the run by."""
        self.log = RunLog(
            progress.LinesAboveBar(stdout) if self._has_bar and terminal else stdout,
            level="debug" if settings.verbose else settings.log_level,
            for_people=is_for_people,
            for_google=settings.log_format is LogFormat.GCP,
            coloured=display.wants_colours(sys.stdout, settings.log_format),
            noun=self._noun,
            secrets=settings.secrets,
            fields={
                "job": settings.name,
                "run_id": self.run_id,
                "shard": settings.shard_index,
                "shards": settings.shard_count,
            },
        )
        self._warnings: set[str] = set()
        self.endings: dict[int, Cause] = {}
        """What ended the run, by the exit code that it leads to. Any thread may add one: that is atomic."""
        self._first_errors: dict[str, str] = {}
        self._pings = Pings(settings.ping_url, settings.ca_bundle, _PUSH_SECONDS)
        self._origin: str | None = None
        """The origin, known from the start of the run on; empty if there may be several."""
        # Keeps two workers that find the same at the same time from both saying it.
        self._warnings_lock = Lock()
        self.metrics = Metrics(__version__, os.environ.get("SOURCE_REVISION", "unknown"), settings.shard_count)
        self._same_bytes = SameBytes()
        self.consumers: list[Consumer] = [
            self.protected("metrics", self.metrics.count_results),
            self._log_results,
            self._same_bytes.add,
        ]

    def report(self, results: Sequence[Result]) -> None:
        """Hand a batch of results to every consumer; raise LogError if the log cannot be written."""
        for consume in self.consumers:
            consume(results)

    def report_start(self, inputs: Inputs, workers: int, active: Callable[[], int], pending: Callable[[], int]) -> None:
        """Start serving the metrics, and log what the run is about to do; for the callbacks see `record_start`."""
        self.metrics.record_start(time.time(), workers, active, pending)
        address = self._settings.metrics_address
        if address:
            with self._warn_if_failed(str(address)):
                self._endpoint = self.metrics.serve(address.host, address.port)
        self.log.log_run_started(
            version=__version__,
            revision=self.metrics.revision,
            codes=inputs.known,
            workers=workers,
            server=inputs.server,
            url=inputs.template.text,
            first=inputs.first,
            last=inputs.last,
            dest=self._settings.dest,
            settings=self._settings.changed,
        )
        if inputs.built_in:
            hint = "these are the built-in origin's flags; set FLAGJOB_URL to download from a real one"
            self.log.info("builtin_origin", hint=hint)
        self._origin = "" if inputs.has_urls else inputs.template.origin
        ending = self.endings.get(ExitCode.STORAGE)
        if ending:
            self.log.log_storage_error(str(ending.error))
        self._pings.begin("start")

    @contextmanager
    def progress_bar(self, total: int | None) -> Iterator[None]:
        """Show a progress bar during the `with` block if standard error is a terminal."""
        if not self._has_bar:
            yield
            return
        bar = progress.Bar(total, sys.stderr, self._noun)
        consumer = self.protected("progress bar", bar.advance)
        self.consumers.append(consumer)
        try:
            yield
        finally:
            self.consumers.remove(consumer)
            bar.close()

    def count_selected(self, items: Iterator[Item | None]) -> Iterator[Item | None]:
        """Yield the items, and count each in the metrics."""
        for item in items:
            if item is not None:
                self.metrics.selected += 1
            yield item

    def report_retry(self, code: str, retry: RetryEvent) -> None:
        """Count and log that an item is tried again."""
        # Of an origin that is away no item may have a result but that it was cancelled: its first error is this one.
        # Workers come here at the same time, and `setdefault` is atomic.
        self._first_errors.setdefault(retry.error.failure.reason, str(retry.error))
        self.metrics.count_retry(retry)
        self.log.log_retry(code, retry)

    def report_bug(self, code: str, error: Exception) -> None:
        """Log an exception that the program did not expect."""
        self.log.log_bug(error, code=code)

    def report_storage_failure(self, problem: str) -> None:
        """Log why the destination or this machine failed: once, and after `run_started`; for the main thread only."""
        if ExitCode.STORAGE in self.endings:  # what fails after that fails for the same reason
            return
        self.endings[ExitCode.STORAGE] = Cause(Reason.STORAGE, problem)
        if self._origin is not None:
            self.log.log_storage_error(problem)

    def report_limitation(self, problem: str) -> None:
        """Log what the destination cannot do, and the run therefore passes over: once, however often it is told."""
        self._warn_once("destination_limited", dest=self._settings.dest, problem=problem)

    def report_headers(self, found: Mapping[str, str] | str) -> None:
        """Mask and log that the secret headers were read again; of a problem, log each once: the old ones stay.

        Called before the first request has new ones. The path may be a secret that was put into the wrong place.
        """
        path = redaction.path(self._settings.headers_file or "")
        if isinstance(found, str):
            self._warn_once("headers_not_renewed", path=path, problem=found)
        else:
            self.log.mask(list(header_secrets(found)))
            self.log.info("headers_renewed", path=path)

    def report_uniform_failure(self, failure: Result, outcomes: int) -> None:
        """Log that all items failed in the same way from the start."""
        hint = advice.RETRYABLE_HINT if failure.retryable else advice.PERMANENT_HINT
        self.log.error("uniform_refusal", reason=failure.reason, outcomes=outcomes, hint=hint)

    def end_for_refusals(self, reason: str, outcomes: int) -> None:
        """Log that the origin refuses what it gave before, and end the run."""
        self.endings[ExitCode.RETRYABLE] = Cause(reason)
        try:
            self.log.error("uniform_refusal", reason=reason, outcomes=outcomes, hint=advice.REFUSED_LATER_HINT)
        finally:
            self._cancellation.request(Reason.UNIFORM_REFUSAL)

    def report_interruption(self, in_flight: int, cancelled: int) -> None:
        """Log an end that comes from outside; every other cause was logged where it was found."""
        reason = self._cancellation.reason
        number = self._cancellation.signal
        if reason in {Reason.SIGNAL, Reason.DEADLINE}:
            name = ExitCode(signal_exit_code(number)).name if number else None
            self.log.warning("interrupted", reason=reason, signal=name, in_flight=in_flight, cancelled=cancelled)

    def throttle_events(self, host: str, *, several: bool = False) -> ThrottleEvents:
        """Return callbacks that log the throttle's events; a host that is given up, and is the only one, ends the run.

        Workers call them without the throttle's lock, so two events may be logged in another order than they occurred.
        """
        log = self.log

        def log_pause(error: AttemptError, seconds: float) -> None:
            reason = error.failure.reason
            log.warning("host_paused", host=host, until_s=round(seconds, 3), reason=reason, error=str(error))

        def log_resumption(requests_per_second: float) -> None:
            rate = min(requests_per_second, _MAX_LOGGED_RATE)
            log.info("host_resumed", host=host, requests_per_s=round(rate, 3))

        def log_overload(error: AttemptError, limit: int) -> None:
            reason = error.failure.reason
            log.warning("concurrency_lowered", host=host, requests=limit, reason=reason, error=str(error))

        def give_up(error: AttemptError) -> None:
            reason = error.failure.reason
            if several:
                log.error("origin_down", host=host, reason=reason, error=str(error), run_goes_on=True)
                return
            self.endings[ExitCode.ORIGIN_DOWN] = Cause(reason, self._first_errors.get(reason, str(error)))
            try:
                log.error("origin_down", host=host, reason=reason, error=str(error))
            finally:
                self._cancellation.request(Reason.ORIGIN_DOWN)

        return ThrottleEvents(
            paused=log_pause,
            resumed=log_resumption,
            recovered=lambda: log.info("origin_back", host=host),
            gave_up=give_up,
            overloaded=log_overload,
            budget_spent=lambda: log.warning("retry_budget_spent", host=host, hint=advice.RETRY_BUDGET_HINT),
        )

    def report_end(self, summary: Summary) -> None:
        """Publish how the run ended: metrics, termination message, push, and last the log's `run_finished`.

        The log comes last, so that a reader of its last line finds everything else in place.
        """
        examples = {reason: self.log.masked(example) for reason, example in summary.examples.items()}
        summary = replace(summary, cause=self.shown_cause(summary.cause), examples=examples)
        text = progress.summary_text(summary, self._noun)
        same = self._same_bytes.most_frequent(summary.items)
        if same:
            self.log.warning("same_bytes", sha256=same[0], codes=same[1], hint=advice.SAME_BYTES_HINT)
        self._publish_final_metrics(summary)
        termination_log = self._settings.termination_log
        if termination_log:
            with self._warn_if_failed(termination_log):
                Path(termination_log).write_bytes(termination_message(summary, text))
        # The ping is under way while the metrics are pushed: a gateway that is silent would leave it none of the grace.
        self._pings.begin(summary.exit_code, termination_message(summary, text))
        gateway = self._settings.pushgateway_url
        if gateway:
            problem = self._push(gateway)
            if problem:
                self.log.warning("metrics_push_failed", target=gateway.url, error=problem)
        self._end_pings()
        closing = progress.closing_lines(summary, self._noun)
        self.log.log_run_finished(summary, text, closing if self._is_for_people else ())
        if not self._is_for_people and display.is_terminal(sys.stderr):
            coloured = display.wants_colours(sys.stderr, self._settings.log_format)
            sys.stderr.writelines(f"{display.painted(line, coloured=coloured)}\n" for line in closing)

    def report_usage_error(self, error: UsageError) -> None:
        """Ping that a run was refused before it began; its faults are logged elsewhere."""
        if not self._settings.dry_run:
            self._pings.begin(ExitCode.USAGE, str(error).encode())
            self._end_pings()

    def _end_pings(self) -> None:
        """Wait for the pings within 5 s and the rest of the grace period, and log their first problem."""
        problem = self._pings.wait_within(self._grace_left)
        self.abandoned += self._pings.alive
        if problem:
            self.log.warning("ping_failed", target=self._settings.changed["ping_url"], error=problem)

    def shown_cause(self, cause: Cause | None) -> Cause | None:
        """Return a cause with its host, and with an error that is masked and cut: not only the log will show it."""
        if cause is None:
            return None
        masked = self.log.masked(cause.error or "").encode()
        error = masked[:_CAUSE_BYTES].decode(errors="ignore") or None
        return Cause(cause.reason, error, None if cause.reason in _LOCAL_REASONS else self._origin or None)

    def linger(self) -> None:
        """Wait until the final metrics are scraped, at most FLAGJOB_METRICS_LINGER; a signal ends the wait.

        Call it as the last step of a run that succeeded to report its end, after everything else is closed: while the
        process only waits, it must not hold a lock or a connection. Returns at once if no metrics are served.
        """
        if self._endpoint:
            self._endpoint.linger(self._settings.metrics_linger, lambda: self._cancellation.signalled)

    def close(self) -> None:
        """Stop serving the metrics."""
        if self._endpoint:
            self._endpoint.close()

    def _warn_once(self, event: str, *, problem: str, **fields: object) -> None:
        """Log a warning with a problem that was not logged before."""
        with self._warnings_lock:
            is_new = problem not in self._warnings
            self._warnings.add(problem)
        if is_new:
            self.log.warning(event, **fields, problem=problem)

    def _log_results(self, results: Sequence[Result]) -> None:
        self.log.log_results([result for result in results if result.status in self._logged_statuses])

    def _publish_final_metrics(self, summary: Summary) -> None:
        self.metrics.record_end(summary, time.time())
        # The endpoint may count a scrape as final only after the final values are recorded: its threads read both.
        if self._endpoint:
            self._endpoint.mark_final()
        textfile = self._settings.metrics_file
        if textfile:
            with self._warn_if_failed(textfile):
                self.metrics.write_textfile(Path(textfile))

    def _push(self, gateway: Pushgateway) -> str | None:
        """Push the final metrics within 5 s and the rest of the grace period; return the problem, if there is one."""
        if self._grace_left() <= 0:
            return "no time was left in FLAGJOB_SHUTDOWN_GRACE"
        settings = self._settings
        group = {"job": settings.name, **dict(settings.pushgateway_labels)}
        if settings.shard_count > 1:
            group["shard"] = str(settings.shard_index)
        push = Push(self.metrics.registry, gateway, group, settings.ca_bundle)
        ends_at = time.monotonic() + _PUSH_SECONDS
        problem = push.send_within(lambda: min(ends_at - time.monotonic(), self._grace_left()))
        if push.is_alive():
            self.abandoned += 1
        return problem

    def _grace_left(self) -> float:
        """Return the seconds left after a signal or the deadline; infinity if neither has come."""
        began = self._cancellation.grace_began
        if began is None:
            return math.inf
        return began + self._settings.shutdown_grace - time.monotonic()

    def protected(self, name: str, consume: Consumer) -> Consumer:
        """Return a consumer whose first failure is logged and ends its use."""
        has_failed = False

        def consume_until_failure(results: Sequence[Result]) -> None:
            nonlocal has_failed
            if has_failed:
                return
            try:
                consume(results)
            except Exception as error:  # noqa: BLE001  (a side effect of a run must not change its results)
                has_failed = True
                self.log.warning("sink_failed", target=name, error=getattr(error, "strerror", None) or str(error))

        return consume_until_failure

    @contextmanager
    def _warn_if_failed(self, target: str) -> Iterator[None]:
        """Log that a target of metrics or termination message failed, and go on after the `with` block."""
        try:
            yield
        except (OSError, RuntimeError) as error:  # RuntimeError: the system cannot start the endpoint's thread
            self.log.warning("sink_failed", target=target, error=getattr(error, "strerror", None) or str(error))


def _noun(settings: Settings) -> str:
    """Return what the files are: flags, if they are the demo server's, or those of sets of countries."""
    words = settings.arguments or tuple((settings.codes or "").replace(",", " ").split())
    listed = "" if settings.arguments else settings.codes_file or ""
    has_sets_only = not listed and all(word.upper() in NAMED_SETS for word in words)  # without words they are POP20
    is_of_flags = settings.url is None and not is_table_name(listed)
    return "flag" if is_of_flags or has_sets_only else "file"
