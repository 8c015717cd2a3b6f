"""The parsers of settings, and the redaction of texts that are printed."""

from collections.abc import Callable

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from job import redaction
from job.errors import UsageError
from job.model import Budget, FileType
from job.settings import OPTIONS, LogFormat, ServeOptions, SimulateOptions, parsers
from job.settings.options import Option, options_of
from job.settings.parsers import Address
from job.storage.bucket import location_of

SECRET = "hunter2"  # noqa: S105  (an example of one)
NEARLY = st.text(st.sampled_from("0123456789.,%:/@{}[]# kKmMgGtTiIbBsShHdD\u0663\u00b2\u212a\0\udcff"))
EVERY_ROW = (*OPTIONS, *options_of(ServeOptions), *options_of(SimulateOptions))
PARSERS = {option.parse.__qualname__: option.parse for option in EVERY_ROW}


@pytest.mark.parametrize("parse", PARSERS.values(), ids=PARSERS)
@settings(max_examples=50, deadline=None)
@given(text=st.one_of(st.text(), NEARLY, st.from_regex(r"\Ahttps?://[!-~]*\{(cc|id)\}[!-~]*\Z")))
@pytest.mark.slow
def test_any_text(parse: Callable[[str], object], text: str) -> None:
    """For every text a parser returns a value that is not None, or raises ValueError with words."""
    try:
        value = parse(text)
    except ValueError as error:
        assert str(error).startswith("must ")  # noqa: PT017  (either end is right)
    else:
        assert value is not None


@pytest.mark.parametrize("option", [option for option in EVERY_ROW if option.default], ids=lambda option: option.name)
def test_defaults(option: Option) -> None:
    """Each default is a text that its own parser accepts."""
    assert option.default
    assert option.parse(option.default) is not None


@given(number=st.integers(1, 1000))
@example(number=1)
@example(number=1000)
def test_whole_numbers_round_trip(number: int) -> None:
    """A whole number in its range is read as written, with any number of leading zeros."""
    assert parsers.whole(1, 1000)(str(number)) == number
    assert parsers.whole(1, 1000)(f"{number:015}") == number


@given(number=st.integers(min_value=1001))
@example(number=int("1".zfill(16) + "999999"))
def test_whole_numbers_out_of_range(number: int) -> None:
    """A number above the range is refused, however many digits or leading zeros it has."""
    for text in (str(number), f"{number:030}", "0000000000000001" + str(number)):
        with pytest.raises(ValueError) as caught:
            parsers.whole(1, 1000)(text)
        assert str(caught.value) == "must be a whole number from 1 to 1000"


@given(milliseconds=st.integers(100, 86_400_000))
def test_times_round_trip(milliseconds: int) -> None:
    """A time is the same number of seconds in each notation."""
    parse = parsers.seconds(0.1, 86400)
    seconds = milliseconds / 1000
    assert parse(f"{milliseconds}ms") == seconds
    assert parse(f"{milliseconds // 1000}.{milliseconds % 1000:03}") == seconds
    assert parse(f"{milliseconds // 1000}.{milliseconds % 1000:03} s") == seconds


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("500ms", 0.5), ("90", 90), ("1.5", 1.5), ("2s", 2), ("5m", 300), ("1.5h", 5400), ("1d", 86400)],
)
def test_units_of_time(text: str, seconds: float) -> None:
    """Times take ms, s, m, h and d; without a unit they are seconds."""
    assert parsers.seconds(0, 86400)(text) == seconds


@given(number=st.integers(1, 1024), exponent=st.integers(0, 3))
def test_sizes_round_trip(number: int, exponent: int) -> None:
    """A size is read in decimal and in binary units, in upper and lower case."""
    unit = " kMGT"[exponent].strip()
    assert parsers.size(str(number * 1024**exponent)) == number * 1024**exponent
    assert parsers.size(f"{number} {unit}{'iB' if unit else 'B'}") == number * 1024**exponent
    assert parsers.size(f"{number}{unit}b".lower()) == number * 1000**exponent
    assert parsers.size(f"{number}{unit}".upper()) == number * 1000**exponent


@pytest.mark.parametrize(("text", "size"), [("1.5kB", 1500), ("0.5MiB", 524288), ("1TiB", 1024**4), ("7b", 7)])
def test_sizes(text: str, size: int) -> None:
    """Sizes may be fractions of a unit, up to one TiB."""
    assert parsers.size(text) == size


