"""URL templates: which texts are rejected, and that a code changes only its own part of a URL."""

from dataclasses import FrozenInstanceError
from urllib.parse import unquote, urlsplit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from job.template import FileTemplate, UrlTemplate

NOT_ASCII = "must be a URL in ASCII, with other characters percent-encoded"
UNREADABLE = "must be a URL with a host, and if it names a port, one from 1 to 65535"
IN_HOST = "must have its placeholder in the path or the query, never in the host"
NO_HTTP = "must begin with http:// or https:// and name a host"
NO_USER = "must hold no user and password: put an Authorization line into FLAGJOB_HEADERS_FILE"
NO_FRAGMENT = "must have no fragment (#...): it is never sent"
PLACEHOLDER = (
    "must hold {cc} or {CC} (a code in lower or upper case), or {id} (verbatim); "
    "other {...} only where the list is a table (.csv, .tsv, .jsonl)"
)
BRACES = "must hold no braces but those of its placeholder"

CODES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", fullmatch=True)
CHARACTERS = r"-A-Za-z0-9_@+~'():=,%\u00e4\u0646\u6f22"
SEGMENT = rf"[{CHARACTERS}][{CHARACTERS}.]{{0,20}}"
IDS = st.from_regex(rf"{SEGMENT}(/{SEGMENT}){{0,3}}", fullmatch=True)


def problem(text: str) -> str:
    with pytest.raises(ValueError) as caught:
        UrlTemplate.parse(text)
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("http://h/{cc} .gif", NOT_ASCII),
        (" http://h/{cc}", NOT_ASCII),
        ("http://h/{cc}\n", NOT_ASCII),
        ("http://h/\t{cc}", NOT_ASCII),
        ("http://h/{cc}\0", NOT_ASCII),
        ("http://h/fl\u00e4ge/{cc}", NOT_ASCII),
        ("http://\uff48/{cc}", NOT_ASCII),
        ("http://h\\@evil/{cc}", NOT_ASCII),
        ('http://h/"{cc}"', NOT_ASCII),
        ("http://h/%{cc}", NOT_ASCII),
        ("http://h/%2{cc}", NOT_ASCII),
        ("http://h/%zz/{cc}", NOT_ASCII),
        ("http://{cc}.example.org/", IN_HOST),
        ("http://example.org{id}", IN_HOST),
        ("http://h:{cc}/", IN_HOST),
        ("http://{cc}:password@h/{cc}", IN_HOST),
        ("https://{}/{cc}", IN_HOST),
        ("", NO_HTTP),
        ("{cc}", NO_HTTP),
        ("/{cc}.gif", NO_HTTP),
        ("//h/{cc}", NO_HTTP),
        ("h/{cc}", NO_HTTP),
        ("ftp://h/{cc}", NO_HTTP),
        ("file:///etc/{id}", NO_HTTP),
        ("javascript:alert({cc})", NO_HTTP),
        ("{cc}://h/{cc}", NO_HTTP),
        ("http:{cc}", NO_HTTP),
        ("http:///{cc}", NO_HTTP),
        ("http://?{cc}", NO_HTTP),
        ("http://:80/{cc}", NO_HTTP),
        ("http://user@h/{cc}", NO_USER),
        ("http://user:secret@h/{cc}", NO_USER),
        ("http://h@127.0.0.1:80@evil/{cc}", NO_USER),
        ("http://[::1/{cc}", UNREADABLE),
        ("http://[::1]evil/{cc}", UNREADABLE),
        ("http://[evil]/{cc}", UNREADABLE),
        ("http://h:0/{cc}", UNREADABLE),
        ("http://h:65536/{cc}", UNREADABLE),
        ("http://h:99999999/{cc}", UNREADABLE),
        ("http://h:/{cc}", UNREADABLE),
        ("http://h:80:80/{cc}", UNREADABLE),
        ("http://h{/{cc}", UNREADABLE),
        ("http://h}/{cc}", UNREADABLE),
        ("http://h%2eevil/{cc}", UNREADABLE),
        ("http://a,b/{cc}", UNREADABLE),
        ("http://h/{cc}#top", NO_FRAGMENT),
        ("http://h/{cc}#", NO_FRAGMENT),
        ("http://h/#{cc}", NO_FRAGMENT),
        ("http://h/flag.gif", PLACEHOLDER),
        ("http://h/{}", PLACEHOLDER),
        ("http://h/%7Bcc%7D", PLACEHOLDER),
        ("http://h/{cc}{", BRACES),
        ("http://h/}{cc}", BRACES),
        ("http://h/{{cc}}", BRACES),
        ("http://h/{c{cc}c}", BRACES),
        ("http://h/{id}?{", BRACES),
    ],
)
def test_each_rejected_template_has_its_message(text: str, message: str) -> None:
    """A template that could lead to the wrong server, or to none, is rejected with one clear message."""
    assert problem(text) == message


