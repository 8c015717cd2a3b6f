"""The catalogue of faults, rows 75 and 77: client certificates, authorities that are none, tokens that expire."""

import os
import ssl
import threading
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from io import BytesIO
from pathlib import Path

import pytest
import trustme
from command import Done
from images import GIF, HTML
from inprocess import files_in, run, run_here
from rows import line_of, row
from scripted import Answer, Raw, Request, ScriptedServer, Step

from job.cancellation import Cancellation

OLD_TOKEN = "old-token-3nWq8zKf"  # noqa: S105  (an example)
NEW_TOKEN = "new-token-7Rk2mVx9"  # noqa: S105  (an example)
WORKERS = 5
AFTER = 40
"""How many files the origin gives before it refuses them."""


class Guarded:
    """An origin that gives its files for one token, and calls a function when it has given enough of them.

    Its server's threads share it, so a lock guards what they change.
    """

    def __init__(self, refusal: Step, on_expiry: Callable[[], str | None] = lambda: None) -> None:
        """Take what it answers otherwise, and what it calls then: that returns the next token, or None."""
        self._refusal = refusal
        self._on_expiry = on_expiry
        self._lock = threading.Lock()
        self._token: str | None = OLD_TOKEN
        self.given = 0
        self.refused = 0

    def answer(self, request: Request) -> Step:
        """Return the file, or the refusal."""
        with self._lock:
            if self.given == AFTER and self._token == OLD_TOKEN:
                self._token = self._on_expiry()
            if self._token is None or request.headers.get("authorization") != f"Bearer {self._token}":
                self.refused += 1
                return self._refusal
            if request.headers.get("if-none-match") == "*":
                return Answer(304)
            self.given += 1
            return Answer(body=GIF)


def codes_of(number: int) -> list[str]:
    """Return this many codes."""
    return [f"c{n}" for n in range(number)]


def serve(origin: Callable[[Request], Step], number: int) -> ScriptedServer:
    """Return a server that asks the origin for each of this many files."""
    return ScriptedServer({f"/{code}.gif": origin for code in codes_of(number)})


def results(done: Done) -> Counter[tuple[str, str | None]]:
    """Return how many items ended in each way; each item must have exactly one line."""
    lines = done.events_named("result")
    assert len({line["code"] for line in lines}) == len(lines) == done.summary["codes"]
    return Counter((line["status"], line["reason"]) for line in lines)


def write_headers(path: Path, token: str) -> Path:
    """Write a file of headers with a token."""
    path.write_text(f"Authorization: Bearer {token}\n")
    return path


def replace_in_place(path: Path) -> None:
    """Write the file anew; its size stays."""
    write_headers(path, NEW_TOKEN)


def rename_over(path: Path) -> None:
    """Put another file in its place."""
    write_headers(path.with_name("next"), NEW_TOKEN).rename(path)


def swap_directory(path: Path) -> None:
    """Set the link `..data` to another directory, as the kubelet does for a Secret."""
    volume = path.parent
    (volume / "..2").mkdir()
    write_headers(volume / "..2" / "headers", NEW_TOKEN)
    (volume / "..data_tmp").symlink_to("..2")
    os.rename(volume / "..data_tmp", volume / "..data")  # noqa: PTH104  (Path.rename is the same, and the kubelet's own)


def mount_secret(volume: Path) -> Path:
    """Lay out a Secret as the kubelet does, and return the path of its file."""
    (volume / "..1").mkdir(parents=True)
    write_headers(volume / "..1" / "headers", OLD_TOKEN)
    (volume / "..data").symlink_to("..1")
    (volume / "headers").symlink_to("..data/headers")
    return volume / "headers"


