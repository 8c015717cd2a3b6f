"""The grammar of the command line, its pages, and the options of serve and simulate with the message of each fault."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from command import flagjob
from hypothesis import given
from hypothesis import strategies as st

from job import __version__
from job.errors import UsageError
from job.settings import Command, Executor, ServeOptions, SimulateOptions, load_options, parse_arguments
from job.settings.options import options_of

KINDS: dict[str, type] = {"serve": ServeOptions, "simulate": SimulateOptions}
CASES = [(command, option.name) for command, kind in KINDS.items() for option in options_of(kind)]
GOOD: dict[str, tuple[str, object]] = {
    "bind": ("[::1]", "::1"),
    "port": ("0", 0),
    "delay": ("0.5-5", (0.5, 5.0)),
    "error_rate": ("0.25", 0.25),
    "retry_after": ("0", 0),
    "truncate_rate": ("1", 1.0),
    "tasks": ("100000", 100_000),
    "workers": ("1000", 1000),
    "latency": ("0ms", 0.0),
    "rate": ("2.5", 2.5),
    "executor": ("greenlets", Executor.GREENLETS),
    "report": ("a b/timeline.html", "a b/timeline.html"),
}


def serve(*argv: str) -> ServeOptions:
    """Return the options of this command line."""
    return load_options(ServeOptions, parse_arguments(["serve", *argv]))


def simulate(*argv: str) -> SimulateOptions:
    """Return the options of this command line."""
    return load_options(SimulateOptions, parse_arguments(["simulate", *argv]))


COMMANDS: dict[str, Callable[..., object]] = {"serve": serve, "simulate": simulate}


def faults(command: str, *argv: str) -> list[str]:
    """Return the messages of all faults of these arguments."""
    with pytest.raises(UsageError) as caught:
        COMMANDS[command](*argv)
    return [str(fault) for fault in caught.value.faults]


def test_the_defaults_of_serve() -> None:
    """Without options the demo server listens on the loopback address, without any fault."""
    assert serve() == ServeOptions(
        bind="127.0.0.1", port=8000, delay=None, error_rate=0.0, retry_after=None, truncate_rate=0.0
    )


def test_the_defaults_of_simulate() -> None:
    """Without options it is the book's demonstration: five tasks on three workers, task n takes n seconds."""
    assert simulate() == SimulateOptions(
        tasks=5, workers=3, latency=None, rate=0.0, executor=Executor.THREADS, report=None
    )


@pytest.mark.parametrize(("command", "name"), CASES)
def test_every_option_is_read(command: str, name: str) -> None:
    """Each option is read in both notations, and the last of two values counts."""
    text, value = GOOD[name]
    flag = f"--{name.replace('_', '-')}"
    assert getattr(COMMANDS[command](flag, text), name) == value
    assert getattr(COMMANDS[command](f"{flag}=nonsense that does not count", f"{flag}={text}"), name) == value


def test_the_short_option() -> None:
    """The option -m sets the workers of a simulation, too."""
    assert simulate("-m", "7").workers == 7


@pytest.mark.parametrize(("command", "name"), CASES)
def test_no_option_takes_just_anything(command: str, name: str) -> None:
    """A wrong text is one fault: the option, the text, and a description of a valid text."""
    flag = f"--{name.replace('_', '-')}"
    (fault,) = faults(command, f"{flag}=a b")
    assert fault.startswith(f"{flag} 'a b': must be ")


def test_every_fault_of_serve_at_once() -> None:
    """All faults are reported, unknown words first."""
    assert faults("serve", "--port=65536", "BR", "--err=1", "--retry-after", "-1", "--truncate-rate=2") == [
        "BR: is not an option of flagjob serve",
        "--err=1: is not an option of flagjob serve",
        "--port '65536': must be a whole number from 0 to 65535",
        "--retry-after '-1': must be a whole number from 0 to 86400",
        "--truncate-rate '2': must be a share from 0 to 1, such as 0.25",
    ]


def test_every_fault_of_simulate_at_once() -> None:
    """All faults are reported here, too."""
    assert faults("simulate", "--tasks=0", "-m", "1001", "--latency=2h", "--rate=fast", "--", "--tasks=1") == [
        "--tasks=1: is not an option of flagjob simulate",
        "--tasks '0': must be a whole number from 1 to 100000",
        "--workers '1001': must be a whole number from 1 to 1000",
        "--latency '2h': must be a time from 0 to 3600 seconds, such as 30, 1.5, 500ms, 5m or 1h",
        "--rate 'fast': must be a number of requests a second, up to 1000000, or 0 for no limit",
    ]


def test_an_option_without_its_value() -> None:
    """A violation of the grammar is a fault; it does not end the process."""
    assert faults("serve", "--port") == ["arguments: argument --port: expected one argument"]


def test_variables_do_not_count(tmp_path: Path) -> None:
    """The variables of the job, right or wrong, have no effect on other commands."""
    settings = {"FLAGJOB_WORKERS": "nonsense", "FLAGJOB_TASKS": "nonsense", "FLAGJOB_CODES": ""}
    done = flagjob("simulate", "--tasks=2", "--latency=0", cwd=tmp_path, settings=settings)
    assert (done.code, done.stderr) == (0, "")
    assert (done.events[0]["tasks"], done.events[0]["workers"]) == (2, 3)


