"""One HTTP attempt: what a URL's answer becomes, over redirects, in requests' terms."""

import os
import resource
import socket
import ssl
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from threading import Event

import pytest
import requests
import trustme
from bodies import MemoryBody
from images import GIF, numbered_gif
from requests.adapters import BaseAdapter
from rows import row
from scripted import Answer, Raw, Request, Script, ScriptedServer, Stall

from job.client import Client, ClientConfig
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
from job.transport import CurlAdapter

MAX_BYTES = 100_000
Make = Callable[..., Client]


@pytest.fixture
def made() -> list[MemoryBody]:
    """Every body that a transfer began."""
    return []


@pytest.fixture
def make(made: list[MemoryBody]) -> Iterator[Make]:
    clients = []

    def new_body() -> MemoryBody:
        made.append(MemoryBody())
        return made[-1]

    def make(**settings: object) -> Client:
        adapter = CurlAdapter(new_body=new_body, max_bytes=MAX_BYTES)
        limits = {"connect_timeout": 5, "read_timeout": 5, "attempt_timeout": 20}
        facts = {"user_agent": "flagjob/test", **limits, **settings}
        clients.append(Client(adapter, ClientConfig(**facts)))  # type: ignore[arg-type]  # by name
        return clients[-1]

    yield make
    for client in clients:
        client.close()


def fetched(reply: Reply | NotModified) -> Reply:
    """Tell the type checker what a plain request brings."""
    assert isinstance(reply, Reply)
    return reply


def test_an_answer_comes_with_its_body_and_facts(make: Make) -> None:
    """A 200 brings the body, whole, and what its headers claim."""
    headers = {"Content-Type": "image/gif", "ETag": '"x"'}
    with ScriptedServer({"/br.gif": Answer(headers=headers, body=GIF)}) as server:
        reply = fetched(make().get(server.url("/br.gif")))
    assert reply.body.read() == GIF
    assert (reply.body.size, reply.content_length, reply.content_type) == (len(GIF), len(GIF), "image/gif")
    assert reply.content_encoding is None


def test_the_request_says_who_asks_and_wants_no_encoding(make: Make) -> None:
    """The user agent is ours, bodies are asked for as they are, and secret headers go along."""
    with ScriptedServer({"/br.gif": Answer(body=GIF)}) as server:
        fetched(make(secret_headers={"Authorization": "Bearer abc"}).get(server.url("/br.gif?x=1"))).body.close()
        request = server.requests[0]
    assert (request.method, request.target) == ("GET", "/br.gif?x=1")
    wanted = {"user-agent": "flagjob/test", "accept": "*/*", "accept-encoding": "identity"}
    assert wanted.items() <= request.headers.items()
    assert request.headers["authorization"] == "Bearer abc"
    assert "cookie" not in request.headers


def test_cookies_are_not_kept(make: Make) -> None:
    """What one answer sets is not sent with the next request."""
    with ScriptedServer({"/br.gif": Answer(headers={"Set-Cookie": "a=b"}, body=GIF)}) as server:
        client = make()
        for _ in range(2):
            fetched(client.get(server.url("/br.gif"))).body.close()
    assert "cookie" not in server.requests[1].headers


@pytest.mark.parametrize("status", [204, 206, 304, 400, 401, 403, 408, 429, 451, 500, 501, 503, 520, 600, 999])
def test_only_200_is_an_answer(make: Make, status: int) -> None:
    """Any other status is an error that names it, with requests' wording of it, however good its body looks."""
    answer = Answer(status, body=b"" if status in {204, 304} else GIF)
    with ScriptedServer({"/br.gif": answer}) as server, pytest.raises(HttpError) as caught:
        make().get(server.url("/br.gif"))
    assert (caught.value.failure.reason, caught.value.failure.http_status) == (f"http_{status}", status)
    assert str(caught.value).startswith(f"HTTP error {status} - ")


@pytest.mark.parametrize("status", [404, 410])
def test_gone_files_are_not_found(make: Make, status: int) -> None:
    """404 and 410 say that there is no such file."""
    with ScriptedServer({"/zz.gif": Answer(status)}) as server, pytest.raises(NotFoundError) as caught:
        make().get(server.url("/zz.gif"))
    assert caught.value.failure.http_status == status


