"""Runs whose list has whole URLs: each origin is by itself, and the secrets go to none but FLAGJOB_URL's host."""

import gzip
import json
import socket
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import requests
from command import Done, flagjob
from hypothesis import example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from images import GIF, PNG
from inprocess import WatchedLog, files_in, run, run_here
from scripted import Answer, Request, Script, ScriptedServer, Step

from job.cancellation import Cancellation
from job.client import Client, ClientConfig
from job.errors import NetworkError, Reason, UsageError
from job.file_table import FileTable
from job.layout import is_name
from job.model import InvalidItem, WorkItem
from job.redirects import is_trusted_host
from job.tables import Table
from job.template import NO_TEMPLATE, UrlTemplate
from job.transport import CurlAdapter, CurlResponse

FILES: Script = {f"/{number}.png": Answer(body=PNG) for number in range(50)}
EXECUTORS = ("threads", pytest.param("greenlets", marks=pytest.mark.slow))


def write_list(path: Path, urls: Iterable[str], **more: object) -> str:
    """Write a list in JSON lines, and return its path."""
    path.write_text("".join(json.dumps({"url": url, **more}) + "\n" for url in urls), "utf-8")
    return str(path)


@contextmanager
def dead_port() -> Iterator[int]:
    """Take a port at which nobody listens while the block runs."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


def endings(done: Done) -> Counter[tuple[str, str | None]]:
    """Return how many items ended in each way."""
    return Counter((line["status"], line["reason"]) for line in done.events_named("result"))


@pytest.mark.parametrize("executor", EXECUTORS)
def test_an_origin_that_is_dead_costs_no_other(tmp_path: Path, executor: str) -> None:
    """Of three origins one is dead: it is given up, its items may be had later, and the others are complete."""
    with dead_port() as dead, ScriptedServer(FILES) as one, ScriptedServer(FILES) as two:
        ports = (one.port, dead, two.port)
        urls = [f"http://127.0.0.1:{port}/{number}.png" for number in range(50) for port in ports]
        source = write_list(tmp_path / "list.jsonl", urls)
        done = run_here(dest=tmp_path / "d", codes_file=source, executor=executor, workers="6", origin_patience="0")
    down = done.events_named("origin_down")
    assert [(line["host"], line["run_goes_on"]) for line in down] == [(f"http://127.0.0.1:{dead}", True)]
    assert endings(done)["ok", None] == 100
    assert endings(done)["error", "origin_down"] >= 20
    assert (done.code, done.summary["counts"]["error"], done.summary["cause"]["host"]) == (3, 50, None)
    expected = {f"127.0.0.1:{server.port}/{number}.png" for server in (one, two) for number in range(50)}
    assert set(files_in(tmp_path / "d")) == expected


@pytest.mark.parametrize("executor", EXECUTORS)
@pytest.mark.parametrize("trouble", ["is away", "pauses"])
def test_no_worker_waits_where_others_have_work(tmp_path: Path, executor: str, trouble: str) -> None:
    """While an origin is away, or has asked to wait, all files of the other come; nothing else ends meanwhile."""
    cancellation = Cancellation()
    results: list[dict[str, object]] = []

    def count(lines: bytes) -> None:
        results.extend(line for line in map(json.loads, lines.splitlines()) if line["event"] == "result")
        if len(results) == 50:
            cancellation.request(Reason.SIGNAL, 15)

    throttled: Script = {f"/{number}.png": Answer(429, {"Retry-After": "50"}) for number in range(50)}
    with ExitStack() as stack:
        other = stack.enter_context(ScriptedServer(FILES))
        if trouble == "is away":
            port = stack.enter_context(dead_port())
        else:
            port = stack.enter_context(ScriptedServer(throttled)).port
        urls = [f"http://127.0.0.1:{port}/{number}.png" for number in range(50)]
        urls += [other.url(f"/{number}.png") for number in range(50)]
        source = write_list(tmp_path / "list.jsonl", urls)
        done = run(
            (),
            cancellation,
            WatchedLog(count),
            dest=str(tmp_path / "d"),
            codes_file=source,
            executor=executor,
            workers="12",
            origin_patience="50",
        )
    assert {line["status"] for line in results[:50]} == {"ok"}
    assert endings(done) == {("ok", None): 50, ("cancelled", "signal"): 50}
    assert done.code == 143


@pytest.mark.slow
@pytest.mark.parametrize("executor", ["threads", "greenlets", "sequential"])
def test_an_origin_that_pauses_is_asked_again(tmp_path: Path, executor: str) -> None:
    """Each item that was put back comes again, and has one result; the pause costs no attempt."""
    script: Script = {**FILES, "/0.png": [Answer(429, {"Retry-After": "1"}), Answer(body=PNG)]}
    with ScriptedServer(script) as one, ScriptedServer(FILES) as two:
        urls = [server.url(f"/{number}.png") for number in range(5) for server in (one, two)]
        source = write_list(tmp_path / "list.jsonl", urls)
        page = tmp_path / "report.html"
        done = run_here(dest=tmp_path / "d", codes_file=source, executor=executor, workers="4", report=str(page))
    assert (done.code, len(done.events_named("result"))) == (0, 10)
    assert page.read_text("utf-8").count(f"127.0.0.1:{one.port}/0.png") > 0
    assert endings(done) == {("ok", None): 10}
    assert {line["host"] for line in done.events_named("host_paused")} == {f"http://127.0.0.1:{one.port}"}


def test_the_order_of_the_list_is_kept(tmp_path: Path) -> None:
    """With results in the order of the list no item comes again later: all wait, and none is lost."""
    script: Script = {**FILES, "/0.png": [Answer(429, {"Retry-After": "1"}), Answer(body=PNG)]}
    with ScriptedServer(script) as one, ScriptedServer(FILES) as two:
        urls = [one.url("/0.png"), two.url("/0.png"), *(one.url(f"/{number}.png") for number in range(1, 4))]
        done = run_here(
            dest=tmp_path / "d", codes_file=write_list(tmp_path / "l.jsonl", urls), order="submitted", workers="2"
        )
    assert [f"http://{line['code']}" for line in done.events_named("result")] == urls
    assert endings(done) == {("ok", None): len(urls)}


def test_an_origin_that_refuses_does_not_end_the_run(tmp_path: Path) -> None:
    """All items of one origin are refused, from the start or later on: the other's come all the same."""
    refusing: Script = {f"/{number}.png": Answer(403) for number in range(150)}
    refusing = {**refusing, "/first.png": [Answer(body=PNG), Answer(403)]}
    with ScriptedServer(refusing) as one, ScriptedServer(FILES) as two:
        urls = [one.url("/first.png"), *(one.url(f"/{number}.png") for number in range(150)), two.url("/0.png")]
        source = write_list(tmp_path / "list.jsonl", urls)
        done = run_here(dest=tmp_path / "d", codes_file=source, workers="2")
        again = run_here(dest=tmp_path / "e", codes_file=write_list(tmp_path / "l.jsonl", urls[1:]), workers="2")
    assert endings(done) == {("ok", None): 2, ("error", "http_403"): 150}
    assert done.code == 3
    assert endings(again) == {("ok", None): 1, ("error", "http_403"): 150}
    assert again.code == 4


