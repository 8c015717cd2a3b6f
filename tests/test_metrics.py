"""The metrics: each series exists from the start, counts once, and is served and written as documented."""

import errno
import os
import socket
import struct
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import closing
from dataclasses import replace
from http.client import HTTPConnection
from pathlib import Path

import pytest
from images import numbered_gif
from inprocess import run_here
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector, CollectorRegistry
from rows import row
from scripted import Answer, Script, ScriptedServer

from job.errors import HttpError, NetworkError, Outcome, Reason
from job.metrics import Endpoint, Metrics
from job.model import Cause, Result, Status, Summary
from job.resilience.retrying import RetryEvent

TIMEOUT = 20
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
    """Each label value of each counter is 0 before anything happens; there is no time of success yet."""
    found = samples(make())
    assert {labels for name, labels in found if name == "flagjob_downloads_total"} == {(s.value,) for s in Status}
    assert {labels for name, labels in found if name == "flagjob_http_requests_total"} == {(o.value,) for o in Outcome}
    assert {labels[0] for name, labels in found if name == "flagjob_retries_total"} == RETRIED
    assert {labels[0] for name, labels in found if name == "flagjob_retry_wait_seconds_total"} == RETRIED
    names = {name for name, _ in found}
    assert "flagjob_last_success_timestamp_seconds" not in names
    assert not {name for name in names if name.endswith("_created")}
    assert {value for (name, _), value in found.items() if name not in {"flagjob_build_info", "flagjob_shards"}} == {0}


def test_a_run_has_about_sixty_series() -> None:
    """The number of series is small enough for years of retention."""
    assert 50 <= len(samples(make())) <= 75


def test_build_info_says_what_runs() -> None:
    """Version and revision are labels of a metric whose value is 1."""
    found = {key: value for key, value in samples(make()).items() if key[0] == "flagjob_build_info"}
    ((_, labels), value) = next(iter(found.items()))
    assert (labels[:2], value) == (("1.2.3", "abc"), 1.0)


def test_attempts_are_counted_by_outcome() -> None:
    """An attempt is counted once, under its outcome, with its duration and the received bytes."""
    metrics = make()
    metrics.count_attempt(Outcome.OK, 0.02, 359)
    metrics.count_attempt(Outcome.SERVER_ERROR, 0.3, 0)
    metrics.count_attempt(Outcome.TIMEOUT, 31, 0)
    found = samples(metrics)
    assert found["flagjob_http_requests_total", ("2xx",)] == 1
    assert found["flagjob_http_requests_total", ("5xx",)] == 1
    assert found["flagjob_http_requests_total", ("timeout",)] == 1
    assert (found["flagjob_received_bytes_total", ()], metrics.received_bytes) == (359, 359)
    assert found["flagjob_http_request_duration_seconds_bucket", ("0.025",)] == 1
    assert found["flagjob_http_request_duration_seconds_bucket", ("30.0",)] == 2
    assert found["flagjob_http_request_duration_seconds_count", ()] == 3


class SlowSeconds(float):
    """A duration that takes its time to be counted: each comparison waits to be released."""

    asked = threading.Event()
    release = threading.Event()

    def __le__(self, bound: float) -> bool:
        """Wait to be released, and compare."""
        self.asked.set()
        self.release.wait(TIMEOUT)
        return super().__le__(bound)


def test_a_scrape_waits_for_attempts_that_are_being_counted() -> None:
    """Attempts that the main thread has taken and not counted yet are not missing from a scrape."""
    metrics = make()
    metrics.count_attempt(Outcome.OK, SlowSeconds(0.5), 359)
    with ThreadPoolExecutor(2) as executor:
        counting = executor.submit(metrics.count_results, [])
        SlowSeconds.asked.wait(TIMEOUT)
        scrape = executor.submit(samples, metrics)
        unfinished = wait([scrape], 0.2).not_done
        SlowSeconds.release.set()
        counting.result(TIMEOUT)
        count = scrape.result(TIMEOUT)["flagjob_http_request_duration_seconds_count", ()]
    assert (unfinished, count) == ({scrape}, 1)


