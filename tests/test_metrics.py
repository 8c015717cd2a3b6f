"""The metrics: every series from the start, counted once, and out by each way."""

import urllib.request
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from job.errors import OUTCOMES, HttpError, NetworkError, Reason
from job.metrics import Metrics
from job.model import InvalidItem, Result, Status, Summary
from job.retry import Retry

RETRIED = {"429", "5xx", "timeout", "connection", "invalid"}


def samples(metrics: Metrics) -> dict[tuple[str, tuple[str, ...]], float]:
    return {
        (sample.name, tuple(sample.labels.values())): sample.value
        for family in metrics.registry.collect()
        for sample in family.samples
    }


def make() -> Metrics:
    return Metrics("1.2.3", "abc")


def summary(exit_code: int) -> Summary:
    return Summary(dict.fromkeys(Status, 0), 0, 0, 2.5, exit_code, "x")


def test_every_series_is_there_from_the_start() -> None:
    """Each label value of each counter is 0 before anything happened; success has no time yet."""
    found = samples(make())
    assert {labels for name, labels in found if name == "flagjob_downloads_total"} == {(s.value,) for s in Status}
    assert {labels for name, labels in found if name == "flagjob_http_requests_total"} == {(o,) for o in OUTCOMES}
    assert {labels[0] for name, labels in found if name == "flagjob_retries_total"} == RETRIED
    assert {labels[0] for name, labels in found if name == "flagjob_retry_wait_seconds_total"} == RETRIED
    names = {name for name, _ in found}
    assert "flagjob_last_success_timestamp_seconds" not in names
    assert not {name for name in names if name.endswith("_created")}
    assert {value for (name, _), value in found.items() if name not in {"flagjob_build_info", "flagjob_shards"}} == {0}


def test_a_run_has_about_sixty_series() -> None:
    """Few enough to keep for years."""
    assert 50 <= len(samples(make())) <= 75


def test_build_info_says_what_runs() -> None:
    """Version and revision stand in labels, with the value 1."""
    found = {key: value for key, value in samples(make()).items() if key[0] == "flagjob_build_info"}
    ((_, labels), value) = next(iter(found.items()))
    assert (labels[:2], value) == (("1.2.3", "abc"), 1.0)


def test_attempts_are_counted_by_outcome() -> None:
    """One attempt, one outcome, its time and the bytes that came."""
    metrics = make()
    metrics.attempt(None, 0.02, 359)
    metrics.attempt("http_503", 0.3, 0)
    metrics.attempt(Reason.TIMEOUT, 31, 0)
    found = samples(metrics)
    assert found["flagjob_http_requests_total", ("2xx",)] == 1
    assert found["flagjob_http_requests_total", ("5xx",)] == 1
    assert found["flagjob_http_requests_total", ("timeout",)] == 1
    assert (found["flagjob_received_bytes_total", ()], metrics.received_bytes) == (359, 359)
    assert found["flagjob_http_request_duration_seconds_bucket", ("0.025",)] == 1
    assert found["flagjob_http_request_duration_seconds_bucket", ("30.0",)] == 2
    assert found["flagjob_http_request_duration_seconds_count", ()] == 3


@pytest.mark.parametrize(
    ("reason", "group"),
    [
        ("http_429", "429"),
        ("http_503", "5xx"),
        ("http_408", "timeout"),
        ("http_425", "invalid"),
        ("timeout", "timeout"),
        ("dns", "connection"),
        ("proxy", "connection"),
        ("bad_content", "invalid"),
    ],
)
def test_retries_are_counted_by_group(reason: str, group: str) -> None:
    """What is tried again, and how long it waits, falls into five groups."""
    metrics = make()
    status = reason.removeprefix("http_")
    error = HttpError(int(status), "x") if status.isdigit() else NetworkError(reason, "x")
    metrics.retry(Retry(1, 1.5, error))
    found = samples(metrics)
    assert found["flagjob_retries_total", (group,)] == 1
    assert found["flagjob_retry_wait_seconds_total", (group,)] == 1.5
    assert sum(value for (name, _), value in found.items() if name == "flagjob_retries_total") == 1


