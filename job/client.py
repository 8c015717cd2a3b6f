"""The HTTP client: one attempt at a URL, over its redirects, to a 200 answer; requests' exceptions become ours."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import lru_cache
from hashlib import blake2b
from http import HTTPStatus
from threading import Lock
from time import monotonic
from typing import TYPE_CHECKING, cast
from urllib.parse import urlsplit

import requests

from job import redirects, revalidation
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
from job.transport import (
    CurlAdapter,
    CurlRequest,
    CurlResponse,
    DamagedError,
    NameResolutionError,
    TooLargeError,
    header_line,
    header_lines,
    proxy_for,
)

if TYPE_CHECKING:
    from job.body import Body

_OK = HTTPStatus.OK.value
_NOT_MODIFIED = HTTPStatus.NOT_MODIFIED.value
_NO_FILE = {204, 404, 410}
"""Statuses that say that there is no file; 204 is an empty tile's, say. None of them has a body of one."""
_MAX_LENGTH_DIGITS = 20
"""Digits of a Content-Length that are read: more are no file's, and Python refuses to read very many."""
_MAX_PHRASE_CHARACTERS = 100
"""Characters of a status line's reason phrase that are shown: a server may send very many."""
_URL_DIGEST_BYTES = 12
_CACHED_PROXIES = 256
"""Origins whose proxies are cached: redirects may lead to any port."""
_FURTHEST_RETRY_AFTER_SECONDS = 366 * 86400.0
"""A Retry-After beyond a year is a mistake, not a request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientConfig:
    """How requests are sent; times in seconds."""

    user_agent: str
    secret_headers: Mapping[str, str] = field(default_factory=dict)
    """Sent to the first host only, never along with a redirect to another."""
    trusted_url: str | None = None
    """Requests to other hosts than this URL's have no secret headers and no client certificate at all; None is no such
    bound, an empty text bounds every request."""
    reread_headers: Callable[[], Mapping[str, str] | None] = lambda: None
    """Returns other secret headers if there are such by now; called by one thread at a time."""
    connect_timeout: float
    read_timeout: float
    attempt_timeout: float
    """From the name look-up to the last byte, redirects included."""
    ca_bundle: str | None = None
    """A file or directory of certificate authorities; certifi's if None. Verification cannot be turned off."""
    client_cert: str | None = None
    """A PEM file with a certificate and its key, for the first host only, as the secret headers."""
    redirect_hosts: Collection[str] = ()
    ignored_parameters: Collection[str] = ()
    """Parameters of a query that sign a URL, beside the well-known ones: validators are not bound to them."""


class SecretHeaders:
    """The header lines with the secrets, which are read again when the origin refuses them. Thread-safe.

    `lines` is replaced as a whole, so that each request has the old ones or the new ones. `_lock` guards the reading:
    many requests are refused at the same moment, and the first of them reads for all. It is held meanwhile, because the
    others can do no better than wait for what it reads; requests that are not refused never take it.
    """

    def __init__(
        self,
        headers: Mapping[str, str],
        reread: Callable[[], Mapping[str, str] | None],
        plain: Mapping[str, str],
    ) -> None:
        self._plain = plain
        self._reread = reread
        self._lock = Lock()
        self.lines = self._prepare(headers)

    def is_newer_than(self, sent: list[bytes]) -> bool:
        """Return whether the lines are others than those that were sent, after reading them again if they are not."""
        with self._lock:
            headers = self._reread() if self.lines is sent else None
            if headers is not None:
                self.lines = self._prepare(headers)
            return self.lines is not sent

    def _prepare(self, headers: Mapping[str, str]) -> list[bytes]:
        return _prepare_headers({**self._plain, **headers})


