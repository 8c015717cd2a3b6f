"""Ten thousand files from an origin that is dead, or that goes away for a while."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from rows import row

from e2e.live import Event, FinishedJob, run_to_end, start
from e2e.namespaces import ANY_GIF, LOOK_UP, SYN, Namespace, namespace

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(150)]
CODES = 10_000
NAME = "origin.example"
MAX_PACKETS = 1500
MAX_RSS_BYTES = 100_000_000


def settings(home: Path, count: int = CODES, host: str = "127.0.0.1", patience: int | None = 0) -> dict[str, str]:
    """Return the settings of a run over that many codes that are no flags; all else is the default.

    A patience of None is the default one.
    """
    (home / "codes").write_text("\n".join(f"c{number:05}" for number in range(count)))
    url = f"http://{host}/{{cc}}.gif"
    where = {"FLAGJOB_CODES_FILE": str(home / "codes"), "FLAGJOB_DEST": str(home / "out")}
    waits = {} if patience is None else {"FLAGJOB_ORIGIN_PATIENCE": str(patience)}
    return {"FLAGJOB_URL": url, **where, **waits}


@pytest.fixture
def machine() -> Iterator[Namespace]:
    """Yield a machine that counts connection attempts and look-ups, retransmissions included."""
    with namespace(f"127.0.0.1 {NAME}\n") as made:
        made.count(*SYN)
        made.count(*LOOK_UP)
        yield made


def assert_ended_well(done: FinishedJob, machine: Namespace, count: int = CODES) -> None:
    """Assert exit code 6, a line for each code, few packets and little memory."""
    print(
        f"{done.seconds:.1f} s, {machine.packet_count} packets, {done.peak_bytes / 1e6:.0f} MB, "
        f"{done.summary['counts']}"
    )
    assert (done.code, done.stderr) == (6, "")
    assert sorted(done.codes) == [f"C{number:05}" for number in range(count)]
    assert sum(done.summary["counts"].values()) == count
    assert machine.packet_count < MAX_PACKETS
    assert done.peak_bytes < MAX_RSS_BYTES


def reasons(done: FinishedJob) -> set[str]:
    return {line["reason"] for line in done.events_named("result") if line["status"] != "ok"}


@row(1, 53, 66)
def test_connections_are_refused(machine: Namespace, tmp_path: Path) -> None:
    """Ten thousand codes of an origin that refuses connections end after the patience, with exit code 6."""
    done = run_to_end(tmp_path, settings(tmp_path, patience=None), machine.command_prefix)
    assert_ended_well(done, machine)
    assert reasons(done) <= {"connection", "origin_down"}
    assert 5 < done.seconds < 25  # an origin that has answered is probed for 30 s


@row(2, 53)
def test_packets_are_dropped(machine: Namespace, tmp_path: Path) -> None:
    """Dropped packets cost one connect time-out for the run, not one for each item."""
    machine.drop("-p", "tcp")
    done = run_to_end(tmp_path, settings(tmp_path), machine.command_prefix)
    assert_ended_well(done, machine)
    assert reasons(done) <= {"timeout", "origin_down"}
    assert done.seconds < 60


@row(13)
def test_name_does_not_exist(machine: Namespace, tmp_path: Path) -> None:
    """A name that does not exist is not looked up for each of ten thousand items."""
    with machine.name_server():
        done = run_to_end(tmp_path, settings(tmp_path, host="nowhere.example"), machine.command_prefix)
    assert_ended_well(done, machine)
    assert reasons(done) <= {"dns", "origin_down"}


@row(13)
def test_a_name_is_looked_up_at_each_attempt(machine: Namespace, tmp_path: Path) -> None:
    """A failed look-up is not cached: each attempt looks the name up again."""
    packets = []
    with machine.name_server():
        for max_attempts in ("1", "2"):
            before = machine.packet_count
            done = run_to_end(
                tmp_path,
                {**settings(tmp_path, 1, host="nowhere.example"), "FLAGJOB_MAX_ATTEMPTS": max_attempts},
                machine.command_prefix,
            )
            assert [line["attempts"] for line in done.events_named("result")] == [int(max_attempts)]
            packets.append(machine.packet_count - before)
    assert packets[1] == 2 * packets[0] > 0


@row(14)
def test_name_server_is_silent(machine: Namespace, tmp_path: Path) -> None:
    """A silent name server, with a pod's five search domains, delays the run by one connect time-out."""
    machine.drop(*LOOK_UP)
    done = run_to_end(tmp_path, settings(tmp_path, host="nowhere.example"), machine.command_prefix)
    assert_ended_well(done, machine)
    assert reasons(done) <= {"dns", "timeout", "origin_down"}
    assert done.seconds < 17  # a handle that waited for its look-up to end would be held up for 20 s