def test_attempts_of_many_threads_are_all_counted() -> None:
    """Attempts that threads report while others count them are counted once each."""
    metrics = make()
    ready = threading.Barrier(6)

    def report(_: int) -> None:
        ready.wait(TIMEOUT)
        for _ in range(2000):
            metrics.count_attempt(Outcome.OK, 0.02, 1)

    def count(_: int) -> None:
        ready.wait(TIMEOUT)
        for _ in range(500):
            metrics.count_results([])

    with ThreadPoolExecutor(6) as executor:
        list(executor.map(lambda number: report(number) if number < 4 else count(number), range(6)))
    found = samples(metrics)
    assert found["flagjob_http_requests_total", ("2xx",)] == found["flagjob_received_bytes_total", ()] == 8000
    assert found["flagjob_http_request_duration_seconds_count", ()] == 8000


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
    """Retries and their waits are counted in five groups."""
    metrics = make()
    status = reason.removeprefix("http_")
    error = HttpError(int(status), "x") if status.isdigit() else NetworkError(Reason(reason), "x")
    metrics.count_retry(RetryEvent(1, 4, 1.5, error))
    found = samples(metrics)
    assert found["flagjob_retries_total", (group,)] == 1
    assert found["flagjob_retry_wait_seconds_total", (group,)] == 1.5
    assert sum(value for (name, _), value in found.items() if name == "flagjob_retries_total") == 1


def test_items_are_counted_by_status() -> None:
    """An item is counted once, under its status; without an attempt its duration is not observed."""
    metrics = make()
    metrics.count_results(
        [
            Result(Status.OK, None, "BR", attempts=1, duration_seconds=0.2),
            Result(Status.NOT_FOUND, None, "ZZ", attempts=1, duration_seconds=3),
        ]
    )
    metrics.count_results([Result(Status.CANCELLED, None, "XX")])
    found = samples(metrics)
    assert found["flagjob_downloads_total", ("ok",)] == found["flagjob_downloads_total", ("not_found",)] == 1
    assert found["flagjob_downloads_total", ("cancelled",)] == 1
    assert found["flagjob_download_duration_seconds_bucket", ("0.25",)] == 1
    assert found["flagjob_download_duration_seconds_count", ()] == 2
    assert found["flagjob_download_duration_seconds_sum", ()] == pytest.approx(3.2)


def test_numbers_of_the_moment_are_read_at_each_scrape() -> None:
    """What is under way, what waits and what was taken from the source have their values without any update."""
    metrics = make()
    names = ["flagjob_active_downloads", "flagjob_pending_downloads", "flagjob_selected_codes"]
    now = {"active": 2, "pending": 3}
    metrics.record_start(1000.0, 30, active=lambda: now["active"], pending=lambda: now["pending"])
    metrics.selected = 5
    first = [samples(metrics)[name, ()] for name in names]
    now |= {"active": 30, "pending": 7}
    metrics.selected = 40
    assert (first, [samples(metrics)[name, ()] for name in names]) == ([2, 3, 5], [30, 7, 40])


def test_the_limit_on_concurrency_is_read_at_each_scrape() -> None:
    """How many requests the origin bears has its value at the time of the scrape."""
    metrics = make()
    limits = [30]
    metrics.record_throttle(lambda: limits[-1])
    first = samples(metrics)["flagjob_concurrency_limit", ()]
    limits.append(4)
    assert (first, samples(metrics)["flagjob_concurrency_limit", ()]) == (30, 4)


def test_only_a_success_leaves_its_time() -> None:
    """A failed run records its end and its exit code, but no time of success."""
    failed = make()
    good = make()
    failed.record_end(summary(3), 2000.0)
    good.record_end(summary(0), 2000.0)
    assert ("flagjob_last_success_timestamp_seconds", ()) not in samples(failed)
    assert samples(failed)["flagjob_last_run_exit_code", ()] == 3
    assert samples(failed)["flagjob_last_run_timestamp_seconds", ()] == 2000
    assert samples(good)["flagjob_last_success_timestamp_seconds", ()] == 2000
    assert samples(good)["flagjob_last_run_duration_seconds", ()] == 2.5


def test_a_run_that_goes_on_has_no_end() -> None:
    """Exit code, times, changes and cause exist once the run has ended: until then it did not end with 0."""
    metrics = make()
    metrics.record_start(1000.0, 30, active=lambda: 0, pending=lambda: 0)
    assert [name for name, _ in samples(metrics) if "_last_" in name] == ["flagjob_last_run_start_timestamp_seconds"]


def test_the_newest_outcome_has_its_time() -> None:
    """The end of the run has outcome and cause as labels; without a Pushgateway only the time tells the newest."""
    metrics = make()
    metrics.record_end(replace(summary(6), outcome="origin_down", cause=Cause("dns")), 2000.0)
    found = samples(metrics)
    assert found["flagjob_last_run_outcome_timestamp_seconds", ("origin_down", "dns")] == 2000
    assert found["flagjob_last_run_info", ("origin_down", "dns")] == 1


