"""Redaction: masks secrets in settings' texts and in rendered log lines, and escapes what could not be seen in them."""

import json
import re
from collections.abc import Collection

MASK = "***"
_MASK_IN_LINE = MASK.encode()
HEADER = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([\x21-\x7e](?:[\x20-\x7e\t]*[\x21-\x7e])?)")
"""A field line (RFC 9110, 5.1 and 5.5)."""
_URL_START = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_MAX_CHARACTERS = 200
"""A list of codes may have a million characters; a log line must not."""
_USER_IN_LINE = re.compile(rb"://[^/@\s\"\\]+@")
_QUERY_IN_LINE = re.compile(rb"(://[^\s\"\\?]*)\?[^\s\"\\]*")
_SHOWN_MAX = 80
_MIN_SECRET_CHARACTERS = 6
_INVISIBLE = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U0001d159\U000e0100-\U000e01ef]"
)
"""Fillers and selectors, which Unicode counts among letters, marks and symbols, so that Python calls them printable."""
_DELETE = b"\x7f"


def printable(text: str) -> str:
    r"""Return text with each byte that was not UTF-8 as `\xNN`; Python keeps such bytes as surrogates (PEP 383)."""
    return re.sub("[\ud800-\udfff]", lambda found: f"\\x{ord(found[0]) & 0xFF:02x}", text)


def visible(text: str) -> str:
    r"""Return printable text in which what cannot be seen is escaped, as `\n`, `\x1b` or `\u200b`, but for blanks."""
    if _is_visible(text):
        return text
    return "".join(c if _is_visible(c) else c.encode("unicode_escape").decode() for c in printable(text))


def shown(text: str) -> str:
    """Return text of a list as it may be printed: what could not be seen in it is escaped, and it is cut."""
    return visible(text[:_SHOWN_MAX])[:_SHOWN_MAX]


def visible_json(line: bytes) -> bytes:
    r"""Return a line of JSON with characters that cannot be seen as JSON's own `\u200b`: it means the same."""
    if line.isascii() and _DELETE not in line:
        return line
    text = line.decode()
    if _is_visible(text):
        return line
    return "".join(c if _is_visible(c) else _json_escape(c) for c in text).encode()


def _is_visible(text: str) -> bool:
    return text.isprintable() and (text.isascii() or not _INVISIBLE.search(text))


def _json_escape(character: str) -> str:
    """Return the escapes of a character's UTF-16 code units (RFC 8259, 7)."""
    units = character.encode("utf-16-be")
    return "".join(f"\\u{units[start : start + 2].hex()}" for start in range(0, len(units), 2))


def shortened_json(line: bytes, limit: int) -> bytes:
    """Return a line of JSON, which is masked already, in at most so many bytes: its longest texts and lists are cut.

    The line has few fields, so that their names alone are never too long.
    """
    event = json.loads(line)
    length = limit // 2
    while len(line) > limit:
        line = visible_json(json.dumps(_cut(event, length), ensure_ascii=False, separators=(",", ":")).encode())
        length //= 2
    return line


def _cut(value: object, length: int) -> object:
    """Return a value of JSON with texts of at most so many characters, and lists of a sixteenth as many items."""
    if isinstance(value, str) and len(value) > length:
        return f"{value[:length]}..."
    if isinstance(value, list):
        return [_cut(item, length) for item in value[: length // 16]]
    if isinstance(value, dict):
        return {name: _cut(item, length) for name, item in value.items()}
    return value


def plain(text: str) -> str:
    """Return a text that is not secret, cut after 200 characters."""
    shown = printable(text)
    if len(shown) <= _MAX_CHARACTERS:
        return shown
    return f"{shown[:_MAX_CHARACTERS]}..."


def url(text: str) -> str:
    """Return a URL with its user, password, query and fragment masked; mask a text that is not a URL completely.

    Malformed URLs are masked, too. An `@` in the path hides everything before it, because it could also be the `@`
    that follows a password with a slash in it.
    """
    if not _URL_START.match(text):
        return MASK
    without_user = re.sub(r"//.*@", f"//{MASK}@", text, flags=re.DOTALL)
    without_query = re.sub(r"([?#]).*", rf"\1{MASK}", without_user, flags=re.DOTALL)
    return plain(without_query)


def secret_url(text: str) -> str:
    """Return a URL whose path is a secret, too, with all but scheme and host masked."""
    return re.sub(r"(://[^/?#]*).*", rf"\1/{MASK}", url(text), flags=re.DOTALL)


def destination(text: str) -> str:
    """Return a directory as it is, and a bucket's URL with its secrets masked: access keys may precede the name."""
    return url(text) if "://" in text else plain(text)


def path(text: str) -> str:
    """Return a secret file's path, masked if the text seems to be the secret itself.

    A URL starts like a header field; `Bearer ...` is recognised by its blank.
    """
    if HEADER.match(text) or " " in text:
        return MASK
    return plain(text)


class LineRedactor:
    """Masks secrets in rendered log lines. Thread-safe: what it looks for is replaced as a whole.

    It masks each given secret, also in the escaped form that JSON gives it, and user, password and query of every URL.
    Secrets of less than 6 characters and numbers are not masked: the same characters also occur by chance, and in
    JSON's own syntax.
    """

    def __init__(self, secrets: Collection[str]) -> None:
        self._known: tuple[list[bytes], re.Pattern[bytes]] = ([], re.compile(b""))
        """The secrets in every form, and the pattern that finds them."""
        self.add(secrets)

    def add(self, secrets: Collection[str]) -> None:
        """Mask further secrets from now on. Only one thread at a time may call it."""
        forms = set(self._known[0])
        for secret in secrets:
            if len(secret) >= _MIN_SECRET_CHARACTERS and not secret.isdigit():
                forms.add(secret.encode())
                forms.add(json.dumps(secret, ensure_ascii=False)[1:-1].encode())
        # The longest form comes first, or a secret that begins with another secret would keep its end.
        longest_first = sorted(forms, key=len, reverse=True)
        self._known = (longest_first, re.compile(b"|".join(map(re.escape, longest_first))))

    def redact(self, line: bytes) -> bytes:
        """Return a line with its secrets masked."""
        # A pattern is tried only on a line that contains what it cannot match without: a search for bytes takes much
        # less time, and most lines have nothing to mask.
        if b"@" in line:
            line = _USER_IN_LINE.sub(b"://" + _MASK_IN_LINE + b"@", line)
        if b"?" in line:
            line = _QUERY_IN_LINE.sub(rb"\1?" + _MASK_IN_LINE, line)
        longest_first, pattern = self._known
        for form in longest_first:
            if form in line:
                return pattern.sub(_MASK_IN_LINE, line)
        return line
