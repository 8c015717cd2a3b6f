"""The alert rules, tested with promtool: which alerts fire, and when."""

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


def expected_alerts(times: Mapping[str, list[dict[str, Any]]]) -> Iterator[dict[str, object]]:
    """Yield promtool's test of each alert at each time."""
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
    """Return the file of the rules without their Kubernetes wrapping."""
    path = tmp_path / "rules.yaml"
    path.write_text(yaml.safe_dump(rules()))
    return path


def test_rules_are_valid(groups: Path) -> None:
    """Promtool finds no fault in the rules."""
    checked = run("promtool", "check", "rules", "--lint=all", "--lint-fatal", str(groups))
    assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.mark.parametrize("name", CASES)
def test_alerts(name: str, groups: Path) -> None:
    """Exactly the expected alerts fire at the expected times of a case."""
    case = CASES[name]
    usual = {} if case.get("empty") else TABLE["healthy"]
    series = usual | case.get("series", {})
    test = {
        "interval": "5m",
        "input_series": [{"series": key, "values": values} for key, values in series.items() if values],
        "alert_rule_test": list(expected_alerts(case["at"])),
    }
    path = groups.with_name("test.yaml")
    path.write_text(yaml.safe_dump({"rule_files": [groups.name], "evaluation_interval": "5m", "tests": [test]}))
    tested = run("promtool", "test", "rules", str(path))
    assert tested.returncode == 0, tested.stdout + tested.stderr


def test_every_alert_is_tested() -> None:
    """Each alert is expected in at least one case."""
    fired = {alert["alert"] for case in CASES.values() for listed in case["at"].values() for alert in listed}
    assert fired == set(ALERTS)
