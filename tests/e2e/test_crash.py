"""Runs that are killed at any moment, under the eyes of a reader that never rests."""

import json
import os
import re
import signal
import subprocess
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from random import Random
from typing import Any

import pytest
from command import Done, flagjob, started
from images import numbered_gif
from scripted import Answer, Request, ScriptedServer

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]
KILLS = 25
WORKERS = 30
KEEP = 3
SETS = {"FLAGJOB_PUBLISH": "set", "FLAGJOB_KEEP": str(KEEP)}
LONG_AGO = 10**9
"""In Unix seconds: no draft that old is a living run's."""
OWN_FILES = re.compile(r"manifest\.jsonl|manifest\.lock|changes(-\d{8}T\d{6}Z(-\d+)?)?\.jsonl|tmp")


def body_of(number: int) -> bytes:
    """Give a file that tells its version and its place among the others; some are too large to stay in memory."""
    version, place = divmod(number, 10_000)
    return numbered_gif(number, 100 + 61 * (version % 7) + place % 500 + (80_000 if place % 50 == 0 else 0))


def version_at(path: Path) -> int:
    """Give the version of the file at a path; -1 if it is not there, not whole, or another's."""
    try:
        body = path.read_bytes()
    except FileNotFoundError:
        return -1
    found = re.match(rb".{34}!\xfe\x08(\d{8})\x00", body, re.DOTALL)
    number = int(found[1]) if found else -1
    return number // 10_000 if path.name == f"c{number % 10_000:04}.gif" and body == body_of(number) else -1


@dataclass
class Origin:
    """So many files, all of one version at a time."""

    count: int
    version: int = 1
    server: ScriptedServer = field(init=False)

    def __post_init__(self) -> None:
        self.files = [f"c{place:04}.gif" for place in range(self.count)]
        self.server = ScriptedServer({f"/{file}": self._answer for file in self.files})

    def _answer(self, request: Request) -> Answer:
        number = self.version * 10_000 + int(request.target[2:6])
        etag = {"ETag": f'"{number}"'}
        if request.headers.get("if-none-match") == etag["ETag"]:
            return Answer(304, etag)
        return Answer(200, etag, body_of(number))


@dataclass
class Runs:
    """One run after the other into one destination, each with the codes in another order."""

    origin: Origin
    home: Path
    random: Random
    more: dict[str, str] = field(default_factory=dict)
    known: dict[str, str] = field(default_factory=dict)
    """What was on record before the last run."""
    count: int = 0

    def __post_init__(self) -> None:
        self.dest = self.home / "dest"

    @property
    def asked(self) -> dict[str, str | None]:
        """The validator that the last run sent for each file, None for a plain request; nothing is asked for twice."""
        mine = [one for one in list(self.origin.server.requests) if one.headers["user-agent"] == f"run-{self.count}"]
        asked = {request.target[1:]: request.headers.get("if-none-match") for request in mine}
        assert len(asked) == len(mine)
        return asked

    def finish(self) -> Done:
        """Run to the end."""
        return flagjob(cwd=self.home, settings=self._begin())

    def kill(self, moments: Iterator[tuple[int, float]]) -> None:
        """Kill a run; one that ended before its moment came does not count, and another is begun."""
        while not self._killed(*next(moments)):
            pass

    def _killed(self, requests: int, seconds: float) -> bool:
        before = len(self.origin.server.requests)
        with started(cwd=self.home, settings=self._begin()) as process:
            self.origin.server.wait_for(before + requests, timeout=60)
            with suppress(subprocess.TimeoutExpired):
                process.wait(seconds)
            process.kill()
            return process.wait() == -signal.SIGKILL

    def _begin(self) -> dict[str, str]:
        self.count += 1
        self.known = on_record(self.dest)
        codes = [file.removesuffix(".gif") for file in self.origin.files]
        (self.home / "codes").write_text("\n".join(self.random.sample(codes, len(codes))))
        return {
            "FLAGJOB_URL": self.origin.server.url("/{cc}.gif"),
            "FLAGJOB_CODES_FILE": str(self.home / "codes"),
            "FLAGJOB_DEST": str(self.dest),
            "FLAGJOB_WORKERS": str(WORKERS),
            "FLAGJOB_USER_AGENT": f"run-{self.count}",
            "FLAGJOB_LOG_RESULTS": "problems",
            **self.more,
        }


def moments(origin: Origin, random: Random, edges: int) -> Iterator[tuple[int, float]]:
    """Give when to kill, for ever: so many requests and seconds after the start; of 25 so many are at start or end."""
    share = origin.count / (KILLS - edges)
    while True:
        spread = [(int((part + random.random()) * share), random.uniform(0, 0.02)) for part in range(KILLS - edges)]
        others = [(origin.count * (part % 4 > 0), random.uniform(0, 0.3)) for part in range(edges)]
        yield from random.sample(spread + others, KILLS)


@dataclass(frozen=True)
class Seen:
    """What a reader saw: how many files it read, and everything that should not be."""

    files: int
    faults: list[str]


Look = Callable[[Path, Sequence[str]], Seen]


