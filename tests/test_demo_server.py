"""The demo server, by real requests over loopback."""

import re
import socket
import struct
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from email.utils import formatdate, parsedate_to_datetime
from hashlib import sha256
from http import HTTPStatus
from http.client import HTTPConnection, HTTPMessage, IncompleteRead
from importlib.metadata import distribution
from pathlib import Path
from queue import SimpleQueue
from random import Random
from time import time
from urllib.parse import urlsplit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from job.demo_server import PATH, DemoServer, Faults, Request, find_flags
from job.errors import UsageError

FLAGS = Path(str(distribution("django-countries").locate_file("django_countries/static/flags")))
CN = PATH.format(cc="cn")
BOUND = 20  # seconds, against hanging only

Headers = dict[str, str]
Answer = tuple[int, HTTPMessage, bytes]


def connect(server: DemoServer) -> HTTPConnection:
    """Return a connection that opens at its first request."""
    address = urlsplit(server.url)
    assert address.hostname is not None
    return HTTPConnection(address.hostname, address.port, timeout=BOUND)


def ask(connection: HTTPConnection, path: str = CN, method: str = "GET", headers: Headers | None = None) -> Answer:
    """Send one request and return its whole answer."""
    connection.request(method, path, headers=headers or {})
    response = connection.getresponse()
    return response.status, response.headers, response.read()


def once(server: DemoServer, path: str = CN, method: str = "GET", headers: Headers | None = None) -> Answer:
    """Send one request on a connection of its own."""
    with closing(connect(server)) as connection:
        return ask(connection, path, method, headers)


def raw(server: DemoServer, sent: bytes) -> bytes:
    """Send these bytes and return everything that comes back until the server closes."""
    address = urlsplit(server.url)
    with socket.create_connection((address.hostname, address.port), timeout=BOUND) as plain:
        plain.sendall(sent)
        return b"".join(iter(lambda: plain.recv(65536), b""))


@pytest.fixture
def server() -> Iterator[DemoServer]:
    """Yield a server without faults."""
    with DemoServer() as running:
        yield running


@pytest.fixture
def validators(server: DemoServer) -> tuple[str, str]:
    """Return ETag and Last-Modified of a flag."""
    _, headers, _ = once(server)
    return headers["ETag"], headers["Last-Modified"]


def test_every_country_has_its_flag(server: DemoServer) -> None:
    """Flags of all 249 codes of ISO 3166-1, and no others, are served byte for byte as the distribution has them."""
    codes = {file.stem for file in FLAGS.glob("??.gif")} - {"__", "eu", "xk"}
    with closing(connect(server)) as connection:
        wrong = [cc for cc in codes if ask(connection, PATH.format(cc=cc))[2] != (FLAGS / f"{cc}.gif").read_bytes()]
    assert (len(codes), wrong, set(find_flags())) == (249, [], {PATH.format(cc=cc) for cc in codes})


@pytest.mark.parametrize("code", ["__", "eu", "xk", "zz", "CN"])
def test_a_code_without_a_country_is_not_found(server: DemoServer, code: str) -> None:
    """A code that names no country is a 404 with a short text."""
    status, headers, body = once(server, PATH.format(cc=code))
    assert (status, headers["Content-Type"], body) == (404, "text/plain", b"404 Not Found\n")


@pytest.mark.parametrize("path", ["/", "/data/flags/", "/data/flags/cn/us.gif", "/data/flags/cn/../us/us.gif", "*"])
def test_another_path_is_not_found(server: DemoServer, path: str) -> None:
    """Every other path is a 404."""
    assert once(server, path)[0] == 404


@pytest.mark.parametrize("target", [CN + "?version=2", "http://example.org" + CN])
def test_query_and_absolute_form_lead_to_the_flag(server: DemoServer, target: str) -> None:
    """A query is ignored, and so is the host of an absolute target."""
    assert once(server, target)[2] == (FLAGS / "cn.gif").read_bytes()


def test_the_fields_of_a_flag(server: DemoServer) -> None:
    """The header of a flag has its type, length and validators, the date and the server, and nothing else."""
    _, headers, body = once(server)
    assert abs(parsedate_to_datetime(headers["Date"]).timestamp() - time()) < BOUND
    del headers["Date"]
    assert dict(headers) == {
        "Server": "flagjob",
        "Content-Type": "image/gif",
        "Content-Length": str(len(body)),
        "ETag": f'"{sha256(body).hexdigest()[:32]}"',
        "Last-Modified": formatdate(int((FLAGS / "cn.gif").stat().st_mtime), usegmt=True),
    }


