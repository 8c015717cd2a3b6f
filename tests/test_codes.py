"""Codes: from text to work items, each code once, in the order given, with nothing unsafe in a URL or a path."""

import os
import re
import tracemalloc
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import cache, partial
from importlib.metadata import distribution
from io import BytesIO
from itertools import cycle, islice
from os.path import normpath
from pathlib import Path
from queue import SimpleQueue
from tempfile import TemporaryDirectory
from threading import Thread, Timer
from typing import BinaryIO
from unicodedata import normalize

import pytest
from disk_calls import fold_names
from hypothesis import example, given, settings
from hypothesis import strategies as st
from rows import row

from job.cancellation import Cancellation
from job.codes import ALL, POP20, Token, expand_sets, read_tokens, refuse_folded, unique_items
from job.errors import Reason
from job.file_table import FileTable
from job.layout import OWN_DIRECTORY, Fold, Shard, name_folding
from job.lists import PipeReader, file_chunks
from job.model import InvalidItem, Item, WorkItem
from job.redaction import visible
from job.template import FileTemplate, UrlTemplate

CODES = UrlTemplate.parse("http://h/{cc}.gif")
IDS = UrlTemplate.parse("http://h/{id}.png")
BARE_IDS = UrlTemplate.parse("http://h/{id}")
FANNED_OUT = BARE_IDS.with_naming(FileTemplate.parse("{id:.2}/{id}{id:.1}.png"))
BOUND = 20


def pieces(data: bytes, sizes: Iterable[int]) -> Iterator[bytes]:
    """Yield data in pieces of these sizes, as a slow pipe may."""
    stream = BytesIO(data)
    for size in cycle(sizes):
        piece = stream.read(size)
        if not piece:
            return
        yield piece


def texts(chunks: Iterable[bytes | None]) -> list[str]:
    return [token.text for token in read_tokens(chunks) if token]


def words(data: bytes) -> list[str]:
    return texts(file_chunks(BytesIO(data)))


def expanded(*given_words: str, letters: bool = True) -> list[str]:
    return [token.text for token in expand_sets(given_words, letters=letters)]


def codes_of(items: Iterable[Item | None]) -> list[str]:
    return [item.code for item in items if item]


def selected(*texts: str, template: UrlTemplate = CODES, limit: int | None = None) -> list[str]:
    return codes_of(unique_items(map(Token, texts), template, FileTable(), limit))


def is_valid(text: str, template: UrlTemplate) -> bool:
    (item,) = unique_items([Token(text)], template, FileTable())
    return isinstance(item, WorkItem)


def specified(data: bytes) -> list[bytes]:
    """Return the tokens of a file by the specification, without regard to memory."""
    found: list[bytes] = []
    for line in re.split(rb"[\r\n]", data.removeprefix(b"\xef\xbb\xbf")):
        for token in filter(None, re.split(rb"[ \t,]", SPACES.sub(b" ", line))):
            seen = re.sub(rb"\A(?:%b)+" % WITHOUT_WIDTH, b"", token)
            if seen.startswith(b"#"):
                break
            found += filter(None, [re.sub(rb"(?:%b)+\Z" % WITHOUT_WIDTH, b"", seen)])
    return found


def any_of(characters: Iterable[str]) -> bytes:
    """Return a pattern of characters in UTF-8."""
    return b"|".join(re.escape(character.encode()) for character in characters)


SPACES = re.compile(any_of(chr(number) for number in range(0x80, 0x11000) if chr(number).isspace()))
"""What Python takes for a blank beyond ASCII."""
WITHOUT_WIDTH = any_of("\u00ad\u034f\u061c\u200b\u200c\u200d\u2060\ufeff")


# Named sets


def test_pop20_is_the_books_in_alphabetical_order() -> None:
    """The twenty codes of *Fluent Python*, in the order in which the book sorts them."""
    assert " ".join(POP20) == "BD BR CD CN DE EG ET FR ID IN IR JP MX NG PH PK RU TR US VN"


def test_all_are_the_codes_of_iso_3166() -> None:
    """ALL is every officially assigned code, in order: the codes of all flags but those of no ISO country."""
    flags = {file.stem.upper() for file in distribution("django-countries").files or [] if file.suffix == ".gif"}
    assert list(ALL) == sorted(flags - {"__", "EU", "XK"})
    assert len(ALL) == 249


