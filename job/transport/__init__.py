"""The transport: a requests adapter over libcurl, with easy handles that keep their connections between requests."""

from job.transport.adapter import CurlAdapter, CurlRequest, header_line, header_lines
from job.transport.handle import (
    SHORTAGES,
    BlockingTransfers,
    NameResolutionError,
    Transfers,
    certificate_paths,
    exception_for,
    proxy_for,
)
from job.transport.multi import MultiTransfers
from job.transport.transfer import CurlResponse, DamagedError, TooLargeError

__all__ = [
    "SHORTAGES",
    "BlockingTransfers",
    "CurlAdapter",
    "CurlRequest",
    "CurlResponse",
    "DamagedError",
    "MultiTransfers",
    "NameResolutionError",
    "TooLargeError",
    "Transfers",
    "certificate_paths",
    "exception_for",
    "header_line",
    "header_lines",
    "proxy_for",
]
