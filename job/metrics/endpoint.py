"""The scraped endpoint: a run's metrics at /metrics, and those of its process beside them."""

import io
import socket
from collections.abc import Callable, Iterable, Iterator
from threading import Event, Thread
from time import monotonic
from typing import TextIO, cast
from wsgiref.simple_server import WSGIRequestHandler
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from prometheus_client import CollectorRegistry, ProcessCollector, make_wsgi_app
from prometheus_client.exposition import ThreadingWSGIServer

_POLL_SECONDS = 0.05
"""How soon the endpoint notices that the run is over, or that a signal came."""
_SILENCE_SECONDS = 10.0


class Endpoint:
    """Answers on threads of its own until it is closed. Its methods are for one thread.

    An empty host is every IPv4 address. Raises OSError where the address is taken or is not ours.
    """

    def __init__(self, registry: CollectorRegistry, host: str, port: int) -> None:
        scraped = CollectorRegistry()
        scraped.register(registry)
        ProcessCollector(registry=scraped)
        self._answer = cast("WSGIApplication", make_wsgi_app(scraped))
        self._final = False
        self._scraped = Event()
        self._server = _Server(host, port)
        self._server.set_app(self._app)
        self._thread = Thread(target=self._server.serve_forever, args=(_POLL_SECONDS,), name="metrics", daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        """The port, which the system chose if none was asked for."""
        return self._server.server_port

    def finish(self) -> None:
        """Take the metrics for final: a scrape that begins from now on is one that `linger` waits for."""
        self._final = True

    def linger(self, seconds: float, called_away: Callable[[], bool]) -> bool:
        """Wait until the final metrics were scraped, written to their last byte; tell whether they were.

        The time is a bound, and `called_away`, which is asked all the while, ends it at once, too.
        """
        until = monotonic() + seconds
        while self._final and not called_away() and (left := until - monotonic()) > 0:
            if self._scraped.wait(min(_POLL_SECONDS, left)):
                break
        return self._scraped.is_set()

    def close(self) -> None:
        """Give the port back; an answer that is under way may still end."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _app(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        counts = self._final and (environ["REQUEST_METHOD"], environ["PATH_INFO"]) == ("GET", "/metrics")
        body = b"".join(self._answer(environ, start_response))
        return _Body(body, self._scraped) if counts else [body]


class _Body:
    """The body of an answer, in one piece, that tells when it was written: who asks for more has sent the first."""

    def __init__(self, body: bytes, written: Event) -> None:
        self._body = body
        self._written = written

    def __len__(self) -> int:
        """Let wsgiref give it a Content-Length."""
        return 1

    def __iter__(self) -> Iterator[bytes]:
        yield self._body
        self._written.set()


class _Handler(WSGIRequestHandler):
    """A handler that logs nothing, for standard error is for people, and does not wait for silent clients."""

    timeout = _SILENCE_SECONDS

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  (the base class's name)
        """Say nothing."""

    def get_stderr(self) -> TextIO:
        """Give a place for tracebacks of clients that went away: who scrapes knows."""
        return io.StringIO()


class _Server(ThreadingWSGIServer):
    def __init__(self, host: str, port: int) -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        super().__init__((host, port), _Handler)

    def server_bind(self) -> None:
        """Bind as the base class does, but ask no name server what this machine is called: that may take long."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])
        self.setup_environ()

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing."""
