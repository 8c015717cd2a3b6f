"""Lingering after the end of a run: how long the final metrics can be scraped."""

import json
import signal
import socket
import subprocess
import threading
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from command import TIMEOUT, flagjob, start_flagjob
from images import GIF
from prometheus_client.parser import text_string_to_metric_families
from scripted import Answer, Hold, ScriptedServer

FOR_EVER = "1h"


@pytest.fixture
def address() -> str:
    """Return an address on which no server listens."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        return f"127.0.0.1:{free.getsockname()[1]}"


@contextmanager
def lingering(cwd: Path, address: str, *argv: str, linger: str = FOR_EVER) -> Iterator[subprocess.Popen[bytes]]:
    """Run to the end, and yield the process while it lingers, after its last line was read."""
    settings = {"FLAGJOB_METRICS_ADDRESS": address, "FLAGJOB_METRICS_LINGER": linger}
    with start_flagjob(*argv, cwd=cwd, settings=settings) as process:
        assert process.stdout
        events = (json.loads(line)["event"] for line in process.stdout)
        assert any(event == "run_finished" for event in events)
        yield process


def scraped(address: str) -> Mapping[str, float]:
    """Return the metrics without labels that are served."""
    with urllib.request.urlopen(f"http://{address}/metrics") as answer:
        found = text_string_to_metric_families(answer.read().decode())
        return {sample.name: sample.value for family in found for sample in family.samples if not sample.labels}


@pytest.mark.parametrize(("codes", "code"), [(["BR"], 0), (["BR", "ZZ"], 4)])
def test_the_last_metrics_are_scraped_once(tmp_path: Path, address: str, codes: list[str], code: int) -> None:
    """After the last line the final metrics can be scraped once; then the process ends with the run's exit code."""
    with lingering(tmp_path, address, *codes) as process:
        assert process.poll() is None
        found = scraped(address)
        assert process.wait(TIMEOUT) == code
        assert process.stdout
        assert process.stdout.read() == b""
    assert (found["flagjob_last_run_exit_code"], found["flagjob_active_downloads"]) == (code, 0)
    assert ("flagjob_last_success_timestamp_seconds" in found) is (code == 0)


def test_without_a_scrape_the_time_limit_ends_the_wait(tmp_path: Path, address: str) -> None:
    """FLAGJOB_METRICS_LINGER is the longest wait."""
    with lingering(tmp_path, address, "BR", linger="100ms") as process:
        assert process.wait(TIMEOUT) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_wait(tmp_path: Path, address: str, number: signal.Signals) -> None:
    """A signal after the end of the run ends the wait, and does not change the exit code."""
    with lingering(tmp_path, address, "BR") as process:
        process.send_signal(number)
        assert process.wait(TIMEOUT) == 0


def test_a_signal_ends_the_wait_after_the_deadline_ended_the_run(tmp_path: Path, address: str) -> None:
    """A run that its deadline ended lingers as well, and a signal still ends the wait."""
    with start_flagjob(
        cwd=tmp_path,
        settings={
            "FLAGJOB_METRICS_ADDRESS": address,
            "FLAGJOB_METRICS_LINGER": FOR_EVER,
            "FLAGJOB_CODES_FILE": "-",
            "FLAGJOB_DEADLINE": "1",
        },
    ) as process:
        assert process.stdin
        process.stdin.write(b"BR\n")
        process.stdin.flush()
        assert process.stdout
        assert any(json.loads(line)["event"] == "run_finished" for line in process.stdout)
        process.send_signal(signal.SIGTERM)
        assert process.wait(TIMEOUT) == 7


def sockets(pid: int) -> list[str]:
    """Return the sockets that a process has open."""
    found = []
    for path in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed meanwhile
            found.append(str(path.readlink()))
    return [link for link in found if link.startswith("socket:")]


@pytest.mark.slow
def test_a_lingering_process_holds_nothing(tmp_path: Path, address: str) -> None:
    """Everything but the endpoint is closed, so the next run can use the destination."""
    with lingering(tmp_path, address, "BR") as process:
        while len(sockets(process.pid)) > 1:
            threading.Event().wait(0.01)
        done = flagjob("BR", cwd=tmp_path)
    assert (done.code, done.statuses) == (0, {"BR": "unchanged"})


def test_a_port_in_use_causes_no_wait(tmp_path: Path) -> None:
    """If the metrics cannot be served, the run does not linger."""
    with ScriptedServer({}) as server:
        taken = f"127.0.0.1:{server.port}"
        done = flagjob("BR", f"--metrics-address={taken}", f"--metrics-linger={FOR_EVER}", cwd=tmp_path)
    assert (done.code, [line["target"] for line in done.events_named("sink_failed")]) == (0, [taken])


def test_a_run_without_a_log_does_not_linger(tmp_path: Path, address: str) -> None:
    """If the last line cannot be written, the exit code is not that of the metrics, so there is no wait."""
    release = threading.Event()
    settings = {"FLAGJOB_METRICS_ADDRESS": address, "FLAGJOB_METRICS_LINGER": FOR_EVER}
    with ScriptedServer({"/br.gif": Hold(release, Answer(body=GIF))}) as server:
        settings |= {"FLAGJOB_URL": server.url("/{cc}.gif"), "FLAGJOB_LOG_RESULTS": "problems"}
        with start_flagjob("BR", cwd=tmp_path, settings=settings) as process:
            server.wait_for(1)
            assert process.stdout
            process.stdout.close()
            release.set()
            assert process.wait(TIMEOUT) == 5
