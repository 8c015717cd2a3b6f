"""Runs that push to a real Pushgateway, and the alerts and dashboard queries that follow."""

import json
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path

import pytest
from monitoring import queries
from scripted import Answer, Script, ScriptedServer

from e2e.flags import POP20, package_flags
from e2e.nginx import free_port
from e2e.programs import ROOT, events, flagjob
from e2e.prometheus import Prometheus, Pushgateway, prometheus, pushgateway, wait_until

pytestmark = pytest.mark.e2e
FLAGS = {f"/{code.lower()}.gif": package_flags()[code.lower()] for code in POP20}
GOOD: Script = {path: Answer(body=body) for path, body in FLAGS.items()}
SAMPLES = """
kube_cronjob_info{namespace="ns",cronjob="flagjob"} 1
kube_cronjob_next_schedule_time{namespace="ns",cronjob="flagjob"} 4e9
kube_cronjob_status_last_successful_time{namespace="ns",cronjob="flagjob"} 1000
kube_job_owner{namespace="ns",job_name="flagjob-1",owner_kind="CronJob",owner_name="flagjob"} 1
kube_job_status_failed{namespace="ns",job_name="flagjob-1"} 0
kube_job_status_start_time{namespace="ns",job_name="flagjob-1"} 991
kube_job_status_completion_time{namespace="ns",job_name="flagjob-1"} 1000
kube_pod_container_status_terminated_reason{namespace="ns",pod="p",container="flagjob",reason="OOMKilled"} 0
kube_pod_container_resource_limits{namespace="ns",pod="p",container="flagjob",resource="memory"} 1e8
container_memory_working_set_bytes{namespace="ns",pod="p",container="flagjob"} 1e7
"""
"""Samples as of kube-state-metrics and a kubelet."""
LINGER_SECONDS = 10
LOST_SECONDS = 6


@pytest.fixture
def gateway() -> Iterator[Pushgateway]:
    """Yield a Pushgateway."""
    with pushgateway() as running:
        yield running


@pytest.fixture
def database(tmp_path: Path, gateway: Pushgateway) -> Iterator[Prometheus]:
    """Yield a Prometheus that scrapes the Pushgateway."""
    with prometheus(tmp_path, gateway) as running:
        yield running


def settings(dest: Path, pushed_to: str, **others: str) -> dict[str, str]:
    """Return the settings of a run."""
    events = {f"FLAGJOB_{name.upper()}": value for name, value in others.items()}
    return {"FLAGJOB_DEST": str(dest), "FLAGJOB_PUSHGATEWAY_URL": pushed_to, "FLAGJOB_MAX_ATTEMPTS": "1", **events}


def run(dest: Path, gateway: Pushgateway, script: Script, **others: str) -> subprocess.CompletedProcess[str]:
    """Run the job against a server with this script."""
    with ScriptedServer(script) as server:
        return flagjob(settings(dest, gateway.url, url=server.url("/{cc}.gif"), **others))