@pytest.mark.parametrize(
    ("text", "budget"),
    [("0", Budget(0)), ("3", Budget(3)), ("5%", Budget(0.05, is_share=True)), ("100%", Budget(1, is_share=True))],
)
def test_budgets(text: str, budget: Budget) -> None:
    """A budget is a number of items or a share of them."""
    assert parsers.budget(text) == budget


def test_file_types() -> None:
    """File types take commas and blanks, either case, and count once, in the order given."""
    assert parsers.several(FileType)("any,gif") == (FileType.ANY, FileType.GIF)
    assert parsers.several(FileType)(" ".join(FileType)) == tuple(FileType)
    assert parsers.several(FileType)(" PNG gif, png ") == (FileType.PNG, FileType.GIF)


def test_one_word_of_several() -> None:
    """A choice may be in upper or lower case."""
    assert parsers.choice(LogFormat)("JSON") is LogFormat.JSON


@pytest.mark.parametrize(
    ("text", "address"),
    [
        (":9464", Address("", 9464)),
        ("127.0.0.1:0", Address("127.0.0.1", 0)),
        ("localhost:65535", Address("localhost", 65535)),
        ("[::1]:9464", Address("::1", 9464)),
    ],
)
def test_addresses(text: str, address: Address) -> None:
    """An address is an optional host and a port, IPv6 in brackets; its text is the one that was parsed."""
    assert parsers.address(text) == address
    assert str(address) == text


def test_hosts() -> None:
    """Hosts are compared in lower case, and IPv6 ones without the brackets, as URLs are taken apart."""
    assert parsers.hosts("CDN.example.org, [::1] b") == ("cdn.example.org", "::1", "b")


@given(thousandths=st.integers(0, 10**9))
@example(thousandths=10**9)
def test_rates_round_trip(thousandths: int) -> None:
    """A rate is a number of requests a second up to a million, also a fraction."""
    assert parsers.rate(f"{thousandths // 1000}.{thousandths % 1000:03}") == thousandths / 1000


@pytest.mark.parametrize("text", ["1000000.001", "-1", "", "1.", ".5", "inf", "1e3", "1 ", "1\n", "2/s"])
def test_rates_that_are_none(text: str) -> None:
    """A rate is a plain number of requests a second."""
    with pytest.raises(ValueError) as caught:
        parsers.rate(text)
    assert str(caught.value) == "must be a number of requests a second, up to 1000000, or 0 for no limit"


@given(thousandths=st.integers(0, 1000))
@example(thousandths=1000)
def test_fractions_round_trip(thousandths: int) -> None:
    """A fraction from 0 to 1 is read as written."""
    assert parsers.fraction(f"{thousandths // 1000}.{thousandths % 1000:03}") == thousandths / 1000


@pytest.mark.parametrize("text", ["1.001", "-0.1", "25%", "", ".5", "nan", "0.5\n"])
def test_fractions_that_are_none(text: str) -> None:
    """A fraction is no percentage, and at most 1."""
    with pytest.raises(ValueError) as caught:
        parsers.fraction(text)
    assert str(caught.value) == "must be a share from 0 to 1, such as 0.25"


@pytest.mark.parametrize(
    ("text", "times"),
    [
        ("0.5-5", (0.5, 5)),
        ("500ms-5s", (0.5, 5)),
        ("2", (2, 2)),
        ("1-1", (1, 1)),
        ("0", (0, 0)),
        ("0-1h", (0, 3600)),
    ],
)
def test_spans(text: str, times: tuple[float, float]) -> None:
    """A range of times is one time, or the smallest and the largest, with any units."""
    assert parsers.span(text) == times


@pytest.mark.parametrize("text", ["5-", "5-0.5", "-5", "-", "", "1-2-3", "0.5 to 5", "1-3601", "1--2"])
def test_spans_that_are_none(text: str) -> None:
    """Of two times the smaller comes first, and both are times of an hour at most."""
    with pytest.raises(ValueError) as caught:
        parsers.span(text)
    assert str(caught.value) == "must be a time up to 3600 seconds, or two as 0.5-5, the smaller first"


@pytest.mark.parametrize(
    ("text", "host"),
    [("127.0.0.1", "127.0.0.1"), ("localhost", "localhost"), ("::1", "::1"), ("[::1]", "::1"), ("0.0.0.0", "0.0.0.0")],  # noqa: S104  (a text)
)
def test_a_host(text: str, host: str) -> None:
    """A host is a name or an address; an IPv6 one may stand in brackets, which are dropped."""
    assert parsers.host(text) == host


@pytest.mark.parametrize("text", ["", "a b", "http://localhost", "localhost:8000", "-a", "a,b", "[::1", "a\n"])
def test_hosts_that_are_none(text: str) -> None:
    """A host has neither scheme nor port."""
    with pytest.raises(ValueError) as caught:
        parsers.host(text)
    assert str(caught.value) == "must be an address or a host name, such as 127.0.0.1"


