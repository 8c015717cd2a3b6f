"""The transport's promises, tested through a real requests Session against real sockets on loopback."""

import contextlib
import errno
import gzip
import hashlib
import pickle
import resource
import socket
import ssl
import struct
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ParamSpec, Self, TypeVar

import pycurl
import pytest
import requests
import trustme
from bodies import MemoryBody
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.x509.name import _ASN1Type
from requests import exceptions as rx
from requests.structures import CaseInsensitiveDict
from rows import row
from scripted import Answer, Drip, Hold, Raw, Request, ScriptedServer, Stall, Step

from job.body import Body
from job.cancellation import Cancellation
from job.greenlet_executor import GreenletExecutor
from job.transport import (
    CurlAdapter,
    CurlRequest,
    NameResolutionError,
    TooLargeError,
    Transfers,
    exception_for,
    header_lines,
)
from job.transport.handle import BlockingTransfers, Handle, Timeout
from job.transport.transfer import Transfer

P = ParamSpec("P")
T = TypeVar("T")

OK = b"HTTP/1.1 200 OK\r\n"
BOUND = 40
"""Seconds after which a request that has no end fails its test."""
HUGE = bytes(64 << 20)
IN_FLIGHT = 24 << 20
"""More than the socket buffers of both sides can hold."""


class ObservedBody(MemoryBody):
    """A body in memory; `started` is set at its first byte."""

    def __init__(self) -> None:
        self.start_flagjob = threading.Event()
        super().__init__()

    def write(self, data: bytes, /) -> int:
        """Keep the data."""
        self.start_flagjob.set()
        return super().write(data)


class FullDisk(ObservedBody):
    """A body that cannot be written."""

    fault = OSError(errno.ENOSPC, "No space left on device")

    def write(self, _: bytes, /) -> int:
        """Raise the fault."""
        raise self.fault


class UnreadableDisk(ObservedBody):
    """A body that cannot be read back."""

    fault = OSError(errno.EIO, "Input/output error")

    def rewind(self) -> None:
        """Raise the fault."""
        raise self.fault


class Client:
    """A Session with the adapter mounted, which follows no redirect and reads no environment.

    Who calls it sends its requests, and blocks.
    """

    def __init__(
        self,
        new_body: Callable[[], Body] = ObservedBody,
        max_bytes: int = 1 << 20,
        attempt_timeout: float = 20,
        transfers: Transfers | None = None,
    ) -> None:
        self.adapter = CurlAdapter(new_body=new_body, max_bytes=max_bytes, transfers=transfers)
        self.attempt_timeout = attempt_timeout
        self.session = requests.Session()
        self.session.trust_env = False
        self.session.mount("http://", self.adapter)
        self.session.mount("https://", self.adapter)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the adapter, and whatever performs its transfers."""
        self.session.close()

    def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Return or raise what a function does where requests are sent."""
        return function(*args, **kwargs)

    def get(
        self, url: str, *, timeout: Timeout = (5, 5), verify: bool | str = True, proxy: str | None = None
    ) -> requests.Response:
        """Send a GET request as the job does."""
        request = requests.Request("GET", url, headers={"Accept-Encoding": "identity"}).prepare()
        proxies = {"http": proxy, "https": proxy} if proxy else {}
        connect, silence = timeout if isinstance(timeout, tuple) else (timeout, timeout)
        limits: Any = (connect, silence, self.attempt_timeout)  # requests' stubs know two
        return self.send(request, timeout=limits, verify=verify, proxies=proxies)

    def send(self, request: requests.PreparedRequest, **options: Any) -> requests.Response:
        """Send a request as it is."""
        return self.call(self.session.send, request, stream=True, allow_redirects=False, **options)

    def send_without_session(self, request: requests.PreparedRequest) -> requests.Response:
        """Send a request by the adapter alone."""
        return self.call(self.adapter.send, request)

    def failure(
        self, url: str, *, timeout: Timeout = (5, 5), verify: bool | str = True, proxy: str | None = None
    ) -> Exception:
        """Return the exception that a GET request ends in."""
        with pytest.raises(OSError) as caught:
            self.get(url, timeout=timeout, verify=verify, proxy=proxy)
        return caught.value


class GreenletClient(Client):
    """The same, but that one thread sends all requests, in greenlets, up to eight at the same time."""

    def __init__(
        self, new_body: Callable[[], Body] = ObservedBody, max_bytes: int = 1 << 20, attempt_timeout: float = 20
    ) -> None:
        self.executor = GreenletExecutor(8, Cancellation()).start()
        super().__init__(new_body, max_bytes, attempt_timeout, self.executor.transfers)

    def close(self) -> None:
        """Close the adapter, end the thread, and with it the connections."""
        super().close()
        self.executor.shutdown()

    def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Return or raise what a function does in a greenlet."""
        return self.executor.submit(function, *args, **kwargs).result(BOUND)


def recorded_bodies() -> tuple[list[ObservedBody], Callable[[], ObservedBody]]:
    """Return a list of bodies, and a factory that appends each body that it makes."""
    made: list[ObservedBody] = []

    def make() -> ObservedBody:
        made.append(ObservedBody())
        return made[-1]

    return made, make


def open_descriptors() -> set[str]:
    """Return the names of this process's open descriptors."""
    return {entry.name for entry in Path("/proc/self/fd").iterdir()}


@pytest.fixture(params=[Client, pytest.param(GreenletClient, marks=pytest.mark.slow)])
def new_client(request: pytest.FixtureRequest) -> type[Client]:
    """Return the class of a client: each test runs with both ways to perform a transfer."""
    kind: type[Client] = request.param
    return kind


@pytest.fixture
def client(new_client: type[Client]) -> Iterator[Client]:
    """Yield a client with the default limits."""
    with new_client() as made:
        yield made