def run_until_sigterm(dest: Path, gateway: Pushgateway) -> int:
    """Start a run, and send SIGTERM while its second request waits; return its exit code."""
    slow = settings(dest, gateway.url, server="local", rate_limit="0.1")
    command = [sys.executable, "-m", "job"]
    with subprocess.Popen(command, cwd=ROOT, env=slow, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        next(line for line in process.stdout if '"event":"result"' in line)
        process.terminate()
        process.communicate()
        return process.returncode


def wait_until_scraped(gateway: Pushgateway, database: Prometheus, labels: str = 'instance="",job="flagjob"') -> None:
    """Return when Prometheus has the last push."""
    pushed = gateway.sample("flagjob_last_run_timestamp_seconds", labels)
    assert pushed
    scraped = labels.replace('instance="",', "")
    wait_until(lambda: pushed in database.query(f"flagjob_last_run_timestamp_seconds{{{scraped}}}").values())


def fired(name: str, value: str, **labels: str) -> dict[str, str]:
    """Return an alert about the job."""
    return {"alertname": name, "job": "flagjob", "value": value, **labels}


def last_run_failed(code: int, **labels: str) -> dict[str, str]:
    """Return the alert about an exit code."""
    return fired("FlagjobLastRunFailed", str(code), **labels)


def test_alerts_after_each_kind_of_run(tmp_path: Path, gateway: Pushgateway, database: Prometheus) -> None:
    """Exactly the expected alerts fire after a good, a partial, an empty, a failed and an interrupted run."""
    partial = {**GOOD, **{f"/{code.lower()}.gif": Answer(500) for code in POP20[:5]}}
    none = {path: Answer(404) for path in GOOD}
    busy = {path: [Answer(429, {"Retry-After": "1"}), Answer(body=body)] for path, body in FLAGS.items()}
    blocked = tmp_path / "file"
    blocked.touch()
    found = []
    for number, (dest, script) in enumerate(
        [("a", GOOD), ("a", partial), ("b", none), ("c", busy), ("file", GOOD), ("d", GOOD)]
    ):
        done = run(tmp_path / dest, gateway, script, new_origin="accept")
        assert '"event":"metrics_push_failed"' not in done.stdout, number
        wait_until_scraped(gateway, database)
        found.append((done.returncode, database.firing_alerts()))
    assert found == [
        (0, []),
        (3, [fired("FlagjobErrorRatioHigh", "0.25"), last_run_failed(3)]),
        (4, [last_run_failed(4), fired("FlagjobNothingFound", "20")]),
        (0, [fired("FlagjobThrottled", "0.5")]),
        (5, [last_run_failed(5), fired("FlagjobStorageFailed", "1")]),
        (0, []),
    ]
    nowhere = f"http://127.0.0.1:{free_port()}/{{cc}}.gif"
    done = flagjob(settings(tmp_path / "e", gateway.url, url=nowhere))
    wait_until_scraped(gateway, database)
    everything = fired("FlagjobErrorRatioHigh", "1")
    assert (done.returncode, database.firing_alerts()) == (6, [everything, last_run_failed(6)])
    code = run_until_sigterm(tmp_path / "f", gateway)
    wait_until_scraped(gateway, database)
    assert (code, database.firing_alerts()) == (143, [last_run_failed(143)])


@pytest.mark.parametrize("order", [("maps", "logos"), ("logos", "maps")])
@pytest.mark.parametrize("namespaces", [{"maps": "geo", "logos": "web"}, {}])
def test_a_good_mirror_hides_no_failure_of_another(
    tmp_path: Path, gateway: Pushgateway, database: Prometheus, order: tuple[str, str], namespaces: dict[str, str]
) -> None:
    """Of two mirrors on one Pushgateway one fails and one is well: the alerts are about the first, in both orders.

    The series of the reason is the last run's alone.
    """
    scripts: dict[str, Script] = {"maps": {path: Answer(403) for path in GOOD}, "logos": GOOD}
    for name in ("maps", *order):  # the first run of the failing one was well
        namespace = namespaces.get(name, "")
        labels = {"pushgateway_labels": f"namespace={namespace}"} if namespace else {}
        is_first = not gateway.sample("flagjob_shards", group_labels("maps", namespaces.get("maps", "")))
        run(tmp_path / name, gateway, GOOD if is_first else scripts[name], name=name, new_origin="accept", **labels)
        wait_until_scraped(gateway, database, group_labels(name, namespace))
    failing = {"job": "maps"} | ({"namespace": namespaces["maps"]} if namespaces else {})
    assert database.firing_alerts() == [
        fired("FlagjobErrorRatioHigh", "1", **failing),
        last_run_failed(4, **failing),
    ]
    causes = [json.loads(labels) for labels in database.query("flagjob_last_run_info")]
    assert sorted((found["job"], found["outcome"], found["reason"]) for found in causes) == [
        ("logos", "ok", "none"),
        ("maps", "permanent", "http_403"),
    ]


def group_labels(name: str, namespace: str) -> str:
    """Return the labels of a group's series, as the Pushgateway shows them."""
    own = f'instance="",job="{name}"'
    return f'{own},namespace="{namespace}"' if namespace else own


def test_alerts_about_shards(tmp_path: Path, gateway: Pushgateway, database: Prometheus) -> None:
    """Missing shards and shards that never succeeded fire alerts, until they are removed."""
    first, second = (f'instance="",job="flagjob",shard="{shard}"' for shard in (0, 1))
    run(tmp_path, gateway, GOOD, shard_count="2", shard_index="0", new_origin="accept")
    wait_until_scraped(gateway, database, first)
    assert database.firing_alerts() == [fired("FlagjobShardMissing", "1")]
    run(tmp_path, gateway, {}, shard_count="2", shard_index="1", new_origin="accept")
    wait_until_scraped(gateway, database, second)
    found = database.firing_alerts()
    assert [alert["alertname"] for alert in found] == ["FlagjobLastRunFailed", "FlagjobNeverSucceeded"]
    assert found[0] == last_run_failed(4, shard="1")
    run(tmp_path, gateway, GOOD, new_origin="accept")
    wait_until_scraped(gateway, database)
    assert database.firing_alerts() == []


def test_alert_about_a_rejected_push(tmp_path: Path, gateway: Pushgateway, database: Prometheus) -> None:
    """A push that the Pushgateway rejects fires an alert."""
    run(tmp_path, gateway, GOOD, new_origin="accept")
    wait_until_scraped(gateway, database)
    conflict = "# TYPE flagjob_pending_files gauge\nflagjob_pending_files 1\n"
    assert gateway.push("job/other", conflict) == 200
    assert gateway.push("job/flagjob", conflict.replace("gauge", "counter")) == 400
    wait_until(lambda: database.query('push_failure_time_seconds{job="flagjob"} > 0'))
    assert [alert["alertname"] for alert in database.firing_alerts()] == ["FlagjobPushRejected"]


def with_grafana_variables(expression: str) -> str:
    """Return an expression with the values that Grafana puts in for its variables."""
    values = {"$namespace": ".*", "${job}": "flagjob", "$job": "flagjob", "$__rate_interval": "5s"}
    for variable, value in values.items():
        expression = expression.replace(variable, value)
    assert "$" not in expression.replace('"$1"', "").replace('"shard $1"', "")  # those are label_replace's
    return expression


def test_dashboard(tmp_path: Path, gateway: Pushgateway) -> None:
    """After a good and a throttled run, and during a third, every query of the dashboard returns data."""
    busy = {**GOOD, **{f"/{code.lower()}.gif": Answer(429) for code in POP20[:5]}}
    port = free_port()
    with prometheus(tmp_path, gateway, [port]) as database, ScriptedServer(GOOD) as server:
        url = server.url("/{cc}.gif")
        flagjob(settings(tmp_path / "out", gateway.url, url=url))
        run(tmp_path / "out", gateway, busy, new_origin="accept")
        wait_until_scraped(gateway, database)
        conflict = "# TYPE flagjob_shards counter\nflagjob_shards 1\n"
        assert gateway.push("job/kubernetes", SAMPLES) == 200
        assert gateway.push("job/flagjob/shard/9", conflict) == 400
        live = settings(tmp_path / "live", gateway.url, url=url, rate_limit="0.5", metrics_address=f"127.0.0.1:{port}")
        with subprocess.Popen([sys.executable, "-m", "job"], cwd=ROOT, env=live, stdout=subprocess.PIPE) as process:
            for _, _, expression in queries():
                asked = with_grafana_variables(expression)
                wait_until(lambda asked=asked: database.query(asked))  # type: ignore[misc]  # a default binds it
            process.terminate()
            process.communicate()


def test_a_short_run_is_scraped(tmp_path: Path, gateway: Pushgateway) -> None:
    """The end of each of ten runs of three seconds is scraped at an interval of five, because they linger."""
    ports = [free_port() for _ in range(10)]
    with ExitStack() as stack:
        database = stack.enter_context(prometheus(tmp_path, gateway, ports, interval_seconds=5))
        wait_until(lambda: len(database.query('up{job="flagjob-live"}')) == len(ports))
        runs = []
        for number, port in enumerate(ports):
            env = settings(tmp_path / str(number), gateway.url, server="local", rate_limit="7")
            env |= {"FLAGJOB_METRICS_ADDRESS": f"127.0.0.1:{port}", "FLAGJOB_METRICS_LINGER": str(LINGER_SECONDS)}
            command = [sys.executable, "-m", "job"]
            runs.append(subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE))
            stack.enter_context(runs[-1])
        for process in runs:
            process.communicate()
        assert [process.returncode for process in runs] == [0] * len(ports)
        ended = 'max_over_time(flagjob_last_run_timestamp_seconds{job="flagjob-live"}[2m]) > 0'
        wait_until(lambda: len(database.query(ended)) == len(ports))


