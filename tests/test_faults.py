"""The catalogue of faults, rows 1 to 35: faults of the network, the origin and its files."""

import gzip
import socket
import ssl
import time
import zlib
from collections.abc import Callable
from contextlib import ExitStack, suppress
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from hashlib import sha256
from pathlib import Path
from threading import Thread

import pytest
import trustme
from command import Done
from images import GIF, HTML, PNG, numbered_gif
from inprocess import files_in, run_here
from rows import line_of, row
from scripted import Answer, Drip, Raw, ScriptedServer, Stall, Step

from job.errors import UsageError
from job.resilience.types import FREE_TRIES
from job.settings import load, parse_arguments

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
CHUNKS = b"Transfer-Encoding: Chunked\r\n\r\n23\r\n" + GIF + b"\r\n0\r\n\r\n"
"""The end of a header block, and a whole body in one chunk."""
BOMB = gzip.compress(bytes(10_000_000), mtime=0)
ZIPPED = gzip.compress(GIF, mtime=0)
OLD = numbered_gif(1)
MAX_BYTES = 20_000
MAY_BE_TURNED_AWAY = {"connection", "http_502", "http_503"}
"""The reasons of failures that cost no try while others are answered (row 70), up to a number."""
NOT_NOW = ("202", "420", "421", "423", "499", "507", "509", "511")


def answer_with_length(text: str) -> Step:
    """Return a valid answer with this text as its Content-Length."""
    return Raw(OK + f"Content-Length: {text}\r\n\r\n".encode() + GIF)


def answer_with_encoding(body: bytes, coding: str = "gzip") -> Step:
    """Return an answer whose headers say that its body is in a coding."""
    return Answer(headers={"Content-Encoding": coding, "Content-Type": "image/gif"}, body=body)


def redirect_to(location: str) -> Step:
    """Return a redirect."""
    return Answer(302, {"Location": location})