@row(77)
@pytest.mark.parametrize("refusal", [Answer(401), Answer(403), Answer(302, {"Location": "http://sso.example/"})])
@pytest.mark.parametrize("replace", [replace_in_place, rename_over, swap_directory])
def test_a_token_that_was_replaced_is_read_again(
    tmp_path: Path, replace: Callable[[Path], None], refusal: Step
) -> None:
    """Items that are refused are tried once more with the new token, which is read once and costs no attempt."""
    line = line_of("a token that expires in mid-run, and the file of headers")
    path = mount_secret(tmp_path / "secret")

    def expire() -> str:
        replace(path)
        return NEW_TOKEN

    origin = Guarded(refusal, expire)
    with serve(origin.answer, 120) as server:
        settings = {"url": server.url("/{cc}.gif"), "headers_file": str(path), "workers": str(WORKERS)}
        done = run_here(*codes_of(120), dest=tmp_path / "dest", max_attempts="1", **settings)
    assert (results(done), done.code) == ({("ok", None): 120}, line.exit_code)
    assert 1 <= origin.refused <= WORKERS
    assert [event["path"] for event in done.events_named("headers_renewed")] == [str(path)]
    assert len(files_in(tmp_path / "dest")) == 120


@row(77)
def test_the_new_token_is_masked(tmp_path: Path) -> None:
    """A token that was read in mid-run is in no line of the log, nor is the one before."""
    path = write_headers(tmp_path / "headers", OLD_TOKEN)
    answers: list[Step] = [
        Answer(401),
        Raw(f"HTTP/1.1 418 no {NEW_TOKEN}, nor {OLD_TOKEN}\r\nContent-Length: 0\r\n\r\n".encode()),
    ]

    def answer(_: Request) -> Step:
        write_headers(path, NEW_TOKEN)
        return answers.pop(0)

    with ScriptedServer({"/cn.gif": answer}) as server:
        done = run_here("cn", dest=tmp_path / "dest", url=server.url("/{cc}.gif"), headers_file=str(path))
        sent = [request.headers["authorization"] for request in server.requests]
    (result,) = done.events_named("result")
    assert (result["error"], result["attempts"]) == ("HTTP error 418 - no ***, nor ***", 2)
    assert sent == [f"Bearer {OLD_TOKEN}", f"Bearer {NEW_TOKEN}"]
    assert [token for token in (OLD_TOKEN, NEW_TOKEN) if token.encode() in done.stdout] == []


@row(77)
@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (None, "must be a file that can be read (No such file or directory)"),
        ("", "must have a header: it is empty"),
        ("Authorization", "line 1 must be `Name: value` in printable ASCII"),
        ("\n\nHost: x", "line 3 must not set what is flagjob's own"),
    ],
)
def test_headers_that_cannot_be_used_leave_the_old_ones(tmp_path: Path, text: str | None, problem: str) -> None:
    """A file that is gone, empty or wrong when it is read again is told once; the old headers go on."""
    path = write_headers(tmp_path / "headers", OLD_TOKEN)
    refused = {"/c10.gif", "/c30.gif", "/c50.gif"}

    def answer(request: Request) -> Step:
        if request.target == "/c0.gif":
            path.unlink() if text is None else path.write_text(text)
        is_right = request.headers.get("authorization") == f"Bearer {OLD_TOKEN}" and request.target not in refused
        return Answer(body=GIF) if is_right else Answer(403)

    with serve(answer, 60) as server:
        settings = {"url": server.url("/{cc}.gif"), "headers_file": str(path), "workers": "1"}
        done = run_here(*codes_of(60), dest=tmp_path / "dest", **settings)
    assert (results(done), done.code) == ({("ok", None): 57, ("error", "http_403"): 3}, 4)
    (warning,) = done.events_named("headers_not_renewed")
    assert (warning["level"], warning["path"], warning["problem"].startswith(problem)) == ("warning", str(path), True)


