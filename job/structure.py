"""Structure of files that are no simple pictures: is a PDF, archive, AVIF, icon, XML or JSON document whole."""

import json
import os
import re
import zlib
from collections.abc import Iterator
from typing import BinaryIO
from xml.parsers import expat

_CHUNK_BYTES = 64 * 1024
_SVG_ROOT = "http://www.w3.org/2000/svg svg"
_ENTITY = re.compile("&([^#;][^;]*);")
_PREDEFINED_ENTITIES = dict.fromkeys(("amp", "lt", "gt", "quot", "apos"), 1)
_EXPANSION_MAX = 8 * 1024**2
"""How many characters the entities of an XML document may expand to."""
_DEPTH_MAX = 500
"""How deep elements, or arrays and objects, may lie in each other: a parser remembers each that is open, and Python's
own for JSON calls itself for each, within a limit of 1000 calls."""

_PARSED_JSON_BYTES = 256 * 1024
"""Up to this size JSON is parsed, which may take 30 times the memory; of more, strings and brackets are followed."""
_JSON_ESCAPE = re.compile(rb"\\.", re.DOTALL)
_JSON_INNER = b'":,-+.0123456789eEtrufalsn'
_JSON_BRACKETS = b"[]{}"
"""With the blanks, all that a document has outside of its strings."""
_JSON_BLANKS = b" \t\r\n"
_JSON_PAIRS = {ord("]"): ord("["), ord("}"): ord("{")}
_JSON_OPENING = bytes(_JSON_PAIRS.values())
_BOM = b"\xef\xbb\xbf"

_PDF_TAIL_BYTES = 1024
_ZIP_END = b"PK\x05\x06"
_ZIP_END_BYTES = 22
_ZIP_COMMENT_MAX = 65535
_ZIP_ENTRY = b"PK\x01\x02"
_ZIP64_LOCATOR = b"PK\x06\x07"
_ZIP64_LOCATOR_BYTES = 20
_IN_ZIP64 = 0xFFFFFFFF
_GZIP = b"\x1f\x8b"
_GZIP_WINDOW = 31
"""zlib's number for data with the header and trailer of gzip."""
_INFLATED_MAX = 64 * 1024**2
"""Gzip that unpacks to more than this is followed no further: it would take longer than its download."""
_ICO_HEADER_BYTES = 6
_ICO_ENTRY_BYTES = 16
_BOX_HEADER_BYTES = 8
_HTML = re.compile(
    rb"(?:\xef\xbb\xbf)?+(?>\s+|<!--.*?-->|<\?xml.*?\?>)*+"
    rb"(?:<!--|<!doctype html|<(?:html|head|script|iframe|h1|div|font|table|a|style|title|b|body|br|p)[\s/>])",
    re.DOTALL | re.IGNORECASE,
)
"""Nothing that was matched is tried in another way: with many comments there would be too many ways."""


def is_html(head: bytes) -> bool:
    """Return whether a file begins like an HTML page (WHATWG, MIME Sniffing, 7.1), also as UTF-16 or after `<?xml`."""
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        head = head.decode("utf-16", "replace").encode()
    return _HTML.match(head) is not None


def is_whole_pdf(stream: BinaryIO) -> bool:
    """Return whether `%%EOF` stands in the last 1024 bytes, as Acrobat demands (ISO 32000-1, 7.5.5; 1.7, H.3, 18)."""
    stream.seek(-min(_size_of(stream), _PDF_TAIL_BYTES), os.SEEK_END)
    return b"%%EOF" in stream.read()


def is_whole_zip(stream: BinaryIO) -> bool:
    """Return whether an archive has its end record, and the central directory before it (APPNOTE, 4.3.12 and 4.3.16).

    The record is the last in the file, but for a comment. In a ZIP64 its numbers may be elsewhere; then only the
    locator of that place is looked for (4.3.15).
    """
    size = _size_of(stream)
    stream.seek(max(0, size - _ZIP_END_BYTES - _ZIP_COMMENT_MAX))
    start = stream.tell()
    tail = stream.read()
    found = tail.rfind(_ZIP_END)
    end = tail[found : found + _ZIP_END_BYTES]
    if found < 0 or len(end) < _ZIP_END_BYTES:
        return False
    directory_bytes = int.from_bytes(end[12:16], "little")
    directory_start = int.from_bytes(end[16:20], "little")
    comment_bytes = int.from_bytes(end[20:], "little")
    if found + _ZIP_END_BYTES + comment_bytes > len(tail):
        return False
    if _IN_ZIP64 in {directory_bytes, directory_start}:
        return tail[max(0, found - _ZIP64_LOCATOR_BYTES) : found].startswith(_ZIP64_LOCATOR)
    stream.seek(max(0, start + found - directory_bytes))
    return stream.read(len(_ZIP_ENTRY)) == (_ZIP_ENTRY if directory_bytes else _ZIP_END)


