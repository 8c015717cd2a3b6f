"""The composition root: the parts that download, wired as the settings say, behind one pool."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from job import validation
from job.cancellation import Cancellation, Sleeper
from job.client import Client, ClientConfig
from job.destination import Destination
from job.downloader import Downloader
from job.errors import Reason
from job.inputs import Inputs
from job.model import FileType
from job.pool import NewExecutor, Pool, ignore, thread_pool
from job.reporting import Reporting
from job.resilience import (
    MAX_RETRY_AFTER_SECONDS,
    Authorized,
    Measured,
    Origins,
    RetryEvent,
    Retrying,
    RetryPolicy,
    Source,
    Throttle,
    Throttled,
    ThrottledAmongOthers,
    ThrottleLimits,
    Validated,
)
from job.revalidation import RevalidationPolicy
from job.settings import Executor, HeadersFile, LogLevel, Order, Settings
from job.storage import OffloadedStorage, Publisher, Storage
from job.transport import BlockingTransfers, CurlAdapter, Transfers

if TYPE_CHECKING:
    from job.report import AttemptRecorder

_CUTOFF_ITEMS = 100
"""The run ends if so many items, or twice as many as there are workers, all fail in the same way from the start."""
_PATIENCE_SECONDS = 5.0
_PATIENCE_ONCE_ANSWERED_SECONDS = 30.0
"""How long an origin that is away is probed by default: a restart takes seconds, a wrong port never heals."""
_LAST_SECOND = 1.0
"""A worker that waits for an origin until the run's deadline gives up this much earlier, so that it can report why."""


@dataclass(frozen=True, slots=True)
class _Waits:
    """The three places where a download may wait, and the executor that runs others meanwhile."""

    transfers: Transfers
    sleeper: Sleeper
    storage: Publisher
    new_executor: NewExecutor = thread_pool
    threads_left: Callable[[], int] = lambda: 0


