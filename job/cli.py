"""The command line: runs the command that the arguments name, handles signals, returns the exit code.

Each command imports what it needs when it runs: a page of help needs neither requests nor structlog, which take more
time to import than everything else.
"""

import dataclasses
import gc
import os
import resource
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from job import settings
from job.cancellation import Cancellation
from job.display import Line, is_terminal, painted, wants_colours
from job.errors import LogError, Reason, StorageError, UsageError
from job.exit_code import ExitCode, signal_exit_code
from job.progress import Terminal, drop_lost_terminals, painted_page
from job.settings import Arguments, Command, Executor, ServeOptions, SimulateOptions

if TYPE_CHECKING:
    from job.demo_server import Request
    from job.log import RunLog
    from job.model import LogStream
    from job.report import SimulationReport

_PROCESS_DESCRIPTORS = 64
_WORKER_DESCRIPTORS = 6
"""Open files of a worker: its connection, its temporary file, and those by which libcurl wakes itself."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit code; never raises."""
    if argv is None:
        _restart_in_utf_8()
    words = sys.argv[1:] if argv is None else argv
    if sys.stdout is None:  # the process that started this one closed it
        return _report_on_stderr("standard output is closed")
    try:
        return _execute(words)
    except LogError as error:
        return _report_on_stderr(str(error))


def _restart_in_utf_8() -> None:
    """Start the command anew, in the same process, where Python would not write names of files in UTF-8.

    So it is in a locale of ISO-8859-1: what a file is called must not depend on who starts the run, and there ids of
    other scripts could have no file. Python cannot change that encoding once it runs.
    """
    if sys.getfilesystemencoding() != "utf-8":
        os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])  # noqa: S606  (this very command)


def _execute(words: Sequence[str]) -> int:
    """Run a command and log the reason if it fails; raise LogError if standard output cannot be written."""
    arguments = settings.parse_arguments(words)
    try:
        if arguments.page:
            return _print(painted_page(arguments.page, coloured=wants_colours(sys.stdout, _wanted_format(arguments))))
        return _COMMANDS[arguments.command](arguments)
    except UsageError as error:
        _open_failure_log(arguments).log_usage_errors(error.faults)
        return ExitCode.USAGE
    except LogError:
        raise
    except Exception as error:  # noqa: BLE001  (every exception ends in a log line and an exit code)
        return _log_exception(error, _open_failure_log(arguments))


def _log_exception(error: Exception, log: "RunLog") -> int:
    """Log an exception that no command handles; return the exit code of a failed machine, or else of a bug."""
    if isinstance(error, OSError):  # for example of a list of codes that cannot be read
        log.log_storage_error(f"this machine failed: {error}")
    elif isinstance(error, MemoryError) or "can't start new thread" in str(error):  # Python has no OSError for these
        log.log_storage_error(f"this machine lacks a resource: {error!r}")
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


def _run(arguments: Arguments) -> int:
    # Importing makes many objects that stay. Python would search them for garbage again and again: while they are made,
    # during the run, and once more before the process ends.
    gc.disable()
    from job.run import Run  # noqa: PLC0415  (see the module's docstring)

    gc.freeze()
    gc.enable()
    cancellation = Cancellation()
    loaded = settings.load(arguments, os.environ)
    run = Run(loaded, cancellation, _output(cancellation), terminal=sys.stdout.isatty())
    _install_signal_handlers(cancellation)
    _raise_descriptor_limit(loaded.workers)
    try:
        code = run.execute()
    except UsageError:
        raise
    except LogError as error:
        code = _report_on_stderr(str(error))
    except Exception as error:  # noqa: BLE001  (logged here because this log redacts the secrets of the run)
        code = _log_exception(error, run.log)
    finally:
        # The threads of a run end only when its cancellation is requested. After an exception nothing else may have
        # requested it, and the interpreter joins all threads before it exits.
        cancellation.request(Reason.INTERNAL)
        drop_lost_terminals()
    if run.abandoned:
        # An abandoned thread may never return, for example from a name look-up, and sys.exit would join it.
        os._exit(code)
    return code


