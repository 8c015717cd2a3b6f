"""The rows of the benchmark: who downloads what under which conditions, and what is compared with what."""

import hashlib
import math
import os
import shutil
import subprocess
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

from bench.measure import BenchError, Command, Usage, measure
from bench.peers import Client, Task, flagjob_commands, flagjob_environment, write_lists
from bench.site import LATENCY_SECONDS, Site, code

BASE = "flagjob BASE"
"""The name of the flagjob of an earlier revision."""
IMPORTS = "import of the four libraries"
DEMO_FLAGS = 20
_FOUR = "import requests, structlog, prometheus_client, tenacity"
_MANY = 100
_TILES_A_COLUMN = 1000
_BYTES_PER_FILE = 8192
_FSYNC_SOURCE = Path(__file__).with_name("fsync_delay.c")


class By(StrEnum):
    """What a ratio compares."""

    SPEED = "files/s"
    WALL = "wall"
    TIME_PER_FILE = "time a file"
    CPU = "CPU-s"
    RSS = "peak RSS"


@dataclass(frozen=True, slots=True)
class Against:
    """A ratio to another line of the same row; client None is the same client, another part of its run."""

    by: By
    client: str | None
    part: str = ""


@dataclass(frozen=True, slots=True)
class Bench:
    """What all rows work with. `disk` is a directory on a real disk, or None; `home` is on tmpfs."""

    site: Site
    clients: list[Client]
    home: Path
    disk: Path | None
    files: int

    def flagjobs(self) -> list[Client]:
        """Return the variants of flagjob, BASE among them."""
        return [client for client in self.clients if client.program]


@dataclass(frozen=True, slots=True)
class Contestant:
    """A line or more of a row: `run` takes a fresh directory and returns a usage for each part of what it did."""

    client: Client
    run: Callable[[Path], dict[str, Usage]]


@dataclass(frozen=True, slots=True)
class Row:
    """Conditions of a comparison. `clients` are names; every flagjob takes part always."""

    name: str
    title: str
    contestants: Callable[["Bench", "Row"], list[Contestant]]
    clients: tuple[str, ...] = ()
    against: tuple[Against, ...] = ()
    path: str = "files"
    is_tls: bool = False
    workers: int = 30
    most_files: int | None = None
    shards: int = 1
    is_on_disk: bool = False
    is_fsync_slow: bool = False
    repeats: int = 1
    times: int = 1
    """How many times FILES files a client leaves at most."""
    is_only_on_demand: bool = False

    def ideal_seconds(self, files: int) -> float | None:
        """Return the wall time of a client that costs nothing, where the origin's latency alone sets it."""
        if self.path != "slow":
            return None
        return math.ceil(min(files, self.most_files or files) / self.workers) * LATENCY_SECONDS

    def left_out(self, bench: Bench) -> str:
        """Return why this machine cannot run the row, or an empty text."""
        if self.path == "slow" and not bench.site.is_slow_possible:
            return "nginx has no echo module"
        if self.is_on_disk and bench.disk is None:
            return "DISK is not on a disk"
        if self.is_fsync_slow and not shutil.which("cc"):
            return "there is no C compiler"
        room = shutil.disk_usage(bench.home).free
        if room < bench.files * self.times * _BYTES_PER_FILE:
            return "tmpfs has too little room"
        return ""


def downloads(bench: Bench, row: Row) -> list[Contestant]:
    """Return the clients that download the same list, each with its result checked."""
    names = list(bench.site.digests)[: row.most_files]
    expected = {name: bench.site.digests[name] for name in names}
    lists = _lists(bench, row, len(names))
    preload = _slow_fsync(bench.home) if row.is_fsync_slow else None

    def contestant(client: Client) -> Contestant:
        commands = client.commands
        if client.program and row.shards > 1:
            commands = flagjob_commands(client.program, client.executor, row.shards)

        def run(folder: Path) -> dict[str, Usage]:
            task = _task(bench, row, lists, folder, preload)
            if row.is_on_disk:
                os.sync()
            return {"": _download(commands(task), task, expected)}

        return Contestant(client, run)

    chosen = [client for client in bench.clients if client.program or client.name in row.clients]
    return [contestant(client) for client in chosen]


def second_runs(bench: Bench, row: Row) -> list[Contestant]:
    """Return flagjob twice on one destination: the second run must find all as it is, and write to no file."""
    expected = bench.site.digests
    lists = _lists(bench, row, len(expected))

    def contestant(client: Client) -> Contestant:
        def run(folder: Path) -> dict[str, Usage]:
            task = _task(bench, row, lists, folder)
            first = _download(client.commands(task), task, expected)
            before = _stamps(task.destination, expected)
            offset = bench.site.access_log.stat().st_size
            second = _download(client.commands(task), task, expected)
            if _stamps(task.destination, expected) != before:
                raise BenchError("the second run wrote to files")
            statuses = bench.site.statuses(offset)
            requests = statuses.total() / len(expected)
            answers = ", ".join(f"{count} x {status}" for status, count in statuses.most_common())
            note = f"{requests:.3f} requests a code ({answers}); no file written"
            return {"first run": first, "second run": replace(second, note=note)}

        return Contestant(client, run)

    return [contestant(client) for client in bench.flagjobs()]


