"""docs/systemd: systemd accepts the units, flagjob works within their limits, and the guide shows them as they are."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from images import GIF
from scripted import Answer, ScriptedServer

from e2e.programs import ROOT, output
from job.settings import OPTIONS

pytestmark = pytest.mark.e2e
UNITS = ROOT / "docs" / "systemd"
SERVICE = (UNITS / "flagjob.service").read_text("utf-8")
GUIDE = (ROOT / "docs" / "systemd.md").read_text("utf-8")


def setting(name: str) -> str:
    """Return what the service has for a directive."""
    (value,) = re.findall(rf"^{name}=(.*)$", SERVICE, re.MULTILINE)
    return str(value)


def verified(directory: Path, *, service: str) -> str:
    """Return what systemd finds wrong with the units and the drop-in, with a program that is installed here."""
    program = Path(sys.executable).with_name("flagjob")
    (directory / "flagjob.service").write_text(service.replace(setting("ExecStart"), str(program)))
    (directory / "flagjob.timer").write_bytes((UNITS / "flagjob.timer").read_bytes())
    (directory / "flagjob.service.d").mkdir()
    (directory / "flagjob.service.d" / "token.conf").write_bytes((UNITS / "token.conf").read_bytes())
    units = [directory / "flagjob.service", directory / "flagjob.timer"]
    done = subprocess.run(["systemd-analyze", "verify", *units], check=False, capture_output=True, text=True)
    return done.stdout + done.stderr + (f"exit code {done.returncode}" if done.returncode else "")


def test_systemd_accepts_the_units(tmp_path: Path) -> None:
    """`systemd-analyze verify` has nothing to say about service, timer and drop-in."""
    assert verified(tmp_path, service=SERVICE) == ""


def test_systemd_sees_errors(tmp_path: Path) -> None:
    """It reports a directive that it does not know, and a value that makes no sense."""
    wrong = SERVICE.replace("RestartSec=10min", "RestartSec=soon\nRestartAfter=1h")
    found = verified(tmp_path, service=wrong)
    assert "flagjob.service:21: Failed to parse" in found
    assert "RestartAfter" in found


def test_exposure() -> None:
    """`systemd-analyze security` rates the service as the guide says, which is OK."""
    rated = output("systemd-analyze", "security", "--no-pager", "--offline=true", str(UNITS / "flagjob.service"))
    rating = re.findall(r"exposure level for flagjob.service: (\S+) OK", rated)
    assert re.findall(r"exposure of the unit (\S+) of 10", GUIDE) == rating


@pytest.mark.parametrize("name", ["flagjob.service", "flagjob.timer", "token.conf", "flagjob.env"])
def test_guide_shows_the_files(name: str) -> None:
    """The guide has each file as it is."""
    assert f"\n```ini\n{(UNITS / name).read_text('utf-8')}```\n" in GUIDE


def test_restarts_are_those_that_help() -> None:
    """The unit does not start again after the exit codes of which CONFIGURATION.md says that no later run helps."""
    table = (ROOT / "CONFIGURATION.md").read_text("utf-8").split("\n## Exit codes\n")[1].split("\n## ")[0]
    hopeless = re.findall(r"^\| (\d+) \|.*\| no[^|]*\|$", table, re.MULTILINE)
    assert (setting("Type"), setting("Restart")) == ("oneshot", "on-failure")
    assert sorted(setting("RestartPreventExitStatus").split()) == sorted(hopeless) == ["2", "4"]


def microseconds(span: str) -> int:
    """Return a time span of systemd."""
    return int(re.findall(r"[uμ]s: (\d+)", output("systemd-analyze", "timespan", span))[0])


def test_times_leave_room_for_flagjob_to_end_by_itself() -> None:
    """A run reaches its deadline, and uses its grace, before systemd ends it; restarts come to an end."""
    defaults = {option.name: float(option.default or 0) for option in OPTIONS if option.metavar == "TIME"}
    start, stop, pause = (
        microseconds(setting(f"{name}Sec")) / 1e6 for name in ("TimeoutStart", "TimeoutStop", "Restart")
    )
    assert start > defaults["deadline"] + defaults["shutdown_grace"]
    assert stop > defaults["shutdown_grace"]
    assert int(setting("StartLimitBurst")) * (start + pause) < microseconds(setting("StartLimitIntervalSec")) / 1e6


def system_calls(group: str) -> set[str]:
    """Return the system calls of a group of systemd, with those of the groups in it."""
    names = re.findall(r"^    ([@\w-]+)$", output("systemd-analyze", "syscall-filter", group), re.MULTILINE)
    return {call for name in names for call in (system_calls(name) if name.startswith("@") else {name})}


@pytest.mark.parametrize("executor", ["threads", "greenlets"])
def test_flagjob_works_within_the_limits(executor: str, tmp_path: Path) -> None:
    """A run needs no system call and no socket that the unit forbids, and no memory that is writable and executable."""
    trace = tmp_path / "trace"
    run = [sys.executable, "-m", "job", "--executor", executor, "--dest", str(tmp_path / "files"), "--publish", "set"]
    reports = ["--metrics-file", str(tmp_path / "flagjob.prom"), "--report", "report.html"]
    with ScriptedServer({"/br.gif": Answer(body=GIF)}) as server:
        url = ["--url", f"http://localhost:{server.port}/{{cc}}.gif"]
        output("strace", "-f", "-o", str(trace), *run, *reports, *url, "BR")
    calls = set(re.findall(r"^\d+ +(\w+)\(", trace.read_text(), re.MULTILINE))
    writable_code = r"^.* mmap\(.*PROT_WRITE\|PROT_EXEC.*|^.*mprotect\(.*PROT_EXEC.*"
    families = set(re.findall(r"\bsocket\((AF_\w+)", trace.read_text()))
    allowed, refused = (value for value in re.findall(r"^SystemCallFilter=(.*)$", SERVICE, re.MULTILINE))
    assert "connect" in calls
    assert calls - (system_calls(allowed) - system_calls(refused.removeprefix("~"))) == set()
    assert families - set(setting("RestrictAddressFamilies").split()) == set()
    assert re.findall(writable_code, trace.read_text(), re.MULTILINE) == []
