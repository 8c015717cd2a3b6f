"""One item, from its URL to a stored file; always a Result, never an exception."""

from job.downloader.downloader import Downloader
from job.downloader.requirements import Hooks, Requirements

__all__ = ["Downloader", "Hooks", "Requirements"]
