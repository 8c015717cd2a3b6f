"""A machine with a shortage of disk space, permissions, descriptors or threads, or without a log reader."""

import os
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from images import numbered_gif
from rows import row
from scripted import Answer, Request, ScriptedServer

from e2e.live import FinishedJob, run_to_end, start
from e2e.namespaces import ANY_GIF, namespace

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]
OLD, CODES, WORKERS = 100, 1000, 30
LARGE_BYTES, MAX_BYTES = 40_000, 65_536
OTHER_UID = 54_321
"""The UID of a user without a name, who runs no other process here."""
AS_OTHER_UID = (
    *("setpriv", "--reuid", str(OTHER_UID), "--regid", str(OTHER_UID), "--clear-groups"),
    *("--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"),
)
"""A command that runs as that user, who can read every file, to find Python, and write only their own."""


@dataclass
class ChangingOrigin:
    """An origin whose files all change at once, and become large."""

    count: int = CODES
    version: int = 1
    server: ScriptedServer = field(init=False)

    def __post_init__(self) -> None:
        self.files = [f"c{number:04}.gif" for number in range(self.count)]
        self.server = ScriptedServer({f"/{file}": self._answer for file in self.files})

    def body(self, file: str, version: int) -> bytes:
        return numbered_gif(version * CODES + int(file[1:5]), LARGE_BYTES if version > 1 else 0)

    def versions(self, dest: Path) -> dict[str, int]:
        """Return the version of each file that exists; 0 if it is incomplete."""
        found = {path.name: path.read_bytes() for path in dest.glob("*.gif")}
        return {file: next((v for v in (1, 2) if self.body(file, v) == data), 0) for file, data in found.items()}

    def _answer(self, request: Request) -> Answer:
        return Answer(200, body=self.body(request.target[1:], self.version))


@pytest.fixture
def origin() -> Iterator[ChangingOrigin]:
    made = ChangingOrigin()
    with made.server:
        yield made


@pytest.fixture
def dest(tmp_path: Path) -> Iterator[Path]:
    """Yield a directory that a file system can be mounted on."""
    path = tmp_path / "dest"
    path.mkdir()
    yield path
    if path.is_mount():
        subprocess.run(["umount", path], check=True)


def mount(dest: Path, *options: str) -> None:
    """Mount a new tmpfs, or remount the present one with other options."""
    more = ["remount"] if dest.is_mount() else []
    subprocess.run(["mount", "-t", "tmpfs", "-o", ",".join([*more, *options]), "none", dest], check=True)


def run(home: Path, origin: ChangingOrigin, count: int = CODES, under: Sequence[str] = ()) -> FinishedJob:
    """Run the job for the first files; it must print no traceback."""
    done = run_to_end(home, settings(home, origin, count), under)
    assert "Traceback" not in done.stderr + done.stdout.decode()
    return done


def settings(home: Path, origin: ChangingOrigin, count: int = CODES) -> dict[str, str]:
    return {
        "FLAGJOB_URL": origin.server.url("/{cc}.gif"),
        "FLAGJOB_CODES": " ".join(file.removesuffix(".gif") for file in origin.files[:count]),
        "FLAGJOB_DEST": str(home / "dest"),
        "FLAGJOB_MAX_BYTES": str(MAX_BYTES),
    }


def temporary_files(dest: Path) -> list[Path]:
    return list((dest / ".flagjob" / "tmp").iterdir())


@pytest.mark.parametrize(
    ("little", "enough"), [("size=16m", "size=128m"), ("nr_inodes=400", "nr_inodes=4000")], ids=["room", "inodes"]
)
@row(41)
def test_a_disk_that_fills_up(tmp_path: Path, dest: Path, origin: ChangingOrigin, little: str, enough: str) -> None:
    """A full disk ends the run and damages no file; with space again the next run completes."""
    mount(dest, little)
    assert run(tmp_path, origin, OLD).code == 0
    origin.version = 2
    done = run(tmp_path, origin)
    left = origin.versions(dest)
    print(f"{done.seconds:.1f} s, {done.summary['counts']}")
    assert (done.code, done.stderr) == (5, "")
    assert len(set(done.codes)) == CODES == len(done.codes)
    assert set(left.values()) <= {1, 2}
    assert left.keys() >= set(origin.files[:OLD])
    assert sum(version == 2 for version in left.values()) == done.summary["counts"]["ok"] > 0
    assert temporary_files(dest) == []
    mount(dest, enough)
    healed = run(tmp_path, origin)
    assert (healed.code, healed.summary["counts"]["error"]) == (0, 0)
    assert origin.versions(dest) == dict.fromkeys(origin.files, 2)


