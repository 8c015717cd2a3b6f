"""Cancellation: the first reason counts, and every sleep ends."""

from threading import Barrier, Event, Thread
from time import monotonic

import pytest

from job.cancellation import Cancellation
from job.errors import Cancelled, Reason

BOUND = 20


def cancelled(reason: Reason, signal: int | None = None) -> Cancellation:
    cancellation = Cancellation()
    cancellation.request(reason, signal)
    return cancellation


def test_a_run_is_not_cancelled_at_first() -> None:
    """Without a request to end, `check` and `sleep` return, and there is no reason."""
    cancellation = Cancellation()
    cancellation.check()
    cancellation.sleep(0)
    assert (cancellation.reason, cancellation.signal) == (None, None)


def test_the_signal_is_recorded() -> None:
    """The number of the signal is recorded for the exit code."""
    cancellation = cancelled(Reason.SIGNAL, 15)
    assert (cancellation.reason, cancellation.signal) == (Reason.SIGNAL, 15)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ((Reason.SIGNAL, 2), (Reason.SIGNAL, 15)),
        ((Reason.DEADLINE, None), (Reason.SIGNAL, 15)),
        ((Reason.SIGNAL, 15), (Reason.STORAGE, None)),
    ],
)
def test_the_first_reason_counts(first: tuple[Reason, int | None], second: tuple[Reason, int | None]) -> None:
    """A later request changes neither the reason nor the signal."""
    cancellation = cancelled(*first)
    cancellation.request(*second)
    assert (cancellation.reason, cancellation.signal) == first


@pytest.mark.parametrize("reason", [Reason.SIGNAL, Reason.DEADLINE])
def test_the_grace_begins_once(reason: Reason) -> None:
    """The first signal or deadline begins the grace period; a storage failure does not."""
    cancellation = cancelled(Reason.STORAGE)
    before, began = cancellation.grace_began, monotonic()
    cancellation.request(reason, 15 if reason is Reason.SIGNAL else None)
    first = cancellation.grace_began
    cancellation.request(Reason.SIGNAL, 15)
    assert (before, cancellation.grace_began) == (None, first)
    assert first is not None
    assert began <= first <= monotonic()


def test_a_late_signal_is_recorded() -> None:
    """`signalled` is true after a signal, even if the run ends for another reason."""
    cancellation = cancelled(Reason.DEADLINE)
    before = cancellation.signalled
    cancellation.request(Reason.SIGNAL, 15)
    cancellation.request(Reason.STORAGE)
    assert (before, cancellation.signalled, Cancellation().signalled) == (False, True, False)


def test_check_raises_after_a_cancellation() -> None:
    """`check` raises Cancelled with the reason once the run is cancelled."""
    with pytest.raises(Cancelled) as caught:
        cancelled(Reason.STORAGE).check()
    assert caught.value.reason is Reason.STORAGE


def test_sleep_lasts_its_time() -> None:
    """`sleep` lasts its full time while the run is not cancelled."""
    began = monotonic()
    Cancellation().sleep(0.05)
    assert monotonic() - began > 0.04


def test_sleep_raises_after_a_cancellation() -> None:
    """`sleep` raises Cancelled at once if the run is cancelled already."""
    with pytest.raises(Cancelled) as caught:
        cancelled(Reason.DEADLINE).sleep(3600)
    assert caught.value.reason is Reason.DEADLINE


def test_a_cancellation_ends_every_sleep() -> None:
    """A cancellation wakes every sleeping thread, and each raises Cancelled with the reason."""
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


def test_interruptible_work_runs_to_its_end() -> None:
    """Without a cancellation `run_interruptible` does the work, and raises what it raises."""
    done: list[str] = []
    Cancellation().run_interruptible(lambda: done.append("work"))
    assert done == ["work"]
    with pytest.raises(ZeroDivisionError):
        Cancellation().run_interruptible(lambda: done.append(str(1 / 0)))


