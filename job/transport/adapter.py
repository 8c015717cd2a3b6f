"""The adapter that requests calls: a GET request in, a Response with its body out, sent by libcurl."""

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
from job.transport.handle import Handle, Route, Sockets, Timeout
from job.transport.transfer import Transfer

_ADDED_BY_LIBCURL = ("Accept", "User-Agent", "Authorization")
_INTERRUPTED = "interrupted: no transfer may go on"


class CurlAdapter(BaseAdapter):
    """Sends GET requests by libcurl; mount it on a Session for `http://` and `https://`.

    `new_body` makes the body of a 200, which is written to as it arrives: `response.raw` is that body, rewound, and
    closing it is the caller's. A body is closed when its transfer fails. Bodies of other answers are dropped: those are
    their status and headers, however their bodies end. Memory per transfer does not depend on what is sent. `max_bytes`
    caps a body.

    `send` may be called from any number of threads: each has a handle, and so connections, of its own. `interrupt` and
    `close` may be called from any thread. The list of handles needs no lock: appending is atomic, and a handle that is
    appended while `close` walks the list is closed by its own thread, at the end of `send`.
    """

    def __init__(self, *, new_body: Callable[[], Body], max_bytes: int) -> None:
        super().__init__()
        self._new_body = new_body
        self._max_bytes = max_bytes
        self._sockets = Sockets()
        self._local = threading.local()
        self._handles: list[Handle] = []

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
        """Return the answer to a GET request without a body.

        `timeout` is in seconds: connecting (name, TCP, TLS), and silence, counted from the start until a byte of a body
        came; the latter in whole seconds, two at least, and noticed up to 7 s late. A third one, which only this
        adapter knows, bounds all of it, from name look-up to last byte. `verify` is True for certifi's authorities, or
        the path of a file or directory of others.
        Raises subclasses of requests' RequestException by their meaning, those of `handle` among them; an
        OSError unchanged when this machine failed (`new_body`, writing, no descriptors left); ValueError for what this
        adapter does not do: other methods, request bodies, client certificates, unverified TLS.
        """
        url = _check_url(request, verify=verify, cert=cert)
        proxy = select_proxy(url, proxies) if proxies else None
        route = (timeout, verify, proxy or "")
        transfer = Transfer(self._new_body, self._max_bytes)
        handle = self._handle()
        began = monotonic()
        try:
            with handle.in_use:
                self._perform(handle, request, route, transfer)
            response = self._response(request, transfer)
        except BaseException:
            transfer.discard()
            raise
        finally:
            # `close` sets the flag before it looks for idle handles. A transfer that `close` found in use, or whose
            # handle it did not find yet, sees the flag here after it let go of the handle: one of the two closes it.
            # A handle that `close` closes just before its transfer begins makes that fail, and the flag says why.
            if self._sockets.is_interrupted:
                handle.close_if_idle()
        response.elapsed = timedelta(seconds=monotonic() - began)
        return response

    def interrupt(self) -> None:
        """Break off every transfer under way, and refuse new ones: both raise ConnectionError at once.

        A transfer that still waits for a name server ends when that answers or the connect time-out passes.
        """
        self._sockets.interrupt()

    def close(self) -> None:
        """Interrupt, and close all handles; a handle in use is closed by its own thread as it returns."""
        self.interrupt()
        for handle in self._handles:
            handle.close_if_idle()

    def _handle(self) -> Handle:
        """Return this thread's handle, unless no transfer may start any more."""
        if self._sockets.is_interrupted:
            raise rx.ConnectionError(_INTERRUPTED)
        handle: Handle | None = getattr(self._local, "handle", None)
        if handle is None:
            handle = Handle(self._sockets, self._max_bytes)
            self._local.handle = handle
            self._handles.append(handle)
        return handle

    def _perform(self, handle: Handle, request: PreparedRequest, route: Route, transfer: Transfer) -> None:
        """Run a transfer, and raise unless there is an answer to return."""
        failure: pycurl.error | None = None
        try:
            handle.perform(request.url or "", _header_lines(request), route, transfer)
        except pycurl.error as error:
            failure = error
        if self._sockets.is_interrupted:  # also when all seems well: a body without a length ends like that
            raise rx.ConnectionError(_INTERRUPTED, request=request) from failure
        if transfer.error:
            raise transfer.error
        if transfer.status not in {0, HTTPStatus.OK}:
            return  # an answer without a file: its body may end as it likes
        if failure:
            ours = handle.map_error(failure, request)
            raise ours from ours.__cause__ or failure
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


def _check_url(request: PreparedRequest, *, verify: bool | str, cert: object) -> str:
    """Return the request's URL; raise for everything that this adapter does not do."""
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
    """Return the prepared headers in libcurl's form: `Name;` is an empty header, `Name:` removes libcurl's own."""
    prepared = request.headers
    lines = [f"{name}: {value}" if value else f"{name};" for name, value in prepared.items()]
    lines += [f"{name}:" for name in _ADDED_BY_LIBCURL if name not in prepared]
    return [line.encode("latin-1") for line in lines]