def many_codes(bench: Bench, row: Row) -> list[Contestant]:
    """Return flagjob with FILES codes and with a hundred times as many, all of which are one file."""
    sizes = (bench.files, bench.files * _MANY)
    lists = {size: _lists(bench, row, size) for size in sizes}

    def contestant(client: Client) -> Contestant:
        def run(folder: Path) -> dict[str, Usage]:
            usages = {}
            for size, part in zip(sizes, ("few", "many"), strict=True):
                (folder / part).mkdir()
                task = _task(bench, row, lists[size], folder / part)
                expected = {f"{code(number)}.gif": bench.site.one for number in range(size)}
                usages[part] = _download(client.commands(task), task, expected)
                shutil.rmtree(folder / part)
            growth = (usages["many"].rss_bytes - usages["few"].rss_bytes) / (sizes[1] - sizes[0])
            usages["many"] = replace(usages["many"], note=f"peak RSS grows by {growth:.0f} bytes a code")
            return usages

        return Contestant(client, run)

    return [contestant(client) for client in bench.flagjobs()]


def lists_and_tables(bench: Bench, row: Row) -> list[Contestant]:
    """Return flagjob with a plain list of FILES ids, and with the same as a table with digests and sizes."""
    tiles = [f"17/{number // _TILES_A_COLUMN}/{number % _TILES_A_COLUMN}" for number in range(bench.files)]
    expected = {f"{tile}.gif": bench.site.one for tile in tiles}
    facts = f"{bench.site.one},{bench.site.one_bytes}"
    rows = "".join(f"{tile.replace('/', ',')},{facts}\n" for tile in tiles)
    lists = {"list": "".join(f"{tile}\n" for tile in tiles), "table": f"z,x,y,sha256,size\n{rows}"}
    names = {"list": ("list", "{id}"), "table": ("table.csv", "{z}/{x}/{y}")}
    folder = bench.home / "lists-tiles"
    folder.mkdir()
    for part, text in lists.items():
        (folder / names[part][0]).write_text(text, "ascii")

    def contestant(client: Client) -> Contestant:
        def run(home: Path) -> dict[str, Usage]:
            usages = {}
            for part, (name, placeholders) in names.items():
                (home / part).mkdir()
                task = _task(bench, row, folder, home / part)
                own = {
                    "FLAGJOB_URL": f"{task.prefix}{placeholders}.gif",
                    "FLAGJOB_CODES_FILE": os.fspath(folder / name),
                }
                commands = [replace(command, env=command.env | own) for command in client.commands(task)]
                usages[part] = _download(commands, task, expected)
                shutil.rmtree(home / part)
            return usages

        return Contestant(client, run)

    return [contestant(client) for client in bench.flagjobs()]


def starts(bench: Bench, _: Row) -> list[Contestant]:
    """Return short commands: a bare interpreter, the imports of four libraries, and flagjob's shortest uses."""
    program = bench.flagjobs()[0].program
    python = str(program.with_name("python")) if program else ""

    def interpreter(name: str, statement: str) -> Contestant:
        return Contestant(Client(name), lambda folder: {"": measure([Command([python, "-c", statement])], folder)})

    def flagjob(client: Client) -> Contestant:
        def run(folder: Path) -> dict[str, Usage]:
            argv = [str(client.program)]
            settings = demo_settings(bench, client, folder)
            usages = {"--help": measure([Command([*argv, "--help"])], folder)}
            usages["twenty flags"] = replace(measure([Command(argv, settings)], folder), files=DEMO_FLAGS)
            stored = sorted(_files(folder / "files"))
            if len(stored) != DEMO_FLAGS:
                raise BenchError(f"not {DEMO_FLAGS} flags: {stored}")
            return usages

        return Contestant(client, run)

    bare = [interpreter("bare interpreter", "pass"), interpreter(IMPORTS, _FOUR)]
    return [*bare, *(flagjob(client) for client in bench.flagjobs())]


def demo_settings(bench: Bench, client: Client, folder: Path) -> dict[str, str]:
    """Return the settings of a run that downloads twenty flags from the demo server into a directory of `folder`."""
    task = Task("", folder, folder / "files", folder, 30, bench.site.authority)
    settings = flagjob_environment(task, client.executor) | {"FLAGJOB_SERVER": "local"}
    for name in ("FLAGJOB_URL", "FLAGJOB_CODES_FILE", "FLAGJOB_CA_BUNDLE"):
        del settings[name]
    return settings


def check(destination: Path, expected: dict[str, str]) -> None:
    """Raise BenchError unless the destination holds the expected files with the expected digests and no others."""
    found = _files(destination)
    wrong = sorted(name for name in expected.keys() & found.keys() if _digest(found[name]) != expected[name])
    missing = sorted(expected.keys() - found.keys())
    other = sorted(found.keys() - expected.keys())
    faults = {"missing": missing, "wrong": wrong, "not asked for": other}
    texts = [f"{len(names)} {fault}, such as {names[0]}" for fault, names in faults.items() if names]
    if texts:
        raise BenchError(f"wrong result: {'; '.join(texts)}")


