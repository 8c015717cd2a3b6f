"""The metrics of attempts: the origin's time and outcomes only, without the destination's."""

import os
import resource
import socket
import threading
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from images import GIF, numbered_gif
from inprocess import run_here
from limits import limited
from prometheus_client.parser import text_string_to_metric_families
from scripted import Answer, ScriptedServer

IN_MEMORY = numbered_gif(1, 20_000)
"""A body that is kept in memory until it is published."""


def samples(text: str) -> dict[str, float]:
    """Return the values of all samples, by name and label values."""
    found = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return {" ".join([sample.name, *sample.labels.values()]): sample.value for sample in found}


def test_an_attempts_time_ends_with_the_last_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An attempt is counted before its file is written to the disk. (Only a hook can observe that moment.)."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    counts: list[float] = []
    fsync = os.fsync

    def count_and_sync(descriptor: int) -> None:
        if threading.current_thread().name.startswith("flagjob"):
            with urllib.request.urlopen(f"http://{address}/metrics") as answer:
                found = samples(answer.read().decode())
            counts.append(found["flagjob_http_request_duration_seconds_count"])
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", count_and_sync)
    with ScriptedServer({"/br.gif": Answer(body=GIF)}) as server:
        done = run_here("br", dest=tmp_path, url=server.url("/{cc}.gif"), metrics_address=address)
    assert (done.code, counts) == (0, [1.0])


def test_a_full_disk_is_no_failure_of_the_origin(tmp_path: Path) -> None:
    """A full disk counts as a failed download, while its attempt counts as an answer of the origin."""
    textfile = tmp_path / "flagjob.prom"
    with ScriptedServer({"/br.gif": Answer(body=IN_MEMORY)}) as server, limited(resource.RLIMIT_FSIZE, 10_000):
        url = server.url("/{cc}.gif")
        done = run_here("br", dest=tmp_path / "flags", url=url, metrics_file=str(textfile))
    found = samples(textfile.read_text())
    assert (done.code, found["flagjob_downloads_total error"]) == (5, 1.0)
    assert found["flagjob_http_requests_total invalid"] == 0.0
    assert found["flagjob_http_requests_total 2xx"] == 1.0
    assert found["flagjob_received_bytes_total"] == len(IN_MEMORY)
