"""The client: one HTTP attempt for a URL, over redirects, with requests' errors mapped to ours."""

import os
import resource
import socket
import ssl
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from threading import Barrier, Event

import pytest
import requests
import trustme
from bodies import MemoryBody
from images import GIF, numbered_gif
from rows import row
from scripted import Answer, Raw, Request, Script, ScriptedServer, Stall

from job.client import Client, ClientConfig, SecretHeaders
from job.errors import (
    AttemptError,
    ContentError,
    HttpError,
    NetworkError,
    NotFoundError,
    Reason,
    RedirectError,
    StorageError,
)
from job.model import NotModified, Reply, Validators
from job.transport import CurlAdapter, CurlResponse
from job.transport.handle import Handle

MAX_BYTES = 100_000
Make = Callable[..., Client]


@pytest.fixture
def bodies() -> list[MemoryBody]:
    """Return the list of every body that a transfer began."""
    return []


@pytest.fixture
def new_client(bodies: list[MemoryBody]) -> Iterator[Make]:
    clients = []

    def new_body() -> MemoryBody:
        bodies.append(MemoryBody())
        return bodies[-1]

    def new_client(**settings: object) -> Client:
        adapter = CurlAdapter(new_body=new_body, max_bytes=MAX_BYTES)
        limits = {"connect_timeout": 5, "read_timeout": 5, "attempt_timeout": 20}
        facts = {"user_agent": "flagjob/test", **limits, **settings}
        clients.append(Client(adapter, ClientConfig(**facts)))  # type: ignore[arg-type]  # by name
        return clients[-1]

    yield new_client
    for client in clients:
        client.close()


def require_reply(reply: Reply | NotModified) -> Reply:
    """Return the answer as a Reply, which is what a plain request brings."""
    assert isinstance(reply, Reply)
    return reply


def test_a_200_becomes_a_reply(new_client: Make) -> None:
    """A 200 becomes a Reply with the whole body and the facts of its headers."""
    headers = {"Content-Type": "image/gif", "ETag": '"x"'}
    with ScriptedServer({"/br.gif": Answer(headers=headers, body=GIF)}) as server:
        reply = require_reply(new_client().get(server.url("/br.gif")))
    assert reply.body.read() == GIF
    assert (reply.body.size, reply.content_length, reply.content_type) == (len(GIF), len(GIF), "image/gif")
    assert (reply.kept_coding, reply.encoded_bytes, reply.received_bytes) == (None, None, len(GIF))


def test_a_request_has_the_configured_headers(new_client: Make) -> None:
    """A request has our user agent, asks for no encoding, and has the secret headers."""
    with ScriptedServer({"/br.gif": Answer(body=GIF)}) as server:
        require_reply(
            new_client(secret_headers={"Authorization": "Bearer abc"}).get(server.url("/br.gif?x=1"))
        ).body.close()
        request = server.requests[0]
    assert (request.method, request.target) == ("GET", "/br.gif?x=1")
    wanted = {"user-agent": "flagjob/test", "accept": "*/*", "accept-encoding": "identity"}
    assert wanted.items() <= request.headers.items()
    assert request.headers["authorization"] == "Bearer abc"
    assert "cookie" not in request.headers


