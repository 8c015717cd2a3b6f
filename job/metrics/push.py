"""Pushgateway client: pushes a run's final metrics once, on a thread of its own, within a hard time limit."""

import base64
import ssl
from collections.abc import Callable, Mapping, Sequence
from http.client import HTTPException
from threading import Thread
from time import monotonic
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
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

_POLL_SECONDS = 0.1
_MESSAGE_BYTES = 500
"""How much of an error response is read: the gateway's first line says what is wrong."""


class Push(Thread):
    """One push of a registry into a group of the gateway: that of a job with a name, labels and perhaps a shard.

    It runs on a thread of its own because socket time-outs are no limit for the whole push: each applies to one step
    only, a gateway that sends a byte now and then never exceeds it, and a DNS look-up has none. The request is a POST,
    so that the gateway keeps metrics that the registry lacks: a failed run has no time of the last success, and a PUT
    would erase it.
    """

    def __init__(
        self, registry: CollectorRegistry, gateway: Pushgateway, group: Mapping[str, str], ca_bundle: str | None
    ) -> None:
        """Take the labels of the group, `job` among them."""
        super().__init__(name="push", daemon=True)
        self._registry = registry
        self._gateway = gateway
        self._group = dict(group)
        self._job = self._group.pop("job")
        self._ca_bundle = ca_bundle
        self._timeout = 0.0
        self._problem: str | None = None

    def push_within(self, seconds_left: Callable[[], float]) -> str | None:
        """Push, and return a description of the problem, or None after success. Does not raise.

        `seconds_left` returns the remaining time and is called again and again, because a signal may shorten it. If the
        thread is still alive afterwards, it must be abandoned: joining it could block forever.
        """
        began = monotonic()
        # The socket's time-out is longer than this method waits, so that a slow gateway always gives the same message.
        self._timeout = 2 * seconds_left()
        try:
            self.start()
        except RuntimeError as error:  # the system cannot start another thread
            return str(error)
        while self.is_alive():
            seconds = seconds_left()
            if seconds <= 0:
                break
            self.join(min(seconds, _POLL_SECONDS))
        # The push's thread writes `_problem` as its last step. Read it only after the thread has ended: while it is
        # alive, the value may change between two reads.
        if self.is_alive():
            return f"no answer within {monotonic() - began:.1f} s"
        return self._problem

    def run(self) -> None:
        """Push on this thread, and keep the problem for `push_within`."""
        try:
            pushadd_to_gateway(self._gateway.url, self._job, self._registry, self._group, self._timeout, self._handler)
        except Exception as error:  # noqa: BLE001  (whatever it is, it changes no result)
            self._problem = _problem(error)

    def _handler(
        self, *, url: str, method: str, timeout: float | None, headers: Sequence[tuple[str, str]], data: bytes
    ) -> Callable[[], None]:
        """Return a function that sends the request; this is prometheus_client's interface for handlers."""
        request = Request(url, data, {"User-Agent": f"flagjob/{__version__}", **dict(headers)}, method=method)  # noqa: S310  (http or https, see settings)
        if self._gateway.user or self._gateway.password:
            credentials = f"{self._gateway.user}:{self._gateway.password}"
            request.add_header("Authorization", f"Basic {base64.b64encode(credentials.encode()).decode()}")
        opener = self._opener(url)
        return lambda: opener.open(request, timeout=timeout).close()

    def _opener(self, url: str) -> OpenerDirector:
        """Return an opener with the proxy and the certificate authorities that the downloads use, too."""
        ca_file, ca_directory = certificate_paths(self._ca_bundle)
        context = ssl.create_default_context(cafile=ca_file, capath=ca_directory)
        proxy = proxy_for(url)
        proxies = {urlsplit(url).scheme: proxy} if proxy else {}
        return build_opener(ProxyHandler(proxies), HTTPSHandler(context=context), _NoRedirectHandler())


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