def redirect_to(url: str) -> Step:
    return Answer(302, {"Location": url})


def test_secrets_go_to_no_host_but_that_of_the_url(tmp_path: Path) -> None:
    """A list may name any host: the secret headers are for FLAGJOB_URL's, also where another host leads to it."""
    headers = tmp_path / "headers"
    headers.write_text("Authorization: Bearer abc\nCookie: session=1\n", "utf-8")
    with ScriptedServer(FILES) as home, ScriptedServer({**FILES, "/to.png": redirect_to(home.url("/2.png"))}) as other:
        home_and_back = [home.url("/0.png"), other.url("/0.png"), other.url("/to.png")]
        source = write_list(tmp_path / "list.jsonl", home_and_back)
        settings = {"codes_file": source, "headers_file": str(headers), "redirect_hosts": "127.0.0.1"}
        done = run_here(dest=tmp_path / "d", url=home.url("/{id}.png"), **settings)
        assert (done.code, len(home.requests), len(other.requests)) == (0, 2, 2)
        known = {request.target: request.headers.get("authorization") for request in home.requests}
        assert known == {"/0.png": "Bearer abc", "/2.png": None}
        assert [has_secrets(request) for request in other.requests] == [False, False]
        done = run_here(dest=tmp_path / "e", **settings)
        assert [has_secrets(request) for request in home.requests[2:]] == [False, False]