@row(42)
def test_a_disk_that_cannot_be_written(tmp_path: Path, dest: Path, origin: ChangingOrigin) -> None:
    """A read-only file system is reported before the first request."""
    mount(dest, "size=16m")
    assert run(tmp_path, origin, OLD).code == 0
    mount(dest, "ro")
    before = len(origin.server.requests)
    done = run(tmp_path, origin)
    assert (done.code, done.stderr, len(origin.server.requests) - before) == (5, "", 0)
    assert "Read-only file system" in done.events_named("storage_error")[0]["problem"]
    assert origin.versions(dest) == dict.fromkeys(origin.files[:OLD], 1)


@row(42)
def test_a_directory_of_another_user(tmp_path: Path, dest: Path, origin: ChangingOrigin) -> None:
    """A directory without write permission is reported before the first request; an own one is written to."""
    done = run(tmp_path, origin, OLD, AS_OTHER_UID)
    assert (done.code, done.stderr, origin.server.requests) == (5, "", [])
    assert "Permission denied" in done.events_named("storage_error")[0]["problem"]
    os.chown(dest, OTHER_UID, OTHER_UID)
    assert run(tmp_path, origin, OLD, AS_OTHER_UID).code == 0
    assert {path.stat().st_uid for path in dest.glob("*.gif")} == {OTHER_UID}


@pytest.mark.parametrize("descriptors", [6, 10, 20, 35])
@row(46)
def test_too_few_descriptors(tmp_path: Path, dest: Path, origin: ChangingOrigin, descriptors: int) -> None:
    """A limit of open files that is too low is exit code 5, without endless retries."""
    done = run(tmp_path, origin, under=("prlimit", f"--nofile={descriptors}:{descriptors}"))
    assert_local_shortage(done)
    assert set(origin.versions(dest).values()) <= {1}
    assert temporary_files(dest) == []


@pytest.mark.parametrize("threads", [2, 20])
@row(46)
def test_too_few_threads(tmp_path: Path, dest: Path, origin: ChangingOrigin, threads: int) -> None:
    """A limit of threads below the number of workers is reported before the first request."""
    os.chown(dest, OTHER_UID, OTHER_UID)
    done = run(tmp_path, origin, under=("prlimit", f"--nproc={threads}:{threads}", *AS_OTHER_UID))
    assert_local_shortage(done)
    assert origin.server.requests == []


@row(46)
def test_threads_for_workers_but_none_for_look_ups(tmp_path: Path, dest: Path, origin: ChangingOrigin) -> None:
    """Threads missing for name look-ups are exit code 5, never a dead origin."""
    os.chown(dest, OTHER_UID, OTHER_UID)
    by_name = {**settings(tmp_path, origin), "FLAGJOB_URL": "http://origin.example/{cc}.gif"}
    with namespace("127.0.0.1 origin.example\n") as machine, machine.nginx(tmp_path / "nginx", ANY_GIF):
        edge = [("prlimit", f"--nproc={threads}:{threads}") for threads in range(WORKERS + 1, WORKERS + 5)]
        ended = [run_to_end(tmp_path, by_name, [*machine.command_prefix, *limit, *AS_OTHER_UID]) for limit in edge]
    print([(done.code, round(done.seconds, 1)) for done in ended])
    assert {done.code for done in ended} == {0, 5}
    for done in ended:
        assert (len(set(done.codes)), "Traceback" in done.stderr) == (CODES, False)


def assert_local_shortage(done: FinishedJob) -> None:
    assert (done.code, done.stderr) == (5, "")
    assert len(set(done.codes)) == CODES == len(done.codes)
    assert {line["reason"] for line in done.events_named("result") if line["status"] != "ok"} == {"storage"}
    assert done.seconds < 30


@pytest.mark.parametrize("redirection", [">/dev/full", ">&-"], ids=["full", "closed"])
@row(51)
def test_a_full_or_closed_standard_output(tmp_path: Path, dest: Path, origin: ChangingOrigin, redirection: str) -> None:
    """A full or closed standard output ends the run with one line on standard error, and tears no file."""
    done = run(tmp_path, origin, under=("sh", "-c", f'exec "$@" {redirection}', "sh"))
    assert (done.code, done.stdout, done.stderr.count("\n")) == (5, b"", 1)
    assert done.stderr.startswith("flagjob: standard output ")
    assert set(origin.versions(dest).values()) <= {1}


@row(51)
def test_a_broken_pipe(tmp_path: Path, dest: Path, origin: ChangingOrigin) -> None:
    """A closed pipe ends the run with exit code 5, and every file is whole."""
    with start(tmp_path, settings(tmp_path, origin)) as job:
        job.read_until(lambda line: line.get("status") == "ok", times=10)
        assert job.process.stdout
        job.process.stdout.close()
        assert job.process.wait() == 5
    assert (tmp_path / "stderr").read_text() == "flagjob: standard output cannot be written: Broken pipe\n"
    assert set(origin.versions(dest).values()) == {1}
    assert run(tmp_path, origin).code == 0