def _files(destination: Path) -> dict[str, Path]:
    """Return the files below a destination by name, without what flagjob keeps beside them."""
    ours = ("SHA256SUMS", ".flagjob")
    paths = (path for entry in destination.iterdir() if not entry.name.startswith(ours) for path in _below(entry))
    return {path.relative_to(destination).as_posix(): path for path in paths}


def _below(entry: Path) -> Iterator[Path]:
    """Yield a file, or the files below a directory."""
    if entry.is_dir():
        yield from (path for path in entry.rglob("*") if not path.is_dir())
    else:
        yield entry


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _stamps(destination: Path, names: Iterable[str]) -> list[tuple[int, int]]:
    """Return what changes when a file is written or replaced."""
    stats = [(destination / name).stat() for name in names]
    return [(stat.st_ino, stat.st_mtime_ns) for stat in stats]


def _download(commands: list[Command], task: Task, expected: dict[str, str]) -> Usage:
    """Run the commands of one task and check its result."""
    usage = measure(commands, task.scratch)
    check(task.destination, expected)
    return replace(usage, files=len(expected))


def _prefix(bench: Bench, row: Row) -> str:
    return f"{bench.site.tls if row.is_tls else bench.site.plain}/{row.path}/"


def _lists(bench: Bench, row: Row, count: int) -> Path:
    """Write the lists of a row and return their directory."""
    folder = bench.home / f"lists-{row.name}-{count}"
    write_lists(folder, _prefix(bench, row), [code(number) for number in range(count)])
    return folder


def _task(bench: Bench, row: Row, lists: Path, folder: Path, preload: Path | None = None) -> Task:
    """Return a task with fresh directories below `folder`."""
    for name in ("files", "scratch"):
        (folder / name).mkdir()
    return Task(
        _prefix(bench, row),
        lists,
        destination=folder / "files",
        scratch=folder / "scratch",
        workers=row.workers,
        authority=bench.site.authority,
        preload=preload,
    )


def _slow_fsync(home: Path) -> Path:
    """Compile the library that makes every fsync slow; return its path."""
    library = home / "fsync_delay.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-O2", "-o", library, _FSYNC_SOURCE, "-ldl"], check=True)
    return library


_PEERS = ("curl -Z", "wget2", "rclone", "aria2c", "aiohttp", "parfive", "naive pool", "the book")
_WAITING = ("curl -Z", "wget2", "rclone", "aria2c", "aiohttp", "naive pool")
_SPEED = tuple(Against(By.SPEED, client) for client in ("naive pool", "rclone", "aria2c", BASE))
_WALL = (Against(By.WALL, "curl -Z"), Against(By.WALL, BASE))
_FEW = 3000

ROWS = (
    Row("zero", "no latency, 30 workers", downloads, _PEERS, _SPEED),
    Row("zero-tls", "no latency, TLS, 30 workers", downloads, _PEERS, _SPEED, is_tls=True),
    Row(
        "shards",
        "no latency, two shards of flagjob side by side, 30 workers each",
        downloads,
        ("rclone",),
        (Against(By.SPEED, "rclone"), Against(By.SPEED, BASE)),
        shards=2,
    ),
    Row("slow", "50 ms, 30 workers", downloads, _WAITING, _WALL, path="slow", most_files=_FEW),
    Row("slow-tls", "50 ms, TLS, 30 workers", downloads, _WAITING, _WALL, path="slow", is_tls=True, most_files=_FEW),
    Row("slow-200", "50 ms, 200 workers", downloads, _WAITING, _WALL, path="slow", workers=200, most_files=_FEW),
    Row(
        "disk",
        "a real disk with fsync, no latency, 30 workers",
        downloads,
        against=(Against(By.SPEED, BASE),),
        most_files=_FEW,
        is_on_disk=True,
    ),
    Row(
        "slow-fsync",
        "every fsync takes 5 ms longer, no latency, 30 workers",
        downloads,
        against=(Against(By.SPEED, BASE),),
        most_files=_FEW,
        is_fsync_slow=True,
    ),
    Row(
        "unchanged",
        "the same run twice, no latency, 30 workers",
        second_runs,
        against=(Against(By.WALL, None, "first run"),),
        path="logged",
    ),
    Row("start", "start-up", starts, against=(Against(By.WALL, IMPORTS),), repeats=5),
    Row(
        "million",
        "FILES codes, and a hundred times as many; only if ROWS names it",
        many_codes,
        against=(Against(By.TIME_PER_FILE, None, "few"), Against(By.RSS, None, "few")),
        path="one",
        times=_MANY,
        is_only_on_demand=True,
    ),
    Row(
        "table",
        "a list of FILES ids, and a table of them with digests and sizes; only if ROWS names it",
        lists_and_tables,
        against=(Against(By.CPU, None, "list"), Against(By.RSS, None, "list")),
        path="one",
        is_only_on_demand=True,
    ),
)
"""Every row, in the order of the table."""
