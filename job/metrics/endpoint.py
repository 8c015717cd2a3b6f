"""Scrape endpoint: an HTTP server for Prometheus that serves the run's metrics and the process's own at /metrics."""

import errno
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
"""How soon the endpoint notices that it is closed, or that a signal came."""
_CLIENT_TIMEOUT_SECONDS = 10.0
_NO_IPV6_ERRORS = {errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL}
"""What a kernel says that has no IPv6: it knows no such socket, or has no such address."""


class Endpoint:
    """Serves a registry on threads of its own until `close`. Only one thread may call its methods.

    An empty host is every address of the machine, IPv4 and IPv6. Raises OSError if the address is in use or does not
    belong to this machine.
    """

    def __init__(self, registry: CollectorRegistry, host: str, port: int) -> None:
        scraped = CollectorRegistry()
        scraped.register(registry)
        ProcessCollector(registry=scraped)
        self._metrics_app = cast("WSGIApplication", make_wsgi_app(scraped))
        # Two values are shared with the server's threads. The main thread sets `_is_final`, a request's thread only
        # reads it; a request's thread sets `_final_scrape`, the main thread waits for it.
        self._is_final = False
        self._final_scrape = Event()
        self._server = _ScrapeServer(host, port)
        self._server.set_app(self._respond)
        self._thread = Thread(target=self._server.serve_forever, args=(_POLL_SECONDS,), name="metrics", daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        """Return the port; the system chooses it if the given port was 0."""
        return self._server.server_port

    def mark_final(self) -> None:
        """Declare the metrics final: `linger` waits for a scrape that begins from now on."""
        self._is_final = True

    def linger(self, seconds: float, is_interrupted: Callable[[], bool]) -> bool:
        """Wait until the final metrics were sent to the last byte; return whether they were.

        The wait ends after `seconds`, or within 50 ms after `is_interrupted` returns true. It ends at once if the
        metrics are not final.
        """
        ends_at = monotonic() + seconds
        while self._is_final and not is_interrupted():
            remaining = ends_at - monotonic()
            if remaining <= 0 or self._final_scrape.wait(min(_POLL_SECONDS, remaining)):
                break
        return self._final_scrape.is_set()

    def close(self) -> None:
        """Stop serving and free the port; a response that is being sent may still end."""
        # `shutdown` waits until `serve_forever` has returned. Only then may the socket be closed: the server's thread
        # would otherwise poll a file descriptor that another part of the process may have opened in the meantime.
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _respond(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        is_scrape = environ["REQUEST_METHOD"] == "GET" and environ["PATH_INFO"] == "/metrics"
        # Read the flag before the values: a scrape that began before `mark_final` may hold older values although it is
        # sent after it, so it must not end the wait.
        is_final_scrape = is_scrape and self._is_final
        body = b"".join(self._metrics_app(environ, start_response))
        if is_final_scrape:
            return _FinalBody(body, self._final_scrape)
        return [body]


class _FinalBody:
    """A response body in one piece that sets an event when it has been sent."""

    def __init__(self, body: bytes, is_sent: Event) -> None:
        self._body = body
        self._is_sent = is_sent

    def __len__(self) -> int:
        """Return the number of pieces: with exactly 1, wsgiref adds a Content-Length."""
        return 1

    def __iter__(self) -> Iterator[bytes]:
        yield self._body
        # wsgiref asks for the next piece after it has sent the previous one completely. If the client has gone away,
        # sending raises, and this line is not reached.
        self._is_sent.set()


class _ScrapeHandler(WSGIRequestHandler):
    """A request handler that logs nothing, because standard error is for people, and drops silent clients."""

    timeout = _CLIENT_TIMEOUT_SECONDS

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  (the base class's name)
        """Log nothing."""

    def get_stderr(self) -> TextIO:
        """Return a stream that discards the traceback of a failed response: the scraper sees the failure."""
        return io.StringIO()


class _ScrapeServer(ThreadingWSGIServer):
    def __init__(self, host: str, port: int) -> None:
        try:
            self._listen(host or "::", port)  # a socket of IPv6 takes connections of IPv4, too
        except OSError as error:
            if host or error.errno not in _NO_IPV6_ERRORS:
                raise
            self._listen("", port)

    def _listen(self, host: str, port: int) -> None:
        self.address_family, address = _resolve(host)
        super().__init__((address, port), _ScrapeHandler)

    def server_bind(self) -> None:
        """Bind like the base class, but without its reverse DNS look-up of this machine's name, which may block."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if self.address_family == socket.AF_INET6:  # the system's default may be IPv6 alone (sysctl bindv6only)
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name = str(self.server_address[0])
        self.server_port = int(self.server_address[1])
        self.setup_environ()

    def handle_error(self, request: object, client_address: object) -> None:
        """Log nothing about a client that went away."""


def _resolve(host: str) -> tuple[socket.AddressFamily, str]:
    """Return the address to bind for a host, IPv4 if it has one, with its family; raise OSError if it has none."""
    found = socket.getaddrinfo(host or "0.0.0.0", None, type=socket.SOCK_STREAM)  # noqa: S104  (as asked for)
    family, *_, address = min(found, key=lambda info: info[0] != socket.AF_INET)
    return family, str(address[0])
