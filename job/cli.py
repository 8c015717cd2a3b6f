"""The command line: arguments in, signals heeded, exit code out."""

import dataclasses
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from types import FrameType

from job import __version__, settings, upkeep
from job.errors import LogError, Reason, UsageError
from job.log import RunLog
from job.origin import PATH, Faults, Origin, Request
from job.run import Run
from job.settings import ServeOptions, SimulateOptions
from job.simulate import Plan, simulate
from job.stop import Stop
from job.verdict import Exit


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit code; never raises."""
    words = list(sys.argv[1:] if argv is None else argv)
    command = words.pop(0) if words and words[0] in _COMMANDS else "run"
    page = _page(command, words)
    if page:
        sys.stdout.write(page)
        return Exit.OK
    try:
        return _COMMANDS[command](words)
    except UsageError as error:
        _log_for_failures().usage(error.faults)
        return Exit.USAGE
    except LogError as error:
        return _without_stdout(error)
    except OSError as error:  # a list of codes that cannot be read on, say
        _log_for_failures().storage_failed(f"this machine failed: {error}")
        return Exit.STORAGE
    except Exception as error:  # noqa: BLE001  (whatever it is, it is told)
        return _unforeseen(error)


def _unforeseen(error: Exception) -> int:
    """Tell of a machine without room for another thread or byte, for which Python has no OSError; else of a bug."""
    log = _log_for_failures()
    if isinstance(error, MemoryError) or "can't start new thread" in str(error):
        log.storage_failed(f"this machine is short of something: {error!r}")
        return Exit.STORAGE
    log.bug(error)
    return Exit.BUG


def _page(command: str, words: Sequence[str]) -> str:
    """Return what --help or --version prints, or nothing where neither was asked for."""
    if {"-h", "--help"} & set(words):
        return _HELP[command]()
    return f"flagjob {__version__}\n" if "--version" in words else ""


def _run(words: Sequence[str]) -> int:
    stop = Stop()
    run = Run(settings.load(words, os.environ), stop, sys.stdout.buffer, terminal=sys.stdout.isatty())
    _heed_signals(stop)
    try:
        code = run.execute()
    finally:
        stop.request(Reason.INTERNAL)  # whatever ended the run, its workers end too
    if run.abandoned:
        os._exit(code)  # a thread that cannot be joined, in a name look-up say, must not hold the process
    return code


def _serve(words: Sequence[str]) -> int:
    """Serve until a signal comes, which is the usual end and no failure."""
    options = settings.load_options(ServeOptions, words)
    faults = Faults(options.delay, options.error_rate, options.retry_after, options.truncate_rate)
    log = RunLog(sys.stdout.buffer, for_people=sys.stdout.isatty())

    def tell(request: Request) -> None:
        facts = dataclasses.asdict(request)
        seconds = facts.pop("duration_seconds")
        log.info("request", **facts, duration_s=round(seconds, 6))

    ends = {signal.SIGINT, signal.SIGTERM}
    signal.pthread_sigmask(signal.SIG_BLOCK, ends)  # also in the threads that serve
    with Origin(options.bind, options.port, faults, tell) as origin:
        log.info("serving", url=origin.url + PATH)
        signal.sigwait(ends)
    return Exit.OK


def _verify(words: Sequence[str]) -> int:
    loaded = settings.load([word for word in words if word != _DELETE], os.environ)
    return upkeep.verify(loaded, _log_for(loaded), delete=_DELETE in words)


def _roll_back(words: Sequence[str]) -> int:
    loaded = settings.load(words, os.environ)
    return upkeep.roll_back(loaded, _log_for(loaded))


def _log_for(loaded: settings.Settings) -> RunLog:
    auto = loaded.log_format is settings.LogFormat.AUTO and sys.stdout.isatty()
    for_people = auto or loaded.log_format is settings.LogFormat.CONSOLE
    return RunLog(sys.stdout.buffer, level=loaded.log_level, for_people=for_people, secrets=loaded.secrets)


def _simulate(words: Sequence[str]) -> int:
    options = settings.load_options(SimulateOptions, words)
    stop = Stop()
    _heed_signals(stop)
    done = simulate(Plan(options.tasks, options.workers, options.latency, options.rate), stop, sys.stdout)
    if done:
        return Exit.OK
    return 128 + stop.signal if stop.signal else Exit.STORAGE


_DELETE = "--delete"
_COMMANDS: Mapping[str, Callable[[Sequence[str]], int]] = {
    "run": _run,
    "serve": _serve,
    "simulate": _simulate,
    "verify": _verify,
    "rollback": _roll_back,
}
_VERIFY_PAGE = """\
usage: flagjob verify [--delete] [OPTION ...]

Hashes every file of the destination and says which are changed, missing,
unknown, or gone from the origin. Exit code 4 where one is changed or missing:
the next run repairs it. Takes the job's options, such as --dest and --publish.

options:
  --delete  delete the files of codes that the origin has no more
"""
_ROLL_BACK_PAGE = """\
usage: flagjob rollback [OPTION ...]

Shows readers the set of files before the current one (FLAGJOB_PUBLISH=set).
Takes the job's options, such as --dest.
"""
_HELP: Mapping[str, Callable[[], str]] = {
    "run": settings.help_text,
    "serve": lambda: settings.options_help(ServeOptions),
    "simulate": lambda: settings.options_help(SimulateOptions),
    "verify": lambda: _VERIFY_PAGE,
    "rollback": lambda: _ROLL_BACK_PAGE,
}


def _heed_signals(stop: Stop) -> None:
    """Let SIGINT and SIGTERM end the run in good order, and a second one at once.

    A process that is PID 1 has no default handlers: without these, SIGTERM would be ignored in a container.
    """
    received: list[int] = []

    def handle(number: int, _frame: FrameType | None) -> None:
        if received:
            os._exit(128 + number)
        received.append(number)
        stop.request(Reason.SIGNAL, number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, handle)


def _log_for_failures() -> RunLog:
    """Make a log where there is none yet: lines for people on a terminal, JSON where machines read."""
    for_people = sys.stdout.isatty() or sys.stderr.isatty()
    return RunLog(sys.stderr.buffer if for_people else sys.stdout.buffer, for_people=for_people)


def _without_stdout(error: LogError) -> int:
    """End a run whose log nobody takes: its reader is gone, or its disk is full."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the interpreter would fail on it once more
    sys.stderr.write(f"flagjob: {error}\n")
    return Exit.STORAGE