CASES: list[tuple[pytest.MarkDecorator, str, Step]] = [
    (row(3), "accepted, then silence", Stall()),
    (row(4), "the body stalls", Stall(OK + b"Content-Length: 35\r\n\r\n" + GIF[:9])),
    (row(5), "the body drips", Drip(OK + b"Content-Length: 9999\r\n\r\n" + GIF[:9])),
    (row(6), "the headers drip", Drip(OK + b"X: ")),
    (row(7), "reset before the answer", Raw(b"", reset=True)),
    (row(7), "reset in the headers", Raw(OK + b"Content-Ty", reset=True)),
    (row(7), "reset in the body", Raw(OK + b"Content-Length: 35\r\n\r\n" + GIF[:9], reset=True)),
    (row(8), "closed before the status line", Raw(b"")),
    (row(9), "closed inside the headers", Raw(OK + b"Content-Type: image/gif\r\n")),
    (row(10), "fewer bytes", Raw(OK + b"Content-Length: 36\r\n\r\n" + GIF)),
    (row(11), "a chunk is cut", Raw(CHUNKED + b"24\r\n" + GIF)),
    (row(11), "the last chunk is missing", Raw(CHUNKED + b"23\r\n" + GIF + b"\r\n")),
    (row(11), "a chunk's size is no number", Raw(CHUNKED + b"xy\r\n" + GIF + b"\r\n0\r\n\r\n")),
    (row(12), "no length, and cut within", Raw(OK + b"\r\n" + GIF[:5])),
    (row(21), "Retry-After of more than 60 s", Answer(503, {"Retry-After": "61"})),
    (row(23), "304", Answer(304)),
    (row(23), "interim answers (1xx)", Drip(drop=b"HTTP/1.1 100 Continue\r\n\r\n", interval=0.001)),
    (row(23), "more interim answers", Raw(b"HTTP/1.1 100 Continue\r\n\r\n" * 15_000 + Answer(body=GIF).wire())),
    (row(23), "an interim answer and", Raw(b"HTTP/1.1 103 Early Hints\r\n\r\n")),
    (row(23), "200 interim answers", Raw(b"HTTP/1.1 100 Continue\r\n\r\n" * 200 + Answer(body=GIF).wire())),
    (row(25), "redirects in a circle", redirect_to("/round")),
    (row(27), "a redirect to file:", redirect_to("file:///etc/passwd")),
    (row(27), "a redirect to ftp:", redirect_to("ftp://127.0.0.1/cn.gif")),
    (row(27), "a redirect to gopher:", redirect_to("gopher://127.0.0.1/cn.gif")),
    (row(27), "a redirect to javascript:", redirect_to("javascript:alert(1)")),
    (row(27), "a redirect to what is no URL", redirect_to("http://[::1")),
    (row(27), "a redirect without", Answer(302, body=GIF)),
    (
        row(28),
        "a redirect with a body",
        Drip(b"HTTP/1.1 302 Found\r\nLocation: /us.gif\r\nContent-Length: 1099511627776\r\n\r\n"),
    ),
    (row(29), "a header of 70 kB", Raw(OK + b"X: " + b"x" * 70_000 + b"\r\n\r\n" + GIF)),
    (row(29), "two hundred headers", Raw(OK + b"X: x\r\n" * 200 + b"\r\n" + GIF)),
    (row(29), "a header of 400 kB", Raw(OK + b"X: " + b"x" * 400_000 + b"\r\n\r\n" + GIF)),
    (row(30), "two lengths that differ", answer_with_length("34\r\nContent-Length: 35")),
    (row(30), "a negative length", answer_with_length("-35")),
    (row(30), "a length in words", answer_with_length("thirty-five")),
    (row(30), "a length of five thousand digits", answer_with_length("0" * 5000 + "35")),
    (row(31), "a gzip bomb", answer_with_encoding(BOMB)),
    (row(32), "gzip that is cut", answer_with_encoding(ZIPPED[:30])),
    (row(32), "gzip without its trailer", answer_with_encoding(ZIPPED[:-8])),
    (row(32), "gzip that is none:", answer_with_encoding(GIF)),
    (row(32), "gzip that is none, and", Raw(OK + b"Content-Encoding : gzip\r\n\r\n" + GIF)),
    (row(32), "chunks whose header", Raw(OK + b"Transfer-Encoding : chunked\r\n\r\n23\r\n" + GIF + b"\r\n0\r\n\r\n")),
    (row(32), "a transfer coding, unasked", Raw(OK + b"Transfer-Encoding: gzip\r\n\r\n" + GIF)),
    (row(32), "a transfer coding whose name", Raw(OK + b"Transfer-Encoding: \x800\r\n\r\n" + GIF)),
    (row(33), "a length over the cap", Stall(OK + b"Content-Length: %d\r\n\r\n" % (MAX_BYTES + 1))),
    (row(33), "no length, and the body exceeds", Drip(OK + b"\r\n" + numbered_gif(2, MAX_BYTES + 1))),
    (row(34), "a page of HTML", Answer(headers={"Content-Type": "image/gif"}, body=HTML)),
    (row(34), "nothing, with status 200", Answer()),
    (row(34), "a picture of another type", Answer(headers={"Content-Type": "image/gif"}, body=PNG)),
    *((row(18), fault, Answer(int(fault), body=GIF)) for fault in ("404", "410")),
    *((row(19), fault, Answer(int(fault), body=GIF)) for fault in ("400", "401", "403", "405", "451", "501")),
    *((row(20), fault, Answer(int(fault), body=GIF)) for fault in ("408", "425", "500", "502", "504", "520", "599")),
    *((row(20), f"{status} without Retry-After", Answer(status, body=GIF)) for status in (429, 503)),
    *((row(23), fault, Answer(int(fault), body=GIF)) for fault in ("206", "600", "999")),
    *((row(60), fault, Answer(int(fault), body=GIF)) for fault in NOT_NOW),
    (row(60), "a Retry-After of more", Answer(403, {"Retry-After": "3600"})),
    (row(60), "garbage instead of", Raw(b"\x15\x03\x01\x00\x02\x02\x50")),
    (row(60), "a status line that is garbage", Raw(b"HTTP/1.1 \x00\xff\r\n\r\n" + GIF)),
    (row(60), "garbage among the headers", Raw(OK + b"ETag: \x00\xff\r\n\r\n" + GIF)),
    (row(61), "204", Answer(204)),
    (row(62), "chunks, and beside them", Raw(OK + b"Content-Length: 99\r\n" + CHUNKS)),
    (row(62), "chunks, and a Content-Length over", Raw(OK + b"Content-Length: %d\r\n" % (10 * MAX_BYTES) + CHUNKS)),
    (row(62), "chunks that are cut, and", Raw(OK + b"Content-Length: 35\r\n" + CHUNKS[:-5])),
    (row(62), "a Transfer-Encoding of", Raw(OK + b"Transfer-Encoding: identity\r\nContent-Length: 36\r\n\r\n" + GIF)),
    (row(63), "gzip, unasked", answer_with_encoding(ZIPPED)),
    (row(63), "gzip in several", answer_with_encoding(gzip.compress(GIF[:9]) + gzip.compress(GIF[9:]) + bytes(9))),
    (row(63), "gzip in gzip", answer_with_encoding(gzip.compress(ZIPPED), "gzip, x-gzip")),
    (row(63), "deflate, with", answer_with_encoding(zlib.compress(GIF), "deflate")),
    (row(63), "deflate alone", answer_with_encoding(zlib.compress(GIF, wbits=-15), "Deflate")),
    (row(63), "a coding that is none", answer_with_encoding(GIF, "identity, aws-chunked,none,binary,8BIT,UTF-8,")),
    (row(63), "brotli", answer_with_encoding(GIF, "br")),
    (row(63), "zstd", answer_with_encoding(GIF, "gzip, zstd")),
    (row(63), "compress", answer_with_encoding(GIF, "compress")),
    (row(63), "a coding that nobody", answer_with_encoding(GIF, "base64")),
    (row(63), "gzip whose trailer", answer_with_encoding(ZIPPED[:-8] + bytes(8))),
    (row(63), "gzip that is damaged", answer_with_encoding(ZIPPED[:12] + bytes(9) + ZIPPED[21:])),
    (row(63), "gzip with garbage", answer_with_encoding(ZIPPED + b"garbage")),
    (row(63), "gzip of nothing", answer_with_encoding(gzip.compress(b""))),
    (
        row(63),
        "gzip with the Content-Length",
        Raw(OK + b"Content-Encoding: gzip\r\nContent-Length: 99\r\n\r\n" + ZIPPED),
    ),
    (row(60), "a header without a colon", Raw(OK + b"garbage\r\n\r\n" + GIF)),
]