def has_secrets(request: Request) -> bool:
    return bool({"authorization", "cookie"} & set(request.headers))


def test_a_row_without_a_url_has_that_of_the_template(tmp_path: Path) -> None:
    """FLAGJOB_URL fills the gaps of the column; names come from the ids, and suffixes from each row's own URL."""
    table = tmp_path / "list.csv"
    with ScriptedServer(FILES) as home, ScriptedServer({"/x.gif": Answer(body=GIF)}) as other:
        table.write_text(f"id,url\n1,\nb,{other.url('/x.gif?k=1')}\n,{other.url('/x.gif')}\n", "utf-8")
        done = run_here(dest=tmp_path / "d", url=home.url("/{id}.png"), codes_file=str(table))
        named = run_here(dest=tmp_path / "e", url=home.url("/{id}.png"), codes_file=str(table), file="a/{id}.bin")
        again = run_here(dest=tmp_path / "d", url=home.url("/{id}.png"), codes_file=str(table))
    assert files_in(tmp_path / "d") == {"1.png": PNG, "b.gif": GIF}
    assert (done.statuses, done.code) == ({"1": "ok", "b": "ok", "line 4": "error"}, 4)
    assert (list(files_in(tmp_path / "e")), named.code) == (["a/1.bin", "a/b.bin"], 4)
    assert again.statuses == {"1": "unchanged", "b": "unchanged", "line 4": "error"}


def test_each_file_is_of_the_type_that_its_own_url_names(tmp_path: Path) -> None:
    """Types differ by row; gzip that is a file of its own stays gzip, and other files are decoded."""
    packed = gzip.compress(b"{}")
    coded = {"Content-Encoding": "gzip"}
    script: Script = {
        "/a.json": Answer(body=packed, headers=coded),
        "/a.gz": Answer(body=packed, headers=coded),
        "/a.png": Answer(body=GIF),
        "/b": Answer(body=GIF),
        "/c.png": Answer(body=packed, headers=coded),
    }
    with ScriptedServer(script) as server:
        table = tmp_path / "list.csv"
        table.write_text("url,file\n" + "".join(f"{server.url(path)},{path[1:]}\n" for path in script), "utf-8")
        done = run_here(dest=tmp_path / "d", codes_file=str(table), workers="1", max_attempts="1")
        settings = {"codes_file": str(table), "workers": "1", "max_attempts": "1", "accept": "gif"}
        chosen = run_here(dest=tmp_path / "e", **settings)
    assert files_in(tmp_path / "d") == {"a.json": b"{}", "a.gz": packed, "b": GIF}
    assert (done.statuses["a.png"], done.statuses["c.png"]) == ("error", "error")
    assert (files_in(tmp_path / "e"), chosen.code) == ({"a.png": GIF, "b": GIF}, 3)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["list.csv", "list.jsonl", "list.csv.gz", "csv on a pipe", "jsonl on a pipe"])
def test_a_list_of_urls_is_the_same_from_everywhere(tmp_path: Path, form: str) -> None:
    """The column alone makes a table, also on standard input, and on a cluster no other setting is needed."""
    with ScriptedServer(FILES) as server:
        urls = [server.url("/0.png"), server.url("/1.png")]
        lines = ["url", *urls] if "csv" in form else [json.dumps({"url": url}) for url in urls]
        data = "".join(f"{line}\n" for line in lines).encode()
        settings = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "FLAGJOB_CODES_FILE": "-"}
        if not form.endswith("pipe"):
            (tmp_path / form).write_bytes(gzip.compress(data) if form.endswith("gz") else data)
            settings["FLAGJOB_CODES_FILE"] = form
        plan = flagjob("--dry-run", cwd=tmp_path, stdin=data, settings=settings)
        assert server.requests == []
        done = flagjob(cwd=tmp_path, stdin=data, settings=settings)
    assert [line["url"] for line in plan.events_named("item")] == urls
    assert (done.code, sorted(files_in(tmp_path / "downloads").values())) == (0, [PNG, PNG])
    assert done.events_named("run_started")[0]["url"] == "{url}"
    assert done.events_named("builtin_origin") == []


