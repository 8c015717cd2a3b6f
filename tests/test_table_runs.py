"""Runs whose list is a table: from a file, gzip and standard input, with digests and sizes that are enforced."""

import gzip
import json
from hashlib import sha256
from pathlib import Path

import pytest
from command import TIMEOUT, Done, flagjob, start_flagjob
from images import GIF, PNG
from inprocess import files_in, run_here
from rows import line_of, row
from scripted import Answer, ScriptedServer

DIGEST = sha256(PNG).hexdigest()
ROWS = f"""z,x,y,sha256,size
1,2,3,{DIGEST},{len(PNG)}
1,2,4,{"0" * 64},
1,2,5,,7
1,,6,,
"""
PATHS = {f"/1/2/{y}.png": Answer(body=PNG) for y in (3, 4, 5)}


def endings(done: Done) -> dict[str, list[object]]:
    """Return how each item ended, by its code."""
    return {line["code"]: [line["status"], line["reason"]] for line in done.events_named("result")}


def test_digests_and_sizes_are_enforced_by_row(tmp_path: Path) -> None:
    """A file with another digest or size than its row says is refused, also one that is there already."""
    with ScriptedServer(PATHS) as server:
        url = server.url("/{z}/{x}/{y}.png")
        table = tmp_path / "tiles.csv"
        table.write_text(ROWS, "utf-8")
        done = run_here(dest=tmp_path / "d", url=url, codes_file=str(table), max_attempts="1")
        assert endings(done) == {
            "1/2/3.png": ["ok", None],
            "1/2/4.png": ["error", "checksum"],
            "1/2/5.png": ["error", "checksum"],
            "line 5": ["error", "invalid_row"],
        }
        assert files_in(tmp_path / "d") == {"1/2/3.png": PNG}
        table.write_text(f"z,x,y,size\n1,2,3,{len(PNG) + 1}\n", "utf-8")
        again = run_here(dest=tmp_path / "d", url=url, codes_file=str(table), max_attempts="1", refresh="missing")
        assert endings(again) == {"1/2/3.png": ["error", "checksum"]}
        table.write_text(f"z,x,y,sha256\n1,2,3,{DIGEST}\n", "utf-8")
        whole = run_here(dest=tmp_path / "d", url=url, codes_file=str(table), refresh="missing")
        assert endings(whole) == {"1/2/3.png": ["unchanged", None]}


def test_a_digest_that_is_new_in_a_row_is_enforced_on_a_file_that_is_there(tmp_path: Path) -> None:
    """The file that is there is not what its row asks for now: it is requested without condition, and refused."""
    with ScriptedServer({"/1/2/3.png": Answer(body=PNG, headers={"ETag": '"a"'})}) as server:
        table = tmp_path / "tiles.csv"
        for digest, ending in (("", ["ok", None]), ("0" * 64, ["error", "checksum"])):
            table.write_text(f"z,x,y,sha256\n1,2,3,{digest}\n", "utf-8")
            url = server.url("/{z}/{x}/{y}.png")
            done = run_here(dest=tmp_path / "d", url=url, codes_file=str(table), max_attempts="1")
            assert endings(done) == {"1/2/3.png": ending}
        assert [request.headers.get("if-none-match") for request in server.requests] == [None, None]
    assert files_in(tmp_path / "d") == {"1/2/3.png": PNG}


@row(36)
def test_a_row_that_cannot_be_used_is_told_with_its_line(tmp_path: Path) -> None:
    """It has a result line, and no request and no file; the rows around it are downloaded."""
    line = line_of("a row of a table that cannot be used")
    table = tmp_path / "tiles.tsv"
    table.write_text(
        "z\tx\ty\tfile\n1\t2\t3\ta\n1\t2\t\tb\n1\t2\t4\t../c\n1\t..\t4\td\n1\t2\t5\ta\n1\t2\t4\te\n", "utf-8"
    )
    with ScriptedServer(PATHS) as server:
        done = run_here(dest=tmp_path / "d", url=server.url("/{z}/{x}/{y}.png"), codes_file=str(table))
        assert len(server.requests) == 2
    assert done.code == line.exit_code
    assert endings(done) == {"a": ["ok", None], "e": ["ok", None]} | {f"line {n}": line.words for n in (3, 4, 5, 6)}
    assert sorted(files_in(tmp_path / "d")) == ["a", "e"]


def test_codes_of_one_line_are_not_held_back(tmp_path: Path) -> None:
    """A pipe whose first line comes slowly may be a table; not once a blank has divided codes."""
    paths = {"/br.gif": Answer(body=GIF), "/cn.gif": Answer(body=GIF)}
    with ScriptedServer(paths) as server, start_flagjob("--url", server.url("/{cc}.gif"), "-", cwd=tmp_path) as process:
        assert process.stdin
        assert process.stdout
        process.stdin.write(b"br ")
        process.stdin.flush()
        while b'"result"' not in process.stdout.readline():
            pass
        assert [request.target for request in server.requests] == ["/br.gif"]
        output, _ = process.communicate(b"cn", timeout=TIMEOUT)
    assert (process.returncode, output.count(b'"status":"ok"')) == (0, 1)


CELLS = [line.split(",") for line in ROWS.splitlines()]
FORMS = {
    "txt": "".join(f"{'/'.join(cells[:3])}\n" for cells in CELLS[1:]),
    "csv": ROWS,
    "jsonl": "".join(json.dumps(dict(zip(CELLS[0], cells, strict=True))) + "\n" for cells in CELLS[1:]),
}


