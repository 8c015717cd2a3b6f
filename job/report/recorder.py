"""Recorder of attempts: when each began and ended, on which slot, and when all of them waited for the origin."""

import heapq
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from threading import Lock
from time import monotonic

from job.errors import AttemptError, Reason, StorageError
from job.model import Item, NotModified, Reply, Result
from job.resilience import ItemRequest, RetryEvent, Source, ThrottleEvents

_MOST_PAUSES = 500
"""An origin that asks for more pauses than that has made its point."""


@dataclass(slots=True)
class AttemptTimes:
    """One attempt. Times are seconds since the run began."""

    code: str
    began: float
    ended: float = 0.0
    http_status: int | None = None
    reason: str | None = None
    """Why it failed; None where it did not."""
    retry_after: float | None = None
    """The seconds that the origin asked to wait."""
    wait: float | None = None
    """The back-off after it, in seconds, not counting what the throttle adds; None where it was the last one."""


@dataclass(slots=True)
class ItemTimes:
    """What one item did on its slot. Times are seconds since the run began."""

    slot: int
    """Which of the places for items under way it had, from 0: the lowest that was free."""
    began: float
    ended: float = 0.0
    attempts: list[AttemptTimes] = field(default_factory=list)


@dataclass(slots=True)
class Pause:
    """A time in which all requests waited. Times are seconds since the run began."""

    began: float
    longest: float
    """How many seconds it was to take at most, when it began."""
    reason: str
    error: str
    ended: float | None = None
    """When requests went on; None where the run ended before."""


_current: ContextVar[ItemTimes] = ContextVar("item")
"""The item that the present thread, or greenlet, works on: each of them has a context of its own."""


class AttemptRecorder:
    """Records what happens on the threads that download, by wrappers around what the run is wired from.

    Nothing of it is wired without a report. Wrappers may be called by any thread: an item's times belong to the thread
    or greenlet that works on it, until it ends; then they are in a dict, which the main thread empties as the results
    come. `_lock` guards the free slots: without it two items could take the same one.
    """

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self.began_at = datetime.now(UTC)
        """When the run began."""
        self.pauses: list[Pause] = []
        self.omitted_pauses = 0
        """How many there were beyond those that are kept."""
        self._clock = clock
        self._zero = clock()
        self._lock = Lock()
        self._free: list[int] = []
        self.slots = 0
        """How many slots were used at the same time, at most."""
        self._ended: dict[str, ItemTimes] = {}

    def now(self) -> float:
        """Return the seconds since the run began."""
        return self._clock() - self._zero

    def take(self, code: str) -> ItemTimes | None:
        """Return the times of an item that has ended, once; None for one that never began, or was abandoned."""
        return self._ended.pop(code, None)

    def observe_task(self, task: Callable[[Item], Result | None]) -> Callable[[Item], Result | None]:
        """Return a task that records on which slot each item was last, and from when to when."""

        def run(item: Item) -> Result | None:
            times = ItemTimes(self._take_slot(), self.now())
            _current.set(times)
            try:
                return task(item)
            finally:
                times.ended = self.now()
                self._ended[item.code] = times
                self._return_slot(times.slot)

        return run

    def observe_source(self, source: Source) -> Source:
        """Return a source that records each attempt."""
        return _Observed(source, self)

    @contextmanager
    def attempt(self, code: str) -> Iterator[AttemptTimes]:
        """Record an attempt of the present item, from the beginning to the end of the `with` block."""
        attempt = AttemptTimes(code, self.now())
        _current.get().attempts.append(attempt)
        try:
            yield attempt
        finally:
            attempt.ended = self.now()

    def observe_retries(self, on_retry: Callable[[str, RetryEvent], None]) -> Callable[[str, RetryEvent], None]:
        """Return a callback that records how long an item waits after its last attempt, and calls another one."""

        def record(code: str, retry: RetryEvent) -> None:
            _current.get().attempts[-1].wait = retry.wait_seconds
            on_retry(code, retry)

        return record

    def observe_throttle(self, events: ThrottleEvents) -> ThrottleEvents:
        """Return callbacks that record when all requests waited, and call those of `events`."""

        def paused(error: AttemptError, seconds: float) -> None:
            pause = Pause(self.now(), seconds, error.failure.reason, str(error))
            if len(self.pauses) < _MOST_PAUSES:
                self.pauses.append(pause)
            else:
                self.omitted_pauses += 1
            events.paused(error, seconds)

        def resumed(rate: float) -> None:
            self._end_pauses()
            events.resumed(rate)

        return replace(events, paused=paused, resumed=resumed)

    def _end_pauses(self) -> None:
        """End the pauses that go on: later ones have made the first of them longer."""
        now = self.now()
        for pause in reversed(self.pauses):
            if pause.ended is not None:
                break
            pause.ended = now

    def _take_slot(self) -> int:
        with self._lock:
            if self._free:
                return heapq.heappop(self._free)
            self.slots += 1
            return self.slots - 1

    def _return_slot(self, slot: int) -> None:
        with self._lock:
            heapq.heappush(self._free, slot)


class _Observed:
    """Wraps `get`: records from when to when each attempt was under way, and what came of it. Thread-safe."""

    def __init__(self, source: Source, recorder: AttemptRecorder) -> None:
        self._source = source
        self._recorder = recorder

    def get(self, request: ItemRequest) -> Reply | NotModified:
        """Return what the wrapped `get` returns."""
        with self._recorder.attempt(request.item.code) as attempt:
            try:
                reply = self._source.get(request)
            except AttemptError as error:
                attempt.http_status = error.failure.http_status
                attempt.reason = error.failure.reason
                attempt.retry_after = error.retry_after
                raise
            except BaseException as error:
                attempt.reason = Reason.STORAGE if isinstance(error, StorageError) else Reason.INTERNAL
                raise
            attempt.http_status = request.http_status
            return reply