def outcome(done: Done, code: str) -> list[str]:
    """Return the status and, if there is one, the reason of an item."""
    (line,) = [line for line in done.events_named("result") if line["code"] == code]
    return [line["status"], *filter(None, [line["reason"]])]


def attempts(done: Done) -> int:
    """Return how many attempts the item CN took."""
    return int(next(line["attempts"] for line in done.events_named("result") if line["code"] == "CN"))


def own_tries(done: Done) -> int:
    """Return how many attempts of the item CN counted: those that were not free have a line each, but the last."""
    return 1 + len([line for line in done.events_named("retry") if line["code"] == "CN"])


def assert_matches_catalogue(fault: str, step: Step, root: Path, **settings: str) -> None:
    """Compare a run with the catalogue: CN fails always, BR at its first attempt only, and US never."""
    line, whole = line_of(fault), Answer(body=GIF)
    settings |= {"attempt_timeout": "0.4" if line.words[-1] == "timeout" else "20", "max_bytes": str(MAX_BYTES)}
    dest, succeeds_later, succeeds = root / "dest", line.again == "yes", line.words == ["ok"]
    dest.mkdir()
    (dest / "cn.gif").write_bytes(OLD)
    script = {"/cn.gif": step, "/br.gif": [step, whole], "/us.gif": whole, "/round": redirect_to("/round")}
    with ScriptedServer(script) as server:
        url = server.url("/{cc}.gif")
        done = run_here("cn", "br", "us", dest=dest, url=url, max_attempts="2", **settings)
        alone = run_here("cn", dest=root / "alone", url=url, max_attempts="1", **settings)
    assert [outcome(done, code) for code in ("CN", "BR", "US")] == [
        line.words,
        ["ok"] if succeeds_later else line.words,
        ["ok"],
    ]
    tries = 2 if succeeds_later else 1
    assert (own_tries(done), sum(done.summary["counts"].values())) == (tries, 3)
    free_tries = FREE_TRIES if line.words[-1] in MAY_BE_TURNED_AWAY else 0
    assert tries <= attempts(done) <= tries + free_tries
    assert (done.code, alone.code) == (line.exit_code, 6 if "(6)" in line.exit else line.exit_code)
    new = {"cn.gif", "us.gif"} | ({"br.gif"} if succeeds_later or succeeds else set())
    assert files_in(dest) == {**dict.fromkeys(new, GIF), "cn.gif": OLD if line.file == "kept" else GIF}
    assert files_in(root / "alone") == ({"cn.gif": GIF} if succeeds else {})