@pytest.fixture
def closed_port() -> int:
    """Return a port that refuses connections."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


# Good answers


def test_a_200_is_returned_whole(client: Client) -> None:
    """A 200 has the status, reason, headers, encoding, body, URL and request that were sent."""
    answer = Answer(headers={"Content-Type": "text/plain; charset=utf-8", "ETag": '"1"'}, body=b"flag")
    with ScriptedServer({"/cn": answer}) as server:
        response = client.get(server.url("/cn"))
    assert (response.status_code, response.reason, response.encoding) == (200, "OK", "utf-8")
    assert dict(response.headers) == {**answer.headers, "Content-Length": "4"}
    assert response.headers["etag"] == '"1"'
    assert (response.url, response.request.method) == (server.url("/cn"), "GET")
    assert response.raw.read() == b"flag"


def test_the_adapter_is_complete_without_a_session(client: Client) -> None:
    """The adapter itself sets `connection`, which a Session would not add; the Session adds `elapsed`."""
    with ScriptedServer({"/cn": Answer()}) as server:
        response = client.send_without_session(requests.Request("GET", server.url("/cn")).prepare())
        assert client.get(server.url("/cn")).elapsed.total_seconds() > 0
    assert vars(response)["connection"] is client.adapter


def test_a_response_is_that_of_requests(client: Client) -> None:
    """Headers and encoding can be read late, changed, set and pickled, as those of any Response."""
    headers = {"Content-Type": "text/plain; charset=utf-8", "ETag": '"1"'}
    with ScriptedServer({"/cn": Answer(404, headers)}) as server:
        first, second = (client.get(server.url("/cn")) for _ in range(2))
    assert not first.ok
    first.headers["Content-Type"] = "text/html"
    assert (first.headers["content-type"], first.encoding) == ("text/html", "utf-8")
    second.headers = CaseInsensitiveDict(a="b")
    second.encoding = "ascii"
    assert (dict(second.headers), second.encoding) == ({"a": "b"}, "ascii")
    loaded = pickle.loads(pickle.dumps(first))  # noqa: S301  (made here)
    assert (loaded.headers, loaded.encoding, loaded.reason) == (first.headers, "utf-8", "Not Found")


def test_no_reference_to_a_body_is_kept(new_client: type[Client]) -> None:
    """A body is freed together with its response: no handle and no cycle refers to it."""
    with new_client() as client, ScriptedServer({"/cn": Answer(body=b"flag")}) as server:
        response = client.get(server.url("/cn"))
        reference = weakref.ref(response.raw)
        assert reference() is not None
        del response
        client.call(int)  # what sent the request has returned by then
        assert reference() is None


def test_no_reference_to_a_body_is_kept_after_a_failure(new_client: type[Client]) -> None:
    """A body is freed with the exception in which its transfer ended."""
    references: list[weakref.ref[ObservedBody]] = []

    def make() -> ObservedBody:
        body = ObservedBody()
        references.append(weakref.ref(body))
        return body

    cut = Raw(OK + b"Content-Length: 9\r\n\r\nabc")
    with new_client(make) as client, ScriptedServer({"/cn": cut}) as server:
        assert type(client.failure(server.url("/cn"))) is rx.ChunkedEncodingError
        client.call(int)
        assert [reference() for reference in references] == [None]


def test_requests_reads_the_body(client: Client) -> None:
    """`content` and `iter_content` return the body."""
    with ScriptedServer({"/cn": Answer(body=b"flag")}) as server:
        assert client.get(server.url("/cn")).content == b"flag"
        assert list(client.get(server.url("/cn")).iter_content(3)) == [b"fla", b"g"]


def test_raw_is_the_body_of_the_factory(new_client: type[Client]) -> None:
    """`raw` is the open body that the factory made, with its size and head set."""
    made, new_body = recorded_bodies()
    with new_client(new_body) as client, ScriptedServer({"/cn": Answer(body=b"GIF89a")}) as server:
        response = client.get(server.url("/cn"))
    assert response.raw is made[0]
    assert (made[0].size, made[0].head, made[0].closed) == (6, b"GIF89a", False)


def test_an_empty_answer_has_an_empty_body(new_client: type[Client]) -> None:
    """A 200 without a byte has an empty body of its own."""
    made, new_body = recorded_bodies()
    with new_client(new_body) as client, ScriptedServer({"/cn": Answer()}) as server:
        assert client.get(server.url("/cn")).raw.read() == b""
    assert [body.size for body in made] == [0]


def test_a_chunked_body_is_joined(client: Client) -> None:
    """Chunks are joined, and trailers overwrite no header."""
    head = OK + b"Transfer-Encoding: chunked\r\nX-Late: early\r\n\r\n"
    with ScriptedServer({"/cn": Raw(head + b"2\r\nfl\r\n2\r\nag\r\n0\r\nX-Late: late\r\n\r\n")}) as server:
        response = client.get(server.url("/cn"))
    assert (response.content, response.headers["X-Late"]) == (b"flag", "early")


def test_a_body_may_end_with_its_connection(client: Client) -> None:
    """Without a length, the end of the connection is the end of the body."""
    with ScriptedServer({"/cn": Raw(OK + b"\r\nflag")}) as server:
        assert client.get(server.url("/cn")).content == b"flag"


def test_repeated_headers_are_joined(client: Client) -> None:
    """A repeated header is joined with commas; bytes beyond ASCII are read as Latin-1."""
    with ScriptedServer({"/cn": Raw(OK + b"Vary: a\r\nvary: b\r\nX: \xe9\r\n\r\n")}) as server:
        response = client.get(server.url("/cn"))
    assert (response.headers["Vary"], response.headers["X"]) == ("a, b", "é")


@pytest.mark.parametrize("status_line", [b"HTTP/1.1 200\r\n", b"HTTP/1.0 200 \r\n"])
def test_a_reason_phrase_is_optional(client: Client, status_line: bytes) -> None:
    """A status line without a reason phrase is valid."""
    with ScriptedServer({"/cn": Raw(status_line + b"\r\nflag")}) as server:
        response = client.get(server.url("/cn"))
    assert (response.status_code, response.reason, response.content) == (200, "", b"flag")


def test_interim_responses_are_skipped(client: Client) -> None:
    """100 Continue and 103 Early Hints are skipped, with their headers."""
    early = b"HTTP/1.1 100 Continue\r\n\r\n" * 20 + b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"
    with ScriptedServer({"/cn": Raw(early + OK + b"Content-Length: 4\r\n\r\nflag")}) as server:
        response = client.get(server.url("/cn"))
    assert (response.status_code, dict(response.headers), response.content) == (200, {"Content-Length": "4"}, b"flag")


def test_long_headers_are_accepted(client: Client) -> None:
    """A header of 70 kB and two hundred headers are accepted."""
    many = b"".join(b"X-%d: a\r\n" % number for number in range(200))
    with ScriptedServer({"/cn": Raw(OK + b"X: " + b"a" * 70_000 + b"\r\n" + many + b"\r\nflag")}) as server:
        response = client.get(server.url("/cn"))
    assert (len(response.headers["X"]), len(response.headers), response.content) == (70_000, 201, b"flag")


@row(31)
def test_a_bomb_ends_at_the_cap(new_client: type[Client]) -> None:
    """A body that expands without end is decoded up to the cap and no further; its body is closed."""
    made, new_body = recorded_bodies()
    bomb = Answer(headers={"Content-Encoding": "gzip, gzip"}, body=gzip.compress(gzip.compress(HUGE)))
    with new_client(new_body) as client, ScriptedServer({"/cn": bomb}) as server:
        error = client.failure(server.url("/cn"))
    assert (type(error), [(body.size <= 1 << 20, body.closed) for body in made]) == (TooLargeError, [(True, True)])


def test_the_body_of_an_error_is_not_decoded(client: Client) -> None:
    """The coding of an answer without a file does not matter."""
    with ScriptedServer({"/cn": Answer(503, {"Content-Encoding": "br"}, b"sorry")}) as server:
        assert client.get(server.url("/cn")).status_code == 503


def test_trailers_are_ignored() -> None:
    """Header lines after the final header block change neither status nor headers."""
    transfer = Transfer(ObservedBody, 10)
    for line in (b"HTTP/1.1 200 OK\r\n", b"X: a\r\n", b"\r\n", b"HTTP/1.1 404 Gone\r\n", b"X: b\r\n", b"\r\n"):
        assert transfer.on_header(line) is None
    assert (transfer.status, transfer.names, transfer.fields) == (200, ["X"], {"x": "a"})


# The request


def test_a_request_is_sent_as_prepared(client: Client) -> None:
    """The target, dot segments and escapes included, and the headers are exactly the prepared ones."""
    prepared = requests.Request("GET", "http://x/", headers={"Accept-Encoding": "identity", "X-Empty": ""}).prepare()
    with ScriptedServer({}) as server:
        prepared.url = server.url("/a/../b/%2E%2E/%C3%A9?q=%20&r=1")
        client.send(prepared)
    assert server.requests[0].head == (
        b"GET /a/../b/%2E%2E/%C3%A9?q=%20&r=1 HTTP/1.1\r\n"
        b"Host: 127.0.0.1:" + str(server.port).encode() + b"\r\nAccept-Encoding: identity\r\nX-Empty:\r\n"
    )


def test_prepared_headers_replace_libcurls_own(client: Client) -> None:
    """Accept, User-Agent, Host and Authorization are sent once, as prepared; the URL's user info is not sent."""
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


