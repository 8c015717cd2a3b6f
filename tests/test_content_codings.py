"""Content codings: what is decoded, ignored and refused, and that nothing but the whole file comes out."""

import gzip
import zlib
from collections.abc import Callable
from contextlib import suppress
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import settings as limits
from hypothesis import strategies as st
from requests import exceptions as rx
from rows import row

from job.transport import DamagedError, TooLargeError
from job.transport.transfer import Decoder, content_codings

PIECE = 64 * 1024
MAX_BYTES = 3 * PIECE


def zipped(data: bytes) -> bytes:
    return gzip.compress(data, mtime=0)


def zlib_alone(data: bytes) -> bytes:
    return zlib.compress(data, wbits=-15)


def members(data: bytes) -> bytes:
    half = len(data) // 2
    return zipped(data[:half]) + zipped(data[half:])


ENCODERS: list[tuple[str, Callable[[bytes], bytes]]] = [
    ("gzip", zipped),
    ("gzip", members),
    ("deflate", zlib.compress),
    ("deflate", zlib_alone),
]
encoders = st.sampled_from(ENCODERS)
bodies = st.binary(min_size=1, max_size=300) | st.builds(
    lambda part, size: (part * size)[:size],
    st.binary(min_size=1, max_size=9),
    st.sampled_from([PIECE - 259, PIECE - 1, PIECE, PIECE + 1, 2 * PIECE, 2 * PIECE + 257, MAX_BYTES]),
)
cuts = st.lists(st.integers(0, 400), max_size=4)


def decoded(coding: str, encoded: bytes, at: list[int], max_bytes: int = MAX_BYTES) -> bytes:
    """Return what a body in pieces is decoded to."""
    out = bytearray()
    decoder = Decoder(coding, out.extend, max_bytes)
    places = [0, *sorted(at), len(encoded)]
    for start, end in pairwise(places):
        decoder.write(encoded[start:end])
    decoder.finish()
    return bytes(out)


@row(63)
@limits(deadline=None)
@given(encoders, bodies, cuts)
def test_a_body_is_decoded_however_it_arrives(
    encoder: tuple[str, Callable[[bytes], bytes]], body: bytes, at: list[int]
) -> None:
    """Whatever the pieces are in which a body arrives, the file comes out."""
    coding, encode = encoder
    encoded = encode(body)
    assert decoded(coding, encoded, at) == body
    assert decoded(coding, encoded, list(range(min(len(encoded), 400)))) == body


@row(63)
def test_what_zlib_holds_back_at_the_end_of_a_body_is_decoded() -> None:
    """Deflate alone has no trailer: zlib may have taken it all, and holds back what a piece has no room for."""
    for size in range(PIECE, PIECE + 600):
        assert decoded("deflate", zlib_alone(bytes(size)), []) == bytes(size)


@row(32)
@limits(deadline=None)
@given(encoders.filter(lambda encoder: encoder[1] is not members), bodies, st.data())
def test_a_body_that_is_cut_is_refused(
    encoder: tuple[str, Callable[[bytes], bytes]], body: bytes, data: st.DataObject
) -> None:
    """Wherever a body is cut after its first byte, it is truncated."""
    coding, encode = encoder
    encoded = encode(body)
    with pytest.raises(rx.ChunkedEncodingError, match=f"^the body ends before its {coding} does$"):
        decoded(coding, encoded[: data.draw(st.integers(1, len(encoded) - 1))], [])


@row(63)
@limits(deadline=None)
@given(bodies, st.data(), st.integers(1, 255))
def test_a_damaged_body_is_never_another_file(body: bytes, data: st.DataObject, change: int) -> None:
    """A gzip of which a byte was changed is refused, or is the same file: nothing but its header's facts changed."""
    encoded = bytearray(zipped(body))
    encoded[data.draw(st.integers(0, len(encoded) - 1))] ^= change
    found = body
    with suppress(rx.ContentDecodingError, rx.ChunkedEncodingError, TooLargeError):
        found = decoded("gzip", bytes(encoded), [])
    assert found == body


@row(31)
@limits(deadline=None)
@given(encoders, st.integers(1, 4 * PIECE), st.integers(1, 4 * PIECE))
def test_the_cap_holds_for_decoded_bytes(
    encoder: tuple[str, Callable[[bytes], bytes]], size: int, max_bytes: int
) -> None:
    """A body that expands to more than the cap is too large, and one that just fits is not."""
    coding, encode = encoder
    encoded = encode(bytes(size))
    if size <= max_bytes:
        assert decoded(coding, encoded, [], max_bytes) == bytes(size)
    else:
        with pytest.raises(TooLargeError):
            decoded(coding, encoded, [], max_bytes)


@row(63)
@pytest.mark.parametrize(
    ("coding", "body", "expected"),
    [
        ("gzip", b"GIF89a", rx.ContentDecodingError),
        ("deflate", b"GIF89a" * 9, rx.ContentDecodingError),
        ("deflate", zipped(b"flag"), rx.ContentDecodingError),
        ("deflate", zlib.compress(b"flag") + b"xx", DamagedError),
        ("deflate", zlib.compress(b"flag")[:-4] + bytes(4), DamagedError),
        ("gzip", zipped(b"flag") + b"xx", DamagedError),
        ("gzip", zipped(b"flag") + b"\x1f\x8b\x08xxxxxxxx", DamagedError),
        ("gzip", zipped(b"flag") + b"\x1f", rx.ChunkedEncodingError),
    ],
)
def test_what_is_no_whole_body_is_refused(coding: str, body: bytes, expected: type[Exception]) -> None:
    """A body that is not in its coding is told from a damaged one and from one that is cut."""
    with pytest.raises(rx.RequestException) as caught:
        decoded(coding, body, [])
    assert type(caught.value) is expected


@row(63)
@pytest.mark.parametrize(
    ("value", "codings"),
    [
        ("gzip", ["gzip"]),
        (" GZip ,", ["gzip"]),
        ("x-gzip", ["gzip"]),
        ("deflate, gzip", ["deflate", "gzip"]),
        ("aws-chunked,gzip", ["gzip"]),
        *((value, []) for value in ("", "identity", "aws-chunked", "none", "binary", "8bit", "None, Identity")),
        *((value, []) for value in ("utf-8", "UTF8", "iso-8859-1", "windows-1252", "us-ascii", "Shift_JIS", "latin1")),
    ],
)
def test_content_encoding_names_codings(value: str, codings: list[str]) -> None:
    """Codings are in the order in which they were applied; what names none is left out."""
    assert content_codings(value) == codings


@row(63)
@pytest.mark.parametrize("name", ["br", "zstd", "compress", "x-compress", "*", "base64", "bz2", "rot13", "zip", "hex"])
def test_another_coding_is_refused_by_name(name: str) -> None:
    """A coding that is not decoded is named."""
    with pytest.raises(
        rx.ContentDecodingError, match=f"^the body came encoded as '{name.replace('*', '.')}', unasked$"
    ):
        content_codings(f"gzip, {name}")


@example("gzip," * 6)
@given(st.text())
def test_no_value_of_content_encoding_is_a_bug(value: str) -> None:
    """Any value names up to five codings, or is refused."""
    codings: list[str] = []
    with suppress(rx.ContentDecodingError):
        codings = content_codings(value)
    assert set(codings) <= {"gzip", "deflate"}
    assert len(codings) <= 5


def test_a_long_header_field_does_not_fill_the_log() -> None:
    """The message shows at most 40 characters of a coding."""
    with pytest.raises(rx.ContentDecodingError) as caught:
        content_codings("x" * 100_000)
    assert len(str(caught.value)) < 100
