"""The catalogue of faults, rows 41 to 46: what disks and local limits can do to a run."""

import errno
import fcntl
import os
import resource
import subprocess
import sys
import threading
from datetime import datetime, timedelta, tzinfo
from hashlib import sha256
from pathlib import Path
from stat import S_ISDIR
from time import time
from typing import Self

import pytest
from command import Done
from disk_calls import fold_names, refuse_fsync, refuse_names
from images import GIF, numbered_gif
from inprocess import WatchedLog, files_in, run, run_here
from limits import limited
from mirror import mirror
from rows import line_of, row
from scripted import Answer, Raw, Request, ScriptedServer, Step

from job.cancellation import Cancellation
from job.errors import Reason
from job.manifest import read_entries
from job.storage import DirectoryStorage, Generations, generations

OLD = numbered_gif(1)
LARGE = numbered_gif(2, 500_000)


@row(41)
def test_a_full_disk_ends_the_run(tmp_path: Path) -> None:
    """Where no file may grow further: exit 5, one error, the old file whole, no temporary file, no more requests."""
    line = line_of("the disk is full")
    tmp_path.joinpath("cn.gif").write_bytes(OLD)
    with ScriptedServer({"/cn.gif": Answer(body=LARGE)}) as server, limited(resource.RLIMIT_FSIZE, 300_000):
        codes = ["cn", *(f"c{number}" for number in range(50))]
        done = run_here(*codes, dest=tmp_path, url=server.url("/{cc}.gif"), executor="sequential")
        assert len(server.requests) == 1
    first, *others = [[result["status"], result["reason"]] for result in done.events_named("result")]
    assert (first, others) == (line.words, [["cancelled", Reason.STORAGE]] * 50)
    assert (done.code, len(done.events_named("storage_error")), files_in(tmp_path)) == (
        line.exit_code,
        1,
        {"cn.gif": OLD},
    )


@row(42)
@pytest.mark.parametrize("dest", ["/proc/flagjob", "/dev/null", "file", "file/below"])
def test_a_destination_that_is_not_writable_ends_the_run_before_a_request(tmp_path: Path, dest: str) -> None:
    """Exit 5, one error, a result for each code, and no connection to the origin."""
    line = line_of("the destination cannot be written")
    tmp_path.joinpath("file").write_bytes(OLD)
    with ScriptedServer({"/cn.gif": Answer(body=GIF)}) as server:
        done = run_here("cn", "br", dest=tmp_path / dest, url=server.url("/{cc}.gif"))
        assert server.connections == 0
    assert [[result["status"], result["reason"]] for result in done.events_named("result")] == [line.words] * 2
    assert (done.code, len(done.events_named("storage_error")), done.summary["published"]) == (line.exit_code, 1, False)
    assert tmp_path.joinpath("file").read_bytes() == OLD


WRITER = """
import sys
from pathlib import Path
from job.storage import DirectoryStorage

storage = DirectoryStorage(Path(sys.argv[1]))
storage.open()
body = storage.new_body()
body.write(bytes(500_000))
print("in the middle", flush=True)
sys.stdin.read()
"""


@row(43, 48)
def test_a_run_after_one_that_was_killed_completes(tmp_path: Path) -> None:
    """After SIGKILL in mid-file the old file is whole; the next run removes the temporary file and completes."""
    tmp_path.joinpath("cn.gif").write_bytes(OLD)
    command = [sys.executable, "-c", WRITER, str(tmp_path)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe) as writer:
        assert writer.stdout
        writer.stdout.readline()
        writer.kill()
    (temporary,) = (tmp_path / ".flagjob" / "tmp").iterdir()
    assert tmp_path.joinpath("cn.gif").read_bytes() == OLD
    os.utime(temporary, (0, 0))
    with ScriptedServer({"/cn.gif": Answer(body=LARGE)}) as server:
        done = run_here("cn", dest=tmp_path, url=server.url("/{cc}.gif"))
    assert (done.code, files_in(tmp_path)) == (0, {"cn.gif": LARGE})


@row(44)
def test_a_link_is_replaced_and_a_directory_is_one_items_error(tmp_path: Path) -> None:
    """The target of the link is left alone, and the directory is not removed; other items succeed."""
    link = line_of("a symbolic link")
    directory = line_of("a directory in the way")
    (tmp_path / "mine").write_bytes(OLD)
    dest = tmp_path / "dest"
    (dest / "br.gif").mkdir(parents=True)
    (dest / "cn.gif").symlink_to(tmp_path / "mine")
    with ScriptedServer({f"/{code}.gif": Answer(body=GIF) for code in ("cn", "br", "us")}) as server:
        done = run_here("br", "cn", "us", dest=dest, url=server.url("/{cc}.gif"))
    results = {result["code"]: [result["status"], result["reason"]] for result in done.events_named("result")}
    assert results == {"BR": directory.words, "CN": [*link.words, None], "US": ["ok", None]}
    assert (done.code, done.events_named("storage_error")) == (directory.exit_code, [])
    assert files_in(dest) == {"cn.gif": GIF, "us.gif": GIF}
    assert ((dest / "cn.gif").is_symlink(), (tmp_path / "mine").read_bytes()) == (False, OLD)


