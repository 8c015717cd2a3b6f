"""An easy handle: its options, one transfer at a time, who performs that, and how it failed."""

import contextlib
import errno
import math
import os
import re
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import pycurl
from requests import exceptions as rx
from requests.utils import DEFAULT_CA_BUNDLE_PATH, get_environ_proxies, select_proxy

from job.transport.transfer import TooLargeError, Transfer

Timeout = float | tuple[float | None, ...] | None
"""requests' time-outs in seconds: one for both, or (connect, read); and, as an addition, (connect, read, total)."""
Route = tuple[Timeout, str | bool, str, str]
"""What transfers to one origin have in common: time-outs, authorities as requests' `verify`, proxy URL or "", path of
the client certificate or ""."""
SHORTAGES = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
"""Why a connection can fail that no other host has to do with: this machine is short of something."""

_FAILED_TO_OPEN = {
    pycurl.E_FAILED_INIT,
    pycurl.E_COULDNT_RESOLVE_PROXY,
    pycurl.E_COULDNT_RESOLVE_HOST,
    pycurl.E_OUT_OF_MEMORY,
    pycurl.E_SSL_CACERT_BADFILE,
}
"""Errors that libcurl also reports when it could not open a file, a socket or a thread for a name look-up."""
_PROXY_FAILED = {
    pycurl.E_COULDNT_CONNECT,
    pycurl.E_FTP_WEIRD_SERVER_REPLY,
    pycurl.E_GOT_NOTHING,
    pycurl.E_SEND_ERROR,
    pycurl.E_RECV_ERROR,
}
"""Errors that are the proxy's, if there is one, while no request was sent yet."""
_CONNECTION_CUT = {errno.ECONNRESET, errno.EPIPE}
_LATE_ALERT_CODES = {pycurl.E_RECV_ERROR, pycurl.E_SEND_ERROR}
_CERTIFICATE_ALERT = re.compile(
    rb"alert (?:bad certificate|unsupported certificate|certificate|unknown ca|access denied|decrypt error"
    rb"|handshake failure|no certificate)"
)
"""OpenSSL's names of the alerts (RFC 8446, 6.2) by which a server refuses a client without a certificate, or with that
one. With TLS 1.3 they come after the handshake, from the client's point of view."""
_EXPIRED = "SSL certificate verification failed"
"""What libcurl says when the server's alert is that the client certificate has expired. When it refuses the server's
certificate, it adds the reason."""
_QUICK_EXIT = 322
"""CURLOPT_QUICK_EXIT, which pycurl does not name: closing a handle does not wait for a name server."""
_SUPPRESS_CONNECT_HEADERS = 265
"""CURLOPT_SUPPRESS_CONNECT_HEADERS, likewise: a proxy's headers are not the answer's."""

_OPTIONS: dict[int, int | str] = {
    pycurl.NOSIGNAL: 1,
    _QUICK_EXIT: 1,
    _SUPPRESS_CONNECT_HEADERS: 1,
    pycurl.PROTOCOLS: pycurl.PROTO_HTTP | pycurl.PROTO_HTTPS,
    pycurl.FOLLOWLOCATION: 0,
    pycurl.HTTP_VERSION: pycurl.CURL_HTTP_VERSION_1_1,  # a handle has one request under way: nothing to multiplex
    pycurl.PATH_AS_IS: 1,
    pycurl.USERAGENT: "",  # otherwise pycurl names itself to proxies
    pycurl.NETRC: pycurl.NETRC_IGNORED,
    pycurl.NOPROXY: "",  # otherwise libcurl reads NO_PROXY itself, and by-passes the proxy that was given
    pycurl.TCP_NODELAY: 1,
    pycurl.DNS_CACHE_TIMEOUT: 0,  # otherwise a name that was not found is not looked up again for 30 s
    pycurl.SSL_VERIFYPEER: 1,
    pycurl.SSL_VERIFYHOST: 2,
    pycurl.LOW_SPEED_LIMIT: 1,
}


_PROXY = 97
"""CURLE_PROXY, and those below by their names in libcurl: pycurl has no names for them yet."""
_HTTP2_STREAM = 92
_HTTP3 = 95
_QUIC_CONNECT_ERROR = 96
_SSL_CLIENTCERT = 98
_UNRECOVERABLE_POLL = 99
_TOO_LARGE = 100
_ECH_REQUIRED = 101


class NameResolutionError(rx.ConnectionError):
    """The host name has no address, or the name server did not answer (requests has no class for it)."""


