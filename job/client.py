"""The HTTP client: one attempt at a URL, over its redirects, to a 200 answer; requests' exceptions become ours."""

from collections.abc import Collection, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import lru_cache
from hashlib import blake2b
from http.cookiejar import DefaultCookiePolicy
from time import monotonic
from typing import TYPE_CHECKING, cast
from urllib.parse import urlsplit

import requests
from requests.adapters import BaseAdapter
from requests.utils import get_environ_proxies

from job import redirects
from job.errors import (
    AttemptError,
    ContentError,
    HttpError,
    NetworkError,
    NotFoundError,
    Reason,
    RedirectError,
    StorageError,
    map_exceptions,
)
from job.model import NotModified, Reply, Validators
from job.transport import NameResolutionError, TooLargeError

if TYPE_CHECKING:
    from job.body import Body

_GONE = {404, 410}
_MAX_LENGTH_DIGITS = 20
"""Digits of a Content-Length that are read: more are no file's, and Python refuses to read very many."""
_MAX_PHRASE_CHARACTERS = 100
"""Characters of a status line's reason phrase that are shown: a server may send very many."""
_URL_DIGEST_BYTES = 12
_CACHED_PROXIES = 256
"""Hosts and ports whose proxies are cached: redirects may lead to any port."""
_FURTHEST_RETRY_AFTER_SECONDS = 366 * 86400.0
"""A Retry-After beyond a year is a mistake, not a request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientConfig:
    """How requests are sent; times in seconds."""

    user_agent: str
    secret_headers: Mapping[str, str] = field(default_factory=dict)
    """Sent to the first host only, never along with a redirect to another."""
    connect_timeout: float
    read_timeout: float
    attempt_timeout: float
    """From the name look-up to the last byte, redirects included."""
    ca_bundle: str | None = None
    """A file or directory of certificate authorities; certifi's if None. Verification cannot be turned off."""
    redirect_hosts: Collection[str] = ()


class _Session(requests.Session):
    """A session that keeps no cookies and follows no redirects: `Client` decides on those, and leaves bodies unread."""

    def __init__(self, adapter: BaseAdapter) -> None:
        super().__init__()
        self.trust_env = False
        self.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        for scheme in ("http://", "https://"):
            self.mount(scheme, adapter)

    def get_redirect_target(self, resp: requests.Response) -> None:
        """Return no target, so that requests does not read a redirect's body (psf/requests#5529)."""


class Client:
    """Sends GET requests. Thread-safe: what threads share is only read after construction, or is an `lru_cache`.

    The adapter must put a `Body` into `Response.raw` for a 200, as `transport.CurlAdapter` does.
    """

    def __init__(self, adapter: BaseAdapter, config: ClientConfig) -> None:
        self._session = _Session(adapter)
        self._config = config
        plain = {"User-Agent": config.user_agent, "Accept": "*/*", "Accept-Encoding": "identity"}
        self._plain = requests.Request("GET", "http://localhost/", headers=plain).prepare()
        trusted = {**plain, **config.secret_headers}
        self._trusted = requests.Request("GET", "http://localhost/", headers=trusted).prepare()
        self._proxies = lru_cache(_CACHED_PROXIES)(_read_proxies)

    def get(self, url: str, validators: Validators | None = None) -> Reply | NotModified:
        """Return the 200 answer, whose body the caller closes, or, if validators were given, what a 304 says.

        Raises an AttemptError that says why there is none, or StorageError where this machine is at fault.
        """
        with map_exceptions({OSError: _map_error}):  # every exception of requests is an OSError
            return self._follow(url, validators)

    def close(self) -> None:
        """Close every connection."""
        self._session.close()

    def _follow(self, first_url: str, validators: Validators | None) -> Reply | NotModified:
        """Send a request, and one more for each redirect, all within the time of one attempt."""
        left = self._config.attempt_timeout  # the same number in every attempt, so that a handle keeps its options
        ends_at = monotonic() + left
        url = first_url
        redirected_to = None
        hops = 0
        while left > 0:
            conditions = _conditional_headers(validators, redirected_to)
            is_trusted = url is first_url or redirects.is_trusted_host(first_url, url)
            response = self._send(url, conditions, left, is_trusted=is_trusted)
            if response.status_code == requests.codes.not_modified and conditions:
                return _read_not_modified(response)
            if response.status_code not in redirects.STATUSES:
                return _read_reply(response, redirected_to)
            url = self._resolve_redirect(url, response, hops)
            hops += 1
            redirected_to = _digest(url) if url != first_url else None
            left = ends_at - monotonic()
        raise NetworkError(Reason.TIMEOUT, f"{hops} redirects took all the time of an attempt")

    def _send(self, url: str, conditions: Mapping[str, str], seconds: float, *, is_trusted: bool) -> requests.Response:
        request = (self._trusted if is_trusted else self._plain).copy()
        request.url = url
        request.headers.update(conditions)
        host = urlsplit(url)
        return self._session.send(
            request,
            stream=True,
            allow_redirects=False,
            timeout=(self._config.connect_timeout, self._config.read_timeout, seconds),  # type: ignore[arg-type]  # as ours
            verify=self._config.ca_bundle or True,
            proxies=self._proxies(host.hostname or "", host.port),
        )

    def _resolve_redirect(self, url: str, response: requests.Response, hops: int) -> str:
        with closing(response):
            location = response.headers.get("Location")
            try:
                return redirects.resolve_redirect(url, location, self._config.redirect_hosts, hops)
            except RedirectError as error:
                error.failure = replace(error.failure, http_status=response.status_code)
                raise


