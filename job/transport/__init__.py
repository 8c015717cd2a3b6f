"""The transport: a requests adapter over libcurl, with an easy handle and its connections for each worker thread."""

from job.transport.adapter import CurlAdapter
from job.transport.handle import (
    SHORTAGES,
    NameResolutionError,
    TooLargeError,
    certificate_paths,
    exception_for,
    proxy_for,
)

__all__ = [
    "SHORTAGES",
    "CurlAdapter",
    "NameResolutionError",
    "TooLargeError",
    "certificate_paths",
    "exception_for",
    "proxy_for",
]
