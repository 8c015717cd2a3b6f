"""The pool: one result for each item, a bounded number in flight, and a prompt end after every cancellation."""

import errno
import os
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing

import pytest

from job.cancellation import Cancellation
from job.errors import Reason
from job.model import Item, Result, Status, WorkItem
from job.pool import Pool

BOUND = 20


def item(number: int) -> WorkItem:
    return WorkItem(f"C{number}", f"http://localhost/{number}.gif", f"{number}.gif")


def ok(item: Item) -> Result:
    return Result(Status.OK, None, item.code)


def make(
    task: Callable[[Item], Result | None], *, workers: int = 3, cancellation: Cancellation | None = None, **more: object
) -> Pool:
    cancellation = cancellation or Cancellation()
    pool = Pool(
        task=task,
        cancelled=lambda item: Result(Status.CANCELLED, None, item.code, reason=cancellation.reason),
        workers=workers,
        cancellation=cancellation,
        drain_seconds=lambda: BOUND,
        interrupt=lambda: None,
        max_batch=1,
    )
    for name, value in more.items():
        setattr(pool, name, value)
    return pool


def each(pool: Pool, items: Iterable[Item | None]) -> Generator[Result, None, None]:
    """Yield the results of a pool one by one."""
    with closing(pool.results(items)) as batches:
        for batch in batches:
            yield from batch


def test_every_item_has_exactly_one_result() -> None:
    """A thousand items have a thousand results, one for each."""
    results = [result.code for result in each(make(ok), map(item, range(1000)))]
    assert sorted(results) == sorted(f"C{n}" for n in range(1000))


def test_no_items_have_no_results() -> None:
    """An empty source ends at once."""
    assert list(each(make(ok), [])) == []


def test_at_most_workers_run_at_once() -> None:
    """As many tasks run at once as there are workers, and never more."""
    lock = threading.Lock()
    all_running = threading.Barrier(4)
    now: list[int] = []
    most: list[int] = []

    def task(item: Item) -> Result:
        with lock:
            now.append(1)
            most.append(len(now))
        all_running.wait(BOUND)  # passes only if four tasks run at once
        with lock:
            now.pop()
        return ok(item)

    assert len(list(each(make(task, workers=4), map(item, range(40))))) == 40
    assert max(most) == 4


def test_the_source_is_read_no_further_than_the_window() -> None:
    """At most a window of the items is in memory, however long the list is."""
    taken: list[int] = []

    def source() -> Iterator[WorkItem]:
        for number in range(100):
            taken.append(number)
            yield item(number)

    results = each(make(ok, workers=5), source())
    next(results)
    assert len(taken) <= 11
    assert len(list(results)) == 99


def test_results_that_come_fast_are_handed_over_in_batches() -> None:
    """What completes while the last batch is consumed is the next batch, up to its limit; no result is lost."""
    done: list[str] = []
    all_done = threading.Event()

    def task(item: Item) -> Result:
        done.append(item.code)
        if len(done) == 20:
            all_done.set()
        return ok(item)

    batches = make(task, workers=4, max_batch=8).results(map(item, range(20)))
    first = next(batches)
    assert all_done.wait(BOUND)  # the window holds all twenty: four that run, sixteen that wait
    second = next(batches)
    rest = list(batches)
    assert len(second) == min(8, 20 - len(first))
    assert sorted(result.code for batch in [first, second, *rest] for result in batch) == sorted(done)
    assert max(map(len, [first, second, *rest])) <= 8


def test_the_first_results_are_handed_over_one_by_one_on_request() -> None:
    """Who must notice at once what all items have in common gets the first results singly, and batches after that."""
    done: list[str] = []
    all_done = threading.Event()

    def task(item: Item) -> Result:
        done.append(item.code)
        if len(done) == 8:  # the window while results come singly: four that run, four that wait
            all_done.set()
        return ok(item)

    batches = make(task, workers=4, max_batch=8, singly=3).results(map(item, range(40)))
    first = next(batches)
    assert all_done.wait(BOUND)
    sizes = [len(first), *map(len, batches)]
    assert (sizes[:3], max(sizes) > 1, sum(sizes)) == ([1, 1, 1], True, 40)


