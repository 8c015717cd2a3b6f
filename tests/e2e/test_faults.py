"""Origins with a rate limit, and origins whose answers are endless, slow or far too large."""

import gzip
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from threading import Lock
from time import monotonic

import pytest
from images import GIF
from rows import row
from scripted import Answer, Drip, Request, ScriptedServer, Stall, Step

from e2e.live import FinishedJob, run_to_end
from e2e.namespaces import namespace

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]
RATE = 20
"""Requests in a second that the origins here allow."""
MAX_REQUESTS_PER_CODE = 1.5
ATTEMPT_SECONDS = 3
HUGE_BYTES = 300_000_000
MAX_EXTRA_BYTES = 30_000_000
"""How much more memory a run may use than one over small files."""
CODES = 15
"""Fewer than the failures in a row that open the circuit."""


def settings(home: Path, codes: int, **more: str) -> dict[str, str]:
    (home / "codes").write_text("\n".join(f"c{number:03}" for number in range(codes)))
    return {"FLAGJOB_CODES_FILE": str(home / "codes"), "FLAGJOB_DEST": str(home / "out"), **more}


class FixedWindow:
    """Allows that many requests in each second of the clock, and answers others with 429 and a Retry-After."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._allowed: Counter[int] = Counter()
        self.statuses: Counter[int] = Counter()

    def __call__(self, _request: Request) -> Step:
        with self._lock:
            window = int(monotonic())
            self._allowed[window] += 1
            answer = Answer(429, {"Retry-After": "1"}) if self._allowed[window] > RATE else Answer(200, body=GIF)
            self.statuses[answer.status] += 1
            return answer


@row(20, 21)
def test_origin_with_a_fixed_window(tmp_path: Path) -> None:
    """An origin that allows 20 requests in each second gets at most 1.5 requests a file, and all succeed."""
    origin, codes = FixedWindow(), 200
    with ScriptedServer({f"/c{number:03}.gif": origin for number in range(codes)}) as server:
        done = run_to_end(tmp_path, settings(tmp_path, codes, FLAGJOB_URL=server.url("/{cc}.gif")))
    assert_all_arrived(done, codes, len(server.requests))
    assert origin.statuses[200] == codes


BUCKET = """
log_format status $status;
limit_req_zone $server_port zone=all:64k rate=20r/s;
server {{
    listen 80;
    access_log {home}/statuses status;
    limit_req zone=all burst=20 nodelay;
    limit_req_status 429;
    error_page 429 @patience;
    location / {{ empty_gif; }}
    location @patience {{ add_header Retry-After 1 always; return 429; }}
}}
"""


@row(20, 21)
def test_origin_with_a_token_bucket(tmp_path: Path) -> None:
    """A token bucket of nginx gets at most 1.5 requests a file, and all succeed."""
    codes, home = 200, tmp_path / "nginx"
    with namespace() as machine, machine.nginx(home, BUCKET.format(home=home)):
        url = {"FLAGJOB_URL": "http://127.0.0.1/{cc}.gif"}
        done = run_to_end(tmp_path, settings(tmp_path, codes, **url), machine.command_prefix)
    statuses = Counter((home / "statuses").read_text().split())
    assert_all_arrived(done, codes, statuses.total())
    assert statuses["200"] == codes


def assert_all_arrived(done: FinishedJob, codes: int, requests: int) -> None:
    print(f"{requests / codes:.2f} requests a code, {done.seconds:.1f} s for at least {codes / RATE:.0f}")
    assert (done.code, done.stderr) == (0, "")
    assert done.summary["counts"]["ok"] == codes == len(set(done.codes))
    assert requests <= MAX_REQUESTS_PER_CODE * codes


BOMB = gzip.compress(bytes(HUGE_BYTES), mtime=0)
"""A gzip bomb: unpacked, it is a thousand times as large."""
ZIPPED = {"Content-Encoding": "gzip"}
SLOW: dict[str, Step] = {
    "body": Drip(b"HTTP/1.1 200 OK\r\nContent-Type: image/gif\r\nContent-Length: 1000\r\n\r\nGIF89a", interval=0.5),
    "headers": Drip(b"HTTP/1.1 200 OK\r\nX-Slow: ", interval=0.5),
    "silence": Stall(),
}
LARGE: dict[str, Step] = {
    "endless": Drip(b"HTTP/1.1 200 OK\r\nContent-Type: image/gif\r\n\r\nGIF89a", bytes(1 << 16), 0),
    "bomb": Answer(200, ZIPPED, BOMB),
    "redirect": Answer(302, {**ZIPPED, "Location": "/small"}, BOMB),
}
ONCE = {"FLAGJOB_MAX_ATTEMPTS": "1", "FLAGJOB_ATTEMPT_TIMEOUT": str(ATTEMPT_SECONDS), "FLAGJOB_ACCEPT": "gif"}
SPARSE = """
server {{ listen 80; root {home}; }}
server {{ listen 81; root {home}; sub_filter_types *; sub_filter nothing-like-this x; }}
"""
"""The second server sends no Content-Length, because its filter may change the body."""


def outcomes(done: FinishedJob) -> set[tuple[str, str | None]]:
    """Return the distinct outcomes; every item must have ended soon after its attempt's time."""
    lines = done.events_named("result")
    assert len(lines) == CODES
    assert max(line["duration_s"] for line in lines) <= 2 * ATTEMPT_SECONDS
    return {(line["status"], line["reason"]) for line in lines}