def test_every_is_every_pair_of_letters() -> None:
    """EVERY runs from AA to ZZ, 676 codes in alphabetical order."""
    every = expanded("EVERY")
    assert (every[0], every[1], every[26], every[-1]) == ("AA", "AB", "BA", "ZZ")
    assert every == sorted(set(every))
    assert len(every) == 26 * 26


@pytest.mark.parametrize(("name", "codes"), [("POP20", POP20), ("pop20", POP20), ("ALL", ALL), ("All", ALL)])
def test_a_set_stands_for_its_codes(name: str, codes: tuple[str, ...]) -> None:
    """The name of a set, in any case, is replaced by its codes; other words keep their position."""
    assert expanded("zz", name, "aa", letters=False) == ["zz", *codes, "aa"]


def test_a_letter_is_expanded_only_among_arguments() -> None:
    """With `letters` a single ASCII letter X becomes XA to XZ; without it, and for any other text, the word is kept."""
    assert expanded("x") == [f"X{second}" for second in "ABCDEFGHIJKLMNOPQRSTUVWXYZ"]
    assert expanded("x", letters=False) == ["x"]
    assert expanded("7", "", "\u00e4", "\uff38", "xy") == ["7", "", "\u00e4", "\uff38", "xy"]


def test_only_generated_codes_are_speculative() -> None:
    """Codes of EVERY and of a letter are speculative; codes of other sets, and explicit ones, are not."""
    kinds = {
        text: {token.speculative for token in expand_sets([text], letters=True)}
        for text in ("EVERY", "x", "ALL", "POP20", "cn")
    }
    assert kinds == {"EVERY": {True}, "x": {True}, "ALL": {False}, "POP20": {False}, "cn": {False}}


def test_an_item_knows_that_it_is_speculative() -> None:
    """An item carries the flag by which the exit code later ignores that it was not found."""
    items = unique_items(expand_sets(["x", "cn"], letters=True), CODES, FileTable())
    assert {item.code for item in items if isinstance(item, WorkItem) and not item.speculative} == {"CN"}


@pytest.mark.parametrize(
    ("given_words", "codes"),
    [
        (["ALL", "ALL"], list(ALL)),
        (["ALL", "CN"], list(ALL)),
        (["CN", "ALL"], ["CN", *(code for code in ALL if code != "CN")]),
        (["us", "POP20", "US"], ["US", *(code for code in POP20 if code != "US")]),
    ],
)
def test_sets_that_overlap_give_each_code_once(given_words: list[str], codes: list[str]) -> None:
    """A code that occurs again, even in another set, keeps its first position."""
    assert selected(*expanded(*given_words)) == codes


# Files


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", []),
        (b"\n\r\n \t, ,\r", []),
        (b"cn", ["cn"]),
        (b"cn\nus\n", ["cn", "us"]),
        (b"cn\r\nus\r\n", ["cn", "us"]),
        (b"cn\rus\r", ["cn", "us"]),
        (b"cn us\tde,fr , it,,es", ["cn", "us", "de", "fr", "it", "es"]),
        (b"\xef\xbb\xbfcn\n", ["cn"]),
        (b"\xef\xbb\xbf", []),
        (b"\xef\xbb\xbf# comment\ncn", ["cn"]),
        (b"\xef\xbbcn", ["\\xef\\xbbcn"]),
        (b"\xef\xbb\xbf\xef\xbb\xbfcn", ["cn"]),
        (b"cn\n\xef\xbb\xbfus", ["cn", "us"]),
        (b"\xef\xbb\xbf\xef\xbb\xbf# cn us\nde", ["de"]),
        ("cn\u00a0# us\u2028de\nfr".encode(), ["cn", "fr"]),
        ("\u200bcn\u200b\u2060,c\u200bn \u00adus\ufe0f".encode(), ["cn", "c\u200bn", "us"]),
        ("\u200b\n\u200d\u200e".encode(), []),
        ("cn\u3000us\u2800de\u3164fr".encode(), ["cn", "us", "de", "fr"]),
        (b"# comment\ncn # another, us\nde #\n#\n  # us", ["cn", "de"]),
        (b"#comment\rcn\r#us\r\nde", ["cn", "de"]),
        (b"cn,#us\nde", ["cn", "de"]),
        (b"cn#f us", ["cn#f", "us"]),
        (b"ALL x", ["ALL", "x"]),
        (b"cn\0us", ["cn\0us"]),
        (b"\xff\xfec\0n\0", ["\\xff\\xfec\0n\0"]),
        (b"caf\xe9 us", ["caf\\xe9", "us"]),
        ("cn\u2028us\u2029de\x85fr".encode(), ["cn", "us", "de", "fr"]),
        (b"cn\x0bus\x0cde\x1cfr\xc2\xa0it", ["cn\x0bus\x0cde\x1cfr", "it"]),
    ],
)
def test_a_file_is_split_into_tokens(data: bytes, expected: list[str]) -> None:
    """Tokens end at blanks of any kind, commas and line ends; a comment begins where a token could begin.

    Only the three line ends of ASCII end a comment. What takes no room is dropped at the ends of a token.
    """
    assert words(data) == expected


