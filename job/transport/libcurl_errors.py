"""libcurl's error codes, and the exception of requests that each of them means."""

import pycurl
from requests import exceptions as rx

PROXY_ERROR = 97
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


class TooLargeError(rx.RequestException):
    """The body exceeds `max_bytes`, by its declared length or as it came (requests has no class for it)."""


_CODES: dict[type[rx.RequestException], set[int]] = {
    rx.InvalidURL: {pycurl.E_URL_MALFORMAT, pycurl.E_BAD_FUNCTION_ARGUMENT, pycurl.E_LOGIN_DENIED},
    rx.InvalidHeader: {
        pycurl.E_UNSUPPORTED_PROTOCOL,  # the URL's scheme was checked before, so it is the answer that is not HTTP/1
        pycurl.E_FTP_WEIRD_SERVER_REPLY,  # CURLE_WEIRD_SERVER_REPLY: not for FTP only
        _TOO_LARGE,
    },
    rx.ProxyError: {pycurl.E_COULDNT_RESOLVE_PROXY, PROXY_ERROR},
    NameResolutionError: {pycurl.E_COULDNT_RESOLVE_HOST},
    rx.ConnectionError: {
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