@dataclass(frozen=True, slots=True)
class Wiring:
    """Builds the parts that download, as the settings say.

    `ends_at` is the run's deadline on the monotonic clock.
    """

    settings: Settings
    cancellation: Cancellation
    reporting: Reporting
    ends_at: float
    inputs: Inputs
    recorder: "AttemptRecorder | None" = None
    """What records the times of attempts for the run's report, if it has one."""

    def pool(self, destination: Destination, stack: ExitStack, on_shortage: Callable[[str], None]) -> Pool:
        """Return the pool that downloads into a destination that is open; `stack` closes its connections."""
        settings = self.settings
        log = self.reporting.log
        is_debug = settings.verbose or settings.log_level is LogLevel.DEBUG
        waits = self._waits(destination.storage)
        adapter = CurlAdapter(
            new_body=destination.storage.new_body,
            max_bytes=settings.max_bytes,
            keeps_gzip=validation.keeps_gzip(self._accepted_types, self.inputs.template.suffix),
            transfers=waits.transfers,
        )
        client = Client(adapter, self._client_config())
        stack.callback(client.close)
        downloader = self._downloader(destination, client, waits)
        return Pool(
            new_executor=waits.new_executor,
            threads_left=waits.threads_left,
            task=self.recorder.observe_task(downloader.download) if self.recorder else downloader.download,
            cancelled=downloader.cancelled,
            workers=self._workers,
            cancellation=self.cancellation,
            drain_seconds=self._drain_seconds,
            interrupt=adapter.interrupt,
            singly=max(_CUTOFF_ITEMS, 2 * self._workers),
            puts_back=self._may_put_back,
            as_submitted=self._is_in_order,
            on_shortage=on_shortage,
            on_drain=self.reporting.report_interruption,
            on_scheduled=log.log_scheduled if is_debug else ignore,
            on_done=log.log_done if is_debug else ignore,
        )

    @property
    def _accepted_types(self) -> tuple[FileType, ...]:
        return self.settings.accept or validation.accepted_types(self.inputs.template.suffix)

    def _waits(self, storage: Storage) -> "_Waits":
        """Return how downloads wait with the executor that the settings name."""
        if self.settings.executor is not Executor.GREENLETS:
            return _Waits(BlockingTransfers(), self.cancellation, storage)
        from job.greenlet_executor import GreenletExecutor  # noqa: PLC0415  (other runs start without greenlet)

        executor = GreenletExecutor(self._workers, self.cancellation)
        offloaded = OffloadedStorage(storage, executor.run_aside)
        return _Waits(executor.transfers, executor, offloaded, lambda _: executor.start(), executor.threads_left)

    def _downloader(self, destination: Destination, client: Client, waits: "_Waits") -> Downloader:
        """Return the downloader with its source: Authorized(Retrying(Throttled(Measured(Validated(client))))).

        If the list has URLs of several origins, each of them has the outer three of its own.
        """
        settings = self.settings
        reporting = self.reporting
        accepted = settings.accept or None if self.inputs.has_urls else self._accepted_types
        validated = Validated(client, accepted, settings.expected_digests, settings.placeholders)
        measured: Source = Measured(validated, reporting.metrics.count_attempt)
        if self.recorder:
            measured = self.recorder.observe_source(measured)
        throttles: list[Throttle] = []
        workers = self._workers
        reporting.metrics.record_throttle(
            lambda: min(workers, sum(throttle.concurrency_limit for throttle in tuple(throttles)) or workers)
        )
        new_source = partial(self._source, measured, client, waits, throttles=throttles)
        return Downloader(
            source=Origins(new_source) if self.inputs.has_urls else new_source(self.inputs.template.origin),
            storage=waits.storage,
            manifest=destination.manifest,
            expected_digests=settings.expected_digests,
            placeholders=settings.placeholders,
            policy=RevalidationPolicy(settings.refresh, settings.not_found_ttl, settings.recheck_after),
            cancellation=self.cancellation,
            on_bug=reporting.report_bug,
        )

    def _source(
        self, measured: Source, client: Client, waits: "_Waits", origin: str, *, throttles: list[Throttle]
    ) -> Authorized:
        """Return the source of an origin, and append its throttle."""
        settings = self.settings
        reporting = self.reporting
        on_retry: Callable[[str, RetryEvent], None] = reporting.report_retry
        several = self.inputs.has_urls
        events = reporting.throttle_events(origin, several=several)
        if self.recorder:
            # What a report shows as pauses are times in which all requests waited.
            events = events if several else self.recorder.observe_throttle(events)
            on_retry = self.recorder.observe_retries(on_retry)
        throttle = Throttle(self._throttle_limits(), events)
        policy = RetryPolicy(settings.max_attempts, settings.item_timeout, self._patience_seconds, self.ends_at)
        kind: Callable[..., Throttled] = Throttled
        if several:
            kind = partial(ThrottledAmongOthers, origin=origin, may_defer=self._may_put_back)
        throttled = kind(measured, throttle, policy=policy, sleeper=waits.sleeper, on_retry=on_retry)
        retrying = Retrying(
            throttled, policy, sleep=waits.sleeper.sleep, may_retry=throttle.may_retry, on_retry=on_retry
        )
        on_refusals = ignore if several else reporting.end_for_refusals  # their items say it, one by one
        throttles.append(throttle)
        return Authorized(retrying, client.secret_headers, policy=policy, on_retry=on_retry, on_all_refused=on_refusals)

    @property
    def _may_put_back(self) -> bool:
        """Return whether an item may come again later, while others get on: there are other origins and workers."""
        return self.inputs.has_urls and self._workers > 1 and not self._is_in_order

    @property
    def _is_in_order(self) -> bool:
        return self.settings.executor is Executor.SEQUENTIAL or self.settings.order is Order.SUBMITTED

    def _client_config(self) -> ClientConfig:
        settings = self.settings
        report = self.reporting.report_headers
        return ClientConfig(
            user_agent=settings.user_agent,
            secret_headers=settings.secret_headers,
            reread_headers=HeadersFile(settings.headers_file, settings.secret_headers, report).read_if_changed,
            connect_timeout=settings.connect_timeout,
            read_timeout=settings.read_timeout,
            attempt_timeout=settings.attempt_timeout,
            ca_bundle=settings.ca_bundle,
            client_cert=settings.client_cert,
            trusted_url=self._trusted_url,
            redirect_hosts=settings.redirect_hosts,
            ignored_parameters=settings.url_ignore_query,
        )

    @property
    def _trusted_url(self) -> str | None:
        """Return the URL to whose host alone the secrets go, as the list may name any host; none if it names none."""
        if not self.inputs.has_urls:
            return None
        return self.settings.url.text if self.settings.url else ""

    def _throttle_limits(self) -> ThrottleLimits:
        settings = self.settings
        patience = settings.origin_patience
        return ThrottleLimits(
            rate=settings.rate_limit,
            workers=self._workers,
            patience=_PATIENCE_SECONDS if patience is None else patience,
            patience_once_answered=_PATIENCE_ONCE_ANSWERED_SECONDS if patience is None else None,
            is_for_hiccups=patience is None,
            max_pauses_seconds=2 * self._patience_seconds,  # an item that is throttled alone has given up by then
            ends_at=self.ends_at - _LAST_SECOND,
            items=self.inputs.known,
        )

    @property
    def _workers(self) -> int:
        """Return how many downloads run at the same time: never more than there are items."""
        settings = self.settings
        if settings.executor is Executor.SEQUENTIAL:
            return 1
        return max(1, min(settings.workers, self.inputs.known or settings.workers))

    @property
    def _patience_seconds(self) -> float:
        """Return how long one item may be asked to wait by the origin."""
        return max(self.settings.item_timeout, MAX_RETRY_AFTER_SECONDS)

    def _drain_seconds(self) -> float:
        """Return how long downloads in flight may still take: half the grace, but 0.0 if the origin is away."""
        is_origin_away = self.cancellation.reason is Reason.ORIGIN_DOWN
        return 0.0 if is_origin_away else self.settings.shutdown_grace / 2