@pytest.mark.parametrize("status", [200, 404])
def test_a_plain_session_sends_and_returns_the_same(status: int) -> None:
    """The client sends what a Session of requests sends with the same headers, and nothing of the answer is lost."""
    answered = Answer(status, {"Content-Type": "image/gif", "ETag": '"x"', "Last-Modified": "then"}, GIF)
    adapter = CurlAdapter(new_body=MemoryBody, max_bytes=MAX_BYTES)
    config = ClientConfig(user_agent="flagjob/test", connect_timeout=5, read_timeout=5, attempt_timeout=5)
    with ScriptedServer({"/br.gif": answered}) as server, requests.Session() as session:
        session.mount("http://", adapter)
        session.headers = {"User-Agent": "flagjob/test", "Accept": "*/*", "Accept-Encoding": "identity"}
        response = session.get(server.url("/br.gif"), timeout=5, stream=True)
        client, outcome = Client(adapter, config), ""
        try:
            reply = require_reply(client.get(server.url("/br.gif")))
            assert reply.body.read() == response.content == GIF
            found = [f"{reply.content_length}", reply.content_type, reply.etag, reply.last_modified]
            assert found == [
                response.headers[name] for name in ("Content-Length", "Content-Type", "ETag", "Last-Modified")
            ]
        except HttpError as error:
            outcome = str(error)
    assert outcome == ("" if response.ok else f"HTTP error {response.status_code} - {response.reason}")
    assert server.requests[0].head == server.requests[1].head


def test_a_condition_is_for_one_request_only(new_client: Make) -> None:
    """A request after a conditional one, on the same connection, is not conditional."""
    with ScriptedServer({"/br.gif": [Answer(304), Answer(body=GIF)]}) as server:
        client = new_client()
        assert client.get(server.url("/br.gif"), Validators('"a"', None)) == NotModified()
        require_reply(client.get(server.url("/br.gif"))).body.close()
    assert ["if-none-match" in request.headers for request in server.requests] == [True, False]
    assert server.connections == 1


def test_cookies_are_not_sent_back(new_client: Make) -> None:
    """A cookie that one answer sets is not sent with the next request."""
    with ScriptedServer({"/br.gif": Answer(headers={"Set-Cookie": "a=b"}, body=GIF)}) as server:
        client = new_client()
        for _ in range(2):
            require_reply(client.get(server.url("/br.gif"))).body.close()
    assert "cookie" not in server.requests[1].headers


@pytest.mark.parametrize("status", [204, 206, 304, 400, 401, 403, 408, 429, 451, 500, 501, 503, 520, 600, 999])
def test_only_200_becomes_a_reply(new_client: Make, status: int) -> None:
    """Any status but 200 is an HttpError with that status and requests' wording, whatever its body is."""
    answer = Answer(status, body=b"" if status in {204, 304} else GIF)
    with ScriptedServer({"/br.gif": answer}) as server, pytest.raises(HttpError) as caught:
        new_client().get(server.url("/br.gif"))
    assert (caught.value.failure.reason, caught.value.failure.http_status) == (f"http_{status}", status)
    assert str(caught.value).startswith(f"HTTP error {status} - ")


@pytest.mark.parametrize("status", [204, 404, 410])
def test_a_missing_file_is_not_found(new_client: Make, status: int) -> None:
    """204, 404 and 410 are a NotFoundError."""
    with ScriptedServer({"/zz.gif": Answer(status)}) as server, pytest.raises(NotFoundError) as caught:
        new_client().get(server.url("/zz.gif"))
    assert caught.value.failure.http_status == status


@pytest.mark.parametrize(("header", "low", "high"), [("7", 7, 7), ("abc", None, None), ("date", 50, 61)])
def test_a_retry_after_comes_with_the_error(
    new_client: Make, header: str, low: float | None, high: float | None
) -> None:
    """An HttpError has the Retry-After in seconds, from a number or a date; None if it is invalid."""
    value = format_datetime(datetime.now(UTC) + timedelta(seconds=60), usegmt=True) if header == "date" else header
    with ScriptedServer({"/": Answer(503, {"Retry-After": value})}) as server, pytest.raises(HttpError) as caught:
        new_client().get(server.url())
    wait = caught.value.retry_after
    assert wait == low if wait is None or low == high else (low or 0) <= wait <= (high or 0)


