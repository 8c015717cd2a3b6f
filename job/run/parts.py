"""The parts that download, wired as the settings say."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass

from job import validation
from job.cancellation import Cancellation
from job.client import Client, ClientConfig
from job.destination import Destination
from job.downloader import Downloader, Hooks, Requirements
from job.errors import Reason
from job.exit_code import ExitCode
from job.inputs import Inputs
from job.pool import Pool
from job.reporting import Reporting
from job.resilience import Throttle, ThrottleLimits
from job.resilience.retrying import MAX_RETRY_AFTER_SECONDS, RetryPolicy
from job.revalidation import RevalidationPolicy
from job.settings import Executor, Order, Settings
from job.transport import CurlAdapter

_LAST_SECOND = 1.0
"""Who waits for an origin until the run's deadline gives up a second before, and so can say why."""


@dataclass(frozen=True, slots=True)
class Parts:
    """What makes the parts of one run. `ends_at` is when its time is up, by the monotonic clock."""

    settings: Settings
    cancellation: Cancellation
    reporting: Reporting
    ends_at: float

    @property
    def _patience(self) -> float:
        return max(self.settings.item_timeout, MAX_RETRY_AFTER_SECONDS)

    def pool(self, inputs: Inputs, target: Destination, stack: ExitStack, on_shortage: Callable[[str], None]) -> Pool:
        """Return what downloads into a target that is open; `stack` closes its connections."""
        settings = self.settings
        adapter = CurlAdapter(new_body=target.store.new_body, max_bytes=settings.max_bytes)
        download = self._downloader(inputs, target, adapter, stack)
        return Pool(
            task=self.reporting.metrics.tracked(download),
            cancelled=download.cancelled,
            workers=self._workers(inputs),
            cancellation=self.cancellation,
            drain_seconds=self._drain_seconds,
            interrupt=adapter.interrupt,
            as_submitted=settings.executor is Executor.SEQUENTIAL or settings.order is Order.SUBMITTED,
            on_shortage=on_shortage,
            on_drain=self._interrupted,
            on_scheduled=self.reporting.log.scheduled,
            on_done=self.reporting.log.done,
        )

    def _interrupted(self, in_flight: int, cancelled: int) -> None:
        """Tell of an end that comes from outside; all others were told by what found them."""
        cancellation, number = self.cancellation, self.cancellation.signal
        if cancellation.reason in {Reason.SIGNAL, Reason.DEADLINE}:
            name = ExitCode(128 + number).name if number else None
            facts = {"reason": cancellation.reason, "signal": name, "in_flight": in_flight, "cancelled": cancelled}
            self.reporting.log.warning("interrupted", **facts)

    def _drain_seconds(self) -> float:
        """Half the grace for what is in flight; nothing for what waits for an origin that is not there."""
        return 0.0 if self.cancellation.reason is Reason.ORIGIN_DOWN else self.settings.shutdown_grace / 2

    def _workers(self, inputs: Inputs) -> int:
        settings = self.settings
        if settings.executor is Executor.SEQUENTIAL:
            return 1
        return max(1, min(settings.workers, inputs.known or settings.workers))

    def _throttle(self, inputs: Inputs) -> Throttle:
        settings = self.settings
        limits = ThrottleLimits(
            rate=settings.rate_limit,
            workers=self._workers(inputs),
            patience=settings.origin_patience,
            fruitless=2 * self._patience,  # an item that is refused alone has given up by then
            ends_at=self.ends_at - _LAST_SECOND,
            items=inputs.known,
        )
        return Throttle(limits, self.reporting.news(inputs.template.origin))

    def _downloader(self, inputs: Inputs, target: Destination, adapter: CurlAdapter, stack: ExitStack) -> Downloader:
        settings, reporting = self.settings, self.reporting
        wire = ClientConfig(
            user_agent=settings.user_agent,
            secret_headers=settings.secret_headers,
            connect_timeout=settings.connect_timeout,
            read_timeout=settings.read_timeout,
            attempt_timeout=settings.attempt_timeout,
            max_bytes=settings.max_bytes,
            ca_bundle=settings.ca_bundle,
            redirect_hosts=settings.redirect_hosts,
        )
        fetcher = Client(adapter, wire, target.store.new_body)
        stack.callback(fetcher.close)
        return Downloader(
            source=fetcher,
            destination=target.store,
            memory=target.manifest,
            terms=Requirements(
                settings.accept or validation.accepted_types(inputs.template.suffix),
                settings.sums,
                RevalidationPolicy(settings.refresh, settings.not_found_ttl),
            ),
            policy=RetryPolicy(settings.max_attempts, settings.item_timeout, self._patience, self.ends_at),
            throttle=self._throttle(inputs),
            cancellation=self.cancellation,
            hooks=Hooks(attempt=reporting.metrics.attempt, retry=reporting.retry, bug=reporting.bug),
        )
