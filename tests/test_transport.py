"""Promises of the wire, kept through a real requests Session against real sockets on loopback."""

import contextlib
import errno
import hashlib
import resource
import socket
import ssl
import struct
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

import pycurl
import pytest
import requests
import trustme
from bodies import MemoryBody as PlainBody
from cryptography import x509
from cryptography.x509.name import _ASN1Type
from requests import exceptions as rx
from rows import row
from scripted import Answer, Drip, Raw, Request, ScriptedServer, Stall, Step, Throttle

from job.body import Body
from job.transport import CurlAdapter, NameResolutionError, TooLargeError, exception_for
from job.transport.handle import Handle, Sockets, Timeout
from job.transport.transfer import Transfer

OK = b"HTTP/1.1 200 OK\r\n"
HUGE = bytes(64 << 20)
IN_FLIGHT = 24 << 20
"""More than the socket buffers of both sides can hold."""


class MemoryBody(PlainBody):
    """A body in memory; `started` tells that something came."""

    def __init__(self) -> None:
        self.started = threading.Event()
        super().__init__()

    def write(self, data: bytes, /) -> int:
        """Keep it."""
        self.started.set()
        return super().write(data)


class FullDisk(MemoryBody):
    """A body that cannot be written."""

    fault = OSError(errno.ENOSPC, "No space left on device")

    def write(self, _: bytes, /) -> int:
        """Fail."""
        raise self.fault


class TornDisk(MemoryBody):
    """A body that cannot be read back."""

    fault = OSError(errno.EIO, "Input/output error")

    def rewind(self) -> None:
        """Fail."""
        raise self.fault


class Client:
    """A Session with the adapter mounted, that follows nothing and reads no environment."""

    def __init__(
        self, new_body: Callable[[], Body] = MemoryBody, max_bytes: int = 1 << 20, attempt_timeout: float = 20
    ) -> None:
        self.adapter = CurlAdapter(new_body=new_body, max_bytes=max_bytes)
        self.attempt_timeout = attempt_timeout
        self.session = requests.Session()
        self.session.trust_env = False
        self.session.mount("http://", self.adapter)
        self.session.mount("https://", self.adapter)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.session.close()

    def get(
        self, url: str, *, timeout: Timeout = (5, 5), verify: bool | str = True, proxy: str | None = None
    ) -> requests.Response:
        """Send a GET as the job does."""
        request = requests.Request("GET", url, headers={"Accept-Encoding": "identity"}).prepare()
        proxies = {"http": proxy, "https": proxy} if proxy else {}
        connect, silence = timeout if isinstance(timeout, tuple) else (timeout, timeout)
        limits: Any = (connect, silence, self.attempt_timeout)  # requests' stubs know two
        return self.session.send(
            request, stream=True, allow_redirects=False, timeout=limits, verify=verify, proxies=proxies
        )

    def send(self, request: requests.PreparedRequest) -> requests.Response:
        """Send a request as it is."""
        return self.session.send(request, stream=True, allow_redirects=False)

    def failure(
        self, url: str, *, timeout: Timeout = (5, 5), verify: bool | str = True, proxy: str | None = None
    ) -> Exception:
        """Give the exception that a GET ends in."""
        with pytest.raises(OSError) as caught:
            self.get(url, timeout=timeout, verify=verify, proxy=proxy)
        return caught.value


def bodies() -> tuple[list[MemoryBody], Callable[[], MemoryBody]]:
    """Give a factory of bodies, and the list of what it made."""
    made: list[MemoryBody] = []

    def make() -> MemoryBody:
        made.append(MemoryBody())
        return made[-1]

    return made, make


def descriptors() -> set[str]:
    """Give the names of this process's open descriptors."""
    return {entry.name for entry in Path("/proc/self/fd").iterdir()}


@pytest.fixture
def client() -> Iterator[Client]:
    """Give a client with the ordinary limits."""
    with Client() as made:
        yield made


