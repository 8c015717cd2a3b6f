"""The benchmark's own parts: its arithmetic, its tables, its commands, its checks. It needs neither nginx nor peers."""

import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from bench import imports, table
from bench.machine import file_system
from bench.measure import BenchError, Command, Usage, measure
from bench.peers import (
    CLIENTS,
    SCRIPTS,
    SYSTEM,
    Task,
    flagjob_commands,
    flagjob_environment,
    script_clients,
    write_lists,
)
from bench.rows import BASE, ROWS, Against, By, check
from bench.table import Outcome

ROOT = Path(__file__).parents[1]
THREADS, GREENLETS = "flagjob threads", "flagjob greenlets"
SHA256_OF_A = "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb"


def usage(wall_seconds: float, files: int = 100) -> Usage:
    """Return a usage in which all other figures follow from the wall time."""
    return Usage(wall_seconds, 2 * wall_seconds, 1000, 50_000_000, files)


def outcome(client: str, *walls: float, row: str = "zero", part: str = "", fault: str = "") -> Outcome:
    """Return a line of a row, compared with the naive pool and with BASE."""
    against = (Against(By.SPEED, "naive pool"), Against(By.SPEED, BASE))
    usages = tuple(usage(wall) for wall in walls)
    return Outcome(row, client, part, usages, against, client.startswith("flagjob"), fault)


@pytest.fixture
def task(tmp_path: Path) -> Task:
    """Return a task of seven workers over TLS."""
    return Task(
        "https://127.0.0.1:1/files/",
        tmp_path / "lists",
        destination=tmp_path / "files",
        scratch=tmp_path / "scratch",
        workers=7,
        authority=tmp_path / "client.pem",
    )


def test_figures_are_medians_of_the_rounds() -> None:
    """One slow round does not move a figure."""
    usages = [usage(1.0), usage(2.0), usage(50.0)]
    assert table.middle(usages, table.wall) == 2.0
    assert table.middle(usages, table.speed) == 50.0
    assert table.middle(usages, table.cpu_per_thousand) == 40.0
    assert table.middle(usages, table.switches_per_file) == 10.0
    assert table.middle(usages, table.megabytes) == 50.0


@pytest.mark.parametrize(
    ("by", "expected"), [(By.SPEED, 0.5), (By.WALL, 2.0), (By.TIME_PER_FILE, 2.0), (By.CPU, 2.0), (By.RSS, 1.0)]
)
def test_ratios_are_made_within_a_round(by: By, expected: float) -> None:
    """A machine that is slow for a whole round slows both sides down, and the ratio stays."""
    own = [usage(2.0), usage(40.0), usage(6.0)]
    reference = [usage(1.0), usage(20.0), usage(2.0)]
    assert table.ratio(own, reference, by) == expected


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0588, "0.0588"), (2.0, "2"), (46.26, "46.3"), (999.6, "1000"), (12345.6, "12,346"), (0.000012, "1.2e-05")],
)
def test_numbers_have_three_digits(value: float, text: str) -> None:
    """Figures have three significant digits, and all before the point."""
    assert table.number(value) == text


def test_the_table_of_results() -> None:
    """A line of flagjob has its ratios; one that failed or was left out says why."""
    outcomes = [
        outcome("naive pool", 2.0),
        outcome(THREADS, 1.0),
        outcome("wget2", fault="exit codes [1] | told"),
    ]
    assert table.results_table(outcomes).splitlines() == [
        "| row | client | files | wall s | files/s | CPU-s per 1,000 | switches a file | peak RSS MB | ratios |",
        "|---|---|---|---|---|---|---|---|---|",
        "| zero | naive pool | 100 | 2 | 50 (50 to 50) | 40 | 10 | 50 | - |",
        "| zero | flagjob threads | 100 | 1 | 100 (100 to 100) | 20 | 10 | 50 | files/s 2.00 x naive pool |",
        "| zero | wget2 | - | - | - | - | - | - | exit codes [1] / told |",
    ]


def stage_cells(outcomes: Sequence[Outcome]) -> list[str]:
    """Return the first cells of the line of a stage."""
    return table.stage_line("2026-11-28", "one", "abc1234", outcomes).strip("| ").split(" | ")[:7]