def watch(look: Look, dest: Path, files: Sequence[str], cancellation: Path) -> Seen:
    """Look again and again until a file says stop."""
    read, faults = 0, list[str]()
    while not cancellation.exists():
        seen = look(dest, files)
        read += seen.files
        faults += seen.faults
    return Seen(read, faults)


@contextmanager
def reader(look: Look, runs: Runs) -> Iterator["Future[Seen]"]:
    """Let a process of its own look on while the block lasts."""
    cancellation = runs.home / "stop"
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        try:
            yield pool.submit(watch, look, runs.dest, runs.origin.files, cancellation)
        finally:
            cancellation.touch()


def torn_files(dest: Path, files: Sequence[str]) -> Seen:
    """Read what is there of a directory; a fault is a file that is no version of itself, or went away."""
    there = names(dest) & set(files) if dest.exists() else set[str]()
    return Seen(len(there), [file for file in there if version_at(dest / file) < 0])


def mixed_sets(dest: Path, files: Sequence[str]) -> Seen:
    """Read the set that is current now; a fault is one without every file, or with more than one version.

    The link is looked at before each file as well: it may never be missing, not for a moment.
    """
    generation = dest / (dest / "current").readlink()
    versions = {version_at(generation / file) if (dest / "current").is_symlink() else -1 for file in files}
    return Seen(len(files), [] if len(versions) == 1 and min(versions) > 0 else [f"{generation.name}: {versions}"])


def versions_in(directory: Path, files: Sequence[str]) -> set[int]:
    return {version_at(directory / file) for file in files}


def names(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


def on_record(dest: Path) -> dict[str, str]:
    """Give the validator of each file that is there as its last line in the manifest says; a torn line says nothing."""
    manifest = dest / ".flagjob" / "manifest.jsonl"
    last: dict[str, Any] = {}
    for line in manifest.read_bytes().splitlines()[1:] if manifest.exists() else ():
        with suppress(json.JSONDecodeError):
            row = json.loads(line)
            last[row["code"]] = row
    there = {path.name: path.stat() for path in dest.glob("*.gif")}
    facts = {file: (found.st_size, str(found.st_mtime_ns)) for file, found in there.items()}
    rows = [row for row in last.values() if facts[row["file"]] == (row["bytes"], row["version"])]
    return {row["file"]: row["etag"] for row in rows}


def test_no_kill_tears_a_file_or_costs_more_than_what_was_in_flight(tmp_path: Path) -> None:
    """Killed 25 times, a directory never shows a torn file, and no run asks plainly for what is on record.

    A file whose line was not yet written is not on record: two a worker may be on their way.
    """
    origin, random = Origin(2000), Random(25)
    runs, when = Runs(origin, tmp_path, random), moments(origin, random, edges=6)
    with origin.server, reader(torn_files, runs) as seen:
        for _ in range(KILLS):
            runs.kill(when)
            asked = runs.asked  # once: the server may still be reading what a killed run sent
            assert asked == {file: runs.known.get(file) for file in asked}
            assert len(asked.keys() - on_record(runs.dest).keys()) <= 2 * WORKERS
            origin.version += random.random() < 1 / 3
        drafts = list((runs.dest / ".flagjob" / "tmp").iterdir())
        for draft in drafts:
            os.utime(draft, (LONG_AGO, LONG_AGO))
        done = runs.finish()
    assert (done.code, done.stderr) == (0, "")
    assert runs.asked == {file: runs.known.get(file) for file in origin.files}
    assert versions_in(runs.dest, origin.files) == {origin.version}
    assert on_record(runs.dest).keys() == set(origin.files)
    subprocess.run(["sha256sum", "--strict", "--quiet", "-c", "SHA256SUMS"], cwd=runs.dest, check=True)
    assert names(runs.dest) == {*origin.files, "SHA256SUMS", ".flagjob"}
    assert {name for name in names(runs.dest / ".flagjob") if not OWN_FILES.fullmatch(name)} == set()
    assert (len(drafts) > 0, names(runs.dest / ".flagjob" / "tmp")) == (True, set())
    assert (seen.result().files > KILLS * len(origin.files), seen.result().faults) == (True, [])


def test_no_kill_shows_a_mixture_of_two_sets(tmp_path: Path) -> None:
    """Killed 25 times while the origin's files change all at once, `current` is always every file of one version."""
    origin, random = Origin(300), Random(52)
    runs, when = Runs(origin, tmp_path, random, SETS), moments(origin, random, edges=15)
    generations, current = runs.dest / "generations", runs.dest / "current"
    with origin.server:
        assert runs.finish().code == 0
        with reader(mixed_sets, runs) as seen:
            for _ in range(KILLS):
                origin.version += 1
                runs.kill(when)
                assert versions_in(current, origin.files) in ({origin.version - 1}, {origin.version})
                origin.version += 1
                assert runs.finish().code == 0
                assert versions_in(current, origin.files) == {origin.version}
                assert sorted(names(generations))[KEEP:] == []
                assert {name for name in names(generations) if name.startswith(".")} == set()
    assert (seen.result().files > KILLS * len(origin.files), seen.result().faults) == (True, [])