@pytest.fixture
def closed_port() -> int:
    """Give a port where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


# Good answers


def test_a_good_answer_is_given_whole(client: Client) -> None:
    """Status, reason, headers, encoding, body, URL and request of a 200 are those that were sent."""
    answer = Answer(headers={"Content-Type": "text/plain; charset=utf-8", "ETag": '"1"'}, body=b"flag")
    with ScriptedServer({"/cn": answer}) as server:
        response = client.get(server.url("/cn"))
    assert (response.status_code, response.reason, response.encoding) == (200, "OK", "utf-8")
    assert dict(response.headers) == {**answer.headers, "Content-Length": "4"}
    assert response.headers["etag"] == '"1"'
    assert (response.url, response.request.method) == (server.url("/cn"), "GET")
    assert response.raw.read() == b"flag"


def test_the_adapter_is_complete_without_a_session(client: Client) -> None:
    """What a Session would add of itself is there already: the time taken, and the adapter as the connection."""
    with ScriptedServer({"/cn": Answer()}) as server:
        response = client.adapter.send(requests.Request("GET", server.url("/cn")).prepare())
    assert response.elapsed.total_seconds() > 0
    assert vars(response)["connection"] is client.adapter


def test_nothing_holds_on_to_a_body() -> None:
    """A body that was handed out is gone with its answer, at once: no handle and no cycle keeps it."""
    with Client() as client, ScriptedServer({"/cn": Answer(body=b"flag")}) as server:
        response = client.get(server.url("/cn"))
        kept = weakref.ref(response.raw)
        assert kept() is not None
        del response
        assert kept() is None


def test_requests_reads_the_body_as_any_other(client: Client) -> None:
    """`content` and `iter_content` give the body."""
    with ScriptedServer({"/cn": Answer(body=b"flag")}) as server:
        assert client.get(server.url("/cn")).content == b"flag"
        assert list(client.get(server.url("/cn")).iter_content(3)) == [b"fla", b"g"]


def test_the_body_is_the_one_that_was_handed_in() -> None:
    """`raw` is the body from the factory, open, with its facts known."""
    made, new_body = bodies()
    with Client(new_body) as client, ScriptedServer({"/cn": Answer(body=b"GIF89a")}) as server:
        response = client.get(server.url("/cn"))
    assert response.raw is made[0]
    assert (made[0].size, made[0].head, made[0].closed) == (6, b"GIF89a", False)


def test_an_empty_answer_has_an_empty_body() -> None:
    """A 200 without a byte gets a body of its own all the same."""
    made, new_body = bodies()
    with Client(new_body) as client, ScriptedServer({"/cn": Answer()}) as server:
        assert client.get(server.url("/cn")).raw.read() == b""
    assert [body.size for body in made] == [0]


def test_a_chunked_body_is_put_together(client: Client) -> None:
    """Chunks are joined, and trailers overwrite no header."""
    head = OK + b"Transfer-Encoding: chunked\r\nX-Late: early\r\n\r\n"
    with ScriptedServer({"/cn": Raw(head + b"2\r\nfl\r\n2\r\nag\r\n0\r\nX-Late: late\r\n\r\n")}) as server:
        response = client.get(server.url("/cn"))
    assert (response.content, response.headers["X-Late"]) == (b"flag", "early")


def test_a_body_may_end_with_its_connection(client: Client) -> None:
    """Without a length the end of the connection is the end of the body (whether it is whole, others must tell)."""
    with ScriptedServer({"/cn": Raw(OK + b"\r\nflag")}) as server:
        assert client.get(server.url("/cn")).content == b"flag"


def test_repeated_headers_are_joined(client: Client) -> None:
    """A header that comes twice is one, divided by a comma; bytes beyond ASCII are Latin-1."""
    with ScriptedServer({"/cn": Raw(OK + b"Vary: a\r\nvary: b\r\nX: \xe9\r\n\r\n")}) as server:
        response = client.get(server.url("/cn"))
    assert (response.headers["Vary"], response.headers["X"]) == ("a, b", "é")


@pytest.mark.parametrize("status_line", [b"HTTP/1.1 200\r\n", b"HTTP/1.0 200 \r\n"])
def test_a_reason_is_optional(client: Client, status_line: bytes) -> None:
    """A status line without a reason is good."""
    with ScriptedServer({"/cn": Raw(status_line + b"\r\nflag")}) as server:
        response = client.get(server.url("/cn"))
    assert (response.status_code, response.reason, response.content) == (200, "", b"flag")


def test_only_the_last_header_block_counts(client: Client) -> None:
    """100 Continue and 103 Early Hints are passed over, with their headers."""
    early = b"HTTP/1.1 100 Continue\r\n\r\n" * 20 + b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"
    with ScriptedServer({"/cn": Raw(early + OK + b"Content-Length: 4\r\n\r\nflag")}) as server:
        response = client.get(server.url("/cn"))
    assert (response.status_code, dict(response.headers), response.content) == (200, {"Content-Length": "4"}, b"flag")


def test_long_headers_are_taken(client: Client) -> None:
    """A header of 70 kB and two hundred headers are no fault."""
    many = b"".join(b"X-%d: a\r\n" % number for number in range(200))
    with ScriptedServer({"/cn": Raw(OK + b"X: " + b"a" * 70_000 + b"\r\n" + many + b"\r\nflag")}) as server:
        response = client.get(server.url("/cn"))
    assert (len(response.headers["X"]), len(response.headers), response.content) == (70_000, 201, b"flag")


@row(31)
def test_nothing_is_decoded(client: Client) -> None:
    """A body that says it is gzip, bomb or stump or neither, comes as it was sent."""
    with ScriptedServer({"/cn": Answer(headers={"Content-Encoding": "gzip"}, body=b"\x1f\x8b cut")}) as server:
        response = client.get(server.url("/cn"))
    assert response.raw.read() == b"\x1f\x8b cut"


def test_trailers_are_no_headers() -> None:
    """What comes in the form of headers after the final ones changes nothing, whatever it says."""
    transfer = Transfer(MemoryBody, 10)
    for line in (b"HTTP/1.1 200 OK\r\n", b"X: a\r\n", b"\r\n", b"HTTP/1.1 404 Gone\r\n", b"X: b\r\n", b"\r\n"):
        assert transfer.on_header(line) is None
    assert (transfer.status, dict(transfer.headers)) == (200, {"X": "a"})


# The request


def test_the_request_goes_out_as_prepared(client: Client) -> None:
    """Target (query, escapes and dot segments included) and headers are the prepared ones, and no more."""
    prepared = requests.Request("GET", "http://x/", headers={"Accept-Encoding": "identity", "X-Empty": ""}).prepare()
    with ScriptedServer({}) as server:
        prepared.url = server.url("/a/../b/%2E%2E/%C3%A9?q=%20&r=1")
        client.send(prepared)
    assert server.requests[0].head == (
        b"GET /a/../b/%2E%2E/%C3%A9?q=%20&r=1 HTTP/1.1\r\n"
        b"Host: 127.0.0.1:" + str(server.port).encode() + b"\r\nAccept-Encoding: identity\r\nX-Empty:\r\n"
    )


def test_prepared_headers_replace_libcurls_own(client: Client) -> None:
    """Accept, User-Agent, Host and Authorization are sent once, as prepared; user info in the URL adds nothing."""
    headers = {"Accept": "image/*", "User-Agent": "flagjob/1", "Host": "flags.test", "Authorization": "Bearer t"}
    prepared = requests.Request("GET", "http://x/", headers=headers).prepare()
    with ScriptedServer({}) as server:
        prepared.url = f"http://user:pass@127.0.0.1:{server.port}/"
        client.send(prepared)
        del prepared.headers["Authorization"]
        client.send(prepared)
    first, second = (request.headers for request in server.requests)
    assert first == {name.lower(): value for name, value in headers.items()}
    assert "authorization" not in second


def test_an_ipv6_literal_is_sent_as_it_is(client: Client) -> None:
    """A URL with an IPv6 address in brackets keeps it."""
    with ScriptedServer({"http://[::1]:8080/cn": Answer(body=b"flag")}) as proxy:
        assert client.get("http://[::1]:8080/cn", proxy=proxy.url("")).content == b"flag"
    assert proxy.requests[0].headers["host"] == "[::1]:8080"


def test_cookies_are_not_kept(client: Client) -> None:
    """What one answer sets, the next request does not send."""
    with ScriptedServer({"/cn": Answer(headers={"Set-Cookie": "id=1"})}) as server:
        client.get(server.url("/cn"))
        client.get(server.url("/cn"))
    assert "cookie" not in server.requests[1].headers


@pytest.mark.parametrize(("method", "body"), [("POST", None), ("HEAD", None), ("GET", b"x")])
def test_only_get_is_sent(client: Client, method: str, body: bytes | None) -> None:
    """Other methods and request bodies are a ValueError."""
    with pytest.raises(ValueError) as caught:
        client.send(requests.Request(method, "http://127.0.0.1:9/", data=body).prepare())
    assert (type(caught.value), str(caught.value)) == (ValueError, "only GET without a body is sent")


@row(15)
def test_verification_cannot_be_turned_off(client: Client) -> None:
    """`verify=False` is a ValueError."""
    with pytest.raises(ValueError) as caught:
        client.get("https://127.0.0.1:9/", verify=False)
    assert (type(caught.value), str(caught.value)) == (ValueError, "TLS verification cannot be turned off")


def test_client_certificates_are_not_silently_left_out(client: Client) -> None:
    """`cert` is a ValueError."""
    request = requests.Request("GET", "https://127.0.0.1:9/").prepare()
    with pytest.raises(ValueError) as caught:
        client.session.send(request, cert="my.pem")
    assert (type(caught.value), str(caught.value)) == (ValueError, "client certificates are not supported")


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://127.0.0.1/", "gopher://127.0.0.1/", ""])
def test_only_http_is_spoken(client: Client, url: str) -> None:
    """Other schemes are an InvalidSchema."""
    request = requests.Request("GET", "http://x/").prepare()
    request.url = url
    with pytest.raises(rx.InvalidSchema):
        client.adapter.send(request)


def test_a_bad_url_is_an_invalid_url(client: Client) -> None:
    """What libcurl cannot read as a URL is InvalidURL."""
    request = requests.Request("GET", "http://x/").prepare()
    request.url = "http://[::1/"
    with pytest.raises(rx.InvalidURL):
        client.adapter.send(request)


# Connections


def test_a_thread_keeps_its_connection(client: Client) -> None:
    """Requests of one thread share a connection, whatever the small answers between them were."""
    script: dict[str, Step] = {"/cn": Answer(body=b"flag")}
    script |= {f"/{status}": Answer(status) for status in (204, 302, 304)}
    script |= {f"/{status}": Answer(status, body=b"sorry") for status in (206, 404, 500, 600, 999)}
    with ScriptedServer(script) as server:
        statuses = [client.get(server.url(path)).status_code for path in script]
    assert statuses == [200, 204, 302, 304, 206, 404, 500, 600, 999]
    assert server.connections == 1


def test_each_thread_has_a_connection_of_its_own() -> None:
    """Eight threads that are at it at the same time use eight connections, however many files they fetch."""
    together = threading.Barrier(8)

    def meet(_: Request) -> Step:
        together.wait(10)
        return Answer(body=b"flag")

    with Client() as client, ScriptedServer({"/cn": meet}) as server, ThreadPoolExecutor(8) as pool:
        contents = list(pool.map(lambda _: client.get(server.url("/cn")).content, range(80)))
    assert contents == [b"flag"] * 80
    assert server.connections == 8


@row(8)
@pytest.mark.parametrize("end", ["FIN", "RST"])
def test_a_stale_connection_is_replaced(client: Client, end: str) -> None:
    """A kept connection that the server has closed costs no item: the request goes out on a new one."""
    first = Raw(OK + b"Content-Length: 4\r\n\r\nflag", reset=end == "RST")
    with ScriptedServer({"/cn": [first, Answer(body=b"flag")]}) as server:
        assert [client.get(server.url("/cn")).content for _ in range(2)] == [b"flag", b"flag"]
    assert server.connections == 2


def test_closing_leaves_no_descriptor() -> None:
    """After `close` every connection is closed, and nothing can be sent."""
    before = descriptors()
    with Client() as client:
        with ScriptedServer({"/cn": Answer()}) as server:
            client.get(server.url("/cn"))
            client.adapter.close()
            error = client.failure(server.url("/cn"))
        assert descriptors() == before
    assert type(error) is rx.ConnectionError
    assert len(server.requests) == 1


# Faults of the network

FAULTS: dict[str, tuple[Step, type[Exception]]] = {
    "FIN before the status line": (Raw(b""), rx.ConnectionError),
    "RST before the status line": (Raw(b"", reset=True), rx.ConnectionError),
    "FIN inside a header": (Raw(OK + b"Content-Le"), rx.ConnectionError),
    "FIN after a header": (Raw(OK + b"Content-Type: image/gif\r\n"), rx.ConnectionError),
    "FIN after 100 Continue": (Raw(b"HTTP/1.1 100 Continue\r\n\r\n"), rx.ConnectionError),
    "RST inside the headers": (Raw(OK + b"A: b\r\n", reset=True), rx.ConnectionError),
    "RST in the body": (Raw(OK + b"Content-Length: 9\r\n\r\nabc", reset=True), rx.ConnectionError),
    "RST in a body without a length": (Raw(OK + b"\r\nabc", reset=True), rx.ConnectionError),
    "101 unasked": (Raw(b"HTTP/1.1 101 Switching Protocols\r\n\r\n"), rx.ConnectionError),
    "shorter than its length": (Raw(OK + b"Content-Length: 9\r\n\r\nabc"), rx.ChunkedEncodingError),
    "chunk cut": (Raw(OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nabc"), rx.ChunkedEncodingError),
    "no last chunk": (Raw(OK + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"), rx.ChunkedEncodingError),
    "two lengths": (Raw(OK + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\nabc"), rx.InvalidHeader),
    "negative length": (Raw(OK + b"Content-Length: -2\r\n\r\nabc"), rx.InvalidHeader),
    "length in words": (Raw(OK + b"Content-Length: two\r\n\r\nabc"), rx.InvalidHeader),
    "header without a colon": (Raw(OK + b"garbage\r\n\r\nabc"), rx.InvalidHeader),
    "header of 120 kB": (Raw(OK + b"X: " + b"a" * 120_000 + b"\r\n\r\nabc"), rx.InvalidHeader),
    "6,000 headers": (Raw(OK + b"X: a\r\n" * 6_000 + b"\r\nabc"), rx.InvalidHeader),
    "status in words": (Raw(b"HTTP/1.1 fine\r\n\r\nabc"), rx.InvalidHeader),
    "not HTTP": (Raw(b"SSH-2.0-OpenSSH_9.2\r\n"), rx.InvalidHeader),
    "transfer coding unasked": (Raw(OK + b"Transfer-Encoding: gzip\r\n\r\nabc"), rx.ContentDecodingError),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_has_its_meaning(name: str) -> None:
    """A fault of the network is the requests exception of its meaning, never an answer, and no byte is kept."""
    step, expected = FAULTS[name]
    made, new_body = bodies()
    with Client(new_body) as client, ScriptedServer({"/cn": step}) as server:
        error = client.failure(server.url("/cn"))
    assert (type(error), str(error) != "") == (expected, True)
    assert isinstance(error, rx.RequestException)
    assert error.request is not None
    assert [body.closed for body in made] == [True] * len(made)


SLOW: dict[str, Step] = {
    "never answers": Stall(),
    "headers drip": Drip(OK + b"X: "),
    "body stalls": Stall(OK + b"Content-Length: 9\r\n\r\nabc"),
    "body drips": Drip(OK + b"\r\n"),
}


@pytest.mark.parametrize("name", SLOW)
def test_an_attempt_is_bounded(name: str) -> None:
    """However slow the answer comes, the attempt ends at its limit, as a read time-out."""
    made, new_body = bodies()
    with Client(new_body, attempt_timeout=0.3) as client, ScriptedServer({"/cn": SLOW[name]}) as server:
        error = client.failure(server.url("/cn"), timeout=None)
    assert type(error) is rx.ReadTimeout
    assert [body.closed for body in made] == [True] * len(made)


def test_silence_is_bounded(client: Client) -> None:
    """A server that falls silent for the read time-out (two seconds at least) is a read time-out, on a kept connection.

    Libcurl measures once a second: told to wait for one, it may look before it has counted what came.
    """
    with ScriptedServer({"/cn": [Answer(), Stall()]}) as server:
        client.get(server.url("/cn"), timeout=0.1)
        error = client.failure(server.url("/cn"), timeout=0.1)
    assert (type(error), server.connections) == (rx.ReadTimeout, 1)
    assert str(error).endswith("the last 2 seconds")


def test_a_steady_trickle_is_not_silence() -> None:
    """Bytes that keep coming are not taken for silence, even under the shortest read time-out."""
    drip = Drip(OK + b"\r\n", interval=0.2)
    with Client(attempt_timeout=3.5) as client, ScriptedServer({"/cn": drip}) as server:
        error = client.failure(server.url("/cn"), timeout=(5, 0.1))
    assert str(error).startswith("Operation timed out")


def test_a_refused_connection_is_a_connection_error(client: Client, closed_port: int) -> None:
    """A closed port is a ConnectionError."""
    assert type(client.failure(f"http://127.0.0.1:{closed_port}/")) is rx.ConnectionError


def test_a_dropped_connection_request_is_a_connect_timeout(client: Client) -> None:
    """A host that does not even refuse ends in a ConnectTimeout at the connect time-out."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for filler in [stack.enter_context(socket.socket()) for _ in range(3)]:  # a full backlog drops what comes next
            filler.settimeout(0)
            filler.connect_ex(listener.getsockname())
        error = client.failure(f"http://127.0.0.1:{listener.getsockname()[1]}/", timeout=(0.3, None))
    assert type(error) is rx.ConnectTimeout


