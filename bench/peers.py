"""The clients that are compared, and the command that makes each of them download a list."""

import os
import re
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from bench.measure import TIMEOUT_SECONDS, Command
from bench.packages import PACKAGES

CLIENTS = Path(__file__).with_name("clients")
EXECUTORS = ("threads", "greenlets")
"""flagjob's executors that are compared. One that an installed flagjob does not know is left out by name."""


@dataclass(frozen=True, slots=True)
class Task:
    """What one run downloads: the codes in `lists`, from `prefix`, to `destination`.

    `scratch` is a fresh directory for whatever else a client writes. `authority` is the certificate authority of the
    origin, which matters over TLS. `preload` is a library for LD_PRELOAD, or None.
    """

    prefix: str
    lists: Path
    destination: Path
    scratch: Path
    workers: int
    authority: Path
    preload: Path | None = None


@dataclass(frozen=True, slots=True)
class Client:
    """A client: how it is called in tables, its version, its commands for a task; or why it is left out.

    A flagjob has its program's path, and its executor, where that is not left to its default.
    """

    name: str
    version: str = ""
    commands: Callable[[Task], list[Command]] = lambda _: []
    left_out: str = ""
    program: Path | None = None
    executor: str | None = None


def write_lists(folder: Path, prefix: str, codes: list[str]) -> None:
    """Write the list of a task in the form that each client reads."""
    folder.mkdir()
    forms = {
        "codes": "{code}",
        "names": "{code}.gif",
        "urls": "{prefix}{code}.gif",
        "curl": 'url = "{prefix}{code}.gif"',
    }
    for form, line in forms.items():
        text = "".join(line.format(prefix=prefix, code=code) + "\n" for code in codes)
        (folder / form).write_text(text, "ascii")


def curl(task: Task) -> Command:
    """Return curl in parallel mode, with the URLs in a file of options."""
    return Command(
        [
            *("curl", "--disable", "--silent", "--show-error", "--fail", "--parallel"),
            *("--parallel-max", str(task.workers), "--cacert", os.fspath(task.authority)),
            *("--remote-name-all", "--output-dir", os.fspath(task.destination)),
            *("--config", os.fspath(task.lists / "curl")),
        ]
    )


def wget2(task: Task) -> Command:
    """Return wget2 with as many threads as workers."""
    return Command(
        [
            *("wget2", "--no-config", "--quiet", "--no-robots", "--no-hsts", f"--max-threads={task.workers}"),
            *(f"--ca-certificate={task.authority}", f"--directory-prefix={task.destination}"),
            f"--input-file={task.lists / 'urls'}",
        ]
    )


def rclone(task: Task) -> Command:
    """Return rclone from its HTTP backend, without a HEAD before each GET and without looking at the destination."""
    return Command(
        [
            *("rclone", "copy", ":http:", os.fspath(task.destination), "--config", os.devnull),
            *("--http-url", task.prefix, "--http-no-head", "--ca-cert", os.fspath(task.authority)),
            *("--files-from-raw", os.fspath(task.lists / "names"), "--no-traverse", "--no-check-dest"),
            *("--transfers", str(task.workers), "--checkers", str(task.workers)),
        ]
    )


def aria2c(task: Task) -> Command:
    """Return aria2c with one connection for each file and no preallocation."""
    return Command(
        [
            *("aria2c", "--no-conf", "--quiet", "--file-allocation=none", "--max-connection-per-server=1"),
            *("--auto-file-renaming=false", f"--ca-certificate={task.authority}"),
            *(f"--max-concurrent-downloads={task.workers}", f"--dir={task.destination}"),
            f"--input-file={task.lists / 'urls'}",
        ]
    )


SYSTEM: dict[str, tuple[str, Callable[[Task], Command]]] = {
    "curl -Z": ("curl", curl),
    "wget2": ("wget2", wget2),
    "rclone": ("rclone", rclone),
    "aria2c": ("aria2c", aria2c),
}
"""Clients that are programs of the system."""
SCRIPTS = {
    "aiohttp": ("aiohttp_pool.py", "aiohttp"),
    "parfive": ("parfive_queue.py", "parfive"),
    "naive pool": ("naive_pool.py", "requests"),
    "the book": ("book.py", "requests"),
}
"""Clients that are scripts, and the library whose version is theirs."""


