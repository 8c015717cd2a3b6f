"""Exceptions of requests, libcurl, the disk and the log are mapped to ours, and no answer causes a bug."""

import errno
import string
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from io import BytesIO
from pathlib import Path

import pycurl
import pytest
from bodies import MemoryBody
from hypothesis import example, given
from hypothesis import settings as limits
from hypothesis import strategies as st
from images import GIF
from requests import exceptions as rx
from rows import row
from scripted import Raw, ScriptedServer
from test_client import every_exception_of_requests

from job import redirects, validation
from job.atomic_write import map_os_errors
from job.client import Client, ClientConfig
from job.errors import (
    AttemptError,
    Failure,
    HttpError,
    LogError,
    NetworkError,
    NotFoundError,
    PathError,
    Reason,
    StorageError,
)
from job.log import RunLog
from job.model import FileType, Reply
from job.transport import CurlAdapter, CurlResponse, exception_for
from job.transport.transfer import Transfer

CONFIG = ClientConfig(user_agent="test", connect_timeout=5, read_timeout=5, attempt_timeout=5)
ERRNOS = sorted(errno.errorcode)


class StubAdapter(CurlAdapter):
    """An adapter whose `send` calls a function."""

    def __init__(self, act: Callable[[], CurlResponse]) -> None:
        super().__init__(new_body=MemoryBody, max_bytes=1)
        self._act = act

    def send(self, *_: object, **__: object) -> CurlResponse:
        """Return what the function returns."""
        return self._act()


def mapped(error: BaseException) -> Exception:
    """Return the exception that the client raises for one of its transport."""

    def fail() -> CurlResponse:
        raise error

    with pytest.raises((AttemptError, StorageError)) as caught:
        Client(StubAdapter(fail), CONFIG).get("http://localhost/")
    assert caught.value.__cause__ is error
    return caught.value


def mapped_reason(error: BaseException) -> str:
    """Return the reason of the AttemptError that an exception is mapped to."""
    found = mapped(error)
    assert isinstance(found, AttemptError)
    return found.failure.reason


# Errors

EXPECTED_REASONS = {
    "ChunkedEncodingError": Reason.TRUNCATED,
    "ConnectTimeout": Reason.TIMEOUT,
    "ConnectionError": Reason.CONNECTION,
    "ContentDecodingError": Reason.UNEXPECTED_ENCODING,
    "DamagedError": Reason.BAD_CONTENT,
    "NameResolutionError": Reason.DNS,
    "ProxyError": Reason.PROXY,
    "ReadTimeout": Reason.TIMEOUT,
    "RetryError": Reason.PROTOCOL,
    "SSLError": Reason.TLS,
    "Timeout": Reason.TIMEOUT,
    "TooLargeError": Reason.TOO_LARGE,
}
"""The reason for each exception of requests and of our transport; every other one is `protocol`."""
LIBCURL_ERRORS = {
    Reason.CONNECTION: "AGAIN CHUNK_FAILED COULDNT_CONNECT FAILED_INIT GOT_NOTHING HTTP2 INTERFACE_FAILED"
    " NO_CONNECTION_AVAILABLE OUT_OF_MEMORY RECV_ERROR SEND_ERROR UNSUPPORTED_PROTOCOL",
    Reason.DNS: "COULDNT_RESOLVE_HOST",
    Reason.PROXY: "COULDNT_RESOLVE_PROXY",
    Reason.TIMEOUT: "OPERATION_TIMEDOUT",
    Reason.TLS: "PEER_FAILED_VERIFICATION SSL_CACERT_BADFILE SSL_CERTPROBLEM SSL_CIPHER SSL_CONNECT_ERROR"
    " SSL_CRL_BADFILE SSL_ENGINE_INITFAILED SSL_ENGINE_NOTFOUND SSL_ENGINE_SETFAILED SSL_INVALIDCERTSTATUS"
    " SSL_ISSUER_ERROR SSL_PINNEDPUBKEYNOTMATCH SSL_SHUTDOWN_FAILED USE_SSL_FAILED",
    Reason.TRUNCATED: "PARTIAL_FILE",
    Reason.UNEXPECTED_ENCODING: "BAD_CONTENT_ENCODING",
    Reason.TOO_LARGE: "FILESIZE_EXCEEDED WRITE_ERROR",
}
"""The libcurl errors, by pycurl's names, that each reason stands for; all others are `protocol`."""