def test_interruptible_work_that_hangs_is_abandoned() -> None:
    """A cancellation ends `run_interruptible` although its work hangs."""
    cancellation, never = Cancellation(), Event()

    def cancel_and_hang() -> None:
        cancellation.request(Reason.SIGNAL, 15)
        never.wait()

    try:
        with pytest.raises(Cancelled) as caught:
            cancellation.run_interruptible(cancel_and_hang)
    finally:
        never.set()
    assert caught.value.reason is Reason.SIGNAL


def test_final_work_is_done_after_a_cancellation() -> None:
    """`run_within_grace` gives its work a second at least, and raises what it raises."""
    done: list[str] = []
    for cancellation in (Cancellation(), cancelled(Reason.STORAGE), cancelled(Reason.SIGNAL, 15)):
        cancellation.run_within_grace(
            0, lambda: done.append(str(Event().wait(0.2)))
        )  # longer than one check of the work takes
        with pytest.raises(ZeroDivisionError):
            cancellation.run_within_grace(BOUND, lambda: done.append(str(1 / 0)))
    assert done == ["False"] * 3


def test_final_work_is_done_without_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """`run_within_grace` does its work if no thread can start. (No limit on threads binds root.)."""

    def refuse_to_start(_thread: Thread) -> None:
        raise RuntimeError("can't start new thread")

    done: list[str] = []
    monkeypatch.setattr(Thread, "start", refuse_to_start)
    Cancellation().run_within_grace(BOUND, lambda: done.append("work"))
    assert done == ["work"]


def test_final_work_that_hangs_is_abandoned_after_the_grace() -> None:
    """A signal begins the grace period, after which `run_within_grace` abandons work that hangs."""
    cancellation, never = cancelled(Reason.ORIGIN_DOWN), Event()

    def cancel_and_hang() -> None:
        cancellation.request(Reason.SIGNAL, 15)
        never.wait()

    try:
        with pytest.raises(Cancelled):
            cancellation.run_within_grace(0.1, cancel_and_hang)
    finally:
        never.set()


def test_a_late_storage_failure_is_recorded() -> None:
    """A storage failure is recorded, even if the run ends for another reason."""
    cancellation = cancelled(Reason.DEADLINE)
    assert not cancellation.storage_failed
    cancellation.request(Reason.STORAGE)
    assert (cancellation.reason, cancellation.storage_failed) == (Reason.DEADLINE, True)


def test_no_interruptible_work_starts_after_a_cancellation() -> None:
    """`run_interruptible` does not start its work once the run is cancelled."""
    done: list[str] = []
    with pytest.raises(Cancelled):
        cancelled(Reason.DEADLINE).run_interruptible(lambda: done.append("work"))
    assert done == []


def test_the_deadline_cancels_the_run_unless_it_is_revoked() -> None:
    """A deadline cancels the run, but not after it was revoked."""
    late, ended = Cancellation(), Cancellation()
    ended.cancel_after(0.2)()
    late.cancel_after(0.2)
    with pytest.raises(Cancelled) as caught:
        late.sleep(BOUND)
    assert (caught.value.reason, ended.reason) == (Reason.DEADLINE, None)


def test_concurrent_requests_yield_one_reason() -> None:
    """Of concurrent requests one counts, and every thread reads its reason and signal together."""
    for _ in range(200):
        cancellation, began = Cancellation(), Barrier(3)
        requests: list[tuple[Reason, int | None]] = [
            (Reason.SIGNAL, 15),
            (Reason.DEADLINE, None),
            (Reason.STORAGE, None),
        ]
        seen: list[tuple[Reason | None, int | None]] = []

        def request(
            reason_and_signal: tuple[Reason, int | None],
            cancellation: Cancellation = cancellation,
            began: Barrier = began,
            seen: list[tuple[Reason | None, int | None]] = seen,
        ) -> None:
            began.wait(BOUND)
            cancellation.request(*reason_and_signal)
            seen.append((cancellation.reason, cancellation.signal))

        threads = [Thread(target=request, args=(reason_and_signal,)) for reason_and_signal in requests]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(BOUND)
        assert len(seen) == 3
        assert seen == [(cancellation.reason, cancellation.signal)] * 3
        assert seen[0] in requests