@row(77)
@pytest.mark.parametrize(
    ("refusal", "reason"),
    [
        (Answer(401), "http_401"),
        (Answer(403), "http_403"),
        (Answer(400), "http_400"),
        (Answer(302, {"Location": "http://sso.example/"}), "redirect_refused"),
        (Answer(302, {"Location": "/login"}), "bad_content"),
        (Answer(body=HTML), "bad_content"),
    ],
)
def test_a_token_that_nobody_replaces_ends_the_run(tmp_path: Path, refusal: Step, reason: str) -> None:
    """After a hundred refusals in a row, and of a file that was given before, the run ends; a later one may succeed."""
    line = line_of("a token that expires in mid-run, and no other")
    origin = Guarded(refusal)
    path = write_headers(tmp_path / "headers", OLD_TOKEN)
    script = {f"/{code}.gif": origin.answer for code in codes_of(400)}
    with ScriptedServer({**script, "/login": Answer(body=HTML)}) as server:
        settings = {"url": server.url("/{cc}.gif"), "headers_file": str(path), "workers": str(WORKERS)}
        done = run_here(*codes_of(400), dest=tmp_path / "dest", max_attempts="1", max_errors="100%", **settings)
    failed = results(done)["error", reason]
    assert 100 <= failed <= 100 + 4 * WORKERS
    assert results(done) == {("ok", None): AFTER, ("error", reason): failed, tuple(line.words): 400 - AFTER - failed}
    (cause,) = done.events_named("uniform_refusal")
    assert (done.code, cause["reason"], "gave before" in cause["hint"]) == (line.exit_code, reason, True)


@row(77)
def test_a_token_that_expires_near_the_end_is_retryable(tmp_path: Path) -> None:
    """Fewer refusals than a hundred let the run end by itself; the scheduler may try again."""
    line = line_of("the same, with fewer")
    origin = Guarded(Answer(401))
    path = write_headers(tmp_path / "headers", OLD_TOKEN)
    with serve(origin.answer, AFTER + 10) as server:
        settings = {"url": server.url("/{cc}.gif"), "headers_file": str(path), "workers": "1"}
        done = run_here(*codes_of(AFTER + 10), dest=tmp_path / "dest", **settings)
    assert (results(done), done.code) == ({("ok", None): AFTER, tuple(line.words): 10}, line.exit_code)
    assert (origin.refused, done.events_named("uniform_refusal")) == (10 + 1, [])


@row(77)
@pytest.mark.parametrize("workers", ["1", "20"])
def test_a_refusal_of_the_items_own_stays_one(tmp_path: Path, workers: str) -> None:
    """A gap of objects for which a store answers 403 ends nothing: all other files come."""
    line = line_of("a 403 that is the item's own")
    missing = {f"/c{n}.gif" for n in [*range(20, 30), *range(100, 400)]}

    def answer(request: Request) -> Step:
        return Answer(403) if request.target in missing else Answer(body=GIF)

    with serve(answer, 500) as server:
        done = run_here(*codes_of(500), dest=tmp_path / "dest", url=server.url("/{cc}.gif"), workers=workers)
        asked_again = len(server.requests) - 500
    assert (results(done), done.code) == ({("ok", None): 190, tuple(line.words): 310}, line.exit_code)
    assert 1 <= asked_again <= 6


@row(77)
def test_a_run_that_is_refused_from_the_start_is_permanent(tmp_path: Path) -> None:
    """Without a file that was given before, a wrong token is row 55's: the exit code stays 4."""
    with serve(lambda _: Answer(401), 150) as server:
        done = run(
            codes_of(150), Cancellation(), BytesIO(), dest=str(tmp_path), url=server.url("/{cc}.gif"), workers="1"
        )
        assert len(server.requests) <= 110
    assert (done.code, len(done.events_named("uniform_refusal"))) == (line_of("the first hundred").exit_code, 1)


# Client certificates


VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]
"""With 1.3 a client learns that its certificate is refused after the handshake, in an alert."""


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    """Return the authority of all servers, and of the clients that they know."""
    return trustme.CA()


