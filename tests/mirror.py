"""An origin that knows validators: files by name, which a test may change, and what was asked for."""

from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256

from scripted import Answer, Request, ScriptedServer, Step


class Mirror:
    """A scripted server's files. A plain `bytes` is served with its ETag, and as 304 to who has it; a Step as it is."""

    def __init__(self, files: dict[str, bytes | Step]) -> None:
        self.files = files
        self.server: ScriptedServer

    @property
    def url(self) -> str:
        """The template of every file."""
        return self.server.url("/{cc}.gif")

    def answer(self, request: Request) -> Step:
        """Answer one request as a well-behaved origin does (RFC 9110, 13.1.2)."""
        file = self.files.get(request.target.strip("/").removesuffix(".gif"), Answer(404))
        if not isinstance(file, bytes):
            return file
        etag = f'"{sha256(file).hexdigest()[:16]}"'
        if request.headers.get("if-none-match") == etag:
            return Answer(304, {"ETag": etag})
        return Answer(headers={"ETag": etag, "Content-Type": "image/gif"}, body=file)

    def asked(self, since: int = 0) -> dict[str, int]:
        """Count requests, from the `since`th on: with a condition and without."""
        requests = self.server.requests[since:]
        conditional = sum("if-none-match" in request.headers for request in requests)
        return {"conditional": conditional, "plain": len(requests) - conditional}


@contextmanager
def mirror(files: dict[str, bytes | Step], *others: str) -> Iterator[Mirror]:
    """Serve files, and 404 for `others`, on a port of its own."""
    served = Mirror(files)
    with ScriptedServer({f"/{name}.gif": served.answer for name in (*files, *others)}) as server:
        served.server = server
        yield served
