"""Origins that allow little, and origins that send for ever, or far too much."""

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

from e2e.live import Ended, ran
from e2e.namespaces import namespace

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]
RATE = 20
"""Requests a second that an origin here allows."""
MOST_PER_CODE = 1.5
ATTEMPT_SECONDS = 3
HUGE_BYTES = 300_000_000
MORE_BYTES = 30_000_000
"""How much more memory a run may take for what is sent to it."""
CODES = 15
"""Fewer than the breaker would bear in a row."""


def settings(home: Path, codes: int, **more: str) -> dict[str, str]:
    (home / "codes").write_text("\n".join(f"c{number:03}" for number in range(codes)))
    return {"FLAGJOB_CODES_FILE": str(home / "codes"), "FLAGJOB_DEST": str(home / "out"), **more}


class FixedWindow:
    """Allows so many requests in each second of the clock, and says of others when the next one begins."""

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
    """An origin that allows twenty requests in each second gets little more than it has files, and they all arrive."""
    origin, codes = FixedWindow(), 200
    with ScriptedServer({f"/c{number:03}.gif": origin for number in range(codes)}) as server:
        done = ran(tmp_path, settings(tmp_path, codes, FLAGJOB_URL=server.url("/{cc}.gif")))
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
    """The same holds for nginx, which allows a burst, and then as many requests as tokens drop in."""
    codes, home = 200, tmp_path / "nginx"
    with namespace() as machine, machine.nginx(home, BUCKET.format(home=home)):
        url = {"FLAGJOB_URL": "http://127.0.0.1/{cc}.gif"}
        done = ran(tmp_path, settings(tmp_path, codes, **url), machine.inside)
    statuses = Counter((home / "statuses").read_text().split())
    assert_all_arrived(done, codes, statuses.total())
    assert statuses["200"] == codes


def assert_all_arrived(done: Ended, codes: int, requests: int) -> None:
    print(f"{requests / codes:.2f} requests a code, {done.seconds:.1f} s for at least {codes / RATE:.0f}")
    assert (done.code, done.stderr) == (0, "")
    assert done.summary["counts"]["ok"] == codes == len(set(done.codes))
    assert requests <= MOST_PER_CODE * codes


BOMB = gzip.compress(bytes(HUGE_BYTES), mtime=0)
"""A thousand times as large as it looks."""
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
"""The second one does not know how long a body becomes, and so does not say it."""


def outcomes(done: Ended) -> set[tuple[str, str | None]]:
    """Every item ended within one attempt and a second; give how, each way once."""
    lines = done.named("result")
    assert len(lines) == CODES
    assert max(line["duration_s"] for line in lines) <= ATTEMPT_SECONDS + 1
    return {(line["status"], line["reason"]) for line in lines}


@pytest.fixture(scope="module")
def idle_bytes(tmp_path_factory: pytest.TempPathFactory) -> int:
    """Give the peak of a run over as many files of the usual size."""
    with ScriptedServer({"/small": Answer(200, body=GIF)}) as server:
        done = asked(tmp_path_factory.mktemp("idle"), server.url("/small?{cc}"))
    assert outcomes(done) == {("ok", None)}
    return done.peak_bytes


def asked(home: Path, url: str, under: Sequence[str] = ()) -> Ended:
    """Ask for the same file under so many codes, each once."""
    return ran(home, settings(home, CODES, FLAGJOB_URL=url, **ONCE), under)


@pytest.mark.parametrize("kind", SLOW)
@row(3, 4, 5, 6)
def test_no_origin_is_slow_enough_to_hold_an_item(tmp_path: Path, idle_bytes: int, kind: str) -> None:
    """A byte now and then, or none, ends with the attempt's time."""
    with ScriptedServer({"/slow": SLOW[kind]}) as server:
        done = asked(tmp_path, server.url("/slow?{cc}"))
    assert outcomes(done) == {("error", "timeout")}
    assert_memory_is_flat(done, idle_bytes)


@pytest.mark.parametrize(
    ("kind", "outcome"),
    [
        pytest.param("endless", ("error", "too_large"), marks=row(33, 48)),
        pytest.param("bomb", ("error", "unexpected_encoding"), marks=row(31, 48)),
        pytest.param("redirect", ("ok", None), marks=row(28, 48)),
    ],
)
def test_no_body_is_large_enough_to_fill_memory(
    tmp_path: Path, idle_bytes: int, kind: str, outcome: tuple[str, str | None]
) -> None:
    """A body without end, or one that would become large, is neither read on, unpacked nor kept."""
    with ScriptedServer({"/large": LARGE[kind], "/small": Answer(200, body=GIF)}) as server:
        done = asked(tmp_path, server.url("/large?{cc}"))
    assert outcomes(done) == {outcome}
    assert_memory_is_flat(done, idle_bytes)


@pytest.mark.parametrize("port", [80, 81])
@row(33, 48)
def test_a_huge_file_of_a_real_server(tmp_path: Path, idle_bytes: int, port: int) -> None:
    """300 MB end at the cap, or before they begin where their length is known."""
    with namespace() as machine, machine.nginx(tmp_path / "nginx", SPARSE.format(home=tmp_path / "nginx")):
        with (tmp_path / "nginx" / "huge.gif").open("wb") as huge:
            huge.write(GIF)
            huge.truncate(HUGE_BYTES)
        done = asked(tmp_path, f"http://127.0.0.1:{port}/huge.gif?{{cc}}", machine.inside)
    assert outcomes(done) == {("error", "too_large")}
    assert_memory_is_flat(done, idle_bytes)


def assert_memory_is_flat(done: Ended, idle_bytes: int) -> None:
    print(f"{(done.peak_bytes - idle_bytes) / 1e6:+.1f} MB beside an idle run's {idle_bytes / 1e6:.0f}")
    assert done.peak_bytes <= idle_bytes + MORE_BYTES