def test_head_is_get_without_the_body(server: DemoServer) -> None:
    """HEAD has the status and the header of GET, Content-Length included, and no body."""
    with closing(connect(server)) as connection:
        status, headers, _ = ask(connection)
        head_status, head_headers, head_body = ask(connection, method="HEAD")
    del headers["Date"]
    del head_headers["Date"]
    assert (head_status, head_headers.items(), head_body) == (status, headers.items(), b"")


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
def test_other_methods_are_not_allowed(server: DemoServer, method: str) -> None:
    """Any other method of HTTP is a 405 that names the allowed ones."""
    status, headers, _ = once(server, method=method)
    assert (status, headers["Allow"]) == (405, "GET, HEAD")


@pytest.mark.parametrize("method", ["get", "BREW"])
def test_unknown_methods_are_not_implemented(server: DemoServer, method: str) -> None:
    """A method that HTTP does not have is a 501 (RFC 9110, 15.6.2), and the connection closes."""
    status, headers, body = once(server, method=method)
    assert (status, headers["Connection"], body) == (501, "close", b"501 Not Implemented\n")


def test_an_unread_request_body_does_not_lose_the_answer(server: DemoServer) -> None:
    """A large upload is not ended by a reset: the whole answer arrives, with `Connection: close`."""
    address = urlsplit(server.url)
    with socket.create_connection((address.hostname, address.port), timeout=BOUND) as plain:
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        plain.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n" + bytes(1_000_000))
        answer = b"".join(iter(lambda: plain.recv(65536), b""))
    assert (answer[:12], b"\r\nConnection: close\r\n" in answer, answer[-4:]) == (b"HTTP/1.1 405", True, b"wed\n")


def test_a_chunked_body_is_not_parsed_as_a_request(server: DemoServer) -> None:
    """The connection closes after the answer to a request with a body of unknown length."""
    sent = b"GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
    assert re.findall(rb"HTTP/1.1 (\d+)", raw(server, sent)) == [b"404"]


def test_a_client_that_neither_sends_nor_closes_is_dropped() -> None:
    """After the last answer the server waits a second for the client to close, and no longer."""
    serving: SimpleQueue[threading.Thread] = SimpleQueue()
    with DemoServer(on_request=lambda _: serving.put(threading.current_thread())) as running:
        address = urlsplit(running.url)
        with socket.create_connection((address.hostname, address.port), timeout=BOUND) as plain:
            plain.sendall(b"GET / HTTP/1.0\r\n\r\n")
            thread = serving.get(timeout=BOUND)
            thread.join(BOUND)
            assert (thread.is_alive(), thread.daemon) == (False, True)


def conditions(etag: str, date: str) -> Iterator[tuple[Headers, int]]:
    """Yield conditional headers and the status each leads to (RFC 9110, 13.1.2, 13.1.3 and 13.2.2)."""
    none = "If-None-Match"
    since = "If-Modified-Since"
    early = formatdate(0, usegmt=True)
    late = formatdate(2**32)
    yield {none: etag}, 304
    yield {none: f"W/{etag}"}, 304
    yield {none: f'"x, y" , W/"z",{etag}'}, 304
    yield {none: "*"}, 304
    yield {none: '"x"'}, 200
    yield {none: etag.strip('"')}, 200
    yield {none: ""}, 200
    yield {since: date}, 304
    yield {since: late}, 304
    yield {since: early}, 200
    yield {since: parsedate_to_datetime(date).strftime("%A, %d-%b-%y %H:%M:%S GMT")}, 304
    yield {since: parsedate_to_datetime(date).strftime("%a %b %d %H:%M:%S %Y")}, 304
    yield {since: "yesterday"}, 200
    yield {since: "Sun, 06 Nov 99999 08:49:37 GMT"}, 200
    yield {since: "Sun, 06 Nov 99999999999999999999 08:49:37 GMT"}, 200
    yield {none: '"x"', since: date}, 200
    yield {none: "", since: date}, 200
    yield {none: etag, since: early}, 304