@pytest.mark.parametrize(("header", "low", "high"), [("7", 7, 7), ("abc", None, None), ("date", 50, 61)])
def test_what_the_origin_asks_to_wait_is_kept(make: Make, header: str, low: float | None, high: float | None) -> None:
    """Retry-After, in seconds or as a date, comes with the error; nonsense does not."""
    value = format_datetime(datetime.now(UTC) + timedelta(seconds=60), usegmt=True) if header == "date" else header
    with ScriptedServer({"/": Answer(503, {"Retry-After": value})}) as server, pytest.raises(HttpError) as caught:
        make().get(server.url())
    wait = caught.value.retry_after
    assert wait == low if wait is None or low == high else (low or 0) <= wait <= (high or 0)


def test_a_conditional_request_may_be_answered_by_304(make: Make) -> None:
    """Validators go out, a 304 comes back as what it says, and a 200 with its own validators."""
    script = {"/same.gif": Answer(304, {"ETag": '"b"'}), "/new.gif": Answer(headers={"ETag": '"c"'}, body=GIF)}
    with ScriptedServer(script) as server:
        client, then = make(), "Sun, 22 Nov 2026 04:17:00 GMT"
        same = client.get(server.url("/same.gif"), Validators('"a"', then))
        new = fetched(client.get(server.url("/new.gif"), Validators('"a"', None)))
        new.body.close()
    sent = [
        (request.headers.get("if-none-match"), request.headers.get("if-modified-since")) for request in server.requests
    ]
    assert sent == [('"a"', then), ('"a"', None)]
    assert same == NotModified(etag='"b"')
    assert (new.etag, new.last_modified) == ('"c"', None)


def test_validators_are_of_the_url_that_a_redirect_led_to(make: Make) -> None:
    """They go there and nowhere else: to another URL they would say nothing, and its 304 would keep a stale file."""
    changed = Answer(304)
    script: Script = {
        "/cn.gif": [Answer(302, {"Location": f"/{place}.gif"}) for place in ("v2", "v2", "v1")],
        "/v2.gif": [Answer(headers={"ETag": '"2"'}, body=GIF), changed],
        "/v1.gif": Answer(headers={"ETag": '"1"'}, body=numbered_gif(1)),
    }
    with ScriptedServer(script) as server:
        first = fetched(make().get(server.url("/cn.gif")))
        known = Validators(first.etag, None, first.redirected_to)
        same, other = make().get(server.url("/cn.gif"), known), fetched(make().get(server.url("/cn.gif"), known))
        first.body.close()
        other.body.close()
    assert (type(same), other.etag) == (NotModified, '"1"')
    assert first.redirected_to != other.redirected_to
    asked = [request.target for request in server.requests if "if-none-match" in request.headers]
    assert asked == ["/v2.gif"]


def test_validators_of_a_url_do_not_go_along_with_its_redirect(make: Make) -> None:
    """What was known of the URL itself says nothing of where it leads now; a 304 there is no answer."""
    script: Script = {"/cn.gif": Answer(302, {"Location": "/v2.gif"}), "/v2.gif": Answer(304)}
    with ScriptedServer(script) as server, pytest.raises(HttpError) as caught:
        make().get(server.url("/cn.gif"), Validators('"a"', None))
    assert caught.value.failure.http_status == 304
    assert ["if-none-match" in request.headers for request in server.requests] == [True, False]


def test_a_redirect_back_to_the_url_is_that_url(make: Make) -> None:
    """A detour, as for a cookie, changes nothing."""
    script: Script = {
        "/cn.gif": [Answer(302, {"Location": "/detour"}), Answer(body=GIF)],
        "/detour": Answer(302, {"Location": "/cn.gif"}),
    }
    with ScriptedServer(script) as server:
        reply = fetched(make().get(server.url("/cn.gif")))
    assert (reply.body.read(), reply.redirected_to) == (GIF, None)


def test_redirects_share_the_time_of_an_attempt(make: Make) -> None:
    """However many there are: what one took, the next has not."""

    def late(_: Request) -> Answer:
        Event().wait(0.3)
        return Answer(302, {"Location": "/"})

    with ScriptedServer({"/": late}) as server, pytest.raises(NetworkError) as caught:
        make(attempt_timeout=0.8).get(server.url())
    assert caught.value.failure.reason == Reason.TIMEOUT
    assert 1 < len(server.requests) < 5