def test_an_unknown_name_is_told_apart(client: Client) -> None:
    """A name without an address is a NameResolutionError, caused by what libcurl said."""
    error = client.failure("http://no..name/")
    assert type(error) is NameResolutionError
    assert isinstance(error.__cause__, pycurl.error)


# TLS


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    """Give an authority that nobody knows."""
    return trustme.CA()


def tls_for(authority: trustme.CA, name: str) -> ssl.SSLContext:
    """Give a server's context with a certificate for a name."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(context)
    return context


def subject_hash(pem: bytes) -> str:
    """Give the name that OpenSSL looks for in a directory of authorities (X509_NAME_hash: SHA-1 of lower case)."""
    subject = x509.load_pem_x509_certificate(pem).subject
    plain = [x509.NameAttribute(part.oid, str(part.value).lower(), _ASN1Type.UTF8String) for part in subject]
    digest = hashlib.sha1(x509.Name(plain).public_bytes()[2:], usedforsecurity=False).digest()
    return f"{int.from_bytes(digest[:4], 'little'):08x}.0"


def trusted(authority: trustme.CA, directory: Path) -> Path:
    """Put an authority where OpenSSL looks for it in a directory; give the file."""
    path = directory / subject_hash(authority.cert_pem.bytes())
    path.write_bytes(authority.cert_pem.bytes())
    return path


@pytest.mark.parametrize("place", ["file", "directory"])
def test_a_known_authority_is_trusted(client: Client, authority: trustme.CA, tmp_path: Path, place: str) -> None:
    """`verify` may be a file of authorities or a directory of them."""
    path = trusted(authority, tmp_path)
    with ScriptedServer({"/cn": Answer(body=b"flag")}, tls_for(authority, "127.0.0.1")) as server:
        response = client.get(server.url("/cn"), verify=str(path if place == "file" else tmp_path))
    assert response.content == b"flag"


def test_an_unknown_authority_is_a_tls_error(client: Client, authority: trustme.CA) -> None:
    """An authority that certifi does not know is an SSLError, and no request is sent."""
    with ScriptedServer({"/cn": Answer()}, tls_for(authority, "127.0.0.1")) as server:
        assert type(client.failure(server.url("/cn"))) is rx.SSLError
    assert server.requests == []


def test_another_hosts_certificate_is_a_tls_error(client: Client, authority: trustme.CA) -> None:
    """A certificate for another name is an SSLError, and no request is sent."""
    with (
        ScriptedServer({"/cn": Answer()}, tls_for(authority, "flags.test")) as server,
        authority.cert_pem.tempfile() as ca,
    ):
        assert type(client.failure(server.url("/cn"), verify=ca)) is rx.SSLError
    assert server.requests == []


def test_a_missing_bundle_is_a_tls_error(client: Client, authority: trustme.CA, tmp_path: Path) -> None:
    """A path of authorities where there is nothing is an SSLError, not a reason to trust anybody."""
    with ScriptedServer({"/cn": Answer()}, tls_for(authority, "127.0.0.1")) as server:
        error = client.failure(server.url("/cn"), verify=str(tmp_path / "none.pem"))
    assert (type(error), server.requests) == (rx.SSLError, [])


def test_authorities_are_those_of_each_request(client: Client, authority: trustme.CA) -> None:
    """A connection made under one set of authorities is not used under another."""
    with ScriptedServer({"/cn": Answer()}, tls_for(authority, "127.0.0.1")) as server:
        with authority.cert_pem.tempfile() as ca:
            assert client.get(server.url("/cn"), verify=ca).status_code == 200
        assert type(client.failure(server.url("/cn"))) is rx.SSLError


def test_a_silent_tls_peer_is_a_connect_timeout(client: Client) -> None:
    """A peer that accepts and never shakes hands ends in a ConnectTimeout at the connect time-out."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        error = client.failure(f"https://127.0.0.1:{listener.getsockname()[1]}/", timeout=(0.3, None))
    assert type(error) is rx.ConnectTimeout