_CODES: dict[type[rx.RequestException], set[int]] = {
    rx.InvalidURL: {pycurl.E_URL_MALFORMAT, pycurl.E_BAD_FUNCTION_ARGUMENT, pycurl.E_LOGIN_DENIED},
    rx.InvalidHeader: {
        pycurl.E_FTP_WEIRD_SERVER_REPLY,  # CURLE_WEIRD_SERVER_REPLY: not for FTP only
        _TOO_LARGE,
    },
    rx.ProxyError: {pycurl.E_COULDNT_RESOLVE_PROXY, _PROXY},
    NameResolutionError: {pycurl.E_COULDNT_RESOLVE_HOST},
    rx.ConnectionError: {
        pycurl.E_UNSUPPORTED_PROTOCOL,  # the URL's scheme was checked before, so it is the answer that is not HTTP/1
        pycurl.E_FAILED_INIT,
        pycurl.E_COULDNT_CONNECT,
        pycurl.E_HTTP2,
        pycurl.E_OUT_OF_MEMORY,
        pycurl.E_INTERFACE_FAILED,
        pycurl.E_GOT_NOTHING,
        pycurl.E_SEND_ERROR,
        pycurl.E_RECV_ERROR,
        pycurl.E_AGAIN,
        pycurl.E_CHUNK_FAILED,
        pycurl.E_NO_CONNECTION_AVAILABLE,
        _HTTP2_STREAM,
        _HTTP3,
        _QUIC_CONNECT_ERROR,
        _UNRECOVERABLE_POLL,
    },
    rx.ChunkedEncodingError: {pycurl.E_PARTIAL_FILE},
    rx.ReadTimeout: {pycurl.E_OPERATION_TIMEDOUT},
    rx.SSLError: {
        pycurl.E_SSL_CONNECT_ERROR,
        pycurl.E_SSL_ENGINE_NOTFOUND,
        pycurl.E_SSL_ENGINE_SETFAILED,
        pycurl.E_SSL_CERTPROBLEM,
        pycurl.E_SSL_CIPHER,
        pycurl.E_PEER_FAILED_VERIFICATION,
        pycurl.E_USE_SSL_FAILED,
        pycurl.E_SSL_ENGINE_INITFAILED,
        pycurl.E_SSL_CACERT_BADFILE,
        pycurl.E_SSL_SHUTDOWN_FAILED,
        pycurl.E_SSL_CRL_BADFILE,
        pycurl.E_SSL_ISSUER_ERROR,
        pycurl.E_SSL_PINNEDPUBKEYNOTMATCH,
        pycurl.E_SSL_INVALIDCERTSTATUS,
        _SSL_CLIENTCERT,
        _ECH_REQUIRED,
    },
    rx.ContentDecodingError: {pycurl.E_BAD_CONTENT_ENCODING},
    rx.TooManyRedirects: {pycurl.E_TOO_MANY_REDIRECTS},
    rx.HTTPError: {pycurl.E_HTTP_RETURNED_ERROR},
    TooLargeError: {
        pycurl.E_WRITE_ERROR,  # our callback stopped at the cap; what else it raises is raised in place of this
        pycurl.E_FILESIZE_EXCEEDED,
    },
}
_EXCEPTIONS = {code: kind for kind, codes in _CODES.items() for code in codes}


def exception_for(code: int) -> type[rx.RequestException]:
    """Return the requests exception that a libcurl error means (https://curl.se/libcurl/c/libcurl-errors.html).

    What other protocols and a misused libcurl report is a plain RequestException: the network cannot cause it here.
    """
    return _EXCEPTIONS.get(code, rx.RequestException)


class Transfers(Protocol):
    """Performs the transfers of all handles, and breaks them off. All methods may be called from any thread."""

    @property
    def is_interrupted(self) -> bool:
        """Return whether `interrupt` was called: no transfer may begin any more."""

    @property
    def close_socket(self) -> Callable[[int], int] | None:
        """Return what closes a socket that libcurl has finished with; None if libcurl closes sockets itself."""

    def open_socket(self, address: pycurl.CurlSockAddr) -> int:
        """Return a new socket for libcurl, SOCKET_BAD after `interrupt`; raise OSError where the system has none."""

    def perform(self, curl: pycurl.Curl) -> None:
        """Return when the transfer of an easy handle has ended; raise pycurl.error if it failed."""

    def interrupt(self) -> None:
        """Break off every transfer under way and refuse sockets to new ones; set `is_interrupted` before both."""


