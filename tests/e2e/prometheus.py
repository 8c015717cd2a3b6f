"""A real Prometheus and a real Pushgateway on loopback, configured as the stack is."""

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

from e2e.nginx import free_port, socket_ready

BOUND_SECONDS = 60.0
"""Against hanging."""
ASK_AGAIN_SECONDS = 0.1


def until(happened: Callable[[], object]) -> None:
    """Return when something has happened; AssertionError if it does not."""
    latest, nothing = time.monotonic() + BOUND_SECONDS, Event()
    while not happened():
        assert time.monotonic() < latest, "it does not happen"
        nothing.wait(ASK_AGAIN_SECONDS)


@contextmanager
def started(port: int, *command: str) -> Iterator[None]:
    """Run a server for as long as the context lasts."""
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            socket_ready(port, process)
            yield
        finally:
            process.terminate()


def ask(port: int, method: str, path: str, body: str = "") -> tuple[int, str]:
    """Send a request to a server of this machine; give status and body of the answer."""
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
        """What FLAGJOB_PUSHGATEWAY_URL wants."""
        return f"http://127.0.0.1:{self.port}"

    def push(self, group: str, text: str) -> int:
        """Push metrics in the text format into a group, as `job/flagjob/shard/3`; give the status of the answer."""
        return ask(self.port, "POST", f"/metrics/{group}", text)[0]

    def sample(self, name: str, labels: str = 'instance="",job="flagjob"') -> float | None:
        """Give the value of a series, if there is one."""
        lines = (line.rpartition(" ") for line in ask(self.port, "GET", "/metrics")[1].splitlines())
        return next((float(value) for series, _, value in lines if series == f"{name}{{{labels}}}"), None)


@contextmanager
def pushgateway() -> Iterator[Pushgateway]:
    """Start a Pushgateway without any group, which Debian's would otherwise find in the file that it keeps."""
    port = free_port()
    options = ("--persistence.file=", f"--web.listen-address=127.0.0.1:{port}")
    with started(port, "prometheus-pushgateway", *options):
        yield Pushgateway(port)


@dataclass(frozen=True)
class Prometheus:
    """A running Prometheus."""

    port: int

    def api(self, path: str, **parameters: str) -> Any:
        """Ask the HTTP API; give the data of its answer."""
        _, text = ask(self.port, "GET", f"/api/v1/{path}?{urllib.parse.urlencode(parameters)}")
        answer = json.loads(text)
        assert answer["status"] == "success", answer
        return answer["data"]

    def query(self, expression: str) -> dict[str, float]:
        """Evaluate an expression now; give values by their labels."""
        result = self.api("query", query=expression)["result"]
        return {json.dumps(series["metric"], sort_keys=True): float(series["value"][1]) for series in result}

    def firing(self) -> list[dict[str, str]]:
        """Give the labels of all alerts that fire, and what their value is, once every rule was evaluated anew."""
        since = time.time()
        until(lambda: all(evaluated(rule) > since for rule in self._rules()))
        alerts = (alert for rule in self._rules() for alert in rule.get("alerts", ()))
        told = ("alertname", "shard")
        found = [
            {name: alert["labels"][name] for name in told if name in alert["labels"]}
            | {"value": f"{float(alert['value']):g}"}
            for alert in alerts
        ]
        return sorted(found, key=lambda labels: sorted(labels.items()))

    def _rules(self) -> list[dict[str, Any]]:
        return [rule for group in self.api("rules")["groups"] for rule in group["rules"]]


def evaluated(rule: Mapping[str, str]) -> float:
    """Give when a rule was last evaluated, in seconds of the Unix epoch."""
    return datetime.fromisoformat(rule["lastEvaluation"]).timestamp()


def at_once(groups: dict[str, Any]) -> dict[str, Any]:
    """Take the patience from the rules: what they say of time is for promtool's tests."""
    for group in groups["groups"]:
        for rule in group["rules"]:
            rule.pop("for", None)
    return groups


@contextmanager
def prometheus(
    home: Path, pushed: Pushgateway, live: Sequence[int] = (), interval_seconds: int = 1
) -> Iterator[Prometheus]:
    """Start a Prometheus with the stack's configuration; only addresses, paths and intervals are this test's."""
    config = yaml.safe_load((ROOT / "stack" / "prometheus.yml").read_text("utf-8"))
    config["global"] = dict.fromkeys(config["global"], f"{interval_seconds}s")
    config["rule_files"] = [str(home / "rules.yaml")]
    targets = {"pushgateway": [pushed.port], "flagjob-live": live}
    for job in config["scrape_configs"]:
        job["static_configs"] = [{"targets": [f"127.0.0.1:{port}" for port in targets[job["job_name"]]]}]
    (home / "rules.yaml").write_text(yaml.safe_dump(at_once(rules())))
    (home / "prometheus.yml").write_text(yaml.safe_dump(config))
    port = free_port()
    options = [f"--config.file={home}/prometheus.yml", f"--storage.tsdb.path={home}/data"]
    with started(port, "prometheus", *options, f"--web.listen-address=127.0.0.1:{port}"):
        until(lambda: ask(port, "GET", "/-/ready")[0] == 200)
        yield Prometheus(port)
