"""A machine that is short of something: room, permission, descriptors, threads, or a reader of what is said."""

import os
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from images import numbered_gif
from rows import row
from scripted import Answer, Request, ScriptedServer

from e2e.live import Ended, live, ran
from e2e.namespaces import ANY_GIF, namespace

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]
OLD, CODES, WORKERS = 100, 1000, 30
LARGE_BYTES, MAX_BYTES = 40_000, 65_536
SOMEBODY = 54_321
"""A user without a name, who runs nothing else here."""
AS_SOMEBODY = (
    *("setpriv", "--reuid", str(SOMEBODY), "--regid", str(SOMEBODY), "--clear-groups"),
    *("--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"),
)
"""May read all, so that Python is found wherever it is installed, and write nothing but what is theirs."""


@dataclass
class Origin:
    """Has so many files; all of them change at once, and become large."""

    count: int = CODES
    version: int = 1
    server: ScriptedServer = field(init=False)

    def __post_init__(self) -> None:
        self.files = [f"c{number:04}.gif" for number in range(self.count)]
        self.server = ScriptedServer({f"/{file}": self._answer for file in self.files})

    def body(self, file: str, version: int) -> bytes:
        return numbered_gif(version * CODES + int(file[1:5]), LARGE_BYTES if version > 1 else 0)

    def versions(self, dest: Path) -> dict[str, int]:
        """Give the version of each file that is there; 0 of one that is not whole."""
        found = {path.name: path.read_bytes() for path in dest.glob("*.gif")}
        return {file: next((v for v in (1, 2) if self.body(file, v) == data), 0) for file, data in found.items()}

    def _answer(self, request: Request) -> Answer:
        return Answer(200, body=self.body(request.target[1:], self.version))


@pytest.fixture
def origin() -> Iterator[Origin]:
    made = Origin()
    with made.server:
        yield made


@pytest.fixture
def dest(tmp_path: Path) -> Iterator[Path]:
    """Give a directory that a file system can be mounted on."""
    path = tmp_path / "dest"
    path.mkdir()
    yield path
    if path.is_mount():
        subprocess.run(["umount", path], check=True)


def mount(dest: Path, *options: str) -> None:
    """Mount a new file system in memory, or change the one that is mounted."""
    more = ["remount"] if dest.is_mount() else []
    subprocess.run(["mount", "-t", "tmpfs", "-o", ",".join([*more, *options]), "none", dest], check=True)


def run(home: Path, origin: Origin, count: int = CODES, under: Sequence[str] = ()) -> Ended:
    """Run the job for the first files; no line of it may be a traceback."""
    done = ran(home, settings(home, origin, count), under)
    assert "Traceback" not in done.stderr + done.stdout.decode()
    return done


def settings(home: Path, origin: Origin, count: int = CODES) -> dict[str, str]:
    return {
        "FLAGJOB_URL": origin.server.url("/{cc}.gif"),
        "FLAGJOB_CODES": " ".join(file.removesuffix(".gif") for file in origin.files[:count]),
        "FLAGJOB_DEST": str(home / "dest"),
        "FLAGJOB_MAX_BYTES": str(MAX_BYTES),
    }


def drafts(dest: Path) -> list[Path]:
    return list((dest / ".flagjob" / "tmp").iterdir())


@pytest.mark.parametrize(
    ("little", "enough"), [("size=16m", "size=128m"), ("nr_inodes=400", "nr_inodes=4000")], ids=["room", "inodes"]
)
@row(41)
def test_a_disk_that_fills_up(tmp_path: Path, dest: Path, origin: Origin, little: str, enough: str) -> None:
    """A full disk ends the run and harms no file that was there; with room again the next run completes."""
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
    assert drafts(dest) == []
    mount(dest, enough)
    healed = run(tmp_path, origin)
    assert (healed.code, healed.summary["counts"]["error"]) == (0, 0)
    assert origin.versions(dest) == dict.fromkeys(origin.files, 2)


@row(42)
def test_a_disk_that_cannot_be_written(tmp_path: Path, dest: Path, origin: Origin) -> None:
    """A file system that became read-only is noticed before the first request."""
    mount(dest, "size=16m")
    assert run(tmp_path, origin, OLD).code == 0
    mount(dest, "ro")
    before = len(origin.server.requests)
    done = run(tmp_path, origin)
    assert (done.code, done.stderr, len(origin.server.requests) - before) == (5, "", 0)
    assert "Read-only file system" in done.named("storage_error")[0]["problem"]
    assert origin.versions(dest) == dict.fromkeys(origin.files[:OLD], 1)


