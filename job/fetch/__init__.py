"""One HTTP attempt: a URL in, a 200 answer with its body out; foreign errors become ours here."""

from job.fetch.fetcher import Fetcher, Wire

__all__ = ["Fetcher", "Wire"]