def guarded_context(authority: trustme.CA, version: ssl.TLSVersion, host: str = "127.0.0.1") -> ssl.SSLContext:
    """Return the context of a server that wants a client certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = context.maximum_version = version
    context.verify_mode = ssl.CERT_REQUIRED
    authority.issue_cert(host).configure_cert(context)
    authority.configure_trust(context)
    return context


def write_certificate(path: Path, issuer: trustme.CA, until: timedelta = timedelta(hours=1)) -> str:
    """Write a client certificate with its key, and return the path."""
    now = datetime.now(UTC)
    made = issuer.issue_cert("client@example.org", not_before=now - timedelta(hours=2), not_after=now + until)
    made.private_key_and_cert_chain_pem.write_to_path(path)
    return str(path)


def trust(tmp_path: Path, authority: trustme.CA) -> dict[str, str]:
    """Return the setting by which the servers are trusted."""
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    return {"ca_bundle": str(tmp_path / "ca.pem")}


@row(75)
@pytest.mark.parametrize("version", VERSIONS)
def test_a_client_certificate_opens_the_origin(tmp_path: Path, authority: trustme.CA, version: ssl.TLSVersion) -> None:
    """An origin that wants a client certificate gives its files for FLAGJOB_CLIENT_CERT."""
    line = line_of("TLS: the client certificate of FLAGJOB_CLIENT_CERT")
    certificate = write_certificate(tmp_path / "client.pem", authority)
    with ScriptedServer({"/cn.gif": Answer(body=GIF)}, guarded_context(authority, version)) as server:
        settings = {**trust(tmp_path, authority), "client_cert": certificate, "url": server.url("/{cc}.gif")}
        done = run_here("cn", dest=tmp_path / "dest", **settings)
    assert (results(done), done.code) == ({("ok", None): 1}, line.exit_code)


@row(75)
@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("certificate", ["none", "another authority's", "expired"])
def test_a_refused_client_is_a_lasting_tls_failure(
    tmp_path: Path, authority: trustme.CA, certificate: str, version: ssl.TLSVersion
) -> None:
    """Without a certificate, or with one that the origin refuses, an item ends after one try; the alert is told."""
    line = line_of("TLS: the origin wants a client certificate")
    settings = trust(tmp_path, authority)
    if certificate != "none":
        issuer = trustme.CA() if certificate == "another authority's" else authority
        until = timedelta(hours=-1 if certificate == "expired" else 1)
        settings["client_cert"] = write_certificate(tmp_path / "client.pem", issuer, until)
    with ScriptedServer({"/cn.gif": Answer(body=GIF)}, guarded_context(authority, version)) as server:
        done = run_here("cn", dest=tmp_path / "dest", url=server.url("/{cc}.gif"), **settings)
        assert (server.requests, server.connections) == ([], 1)
    (result,) = done.events_named("result")
    assert ([result["status"], result["reason"]], result["attempts"], done.code) == (line.words, 1, 6)
    assert "alert" in result["error"]


@row(75)
def test_many_refused_clients_end_the_run_at_once(tmp_path: Path, authority: trustme.CA) -> None:
    """A long list without the certificate that the origin wants is not asked for to its end, nor waited for."""
    with ScriptedServer({}, guarded_context(authority, ssl.TLSVersion.TLSv1_3)) as server:
        url = server.url("/{cc}.gif")
        done = run_here(*codes_of(300), dest=tmp_path / "dest", url=url, workers="5", **trust(tmp_path, authority))
    assert (done.code, results(done)["cancelled", "origin_down"] > 200) == (6, True)
    assert (done.events_named("host_paused"), done.events_named("origin_down")[0]["reason"]) == ([], "tls")


@row(75)
@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("where", ["another host", "another port"])
def test_a_client_certificate_stays_on_its_host(
    tmp_path: Path, authority: trustme.CA, version: ssl.TLSVersion, where: str
) -> None:
    """A redirect to another host or port brings no certificate there, which that server would want, too."""
    certificate = write_certificate(tmp_path / "client.pem", authority)
    there = "localhost" if where == "another host" else "127.0.0.1"
    settings = {**trust(tmp_path, authority), "client_cert": certificate, "redirect_hosts": there, "workers": "1"}
    with ScriptedServer({"/cn.gif": Answer(body=GIF)}, guarded_context(authority, version, there)) as other:
        redirect = Answer(302, {"Location": other.url("/cn.gif").replace("127.0.0.1", there)})
        script = {"/br.gif": Answer(body=GIF), "/cn.gif": redirect, "/us.gif": Answer(body=GIF)}
        with ScriptedServer(script, guarded_context(authority, version)) as server:
            done = run_here("br", "cn", "us", dest=tmp_path / "dest", url=server.url("/{cc}.gif"), **settings)
        assert other.requests == []
    assert results(done) == {("ok", None): 2, ("error", "tls"): 1}
