"""What the imports of a short run cost, module by module, by Python's own account."""

import re
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.measure import BenchError
from bench.peers import Client
from bench.table import markdown, number

HEAD = """\
Imports of a run with twenty flags: milliseconds until a module and all that it imports are there (`python -X
importtime`), the least of five runs; the twenty dearest.
"""
_RUNS = 5
_SHOWN = 20
_LINE = re.compile(r"^import time: +\d+ \| +(\d+) \| *(\S+)$", re.MULTILINE)


def import_times(client: Client, settings: Mapping[str, str], folder: Path) -> dict[str, float]:
    """Return the cumulated milliseconds of each module that a run imports, the least of several runs."""
    if client.program is None:
        raise BenchError(f"{client.name} is no flagjob")
    least: dict[str, float] = {}
    for _ in range(_RUNS):
        argv = [str(client.program.with_name("python")), "-X", "importtime", "-m", "job"]
        done = subprocess.run(argv, env=dict(settings), cwd=folder, capture_output=True, text=True, check=False)
        if done.returncode:
            raise BenchError(f"{client.name}, imports: exit code {done.returncode}")
        for module, milliseconds in parse(done.stderr).items():
            least[module] = min(milliseconds, least.get(module, milliseconds))
    return least


def parse(text: str) -> dict[str, float]:
    """Return the milliseconds of each module in what `-X importtime` writes."""
    return {module: int(microseconds) / 1000 for microseconds, module in _LINE.findall(text)}


def imports_table(names: Sequence[str], times: Sequence[Mapping[str, float]]) -> str:
    """Return the dearest modules of the first flagjob, with what the same modules cost in the others."""
    dearest = sorted(times[0], key=lambda module: -times[0][module])[:_SHOWN]
    rows = [[module, *(number(one[module]) if module in one else "-" for one in times)] for module in dearest]
    return HEAD + "\n" + markdown([["module", *names], *rows])
