"""requests' wire: a transport adapter over libcurl, one handle a worker thread."""

from job.transport.adapter import CurlAdapter
from job.transport.meaning import NameResolutionError, TooLargeError, class_of

__all__ = ["CurlAdapter", "NameResolutionError", "TooLargeError", "class_of"]
