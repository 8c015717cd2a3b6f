"""A request to end: the first cause counts, and nobody sleeps on."""

from threading import Barrier, Event, Thread
from time import monotonic

import pytest

from job.cancellation import Cancellation
from job.errors import Cancelled, Reason

BOUND = 20


def stopped(cause: Reason, signal: int | None = None) -> Cancellation:
    cancellation = Cancellation()
    cancellation.request(cause, signal)
    return cancellation


def test_at_first_nothing_stops() -> None:
    """A run that nobody ends goes on, and its pauses pass."""
    cancellation = Cancellation()
    cancellation.check()
    cancellation.sleep(0)
    assert (cancellation.reason, cancellation.signal) == (None, None)


def test_the_signal_is_kept() -> None:
    """The exit code tells which signal it was."""
    cancellation = stopped(Reason.SIGNAL, 15)
    assert (cancellation.reason, cancellation.signal) == (Reason.SIGNAL, 15)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ((Reason.SIGNAL, 2), (Reason.SIGNAL, 15)),
        ((Reason.DEADLINE, None), (Reason.SIGNAL, 15)),
        ((Reason.SIGNAL, 15), (Reason.STORAGE, None)),
    ],
)
def test_the_first_cause_counts(first: tuple[Reason, int | None], second: tuple[Reason, int | None]) -> None:
    """What happens to a run that ends already does not change why it ends."""
    cancellation = stopped(*first)
    cancellation.request(*second)
    assert (cancellation.reason, cancellation.signal) == first


@pytest.mark.parametrize("reason", [Reason.SIGNAL, Reason.DEADLINE])
def test_the_grace_counts_from_the_first_call(reason: Reason) -> None:
    """A signal or the deadline begins the grace, once; a full disk does not."""
    cancellation = stopped(Reason.STORAGE)
    before, began = cancellation.grace_began, monotonic()
    cancellation.request(reason, 15 if reason is Reason.SIGNAL else None)
    first = cancellation.grace_began
    cancellation.request(Reason.SIGNAL, 15)
    assert (before, cancellation.grace_began) == (None, first)
    assert first is not None
    assert began <= first <= monotonic()


def test_a_signal_is_noticed_however_late() -> None:
    """A run that ends for another reason already still hears that nobody wants to wait for it."""
    cancellation = stopped(Reason.DEADLINE)
    before = cancellation.signalled
    cancellation.request(Reason.SIGNAL, 15)
    cancellation.request(Reason.STORAGE)
    assert (before, cancellation.signalled, Cancellation().signalled) == (False, True, False)


def test_a_check_raises_once_the_run_must_end() -> None:
    """Work that is not begun yet is not begun."""
    with pytest.raises(Cancelled) as caught:
        stopped(Reason.STORAGE).check()
    assert caught.value.reason is Reason.STORAGE


def test_a_pause_lasts_as_long_as_it_was_asked_for() -> None:
    """While nothing stops the run, a back-off is a back-off."""
    began = monotonic()
    Cancellation().sleep(0.05)
    assert monotonic() - began > 0.04


def test_no_sleep_begins_after_a_stop() -> None:
    """A pause that comes too late ends before it begins."""
    with pytest.raises(Cancelled) as caught:
        stopped(Reason.DEADLINE).sleep(3600)
    assert caught.value.reason is Reason.DEADLINE


def test_every_sleep_ends_with_the_run() -> None:
    """Threads that wait for an hour all wake up when the run must end, and learn why."""
    cancellation, began, reasons = Cancellation(), Barrier(6), list[Reason]()

    def wait() -> None:
        began.wait(BOUND)
        with pytest.raises(Cancelled) as caught:
            cancellation.sleep(3600)
        reasons.append(caught.value.reason)

    threads = [Thread(target=wait, daemon=True) for _ in range(5)]
    for thread in threads:
        thread.start()
    began.wait(BOUND)
    cancellation.request(Reason.SIGNAL, 15)
    for thread in threads:
        thread.join(BOUND)
    assert reasons == [Reason.SIGNAL] * 5


def test_work_that_the_run_need_not_wait_for_ends_as_it_ends() -> None:
    """Nobody stops the run: what the work did is done, and what it raised is raised here."""
    done: list[str] = []
    Cancellation().run_interruptible(lambda: done.append("work"))
    assert done == ["work"]
    with pytest.raises(ZeroDivisionError):
        Cancellation().run_interruptible(lambda: done.append(str(1 / 0)))