def is_whole_gzip(stream: BinaryIO) -> bool:
    """Return whether each member of a gzip has its trailer, with the right checksum (RFC 1952, 2.3.1).

    What follows the last member, such as zeros, does not matter, as to gzip(1). One that unpacks to more than 64 MiB is
    followed only so far.
    """
    member = zlib.decompressobj(_GZIP_WINDOW)
    inflated = 0
    is_between = False
    for chunk in _chunks(stream):
        data = chunk
        while data:
            if is_between and not data.startswith(_GZIP):
                return True
            try:
                inflated += len(member.decompress(data, _CHUNK_BYTES))
            except zlib.error:
                return False
            if inflated > _INFLATED_MAX:
                return True
            data = member.unconsumed_tail
            is_between = member.eof
            if is_between:
                data = member.unused_data
                member = zlib.decompressobj(_GZIP_WINDOW)
    return is_between


def is_whole_icon(stream: BinaryIO) -> bool:
    """Return whether an icon has each picture that its directory lists (Microsoft, "Icons": ICONDIR, ICONDIRENTRY)."""
    size = _size_of(stream)
    stream.seek(0)
    number = int.from_bytes(stream.read(_ICO_HEADER_BYTES)[4:], "little")
    entries = [stream.read(_ICO_ENTRY_BYTES) for _ in range(number)]
    # An entry that was cut says that its picture is at 0.
    ends = [int.from_bytes(entry[8:12], "little") + int.from_bytes(entry[12:], "little") for entry in entries]
    first = _ICO_HEADER_BYTES + number * _ICO_ENTRY_BYTES
    return bool(ends) and all(first < end <= size for end in ends)


def is_whole_avif(stream: BinaryIO) -> bool:
    """Return whether the boxes of a file are whole, up to its pictures' data (ISO/IEC 14496-12, 4.2; AVIF 1.1).

    `meta` (of a picture) or `moov` (of a sequence) says where the data is, `mdat` holds it; what follows both does not
    matter. A length of 0 means up to the end of the file, one of 1 that a longer number follows.
    """
    size = _size_of(stream)
    position = 0
    kinds: set[bytes] = set()
    while not (b"mdat" in kinds and kinds & {b"meta", b"moov"}):
        stream.seek(position)
        header = stream.read(_BOX_HEADER_BYTES)
        length = int.from_bytes(header[:4])
        least = _BOX_HEADER_BYTES
        if length == 0:
            length = size - position
        elif length == 1:
            length = int.from_bytes(stream.read(8))
            least += 8
        if length < least or position + length > size:
            return False
        kinds.add(header[4:])
        position += length
    return True


def is_svg(stream: BinaryIO) -> bool:
    """Return whether a file is a complete XML document with an svg root element in SVG's namespace (SVG 2, 5.1.1).

    An HTML page that begins like SVG is not well-formed, or has another root.
    """
    return _root_of(stream) == _SVG_ROOT


def is_xml(stream: BinaryIO) -> bool:
    """Return whether a file is a complete XML document (XML 1.0, 2.1), and no page of XHTML."""
    root = _root_of(stream)
    return root is not None and root.rpartition(" ")[2].lower() != "html"


def _root_of(stream: BinaryIO) -> str | None:
    """Return namespace and name of the root element of a well-formed XML document; None for anything else.

    Entities that the document declares itself are expanded, as Adobe's programs write them, up to a bound: with them a
    small document can expand to a large one. External ones are not allowed.
    """
    elements: list[str] = []
    depth = 0

    def open_element(name: str, _attributes: object) -> None:
        nonlocal depth
        depth += 1
        if depth > _DEPTH_MAX:
            raise ValueError("elements that are nested too deeply")
        if not elements:
            elements.append(name)

    def close_element(_name: str) -> None:
        nonlocal depth
        depth -= 1

    expansion = _Expansion()
    parser = expat.ParserCreate(namespace_separator=" ")
    parser.StartElementHandler = open_element
    parser.EndElementHandler = close_element
    parser.EntityDeclHandler = expansion.declare
    try:
        for chunk in _chunks(stream):
            expansion.count(chunk)
            parser.Parse(chunk, False)  # noqa: FBT003  (expat's own parameter, which has no name)
        parser.Parse(b"", True)  # noqa: FBT003
    except (expat.ExpatError, ValueError, LookupError):  # LookupError: an encoding that Python does not know
        return None
    return elements[0]