def _read_reply(response: requests.Response, redirected_to: str | None) -> Reply:
    headers = response.headers
    status = response.status_code
    if status != requests.codes.ok:
        response.close()
        kind = NotFoundError if status in _GONE else HttpError
        wait = retry_after_seconds(headers.get("Retry-After"), datetime.now(UTC))
        raise kind(status, f"HTTP error {status} - {response.reason[:_MAX_PHRASE_CHARACTERS]}", wait)
    return Reply(
        cast("Body", response.raw),
        content_length=_content_length(headers.get("Content-Length")),
        content_type=headers.get("Content-Type"),
        content_encoding=headers.get("Content-Encoding"),
        etag=headers.get("ETag"),
        last_modified=headers.get("Last-Modified"),
        redirected_to=redirected_to,
    )


def _read_not_modified(response: requests.Response) -> NotModified:
    response.close()
    return NotModified(response.headers.get("ETag"), response.headers.get("Last-Modified"))


def _conditional_headers(validators: Validators | None, redirected_to: str | None) -> Mapping[str, str]:
    """Return the headers that make a request conditional, none where the validators are another URL's.

    Both are sent, as RFC 9110, 13.1.3 lets an origin prefer the ETag.
    """
    if validators is None or validators.redirected_to != redirected_to:
        return {}
    headers = {"If-None-Match": validators.etag, "If-Modified-Since": validators.last_modified}
    return {name: value for name, value in headers.items() if value}


def _content_length(value: str | None) -> int | None:
    text = (value or "").strip()
    if not (text.isascii() and text.isdigit()):
        return None
    return int(text.lstrip("0")[:_MAX_LENGTH_DIGITS] or "0")  # a length that is cut is still more than any body


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


def _digest(url: str) -> str:
    """Return what tells a URL from others without showing it: it may have a signature in it."""
    return blake2b(url.encode(), digest_size=_URL_DIGEST_BYTES).hexdigest()


def _read_proxies(host: str, port: int | None) -> dict[str, str]:
    """Return the proxies that the environment's variables name for a host, as requests reads them."""
    name = f"[{host}]" if ":" in host else host
    return get_environ_proxies(f"http://{name}" if port is None else f"http://{name}:{port}")


_REASONS: dict[type[requests.RequestException], Reason] = {
    NameResolutionError: Reason.DNS,
    TooLargeError: Reason.TOO_LARGE,
    requests.exceptions.ProxyError: Reason.PROXY,
    requests.exceptions.SSLError: Reason.TLS,
    requests.exceptions.Timeout: Reason.TIMEOUT,
    requests.exceptions.ChunkedEncodingError: Reason.TRUNCATED,
    requests.exceptions.ContentDecodingError: Reason.UNEXPECTED_ENCODING,
    requests.exceptions.ConnectionError: Reason.CONNECTION,
    requests.exceptions.RequestException: Reason.PROTOCOL,
}
"""The reason for each exception of requests and of the transport; the first class that matches decides."""
_CONTENT_REASONS = {Reason.TRUNCATED, Reason.UNEXPECTED_ENCODING}


def _map_error(error: OSError) -> AttemptError | StorageError:
    """Return our exception for one of requests; an error of the operating system is this machine's own."""
    if not isinstance(error, requests.RequestException):
        return StorageError(f"no connection could be opened on this machine: {error}")
    reason = next(reason for kind, reason in _REASONS.items() if isinstance(error, kind))
    if reason is Reason.TOO_LARGE:
        return ContentError(reason, str(error))
    kind = ContentError if reason in _CONTENT_REASONS else NetworkError
    return kind(reason, f"{type(error).__name__}: {error}{_host_suffix(error)}")


def _host_suffix(error: requests.RequestException) -> str:
    """Return the host in parentheses, unless the message names it: after a redirect it is not the template's."""
    url = error.request.url if error.request else None
    host = urlsplit(url or "").hostname
    return "" if not host or host in str(error) else f" ({host})"
