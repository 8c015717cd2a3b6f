"""What libcurl's errors mean in requests' words."""

from requests import exceptions as rx


class NameResolutionError(rx.ConnectionError):
    """The host name has no address, or the name server did not say (requests has no class for it)."""


class TooLargeError(rx.RequestException):
    """The body exceeds `max_bytes`, by its declared length or as it came (requests has no class for it)."""


_CLASSES: dict[type[rx.RequestException], set[int]] = {
    rx.InvalidURL: {3, 43, 67},
    rx.InvalidHeader: {1, 8, 100},  # 1: the scheme was checked before, so it is the answer that is not HTTP/1
    rx.ProxyError: {5, 97},
    NameResolutionError: {6},
    rx.ConnectionError: {2, 7, 16, 27, 45, 52, 55, 56, 81, 88, 89, 92, 95, 96, 99},
    rx.ChunkedEncodingError: {18},
    rx.ReadTimeout: {28},
    rx.SSLError: {35, 53, 54, 58, 59, 60, 64, 66, 77, 80, 82, 83, 90, 91, 98, 101},
    rx.ContentDecodingError: {61},
    rx.TooManyRedirects: {47},
    rx.HTTPError: {22},
    TooLargeError: {23, 63},  # 23: our callback stopped at the cap; what it raised is raised in its place
}
_CLASS_OF = {code: kind for kind, codes in _CLASSES.items() for code in codes}


def class_of(code: int) -> type[rx.RequestException]:
    """Give the requests exception that a libcurl error means (https://curl.se/libcurl/c/libcurl-errors.html).

    What other protocols and a misused libcurl report is a plain RequestException: the network cannot cause it here.
    """
    return _CLASS_OF.get(code, rx.RequestException)
