"""Codes: read from arguments, files and standard input, named sets expanded, each code once, as a safe work item."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import filterfalse, product
from string import ascii_letters, ascii_uppercase

from job.file_table import Claim, FileTable
from job.layout import is_id, is_name, is_reserved
from job.model import InvalidItem, Item, WorkItem
from job.redaction import shown
from job.template import UrlTemplate

POP20 = tuple(sorted("CN IN US ID BR PK NG BD RU JP MX PH VN ET EG DE IR TR CD FR".split()))
"""The twenty most populous countries of *Fluent Python*."""
ALL = tuple(
    """
    AD AE AF AG AI AL AM AO AQ AR AS AT AU AW AX AZ BA BB BD BE BF BG BH BI BJ BL BM BN BO BQ BR BS BT BV BW BY BZ
    CA CC CD CF CG CH CI CK CL CM CN CO CR CU CV CW CX CY CZ DE DJ DK DM DO DZ EC EE EG EH ER ES ET FI FJ FK FM FO FR
    GA GB GD GE GF GG GH GI GL GM GN GP GQ GR GS GT GU GW GY HK HM HN HR HT HU ID IE IL IM IN IO IQ IR IS IT JE JM JO
    JP KE KG KH KI KM KN KP KR KW KY KZ LA LB LC LI LK LR LS LT LU LV LY MA MC MD ME MF MG MH MK ML MM MN MO MP MQ MR
    MS MT MU MV MW MX MY MZ NA NC NE NF NG NI NL NO NP NR NU NZ OM PA PE PF PG PH PK PL PM PN PR PS PT PW PY QA RE RO
    RS RU RW SA SB SC SD SE SG SH SI SJ SK SL SM SN SO SR SS ST SV SX SY SZ TC TD TF TG TH TJ TK TL TM TN TO TR TT TV
    TW TZ UA UG UM US UY UZ VA VC VE VG VI VN VU WF WS YE YT ZA ZM ZW
    """.split()
)
"""Every officially assigned ISO 3166-1 alpha-2 code, 249 of them."""
NAMED_SETS: Mapping[str, tuple[str, ...]] = {
    "POP20": POP20,
    "ALL": ALL,
    "EVERY": tuple(map("".join, product(ascii_uppercase, repeat=2))),
}
"""The sets that a user may name instead of their codes. EVERY is AA to ZZ, most of which name no country."""
_SPECULATIVE_SETS = frozenset({"EVERY"})

_TOKEN_MAX_BYTES = 4096
"""No valid code is as long. A longer token is cut here, which leaves it invalid and bounds the memory it takes."""
_TOKENS = re.compile(rb"#[^\r\n]*|[^ \t\r\n,]+")
"""A comment begins where a code could begin (so `cn#f` is an invalid code, not CN) and ends with its line."""

_BLANKS = re.compile(
    rb"\xc2[\x85\xa0]|\xe1(?:\x9a\x80|\x85[\x9f\xa0])|\xe2(?:\x80[\x80-\x8a\xa8\xa9\xaf]|\x81\x9f|\xa0\x80)"
    rb"|\xe3(?:\x80\x80|\x85\xa4)|\xef\xbe\xa0"
)
"""In UTF-8, what looks like a blank: Unicode's spaces, line and paragraph separators, fillers. They end no comment."""
_ZERO_WIDTH = (
    rb"(?:\xc2\xad|\xcd\x8f|\xd8\x9c|\xe1\xa0[\x8b-\x8f]|\xe2(?:\x80[\x8b-\x8f\xaa-\xae]|\x81[\xa0-\xaf])"
    rb"|\xef(?:\xbb\xbf|\xb8[\x80-\x8f]))"
)
"""In UTF-8, what takes no room: joiners, directions, selectors, soft hyphens, byte order marks."""
_NON_ASCII_TOKENS = re.compile(_ZERO_WIDTH + rb"*#[^\r\n]*|[^ \t\r\n,]+")
_EDGES = re.compile(rb"\A" + _ZERO_WIDTH + rb"+|" + _ZERO_WIDTH + rb"+\Z")
_COMMENT = re.compile(_ZERO_WIDTH + rb"*#")