@pytest.mark.parametrize(
    ("fault", "step"), [pytest.param(fault, step, marks=mark, id=fault) for mark, fault, step in CASES]
)
def test_a_fault_ends_as_the_catalogue_says(tmp_path: Path, fault: str, step: Step) -> None:
    """Status, reason, attempts, exit code and files are as in the catalogue, and other items are unaffected."""
    assert_matches_catalogue(fault, step, tmp_path)


def test_each_case_is_of_its_row() -> None:
    """Each case is marked with the number of its row."""
    assert [fault for mark, fault, _ in CASES if mark.args != (line_of(fault).number,)] == []


@pytest.mark.parametrize(
    ("fault", "step"),
    [
        pytest.param("no length, and cut later", Raw(OK + b"\r\n" + GIF[:20]), marks=row(12)),
        pytest.param("other bytes than the digest", Answer(body=numbered_gif(3)), marks=row(35)),
    ],
)
def test_a_body_with_another_digest_is_never_stored(tmp_path: Path, fault: str, step: Step) -> None:
    """A body that does not have the given digest is never stored, even if it looks complete."""
    digest = sha256(GIF).hexdigest()
    (tmp_path / "sums").write_text(f"{digest}  cn.gif\n{digest}  br.gif\n")
    assert_matches_catalogue(fault, step, tmp_path, checksums=str(tmp_path / "sums"))


# No answer at all


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def url_that_refuses(_: ExitStack) -> str:
    return f"http://127.0.0.1:{closed_port()}"


def url_that_drops_packets(stack: ExitStack) -> str:
    """Return a URL whose backlog is full, so that the kernel drops connection requests."""
    listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
    for filler in [stack.enter_context(socket.socket()) for _ in range(3)]:
        filler.settimeout(0)
        filler.connect_ex(listener.getsockname())
    return f"http://127.0.0.1:{listener.getsockname()[1]}"


def url_without_address(_: ExitStack) -> str:
    return "http://no..name"


def accept_and_close(listener: socket.socket) -> None:
    with suppress(OSError):  # it was shut down
        while True:
            peer, _ = listener.accept()
            with peer:
                peer.recv(1 << 16)


def url_that_hangs_up(stack: ExitStack) -> str:
    """Return a URL whose server closes each connection at its first bytes."""
    listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
    peer = Thread(target=accept_and_close, args=[listener])
    peer.start()
    stack.callback(peer.join)
    stack.callback(listener.shutdown, socket.SHUT_RDWR)
    return f"https://127.0.0.1:{listener.getsockname()[1]}"


def url_that_is_silent(stack: ExitStack) -> str:
    """Return a URL whose server accepts connections and sends nothing."""
    return f"https://127.0.0.1:{stack.enter_context(socket.create_server(('127.0.0.1', 0))).getsockname()[1]}"


