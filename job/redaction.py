"""What of a setting's text may be printed."""

import re

MASK = "***"
HEADER = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([\x21-\x7e](?:[\x20-\x7e\t]*[\x21-\x7e])?)")
"""A field line (RFC 9110, 5.1 and 5.5)."""
_BEGINS_AS_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_LONGEST = 200
"""A list of codes may have a million characters; a log line must not."""


def printable(text: str) -> str:
    """Show the bytes that were no UTF-8, which Python keeps as surrogates (PEP 383), with backslashes."""
    return re.sub("[\ud800-\udfff]", lambda found: f"\\x{ord(found[0]) & 0xFF:02x}", text)


def plain(text: str) -> str:
    """Show all of a text that is no secret, or the first 200 characters of it."""
    shown = printable(text)
    return shown if len(shown) <= _LONGEST else f"{shown[:_LONGEST]}..."


def url(text: str) -> str:
    """Mask user, password, query and fragment of a URL, also of a malformed one, or all of what is none.

    An `@` in the path hides what is before it, too: there is no telling it from one after a password with a slash.
    """
    if not _BEGINS_AS_URL.match(text):
        return MASK
    shown = re.sub(r"//.*@", f"//{MASK}@", text, flags=re.DOTALL)
    return plain(re.sub(r"([?#]).*", rf"\1{MASK}", shown, flags=re.DOTALL))


def destination(text: str) -> str:
    """Show a directory, or of a URL what is no secret: people put keys of a bucket before its name."""
    return url(text) if "://" in text else plain(text)


def path(text: str) -> str:
    """Mask what was given where a secret file's path belongs, but seems to be the secret itself.

    A URL begins as a header does; of `Bearer ...` the blank tells.
    """
    return MASK if HEADER.match(text) or " " in text else plain(text)