_CODE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_FOLDED = "the destination does not distinguish such names"
_NO_FILE = "\0"
"""Put before text that gets no file, it makes what no file is called, so that the table knows such text, too."""


@dataclass(slots=True)
class Token:
    """Text that should be a code."""

    text: str
    speculative: bool = False
    """Generated from EVERY or a letter, so the code need not exist."""


def expand_sets(words: Sequence[str], *, letters: bool) -> Iterator[Token]:
    """Yield a token for each word, and for the name of a set one for each of its codes.

    With `letters`, a single letter X is expanded to XA to XZ. A code that the words also request explicitly, or
    through a set of existing codes, is not speculative, wherever it occurs.
    """
    names = {word.upper() for word in words}
    requested = set(names)
    for name in names & (NAMED_SETS.keys() - _SPECULATIVE_SETS):
        requested.update(NAMED_SETS[name])
    for word in words:
        codes, speculative = _expansion(word, letters=letters)
        for code in codes:
            yield Token(code, speculative and code.upper() not in requested)


def _expansion(word: str, *, letters: bool) -> tuple[Iterable[str], bool]:
    """Return the codes of a word, and whether they are speculative."""
    name = word.upper()
    if name in NAMED_SETS:
        return NAMED_SETS[name], name in _SPECULATIVE_SETS
    if letters and len(word) == 1 and word in ascii_letters:
        return (name + second for second in ascii_uppercase), True
    return (word,), False


def read_tokens(
    chunks: Iterable[bytes | None], is_interrupted: Callable[[], bool] = lambda: False
) -> Iterator[Token | None]:
    """Yield the tokens of a list: one or more a line, `#` comments, CRLF and a byte order mark accepted.

    What looks like a blank is one, also a no-break space. What takes no room is dropped around a token, but within one
    it stays, so that the token is no code: whether one code or two were meant nobody can see.

    A chunk that is None, because the list has nothing at the moment, becomes a None among the tokens. Sets and letters
    are not expanded. Memory does not grow with the list, nor with its longest line. Bytes that are not UTF-8 become
    backslash escapes, which no code contains. `is_interrupted` is called at the end of the list: the last token of an
    interrupted one may be incomplete, so it is dropped. Raises OSError where the chunks do.
    """
    unfinished = b""
    for chunk in chunks:
        if chunk is None:
            yield None
            continue
        text = unfinished + chunk
        if text.isascii():
            tokens = _TOKENS.findall(text)
        else:
            text = _BLANKS.sub(b" ", text)
            tokens = _NON_ASCII_TOKENS.findall(text)
        unfinished = b""
        if tokens and text.endswith(tokens[-1]):
            # No separator follows the last token, so the next chunk may continue it.
            unfinished = _truncate(tokens.pop())
        yield from _decode(tokens)
    if unfinished and not is_interrupted():
        yield from _decode([unfinished])


def _decode(tokens: Iterable[bytes]) -> Iterator[Token]:
    """Yield the tokens that are no comments."""
    for token in filterfalse(_is_comment, tokens):
        seen = token if token.isascii() else _EDGES.sub(b"", token)
        if seen:
            yield Token(seen[:_TOKEN_MAX_BYTES].decode("utf-8", "backslashreplace"))


def _truncate(unfinished: bytes) -> bytes:
    """Return as much of an unfinished token as the next chunk needs: of a comment, only that it is one.

    The last two bytes stay, because they may be the first of a character that is a blank.
    """
    if _is_comment(unfinished):
        return b"#"
    return unfinished[:_TOKEN_MAX_BYTES] + unfinished[_TOKEN_MAX_BYTES:][-2:]


def _is_comment(token: bytes) -> bool:
    if token.isascii():
        return token.startswith(b"#")
    return _COMMENT.match(token) is not None


def unique_items(
    tokens: Iterable[Token | None],
    template: UrlTemplate,
    table: FileTable,
    limit: int | None = None,
    is_owned: Callable[[str], bool] | None = None,
) -> Iterator[Item | None]:
    """Yield one item for each distinct code in the order given: of the first `limit` codes, those that `is_owned`.

    Codes (`{cc}`, `{CC}`) are compared without case and shown in upper case; IDs (`{id}`) are taken verbatim. Text that
    is neither becomes an InvalidItem, and so does a code whose file is that of a code before it. Memory: that of the
    table, which remembers only the codes of this shard, or with a limit those of all shards.

    A None among the tokens is one among the items, and is not counted.
    """
    return selected_items(lambda is_owned: _unique_items(tokens, template, table, is_owned), limit, is_owned)


