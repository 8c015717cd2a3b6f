"""One HTTP attempt: a URL in, a 200 answer with its body out; foreign errors become ours here."""

import errno
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.cookiejar import DefaultCookiePolicy
from typing import cast
from urllib.parse import urlsplit

import requests
from requests.adapters import BaseAdapter
from requests.utils import get_environ_proxies

from job import redirect
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
from job.model import Body, NotModified, Reply, Validators
from job.retry import retry_after_seconds
from job.transport import NameResolutionError, TooLargeError

_LOCAL_LIMITS = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS}
"""What a connection can fail of that no other host has to do with."""
_CHUNK_BYTES = 64 * 1024
_MOST_DIGITS = 20
"""Of a length: what has more is no file's, and of very many digits Python makes no number."""
_GONE = {404, 410}

_REASONS: tuple[tuple[type[BaseException], Reason], ...] = (
    (NameResolutionError, Reason.DNS),
    (TooLargeError, Reason.TOO_LARGE),
    (requests.exceptions.ProxyError, Reason.PROXY),
    (requests.exceptions.SSLError, Reason.TLS),
    (requests.exceptions.Timeout, Reason.TIMEOUT),
    (requests.exceptions.ChunkedEncodingError, Reason.TRUNCATED),
    (requests.exceptions.ContentDecodingError, Reason.UNEXPECTED_ENCODING),
    (requests.exceptions.ConnectionError, Reason.CONNECTION),
    (requests.exceptions.RequestException, Reason.PROTOCOL),
)
"""What each of requests' exceptions means; the first that fits."""
_OF_CONTENT = {Reason.TOO_LARGE, Reason.TRUNCATED, Reason.UNEXPECTED_ENCODING}
_BY_CAUSE = {"ReadTimeoutError": Reason.TIMEOUT, "NameResolutionError": Reason.DNS}
"""urllib3's causes that requests reports as a plain ConnectionError (psf/requests#4882), by the name of their class."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wire:
    """How requests are sent; times in seconds, `max_bytes` of one body."""

    user_agent: str
    secret_headers: Mapping[str, str] = field(default_factory=dict)
    """Sent to the first host only, never along with a redirect to another."""
    connect_timeout: float
    read_timeout: float
    max_bytes: int
    ca_bundle: str | None = None
    """A file or directory of certificate authorities; certifi's if None. There is no way to verify nothing."""
    redirect_hosts: Collection[str] = ()


class _Session(requests.Session):
    """A session that keeps no cookies, and leaves redirects to us: their bodies stay unread."""

    def __init__(self, adapter: BaseAdapter) -> None:
        super().__init__()
        self.trust_env = False
        self.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        for scheme in ("http://", "https://"):
            self.mount(scheme, adapter)

    def get_redirect_target(self, resp: requests.Response) -> None:
        """Let no redirect be followed, nor its body be read, by requests (psf/requests#5529)."""


