"""The adapter that requests calls: a GET request in, a Response with its body out, sent by libcurl."""

from collections import deque
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
from job.transport.handle import BlockingTransfers, Handle, Route, Timeout, Transfers
from job.transport.transfer import Transfer

_ADDED_BY_LIBCURL = ("Accept", "User-Agent", "Authorization")
_INTERRUPTED = "interrupted: no transfer may go on"


class CurlAdapter(BaseAdapter):
    """Sends GET requests by libcurl; mount it on a Session for `http://` and `https://`.

    `new_body` makes the body of a 200, which is written to as it arrives: `response.raw` is that body, rewound, and
    closing it is the caller's. A body is closed when its transfer fails. Bodies of other answers are dropped: those are
    their status and headers, however their bodies end. Memory per transfer does not depend on what is sent. `max_bytes`
    caps a body. `transfers` performs the transfers: None means in the thread that calls `send`, which blocks.

    All methods may be called from any number of threads, and no lock is held while a transfer is under way. A transfer
    takes an idle handle, or makes one, and gives it back at its end: there are as many handles, and about as many
    connections, as there were transfers at the same time.
    """

    def __init__(self, *, new_body: Callable[[], Body], max_bytes: int, transfers: Transfers | None = None) -> None:
        super().__init__()
        self._new_body = new_body
        self._max_bytes = max_bytes
        self._transfers = BlockingTransfers() if transfers is None else transfers
        self._idle: deque[Handle] = deque()
        """Handles without a transfer. Who pops one owns it; `append` and `pop` are atomic, so no lock is needed."""

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
        handle = self._take_handle()
        began = monotonic()
        try:
            self._perform(handle, request, route, transfer)
            response = self._response(request, transfer)
        except BaseException:
            transfer.discard()
            raise
        finally:
            self._give_back(handle)
        response.elapsed = timedelta(seconds=monotonic() - began)
        return response

    def interrupt(self) -> None:
        """Break off every transfer under way, and refuse new ones: both raise ConnectionError at once.

        A transfer that still waits for a name server ends when that answers or the connect time-out passes.
        """
        self._transfers.interrupt()

    def close(self) -> None:
        """Interrupt, and close all handles; a handle in use is closed as its transfer returns."""
        self.interrupt()
        self._close_idle()

    def _take_handle(self) -> Handle:
        """Return a handle that nobody else has, unless no transfer may start any more."""
        if self._transfers.is_interrupted:
            raise rx.ConnectionError(_INTERRUPTED)
        try:
            return self._idle.pop()  # the one that was given back last: its connection is the least likely to be stale
        except IndexError:
            return Handle(self._transfers, self._max_bytes)

    def _give_back(self, handle: Handle) -> None:
        """Make a handle idle; close it if no transfer will take it any more."""
        # `close` sets the flag, and then empties the deque. Here the order is the opposite: first the handle is
        # appended, then the flag is read. If the flag is not set yet, `close` will find the handle in the deque. If it
        # is set, `close` may have seen an empty deque already, so that this thread empties it again. Both may do so at
        # once: `pop` gives each handle to one of them. A transfer that read the flag before it was set may still pop a
        # handle; it owns it then, gets no new socket, and comes here at its end.
        self._idle.append(handle)
        if self._transfers.is_interrupted:
            self._close_idle()

    def _close_idle(self) -> None:
        """Close the handles that nobody owns, each exactly once."""
        while True:
            try:
                handle = self._idle.pop()
            except IndexError:
                return
            handle.close()

    def _perform(self, handle: Handle, request: PreparedRequest, route: Route, transfer: Transfer) -> None:
        """Run a transfer, and raise unless there is an answer to return."""
        failure: pycurl.error | None = None
        try:
            handle.perform(request.url or "", _header_lines(request), route, transfer)
        except pycurl.error as error:
            failure = error
        if self._transfers.is_interrupted:  # also when all seems well: a body without a length ends like that
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