def selected_items(
    items_of: Callable[[Callable[[str], bool]], Iterator[Item | None]],
    limit: int | None,
    is_owned: Callable[[str], bool] | None,
) -> Iterator[Item | None]:
    """Yield the first `limit` items, of which those that `is_owned`; `items_of` returns those whose codes are owned."""
    if limit is None:
        return items_of(is_owned or _is_any)
    # The limit counts the codes of all shards, so that together they process exactly `limit` codes.
    first_items = _first_items(items_of(_is_any), limit)
    if is_owned is None:  # this run has no shard
        return first_items
    return (item for item in first_items if item is None or is_owned(item.code))


def _first_items(items: Iterable[Item | None], limit: int) -> Iterator[Item | None]:
    """Yield the first items, and read nothing after the last one of them."""
    for item in items:
        yield item
        if item is not None:
            limit -= 1
            if limit == 0:
                return


def _is_any(_code: str) -> bool:
    return True


def _unique_items(
    tokens: Iterable[Token | None], template: UrlTemplate, table: FileTable, is_owned: Callable[[str], bool]
) -> Iterator[Item | None]:
    for token in tokens:
        if token is None:
            yield None
            continue
        code = _normalized_code(token.text, template)
        if is_owned(code):
            item = _first_item(code, template, table, token)
            if item:
                yield item


def refuse_folded(items: Iterable[Item | None], table: FileTable) -> Iterator[Item | None]:
    """Yield unique items; one whose name the destination takes for that of an item before becomes an InvalidItem.

    So does one whose name it takes for flagjob's own. `table` folds names as the destination does. Memory: that of the
    table, beside the one by which the items are unique.
    """
    for item in items:
        yield _distinct_item(item, table) if isinstance(item, WorkItem) else item


def _distinct_item(item: WorkItem, table: FileTable) -> Item:
    """Return the item, or an InvalidItem in its place."""
    if is_reserved(item.file.partition("/")[0], table.fold):
        owner = "flagjob's own"
    elif table.claim(item.file, item.code) is not Claim.FIRST:
        owner = "that of another code in the list"
    else:
        return item
    return InvalidItem(shown(item.code), f"its file {item.file} is {owner}: {_FOLDED}")


def _normalized_code(text: str, template: UrlTemplate) -> str:
    """Return a code in upper case, an ID as it is."""
    if template.takes_ids or not text.isascii():
        # Only ASCII is changed: upper() turns the ligature fi, a sharp s and a dotless i into letters of codes.
        return text
    return text.upper()


def _first_item(code: str, template: UrlTemplate, table: FileTable, token: Token) -> Item | None:
    """Return the item of a code, or None if the code was there before."""
    file = template.file(code)
    if not _is_valid(code, file, template):
        return _first_invalid_item(code, table, InvalidItem(shown(token.text)))
    if template.naming is not None and not is_name(file):
        problem = f"its file would be named {shown(file)}, which is not a safe name"
        return _first_invalid_item(code, table, InvalidItem(shown(token.text), problem))
    claim = table.claim(file, code)
    if claim is Claim.FIRST:
        return WorkItem(code, template.url(code), file, token.speculative)
    if claim is Claim.REPEATED:
        return None
    problem = f"its file {file} is that of another code in the list"
    return _first_invalid_item(code, table, InvalidItem(shown(token.text), problem))


def _first_invalid_item(code: str, table: FileTable, item: InvalidItem) -> InvalidItem | None:
    """Return the item of text that gets no file, or None if the text was there before."""
    claim = table.claim(_NO_FILE + code, code)
    return item if claim is Claim.FIRST else None


def _is_valid(code: str, file: str, template: UrlTemplate) -> bool:
    if not template.takes_ids:
        return _CODE.fullmatch(code) is not None
    return is_id(code) and not is_reserved(file.partition("/")[0])
