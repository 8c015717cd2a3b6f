"""The documents cannot drift: what they say of names, numbers and words is compared with the code."""

import ast
import dataclasses
import json
import pkgutil
import re
import shlex
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from time import monotonic

import pytest
from command import TIMEOUT, Done, flagjob, start_flagjob
from failures import failure_of
from images import GIF, HTML
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]  # (it has no types)
from prometheus_client.metrics_core import Metric
from scripted import Answer, Request, ResettingServer, Script, ScriptedServer, Stall, Step
from test_architecture import DOORS, FILES, RANK, imported_by, owner

from job import __version__
from job.cancellation import Cancellation
from job.codes import NAMED_SETS
from job.errors import Failure, Reason
from job.exit_code import ExitCode, Totals, exit_code, outcome_name
from job.layout import BUCKET_SCHEMES
from job.maintenance import Finding, Verification
from job.manifest import Change
from job.manifest.records import Record, encode, encode_header
from job.metrics import Metrics
from job.model import Budget, Entry, Refresh, Result, Status, Stored, Summary
from job.settings import OPTIONS, ServeOptions, SimulateOptions, load, load_options, parse_arguments
from job.settings.command_options import grouped_options
from job.settings.options import Option, options_of
from job.simulate import Plan

ROOT = Path(__file__).parents[1]
JOB = ROOT / "job"
DOCUMENTS = sorted(path.relative_to(ROOT).as_posix() for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
BOOK = "docs/from-the-book.md"
TOOLS: dict[str, type] = {"serve": ServeOptions, "simulate": SimulateOptions}
MAINTENANCE = {"verify": {"--delete"}, "rollback": set(), "status": set()}
"""The commands that take the job's options, and those of their own."""
CONFIGURED = [*sorted((ROOT / "k8s").rglob("*.*")), *sorted(ROOT.glob("docs/systemd/*"))]
SETTINGS_IN = [*(ROOT / name for name in DOCUMENTS), ROOT / "Dockerfile", *CONFIGURED]
SCHEMA = Draft202012Validator(json.loads(Path(__file__).with_name("events.schema.json").read_text("utf-8")))
RUN_FIELDS = {"timestamp", "level", "event", "job", "run_id", "shard", "shards"}
BROKEN_SECONDS = 1.5
LOGGING = {"debug", "info", "warning", "error", "log", "log_plan", "write", "_warn_once"}
"""What methods of logs, and the one variable for such a method, are called."""


def text(name: str) -> str:
    """Return a document."""
    return (ROOT / name).read_text("utf-8")


def section(name: str, heading: str) -> str:
    """Return what stands under a heading of a document."""
    return text(name).split(f"\n## {heading}\n")[1].split("\n## ")[0]


def tables(name: str, heading: str) -> list[list[list[str]]]:
    """Return the cells of each table under a heading, without its head."""
    blocks = re.findall(r"(?:^\|.*\|\n)+", section(name, heading), re.MULTILINE)
    assert blocks, f"{name} has no table under {heading}"
    return [[line.strip("| ").split(" | ") for line in block.splitlines()[2:]] for block in blocks]


def settings_table(heading: str) -> list[list[str]]:
    """Return the cells of the settings under a heading of CONFIGURATION.md."""
    found = [rows for rows in tables("CONFIGURATION.md", heading) if rows[0][0].startswith("`FLAGJOB_")]
    return [row for rows in found for row in rows if len(row) == 4]


def table(name: str, heading: str) -> list[list[str]]:
    """Return the cells of the first table under a heading, without its head."""
    return tables(name, heading)[0]


def names(cell: str) -> list[str]:
    """Return what stands in backticks."""
    return re.findall(r"`([^`]+)`", cell)


def code(name: str) -> Iterator[str]:
    """Return the code of a document: every span, and every line of a block."""
    blocks = re.split(r"^```\w*$", text(name), flags=re.MULTILINE)
    for number, block in enumerate(blocks):
        yield from block.replace("\\\n", "").splitlines() if number % 2 else names(block)


def first_paragraph(module: str) -> str:
    """Return the sentence that a module, or a package, opens with."""
    path = JOB / f"{module}.py"
    source = (path if path.exists() else JOB / module / "__init__.py").read_text("utf-8")
    return " ".join((ast.get_docstring(ast.parse(source)) or "").split("\n\n")[0].split())


@pytest.mark.parametrize(("name", "most"), [("README.md", 1300), ("CONFIGURATION.md", 5000)])
def test_documents_are_short(name: str, most: int) -> None:
    """A reader gets through the two documents that everybody reads: words are counted as `wc -w` counts them."""
    assert len(text(name).split()) <= most


def test_the_first_screen() -> None:
    """The README's first 30 lines say what this is, for whom, what not, two commands, and how it looks."""
    screen = "\n".join(text("README.md").splitlines()[:30])
    wanted = ("flagjob downloads", "For whom", "What it is not", "\nmake run\n", "\ndocker run ", "(docs/report.png)")
    missing = [words for words in (*wanted, "(docs/dashboard.png)") if words not in screen]
    assert missing == []


def cells(option: Option) -> list[str]:
    """Return what a table says of an option: how it is written, its default, its meaning."""
    options = ", ".join(f"`{flag}`" for flag in (*option.flags, option.flag))
    return [options, f"`{option.default}`" if option.default else "-", option.help]


def test_settings() -> None:
    """Each group of the help page has a section with its variables, options, defaults and help, in the same order."""
    for title, options in grouped_options().items():
        expected = [[f"`{option.variable}`", *cells(option)] for option in options]
        assert settings_table(title[0].upper() + title[1:]) == expected
    grouped = [option.name for option in chain.from_iterable(grouped_options().values())]
    assert sorted(grouped) == sorted(option.name for option in OPTIONS)


def test_the_help_page_begins_with_what_matters_first() -> None:
    """A newcomer sees eight settings first; every group is called as the section that explains it."""
    first, *others = grouped_options()
    assert len(grouped_options()[first]) == 8
    assert re.findall(r"^(\S.*):$", parse_arguments(["--help"]).page, re.MULTILINE)[1:] == [
        "positional arguments",
        "options",
        first,
        *others,
    ]


@pytest.mark.parametrize("command", TOOLS)
def test_options(command: str) -> None:
    """The other commands have their tables of options, too."""
    assert table("docs/commands.md", f"flagjob {command}") == [cells(option) for option in options_of(TOOLS[command])]


def commands(name: str) -> Iterator[list[str]]:
    """Return the arguments of every line of a document's code that runs flagjob."""
    for line in code(name):
        if re.match(r"(\.venv/bin/)?flagjob( |$)", line):
            words = shlex.split(re.split(r"[;|>]", line)[0], comments=True)
            yield [word for word in words[1:] if word not in {"--help", "&"}]


@pytest.mark.parametrize("name", DOCUMENTS)
def test_commands(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every command line that a document shows is one that flagjob takes, beside the files that the document writes."""
    for written in re.findall(r"(?: > | as `)(\w+\.(?:txt|csv|jsonl))(?:`:)?$", text(name), re.MULTILINE):
        (tmp_path / written).write_text("CN\n", "utf-8")
        (tmp_path / f"{written}.gz").write_bytes(b"")
    for header, written in re.findall(r"^echo (\S+) > (\w+\.csv)$", text(name), re.MULTILINE):
        (tmp_path / written).write_text(f"{header}\n", "utf-8")
    monkeypatch.chdir(tmp_path)
    for words in commands(name):
        arguments = parse_arguments(words)
        if arguments.command in TOOLS:
            load_options(TOOLS[arguments.command], arguments)
        else:
            load(arguments, {})


def test_sets() -> None:
    """The table of sets has every set that has a name, and how many codes those that no list shows hold."""
    sets = next(rows for rows in tables("CONFIGURATION.md", "Codes") if rows[0][0] == "`POP20`")
    options = {names(option[0])[0]: option[1] for option in sets}
    assert {name for name in options if len(name) > 1} == set(NAMED_SETS)
    assert {name: re.findall(r"\b\d{3}\b", options[name]) for name in ("ALL", "EVERY")} == {
        name: [str(len(NAMED_SETS[name]))] for name in ("ALL", "EVERY")
    }


@pytest.mark.parametrize("path", SETTINGS_IN, ids=lambda path: path.name)
def test_names_of_settings(path: Path) -> None:
    """Every FLAGJOB_ name that a document, a manifest or the image mentions is a setting."""
    known = {option.variable for option in OPTIONS} | {f"{option.variable}_FILE" for option in OPTIONS if option.secret}
    assert set(re.findall(r"FLAGJOB_\w*[A-Z]", path.read_text("utf-8"))) - known == set()


def test_exit_codes() -> None:
    """The table of exit codes has every code, with the word that the log has for it."""
    expected = {(str(member.value), outcome_name(member)) for member in ExitCode}
    options = table("CONFIGURATION.md", "Exit codes")
    assert {(option[0], option[1]) for option in options} == expected
    assert len(options) == len(expected)


def firsts(options: list[list[str]]) -> list[str]:
    """Return what stands in backticks in the first cell of each row."""
    return [name for option in options for name in names(option[0])]


def test_statuses() -> None:
    """The table of statuses has every status."""
    assert firsts(table("docs/results.md", "Statuses")) == list(Status)


def test_refresh_modes() -> None:
    """The table of the second run has every way to treat a file that is there."""
    assert firsts(tables("CONFIGURATION.md", "The second run")[1]) == list(Refresh)


def test_the_manifest() -> None:
    """The table of the manifest's fields has every field, in their order; its first line is described beside it."""
    entry = Entry(
        "BR",
        "u",
        "br.gif",
        Status.NOT_FOUND,
        Stored("br.gif", 1, "0", None, redirected_to="0", md5="0"),
        "",
        None,
        1,
        "http_404",
    )
    fields = table("docs/results.md", "The manifest")
    assert firsts(fields) == list(json.loads(encode(Record(entry, gone=True))))
    assert set(json.loads(encode_header("o"))) <= set(names(section("docs/results.md", "The manifest")))


def test_changes() -> None:
    """The table of changes has every kind of change."""
    assert firsts(table("docs/results.md", "Changes")) == list(Change)


def test_findings() -> None:
    """The table of findings has everything that a file can turn out to be, and what it does to the exit code."""
    options = tables("docs/commands.md", "flagjob verify")[1]
    assert firsts(options) == list(Finding)
    for finding, option in zip(Finding, options, strict=True):
        verification = Verification(ROOT / "nowhere", lambda *_: None)
        verification.counts[finding] = 1
        assert option[2] == str(int(ExitCode.OK if verification.run(()) else ExitCode.PERMANENT))


@pytest.mark.parametrize("command", MAINTENANCE)
def test_maintenance(command: str, tmp_path: Path) -> None:
    """The commands that look after a destination have their own options in a table, and the same ones in their help."""
    done = flagjob(command, "--help", cwd=tmp_path)
    described = firsts(table("docs/commands.md", f"flagjob {command}")) if MAINTENANCE[command] else []
    assert (set(described), done.code) == (MAINTENANCE[command], 0)
    assert set(re.findall(r"^  (--\S+) ", done.stdout.decode(), re.MULTILINE)) == MAINTENANCE[command]
    assert done.stdout.decode().startswith(f"usage: flagjob {command} ")


def test_buckets() -> None:
    """The table of buckets has every cloud, and names no variable that the store does not know."""
    options = table("docs/destinations.md", "Buckets")
    source = "".join(path.read_text("utf-8") for path in sorted((JOB / "storage").glob("*.py")))
    known = set(re.findall(r"\b(?:AWS|GOOGLE|AZURE)_[A-Z0-9_]*[A-Z0-9]\b", source))
    assert tuple(name.partition("//")[0] + "//" for name in firsts(options)) == BUCKET_SCHEMES
    assert {name for option in options for name in names(option[2])} - known == set()


def test_the_platforms_shards() -> None:
    """The table of platforms has every variable from which a share is taken, in the order in which they count."""
    cells = [
        [name for option in table("docs/destinations.md", "Shards") for name in names(option[place])]
        for place in (1, 2)
    ]
    assert cells == [
        list(option.fallback_variables) for option in OPTIONS if option.name in {"shard_index", "shard_count"}
    ]


def reasons() -> dict[str, list[str]]:
    """Return the rows of the table of reasons by each reason that they name."""
    return {name: option for option in table("docs/results.md", "Reasons") for name in names(option[0])}


def test_reasons() -> None:
    """The table of reasons has the whole closed list, and says which are tried again."""
    found = {name: option[2] for name, option in reasons().items() if not name.startswith("http_")}
    assert set(found) == set(Reason)
    assert {name for name, again in found.items() if again != "no"} == {
        name for name in Reason if failure_of(name).retryable
    }


def test_http_reasons() -> None:
    """The table of reasons says which HTTP statuses are tried again."""
    (cell,) = {option[0] for name, option in reasons().items() if name.startswith("http_") and option[2] == "yes"}
    spans = re.findall(r"`http_(\d+)`(?: to `http_(\d+)`)?", cell)
    listed = {status for low, high in spans for status in range(int(low), int(high or low) + 1)}
    assert listed == {status for status in range(100, 1000) if Failure(None, status).retryable}


def exit_code_of_cutoff(totals: Totals, reason: str) -> int:
    """Return the exit code of a run that the repeated-failure cutoff ended for a reason."""
    cancellation = Cancellation()
    cancellation.request(Reason.UNIFORM_REFUSAL)
    failure = Result(Status.ERROR, None, "CN", reason=reason, retryable=failure_of(reason).retryable)
    cut = dataclasses.replace(totals, uniform_failure=failure)
    return exit_code(cut, cancellation, errors=Budget(), not_found=Budget())


def deserved(reason: str) -> str:
    """Return the exit codes of a run with one good item and one that ended with this reason."""
    totals = Totals()
    totals.add(Result(Status.OK, None, "BR", http_status=200, answered=True, attempts=1))
    status = Status.NOT_FOUND if reason in {"http_204", "http_404", "http_410"} else Status.ERROR
    totals.add(Result(status, None, "CN", reason=reason, retryable=failure_of(reason).retryable, attempts=1))
    codes = []
    for signal in (1, 2, 15) if reason == Reason.SIGNAL else (None,):
        cancellation = Cancellation()
        if reason in {Reason.STORAGE, Reason.DEADLINE, Reason.SIGNAL, Reason.ORIGIN_DOWN}:
            cancellation.request(Reason(reason), signal)
        codes.append(exit_code(totals, cancellation, errors=Budget(), not_found=Budget()))
    if reason == Reason.UNIFORM_REFUSAL:
        codes = [exit_code_of_cutoff(totals, "bad_content"), exit_code_of_cutoff(totals, "http_403")]
    return ", ".join(map(str, map(int, codes)))


def test_exit_codes_of_reasons() -> None:
    """The table of reasons says which exit code each leads to."""
    found = {name.replace("NNN", "400"): option[3] for name, option in reasons().items()}
    assert found == {name: deserved(name) for name in found}


def families() -> list[Metric]:
    """Return the metrics of a run that ended well."""
    metrics = Metrics("0", "r")
    metrics.record_end(Summary(dict.fromkeys(Status, 0), 0, 0, 0.0, 0, "ok"), 0.0)
    return list(metrics.registry.collect())


def labels(family: Metric) -> str:
    """Describe a metric's labels as the table does: values where they are a closed list."""
    pairs = [pair for sample in family.samples for pair in sample.labels.items() if pair[0] != "le"]
    found = {name: list(dict.fromkeys(value for key, value in pairs if key == name)) for name, _ in pairs}
    if len(found) == 1:
        return "".join(f"`{name}`: {', '.join(values)}" for name, values in found.items())
    return ", ".join(f"`{name}`" for name in found) or "-"


def test_metrics() -> None:
    """The table of metrics has every metric as it is scraped, its type and its labels."""
    expected = {
        f"`{family.name}{'_total' * (family.type == 'counter')}`": [family.type, labels(family)]
        for family in families()
    }
    options = table("docs/metrics.md", "Metrics")
    assert {option[0]: option[1:3] for option in options} == expected
    assert len(options) == len(expected)


def logged(source: str) -> set[str]:
    """Find the events that source logs: the first word among the arguments of a call that logs."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            either = node.func.body if isinstance(node.func, ast.IfExp) else node.func
            called = getattr(either, "attr", getattr(either, "id", None))
            words = [arg.value for arg in node.args[:2] if isinstance(arg, ast.Constant) and isinstance(arg.value, str)]
            found |= set(words[:1]) if called in LOGGING else set()
    return found


def events() -> dict[str, list[str]]:
    """Return level and fields of each event that the document lists."""
    return {names(option[0])[0]: option[1:] for option in table("docs/logs.md", "Events")}


def test_events() -> None:
    """The table of log events has exactly the events that the code logs."""
    assert set(events()) == {event for path in JOB.rglob("*.py") for event in logged(path.read_text("utf-8"))}


def kept(cwd: Path) -> list[Done]:
    """Publish two sets and refuse a third, go back to the first, and look at it when a file is gone."""
    sets = ["--publish=set", "--dest=sets"]
    runs = [flagjob(*codes, *sets, cwd=cwd) for codes in (["BR"], ["BR", "CN"], ["BR", "ZZ"])]
    back = flagjob("rollback", *sets, cwd=cwd)
    (cwd / "sets" / "current" / "br.gif").rename(cwd / "sets" / "current" / "unknown.gif")
    return [*runs, back, flagjob("verify", *sets, cwd=cwd), flagjob("status", *sets, "--log-format=json", cwd=cwd)]


def troubled(cwd: Path) -> list[Done]:
    """Ask origins that refuse everything, send no flags, break down and come back, or are not there at all."""
    flags = [f"c{n}" for n in range(120)]
    seen: dict[str, float] = {}

    def broken_at_first(request: Request) -> Step:
        # Until ten items have failed, and somewhat longer, so that a slow machine has noticed that the origin is away.
        seen.setdefault(request.target, monotonic())
        tenth = sorted(seen.values())[9:10]
        return Answer(body=GIF) if tenth and monotonic() - tenth[0] > BROKEN_SECONDS else Answer(500)

    stalled: dict[str, Step] = {"/stall/br.gif": Stall(), "/stall/us.gif": Answer(body=GIF)}
    page, breaking = Answer(body=HTML), dict.fromkeys((f"/back/{flag}.gif" for flag in flags), broken_at_first)
    with ScriptedServer({**{f"/page/{flag}.gif": page for flag in flags}, **breaking, **stalled}) as server:
        runs = [
            (server.url("/none/{cc}.gif"), 120),
            (server.url("/page/{cc}.gif"), 60),
            (server.url("/back/{cc}.gif"), 20),
            ("http://127.0.0.1:1/{cc}.gif", 20),
        ]
        with ThreadPoolExecutor() as pool:
            late = ["BR", "US", "--url", server.url("/stall/{cc}.gif"), "--dest=late", "--shutdown-grace=1"]
            words = [["--url", url, f"--dest=trouble{n}", *flags[:most]] for n, (url, most) in enumerate(runs)]
            words = [*words, [*late, "--deadline=2"]]
            done = pool.map(lambda line: flagjob(*line, "--origin-patience=5", cwd=cwd), words)
            return [*done, terminated(late, server, cwd)]


def refused(cwd: Path) -> list[Done]:
    """Ask an origin that wants another token, which the file of headers gets meanwhile, or loses."""
    headers = cwd / "headers"
    headers.write_text("X-Token: the-first-one\n")

    def answer(request: Request) -> Step:
        headers.write_text("X-Token: the-second-one\n")
        return Answer(401) if request.headers["x-token"] == "the-first-one" else Answer(body=GIF)

    def spoil(_: Request) -> Step:
        headers.unlink()
        return Answer(403)

    with ScriptedServer({"/br.gif": answer, "/cn.gif": spoil}) as server:
        words = ["--dest=refused", "--url", server.url("/{cc}.gif"), "--headers-file", str(headers)]
        return [flagjob("BR", *words, cwd=cwd), flagjob("CN", *words, cwd=cwd)]


def crowded(cwd: Path) -> Done:
    """Ask an origin of two connections, which resets the others."""
    flags = [f"d{n}" for n in range(60)]

    def slow(_: Request) -> Step:
        threading.Event().wait(0.01)
        return Answer(body=GIF)

    with ResettingServer({f"/{flag}.gif": slow for flag in flags}, 2) as server:
        return flagjob(*flags, "--dest=crowded", "--url", server.url("/{cc}.gif"), cwd=cwd)


def terminated(words: list[str], server: ScriptedServer, cwd: Path) -> Done:
    """Send SIGTERM to a run that has one of two answers, or is about to get it."""
    with start_flagjob(*words, cwd=cwd, settings={"FLAGJOB_TERMINATION_LOG": str(cwd / "message")}) as process:
        server.wait_for(len(server.requests) + 2)
        process.terminate()
        stdout, stderr = process.communicate(timeout=TIMEOUT)
    return Done(process.returncode, stdout, stderr.decode())


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, object]]:
    """Make runs log what they can, down to a taken port, wrong input and no directory; ask a served origin, too."""
    cwd = tmp_path_factory.mktemp("runs")
    (cwd / "file").touch()
    script: Script = {"/br.gif": Answer(body=GIF), "/us.gif": [Answer(503, {"Retry-After": "0"}), Answer(body=GIF)]}
    with ScriptedServer(script) as server:
        url, taken = f"http://127.0.0.1:{server.port}/{{cc}}.gif", f"127.0.0.1:{server.port}"
        reporting = [
            "--metrics-address",
            taken,
            "--pushgateway-url",
            f"http://{taken}",
            "--ping-url",
            f"http://{taken}",
        ]
        everything = flagjob("BR", "US", "ZZ", "-v", "--url", url, *reporting, cwd=cwd)
    others: list[Done] = [
        flagjob("BR", "--dest=builtin", cwd=cwd),
        flagjob("BR", "--dry-run", cwd=cwd),
        flagjob("--workers=0", cwd=cwd),
        flagjob("simulate", "--latency=0", cwd=cwd),
        flagjob("--dest=file", cwd=cwd),
    ]
    (cwd / "builtin" / "br.gif").touch()
    others += [flagjob("BR", "--dest=builtin", cwd=cwd), *kept(cwd), *troubled(cwd), *refused(cwd), crowded(cwd)]
    with start_flagjob("serve", "--port", "0", cwd=cwd) as process:
        assert process.stdout
        first = process.stdout.readline()
        others += [flagjob("BR", "--dest=served", "--url", json.loads(first)["url"], cwd=cwd)]
        process.terminate()
        stdout, _ = process.communicate(timeout=TIMEOUT)
    others += [Done(process.returncode, first + stdout, "")]
    return [line for done in (everything, *others) for line in done.events]


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_every_event_can_be_seen(lines: list[dict[str, object]]) -> None:
    """Every event of the table but that of a bug appears in these runs."""
    assert {line["event"] for line in lines} == set(events()) - {"bug"}


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_the_schema_of_events(lines: list[dict[str, object]]) -> None:
    """Every line that was logged, of good and bad runs, is as the JSON Schema of its event has it."""
    for line in lines:
        SCHEMA.evolve(schema={"$ref": f"#/$defs/{line['event']}"}).validate(line)
    assert {line["exit_code"] for line in lines if line["event"] == "run_finished"} == {0, 3, 4, 5, 6, 7, 143}
    ends = [line for line in lines if line["event"] == "interrupted"]
    assert sorted((line["reason"], line["signal"], line["in_flight"]) for line in ends) == [
        ("deadline", None, 1),
        ("signal", "SIGTERM", 1),
    ]


@pytest.mark.parametrize("codes", [["BR", "ZZ"], ["-v", "BR"], ["--dry-run", "BR"], ["--workers=0", "--log-level=x"]])
def test_lines_for_google_cloud(tmp_path: Path, codes: list[str]) -> None:
    """A line has severity, time and a message; with the names of JSON in their places it is as its schema has it."""
    done = flagjob(*codes, cwd=tmp_path, settings={"FLAGJOB_LOG_FORMAT": "gcp", "FLAGJOB_NAME": "maps"})
    assert done.events
    for line in done.events:
        fields = {name: value for name, value in line.items() if name not in {"severity", "time", "message"}}
        message = line["message"]
        assert isinstance(message, str)
        assert message
        plain = {**fields, "timestamp": line["time"], "level": line["severity"].lower()}
        if line["event"] == "usage_error":
            plain["message"] = message
        SCHEMA.evolve(schema={"$ref": f"#/$defs/{line['event']}"}).validate(plain)
        assert line["severity"].isupper()


def test_a_page_says_how_each_field_is_called_elsewhere() -> None:
    """Every field that the page on other systems maps is one of ours."""
    listed = {name for cells in events().values() for name in names(cells[1])} | RUN_FIELDS
    rows = table("docs/logs.md", "Field names in other systems")
    assert len(rows) >= 9
    assert {names(row[0])[0] for row in rows if names(row[0])} - listed == set()
    assert {len(row) for row in rows} == {5}


def test_the_schema_knows_no_more_than_the_table() -> None:
    """Events and fields of the schema are those of the document; a line that has others is none of ours."""
    listed = [reference["$ref"].removeprefix("#/$defs/") for reference in SCHEMA.schema["oneOf"]]
    assert sorted(listed) == sorted(events())
    for event in set(listed) - {"settings"}:
        found = SCHEMA.schema["$defs"][event]
        required, _, optional = re.sub(r"\([^)]*\)", "", events()[event][1]).partition(", and, ")
        assert set(found["properties"]) - RUN_FIELDS == {*names(required), *names(optional)}
        assert set(found["required"]) - RUN_FIELDS == set(names(required))
        assert found["properties"]["level"]["enum"] == events()[event][0].split(", ")
    reasons_known = re.compile(SCHEMA.schema["$defs"]["reason"]["pattern"])
    assert all(reasons_known.fullmatch(reason) for reason in [*Reason, "http_404", "http_999"])


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_levels(lines: list[dict[str, object]]) -> None:
    """Every line that was logged has a level that the table gives its event."""
    documented = {event: cells[0].split(", ") for event, cells in events().items()}
    assert [line for line in lines if line["level"] not in documented[str(line["event"])]] == []


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_fields(lines: list[dict[str, object]]) -> None:
    """Every line that was logged has the fields that the table gives its event, and perhaps the optional ones."""
    for line in lines:
        required, _, optional = re.sub(r"\([^)]*\)", "", events()[str(line["event"])][1]).partition(", and, ")
        fields = set(line) - RUN_FIELDS
        assert line["event"] == "settings" or set(names(required)) == fields - set(names(optional)), line


def in_use() -> set[str]:
    """Find the modules that the command imports, itself or through others."""
    found: set[str] = set()
    new = {"__main__"}
    while new:
        found |= new
        imports = [name.split(".") for file in FILES if owner(file) in new for name in imported_by(file)]
        new = {words[1] for words in imports if words[0] == "job"} & set(RANK) - found
    return found


def test_the_map() -> None:
    """CONTRIBUTING's map has every module in use, below all that it imports, its first sentence and its libraries."""
    options = {names(option[1])[0]: option for option in table("CONTRIBUTING.md", "The map")}
    doors = {module: {library for library in DOORS if module in DOORS[library]} for module in options}
    assert set(options) == in_use()
    assert [RANK[module] for module in options] == sorted(RANK[module] for module in options)
    assert {module: option[2] for module, option in options.items()} == {
        module: first_paragraph(module) for module in options
    }
    assert {module: set(names(option[3])) for module, option in options.items()} == doors


def test_the_way_of_one_code() -> None:
    """The paragraph that follows a code to the disk and back names few modules, all of them ours."""
    paragraph = text("CONTRIBUTING.md").split("### The way of one code\n")[1].split("\n### ")[0]
    modules = set(names(paragraph)) - {"get"}
    assert modules <= set(RANK)
    assert 10 <= len(modules) <= 16


def test_the_usual_changes() -> None:
    """The table of usual changes points to names and tests that exist."""
    rows = (
        text("CONTRIBUTING.md")
        .split("### Where to look for the usual changes\n")[1]
        .split("\n### ")[0]
        .splitlines()[3:]
    )
    cells = [row.strip("| ").split(" | ") for row in rows if row.startswith("|")]
    assert len(cells) == 5
    for _, code_names, tests in cells:
        for name in names(code_names):
            assert (ROOT / name).exists() if "/" in name else pkgutil.resolve_name(f"job.{name}"), name
        for name in names(tests):
            assert any((place / name).exists() for place in (ROOT, ROOT / "tests")), name


@pytest.mark.parametrize("name", DOCUMENTS)
def test_anchors(name: str) -> None:
    """Every link to a place within a document leads to one of its headings."""
    for target, anchor in re.findall(r"\]\(([^)#]*)#([^)]+)\)", text(name)):
        document = (Path(name).parent / target).as_posix() if target else name
        headings = re.findall(r"^#+ (.*)$", text(document), re.MULTILINE)
        assert anchor in {re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_links(name: str) -> None:
    """Every relative link leads to a file that exists."""
    links = [link for link in re.findall(r"\]\(([^)]+)\)", text(name)) if "://" not in link]
    targets = [(ROOT / name).parent / link.partition("#")[0] for link in links]
    assert [target for target in targets if not target.exists()] == []


@pytest.mark.parametrize("name", DOCUMENTS)
def test_make_targets(name: str) -> None:
    """Every make target that a document names exists."""
    targets = set(re.findall(r"^([a-z0-9-]+):.*## ", text("Makefile"), re.MULTILINE))
    events = {word for line in code(name) if line.startswith("make ") for word in line.split()[1:]}
    assert events - targets == set()


def test_the_table_of_targets() -> None:
    """CONTRIBUTING lists every make target but the one that lists them."""
    targets = re.findall(r"^([a-z0-9-]+):.*## ", text("Makefile"), re.MULTILINE)
    assert sorted(option[0] for option in table("CONTRIBUTING.md", "How to work")) == sorted(
        f"`make {target}`" for target in targets if target != "help"
    )


def test_the_changelog() -> None:
    """The newest version of the changelog is the program's."""
    assert re.findall(r"^## \[([^]]+)\]", text("CHANGELOG.md"), re.MULTILINE)[0] == __version__


def ours(line: str) -> list[str]:
    """Return the functions and classes of flagjob that a line names, as `module.name`."""
    return [name for name in re.findall(r"`(\w+(?:\.\w+)+)`", line) if name.partition(".")[0] in RANK]


def test_names_in_the_book() -> None:
    """Every function and class that the page on the book names is where it says."""
    found = {name: pkgutil.resolve_name(f"job.{name}") for name in ours(text(BOOK))}
    assert len(found) > 20


def test_every_snippet_of_the_book_has_its_place() -> None:
    """Each snippet's paragraph says in which function or class it lives."""
    snippets = re.findall(r"^### (.*)\n\n(.*)$", text(BOOK), re.MULTILINE)
    assert len(snippets) == text(BOOK).count("\n### ")
    assert [heading for heading, first in snippets if not ours(first)] == []


def test_what_concurrency_buys() -> None:
    """The table of times says what the simulation expects."""
    expected = {option[0].replace("sequential", "1"): option[2] for option in table(BOOK, "What concurrency buys")}
    plans = {workers: Plan(20, int(workers), 2.75, 0) for workers in expected}
    assert expected == {workers: f"{plan.expected_seconds():g} s" for workers, plan in plans.items()}
    assert list(plans) == ["1", "5", "20"]