def test_changes_are_those_of_the_origin(tmp_path: Path) -> None:
    """After a known change at the origin, one file changed, one gone and two new, there are exactly these numbers."""
    textfile = tmp_path / "run.prom"
    codes = ["br", "cn", "in", "us", "fr", "de", "zz"]
    gifs = [Answer(body=numbered_gif(number)) for number in range(7)]
    before: Script = {f"/{code}.gif": gif for code, gif in zip(codes[:4], gifs, strict=False)}
    after: Script = {**before, "/br.gif": gifs[4], "/cn.gif": Answer(404), "/fr.gif": gifs[5], "/de.gif": gifs[6]}
    found = []
    for script, asked in ((before, codes[:4]), (after, codes), (after, codes)):
        with ScriptedServer(script) as server:
            settings = {"url": server.url("/{cc}.gif"), "new_origin": "accept", "metrics_file": str(textfile)}
            run_here(*asked, dest=tmp_path / "out", **settings)
        lines = textfile.read_text().splitlines()
        found.append([line.partition("{")[2] for line in lines if line.startswith("flagjob_last_run_changes{")])
    assert found == [
        ['change="new"} 4.0', 'change="changed"} 0.0', 'change="gone"} 0.0'],
        ['change="new"} 2.0', 'change="changed"} 1.0', 'change="gone"} 1.0'],
        ['change="new"} 0.0', 'change="changed"} 0.0', 'change="gone"} 0.0'],
    ]


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    """Yield an endpoint on a free port of the loopback address."""
    made = make().serve("127.0.0.1", 0)
    yield made
    made.close()


def scrape(endpoint: Endpoint, path: str = "/metrics", method: str = "GET", *, host: str = "127.0.0.1") -> bytes:
    """Return the body of the endpoint's response."""
    with closing(HTTPConnection(host, endpoint.port)) as connection:
        connection.request(method, path)
        answer = connection.getresponse()
        body = answer.read()
        assert answer.headers["Content-Length"] == str(len(body))
        return body


def is_scraped(endpoint: Endpoint) -> bool:
    """Return whether the final metrics have been scraped."""
    return endpoint.linger(0, lambda: False)


def test_the_endpoint_serves_the_run_and_the_process() -> None:
    """A scrape has the run's series and the process's own; after `close` the port is free."""
    metrics = make()
    metrics.record_start(0, 30, lambda: 0, lambda: 0)
    with closing(metrics.serve("127.0.0.1", 0)) as endpoint:
        families = {family.name: family for family in text_string_to_metric_families(scrape(endpoint).decode())}
    assert families["flagjob_workers"].samples[0].value == 30
    assert "process_resident_memory_bytes" in families
    metrics.serve("127.0.0.1", endpoint.port).close()


@row(65)
def test_an_empty_host_is_every_address() -> None:
    """An address without a host, such as `:9464`, is bound on every address, of IPv4 and of IPv6."""
    with closing(make().serve("", 0)) as endpoint:
        for host in ("127.0.0.1", "::1"):
            assert b"flagjob_workers" in scrape(endpoint, host=host)


