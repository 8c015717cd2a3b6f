"""The catalogue of faults, rows 36 to 40 and 71: invalid codes, lists, URL templates and settings."""

import codecs
import gzip
import json
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import pytest
from images import GIF
from inprocess import files_in, run_here
from rows import line_of, row
from scripted import Answer, ScriptedServer

from job.cli import main
from job.errors import UsageError
from job.exit_code import ExitCode
from job.settings import load, parse_arguments

CaptureBytes = pytest.CaptureFixture[bytes]


@row(36)
@pytest.mark.parametrize("template", ["/{cc}.gif", "/flags/{CC}/{cc}.gif?code={cc}", "/{id}"])
def test_an_invalid_code_is_never_requested(tmp_path: Path, template: str) -> None:
    """An invalid code has a result line, and no request and no file; the valid code among them is downloaded."""
    line = line_of("what is no code")
    hostile = [
        "../../etc/passwd",
        "cn/../us",
        "cn?x",
        "cn#f",
        "/cn",
        "cn/",
        ".cn",
        "c n",
        "\ufb01",
        "\uff43\uff4e",
        "c%6e" if "{cc}" in template else "c%6e\u200b",  # an id may hold a percent sign, which the URL encodes
    ]
    with ScriptedServer({template.format(cc="us", CC="US", id="us").partition("?")[0]: Answer(body=GIF)}) as server:
        done = run_here(*hostile, "us", dest=tmp_path, url=server.url(template), accept="gif")
        assert len(server.requests) == 1
    results = [[result["status"], result["reason"]] for result in done.events_named("result")]
    assert sorted(results, key=str) == sorted([line.words] * len(hostile) + [["ok", None]], key=str)
    assert (done.code, list(files_in(tmp_path).values())) == (line.exit_code, [GIF])


@row(37)
@pytest.mark.parametrize(
    "url",
    [
        "http://{cc}.example/a.gif",
        "http://127.0.0.1:{id}/a.gif",
        "http://{cc}@example.org/a.gif",
        "{cc}://example.org/a.gif",
        "http://example.org{cc}/a.gif",
        "http://example.org/a.gif#{cc}",
    ],
)
def test_a_code_cannot_choose_the_server(url: str) -> None:
    """A placeholder outside path and query is a usage error, so that no code can select another server."""
    with pytest.raises(UsageError) as caught:
        load(parse_arguments(["cn"]), {"FLAGJOB_URL": url})
    assert [fault.setting for fault in caught.value.faults] == ["FLAGJOB_URL"]


@row(38)
def test_an_untidy_list_is_one_request_a_code(tmp_path: Path) -> None:
    """BOM, CRLF, CR, blanks, comments, duplicates in any case and a missing last line end do not matter."""
    line = line_of("a list with BOM")
    (tmp_path / "codes").write_bytes(b"\xef\xbb\xbf# all of them\r\n cn\tBR\r\n\r\nCn, us # and\rbr\r\n#x\r\nUS\nde")
    codes = ["cn", "br", "us", "de"]
    with ScriptedServer({f"/{code}.gif": Answer(body=GIF) for code in codes}) as server:
        done = run_here(dest=tmp_path / "dest", url=server.url("/{cc}.gif"), codes_file=str(tmp_path / "codes"))
        assert sorted(request.target for request in server.requests) == sorted(f"/{code}.gif" for code in codes)
    assert (done.code, set(done.statuses.values())) == (line.exit_code, set(line.words))
    assert files_in(tmp_path / "dest") == {f"{code}.gif": GIF for code in codes}


def reject_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is no JSON")


@row(39)
def test_binary_codes_are_logged_in_strict_json(tmp_path: Path) -> None:
    """Each is one invalid code of at most 80 characters, whatever its length, without a request."""
    line = line_of("bytes that are no text")
    words = [b"c\x00n", b"\xff\xfe", b"x" * 3_000_000, b"\xc3", b"NaN!", b"\xed\xa0\x80", b"\x1b[31m", b'"\\']
    (tmp_path / "codes").write_bytes(b"\n".join(words))
    with ScriptedServer({}) as server:
        done = run_here(dest=tmp_path / "dest", url=server.url("/{cc}.gif"), codes_file=str(tmp_path / "codes"))
        assert server.connections == 0
    events = [json.loads(text, parse_constant=reject_constant) for text in done.stdout.splitlines()]
    results = [event for event in events if event["event"] == "result"]
    assert [[event["status"], event["reason"]] for event in results] == [line.words] * len(words)
    assert max(len(event["code"]) for event in results) == 80
    assert (done.code, files_in(tmp_path / "dest")) == (line.exit_code, {})


