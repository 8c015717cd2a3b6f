"""One answer while it arrives: libcurl's callbacks parse its headers and write the body of a 200 up to the cap."""

import re
import zlib
from collections.abc import Callable
from encodings.aliases import aliases
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
_SHOWN_MAX = 40
_HIDDEN_CODING = re.compile(rb"(?:[ \t]+transfer-encoding[ \t]*|transfer-encoding[ \t]+):", re.IGNORECASE)
"""libcurl takes blanks around a name for another header's, and the chunks that follow for the file."""
_PIECE_BYTES = 64 * 1024
"""Decoded bytes that are in memory at a time, however much a body expands to."""
_GZIP_MAGIC = b"\x1f\x8b"
_GZIP = 31
_ZLIB = 15
_RAW_DEFLATE = -15
"""Window bits by which zlib knows what to decode: gzip (RFC 1952), zlib (RFC 1950), deflate alone (RFC 1951)."""
_SEPARATORS = re.compile("[^a-z0-9]+")
_NO_CODINGS = {"", "identity", "aws-chunked", "none", "binary", "8bit"}
"""What stands in Content-Encoding although nothing is encoded; aws-chunked is a trace of an upload to S3."""
_CHARACTER_SETS = {
    name
    for pair in aliases.items()
    if not pair[1].endswith(("_codec", "rot_13"))  # base64, bz2 and zlib, which Python lists among them
    for name in pair
}
_MOST_CODINGS = 5
"""Content codings one over the other that are taken off (as libcurl does)."""


class TooLargeError(rx.RequestException):
    """The body exceeds `max_bytes`, by its declared length, as it came, or decoded (requests has no class for it)."""


class DamagedError(rx.ContentDecodingError):
    """The body began in its content coding, and then breaks its rules or does not match its checksum."""


class CurlResponse(Response):
    """An answer; `headers` and `encoding`, as requests has them, are made of `fields` when somebody first asks."""

    encoded_bytes: int | None = None
    """How many bytes came, where the body was decoded; otherwise None."""
    kept_coding: str | None = None
    """The content coding that was left on the body; otherwise None."""

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


def content_codings(value: str) -> list[str]:
    """Return the content codings that a Content-Encoding field names, as they were applied: gzip and deflate.

    What says nothing about the bytes is left out, the names of character sets included. Raises ContentDecodingError
    for any other coding.
    """
    names = [name.strip().lower() for name in value.split(",")]
    codings = ["gzip" if name == "x-gzip" else name for name in names if not _says_nothing(name)]
    for coding in codings:
        if coding not in {"gzip", "deflate"}:
            raise rx.ContentDecodingError(f"the body came encoded as {coding[:_SHOWN_MAX]!r}, unasked")
    if len(codings) > _MOST_CODINGS:
        raise rx.ContentDecodingError(f"the body came encoded {len(codings)} times")
    return codings


def _says_nothing(name: str) -> bool:
    return name in _NO_CODINGS or _SEPARATORS.sub("_", name) in _CHARACTER_SETS


class Decoder:
    """Takes a content coding off a body as it arrives. Belongs to a transfer.

    The decoded bytes go to `write`, in pieces, `max_bytes` at most: however much a body expands to, that much is
    decoded, and one piece is in memory.

    | state       | bytes that come                                                                              |
    |-------------|----------------------------------------------------------------------------------------------|
    | at a start  | two tell what is decoded; after a member of gzip more may follow, or zeros, which are padding |
    | in a member | decoded; its end leads to the next start                                                      |
    """

    def __init__(self, coding: str, write: Callable[[bytes], object], max_bytes: int) -> None:
        self._coding = coding
        self._write = write
        self._bytes_left = max_bytes
        self._head = b""
        """At a start: the bytes that came, fewer than two."""
        self._inflater = zlib.decompressobj()
        self._is_at_start = True
        self._has_ended = False
        """A whole stream, or member, has come."""
        self._is_certain = False
        """The body is in the coding, by its first bytes or because some of it could be decoded."""

    def write(self, data: bytes) -> None:
        """Decode bytes; raise ContentDecodingError, DamagedError or TooLargeError, or what `write` raises."""
        while data:
            data = self._start(data) if self._is_at_start else self._inflate(data)

    def finish(self) -> None:
        """Raise ChunkedEncodingError if the body ends before its coding does, trailer included."""
        if self._head or not self._is_at_start:
            raise rx.ChunkedEncodingError(f"the body ends before its {self._coding} does")

    def _start(self, data: bytes) -> bytes:
        """Begin a member, and return what is to be decoded; nothing as long as two bytes have not come."""
        head = self._head + data
        if self._has_ended and self._coding == "gzip":
            head = head.lstrip(b"\0")
        if len(head) < len(_GZIP_MAGIC):
            self._head = head
            return b""
        self._head = b""
        self._inflater = zlib.decompressobj(self._window_bits(head))
        self._is_at_start = False
        return head

    def _window_bits(self, head: bytes) -> int:
        """Return what the first bytes show; deflate is zlib's by the standard, and alone from some servers."""
        is_gzip = self._coding == "gzip"
        if self._has_ended and not (is_gzip and head.startswith(_GZIP_MAGIC)):
            raise DamagedError(f"more bytes follow the end of the {self._coding}")
        if is_gzip and not head.startswith(_GZIP_MAGIC):
            raise rx.ContentDecodingError("the body came as gzip, but is something else")
        is_zlib = head[0] & 0x0F == zlib.DEFLATED and int.from_bytes(head[:2], "big") % 31 == 0  # RFC 1950, 2.2
        self._is_certain = is_gzip or is_zlib
        if is_gzip:
            return _GZIP
        return _ZLIB if is_zlib else _RAW_DEFLATE

    def _inflate(self, data: bytes) -> bytes:
        """Decode a piece, and return what is left of the data."""
        inflater = self._inflater
        try:
            piece = inflater.decompress(data, _PIECE_BYTES)
        except zlib.error as error:
            kind = DamagedError if self._is_certain else rx.ContentDecodingError
            raise kind(f"the body is no whole {self._coding}: {error}") from error
        self._bytes_left -= len(piece)
        if self._bytes_left < 0:
            raise TooLargeError("the decoded body exceeds the maximum")
        if piece:
            self._is_certain = True
            self._write(piece)
        if inflater.eof:
            self._is_at_start = True
            self._has_ended = True
            return inflater.unused_data
        if len(piece) == _PIECE_BYTES and not inflater.unconsumed_tail:
            return self._inflate(b"")  # zlib has taken all of the data, and has not given out all of it
        return inflater.unconsumed_tail