@pytest.mark.parametrize("before", [b"", b"\xef\xbb\xbf", b"de ", b"x" * (64 * 1024 - 3) + b" "])
@pytest.mark.parametrize("length", [10, 64 * 1024 - 1, 64 * 1024, 70_000, 200_001])
def test_a_comment_of_any_length_is_no_code(before: bytes, length: int) -> None:
    """A comment of any length ends with its line: none of its words is ever taken for a code."""
    comment = (b"# cn us, " * (length // 9 + 1))[:length]
    expected = [text[:4096] for text in words(before)]
    assert words(before + comment + b"\nfr\n") == [*expected, "fr"]
    assert words(before + comment) == expected


@pytest.mark.parametrize("length", [64 * 1024 - 1, 64 * 1024, 64 * 1024 + 1])
def test_a_token_may_extend_over_several_chunks(length: int) -> None:
    """The end of a chunk does not end a token."""
    blank = b" " * length
    assert words(blank[:-1] + b"cn us") == ["cn", "us"]
    assert words(blank[:-2] + b"gb-eng\nus") == ["gb-eng", "us"]


def test_bytes_that_arrive_in_pieces_are_the_same_tokens() -> None:
    """A byte order mark, a character, a line end and a comment may each be split between two reads."""
    data = b"\xef\xbb\xbf# c\r\ncn # \xc3\xa9 us\r\n\xc3\xa9 d,e"
    assert texts(pieces(data, [1])) == words(data) == ["cn", "\u00e9", "d", "e"]


PARTS = st.sampled_from(
    [b"cn", b"us", b"#", b" ", b",", b"\t", b"\r", b"\n", b"\xef\xbb\xbf", b"\xff", b"\0", b"\xc3\xa9"]
    + [character.encode() for character in "\u00a0\u200b\u2060\u00ad\u2003\u3000\u2028"]
)


@settings(deadline=None)
@given(
    data=st.binary(max_size=60) | st.lists(PARTS, max_size=40).map(b"".join),
    sizes=st.lists(st.integers(1, 7), min_size=1, max_size=5),
)
def test_any_bytes_in_any_pieces_are_the_specified_tokens(data: bytes, sizes: list[int]) -> None:
    """The tokens of a file depend on its bytes alone, not on how they arrive."""
    expected = [token.decode("utf-8", "backslashreplace") for token in specified(data)]
    assert words(data) == expected
    assert texts(pieces(data, sizes)) == expected
    assert texts(chunk for piece in pieces(data, sizes) for chunk in (None, piece)) == expected


@pytest.mark.parametrize("length", [10_000, 10_000_000])
def test_a_token_without_an_end_takes_no_memory(length: int) -> None:
    """One bad line of any length is one invalid code, cut to 80 characters, and takes less than a megabyte."""
    stream = BytesIO(b"A" * length + b"\nCN")
    tracemalloc.start()
    items = list(unique_items(read_tokens(file_chunks(stream)), CODES, FileTable()))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [(type(item), item.code) for item in items if item] == [(InvalidItem, "A" * 80), (WorkItem, "CN")]
    assert peak < 1_000_000


def test_tokens_that_differ_after_4_kib_are_equal() -> None:
    """Bytes after the first 4 KiB are ignored, whether the token fits into a chunk or not: it is invalid anyway."""
    assert len(set(words(b"%b1 %b2 %b3" % (b"A" * 5000, b"A" * 70_000, b"A" * 140_000)))) == 1


@pytest.mark.slow
def test_a_long_untidy_file_yields_each_code_once() -> None:
    """A hundred thousand codes with BOM, CRLF, comments and duplicates in either case are a hundred thousand items."""
    lines = (
        f"c{number}, C{number} # c{number}x {'-' * (number % 50)}\r\nC{number // 2}\r\n" for number in range(100_000)
    )
    data = "\ufeff# all of them\r\n".encode() + "".join(lines).encode()
    items = list(unique_items(read_tokens(file_chunks(BytesIO(data))), CODES, FileTable()))
    assert codes_of(items) == [f"C{number}" for number in range(100_000)]
    assert {type(item) for item in items} == {WorkItem}


@row(48)
@pytest.mark.slow
def test_uniqueness_costs_at_most_110_bytes_a_code() -> None:
    """A hundred and twenty thousand distinct codes, short and long, cost less than 13.2 MB."""
    forms = cycle(["c{}", "country-{}", "/".join(["a-segment-of-a-long-id"] * 7) + "/{}"])
    tracemalloc.start()
    items = unique_items((Token(form.format(number)) for number, form in enumerate(forms)), IDS, FileTable())
    deque(islice(items, 120_000), maxlen=0)
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held / 120_000 > 30  # the memory of the codes was measured
    assert peak / 120_000 < 110


# What is a code, and what is an id


@pytest.mark.parametrize(
    "text",
    [
        "",
        "../../etc/passwd",
        "cn/../us",
        "cn/us",
        "c%6e",
        "cn?x",
        "cn#f",
        "cn&x=1",
        "cn;x",
        "cn\n",
        "\ncn",
        "cn\r",
        "cn ",
        "cn\0",
        "cn\\us",
        "c.n",
        ".cn",
        "-cn",
        "_cn",
        "{cc}",
        "@",
        "\u2028cn",
        "cn\x85",
        "\uff43\uff4e",
        "\ufb01",
        "\u00df",
        "\u0131n",
        "u\u017f",
        "c\u0301n",
        "\u0661\u0662",
        "\ufeffcn",
        "\udcff",
        "\\xff",
        "a" * 65,
    ],
)
def test_an_invalid_code_never_becomes_a_request(text: str) -> None:
    """Only ASCII letters, digits, - and _ form a code; no other text can turn into one on its way to the URL."""
    (item,) = unique_items([Token(text)], CODES, FileTable())
    assert isinstance(item, InvalidItem)


@pytest.mark.parametrize("text", ["cn", "CN", "7", "gb-eng", "us_ca", "a" * 64])
def test_a_valid_code(text: str) -> None:
    """A code is a letter or digit and up to 63 more letters, digits, - and _."""
    assert is_valid(text, CODES)


class FirstLetter(UrlTemplate):
    """A template that names files in a way of its own: two codes may have one file."""

    def file(self, code: str) -> str:
        """Return the name of a file."""
        return f"{code[:1].lower()}.gif"


@row(36)
def test_a_second_code_for_a_file_is_an_error() -> None:
    """The first code has the file; another one is one invalid item, which names the file, however often it comes."""
    template = FirstLetter.parse("http://h/{cc}.gif")
    assert isinstance(template, FirstLetter)
    problem = "its file b.gif is that of another code in the list"
    assert list(unique_items(map(Token, ["ba", "bb", "BA", "BB", "ca", "b%", "bb"]), template, FileTable())) == [
        WorkItem("BA", "http://h/ba.gif", "b.gif"),
        InvalidItem("bb", problem),
        WorkItem("CA", "http://h/ca.gif", "c.gif"),
        InvalidItem("b%"),
    ]


def test_the_name_of_a_file_is_checked_not_its_parts() -> None:
    """An ID whose file would have an empty segment, or a name of flagjob's own, is invalid, once."""
    template = BARE_IDS.with_naming(FileTemplate.parse("{id:.2}/{id}"))
    items = list(unique_items(map(Token, ["acme", "a/b", "a/b", "..", "7"]), template, FileTable()))
    problem = "its file would be named a//a/b, which is not a safe name"
    assert items == [
        WorkItem("acme", "http://h/acme", "ac/acme"),
        InvalidItem("a/b", problem),
        InvalidItem(".."),
        WorkItem("7", "http://h/7", "7/7"),
    ]
    own = CODES.with_naming(FileTemplate.parse("{CC}"))
    (item,) = unique_items([Token("sha256sums")], own, FileTable())
    assert isinstance(item, InvalidItem)


def test_codes_are_compared_without_case() -> None:
    """A code in any case is one item: shown in upper case, with a file name in lower case."""
    assert list(unique_items(map(Token, ["cN", "Cn", "CN", "cn"]), CODES, FileTable())) == [
        WorkItem("CN", "http://h/cn.gif", "cn.gif")
    ]


def test_a_ligature_is_not_its_letters() -> None:
    """The one character \ufb01 is not Finland, although its upper case is FI."""
    assert selected("\ufb01", "fi", "FI") == ["\ufb01", "FI"]


@pytest.mark.parametrize(
    "text",
    [
        "7/66/42",
        "acme.com",
        "aB",
        "a",
        "7",
        "-",
        "_x",
        "@scope/name",
        "a..b",
        "a.",
        "x" * 200,
        "/".join(["x"] * 499 + ["xx"]),
        "~a",
    ],
)
def test_a_valid_id(text: str) -> None:
    """An ID may contain dots, @ and segments; the file keeps its path."""
    items = list(unique_items([Token(text)], IDS, FileTable()))
    assert items == [WorkItem(text, f"http://h/{text}.png", f"{text}.png")]


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("a+b", "a%2Bb"),
        ("a=b", "a%3Db"),
        ("a:b", "a%3Ab"),
        ("a,b", "a%2Cb"),
        ("c%6e", "c%256e"),
        ("%2e%2e/x", "%252e%252e/x"),
        ("it's(1)", "it%27s%281%29"),
        ("\u00e4/\u00df", "%C3%A4/%C3%9F"),
        ("\u0646\u0642\u0634\u0647", "%D9%86%D9%82%D8%B4%D9%87"),
        ("\u0e19\u0e49\u0e33", "%E0%B8%99%E0%B9%89%E0%B8%B3"),
        ("\u0939\u093f\u0928\u094d\u0926\u0940", "%E0%A4%B9%E0%A4%BF%E0%A4%A8%E0%A5%8D%E0%A4%A6%E0%A5%80"),
        ("x" + "\u00e4" * 99, "x" + "%C3%A4" * 99),
    ],
)
def test_an_id_is_encoded_in_the_url_and_kept_in_the_file(text: str, path: str) -> None:
    """What real IDs hold is percent-encoded where it goes into the URL; the file has it as it is."""
    items = list(unique_items([Token(text)], IDS, FileTable()))
    assert items == [WorkItem(text, f"http://h/{path}.png", f"{text}.png")]


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "..",
        "/",
        "/a",
        "a/",
        "a//b",
        "a/./b",
        "a/../b",
        "../a",
        "a/..",
        ".hidden",
        "a/.hidden",
        ".flagjob/manifest.jsonl",
        "a\\b",
        "a b",
        "a\n",
        "a\0",
        "a?b",
        "a#b",
        "a&b",
        "{id}",
        "\uff41",
        "\ufb01",
        "a\u0308",
        "\u0308a",
        "a\u200bb",
        "a\u3164",
        "a\u00b2",
        "a\u2044b",
        "\u2024\u2024",
        "a\ud800",
        "\u00e4" * 101,
        "/".join(["\u00e4" * 100] * 5),
        "\udc80",
        "x" * 201,
        "a/" + "x" * 201,
        "/".join(["x"] * 501),
    ],
)
def test_an_invalid_id_never_becomes_a_request(text: str) -> None:
    """No segment of an ID is empty, hidden, a dot, two dots, or longer than a file name."""
    assert not is_valid(text, IDS)


