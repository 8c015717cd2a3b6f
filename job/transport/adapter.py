"""The adapter: sends GET requests by libcurl, for the job's client, and for any Session of requests."""

from collections import deque
from collections.abc import Callable, Mapping
from functools import cached_property
from http import HTTPStatus

import pycurl
from requests import PreparedRequest
from requests import exceptions as rx
from requests.adapters import BaseAdapter
from requests.structures import CaseInsensitiveDict
from requests.utils import select_proxy

from job.body import Body
from job.transport.handle import BlockingTransfers, Handle, Route, Timeout, Transfers
from job.transport.transfer import CurlResponse, Transfer

_ADDED_BY_LIBCURL = ("Accept", "User-Agent", "Authorization")
_INTERRUPTED = "interrupted: no transfer may go on"
_NEEDS_BODY = {0, HTTPStatus.OK.value}
"""Statuses with which a transfer must not fail, 0 being none. Of another answer only the head counts."""


class CurlRequest(PreparedRequest):
    """A GET request made of a URL and header lines, which many requests may share.

    Its `headers` are read from the lines when somebody first asks for them; from then on they are what is sent, as
    with any PreparedRequest.
    """

    def __init__(self, url: str, lines: list[bytes], *, keeps_gzip: bool | None = None) -> None:
        """Take header lines that `header_lines` and `header_line` have made; they are not changed later.

        `keeps_gzip`, unless it is None, takes the place of the adapter's for all requests that say it.
        """
        super().__init__()
        self.keeps_gzip = keeps_gzip
        del self.headers  # the None of the base class, so that the property below is asked
        self.method = "GET"
        self.url = url
        self._lines = lines

    @cached_property
    def headers(self) -> CaseInsensitiveDict[str]:  # type: ignore[override]  # (it can be set, as the attribute can)
        """Return the headers that the lines stand for."""
        return _parse_lines(self._lines)

    @property
    def lines(self) -> list[bytes]:
        """Return the header lines to send: those given, unless `headers` were asked for or set, and may differ."""
        return header_lines(self.headers) if "headers" in vars(self) else self._lines


