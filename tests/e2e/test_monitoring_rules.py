"""The alerts, judged by promtool: what fires after what has happened, and when."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from monitoring import alerts, rules

from e2e.programs import run

pytestmark = pytest.mark.e2e
TABLE: dict[str, Any] = yaml.safe_load(Path(__file__).with_name("alerts.yaml").read_text("utf-8"))
CASES: dict[str, dict[str, Any]] = {case["name"]: case for case in TABLE["cases"]}
ALERTS = alerts()


def expected(times: Mapping[str, list[dict[str, Any]]]) -> Iterator[dict[str, object]]:
    """Ask for each alert at each time; what does not depend on the case is as the rule says."""
    for time, fired in times.items():
        for name, rule in ALERTS.items():
            instances = [
                {
                    "exp_labels": rule["labels"] | alert["labels"],
                    "exp_annotations": rule["annotations"] | {"summary": alert["summary"]},
                }
                for alert in fired
                if alert["alert"] == name
            ]
            yield {"eval_time": time, "alertname": name, "exp_alerts": instances}


@pytest.fixture
def groups(tmp_path: Path) -> Path:
    """Give the rules as Prometheus reads them, without their Kubernetes wrapping."""
    path = tmp_path / "rules.yaml"
    path.write_text(yaml.safe_dump(rules()))
    return path


def test_rules_are_valid(groups: Path) -> None:
    """Promtool finds no fault in the rules."""
    checked = run("promtool", "check", "rules", "--lint=all", "--lint-fatal", str(groups))
    assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.mark.parametrize("name", CASES)
def test_alerts(name: str, groups: Path) -> None:
    """What has happened fires these alerts at these times, and no other."""
    case = CASES[name]
    usual = {} if case.get("empty") else TABLE["healthy"]
    series = usual | case.get("series", {})
    test = {
        "interval": "5m",
        "input_series": [{"series": key, "values": values} for key, values in series.items() if values],
        "alert_rule_test": list(expected(case["at"])),
    }
    path = groups.with_name("test.yaml")
    path.write_text(yaml.safe_dump({"rule_files": [groups.name], "evaluation_interval": "5m", "tests": [test]}))
    judged = run("promtool", "test", "rules", str(path))
    assert judged.returncode == 0, judged.stdout + judged.stderr


def test_every_alert_fires_and_stays_silent() -> None:
    """Each alert is expected at least once in these cases, and not expected at least once."""
    fired = {alert["alert"] for case in CASES.values() for listed in case["at"].values() for alert in listed}
    assert fired == set(ALERTS)
