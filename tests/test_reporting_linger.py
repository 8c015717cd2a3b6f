"""After the end: how long the last metrics can be scraped."""

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
from command import TIMEOUT, flagjob, started
from images import GIF
from prometheus_client.parser import text_string_to_metric_families
from scripted import Answer, ScriptedServer, Throttle

FOR_EVER = "1h"


@pytest.fixture
def address() -> str:
    """Give an address where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        return f"127.0.0.1:{free.getsockname()[1]}"


@contextmanager
def lingering(cwd: Path, address: str, *argv: str, linger: str = FOR_EVER) -> Iterator[subprocess.Popen[bytes]]:
    """Run to the end, and give the process while it lingers; its last line was read by then."""
    settings = {"FLAGJOB_METRICS_ADDRESS": address, "FLAGJOB_METRICS_LINGER": linger}
    with started(*argv, cwd=cwd, settings=settings) as process:
        assert process.stdout
        events = (json.loads(line)["event"] for line in process.stdout)
        assert any(event == "run_finished" for event in events)
        yield process


def scraped(address: str) -> Mapping[str, float]:
    """Give the metrics without labels that are served."""
    with urllib.request.urlopen(f"http://{address}/metrics") as answer:
        found = text_string_to_metric_families(answer.read().decode())
        return {sample.name: sample.value for family in found for sample in family.samples if not sample.labels}


@pytest.mark.parametrize(("codes", "code"), [(["BR"], 0), (["BR", "ZZ"], 4)])
def test_the_last_metrics_are_scraped_once(tmp_path: Path, address: str, codes: list[str], code: int) -> None:
    """After the last line they can be scraped, final as they are; then the process ends with the run's exit code."""
    with lingering(tmp_path, address, *codes) as process:
        assert process.poll() is None
        found = scraped(address)
        assert process.wait(TIMEOUT) == code
        assert process.stdout
        assert process.stdout.read() == b""
    assert (found["flagjob_last_run_exit_code"], found["flagjob_active_downloads"]) == (code, 0)
    assert ("flagjob_last_success_timestamp_seconds" in found) is (code == 0)


def test_nobody_scrapes(tmp_path: Path, address: str) -> None:
    """The time is a bound."""
    with lingering(tmp_path, address, "BR", linger="100ms") as process:
        assert process.wait(TIMEOUT) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it(tmp_path: Path, address: str, number: signal.Signals) -> None:
    """The run is over, and its exit code was told: a signal ends the waiting, and changes nothing else."""
    with lingering(tmp_path, address, "BR") as process:
        process.send_signal(number)
        assert process.wait(TIMEOUT) == 0


def test_a_signal_ends_it_after_the_deadline_did_the_run(tmp_path: Path, address: str) -> None:
    """What ended the run does not make it deaf; its last metrics can be scraped, too."""
    with started(
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
    """Give the sockets that a process has open."""
    found = []
    for path in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed meanwhile
            found.append(str(path.readlink()))
    return [link for link in found if link.startswith("socket:")]


def test_what_lingers_holds_nothing(tmp_path: Path, address: str) -> None:
    """All but the endpoint is closed, and the destination is free for the next run already."""
    with lingering(tmp_path, address, "BR") as process:
        while len(sockets(process.pid)) > 1:
            threading.Event().wait(0.01)
        done = flagjob("BR", cwd=tmp_path)
    assert (done.code, done.statuses) == (0, {"BR": "unchanged"})


def test_a_port_that_is_taken_is_not_waited_at(tmp_path: Path) -> None:
    """Without an endpoint there is nothing to scrape, and no reason to linger."""
    with ScriptedServer({}) as server:
        taken = f"127.0.0.1:{server.port}"
        done = flagjob("BR", f"--metrics-address={taken}", f"--metrics-linger={FOR_EVER}", cwd=tmp_path)
    assert (done.code, [line["target"] for line in done.named("sink_failed")]) == (0, [taken])


def test_a_run_whose_log_nobody_takes_does_not_linger(tmp_path: Path, address: str) -> None:
    """Where the last line cannot be written, the run did not end as its metrics say."""
    release = threading.Event()
    settings = {"FLAGJOB_METRICS_ADDRESS": address, "FLAGJOB_METRICS_LINGER": FOR_EVER}
    with ScriptedServer({"/br.gif": Throttle(release, Answer(body=GIF))}) as server:
        settings |= {"FLAGJOB_URL": server.url("/{cc}.gif"), "FLAGJOB_LOG_RESULTS": "problems"}
        with started("BR", cwd=tmp_path, settings=settings) as process:
            server.wait_for(1)
            assert process.stdout
            process.stdout.close()
            release.set()
            assert process.wait(TIMEOUT) == 5
