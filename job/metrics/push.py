"""Clients of services that watch runs: a push of the final metrics, and pings, each within a hard time limit."""

import base64
import ssl
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from http.client import HTTPException
from threading import Thread
from time import monotonic
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit, urlunsplit
from urllib.request import (
    HTTPRedirectHandler,
    HTTPSHandler,
    OpenerDirector,
    ProxyHandler,
    Request,
    build_opener,
)

from prometheus_client import CollectorRegistry, pushadd_to_gateway

from job import __version__
from job.settings import Pushgateway
from job.transport import certificate_paths, proxy_for

_USER_AGENT = {"User-Agent": f"flagjob/{__version__}"}
_POLL_SECONDS = 0.1
_MESSAGE_BYTES = 500
"""How much of an error response is read: the gateway's first line says what is wrong."""


class _Sender(Thread, ABC):
    """Sends one request to a service that watches runs, within a hard time limit.

    It runs on a thread of its own because socket time-outs are no limit for the whole request: each applies to one step
    only, a server that sends a byte now and then never exceeds it, and a DNS look-up has none.
    """

    def __init__(self, name: str, ca_bundle: str | None) -> None:
        super().__init__(name=name, daemon=True)
        self._ca_bundle = ca_bundle
        self._timeout = 0.0
        self._problem: str | None = None

    def send_within(self, seconds_left: Callable[[], float]) -> str | None:
        """Send, and return a description of the problem, or None after success. Does not raise.

        `seconds_left` returns the remaining time and is called again and again, because a signal may shorten it. If the
        thread is still alive afterwards, it must be abandoned: joining it could block forever.
        """
        began = monotonic()
        self.begin(seconds_left())
        return self.wait_within(seconds_left, began)

    def begin(self, seconds: float) -> None:
        """Start to send, for about so many seconds; does not raise."""
        # The socket's time-out is longer than anybody waits, so that a slow server always gives the same message.
        self._timeout = 2 * seconds
        try:
            self.start()
        except RuntimeError as error:  # the system cannot start another thread
            self._problem = str(error)

    def wait_within(self, seconds_left: Callable[[], float], began: float) -> str | None:
        """Wait for the end of a request that began at a time of the monotonic clock; return as `send_within` does."""
        while self.is_alive():
            seconds = seconds_left()
            if seconds <= 0:
                break
            self.join(min(seconds, _POLL_SECONDS))
        # The sender's thread writes `_problem` as its last step. Read it only after the thread has ended: while it is
        # alive, the value may change between two reads.
        if self.is_alive():
            return f"no answer within {monotonic() - began:.1f} s"
        return self._problem

    @property
    def problem(self) -> str | None:
        """Return the problem of a thread that has ended."""
        return self._problem

    def run(self) -> None:
        """Send on this thread, and keep the problem for the thread that waits."""
        try:
            self._send()
        except Exception as error:  # noqa: BLE001  (whatever it is, it changes no result)
            self._problem = _problem(error)

    @abstractmethod
    def _send(self) -> None:
        """Send the request; may raise anything."""

    def _opener(self, url: str) -> OpenerDirector:
        """Return an opener with the proxy and the certificate authorities that the downloads use, too."""
        ca_file, ca_directory = certificate_paths(self._ca_bundle)
        context = ssl.create_default_context(cafile=ca_file, capath=ca_directory)
        proxy = proxy_for(url)
        proxies = {urlsplit(url).scheme: proxy} if proxy else {}
        return build_opener(ProxyHandler(proxies), HTTPSHandler(context=context), _NoRedirectHandler())