def test_the_line_of_a_stage() -> None:
    """A stage keeps the main figures of each variant of flagjob; what was not measured is a dash."""
    outcomes = [outcome("naive pool", 2.0), outcome(THREADS, 1.0), outcome(GREENLETS, 0.5), outcome(BASE, 4.0)]
    assert stage_cells(outcomes) == ["2026-11-28", "one", "abc1234", "threads / greenlets", "2.00 / 4.00", "-", "-"]
    assert stage_cells([]) == ["2026-11-28", "one", "abc1234", "-", "-", "-", "-"]


def test_a_stage_is_kept_once() -> None:
    """A new stage is added, one that is measured again replaces its line, and a document gives its stages back."""
    first = table.stage_line("2026-11-28", "one", "abc1234", [])
    second = table.stage_line("2026-11-29", "two", "def5678", [])
    again = table.stage_line("2026-11-30", "one", "0123456", [])
    lines = table.put_stage(table.put_stage([], first), second)
    assert lines == [first, second]
    text = table.document("| 2026-11-28 | of the last run |\n", lines)
    assert list(table.stage_lines(text)) == lines
    assert table.put_stage(table.stage_lines(text), again) == [again, second]


def test_the_document_says_what_it_is() -> None:
    """The recorded results begin as the benchmark writes them now."""
    assert (ROOT / "bench" / "RESULTS.md").read_text("utf-8").startswith(f"{table.HEAD}\n{table.LAST_RUN}\n")


@pytest.mark.parametrize("name", SYSTEM)
def test_commands_of_programs(name: str, task: Task) -> None:
    """Each program gets the list, the destination, the number of workers and the authority."""
    program, command = SYSTEM[name]
    argv = command(task).argv
    words = " ".join(argv).replace("=", " ").split()
    assert argv[0] == program
    assert {str(task.destination), "7", str(task.authority)} - set(words) == set()
    assert any(word.startswith(f"{task.lists}/") for word in words)


def test_commands_of_scripts(task: Task) -> None:
    """Each script exists and gets what it downloads in the same four words."""
    commands = [client.commands(task)[0] for client in script_clients(Path(sys.executable))]
    assert [command.argv[1] for command in commands] == [str(CLIENTS / script) for script, _ in SCRIPTS.values()]
    assert all((CLIENTS / script).is_file() for script, _ in SCRIPTS.values())
    assert {tuple(command.argv[2:]) for command in commands} == {
        (task.prefix, str(task.lists / "codes"), str(task.destination), "7")
    }


def test_commands_of_flagjob(task: Task) -> None:
    """Shards are processes that differ in their index; a variant is its executor, and BASE has none set."""
    settings = [command.env for command in flagjob_commands(Path("flagjob"), "threads", 2)(task)]
    assert [one["FLAGJOB_SHARD_INDEX"] for one in settings] == ["0", "1"]
    assert {one["FLAGJOB_SHARD_COUNT"] for one in settings} == {"2"}
    assert len({one["FLAGJOB_METRICS_FILE"] for one in settings}) == 2
    assert {one["FLAGJOB_EXECUTOR"] for one in settings} == {"threads"}
    assert {"FLAGJOB_EXECUTOR", "FLAGJOB_SHARD_INDEX", "LD_PRELOAD"} & flagjob_environment(task, None).keys() == set()


def test_lists_name_the_same_files(tmp_path: Path) -> None:
    """Every client downloads the same codes in the same order, whatever form its list has."""
    write_lists(tmp_path / "lists", "http://127.0.0.1/files/", ["c0", "c1"])
    lists = {path.name: path.read_text("ascii").splitlines() for path in (tmp_path / "lists").iterdir()}
    assert lists == {
        "codes": ["c0", "c1"],
        "names": ["c0.gif", "c1.gif"],
        "urls": ["http://127.0.0.1/files/c0.gif", "http://127.0.0.1/files/c1.gif"],
        "curl": ['url = "http://127.0.0.1/files/c0.gif"', 'url = "http://127.0.0.1/files/c1.gif"'],
    }


