"""Words to work items: each code once, in the order given, and nothing unsafe in a URL or a path."""

import re
from collections.abc import Callable, Iterable, Iterator
from hashlib import blake2b
from itertools import islice

from job.codes.source import Word
from job.layout import is_reserved
from job.model import InvalidItem, Item, WorkItem
from job.template import UrlTemplate

_CODE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_SEGMENT = r"[A-Za-z0-9_@-][A-Za-z0-9._@-]{0,199}"
_ID = re.compile(rf"{_SEGMENT}(?:/{_SEGMENT})*")
_ID_MAX = 1000
_SHOWN_MAX = 80
_KEY_BYTES = 13
_DIGEST_BYTES = 14
"""Longer than any key that is kept as it is, so that the two never meet; 112 bits do not collide by accident."""


def select(
    words: Iterable[Word], template: UrlTemplate, limit: int | None = None, mine: Callable[[str], bool] | None = None
) -> Iterator[Item]:
    """Yield one item a distinct code, at most `limit` of them, and of those only the ones that are `mine`.

    Codes (`{cc}`, `{CC}`) are compared without case and shown in upper case, ids (`{id}`) taken verbatim. What is
    neither comes out as an InvalidItem, as it was written. Memory: at most 110 bytes a code, however long it is.
    """
    if limit is None:  # only what is ours need be remembered
        return _unique(words, template, mine or _all)
    return (item for item in islice(_unique(words, template, _all), limit) if (mine or _all)(item.code))


def _all(_code: str) -> bool:
    return True


def _unique(words: Iterable[Word], template: UrlTemplate, mine: Callable[[str], bool]) -> Iterator[Item]:
    seen: set[bytes] = set()
    for word in words:
        # only ASCII, or the ligature fi, a sharp s and a dotless i would turn into letters of codes
        code = word.text if template.takes_ids or not word.text.isascii() else word.text.upper()
        key = _key(code)
        if key not in seen and mine(code):
            seen.add(key)
            yield _item(code, template, word)


def _item(code: str, template: UrlTemplate, word: Word) -> Item:
    if not _is_valid(code, template):
        # lone surrogates, from arguments that are not UTF-8, have no place in a log
        return InvalidItem(word.text.encode("utf-8", "backslashreplace").decode()[:_SHOWN_MAX])
    return WorkItem(code, template.url(code), template.file(code), word.speculative)


def _is_valid(code: str, template: UrlTemplate) -> bool:
    if not template.takes_ids:
        return bool(_CODE.fullmatch(code))
    first = template.file(code).partition("/")[0]
    return len(code) <= _ID_MAX and bool(_ID.fullmatch(code)) and not is_reserved(first)


def _key(code: str) -> bytes:
    """Return what stands for a code among those seen: itself if it is short, else a digest."""
    text = _bytes(code)
    return text if len(text) <= _KEY_BYTES else blake2b(text, digest_size=_DIGEST_BYTES).digest()


def _bytes(code: str) -> bytes:
    return code.encode("utf-8", "surrogatepass")