class Client:
    """Sends GET requests. Thread-safe: what threads share is only read after construction, or thread-safe itself.

    There is no Session: the client keeps no cookies, decides on redirects itself, and leaves their bodies unread.
    """

    def __init__(self, adapter: CurlAdapter, config: ClientConfig) -> None:
        self._adapter = adapter
        self._config = config
        plain = {"User-Agent": config.user_agent, "Accept": "*/*", "Accept-Encoding": "identity"}
        self._plain = _prepare_headers(plain)
        self.secret_headers = SecretHeaders(config.secret_headers, config.reread_headers, plain)
        self._verify = config.ca_bundle or True
        self._proxies_for = lru_cache(_CACHED_PROXIES)(_read_proxies)

    def get(
        self, url: str, validators: Validators | None = None, *, keeps_gzip: bool | None = None
    ) -> Reply | NotModified:
        """Return the 200 answer, whose body the caller closes, or, if validators were given, what a 304 says.

        `keeps_gzip` says whether a body that comes as gzip is the file itself; None is what the adapter was told.
        Sends one request, and one more for each redirect, all within the time of one attempt. Raises an AttemptError
        that says why there is no answer, or StorageError where this machine is at fault.
        """
        left = self._config.attempt_timeout  # the same number in every attempt, so that a handle keeps its options
        ends_at = monotonic() + left
        first_url = url
        redirected_to = None
        hops = 0
        while left > 0:
            conditions = _conditional_lines(validators, redirected_to)
            is_trusted = self._is_trusted(url, first_url)
            lines = self.secret_headers.lines if is_trusted else self._plain
            lines = [*lines, *conditions] if conditions else lines
            response = self._send(url, CurlRequest(url, lines, keeps_gzip=keeps_gzip), left, is_trusted=is_trusted)
            if response.status_code == _OK:
                return _read_reply(response, redirected_to)
            if response.status_code == _NOT_MODIFIED and conditions:
                return NotModified(response.fields.get("etag"), response.fields.get("last-modified"))
            if response.status_code not in redirects.STATUSES:
                raise _http_error(response)
            url = self._resolve_redirect(url, response, hops)
            hops += 1
            redirected_to = self._digest(url) if url != first_url else None
            left = ends_at - monotonic()
        raise NetworkError(Reason.TIMEOUT, f"{hops} redirects took all the time of an attempt")

    def close(self) -> None:
        """Close every connection."""
        self._adapter.close()

    def _is_trusted(self, url: str, first_url: str) -> bool:
        """Return whether a URL, to which `first_url` led, may receive the secrets."""
        home = self._config.trusted_url
        if home is not None and not redirects.is_trusted_host(home, first_url):
            return False
        return url is first_url or redirects.is_trusted_host(first_url, url)

    def _send(self, url: str, request: CurlRequest, seconds: float, *, is_trusted: bool) -> CurlResponse:
        try:
            return self._adapter.send(
                request,
                timeout=(self._config.connect_timeout, self._config.read_timeout, seconds),
                verify=self._verify,
                cert=self._config.client_cert if is_trusted else None,
                proxies=self._proxies_for(_origin(url)),
            )
        except OSError as error:  # every exception of requests is one; `map_exceptions` would double the cost of this
            raise _map_error(error) from error

    def _digest(self, url: str) -> str:
        """Return what tells a URL from others without showing it, and is the same however it is signed."""
        unsigned = revalidation.unsigned_url(url, self._config.ignored_parameters)
        return blake2b(unsigned.encode(), digest_size=_URL_DIGEST_BYTES).hexdigest()

    def _resolve_redirect(self, url: str, response: CurlResponse, hops: int) -> str:
        location = response.fields.get("location")
        try:
            return redirects.resolve_redirect(url, location, self._config.redirect_hosts, hops)
        except RedirectError as error:
            error.failure = replace(error.failure, http_status=response.status_code)
            raise


def _prepare_headers(headers: Mapping[str, str]) -> list[bytes]:
    """Return the header lines of requests with these headers, which requests has checked."""
    return header_lines(requests.Request("GET", "http://localhost/", headers=headers).prepare().headers)


def _origin(url: str) -> str:
    """Return a URL up to its path, by which its proxy is known; cheaper than parsing it."""
    return "/".join(url.split("/", 3)[:3])


def _read_proxies(origin: str) -> Mapping[str, str]:
    """Return the proxy of an origin as requests takes it; empty without one, so that none has to be selected."""
    proxy = proxy_for(origin)
    return {"all": proxy} if proxy else {}


def _read_reply(response: CurlResponse, redirected_to: str | None) -> Reply:
    fields = response.fields
    return Reply(
        cast("Body", response.raw),
        content_length=_announced_bytes(fields),
        content_type=fields.get("content-type"),
        kept_coding=response.kept_coding,
        encoded_bytes=response.encoded_bytes,
        etag=fields.get("etag"),
        last_modified=fields.get("last-modified"),
        redirected_to=redirected_to,
        retry_after=fields.get("retry-after"),
    )


