"""`python -m bench`: measure flagjob beside other clients and write the results down."""

import argparse
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path

from bench import table
from bench.imports import import_times, imports_table
from bench.install import ROOT, checkout, install, resolve, working_revision
from bench.machine import describe, disk_directory, memory_directory
from bench.measure import BenchError, Usage
from bench.packages import install_missing
from bench.peers import Client, flagjob_clients, flagjob_commands, script_clients, system_clients
from bench.rows import BASE, ROWS, Bench, Contestant, Row, demo_settings
from bench.site import serve
from bench.table import Outcome


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; return 0 if every run had the right result, else 1."""
    options = _parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        rows = _chosen(options.rows.split())
        base = resolve(options.base) if options.base else ""
        return _bench(options, rows, base)
    except BenchError as error:
        _say(f"bench: {error}")
        return 1


def _parser() -> argparse.ArgumentParser:
    """Return the parser of the command line; the Makefile passes its variables on."""
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="how often each client runs in each row")
    parser.add_argument("--files", type=int, default=10_000, help="files a run")
    parser.add_argument("--rows", default="", help=f"rows, of {' '.join(row.name for row in ROWS)}")
    parser.add_argument("--base", default="", help="an earlier revision to compare with")
    parser.add_argument("--stage", default="", help="name under which the main ratios are kept")
    parser.add_argument("--results", type=Path, default=ROOT / "bench" / "RESULTS.md", help="file to write")
    parser.add_argument("--disk", type=Path, default=Path("/var/tmp"), help="directory on a real disk")  # noqa: S108  # it lasts
    parser.add_argument("--peers", type=Path, required=True, help="Python with the clients of requirements-bench.lock")
    return parser


def _chosen(names: Sequence[str]) -> list[Row]:
    """Return the rows of these names, or all that do not run only on demand."""
    unknown = set(names) - {row.name for row in ROWS}
    if unknown:
        raise BenchError(f"ROWS: no such row: {' '.join(sorted(unknown))}")
    return [row for row in ROWS if (row.name in names if names else not row.is_only_on_demand)]


def _bench(options: argparse.Namespace, rows: Sequence[Row], base: str) -> int:
    """Prepare, measure, write; everything that was made for it is removed at the end."""
    install_missing()
    if not shutil.which("nginx"):
        raise BenchError("nginx is not installed")
    with ExitStack() as stack:
        home = stack.enter_context(_fresh(memory_directory()))
        disk = disk_directory(options.disk)
        head = describe(home, disk)
        site = stack.enter_context(serve(_subdirectory(home, "site"), options.files))
        clients = [*system_clients(), *script_clients(options.peers.absolute())]
        clients += _flagjobs(base, _subdirectory(home, "flagjob"), stack)
        present = [client for client in clients if not client.left_out]
        bench = Bench(site, present, home, disk and stack.enter_context(_fresh(disk)), options.files)
        outcomes = [outcome for row in rows for outcome in _measure(bench, row, options.rounds)]
        imports = _imports(bench) if "start" in {row.name for row in rows} else ""
    outcomes += [Outcome("all", one.name, "", (), fault=f"left out: {one.left_out}") for one in clients if one.left_out]
    _write(options, _last_run(options, rows, head, present, outcomes) + imports, outcomes)
    return _exit_code(outcomes)


def _imports(bench: Bench) -> str:
    """Return the table of what each flagjob imports for twenty flags."""
    times = []
    for client in bench.flagjobs():
        with _fresh(bench.home) as folder:
            times.append(import_times(client, demo_settings(bench, client, folder), folder))
    return "\n" + imports_table([client.name for client in bench.flagjobs()], times)


def _exit_code(outcomes: Sequence[Outcome]) -> int:
    """Print once more what failed, after all else; return 1 if anything did, else 0."""
    failed = [outcome for outcome in outcomes if outcome.fault and not outcome.fault.startswith("left out")]
    for outcome in failed:
        _say(f"bench: FAILED: {outcome.row}, {outcome.name}: {outcome.fault}")
    return 1 if failed else 0


@contextmanager
def _fresh(parent: Path) -> Iterator[Path]:
    """Make a directory for as long as the context lasts."""
    directory = Path(tempfile.mkdtemp(prefix="flagjob-bench-", dir=parent))
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _subdirectory(home: Path, name: str) -> Path:
    """Make a directory and return it."""
    (home / name).mkdir()
    return home / name


def _flagjobs(base: str, home: Path, stack: ExitStack) -> Iterator[Client]:
    """Install the flagjob of the working tree and, if one is given, of an earlier revision; yield the clients."""
    _say("bench: installing flagjob")
    yield from flagjob_clients(install(ROOT, home / "tree"), working_revision())
    if base:
        tree = stack.enter_context(checkout(base, _subdirectory(home, "base")))
        program = install(tree, home / "base" / "installed")
        yield Client(BASE, base, flagjob_commands(program, None), program=program)


def _measure(bench: Bench, row: Row, rounds: int) -> Iterator[Outcome]:
    """Run every contestant of a row in turn, round after round; yield what the table says of each."""
    reason = row.left_out(bench)
    if reason:
        yield Outcome(row.name, "all", "", (), fault=f"left out: {reason}")
        return
    contestants = row.contestants(bench, row)
    usages: dict[str, dict[str, list[Usage]]] = {contestant.client.name: {} for contestant in contestants}
    faults: dict[str, str] = {}
    for _ in range(rounds * row.repeats):
        # One that failed takes no further part, so that the usages of all contestants are those of the same rounds.
        for contestant in (contestant for contestant in contestants if contestant.client.name not in faults):
            name = contestant.client.name
            try:
                _record(usages[name], row, contestant, _run(bench, row, contestant))
            except BenchError as error:
                faults[name] = str(error).partition("\n")[0]
                _say(f"bench: FAILED: {row.name}, {name}: {error}")
    for contestant in contestants:
        name = contestant.client.name
        yield from _outcomes(row, contestant.client, usages[name], faults.get(name, ""))


def _record(usages: dict[str, list[Usage]], row: Row, contestant: Contestant, parts: dict[str, Usage]) -> None:
    """Add the usages of one run to those of earlier rounds and print them."""
    for part, usage in parts.items():
        usages.setdefault(part, []).append(usage)
        _say(f"{row.name}, round {len(usages[part])}: {contestant.client.name} {part}: {usage.wall_seconds:.3f} s")


def _outcomes(row: Row, client: Client, usages: dict[str, list[Usage]], fault: str) -> Iterator[Outcome]:
    """Yield a line for each part of what a client did, or one without figures if it never succeeded."""
    for part, measured in (usages or {"": []}).items():
        is_flagjob = client.program is not None
        yield Outcome(row.name, client.name, part, tuple(measured), row.against, is_flagjob, fault)


def _run(bench: Bench, row: Row, contestant: Contestant) -> dict[str, Usage]:
    """Run one contestant once, in a directory that is gone afterwards."""
    parent = bench.disk if row.is_on_disk and bench.disk else bench.home
    with _fresh(parent) as folder:
        return contestant.run(folder)


def _last_run(
    options: argparse.Namespace,
    rows: Sequence[Row],
    head: Sequence[str],
    clients: Sequence[Client],
    outcomes: Sequence[Outcome],
) -> str:
    """Return the section on this run: when, where, with what, and its table."""
    today = datetime.now(UTC).date().isoformat()
    versions = "; ".join(f"{client.name}: {client.version}" for client in clients)
    lines = [f"date: {today}, revision {working_revision()}, FILES={options.files}, ROUNDS={options.rounds}", *head]
    titles = "".join(f"- `{row.name}`: {_title(row, options.files)}\n" for row in rows)
    facts = "".join(f"- {line}\n" for line in [*lines, f"versions: {versions}"])
    return f"{facts}\nRows:\n\n{titles}\n{table.results_table(outcomes)}"


def _title(row: Row, files: int) -> str:
    """Return what a row is, with the wall time that no client can beat."""
    ideal = row.ideal_seconds(files)
    return f"{row.title}; ideal wall {ideal:.2f} s" if ideal else row.title


def _write(options: argparse.Namespace, last_run: str, outcomes: Sequence[Outcome]) -> None:
    """Write the document; the stages that it had stay, and this one is added if it has a name."""
    path: Path = options.results
    stages = list(table.stage_lines(path.read_text("utf-8"))) if path.exists() else []
    if options.stage:
        today = datetime.now(UTC).date().isoformat()
        stages = table.put_stage(stages, table.stage_line(today, options.stage, working_revision(), outcomes))
    path.write_text(table.document(last_run, stages), "utf-8")
    _say(f"bench: written to {path}")


def _say(text: str) -> None:
    """Print what goes on; the results are in the file."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