class BlockingTransfers:
    """Each thread performs its own transfer, and blocks; what can break it off is the set of all sockets. Thread-safe.

    `_lock` guards the set, so that each descriptor in it is open: without it `interrupt` could shut a descriptor down
    that another thread has just closed, and that by now is another connection's, or a file's. It is never held
    while a transfer is under way.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: set[int] = set()
        self.is_interrupted = False

    def open_socket(self, address: pycurl.CurlSockAddr) -> int:
        """Return a new socket, which belongs to libcurl from now on; raise OSError where the system has none."""
        made = socket.socket(address.family, address.socktype, address.protocol)
        with self._lock:  # or a socket opened between `interrupt`'s flag and its loop would never be shut down
            if self.is_interrupted:
                made.close()
                return pycurl.SOCKET_BAD
            self._open.add(made.fileno())
            return made.detach()

    def close_socket(self, descriptor: int) -> int:
        """Close a socket that libcurl has finished with."""
        with self._lock:  # forget and close in one step: once closed, the number may be given to any new file
            self._open.discard(descriptor)
            os.close(descriptor)
        return 0

    def perform(self, curl: pycurl.Curl) -> None:
        """Run a transfer in this thread."""
        curl.perform()

    def interrupt(self) -> None:
        """Shut every connection down and refuse new ones."""
        with self._lock:
            self.is_interrupted = True
            for descriptor in self._open:
                borrowed = socket.socket(fileno=descriptor)
                with contextlib.suppress(OSError):  # not connected, or the peer was faster
                    borrowed.shutdown(socket.SHUT_RDWR)
                borrowed.detach()


class Handle:
    """An easy handle. It keeps its connections, the options of the last route, and its client certificate for good.

    It belongs to no thread, but to whoever took it from the idle ones: one transfer at a time, and no lock.
    """

    def __init__(self, transfers: Transfers, transfer: Transfer, certificate: str = "") -> None:
        self._transfers = transfers
        self.certificate = certificate
        """The path of a PEM file with a client certificate and its key, or "": pycurl cannot take it back."""
        self.transfer = transfer
        """The answer to the present request; what libcurl calls back is set once, and this is reset each time."""
        self._route: Route | None = None
        self._lines: list[bytes] = []
        self._shortage: OSError | None = None
        """Why this machine gave no socket for the present transfer, if it did not."""
        self._curl = pycurl.Curl()
        for option, value in _OPTIONS.items():
            self._curl.setopt(option, value)
        self._curl.setopt(pycurl.MAXFILESIZE_LARGE, transfer.max_bytes)
        self._curl.setopt(pycurl.HEADERFUNCTION, transfer.on_header)
        self._curl.setopt(pycurl.WRITEFUNCTION, transfer.on_body)
        self._curl.setopt(pycurl.OPENSOCKETFUNCTION, self._open_socket)
        if transfers.close_socket is not None:
            self._curl.setopt(pycurl.CLOSESOCKETFUNCTION, transfers.close_socket)
        if certificate:
            self._curl.setopt(pycurl.SSLCERT, certificate)
            self._curl.setopt(pycurl.SSLKEY, certificate)
            self._curl.setopt(pycurl.KEYPASSWD, "")  # or OpenSSL asks the terminal, if the key is encrypted by then

    def perform(self, url: str, lines: list[bytes], route: Route) -> None:
        """Run a transfer to its end; raise pycurl.error if it failed. `lines`, the headers, are not changed later."""
        self._shortage = None
        self.transfer.reset()
        if route != self._route:
            self._set_route(*route[:3])
            self._route = route
        if lines != self._lines:
            self._curl.setopt(pycurl.HTTPHEADER, lines)
            self._lines = lines
        self._curl.setopt(pycurl.URL, url)
        self._transfers.perform(self._curl)

    def close(self) -> None:
        """Close the handle and its connections; only its owner may: pycurl's own guard is not thread-safe."""
        self._curl.close()

    def map_error(self, error: pycurl.error) -> OSError:
        """Return the requests exception for the last transfer's error; an OSError if this machine is at fault."""
        code = int(error.args[0])
        if self._shortage:
            return self._shortage
        try:
            self._check_for_shortage(code)
        except OSError as shortage:
            return shortage
        message = self._curl.errstr_raw().decode("utf-8", "replace")  # it may quote what a server sent
        if message == _EXPIRED:
            message = "the server's alert is that the client certificate has expired"
        kind = rx.SSLError if self._is_certificate_refused(code) else self._exception_for(code)
        return kind(message or pycurl.easy_strerror(code))

    def _check_for_shortage(self, code: int) -> None:
        """Raise OSError if what libcurl could not open cannot be opened: then the network is not the cause."""
        if code in _FAILED_TO_OPEN:
            socket.socket().close()
        is_lookup_timeout = code == pycurl.E_OPERATION_TIMEDOUT and not self._curl.getinfo(pycurl.NAMELOOKUP_TIME)
        if code in _FAILED_TO_OPEN or is_lookup_timeout:
            _start_thread()
        if code == pycurl.E_OUT_OF_MEMORY:  # or out of descriptors, a moment ago
            raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

    def _exception_for(self, code: int) -> type[rx.RequestException]:
        """Return the exception for a code, which says more while no request was sent yet."""
        if not self._curl.getinfo(pycurl.REQUEST_SIZE):
            if code == pycurl.E_OPERATION_TIMEDOUT:
                return rx.ConnectTimeout
            if code == pycurl.E_SSL_CONNECT_ERROR and self._is_cut():
                return rx.ConnectionError
            if code in _PROXY_FAILED and self._route and self._route[2]:
                return rx.ProxyError
        if code == pycurl.E_FTP_WEIRD_SERVER_REPLY and b"Content-Length" not in self._curl.errstr_raw():
            return rx.ConnectionError  # garbage in the headers; a wrong length is the origin's own lasting mistake
        return exception_for(code)

    def _is_certificate_refused(self, code: int) -> bool:
        """Return whether the server refuses the client's certificate late, or that cannot be used any more."""
        text = self._curl.errstr_raw()
        if code == pycurl.E_BAD_FUNCTION_ARGUMENT:
            return bool(self.certificate) and self.certificate.encode() in text
        return code in _LATE_ALERT_CODES and bool(_CERTIFICATE_ALERT.search(text))

    def _is_cut(self) -> bool:
        """Return whether the peer left during the handshake, as a balancer without a server does."""
        return self._curl.getinfo(pycurl.OS_ERRNO) in _CONNECTION_CUT or b"unexpected eof" in self._curl.errstr_raw()

    def _set_route(self, timeout: Timeout, verify: str | bool, proxy: str) -> None:  # noqa: FBT001  (requests' own type)
        connect, read, total = (*timeout, None)[:3] if isinstance(timeout, tuple) else (timeout, timeout, None)
        file, directory = certificate_paths(None if verify is True else str(verify))
        self._curl.setopt(pycurl.TIMEOUT_MS, math.ceil((total or 0) * 1000))
        self._curl.setopt(pycurl.CONNECTTIMEOUT_MS, math.ceil((connect or 0) * 1000))
        # libcurl measures once a second: with 1 it may give up before it has counted what came
        self._curl.setopt(pycurl.LOW_SPEED_TIME, max(2, math.ceil(read)) if read else 0)
        self._curl.setopt(pycurl.PROXY, proxy)  # empty: none, whatever the environment names
        self._curl.setopt(pycurl.CAINFO, file)
        self._curl.setopt(pycurl.CAPATH, directory)
        self._curl.setopt(pycurl.PROXY_CAINFO, file)
        self._curl.setopt(pycurl.PROXY_CAPATH, directory)

    def _open_socket(self, _purpose: int, address: pycurl.CurlSockAddr) -> int:
        """Return a socket for libcurl, or SOCKET_BAD; keep the error where it is this machine's."""
        try:
            return self._transfers.open_socket(address)
        except OSError as error:
            if error.errno in SHORTAGES:
                self._shortage = error
            return pycurl.SOCKET_BAD


def certificate_paths(bundle: str | None) -> tuple[str | None, str | None]:
    """Return a file and a directory of certificate authorities, one of them None; certifi's file without a bundle."""
    path = bundle or DEFAULT_CA_BUNDLE_PATH
    return (None, path) if Path(path).is_dir() else (path, None)


def proxy_for(url: str) -> str | None:
    """Return the proxy that the environment's variables name for a URL, as requests reads them, or None."""
    return select_proxy(url, get_environ_proxies(url)) or None


def _start_thread() -> None:
    """Raise OSError if this machine starts no thread: libcurl needs one for a look-up, and waits until it gets it."""
    try:
        threading.Thread(target=int).start()
    except RuntimeError as error:
        raise OSError(errno.EAGAIN, f"{os.strerror(errno.EAGAIN)}, {error}") from error
