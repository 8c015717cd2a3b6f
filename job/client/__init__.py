"""One HTTP attempt: a URL in, a 200 answer with its body out; foreign errors become ours here."""

from job.client.client import Client, ClientConfig

__all__ = ["Client", "ClientConfig"]
