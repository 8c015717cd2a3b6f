"""A destination whose manifest has a million codes."""

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
RECORDED = 1_000_000
SELECTED = range(0, RECORDED, 1000)
MAX_RSS_BYTES = 300_000_000
TIMEOUT = 200
AT = "2026-01-01T00:00:00Z"
MEASURED = """
import resource, subprocess, sys
code = subprocess.call([sys.executable, "-m", "job"])
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024, file=sys.stderr)
sys.exit(code)
"""
"""An interpreter that runs the job and prints its peak memory: a child's peak begins with its parent's memory."""


def file_of(number: int) -> str:
    return f"c{number:08}.gif"


def line_of(number: int, url: str, version: str) -> bytes:
    """Return the manifest line of a file that was downloaded long ago."""
    code, data = f"C{number:08}", numbered_gif(number)
    file = file_of(number)
    stored = Stored(file, len(data), sha256(data).hexdigest(), "image/gif", f'"{file}"', None, version)
    return encode(Record(Entry(code, url.replace("{cc}", code.lower()), file, Status.OK, stored, AT, AT, 1, None)))


def lines(dest: Path, url: str) -> Iterator[bytes]:
    """Yield a manifest line for each recorded code; write the files of the selected ones."""
    pattern = line_of(0, url, "1767225600000000000")
    for number in range(RECORDED):
        if number in SELECTED:
            (dest / file_of(number)).write_bytes(numbered_gif(number))
            yield line_of(number, url, str((dest / file_of(number)).stat().st_mtime_ns))
        else:
            yield pattern.replace(b"00000000", b"%08d" % number)  # their digests are all the same, and never read


def answer(request: Request) -> Answer:
    """Return 304 to a request with the file's validator, 500 to any other."""
    is_current = request.headers.get("if-none-match") == f'"{request.target[1:]}"'
    return Answer(304 if is_current else 500)


@dataclass(frozen=True)
class FilledDestination:
    """A directory with a manifest, and the origin of its files."""

    home: Path
    server: ScriptedServer

    @property
    def manifest(self) -> Path:
        """The path of the manifest."""
        return self.home / "dest" / ".flagjob" / "manifest.jsonl"

    @property
    def url(self) -> str:
        """The URL template of every file."""
        return self.server.url("/{cc}.gif")


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FilledDestination]:
    """Yield a destination as a run over a million codes leaves it, without most of its files."""
    home = tmp_path_factory.mktemp("million")
    with ScriptedServer({f"/{file_of(number)}": answer for number in SELECTED}) as server:
        destination = FilledDestination(home, server)
        destination.manifest.parent.mkdir(parents=True)
        with (home / "manifest").open("wb") as manifest:
            manifest.write(encode_header(server.url("")) + b"\n")
            manifest.writelines(line + b"\n" for line in lines(home / "dest", destination.url))
        (home / "codes").write_text("\n".join(f"c{number:08}" for number in SELECTED))
        yield destination
    rmtree(home)


def count_codes(manifest: Path) -> int:
    """Return how many different codes the whole lines of a manifest have."""
    with manifest.open("rb") as found:
        next(found)
        return len({line.partition(b'","url"')[0] for line in found if line.endswith(b"}\n")})


@pytest.mark.parametrize(("refresh", "requests"), [("missing", 0), ("conditional", len(SELECTED))])
def test_a_million_recorded_codes_use_little_memory(filled: FilledDestination, refresh: str, requests: int) -> None:
    """A run over 1,000 of a million recorded codes stays below 300 MB, and keeps all others."""
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
        start_flagjob = monotonic() - began
        stdout, stderr = process.communicate(timeout=TIMEOUT)
        took = monotonic() - began
    print(f"{refresh}: began after {start_flagjob:.1f} s, ended after {took:.1f} s, {int(stderr) / 1e6:.0f} MB at most")
    assert (first["event"], process.returncode) == ("run_started", 0)
    assert loads(stdout.splitlines()[-1])["counts"]["unchanged"] == len(SELECTED)
    assert len(filled.server.requests) - before == requests
    assert int(stderr) < MAX_RSS_BYTES
    assert count_codes(filled.manifest) == RECORDED
    assert (filled.home / "dest" / "SHA256SUMS").read_bytes().count(b"\n") == RECORDED
