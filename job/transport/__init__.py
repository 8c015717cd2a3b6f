"""The transport: a requests adapter over libcurl, with an easy handle and its connections for each worker thread."""

from job.transport.adapter import CurlAdapter
from job.transport.handle import SHORTAGES, certificate_paths, proxy_for
from job.transport.libcurl_errors import NameResolutionError, TooLargeError, exception_for

__all__ = [
    "SHORTAGES",
    "CurlAdapter",
    "NameResolutionError",
    "TooLargeError",
    "certificate_paths",
    "exception_for",
    "proxy_for",
]