def test_work_that_does_not_end_is_left_to_itself() -> None:
    """A file system that never answers cannot hold a run that must end."""
    cancellation, never = Cancellation(), Event()

    def ask_to_stop_and_hang() -> None:
        cancellation.request(Reason.SIGNAL, 15)
        never.wait()

    try:
        with pytest.raises(Cancelled) as caught:
            cancellation.run_interruptible(ask_to_stop_and_hang)
    finally:
        never.set()
    assert caught.value.reason is Reason.SIGNAL


def test_work_that_belongs_to_the_end_is_done_after_a_stop() -> None:
    """It has the rest of the grace, and a second in any case; what it raised is raised here."""
    done: list[str] = []
    for cancellation in (Cancellation(), stopped(Reason.STORAGE), stopped(Reason.SIGNAL, 15)):
        cancellation.run_within_grace(
            0, lambda: done.append(str(Event().wait(0.2)))
        )  # longer than it takes to look at it once
        with pytest.raises(ZeroDivisionError):
            cancellation.run_within_grace(BOUND, lambda: done.append(str(1 / 0)))
    assert done == ["False"] * 3


def test_work_that_belongs_to_the_end_is_done_without_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that gives no thread any more still gets what was downloaded made durable. (No limit binds root.)."""

    def refused(_thread: Thread) -> None:
        raise RuntimeError("can't start new thread")

    done: list[str] = []
    monkeypatch.setattr(Thread, "start", refused)
    Cancellation().run_within_grace(BOUND, lambda: done.append("work"))
    assert done == ["work"]


def test_work_that_does_not_end_has_the_grace_only() -> None:
    """Whatever ended the run before, a signal begins the grace, and after that nobody waits."""
    cancellation, never = stopped(Reason.ORIGIN_DOWN), Event()

    def ask_to_stop_and_hang() -> None:
        cancellation.request(Reason.SIGNAL, 15)
        never.wait()

    try:
        with pytest.raises(Cancelled):
            cancellation.run_within_grace(0.1, ask_to_stop_and_hang)
    finally:
        never.set()


def test_a_storage_failure_is_noticed_however_late() -> None:
    """It does not change why a run ends, but what is thought of its end."""
    cancellation = stopped(Reason.DEADLINE)
    assert not cancellation.storage_failed
    cancellation.request(Reason.STORAGE)
    assert (cancellation.reason, cancellation.storage_failed) == (Reason.DEADLINE, True)


def test_no_work_begins_after_a_stop() -> None:
    """What nobody will wait for is not begun."""
    done: list[str] = []
    with pytest.raises(Cancelled):
        stopped(Reason.DEADLINE).run_interruptible(lambda: done.append("work"))
    assert done == []


def test_the_deadline_stops_the_run_unless_it_is_taken_back() -> None:
    """A run that ended in time is not stopped afterwards."""
    late, ended = Cancellation(), Cancellation()
    ended.cancel_after(0.2)()
    late.cancel_after(0.2)
    with pytest.raises(Cancelled) as caught:
        late.sleep(BOUND)
    assert (caught.value.reason, ended.reason) == (Reason.DEADLINE, None)


def test_causes_that_come_at_once_give_one_answer() -> None:
    """Signal, deadline and a full disk in the same moment: reason and signal are of the same cause, for everybody."""
    for _ in range(200):
        cancellation, began = Cancellation(), Barrier(3)
        causes: list[tuple[Reason, int | None]] = [(Reason.SIGNAL, 15), (Reason.DEADLINE, None), (Reason.STORAGE, None)]
        seen: list[tuple[Reason | None, int | None]] = []

        def ask(
            cause: tuple[Reason, int | None],
            cancellation: Cancellation = cancellation,
            began: Barrier = began,
            seen: list[tuple[Reason | None, int | None]] = seen,
        ) -> None:
            began.wait(BOUND)
            cancellation.request(*cause)
            seen.append((cancellation.reason, cancellation.signal))

        threads = [Thread(target=ask, args=(cause,)) for cause in causes]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(BOUND)
        assert len(seen) == 3
        assert seen == [(cancellation.reason, cancellation.signal)] * 3
        assert seen[0] in causes