def test_ids_are_taken_verbatim() -> None:
    """IDs that differ only in case are two items with two files."""
    items = unique_items(map(Token, ["aB", "Ab", "aB"]), IDS, FileTable())
    assert [item.file for item in items if isinstance(item, WorkItem)] == ["aB.png", "Ab.png"]


def test_no_item_has_the_name_of_flagjobs_own_file() -> None:
    """SHA256SUMS in the destination is flagjob's: neither a file nor a directory of an item may have this name."""
    assert [is_valid(text, BARE_IDS) for text in ("SHA256SUMS", "SHA256SUMS/a", "a/SHA256SUMS", "SHA256SUMS.txt")] == [
        False,
        False,
        True,
        True,
    ]
    assert is_valid("SHA256SUMS", IDS)


def without_last_dots(path: str) -> str:
    return "/".join(part.rstrip(".") for part in path.split("/"))


FOLDINGS: dict[str, Callable[[str], str]] = {
    "none": str,
    "case, as vfat": str.upper,
    "case and NFD, as ext4": lambda path: normalize("NFD", normalize("NFD", path).casefold()),
    "NFC": partial(normalize, "NFC"),
    "NFD, as HFS+": partial(normalize, "NFD"),
    "last dots": without_last_dots,
    "case and last dots, as SMB": lambda path: without_last_dots(path.casefold()),
}
"""What file systems make of a path: two paths are one file if the results are equal."""
SIMILAR_IDS = (
    st.text("aA1./\u00e9\u00c9\u00df\u1e9es", max_size=6)
    | st.text(max_size=3)
    | st.sampled_from(["SHA256SUMS", "sha256sums/a"])
)


