"""All that is told of a run, while it goes on and at its end: log, bar, termination message, metrics by each way."""

import math
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from secrets import token_hex
from typing import BinaryIO, Self

from job import __version__, progress
from job.cancellation import Cancellation
from job.errors import AttemptError, Reason
from job.inputs import Inputs
from job.log import RunLog, termination_message
from job.metrics import Endpoint, Metrics, Push
from job.model import Item, Result, Status, Summary
from job.resilience import RetryEvent, ThrottleEvents
from job.settings import LogFormat, LogResults, Pushgateway, Settings
from job.settings.parsers import Address

_LOGGED = {
    LogResults.ALL: frozenset(Status),
    LogResults.CHANGED: frozenset(Status) - {Status.UNCHANGED},
    LogResults.PROBLEMS: frozenset({Status.NOT_FOUND, Status.ERROR, Status.CANCELLED}),
}

_PUSH_SECONDS = 5.0
_FASTEST = 1e6
"""More than any run can send: an infinite pace is no JSON."""
_SPENT = "too much fails: the run's retries are spent, and until files come again an item ends at its first failure"


class Reporting:
    """Where facts go. `retry`, `bug` and what `metrics` offers may be called by workers, all else by the main thread.

    A sink that fails is told once and changes nothing else, but for the log: if nobody takes it, LogError comes out.
    The `with` block is the run; after it the metrics are served for a while, if the settings say so.
    """

    def __init__(self, settings: Settings, cancellation: Cancellation, stdout: BinaryIO, *, terminal: bool) -> None:
        on_terminal = settings.log_format is LogFormat.AUTO and terminal
        self._settings = settings
        self._cancellation = cancellation
        self._endpoint: Endpoint | None = None
        self.abandoned = 0
        """How many threads still push when nobody waits for them any more; joining them could take for ever."""
        self._for_people = settings.log_format is LogFormat.CONSOLE or on_terminal
        self._bar_wanted = not settings.verbose and progress.is_terminal(sys.stderr)
        self._bar: progress.Bar | None = None
        self._shown = _LOGGED[settings.log_results]
        if self._bar_wanted and self._for_people and "log_results" not in settings.changed:
            # the bar tells the rest, and the closing words how many were cancelled
            self._shown = _LOGGED[LogResults.PROBLEMS] - {Status.CANCELLED}
        self.log = RunLog(
            progress.Above(stdout) if self._bar_wanted and terminal else stdout,
            level="debug" if settings.verbose else settings.log_level,
            for_people=self._for_people,
            secrets=settings.secrets,
            fields={"run_id": token_hex(8), "shard": settings.shard_index, "shards": settings.shard_count},
        )
        self.metrics = Metrics(__version__, os.environ.get("SOURCE_REVISION", "unknown"), settings.shard_count)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._endpoint:
            if kind is None:
                self._endpoint.linger(self._settings.metrics_linger, lambda: self._cancellation.signalled)
            self._endpoint.close()

    def started(self, inputs: Inputs, workers: int, pending: Callable[[], int]) -> None:
        """Say what the run is about to do; begin to serve its metrics."""
        self.metrics.record_start(time.time(), workers, pending)
        address = self._settings.metrics_address
        if address:
            self._guarded(str(address), lambda: self._serve(address))
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

    @contextmanager
    def bar(self, total: int | None) -> Iterator[None]:
        """Show the bar on a terminal while results come."""
        if not self._bar_wanted:
            yield
            return
        self._bar = progress.Bar(total, sys.stderr)
        try:
            yield
        finally:
            self._bar.close()
            self._bar = None

    def counted(self, items: Iterator[Item]) -> Iterator[Item]:
        """Pass items on, and count them."""
        for item in items:
            self.metrics.selected.inc()
            yield item

    def result(self, result: Result) -> None:
        """Tell how an item ended."""
        self.metrics.count_results([result])
        if result.status in self._shown:
            self.log.log_result(result)
        if self._bar:
            self._bar.tell()

    def retry(self, code: str, retry: RetryEvent) -> None:
        """Tell that an item is tried again."""
        self.metrics.count_retry(retry)
        self.log.log_retry(code, retry)

    def news(self, host: str) -> ThrottleEvents:
        """Return who is told of what happens at the gate: the log; an origin that is given up ends the run."""
        log = self.log

        def paused(error: AttemptError, seconds: float) -> None:
            log.warning(
                "host_paused", host=host, until_s=round(seconds, 3), reason=error.failure.reason, error=str(error)
            )

        def down(error: AttemptError) -> None:
            try:
                log.error("origin_down", host=host, reason=error.failure.reason, error=str(error))
            finally:
                self._cancellation.request(Reason.ORIGIN_DOWN)

        return ThrottleEvents(
            paused=paused,
            resumed=lambda pace: log.info("host_resumed", host=host, requests_per_s=round(min(pace, _FASTEST), 3)),
            recovered=lambda: log.info("origin_back", host=host),
            gave_up=down,
            budget_spent=lambda: log.warning("retry_budget_spent", host=host, hint=_SPENT),
        )

    def bug(self, code: str, error: Exception) -> None:
        """Tell of an exception that nobody foresaw."""
        self.log.log_bug(error, code=code)

    def finished(self, summary: Summary) -> None:
        """Tell how the run ended: metrics and messages first, the last line of the log last."""
        text = progress.closing(summary)
        self._give_out(summary)
        message = self._settings.termination_log
        if message:
            self._guarded(message, lambda: Path(message).write_bytes(termination_message(summary, text)))
        self._push()
        self.log.log_run_finished(summary, text)
        if not self._for_people and progress.is_terminal(sys.stderr):
            sys.stderr.write(f"{text}\n")

    def _serve(self, address: Address) -> None:
        self._endpoint = self.metrics.serve(address.host, address.port)

    def _give_out(self, summary: Summary) -> None:
        """Make the metrics final, for whoever scrapes them and in the textfile."""
        self.metrics.record_end(summary, time.time())
        textfile = self._settings.metrics_file
        if self._endpoint:
            self._endpoint.mark_final()
        if textfile:
            self._guarded(textfile, lambda: self.metrics.write_textfile(Path(textfile)))

    def _push(self) -> None:
        """Push the final metrics, in what is left of the grace after a signal or the deadline."""
        gateway = self._settings.pushgateway_url
        if gateway:
            problem = self._pushed(gateway) if self._grace_left() > 0 else "nothing was left of the grace"
            if problem:
                self.log.warning("metrics_push_failed", target=gateway.url, error=problem)

    def _pushed(self, gateway: Pushgateway) -> str | None:
        settings, until = self._settings, time.monotonic() + _PUSH_SECONDS
        shard = settings.shard_index if settings.shard_count > 1 else None
        push = Push(self.metrics.registry, gateway, shard, settings.ca_bundle)
        problem = push.push_within(lambda: min(until - time.monotonic(), self._grace_left()))
        self.abandoned += push.is_alive()
        return problem

    def _grace_left(self) -> float:
        """Return how many seconds are left after a signal or the deadline, or that there is no end to them."""
        began = self._cancellation.grace_began
        return math.inf if began is None else began + self._settings.shutdown_grace - time.monotonic()

    def _guarded(self, target: str, act: Callable[[], object]) -> None:
        try:
            act()
        except (OSError, RuntimeError) as error:  # RuntimeError: the system gives no thread to serve with
            self.log.warning("sink_failed", target=target, error=getattr(error, "strerror", None) or str(error))
