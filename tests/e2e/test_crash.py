"""Runs that are killed at any moment, while a reader watches their destination all the time."""

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
from command import Done, flagjob, start_flagjob
from images import numbered_gif
from rows import row
from scripted import Answer, Request, ScriptedServer

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]
KILLS = 25
WORKERS = 30
WINDOW = WORKERS + 128
"""The most items that are under way or held back at a time."""
KEEP = 3
SETS = {"FLAGJOB_PUBLISH": "set", "FLAGJOB_KEEP": str(KEEP)}
LONG_AGO = 10**9
"""In Unix seconds: no temporary file that old belongs to a running job."""
OWN_FILES = re.compile(r"manifest\.jsonl|manifest\.lock|changes(-\d{8}T\d{6}Z(-\d+)?)?\.jsonl|tmp")


def body_of(number: int) -> bytes:
    """Return a file that contains its version and its number; some are too large to be kept in memory."""
    version, index = divmod(number, 10_000)
    return numbered_gif(number, 100 + 61 * (version % 7) + index % 500 + (80_000 if index % 50 == 0 else 0))


def version_at(path: Path) -> int:
    """Return the version of the file at a path; -1 if it is missing, incomplete or another file."""
    try:
        body = path.read_bytes()
    except FileNotFoundError:
        return -1
    found = re.match(rb".{34}!\xfe\x08(\d{8})\x00", body, re.DOTALL)
    number = int(found[1]) if found else -1
    return number // 10_000 if path.name == f"c{number % 10_000:04}.gif" and body == body_of(number) else -1


@dataclass
class VersionedOrigin:
    """An origin whose files all have the same version at a time."""

    count: int
    version: int = 1
    server: ScriptedServer = field(init=False)

    def __post_init__(self) -> None:
        self.files = [f"c{index:04}.gif" for index in range(self.count)]
        self.server = ScriptedServer({f"/{file}": self._answer for file in self.files})

    def _answer(self, request: Request) -> Answer:
        number = self.version * 10_000 + int(request.target[2:6])
        etag = {"ETag": f'"{number}"'}
        if request.headers.get("if-none-match") == etag["ETag"]:
            return Answer(304, etag)
        return Answer(200, etag, body_of(number))


@dataclass
class Runs:
    """Runs into one destination, one after the other, each with the codes in another order."""

    origin: VersionedOrigin
    home: Path
    random: Random
    more: dict[str, str] = field(default_factory=dict)
    known: dict[str, str] = field(default_factory=dict)
    """The validators that were recorded before the last run."""
    count: int = 0

    def __post_init__(self) -> None:
        self.dest = self.home / "dest"

    @property
    def validators_sent(self) -> dict[str, str | None]:
        """The validator that the last run sent for each file, None without one; no file is requested twice."""
        requests = [
            request
            for request in list(self.origin.server.requests)
            if request.headers["user-agent"] == f"run-{self.count}"
        ]
        validators_sent = {request.target[1:]: request.headers.get("if-none-match") for request in requests}
        assert len(validators_sent) == len(requests)
        return validators_sent

    def finish(self) -> Done:
        """Run the job to its end."""
        return flagjob(cwd=self.home, settings=self._new_settings())

    def kill(self, moments: Iterator[tuple[int, float]]) -> None:
        """Kill a run; a run that ended before its moment does not count, and another one is started."""
        while not self._kill_after(*next(moments)):
            pass

    def _kill_after(self, requests: int, seconds: float) -> bool:
        before = len(self.origin.server.requests)
        with start_flagjob(cwd=self.home, settings=self._new_settings()) as process:
            self.origin.server.wait_for(before + requests, timeout=60)
            with suppress(subprocess.TimeoutExpired):
                process.wait(seconds)
            process.kill()
            return process.wait() == -signal.SIGKILL

    def _new_settings(self) -> dict[str, str]:
        self.count += 1
        self.known = recorded_validators(self.dest)
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


def moments(origin: VersionedOrigin, random: Random, edges: int) -> Iterator[tuple[int, float]]:
    """Yield moments to kill at, as requests and seconds; `edges` of 25 are near the start or the end of a run."""
    share = origin.count / (KILLS - edges)
    while True:
        spread = [(int((part + random.random()) * share), random.uniform(0, 0.02)) for part in range(KILLS - edges)]
        others = [(origin.count * (part % 4 > 0), random.uniform(0, 0.3)) for part in range(edges)]
        yield from random.sample(spread + others, KILLS)


@dataclass(frozen=True)
class Observation:
    """How many files a reader read, and all faults that it found."""

    files: int
    faults: list[str]


Look = Callable[[Path, Sequence[str]], Observation]