@pytest.mark.parametrize("text", ["https://token:s3cret/{cc}", "https://s3cret[/{cc}", "https://[s3cret]/{cc}"])
def test_no_message_repeats_a_secret(text: str) -> None:
    """A mistyped user and password does not appear in the log."""
    with pytest.raises(ValueError) as caught:
        UrlTemplate.parse(text)
    assert "s3cret" not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    ("text", "code", "url"),
    [
        ("http://h/{cc}.gif", "Cn", "http://h/cn.gif"),
        ("http://h/{CC}.gif", "cn", "http://h/CN.gif"),
        ("http://h/{cc}/{CC}/{cc}", "Gb-Eng", "http://h/gb-eng/GB-ENG/gb-eng"),
        ("http://h/{id}.png", "7/66/42", "http://h/7/66/42.png"),
        ("https://h/{id}", "aB@c.com", "https://h/aB@c.com"),
        ("http://h/{id:.2}/{id}.png", "a+b", "http://h/a%2B/a%2Bb.png"),
        ("http://h/{cc:.1}/{CC}", "Br", "http://h/b/BR"),
        ("http://h/flag?code={cc}&size=2", "CN", "http://h/flag?code=cn&size=2"),
        ("http://h?{CC}", "cn", "http://h?CN"),
        ("HTTP://[::1]:65535/%7B{cc}", "CN", "HTTP://[::1]:65535/%7Bcn"),
        ("http://h_1.example.org:1/{cc}", "CN", "http://h_1.example.org:1/cn"),
    ],
)
def test_a_code_replaces_its_placeholder(text: str, code: str, url: str) -> None:
    """`{cc}` becomes the code in lower case, `{CC}` in upper case, `{id}` the ID verbatim, at every occurrence."""
    assert UrlTemplate.parse(text).url(code) == url


@pytest.mark.parametrize(
    ("text", "takes_ids"), [("http://h/{id}", True), ("http://h/{cc}", False), ("http://h/{CC}", False)]
)
def test_the_placeholder_decides_between_codes_and_ids(text: str, takes_ids: bool) -> None:  # noqa: FBT001  (a parameter of a table)
    """The template alone decides whether items are codes or IDs."""
    assert UrlTemplate.parse(text).takes_ids == takes_ids


@pytest.mark.parametrize(
    ("text", "suffix"),
    [
        ("http://h/{cc}.gif", ".gif"),
        ("http://h/{cc}/flag.GIF", ".GIF"),
        ("http://h/{cc}.tar.gz", ".gz"),
        ("http://h/flag.php?c={cc}.gif", ".php"),
        ("http://h/{cc}.abcdefghijklmnop", ".abcdefghijklmnop"),
        ("http://h/{cc}.abcdefghijklmnopq", ""),
        ("http://h/{cc}", ""),
        ("http://h?{cc}.gif", ""),
        ("http://h/v1.2/{cc}", ""),
        ("http://h/flag.{cc}", ""),
        ("http://h/{cc}.{cc}", ""),
        ("http://h/{id}.", ""),
        ("http://h/.hidden?{cc}", ""),
        ("http://h/{cc}.g%69f", ""),
        ("http://h/{cc}.gif;v=1", ""),
    ],
)
def test_a_file_takes_the_suffix_of_the_path(text: str, suffix: str) -> None:
    """The suffix is literal text of the template's path: never of its query, a placeholder, or odd characters."""
    assert UrlTemplate.parse(text).suffix == suffix


@pytest.mark.parametrize(
    ("text", "code", "file"),
    [
        ("http://h/{CC}.gif", "CN", "cn.gif"),
        ("http://h/{cc}", "GB-ENG", "gb-eng"),
        ("http://h/{id}.png", "7/66/42", "7/66/42.png"),
        ("http://h/{id}", "aB", "aB"),
    ],
)
def test_a_file_is_named_after_its_code(text: str, code: str, file: str) -> None:
    """The file name is the code in lower case, or the ID verbatim, with the suffix."""
    assert UrlTemplate.parse(text).file(code) == file