def lost_seconds(stdout: str) -> float:
    """Return the seconds from a run's last result to its end."""
    last, end = events(stdout, "result")[-1], events(stdout, "run_finished")[-1]
    begun, ended = (datetime.fromisoformat(str(event["timestamp"])) for event in (last, end))
    return (ended - begun).total_seconds()


@pytest.mark.parametrize("fault", ["down", "silent", "refuses"])
def test_a_pushgateway_that_fails(fault: str, tmp_path: Path, gateway: Pushgateway) -> None:
    """A failing Pushgateway changes no exit code, is one warning, and costs at most six seconds."""
    assert gateway.push("job/other", "# TYPE flagjob_workers counter\nflagjob_workers 1\n") == 200
    with socket.create_server(("127.0.0.1", 0)) as silent:
        ports = {"down": free_port(), "silent": silent.getsockname()[1], "refuses": gateway.port}
        done = run(tmp_path, Pushgateway(ports[fault]), GOOD)
    assert done.returncode == 0, done.stdout + done.stderr
    (warning,) = events(done.stdout, "metrics_push_failed")
    assert (warning["level"], re.sub(r":\d+$", "", str(warning["target"]))) == ("warning", "http://127.0.0.1")
    assert lost_seconds(done.stdout) <= LOST_SECONDS