@pytest.fixture(scope="module")
def idle_bytes(tmp_path_factory: pytest.TempPathFactory) -> int:
    """Return the peak memory of a run over as many small files."""
    with ScriptedServer({"/small": Answer(200, body=GIF)}) as server:
        done = run_for_one_file(tmp_path_factory.mktemp("idle"), server.url("/small?{cc}"))
    assert outcomes(done) == {("ok", None)}
    return done.peak_bytes


def run_for_one_file(home: Path, url: str, under: Sequence[str] = ()) -> FinishedJob:
    """Run the job once for the same file under different codes."""
    return run_to_end(home, settings(home, CODES, FLAGJOB_URL=url, **ONCE), under)


@pytest.mark.parametrize("kind", SLOW)
@row(3, 4, 5, 6)
def test_slow_answers_end_at_the_attempt_timeout(tmp_path: Path, idle_bytes: int, kind: str) -> None:
    """An answer that drips or stalls ends at the attempt's time-out, without using more memory."""
    with ScriptedServer({"/slow": SLOW[kind]}) as server:
        done = run_for_one_file(tmp_path, server.url("/slow?{cc}"))
    assert outcomes(done) == {("error", "timeout")}
    assert_memory_is_flat(done, idle_bytes)


@pytest.mark.parametrize(
    ("kind", "outcome"),
    [
        pytest.param("endless", ("error", "too_large"), marks=row(33, 48)),
        pytest.param("bomb", ("error", "too_large"), marks=row(31, 48)),
        pytest.param("redirect", ("ok", None), marks=row(28, 48)),
    ],
)
def test_large_bodies_use_no_memory(
    tmp_path: Path, idle_bytes: int, kind: str, outcome: tuple[str, str | None]
) -> None:
    """An endless body, a gzip bomb and a redirect with a body use no more memory than small files."""
    with ScriptedServer({"/large": LARGE[kind], "/small": Answer(200, body=GIF)}) as server:
        done = run_for_one_file(tmp_path, server.url("/large?{cc}"))
    assert outcomes(done) == {outcome}
    assert_memory_is_flat(done, idle_bytes)


@pytest.mark.parametrize("port", [80, 81])
@row(33, 48)
def test_a_huge_file_of_a_real_server(tmp_path: Path, idle_bytes: int, port: int) -> None:
    """A file of 300 MB from nginx ends as too large, without using more memory."""
    with namespace() as machine, machine.nginx(tmp_path / "nginx", SPARSE.format(home=tmp_path / "nginx")):
        with (tmp_path / "nginx" / "huge.gif").open("wb") as huge:
            huge.write(GIF)
            huge.truncate(HUGE_BYTES)
        done = run_for_one_file(tmp_path, f"http://127.0.0.1:{port}/huge.gif?{{cc}}", machine.command_prefix)
    assert outcomes(done) == {("error", "too_large")}
    assert_memory_is_flat(done, idle_bytes)


def assert_memory_is_flat(done: FinishedJob, idle_bytes: int) -> None:
    print(f"{(done.peak_bytes - idle_bytes) / 1e6:+.1f} MB beside an idle run's {idle_bytes / 1e6:.0f}")
    assert done.peak_bytes <= idle_bytes + MAX_EXTRA_BYTES