@pytest.mark.parametrize("number", range(18))
def test_a_flag_is_sent_again_only_if_it_differs(server: DemoServer, validators: tuple[str, str], number: int) -> None:
    """Validators are compared by RFC 9110: entity tags weakly, and dates only where there are no entity tags."""
    headers, expected = list(conditions(*validators))[number]
    status, _, body = once(server, headers=headers)
    assert (status, body == b"") == (expected, expected == 304)


def test_every_row_of_the_conditions_is_tested(validators: tuple[str, str]) -> None:
    """The test above has as many numbers as the table has rows."""
    assert len(list(conditions(*validators))) == 18


def test_not_modified_repeats_the_validators(server: DemoServer, validators: tuple[str, str]) -> None:
    """A 304 has both validators, and neither Content-Length nor Content-Type."""
    _, headers, _ = once(server, headers={"If-None-Match": "*"})
    got = headers["ETag"], headers["Last-Modified"], headers["Content-Length"], headers["Content-Type"]
    assert got == (*validators, None, None)


def test_a_condition_does_not_hide_a_404(server: DemoServer) -> None:
    """A path without a flag is a 404 whatever the condition."""
    assert once(server, "/", headers={"If-None-Match": "*"})[0] == 404


def test_a_connection_serves_many_requests(server: DemoServer) -> None:
    """One connection carries flags, errors and 304 one after another."""
    with closing(connect(server)) as connection:
        statuses = [ask(connection)[0]]
        first = connection.sock
        statuses += [ask(connection, "/")[0], ask(connection, method="PUT")[0], ask(connection, method="HEAD")[0]]
        statuses += [ask(connection, headers={"If-None-Match": "*"})[0], ask(connection)[0]]
        assert (statuses, connection.sock is first) == ([200, 404, 405, 200, 304, 200], True)


def test_pipelined_requests_are_answered_in_order(server: DemoServer) -> None:
    """Requests sent without waiting are answered one by one, up to the one that closes."""
    one = f"GET {CN} HTTP/1.1\r\nHost: a\r\n\r\n".encode()
    answers = raw(server, one * 2 + b"GET / HTTP/1.1\r\nConnection: Close\r\n\r\n" + one)
    assert re.findall(rb"HTTP/1.1 (\d+)", answers) == [b"200", b"200", b"404"]


@pytest.mark.parametrize("head", ["HTTP/1.0\r\n\r\n", "HTTP/1.1\r\nConnection: close\r\n\r\n", "HTTP/1.0\n\n"])
def test_a_connection_closes_when_the_client_asks_for_it(server: DemoServer, head: str) -> None:
    """After HTTP/1.0 or `Connection: close` the answer has `Connection: close`, and the server closes."""
    answer = raw(server, f"GET {CN} {head}".encode())
    assert b"\r\nConnection: close\r\n" in answer
    assert answer.endswith((FLAGS / "cn.gif").read_bytes())


BAD_REQUEST = "400 Bad Request"
MALFORMED = {
    "not http": (b"hello\r\n\r\n", BAD_REQUEST),
    "http 0.9": (b"GET /\r\n", BAD_REQUEST),
    "http 2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", BAD_REQUEST),
    "tls": (bytes.fromhex("1603010200010001fc0303") + b"\n", BAD_REQUEST),
    "empty line": (b"\r\n", BAD_REQUEST),
    "control character": (b"GET /\x1b[31m HTTP/1.1\r\n\r\n", BAD_REQUEST),
    "not ascii": ("GET /ü HTTP/1.1\r\n\r\n".encode(), BAD_REQUEST),
    "two spaces": (b"GET  / HTTP/1.1\r\n\r\n", BAD_REQUEST),
    "long line": (b"GET /" + b"a" * 9_000 + b" HTTP/1.1\r\n\r\n", BAD_REQUEST),
    "endless line": (b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n", f"414 {HTTPStatus(414).phrase}"),
    "field without colon": (b"GET / HTTP/1.1\r\nHost\r\n\r\n", BAD_REQUEST),
    "too many fields": (
        b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 100 + b"\r\n",
        BAD_REQUEST,
    ),
    "endless field": (b"GET / HTTP/1.1\r\na: " + b"b" * 70_000 + b"\r\n\r\n", BAD_REQUEST),
    "nul": (b"\0\n", BAD_REQUEST),
}