def test_a_wrong_result_is_an_error(tmp_path: Path) -> None:
    """Files that are missing, wrong or not asked for are named; what flagjob keeps beside the files does not count."""
    for name in ("a.gif", "b.gif", "other.gif", "SHA256SUMS"):
        (tmp_path / name).write_bytes(b"a")
    (tmp_path / ".flagjob").mkdir()
    with pytest.raises(BenchError) as caught:
        check(tmp_path, {"a.gif": SHA256_OF_A, "b.gif": "0" * 64, "c.gif": SHA256_OF_A})
    assert str(caught.value) == (
        "wrong result: 1 missing, such as c.gif; 1 wrong, such as b.gif; 1 not asked for, such as other.gif"
    )
    (tmp_path / "other.gif").unlink()
    check(tmp_path, {"a.gif": SHA256_OF_A, "b.gif": SHA256_OF_A})


def test_commands_are_measured_together(tmp_path: Path) -> None:
    """What several processes use is added up; their output is in files of the directory."""
    statement = "import os; print(os.environ['NUMBER']); sum(range(1_000_000))"
    commands = [Command([sys.executable, "-S", "-c", statement], {"NUMBER": number}) for number in ("one", "two")]
    used = measure(commands, tmp_path)
    assert used.wall_seconds > 0
    assert used.cpu_seconds > 0
    assert used.rss_bytes > 2 * 4_000_000
    assert [(tmp_path / f"stdout.{number}").read_text("utf-8") for number in (0, 1)] == ["one\n", "two\n"]


@pytest.mark.parametrize(
    ("argv", "timeout_seconds", "message"),
    [
        ([sys.executable, "-c", "raise SystemExit('no flags')"], 60.0, "exit codes [1]"),
        (["/nonexistent/program"], 60.0, "cannot be started"),
        ([sys.executable, "-c", "import signal; signal.pause()"], 0.1, "no end after 0.1 s"),
    ],
)
def test_a_command_that_fails_is_an_error(
    argv: list[str], timeout_seconds: float, message: str, tmp_path: Path
) -> None:
    """A command that fails, does not exist or does not end is no measurement."""
    with pytest.raises(BenchError) as caught:
        measure([Command(argv)], tmp_path, timeout_seconds)
    assert str(caught.value).startswith(message)


def test_rows_have_names_of_their_own() -> None:
    """A row can be chosen by its name, and every client that a row or a ratio names exists."""
    known = {*SYSTEM, *SCRIPTS, BASE, "import of the four libraries", None}
    assert len({row.name for row in ROWS}) == len(ROWS)
    assert {client for row in ROWS for client in row.clients} - known == set()
    assert {against.client for row in ROWS for against in row.against} - known == set()


def test_rows_that_only_wait_have_an_ideal() -> None:
    """Three thousand files by thirty at a time take a hundred times the latency."""
    ideals = {row.name: row.ideal_seconds(10_000) for row in ROWS if row.ideal_seconds(10_000)}
    assert ideals == {"slow": 5.0, "slow-tls": 5.0, "slow-200": 0.75}


def test_the_type_of_a_file_system() -> None:
    """Where files go is looked up in the table of mounts."""
    assert file_system(Path("/proc/self")) == "proc"


def test_the_benchmark_is_in_no_image() -> None:
    """The image takes in what is named only, and the benchmark is not."""
    lines = (ROOT / ".dockerignore").read_text("utf-8").splitlines()
    assert "*" in lines
    assert [line for line in lines if "bench" in line] == []


IMPORT_TIME = """\
import time: self [us] | cumulative | imported package
import time:      1500 |       1500 |   requests.compat
import time:       500 |       2000 | requests
import time:        90 |         90 | job
"""


def test_the_imports_are_listed_by_what_they_cost() -> None:
    """The dearest modules come first, with all that they import; a module that another flagjob lacks has a dash."""
    times = imports.parse(IMPORT_TIME)
    assert times == {"requests.compat": 1.5, "requests": 2.0, "job": 0.09}
    text = imports.imports_table([THREADS, BASE], [times, {"requests": 2.5}])
    assert text.splitlines()[-5:] == [
        f"| module | {THREADS} | {BASE} |",
        "|---|---|---|",
        "| requests | 2 | 2.5 |",
        "| requests.compat | 1.5 | - |",
        "| job | 0.09 | - |",
    ]
