"""requests' wire: a transport adapter over libcurl, one handle a worker thread."""

from job.transport.adapter import CurlAdapter
from job.transport.environment import authorities, proxy_for
from job.transport.lane import SHORTAGES
from job.transport.meaning import NameResolutionError, TooLargeError, class_of

__all__ = [
    "SHORTAGES",
    "CurlAdapter",
    "NameResolutionError",
    "TooLargeError",
    "authorities",
    "class_of",
    "proxy_for",
]