@row(57)
def test_a_directory_that_refuses_files_is_one_items_error(tmp_path: Path) -> None:
    """A directory on another file system takes no file by a rename; the items of other directories succeed."""
    line = line_of("one name or one directory")
    (tmp_path / "7").symlink_to("/proc/self")
    with ScriptedServer({f"/{code}.gif": Answer(body=GIF) for code in ("7/66", "7/67/1", "8/1")}) as server:
        done = run_here("7/66", "7/67/1", "8/1", "cn", dest=tmp_path, url=server.url("/{id}.gif"))
    results = {result["code"]: [result["status"], result["reason"]] for result in done.events_named("result")}
    assert results == {
        "7/66": line.words,
        "7/67/1": line.words,
        "8/1": ["ok", None],
        "cn": ["not_found", "http_404"],
    }
    assert (done.code, done.events_named("storage_error")) == (line.exit_code, [])


@row(58)
@pytest.mark.parametrize("number", [errno.EINVAL, errno.EBADF])
@pytest.mark.parametrize("publish", ["each", "set"])
def test_a_file_system_that_cannot_flush_directories_is_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, publish: str
) -> None:
    """The files, or the set, are published, and one warning says what a power cut may lose."""
    line = line_of("the file system cannot flush")
    refuse_fsync(monkeypatch, number, directories=True)
    with ScriptedServer({f"/{code}.gif": Answer(body=GIF) for code in ("7/66", "8/1")}) as server:
        done = run_here("7/66", "8/1", dest=tmp_path, url=server.url("/{id}.gif"), publish=publish)
    assert [result["status"] for result in done.events_named("result")] == line.words * 2
    assert (done.code, done.summary["published"], done.events_named("storage_error")) == (line.exit_code, True, [])
    (said,) = done.events_named("destination_limited")
    assert (said["level"], said["dest"]) == ("warning", str(tmp_path))
    assert said["problem"].startswith("it cannot flush directories to the disk")


@row(59)
@pytest.mark.parametrize("refresh", ["conditional", "missing"])
@pytest.mark.parametrize("publish", ["each", "set"])
def test_times_of_the_destinations_own_are_compared_once(tmp_path: Path, refresh: str, publish: str) -> None:
    """After a restore with other times nothing is downloaded again: digests are compared and told in one run only."""
    line = line_of("the destination sets times or ETags")
    codes = ["br", "cn", "us"]
    with mirror({code: numbered_gif(number) for number, code in enumerate(codes)}) as origin:

        def again() -> Done:
            return run_here(*codes, dest=tmp_path, url=origin.url, publish=publish, refresh=refresh)

        again()
        published = tmp_path / "current" if publish == "set" else tmp_path
        for number, code in enumerate(codes):
            os.utime(published / f"{code}.gif", (number, number))
        before = {path.stat().st_ino for path in published.glob("*.gif")}
        first = again()
        second = again()
        assert origin.asked(since=3)["plain"] == 0
    assert [result["status"] for result in first.events_named("result")] == ["unchanged"] * 3
    assert (first.code, second.code) == (line.exit_code, line.exit_code)
    assert [len(done.events_named("destination_limited")) for done in (first, second)] == [1, 0]
    assert {path.stat().st_ino for path in published.glob("*.gif")} == before