def test_a_conditional_request_may_return_not_modified(new_client: Make) -> None:
    """Validators are sent; a 304 returns NotModified, and a 200 a Reply with its own validators."""
    script = {"/same.gif": Answer(304, {"ETag": '"b"'}), "/new.gif": Answer(headers={"ETag": '"c"'}, body=GIF)}
    with ScriptedServer(script) as server:
        client, then = new_client(), "Sun, 22 Nov 2026 04:17:00 GMT"
        same = client.get(server.url("/same.gif"), Validators('"a"', then))
        new = require_reply(client.get(server.url("/new.gif"), Validators('"a"', None)))
        new.body.close()
        require_reply(client.get(server.url("/new.gif"), Validators(None, then))).body.close()
    sent = [
        (request.headers.get("if-none-match"), request.headers.get("if-modified-since")) for request in server.requests
    ]
    assert sent == [('"a"', then), ('"a"', None), (None, then)]
    assert same == NotModified(etag='"b"')
    assert (new.etag, new.last_modified) == ('"c"', None)


def test_validators_are_sent_to_their_redirect_target_only(new_client: Make) -> None:
    """Validators are sent only to the URL whose answer they came with, so that no 304 keeps a stale file."""
    changed = Answer(304)
    script: Script = {
        "/cn.gif": [Answer(302, {"Location": f"/{place}.gif"}) for place in ("v2", "v2", "v1")],
        "/v2.gif": [Answer(headers={"ETag": '"2"'}, body=GIF), changed],
        "/v1.gif": Answer(headers={"ETag": '"1"'}, body=numbered_gif(1)),
    }
    with ScriptedServer(script) as server:
        first = require_reply(new_client().get(server.url("/cn.gif")))
        known = Validators(first.etag, None, first.redirected_to)
        same, other = (
            new_client().get(server.url("/cn.gif"), known),
            require_reply(new_client().get(server.url("/cn.gif"), known)),
        )
        first.body.close()
        other.body.close()
    assert (type(same), other.etag) == (NotModified, '"1"')
    assert first.redirected_to != other.redirected_to
    asked = [request.target for request in server.requests if "if-none-match" in request.headers]
    assert asked == ["/v2.gif"]


def test_validators_do_not_follow_a_redirect(new_client: Make) -> None:
    """Validators of the first URL are not sent to its redirect target, where a 304 is an error."""
    script: Script = {"/cn.gif": Answer(302, {"Location": "/v2.gif"}), "/v2.gif": Answer(304)}
    with ScriptedServer(script) as server, pytest.raises(HttpError) as caught:
        new_client().get(server.url("/cn.gif"), Validators('"a"', None))
    assert caught.value.failure.http_status == 304
    assert ["if-none-match" in request.headers for request in server.requests] == [True, False]


def test_a_redirect_back_to_the_first_url_is_no_redirect(new_client: Make) -> None:
    """A redirect that leads back to the first URL leaves `redirected_to` empty."""
    script: Script = {
        "/cn.gif": [Answer(302, {"Location": "/detour"}), Answer(body=GIF)],
        "/detour": Answer(302, {"Location": "/cn.gif"}),
    }
    with ScriptedServer(script) as server:
        reply = require_reply(new_client().get(server.url("/cn.gif")))
    assert (reply.body.read(), reply.redirected_to) == (GIF, None)


def test_redirects_share_the_attempt_timeout(new_client: Make) -> None:
    """All redirects of an attempt end within its time-out."""

    def answer_late(_: Request) -> Answer:
        Event().wait(0.6)
        return Answer(302, {"Location": "/"})

    with ScriptedServer({"/": answer_late}) as server, pytest.raises(NetworkError) as caught:
        new_client(attempt_timeout=1.6).get(server.url())
    assert caught.value.failure.reason == Reason.TIMEOUT
    assert 1 < len(server.requests) < 5


def test_a_long_reason_phrase_is_shortened(new_client: Make) -> None:
    """The message of an HttpError is short, however long the reason phrase is."""
    answer = Raw(b"HTTP/1.1 503 " + b"x" * 60_000 + b"\r\nContent-Length: 0\r\n\r\n")
    with ScriptedServer({"/": answer}) as server, pytest.raises(HttpError) as caught:
        new_client().get(server.url())
    assert len(str(caught.value)) < 200