@cache
def probed(folding: str) -> Fold | None:
    """Return what a run finds about a file system."""
    with TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        root = Path(name)
        (root / OWN_DIRECTORY).mkdir()
        fold_names(patch, root, FOLDINGS[folding])
        return name_folding(root)


@row(76)
@pytest.mark.parametrize("folding", FOLDINGS)
@settings(deadline=None)
@given(ids=st.lists(SIMILAR_IDS, max_size=12))
@example(
    [
        "Ab",
        "aB",
        "\u00e9",
        "e\u0301",
        "\u212a",
        "K",
        "k",
        "\u00c9",
        "\u00df",
        "ss",
        "a.",
        "a",
        "a./b",
        "A/b",
        "sha256sums",
        "SHA256SUMS.",
    ]
)
@pytest.mark.slow
def test_no_two_items_are_one_file(folding: str, ids: list[str]) -> None:
    """Whatever a file system takes for one name, of the ids for one file the first has it; all have their item."""
    fold = probed(folding)
    items = list(unique_items(map(Token, ids), BARE_IDS, FileTable()))
    distinct = items if fold is None else list(refuse_folded(items, FileTable(fold)))
    files = [item.file for item in distinct if isinstance(item, WorkItem)]
    on_disk = [FOLDINGS[folding](file) for file in files]
    assert len(set(on_disk)) == len(files)
    assert FOLDINGS[folding]("SHA256SUMS") not in {path.partition("/")[0] for path in on_disk}
    assert [item.code for item in distinct if item] == [item.code for item in items if item]
    for before, after in zip(items, distinct, strict=True):
        if isinstance(before, WorkItem) and isinstance(after, InvalidItem):
            path = FOLDINGS[folding](before.file)
            assert path in on_disk or path.startswith(FOLDINGS[folding]("SHA256SUMS"))