def test_header_lines_may_be_ready_made(client: Client) -> None:
    """A CurlRequest has the headers that its lines stand for, and is sent and answered as an ordinary request is."""
    headers = {"X-Empty": "", "X-Two": "a: b", "X-Latin": "\xe9", "Accept": "image/*"}
    with ScriptedServer({"/cn": Answer(headers={"ETag": '"1"'}, body=b"flag")}) as server:
        prepared = requests.Request("GET", server.url("/cn"), headers=headers).prepare()
        lines = header_lines(prepared.headers)
        ready_made = CurlRequest(server.url("/cn"), lines)
        responses = [client.send_without_session(ready_made), client.send(prepared), client.send(ready_made)]
    assert ready_made.lines is lines  # made once: neither adapter nor Session has asked for the headers
    assert list(ready_made.headers.items()) == list(headers.items())
    assert len({request.head for request in server.requests}) == 1
    assert [response.request for response in responses] == [ready_made, prepared, ready_made]
    seen = [(r.status_code, r.reason, r.url, dict(r.headers), r.encoding, r.content) for r in responses]
    assert seen == [(200, "OK", server.url("/cn"), {"ETag": '"1"', "Content-Length": "4"}, None, b"flag")] * 3


def test_a_request_may_change_its_ready_made_headers(client: Client) -> None:
    """What somebody changes in the headers of a CurlRequest, or of its copy, or prepares anew, is sent; no more."""
    lines = header_lines({"X-One": "1"})
    with ScriptedServer({}) as server:
        request = CurlRequest(server.url("/a"), lines)
        copy = request.copy()
        copy.headers["X-Two"] = "2"
        client.send(copy)
        request.headers["X-Two"] = "3"
        client.send(request)
        request.prepare("GET", server.url("/b"), {"X-Four": "4"})
        client.send(request)
        client.send(CurlRequest(server.url("/a"), lines))
    sent = [{name: value for name, value in r.headers.items() if name[0] == "x"} for r in server.requests]
    assert sent == [{"x-one": "1", "x-two": "2"}, {"x-one": "1", "x-two": "3"}, {"x-four": "4"}, {"x-one": "1"}]
    assert [request.target for request in server.requests] == ["/a", "/a", "/b", "/a"]


def test_an_ipv6_literal_is_sent_as_it_is(client: Client) -> None:
    """An IPv6 address keeps its brackets."""
    with ScriptedServer({"http://[::1]:8080/cn": Answer(body=b"flag")}) as proxy:
        assert client.get("http://[::1]:8080/cn", proxy=proxy.url("")).content == b"flag"
    assert proxy.requests[0].headers["host"] == "[::1]:8080"


def test_cookies_are_not_sent_back(client: Client) -> None:
    """A cookie that one answer sets is not sent with the next request."""
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


def test_a_key_in_another_file_is_refused(client: Client) -> None:
    """A `cert` of two files is a ValueError."""
    request = requests.Request("GET", "https://127.0.0.1:9/").prepare()
    with pytest.raises(ValueError) as caught:
        client.send(request, cert=("my.pem", "my.key"))
    problem = "a client certificate and its key must be in one file"
    assert (type(caught.value), str(caught.value)) == (ValueError, problem)


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://127.0.0.1/", "gopher://127.0.0.1/", ""])
def test_other_schemes_are_refused(client: Client, url: str) -> None:
    """Other schemes than http and https are an InvalidSchema."""
    request = requests.Request("GET", "http://x/").prepare()
    request.url = url
    with pytest.raises(rx.InvalidSchema):
        client.send_without_session(request)


def test_a_bad_url_is_an_invalid_url(client: Client) -> None:
    """A URL that libcurl cannot parse is an InvalidURL."""
    request = requests.Request("GET", "http://x/").prepare()
    request.url = "http://[::1/"
    with pytest.raises(rx.InvalidURL):
        client.send_without_session(request)


# Connections


def test_requests_in_turn_share_a_connection(client: Client) -> None:
    """Requests one after the other share a connection, whatever small answers come between them."""
    script: dict[str, Step] = {"/cn": Answer(body=b"flag")}
    script |= {f"/{status}": Answer(status) for status in (204, 302, 304)}
    script |= {f"/{status}": Answer(status, body=b"sorry") for status in (206, 404, 500, 600, 999)}
    with ScriptedServer(script) as server:
        statuses = [client.get(server.url(path)).status_code for path in script]
    assert statuses == [200, 204, 302, 304, 206, 404, 500, 600, 999]
    assert server.connections == 1


def test_threads_share_idle_connections(client: Client) -> None:
    """Requests of eight threads, one after the other, share a connection."""
    with ScriptedServer({"/cn": Answer(body=b"flag")}) as server:
        for _ in range(8):
            with ThreadPoolExecutor(1) as pool:
                assert pool.submit(client.get, server.url("/cn")).result(10).content == b"flag"
    assert server.connections == 1


def test_a_handle_without_a_connection_is_taken_last(client: Client) -> None:
    """After a reset the next request takes the connection that is there, and opens none."""
    is_over = threading.Event()
    script: dict[str, Step] = {"/cn": Answer(body=b"flag"), "/reset": Hold(is_over, Raw(b"", reset=True))}
    with ScriptedServer(script) as server, ThreadPoolExecutor(1) as pool:
        failed = pool.submit(client.get, server.url("/reset"))
        server.wait_for(1)
        assert client.get(server.url("/cn")).content == b"flag"
        is_over.set()
        assert isinstance(failed.exception(10), rx.ConnectionError)
        before = server.connections
        assert client.get(server.url("/cn")).content == b"flag"
    assert server.connections == before