@row(42, 57)
def test_a_destination_that_takes_no_names_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where every name is refused the run ends: before a request if that is so at the start, else at the first file."""
    with ScriptedServer({"/cn.gif": Answer(body=GIF)}) as server, monkeypatch.context() as patch:
        url = server.url("/{cc}.gif")
        run_here("cn", dest=tmp_path, url=url)
        (tmp_path / "cn.gif").unlink()
        requests = len(server.requests)
        refuse_names(patch, tmp_path, errno.EACCES)
        before = run_here("cn", dest=tmp_path, url=url)
        assert len(server.requests) == requests
        patch.undo()

        def refuse(text: bytes) -> None:
            if b'"run_started"' in text:
                refuse_names(patch, tmp_path, errno.EACCES)

        during = run(["cn"], Cancellation(), WatchedLog(refuse), dest=str(tmp_path), url=url)
    assert [before.code, during.code] == [line_of("the destination cannot be written").exit_code] * 2
    assert during.events_named("storage_error")[0]["problem"].endswith("cn.gif: Permission denied")


def one_name(name: str) -> str:
    """Fold a name as vfat and SMB do."""
    return name.lower().rstrip(".")


@row(76)
@pytest.mark.parametrize("source", ["arguments", "a list"])
@pytest.mark.parametrize("publish", ["each", "set"])
def test_ids_that_are_one_file_in_the_destination(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, publish: str, source: str
) -> None:
    """The first of them has the file, each other one is an error without a request; the second run changes nothing."""
    line = line_of("two ids whose names the destination takes for one")
    first = {"Ab": numbered_gif(1), "7./66": numbered_gif(2), "Sum/1": numbered_gif(3)}
    others = ["aB", "7/66", "sUm/1", "AB"]
    ids = ["Ab", "aB", "7./66", "7/66", "Sum/1", "sUm/1", "AB", "Ab"]
    dest = tmp_path / "dest"
    dest.mkdir()
    (tmp_path / "ids").write_text("\n".join(ids))
    words = ids if source == "arguments" else []
    more = {} if source == "arguments" else {"codes_file": str(tmp_path / "ids"), "workers": "1"}
    fold_names(monkeypatch, dest, one_name)
    with ScriptedServer({f"/{code}.gif": Answer(body=first.get(code, OLD)) for code in ids}) as server:
        url = server.url("/{id}.gif")
        done = [
            run_here(*words, dest=dest, url=url, publish=publish, refresh="missing", max_errors="4", **more)
            for _ in "12"
        ]
        assert sorted(request.target for request in server.requests) == sorted(f"/{code}.gif" for code in first)
    for run_number, status in enumerate(["ok", "unchanged"]):
        results = [
            (result["code"], result["status"], result["reason"]) for result in done[run_number].events_named("result")
        ]
        assert sorted(results) == sorted(
            [(code, status, None) for code in first] + [(code, *line.words) for code in others]
        )
    published = dest / "current" if publish == "set" else dest
    found = {str(path.relative_to(published)): path.read_bytes() for path in published.rglob("*.gif")}
    assert found == {f"{code}.gif": body for code, body in first.items()}


@row(76)
def test_lists_with_other_forms_of_an_id_leave_one_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where two lists in turn write one file by two names, checksums and verify know the last one only."""
    fold_names(monkeypatch, tmp_path, one_name)
    with ScriptedServer({"/Ab.gif": Answer(body=GIF), "/aB.gif": Answer(body=OLD)}) as server:
        url = server.url("/{id}.gif")
        done = [run_here(code, dest=tmp_path, url=url) for code in ("Ab", "aB", "aB")]
    assert [run.statuses for run in done] == [{"Ab": "ok"}, {"aB": "ok"}, {"aB": "unchanged"}]
    assert (tmp_path / "SHA256SUMS").read_text() == f"{sha256(OLD).hexdigest()}  aB.gif\n"
    assert [entry.file for entry in read_entries(tmp_path / ".flagjob")] == ["aB.gif"]


@row(73)
@pytest.mark.parametrize("days", [365, -365])
def test_a_rollback_after_a_clock_was_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, days: int) -> None:
    """A run with a wrong clock, then right ones: sets stay and go in the order in which they came."""
    line = line_of("a run whose clock was wrong")

    class WrongClock(datetime):
        """A clock that is days ahead or behind."""

        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Self:
            return super().now(tz) + timedelta(days)

    files: dict[str, bytes | Step] = {"br": GIF}
    with mirror(files) as origin:
        for number in range(4):
            origin.files["br"] = numbered_gif(number)
            with monkeypatch.context() as patch:
                if number == 1:
                    for module in ("storage.generations", "manifest.shard_manifest", "downloader"):
                        patch.setattr(f"job.{module}.datetime", WrongClock)
                done = run_here("br", dest=tmp_path, url=origin.url, publish="set", keep="3")
            assert (done.code, done.statuses) == (line.exit_code, {"BR": line.words[0]})
    sets = Generations(tmp_path)
    shown = [(sets.roll_back() / "br.gif").read_bytes() for _ in range(2)]
    assert shown == [numbered_gif(2), numbered_gif(1)]
    assert len(sets.list_published()) == 3


NODE = """
import fcntl, os, stat, sys
from contextlib import closing
from pathlib import Path
from job.storage import GenerationStorage, generations

def flock(descriptor, operation):
    if sys.argv[2] == "files" and not stat.S_ISDIR(os.fstat(descriptor).st_mode):
        real_flock(descriptor, operation)

real_flock = fcntl.flock
fcntl.flock = flock
generations._BOOT_ID = Path(sys.argv[3])
storage = GenerationStorage(Path(sys.argv[1]), 3)
storage.open()
print(storage.root, flush=True)
data = sys.stdin.buffer.read()
with closing(storage.new_body()) as body:
    body.write(data)
    storage.publish(body, "br.gif", None)
storage.commit()
"""