@row(65)
@pytest.mark.parametrize("number", [errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL])
def test_a_machine_without_ipv6_serves_ipv4(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Where the kernel has no IPv6, `:9464` is every IPv4 address."""

    class Socket(socket.socket):
        def __init__(self, family: int = socket.AF_INET, *arguments: int) -> None:
            if family == socket.AF_INET6:
                raise OSError(number, os.strerror(number))
            super().__init__(family, *arguments)

    monkeypatch.setattr(socket, "socket", Socket)
    endpoint = make().serve("", 0)
    monkeypatch.undo()
    with closing(endpoint):
        assert b"flagjob_workers" in scrape(endpoint)


def test_a_name_is_bound_in_a_family_that_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host name that has an IPv6 address alone is bound in IPv6."""
    found = [(socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("::1", 0, 0, 0))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    endpoint = make().serve("pod.example", 0)
    monkeypatch.undo()
    with closing(endpoint):
        assert b"flagjob_workers" in scrape(endpoint, host="::1")


def test_a_port_in_use_is_an_error() -> None:
    """Serving on a port that is in use raises OSError."""
    metrics = make()
    with closing(metrics.serve("127.0.0.1", 0)) as first, pytest.raises(OSError, match="Address already in use"):
        metrics.serve("127.0.0.1", first.port)


def test_an_ipv6_address_is_bound_as_one() -> None:
    """An IPv6 address is not looked up as a name: binding the documentation address fails, but not in DNS."""
    with pytest.raises(OSError) as caught:
        make().serve("2001:db8::1", 0)
    assert not isinstance(caught.value, socket.gaierror)


def test_linger_waits_for_a_scrape_after_the_end(endpoint: Endpoint) -> None:
    """The wait ends when the final metrics are scraped; an earlier scrape does not count."""
    scrape(endpoint)
    before = is_scraped(endpoint)
    endpoint.mark_final()
    after = is_scraped(endpoint)
    with ThreadPoolExecutor(1) as executor:
        lingering = executor.submit(endpoint.linger, 600, lambda: False)
        scrape(endpoint)
        assert (before, after, lingering.result(TIMEOUT)) == (False, False, True)


@pytest.mark.parametrize(
    ("path", "method"), [("/", "GET"), ("/favicon.ico", "GET"), ("/metrics/", "GET"), ("/metrics", "OPTIONS")]
)
def test_only_scrapes_count(endpoint: Endpoint, path: str, method: str) -> None:
    """A request of another path or method does not count as a scrape."""
    endpoint.mark_final()
    scrape(endpoint, path, method)
    assert is_scraped(endpoint) is False


class SlowCollector(Collector):
    """A collector that blocks until it is released, and then returns 16 MiB."""

    def __init__(self) -> None:
        self.asked = threading.Event()
        self.release = threading.Event()

    def collect(self) -> Iterator[Metric]:
        """Wait to be released."""
        self.asked.set()
        self.release.wait(TIMEOUT)
        yield Metric("much", "x" * (16 << 20), "gauge")


def test_a_scrape_that_began_before_the_end_does_not_count() -> None:
    """A scrape that began before `mark_final` may hold older values, even if it is sent later."""
    metrics = make()
    slow = SlowCollector()
    with closing(metrics.serve("127.0.0.1", 0)) as endpoint, ThreadPoolExecutor(1) as executor:
        metrics.registry.register(slow)  # calls `collect` once
        slow.asked.clear()
        early = executor.submit(scrape, endpoint)
        slow.asked.wait(TIMEOUT)
        endpoint.mark_final()
        slow.release.set()
        assert b"much" in early.result(TIMEOUT)
        assert is_scraped(endpoint) is False
        scrape(endpoint)
        assert endpoint.linger(600, lambda: False) is True


def test_a_scraper_that_leaves_does_not_count(capfd: pytest.CaptureFixture[str]) -> None:
    """A scrape counts only if its last byte was sent; standard error stays empty."""
    metrics = make()
    slow = SlowCollector()
    slow.release.set()
    metrics.registry.register(slow)
    with closing(metrics.serve("127.0.0.1", 0)) as endpoint:
        endpoint.mark_final()
        with socket.create_connection(("127.0.0.1", endpoint.port)) as client:
            client.sendall(b"GET /metrics HTTP/1.1\r\n")
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        with socket.create_connection(("127.0.0.1", endpoint.port)) as client:
            client.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
            client.recv(1)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        gone = threading.Event()
        while any(thread.name.startswith("Thread") for thread in threading.enumerate()):
            gone.wait(0.01)
        assert is_scraped(endpoint) is False
    assert capfd.readouterr() == ("", "")


class BrokenCollector(Collector):
    """A collector that fails."""

    def collect(self) -> Iterator[Metric]:
        """Fail when the values are collected."""
        raise ZeroDivisionError


def test_scrapes_leave_standard_error_alone(capfd: pytest.CaptureFixture[str]) -> None:
    """Neither a successful nor a failed scrape writes to standard error, and a failed one does not count."""
    metrics = make()
    registry = CollectorRegistry(auto_describe=False)
    registry.register(BrokenCollector())
    with closing(metrics.serve("127.0.0.1", 0)) as good, closing(Endpoint(registry, "127.0.0.1", 0)) as bad:
        bad.mark_final()
        assert b"flagjob_workers" in scrape(good)
        assert scrape(bad).startswith(b"A server error occurred")
        assert is_scraped(bad) is False
    assert capfd.readouterr() == ("", "")


def test_lingering_ends_in_time(endpoint: Endpoint) -> None:
    """Without a scrape, the time limit or an interruption ends the wait; before the end there is no wait at all."""
    calls: list[bool] = []

    def is_interrupted() -> bool:
        calls.append(True)
        return len(calls) == 3

    assert endpoint.linger(600, is_interrupted) is False
    assert calls == []
    endpoint.mark_final()
    assert (endpoint.linger(0.01, lambda: False), endpoint.linger(600, is_interrupted)) == (False, False)
    assert len(calls) == 3


def test_the_textfile_is_what_node_exporter_reads(tmp_path: Path) -> None:
    """The textfile has the run's series without the process's own, and no temporary file remains."""
    metrics = make()
    metrics.count_results([Result(Status.OK, None, "BR")])
    metrics.count_attempt(Outcome.OK, 0.02, 359)
    metrics.write_textfile(tmp_path / "flagjob.prom")
    text = (tmp_path / "flagjob.prom").read_text()
    assert "flagjob_received_bytes_total 359.0" in text
    assert 'flagjob_downloads_total{status="ok"} 1.0' in text
    assert "process_" not in text
    assert [path.name for path in tmp_path.iterdir()] == ["flagjob.prom"]
