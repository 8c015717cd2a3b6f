"""An origin that answers conditional requests: files by name, which a test may change, and counted requests."""

from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256

from scripted import Answer, Request, ScriptedServer, Step


class Mirror:
    """A scripted server's files. `bytes` are served with an ETag, or as 304 if it matches; a Step is done as it is."""

    def __init__(self, files: dict[str, bytes | Step]) -> None:
        self.files = files
        self.server: ScriptedServer

    @property
    def url(self) -> str:
        """The URL template of every file."""
        return self.server.url("/{cc}.gif")

    def answer(self, request: Request) -> Step:
        """Return the answer of a well-behaved origin (RFC 9110, 13.1.2)."""
        file = self.files.get(request.target.strip("/").removesuffix(".gif"), Answer(404))
        if not isinstance(file, bytes):
            return file
        etag = f'"{sha256(file).hexdigest()[:16]}"'
        if request.headers.get("if-none-match") == etag:
            return Answer(304, {"ETag": etag})
        return Answer(headers={"ETag": etag, "Content-Type": "image/gif"}, body=file)

    def asked(self, since: int = 0) -> dict[str, int]:
        """Return how many requests, from number `since` on, were conditional, and how many were not."""
        requests = self.server.requests[since:]
        conditional = sum("if-none-match" in request.headers for request in requests)
        return {"conditional": conditional, "plain": len(requests) - conditional}


@contextmanager
def mirror(files: dict[str, bytes | Step], *others: str) -> Iterator[Mirror]:
    """Yield an origin of files on a port of its own, which answers 404 for `others`."""
    served = Mirror(files)
    with ScriptedServer({f"/{name}.gif": served.answer for name in (*files, *others)}) as server:
        served.server = server
        yield served