@row(42)
def test_somebody_elses_directory(tmp_path: Path, dest: Path, origin: Origin) -> None:
    """A directory that one may not write to is noticed before the first request; one of one's own is written to."""
    done = run(tmp_path, origin, OLD, AS_SOMEBODY)
    assert (done.code, done.stderr, origin.server.requests) == (5, "", [])
    assert "Permission denied" in done.named("storage_error")[0]["problem"]
    os.chown(dest, SOMEBODY, SOMEBODY)
    assert run(tmp_path, origin, OLD, AS_SOMEBODY).code == 0
    assert {path.stat().st_uid for path in dest.glob("*.gif")} == {SOMEBODY}


@pytest.mark.parametrize("descriptors", [6, 10, 20, 60])
@row(46)
def test_too_few_descriptors(tmp_path: Path, dest: Path, origin: Origin, descriptors: int) -> None:
    """A limit of open files is this machine's fault, whoever meets it first: exit code 5, and no endless retries."""
    done = run(tmp_path, origin, under=("prlimit", f"--nofile={descriptors}:{descriptors}"))
    assert_local_shortage(done)
    assert set(origin.versions(dest).values()) <= {1}
    assert drafts(dest) == []


@pytest.mark.parametrize("threads", [2, 20])
@row(46)
def test_too_few_threads(tmp_path: Path, dest: Path, origin: Origin, threads: int) -> None:
    """A limit of threads below the number of workers is told before the first request."""
    os.chown(dest, SOMEBODY, SOMEBODY)
    done = run(tmp_path, origin, under=("prlimit", f"--nproc={threads}:{threads}", *AS_SOMEBODY))
    assert_local_shortage(done)
    assert origin.server.requests == []


@row(46)
def test_threads_for_workers_but_none_for_look_ups(tmp_path: Path, dest: Path, origin: Origin) -> None:
    """A limit that leaves libcurl no thread to look a name up is this machine's fault too, never a dead origin."""
    os.chown(dest, SOMEBODY, SOMEBODY)
    by_name = {**settings(tmp_path, origin), "FLAGJOB_URL": "http://origin.example/{cc}.gif"}
    with namespace("127.0.0.1 origin.example\n") as machine, machine.nginx(tmp_path / "nginx", ANY_GIF):
        edge = [("prlimit", f"--nproc={threads}:{threads}") for threads in range(WORKERS + 1, WORKERS + 5)]
        ended = [ran(tmp_path, by_name, [*machine.inside, *limit, *AS_SOMEBODY]) for limit in edge]
    print([(done.code, round(done.seconds, 1)) for done in ended])
    assert {done.code for done in ended} == {0, 5}
    for done in ended:
        assert (len(set(done.codes)), "Traceback" in done.stderr) == (CODES, False)


def assert_local_shortage(done: Ended) -> None:
    assert (done.code, done.stderr) == (5, "")
    assert len(set(done.codes)) == CODES == len(done.codes)
    assert {line["reason"] for line in done.named("result") if line["status"] != "ok"} == {"storage"}
    assert done.seconds < 30


@pytest.mark.parametrize("redirection", [">/dev/full", ">&-"], ids=["full", "closed"])
@row(51)
def test_nowhere_to_say_it(tmp_path: Path, dest: Path, origin: Origin, redirection: str) -> None:
    """A standard output that takes nothing ends the run with one clear line, and tears no file."""
    done = run(tmp_path, origin, under=("sh", "-c", f'exec "$@" {redirection}', "sh"))
    assert (done.code, done.stdout, done.stderr.count("\n")) == (5, b"", 1)
    assert done.stderr.startswith("flagjob: standard output ")
    assert set(origin.versions(dest).values()) <= {1}


@row(51)
def test_a_reader_that_leaves(tmp_path: Path, dest: Path, origin: Origin) -> None:
    """A run whose reader leaves ends, with an exit code that says so and every file whole."""
    with live(tmp_path, settings(tmp_path, origin)) as job:
        job.until(lambda line: line.get("status") == "ok", times=10)
        assert job.process.stdout
        job.process.stdout.close()
        assert job.process.wait() == 5
    assert (tmp_path / "stderr").read_text() == "flagjob: standard output cannot be written: Broken pipe\n"
    assert set(origin.versions(dest).values()) == {1}
    assert run(tmp_path, origin).code == 0
