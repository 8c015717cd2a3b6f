"""The greenlet executor: futures as of any executor, one thread for all tasks, and no lock held where a task waits."""

import gc
import sys
import threading
import weakref
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any, ClassVar, Self

import pytest
from images import GIF
from inprocess import run_here
from scripted import Answer, ScriptedServer, Step

from job.cancellation import Cancellation
from job.errors import Cancelled, Reason
from job.greenlet_executor import GreenletExecutor
from job.transport import MultiTransfers

BOUND = 20


@pytest.fixture
def cancellation() -> Cancellation:
    return Cancellation()


@pytest.fixture
def executor(cancellation: Cancellation) -> Iterator[GreenletExecutor]:
    executor = GreenletExecutor(4, cancellation).start()
    yield executor
    executor.shutdown(wait=False, cancel_futures=True)


def test_a_call_has_its_result_in_its_future(executor: GreenletExecutor) -> None:
    """`submit` takes a call with its arguments, and its future gets what the call returns or raises."""
    assert executor.submit(divmod, 7, 2).result(BOUND) == (3, 1)
    assert executor.submit(dict, a=1).result(BOUND) == {"a": 1}
    with pytest.raises(ZeroDivisionError):
        executor.submit(divmod, 7, 0).result(BOUND)


class FailureError(Exception):
    """An exception that can be referred to weakly."""


def fail() -> None:
    """Raise a FailureError."""
    raise FailureError


@pytest.mark.parametrize("aside", [False, True])
def test_a_failure_is_freed_with_its_future(executor: GreenletExecutor, aside: bool) -> None:  # noqa: FBT001  (a parameter of the test)
    """An exception, whose traceback refers to all that its task held, does not wait for the garbage collector."""
    freed = threading.Event()
    gc.collect()
    gc.disable()
    try:
        future = executor.submit(executor.run_aside, fail) if aside else executor.submit(fail)
        reference = weakref.ref(future.exception(BOUND) or FailureError(), lambda _: freed.set())
        assert type(reference()) is FailureError
        del future
        assert freed.wait(BOUND)  # as soon as the threads have returned from the task
    finally:
        gc.enable()


def test_one_thread_runs_all_tasks(executor: GreenletExecutor) -> None:
    """A hundred tasks run on one thread, which is not the one that submits them."""
    threads = {future.result(BOUND) for future in [executor.submit(threading.get_ident) for _ in range(100)]}
    assert len(threads) == 1
    assert threading.get_ident() not in threads


def test_as_many_tasks_wait_at_once_as_there_are_slots(executor: GreenletExecutor) -> None:
    """Four tasks sleep at the same time; the fifth begins when one of them has ended."""
    running: list[int] = []
    most: list[int] = []

    def task(number: int) -> None:
        running.append(number)
        most.append(len(running))
        executor.sleep(0.01)
        running.remove(number)

    futures = [executor.submit(task, number) for number in range(12)]
    assert [future.result(BOUND) for future in futures] == [None] * 12
    assert max(most) == 4


def test_sleepers_wake_in_the_order_of_their_times(executor: GreenletExecutor) -> None:
    """Who sleeps longer wakes later, whoever began first."""
    woken: list[float] = []

    def task(seconds: float) -> None:
        executor.sleep(seconds)
        woken.append(seconds)

    all_wait = threading.Event()
    executor.submit(all_wait.wait, BOUND)  # holds the thread up, so that all begin together
    futures = [executor.submit(task, seconds) for seconds in (0.3, 0.1, 0.2)]
    all_wait.set()
    assert [future.result(BOUND) for future in futures] == [None] * 3
    assert woken == [0.1, 0.2, 0.3]


def test_a_cancellation_wakes_every_sleeper(executor: GreenletExecutor, cancellation: Cancellation) -> None:
    """A task that sleeps, or is about to, raises Cancelled."""
    asleep = executor.submit(executor.sleep, 3600.0)
    executor.submit(int).result(BOUND)  # now the first task sleeps
    cancellation.request(Reason.SIGNAL)
    about_to_sleep = executor.submit(executor.sleep, 3600.0)
    for future in (asleep, about_to_sleep, executor.submit(executor.check)):
        with pytest.raises(Cancelled):
            future.result(BOUND)