def test_each_concurrent_request_has_its_own_connection(new_client: type[Client]) -> None:
    """Eight threads that send concurrently use eight connections for 80 requests."""
    together = threading.Barrier(8)

    def answer_all_at_once(_: Request) -> Step:
        together.wait(10)
        return Answer(body=b"flag")

    with new_client() as client, ScriptedServer({"/cn": answer_all_at_once}) as server, ThreadPoolExecutor(8) as pool:
        contents = list(pool.map(lambda _: client.get(server.url("/cn")).content, range(80)))
    assert contents == [b"flag"] * 80
    assert server.connections == 8


@row(8)
@pytest.mark.parametrize("end", ["FIN", "RST"])
def test_a_stale_connection_is_replaced(client: Client, end: str) -> None:
    """A request on a kept connection that the server has closed is sent again on a new one."""
    first = Raw(OK + b"Content-Length: 4\r\n\r\nflag", reset=end == "RST")
    with ScriptedServer({"/cn": [first, Answer(body=b"flag")]}) as server:
        assert [client.get(server.url("/cn")).content for _ in range(2)] == [b"flag", b"flag"]
    assert server.connections == 2


def test_close_leaves_no_open_descriptor(new_client: type[Client]) -> None:
    """After `close` every connection is closed, and no request can be sent."""
    with new_client() as client:
        before = open_descriptors()
        with ScriptedServer({"/cn": Answer()}) as server:
            client.get(server.url("/cn"))
            client.adapter.close()
            error = client.failure(server.url("/cn"))
        client.close()
        assert open_descriptors() <= before
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
    "header without a colon": (Raw(OK + b"garbage\r\n\r\nabc"), rx.ConnectionError),
    "header of 120 kB": (Raw(OK + b"X: " + b"a" * 120_000 + b"\r\n\r\nabc"), rx.InvalidHeader),
    "6,000 headers": (Raw(OK + b"X: a\r\n" * 6_000 + b"\r\nabc"), rx.InvalidHeader),
    "status in words": (Raw(b"HTTP/1.1 fine\r\n\r\nabc"), rx.ConnectionError),
    "not HTTP": (Raw(b"SSH-2.0-OpenSSH_9.2\r\n"), rx.ConnectionError),
    "blank in a transfer coding": (Raw(OK + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n"), rx.ContentDecodingError),
    "transfer coding unasked": (Raw(OK + b"Transfer-Encoding: gzip\r\n\r\nabc"), rx.ContentDecodingError),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_network_fault_is_mapped(new_client: type[Client], name: str) -> None:
    """A network fault raises the requests exception for it, and every body is closed."""
    step, expected = FAULTS[name]
    made, new_body = recorded_bodies()
    with new_client(new_body) as client, ScriptedServer({"/cn": step}) as server:
        error = client.failure(server.url("/cn"))
    assert (type(error), str(error) != "") == (expected, True)
    assert isinstance(error, rx.RequestException)
    assert error.request is not None
    assert error.request.url == server.url("/cn")
    assert [body.closed for body in made] == [True] * len(made)


@pytest.mark.parametrize("name", FAULTS)
def test_a_handle_that_failed_is_reusable(client: Client, name: str) -> None:
    """After a network fault the next request, with the same handle, has an answer in which nothing of it is left."""
    with ScriptedServer({"/cn": FAULTS[name][0], "/us": Answer(body=b"flag")}) as server:
        client.failure(server.url("/cn"))
        response = client.get(server.url("/us"))
    assert (response.content, dict(response.headers)) == (b"flag", {"Content-Length": "4"})


SLOW: dict[str, Step] = {
    "never answers": Stall(),
    "headers drip": Drip(OK + b"X: "),
    "body stalls": Stall(OK + b"Content-Length: 9\r\n\r\nabc"),
    "body drips": Drip(OK + b"\r\n"),
}


@pytest.mark.parametrize("name", SLOW)
def test_the_total_timeout_bounds_an_attempt(new_client: type[Client], name: str) -> None:
    """An attempt ends at its total time-out as a ReadTimeout, however slowly the answer arrives."""
    made, new_body = recorded_bodies()
    with new_client(new_body, attempt_timeout=0.3) as client, ScriptedServer({"/cn": SLOW[name]}) as server:
        error = client.failure(server.url("/cn"), timeout=None)
    assert type(error) is rx.ReadTimeout
    assert [body.closed for body in made] == [True] * len(made)


def test_the_read_timeout_bounds_silence(client: Client) -> None:
    """Silence for the read time-out, two seconds at least, is a ReadTimeout, also on a kept connection.

    Libcurl measures once a second: with a limit of one second it may look before it has counted the last bytes.
    """
    with ScriptedServer({"/cn": [Answer(), Stall()]}) as server:
        client.get(server.url("/cn"), timeout=0.1)
        error = client.failure(server.url("/cn"), timeout=0.1)
    assert (type(error), server.connections) == (rx.ReadTimeout, 1)
    assert str(error).endswith("the last 2 seconds")


@pytest.mark.slow
def test_a_steady_drip_is_not_silence(new_client: type[Client]) -> None:
    """Bytes that keep arriving do not trigger even the shortest read time-out."""
    drip = Drip(OK + b"\r\n", interval=0.2)
    with new_client(attempt_timeout=3.5) as client, ScriptedServer({"/cn": drip}) as server:
        error = client.failure(server.url("/cn"), timeout=(5, 0.1))
    assert str(error).startswith("Operation timed out")


def test_a_refused_connection_is_a_connection_error(client: Client, closed_port: int) -> None:
    """A closed port is a ConnectionError."""
    assert type(client.failure(f"http://127.0.0.1:{closed_port}/")) is rx.ConnectionError


def test_a_dropped_syn_is_a_connect_timeout(client: Client) -> None:
    """A host that drops connection requests ends in a ConnectTimeout at the connect time-out."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for filler in [stack.enter_context(socket.socket()) for _ in range(3)]:  # a full backlog drops what comes next
            filler.settimeout(0)
            filler.connect_ex(listener.getsockname())
        error = client.failure(f"http://127.0.0.1:{listener.getsockname()[1]}/", timeout=(0.3, None))
    assert type(error) is rx.ConnectTimeout


def test_an_unknown_name_is_a_name_resolution_error(client: Client) -> None:
    """A name without an address is a NameResolutionError, caused by libcurl's error."""
    error = client.failure("http://no..name/")
    assert type(error) is NameResolutionError
    assert isinstance(error.__cause__, pycurl.error)


# TLS


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    """Return an authority that no client trusts by default."""
    return trustme.CA()


def tls_context_for(authority: trustme.CA, name: str) -> ssl.SSLContext:
    """Return a server's TLS context with a certificate for a name."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(context)
    return context


def subject_hash(pem: bytes) -> str:
    """Return the file name by which OpenSSL finds an authority (X509_NAME_hash: SHA-1 of lower case)."""
    subject = x509.load_pem_x509_certificate(pem).subject
    plain = [x509.NameAttribute(part.oid, str(part.value).lower(), _ASN1Type.UTF8String) for part in subject]
    digest = hashlib.sha1(x509.Name(plain).public_bytes()[2:], usedforsecurity=False).digest()
    return f"{int.from_bytes(digest[:4], 'little'):08x}.0"


def write_authority(authority: trustme.CA, directory: Path) -> Path:
    """Write an authority where OpenSSL looks for it in a directory; return the file's path."""
    path = directory / subject_hash(authority.cert_pem.bytes())
    path.write_bytes(authority.cert_pem.bytes())
    return path


@pytest.mark.parametrize("verify_kind", ["file", "directory"])
def test_verify_accepts_a_file_or_a_directory(
    client: Client, authority: trustme.CA, tmp_path: Path, verify_kind: str
) -> None:
    """`verify` may be a file or a directory of authorities."""
    path = write_authority(authority, tmp_path)
    with ScriptedServer({"/cn": Answer(body=b"flag")}, tls_context_for(authority, "127.0.0.1")) as server:
        response = client.get(server.url("/cn"), verify=str(path if verify_kind == "file" else tmp_path))
    assert response.content == b"flag"


def test_an_unknown_authority_is_a_tls_error(client: Client, authority: trustme.CA) -> None:
    """A certificate of an unknown authority is an SSLError, and no request is sent."""
    with ScriptedServer({"/cn": Answer()}, tls_context_for(authority, "127.0.0.1")) as server:
        assert type(client.failure(server.url("/cn"))) is rx.SSLError
    assert server.requests == []


def test_another_hosts_certificate_is_a_tls_error(client: Client, authority: trustme.CA) -> None:
    """A certificate for another host is an SSLError, and no request is sent."""
    with (
        ScriptedServer({"/cn": Answer()}, tls_context_for(authority, "flags.test")) as server,
        authority.cert_pem.tempfile() as ca,
    ):
        assert type(client.failure(server.url("/cn"), verify=ca)) is rx.SSLError
    assert server.requests == []


def test_a_missing_bundle_is_a_tls_error(client: Client, authority: trustme.CA, tmp_path: Path) -> None:
    """A `verify` path that does not exist is an SSLError, and no request is sent."""
    with ScriptedServer({"/cn": Answer()}, tls_context_for(authority, "127.0.0.1")) as server:
        error = client.failure(server.url("/cn"), verify=str(tmp_path / "none.pem"))
    assert (type(error), server.requests) == (rx.SSLError, [])


def test_a_connection_is_not_reused_under_other_authorities(client: Client, authority: trustme.CA) -> None:
    """A connection made under one set of authorities is not reused under another."""
    with ScriptedServer({"/cn": Answer()}, tls_context_for(authority, "127.0.0.1")) as server:
        with authority.cert_pem.tempfile() as ca:
            assert client.get(server.url("/cn"), verify=ca).status_code == 200
        assert type(client.failure(server.url("/cn"))) is rx.SSLError


@row(75)
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_connection_with_a_certificate_is_not_reused_without(
    client: Client, authority: trustme.CA, tmp_path: Path, version: ssl.TLSVersion
) -> None:
    """A connection, or a session of TLS, that was made with a client certificate serves no request without it."""
    context = tls_context_for(authority, "127.0.0.1")
    context.minimum_version = context.maximum_version = version
    context.verify_mode = ssl.CERT_REQUIRED
    authority.configure_trust(context)
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    authority.issue_cert("me@flags.test").private_key_and_cert_chain_pem.write_to_path(tmp_path / "client.pem")
    with ScriptedServer({"/cn": Answer()}, context) as server:
        request = requests.Request("GET", server.url("/cn")).prepare()
        trusted: dict[str, Any] = {"verify": str(tmp_path / "ca.pem"), "timeout": (5, 5)}
        for _ in range(2):
            assert client.send(request, cert=str(tmp_path / "client.pem"), **trusted).status_code == 200
            with pytest.raises(rx.SSLError, match="alert"):
                client.send(request, **trusted)
        assert [request.connection for request in server.requests] == [1, 1]


@row(75)
def test_an_encrypted_key_is_not_asked_for(client: Client, authority: trustme.CA, tmp_path: Path) -> None:
    """A key that is encrypted, as it may be after the start, is an SSLError; nobody is asked for the password."""
    made = authority.issue_cert("me@flags.test")
    key = serialization.load_pem_private_key(made.private_key_pem.bytes(), None)
    encryption = serialization.BestAvailableEncryption(b"hunter2")
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)
    (tmp_path / "client.pem").write_bytes(pem + made.cert_chain_pems[0].bytes())
    with ScriptedServer({}, tls_context_for(authority, "127.0.0.1")) as server, pytest.raises(rx.SSLError):
        client.send(requests.Request("GET", server.url("/cn")).prepare(), cert=str(tmp_path / "client.pem"))
    assert server.requests == []


def test_a_silent_tls_peer_is_a_connect_timeout(client: Client) -> None:
    """A peer that never completes the TLS handshake ends in a ConnectTimeout."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        error = client.failure(f"https://127.0.0.1:{listener.getsockname()[1]}/", timeout=(0.3, None))
    assert type(error) is rx.ConnectTimeout


HANDSHAKE_FAILURE = bytes([21, 3, 3, 0, 2, 2, 40])
"""A fatal alert (RFC 8446, 6)."""


@pytest.mark.parametrize(
    ("sent", "end", "expected"),
    [
        (b"", "RST", rx.ConnectionError),
        (b"", "FIN", rx.ConnectionError),
        (HANDSHAKE_FAILURE, "FIN", rx.SSLError),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "FIN", rx.SSLError),
    ],
)
def test_a_cut_handshake_is_retryable(client: Client, sent: bytes, end: str, expected: type[Exception]) -> None:
    """A peer that closes during the handshake is a ConnectionError; an alert or plain text is an SSLError."""
    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(1) as pool:
        leaving = pool.submit(_receive_and_close, listener, sent, end)
        error = client.failure(f"https://127.0.0.1:{listener.getsockname()[1]}/")
        leaving.result(10)
    assert type(error) is expected


def _receive_and_close(listener: socket.socket, sent: bytes, end: str) -> None:
    peer, _ = listener.accept()
    with peer:
        peer.recv(1 << 16)
        peer.sendall(sent)
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", end == "RST", 0))


# Proxies


@row(17)
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_dead_proxy_is_never_bypassed(client: Client, closed_port: int, scheme: str) -> None:
    """A proxy that refuses is a ProxyError, and the origin gets no connection."""
    with ScriptedServer({"/cn": Answer()}) as server:
        error = client.failure(f"{scheme}://127.0.0.1:{server.port}/cn", proxy=f"http://127.0.0.1:{closed_port}")
    assert (type(error), server.connections) == (rx.ProxyError, 0)


@row(17)
@pytest.mark.parametrize(
    "answer", [b"HTTP/1.1 403 Forbidden\r\n\r\n", b"HTTP/1.1 407 Who?\r\n\r\n", b"junk\r\n\r\n", b""]
)
def test_a_failed_connect_is_a_proxy_error(client: Client, answer: bytes) -> None:
    """A CONNECT that is refused, garbled or cut is a ProxyError."""
    with ScriptedServer({"flags.test:443": Raw(answer)}) as proxy:
        error = client.failure("https://flags.test/cn", proxy=proxy.url(""))
    assert type(error) is rx.ProxyError


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_proxy_without_an_address_is_a_proxy_error(client: Client, scheme: str) -> None:
    """A proxy whose name does not resolve is a ProxyError."""
    assert type(client.failure(f"{scheme}://flags.test/cn", proxy="http://no..name:3128")) is rx.ProxyError


def test_a_proxy_returns_the_origins_answer(client: Client) -> None:
    """An http URL is requested from the proxy in full, and a 403 is an ordinary answer."""
    script = {"http://flags.test/cn": Answer(body=b"flag"), "http://flags.test/us": Answer(403)}
    with ScriptedServer(script) as proxy:
        assert client.get("http://flags.test/cn", proxy=proxy.url("")).content == b"flag"
        assert client.get("http://flags.test/us", proxy=proxy.url("")).status_code == 403


@pytest.mark.parametrize("verify_kind", ["file", "directory"])
def test_a_proxy_may_use_tls(client: Client, authority: trustme.CA, tmp_path: Path, verify_kind: str) -> None:
    """An https proxy is verified with the authorities of `verify` only."""
    path = write_authority(authority, tmp_path)
    verify, script = str(path if verify_kind == "file" else tmp_path), {"http://flags.test/cn": Answer(body=b"flag")}
    with ScriptedServer(script, tls_context_for(authority, "127.0.0.1")) as proxy:
        assert client.get("http://flags.test/cn", verify=verify, proxy=proxy.url("")).content == b"flag"
        assert type(client.failure("http://flags.test/cn", proxy=proxy.url(""))) is rx.SSLError


def test_a_fault_after_the_request_is_not_the_proxys(client: Client) -> None:
    """A connection that breaks after the request was sent is a ConnectionError."""
    with ScriptedServer({"http://flags.test/cn": Raw(b"")}) as proxy:
        assert type(client.failure("http://flags.test/cn", proxy=proxy.url(""))) is rx.ConnectionError


def test_a_tunnel_adds_nothing_to_the_answer(client: Client, authority: trustme.CA) -> None:
    """Through a tunnel the answer has the origin's headers only, and the proxy sees the host only."""
    context = tls_context_for(authority, "127.0.0.1")
    with ScriptedServer({"/cn": Answer(body=b"flag")}, context) as server, Tunnel(server.port) as proxy:
        with authority.cert_pem.tempfile() as ca:
            response = client.get(server.url("/cn"), verify=ca, proxy=f"http://127.0.0.1:{proxy.port}")
        assert (response.content, dict(response.headers)) == (b"flag", {"Content-Length": "4"})
        client.close()
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
            back = self._pool.submit(_copy, origin, client)
            _copy(client, origin)
            back.result(10)


def _copy(source: socket.socket, destination: socket.socket) -> None:
    """Copy bytes in one direction until that direction is closed."""
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            destination.sendall(data)
        destination.shutdown(socket.SHUT_WR)


def test_libcurl_ignores_proxy_variables(client: Client, closed_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Proxy variables in the environment, which libcurl would read, change nothing."""
    for name in ("http_proxy", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{closed_port}")
    with ScriptedServer({"/cn": Answer(body=b"flag")}) as server:
        assert client.get(server.url("/cn")).content == b"flag"


def test_libcurl_ignores_no_proxy(client: Client, closed_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """NO_PROXY in the environment does not make libcurl bypass the given proxy."""
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "*")
    with ScriptedServer({"/cn": Answer()}) as server:
        error = client.failure(server.url("/cn"), proxy=f"http://127.0.0.1:{closed_port}")
    assert (type(error), server.connections) == (rx.ProxyError, 0)


def test_netrc_is_ignored(client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A .netrc in the home directory adds no credentials."""
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login me password secret\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    with ScriptedServer({}) as server:
        client.get(server.url())
    assert "authorization" not in server.requests[0].headers


# Bounded memory


@row(28)
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirects_body_is_not_read(client: Client, status: int) -> None:
    """Of a redirect with a body of 64 MB only status and headers are read."""
    with ScriptedServer({"/cn": Answer(status, {"Location": "/us"}, HUGE)}) as server:
        response = client.get(server.url("/cn"))
    assert (response.status_code, response.headers["Location"], response.content) == (status, "/us", b"")
    assert server.sent < IN_FLIGHT


def test_no_redirect_is_followed(client: Client) -> None:
    """The transport itself follows no redirect."""
    with ScriptedServer({"/cn": Answer(302, {"Location": "/us"}), "/us": Answer()}) as server:
        assert client.get(server.url("/cn")).status_code == 302
    assert [request.target for request in server.requests] == ["/cn"]


def test_a_redirects_body_is_not_waited_for(client: Client) -> None:
    """A redirect whose body never arrives is returned at once."""
    head = b"HTTP/1.1 302 Found\r\nLocation: /us\r\nContent-Length: 5\r\n\r\n"
    with ScriptedServer({"/cn": Stall(head)}) as server:
        assert client.get(server.url("/cn"), timeout=None).headers["Location"] == "/us"


@pytest.mark.parametrize("status", [206, 404, 500])
def test_the_body_of_another_status_is_not_read(new_client: type[Client], status: int) -> None:
    """Of an answer that is not 200 only the beginning is read, and no body is made."""
    made, new_body = recorded_bodies()
    with (
        new_client(new_body, max_bytes=1 << 30) as client,
        ScriptedServer({"/cn": Answer(status, body=HUGE)}) as server,
    ):
        response = client.get(server.url("/cn"))
    assert (response.status_code, response.content, made) == (status, b"", [])
    assert server.sent < IN_FLIGHT


@pytest.mark.parametrize("end", [Raw(b"", reset=True), Stall(), Raw(b"")])
def test_a_status_does_not_depend_on_its_body(new_client: type[Client], end: Raw | Stall) -> None:
    """A 503 is returned as such, also if its body is cut, stalls or is too large."""
    head = b"HTTP/1.1 503 Busy\r\nRetry-After: 7\r\nContent-Length: 99\r\n\r\nsorry"
    step = Stall(head) if isinstance(end, Stall) else Raw(head, reset=end.reset)
    seconds = 1 if isinstance(end, Stall) else 20
    for max_bytes in (10, 1000):
        with (
            new_client(max_bytes=max_bytes, attempt_timeout=seconds) as client,
            ScriptedServer({"/cn": step}) as server,
        ):
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
def test_a_body_over_the_maximum_is_too_large(new_client: type[Client], head: bytes) -> None:
    """A body over `max_bytes`, declared or not, is a TooLargeError; the rest is not read."""
    made, new_body = recorded_bodies()
    body = b"4000000\r\n" + HUGE if b"chunked" in head else HUGE
    with (
        new_client(new_body, max_bytes=1000) as client,
        ScriptedServer({"/cn": Raw(OK + head + b"\r\n" + body)}) as server,
    ):
        error = client.failure(server.url("/cn"))
    assert type(error) is TooLargeError
    assert server.sent < IN_FLIGHT
    assert [(body.closed, body.size <= 1000) for body in made] == [(True, True)] * len(made)


@row(33)
def test_a_declared_length_over_the_maximum_fails_at_once(new_client: type[Client]) -> None:
    """A Content-Length over `max_bytes` is a TooLargeError before a byte of the body arrives."""
    head = OK + b"Content-Length: 1001\r\n\r\n"
    with new_client(max_bytes=1000) as client, ScriptedServer({"/cn": Stall(head)}) as server:
        assert type(client.failure(server.url("/cn"), timeout=None)) is TooLargeError


def test_a_body_of_exactly_the_maximum_is_accepted(new_client: type[Client]) -> None:
    """A body of exactly `max_bytes` is accepted, with a declared length or without."""
    with new_client(max_bytes=1000) as client:
        for step in (Answer(body=bytes(1000)), Raw(OK + b"\r\n" + bytes(1000))):
            with ScriptedServer({"/cn": step}) as server:
                assert len(client.get(server.url("/cn")).content) == 1000


def test_the_maximum_is_enforced_without_libcurl() -> None:
    """The write callback itself ends a body one byte over `max_bytes`: libcurl < 8.20 checks declared lengths only."""
    transfer = Transfer(ObservedBody, 10)
    transfer.on_header(b"HTTP/1.1 200 OK\r\n")
    transfer.on_header(b"\r\n")
    assert (transfer.on_body(bytes(10)), transfer.on_body(b"!")) == (None, 0)
    assert exception_for(pycurl.E_WRITE_ERROR) is TooLargeError


# Faults of this machine


@pytest.mark.parametrize("kind", [FullDisk, UnreadableDisk])
def test_an_error_of_the_body_is_raised_unchanged(
    new_client: type[Client], kind: type[FullDisk | UnreadableDisk]
) -> None:
    """An exception of the body's `write` or `rewind` is raised unchanged, and the body is closed."""
    made: list[FullDisk | UnreadableDisk] = []

    def new_body() -> FullDisk | UnreadableDisk:
        made.append(kind())
        return made[-1]

    with new_client(new_body) as client, ScriptedServer({"/cn": Answer(body=b"flag")}) as server:
        assert client.failure(server.url("/cn")) is kind.fault
    assert [body.closed for body in made] == [True]


@pytest.mark.parametrize("body", [b"flag", b""])
def test_an_error_of_the_body_factory_is_raised_unchanged(new_client: type[Client], body: bytes) -> None:
    """An exception of the body factory is raised unchanged, and the next transfer works."""
    fault = OSError(errno.EROFS, "Read-only file system")
    faults: list[OSError | None] = [fault, None]

    def new_body() -> ObservedBody:
        if error := faults.pop(0):
            raise error
        return ObservedBody()

    with new_client(new_body) as client, ScriptedServer({"/cn": Answer(body=body)}) as server:
        assert client.failure(server.url("/cn")) is fault
        assert client.get(server.url("/cn")).content == body


@pytest.mark.parametrize("host", ["127.0.0.1", "flags.test"])
def test_a_shortage_of_descriptors_is_an_os_error(client: Client, host: str) -> None:
    """Without descriptors for a socket or a look-up, an OSError is raised that is no exception of requests."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    client.failure("http://no..name/")  # opens every descriptor that only a first request opens
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        error = client.failure(f"http://{host}:9/")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert (type(error), isinstance(error, OSError) and error.errno) == (OSError, errno.EMFILE)
    assert type(client.failure(f"http://{host}:9/")) in {rx.ConnectionError, NameResolutionError}


def test_an_unsupported_address_is_no_shortage() -> None:
    """A socket refused for another reason, as without IPv6, is an address that cannot be reached."""
    handle = Handle(BlockingTransfers(), Transfer(ObservedBody, 1))
    address = pycurl.CurlSockAddr(family=9999, socktype=socket.SOCK_STREAM, protocol=0, addr=("127.0.0.1", 9))
    assert handle._open_socket(0, address) == pycurl.SOCKET_BAD  # noqa: SLF001  (libcurl calls it)
    assert handle._shortage is None  # noqa: SLF001  (what a transfer would raise)


# Interrupting and closing


@pytest.mark.parametrize("step", [Stall(), Stall(OK), Stall(OK + b"Content-Length: 9\r\n\r\nabc")])
def test_interrupt_ends_a_running_transfer(client: Client, step: Step) -> None:
    """`interrupt` ends a waiting transfer with a ConnectionError, whatever it waits for."""
    with ScriptedServer({"/cn": step}) as server, ThreadPoolExecutor(1) as pool:
        failing = pool.submit(client.failure, server.url("/cn"), timeout=None)
        server.wait_for(1)
        client.adapter.interrupt()
        error = failing.result(10)
    assert type(error) is rx.ConnectionError
    assert str(error) == "interrupted: no transfer may go on"


def test_interrupt_ends_all_transfers(client: Client) -> None:
    """`interrupt` ends every transfer that waits; after it nothing else waits either."""
    with ScriptedServer({"/cn": Stall(OK)}) as server, ThreadPoolExecutor(8) as pool:
        failing = [pool.submit(client.failure, server.url("/cn"), timeout=None) for _ in range(8)]
        server.wait_for(8)
        client.adapter.interrupt()
        assert [type(future.result(10)) for future in failing] == [rx.ConnectionError] * 8
        assert type(client.failure(server.url("/cn"))) is rx.ConnectionError


def test_an_interrupted_body_is_never_complete(new_client: type[Client]) -> None:
    """A body without a length that `interrupt` cuts off is a ConnectionError, though libcurl reports success."""
    body = ObservedBody()
    partial = Stall(OK + b"\r\nfla")
    with new_client(lambda: body) as client, ScriptedServer({"/cn": partial}) as server, ThreadPoolExecutor(1) as pool:
        failing = pool.submit(client.failure, server.url("/cn"), timeout=None)
        assert body.start_flagjob.wait(10)
        client.adapter.interrupt()
        error = failing.result(10)
    assert (type(error), body.closed) == (rx.ConnectionError, True)


def test_interrupt_ends_a_tls_handshake(client: Client) -> None:
    """`interrupt` ends a connection during its TLS handshake."""
    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(1) as pool:
        failing = pool.submit(client.failure, f"https://127.0.0.1:{listener.getsockname()[1]}/", timeout=None)
        peer, _ = listener.accept()
        with peer:
            peer.recv(1)
            client.adapter.interrupt()
            error = failing.result(10)
    assert type(error) is rx.ConnectionError


def test_no_request_starts_after_interrupt(client: Client) -> None:
    """After `interrupt` a request fails at once with a ConnectionError, in any thread, and is not sent."""
    with ScriptedServer({"/cn": Answer()}) as server, ThreadPoolExecutor(1) as pool:
        client.get(server.url("/cn"))
        client.adapter.interrupt()
        errors = [client.failure(server.url("/cn")), pool.submit(client.failure, server.url("/cn")).result(10)]
    assert [type(error) for error in errors] == [rx.ConnectionError] * 2
    assert [vars(error)["request"].url for error in errors] == [server.url("/cn")] * 2
    assert len(server.requests) == 1


def test_no_socket_opens_after_interrupt() -> None:
    """A transfer that began just before `interrupt` gets no socket after it."""
    transfers = BlockingTransfers()
    transfers.interrupt()
    address = pycurl.CurlSockAddr(family=socket.AF_INET, socktype=socket.SOCK_STREAM, protocol=0, addr=("127.0.0.1", 9))
    assert transfers.open_socket(address) == pycurl.SOCKET_BAD


def test_close_ends_a_running_transfer(client: Client) -> None:
    """`close` from another thread ends a transfer, whose own thread then closes its handle."""
    before = open_descriptors()
    release = threading.Event()
    with ScriptedServer({"/cn": Hold(release, Answer())}) as server, ThreadPoolExecutor(1) as pool:
        failing = pool.submit(client.failure, server.url("/cn"), timeout=None)
        server.wait_for(1)
        client.adapter.close()
        error = failing.result(10)
    client.close()
    assert type(error) is rx.ConnectionError
    assert open_descriptors() <= before


@row(51)
def test_close_leaves_a_handle_in_use_to_its_transfer(new_client: type[Client]) -> None:
    """`close` leaves a handle whose callback runs to the end of its transfer, and does not wait for it."""
    entered, release = threading.Event(), threading.Event()

    class SlowBody(ObservedBody):
        def write(self, data: bytes, /) -> int:
            entered.set()
            release.wait(10)
            return super().write(data)

    with new_client(SlowBody) as client:
        before = open_descriptors()
        with ScriptedServer({"/cn": Answer(body=b"flag")}) as server, ThreadPoolExecutor(1) as pool:
            failing = pool.submit(client.failure, server.url("/cn"))
            assert entered.wait(10)
            client.adapter.close()
            release.set()
            error = failing.result(10)
    assert type(error) is rx.ConnectionError
    assert open_descriptors() <= before


def test_close_is_safe_at_any_moment(new_client: type[Client]) -> None:
    """Closed during the transfers of four threads, a hundred times, each transfer ends in a ConnectionError."""

    def repeat(client: Client, url: str, served: threading.Event) -> Exception:
        try:
            while client.get(url).content == b"flag":
                served.set()
        except rx.RequestException as error:
            return error
        raise AssertionError("another body")

    with ScriptedServer({"/cn": Answer(body=b"flag")}) as server, ThreadPoolExecutor(4) as pool:
        for _ in range(100):
            with new_client() as client:
                served = threading.Event()
                ended = [pool.submit(repeat, client, server.url("/cn"), served) for _ in range(4)]
                assert served.wait(10)
                client.adapter.close()
                assert {type(end.result(10)) for end in ended} == {rx.ConnectionError}


class OneThread:
    """Performs every transfer on one thread, as a CurlMulti does; libcurl closes the sockets itself."""

    close_socket = None

    def __init__(self) -> None:
        self._blocking = BlockingTransfers()
        self._pool = ThreadPoolExecutor(1)
        self.threads: set[int] = set()

    @property
    def is_interrupted(self) -> bool:
        """Return whether `interrupt` was called."""
        return self._blocking.is_interrupted

    def open_socket(self, address: pycurl.CurlSockAddr) -> int:
        """Return a new socket."""
        return self._blocking.open_socket(address)

    def perform(self, curl: pycurl.Curl) -> None:
        """Wait until the thread has performed the transfer."""
        self._pool.submit(self._perform, curl).result(10)

    def interrupt(self) -> None:
        """Refuse new sockets; wait for the transfers under way."""
        self._blocking.is_interrupted = True
        self._pool.shutdown()

    def _perform(self, curl: pycurl.Curl) -> None:
        self.threads.add(threading.get_ident())
        curl.perform()


def test_another_thread_may_perform_the_transfers() -> None:
    """What performs transfers can be handed in; many threads send, one performs, and libcurl closes the sockets."""
    before = open_descriptors()
    transfers = OneThread()
    adapter = CurlAdapter(new_body=ObservedBody, max_bytes=100, transfers=transfers)
    with ScriptedServer({"/cn": Answer(body=b"flag")}) as server, ThreadPoolExecutor(8) as pool:
        request = requests.Request("GET", server.url("/cn")).prepare()
        responses = list(pool.map(lambda _: adapter.send(request), range(80)))
        adapter.close()
        with pytest.raises(rx.ConnectionError, match="interrupted"):
            adapter.send(request)
    assert {response.content for response in responses} == {b"flag"}
    assert (len(transfers.threads), server.connections <= 8) == (1, True)
    assert open_descriptors() == before


# The mapping of libcurl's errors

MAPPING: dict[str, type[Exception]] = {
    "E_UNSUPPORTED_PROTOCOL": rx.ConnectionError,
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
def test_every_code_is_mapped(name: str) -> None:
    """Each error code that libcurl knows is mapped to an exception of requests."""
    assert issubclass(exception_for(getattr(pycurl, name)), rx.RequestException)


@pytest.mark.parametrize("name", MAPPING)
def test_a_code_is_mapped_to_the_expected_class(name: str) -> None:
    """A code that can occur here is mapped to the expected class."""
    assert exception_for(getattr(pycurl, name)) is MAPPING[name]


@pytest.mark.parametrize("word", ["SSL", "CONNECT", "RESOLVE", "TIMEDOUT", "SEND_ERROR", "RECV_ERROR"])
def test_every_connection_code_has_a_specific_class(word: str) -> None:
    """Each code about connections or TLS is mapped to a more specific class than RequestException."""
    codes = {getattr(pycurl, name): name for name in CODES if word in name and "FTP" not in name}
    assert {name for code, name in codes.items() if exception_for(code) is rx.RequestException} == set()


@pytest.mark.parametrize(
    ("code", "expected"), [(92, rx.ConnectionError), (97, rx.ProxyError), (98, rx.SSLError), (100, rx.InvalidHeader)]
)
def test_codes_without_a_name_are_mapped(code: int, expected: type[Exception]) -> None:
    """Codes that pycurl does not name yet are mapped too."""
    assert exception_for(code) is expected