def _http_error(response: CurlResponse) -> HttpError:
    status = response.status_code
    message = f"HTTP error {status} - {response.reason[:_MAX_PHRASE_CHARACTERS]}"
    if status in _NO_FILE:  # whatever a Retry-After says: that there is no such file is an answer
        return NotFoundError(status, message)
    return HttpError(status, message, wait_seconds(response.fields.get("retry-after")))


def _conditional_lines(validators: Validators | None, redirected_to: str | None) -> list[bytes]:
    """Return the header lines that make a request conditional, none where the validators are another URL's.

    Both are sent, as RFC 9110, 13.1.3 lets an origin prefer the ETag.
    """
    if validators is None or validators.redirected_to != redirected_to:
        return []
    lines = []
    if validators.etag:
        lines.append(header_line("If-None-Match", validators.etag))
    if validators.last_modified:
        lines.append(header_line("If-Modified-Since", validators.last_modified))
    return lines


def _announced_bytes(fields: Mapping[str, str]) -> int | None:
    """Return the length of a body by its headers: chunks say themselves where they end (RFC 9112, 6.3)."""
    if "chunked" in fields.get("transfer-encoding", "").lower():
        return None
    return _content_length(fields.get("content-length"))


def _content_length(value: str | None) -> int | None:
    text = (value or "").strip()
    if not (text.isascii() and text.isdigit()):
        return None
    return int(text.lstrip("0")[:_MAX_LENGTH_DIGITS] or "0")  # a length that is cut is still more than any body


def wait_seconds(retry_after: str | None) -> float | None:
    """Return the seconds that a Retry-After header asks to wait from now on, if it does."""
    return retry_after_seconds(retry_after, datetime.now(UTC))


def retry_after_seconds(value: str | None, now: datetime) -> float | None:
    """Return the seconds that a Retry-After header asks to wait (RFC 9110, 10.2.3: whole seconds, or a date).

    A date in the past is 0; nonsense, and what lies more than a year ahead, is None. `now` needs a time zone. Never
    raises.
    """
    text = (value or "").strip()
    try:
        seconds = float(text) if text.isascii() and text.isdigit() else _seconds_until(text, now)
    except (ValueError, OverflowError):
        return None
    return max(seconds, 0.0) if seconds <= _FURTHEST_RETRY_AFTER_SECONDS else None


def _seconds_until(text: str, now: datetime) -> float:
    date = parsedate_to_datetime(text)
    return ((date if date.tzinfo else date.replace(tzinfo=UTC)) - now).total_seconds()


_REASONS: dict[type[requests.RequestException], Reason] = {
    NameResolutionError: Reason.DNS,
    TooLargeError: Reason.TOO_LARGE,
    requests.exceptions.ProxyError: Reason.PROXY,
    requests.exceptions.SSLError: Reason.TLS,
    requests.exceptions.Timeout: Reason.TIMEOUT,
    requests.exceptions.ChunkedEncodingError: Reason.TRUNCATED,
    DamagedError: Reason.BAD_CONTENT,
    requests.exceptions.ContentDecodingError: Reason.UNEXPECTED_ENCODING,
    requests.exceptions.ConnectionError: Reason.CONNECTION,
    requests.exceptions.RequestException: Reason.PROTOCOL,
}
"""The reason for each exception of requests and of the transport; the first class that matches decides."""
_CONTENT_REASONS = {Reason.TRUNCATED, Reason.UNEXPECTED_ENCODING, Reason.BAD_CONTENT}


def _map_error(error: OSError) -> AttemptError | StorageError:
    """Return our exception for one of requests; an error of the operating system is this machine's own."""
    if not isinstance(error, requests.RequestException):
        return StorageError(f"no connection could be opened on this machine: {error}")
    reason = next(reason for kind, reason in _REASONS.items() if isinstance(error, kind))
    if reason is Reason.TOO_LARGE:
        return ContentError(reason, str(error))
    message = f"{type(error).__name__}: {error}{_host_suffix(error)}"
    if reason in _CONTENT_REASONS:
        return ContentError(reason, message)
    failure = NetworkError(reason, message)
    failure.is_unconnected = isinstance(error, requests.ConnectTimeout)
    return failure


def _host_suffix(error: requests.RequestException) -> str:
    """Return the host in parentheses, unless the message names it: after a redirect it is not the template's."""
    url = error.request.url if error.request else None
    host = urlsplit(url or "").hostname
    return "" if not host or host in str(error) else f" ({host})"