class CurlAdapter(BaseAdapter):
    """Sends GET requests by libcurl: call `send`, or mount it on a Session for `http://` and `https://`.

    `new_body` makes the body of a 200, which is written to as it arrives; `raw` of the response is that body, rewound,
    and closing it is the caller's. A body is closed when its transfer fails. Bodies of other answers are dropped: those
    are their status and headers, however their bodies end. Memory per transfer does not depend on what is sent.
    `max_bytes` caps a body, as it comes and decoded. The content codings gzip and deflate are taken off, and others
    refused; `keeps_gzip` leaves gzip on, for files that are gzip themselves, which servers may call a coding.
    `transfers` performs the transfers: None means in the thread that calls, which blocks.

    All methods may be called from any number of threads, and no lock is held while a transfer is under way. A transfer
    takes an idle handle, or makes one, and gives it back at its end: there are as many handles, and about as many
    connections, as there were transfers at the same time.
    """

    def __init__(
        self,
        *,
        new_body: Callable[[], Body],
        max_bytes: int,
        keeps_gzip: bool = False,
        transfers: Transfers | None = None,
    ) -> None:
        super().__init__()
        self._new_body = new_body
        self._max_bytes = max_bytes
        self._keeps_gzip = keeps_gzip
        self._transfers = BlockingTransfers() if transfers is None else transfers
        self._idle: dict[str, deque[Handle]] = {"": deque()}
        """Handles without a transfer, by their client certificate. Who pops one owns it; all operations are atomic, the
        dict's `setdefault` too, so no lock is needed."""

    def send(  # type: ignore[override]  # noqa: PLR0913  (requests' own parameters; it passes them by name)
        self,
        request: PreparedRequest,
        *,
        stream: bool = False,  # noqa: ARG002  (the transfer has ended before anybody can read)
        timeout: Timeout = None,
        verify: bool | str = True,
        cert: str | tuple[str, str] | None = None,
        proxies: Mapping[str, str] | None = None,
    ) -> CurlResponse:
        """Return the answer to a GET request without a body; `raw` is the body of a 200, and empty otherwise.

        The header lines of a CurlRequest are sent as they are; those of another request are made each time, as its
        headers may have changed.
        `timeout` is in seconds: connecting (name, TCP, TLS), and silence, counted from the start until a byte of a body
        came; the latter in whole seconds, two at least, and noticed up to 7 s late. A third one, which only this
        adapter knows, bounds all of it, from name look-up to last byte. `verify` is True for certifi's authorities, or
        the path of a file or directory of others. `cert` is the path of a PEM file with a client certificate and its
        key; connections that were made with one serve no request without it, nor the other way round.
        Raises subclasses of requests' RequestException by their meaning, those of `handle` among them; an
        OSError unchanged when this machine failed (`new_body`, writing, no descriptors left); ValueError for what this
        adapter does not do: other methods, request bodies, a key in a file of its own, unverified TLS.
        """
        url = _check_url(request, verify=verify)
        if cert is not None and not isinstance(cert, str):
            raise ValueError("a client certificate and its key must be in one file")
        lines = request.lines if isinstance(request, CurlRequest) else header_lines(request.headers)
        proxy = select_proxy(url, proxies) if proxies else None
        try:
            route = (timeout, verify, proxy or "", cert or "")
            response = self._transfer(url, lines, route, getattr(request, "keeps_gzip", None))
        except rx.RequestException as error:
            error.request = request
            raise
        response.url = url
        response.request = request
        response.connection = self  # type: ignore[assignment]  # (the stub knows one adapter only)
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

    def _transfer(self, url: str, lines: list[bytes], route: Route, keeps_gzip: bool | None) -> CurlResponse:  # noqa: FBT001  (as requests have it)
        """Run a transfer with a handle that nobody else has meanwhile, and return the answer."""
        handle = self._take_handle(route[3])
        if keeps_gzip is not None:  # all requests of the run say it, so none finds what another one has set
            handle.transfer.keeps_gzip = keeps_gzip
        try:
            self._perform(handle, url, lines, route)
            response = handle.transfer.take_response()
        except BaseException:
            handle.transfer.discard()
            self._give_back(handle, has_connection=False)
            raise
        self._give_back(handle, has_connection=True)
        return response

    def _take_handle(self, certificate: str) -> Handle:
        """Return a handle that nobody else has, unless no transfer may start any more."""
        if self._transfers.is_interrupted:
            raise rx.ConnectionError(_INTERRUPTED)
        try:
            # The one that was given back last: its connection is the least likely to be stale.
            return self._idle[certificate].pop()
        except LookupError:
            self._idle.setdefault(certificate, deque())
            transfer = Transfer(self._new_body, self._max_bytes, keeps_gzip=self._keeps_gzip)
            return Handle(self._transfers, transfer, certificate)

    def _give_back(self, handle: Handle, *, has_connection: bool) -> None:
        """Make a handle idle; close it if no transfer will take it any more."""
        # `close` sets the flag, and then empties the deque. Here the order is the opposite: first the handle is
        # appended, then the flag is read. If the flag is not set yet, `close` will find the handle in the deque. If it
        # is set, `close` may have seen an empty deque already, so that this thread empties it again. Both may do so at
        # once: `pop` gives each handle to one of them. A transfer that read the flag before it was set may still pop a
        # handle; it owns it then, gets no new socket, and comes here at its end.
        idle = self._idle[handle.certificate]
        if has_connection:
            idle.append(handle)
        else:  # the last to be taken again: an origin may bear no more connections than there are
            idle.appendleft(handle)
        if self._transfers.is_interrupted:
            self._close_idle()

    def _close_idle(self) -> None:
        """Close the handles that nobody owns, each exactly once."""
        for idle in list(self._idle.values()):
            while True:
                try:
                    handle = idle.pop()
                except IndexError:
                    break
                handle.close()

    def _perform(self, handle: Handle, url: str, lines: list[bytes], route: Route) -> None:
        """Run a transfer, and raise unless there is an answer to return."""
        transfer = handle.transfer
        failure: pycurl.error | None = None
        try:
            handle.perform(url, lines, route)
        except pycurl.error as error:
            failure = error
        if self._transfers.is_interrupted:  # also when all seems well: a body without a length ends like that
            raise rx.ConnectionError(_INTERRUPTED) from failure
        if transfer.error:
            raise transfer.error
        if transfer.status not in _NEEDS_BODY:
            return  # an answer without a file: its body may end as it likes
        if failure:
            ours = handle.map_error(failure)
            raise ours from ours.__cause__ or failure
        if not transfer.status:
            raise rx.ConnectionError("the connection ended before the headers did")


def header_lines(headers: Mapping[str, str]) -> list[bytes]:
    """Return prepared headers in libcurl's form; `Name:` removes what libcurl would add. Not to be changed later."""
    lines = [header_line(name, value) for name, value in headers.items()]
    lines += [f"{name}:".encode() for name in _ADDED_BY_LIBCURL if name not in headers]
    return lines


def header_line(name: str, value: str) -> bytes:
    """Return a header in libcurl's form, in which `Name;` is an empty one."""
    line = f"{name}: {value}" if value else f"{name};"
    return line.encode("latin-1")


def _parse_lines(lines: list[bytes]) -> CaseInsensitiveDict[str]:
    """Return the headers from which lines were made; without those that remove what libcurl would add."""
    headers: CaseInsensitiveDict[str] = CaseInsensitiveDict()
    for line in lines:
        name, colon, value = line.decode("latin-1").partition(":")
        if not colon:
            headers[name.removesuffix(";")] = ""
        elif value:
            headers[name] = value.removeprefix(" ")
    return headers


def _check_url(request: PreparedRequest, *, verify: bool | str) -> str:
    """Return the request's URL; raise for everything that this adapter does not do."""
    if request.method != "GET" or request.body:
        raise ValueError("only GET without a body is sent")
    if not verify:
        raise ValueError("TLS verification cannot be turned off")
    url = request.url or ""
    if not url.lower().startswith(("http://", "https://")):
        raise rx.InvalidSchema("only http and https are spoken", request=request)
    return url