@pytest.mark.parametrize(
    ("fault", "origin", "attempts_expected"),
    [
        pytest.param("nobody listens", url_that_refuses, 3, marks=row(1)),
        pytest.param("packets are dropped", url_that_drops_packets, 3, marks=row(2)),
        pytest.param("the name does not exist", url_without_address, 2, marks=row(13)),
        pytest.param("TLS: the other side never", url_that_is_silent, 3, marks=row(16)),
        pytest.param("TLS: the other side leaves", url_that_hangs_up, 3, marks=row(16)),
    ],
)
def test_an_unreachable_origin_is_exit_code_6(
    tmp_path: Path, fault: str, origin: Callable[[ExitStack], str], attempts_expected: int
) -> None:
    """An item of an unreachable origin is retried as its row says, and the run ends with exit code 6."""
    line = line_of(fault)
    tmp_path.joinpath("cn.gif").write_bytes(OLD)
    with ExitStack() as stack:
        url = origin(stack) + "/{cc}.gif"
        limit = "0.1" if "timeout" in line.words else "20"
        done = run_here("cn", dest=tmp_path, url=url, connect_timeout=limit, max_attempts="3")
    assert (outcome(done, "CN"), attempts(done), done.code) == (line.words, attempts_expected, 6)
    assert files_in(tmp_path) == {"cn.gif": OLD}


AN_HOUR = timedelta(hours=1)


@row(15)
@pytest.mark.parametrize(
    ("fault", "host", "known", "until", "cause"),
    [
        ("TLS: the certificate has expired", "127.0.0.1", True, -AN_HOUR, "certificate has expired"),
        ("TLS: a certificate for another host", "other.example", True, AN_HOUR, "subject name"),
        ("TLS: an authority that nobody knows", "127.0.0.1", False, AN_HOUR, "unable to get local issuer certificate"),
    ],
)
def test_an_invalid_certificate_is_reported_with_host_and_cause(  # noqa: PLR0913  (a column each)
    tmp_path: Path, *, fault: str, host: str, known: bool, until: timedelta, cause: str
) -> None:
    """An invalid certificate ends an item after one attempt; the message names host and cause."""
    line, authority, context = line_of(fault), trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    now = datetime.now(UTC)
    authority.issue_cert(host, not_before=now - 2 * AN_HOUR, not_after=now + until).configure_cert(context)
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    settings = {"ca_bundle": str(tmp_path / "ca.pem")} if known else {}
    with ScriptedServer({"/cn.gif": Answer(body=GIF)}, context) as server:
        done = run_here("cn", "br", dest=tmp_path / "dest", url=server.url("/{cc}.gif"), **settings)
        assert server.requests == []
    assert (outcome(done, "CN"), outcome(done, "BR"), attempts(done), done.code) == (line.words, line.words, 1, 6)
    messages_name = {
        (cause in result["error"], "127.0.0.1" in result["error"]) for result in done.events_named("result")
    }
    assert messages_name == {(True, True)}