def test_each_exception_of_requests_has_its_reason() -> None:
    """An exception of requests is mapped by its nearest class; an unknown one to `protocol`."""
    kinds = [kind for kind in every_exception_of_requests() if not issubclass(kind, rx.JSONDecodeError)]
    found = {kind.__name__: mapped_reason(kind("boom")) for kind in kinds}
    assert {
        name: reason for name, reason in found.items() if reason != Reason.PROTOCOL or name in EXPECTED_REASONS
    } == EXPECTED_REASONS
    assert mapped_reason(rx.JSONDecodeError("boom", "doc", 0)) == Reason.PROTOCOL


def test_only_a_connection_that_came_too_late_is_unconnected() -> None:
    """Of the time-outs the one before there was a connection is marked: a firewall may drop what is too much."""
    kinds = [rx.ConnectTimeout, rx.ReadTimeout, rx.Timeout, rx.ConnectionError]
    found = [mapped(kind("boom")) for kind in kinds]
    assert [isinstance(error, NetworkError) and error.is_unconnected for error in found] == [True, False, False, False]


def test_each_error_of_libcurl_has_its_reason() -> None:
    """A libcurl error is mapped by its code, codes without a name included; all others to `protocol`."""
    expected = {
        getattr(pycurl, f"E_{name}"): reason for reason, names in LIBCURL_ERRORS.items() for name in names.split()
    }
    expected |= {92: Reason.CONNECTION, 95: Reason.CONNECTION, 96: Reason.CONNECTION, 97: Reason.PROXY}
    expected |= {98: Reason.TLS, 99: Reason.CONNECTION, 101: Reason.TLS}
    named_codes = {getattr(pycurl, name) for name in dir(pycurl) if name.startswith("E_")}
    found = {code: mapped_reason(exception_for(code)("boom")) for code in named_codes | set(range(1, 200))}
    assert {code: reason for code, reason in found.items() if reason != Reason.PROTOCOL} == expected


@row(46)
def test_each_error_of_the_system_is_a_storage_error() -> None:
    """An OSError of the transport that is no exception of requests becomes a StorageError."""
    found = {number: type(mapped(OSError(number, "boom"))) for number in ERRNOS}
    assert found == dict.fromkeys(ERRNOS, StorageError)


@row(15)
def test_a_tls_error_is_no_storage_error() -> None:
    """An SSLError that carries the number of EPERM is a TLS failure, not a StorageError."""
    assert mapped_reason(rx.SSLError(PermissionError(errno.EPERM, "certificate verify failed"))) == Reason.TLS


@row(44)
def test_each_error_of_a_disk_is_mapped(tmp_path: Path) -> None:
    """An OSError about one path becomes a PathError, any other a StorageError; both name the path."""
    item_only = {errno.EISDIR, errno.ENOTDIR, errno.ENAMETOOLONG, errno.EEXIST, errno.ENOTEMPTY, errno.ELOOP}
    item_only |= {errno.EBUSY}
    for number in ERRNOS:
        with pytest.raises(StorageError) as caught, map_os_errors(tmp_path):
            raise OSError(number, "boom")
        assert (type(caught.value), str(caught.value)) == (
            PathError if number in item_only else StorageError,
            f"{tmp_path}: boom",
        )


@row(51)
def test_each_error_of_a_log_is_a_log_error() -> None:
    """Any exception of the log's stream becomes a LogError."""

    class Broken(BytesIO):
        def write(self, _: object, /) -> int:
            raise error

    for error in (ValueError("closed"), *(OSError(number, "boom") for number in ERRNOS)):
        with pytest.raises(LogError) as caught:
            RunLog(Broken()).info("anything")
        assert caught.value.__cause__ is error


# Answers