def test_a_destination_of_a_list_is_not_that_of_a_template(tmp_path: Path) -> None:
    """What was filled from a list of URLs must not be taken for an origin's, and lists go on where they ended."""
    with ScriptedServer({"/0.png": Answer(body=PNG, headers={"ETag": '"a"'})}) as server:
        source = write_list(tmp_path / "list.jsonl", [server.url("/0.png")])
        run_here(dest=tmp_path / "d", codes_file=source)
        again = run_here(dest=tmp_path / "d", codes_file=source)
        assert (again.code, server.requests[1].headers["if-none-match"]) == (0, '"a"')
        with pytest.raises(UsageError, match="URLs of a list"):
            run_here("0", dest=tmp_path / "d", url=server.url("/{id}.png"))


def test_queries_of_a_list_are_shown_nowhere(tmp_path: Path) -> None:
    """They may hold signatures, which are neither in a log, nor in a plan, a report or the manifest."""
    with ScriptedServer(FILES) as server:
        urls = [server.url("/0.png?sig=abc123"), server.url("/none.png?sig=abc123"), server.url("/1.png")]
        source = write_list(tmp_path / "list.jsonl", urls)
        plan = run_here("--dry-run", dest=tmp_path / "d", codes_file=source)
        done = run_here(dest=tmp_path / "d", codes_file=source, report=str(tmp_path / "report.html"))
        assert "/0.png?sig=abc123" in [request.target for request in server.requests]
    assert (plan.code, done.code) == (0, 4)
    assert min(line["url"] for line in plan.events_named("item")).endswith("/0.png?***")
    assert min(str(line["url"]) for line in done.events_named("result")).endswith("/0.png?***")
    left = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".jsonl")
    manifest = (tmp_path / "d" / ".flagjob" / "manifest.jsonl").read_bytes()
    assert b"abc123" not in plan.stdout + done.stdout + left + manifest


def test_a_list_of_urls_excludes_the_built_in_origin(tmp_path: Path) -> None:
    """Two places where the files are cannot both be meant; and on a cluster one of them must be."""
    source = write_list(tmp_path / "list.jsonl", ["http://localhost/a"])
    with pytest.raises(UsageError, match="excludes a list with URLs"):
        run_here(dest=tmp_path, codes_file=source, server="local")
    (tmp_path / "codes").write_text("br\n")
    settings = {"FLAGJOB_CODES_FILE": "codes", "AWS_BATCH_JOB_ID": "1"}
    done = flagjob(cwd=tmp_path, settings=settings)
    assert (done.code, done.events_named("usage_error")[0]["setting"]) == (2, "FLAGJOB_URL")
    without = flagjob(cwd=tmp_path, settings={"AWS_BATCH_JOB_ID": "1"})
    assert (without.code, without.events_named("usage_error")[0]["setting"]) == (2, "FLAGJOB_URL")


def items_of(rows: Iterable[dict[str, object]], template: UrlTemplate = NO_TEMPLATE) -> list[WorkItem | InvalidItem]:
    data = "".join(json.dumps(row) + "\n" for row in rows).encode()
    table = Table([data], is_json=True)
    table.check(template)
    return [item for item in table.items(template, FileTable(), lambda _: True) if item]


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("", "url is missing"),
        ("ftp://h/a", "its URL must begin with http:// or https:// and name a host"),
        ("//h/a", "its URL must begin with http:// or https:// and name a host"),
        ("http:///a", "its URL must begin with http:// or https:// and name a host"),
        ("https://u:p@h/a", "its URL must hold no user and password"),
        ("https://h/a#b", "its URL must have no fragment"),
        ("https://h:0/a", "its URL must be a URL with a host"),
        ("https://[h/a", "its URL must be a URL with a host"),
        ("https://\xfcber/a", "its URL must be a URL with a host"),
        ("https://h/a%", "its URL must be a URL in ASCII"),
        ("https://h/a\r\nX: y", "its URL must hold no control characters"),
        ("https://h/\ud800", "its URL must hold no control characters"),
        ("https://h/../a", "its URL must have no segment of dots"),
        ("https://h/a//b", "its file would be named h/a//b, which is not a safe name"),
        ("https://h/a%2F..%2Fb", "its file would be named h/a/../b, which is not a safe name"),
        ("https://[::1]/a", "its file would be named [::1]/a, which is not a safe name"),
    ],
)
def test_a_url_that_cannot_be_used(url: str, problem: str) -> None:
    """It costs its row alone, which says what is wrong."""
    (wrong, right) = items_of([{"url": url}, {"url": "https://h/b"}])
    assert isinstance(wrong, InvalidItem)
    assert wrong.code == "line 1"
    assert wrong.problem.startswith(problem)
    assert right.code == "h/b"