def test_a_directory_that_a_user_has_made_is_no_other_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names are folded if the own directory is found by another name that is not listed, whatever its inode number."""
    assert name_folding(tmp_path) is None
    (tmp_path / OWN_DIRECTORY).mkdir()
    (tmp_path / OWN_DIRECTORY.upper()).mkdir()
    assert name_folding(tmp_path) is None
    monkeypatch.setattr(Path, "iterdir", lambda root: iter([root / OWN_DIRECTORY]))
    fold = name_folding(tmp_path)
    assert fold is not None
    assert fold("Ab./C") == "ab./c"


def test_what_waits_in_a_pipe_is_passed_on() -> None:
    """A None among the items, and text that is no code, stay what they are."""
    invalid = InvalidItem("?")
    assert list(refuse_folded([None, invalid, None, invalid], FileTable(str.lower))) == [None, invalid, None, invalid]


@settings(deadline=None)
@given(
    text=st.text() | st.text("aZ0./@-_\0%\\~ #?\n\u00e4\ufb01", max_size=30),
    template=st.sampled_from([CODES, IDS, BARE_IDS, FANNED_OUT]),
)
@example("../../etc/passwd", BARE_IDS)
@example("..a", FANNED_OUT)
@example("a/../../b", BARE_IDS)
def test_every_file_lies_below_the_destination(text: str, template: UrlTemplate) -> None:
    """For any text, the file is in the destination, under exactly the path that was chosen, and not hidden."""
    for item in unique_items([Token(text)], template, FileTable()):
        if isinstance(item, WorkItem):
            assert normpath(f"/dest/{item.file}") == f"/dest/{item.file}"
            assert item.file.isprintable()
            assert visible(item.file) == item.file
            assert normalize("NFC", item.file) == item.file
            assert [
                part for part in item.file.split("/") if part.startswith(".") or not 0 < len(part.encode()) < 256
            ] == []


@settings(deadline=None)
@given(text=st.text(st.characters(), max_size=200))
def test_an_invalid_code_can_be_logged(text: str) -> None:
    """An invalid code is shown in at most 80 characters that UTF-8 can encode, undecodable arguments included."""
    for code in codes_of(unique_items([Token(text)], CODES, FileTable())):
        assert len(code.encode().decode()) <= 80


# Order and limit


def test_items_come_in_the_order_given() -> None:
    """Each item has the position of its first occurrence, valid or not."""
    assert selected("us", "c%", "cn", "US", "C%", "de") == ["US", "c%", "CN", "DE"]


@pytest.mark.parametrize(("limit", "codes"), [(None, ["CN", "US", "DE"]), (2, ["CN", "US"]), (9, ["CN", "US", "DE"])])
def test_the_limit_counts_distinct_codes(limit: int | None, codes: list[str]) -> None:
    """Duplicates do not count, and nothing is read after the limit."""
    source = iter(["cn", "CN", "us", "de"])
    assert codes_of(unique_items(map(Token, source), CODES, FileTable(), limit)) == codes
    assert list(source) == (["de"] if limit == 2 else [])


def test_codes_of_every_length_are_distinguished() -> None:
    """Short codes and long ones are remembered alike."""
    texts = ["A" * length for length in range(1, 65)]
    assert selected(*texts, *texts) == texts


# Standard input


@pytest.fixture
def pipe() -> Iterator[tuple[int, BinaryIO]]:
    """Yield the descriptor of a pipe's reading end, and its writing end."""
    reader, writer = os.pipe()
    with os.fdopen(reader, "rb"), os.fdopen(writer, "wb", buffering=0) as end:
        yield reader, end