@pytest.mark.parametrize("how", ["its process ends", "its machine is cut off"])
@row(1, 2, 53)
def test_origin_dies_in_mid_run(machine: Namespace, tmp_path: Path, how: str) -> None:
    """When an origin dies in mid-run, exactly the files with an `ok` line are stored."""
    with ExitStack() as origin, start(tmp_path, settings(tmp_path), machine.command_prefix) as job:
        origin.enter_context(machine.nginx(tmp_path / "nginx", ANY_GIF))
        job.read_until(is_ok, times=CODES // 3)
        if "machine" in how:
            machine.drop("-p", "tcp")
        else:
            origin.close()
        done = job.wait()
    assert_ended_well(done, machine)
    assert reasons(done) <= {"connection", "timeout", "origin_down"}
    files = {line["data"]["path"] for line in done.events_named("result") if line["status"] == "ok"}
    assert files == {path.name for path in (tmp_path / "out").glob("*.gif")}
    assert len(files) >= CODES // 3
    assert done.seconds < 60


@row(1)
def test_origin_is_back_within_the_patience(machine: Namespace, tmp_path: Path) -> None:
    """With patience a run probes an origin that went away, and goes on when it is back."""
    count = 2000
    with start(tmp_path, settings(tmp_path, count, patience=60), machine.command_prefix) as job:
        with machine.nginx(tmp_path / "first", ANY_GIF):
            job.read_until(is_ok, times=count // 3)
        job.read_until_event("host_paused")
        dead = machine.packet_count
        machine.wait_for_packets(dead + 2)
        with machine.nginx(tmp_path / "second", ANY_GIF):
            done = job.wait()
    away = [line for line in done.events if line["event"] in {"host_paused", "origin_back"}]
    print(f"{done.seconds:.1f} s, {dead} packets until the pause, {machine.packet_count} in all")
    assert (done.code, done.stderr) == (0, "")
    assert done.summary["counts"]["ok"] == count == len(set(done.codes))
    assert [line["event"] for line in away] == ["host_paused", "origin_back"]
    assert machine.packet_count < dead + 50  # a new connection for each worker, and the probes


@row(1, 2)
@pytest.mark.parametrize("lost", [False, True])
def test_origin_stays_away(machine: Namespace, tmp_path: Path, *, lost: bool) -> None:
    """An origin that stays away is probed one request at a time, and given up when the patience ends."""
    patience = 6
    if lost:
        machine.drop("-p", "tcp")
    more = {"FLAGJOB_CONNECT_TIMEOUT": "1"}
    with start(tmp_path, {**settings(tmp_path, patience=patience), **more}, machine.command_prefix) as job:
        job.read_until_event("host_paused")
        before = machine.packet_count
        done = job.wait()
    assert_ended_well(done, machine)
    assert reasons(done) == {"origin_down"} or reasons(done) == {"origin_down", "timeout" if lost else "connection"}
    assert machine.packet_count - before <= patience
    assert patience < done.seconds < 30  # the patience of an origin that has answered, without the setting


def is_ok(line: Event) -> bool:
    return line.get("status") == "ok"