@pytest.mark.parametrize("as_submitted", [True, False])
def test_a_source_that_has_nothing_yet_delays_no_result(*, as_submitted: bool) -> None:
    """A result is yielded while the source waits for its next item, and the run goes on when that comes."""
    is_seen = threading.Event()

    def source() -> Iterator[WorkItem | None]:
        yield item(0)
        while not is_seen.is_set():
            yield None
        yield None
        yield item(1)

    results = each(make(ok, as_submitted=as_submitted), source())
    first = next(results)
    is_seen.set()
    assert [first.code, *(result.code for result in results)] == ["C0", "C1"]


def test_a_source_that_has_nothing_yet_has_no_result() -> None:
    """After a cancellation only items are cancelled, not the pauses between them, and no pause delays a result."""
    cancellation = Cancellation()
    cancellation.request(Reason.SIGNAL)
    items = [item(0), None, None, *map(item, range(1, 7))]
    batches = list(make(ok, cancellation=cancellation, max_batch=4).results(items))
    assert [[result.code for result in batch] for batch in batches] == [["C0"], ["C1", "C2", "C3", "C4"], ["C5", "C6"]]


def test_results_come_as_completed() -> None:
    """A slow item does not delay the results of others."""
    release = threading.Event()

    def task(item: Item) -> Result:
        if item.code == "C0":
            release.wait(BOUND)
        return ok(item)

    codes = []
    for result in each(make(task), map(item, range(6))):
        codes.append(result.code)
        if len(codes) == 5:
            release.set()
    assert codes[-1] == "C0"


def test_results_come_as_submitted_on_request() -> None:
    """Like `executor.map`, the result of a slow first item comes first, and the window waits for it."""
    release = threading.Event()
    taken: list[int] = []

    def source() -> Iterator[WorkItem]:
        for number in range(50):
            taken.append(number)
            if number == 5:
                release.set()  # the window is full: 3 workers, 6 items
            yield item(number)

    def task(item: Item) -> Result:
        if item.code == "C0":
            release.wait(BOUND)
        return ok(item)

    results = each(make(task, as_submitted=True), source())
    assert next(results).code == "C0"
    assert len(taken) <= 7
    assert [result.code for result in results] == [f"C{n}" for n in range(1, 50)]


def test_a_cancellation_cancels_items_that_were_not_started() -> None:
    """After a cancellation the items in flight end, all others are cancelled, and each has one result."""
    cancellation = Cancellation()
    begun = threading.Barrier(4)
    release = threading.Event()

    def task(item: Item) -> Result:
        begun.wait(BOUND)
        release.wait(BOUND)
        return ok(item)

    def when_three_run() -> None:
        begun.wait(BOUND)
        cancellation.request(Reason.SIGNAL)
        release.set()

    signal = threading.Thread(target=when_three_run)
    signal.start()
    results = {result.code: result for result in each(make(task, cancellation=cancellation), map(item, range(20)))}
    signal.join()
    ended = {code for code, result in results.items() if result.status is Status.OK}
    assert ended == {"C0", "C1", "C2"}
    assert {result.reason for code, result in results.items() if code not in ended} == {Reason.SIGNAL}
    assert len(results) == 20


def test_items_that_do_not_end_in_time_are_interrupted() -> None:
    """After the drain time the items in flight are interrupted, and their results still count."""
    cancellation = Cancellation()
    broken = threading.Event()

    def task(item: Item) -> Result:
        cancellation.request(Reason.SIGNAL)
        broken.wait(BOUND)
        return Result(Status.CANCELLED, None, item.code, attempts=1)

    pool = make(task, cancellation=cancellation, drain_seconds=lambda: 0.0, interrupt=broken.set)
    assert [result.attempts for result in each(pool, [item(0)])] == [1]
    assert pool.abandoned == 0


def test_an_item_that_cannot_be_interrupted_is_abandoned() -> None:
    """A thread that blocks for good does not delay the run: its item is cancelled, and counted as abandoned."""
    cancellation = Cancellation()
    release = threading.Event()

    def task(item: Item) -> Result:
        cancellation.request(Reason.SIGNAL)
        release.wait(BOUND)
        return ok(item)

    pool = make(task, cancellation=cancellation, drain_seconds=lambda: 0.0)
    results = list(each(pool, [item(0)]))
    release.set()
    assert [result.status for result in results] == [Status.CANCELLED]
    assert pool.abandoned == 1