class Transfer:
    """One answer while it arrives, and after `reset` the next one. Belongs to a handle, so to one request at a time.

    The callbacks return None to go on, 0 to break the transfer off.
    """

    def __init__(self, new_body: Callable[[], Body], max_bytes: int, *, keeps_gzip: bool = False) -> None:
        """Take what makes a body, its cap, and whether a body that comes as gzip is the file itself."""
        self._new_body = new_body
        self.keeps_gzip = keeps_gzip
        self.max_bytes = max_bytes
        self._body: Body | None = None
        self.reset()

    def reset(self) -> None:
        """Forget an answer, so that another one may arrive."""
        self._lines: list[bytes] = []
        self._received = 0
        self._decoders: tuple[Decoder, ...] = ()
        """What takes the content codings off, in this order."""
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
        if "content-encoding" in self.fields and self.status == _OK:
            return self._expect_codings(self.fields["content-encoding"])
        return 0 if self._is_redirect_with_body() else None

    def _expect_codings(self, value: str) -> int | None:
        """Make the decoders of a body; the coding that was applied last is taken off first."""
        try:
            codings = content_codings(value)
        except rx.ContentDecodingError as error:
            self.error = error
            return 0
        if self._keeps(codings):
            return None
        write: Callable[[bytes], object] = self._write_body
        for coding in codings:
            decoder = Decoder(coding, write, self.max_bytes)
            write = decoder.write
            self._decoders = (decoder, *self._decoders)
        return None

    def _keeps(self, codings: list[str]) -> bool:
        """Return whether the codings are left on the body: it is the file, and was gzip before it was sent."""
        return self.keeps_gzip and codings == ["gzip"]

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
            if self._decoders:
                self._decoders[0].write(data)
            else:
                self._writable_body().write(data)
        except Exception as error:  # noqa: BLE001  (whatever it is, it is raised again once libcurl has returned)
            self.error = error
            return 0
        return None

    def take_response(self) -> CurlResponse:
        """Return the answer. `raw` is the body of a 200, made even if it is empty, and the caller's from now on.

        Raises ChunkedEncodingError if a content coding did not end.
        """
        response = CurlResponse(self.status, self.reason, self.names, self.fields)
        if self.status != _OK:
            response.raw = BytesIO()
            return response
        if "content-encoding" in self.fields:
            self._finish_codings(response)
        body = self._writable_body()
        body.rewind()
        self._body = None
        response.raw = body
        return response

    def _finish_codings(self, response: CurlResponse) -> None:
        for decoder in self._decoders:
            decoder.finish()
        if self._decoders:
            response.encoded_bytes = self._received
            self._decoders = ()
        elif self._keeps(content_codings(self.fields["content-encoding"])):
            response.kept_coding = "gzip"

    def discard(self) -> None:
        """Close the body; drop the error too, whose traceback refers to this transfer."""
        self.error = None
        self._decoders = ()
        if self._body is not None:
            body = self._body
            self._body = None
            body.close()

    def _write_body(self, data: bytes) -> None:
        self._writable_body().write(data)

    def _writable_body(self) -> Body:
        if self._body is None:
            self._body = self._new_body()
        return self._body
