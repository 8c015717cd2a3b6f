"""One item, from its URL to a stored file; always a Result, never an exception."""

from job.download.item import Downloader
from job.download.parts import Hooks, Terms

__all__ = ["Downloader", "Hooks", "Terms"]
