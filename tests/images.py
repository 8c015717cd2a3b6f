"""Small images of each type, as an origin serves them."""

GIF = (
    b"GIF89a\x01\x00\x01\x00\x80\x00\x00\xff\xff\xff\x00\x00\x00,\x00\x00\x00\x00\x01\x00\x01\x00\x00\x02\x02D\x01\x00;"
)
PNG = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x00\x00\x00\x01\x00\x00\x00\x01\x08\x06\x00\x00\x00\x1f\x15\xc4\x89"
JPEG = b"\xff\xd8\xff\xe0\x00\x10JFIF\x00\x01"
WEBP = b"RIFF\x1a\x00\x00\x00WEBPVP8L\x0d\x00\x00\x00"
HTML = b"<!DOCTYPE html><html><body>Please log in.</body></html>"


def numbered_gif(number: int, size: int = 0) -> bytes:
    """Return a GIF that is unique to a number, of at least `size` bytes (a comment extension carries both)."""
    return GIF[:-1] + b"!\xfe\x08%08d\x00;" % number + b"\x00" * max(size - len(GIF) - 12, 0)
