"""The gate: one pace for all threads."""

import threading

import pytest

from job.gate import Gate


class Clock:
    """A clock that only sleeping moves."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


def test_without_a_rate_nobody_waits() -> None:
    """0 is no limit: the clock is not even read."""
    clock = Clock()
    gate = Gate(0, clock)
    assert [gate.enter(clock.sleep) for _ in range(100)] == [0.0] * 100
    assert clock.slept == []


def test_requests_keep_their_distance() -> None:
    """At 20 a second each follows the one before by 50 ms; the first does not wait."""
    clock = Clock()
    gate = Gate(20, clock)
    waits = [gate.enter(clock.sleep) for _ in range(5)]
    assert waits == pytest.approx([0, 0.05, 0.05, 0.05, 0.05])
    assert clock.now == pytest.approx(1000.2)


def test_an_idle_time_is_no_credit() -> None:
    """After a pause of its own making a run does not burst: the rate holds for every pair of requests."""
    clock = Clock()
    gate = Gate(10, clock)
    gate.enter(clock.sleep)
    clock.now += 60
    assert [gate.enter(clock.sleep) for _ in range(3)] == pytest.approx([0, 0.1, 0.1])


def test_threads_share_one_pace() -> None:
    """Thirty threads that ask at once get thirty different slots."""
    clock, ready = Clock(), threading.Barrier(30)
    gate = Gate(10, clock)
    waits: list[float] = []

    def enter() -> None:
        ready.wait(10)
        gate.enter(waits.append)

    threads = [threading.Thread(target=enter) for _ in range(30)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(waits) == pytest.approx([number / 10 for number in range(1, 30)])


def test_who_may_not_wait_is_not_held() -> None:
    """What the sleep raises comes out: a stop ends the wait."""
    gate = Gate(0.001)
    gate.enter(lambda _: None)

    def stopped(_seconds: float) -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        gate.enter(stopped)