@given(
    text=st.builds(
        "{}{}".format,
        st.sampled_from(["s3://", "gs://", "az://", "s3:///", "gs://a", "az://a/"]),
        st.text("aZ0._=-/@?# \n\u00e9", max_size=12),
    )
)
@example(text="s3://a/")
@example(text="s3://a//")
@example(text="s3://a/..")
@example(text="s3://a/...")
@example(text="s3://a\n")
def test_buckets(text: str) -> None:
    """The parser accepts exactly the URLs of buckets that the storage accepts, so that wrong ones are faults."""
    taken = []
    for parse in (parsers.destination, location_of):
        try:
            parse(text)
        except (ValueError, UsageError):
            taken.append(False)
        else:
            taken.append(True)
    assert taken in ([True, True], [False, False])


def test_a_header_line() -> None:
    """Blanks around the text of a header are dropped."""
    assert parsers.line(" mirror/1.0 (ops@example.org) ") == "mirror/1.0 (ops@example.org)"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://example.org/{cc}.gif", "https://example.org/{cc}.gif"),
        (f"https://example.org/{{cc}}.gif?token={SECRET}&size=1", "https://example.org/{cc}.gif?***"),
        (f"https://example.org/{{cc}}.gif#{SECRET}", "https://example.org/{cc}.gif#***"),
        (f"https://me:{SECRET}@example.org/{{cc}}.gif", "https://***@example.org/{cc}.gif"),
        (f"https://me:a/b@c?{SECRET}@example.org/{{cc}}.gif", "https://***@example.org/{cc}.gif"),
        (f"https://me:{SECRET}\n@example.org/{{cc}}?\n{SECRET}", "https://***@example.org/{cc}?***"),
        (f"me:{SECRET}@example.org/{{cc}}.gif", "***"),
        (f"me:{SECRET}@example.org/{{cc}}?next=http://example.org", "***"),
        (SECRET, "***"),
    ],
)
def test_urls_are_redacted(text: str, shown: str) -> None:
    """User, password and query of a URL are not shown, even if it is malformed."""
    assert redaction.url(text) == shown


@given(secret=st.text(min_size=8), before=st.text("ab:/@?", max_size=5), after=st.text("ab:/@?", max_size=5))
def test_no_password_is_shown(secret: str, before: str, after: str) -> None:
    """No password of a URL is shown, with any characters."""
    secret = f"{before}{secret}{after}"
    assert secret not in redaction.url(f"https://me:{secret}@example.org/{{cc}}.gif")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("/run/secrets/headers", "/run/secrets/headers"),
        ("secrets/headers", "secrets/headers"),
        (f"Authorization: Bearer {SECRET}", "***"),
        (f"X-Api-Key:{SECRET}", "***"),
        (f"X-Api-Key: {SECRET}\u00e9", "***"),
        (f"https://example.org/?{SECRET}", "***"),
    ],
)
def test_secrets_in_the_place_of_paths_are_redacted(text: str, shown: str) -> None:
    """A header or a URL in the place of a file's path is not shown."""
    assert redaction.path(text) == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("flags@home", "flags@home"),
        ("s3://bucket/flags", "s3://bucket/flags"),
        (f"s3://key:{SECRET}@bucket/flags", "s3://***@bucket/flags"),
        (f"https://bucket.example.org/?sig={SECRET}", "https://bucket.example.org/?***"),
    ],
)
def test_destinations_are_redacted(text: str, shown: str) -> None:
    """A directory is shown; the part of a URL that may be a key to a bucket is not."""
    assert redaction.destination(text) == shown


def test_bytes_that_are_no_utf_8_are_printable() -> None:
    """Bytes that are not UTF-8 are shown with backslashes, so that strict JSON can contain them."""
    assert redaction.plain("a\udcffz\u00e9") == "a\\xffz\u00e9"


def test_characters_that_cannot_be_seen_are_escaped() -> None:
    """A no-break space, a zero-width one, a control character or a filler does not hide in a text."""
    assert redaction.visible("down\u200bloads \u00e9\u00a0\x1b\u3164") == r"down\u200bloads é\xa0\x1b\u3164".replace(
        r"\u00e9", "\u00e9"
    )


def test_long_texts_are_cut() -> None:
    """Only the first 200 characters of a long text are shown."""
    assert redaction.plain("x" * 200) == "x" * 200
    assert redaction.plain("x" * 201) == "x" * 200 + "..."
