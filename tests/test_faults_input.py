"""The catalogue of faults, rows 36 to 40: invalid codes, lists, URL templates and settings."""

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest
from images import GIF
from inprocess import files_in, run_here
from rows import line_of, row
from scripted import Answer, ScriptedServer

from job.cli import main
from job.errors import UsageError
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
        "c%6e",
        "cn?x",
        "cn#f",
        "/cn",
        "cn/",
        ".cn",
        "c n",
        "\ufb01",
        "\uff43\uff4e",
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
    words = [b"\xff\xfe", b"c\x00n", b"x" * 3_000_000, b"\xc3", b"NaN!", b"\xed\xa0\x80", b"\x1b[31m", b'"\\']
    (tmp_path / "codes").write_bytes(b"\n".join(words))
    with ScriptedServer({}) as server:
        done = run_here(dest=tmp_path / "dest", url=server.url("/{cc}.gif"), codes_file=str(tmp_path / "codes"))
        assert server.connections == 0
    events = [json.loads(text, parse_constant=reject_constant) for text in done.stdout.splitlines()]
    results = [event for event in events if event["event"] == "result"]
    assert [[event["status"], event["reason"]] for event in results] == [line.words] * len(words)
    assert max(len(event["code"]) for event in results) == 80
    assert (done.code, files_in(tmp_path / "dest")) == (line.exit_code, {})


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
