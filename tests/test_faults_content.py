"""The catalogue of faults, row 70: pictures that an origin serves cut, or in unusual but whole forms."""

from pathlib import Path

import pytest
from images import GIF, JPEG, PNG, WEBP
from inprocess import files_in, run_here
from rows import line_of, row
from scripted import Answer, ScriptedServer

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


@row(70)
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


@row(70)
@pytest.mark.parametrize("size", [0, 200_000])
def test_data_after_the_end_of_a_picture_is_kept(tmp_path: Path, size: int) -> None:
    """What some programs append to a picture does not make it another one."""
    line = line_of("a whole picture with data")
    bodies = {name: data + b"\x00" * 9 for name, data in (PICTURES | {"br.gif": padded(GIF, size)}).items()}
    with ScriptedServer({f"/{name}": Answer(body=data) for name, data in bodies.items()}) as server:
        done = run_here(*bodies, dest=tmp_path, url=server.url("/{id}"))
    assert (done.code, set(done.statuses.values())) == (line.exit_code, set(line.words))
    assert files_in(tmp_path) == bodies


@row(70)
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
