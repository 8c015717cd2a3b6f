"""One push to a Pushgateway, in a time that nothing exceeds."""

import base64
import ssl
from collections.abc import Callable, Sequence
from http.client import HTTPException
from threading import Thread
from time import monotonic
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import (
    HTTPDefaultErrorHandler,
    HTTPErrorProcessor,
    HTTPHandler,
    HTTPSHandler,
    OpenerDirector,
    ProxyHandler,
    Request,
    UnknownHandler,
)

from prometheus_client import CollectorRegistry, pushadd_to_gateway

from job import __version__
from job.settings import Pushgateway
from job.transport import certificate_paths, proxy_for

_JOB = "flagjob"
_POLL_SECONDS = 0.1
_TOLD_BYTES = 500
"""Of what a gateway has against the metrics: its first line says it."""


class Push(Thread):
    """Pushes a registry into the group of the job, or of one of its shards, once.

    It is a thread, so that neither a slow name look-up nor a gateway that answers a byte now and then can hold the
    run: time-outs are for each step, and a look-up has none. It is a POST, so that what the registry does not have
    stays in the group: a run that failed has no time of the last success, and a PUT would erase that.
    """

    def __init__(
        self, registry: CollectorRegistry, gateway: Pushgateway, shard: int | None, ca_bundle: str | None
    ) -> None:
        super().__init__(name="push", daemon=True)
        self._registry = registry
        self._gateway = gateway
        self._shard = shard
        self._ca_bundle = ca_bundle
        self._timeout = 0.0
        self._problem: str | None = None

    def within(self, left: Callable[[], float]) -> str | None:
        """Push, and return what went wrong, if anything did. It may be alive then: do not wait for it any longer.

        `left` says how many seconds it may still take, and is asked again and again: a signal may come meanwhile.
        """
        began, self._timeout = monotonic(), 2 * left()  # later than here, so that it is told in one way
        try:
            self.start()
        except RuntimeError as error:  # the system gives no more threads
            return str(error)
        while self.is_alive() and (seconds := left()) > 0:
            self.join(min(seconds, _POLL_SECONDS))
        return f"no answer within {monotonic() - began:.1f} s" if self.is_alive() else self._problem

    def run(self) -> None:
        """Push, on this thread."""
        key = {} if self._shard is None else {"shard": self._shard}
        try:
            pushadd_to_gateway(self._gateway.url, _JOB, self._registry, key, self._timeout, self._handler)
        except Exception as error:  # noqa: BLE001  (whatever it is, it changes no result)
            self._problem = _told(error)

    def _handler(
        self, *, url: str, method: str, timeout: float | None, headers: Sequence[tuple[str, str]], data: bytes
    ) -> Callable[[], None]:
        """Return what sends a request, as prometheus_client wants it."""
        request = Request(url, data, {"User-Agent": f"flagjob/{__version__}", **dict(headers)}, method=method)  # noqa: S310  (http or https, see settings)
        if self._gateway.user or self._gateway.password:
            text = f"{self._gateway.user}:{self._gateway.password}"
            request.add_header("Authorization", f"Basic {base64.b64encode(text.encode()).decode()}")
        opener = self._opener(url)
        return lambda: opener.open(request, timeout=timeout).close()

    def _opener(self, url: str) -> OpenerDirector:
        """Make what speaks HTTP, and follows no redirect: urllib would do so by a GET, and take that for a success."""
        file, directory = certificate_paths(self._ca_bundle)
        proxy = proxy_for(url)
        opener = OpenerDirector()
        for handler in (
            ProxyHandler({urlsplit(url).scheme: proxy} if proxy else {}),
            HTTPHandler(),
            HTTPSHandler(context=ssl.create_default_context(cafile=file, capath=directory)),
            HTTPErrorProcessor(),
            HTTPDefaultErrorHandler(),
            UnknownHandler(),
        ):
            opener.add_handler(handler)
        return opener


def _told(error: Exception) -> str:
    if isinstance(error, HTTPError):
        return _refusal(error)
    cause = error.reason if isinstance(error, URLError) else error
    return str(cause) or type(cause).__name__


def _refusal(error: HTTPError) -> str:
    with error:
        target = error.headers.get("Location")
        try:
            text = error.read(_TOLD_BYTES).decode("utf-8", "replace")
        except (OSError, HTTPException):  # what it says is not worth more
            text = ""
    if target:
        return f"HTTP {error.code}, a redirect to {target}, which is not followed"
    return f"HTTP {error.code}: {' '.join(text.split()) or error.reason}"