def test_blocking_work_leaves_the_thread(executor: GreenletExecutor) -> None:
    """Other tasks run while one has work done aside; it gets what the work returns or raises."""
    release = threading.Event()
    blocked = executor.submit(executor.run_aside, lambda: (release.wait(BOUND), threading.get_ident()))
    failed = executor.submit(executor.run_aside, lambda: 1 // 0)
    driving = executor.submit(threading.get_ident).result(BOUND)
    release.set()
    was_released, aside = blocked.result(BOUND)
    assert (was_released, aside != driving) == (True, True)
    with pytest.raises(ZeroDivisionError):
        failed.result(BOUND)


def test_a_task_that_waits_in_the_queue_can_be_cancelled(executor: GreenletExecutor) -> None:
    """Four tasks take all slots; a fifth is cancelled as with any executor, and never runs."""
    release = threading.Event()
    called: list[int] = []
    holders = [executor.submit(executor.run_aside, lambda: release.wait(BOUND)) for _ in range(4)]
    waiting = executor.submit(called.append, 1)
    assert waiting.cancel()
    release.set()
    assert [future.result(BOUND) for future in holders] == [True] * 4
    with pytest.raises(CancelledError):
        waiting.result(BOUND)
    assert called == []


def test_shutdown_waits_for_tasks_or_cancels_those_in_the_queue(cancellation: Cancellation) -> None:
    """With `wait` all tasks have ended when it returns; what it cancels does not run; nothing is accepted after it."""
    executor = GreenletExecutor(1, cancellation).start()
    begun = threading.Event()
    release = threading.Event()

    def hold() -> bool:
        begun.set()
        return release.wait(BOUND)

    holder = executor.submit(executor.run_aside, hold)
    waiting = executor.submit(int)
    assert begun.wait(BOUND)
    executor.shutdown(wait=False, cancel_futures=True)
    assert waiting.cancelled()
    with pytest.raises(RuntimeError, match="after shutdown"):
        executor.submit(int)
    release.set()
    executor.shutdown()
    assert holder.result(0) is True


def test_no_future_is_left_without_a_result_by_a_bug_in_the_loop(
    cancellation: Cancellation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What ends the driving thread is raised by every future: by those that run and those that wait."""
    executor = GreenletExecutor(1, cancellation).start()
    running = executor.submit(executor.sleep, 3600.0)
    waiting = executor.submit(int)
    cancelled = executor.submit(int)
    assert cancelled.cancel()

    def fail(_self: MultiTransfers, _seconds: float) -> None:
        raise LookupError("a bug")

    monkeypatch.setattr(MultiTransfers, "poll", fail)  # plants a bug
    for future in (running, waiting):
        with pytest.raises(LookupError, match="a bug"):
            future.result(BOUND)
    assert cancelled.cancelled()


class WatchedLock:
    """A lock that knows which threads hold one; stands for every lock that is made while it is patched in."""

    held: ClassVar[Counter[int]] = Counter()

    def __init__(self) -> None:
        self._lock = _Lock()

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:  # noqa: FBT001, FBT002  (as locks have it)
        """Acquire the lock, and count it for this thread."""
        acquired = self._lock.acquire(blocking, timeout)
        self.held[threading.get_ident()] += acquired
        return acquired

    def release(self) -> None:
        """Release the lock; another thread than the one that acquired it may do so, as Condition does."""
        self.held[threading.get_ident()] -= 1
        self._lock.release()

    def locked(self) -> bool:
        """Return whether anybody holds the lock."""
        return self._lock.locked()


_Lock = threading.Lock


def watch_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every lock from now on one that is watched: in all modules that have imported the name, too."""
    for module in list(sys.modules.values()):
        for name, value in list(vars(module).items()):
            if value is _Lock and module.__name__.split(".")[0] in {"job", "prometheus_client", "structlog"}:
                monkeypatch.setattr(module, name, WatchedLock)
    monkeypatch.setattr(threading, "Lock", WatchedLock)


def test_no_lock_is_held_where_a_task_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sending, sleeping and publishing switch to other tasks, and none of them could ever get a lock that is held."""
    watch_locks(monkeypatch)
    held: list[int] = []
    places: Counter[str] = Counter()
    suspend = GreenletExecutor._suspend  # noqa: SLF001  (the one line where a task gives up the thread)

    def watched_suspend(self: GreenletExecutor) -> Any:
        held.append(WatchedLock.held[threading.get_ident()])
        places[sys._getframe(1).f_code.co_name] += 1  # noqa: SLF001  (who waits)
        return suspend(self)

    monkeypatch.setattr(GreenletExecutor, "_suspend", watched_suspend)
    fine = Answer(body=GIF)
    routes: dict[str, Step | list[Step]] = {f"/c{number}.gif": fine for number in range(60)}
    routes |= {"/busy.gif": [Answer(429, {"Retry-After": "1"}), fine], "/bad.gif": [Answer(500), fine]}
    with ScriptedServer(routes) as server:
        url = server.url("/{cc}.gif")
        done = run_here(
            *(path[1:-4] for path in routes), dest=tmp_path, url=url, executor="greenlets", rate_limit="200"
        )
    assert set(done.statuses.values()) == {"ok"}
    assert set(held) == {0}
    assert {"perform", "sleep", "run_aside", "_run_tasks"} == set(places)


def test_a_lock_that_is_held_would_be_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The watch of the test above counts a lock while it is held, and not after that."""
    watch_locks(monkeypatch)
    lock = threading.Lock()
    this = threading.get_ident()
    before = WatchedLock.held[this]
    with lock:
        assert WatchedLock.held[this] == before + 1
    assert WatchedLock.held[this] == before


def test_a_driving_thread_that_cannot_end_is_counted(
    cancellation: Cancellation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Closing connections waits for a name server that is silent: whoever ends the process must know. Simulated."""
    release = threading.Event()

    def close(_self: MultiTransfers) -> None:
        release.wait(BOUND)

    monkeypatch.setattr(MultiTransfers, "close", close)  # as long as a look-up takes
    executor = GreenletExecutor(1, cancellation)
    assert executor.threads_left() == 0
    executor.start()
    assert executor.submit(int).result(BOUND) == 0
    executor.shutdown(wait=False)
    assert executor.threads_left() == 1
    release.set()
    executor.shutdown()
    assert executor.threads_left() == 0


def test_an_executor_that_was_not_started_can_be_shut_down(cancellation: Cancellation) -> None:
    """There is nothing to wait for."""
    GreenletExecutor(1, cancellation).shutdown()