HANDSHAKE_FAILURE = bytes([21, 3, 3, 0, 2, 2, 40])
"""A fatal alert (RFC 8446, 6)."""


@pytest.mark.parametrize(
    ("said", "end", "expected"),
    [
        (b"", "RST", rx.ConnectionError),
        (b"", "FIN", rx.ConnectionError),
        (HANDSHAKE_FAILURE, "FIN", rx.SSLError),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "FIN", rx.SSLError),
    ],
)
def test_a_broken_handshake_is_told_from_a_bad_one(
    client: Client, said: bytes, end: str, expected: type[Exception]
) -> None:
    """A peer that leaves without a word, as a balancer without servers does, is a ConnectionError, which passes."""
    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(1) as pool:
        leaving = pool.submit(_hear_and_leave, listener, said, end)
        error = client.failure(f"https://127.0.0.1:{listener.getsockname()[1]}/")
        leaving.result(10)
    assert type(error) is expected


def _hear_and_leave(listener: socket.socket, said: bytes, end: str) -> None:
    peer, _ = listener.accept()
    with peer:
        peer.recv(1 << 16)
        peer.sendall(said)
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", end == "RST", 0))


# Proxies


@row(17)
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_dead_proxy_is_never_passed_by(client: Client, closed_port: int, scheme: str) -> None:
    """A proxy that refuses is a ProxyError, and the origin hears nothing."""
    with ScriptedServer({"/cn": Answer()}) as server:
        error = client.failure(f"{scheme}://127.0.0.1:{server.port}/cn", proxy=f"http://127.0.0.1:{closed_port}")
    assert (type(error), server.connections) == (rx.ProxyError, 0)