def _serve(arguments: Arguments) -> int:
    """Serve until a signal arrives, which is the usual end and no failure."""
    from job.demo_server import PATH, DemoServer, Faults  # noqa: PLC0415  (see the module's docstring)
    from job.log import RunLog  # noqa: PLC0415  (the same)

    options = settings.load_options(ServeOptions, arguments)
    faults = Faults(options.delay, options.error_rate, options.retry_after, options.truncate_rate)
    coloured = wants_colours(sys.stdout)
    log = RunLog(sys.stdout.buffer, for_people=sys.stdout.isatty(), coloured=coloured)

    def log_request(request: "Request") -> None:
        fields = dataclasses.asdict(request)
        seconds = fields.pop("duration_seconds")
        log.info("request", **fields, duration_s=round(seconds, 6))

    signals = _ending_signals()
    # Threads inherit the mask of the thread that starts them, so the signals are blocked before the server starts its
    # threads. A signal that arrives before sigwait stays pending until then; it cannot be lost, nor end a response.
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    with DemoServer(options.bind, options.port, faults, log_request) as server:
        log.info("serving", url=server.url + PATH)
        signal.sigwait(signals)
    return ExitCode.OK


def _simulate(arguments: Arguments) -> int:
    from job.log import RunLog  # noqa: PLC0415  (see the module's docstring)
    from job.simulate import Plan, Timeline, simulate  # noqa: PLC0415  (the same)

    options = settings.load_options(SimulateOptions, arguments)
    workers = 1 if options.executor is Executor.SEQUENTIAL else options.workers
    plan = Plan(options.tasks, workers, options.latency, options.rate)
    report = _begin_simulation_report(options)
    cancellation = Cancellation()
    _install_signal_handlers(cancellation)
    log = Timeline(sys.stdout) if sys.stdout.isatty() else RunLog(sys.stdout.buffer)
    collector = report.collector if report else None
    try:
        is_complete = simulate(plan, cancellation, log, options.executor, collector)
    except OSError as error:
        raise LogError(f"standard output cannot be written: {error.strerror}") from error
    if report:
        try:
            report.write(Path(options.report or ""), plan.expected_seconds())
        except StorageError as error:
            log.log_storage_error(str(error))
            return ExitCode.STORAGE
    if is_complete:
        return ExitCode.OK
    return signal_exit_code(cancellation.signal) if cancellation.signal else ExitCode.STORAGE


def _begin_simulation_report(options: SimulateOptions) -> "SimulationReport | None":
    """Return what gathers the page of a simulation, if it is to have one; raise UsageError if it cannot be made."""
    if options.report is None:
        return None
    faults = settings.report_faults("--report", str(Path(options.report).absolute()))
    if faults:
        raise UsageError(*faults)
    from job.report import SimulationReport  # noqa: PLC0415  (see the module's docstring)

    return SimulationReport(options)


def _verify(arguments: Arguments) -> int:
    from job import maintenance  # noqa: PLC0415  (see the module's docstring)

    cancellation = Cancellation()
    loaded = settings.load(arguments, os.environ)
    _install_signal_handlers(cancellation)
    return maintenance.verify(loaded, _open_log(loaded, _output(cancellation)), cancellation, delete=arguments.delete)


def _roll_back(arguments: Arguments) -> int:
    from job import maintenance  # noqa: PLC0415  (see the module's docstring)

    loaded = settings.load(arguments, os.environ)
    return maintenance.roll_back(loaded, _open_log(loaded, sys.stdout.buffer))


def _status(arguments: Arguments) -> int:
    from job.status import status  # noqa: PLC0415  (see the module's docstring)

    cancellation = Cancellation()
    loaded = settings.load(arguments, os.environ)
    _install_signal_handlers(cancellation)
    coloured = wants_colours(sys.stdout, loaded.log_format)

    def show(lines: Sequence[Line]) -> int:
        return _print("".join(f"{painted(line, coloured=coloured)}\n" for line in lines))

    return status(loaded, _open_log(loaded, sys.stdout.buffer), cancellation, show)


_COMMANDS: Mapping[Command, Callable[[Arguments], int]] = {
    Command.RUN: _run,
    Command.SERVE: _serve,
    Command.SIMULATE: _simulate,
    Command.VERIFY: _verify,
    Command.ROLLBACK: _roll_back,
    Command.STATUS: _status,
}