@row(68)
@pytest.mark.parametrize(
    "data",
    [
        "# all\r\ncn\r\nbr\r\n".encode("utf-16"),
        codecs.BOM_UTF16_BE + "cn br".encode("utf-16-be"),
        gzip.compress(b"cn\nbr\n", mtime=0),
        gzip.compress("cn\nbr\n".encode("utf-16"), mtime=0),
        "cn\u00a0br".encode(),
        "\u200bcn\u200d\n\u2060br\n\ufeff".encode(),
        b"\xef\xbb\xbf\xef\xbb\xbfcn\nbr\n",
        b"\xef\xbb\xbf\xef\xbb\xbf# cn, br, us\ncn\n\xef\xbb\xbfbr\n",
    ],
    ids=["utf-16", "utf-16-be", "gzip", "both", "nbsp", "zero-width", "bom", "boms"],
)
def test_lists_of_other_programs_are_read(tmp_path: Path, data: bytes) -> None:
    """UTF-16, gzip, blanks that are none of ASCII's and characters without width are read as they look."""
    line = line_of("a list in UTF-16")
    (tmp_path / "codes").write_bytes(data)
    with ScriptedServer({f"/{code}.gif": Answer(body=GIF) for code in ("cn", "br")}) as server:
        done = run_here(dest=tmp_path / "dest", url=server.url("/{cc}.gif"), codes_file=str(tmp_path / "codes"))
        assert sorted(request.target for request in server.requests) == ["/br.gif", "/cn.gif"]
    assert (done.code, set(done.statuses.values())) == (line.exit_code, set(line.words))
    assert files_in(tmp_path / "dest") == {"br.gif": GIF, "cn.gif": GIF}


@row(68)
def test_what_cannot_be_seen_in_a_code_is_shown(tmp_path: Path) -> None:
    """A code that looks right, but is not, is shown with what is wrong about it, in JSON and on a console."""
    line = line_of("a code with a character")
    (tmp_path / "codes").write_text("c\u200bn\nb\u202er\nu\u0430\n", "utf-8")
    with ScriptedServer({}) as server:
        url = server.url("/{cc}.gif")
        done = run_here(dest=tmp_path / "dest", url=url, codes_file=str(tmp_path / "codes"))
        shown = run_here(dest=tmp_path / "dest", url=url, codes_file=str(tmp_path / "codes"), log_format="console")
        assert server.connections == 0
    results = {event["code"]: [event["status"], event["reason"]] for event in done.events_named("result")}
    assert results == dict.fromkeys([r"c\u200bn", r"b\u202er", "u\u0430"], line.words)
    assert done.code == line.exit_code
    for text in (done.stdout.decode(), shown.stdout.decode()):
        assert text.replace("\n", "").isprintable()
    assert [code in shown.stdout.decode() for code in results] == [True] * 3


@pytest.mark.usefixtures("handlers")
@row(68)
@pytest.mark.parametrize(
    ("data", "seeming"),
    [
        (b'"code","name"\r\n"BR","Brazil"\r\n', "CSV"),
        (b"code;name\r\nBR;Brazil\r\n", "semicolons"),
        (b"PK\x03\x04\x14\x00\x06\x00", "Excel"),
        (b'["BR", "CN"]', "JSON"),
        ("BR\nCN\n".encode("utf-16-le"), "UTF-16"),
        (gzip.compress(b"br\ncn\n", mtime=0)[:-4], "gzip without its end"),
    ],
    ids=["csv", "semicolons", "xlsx", "json", "utf-16", "gzip"],
)
def test_a_list_of_another_kind_is_one_usage_error(
    tmp_path: Path, capsysbinary: CaptureBytes, data: bytes, seeming: str
) -> None:
    """A file that is no list is one line that says what it seems to be; nothing is attempted."""
    line = line_of("a list that is a CSV file")
    (tmp_path / "codes").write_bytes(data)
    with ScriptedServer({}) as server:
        dest = str(tmp_path / "dest")
        code = main(["--dest", dest, "--url", server.url("/{cc}.gif"), "--codes-file", str(tmp_path / "codes")])
        assert server.connections == 0
    (error,) = map(json.loads, capsysbinary.readouterr().out.splitlines())
    assert (code, error["event"], error["setting"]) == (line.exit_code, "usage_error", "codes")
    assert seeming in error["problem"]
    assert not (tmp_path / "dest").exists()