NAMES = [
    *("Content-Length", "Content-Type", "Content-Encoding", "Transfer-Encoding", "Location", "Retry-After", "ETag"),
    *("Last-Modified", "Connection", "X", " X", "X ", "", "\x00", "\xff", "Set-Cookie", "Trailer"),
]
VALUES = [
    *("0", "35", "36", "-1", "1e9", "0x23", "9" * 400, "0" * 5000, "35, 35", "gzip", "identity", "chunked", "br"),
    *("/", "/other", "http://[::1", "http://127.0.0.1:1/", "//", "?", "Sun, 06 Nov 1994 08:49:37 GMT", '"', "close"),
]
STARTS = [
    *("HTTP/1.1 200 OK", "HTTP/1.0 200", "HTTP/1.1 302 Found", "HTTP/1.1 404", "HTTP/1.1 503 Busy", "HTTP/1.1 304 X"),
    *("HTTP/1.1 100 Continue", "HTTP/1.1 2000", "HTTP/1.1 20", "HTTP/1.1 200OK", "HTTP/2 200", "HTTP/1.1\xa0200 OK"),
    *("", "HTTP/1.1", "ICY 200 OK", "HTTP/1.1 -10", "HTTP/1.1 999 \x85\x1c"),
]
text = st.text(st.characters(max_codepoint=255), max_size=12)
header = st.tuples(st.sampled_from(NAMES) | text, st.sampled_from(VALUES) | text).map(": ".join)
heads = st.lists(st.sampled_from(STARTS) | header | text, max_size=8)
BODIES = [b"", GIF, GIF[:9], b"23\r\n" + GIF + b"\r\n0\r\n\r\n", b"fffffffffffffffff\r\n"]


def validated(client: Client, url: str) -> str:
    """Get and validate a URL; return the media type or the reason of an AttemptError."""
    try:
        reply = client.get(url)
        assert isinstance(reply, Reply)
        return str(validation.validate(reply, (FileType.GIF,)))
    except AttemptError as error:
        return error.failure.reason


def test_no_answer_is_a_bug(capfd: pytest.CaptureFixture[str]) -> None:
    """Any bytes that a server sends become a file or an AttemptError, and nothing is printed."""
    adapter = CurlAdapter(new_body=MemoryBody, max_bytes=10_000)
    client, answer, seen = Client(adapter, CONFIG), [b""], set[str]()

    @limits(max_examples=200, deadline=None)
    @example(start="", head=["HTTP/1.1 200 OK"], line="\r\n", body=GIF)
    @example(start=STARTS[0], head=["Transfer-Encoding: \x800"], line="\r\n", body=GIF)
    @example(start=STARTS[0], head=["Content-Length: " + "0" * 5000 + "35"], line="\r\n", body=GIF)
    @given(
        start=st.sampled_from(STARTS),
        head=heads,
        line=st.sampled_from(["\r\n", "\n"]),
        body=st.sampled_from(BODIES) | st.binary(),
    )
    def send(start: str, head: list[str], line: str, body: bytes) -> None:
        answer[0] = line.join([start, *head, "", ""]).encode("latin-1") + body
        seen.add(validated(client, url))

    def step(_: object) -> Raw:
        return Raw(answer[0])

    with ScriptedServer({"/": step, "/other": step}) as server:
        url = server.url()
        send()
    client.close()
    assert capfd.readouterr() == ("", "")
    assert {reason for reason in seen if reason not in set(Reason) and not reason.startswith("http_")} == {"image/gif"}


NO_RETRY_AFTER = ["", "abc", "3.5", "-1", "0", "Sun, 06 Nov 1994 08:49:37 GMT", "Fri, 31 Dec 9999 23:59:59 GMT"]
"""Values of a Retry-After that ask for no wait: nonsense, and what is over."""


def as_dates(seconds: int) -> list[str]:
    """Return a time to come in the three forms that HTTP has for dates (RFC 9110, 5.6.7)."""
    date = datetime.now(UTC) + timedelta(seconds=seconds)
    return [date.strftime(form) for form in ("%a, %d %b %Y %H:%M:%S GMT", "%A, %d-%b-%y %H:%M:%S GMT", "%c")]


