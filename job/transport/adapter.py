"""The transport adapter that requests calls."""

import threading
from collections.abc import Callable, Mapping
from datetime import timedelta
from http import HTTPStatus
from time import monotonic

import pycurl
from requests import PreparedRequest, Response
from requests import exceptions as rx
from requests.adapters import BaseAdapter
from requests.utils import get_encoding_from_headers, select_proxy

from job.body import Body
from job.transport.lane import Lane, Sockets, Timeout
from job.transport.transfer import Transfer

_UNASKED = ("Accept", "User-Agent", "Authorization")  # libcurl would add them of itself
_INTERRUPTED = "interrupted: no transfer may go on"


class CurlAdapter(BaseAdapter):
    """Sends GET requests by libcurl; mount it on a Session for `http://` and `https://`.

    `new_body` makes the place for the body of a 200, which is written to as it arrives: `response.raw` is that body,
    rewound, and closing it is the caller's. A body is closed when its transfer fails. Bodies of other answers are
    dropped: those are their status and headers, however their bodies end. Memory per transfer does not depend on
    what is sent. `max_bytes` caps a body.

    `send` may be called from any number of threads: each has a handle, and so connections, of its own. `_lock` guards
    the list of handles. `interrupt` and `close` may be called from any thread.
    """

    def __init__(self, *, new_body: Callable[[], Body], max_bytes: int) -> None:
        super().__init__()
        self._new_body = new_body
        self._max_bytes = max_bytes
        self._sockets = Sockets()
        self._local = threading.local()
        self._lock = threading.Lock()
        self._lanes: list[Lane] = []

    def send(  # type: ignore[override]  # noqa: PLR0913  (requests' own parameters; it passes them by name)
        self,
        request: PreparedRequest,
        *,
        stream: bool = False,  # noqa: ARG002  (the transfer has ended before anybody can read)
        timeout: Timeout = None,
        verify: bool | str = True,
        cert: object = None,
        proxies: Mapping[str, str] | None = None,
    ) -> Response:
        """Give the answer to a GET request without a body.

        `timeout` is in seconds: connecting (name, TCP, TLS), and silence, counted from the start until a byte of a body
        came; the latter in whole seconds, two at least, and noticed up to 7 s late. A third one, which only this
        adapter knows, bounds all of it, from name look-up to last byte. `verify` is True for certifi's authorities, or
        the path of a file or directory of others.
        Raises subclasses of requests' RequestException by their meaning, those above among them; an OSError unchanged
        when this machine failed (`new_body`, writing, no descriptors left); ValueError for what this adapter does not
        do: other methods, request bodies, client certificates, unverified TLS.
        """
        url = _checked_url(request, verify=verify, cert=cert)
        route = (timeout, verify, (proxies and select_proxy(url, proxies)) or "")
        transfer = Transfer(self._new_body, self._max_bytes)
        lane = self._lane()
        begun = monotonic()
        try:
            with lane.in_use:
                error = lane.perform(url, _header_lines(request), route, transfer)
                self._judge(error, lane, transfer, request)
            response = self._response(request, transfer)
        except BaseException:
            transfer.discard()
            raise
        finally:
            if self._sockets.refusing:
                lane.close_if_idle()
        response.elapsed = timedelta(seconds=monotonic() - begun)
        return response

    def interrupt(self) -> None:
        """Break off every transfer under way, and refuse new ones: both raise ConnectionError at once.

        A transfer that still waits for a name server ends when that answers or the connect time-out passes.
        """
        self._sockets.interrupt()

    def close(self) -> None:
        """Interrupt, and close all handles; one that is in use is closed by its own thread as it returns."""
        self.interrupt()
        with self._lock:
            for lane in self._lanes:
                lane.close_if_idle()

    def _lane(self) -> Lane:
        """Give this thread's handle, unless no transfer may start any more."""
        with self._lock:
            if self._sockets.refusing:
                raise rx.ConnectionError(_INTERRUPTED)
            lane: Lane | None = getattr(self._local, "lane", None)
            if lane is None:
                lane = self._local.lane = Lane(self._sockets, self._max_bytes)
                self._lanes.append(lane)
            return lane

    def _judge(self, error: pycurl.error | None, lane: Lane, transfer: Transfer, request: PreparedRequest) -> None:
        """Raise unless there is an answer to be given."""
        if self._sockets.refusing:  # also when all seems well: a body without a length ends like that
            raise rx.ConnectionError(_INTERRUPTED, request=request) from error
        if transfer.fault:
            raise transfer.fault
        if transfer.status not in {0, HTTPStatus.OK}:
            return
        if error:
            lane.raise_failure(error, request)
        if not transfer.status:
            raise rx.ConnectionError("the connection ended before the headers did", request=request)

    def _response(self, request: PreparedRequest, transfer: Transfer) -> Response:
        response = Response()
        response.raw = transfer.take_body()
        response.status_code = transfer.status
        response.reason = transfer.reason
        response.headers = transfer.headers
        response.encoding = get_encoding_from_headers(transfer.headers)
        response.url = request.url or ""
        response.request = request
        response.connection = self  # type: ignore[assignment]  # (the stub knows one adapter only)
        return response


def _checked_url(request: PreparedRequest, *, verify: bool | str, cert: object) -> str:
    if request.method != "GET" or request.body:
        raise ValueError("only GET without a body is sent")
    if not verify:
        raise ValueError("TLS verification cannot be turned off")
    if cert:
        raise ValueError("client certificates are not supported")
    url = request.url or ""
    if not url.lower().startswith(("http://", "https://")):
        raise rx.InvalidSchema("only http and https are spoken", request=request)
    return url


def _header_lines(request: PreparedRequest) -> list[bytes]:
    """Say the prepared headers in libcurl's way: `Name;` is an empty one, `Name:` keeps libcurl's own away."""
    prepared = request.headers
    lines = [f"{name}: {value}" if value else f"{name};" for name, value in prepared.items()]
    lines += [f"{name}:" for name in _UNASKED if name not in prepared]
    return [line.encode("latin-1") for line in lines]
