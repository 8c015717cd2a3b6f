"""The transport: a requests adapter over libcurl, with easy handles that keep their connections between requests."""

from job.transport.adapter import CurlAdapter
from job.transport.handle import (
    SHORTAGES,
    BlockingTransfers,
    NameResolutionError,
    TooLargeError,
    Transfers,
    certificate_paths,
    exception_for,
    proxy_for,
)
from job.transport.multi import MultiTransfers

__all__ = [
    "SHORTAGES",
    "BlockingTransfers",
    "CurlAdapter",
    "MultiTransfers",
    "NameResolutionError",
    "TooLargeError",
    "Transfers",
    "certificate_paths",
    "exception_for",
    "proxy_for",
]