@row(60)
@given(
    st.integers(100, 999).filter(lambda status: status not in {200, *redirects.STATUSES}),
    st.sampled_from(NO_RETRY_AFTER).map(lambda text: (0, text))
    | st.integers(2, 10_000_000).flatmap(
        lambda seconds: st.sampled_from([f"{seconds}", f" {seconds} ", *as_dates(seconds)]).map(
            lambda text: (seconds, text)
        )
    ),
)
def test_a_retry_after_puts_any_failure_off(status: int, retry_after: tuple[int, str]) -> None:
    """Any status but those of a missing file is retryable with a Retry-After that asks to wait, and has its seconds."""
    seconds, text = retry_after

    def answer() -> CurlResponse:
        return CurlResponse(status, "", ["Retry-After"], {"retry-after": text})

    with pytest.raises(HttpError) as caught:
        Client(StubAdapter(answer), CONFIG).get("http://localhost/")
    is_missing = isinstance(caught.value, NotFoundError)
    is_deferred = seconds > 0 and not is_missing
    assert is_missing == (status in {204, 404, 410})
    assert (caught.value.retry_after or 0) == pytest.approx(seconds if is_deferred else 0, abs=2)
    assert caught.value.failure.retryable == (is_deferred or Failure(None, status).retryable)


@limits(deadline=None)
@given(
    st.text() | st.text("0123456789", min_size=1, max_size=6000) | st.from_regex(r"\s*[0-9]{1,19}\s*", fullmatch=True)
)
@example("0" * 6000 + "7")
@example("9" * 6000)
@example("\u0663")
def test_a_content_length_is_a_number_or_none(value: str) -> None:
    """A Content-Length of digits is that number; a longer one than any file stays large; others are None."""

    def answer() -> CurlResponse:
        response = CurlResponse(200, "OK", ["Content-Length"], {"content-length": value})
        response.raw = MemoryBody(GIF)
        return response

    reply = Client(StubAdapter(answer), CONFIG).get("http://localhost/")
    assert isinstance(reply, Reply)
    digits = value.strip()
    if not (digits.isascii() and digits.isdigit()):
        assert reply.content_length is None
    elif len(digits.lstrip("0")) < 20:
        assert f"{reply.content_length}" == (digits.lstrip("0") or "0")
    else:
        assert (reply.content_length or 0) >= 10**19


@row(62)
@given(st.integers(0, 10_000), st.sampled_from([*"cC"]), st.booleans())
def test_chunks_win_over_any_length(length: int, first_letter: str, length_first: bool) -> None:  # noqa: FBT001  (drawn)
    """Whatever length stands before or after a chunked transfer coding, it is none."""
    headers = [("content-length", f"{length}"), ("transfer-encoding", f"{first_letter}hunked")]
    fields = dict(headers if length_first else headers[::-1])

    def answer() -> CurlResponse:
        response = CurlResponse(200, "OK", list(fields), fields)
        response.raw = MemoryBody(GIF)
        return response

    reply = Client(StubAdapter(answer), CONFIG).get("http://localhost/")
    assert isinstance(reply, Reply)
    assert validation.validate(reply, (FileType.GIF,)) == "image/gif"


token = st.text(string.ascii_letters + string.digits + "!#$%&'*+-.^_`|~", min_size=1, max_size=10)
field = st.text(st.characters(max_codepoint=255, exclude_characters="\r\n\x00"), max_size=20)


@given(st.lists(st.tuples(token, field), max_size=8), st.lists(st.tuples(token, field), max_size=2))
def test_headers_are_read_as_sent(sent: list[tuple[str, str]], trailers: list[tuple[str, str]]) -> None:
    """Header values are stripped, repeated headers joined in order, and trailers ignored."""
    expected: dict[str, list[str]] = {}
    for name, value in sent:
        expected.setdefault(name.lower(), []).append(value.strip())
    transfer = Transfer(MemoryBody, 10)
    lines = ["HTTP/1.1 200 OK", *map(": ".join, sent), "", *map(": ".join, trailers), ""]
    assert [transfer.on_header(f"{line}\r\n".encode("latin-1")) for line in lines] == [None] * len(lines)
    assert transfer.fields == {name: ", ".join(values) for name, values in expected.items()}
    assert transfer.names == [name for name, _ in sent]
    assert (transfer.status, transfer.reason) == (200, "OK")
