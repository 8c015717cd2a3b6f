"""Ten thousand files from an origin that is not there, and one that goes away for a while."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from rows import row

from e2e.live import Ended, Event, live, ran
from e2e.namespaces import ANY_GIF, LOOK_UP, SYN, Namespace, namespace

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(150)]
CODES = 10_000
NAME = "origin.example"
FEW = 1500
MAX_RSS_BYTES = 100_000_000


def settings(home: Path, count: int = CODES, host: str = "127.0.0.1", patience: int = 0) -> dict[str, str]:
    """Give the settings of a run over so many codes, whose names tell nothing of a flag; all else by default."""
    (home / "codes").write_text("\n".join(f"c{number:05}" for number in range(count)))
    url = f"http://{host}/{{cc}}.gif"
    where = {"FLAGJOB_CODES_FILE": str(home / "codes"), "FLAGJOB_DEST": str(home / "out")}
    return {"FLAGJOB_URL": url, **where, "FLAGJOB_ORIGIN_PATIENCE": str(patience)}


@pytest.fixture
def machine() -> Iterator[Namespace]:
    """Give a machine of our own, that counts connection attempts and look-ups, those that are sent again too."""
    with namespace(f"127.0.0.1 {NAME}\n") as made:
        made.count(*SYN)
        made.count(*LOOK_UP)
        yield made


def assert_ended_well(done: Ended, machine: Namespace, count: int = CODES) -> None:
    """Every code has a line, the scheduler is told the truth, and neither the network nor memory paid for it."""
    print(f"{done.seconds:.1f} s, {machine.counted} packets, {done.peak_bytes / 1e6:.0f} MB, {done.summary['counts']}")
    assert (done.code, done.stderr) == (6, "")
    assert sorted(done.codes) == [f"C{number:05}" for number in range(count)]
    assert sum(done.summary["counts"].values()) == count
    assert machine.counted < FEW
    assert done.peak_bytes < MAX_RSS_BYTES


def reasons(done: Ended) -> set[str]:
    return {line["reason"] for line in done.named("result") if line["status"] != "ok"}


@row(1, 53)
def test_nobody_listens(machine: Namespace, tmp_path: Path) -> None:
    """Ten thousand codes of an origin where nobody listens end in seconds, with exit code 6."""
    done = ran(tmp_path, settings(tmp_path), machine.inside)
    assert_ended_well(done, machine)
    assert reasons(done) <= {"connection", "origin_down"}
    assert done.seconds < 5


@row(2, 53)
def test_packets_are_lost(machine: Namespace, tmp_path: Path) -> None:
    """Packets that nobody answers cost one connect time-out, not one an item."""
    machine.drop("-p", "tcp")
    done = ran(tmp_path, settings(tmp_path), machine.inside)
    assert_ended_well(done, machine)
    assert reasons(done) <= {"timeout", "origin_down"}
    assert done.seconds < 20


@row(13)
def test_name_does_not_exist(machine: Namespace, tmp_path: Path) -> None:
    """A name that a real name server does not know is not looked up ten thousand times."""
    with machine.name_server():
        done = ran(tmp_path, settings(tmp_path, host="nowhere.example"), machine.inside)
    assert_ended_well(done, machine)
    assert reasons(done) <= {"dns", "origin_down"}
    assert done.seconds < 5


@row(13)
def test_a_name_is_looked_up_at_each_try(machine: Namespace, tmp_path: Path) -> None:
    """What was not found is asked for again, not remembered: the second try, or the next probe, may find it."""
    asked = []
    with machine.name_server():
        for tries in ("1", "2"):
            before = machine.counted
            done = ran(
                tmp_path,
                {**settings(tmp_path, 1, host="nowhere.example"), "FLAGJOB_MAX_ATTEMPTS": tries},
                machine.inside,
            )
            assert [line["attempts"] for line in done.named("result")] == [int(tries)]
            asked.append(machine.counted - before)
    assert asked[1] == 2 * asked[0] > 0


@row(14)
def test_name_server_says_nothing(machine: Namespace, tmp_path: Path) -> None:
    """A name server that says nothing, under a pod's five search domains, holds nobody for longer than a connect."""
    machine.drop(*LOOK_UP)
    done = ran(tmp_path, settings(tmp_path, host="nowhere.example"), machine.inside)
    assert_ended_well(done, machine)
    assert reasons(done) <= {"dns", "timeout", "origin_down"}
    assert done.seconds < 17  # a handle that waited for its look-up to end would be held up for 20 s


@pytest.mark.parametrize("how", ["its process ends", "its machine is cut off"])
@row(1, 2, 53)
def test_origin_dies_in_mid_run(machine: Namespace, tmp_path: Path, how: str) -> None:
    """An origin that dies after a third leaves a run that knows exactly which files it has."""
    with ExitStack() as origin, live(tmp_path, settings(tmp_path), machine.inside) as job:
        origin.enter_context(machine.nginx(tmp_path / "nginx", ANY_GIF))
        job.until(is_ok, times=CODES // 3)
        if "machine" in how:
            machine.drop("-p", "tcp")
        else:
            origin.close()
        done = job.end()
    assert_ended_well(done, machine)
    assert reasons(done) <= {"connection", "timeout", "origin_down"}
    files = {line["data"]["path"] for line in done.named("result") if line["status"] == "ok"}
    assert files == {path.name for path in (tmp_path / "out").glob("*.gif")}
    assert len(files) >= CODES // 3
    assert done.seconds < 20


@row(1)
def test_origin_is_back_within_the_patience(machine: Namespace, tmp_path: Path) -> None:
    """With patience a run waits for an origin that went away, asks for it now and then, and goes on by itself."""
    count = 2000
    with live(tmp_path, settings(tmp_path, count, patience=60), machine.inside) as job:
        with machine.nginx(tmp_path / "first", ANY_GIF):
            job.until(is_ok, times=count // 3)
        job.until_event("host_paused")
        dead = machine.counted
        machine.wait_for_packets(dead + 2)
        with machine.nginx(tmp_path / "second", ANY_GIF):
            done = job.end()
    away = [line for line in done.events if line["event"] in {"host_paused", "origin_back"}]
    print(f"{done.seconds:.1f} s, {dead} packets until the pause, {machine.counted} in all")
    assert (done.code, done.stderr) == (0, "")
    assert done.summary["counts"]["ok"] == count == len(set(done.codes))
    assert [line["event"] for line in away] == ["host_paused", "origin_back"]
    assert machine.counted < dead + 50  # a new connection for each worker, and the probes


@row(1, 2)
@pytest.mark.parametrize("lost", [False, True])
def test_origin_stays_away(machine: Namespace, tmp_path: Path, *, lost: bool) -> None:
    """An origin that stays away is probed one request at a time, and given up when the patience ends."""
    patience = 6
    if lost:
        machine.drop("-p", "tcp")
    more = {"FLAGJOB_CONNECT_TIMEOUT": "1"}
    with live(tmp_path, {**settings(tmp_path, patience=patience), **more}, machine.inside) as job:
        job.until_event("host_paused")
        before = machine.counted
        done = job.end()
    assert_ended_well(done, machine)
    assert reasons(done) == {"origin_down"} or reasons(done) == {"origin_down", "timeout" if lost else "connection"}
    assert machine.counted - before <= patience
    assert patience < done.seconds < patience + 10


def is_ok(line: Event) -> bool:
    return line.get("status") == "ok"