@pytest.mark.parametrize("command", KINDS)
def test_the_help_page(command: str) -> None:
    """The page is 80 columns wide, and has each option with its help text and its default."""
    page = parse_arguments([command, "--help"]).page
    words = " ".join(page.split())
    options = options_of(KINDS[command])
    assert page.startswith(f"usage: flagjob {command} [OPTION ...]\n")
    assert max(map(len, page.splitlines())) <= 80
    assert [option.flag for option in options if f"{option.flag} {option.metavar} {option.help}" not in words] == []
    assert [
        option.flag for option in options if option.default and f"{option.help} [{option.default}]" not in words
    ] == []


@pytest.mark.parametrize("first", [[], ["run"]])
def test_the_page_of_the_job_lists_all_commands(first: list[str]) -> None:
    """`flagjob --help` and `flagjob run --help` are the same page, which names each command once, with a summary."""
    page = parse_arguments([*first, "-h"]).page
    assert page == parse_arguments(["BR", "--help"]).page
    assert re.findall(r"^  ([a-z]+) +[a-z]{4,} ", page, re.MULTILINE) == list(Command)
    assert page.startswith("usage: flagjob [run] [OPTION ...] [CODE ...]\n\nDownloads ")


@pytest.mark.parametrize("command", Command)
def test_every_command_has_its_pages(command: str) -> None:
    """Each page of help is 80 columns wide and wins over wrong options; each command prints the version."""
    page = parse_arguments([command, "--help"]).page
    assert page.startswith("usage: flagjob ")
    assert page.endswith("\n")
    assert max(map(len, page.splitlines())) <= 80
    assert "-h, --help" in page
    assert parse_arguments([command, "--xyzzy", "-h"]).page == page
    assert parse_arguments([command, "--version"]).page == f"flagjob {__version__}\n"
    assert parse_arguments([command]).page == ""


def test_help_among_other_letters() -> None:
    """A bundle of letters may contain -h, as in any program that uses argparse."""
    assert parse_arguments(["-vh"]).page == parse_arguments(["--help"]).page


@pytest.mark.parametrize(
    "argv",
    [["--limit", "--help"], ["-o", "-h"], ["-h", "-s"], ["--help", "--version"], ["--xyzzy", "--help", "CN"]],
    ids=" ".join,
)
@pytest.mark.parametrize("command", Command)
def test_a_page_wins_over_faults(command: str, argv: list[str]) -> None:
    """A line that asks for help prints the command's page, whatever else it holds, and however faulty that is."""
    found = parse_arguments([command, *argv])
    assert (found.page, found.faults) == (parse_arguments([command, "--help"]).page, ())


def test_the_version_wins_over_faults() -> None:
    """A line that asks for the version prints it, also where a value is missing."""
    assert parse_arguments(["--dest", "--version"]).page == f"flagjob {__version__}\n"


def test_the_value_of_a_switch_is_not_shown() -> None:
    """Argparse would quote it, and it may be a secret."""
    (fault,) = parse_arguments(["verify", "--delete=hunter2hunter2"]).faults
    assert str(fault) == "arguments: argument --delete: ignored explicit argument"


@pytest.mark.parametrize("command", ["run", "verify", "rollback", "status"])
@pytest.mark.parametrize("name", Command)
def test_codes_that_are_called_like_commands(command: str, name: str) -> None:
    """After a command, an option or -- the name of a command is a code; only the first word is a command."""
    found = parse_arguments([command, name, "-m", "5", "--", "-x", name])
    assert (found.command, found.codes, found.texts, found.faults) == (
        command,
        (name, "-x", name),
        {"workers": "5"},
        (),
    )
    for first in ("--", "-v"):
        implied = parse_arguments([first, name])
        assert (implied.command, implied.codes, implied.faults) == (Command.RUN, (name,), ())


def test_codes_between_unknown_options() -> None:
    """A wrong option makes no code wrong: the codes around it, negative numbers too, stay codes in their order."""
    found = parse_arguments(["A", "--xyzzy", "B", "-1", "-l", "7", "-q", "C D", "-.5", "-x y", "--", "-z"])
    assert found.codes == ("A", "B", "-1", "C D", "-.5", "-x y", "-z")
    assert [fault.setting for fault in found.faults] == ["--xyzzy", "-q"]
    assert found.texts == {"limit": "7"}


def test_only_verify_deletes() -> None:
    """The option --delete belongs to verify; elsewhere it is unknown."""
    assert parse_arguments(["verify", "--delete"]).delete
    assert not parse_arguments(["verify"]).delete
    for command in ("run", "rollback", "status"):
        (fault,) = parse_arguments([command, "--delete"]).faults
        assert str(fault).startswith("--delete: is not a known option")


@given(argv=st.lists(st.one_of(st.text(), st.sampled_from(["--", "-m", "--port", "--port=1", "--delay", "1-2", "5"]))))
def test_any_arguments(argv: list[str]) -> None:
    """All arguments lead to options, or to faults with words."""
    for command, kind in KINDS.items():
        try:
            assert isinstance(COMMANDS[command](*argv), kind)
        except UsageError as error:
            assert all(fault.problem for fault in error.faults)  # noqa: PT017  (either end is right)