def test_a_redirect_on_the_same_origin_is_followed(new_client: Make) -> None:
    """A relative redirect is followed by the client itself, with the secret headers."""
    script = {"/old.gif": Answer(302, {"Location": "/new.gif"}), "/new.gif": Answer(body=GIF)}
    with ScriptedServer(script) as server:
        reply = require_reply(new_client(secret_headers={"X-Key": "abc"}).get(server.url("/old.gif")))
    assert reply.body.read() == GIF
    assert [request.headers.get("x-key") for request in server.requests] == ["abc", "abc"]


def test_a_redirect_to_another_host_is_refused(new_client: Make) -> None:
    """A redirect to another host is refused, and that host receives no request."""
    with ScriptedServer({}) as canary:
        script = {"/": Answer(302, {"Location": f"http://localhost:{canary.port}/"})}
        with ScriptedServer(script) as server, pytest.raises(RedirectError) as caught:
            new_client().get(server.url())
    assert (caught.value.failure.reason, caught.value.failure.http_status) == (Reason.REDIRECT_REFUSED, 302)
    assert canary.requests == []


def test_a_redirect_to_an_allowed_host_sends_no_secrets(new_client: Make) -> None:
    """An allowed redirect host gets the request without the secret headers."""
    with ScriptedServer({"/": Answer(body=GIF)}) as other:
        script = {"/": Answer(302, {"Location": f"http://localhost:{other.port}/"})}
        with ScriptedServer(script) as server:
            require_reply(
                new_client(secret_headers={"X-Key": "abc"}, redirect_hosts=("localhost",)).get(server.url())
            ).body.close()
    assert "x-key" not in other.requests[0].headers
    assert other.requests[0].headers["user-agent"] == "flagjob/test"


@row(77)
def test_new_headers_stay_on_their_host(new_client: Make) -> None:
    """Secret headers that were read again are sent to the URL's host, and not along with a redirect to another."""
    with ScriptedServer({"/": Answer(body=GIF)}) as other:
        script = {"/": [Answer(401), Answer(302, {"Location": f"http://localhost:{other.port}/"})]}
        with ScriptedServer(script) as server:
            headers = {"X-Key": "new"}
            client = new_client(
                secret_headers={"X-Key": "old"}, reread_headers=lambda: headers, redirect_hosts=("localhost",)
            )
            sent = client.secret_headers.lines
            with pytest.raises(HttpError):
                client.get(server.url())
            assert client.secret_headers.is_newer_than(sent)
            require_reply(client.get(server.url())).body.close()
        assert [request.headers["x-key"] for request in server.requests] == ["old", "new"]
    assert "x-key" not in other.requests[0].headers


@row(77)
def test_many_refusals_read_the_headers_once() -> None:
    """Requests that are refused at the same moment all find the new headers, which one of them has read."""
    start = Barrier(30)
    reads: list[int] = []

    def reread() -> dict[str, str]:
        reads.append(1)
        return {"X-Key": "new"}

    headers = SecretHeaders({"X-Key": "old"}, reread, {})
    sent = headers.lines

    def find_out(_: int) -> bool:
        start.wait(10)
        return headers.is_newer_than(sent)

    with ThreadPoolExecutor(30) as pool:
        assert list(pool.map(find_out, range(30))) == [True] * 30
    assert (len(reads), headers.is_newer_than(headers.lines), len(reads)) == (1, True, 2)


def test_at_most_five_redirects_are_followed(new_client: Make) -> None:
    """A redirect loop ends after six requests."""
    with ScriptedServer({"/": Answer(307, {"Location": "/"})}) as server, pytest.raises(RedirectError) as caught:
        new_client().get(server.url())
    assert (caught.value.failure.reason, caught.value.failure.http_status) == (Reason.TOO_MANY_REDIRECTS, 307)
    assert len(server.requests) == 6