Pipe = tuple[int, BinaryIO]


def pipe_tokens(descriptor: int, cancellation: Cancellation | None = None) -> Iterator[Token | None]:
    reader = PipeReader(descriptor, cancellation or Cancellation())
    return read_tokens(reader.chunks(), reader.is_interrupted)


def next_text(tokens: Iterator[Token | None]) -> str:
    return next(token.text for token in tokens if token)


def test_a_pipe_is_read_to_its_end(pipe: Pipe) -> None:
    """Everything that was written to a pipe is read, also the last token without a line end."""
    reader, end = pipe
    end.write(b"cn us\nde")
    end.close()
    assert list(pipe_tokens(reader)) == [Token("cn"), Token("us"), Token("de")]


def test_a_silent_pipe_delays_nobody(pipe: Pipe) -> None:
    """While a pipe has nothing, each request for a token is answered by None, until there is a token."""
    reader, end = pipe
    tokens = pipe_tokens(reader)
    end.write(b"cn us ")
    assert [next(tokens), next(tokens)] == [Token("cn"), Token("us")]
    assert [next(tokens), next(tokens), next(tokens)] == [None, None, None]
    end.write(b"de ")
    assert next_text(tokens) == "de"
    end.close()
    assert set(tokens) <= {None}


def test_bytes_that_were_waited_for_are_followed_by_none(pipe: Pipe) -> None:
    """A writer that is slow, but not slower than the wait, does not keep the reader from other work either."""
    reader, end = pipe
    tokens = pipe_tokens(reader)
    begun = Timer(0.01, end.write, [b"cn us "])
    begun.start()
    found = [next_text(tokens), next_text(tokens), next(tokens)]
    begun.join()
    assert found == ["cn", "us", None]


