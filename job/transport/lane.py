"""One worker thread's libcurl handle, and the sockets of all of them."""

import contextlib
import errno
import math
import os
import socket
import threading
from typing import NoReturn

import pycurl
from requests import PreparedRequest
from requests import exceptions as rx

from job.transport.environment import authorities
from job.transport.meaning import class_of
from job.transport.transfer import Transfer

Timeout = float | tuple[float | None, ...] | None
"""requests' time-outs in seconds: one for both, or (connect, read); and, as ours, (connect, read, all of it)."""
Route = tuple[Timeout, str | bool, str]
"""What transfers to one origin have in common: time-outs, authorities as requests' `verify`, proxy or nothing."""
_PROXYS = {7, 8, 52, 55, 56}  # failures of the proxy, if there is one, when no request was sent yet
_STARVED = {2, 5, 6, 27, 77}  # also reported when libcurl could not open a file or begin a look-up
SHORTAGES = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
"""What a connection can fail of that no other host has to do with: this machine is short of something."""
_CUT = {errno.ECONNRESET, errno.EPIPE}

_ALWAYS: dict[int, int | str] = {
    pycurl.NOSIGNAL: 1,
    322: 1,  # CURLOPT_QUICK_EXIT, which pycurl does not name: closing a handle waits for no name server
    265: 1,  # CURLOPT_SUPPRESS_CONNECT_HEADERS, likewise: a proxy's headers are not the answer's
    pycurl.PROTOCOLS: pycurl.PROTO_HTTP | pycurl.PROTO_HTTPS,
    pycurl.FOLLOWLOCATION: 0,
    pycurl.HTTP_VERSION: pycurl.CURL_HTTP_VERSION_1_1,  # a handle has one request under way: nothing to multiplex
    pycurl.PATH_AS_IS: 1,
    pycurl.USERAGENT: "",  # or pycurl names itself to proxies
    pycurl.NETRC: pycurl.NETRC_IGNORED,
    pycurl.NOPROXY: "",  # or libcurl reads NO_PROXY itself, and passes by the proxy that was given
    pycurl.TCP_NODELAY: 1,
    pycurl.DNS_CACHE_TIMEOUT: 0,  # or a name that was not found is not looked up again for 30 s
    pycurl.SSL_VERIFYPEER: 1,
    pycurl.SSL_VERIFYHOST: 2,
    pycurl.LOW_SPEED_LIMIT: 1,
}