def records(dest: Path) -> list[dict[str, object]]:
    """Return the lines of a manifest by code, without times and the version of a file, which is its time, too."""
    lines = map(json.loads, (dest / ".flagjob/manifest.jsonl").read_text("utf-8").splitlines()[1:])
    known = [{name: value for name, value in line.items() if not name.endswith(("_at", "version"))} for line in lines]
    return sorted(known, key=lambda line: str(line["code"]))


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_a_list_is_the_same_from_a_file_gzip_and_a_pipe(tmp_path: Path, form: str) -> None:
    """The manifest has the same records, whichever way a plain list, CSV or JSON lines came."""
    plain = FORMS[form].encode()
    packed = gzip.compress(plain)
    ways = {f"a.{form}": plain, f"b.{form}.gz": packed, f"c.{form}": packed, "stdin": plain, "packed stdin": packed}
    manifests = []
    with ScriptedServer(PATHS) as server:
        url = server.url("/{id}.png" if form == "txt" else "/{z}/{x}/{y}.png")
        for way, data in ways.items():
            is_piped = way.endswith("stdin")
            (tmp_path / way).write_bytes(data)
            name = "-" if is_piped else way
            options = ["--url", url, "--codes-file", name, "--dest", f"{way}.d", "--max-attempts", "1"]
            done = flagjob(*options, cwd=tmp_path, stdin=data if is_piped else b"")
            assert (done.code, len(done.statuses)) == (4 if form == "txt" else 3, 4)
            manifests.append(records(tmp_path / f"{way}.d"))
    assert [manifest == manifests[0] for manifest in manifests] == [True] * len(ways)
    assert [record["code"] for record in manifests[0]] == [
        f"1/2/{y}{'' if form == 'txt' else '.png'}" for y in (3, 4, 5)
    ]


@pytest.mark.parametrize("publish", ["each", "set"])
def test_files_are_named_after_two_columns(tmp_path: Path, publish: str) -> None:
    """As `datalad addurls` does: two rows may share a URL but not a file, and the next run finds each by its name."""
    rows = ["01\tbaseline\ta", "01\tTag zwei, früh\tb", "02\tbaseline\ta", "02/sub\tbaseline\tb", "02\tbaseline\tb"]
    table = tmp_path / "scans.tsv"
    table.write_text("\n".join(["subject\tsession\tscan", *rows, "03\t../x\ta", "04\t\ta"]), "utf-8")
    with ScriptedServer({"/get/a": Answer(body=PNG), "/get/b": Answer(body=PNG + b"\0")}) as server:
        settings = {"url": server.url("/get/{scan}"), "file": "{subject}/{session}.png", "publish": publish}
        # A set is published with these errors only if the budget allows them.
        settings |= {"codes_file": str(table), "max_errors": "3"}
        done = [run_here(dest=tmp_path / "d", **settings) for _ in range(2)]
    files = ["01/baseline.png", "01/Tag zwei, früh.png", "02/baseline.png", "02/sub/baseline.png"]
    problems = {key: ["error", "invalid_row"] for key in ["line 6", "line 7", "line 8"]}
    assert endings(done[0]) == {key: ["ok", None] for key in files} | problems
    assert endings(done[1]) == {key: ["unchanged", None] for key in files} | problems
    root = tmp_path / "d" / ("current" if publish == "set" else "")
    assert {name: (root / name).read_bytes() for name in files} == {
        name: PNG if number in {0, 2} else PNG + b"\0" for number, name in enumerate(files)
    }


@pytest.mark.slow
def test_a_list_without_the_needed_header_is_a_usage_error(tmp_path: Path) -> None:
    """Nothing is requested; the error names the columns that are missing, or those that there are."""
    settings = {"FLAGJOB_URL": "http://localhost:1/{z}/{x}.png", "FLAGJOB_CODES_FILE": "-"}
    plain = flagjob(cwd=tmp_path, stdin=b"1 2\n3 4\n", settings=settings)
    (problem,) = [line["problem"] for line in plain.events_named("usage_error")]
    assert (plain.code, problem) == (
        2,
        "the list has no header that names {x}, {z}, which the URL or the file name holds",
    )
    (tmp_path / "a.tsv").write_text("z\ty\n1\t2\n", "utf-8")
    table = flagjob(cwd=tmp_path, settings={**settings, "FLAGJOB_CODES_FILE": "a.tsv"})
    (problem,) = [line["problem"] for line in table.events_named("usage_error")]
    assert (table.code, problem[-13:]) == (2, ": it has z, y")
    empty = flagjob(cwd=tmp_path, stdin=b"z,x\n", settings=settings)
    (problem,) = [line["problem"] for line in empty.events_named("usage_error")]
    assert (empty.code, problem[:14]) == (2, "there are none")


def test_a_table_is_divided_into_shards_and_limited(tmp_path: Path) -> None:
    """Shards share the rows; the limit counts the rows of all shards."""
    table = tmp_path / "ids.csv"
    table.write_text("id,x\n" + "".join(f"{number},y\n" for number in range(20)), "utf-8")
    settings = {"url": "http://localhost/{id}", "codes_file": str(table), "limit": "10", "shard_count": "2"}
    shards = [run_here("--dry-run", dest=tmp_path, **settings, shard_index=str(index)) for index in (0, 1)]
    codes = [[line["code"] for line in done.events_named("item")] for done in shards]
    assert sorted(codes[0] + codes[1], key=int) == [str(number) for number in range(10)]
    assert all(codes)
    half = run_here("--dry-run", dest=tmp_path, **{**settings, "limit": ""}, shard_index="1")
    assert {line["code"] for line in half.events_named("item")} > set(codes[1])