class _Expansion:
    """Bounds what the entities of a document expand to: the number of references times the longest entity."""

    def __init__(self) -> None:
        self._sizes: dict[str, int] = dict(_PREDEFINED_ENTITIES)
        self._references = 0
        self._longest = 0

    def count(self, chunk: bytes) -> None:
        """Count the references of a chunk before it is parsed; raise ValueError beyond the bound."""
        self._references += chunk.count(b"&")
        self._check()

    def declare(self, name: str, _is_parameter: object, value: str | None, *_: object) -> None:
        """Take an entity's declaration, as expat reports it; raise ValueError for an external one.

        A reference to an entity that is declared later, or is the entity itself, counts as one beyond the bound.
        """
        if value is None:
            raise ValueError("an external entity")
        size = len(value) + sum(self._sizes.get(entity, _EXPANSION_MAX) for entity in _ENTITY.findall(value))
        self._sizes[name] = max(size, self._sizes.get(name, 0))  # the first of two declarations counts, not the last
        self._longest = max(self._longest, size)
        self._check()

    def _check(self) -> None:
        if self._references * self._longest > _EXPANSION_MAX:
            raise ValueError("entities that expand too far")


def is_json(stream: BinaryIO) -> bool:
    """Return whether a file is a whole JSON object or array in UTF-8 (RFC 8259).

    Each bracket outside of strings must have its partner, and nothing may be there that could not be JSON. A small
    document is parsed, too. A number or a text alone is JSON, but no file that anybody asks for.
    """
    pairs = _JsonPairs()
    try:
        for chunk in _chunks(stream):
            pairs.follow(chunk)
        if not pairs.is_whole:
            return False
        if _size_of(stream) <= _PARSED_JSON_BYTES:
            stream.seek(0)
            # Numbers stay texts: long ones take Python quadratic time, and it refuses them. NaN and Infinity, which it
            # takes for numbers, have letters that were refused above.
            json.loads(stream.read().decode("utf-8-sig"), parse_int=str, parse_float=str)
    except ValueError:
        return False
    return True


class _JsonPairs:
    """Follows the strings and brackets of a JSON document, which comes in chunks, without holding more than one."""

    def __init__(self) -> None:
        self._opened = bytearray()
        """The brackets that are open."""
        self._is_begun = False
        self._is_in_string = False
        self._final = b""
        """The last byte outside of strings that was no blank."""
        self._last = b""
        """A backslash at the end of the chunk before, which escapes the first byte of the next one."""

    @property
    def is_whole(self) -> bool:
        """Return whether there was a document, and it has ended."""
        return self._final in {b"]", b"}"} and not self._opened and not self._is_in_string

    def follow(self, chunk: bytes) -> None:
        """Follow the next chunk; raise ValueError for what no JSON has."""
        # Without escapes each quotation mark begins or ends a string, so that every second part lies outside of them.
        text = _JSON_ESCAPE.sub(b"", self._last + chunk.removeprefix(_BOM))
        self._last = b"\\" if text.endswith(b"\\") else b""
        parts = text.removesuffix(self._last).split(b'"')
        outside = b'"'.join(parts[1::2] if self._is_in_string else parts[::2])
        if len(parts) % 2 == 0:
            self._is_in_string = not self._is_in_string
        marks = outside.translate(None, _JSON_BLANKS)
        if marks.translate(None, _JSON_INNER + _JSON_BRACKETS):
            raise ValueError("something between the strings that is not JSON")
        if marks and not self._is_begun and marks[0] not in _JSON_OPENING:
            raise ValueError("something before the document")
        for bracket in marks.translate(None, _JSON_INNER):
            self._follow_bracket(bracket)
        self._final = marks[-1:] or self._final

    def _follow_bracket(self, bracket: int) -> None:
        if self._is_begun and not self._opened:
            raise ValueError("something after the document")
        if bracket in _JSON_OPENING:
            if len(self._opened) == _DEPTH_MAX:
                raise ValueError("brackets that are nested too deeply")
            self._opened.append(bracket)
            self._is_begun = True
        elif self._opened.pop() != _JSON_PAIRS[bracket]:
            raise ValueError("a bracket that does not match")


def _chunks(stream: BinaryIO) -> Iterator[bytes]:
    while chunk := stream.read(_CHUNK_BYTES):
        yield chunk


def _size_of(stream: BinaryIO) -> int:
    return stream.seek(0, os.SEEK_END)