def test_a_url_in_its_normal_form() -> None:
    """What browsers encode is encoded, scheme and host are in lower case, the default port names no other origin."""
    urls = ["HTTPS://Example.org:443/A b\xfc?q=\u20ac|x", "https://example.org/A%20c", "http://example.org:8080/c"]
    found = [
        (item.url, item.origin, item.file)
        for item in items_of({"url": url} for url in urls)
        if isinstance(item, WorkItem)
    ]
    assert found == [
        ("https://example.org:443/A%20b%C3%BC?q=%E2%82%AC%7Cx", "https://example.org", "example.org/A b\xfc"),
        ("https://example.org/A%20c", "https://example.org", "example.org/A c"),
        ("http://example.org:8080/c", "http://example.org:8080", "example.org:8080/c"),
    ]


def test_the_column_tells_the_delimiter() -> None:
    """The name of another column may hold commas."""
    table = Table([b"url;height, width, depth\nhttps://h/b;1\n"], placeholders={"cc", "CC"})
    assert list(table.columns) == ["url", "height, width, depth"]


def test_there_are_32_origins_at_most() -> None:
    """Rows of further origins are refused with their lines; those of known origins are not."""
    urls = [f"https://h{number}/a" for number in range(34)]
    items = items_of({"url": url} for url in [*urls, "https://h0:443/b"])
    assert [isinstance(item, InvalidItem) for item in items] == [False] * 32 + [True] * 2 + [False]
    problem = "its URL leads to more than the 32 origins that a list may have"
    assert items[32] == InvalidItem("line 33", problem, Reason.INVALID_ROW)


class Recording(CurlAdapter):
    """An adapter that sends nothing, but notes the header lines and the certificate of each request."""

    def __init__(self) -> None:
        super().__init__(new_body=lambda: pytest.fail("no body"), max_bytes=1)
        self.sent: list[tuple[bool, object]] = []

    def send(self, request: object, *_: object, cert: object = None, **__: object) -> CurlResponse:
        lines = getattr(request, "lines", [])
        self.sent.append((any(b"X-Key" in line for line in lines), cert))
        raise requests.ConnectionError("nothing is sent")


CELLS = st.one_of(
    st.text(max_size=30),
    st.from_regex(
        r"(https?|HTTP|ftp)://([a-c@:.\[\]%-]|home){1,12}(:[0-9]{1,5})?[/?#\\]?[a-z./%@:?#\\ {}\u00e4]*", fullmatch=True
    ),
)


@hypothesis_settings(deadline=None)
@given(cell=CELLS, name=st.one_of(st.none(), st.text(max_size=10)))
@example("https://home@evil/a", None)
@example("https://evil\\@home/a", None)
@example("https://home:443.evil/a", None)
@example("https://home:444/a", None)
@example("http://home/a", None)
@example("https://home/a", "../b")
def test_no_cell_carries_a_secret_elsewhere_or_leaves_the_destination(cell: str, name: str | None) -> None:
    """Whatever a cell holds, headers and certificate are sent to the trusted host alone, and files have safe names."""
    adapter = Recording()
    config = ClientConfig(
        user_agent="test",
        secret_headers={"X-Key": "abc"},
        trusted_url="https://home/{id}",
        client_cert="cert.pem",
        connect_timeout=1,
        read_timeout=1,
        attempt_timeout=1,
    )
    client = Client(adapter, config)
    for item in items_of([{"url": cell} if name is None else {"url": cell, "file": name}]):
        if isinstance(item, InvalidItem):
            assert item.problem.isprintable()
            continue
        assert is_name(item.file)
        assert item.url.isascii()
        assert item.url.isprintable()
        assert item.url.startswith(f"{item.origin}") or f"{item.origin}:" in item.url
        is_home = item.origin == "https://home"
        with pytest.raises(NetworkError):
            client.get(item.url)
        assert adapter.sent[-1] == (is_home, "cert.pem" if is_home else None)
        assert is_trusted_host("https://home/", item.url) == is_home