@row(17)
@pytest.mark.parametrize(
    "answer", [b"HTTP/1.1 403 Forbidden\r\n\r\n", b"HTTP/1.1 407 Who?\r\n\r\n", b"junk\r\n\r\n", b""]
)
def test_a_proxy_that_makes_no_tunnel_is_a_proxy_error(client: Client, answer: bytes) -> None:
    """A CONNECT that is refused, garbled or cut is a ProxyError."""
    with ScriptedServer({"flags.test:443": Raw(answer)}) as proxy:
        error = client.failure("https://flags.test/cn", proxy=proxy.url(""))
    assert type(error) is rx.ProxyError


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_proxy_without_an_address_is_a_proxy_error(client: Client, scheme: str) -> None:
    """A proxy whose name cannot be resolved is a ProxyError."""
    assert type(client.failure(f"{scheme}://flags.test/cn", proxy="http://no..name:3128")) is rx.ProxyError


def test_what_comes_through_a_proxy_is_the_answer(client: Client) -> None:
    """An http URL is asked of the proxy in full; its 403 is an answer like any other."""
    script = {"http://flags.test/cn": Answer(body=b"flag"), "http://flags.test/us": Answer(403)}
    with ScriptedServer(script) as proxy:
        assert client.get("http://flags.test/cn", proxy=proxy.url("")).content == b"flag"
        assert client.get("http://flags.test/us", proxy=proxy.url("")).status_code == 403


@pytest.mark.parametrize("place", ["file", "directory"])
def test_a_proxy_may_be_spoken_to_over_tls(client: Client, authority: trustme.CA, tmp_path: Path, place: str) -> None:
    """The authorities that `verify` names hold for an https proxy too, and no others."""
    path = trusted(authority, tmp_path)
    verify, script = str(path if place == "file" else tmp_path), {"http://flags.test/cn": Answer(body=b"flag")}
    with ScriptedServer(script, tls_for(authority, "127.0.0.1")) as proxy:
        assert client.get("http://flags.test/cn", verify=verify, proxy=proxy.url("")).content == b"flag"
        assert type(client.failure("http://flags.test/cn", proxy=proxy.url(""))) is rx.SSLError


def test_a_fault_behind_a_proxy_is_not_the_proxys(client: Client) -> None:
    """Once the request is sent, an answer that is cut is a ConnectionError."""
    with ScriptedServer({"http://flags.test/cn": Raw(b"")}) as proxy:
        assert type(client.failure("http://flags.test/cn", proxy=proxy.url(""))) is rx.ConnectionError