@pytest.mark.parametrize(("sent", "status"), MALFORMED.values(), ids=MALFORMED.keys())
def test_a_malformed_request_is_refused(
    server: DemoServer, capfd: pytest.CaptureFixture[str], sent: bytes, status: str
) -> None:
    """A request that is not HTTP/1, or too large, gets one error and the connection closes, with nothing on stderr."""
    answer = raw(server, sent)
    assert answer.startswith(f"HTTP/1.1 {status}\r\n".encode())
    assert answer.endswith(f"\r\n\r\n{status}\n".encode())
    assert (answer.count(b"HTTP/1.1"), capfd.readouterr().err) == (1, "")


@pytest.mark.parametrize(
    "fields",
    [
        "Connection: keep-alive\r\nConnection: close\r\n",
        "Content-Length: 0\r\nContent-Length: 20\r\n",
        "a b: x\r\nconnection: Close\r\n",
    ],
)
def test_of_equal_fields_the_last_counts(server: DemoServer, fields: str) -> None:
    """Names are compared without case, the last of equal fields decides, and an odd name is no error."""
    answer = raw(server, f"GET {CN} HTTP/1.1\r\n{fields}\r\n{'x' * 20}".encode())
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert answer.count(b"HTTP/1.1") == 1
    assert b"\r\nConnection: close\r\n" in answer


def test_a_truncated_answer_announces_a_close_only_if_it_was_asked_for() -> None:
    """The cut comes as a surprise, but after HTTP/1.0 the answer says that the connection ends."""
    with DemoServer(faults=Faults(truncate_rate=1.0)) as running:
        surprise = raw(running, f"GET {CN} HTTP/1.1\r\n\r\n".encode())
        announced = raw(running, f"GET {CN} HTTP/1.0\r\n\r\n".encode())
    assert (b"Connection: close" in surprise, b"Connection: close" in announced) == (False, True)


def test_ninety_nine_fields_are_not_too_many(server: DemoServer) -> None:
    """The limit is higher than the number of fields that any client sends."""
    assert raw(server, b"GET / HTTP/1.0\r\n" + b"a: b\r\n" * 99 + b"\r\n").startswith(b"HTTP/1.1 404")


def test_a_header_that_breaks_off_is_refused(server: DemoServer) -> None:
    """A request without its blank line is a 400, because it may be incomplete."""
    address = urlsplit(server.url)
    with socket.create_connection((address.hostname, address.port), timeout=BOUND) as plain:
        plain.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n")
        plain.shutdown(socket.SHUT_WR)
        assert plain.recv(65536).startswith(b"HTTP/1.1 400")


def test_noise_is_refused(server: DemoServer) -> None:
    """For any bytes the answer is a 400, and the server goes on."""

    @given(st.binary(max_size=200))
    @settings(max_examples=100, deadline=None)
    def check(noise: bytes) -> None:
        assert raw(server, noise + b"\n\n").startswith(b"HTTP/1.1 400")

    check()
    assert once(server)[0] == 200


def test_a_client_that_goes_away_is_not_logged(capfd: pytest.CaptureFixture[str]) -> None:
    """A connection that is reset during its answers affects no other one, and prints nothing on stderr."""
    with DemoServer() as running:
        address = urlsplit(running.url)
        for _ in range(20):
            with socket.create_connection((address.hostname, address.port), timeout=BOUND) as plain:
                plain.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                plain.sendall(f"GET {CN} HTTP/1.1\r\n\r\n".encode() * 50)
        assert once(running)[0] == 200
    assert capfd.readouterr().err == ""


def test_a_hundred_clients_at_once() -> None:
    """A hundred connections, all open at once, get the flags that each requested."""
    codes = sorted(file.stem for file in FLAGS.glob("[a-d][a-z].gif"))[:50]
    together = threading.Barrier(100, timeout=BOUND)

    def client(number: int) -> list[bytes]:
        with closing(connect(running)) as connection:
            connection.connect()
            together.wait()
            return [ask(connection, PATH.format(cc=codes[(number + step) % 50]))[2] for step in range(5)]

    files = [(FLAGS / f"{code}.gif").read_bytes() for code in codes]
    with DemoServer() as running, ThreadPoolExecutor(100) as pool:
        got = list(pool.map(client, range(100)))
    assert got == [[files[(number + step) % 50] for step in range(5)] for number in range(100)]


def reported_requests(faults: Faults, act: Callable[[DemoServer], object], seed: int = 1) -> list[Request]:
    """Return the requests that the server reported while `act` ran."""
    seen: list[Request] = []
    with DemoServer(faults=faults, on_request=seen.append, seed=seed) as running:
        act(running)
    return seen