def _install_signal_handlers(cancellation: Cancellation) -> None:
    """Install a handler whose first signal ends the run in good order, and whose second ends the process.

    A further SIGHUP changes nothing: when a session closes, the kernel and the shell send one each, and systemd sends
    one right after its SIGTERM. Nobody asks for haste by that.
    """
    received: list[int] = []

    # The kernel drops a signal to PID 1 that has no handler, because PID 1 has no default actions: in a container, a
    # SIGTERM before this point is lost, and the pod is killed after its grace period. So the handlers are installed
    # before the run begins anything that would have to end in good order.
    #
    # Python calls a handler on the main thread, between two bytecodes: it may interrupt any code, also this handler
    # while it handles the first signal. The number is therefore appended before the request: a second signal that
    # interrupts the request finds it, and exits without a further request, which would need locks that the interrupted
    # code may hold. os._exit needs none: no handler, no buffer and no thread can delay it. Files stay whole, because
    # they are only ever replaced.
    def handle(number: int, _frame: FrameType | None) -> None:
        if received and number == signal.SIGHUP:
            return
        if received:
            os._exit(signal_exit_code(number))
        received.append(number)
        cancellation.request(Reason.SIGNAL, number)

    for number in _ending_signals():
        signal.signal(number, handle)


def _ending_signals() -> set[signal.Signals]:
    """Return the signals that end a command in good order; SIGHUP is one unless this process was told to ignore it."""
    signals = {signal.SIGINT, signal.SIGTERM}
    return signals if _is_hangup_ignored() else signals | {signal.SIGHUP}


def _is_hangup_ignored() -> bool:
    """Return whether the process ignores SIGHUP, as nohup arranges it: it must outlive its terminal."""
    return signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


def _output(cancellation: Cancellation) -> "LogStream":
    """Return the stream of the log; a terminal that is gone ends the run like SIGHUP, which may come late or never."""
    output = sys.stdout.buffer
    if not sys.stdout.isatty() or _is_hangup_ignored():
        return output
    return Terminal(output, lambda: cancellation.request(Reason.SIGNAL, signal.SIGHUP))


def _raise_descriptor_limit(workers: int) -> None:
    """Raise the soft limit of open files to the number that the workers need, if the hard limit allows it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = _PROCESS_DESCRIPTORS + _WORKER_DESCRIPTORS * workers
    if soft < needed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(needed, hard), hard))


def _open_log(loaded: settings.Settings, output: "LogStream") -> "RunLog":
    from job.log import RunLog  # noqa: PLC0415  (see the module's docstring)

    is_automatic = loaded.log_format is settings.LogFormat.AUTO
    for_people = sys.stdout.isatty() if is_automatic else loaded.log_format is settings.LogFormat.CONSOLE
    fields = {"job": loaded.name}
    return RunLog(
        output,
        level=loaded.log_level,
        for_people=for_people,
        for_google=loaded.log_format is settings.LogFormat.GCP,
        coloured=wants_colours(sys.stdout, loaded.log_format),
        secrets=loaded.secrets,
        fields=fields,
    )


def _open_failure_log(arguments: Arguments) -> "RunLog":
    """Return a log for a command that failed before it had one: for people on a terminal, else JSON lines."""
    from job.log import RunLog  # noqa: PLC0415  (see the module's docstring)

    # Of wrong settings this one may be right: without it, Google Cloud would file the others under INFO.
    wanted = _wanted_format(arguments)
    if wanted == settings.LogFormat.GCP:
        return RunLog(sys.stdout.buffer, for_google=True)
    for_people = sys.stdout.isatty() or is_terminal(sys.stderr)
    stream = sys.stderr if for_people and sys.stderr is not None else sys.stdout
    return RunLog(stream.buffer, for_people=for_people, coloured=wants_colours(stream, wanted))


def _wanted_format(arguments: Arguments) -> str:
    """Return the format of the log that was asked for, unchecked: for where the settings are not, or not yet, read."""
    wanted = arguments.texts.get("log_format") or os.environ.get("FLAGJOB_LOG_FORMAT", "")
    return wanted.strip().lower()


def _report_on_stderr(problem: str) -> int:
    """Report a problem of standard output, which is closed, full or without a reader; return the exit code."""
    if sys.stdout is not None:  # else the interpreter would fail when it flushes standard output at its exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    drop_lost_terminals()
    print(f"flagjob: {problem}", file=sys.stderr)  # noqa: T201  (no other stream is left; print ignores a closed one)
    return ExitCode.STORAGE