def test_a_reason_phrase_does_not_fill_the_log(make: Make) -> None:
    """A server may say very much in its status line; what is shown of it is short."""
    answer = Raw(b"HTTP/1.1 503 " + b"x" * 60_000 + b"\r\nContent-Length: 0\r\n\r\n")
    with ScriptedServer({"/": answer}) as server, pytest.raises(HttpError) as caught:
        make().get(server.url())
    assert len(str(caught.value)) < 200


def test_a_redirect_on_the_same_origin_is_followed(make: Make) -> None:
    """A relative redirect ends at the file; requests sees none of it, we decide."""
    script = {"/old.gif": Answer(302, {"Location": "/new.gif"}), "/new.gif": Answer(body=GIF)}
    with ScriptedServer(script) as server:
        reply = fetched(make(secret_headers={"X-Key": "abc"}).get(server.url("/old.gif")))
    assert reply.body.read() == GIF
    assert [request.headers.get("x-key") for request in server.requests] == ["abc", "abc"]


def test_a_redirect_elsewhere_is_refused(make: Make) -> None:
    """The other server is never asked, nor told any secret."""
    with ScriptedServer({}) as canary:
        script = {"/": Answer(302, {"Location": f"http://localhost:{canary.port}/"})}
        with ScriptedServer(script) as server, pytest.raises(RedirectError) as caught:
            make().get(server.url())
    assert (caught.value.failure.reason, caught.value.failure.http_status) == (Reason.REDIRECT_REFUSED, 302)
    assert canary.requests == []


def test_a_redirect_to_an_allowed_host_takes_no_secrets_along(make: Make) -> None:
    """Where another host is allowed it gets the request, without the headers that are meant for the first."""
    with ScriptedServer({"/": Answer(body=GIF)}) as other:
        script = {"/": Answer(302, {"Location": f"http://localhost:{other.port}/"})}
        with ScriptedServer(script) as server:
            fetched(make(secret_headers={"X-Key": "abc"}, redirect_hosts=("localhost",)).get(server.url())).body.close()
    assert "x-key" not in other.requests[0].headers
    assert other.requests[0].headers["user-agent"] == "flagjob/test"


def test_redirects_end_after_five(make: Make) -> None:
    """A loop costs six requests."""
    with ScriptedServer({"/": Answer(307, {"Location": "/"})}) as server, pytest.raises(RedirectError) as caught:
        make().get(server.url())
    assert (caught.value.failure.reason, caught.value.failure.http_status) == (Reason.TOO_MANY_REDIRECTS, 307)
    assert len(server.requests) == 6


def test_a_redirect_to_nowhere_is_refused(make: Make) -> None:
    """A 302 without Location is no success."""
    with ScriptedServer({"/": Answer(302, body=GIF)}) as server, pytest.raises(RedirectError) as caught:
        make().get(server.url())
    assert caught.value.failure.reason == Reason.REDIRECT_REFUSED


