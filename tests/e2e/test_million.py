"""A destination that remembers a million codes."""

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from json import loads
from pathlib import Path
from shutil import copyfile, rmtree
from time import monotonic

import pytest
from command import environment
from images import numbered_gif
from scripted import Answer, Request, ScriptedServer

from job.manifest.records import Record, encode, encode_header
from job.model import Entry, Status, Stored

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]
KNOWN = 1_000_000
ASKED = range(0, KNOWN, 1000)
MAX_RSS_BYTES = 300_000_000
TIMEOUT = 200
AT = "2026-01-01T00:00:00Z"
MEASURED = """
import resource, subprocess, sys
code = subprocess.call([sys.executable, "-m", "job"])
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024, file=sys.stderr)
sys.exit(code)
"""
"""An interpreter of its own that runs the job and tells its peak: a child's count begins with its parent's memory."""


def file_of(number: int) -> str:
    return f"c{number:08}.gif"


def line_of(number: int, url: str, version: str) -> bytes:
    """Give the line of a file that was got long ago."""
    code, data = f"C{number:08}", numbered_gif(number)
    file = file_of(number)
    stored = Stored(file, len(data), sha256(data).hexdigest(), "image/gif", f'"{file}"', None, version)
    return encode(Record(Entry(code, url.replace("{cc}", code.lower()), file, Status.OK, stored, AT, AT, 1, None)))


def lines(dest: Path, url: str) -> Iterator[bytes]:
    """Give a line for each code that is known; the files of those that will be asked for are really put there."""
    pattern = line_of(0, url, "1767225600000000000")
    for number in range(KNOWN):
        if number in ASKED:
            (dest / file_of(number)).write_bytes(numbered_gif(number))
            yield line_of(number, url, str((dest / file_of(number)).stat().st_mtime_ns))
        else:
            yield pattern.replace(b"00000000", b"%08d" % number)  # all their digests are alike, and never read


def answer(request: Request) -> Answer:
    """Say that a file is unchanged to who has it; nobody here has to get one."""
    has_it = request.headers.get("if-none-match") == f'"{request.target[1:]}"'
    return Answer(304 if has_it else 500)


@dataclass(frozen=True)
class Destination:
    """A directory, and the origin that its files are from."""

    home: Path
    server: ScriptedServer

    @property
    def manifest(self) -> Path:
        """Where it remembers."""
        return self.home / "dest" / ".flagjob" / "manifest.jsonl"

    @property
    def url(self) -> str:
        """The template of every file."""
        return self.server.url("/{cc}.gif")


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Destination]:
    """Fill a destination as a run over a million codes would have left it, but for most of the files."""
    home = tmp_path_factory.mktemp("million")
    with ScriptedServer({f"/{file_of(number)}": answer for number in ASKED}) as server:
        destination = Destination(home, server)
        destination.manifest.parent.mkdir(parents=True)
        with (home / "manifest").open("wb") as manifest:
            manifest.write(encode_header(server.url("")) + b"\n")
            manifest.writelines(line + b"\n" for line in lines(home / "dest", destination.url))
        (home / "codes").write_text("\n".join(f"c{number:08}" for number in ASKED))
        yield destination
    rmtree(home)


def codes_in(manifest: Path) -> int:
    """Count the different codes that whole lines of a manifest are about."""
    with manifest.open("rb") as found:
        next(found)
        return len({line.partition(b'","url"')[0] for line in found if line.endswith(b"}\n")})


@pytest.mark.parametrize(("refresh", "requests"), [("missing", 0), ("conditional", len(ASKED))])
def test_a_million_known_codes_cost_little_memory(filled: Destination, refresh: str, requests: int) -> None:
    """A run over a thousand of a million known codes stays below 300 MB, and forgets none of the others."""
    copyfile(filled.home / "manifest", filled.manifest)
    before = len(filled.server.requests)
    settings = environment(
        FLAGJOB_URL=filled.url,
        FLAGJOB_CODES_FILE=str(filled.home / "codes"),
        FLAGJOB_DEST=str(filled.home / "dest"),
        FLAGJOB_REFRESH=refresh,
        FLAGJOB_LOG_RESULTS="problems",
    )
    pipe, began = subprocess.PIPE, monotonic()
    with subprocess.Popen([sys.executable, "-c", MEASURED], stdout=pipe, stderr=pipe, env=settings) as process:
        assert process.stdout
        first = loads(process.stdout.readline())
        started = monotonic() - began
        stdout, stderr = process.communicate(timeout=TIMEOUT)
        took = monotonic() - began
    print(f"{refresh}: began after {started:.1f} s, ended after {took:.1f} s, {int(stderr) / 1e6:.0f} MB at most")
    assert (first["event"], process.returncode) == ("run_started", 0)
    assert loads(stdout.splitlines()[-1])["counts"]["unchanged"] == len(ASKED)
    assert len(filled.server.requests) - before == requests
    assert int(stderr) < MAX_RSS_BYTES
    assert codes_in(filled.manifest) == KNOWN
    assert (filled.home / "dest" / "SHA256SUMS").read_bytes().count(b"\n") == KNOWN