@pytest.mark.parametrize(
    ("naming", "url", "code", "file"),
    [
        ("{id:.2}/{id}.png", "http://h/{id}", "acme.com", "ac/acme.com.png"),
        ("{id:.2}/{id}.png", "http://h/{id}", "7", "7/7.png"),
        ("{id:.2}/{id:.99}", "http://h/{id}.png", "\u00e4\u00f6\u00fc", "\u00e4\u00f6/\u00e4\u00f6\u00fc"),
        ("{cc:.1}/{CC}-flag", "http://h/{cc}.gif", "Br", "b/BR-flag"),
    ],
)
def test_a_naming_makes_the_name_of_a_file(naming: str, url: str, code: str, file: str) -> None:
    """`{id:.2}` is the first two characters, or as many as there are, as Python cuts."""
    template = UrlTemplate.parse(url)
    named = template.with_naming(FileTemplate.parse(naming))
    assert named.file(code) == file
    assert named.url(code) == template.url(code)


def test_the_suffix_of_a_naming_comes_first() -> None:
    """Files have the suffix of their own template; where that has none, the URL's still tells their type."""
    template = UrlTemplate.parse("http://h/{id}.php")
    assert template.with_naming(FileTemplate.parse("{id}.png")).suffix == ".png"
    assert template.with_naming(FileTemplate.parse("a.b/{id}")).suffix == ".php"


def test_a_template_cannot_be_changed() -> None:
    """A template is immutable, so threads that share it use the URL that was checked."""
    template = UrlTemplate.parse("http://h/{cc}")
    with pytest.raises(FrozenInstanceError):
        template.text = "http://evil/{cc}"  # type: ignore[misc]  # (the test tries it)
    assert template.text == "http://h/{cc}"


def test_the_origin_is_scheme_host_and_port() -> None:
    """The origin has no path and query, is in lower case, and omits the default port."""
    assert UrlTemplate.parse("HTTPS://Example.org:8443/a/{cc}?key=1").origin == "https://example.org:8443"
    assert UrlTemplate.parse("https://example.org:443/{cc}").origin == "https://example.org"
    assert UrlTemplate.parse("http://[::1]:80/{cc}").origin == "http://[::1]"
    assert UrlTemplate.parse("http://example.org:443/{cc}").origin == "http://example.org:443"


@settings(deadline=None)
@given(
    code=CODES,
    text=st.sampled_from(
        [
            "http://h/{cc}.gif",
            "https://h:8443/{cc}/{CC}/{cc}.gif",
            "http://h/..{cc}/x",
            "http://h/a/{CC}..",
            "http://h/%2e{cc}",
            "http://h/a@{cc}:80/{cc}",
            "http://h/a?x={cc}&y={CC}",
            "http://h?{cc}",
        ]
    ),
)
def test_no_code_changes_where_a_request_goes(code: str, text: str) -> None:
    """For any code, scheme, host, port, path depth and query fields are the template's."""
    template, url = urlsplit(text), urlsplit(UrlTemplate.parse(text).url(code))
    assert (url.scheme, url.netloc, url.fragment) == (template.scheme, template.netloc, "")
    assert url.path.count("/") == template.path.count("/")
    assert {".", ".."}.isdisjoint(url.path.split("/"))
    assert (url.query.count("&"), url.query.count("=")) == (template.query.count("&"), template.query.count("="))


@settings(deadline=None)
@given(
    code=IDS,
    text=st.sampled_from(["http://h/{id}.png", "https://h:8443/a/.{id}/b", "http://h/{id}.", "http://h/a?x={id}"]),
)
def test_no_id_changes_where_a_request_goes(code: str, text: str) -> None:
    """An ID adds its own segments to the path, as the server decodes it, and changes nothing else."""
    template, url = urlsplit(text), urlsplit(UrlTemplate.parse(text).url(code))
    assert (url.scheme, url.netloc, url.fragment) == (template.scheme, template.netloc, "")
    assert url.path.count("/") == template.path.count("/") + template.path.count("{id}") * code.count("/")
    assert {"", ".", ".."}.isdisjoint(url.path.split("/")[1:])
    assert unquote(url.path) == unquote(template.path.replace("{id}", code.replace("%", "%25")))
    assert unquote(url.query) == template.query.replace("{id}", code)
    assert (url.query.count("&"), url.query.count("=")) == (template.query.count("&"), template.query.count("="))


def test_a_placeholder_has_the_name_of_any_column() -> None:
    """Blanks and letters of any script may stand in a placeholder, because they never reach a URL."""
    template = UrlTemplate.parse("https://h/{first name}/{stra\u00dfe:.2}.png")
    assert template.placeholders == ["first name", "stra\u00dfe"]
    assert template.render({"first name": "a b", "stra\u00dfe": "\u00fcber"}) == "https://h/a%20b/%C3%BCb.png"