def test_a_tunnel_leaves_no_trace_in_the_answer(client: Client, authority: trustme.CA) -> None:
    """Through a tunnel the answer has the origin's status and headers only, and the proxy learns the host only."""
    context = tls_for(authority, "127.0.0.1")
    with ScriptedServer({"/cn": Answer(body=b"flag")}, context) as server, Tunnel(server.port) as proxy:
        with authority.cert_pem.tempfile() as ca:
            response = client.get(server.url("/cn"), verify=ca, proxy=f"http://127.0.0.1:{proxy.port}")
        assert (response.content, dict(response.headers)) == (b"flag", {"Content-Length": "4"})
        client.adapter.close()
    host = f"127.0.0.1:{server.port}"
    assert proxy.head == f"CONNECT {host} HTTP/1.1\r\nHost: {host}\r\nProxy-Connection: Keep-Alive\r\n\r\n"


class Tunnel:
    """A proxy for one CONNECT to a port of this machine."""

    def __init__(self, port: int) -> None:
        self._origin = port
        self.head = ""

    def __enter__(self) -> Self:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._pool = ThreadPoolExecutor(2)
        self._served = self._pool.submit(self._serve)
        return self

    def __exit__(self, *_: object) -> None:
        self._served.result(10)
        self._pool.shutdown()
        self._listener.close()

    def _serve(self) -> None:
        client, _ = self._listener.accept()
        with client, socket.create_connection(("127.0.0.1", self._origin)) as origin:
            while not self.head.endswith("\r\n\r\n"):
                self.head += client.recv(1 << 16).decode()
            client.sendall(b"HTTP/1.1 200 Connected\r\nX-Proxy: yes\r\n\r\n")
            back = self._pool.submit(_pump, origin, client)
            _pump(client, origin)
            back.result(10)


def _pump(source: socket.socket, sink: socket.socket) -> None:
    """Carry bytes one way until that way is closed."""
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)


def test_libcurl_finds_no_proxy_by_itself(client: Client, closed_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Proxy variables in the environment (which libcurl would read, so they must be there) change nothing."""
    for name in ("http_proxy", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{closed_port}")
    with ScriptedServer({"/cn": Answer(body=b"flag")}) as server:
        assert client.get(server.url("/cn")).content == b"flag"


def test_libcurl_passes_by_no_proxy_by_itself(
    client: Client, closed_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NO_PROXY in the environment (likewise) does not make libcurl leave out the proxy that it was given."""
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "*")
    with ScriptedServer({"/cn": Answer()}) as server:
        error = client.failure(server.url("/cn"), proxy=f"http://127.0.0.1:{closed_port}")
    assert (type(error), server.connections) == (rx.ProxyError, 0)