def test_a_run_that_is_cancelled_before_its_start_runs_no_task() -> None:
    """Every item is cancelled with the reason of the cancellation, and no task is called."""
    cancellation = Cancellation()
    called: list[Item] = []

    def task(item: Item) -> Result:
        called.append(item)
        return ok(item)

    cancellation.request(Reason.DEADLINE)
    results = list(each(make(task, cancellation=cancellation), map(item, range(5))))
    assert {(result.status, result.reason) for result in results} == {(Status.CANCELLED, Reason.DEADLINE)}
    assert (len(results), called) == (5, [])


def test_hooks_get_each_future_when_scheduled_and_when_done() -> None:
    """The hooks get the future of each item twice: when it is submitted, and when it is done."""
    scheduled: list[str] = []
    done: list[str] = []

    def on_scheduled(item: Item, future: "Future[Result]") -> None:
        scheduled.append(f"{item.code} {isinstance(future, Future)}")

    def on_done(item: Item, future: "Future[Result]") -> None:
        done.append(f"{item.code} {future.done()}")

    list(each(make(ok, workers=1, on_scheduled=on_scheduled, on_done=on_done), map(item, range(3))))
    assert scheduled == done == ["C0 True", "C1 True", "C2 True"]


def test_pending_counts_items_that_wait_for_a_worker() -> None:
    """In a full window the items beyond the number of workers are pending; before and after the run none is."""
    release = threading.Event()

    def task(item: Item) -> Result:
        release.wait(BOUND)
        return ok(item)

    seen: list[int] = []

    def source() -> Iterator[WorkItem]:
        for number in range(20):
            seen.append(pool.pending)
            if number == 9:
                release.set()
            yield item(number)

    pool = make(task, workers=5)
    before = pool.pending
    assert len(list(each(pool, source()))) == 20
    assert (before, max(seen[:10]), pool.pending) == (0, 4, 0)


def test_a_bug_in_the_task_is_not_swallowed() -> None:
    """An exception of a task is raised by `results`, and the threads end."""

    def task(item: Item) -> Result:
        raise LookupError(item.code)

    with pytest.raises(LookupError, match="C0"):
        list(each(make(task, workers=1), map(item, range(9))))


@pytest.mark.parametrize("stuck", [True, False])
def test_closing_the_results_early_ends_the_pool(*, stuck: bool) -> None:
    """No other item starts, running ones are interrupted, and those that still do not end count as abandoned."""
    release = threading.Event()
    begun: list[str] = []

    def task(item: Item) -> Result:
        begun.append(item.code)
        if item.code != "C0":
            release.wait(BOUND)
        return ok(item)

    pool = make(task, workers=2, interrupt=lambda: None if stuck else release.set())
    results = each(pool, map(item, range(100)))
    assert next(results).code == "C0"
    results.close()
    assert (pool.abandoned > 0) is stuck
    assert (pool.cancellation.reason, len(begun) <= 3) == (Reason.INTERNAL, True)
    release.set()


class ScarceThread(threading.Thread):
    """A thread of a machine that starts only two more."""

    available = 2

    def start(self) -> None:
        """Start, or fail as the system does."""
        if ScarceThread.available == 0:
            raise RuntimeError("can't start new thread")
        ScarceThread.available -= 1
        super().start()


def test_too_few_threads_cancel_the_run_before_any_task(monkeypatch: pytest.MonkeyPatch) -> None:
    """No item is lost with a thread that the system does not start (simulated: no limit applies to root)."""
    monkeypatch.setattr(ScarceThread, "available", 2)
    monkeypatch.setattr(threading, "Thread", ScarceThread)
    cancellation = Cancellation()
    problems: list[str] = []
    done: list[Item] = []

    def short(problem: str) -> None:
        problems.append(problem)
        cancellation.request(Reason.STORAGE)

    def task(item: Item) -> Result:
        done.append(item)
        return ok(item)

    results = list(each(make(task, workers=5, cancellation=cancellation, on_shortage=short), map(item, range(20))))
    assert [(result.status, result.reason) for result in results] == [(Status.CANCELLED, Reason.STORAGE)] * 20
    assert problems == ["this machine does not allow 5 threads: can't start new thread"]
    assert done == []


