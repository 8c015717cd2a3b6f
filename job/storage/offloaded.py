"""Storage for tasks that share one thread: its calls leave that thread wherever a disk or a network may block it."""

from collections.abc import Callable
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Protocol, TypeVar

from job.body import Body
from job.model import Stored

if TYPE_CHECKING:
    from job.storage import Storage

T = TypeVar("T")

_FIRST_TRIAL_CALLS = 32
_FAST_SECONDS = 0.001
_SLOW_SECONDS = 0.02


class RunAside(Protocol):
    """Has blocking work done by another thread, and lets other tasks run meanwhile."""

    def __call__(self, work: Callable[[], T], /) -> T:
        """Return or raise what the work does."""
        ...


class OffloadedStorage:
    """Publishes on other threads, many files at once, where fsync is slow; and in place where that costs less.

    It begins on other threads. After 32 files with a median below 1 ms it stays on the thread of the tasks: the switch
    to another thread and back would cost more. After one file above 20 ms it leaves that thread, and the next trial is
    twice as long: a disk that stalls now and then blocks all tasks a few times only, and one that was merely late
    because the machine was busy comes back. What is behind a network never comes there, nor do the look-ups of its
    files. Only tasks of that one thread may use it.
    """

    def __init__(self, storage: "Storage", run_aside: RunAside) -> None:
        self._storage = storage
        self._run_aside = run_aside
        self._trial_calls = _FIRST_TRIAL_CALLS
        self._trial: list[float] = []
        self._is_in_place = False

    def publish(self, body: Body, file: str, media_type: str | None) -> str:
        """Store a body under its name and return the file's version, as the storage does."""
        publish = partial(self._publish, body, file, media_type)
        version, seconds = publish() if self._is_in_place else self._run_aside(publish)
        if self._is_in_place:
            self._leave_if_slow(seconds)
        elif not self._storage.may_block_long:
            self._try(seconds)
        return version

    def is_intact(self, stored: Stored) -> bool:
        """Return whether a file is still as it was published."""
        if self._storage.may_block_long:
            return self._run_aside(partial(self._storage.is_intact, stored))
        return self._storage.is_intact(stored)

    def verified_version(self, stored: Stored) -> str | None:
        """Return the present version of a file, if its bytes are those that were published; never read in place."""
        return self._run_aside(partial(self._storage.verified_version, stored))

    def _leave_if_slow(self, seconds: float) -> None:
        if seconds > _SLOW_SECONDS:
            self._is_in_place = False
            self._trial_calls *= 2

    def _try(self, seconds: float) -> None:
        """Count a call that was made on another thread, and decide after each trial."""
        self._trial.append(seconds)
        if len(self._trial) == self._trial_calls:
            median = sorted(self._trial)[self._trial_calls // 2]
            self._is_in_place = median < _FAST_SECONDS
            self._trial.clear()

    def _publish(self, body: Body, file: str, media_type: str | None) -> tuple[str, float]:
        """Publish, and return the version and the seconds that it took; any thread."""
        began = monotonic()
        version = self._storage.publish(body, file, media_type)
        return version, monotonic() - began
