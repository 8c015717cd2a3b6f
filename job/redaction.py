"""Redaction of secrets: masks passwords, tokens and URL queries in settings' texts and in rendered log lines."""

import json
import re
from collections.abc import Callable, Collection

MASK = "***"
HEADER = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([\x21-\x7e](?:[\x20-\x7e\t]*[\x21-\x7e])?)")
"""A field line (RFC 9110, 5.1 and 5.5)."""
_URL_START = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_MAX_CHARACTERS = 200
"""A list of codes may have a million characters; a log line must not."""
_USER_IN_LINE = re.compile(rb"://[^/@\s\"\\]+@")
_QUERY_IN_LINE = re.compile(rb"(://[^\s\"\\?]*)\?[^\s\"\\]*")
_MIN_SECRET_CHARACTERS = 6


def printable(text: str) -> str:
    r"""Return text with each byte that was not UTF-8 as `\xNN`; Python keeps such bytes as surrogates (PEP 383)."""
    return re.sub("[\ud800-\udfff]", lambda found: f"\\x{ord(found[0]) & 0xFF:02x}", text)


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


def line_redactor(secrets: Collection[str]) -> Callable[[bytes], bytes]:
    """Return a function that masks secrets in a rendered log line. Thread-safe: it only holds compiled patterns.

    It masks each given secret, also in the escaped form that JSON gives it, and user, password and query of every URL.
    Secrets of less than 6 characters and numbers are not masked: the same characters also occur by chance, and in
    JSON's own syntax.
    """
    forms: set[bytes] = set()
    for secret in secrets:
        if len(secret) >= _MIN_SECRET_CHARACTERS and not secret.isdigit():
            forms.add(secret.encode())
            forms.add(json.dumps(secret, ensure_ascii=False)[1:-1].encode())
    # The longest form comes first, or a secret that begins with another secret would keep its end.
    longest_first = sorted(forms, key=len, reverse=True)
    known_secret = re.compile(b"|".join(map(re.escape, longest_first)))
    replacement = MASK.encode()

    def redact(line: bytes) -> bytes:
        # A pattern is tried only on a line that contains what it cannot match without: a search for bytes takes much
        # less time, and most lines have nothing to mask.
        if b"@" in line:
            line = _USER_IN_LINE.sub(b"://" + replacement + b"@", line)
        if b"?" in line:
            line = _QUERY_IN_LINE.sub(rb"\1?" + replacement, line)
        for form in longest_first:
            if form in line:
                return known_secret.sub(replacement, line)
        return line

    return redact