def test_an_executor_that_lacks_descriptors_cancels_the_run() -> None:
    """What the machine refuses beside threads is named, too, and no item is lost."""
    cancellation = Cancellation()
    problems: list[str] = []

    def refuse(_workers: int) -> ThreadPoolExecutor:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    pool = make(ok, cancellation=cancellation, new_executor=refuse, on_shortage=problems.append)
    results = list(each(pool, map(item, range(3))))
    assert [(result.status, result.reason) for result in results] == [(Status.CANCELLED, Reason.STORAGE)] * 3
    assert problems == ["this machine does not allow 3 workers: Too many open files"]


def test_a_cancellation_reports_items_in_flight_and_not_started() -> None:
    """In a window of six with three workers, three items are in flight and three are cancelled."""
    cancellation = Cancellation()
    begun = threading.Barrier(4)
    released = threading.Event()
    counts: list[tuple[int, int]] = []

    def on_drain(in_flight: int, waiting: int) -> None:
        counts.append((in_flight, waiting))
        released.set()

    def task(item: Item) -> Result:
        begun.wait(BOUND)
        released.wait(BOUND)
        return ok(item)

    def interrupt_soon() -> None:
        begun.wait(BOUND)
        cancellation.request(Reason.SIGNAL)

    threading.Thread(target=interrupt_soon).start()
    results = list(each(make(task, cancellation=cancellation, on_drain=on_drain), map(item, range(9))))
    assert [result.status for result in results].count(Status.OK) == 3
    assert counts == [(3, 3)]


def test_a_run_that_ends_by_itself_does_not_drain() -> None:
    """`on_drain` is not called unless the run was cancelled."""
    calls: list[tuple[int, int]] = []
    list(each(make(ok, on_drain=lambda *counts: calls.append(counts)), map(item, range(9))))
    assert calls == []


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let an item that was put back come again at once."""
    monkeypatch.setattr("job.pool._PUT_BACK_SECONDS", 0.0)


@pytest.mark.usefixtures("soon")
def test_an_item_that_was_put_back_comes_again() -> None:
    """It has one result, after as many more calls as its task asks for; others come meanwhile."""
    calls: dict[str, int] = {}

    def task(item: Item) -> Result | None:
        calls[item.code] = calls.get(item.code, 0) + 1
        return None if item.code in {"C1", "C5"} and calls[item.code] < 4 else ok(item)

    results = [result.code for result in each(make(task, puts_back=True), map(item, range(6)))]
    assert sorted(results) == [f"C{n}" for n in range(6)]
    assert calls == {"C0": 1, "C1": 4, "C2": 1, "C3": 1, "C4": 1, "C5": 4}


def test_few_items_are_put_back_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A list may have any length: no new items are taken until one of those that were put back has come again."""
    monkeypatch.setattr("job.pool._MOST_PUT_BACK", 2)
    monkeypatch.setattr("job.pool._PUT_BACK_SECONDS", 0.2)
    away: set[str] = set()
    most_away = [0]

    def task(item: Item) -> Result | None:
        if item.code in away:
            away.remove(item.code)
            return ok(item)
        away.add(item.code)
        most_away[0] = max(most_away[0], len(away))
        return None

    results = [result.code for result in each(make(task, puts_back=True, workers=1), map(item, range(20)))]
    assert sorted(results) == sorted(f"C{n}" for n in range(20))
    assert 2 <= most_away[0] <= 2 + 3  # and those of the window, which were taken before


def test_items_that_were_put_back_are_cancelled() -> None:
    """At the end of the run each has one result, and nobody waits until it would come again."""
    cancellation = Cancellation()

    def task(item: Item) -> Result | None:
        if item.code == "C2":
            cancellation.request(Reason.SIGNAL, 15)
        return None

    pool = make(task, puts_back=True, cancellation=cancellation, workers=1)
    results = [(result.code, result.status) for result in each(pool, map(item, range(9)))]
    assert sorted(results) == [(f"C{n}", Status.CANCELLED) for n in range(9)]
