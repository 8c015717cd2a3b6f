"""The attempt: from a URL over its redirects to a body."""

from collections.abc import Callable, Collection, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import lru_cache
from hashlib import blake2b
from http.cookiejar import DefaultCookiePolicy
from time import monotonic
from typing import cast
from urllib.parse import urlsplit

import requests
from requests.adapters import BaseAdapter
from requests.utils import get_environ_proxies

from job import redirects
from job.body import Body
from job.client.exceptions import translated
from job.errors import HttpError, NetworkError, NotFoundError, Reason, RedirectError
from job.model import NotModified, Reply, Validators
from job.resilience.retrying import retry_after_seconds
from job.transport import TooLargeError

_CHUNK_BYTES = 64 * 1024
_MOST_DIGITS = 20
"""Of a length: what has more is no file's, and of very many digits Python makes no number."""
_REASON_CHARACTERS = 100
"""Of a status line's words that are shown: a server may send very many."""
_URL_BYTES = 12
_HOSTS = 256
"""Hosts and ports whose proxies are remembered: redirects may lead to any port."""
_GONE = {404, 410}


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientConfig:
    """How requests are sent; times in seconds, `max_bytes` of one body."""

    user_agent: str
    secret_headers: Mapping[str, str] = field(default_factory=dict)
    """Sent to the first host only, never along with a redirect to another."""
    connect_timeout: float
    read_timeout: float
    attempt_timeout: float
    """From the name look-up to the last byte, redirects included."""
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


class Client:
    """Sends GET requests. Thread-safe: what threads share is only read after construction, or is an `lru_cache`.

    `new_body` begins a body, for adapters that do not write the answer into one themselves.
    """

    def __init__(self, adapter: BaseAdapter, wire: ClientConfig, new_body: Callable[[], Body]) -> None:
        self._session = _Session(adapter)
        self._wire = wire
        self._new_body = new_body
        plain = {"User-Agent": wire.user_agent, "Accept": "*/*", "Accept-Encoding": "identity"}
        self._plain = requests.Request("GET", "http://localhost/", headers=plain).prepare()
        self._secret = requests.Request("GET", "http://localhost/", headers={**plain, **wire.secret_headers}).prepare()
        self._proxies = lru_cache(_HOSTS)(_proxies_for)

    def get(self, url: str, validators: Validators | None = None) -> Reply | NotModified:
        """Return the 200 answer, whose body the caller closes, or, if validators were given, what a 304 says.

        Raises an AttemptError that says why there is none, or StorageError where this machine is at fault.
        """
        try:
            return self._follow(url, validators)
        except OSError as error:  # every exception of requests is one
            raise translated(error) from error

    def close(self) -> None:
        """Close every connection."""
        self._session.close()

    def _follow(self, first: str, validators: Validators | None) -> Reply | NotModified:
        left = self._wire.attempt_timeout
        ends_at = monotonic() + left
        url, redirected_to, hops = first, None, 0
        while left > 0:
            conditions = _conditions(validators, redirected_to)
            request = self._request(url, conditions, is_trusted=url is first or redirects.is_trusted_host(first, url))
            response = self._send(request, left)
            if response.status_code == requests.codes.not_modified and conditions:
                return _not_modified(response)
            if response.status_code not in redirects.STATUSES:
                return self._reply(response, redirected_to)
            url, hops = self._led_to(url, response, hops), hops + 1
            redirected_to = _digest(url) if url != first else None
            left = ends_at - monotonic()
        raise NetworkError(Reason.TIMEOUT, f"{hops} redirects took all the time of an attempt")

    def _led_to(self, url: str, response: requests.Response, hops: int) -> str:
        with closing(response):
            try:
                return redirects.resolve_redirect(
                    url, response.headers.get("Location"), self._wire.redirect_hosts, hops
                )
            except RedirectError as error:
                error.failure = replace(error.failure, http_status=response.status_code)
                raise

    def _request(self, url: str, conditions: Mapping[str, str], *, is_trusted: bool) -> requests.PreparedRequest:
        request = (self._secret if is_trusted else self._plain).copy()
        request.url = url
        request.headers.update(conditions)
        return request

    def _send(self, request: requests.PreparedRequest, seconds: float) -> requests.Response:
        there = urlsplit(request.url or "")
        return self._session.send(
            request,
            stream=True,
            allow_redirects=False,
            timeout=(self._wire.connect_timeout, self._wire.read_timeout, seconds),  # type: ignore[arg-type]  # as ours
            verify=self._wire.ca_bundle or True,
            proxies=self._proxies(there.hostname or "", there.port),
        )

    def _reply(self, response: requests.Response, redirected_to: str | None) -> Reply:
        headers = response.headers
        status = response.status_code
        if status != requests.codes.ok:
            response.close()
            kind = NotFoundError if status in _GONE else HttpError
            wait = retry_after_seconds(headers.get("Retry-After"), datetime.now(UTC))
            raise kind(status, f"HTTP error {status} - {response.reason[:_REASON_CHARACTERS]}", wait)
        return Reply(
            self._body(response),
            content_length=_length(headers.get("Content-Length")),
            content_type=headers.get("Content-Type"),
            content_encoding=headers.get("Content-Encoding"),
            etag=headers.get("ETag"),
            last_modified=headers.get("Last-Modified"),
            redirected_to=redirected_to,
        )

    def _body(self, response: requests.Response) -> Body:
        """Return the body that our transport has written, or write one, as any other adapter needs it."""
        if hasattr(response.raw, "commit"):
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


def _digest(url: str) -> str:
    """Tell a URL from others without showing it: it may have a signature in it."""
    return blake2b(url.encode(), digest_size=_URL_BYTES).hexdigest()


def _proxies_for(host: str, port: int | None) -> dict[str, str]:
    """Read the proxy variables as requests reads them."""
    name = f"[{host}]" if ":" in host else host
    return get_environ_proxies(f"http://{name}" if port is None else f"http://{name}:{port}")


def _conditions(validators: Validators | None, redirected_to: str | None) -> Mapping[str, str]:
    """Return the header lines of a conditional request, none where the validators are another URL's.

    Both lines, as RFC 9110, 13.1.3 lets an origin prefer the ETag.
    """
    if validators is None or validators.redirected_to != redirected_to:
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