def test_items_are_counted_by_status() -> None:
    """One item, one status, its time."""
    metrics = make()
    metrics.result(Result(Status.OK, None, "BR", duration_seconds=0.2))
    metrics.result(Result(Status.NOT_FOUND, None, "ZZ", duration_seconds=3))
    found = samples(metrics)
    assert found["flagjob_downloads_total", ("ok",)] == found["flagjob_downloads_total", ("not_found",)] == 1
    assert found["flagjob_download_duration_seconds_bucket", ("0.25",)] == 1
    assert found["flagjob_download_duration_seconds_sum", ()] == pytest.approx(3.2)


def test_downloads_under_way_are_active() -> None:
    """The gauge is up while the task runs, also when it fails, and down after it."""
    metrics = make()
    seen = []

    def task(item: object) -> Result:
        seen.append(samples(metrics)["flagjob_active_downloads", ()])
        raise ZeroDivisionError(item)

    with pytest.raises(ZeroDivisionError):
        metrics.tracked(task)(InvalidItem("BR"))
    assert (seen, samples(metrics)["flagjob_active_downloads", ()]) == ([1.0], 0.0)


def test_pending_is_asked_for_when_it_is_read() -> None:
    """Nobody has to keep the gauge up to date."""
    metrics, waiting = make(), [3]
    metrics.started(1000.0, 30, lambda: waiting[0])
    first = samples(metrics)["flagjob_pending_downloads", ()]
    waiting[0] = 7
    assert (first, samples(metrics)["flagjob_pending_downloads", ()]) == (3, 7)


def test_only_a_success_leaves_its_time() -> None:
    """A failed run says when it ended and how, but not that it succeeded."""
    failed, good = make(), make()
    failed.finished(summary(3), 2000.0)
    good.finished(summary(0), 2000.0)
    assert ("flagjob_last_success_timestamp_seconds", ()) not in samples(failed)
    assert samples(failed)["flagjob_last_run_exit_code", ()] == 3
    assert samples(failed)["flagjob_last_run_timestamp_seconds", ()] == 2000
    assert samples(good)["flagjob_last_success_timestamp_seconds", ()] == 2000
    assert samples(good)["flagjob_last_run_duration_seconds", ()] == 2.5


def test_the_endpoint_serves_the_run_and_the_process() -> None:
    """A scrape has our series and the process's own; after stop the port is free."""
    metrics = make()
    metrics.started(0, 30, lambda: 0)
    stop = metrics.serve("127.0.0.1", 0)
    stop()
    stop = metrics.serve("127.0.0.1", port := free_port())
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
            families = {family.name: family for family in text_string_to_metric_families(answer.read().decode())}
    finally:
        stop()
    assert families["flagjob_workers"].samples[0].value == 30
    assert "process_resident_memory_bytes" in families
    metrics.serve("127.0.0.1", port)()


def test_a_taken_port_is_told() -> None:
    """Whoever serves may say so; nothing else happens."""
    metrics = make()
    stop = metrics.serve("127.0.0.1", port := free_port())
    with pytest.raises(OSError, match="Address already in use"):
        metrics.serve("127.0.0.1", port)
    stop()


def test_the_textfile_is_what_node_exporter_reads(tmp_path: Path) -> None:
    """The same series, without the process's own, and no temporary file left."""
    metrics = make()
    metrics.result(Result(Status.OK, None, "BR"))
    metrics.write(tmp_path / "flagjob.prom")
    text = (tmp_path / "flagjob.prom").read_text()
    assert 'flagjob_downloads_total{status="ok"} 1.0' in text
    assert "process_" not in text
    assert [path.name for path in tmp_path.iterdir()] == ["flagjob.prom"]


def free_port() -> int:
    import socket  # noqa: PLC0415  (only here)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port