def test_a_closed_port_is_a_connection_error(make: Make) -> None:
    """Nobody listens: connection, worth a retry."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with pytest.raises(NetworkError) as caught:
        make().get(f"http://127.0.0.1:{port}/")
    assert (caught.value.failure.reason, caught.value.failure.retryable) == (Reason.CONNECTION, True)


def test_a_name_that_does_not_exist_is_a_dns_error(make: Make) -> None:
    """A name that cannot be looked up is told from a host that cannot be reached."""
    with pytest.raises(NetworkError) as caught:
        make().get("http://no-such-host.invalid/")
    assert caught.value.failure.reason == Reason.DNS


@pytest.mark.parametrize(
    "answered", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nGIF89a"], ids=["head", "body"]
)
def test_silence_is_a_timeout(make: Make, answered: bytes) -> None:
    """A server that falls silent, before its answer or in the middle of a body, is a timeout by its cause."""
    with ScriptedServer({"/": Stall(answered)}) as server, pytest.raises(NetworkError) as caught:
        make(read_timeout=1).get(server.url())
    assert caught.value.failure.reason == Reason.TIMEOUT


def test_a_short_body_is_truncated(make: Make, made: list[MemoryBody]) -> None:
    """Fewer bytes than announced are no file, and those that came are thrown away."""
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + GIF
    with ScriptedServer({"/": Raw(answer)}) as server, pytest.raises(ContentError) as caught:
        make().get(server.url())
    assert (caught.value.failure.reason, caught.value.failure.http_status) == (Reason.TRUNCATED, 200)
    assert [body.closed for body in made] == [True]


def test_a_body_beyond_the_cap_is_too_large(make: Make, made: list[MemoryBody]) -> None:
    """The cap holds for what is announced and for what comes unannounced; a retry would not help."""
    unannounced = b"HTTP/1.1 200 OK\r\n\r\n" + numbered_gif(1, MAX_BYTES + 1)
    script: dict[str, Answer | Raw] = {"/a": Answer(body=numbered_gif(1, MAX_BYTES + 1)), "/b": Raw(unannounced)}
    with ScriptedServer(script) as server:
        client = make()
        for path in script:
            with pytest.raises(ContentError) as caught:
                client.get(server.url(path))
            assert (caught.value.failure.reason, caught.value.failure.retryable) == (Reason.TOO_LARGE, False)
    assert all(body.closed for body in made)


def test_a_body_up_to_the_cap_is_taken(make: Make) -> None:
    """The cap is the largest size that is allowed, not the first that is not."""
    whole = numbered_gif(1, MAX_BYTES)
    with ScriptedServer({"/": Answer(body=whole)}) as server:
        assert fetched(make().get(server.url())).body.read() == whole


def test_a_dead_proxy_is_never_bypassed(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the proxy cannot be reached the item fails, although the origin could be."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{port}")  # how requests learns of proxies
    with ScriptedServer({"/": Answer(body=GIF)}) as server, pytest.raises(NetworkError) as caught:
        make().get(server.url().replace("127.0.0.1", "localhost.localdomain"))
    assert caught.value.failure.reason == Reason.PROXY
    assert server.requests == []


def test_an_untrusted_certificate_is_a_tls_error(make: Make) -> None:
    """A certificate that nobody vouches for is not retried: waiting does not heal it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    with ScriptedServer({"/": Answer(body=GIF)}, context) as server, pytest.raises(NetworkError) as caught:
        make().get(server.url())
    assert (caught.value.failure.reason, caught.value.failure.retryable) == (Reason.TLS, False)
    assert server.requests == []


def test_a_trusted_certificate_is_taken(make: Make, tmp_path: Path) -> None:
    """With the authority's bundle the same server is fine."""
    authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    with ScriptedServer({"/": Answer(body=GIF)}, context) as server:
        assert fetched(make(ca_bundle=str(tmp_path / "ca.pem")).get(server.url())).body.read() == GIF


@row(46)
def test_a_lack_of_descriptors_is_our_own_fault(make: Make) -> None:
    """Where this machine has no descriptor left, no retry over the network helps: a storage error, not a connection."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with ScriptedServer({"/": Answer(body=GIF)}) as server:
        client, url = make(), server.url()
        free = os.dup(0)
        os.close(free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
        try:
            with pytest.raises(StorageError) as caught:
                client.get(url)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert "Too many open files" in str(caught.value)


def every_exception_of_requests() -> list[type[requests.RequestException]]:
    found, waiting = set(), [requests.RequestException]
    while waiting:
        kind = waiting.pop()
        found.add(kind)
        waiting += kind.__subclasses__()
    return sorted(found, key=lambda kind: kind.__name__)


@pytest.mark.parametrize("kind", every_exception_of_requests(), ids=lambda kind: kind.__name__)
def test_every_exception_of_requests_has_a_meaning(kind: type[requests.RequestException]) -> None:
    """Whatever requests or our transport may raise becomes one of our errors with a reason of the list."""

    class Raising(BaseAdapter):
        def send(self, *_: object, **__: object) -> requests.Response:
            raise kind("boom", "doc", 0) if issubclass(kind, requests.JSONDecodeError) else kind("boom")

        def close(self) -> None: ...

    config = ClientConfig(user_agent="x", connect_timeout=1, read_timeout=1, attempt_timeout=1)
    with pytest.raises(AttemptError) as caught:
        Client(Raising(), config).get("http://localhost/")
    assert caught.value.failure.reason in set(Reason)
    assert caught.value.__cause__.__class__ is kind