class Sockets:
    """The descriptors that libcurl uses, of all threads. `_lock` guards them: each one listed is open."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: set[int] = set()
        self.refusing = False

    def open(self, address: pycurl.CurlSockAddr) -> int:
        """Make a socket that belongs to libcurl from now on; OSError when the system has none to give."""
        made = socket.socket(address.family, address.socktype, address.protocol)
        with self._lock:
            if self.refusing:
                made.close()
                return pycurl.SOCKET_BAD
            self._open.add(made.fileno())
            return made.detach()

    def close(self, descriptor: int) -> int:
        """Close a socket that libcurl is done with."""
        with self._lock:
            self._open.discard(descriptor)
            os.close(descriptor)
        return 0

    def interrupt(self) -> None:
        """End every connection and refuse new ones."""
        with self._lock:
            self.refusing = True
            for descriptor in self._open:
                borrowed = socket.socket(fileno=descriptor)
                with contextlib.suppress(OSError):  # not connected, or the peer was faster
                    borrowed.shutdown(socket.SHUT_RDWR)
                borrowed.detach()


class Lane:
    """One worker thread's handle; it keeps its connections, and the options of the last route."""

    def __init__(self, sockets: Sockets, max_bytes: int) -> None:
        self._sockets = sockets
        self._route: Route | None = None
        self.shortage: OSError | None = None
        """Why this machine gave no socket, if it was short of something."""
        self.in_use = threading.Lock()
        """Held from the beginning of a transfer until its outcome was read."""
        self.curl = pycurl.Curl()
        for option, value in _ALWAYS.items():
            self.curl.setopt(option, value)
        self.curl.setopt(pycurl.MAXFILESIZE_LARGE, max_bytes)
        self.curl.setopt(pycurl.OPENSOCKETFUNCTION, self.open_socket)
        self.curl.setopt(pycurl.CLOSESOCKETFUNCTION, sockets.close)

    def perform(self, url: str, headers: list[bytes], route: Route, transfer: Transfer) -> pycurl.error | None:
        """Run a transfer to its end; give what libcurl says went wrong, if anything did."""
        self.shortage = None
        try:
            if route != self._route:
                self._take(*route)
                self._route = route
            self.curl.setopt(pycurl.URL, url)
            self.curl.setopt(pycurl.HTTPHEADER, headers)
            self.curl.setopt(pycurl.HEADERFUNCTION, transfer.on_header)
            self.curl.setopt(pycurl.WRITEFUNCTION, transfer.on_body)
            self.curl.perform()
        except pycurl.error as error:
            return error
        return None

    def close_if_idle(self) -> None:
        """Close the handle, unless a thread is at work with it: pycurl's own guard against that is no safe one."""
        if self.in_use.acquire(blocking=False):
            self.curl.close()
            self.in_use.release()

    def raise_failure(self, error: pycurl.error, request: PreparedRequest) -> NoReturn:
        """Raise the last transfer's error by its meaning; an OSError when this machine was short of something."""
        code = int(error.args[0])
        if self.shortage:
            raise self.shortage
        if code in _STARVED:
            socket.socket().close()  # raises when there are no descriptors left
        if code in _STARVED or (code == pycurl.E_OPERATION_TIMEDOUT and not self.curl.getinfo(pycurl.NAMELOOKUP_TIME)):
            _start_thread()
        if code == pycurl.E_OUT_OF_MEMORY:  # or of descriptors, a moment ago
            raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)) from error
        said = self.curl.errstr_raw().decode("utf-8", "replace")  # it may quote what a server sent
        raise self._kind_of(code)(said or pycurl.easy_strerror(code), request=request) from error

    def _kind_of(self, code: int) -> type[rx.RequestException]:
        """Give the exception for a code, which says more when no request was sent yet."""
        if not self.curl.getinfo(pycurl.REQUEST_SIZE):
            if code == pycurl.E_OPERATION_TIMEDOUT:
                return rx.ConnectTimeout
            if code == pycurl.E_SSL_CONNECT_ERROR and self._is_cut():
                return rx.ConnectionError
            if code in _PROXYS and self._route and self._route[2]:
                return rx.ProxyError
        return class_of(code)

    def _is_cut(self) -> bool:
        """Tell a handshake that the other side just left, as a balancer without a server does, from one that failed."""
        return self.curl.getinfo(pycurl.OS_ERRNO) in _CUT or b"unexpected eof" in self.curl.errstr_raw()

    def _take(self, timeout: Timeout, verify: str | bool, proxy: str) -> None:  # noqa: FBT001  (requests' own type)
        connect, silence, whole = (*timeout, None)[:3] if isinstance(timeout, tuple) else (timeout, timeout, None)
        file, directory = authorities(None if verify is True else str(verify))
        self.curl.setopt(pycurl.TIMEOUT_MS, math.ceil((whole or 0) * 1000))
        self.curl.setopt(pycurl.CONNECTTIMEOUT_MS, math.ceil((connect or 0) * 1000))
        # libcurl measures once a second: with 1 it may give up before it has counted what came
        self.curl.setopt(pycurl.LOW_SPEED_TIME, max(2, math.ceil(silence)) if silence else 0)
        self.curl.setopt(pycurl.PROXY, proxy)  # empty: none, whatever the environment says
        self.curl.setopt(pycurl.CAINFO, file)
        self.curl.setopt(pycurl.CAPATH, directory)
        self.curl.setopt(pycurl.PROXY_CAINFO, file)
        self.curl.setopt(pycurl.PROXY_CAPATH, directory)

    def open_socket(self, _purpose: int, address: pycurl.CurlSockAddr) -> int:
        """Make a socket for libcurl, or none; keep the reason where it is this machine's."""
        try:
            return self._sockets.open(address)
        except OSError as error:
            if error.errno in SHORTAGES:
                self.shortage = error
            return pycurl.SOCKET_BAD


def _start_thread() -> None:
    """Raise OSError if this machine gives no thread: a look-up needs one, and libcurl just waits until it gets it."""
    try:
        threading.Thread(target=int).start()
    except RuntimeError as error:
        raise OSError(errno.EAGAIN, f"{os.strerror(errno.EAGAIN)}, {error}") from error