def test_each_request_is_reported() -> None:
    """`on_request` gets method, path without query, status, body bytes and duration of each answer, in order."""

    def act(running: DemoServer) -> None:
        with closing(connect(running)) as connection:
            ask(connection, CN + "?secret=1")
            ask(connection, method="HEAD")
            ask(connection, headers={"If-None-Match": "*"})
            ask(connection, "/x", method="PUT")
            ask(connection, "/x")
        raw(running, b"hello\r\n\r\n")

    size = (FLAGS / "cn.gif").stat().st_size
    seen = reported_requests(Faults(), act)
    # one connection is in order; the malformed request came on another
    ordered = sorted(seen, key=lambda r: not r.method)
    assert [(r.method, r.path, r.status, r.sent_bytes, r.fault) for r in ordered] == [
        ("GET", CN, 200, size, None),
        ("HEAD", CN, 200, 0, None),
        ("GET", CN, 304, 0, None),
        ("PUT", "/x", 405, 23, None),
        ("GET", "/x", 404, 14, None),
        ("", "", 400, 16, None),
    ]
    assert all(0 < r.duration_seconds < BOUND for r in seen)


def test_a_refused_request_is_reported_without_its_query() -> None:
    """A malformed request is reported without method and path, also after a good one on the same connection."""
    flag = f"GET {CN} HTTP/1.1\r\n\r\n".encode()

    def act(running: DemoServer) -> None:
        raw(running, b"GET /?secret=1 HTTP/1.1\r\n" + b"a: b\r\n" * 100 + b"\r\n")
        raw(running, b"BREW /?secret=1 HTTP/1.1\r\n\r\n")
        raw(running, flag + b"hello\r\n\r\n")
        raw(running, flag + b"GET /?" + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n")

    assert [(seen.method, seen.path, seen.status) for seen in reported_requests(Faults(), act)] == [
        ("", "", 400),
        ("BREW", "/", 501),
        ("GET", CN, 200),
        ("", "", 400),
        ("GET", CN, 200),
        ("", "", 414),
    ]


def statuses(faults: Faults, seed: int, requests: int = 200) -> list[int]:
    """Return the statuses of so many requests, one after another."""
    with DemoServer(faults=faults, seed=seed) as running, closing(connect(running)) as connection:
        return [ask(connection, method="HEAD")[0] for _ in range(requests)]


def test_errors_come_at_their_rate() -> None:
    """A seed determines which requests fail, whatever other faults are injected."""
    chance = Random(24)
    draws = [(chance.random(), chance.random(), chance.random())[1] for _ in range(200)]
    expected = [503 if draw < 0.3 else 200 for draw in draws]
    assert Counter(expected) == {200: 140, 503: 60}
    assert statuses(Faults(error_rate=0.3), 24) == expected
    assert statuses(Faults(error_rate=0.3, truncate_rate=0.5, delay_seconds=(0.0, 0.0001)), 24) == expected


@pytest.fixture
def frequent_switches() -> Iterator[None]:
    """Let threads interrupt each other as often as the interpreter can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("frequent_switches")
@pytest.mark.slow
def test_threads_that_draw_at_once_do_not_change_the_faults() -> None:
    """A seed gives the same faults on any number of connections: the draws of one request are never interleaved."""
    faults = Faults(delay_seconds=(0.0, 1.0), error_rate=0.3, truncate_rate=0.3)

    def draws(threads: int) -> list[object]:
        with DemoServer(faults=faults, seed=1) as running, ThreadPoolExecutor(threads) as pool:
            server = running._server  # noqa: SLF001  (requests over sockets are too slow to interleave)
            assert server is not None
            return sorted(pool.map(lambda _: server.draw_faults(), range(20_000)), key=repr)

    assert draws(8) == draws(1)


@pytest.mark.parametrize(("rate", "expected"), [(0.0, 200), (1.0, 503)])
def test_the_limits_of_the_rate(rate: float, expected: int) -> None:
    """Rate 0 injects no error, and rate 1 one into every answer."""
    assert set(statuses(Faults(error_rate=rate, retry_after_seconds=1), 1, 50)) == {expected}


@pytest.mark.parametrize(("seconds", "expected"), [(None, None), (0, "0"), (7, "7")])
def test_errors_say_when_to_come_back(seconds: int | None, expected: str | None) -> None:
    """A 503 has the Retry-After of the options, and keeps its connection."""
    with DemoServer(faults=Faults(error_rate=1.0, retry_after_seconds=seconds)) as running:
        status, headers, body = once(running)
    assert (status, headers["Retry-After"], headers["Connection"]) == (503, expected, None)
    assert body == b"503 Service Unavailable\n"


def test_an_injected_error_is_reported_as_a_fault() -> None:
    """`on_request` gets the fault of an injected error."""
    (seen,) = reported_requests(Faults(error_rate=1.0), once)
    assert (seen.status, seen.sent_bytes, seen.fault) == (503, 24, "error")


def test_a_truncated_flag_is_half_a_flag() -> None:
    """The full length is announced, half of the bytes are sent, and the connection closes."""
    whole = (FLAGS / "cn.gif").read_bytes()

    def act(running: DemoServer) -> None:
        with closing(connect(running)) as connection, pytest.raises(IncompleteRead) as caught:
            ask(connection)
        assert caught.value.partial == whole[: len(whole) // 2]
        assert caught.value.expected == len(whole) - len(whole) // 2

    (seen,) = reported_requests(Faults(truncate_rate=1.0), act)
    assert (seen.status, seen.sent_bytes, seen.fault) == (200, len(whole) // 2, "truncate")


def test_only_bodies_are_truncated() -> None:
    """An answer without a body is sent whole and reported without a fault, and its connection stays open."""

    def act(running: DemoServer) -> None:
        with closing(connect(running)) as connection:
            assert [ask(connection, method="HEAD")[0], ask(connection, headers={"If-None-Match": "*"})[0]] == [200, 304]

    assert [seen.fault for seen in reported_requests(Faults(truncate_rate=1.0), act)] == [None, None]


def test_truncations_come_at_their_rate() -> None:
    """A seed determines which bodies are truncated."""
    chance = Random(3)
    draws = [(chance.random(), chance.random(), chance.random())[2] for _ in range(40)]
    close = f"GET {CN} HTTP/1.0\r\n\r\n".encode()
    seen = reported_requests(Faults(truncate_rate=0.5), lambda running: [raw(running, close) for _ in draws], seed=3)
    assert [request.fault for request in seen] == ["truncate" if draw < 0.5 else None for draw in draws]


def test_an_answer_waits_for_its_delay() -> None:
    """Each answer takes at least its delay, which is drawn between the two limits."""
    chance = Random(5)
    delays = [(chance.uniform(0.01, 0.05), chance.random(), chance.random())[0] for _ in range(5)]

    def act(running: DemoServer) -> None:
        with closing(connect(running)) as connection:
            assert [ask(connection)[0] for _ in delays] == [200] * 5

    seen = reported_requests(Faults(delay_seconds=(0.01, 0.05)), act, seed=5)
    assert [request.duration_seconds >= delay for request, delay in zip(seen, delays, strict=True)] == [True] * 5


def test_a_delay_ends_when_the_server_stops() -> None:
    """A request that would wait for minutes ends at once, without an answer."""
    delays = (0.0, 10_000.0)
    seed = next(seed for seed in range(10**6) if Random(seed).uniform(*delays) < 0.5)
    two = f"GET {CN} HTTP/1.1\r\n\r\n".encode() * 2
    running = DemoServer(faults=Faults(delay_seconds=delays), seed=seed).start()
    address = urlsplit(running.url)
    with socket.create_connection((address.hostname, address.port), timeout=BOUND) as plain:
        plain.sendall(two)
        answer = plain.recv(65536)  # the first came soon, so the second is being delayed
        running.stop()
        assert (answer.count(b"HTTP/1.1 200"), plain.recv(65536)) == (1, b"")


def test_stop_leaves_nothing_behind() -> None:
    """Stopping closes idle connections, and leaves no thread, no socket and no listener."""
    threads = set(threading.enumerate())
    descriptors = sorted(Path("/proc/self/fd").iterdir())
    running = DemoServer().start()
    with ExitStack() as stack:
        connections = [stack.enter_context(closing(connect(running))) for _ in range(10)]
        assert [ask(connection)[0] for connection in connections] == [200] * 10
        running.stop()
        assert set(threading.enumerate()) == threads
        assert [connection.sock.recv(1) for connection in connections] == [b""] * 10
    assert sorted(Path("/proc/self/fd").iterdir()) == descriptors
    with pytest.raises(ConnectionRefusedError):
        once(running)


def test_finished_connections_are_forgotten() -> None:
    """A server that runs for long does not keep every connection it ever had in memory."""
    ended: SimpleQueue[threading.Thread] = SimpleQueue()
    with DemoServer(on_request=lambda _: ended.put(threading.current_thread())) as running:
        for _ in range(20):
            once(running, headers={"Connection": "close"})
            ended.get(timeout=BOUND).join(BOUND)
        assert once(running)[0] == 200
        server = running._server  # noqa: SLF001  (nothing else shows what it remembers)
    assert server is not None
    assert len(server._open) == 1  # noqa: SLF001  (the same)


def test_stop_is_harmless_at_any_time() -> None:
    """Stopping a server that never started, or stopping twice, does nothing; a stopped server can start again."""
    running = DemoServer()
    running.stop()
    for _ in range(2):
        with running:
            assert once(running)[0] == 200
        running.stop()


def test_a_port_is_free_again_at_once() -> None:
    """Another server can listen on the port of a server that closed its connections."""
    with DemoServer() as first, closing(connect(first)) as connection:
        assert ask(connection)[0] == 200
        first.stop()
        with DemoServer(port=int(first.url.rpartition(":")[2])) as second:
            assert (second.url, once(second)[0]) == (first.url, 200)


def test_an_answer_is_sent_by_one_write(server: DemoServer) -> None:
    """Header and body of an answer arrive together: two writes would be two packets."""
    body = (FLAGS / "cn.gif").read_bytes()
    address = urlsplit(server.url)
    with socket.create_connection((address.hostname, address.port), timeout=BOUND) as plain:
        for _ in range(50):
            plain.sendall(f"GET {CN} HTTP/1.1\r\n\r\n".encode())
            assert plain.recv(65536).endswith(body)


def test_connections_have_tcp_nodelay(server: DemoServer) -> None:
    """Without TCP_NODELAY a second answer may wait 40 ms for the ACK of the first (Nagle's algorithm)."""
    inner = server._server  # noqa: SLF001  (nothing else shows the server's end of a connection)
    assert inner is not None
    with closing(connect(server)) as connection, closing(connect(server)) as later:
        assert (ask(connection)[0], ask(later)[0]) == (200, 200)  # accepted in order, so the first is listed by now
        accepted = next(iter(inner._open.values()))  # noqa: SLF001  (the same)
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1


def test_a_port_in_use_is_a_usage_error(server: DemoServer) -> None:
    """The message names the port that another server uses, with the system's reason."""
    port = int(server.url.rpartition(":")[2])
    with pytest.raises(UsageError) as caught:
        DemoServer(port=port).start()
    assert str(caught.value) == f"--port '{port}': cannot listen on 127.0.0.1: Address already in use"


def test_an_address_of_another_machine_is_a_usage_error() -> None:
    """The message names the address that is not local, with the system's reason."""
    with pytest.raises(UsageError) as caught:
        DemoServer(bind="192.0.2.1").start()
    assert str(caught.value) == "--port '0': cannot listen on 192.0.2.1: Cannot assign requested address"


@pytest.mark.parametrize(
    ("bind", "expected"),
    [("127.0.0.1", r"http://127\.0\.0\.1:\d+"), ("::ffff:127.0.0.1", r"http://\[::ffff:127\.0\.0\.1\]:\d+")],
)
def test_the_url_leads_to_the_server(bind: str, expected: str) -> None:
    """The URL can be requested as it is, with an IPv6 address in brackets (a mapped one works without IPv6)."""
    with DemoServer(bind=bind) as running:
        assert re.fullmatch(expected, running.url) is not None
        assert once(running)[0] == 200


def test_missing_flags_are_a_usage_error() -> None:
    """Without the distribution, the message says which package to install or which setting to change."""
    with pytest.raises(UsageError) as caught:
        find_flags("no-such-distribution")
    advice = "the built-in origin has no flags: pip install 'flagjob[origin]', or set FLAGJOB_URL"
    assert str(caught.value) == f"FLAGJOB_SERVER: {advice}"


def test_the_package_of_the_flags_is_not_imported(server: DemoServer) -> None:
    """Only data files of the distribution are used, never its code."""
    assert once(server)[0] == 200
    assert "django_countries" not in sys.modules