class Push(_Sender):
    """One push of a registry into a group of the gateway: that of a job with a name, labels and perhaps a shard.

    The request is a POST, so that the gateway keeps metrics that the registry lacks: a failed run has no time of the
    last success, and a PUT would erase it.
    """

    def __init__(
        self, registry: CollectorRegistry, gateway: Pushgateway, group: Mapping[str, str], ca_bundle: str | None
    ) -> None:
        """Take the labels of the group, `job` among them."""
        super().__init__("push", ca_bundle)
        self._registry = registry
        self._gateway = gateway
        self._group = dict(group)
        self._job = self._group.pop("job")

    def _send(self) -> None:
        pushadd_to_gateway(self._gateway.url, self._job, self._registry, self._group, self._timeout, self._handler)

    def _handler(
        self, *, url: str, method: str, timeout: float | None, headers: Sequence[tuple[str, str]], data: bytes
    ) -> Callable[[], None]:
        """Return a function that sends the request; this is prometheus_client's interface for handlers."""
        request = Request(url, data, {**_USER_AGENT, **dict(headers)}, method=method)  # noqa: S310  (http or https, see settings)
        if self._gateway.user or self._gateway.password:
            credentials = f"{self._gateway.user}:{self._gateway.password}"
            request.add_header("Authorization", f"Basic {base64.b64encode(credentials.encode()).decode()}")
        opener = self._opener(url)
        return lambda: opener.open(request, timeout=timeout).close()


class _Ping(_Sender):
    """One ping, by a POST to a URL; it waits for the one before, so that the service gets them in order."""

    def __init__(self, url: str, body: bytes, ca_bundle: str | None, before: "_Ping | None") -> None:
        super().__init__("ping", ca_bundle)
        self._url = url
        self._body = body
        self._before = before

    def _send(self) -> None:
        if self._before and self._before.is_alive():
            self._before.join(self._timeout)
        headers = {**_USER_AGENT, "Content-Type": "application/json"}
        request = Request(self._url, self._body, headers, method="POST")  # noqa: S310  (http or https, see settings)
        self._opener(self._url).open(request, timeout=self._timeout).close()


class Pings:
    """The pings of one run, as healthchecks.io has them: `start`, then the exit code; none without a URL.

    Each may take so many `seconds`. For the main thread only.
    """

    def __init__(self, url: str | None, ca_bundle: str | None, seconds: float) -> None:
        self._url = url
        self._ca_bundle = ca_bundle
        self._seconds = seconds
        self._began = 0.0
        self._sent: list[_Ping] = []

    @property
    def alive(self) -> int:
        """Return how many pings are still under way."""
        return sum(ping.is_alive() for ping in self._sent)

    def begin(self, event: str | int, body: bytes = b"") -> None:
        """Start to ping of an event, whose name goes behind the URL's path; does not raise."""
        if not self._url:
            return
        parts = urlsplit(self._url)
        url = urlunsplit(parts._replace(path=f"{parts.path.rstrip('/')}/{event!s}"))
        ping = _Ping(url, body, self._ca_bundle, self._sent[-1] if self._sent else None)
        self._sent.append(ping)
        self._began = monotonic()
        ping.begin(self._seconds)

    def wait_within(self, seconds_left: Callable[[], float]) -> str | None:
        """Wait for the last ping, and return the first problem of all, or None."""
        if not self._sent:
            return None
        began = self._began
        ends_at = began + self._seconds
        last = self._sent[-1].wait_within(lambda: min(ends_at - monotonic(), seconds_left()), began)
        ended = [ping.problem for ping in self._sent if not ping.is_alive()]
        return next(filter(None, [*ended, last]), None)


class _NoRedirectHandler(HTTPRedirectHandler):
    """Follows no redirect: urllib would follow with a GET, and take its success for that of the push.

    Each method declines the response, so that urllib raises HTTPError for it.
    """

    def http_error_302(self, *_args: object, **_kwargs: object) -> None:
        """Decline a redirect response."""

    http_error_301 = http_error_302
    http_error_303 = http_error_302
    http_error_307 = http_error_302
    http_error_308 = http_error_302


def _problem(error: Exception) -> str:
    if isinstance(error, HTTPError):
        return _http_problem(error)
    cause = error.reason if isinstance(error, URLError) else error
    return str(cause) or type(cause).__name__


def _http_problem(error: HTTPError) -> str:
    with error:
        target = error.headers.get("Location")
        try:
            message = error.read(_MESSAGE_BYTES).decode("utf-8", "replace")
        except (OSError, HTTPException):  # the message is not worth another failure
            message = ""
    if target:
        return f"HTTP {error.code}, a redirect to {target}, which is not followed"
    return f"HTTP {error.code}: {' '.join(message.split()) or error.reason}"
