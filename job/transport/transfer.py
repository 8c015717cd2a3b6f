"""One answer while it arrives: libcurl's callbacks parse its headers and write the body of a 200 up to the cap."""

import re
from collections.abc import Callable
from functools import cached_property
from http import HTTPStatus
from io import BytesIO

from requests import Response
from requests import exceptions as rx
from requests.structures import CaseInsensitiveDict
from requests.utils import get_encoding_from_headers

from job.body import Body

_DISCARD_BYTES = 64 * 1024
_OK = HTTPStatus.OK.value
_NOT_MODIFIED = HTTPStatus.NOT_MODIFIED.value
_REDIRECT = 3
_HIDDEN_CODING = re.compile(rb"(?:[ \t]+transfer-encoding[ \t]*|transfer-encoding[ \t]+):", re.IGNORECASE)
"""libcurl takes blanks around a name for another header's, and the chunks that follow for the file."""


class CurlResponse(Response):
    """An answer; `headers` and `encoding`, as requests has them, are made of `fields` when somebody first asks."""

    def __init__(self, status_code: int, reason: str, names: list[str], fields: dict[str, str]) -> None:
        """Take the names of the headers as they were spelled, in order, and the headers by their lower-case names."""
        super().__init__()
        del self.headers  # the empty ones of the base class, so that the properties below are asked
        del self.encoding
        self.status_code = status_code
        self.reason = reason
        self.fields = fields
        """The headers by their names in lower case, in a plain dict."""
        self._names = names

    @cached_property
    def headers(self) -> CaseInsensitiveDict[str]:  # type: ignore[override]  # (it can be set, as the attribute can)
        """Return the headers by their names as they were spelled."""
        return CaseInsensitiveDict((name, self.fields[name.lower()]) for name in self._names)

    @cached_property
    def encoding(self) -> str | None:  # type: ignore[override]  # (it can be set, as the attribute can)
        """Return the encoding of text that the headers name."""
        return get_encoding_from_headers(self.fields)


class Transfer:
    """One answer while it arrives, and after `reset` the next one. Belongs to a handle, so to one request at a time.

    The callbacks return None to go on, 0 to break the transfer off.
    """

    def __init__(self, new_body: Callable[[], Body], max_bytes: int) -> None:
        self._new_body = new_body
        self.max_bytes = max_bytes
        self._body: Body | None = None
        self.reset()

    def reset(self) -> None:
        """Forget an answer, so that another one may arrive."""
        self._lines: list[bytes] = []
        self._received = 0
        self.error: Exception | None = None
        """What a callback would have raised: libcurl prints exceptions of its callbacks, and goes on."""
        self.status = 0
        """0 until the blank line after the final headers came: libcurl takes a connection's end for that line."""
        self.reason = ""
        self.names: list[str] = []
        self.fields: dict[str, str] = {}

    def on_header(self, line: bytes) -> int | None:
        """Collect a header line, and parse the block at its end. Called for each line: it does no more than it must."""
        self._lines.append(line)
        return None if line.strip() else self._end_block()

    def _end_block(self) -> int | None:
        """Parse the block that ends; those after the final one are trailers, which overwrite nothing."""
        lines = self._lines
        self._lines = []
        if self.status or len(lines) == 1:
            return None  # trailers, or no status line: libcurl calls it HTTP/0.9, which is not spoken
        # libcurl has checked that the status line begins with HTTP/ and three digits.
        status_and_phrase = lines[0].decode("latin-1").split(None, 1)[1]
        if status_and_phrase < "2":
            return None  # 100 Continue, 103 Early Hints: the answer is yet to come
        self.status = int(status_and_phrase[:3])
        self.reason = status_and_phrase[3:].strip()
        self._parse_fields(lines[1:-1])
        if "transfer-encoding" in self.fields and any(map(_HIDDEN_CODING.match, lines)):
            self.error = rx.ContentDecodingError("the transfer coding stands in a header that is malformed")
            return 0
        return 0 if self._is_redirect_with_body() else None

    def _is_redirect_with_body(self) -> bool:
        """Return whether this is a redirect with a body, which is not needed and may be endless."""
        is_redirect = self.status // 100 == _REDIRECT and self.status != _NOT_MODIFIED
        return is_redirect and self.fields.get("content-length") != "0"

    def _parse_fields(self, lines: list[bytes]) -> None:
        """Read headers: repeated ones are joined (RFC 9110, 5.3), blanks around names are dropped (RFC 9112, 5.1)."""
        fields = self.fields
        for line in lines:
            name, _, value = line.decode("latin-1").partition(":")
            name = name.strip()
            key = name.lower()
            value = value.strip()
            self.names.append(name)
            fields[key] = f"{fields[key]}, {value}" if key in fields else value

    def on_body(self, data: bytes) -> int | None:
        """Write the body of a 200 up to the cap; read others away, as far as that is cheaper than a new connection."""
        self._received += len(data)
        if self.status != _OK:
            return None if self._received <= _DISCARD_BYTES else 0
        if self._received > self.max_bytes:  # libcurl before 8.20 does not count what has no declared length
            return 0
        try:
            self._writable_body().write(data)
        except Exception as error:  # noqa: BLE001  (whatever it is, it is raised again once libcurl has returned)
            self.error = error
            return 0
        return None

    def take_response(self) -> CurlResponse:
        """Return the answer. `raw` is the body of a 200, made even if it is empty, and the caller's from now on."""
        response = CurlResponse(self.status, self.reason, self.names, self.fields)
        if self.status != _OK:
            response.raw = BytesIO()
            return response
        body = self._writable_body()
        body.rewind()
        self._body = None
        response.raw = body
        return response

    def discard(self) -> None:
        """Close the body; drop the error too, whose traceback refers to this transfer."""
        self.error = None
        if self._body is not None:
            body = self._body
            self._body = None
            body.close()

    def _writable_body(self) -> Body:
        if self._body is None:
            self._body = self._new_body()
        return self._body
