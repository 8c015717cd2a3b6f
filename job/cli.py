"""The command line: arguments in, signals heeded, exit code out."""

import dataclasses
import os
import resource
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from types import FrameType

from job import __version__, maintenance, settings
from job.cancellation import Cancellation
from job.demo_server import PATH, DemoServer, Faults, Request
from job.errors import LogError, Reason, UsageError
from job.exit_code import ExitCode
from job.log import RunLog
from job.progress import is_terminal
from job.run import Run
from job.settings import ServeOptions, SimulateOptions
from job.simulate import Plan, simulate


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit code; never raises."""
    words = list(sys.argv[1:] if argv is None else argv)
    command = words.pop(0) if words and words[0] in _COMMANDS else "run"
    if sys.stdout is None:  # whoever started us closed it
        return _without_stdout("standard output is closed")
    try:
        return _told(command, words)
    except LogError as error:
        return _without_stdout(str(error))


def _told(command: str, words: Sequence[str]) -> int:
    """Do what a command does, and tell why it cannot; raise LogError if nobody takes that."""
    page = _page(command, words)
    if page:
        return _print(page)
    try:
        return _COMMANDS[command](words)
    except UsageError as error:
        _log_for_failures().log_usage_errors(error.faults)
        return ExitCode.USAGE
    except LogError:
        raise
    except Exception as error:  # noqa: BLE001  (whatever it is, it is told)
        return _unforeseen(error, _log_for_failures())


def _unforeseen(error: Exception, log: RunLog) -> int:
    """Tell of a machine that failed, or has no room for another thread or byte; all else is a bug."""
    if isinstance(error, OSError):  # a list of codes that cannot be read, say
        log.log_storage_error(f"this machine failed: {error}")
    elif isinstance(error, MemoryError) or "can't start new thread" in str(error):  # Python has no OSError for these
        log.log_storage_error(f"this machine is short of something: {error!r}")
    else:
        log.log_bug(error)
        return ExitCode.BUG
    return ExitCode.STORAGE


def _print(page: str) -> int:
    try:
        sys.stdout.write(page)
        sys.stdout.flush()
    except OSError as error:
        raise LogError(f"standard output cannot be written: {error.strerror}") from error
    return ExitCode.OK


def _page(command: str, words: Sequence[str]) -> str:
    """Return what --help or --version prints, or nothing where neither was asked for."""
    if {"-h", "--help"} & set(words):
        return _HELP[command]()
    return f"flagjob {__version__}\n" if "--version" in words else ""


def _run(words: Sequence[str]) -> int:
    cancellation, loaded = Cancellation(), settings.load(words, os.environ)
    run = Run(loaded, cancellation, sys.stdout.buffer, terminal=sys.stdout.isatty())
    _heed_signals(cancellation)
    _allow_descriptors(loaded.workers)
    try:
        code = run.execute()
    except UsageError:
        raise
    except LogError as error:
        code = _without_stdout(str(error))
    except Exception as error:  # noqa: BLE001  (whatever it is, it is told, by the log that knows the run's secrets)
        code = _unforeseen(error, run.log)
    finally:
        cancellation.request(Reason.INTERNAL)  # whatever ended the run, its workers end too
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
    with DemoServer(options.bind, options.port, faults, tell) as origin:
        log.info("serving", url=origin.url + PATH)
        signal.sigwait(ends)
    return ExitCode.OK


def _verify(words: Sequence[str]) -> int:
    cancellation, loaded = Cancellation(), settings.load([word for word in words if word != _DELETE], os.environ)
    _heed_signals(cancellation)
    return maintenance.verify(loaded, _log_for(loaded), cancellation, delete=_DELETE in words)


def _roll_back(words: Sequence[str]) -> int:
    loaded = settings.load(words, os.environ)
    return maintenance.roll_back(loaded, _log_for(loaded))


def _log_for(loaded: settings.Settings) -> RunLog:
    auto = loaded.log_format is settings.LogFormat.AUTO and sys.stdout.isatty()
    for_people = auto or loaded.log_format is settings.LogFormat.CONSOLE
    return RunLog(sys.stdout.buffer, level=loaded.log_level, for_people=for_people, secrets=loaded.secrets)


def _simulate(words: Sequence[str]) -> int:
    options = settings.load_options(SimulateOptions, words)
    cancellation = Cancellation()
    _heed_signals(cancellation)
    try:
        done = simulate(Plan(options.tasks, options.workers, options.latency, options.rate), cancellation, sys.stdout)
    except OSError as error:
        raise LogError(f"standard output cannot be written: {error.strerror}") from error
    if done:
        return ExitCode.OK
    return 128 + cancellation.signal if cancellation.signal else ExitCode.STORAGE


_DELETE = "--delete"
_DESCRIPTORS, _DESCRIPTORS_A_WORKER = 64, 6
"""For the process, and for a worker: its connection, its draft, and what libcurl wakes itself with."""
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


def _allow_descriptors(workers: int) -> None:
    """Raise the soft limit of open files as far as so many workers need, and the hard one lets it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = _DESCRIPTORS + _DESCRIPTORS_A_WORKER * workers
    if soft < needed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(needed, hard), hard))


def _heed_signals(cancellation: Cancellation) -> None:
    """Let SIGINT and SIGTERM end the run in good order, and a second one at once.

    A process that is PID 1 has no default handlers: without these, SIGTERM would be ignored in a container.
    """
    received: list[int] = []

    def handle(number: int, _frame: FrameType | None) -> None:
        if received:
            os._exit(128 + number)
        received.append(number)
        cancellation.request(Reason.SIGNAL, number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, handle)


def _log_for_failures() -> RunLog:
    """Make a log where there is none yet: lines for people on a terminal, JSON where machines read."""
    for_people = sys.stdout.isatty() or is_terminal(sys.stderr)
    return RunLog(((for_people and sys.stderr) or sys.stdout).buffer, for_people=for_people)


def _without_stdout(problem: str) -> int:
    """End a run whose log nobody takes: its reader is gone, its disk is full, or it was never there."""
    if sys.stdout is not None:  # or the interpreter would fail on it once more
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    print(f"flagjob: {problem}", file=sys.stderr)  # noqa: T201  (nowhere else is left; it knows of a closed one, too)
    return ExitCode.STORAGE
