"""URL lists of the Storage Transfer Service: read as they are, with sizes and MD5 enforced."""

import base64
import gzip
import json
from hashlib import md5
from pathlib import Path

import pytest
from command import flagjob
from images import GIF, PNG
from inprocess import files_in, run_here
from scripted import Answer, Script, ScriptedServer

LARGE = GIF[:-1] + bytes(200_000) + b";"
FILES: Script = {
    "/a/0.png": Answer(body=PNG),
    "/1.png": Answer(body=PNG, headers={"ETag": '"a"'}),
    "/large.gif": Answer(body=LARGE),
}


def encoded(body: bytes) -> str:
    return base64.b64encode(md5(body, usedforsecurity=False).digest()).decode()


def transfer_list(*rows: tuple[object, ...]) -> bytes:
    lines = ["TsvHttpData-1.0", *("\t".join(map(str, row)) for row in rows)]
    return "".join(f"{line}\n" for line in lines).encode()


@pytest.mark.parametrize("form", ["list.tsv", "list.txt", "urls.gz", "pipe", "mark"])
def test_a_list_is_read_from_everywhere(tmp_path: Path, form: str) -> None:
    """Its first line tells what it is, whatever its name is; size and MD5 may be missing."""
    with ScriptedServer(FILES) as server:
        rows = [
            (server.url("/a/0.png"), len(PNG), encoded(PNG)),
            (server.url("/1.png"),),
            (server.url("/large.gif"), len(LARGE), encoded(LARGE)),
        ]
        data = (b"\xef\xbb\xbf" if form == "mark" else b"") + transfer_list(*rows)
        if form not in {"pipe", "mark"}:
            (tmp_path / form).write_bytes(gzip.compress(data) if form.endswith("gz") else data)
        source = "-" if form in {"pipe", "mark"} else form
        done = flagjob("--dest", "d", cwd=tmp_path, stdin=data, settings={"FLAGJOB_CODES_FILE": source})
    host = f"127.0.0.1:{server.port}"
    assert done.code == 0, done.stdout
    assert files_in(tmp_path / "d") == {f"{host}/a/0.png": PNG, f"{host}/1.png": PNG, f"{host}/large.gif": LARGE}


def test_sizes_and_digests_are_enforced(tmp_path: Path) -> None:
    """A file of another size or MD5 is refused, and a row that cannot be used says its line; no other one suffers."""
    with ScriptedServer(FILES) as server:
        png = server.url("/a/0.png")
        rows = [
            (server.url("/a/0.png"), len(PNG) + 1, encoded(PNG)),
            (server.url("/1.png"), len(PNG), encoded(GIF)),
            (server.url("/large.gif"), "", encoded(GIF)),
            (png + "a", len(PNG), "abc"),
            (png + "b", len(PNG), base64.b64encode(bytes(15)).decode()),
            (png + "c", len(PNG), encoded(PNG), "more"),
        ]
        (tmp_path / "list").write_bytes(transfer_list(*rows))
        done = run_here(dest=tmp_path / "d", codes_file=str(tmp_path / "list"), workers="1", max_attempts="1")
    errors = [str(line.get("error")) for line in done.events_named("result")]
    digests = [md5(body, usedforsecurity=False).hexdigest() for body in (PNG, GIF, LARGE)]
    assert errors == [
        f"the file has {len(PNG)} bytes, but its row says {len(PNG) + 1}",
        f"the file's MD5 is {digests[0]}, but its row says {digests[1]}",
        f"the file's MD5 is {digests[2]}, but its row says {digests[1]}",
        "content-md5 is not an MD5 digest in base64: no request was sent",
        "content-md5 is not an MD5 digest in base64: no request was sent",
        "it has 4 cells, and the header 3: no request was sent",
    ]
    assert (files_in(tmp_path / "d"), done.code) == ({}, 3)


def test_a_file_that_is_there_must_have_the_digest_of_the_list(tmp_path: Path) -> None:
    """A 304 confirms it only if it was stored with that MD5; the last good copy survives a wrong one."""
    with ScriptedServer(FILES) as server:
        source = tmp_path / "list"

        def ended(*row: object) -> tuple[str, str | None]:
            source.write_bytes(transfer_list((server.url("/1.png"), *row)))
            done = run_here(dest=tmp_path / "d", codes_file=str(source), max_attempts="1")
            [result] = done.events_named("result")
            return str(result["status"]), server.requests[-1].headers.get("if-none-match")

        manifest = tmp_path / "d" / ".flagjob" / "manifest.jsonl"
        assert ended() == ("ok", None)
        assert ended(len(PNG), encoded(PNG)) == ("ok", None)
        assert ended(len(PNG), encoded(PNG))[1] == '"a"'
        assert ended()[1] == '"a"'
        assert ended(len(PNG), encoded(GIF)) == ("error", None)
        assert ended(len(PNG), encoded(PNG))[1] == '"a"'
        recorded = json.loads(manifest.read_bytes().splitlines()[-1])
        assert recorded["md5"] == md5(PNG, usedforsecurity=False).hexdigest()
        text = json.dumps(recorded["md5"]).encode()
        manifest.write_bytes(manifest.read_bytes().replace(text, b"7"))
        assert ended(len(PNG), encoded(PNG)) == ("ok", None)
    assert list(files_in(tmp_path / "d").values()) == [PNG]


def test_any_table_may_have_the_digest(tmp_path: Path) -> None:
    """The column is called as the header field that has the same."""
    with ScriptedServer(FILES) as server:
        (tmp_path / "list.csv").write_text(f"id,Content-MD5\n1,{encoded(PNG)}\na/0,{encoded(GIF)}\n")
        done = run_here(
            dest=tmp_path / "d", url=server.url("/{id}.png"), codes_file=str(tmp_path / "list.csv"), max_attempts="1"
        )
    assert done.statuses == {"1": "ok", "a/0": "error"}
