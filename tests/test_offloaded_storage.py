"""Storage beside the thread that drives all tasks: when its calls leave that thread, and when they stay on it."""

from collections.abc import Callable
from typing import TypeVar

import pytest
from bodies import MemoryBody

from job.errors import StorageError
from job.model import Stored
from job.storage import OffloadedStorage, offloaded

T = TypeVar("T")

STORED = Stored("a.gif", 1, "", None)


class Disk:
    """A storage whose calls take as long, by a clock that only it advances, as the test says."""

    def __init__(self, *, may_block_long: bool = False) -> None:
        self.may_block_long = may_block_long
        self.on_limitation: Callable[[str], None] = self.calls_nobody
        self.now = 0.0
        self.seconds = 0.0
        self.calls: list[str] = []
        self.is_aside = False

    def clock(self) -> float:
        """Return the time."""
        return self.now

    def run_aside(self, work: Callable[[], T], /) -> T:
        """Do the work, and note that it was done aside."""
        self.is_aside = True
        try:
            return work()
        finally:
            self.is_aside = False

    def calls_nobody(self, problem: str) -> None:
        """Never called."""
        raise AssertionError(problem)

    def open(self) -> None:
        """Never called."""
        raise AssertionError

    def new_body(self) -> MemoryBody:
        """Never called."""
        raise AssertionError

    def publish(self, body: object, file: str, media_type: str | None) -> str:
        """Take the time, and return a version."""
        del body
        self.now += self.seconds
        self.calls.append("aside" if self.is_aside else "in place")
        return f"{file} {media_type}"

    def is_intact(self, stored: Stored) -> bool:
        """Return True for one path."""
        self.calls.append("aside" if self.is_aside else "in place")
        return stored.path == "a.gif"

    def verified_version(self, stored: Stored) -> str | None:
        """Return the path for a version."""
        self.calls.append("aside" if self.is_aside else "in place")
        return stored.path


def publish(storage: OffloadedStorage, disk: Disk, times: int, seconds: float) -> list[str]:
    """Publish so many files, each in so many seconds; return where that was done."""
    disk.calls.clear()
    disk.seconds = seconds
    for _ in range(times):
        assert storage.publish(MemoryBody(), "a.gif", "image/gif") == "a.gif image/gif"
    return disk.calls.copy()


def make(monkeypatch: pytest.MonkeyPatch, *, may_block_long: bool = False) -> tuple[OffloadedStorage, Disk]:
    disk = Disk(may_block_long=may_block_long)
    monkeypatch.setattr(offloaded, "monotonic", disk.clock)  # time is the input of the rule
    return OffloadedStorage(disk, disk.run_aside), disk


def test_a_fast_disk_is_used_in_place_after_a_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    """Thirty-two files with a median below 1 ms are published aside, all further ones in place."""
    storage, disk = make(monkeypatch)
    assert publish(storage, disk, 33, 0.0005) == ["aside"] * 32 + ["in place"]


def test_a_slow_disk_stays_aside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files that take 1 ms or more are published aside, many at once; each trial of 32 is a new one."""
    storage, disk = make(monkeypatch)
    assert publish(storage, disk, 100, 0.005) == ["aside"] * 100
    assert publish(storage, disk, 28, 0.0005) == ["aside"] * 28  # they end the fourth trial, whose median is below
    assert publish(storage, disk, 1, 0.0005) == ["in place"]


def test_a_disk_that_stalls_is_tried_longer_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """One file above 20 ms ends the use in place; the next trial has 64 files, the one after that 128."""
    storage, disk = make(monkeypatch)
    assert publish(storage, disk, 32, 0.0005) == ["aside"] * 32
    for trial in (64, 128):
        assert publish(storage, disk, 1, 0.03) == ["in place"]
        assert publish(storage, disk, trial + 1, 0.0005) == ["aside"] * trial + ["in place"]


def test_a_network_never_blocks_the_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """What may block long is called aside, fast or not, look-ups included; local look-ups are made in place."""
    storage, disk = make(monkeypatch, may_block_long=True)
    assert publish(storage, disk, 100, 0.0005) == ["aside"] * 100
    disk.calls.clear()
    assert (storage.is_intact(STORED), disk.calls) == (True, ["aside"])
    storage, disk = make(monkeypatch)
    assert (storage.is_intact(STORED), disk.calls) == (True, ["in place"])


@pytest.mark.parametrize("may_block_long", [True, False])
def test_files_are_never_hashed_in_place(monkeypatch: pytest.MonkeyPatch, *, may_block_long: bool) -> None:
    """A file whose version is not the recorded one is read aside, on a fast local disk, too."""
    storage, disk = make(monkeypatch, may_block_long=may_block_long)
    publish(storage, disk, 33, 0.0005)
    disk.calls.clear()
    assert (storage.verified_version(STORED), disk.calls) == ("a.gif", ["aside"])


def test_a_failure_reaches_the_task(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the storage raises on another thread is raised to who publishes."""
    storage, disk = make(monkeypatch)

    def fail(*_: object) -> str:
        raise StorageError("disk full")

    monkeypatch.setattr(disk, "publish", fail)
    with pytest.raises(StorageError, match="disk full"):
        storage.publish(MemoryBody(), "a.gif", None)