@row(68)
def test_a_long_list_that_is_cut_ends_the_run(tmp_path: Path) -> None:
    """Compressed codes that came before the cut are attempted; then the run says what is wrong and is no success."""
    line = line_of("a long list in gzip")
    codes = [f"x{number}" for number in range(20_000)]
    (tmp_path / "codes").write_bytes(gzip.compress("\n".join(codes).encode(), 1)[:-5000])
    with ScriptedServer({}) as server:
        url = server.url("/{cc}.gif")
        done = run_here(dest=tmp_path / "dest", url=url, codes_file=str(tmp_path / "codes"), workers="2", limit="19999")
    (error,) = done.events_named("storage_error")
    assert error["problem"] == "the rest of the list cannot be read: it is gzip without its end"
    assert done.code == line.exit_code
    assert 2 < len(done.statuses) < len(codes)


def _identity(path: Path) -> tuple[int, int]:
    stat = path.lstat()
    return stat.st_ino, stat.st_mtime_ns


@row(68)
@pytest.mark.parametrize("packing", [bytes, gzip.compress], ids=["plain", "gzip"])
@pytest.mark.parametrize("name", ["codes", "codes.csv", "codes.jsonl"])
@pytest.mark.parametrize("publish", ["each", "set"])
def test_a_short_list_requests_nothing(
    tmp_path: Path, packing: Callable[[bytes], bytes], name: str, publish: str
) -> None:
    """A list or a table cut to a tenth is a usage error before the first request; readers see what they saw."""
    line = line_of("a list with fewer codes than")
    codes = [f"x{number}" for number in range(100)]
    head = "cc\n" if name.endswith(".csv") else ""
    form = '{{"cc": "{}"}}\n' if name.endswith(".jsonl") else "{}\n"
    dest = tmp_path / "dest"

    def listed(chosen: list[str]) -> bytes:
        return packing((head + "".join(map(form.format, chosen))).encode())

    with ScriptedServer({f"/{code}.gif": Answer(body=GIF) for code in codes}) as server:
        settings = {
            "url": server.url("/{cc}.gif"),
            "codes_file": str(tmp_path / name),
            "min_codes": "90",
            "publish": publish,
        }
        (tmp_path / name).write_bytes(listed(codes))
        assert run_here(dest=dest, **settings).code == 0
        seen = {path: _identity(path) for path in dest.rglob("*")}
        (tmp_path / name).write_bytes(listed(codes[:10]))
        with pytest.raises(UsageError, match=r"must be 90 at least .* has 10; nothing was requested"):
            run_here(dest=dest, **settings)
        assert len(server.requests) == len(codes)
    assert {path: _identity(path) for path in dest.rglob("*")} == seen
    readers = dest / "current" if publish == "set" else dest
    assert len(list(readers.glob("x*.gif"))) == len(codes)
    assert line.exit_code == ExitCode.USAGE


@pytest.fixture
def handlers() -> Iterator[None]:
    """Restore the signal handlers after the test."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@row(40)
@pytest.mark.usefixtures("handlers")
@pytest.mark.parametrize(
    ("arguments", "setting"),
    [
        (["--codes-file", "empty"], "codes"),
        (["--codes-file", "missing"], "--codes-file"),
        (["cn", "--url", "ftp://127.0.0.1/{cc}.gif"], "--url"),
        (["cn", "--url", "http://127.0.0.1/cn.gif"], "--url"),
        (["cn", "--workers", "many"], "--workers"),
        (["cn", "--max-errors", "-1"], "--max-errors"),
    ],
)
def test_a_usage_error_is_one_message(
    tmp_path: Path, capsysbinary: CaptureBytes, monkeypatch: pytest.MonkeyPatch, arguments: list[str], setting: str
) -> None:
    """A usage error is exit code 2 and one line that names the setting, without a request or a destination."""
    line = line_of("no codes")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").write_bytes(b"# nothing\r\n")
    with ScriptedServer({"/cn.gif": Answer(body=GIF)}) as server:
        code = main(["--dest", "dest", "--url", server.url("/{cc}.gif"), *arguments])
        assert server.connections == 0
    (error,) = map(json.loads, capsysbinary.readouterr().out.splitlines())
    assert (code, error["event"], error["setting"]) == (line.exit_code, "usage_error", setting)
    assert not (tmp_path / "dest").exists()
