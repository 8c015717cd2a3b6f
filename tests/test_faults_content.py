"""The catalogue of faults, rows 67 and 69: pictures that are cut, or stand for pictures that are gone."""

import gzip
import io
import random
import zipfile
from hashlib import sha256
from pathlib import Path

import pytest
from images import GIF, HTML, JPEG, PNG, WEBP, numbered_gif
from inprocess import files_in, run_here
from rows import line_of, row
from scripted import Answer, ScriptedServer, Step

PICTURES = {"br.gif": GIF, "br.png": PNG, "br.jpeg": JPEG, "br.webp": WEBP}
SVG = b'<svg xmlns="http://www.w3.org/2000/svg"/>'
ADOBE_SVG = (
    b'<!DOCTYPE svg PUBLIC "-//W3C//DTD SVG 1.1//EN" "http://www.w3.org/Graphics/SVG/1.1/DTD/svg11.dtd" ['
    b'<!ENTITY ns_svg "http://www.w3.org/2000/svg">]><svg xmlns="&ns_svg;"/>'
)
BOMB = b'<!DOCTYPE svg [<!ENTITY a "' + b"a" * 9000 + b'">]><svg xmlns="http://www.w3.org/2000/svg">' + b"&a;" * 1000


def padded(data: bytes, size: int) -> bytes:
    """Return a GIF with a comment of so many bytes, so that its body does not stay in memory."""
    return data[:-1] + (b"!\xfe\xff" + b"." * 255 + b"\x00") * (size // 259) + b";"


@row(67)
@pytest.mark.parametrize("size", [0, 200_000])
def test_a_picture_that_was_cut_at_the_origin_replaces_nothing(tmp_path: Path, size: int) -> None:
    """A picture without its end is an error although its length is right, and the good copy stays."""
    line = line_of("a picture that was cut")
    whole = PICTURES | {"br.gif": padded(GIF, size)}
    with ScriptedServer(
        {f"/{name}": [Answer(body=data), Answer(body=data[:-1])] for name, data in whole.items()}
    ) as server:
        url = server.url("/{id}")
        first = run_here(*whole, dest=tmp_path, url=url)
        second = run_here(*whole, dest=tmp_path, url=url, max_attempts="1")
    assert (first.code, second.code) == (0, line.exit_code)
    assert [[event["status"], event["reason"]] for event in second.events_named("result")] == [line.words] * 4
    assert files_in(tmp_path) == whole


@row(67)
@pytest.mark.parametrize(
    ("fault", "names", "accept"),
    [
        ("a PDF, ZIP, gzip, AVIF or ICO that was cut", ["a.pdf", "a.zip", "a.gz", "a.avif", "a.ico"], ""),
        ("a JSON or XML document that was cut", ["a.json", "a.xml"], ""),
        ("a JSON or XML document that was cut", ["page.json", "page.xml", "page.bin"], "json,xml,binary"),
    ],
    ids=["structures", "texts", "pages"],
)
@pytest.mark.parametrize("size", [0, 200_000])
def test_a_document_that_was_cut_at_the_origin_replaces_nothing(
    tmp_path: Path, fault: str, names: list[str], accept: str, size: int
) -> None:
    """A document without its end, or a page in its place, is an error, in memory and on disk; the good copy stays."""
    line = line_of(fault)
    whole = documents(size)
    later = {name: HTML + b" " * size if name.startswith("page") else whole[name][:-1] for name in names}
    with ScriptedServer({f"/{name}": [Answer(body=whole[name]), Answer(body=later[name])] for name in names}) as server:
        for name in names:
            dest = tmp_path / name
            settings = {"accept": accept, "url": server.url("/{id}." + name.partition(".")[2]), "max_attempts": "1"}
            first = run_here(name.partition(".")[0], dest=dest, **settings)
            second = run_here(name.partition(".")[0], dest=dest, **settings)
            assert (first.code, second.code) == (0, line.exit_code)
            assert [[event["status"], event["reason"]] for event in second.events_named("result")] == [line.words]
            assert files_in(dest) == {name: whole[name]}


def documents(size: int) -> dict[str, bytes]:
    """Return whole documents of at least so many bytes, by name; those called `page` are later one."""
    filling = random.Random(size).randbytes(size)
    stored = io.BytesIO()
    with zipfile.ZipFile(stored, "w") as archive:
        archive.writestr("a.bin", filling)
    text = filling.hex().encode()
    return {
        "a.pdf": b"%PDF-1.7\n" + filling + b"\n%%EOF",
        "a.zip": stored.getvalue(),
        "a.gz": gzip.compress(filling),
        "a.avif": b"\0\0\0\x10ftypavif\0\0\0\0\0\0\0\x08meta" + (len(filling) + 8).to_bytes(4) + b"mdat" + filling,
        "a.ico": b"\0\0\1\0\1\0\x10\x10\0\0\1\0\x20\0" + (size + 1).to_bytes(4, "little") + b"\x16\0\0\0." + filling,
        "a.json": b'{"a": "' + text + b'"}',
        "a.xml": b"<a>" + text + b"</a>",
        "page.json": b'["' + text + b'"]',
        "page.xml": b"<b>" + text + b"</b>",
        "page.bin": b"\0" + filling,
    }


@row(67)
@pytest.mark.parametrize("size", [0, 200_000])
def test_data_after_the_end_of_a_picture_is_kept(tmp_path: Path, size: int) -> None:
    """What some programs append to a picture does not make it another one."""
    line = line_of("a whole picture with data")
    bodies = {name: data + b"\x00" * 9 for name, data in (PICTURES | {"br.gif": padded(GIF, size)}).items()}
    with ScriptedServer({f"/{name}": Answer(body=data) for name, data in bodies.items()}) as server:
        done = run_here(*bodies, dest=tmp_path, url=server.url("/{id}"))
    assert (done.code, set(done.statuses.values())) == (line.exit_code, set(line.words))
    assert files_in(tmp_path) == bodies


@row(67)
@pytest.mark.parametrize(
    ("fault", "body"),
    [
        ("an SVG with entities of its own", ADOBE_SVG),
        ("an SVG whose entities are external", b'<!DOCTYPE svg [<!ENTITY a SYSTEM "file:///etc/passwd">]>' + SVG),
        ("an SVG whose entities are external", BOMB + b"</svg>"),
    ],
    ids=["adobe", "external", "bomb"],
)
def test_entities_of_an_svg(tmp_path: Path, fault: str, body: bytes) -> None:
    """An SVG may have entities of its own within a bound, and no others."""
    line = line_of(fault)
    with ScriptedServer({"/br.svg": Answer(body=body)}) as server:
        done = run_here("br", dest=tmp_path, url=server.url("/{cc}.svg"), max_attempts="1")
    (result,) = done.events_named("result")
    assert [result["status"], *filter(None, [result["reason"]])] == line.words
    assert (done.code, files_in(tmp_path)) == (line.exit_code, {"br.svg": body} if line.words == ["ok"] else {})


REMOVED = numbered_gif(404)
CODES = [f"c{number}" for number in range(40)]


def origin_with_gone(gone: int, body: bytes = REMOVED) -> ScriptedServer:
    """Return an origin that has all files at first, and then leads to one picture for those that are gone."""
    script: dict[str, Step | list[Step]] = {"/removed.gif": Answer(body=body)}
    for number, code in enumerate(CODES):
        whole = Answer(body=numbered_gif(number))
        script[f"/{code}.gif"] = [whole, Answer(302, {"Location": "/removed.gif"}) if number < gone else whole]
    return ScriptedServer(script)


@row(69)
@pytest.mark.parametrize("gone", [19, 20])
def test_one_picture_for_all_that_is_gone_is_told(tmp_path: Path, gone: int) -> None:
    """Where 20 codes get the same new bytes, one warning names their digest."""
    line = line_of("one picture for all that is gone, not known")
    with origin_with_gone(gone) as server:
        first = run_here(*CODES, dest=tmp_path, url=server.url("/{cc}.gif"))
        second = run_here(*CODES, dest=tmp_path, url=server.url("/{cc}.gif"))
    assert (first.code, second.code, first.events_named("same_bytes")) == (0, line.exit_code, [])
    found = [(event["level"], event["sha256"], event["codes"]) for event in second.events_named("same_bytes")]
    assert found == ([("warning", sha256(REMOVED).hexdigest(), 20)] if gone == 20 else [])


@row(69)
@pytest.mark.parametrize("body", [REMOVED, HTML])
def test_a_placeholder_means_not_found(tmp_path: Path, body: bytes) -> None:
    """A body with the digest of a placeholder, whatever its type, leaves the good copies as they are."""
    line = line_of("one picture for all that is gone, and its digest")
    settings = {"placeholders": sha256(body).hexdigest().upper(), "max_attempts": "1"}
    with origin_with_gone(3, body) as server:
        run_here(*CODES, dest=tmp_path, url=server.url("/{cc}.gif"))
        before = files_in(tmp_path)
        done = run_here(*CODES, dest=tmp_path, url=server.url("/{cc}.gif"), **settings)
        allowed = run_here(*CODES, dest=tmp_path, url=server.url("/{cc}.gif"), **settings, max_not_found="3")
    results = {event["code"]: [event["status"], event["reason"]] for event in done.events_named("result")}
    assert [results[code.upper()] for code in CODES[:3]] == [line.words] * 3
    assert (done.code, allowed.code, done.summary["counts"]["not_found"]) == (line.exit_code, 0, 3)
    assert files_in(tmp_path) == before


@row(69)
def test_a_placeholder_that_was_stored_is_asked_for_again(tmp_path: Path) -> None:
    """What was taken for a file before its digest was known is no good copy: the next answer may be a file."""
    answers = [
        Answer(headers={"ETag": '"1"'}, body=REMOVED),
        Answer(headers={"ETag": '"1"'}, body=REMOVED),
        Answer(body=GIF),
    ]
    with ScriptedServer({"/br.gif": answers}) as server:
        settings = {"url": server.url("/{cc}.gif"), "placeholders": sha256(REMOVED).hexdigest()}
        runs = [run_here("br", dest=tmp_path, url=settings["url"])]
        runs += [run_here("br", dest=tmp_path, **settings) for _ in range(2)]
        assert ["if-none-match" in request.headers for request in server.requests] == [False] * 3
    assert [done.statuses["BR"] for done in runs] == ["ok", "not_found", "ok"]
    assert files_in(tmp_path) == {"br.gif": GIF}