@pytest.fixture
def use_proxy(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Return a function that sets the proxy of both schemes in the environment."""

    def set_proxy(url: str) -> None:
        for variable, value in {"http_proxy": url, "https_proxy": url, "no_proxy": ""}.items():
            monkeypatch.setenv(variable, value)

    return set_proxy


@row(17)
def test_a_dead_proxy_is_never_bypassed(tmp_path: Path, use_proxy: Callable[[str], None]) -> None:
    """A dead proxy fails the item, and the origin gets no connection."""
    line = line_of("the proxy is dead")
    use_proxy(f"http://127.0.0.1:{closed_port()}")
    with ScriptedServer({"/cn.gif": Answer(body=GIF)}) as server:
        done = run_here("cn", dest=tmp_path, url=server.url("/{cc}.gif"), max_attempts="2")
        assert server.connections == 0
    assert (outcome(done, "CN"), attempts(done), done.code) == (line.words, 2, 6)


@row(17)
@pytest.mark.parametrize("status", [403, 407])
def test_a_refused_tunnel_is_a_proxy_failure(tmp_path: Path, use_proxy: Callable[[str], None], status: int) -> None:
    """A tunnel that the proxy refuses is a retryable proxy failure."""
    line = line_of("the proxy refuses the tunnel")
    with ScriptedServer({"origin.example:443": Answer(status)}) as server:
        use_proxy(server.url())
        done = run_here("cn", dest=tmp_path, url="https://origin.example/{cc}.gif", max_attempts="2")
    assert (outcome(done, "CN"), attempts(done), done.code) == (line.words, 2, 6)


@row(17)
def test_a_403_of_a_proxy_is_permanent(tmp_path: Path, use_proxy: Callable[[str], None]) -> None:
    """A 403 of the proxy for an http URL is permanent, as the origin's own."""
    line = line_of("the proxy answers 403")
    with ScriptedServer({"http://origin.example/cn.gif": Answer(403)}) as server:
        use_proxy(server.url())
        done = run_here("cn", dest=tmp_path, url="http://origin.example/{cc}.gif", max_attempts="2")
    assert (outcome(done, "CN"), attempts(done), done.code) == (line.words, 1, line.exit_code)


@row(17)
@pytest.mark.parametrize("value", ["http://user:hunter2@", "ftp://127.0.0.1:21", "http://[::1"])
def test_an_invalid_proxy_url_is_a_usage_error(value: str) -> None:
    """An invalid proxy URL is a usage error, whose message has no password."""
    with pytest.raises(UsageError) as caught:
        load(parse_arguments(["cn"]), {"HTTP_PROXY": value, "FLAGJOB_URL": "http://127.0.0.1/{cc}.gif"})
    assert [fault.setting for fault in caught.value.faults] == ["HTTP_PROXY"]
    assert "hunter2" not in str(caught.value)


@row(8)
def test_a_stale_connection_costs_no_attempt(tmp_path: Path) -> None:
    """A request on a stale connection is sent again on a new one within the same attempt."""
    line = line_of("a kept connection")
    closing = Raw(Answer(body=GIF).wire())
    with ScriptedServer({"/br.gif": closing, "/cn.gif": Answer(body=GIF)}) as server:
        done = run_here("br", "cn", dest=tmp_path, url=server.url("/{cc}.gif"), executor="sequential", max_attempts="1")
        assert server.connections == 2
    assert (outcome(done, "CN"), attempts(done), done.code) == (line.words, 1, line.exit_code)


# Answers


@row(21)
def test_a_retry_after_is_obeyed(tmp_path: Path) -> None:
    """A Retry-After in seconds or as a date is obeyed, and costs no attempt."""
    line, asked_at = line_of("429 or 503 with Retry-After"), []

    def busy(_: object) -> Step:
        asked_at.append(time.monotonic())
        return Answer(429, {"Retry-After": "1"}) if len(asked_at) == 1 else Answer(body=GIF)

    dates: list[str] = []

    def busy_until(_: object) -> Step:
        dates.append(format_datetime(datetime.now(UTC) + timedelta(seconds=2), usegmt=True))
        return Answer(503, {"Retry-After": dates[0]}) if len(dates) == 1 else Answer(body=GIF)

    with ScriptedServer({"/cn.gif": busy, "/br.gif": busy_until}) as server:
        done = run_here("cn", "br", dest=tmp_path, url=server.url("/{cc}.gif"), max_attempts="1")
    assert (outcome(done, "CN"), outcome(done, "BR"), done.code) == (line.words, line.words, line.exit_code)
    assert asked_at[1] - asked_at[0] >= 1


@row(60)
@pytest.mark.parametrize(
    ("fault", "answer"),
    [
        ("a Retry-After with 403", Answer(403, {"Retry-After": "1"})),
        ("a Retry-After with 403", Answer(522, {"Retry-After": "1"})),
        ("a Retry-After with any other", Answer(400, {"Retry-After": "1"})),
        ("a Retry-After with any other", Answer(202, {"Retry-After": "1"})),
        ("a Retry-After with a page", Answer(200, {"Retry-After": "1"}, HTML)),
    ],
)
@pytest.mark.slow
def test_a_retry_after_is_obeyed_wherever_it_stands(tmp_path: Path, fault: str, answer: Step) -> None:
    """An item waits for the Retry-After of any answer; all items wait, for free, where it is the origin's word."""
    line = line_of(fault)
    asked_at: list[float] = []

    def answer_later(_: object) -> Step:
        asked_at.append(time.monotonic())
        return answer if len(asked_at) == 1 else Answer(body=GIF)

    with ScriptedServer({"/cn.gif": answer_later}) as server:
        done = run_here(
            "cn", dest=tmp_path, url=server.url("/{cc}.gif"), max_attempts="1" if line.again == "free" else "2"
        )
    assert (outcome(done, "CN"), attempts(done), done.code) == (line.words, 2, line.exit_code)
    assert len(done.events_named("host_paused")) == (1 if line.again == "free" else 0)
    assert asked_at[1] - asked_at[0] >= 1


@row(61)
def test_an_empty_tile_is_within_the_budget_of_missing_files(tmp_path: Path) -> None:
    """A 204 is a missing file within its budget, behind a redirect and after a condition, too; the old file stays."""
    empty = Answer(204, {"Retry-After": "1"})
    script = {"/cn.gif": [Answer(headers={"ETag": '"1"'}, body=GIF), empty], "/br.gif": redirect_to("/empty")}
    with ScriptedServer({**script, "/empty": empty}) as server:
        runs = [run_here("cn", "br", dest=tmp_path, url=server.url("/{cc}.gif"), max_not_found="2") for _ in range(2)]
        conditions = [request.headers.get("if-none-match") for request in server.requests]
    assert [condition for condition in conditions if condition] == ['"1"']
    assert [(outcome(done, "CN"), outcome(done, "BR"), done.code) for done in runs] == [
        (["ok"], ["not_found", "http_204"], 0),
        (["not_found", "http_204"], ["not_found", "http_204"], 0),
    ]
    assert files_in(tmp_path) == {"cn.gif": GIF}


@row(63)
@pytest.mark.parametrize(("suffix", "accept"), [(".gz", ""), (".tgz", "any"), ("", "gzip"), ("", "gif,gzip")])
def test_a_file_that_is_gzip_itself_stays_packed(tmp_path: Path, suffix: str, accept: str) -> None:
    """Where gzip is an accepted type such a body is the file, whatever the header calls it; another body is refused."""
    line = line_of("gzip where the file is gzip")
    script = {f"/cn{suffix}": answer_with_encoding(ZIPPED, "x-gzip"), f"/br{suffix}": answer_with_encoding(GIF)}
    settings = {"accept": accept} if accept else {}
    with ScriptedServer(script) as server:
        done = run_here("cn", "br", dest=tmp_path, url=server.url("/{cc}" + suffix), max_errors="1", **settings)
    assert (outcome(done, "CN"), done.code) == (line.words, line.exit_code)
    assert outcome(done, "BR") == ["error", "unexpected_encoding"]
    assert files_in(tmp_path) == {f"cn{suffix}": ZIPPED}


@row(63)
def test_received_bytes_are_counted_as_they_came(tmp_path: Path) -> None:
    """The summary and the metrics have the bytes that came, the result those of the file."""
    textfile = tmp_path / "flagjob.prom"
    with ScriptedServer({"/cn.gif": answer_with_encoding(ZIPPED)}) as server:
        done = run_here("cn", dest=tmp_path / "dest", url=server.url("/{cc}.gif"), metrics_file=str(textfile))
    (result,) = done.events_named("result")
    assert (result["data"]["bytes"], result["data"]["sha256"]) == (len(GIF), sha256(GIF).hexdigest())
    assert done.summary["bytes"] == len(ZIPPED) != len(GIF)
    assert f"flagjob_received_bytes_total {len(ZIPPED)}.0" in textfile.read_text()


@pytest.mark.slow
@row(21)
def test_two_pauses_in_a_row_are_obeyed(tmp_path: Path) -> None:
    """A second pause in a row costs no attempt and does not give the origin up."""
    busy = Answer(429, {"Retry-After": "1"})
    with ScriptedServer({"/cn.gif": [busy, busy, Answer(body=GIF)]}) as server:
        done = run_here("cn", dest=tmp_path, url=server.url("/{cc}.gif"), max_attempts="1")
    assert (done.code, len(done.events_named("host_paused")), done.events_named("origin_down")) == (0, 2, [])


@row(21)
@pytest.mark.parametrize("value", ["0", "Sun, 06 Nov 1994 08:49:37 GMT"])
def test_a_retry_after_in_the_past_is_no_pause(tmp_path: Path, value: str) -> None:
    """A Retry-After of 0 or in the past leads to an ordinary retry and pauses nothing."""
    line = line_of("Retry-After of 0 s")
    with ScriptedServer({"/cn.gif": [Answer(503, {"Retry-After": value}), Answer(body=GIF)]}) as server:
        done = run_here("cn", dest=tmp_path, url=server.url("/{cc}.gif"), max_attempts="2")
    assert (outcome(done, "CN"), attempts(done), done.code) == (line.words, 2, line.exit_code)
    assert (len(done.events_named("retry")), done.events_named("host_paused")) == (1, [])


@row(22)
def test_an_invalid_retry_after_is_ignored(tmp_path: Path) -> None:
    """An invalid Retry-After leads to an ordinary back-off, at most half a second before the first retry."""
    line = line_of("Retry-After that is none")
    values = ["abc", "3.5", "-1", "", "2026-11-22T04:17:00Z", "Fri, 31 Dec 9999 23:59:59 GMT"]
    script = {f"/c{n}.gif": [Answer(503, {"Retry-After": v}), Answer(body=GIF)] for n, v in enumerate(values)}
    with ScriptedServer(script) as server:
        # With more workers a 503 beside files can mean that the origin bears fewer at once: such a try is no retry.
        codes = [f"c{number}" for number in range(len(values))]
        done = run_here(*codes, dest=tmp_path, url=server.url("/{cc}.gif"), max_attempts="2", workers="1")
    assert [outcome(done, code.upper()) for code in codes] == [line.words] * len(values)
    assert (done.code, len(done.events_named("retry"))) == (line.exit_code, len(values))
    assert max(retry["wait_s"] for retry in done.events_named("retry")) <= 0.5


@row(24)
def test_five_redirects_on_the_origin_are_followed(tmp_path: Path) -> None:
    """Five redirects on the same origin are followed to the file."""
    line = line_of("a redirect on the same origin")
    hops = {f"/{number}": redirect_to(f"/{number + 1}") for number in range(1, 5)}
    with ScriptedServer({"/cn.gif": redirect_to("/1"), **hops, "/5": Answer(body=GIF)}) as server:
        done = run_here("cn", dest=tmp_path, url=server.url("/{cc}.gif"))
        assert len(server.requests) == 6
    assert (outcome(done, "CN"), attempts(done), done.code) == (line.words, 1, line.exit_code)
    assert files_in(tmp_path) == {"cn.gif": GIF}


@row(26)
@pytest.mark.parametrize("where", ["another host", "another port", "without TLS"])
def test_a_redirect_to_another_origin_sends_nothing(tmp_path: Path, where: str) -> None:
    """A redirect to another host, port or scheme is refused, and that server gets no connection."""
    line, authority, context = (
        line_of("a redirect to another host"),
        trustme.CA(),
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER),
    )
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    (tmp_path / "headers").write_text("X-Api-Key: hunter2hunter2\n")
    paths = {"ca_bundle": str(tmp_path / "ca.pem"), "headers_file": str(tmp_path / "headers")}
    with ScriptedServer({"/cn.gif": Answer(body=GIF)}) as canary:
        there = canary.url("/cn.gif").replace("127.0.0.1", "localhost" if where == "another host" else "127.0.0.1")
        with ScriptedServer({"/cn.gif": redirect_to(there)}, context if where == "without TLS" else None) as server:
            done = run_here("cn", dest=tmp_path / "dest", url=server.url("/{cc}.gif"), **paths)
        assert canary.connections == 0
    assert (outcome(done, "CN"), attempts(done), done.code) == (line.words, 1, line.exit_code)
    assert files_in(tmp_path / "dest") == {}
