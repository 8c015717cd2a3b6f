"""The options of `flagjob serve` and `flagjob simulate`: what they are, and what is said of every wrong one."""

from pathlib import Path

import pytest
from command import flagjob
from hypothesis import given
from hypothesis import strategies as st

from job.errors import UsageError
from job.settings import ServeOptions, SimulateOptions, load_options, options_help
from job.settings.option import options_of

KINDS: dict[str, type] = {"serve": ServeOptions, "simulate": SimulateOptions}
CASES = [(kind, option.name) for kind in KINDS.values() for option in options_of(kind)]
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
}


def faults(kind: type, *argv: str) -> list[str]:
    """Give every fault of these arguments, as people read them."""
    with pytest.raises(UsageError) as caught:
        load_options(kind, argv)
    return [str(fault) for fault in caught.value.faults]


def test_the_defaults_of_serve() -> None:
    """Without options the origin listens where only this machine can ask, and does nothing wrong."""
    assert load_options(ServeOptions, []) == ServeOptions(
        bind="127.0.0.1", port=8000, delay=None, error_rate=0.0, retry_after=None, truncate_rate=0.0
    )


def test_the_defaults_of_simulate() -> None:
    """Without options it is the book's demonstration: five tasks on three workers, task n takes n seconds."""
    assert load_options(SimulateOptions, []) == SimulateOptions(tasks=5, workers=3, latency=None, rate=0.0)


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_every_option_is_read(kind: type, name: str) -> None:
    """Each option is read in both ways to write it, and the last of two counts."""
    text, value = GOOD[name]
    flag = f"--{name.replace('_', '-')}"
    assert getattr(load_options(kind, [flag, text]), name) == value
    assert getattr(load_options(kind, [f"{flag}=nonsense that does not count", f"{flag}={text}"]), name) == value


def test_the_short_option() -> None:
    """Workers are -m here, too."""
    assert load_options(SimulateOptions, ["-m", "7"]).workers == 7


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_no_option_takes_just_anything(kind: type, name: str) -> None:
    """A wrong text is one fault: the option, the text, and what would be right."""
    flag = f"--{name.replace('_', '-')}"
    (fault,) = faults(kind, f"{flag}=a b")
    assert fault.startswith(f"{flag} 'a b': must be ")


def test_every_fault_of_serve_at_once() -> None:
    """All that is wrong is told, first what is no option at all."""
    assert faults(ServeOptions, "--port=65536", "BR", "--err=1", "--retry-after", "-1", "--truncate-rate=2") == [
        "BR: is no option of flagjob serve",
        "--err=1: is no option of flagjob serve",
        "--port '65536': must be a whole number from 0 to 65535",
        "--retry-after '-1': must be a whole number from 0 to 86400",
        "--truncate-rate '2': must be a share from 0 to 1, such as 0.25",
    ]


def test_every_fault_of_simulate_at_once() -> None:
    """All that is wrong is told here, too."""
    assert faults(SimulateOptions, "--tasks=0", "-m", "1001", "--latency=2h", "--rate=fast") == [
        "--tasks '0': must be a whole number from 1 to 100000",
        "--workers '1001': must be a whole number from 1 to 1000",
        "--latency '2h': must be a time from 0 to 3600 seconds, such as 30, 1.5, 500ms, 5m or 1h",
        "--rate 'fast': must be a number of requests a second, up to 1000000, or 0 for no limit",
    ]


def test_an_option_without_its_value() -> None:
    """What the grammar does not allow is a fault, not the end of the process."""
    assert faults(ServeOptions, "--port") == ["arguments: argument --port: expected one argument"]


def test_variables_do_not_count(tmp_path: Path) -> None:
    """What a job's variables say, right or wrong, is about the job alone."""
    settings = {"FLAGJOB_WORKERS": "nonsense", "FLAGJOB_TASKS": "nonsense", "FLAGJOB_CODES": ""}
    done = flagjob("simulate", "--tasks=2", "--latency=0", cwd=tmp_path, settings=settings)
    assert (done.code, done.stderr) == (0, "")
    assert b"2 tasks on 3 workers" in done.stdout


@pytest.mark.parametrize("command", KINDS)
def test_the_help_page(command: str) -> None:
    """The page is 80 columns wide, and has each option with its meaning and its default."""
    page = options_help(KINDS[command])
    words = " ".join(page.split())
    options = options_of(KINDS[command])
    assert page.startswith(f"usage: flagjob {command} [OPTION ...]\n")
    assert max(map(len, page.splitlines())) <= 80
    assert [option.flag for option in options if f"{option.flag} {option.metavar} {option.help}" not in words] == []
    assert [
        option.flag for option in options if option.default and f"{option.help} [{option.default}]" not in words
    ] == []


@given(argv=st.lists(st.one_of(st.text(), st.sampled_from(["--", "-m", "--port", "--port=1", "--delay", "1-2", "5"]))))
def test_any_arguments(argv: list[str]) -> None:
    """Whatever the arguments are, there are options, or faults with words."""
    for kind in KINDS.values():
        try:
            assert isinstance(load_options(kind, argv), kind)
        except UsageError as error:
            assert all(fault.problem for fault in error.faults)  # noqa: PT017  (either end is right)
