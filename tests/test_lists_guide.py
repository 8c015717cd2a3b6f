"""docs/lists.md, from the top to the bottom, in one directory: its lists, its commands, and what it says they print."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from command import TIMEOUT, environment

from job.demo_server import DemoServer

GUIDE = Path(__file__).parents[1] / "docs" / "lists.md"
SERVER = "http://localhost:8000"
LISTS = ("csv", "json", "txt")
MOST_WORDS = 1000
WIDTH = "400"
"""Columns of the terminal, so that no message is cut."""
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_NAME = re.compile(r"[Ss]ave\s(?:them|this\stable)\sas `([\w.-]+)`:\s+\Z")
_CODE = re.compile(r"# exit code (\d+)$")


class Block(NamedTuple):
    """A block of the guide: its kind, its text, and the name of the file to save it as."""

    kind: str
    text: str
    name: str


def blocks() -> Iterator[Block]:
    """Yield the blocks of the guide in order."""
    text = GUIDE.read_text("utf-8")
    end = 0
    for match in _BLOCK.finditer(text):
        name = _NAME.search(text[end : match.start()])
        yield Block(match[1], match[2], name[1] if name else "")
        end = match.end()


def write_list(path: Path, text: str) -> None:
    """Write a list; the spreadsheet's as Excel exports it, with a byte order mark and CRLF."""
    if path.name == "offices.csv":
        path.write_text(text, "utf-8-sig", newline="\r\n")
    else:
        path.write_text(text, "utf-8")


def on_a_terminal(line: str) -> str:
    """Return a line as a terminal shows it: usage errors are JSON elsewhere, whatever the format of a run's log."""
    return f"flagjob: {json.loads(line)['message']}" if line.startswith("{") else line


class Shell:
    """Runs commands one after the other in a directory; what they export stays."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._exports: list[str] = []
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        # One attempt, as the guide's wrong rows would take the time of the pauses between attempts.
        self._env = environment(PATH=path, FLAGJOB_LOG_FORMAT="console", FLAGJOB_MAX_ATTEMPTS="1", COLUMNS=WIDTH)

    def run(self, command: str) -> tuple[int, list[str]]:
        """Run a command; return its exit code and the lines that it printed."""
        if command.startswith("export "):
            self._exports.append(command)
        script = "\n".join([*self._exports, command])
        done = subprocess.run(
            ["bash", "-c", script], cwd=self._home, env=self._env, check=False, capture_output=True, timeout=TIMEOUT
        )
        return done.returncode, [on_a_terminal(line) for line in done.stdout.decode().splitlines()]


@pytest.mark.slow
def test_every_command_does_what_the_guide_says(tmp_path: Path) -> None:
    """Each command ends with its exit code and prints the messages that follow it; the named files are there."""
    shell = Shell(tmp_path)
    printed: list[str] = []
    with DemoServer() as server:
        for block in blocks():
            if block.kind in LISTS:
                write_list(tmp_path / block.name, block.text.replace(SERVER, server.url))
            elif block.kind == "text":
                assert set(block.text.splitlines()) - set(printed) == set(), printed
            elif block.text != "flagjob serve\n":
                printed = []
                for command in block.text.replace("\\\n", "").splitlines():
                    said = _CODE.search(command)
                    code, lines = shell.run(command.replace(SERVER, server.url))
                    assert (command, code) == (command, int(said[1]) if said else 0), lines
                    printed += lines
    found = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.gif")}
    assert found == {
        *(f"{folder}/{code}.gif" for folder in ("flags", "nightly") for code in ("br", "cn", "in", "us")),
        "tiles/1/0/0.gif",
        "offices/br.gif",
        "offices/fr.gif",
        "logos/south/br.gif",
        "logos/north/fr.gif",
        *(f"by-id/{name[:2]}/{name}.gif" for name in ("a7f3", "a912", "b812", "c09d")),
        *(f"by-subject/{name}.gif" for name in ("sub-01/baseline", "sub-01/followup", "sub-02/baseline")),
    }


def test_the_guide_is_short() -> None:
    """It has six sections, at most a thousand words, and each list has a name."""
    text = GUIDE.read_text("utf-8")
    assert (text.count("\n## "), len(text.split()) <= MOST_WORDS) == (6, True)
    names = [block.name for block in blocks() if block.kind in LISTS]
    assert names == ["codes.txt", "tiles.csv", "offices.csv", "scans.csv", "logos.jsonl"]