def test_credentials_are_only_those_that_were_prepared(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A .netrc in the home directory (libcurl finds it by the environment) is not read."""
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login me password secret\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    with ScriptedServer({}) as server:
        client.get(server.url())
    assert "authorization" not in server.requests[0].headers


# Bounded memory


@row(28)
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirects_body_is_not_read(client: Client, status: int) -> None:
    """64 MB behind a redirect stay where they are; status and headers come, and the body is empty."""
    with ScriptedServer({"/cn": Answer(status, {"Location": "/us"}, HUGE)}) as server:
        response = client.get(server.url("/cn"))
    assert (response.status_code, response.headers["Location"], response.content) == (status, "/us", b"")
    assert server.sent < IN_FLIGHT


def test_no_redirect_is_followed(client: Client) -> None:
    """Following is not the wire's business."""
    with ScriptedServer({"/cn": Answer(302, {"Location": "/us"}), "/us": Answer()}) as server:
        assert client.get(server.url("/cn")).status_code == 302
    assert [request.target for request in server.requests] == ["/cn"]


def test_a_redirect_is_not_waited_for(client: Client) -> None:
    """A redirect whose body never comes is there at once, without a time-out's help."""
    head = b"HTTP/1.1 302 Found\r\nLocation: /us\r\nContent-Length: 5\r\n\r\n"
    with ScriptedServer({"/cn": Stall(head)}) as server:
        assert client.get(server.url("/cn"), timeout=None).headers["Location"] == "/us"


@pytest.mark.parametrize("status", [206, 404, 500])
def test_other_bodies_are_broken_off(status: int) -> None:
    """Of what comes with an answer that is not 200, only the beginning is read, and nothing is kept."""
    made, new_body = bodies()
    with Client(new_body, max_bytes=1 << 30) as client, ScriptedServer({"/cn": Answer(status, body=HUGE)}) as server:
        response = client.get(server.url("/cn"))
    assert (response.status_code, response.content, made) == (status, b"", [])
    assert server.sent < IN_FLIGHT


@pytest.mark.parametrize("end", [Raw(b"", reset=True), Stall(), Raw(b"")])
def test_a_status_stands_however_its_body_ends(end: Raw | Stall) -> None:
    """A 503 is a 503, also when its body is cut, stalls, or exceeds the cap of files."""
    head = b"HTTP/1.1 503 Busy\r\nRetry-After: 7\r\nContent-Length: 99\r\n\r\nsorry"
    step = Stall(head) if isinstance(end, Stall) else Raw(head, reset=end.reset)
    for max_bytes in (10, 1000):
        with Client(max_bytes=max_bytes, attempt_timeout=0.3) as client, ScriptedServer({"/cn": step}) as server:
            response = client.get(server.url("/cn"))
        assert (response.status_code, response.headers["Retry-After"]) == (503, "7")


@row(33)
@pytest.mark.parametrize(
    "head",
    [
        b"Content-Length: 67108864\r\n",
        b"Content-Length: 99999999999999999999999999\r\n",
        b"",
        b"Transfer-Encoding: chunked\r\n",
    ],
)
def test_a_body_over_the_cap_is_too_large(head: bytes) -> None:
    """More than `max_bytes`, declared or not, is a TooLargeError; the rest is not read and nothing is kept."""
    made, new_body = bodies()
    body = b"4000000\r\n" + HUGE if b"chunked" in head else HUGE
    with Client(new_body, max_bytes=1000) as client, ScriptedServer({"/cn": Raw(OK + head + b"\r\n" + body)}) as server:
        error = client.failure(server.url("/cn"))
    assert type(error) is TooLargeError
    assert server.sent < IN_FLIGHT
    assert [(body.closed, body.size <= 1000) for body in made] == [(True, True)] * len(made)


@row(33)
def test_a_declared_excess_is_not_waited_for() -> None:
    """A length over the cap is enough: TooLargeError before a byte of the body came."""
    head = OK + b"Content-Length: 1001\r\n\r\n"
    with Client(max_bytes=1000) as client, ScriptedServer({"/cn": Stall(head)}) as server:
        assert type(client.failure(server.url("/cn"), timeout=None)) is TooLargeError


def test_a_body_of_just_the_cap_is_taken() -> None:
    """`max_bytes` bytes are not too many, with a length or without."""
    with Client(max_bytes=1000) as client:
        for step in (Answer(body=bytes(1000)), Raw(OK + b"\r\n" + bytes(1000))):
            with ScriptedServer({"/cn": step}) as server:
                assert len(client.get(server.url("/cn")).content) == 1000


def test_the_cap_does_not_rest_on_libcurl() -> None:
    """Libcurl before 8.20 counts only declared lengths: the callback itself breaks off one byte over the cap."""
    transfer = Transfer(MemoryBody, 10)
    transfer.on_header(b"HTTP/1.1 200 OK\r\n")
    transfer.on_header(b"\r\n")
    assert (transfer.on_body(bytes(10)), transfer.on_body(b"!")) == (None, 0)
    assert exception_for(pycurl.E_WRITE_ERROR) is TooLargeError


# Faults of this machine


@pytest.mark.parametrize("kind", [FullDisk, TornDisk])
def test_a_disk_that_fails_comes_out_unchanged(kind: type[FullDisk | TornDisk]) -> None:
    """What the body raises, on writing or on rewinding, is raised as it is, and the body is thrown away."""
    made: list[FullDisk | TornDisk] = []

    def new_body() -> FullDisk | TornDisk:
        made.append(kind())
        return made[-1]

    with Client(new_body) as client, ScriptedServer({"/cn": Answer(body=b"flag")}) as server:
        assert client.failure(server.url("/cn")) is kind.fault
    assert [body.closed for body in made] == [True]


@pytest.mark.parametrize("body", [b"flag", b""])
def test_no_room_for_a_body_comes_out_unchanged(body: bytes) -> None:
    """What the factory of bodies raises is raised, as it is; the next transfer is none the worse."""
    fault = OSError(errno.EROFS, "Read-only file system")
    turns: list[OSError | None] = [fault, None]

    def new_body() -> MemoryBody:
        if refusal := turns.pop(0):
            raise refusal
        return MemoryBody()

    with Client(new_body) as client, ScriptedServer({"/cn": Answer(body=body)}) as server:
        assert client.failure(server.url("/cn")) is fault
        assert client.get(server.url("/cn")).content == body


@pytest.mark.parametrize("host", ["127.0.0.1", "flags.test"])
def test_too_many_open_files_is_not_the_networks_fault(client: Client, host: str) -> None:
    """Without descriptors for a socket or a look-up an OSError comes out, which is no exception of requests."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    client.failure("http://no..name/")  # whatever is opened once is open now
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        error = client.failure(f"http://{host}:9/")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert (type(error), isinstance(error, OSError) and error.errno) == (OSError, errno.EMFILE)
    assert type(client.failure(f"http://{host}:9/")) in {rx.ConnectionError, NameResolutionError}


def test_only_a_shortage_is_a_local_limit() -> None:
    """A socket refused for another reason (no IPv6 here) is an address that cannot be reached, no more."""
    handle = Handle(Sockets(), 1)
    address = pycurl.CurlSockAddr(family=9999, socktype=socket.SOCK_STREAM, protocol=0, addr=("127.0.0.1", 9))
    assert handle._open_socket(0, address) == pycurl.SOCKET_BAD  # noqa: SLF001  (libcurl calls it)
    assert handle._shortage is None  # noqa: SLF001  (what a transfer would raise)


# Stopping


@pytest.mark.parametrize("step", [Stall(), Stall(OK), Stall(OK + b"Content-Length: 9\r\n\r\nabc")])
def test_a_stop_breaks_what_is_under_way(client: Client, step: Step) -> None:
    """`interrupt` ends a transfer that waits, wherever it waits, with a ConnectionError."""
    with ScriptedServer({"/cn": step}) as server, ThreadPoolExecutor(1) as pool:
        failing = pool.submit(client.failure, server.url("/cn"), timeout=None)
        server.wait_for(1)
        client.adapter.interrupt()
        error = failing.result(10)
    assert type(error) is rx.ConnectionError
    assert str(error) == "interrupted: no transfer may go on"


def test_a_stop_makes_no_stump_a_whole() -> None:
    """A body without a length that a stop ends looks whole to libcurl; it is a ConnectionError all the same."""
    body = MemoryBody()
    stump = Stall(OK + b"\r\nfla")
    with Client(lambda: body) as client, ScriptedServer({"/cn": stump}) as server, ThreadPoolExecutor(1) as pool:
        failing = pool.submit(client.failure, server.url("/cn"), timeout=None)
        assert body.started.wait(10)
        client.adapter.interrupt()
        error = failing.result(10)
    assert (type(error), body.closed) == (rx.ConnectionError, True)


def test_a_stop_breaks_a_tls_handshake(client: Client) -> None:
    """`interrupt` ends a connection that is being made."""
    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(1) as pool:
        failing = pool.submit(client.failure, f"https://127.0.0.1:{listener.getsockname()[1]}/", timeout=None)
        peer, _ = listener.accept()
        with peer:
            peer.recv(1)
            client.adapter.interrupt()
            error = failing.result(10)
    assert type(error) is rx.ConnectionError


def test_nothing_starts_after_a_stop(client: Client) -> None:
    """After `interrupt` a new request is a ConnectionError at once, in any thread, and never sent."""
    with ScriptedServer({"/cn": Answer()}) as server, ThreadPoolExecutor(1) as pool:
        client.get(server.url("/cn"))
        client.adapter.interrupt()
        errors = [client.failure(server.url("/cn")), pool.submit(client.failure, server.url("/cn")).result(10)]
    assert [type(error) for error in errors] == [rx.ConnectionError] * 2
    assert len(server.requests) == 1


def test_a_stop_refuses_connections_that_are_about_to_be_made() -> None:
    """A transfer that was let in just before the stop gets no socket after it."""
    sockets = Sockets()
    sockets.interrupt()
    address = pycurl.CurlSockAddr(family=socket.AF_INET, socktype=socket.SOCK_STREAM, protocol=0, addr=("127.0.0.1", 9))
    assert sockets.open(address) == pycurl.SOCKET_BAD


def test_closing_while_a_transfer_is_under_way_ends_it(client: Client) -> None:
    """`close` from another thread breaks a transfer; its own thread closes its handle and with it the connection."""
    before = descriptors()
    gate = threading.Event()
    with ScriptedServer({"/cn": Throttle(gate, Answer())}) as server, ThreadPoolExecutor(1) as pool:
        failing = pool.submit(client.failure, server.url("/cn"), timeout=None)
        server.wait_for(1)
        client.adapter.close()
        error = failing.result(10)
    assert type(error) is rx.ConnectionError
    assert descriptors() == before


@row(51)
def test_closing_while_something_is_being_written_waits_for_nobody() -> None:
    """A handle whose callback is at work is left to its own thread: libcurl's memory is nobody else's."""
    entered, release = threading.Event(), threading.Event()

    class Slow(MemoryBody):
        def write(self, data: bytes, /) -> int:
            entered.set()
            release.wait(10)
            return super().write(data)

    before = descriptors()
    with Client(Slow) as client, ScriptedServer({"/cn": Answer(body=b"flag")}) as server, ThreadPoolExecutor(1) as pool:
        failing = pool.submit(client.failure, server.url("/cn"))
        assert entered.wait(10)
        client.adapter.close()
        release.set()
        error = failing.result(10)
    assert type(error) is rx.ConnectionError
    assert descriptors() == before


def test_closing_at_any_moment_harms_nobody() -> None:
    """A hundred times in the midst of four threads' transfers: each ends in a ConnectionError, none in a crash."""

    def repeat(client: Client, url: str, served: threading.Event) -> Exception:
        try:
            while client.get(url).content == b"flag":
                served.set()
        except rx.RequestException as error:
            return error
        raise AssertionError("another body")

    with ScriptedServer({"/cn": Answer(body=b"flag")}) as server, ThreadPoolExecutor(4) as pool:
        for _ in range(100):
            with Client() as client:
                served = threading.Event()
                ended = [pool.submit(repeat, client, server.url("/cn"), served) for _ in range(4)]
                assert served.wait(10)
            assert {type(end.result(10)) for end in ended} == {rx.ConnectionError}


# Meanings

MEANINGS: dict[str, type[Exception]] = {
    "E_UNSUPPORTED_PROTOCOL": rx.InvalidHeader,
    "E_URL_MALFORMAT": rx.InvalidURL,
    "E_COULDNT_RESOLVE_PROXY": rx.ProxyError,
    "E_COULDNT_RESOLVE_HOST": NameResolutionError,
    "E_COULDNT_CONNECT": rx.ConnectionError,
    "E_FTP_WEIRD_SERVER_REPLY": rx.InvalidHeader,
    "E_HTTP2": rx.ConnectionError,
    "E_PARTIAL_FILE": rx.ChunkedEncodingError,
    "E_HTTP_RETURNED_ERROR": rx.HTTPError,
    "E_WRITE_ERROR": TooLargeError,
    "E_OPERATION_TIMEDOUT": rx.ReadTimeout,
    "E_SSL_CONNECT_ERROR": rx.SSLError,
    "E_TOO_MANY_REDIRECTS": rx.TooManyRedirects,
    "E_GOT_NOTHING": rx.ConnectionError,
    "E_SEND_ERROR": rx.ConnectionError,
    "E_RECV_ERROR": rx.ConnectionError,
    "E_SSL_CERTPROBLEM": rx.SSLError,
    "E_SSL_CIPHER": rx.SSLError,
    "E_PEER_FAILED_VERIFICATION": rx.SSLError,
    "E_BAD_CONTENT_ENCODING": rx.ContentDecodingError,
    "E_FILESIZE_EXCEEDED": TooLargeError,
    "E_SSL_CACERT_BADFILE": rx.SSLError,
    "E_SSL_CRL_BADFILE": rx.SSLError,
    "E_SSL_ISSUER_ERROR": rx.SSLError,
    "E_SSL_PINNEDPUBKEYNOTMATCH": rx.SSLError,
    "E_SSL_INVALIDCERTSTATUS": rx.SSLError,
    "E_NO_CONNECTION_AVAILABLE": rx.ConnectionError,
}
CODES = sorted(name for name in dir(pycurl) if name.startswith("E_") and not name.startswith("E_MULTI_"))


@pytest.mark.parametrize("name", CODES)
def test_every_code_has_a_meaning(name: str) -> None:
    """Each error that libcurl knows is an exception of requests."""
    assert issubclass(exception_for(getattr(pycurl, name)), rx.RequestException)


@pytest.mark.parametrize("name", MEANINGS)
def test_a_code_has_the_expected_meaning(name: str) -> None:
    """Errors that can happen here have the class that says what they mean."""
    assert exception_for(getattr(pycurl, name)) is MEANINGS[name]


@pytest.mark.parametrize("word", ["SSL", "CONNECT", "RESOLVE", "TIMEDOUT", "SEND_ERROR", "RECV_ERROR"])
def test_no_connection_code_is_left_without_a_class(word: str) -> None:
    """Every code that speaks of connections or TLS has a class of its own."""
    codes = {getattr(pycurl, name): name for name in CODES if word in name and "FTP" not in name}
    assert {name for code, name in codes.items() if exception_for(code) is rx.RequestException} == set()


@pytest.mark.parametrize(
    ("code", "expected"), [(92, rx.ConnectionError), (97, rx.ProxyError), (98, rx.SSLError), (100, rx.InvalidHeader)]
)
def test_codes_without_a_name_have_a_meaning(code: int, expected: type[Exception]) -> None:
    """Codes that pycurl does not name yet have their class too."""
    assert exception_for(code) is expected
