"""The transport: a requests adapter over libcurl, with easy handles that keep their connections between requests."""

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
