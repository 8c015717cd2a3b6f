"""The job against a real nginx."""

import subprocess
from collections.abc import Iterable
from pathlib import Path

import pytest

from e2e.flags import distinct_gifs
from e2e.nginx import serve
from e2e.programs import events, flagjob, result_fields

pytestmark = pytest.mark.e2e
DEFAULT_WORKERS = 30


def run_from(url: str, files: Iterable[str], tmp_path: Path) -> subprocess.CompletedProcess[str]:
    """Run the job for these files from this URL into `out`."""
    codes = tmp_path / "codes"
    codes.write_text("\n".join(Path(name).stem for name in files))
    out = str(tmp_path / "out")
    return flagjob({"FLAGJOB_URL": f"{url}/{{cc}}.gif", "FLAGJOB_CODES_FILE": str(codes), "FLAGJOB_DEST": out})


def test_mirror(tmp_path: Path) -> None:
    """Three hundred files are downloaded intact, with one request each, over at most 30 connections."""
    files = distinct_gifs(300)
    with serve(tmp_path, files) as nginx:
        done = run_from(nginx.url, files, tmp_path)
        requests = nginx.finish()
    assert done.returncode == 0, done.stdout + done.stderr
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").glob("*.gif")} == files
    assert sorted((request.status, request.path) for request in requests) == sorted((200, f"/{name}") for name in files)
    assert len({request.connection for request in requests}) <= DEFAULT_WORKERS
    assert len(set(result_fields(done.stdout, "code"))) == len(files) == len(set(files.values()))


def test_503_is_retried_after_its_time(tmp_path: Path) -> None:
    """A 503 is retried after its Retry-After."""
    files = distinct_gifs(1)
    with serve(tmp_path, files) as nginx:
        done = run_from(f"{nginx.url}/busy", files, tmp_path)
        requests = nginx.finish()
    assert done.returncode == 0, done.stdout + done.stderr
    assert [request.status for request in requests] == [503, 200]
    assert requests[1].ended_seconds - requests[0].ended_seconds >= 1
    assert result_fields(done.stdout, "status", "attempts") == [("ok", 2)]


def test_404_is_not_retried(tmp_path: Path) -> None:
    """A 404 is one request, one result line, and a permanent exit code."""
    (name,) = files = distinct_gifs(1)
    with serve(tmp_path, files) as nginx:
        done = run_from(nginx.url, [name, "zz.gif"], tmp_path)
        requests = nginx.finish()
    assert done.returncode == 4, done.stdout + done.stderr
    assert sorted((request.path, request.status) for request in requests) == [(f"/{name}", 200), ("/zz.gif", 404)]
    assert result_fields(done.stdout, "status", "attempts") == [("not_found", 1), ("ok", 1)]
    assert len(events(done.stdout, "run_finished")) == 1
