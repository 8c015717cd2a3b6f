"""Destinations on real FUSE mounts, each over a local directory in which a test sees what was written."""

import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from time import monotonic, sleep

import pytest
from images import GIF, numbered_gif
from mirror import mirror
from rows import line_of, row
from scripted import Answer, ScriptedServer

from e2e.live import run_to_end

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]
NUMBER = 40
RCLONE = ("rclone", "mount", "--config", "/dev/null", "--vfs-cache-mode", "writes", "--vfs-write-back", "1s")
"""rclone 1.60 loses a file that is renamed while it is written back: so not at once, as the default of 5 s is long."""


@contextmanager
def fuse(home: Path, server: str) -> Iterator[Path]:
    """Mount a FUSE file system on `home/dest`; what is written there comes to lie in the directory that is yielded."""
    for name in ("dest", "lower", "behind", "work", "cache"):
        (home / name).mkdir(exist_ok=True)
    dest = str(home / "dest")
    layers = f"lowerdir={home / 'lower'},upperdir={home / 'behind'},workdir={home / 'work'}"
    rclone = (*RCLONE, "--cache-dir", str(home / "cache"), str(home / "behind"), dest)
    command = {
        "rclone": rclone,
        "rclone that folds case": (*rclone, "--vfs-case-insensitive"),
        "overlay": ("fuse-overlayfs", "-f", "-o", layers, dest),
    }[server]
    with subprocess.Popen(command) as process:
        wait_until((home / "dest").is_mount)
        try:
            yield home / "behind"
        finally:
            subprocess.run(["umount", dest], check=True)
            process.kill()  # rclone now and then does not end by itself


def wait_until(condition: Callable[[], bool]) -> None:
    """Return when the condition holds; fail if that takes half a minute."""
    ends_at = monotonic() + 30
    while not condition():
        assert monotonic() < ends_at
        sleep(0.05)


def written(behind: Path) -> dict[str, tuple[int, int]]:
    """Return the files of items in the directory behind a mount: inode and time by name."""
    found = {path.name: path.stat() for path in behind.rglob("*.gif")}
    return {name: (stat.st_ino, stat.st_mtime_ns) for name, stat in found.items()}


def settled(behind: Path) -> dict[str, tuple[int, int]]:
    """Return what was written as soon as all of it is there, and nothing changes any more."""
    before: dict[str, tuple[int, int]] = {}

    def is_settled() -> bool:
        last = before.copy()
        before.update(written(behind))
        sleep(1)
        return len(before) == NUMBER and before == last

    wait_until(is_settled)
    return before


@row(59)
@pytest.mark.parametrize("is_remounted", [False, True], ids=["mounted", "mounted again"])
@pytest.mark.parametrize(("server", "publish"), [("rclone", "each"), ("overlay", "each"), ("overlay", "set")])
def test_a_second_run_writes_nothing(tmp_path: Path, server: str, publish: str, *, is_remounted: bool) -> None:
    """All of its requests are conditional, all are answered with 304, and no file is touched or read."""
    files = {f"c{number}": numbered_gif(number) for number in range(NUMBER)}
    with mirror({**files}) as origin:
        settings = {
            "FLAGJOB_URL": origin.url,
            "FLAGJOB_CODES": " ".join(files),
            "FLAGJOB_DEST": str(tmp_path / "dest"),
            "FLAGJOB_PUBLISH": publish,
        }
        with ExitStack() as mounts:
            behind = mounts.enter_context(fuse(tmp_path, server))
            first = run_to_end(tmp_path, settings)
            before = settled(behind)
            if is_remounted:
                mounts.close()
                mounts.enter_context(fuse(tmp_path, server))
            second = run_to_end(tmp_path, settings)
        assert origin.asked(NUMBER) == {"conditional": NUMBER, "plain": 0}
    assert (first.code, second.code) == (0, 0)
    assert (second.summary["counts"]["unchanged"], second.summary["bytes"]) == (NUMBER, 0)
    assert [done.events_named("destination_limited") for done in (first, second)] == [[], []]
    assert written(behind) == before


@row(42)
def test_a_mount_without_links_takes_no_set(tmp_path: Path) -> None:
    """A set needs links: without them the run ends before its first request, and says what needs none."""
    line = line_of("the destination cannot be written")
    with ScriptedServer({"/cn.gif": Answer(body=GIF)}) as server, fuse(tmp_path, "rclone"):
        settings = {"FLAGJOB_URL": server.url("/{cc}.gif"), "FLAGJOB_CODES": "cn", "FLAGJOB_PUBLISH": "set"}
        done = run_to_end(tmp_path, {**settings, "FLAGJOB_DEST": str(tmp_path / "dest")})
        assert server.requests == []
    assert (done.code, len(done.codes)) == (line.exit_code, 1)
    assert "FLAGJOB_PUBLISH=each needs none" in done.events_named("storage_error")[0]["problem"]


@row(76)
def test_ids_on_a_mount_that_folds_case(tmp_path: Path) -> None:
    """The first of two ids that are one file has it; the other one is an error without a request, in each run."""
    line = line_of("two ids whose names the destination takes for one")
    with ScriptedServer({f"/{code}.gif": Answer(body=GIF) for code in ("Ab", "aB", "c")}) as server:
        settings = {"FLAGJOB_URL": server.url("/{id}.gif"), "FLAGJOB_CODES": "Ab aB c", "FLAGJOB_REFRESH": "missing"}
        with fuse(tmp_path, "rclone that folds case"):
            done = [run_to_end(tmp_path, {**settings, "FLAGJOB_DEST": str(tmp_path / "dest")}) for _ in "12"]
        assert sorted(request.target for request in server.requests) == ["/Ab.gif", "/c.gif"]
    assert [run.code for run in done] == [line.exit_code] * 2
    assert [run.statuses for run in done] == [
        {"Ab": "ok", "aB": line.words[0], "c": "ok"},
        {"Ab": "unchanged", "aB": line.words[0], "c": "unchanged"},
    ]