@row(74)
@pytest.mark.parametrize(("honoured", "quiet"), [("files", 0), ("files", 10**6), ("none", 0), ("none", 3000)])
def test_two_machines_with_sets_on_one_volume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, honoured: str, quiet: float
) -> None:
    """A run leaves alone what another machine prepares: by its lock, however old, or by its age, without any lock."""
    line = line_of("two machines with sets")
    dest = tmp_path / "dest"
    for name in ("here", "there"):
        (tmp_path / name).write_text(name)

    def flock(descriptor: int, operation: int) -> None:
        if honoured == "files" and not S_ISDIR(os.fstat(descriptor).st_mode):
            real_flock(descriptor, operation)

    real_flock = fcntl.flock
    monkeypatch.setattr(fcntl, "flock", flock)
    monkeypatch.setattr(generations, "_BOOT_ID", tmp_path / "here", raising=False)
    command = [sys.executable, "-c", NODE, str(dest), honoured, str(tmp_path / "there")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as node:
        assert node.stdout
        prepared = Path(os.fsdecode(node.stdout.readline().rstrip()))
        for path in [prepared, *prepared.rglob("*")]:
            os.utime(path, (time() - quiet, time() - quiet))
        with ScriptedServer({"/br.gif": Answer(body=GIF)}) as server:
            done = run_here("br", dest=dest, url=server.url("/{cc}.gif"), publish="set")
        assert prepared.is_dir()
        node.communicate(LARGE, timeout=30)
    assert (done.code, done.statuses, node.returncode) == (line.exit_code, {"BR": line.words[0]}, 0)
    assert (dest / "current" / "br.gif").read_bytes() == LARGE
    assert (Generations(dest).roll_back() / "br.gif").read_bytes() == GIF


@row(45)
def test_files_have_the_mode_that_the_umask_leaves_on_the_same_file_system(tmp_path: Path) -> None:
    """A file has mode 0666 less the umask, and its temporary file is on its file system, so that a rename is enough."""
    storage = DirectoryStorage(tmp_path)
    storage.open()
    body = storage.new_body()
    body.write(LARGE)
    (temporary,) = (tmp_path / ".flagjob" / "tmp").iterdir()
    assert temporary.stat().st_dev == tmp_path.stat().st_dev
    body.close()
    before = os.umask(0o027)
    try:
        with ScriptedServer({"/cn.gif": Answer(body=LARGE), "/us.gif": Answer(body=GIF)}) as server:
            done = run_here("cn", "us", dest=tmp_path, url=server.url("/{cc}.gif"))
    finally:
        os.umask(before)
    assert (done.code, files_in(tmp_path)) == (line_of("files that others").exit_code, {"cn.gif": LARGE, "us.gif": GIF})
    assert [(tmp_path / name).stat().st_mode & 0o777 for name in ("cn.gif", "us.gif")] == [0o640, 0o640]


@row(46)
def test_a_lack_of_descriptors_is_a_storage_error(tmp_path: Path) -> None:
    """Without a descriptor for the next connection there is no retry: exit 5, and a result for each item."""
    line = line_of("no descriptors left")

    def exhausting(_: Request) -> Step:
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
        return Raw(Answer(404).wire())

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with ScriptedServer({"/br.gif": exhausting}) as server, limited(resource.RLIMIT_NOFILE, soft):
        done = run_here("br", "cn", "us", dest=tmp_path, url=server.url("/{cc}.gif"), executor="sequential")
    results = [(result["status"], result["reason"], result["attempts"]) for result in done.events_named("result")]
    assert results == [("not_found", "http_404", 1), (*line.words, 1), ("cancelled", Reason.STORAGE, 0)]
    assert (done.code, len(done.events_named("storage_error"))) == (line.exit_code, 1)
    assert "Too many open files" in done.events_named("storage_error")[0]["problem"]


@row(46)
def test_a_lack_of_threads_loses_no_item(tmp_path: Path) -> None:
    """Where no thread can be started the run ends before its first request: exit 5, and a result for each item."""
    line = line_of("fewer threads than workers")
    before = threading.stack_size()

    def exhaust(text: bytes) -> None:
        if b'"run_started"' in text:
            threading.stack_size(1 << 47)  # more than the address space has

    with ScriptedServer({}) as server:
        try:
            settings = {"dest": str(tmp_path), "url": server.url("/{cc}.gif")}
            done = run(["cn", "br", "us"], Cancellation(), WatchedLog(exhaust), **settings)
        finally:
            threading.stack_size(before)
        assert server.connections == 0
    assert [[result["status"], result["reason"]] for result in done.events_named("result")] == [line.words] * 3
    assert (done.code, len(done.events_named("storage_error"))) == (line.exit_code, 1)
    assert "can't start new thread" in done.events_named("storage_error")[0]["problem"]