def test_a_redirect_without_location_is_refused(new_client: Make) -> None:
    """A 302 without a Location is a RedirectError."""
    with ScriptedServer({"/": Answer(302, body=GIF)}) as server, pytest.raises(RedirectError) as caught:
        new_client().get(server.url())
    assert caught.value.failure.reason == Reason.REDIRECT_REFUSED


def test_a_closed_port_is_a_connection_error(new_client: Make) -> None:
    """A refused connection is a retryable connection failure."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with pytest.raises(NetworkError) as caught:
        new_client().get(f"http://127.0.0.1:{port}/")
    assert (caught.value.failure.reason, caught.value.failure.retryable) == (Reason.CONNECTION, True)


def test_a_name_that_does_not_exist_is_a_dns_error(new_client: Make) -> None:
    """A host name that does not resolve has the reason `dns`."""
    with pytest.raises(NetworkError) as caught:
        new_client().get("http://no-such-host.invalid/")
    assert caught.value.failure.reason == Reason.DNS


@pytest.mark.parametrize(
    "answered", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nGIF89a"], ids=["head", "body"]
)
@pytest.mark.slow
def test_silence_is_a_timeout(new_client: Make, answered: bytes) -> None:
    """A server that sends nothing more, before or within its answer, is a time-out."""
    with ScriptedServer({"/": Stall(answered)}) as server, pytest.raises(NetworkError) as caught:
        new_client(read_timeout=1).get(server.url())
    assert caught.value.failure.reason == Reason.TIMEOUT


def test_a_truncated_body_is_discarded(new_client: Make, bodies: list[MemoryBody]) -> None:
    """A body shorter than its Content-Length is a ContentError, and is closed."""
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + GIF
    with ScriptedServer({"/": Raw(answer)}) as server, pytest.raises(ContentError) as caught:
        new_client().get(server.url())
    assert (caught.value.failure.reason, caught.value.failure.http_status) == (Reason.TRUNCATED, 200)
    assert [body.closed for body in bodies] == [True]


def test_a_body_over_the_maximum_is_too_large(new_client: Make, bodies: list[MemoryBody]) -> None:
    """A body over `max_bytes`, announced or not, is a permanent failure, and is closed."""
    unannounced = b"HTTP/1.1 200 OK\r\n\r\n" + numbered_gif(1, MAX_BYTES + 1)
    script: dict[str, Answer | Raw] = {"/a": Answer(body=numbered_gif(1, MAX_BYTES + 1)), "/b": Raw(unannounced)}
    with ScriptedServer(script) as server:
        client = new_client()
        for path in script:
            with pytest.raises(ContentError) as caught:
                client.get(server.url(path))
            assert (caught.value.failure.reason, caught.value.failure.retryable) == (Reason.TOO_LARGE, False)
    assert all(body.closed for body in bodies)


def test_a_body_of_exactly_the_maximum_is_accepted(new_client: Make) -> None:
    """A body of exactly `max_bytes` is accepted."""
    largest = numbered_gif(1, MAX_BYTES)
    with ScriptedServer({"/": Answer(body=largest)}) as server:
        assert require_reply(new_client().get(server.url())).body.read() == largest


def test_a_dead_proxy_is_never_bypassed(new_client: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """A dead proxy fails the attempt, even if the origin could be reached directly."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{port}")  # how requests learns of proxies
    with ScriptedServer({"/": Answer(body=GIF)}) as server, pytest.raises(NetworkError) as caught:
        new_client().get(server.url().replace("127.0.0.1", "localhost.localdomain"))
    assert caught.value.failure.reason == Reason.PROXY
    assert server.requests == []


