"""One answer while it arrives: libcurl's callbacks parse its headers and write the body of a 200 up to the cap."""

import io
import re
from collections.abc import Callable
from http import HTTPStatus

from requests import exceptions as rx
from requests.structures import CaseInsensitiveDict

from job.body import Body

_DISCARD_BYTES = 64 * 1024
_REDIRECT = 3
_HIDDEN_CODING = re.compile(rb"(?:[ \t]+transfer-encoding[ \t]*|transfer-encoding[ \t]+):", re.IGNORECASE)
"""libcurl takes blanks around a name for another header's, and the chunks that follow for the file."""


class Transfer:
    """One answer while it arrives. Belongs to the thread that performs the transfer.

    The callbacks return None to go on, 0 to break the transfer off.
    """

    def __init__(self, new_body: Callable[[], Body], max_bytes: int) -> None:
        self._new_body = new_body
        self._max_bytes = max_bytes
        self._lines: list[bytes] = []
        self._received = 0
        self._body: Body | None = None
        self.error: Exception | None = None
        """What a callback would have raised: libcurl prints exceptions of its callbacks, and goes on."""
        self.status = 0
        """0 until the blank line after the final headers came: libcurl takes a connection's end for that line."""
        self.reason = ""
        self.headers: CaseInsensitiveDict[str] = CaseInsensitiveDict()

    def on_header(self, line: bytes) -> int | None:
        """Collect a header line, and parse the block at its end; later blocks are trailers, which overwrite nothing."""
        if self.status:
            return None
        if line.strip():
            self._lines.append(line)
            return None
        lines = self._lines
        self._lines = []
        if not lines:
            return None  # a blank line where the status line belongs: libcurl calls it HTTP/0.9, which is not spoken
        # libcurl has checked that the status line begins with HTTP/ and three digits.
        status_and_phrase = lines[0].decode("latin-1").split(None, 1)[1]
        if status_and_phrase < "2":
            return None  # 100 Continue, 103 Early Hints: the answer is yet to come
        self.status = int(status_and_phrase[:3])
        self.reason = status_and_phrase[3:].strip()
        self.headers = _parse_headers(lines[1:])
        if any(map(_HIDDEN_CODING.match, lines)):
            self.error = rx.ContentDecodingError("the transfer coding stands in a header that is malformed")
            return 0
        return 0 if self._is_redirect_with_body() else None

    def _is_redirect_with_body(self) -> bool:
        """Return whether this is a redirect with a body, which is not needed and may be endless."""
        is_redirect = self.status // 100 == _REDIRECT and self.status != HTTPStatus.NOT_MODIFIED
        return is_redirect and self.headers.get("Content-Length") != "0"

    def on_body(self, data: bytes) -> int | None:
        """Write the body of a 200 up to the cap; read others away, as far as that is cheaper than a new connection."""
        self._received += len(data)
        if self.status != HTTPStatus.OK:
            return None if self._received <= _DISCARD_BYTES else 0
        if self._received > self._max_bytes:  # libcurl before 8.20 does not count what has no declared length
            return 0
        try:
            self._writable_body().write(data)
        except Exception as error:  # noqa: BLE001  (whatever it is, it is raised again once libcurl has returned)
            self.error = error
            return 0
        return None

    def take_body(self) -> Body | io.BytesIO:
        """Return the body, rewound, which is the caller's from now on; an empty one unless this is a 200."""
        if self.status != HTTPStatus.OK:
            return io.BytesIO()
        body = self._writable_body()
        body.rewind()
        self._body = None
        return body

    def discard(self) -> None:
        """Close the body; drop the error too, whose traceback refers to this transfer."""
        self.error = None
        if self._body is not None:
            self._body.close()

    def _writable_body(self) -> Body:
        if self._body is None:
            self._body = self._new_body()
        return self._body


def _parse_headers(lines: list[bytes]) -> CaseInsensitiveDict[str]:
    """Join repeated headers by a comma (RFC 9110, 5.3), as requests does; drop blanks around names (RFC 9112, 5.1)."""
    headers: CaseInsensitiveDict[str] = CaseInsensitiveDict()
    for line in lines:
        name, _, value = line.decode("latin-1").partition(":")
        name = name.strip()
        value = value.strip()
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return headers