def watch(look: Look, dest: Path, files: Sequence[str], stop_file: Path) -> Observation:
    """Look again and again until the stop file exists."""
    read, faults = 0, list[str]()
    while not stop_file.exists():
        observed = look(dest, files)
        read += observed.files
        faults += observed.faults
    return Observation(read, faults)


@contextmanager
def reader(look: Look, runs: Runs) -> Iterator["Future[Observation]"]:
    """Run a reader in a process of its own until the end of the block."""
    stop_file = runs.home / "stop"
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        try:
            yield pool.submit(watch, look, runs.dest, runs.origin.files, stop_file)
        finally:
            stop_file.touch()


def torn_files(dest: Path, files: Sequence[str]) -> Observation:
    """Read the files of a directory; a fault is a file that is no version of itself, or that disappeared."""
    there = names(dest) & set(files) if dest.exists() else set[str]()
    return Observation(len(there), [file for file in there if version_at(dest / file) < 0])


def mixed_sets(dest: Path, files: Sequence[str]) -> Observation:
    """Read the current set; a fault is a set that is incomplete, or has more than one version.

    The link is read before each file as well: it may never be missing, not for a moment.
    """
    generation = dest / (dest / "current").readlink()
    versions = {version_at(generation / file) if (dest / "current").is_symlink() else -1 for file in files}
    return Observation(
        len(files), [] if len(versions) == 1 and min(versions) > 0 else [f"{generation.name}: {versions}"]
    )


def versions_in(directory: Path, files: Sequence[str]) -> set[int]:
    return {version_at(directory / file) for file in files}


def names(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


def recorded_validators(dest: Path) -> dict[str, str]:
    """Return the validator of each intact file by its last whole line in the manifest."""
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


@row(48)
def test_a_kill_loses_only_what_was_in_flight(tmp_path: Path) -> None:
    """Over 25 kills no reader sees a torn file, and recorded files are requested conditionally.

    A file whose line was not yet written is not recorded: at most those of the window.
    """
    origin, random = VersionedOrigin(2000), Random(25)
    runs, when = Runs(origin, tmp_path, random), moments(origin, random, edges=6)
    with origin.server, reader(torn_files, runs) as observed:
        for _ in range(KILLS):
            runs.kill(when)
            validators_sent = runs.validators_sent  # read once: requests of a killed run may still arrive
            assert validators_sent == {file: runs.known.get(file) for file in validators_sent}
            assert len(validators_sent.keys() - recorded_validators(runs.dest).keys()) <= WINDOW
            origin.version += random.random() < 1 / 3
        temporary_files = list((runs.dest / ".flagjob" / "tmp").iterdir())
        for temporary_file in temporary_files:
            os.utime(temporary_file, (LONG_AGO, LONG_AGO))
        done = runs.finish()
    assert (done.code, done.stderr) == (0, "")
    assert runs.validators_sent == {file: runs.known.get(file) for file in origin.files}
    assert versions_in(runs.dest, origin.files) == {origin.version}
    assert recorded_validators(runs.dest).keys() == set(origin.files)
    subprocess.run(["sha256sum", "--strict", "--quiet", "-c", "SHA256SUMS"], cwd=runs.dest, check=True)
    assert names(runs.dest) == {*origin.files, "SHA256SUMS", ".flagjob"}
    assert {name for name in names(runs.dest / ".flagjob") if not OWN_FILES.fullmatch(name)} == set()
    assert (len(temporary_files) > 0, names(runs.dest / ".flagjob" / "tmp")) == (True, set())
    assert (observed.result().files > KILLS * len(origin.files), observed.result().faults) == (True, [])


@row(43)
def test_a_kill_never_mixes_two_sets(tmp_path: Path) -> None:
    """Over 25 kills, while the origin's files change, `current` always has all files of one version."""
    origin, random = VersionedOrigin(300), Random(52)
    runs, when = Runs(origin, tmp_path, random, SETS), moments(origin, random, edges=15)
    generations, current = runs.dest / "generations", runs.dest / "current"
    with origin.server:
        assert runs.finish().code == 0
        with reader(mixed_sets, runs) as observed:
            for _ in range(KILLS):
                origin.version += 1
                runs.kill(when)
                assert versions_in(current, origin.files) in ({origin.version - 1}, {origin.version})
                origin.version += 1
                assert runs.finish().code == 0
                assert versions_in(current, origin.files) == {origin.version}
                assert sorted(names(generations))[KEEP:] == []
                assert {name for name in names(generations) if name.startswith(".")} == set()
    assert (observed.result().files > KILLS * len(origin.files), observed.result().faults) == (True, [])