def test_an_untrusted_certificate_is_a_tls_error(new_client: Make) -> None:
    """An untrusted certificate is a permanent failure."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    with ScriptedServer({"/": Answer(body=GIF)}, context) as server, pytest.raises(NetworkError) as caught:
        new_client().get(server.url())
    assert (caught.value.failure.reason, caught.value.failure.retryable) == (Reason.TLS, False)
    assert server.requests == []


def test_a_certificate_of_the_ca_bundle_is_trusted(new_client: Make, tmp_path: Path) -> None:
    """A certificate of an authority in `ca_bundle` is trusted."""
    authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    with ScriptedServer({"/": Answer(body=GIF)}, context) as server:
        assert require_reply(new_client(ca_bundle=str(tmp_path / "ca.pem")).get(server.url())).body.read() == GIF


@row(46)
def test_a_shortage_of_descriptors_is_a_storage_error(new_client: Make) -> None:
    """No file descriptor left is a StorageError of this machine, not a connection failure."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with ScriptedServer({"/": Answer(body=GIF)}) as server:
        client, url = new_client(), server.url()
        free = os.dup(0)
        os.close(free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
        try:
            with pytest.raises(StorageError) as caught:
                client.get(url)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert "Too many open files" in str(caught.value)


def test_a_handle_keeps_its_options(new_client: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests to one origin set time-outs, authorities and proxy once. (Only a hook sees what libcurl is told.)."""
    routes: list[object] = []
    set_route = Handle._set_route  # noqa: SLF001  (see above)

    def note_and_set(handle: Handle, *route: object) -> None:
        routes.append(route)
        set_route(handle, *route)  # type: ignore[arg-type]  # as they came

    monkeypatch.setattr(Handle, "_set_route", note_and_set)
    client = new_client()
    with ScriptedServer({"/br.gif": Answer(body=GIF)}) as server:
        for _ in range(3):
            require_reply(client.get(server.url("/br.gif"))).body.close()
    assert len(routes) == 1


def test_redirects_that_take_all_the_time_of_an_attempt_end_it() -> None:
    """No further request is sent when the time is over, even if each answer came in time."""

    class Redirecting(CurlAdapter):
        sent = 0

        def send(self, *_: object, **__: object) -> CurlResponse:
            self.sent += 1
            Event().wait(0.05)
            return CurlResponse(302, "Found", ["Location"], {"location": f"/{self.sent}"})

    adapter = Redirecting(new_body=MemoryBody, max_bytes=1)
    config = ClientConfig(user_agent="x", connect_timeout=1, read_timeout=1, attempt_timeout=0.01)
    with pytest.raises(NetworkError, match="1 redirects took all the time") as caught:
        Client(adapter, config).get("http://localhost/")
    assert (caught.value.failure.reason, adapter.sent) == (Reason.TIMEOUT, 1)


def every_exception_of_requests() -> list[type[requests.RequestException]]:
    found, waiting = set(), [requests.RequestException]
    while waiting:
        kind = waiting.pop()
        found.add(kind)
        waiting += kind.__subclasses__()
    return sorted(found, key=lambda kind: kind.__name__)


@pytest.mark.parametrize("kind", every_exception_of_requests(), ids=lambda kind: kind.__name__)
def test_every_exception_of_requests_is_mapped(kind: type[requests.RequestException]) -> None:
    """Every exception of requests and of the transport becomes an AttemptError with a reason of the list."""

    class Raising(CurlAdapter):
        def send(self, *_: object, **__: object) -> CurlResponse:
            raise kind("boom", "doc", 0) if issubclass(kind, requests.JSONDecodeError) else kind("boom")

    config = ClientConfig(user_agent="x", connect_timeout=1, read_timeout=1, attempt_timeout=1)
    with pytest.raises(AttemptError) as caught:
        Client(Raising(new_body=MemoryBody, max_bytes=1), config).get("http://localhost/")
    assert caught.value.failure.reason in set(Reason)
    assert caught.value.__cause__.__class__ is kind
