"""A real Prometheus and a real Pushgateway on loopback, configured as in stack/."""

import json
import subprocess
import time
import urllib.parse
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from http.client import HTTPConnection
from pathlib import Path
from threading import Event
from typing import Any

import yaml
from monitoring import ROOT, rules

from e2e.nginx import free_port, wait_until_listening

BOUND_SECONDS = 60.0
"""The time after which a wait fails instead of hanging."""
POLL_SECONDS = 0.1


def wait_until(condition: Callable[[], object]) -> None:
    """Return when a condition holds; raise AssertionError if it does not in time."""
    deadline, never = time.monotonic() + BOUND_SECONDS, Event()
    while not condition():
        assert time.monotonic() < deadline, "it does not happen"
        never.wait(POLL_SECONDS)


@contextmanager
def server(port: int, *command: str) -> Iterator[None]:
    """Run a server until the end of the block."""
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            wait_until_listening(port, process)
            yield
        finally:
            process.terminate()


def ask(port: int, method: str, path: str, body: str = "") -> tuple[int, str]:
    """Send a request to a server of this machine; return status and body of the answer."""
    connection = HTTPConnection("127.0.0.1", port, timeout=BOUND_SECONDS)
    try:
        connection.request(method, path, body.encode())
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


@dataclass(frozen=True)
class Pushgateway:
    """A running Pushgateway."""

    port: int

    @property
    def url(self) -> str:
        """The value for FLAGJOB_PUSHGATEWAY_URL."""
        return f"http://127.0.0.1:{self.port}"

    def push(self, group: str, text: str) -> int:
        """Push metrics in the text format into a group, as `job/flagjob/shard/3`; return the status of the answer."""
        return ask(self.port, "POST", f"/metrics/{group}", text)[0]

    def sample(self, name: str, labels: str = 'instance="",job="flagjob"') -> float | None:
        """Return the value of a series, or None if there is none."""
        lines = (line.rpartition(" ") for line in ask(self.port, "GET", "/metrics")[1].splitlines())
        return next((float(value) for series, _, value in lines if series == f"{name}{{{labels}}}"), None)


@contextmanager
def pushgateway() -> Iterator[Pushgateway]:
    """Start a Pushgateway without any group, which Debian's would otherwise load from its persistence file."""
    port = free_port()
    options = ("--persistence.file=", f"--web.listen-address=127.0.0.1:{port}")
    with server(port, "prometheus-pushgateway", *options):
        yield Pushgateway(port)


@dataclass(frozen=True)
class Prometheus:
    """A running Prometheus."""

    port: int

    def api(self, path: str, **parameters: str) -> Any:
        """Send a request to the HTTP API; return the data of its answer."""
        _, text = ask(self.port, "GET", f"/api/v1/{path}?{urllib.parse.urlencode(parameters)}")
        answer = json.loads(text)
        assert answer["status"] == "success", answer
        return answer["data"]

    def query(self, expression: str) -> dict[str, float]:
        """Evaluate an expression now; return values by their labels."""
        result = self.api("query", query=expression)["result"]
        return {json.dumps(series["metric"], sort_keys=True): float(series["value"][1]) for series in result}

    def firing_alerts(self) -> list[dict[str, str]]:
        """Return the labels and values of all firing alerts, after every rule was evaluated again."""
        since = time.time()
        wait_until(lambda: all(evaluated_at(rule) > since for rule in self._rules()))
        alerts = (alert for rule in self._rules() for alert in rule.get("alerts", ()))
        label_names = ("alertname", "namespace", "job", "shard")
        found = [
            {name: alert["labels"][name] for name in label_names if name in alert["labels"]}
            | {"value": f"{float(alert['value']):g}"}
            for alert in alerts
        ]
        return sorted(found, key=lambda labels: sorted(labels.items()))

    def _rules(self) -> list[dict[str, Any]]:
        return [rule for group in self.api("rules")["groups"] for rule in group["rules"]]


def evaluated_at(rule: Mapping[str, str]) -> float:
    """Return when a rule was last evaluated, in seconds of the Unix epoch."""
    return datetime.fromisoformat(rule["lastEvaluation"]).timestamp()


def without_delays(groups: dict[str, Any]) -> dict[str, Any]:
    """Return the rules without their `for`: delays are tested with promtool."""
    for group in groups["groups"]:
        for rule in group["rules"]:
            rule.pop("for", None)
    return groups


@contextmanager
def prometheus(
    home: Path,
    pushed: Pushgateway,
    live: Sequence[int] = (),
    interval_seconds: int = 1,
    change: Callable[[dict[str, Any]], None] = lambda _: None,
) -> Iterator[Prometheus]:
    """Start a Prometheus with the stack's configuration; only addresses, paths and intervals differ.

    `change` may change each scrape job.
    """
    config = yaml.safe_load((ROOT / "stack" / "prometheus.yml").read_text("utf-8"))
    config["global"] = dict.fromkeys(config["global"], f"{interval_seconds}s")
    config["rule_files"] = [str(home / "rules.yaml")]
    targets = {"pushgateway": [pushed.port], "flagjob-live": live}
    for job in config["scrape_configs"]:
        job["static_configs"] = [{"targets": [f"127.0.0.1:{port}" for port in targets[job["job_name"]]]}]
        change(job)
    (home / "rules.yaml").write_text(yaml.safe_dump(without_delays(rules())))
    (home / "prometheus.yml").write_text(yaml.safe_dump(config))
    port = free_port()
    options = [f"--config.file={home}/prometheus.yml", f"--storage.tsdb.path={home}/data"]
    with server(port, "prometheus", *options, f"--web.listen-address=127.0.0.1:{port}"):
        wait_until(lambda: ask(port, "GET", "/-/ready")[0] == 200)
        yield Prometheus(port)