class Fetcher:
    """Sends GET requests. Thread-safe: what threads share is only read after construction.

    `new_body` begins a body, for adapters that do not write the answer into one themselves.
    """

    def __init__(self, adapter: BaseAdapter, wire: Wire, new_body: Callable[[], Body]) -> None:
        self._session = _Session(adapter)
        self._wire = wire
        self._new_body = new_body
        plain = {"User-Agent": wire.user_agent, "Accept": "*/*", "Accept-Encoding": "identity"}
        self._plain = requests.Request("GET", "http://localhost/", headers=plain).prepare()
        self._secret = requests.Request("GET", "http://localhost/", headers={**plain, **wire.secret_headers}).prepare()
        self._proxies: dict[str, dict[str, str]] = {}

    def get(self, url: str, validators: Validators | None = None) -> Reply | NotModified:
        """Return the 200 answer, whose body the caller closes, or, if validators were given, what a 304 says.

        Raises an AttemptError that says why there is none, or StorageError where this machine is at fault.
        """
        try:
            return self._follow(url, _conditions(validators))
        except OSError as error:  # every exception of requests is one
            raise _translated(error) from error

    def close(self) -> None:
        """Close every connection."""
        self._session.close()

    def _follow(self, url: str, conditions: Mapping[str, str]) -> Reply | NotModified:
        first = url
        for _ in range(redirect.MAX_HOPS + 1):
            kept = url is first or redirect.same_host(first, url)
            response = self._send(url, self._secret if kept else self._plain, conditions)
            if response.status_code == requests.codes.not_modified and conditions:
                return _not_modified(response)
            if response.status_code not in redirect.STATUSES:
                return self._reply(response)
            with closing(response):
                url = redirect.target(url, response.headers.get("Location"), self._wire.redirect_hosts)
        raise RedirectError(Reason.TOO_MANY_REDIRECTS, f"more than {redirect.MAX_HOPS} redirects")

    def _send(self, url: str, prepared: requests.PreparedRequest, conditions: Mapping[str, str]) -> requests.Response:
        request = prepared.copy()
        request.url = url
        request.headers.update(conditions)
        return self._session.send(
            request,
            stream=True,
            allow_redirects=False,
            timeout=(self._wire.connect_timeout, self._wire.read_timeout),
            verify=self._wire.ca_bundle or True,
            proxies=self._proxies_for(url),
        )

    def _proxies_for(self, url: str) -> dict[str, str]:
        """Read the proxy variables once a host, as requests reads them."""
        host = url.split("/", 3)[2]
        if host not in self._proxies:
            self._proxies[host] = get_environ_proxies(url)
        return self._proxies[host]

    def _reply(self, response: requests.Response) -> Reply:
        headers = response.headers
        status = response.status_code
        if status != requests.codes.ok:
            response.close()
            kind = NotFoundError if status in _GONE else HttpError
            wait = retry_after_seconds(headers.get("Retry-After"), datetime.now(UTC))
            raise kind(status, f"HTTP error {status} - {response.reason}", wait)
        return Reply(
            self._body(response),
            content_length=_length(headers.get("Content-Length")),
            content_type=headers.get("Content-Type"),
            content_encoding=headers.get("Content-Encoding"),
            etag=headers.get("ETag"),
            last_modified=headers.get("Last-Modified"),
        )

    def _body(self, response: requests.Response) -> Body:
        """Return the body that our transport has written, or write one, as any other adapter needs it."""
        if hasattr(response.raw, "move_to"):
            return cast("Body", response.raw)
        body = self._new_body()
        try:
            with closing(response):
                self._copy(response, body)
        except BaseException:
            body.close()
            raise
        body.rewind()
        return body

    def _copy(self, response: requests.Response, body: Body) -> None:
        for chunk in response.iter_content(_CHUNK_BYTES):
            if body.size + len(chunk) > self._wire.max_bytes:
                raise TooLargeError(f"more than {self._wire.max_bytes} bytes")
            body.write(chunk)


def _conditions(validators: Validators | None) -> Mapping[str, str]:
    """Return the header lines of a conditional request; both, as RFC 9110, 13.1.3 lets an origin prefer the ETag."""
    if validators is None:
        return {}
    lines = {"If-None-Match": validators.etag, "If-Modified-Since": validators.last_modified}
    return {name: value for name, value in lines.items() if value}


def _not_modified(response: requests.Response) -> NotModified:
    response.close()
    return NotModified(response.headers.get("ETag"), response.headers.get("Last-Modified"))


def _length(value: str | None) -> int | None:
    text = (value or "").strip()
    if not (text.isascii() and text.isdigit()):
        return None
    return int(text.lstrip("0")[:_MOST_DIGITS] or "0")  # a length that is cut is still more than any body


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Walk down what an exception says it was caused by; requests hides it in `args` and `reason`."""
    found: BaseException | None = error
    while isinstance(found, BaseException):
        yield found
        inner = (*found.args, getattr(found, "reason", None), found.__cause__, found.__context__)
        found = next((cause for cause in inner if isinstance(cause, BaseException)), None)


def _translated(error: OSError) -> AttemptError | StorageError:
    """Give an exception of requests the meaning that it has for an item, by its cause rather than by its class."""
    ours = next((cause for cause in _causes(error) if getattr(cause, "errno", None) in _LOCAL_LIMITS), None)
    if ours or not isinstance(error, requests.RequestException):
        return StorageError(f"no connection could be opened on this machine: {ours or error}")
    reason = _reason_of(error)
    if reason is Reason.TOO_LARGE:
        return ContentError(reason, str(error))
    kind = ContentError if reason in _OF_CONTENT else NetworkError
    return kind(reason, f"{type(error).__name__}: {error}{_where(error)}")


def _where(error: requests.RequestException) -> str:
    """Name the host, unless the message does: it need not be the template's, and a certificate is one host's."""
    there = urlsplit((error.request and error.request.url) or "")
    return "" if not there.hostname or there.hostname in str(error) else f" ({there.hostname})"


def _reason_of(error: requests.RequestException) -> Reason:
    reason = next(reason for kind, reason in _REASONS if isinstance(error, kind))
    if reason is not Reason.CONNECTION:
        return reason
    return next((found for cause in _causes(error) if (found := _BY_CAUSE.get(type(cause).__name__))), reason)