def test_a_pause_does_not_split_a_token(pipe: Pipe) -> None:
    """A token, a comment or a byte order mark in the middle of which the writer pauses is read as it was written."""
    reader, end = pipe
    tokens = pipe_tokens(reader)
    for part in (b"\xef\xbb", b"\xbf#no", b" no", b"\ngb-", b"eng"):
        end.write(part)
        assert [next(tokens), next(tokens)] == [None, None]
    end.write(b"\nus")
    end.close()
    assert [token.text for token in tokens if token] == ["gb-eng", "us"]


def test_a_limit_does_not_count_waits() -> None:
    """A None among the tokens stays one among the items, with and without a limit or a shard."""
    tokens = [None, Token("cn"), None, None, Token("us"), None, Token("de")]
    for is_owned in (None, Shard(0, 1).owns):
        limited = list(unique_items(tokens, CODES, FileTable(), 2, is_owned))
        assert [item and item.code for item in limited] == [None, "CN", None, None, "US"]
        every = list(unique_items(tokens, CODES, FileTable(), None, is_owned))
        assert [item and item.code for item in every] == [None, "CN", None, None, "US", None, "DE"]


def test_a_cancellation_ends_the_wait_for_a_silent_pipe(pipe: Pipe) -> None:
    """A reader that waits for the next code ends at a signal, although the pipe stays open and a token has begun."""
    cancellation = Cancellation()
    seen = SimpleQueue[str]()
    reader, end = pipe
    tokens = pipe_tokens(reader, cancellation)

    def read() -> None:
        for token in filter(None, tokens):
            seen.put(token.text)

    thread = Thread(target=read, daemon=True)
    thread.start()
    end.write(b"cn\nus")
    assert seen.get(timeout=BOUND) == "cn"
    cancellation.request(Reason.SIGNAL, 15)
    thread.join(BOUND)
    assert not thread.is_alive()
    assert seen.empty()


def test_an_end_that_comes_with_a_signal_drops_the_last_token(pipe: Pipe) -> None:
    """A signal that also ends the writer, as Ctrl-C does, leaves a last token that may be incomplete."""
    cancellation = Cancellation()
    reader, end = pipe
    tokens = pipe_tokens(reader, cancellation)
    end.write(b"cn u")
    assert next(tokens) == Token("cn")

    def interrupt() -> None:
        cancellation.request(Reason.SIGNAL, 2)
        end.close()

    timer = Timer(0.01, interrupt)
    timer.start()
    rest = list(tokens)
    timer.join()
    assert set(rest) <= {None}


def test_nothing_is_read_after_a_cancellation(pipe: Pipe) -> None:
    """A cancelled run reads no more codes, even if the pipe has some."""
    cancellation = Cancellation()
    cancellation.request(Reason.DEADLINE)
    reader, end = pipe
    end.write(b"cn\n")
    assert list(pipe_tokens(reader, cancellation)) == []
    assert os.read(reader, 9) == b"cn\n"


def sharded(words: Iterable[str], index: int, count: int, limit: int | None = None) -> list[str]:
    return codes_of(unique_items(map(Token, words), CODES, FileTable(), limit, Shard(index, count).owns))


@pytest.mark.parametrize("count", [1, 2, 3, 8, 100])
@pytest.mark.parametrize("limit", [None, 50])
def test_every_code_is_in_exactly_one_shard(count: int, limit: int | None) -> None:
    """For any number of shards, and in any case, each code belongs to exactly one of them."""
    words = [f"c{number}" for number in range(200)] + ["C7", "c?x", "c?x"]
    parts = [sharded(words, index, count, limit) for index in range(count)]
    whole = codes_of(unique_items(map(Token, words), CODES, FileTable(), limit))
    assert sorted(code for part in parts for code in part) == sorted(whole)
    assert len(whole) == (limit or 201)


def test_a_line_inserted_anywhere_moves_no_other_code() -> None:
    """The shard of a code depends on the code alone, not on its position in the list."""
    words = [f"c{number}" for number in range(1000)]
    before, after = sharded(words, 3, 8), sharded(["new", *reversed(words)], 3, 8)
    assert set(before) <= set(after)
    assert len(after) - len(before) <= 1


def test_shards_are_of_about_the_same_size() -> None:
    """The hash distributes similar codes evenly."""
    sizes = [len(sharded([f"c{number}" for number in range(8000)], index, 8)) for index in range(8)]
    assert min(sizes) > 800
    assert max(sizes) < 1200