def system_clients() -> Iterator[Client]:
    """Yield the clients of the system; those that are not installed are left out by name."""
    for name, (program, command) in SYSTEM.items():
        path = shutil.which(program)
        if path is None:
            yield Client(name, left_out=f"{PACKAGES[program]} is not installed")
        else:
            yield Client(name, _version([path, "--version"]), _resolved(path, command))


def _resolved(path: str, command: Callable[[Task], Command]) -> Callable[[Task], list[Command]]:
    """Return a command with the program's path in the place of its name."""
    return lambda task: [Command([path, *command(task).argv[1:]])]


def script_clients(python: Path) -> Iterator[Client]:
    """Yield the clients in Python, run by the interpreter of their own environment."""
    for name, (script, library) in SCRIPTS.items():
        asked = f"from importlib.metadata import version; print(version('{library}'))"
        version = f"{library} {_version([os.fspath(python), '-c', asked])}"
        yield Client(name, version, _script(python, script))


def _script(python: Path, script: str) -> Callable[[Task], list[Command]]:
    def commands(task: Task) -> list[Command]:
        argv = [python, CLIENTS / script, task.prefix, task.lists / "codes", task.destination, task.workers]
        authority = os.fspath(task.authority)
        return [Command([str(word) for word in argv], {"SSL_CERT_FILE": authority, "REQUESTS_CA_BUNDLE": authority})]

    return commands


def flagjob_clients(program: Path, revision: str) -> Iterator[Client]:
    """Yield a flagjob with each executor that it knows; the others are left out by name."""
    for executor in EXECUTORS:
        name = f"flagjob {executor}"
        if knows_executor(program, executor):
            commands = flagjob_commands(program, executor)
            yield Client(name, revision, commands, program=program, executor=executor)
        else:
            yield Client(name, revision, left_out="this flagjob has no such executor")


def flagjob_commands(program: Path, executor: str | None, shards: int = 1) -> Callable[[Task], list[Command]]:
    """Return flagjob as users run it: log to a file, metrics served and written. None is its default executor."""

    def commands(task: Task) -> list[Command]:
        return [
            Command([os.fspath(program)], flagjob_environment(task, executor, (index, shards)))
            for index in range(shards)
        ]

    return commands


def flagjob_environment(task: Task, executor: str | None, shard: tuple[int, int] = (0, 1)) -> dict[str, str]:
    """Return the settings of a run as variables; `shard` is its index and their number."""
    index, count = shard
    settings = {
        "FLAGJOB_URL": f"{task.prefix}{{cc}}.gif",
        "FLAGJOB_CODES_FILE": os.fspath(task.lists / "codes"),
        "FLAGJOB_DEST": os.fspath(task.destination),
        "FLAGJOB_WORKERS": str(task.workers),
        "FLAGJOB_DEADLINE": str(TIMEOUT_SECONDS),
        "FLAGJOB_CA_BUNDLE": os.fspath(task.authority),
        "FLAGJOB_METRICS_ADDRESS": f"127.0.0.1:{free_port()}",
        "FLAGJOB_METRICS_FILE": os.fspath(task.scratch / f"flagjob-{index}.prom"),
    }
    if executor:
        settings["FLAGJOB_EXECUTOR"] = executor
    if count > 1:
        settings |= {"FLAGJOB_SHARD_INDEX": str(index), "FLAGJOB_SHARD_COUNT": str(count)}
    if task.preload:
        settings["LD_PRELOAD"] = os.fspath(task.preload)
    return settings


def knows_executor(program: Path, executor: str) -> bool:
    """Return whether a flagjob knows an executor; a wrong setting is exit code 2 before anything is done."""
    argv = [str(program), "--dry-run", "--executor", executor, "--url", "http://127.0.0.1/{cc}.gif", "CN"]
    return subprocess.run(argv, capture_output=True, check=False, env={"LANG": "C.UTF-8"}).returncode == 0


def free_port() -> int:
    """Return a port that nobody listened on a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def _version(argv: list[str]) -> str:
    """Return the version that a program prints first, or an empty text."""
    output = subprocess.run(argv, capture_output=True, text=True, check=False).stdout
    found = re.search(r"\d+\.\d[\w.+-]*", output)
    return found[0] if found else ""
