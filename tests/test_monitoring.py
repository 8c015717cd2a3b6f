"""Alerts, dashboard and runbook cannot drift from the metrics, the exit codes and each other."""

import json
import re
from typing import Any

import pytest
import yaml
from monitoring import (
    OVERLAY,
    ROOT,
    alerts,
    call_arguments,
    dashboard,
    metrics,
    panels,
    queries,
    recording_rules,
    rules,
)
from prometheus_client import CollectorRegistry, ProcessCollector

from job.exit_code import ExitCode, outcome_name
from job.metrics import Metrics
from job.model import Status, Summary
from job.settings import OPTIONS

RUNBOOK = (ROOT / "docs" / "runbook.md").read_text("utf-8")
BASE = (ROOT / "k8s" / "base" / "kustomization.yaml").read_text("utf-8")
PUSHGATEWAY = {"push_time_seconds", "push_failure_time_seconds"}
"""Series that a Pushgateway adds for each group (its README, "About metric inconsistencies")."""
KUBERNETES = {
    "container_memory_working_set_bytes",  # cAdvisor
    "kube_cronjob_info",  # this and the rest: kube-state-metrics, its docs/metrics
    "kube_cronjob_labels",
    "kube_cronjob_next_schedule_time",
    "kube_cronjob_spec_suspend",
    "kube_cronjob_status_active",
    "kube_cronjob_status_last_schedule_time",
    "kube_cronjob_status_last_successful_time",
    "kube_job_owner",
    "kube_job_status_completion_time",
    "kube_job_status_failed",
    "kube_job_status_start_time",
    "kube_pod_container_resource_limits",
    "kube_pod_container_status_terminated_reason",
}
KILLED = 137
"""The exit code of a killed process (128 + SIGKILL), which is not one of flagjob's own."""
ALERTS = alerts()
EXPRESSIONS = {name: alert["expr"] for name, alert in ALERTS.items()} | recording_rules()


def ours() -> set[str]:
    """Return the name of every series that a run has, scraped or pushed."""
    run = Metrics("1.2.3", "abc")
    run.record_end(Summary(dict.fromkeys(Status, 0), 0, 0, 2.5, 0, "x"), 1.0)
    process = CollectorRegistry()
    ProcessCollector(registry=process)
    families = [*run.registry.collect(), *process.collect()]
    return {sample.name for family in families for sample in family.samples}


def panel(title: str) -> Any:
    """Return the panel with this title."""
    (found,) = (panel for row in panels().values() for panel in row if panel["title"] == title)
    return found


def anchors() -> dict[str, str]:
    """Return the text under each third-level heading of the runbook, by the heading's anchor."""
    parts = re.split(r"^### (.*)$", RUNBOOK.replace("\n## ", "\n### "), flags=re.MULTILINE)
    return {heading.lower().replace(" ", "-"): text for heading, text in zip(parts[1::2], parts[2::2], strict=True)}


def test_metrics_of_an_expression() -> None:
    """Names of metrics are distinguished from labels, functions, keywords, durations, text and variables."""
    expression = 'time() - max by (a, b) (m_x{c="d"}) > 0.8 * 1e3 unless on (e) group_left (f) r:y:z == rate(n[5m])'
    assert metrics(expression) == {"m_x", "r:y:z", "n"}
    assert metrics('sum by(a)(b{job="${job}-live", c=~"x|y"}[$__rate_interval]) and (d) or e') == {"b", "d", "e"}


@pytest.mark.parametrize("name", EXPRESSIONS)
def test_metrics_of_rules(name: str) -> None:
    """A rule uses metrics that exist, and the raw value of pushed metrics: no rate, no increase."""
    expression = EXPRESSIONS[name]
    known = ours() | PUSHGATEWAY | KUBERNETES | set(recording_rules())
    assert metrics(expression) - known == set()
    assert bool(metrics(expression)) is (expression != "vector(1)")
    assert [f for f in ("rate", "irate", "increase", "delta", "idelta") if call_arguments(expression, f)] == []


def test_metrics_of_the_dashboard() -> None:
    """The dashboard uses metrics that exist; each row uses only the metrics of its subject."""
    known = {
        "Last run": ours() | PUSHGATEWAY | set(recording_rules()),
        "Live": ours(),
        "Kubernetes": KUBERNETES,
    }
    for row, title, expression in queries():
        assert metrics(expression), title
        assert metrics(expression) - known[row] == set(), title


def test_rates_are_of_live_runs() -> None:
    """Only series that are scraped while a run goes on have a rate."""
    for row, title, expression in queries():
        selected = {
            function: call_arguments(expression, function) for function in ("rate", "irate", "increase", "delta")
        }
        inner = [text for texts in selected.values() for text in texts]
        assert all('{job="${job}-live"}[$__rate_interval]' in text for text in inner), title
        assert not inner or row == "Live", title


def test_the_dashboard_has_enough_queries() -> None:
    """There are at least sixteen queries in three rows; every panel has a unit, thresholds and a description."""
    assert list(panels()) == ["Last run", "Live", "Kubernetes"]
    assert len(list(queries())) >= 16
    for chart in (chart for row in panels().values() for chart in row):
        defaults = chart["fieldConfig"]["defaults"]
        assert chart["description"].endswith("."), chart["title"]
        assert (bool(defaults["unit"]), bool(defaults["thresholds"]["steps"])) == (True, True), chart["title"]


def test_the_dashboard_has_variables() -> None:
    """Data source, job, namespace and the runbook's URL are variables; no panel has a data source of its own."""
    variables = [variable["name"] for variable in dashboard()["templating"]["list"]]
    assert variables == ["datasource", "job", "namespace", "runbook"]
    charts = [chart for row in panels().values() for chart in row]
    assert {chart["datasource"]["uid"] for chart in charts} == {"${datasource}"}
    assert {target["datasource"]["uid"] for chart in charts for target in chart["targets"]} == {"${datasource}"}


def test_links_of_the_dashboard() -> None:
    """Every link to the runbook leads to an entry of it; that of an exit code leads to every one."""
    links = re.findall(r'"\$\{runbook\}#([^"]+)"', json.dumps(dashboard()))
    entries = anchors()
    assert {link for link in links if "$" not in link} - set(entries) == set()
    assert [link for link in links if "$" in link] == ["exit-code-${__value.raw}"]


def test_the_dashboard_names_exit_codes() -> None:
    """Each exit code is shown with its name."""
    (mapping,) = panel("Exit codes")["fieldConfig"]["defaults"]["mappings"]
    words = {code: outcome_name(code).replace("_", " ") for code in ExitCode}
    words |= {code: code.name for code in (ExitCode.SIGHUP, ExitCode.SIGINT, ExitCode.SIGTERM)}
    expected = {str(code.value): f"{code.value} {word}" for code, word in words.items()}
    assert mapping["type"] == "value"
    assert {code: option["text"] for code, option in mapping["options"].items()} == expected


def test_settings_of_the_stack() -> None:
    """Every FLAGJOB_ name in the stack is a setting."""
    events = set(re.findall(r"FLAGJOB_\w*[A-Z]", (ROOT / "stack" / "compose.yaml").read_text("utf-8")))
    assert len(events) > 5
    assert events - {option.variable for option in OPTIONS} == set()


def test_there_are_enough_alerts() -> None:
    """There are at least ten, each with a name of its own."""
    listed = [rule["alert"] for group in rules()["groups"] for rule in group["rules"] if "alert" in rule]
    assert len(listed) >= 10
    assert sorted(listed) == sorted(ALERTS)


@pytest.mark.parametrize("name", ALERTS)
def test_alerts_explain_themselves(name: str) -> None:
    """An alert has a severity, a summary, a description and a link to its own entry of the runbook."""
    alert = ALERTS[name]
    assert name.startswith("Flagjob")
    assert alert["labels"]["severity"] in {"info", "warning", "critical"}
    assert set(alert["annotations"]) == {"summary", "description", "runbook_url"}
    assert alert["annotations"]["description"].endswith(".")
    assert alert["annotations"]["runbook_url"] == f"docs/runbook.md#{name.lower()}"


def test_the_rules_are_a_kubernetes_object() -> None:
    """The part after the line `spec:` is a rule file that Prometheus can read."""
    text = (OVERLAY / "flagjob-rules.yaml").read_text("utf-8")
    head, _, rest = text.partition("\nspec:\n")
    assert yaml.safe_load(head)["kind"] == "PrometheusRule"
    assert yaml.safe_load(rest) == rules()


def test_the_deadline_is_that_of_the_base() -> None:
    """The alert about slow runs, its text and the dashboard's thresholds use the deadline that the base sets."""
    (seconds,) = map(int, re.findall(r"FLAGJOB_DEADLINE=(\d+)$", BASE, re.MULTILINE))
    alert = ALERTS["FlagjobNearDeadline"]
    assert alert["expr"].rstrip().endswith(f"> 0.8 * {seconds}")
    assert f"of the {seconds // 60} minutes" in alert["annotations"]["summary"]
    steps = panel("Duration of the run")["fieldConfig"]["defaults"]["thresholds"]["steps"]
    assert [step["value"] for step in steps] == [None, 0.8 * seconds, seconds]


def test_the_runbook_has_every_alert_and_exit_code() -> None:
    """Each alert, each exit code and that of a killed process has an entry, and there is no other entry."""
    codes = {f"exit-code-{code}" for code in [*map(int, ExitCode), KILLED]}
    assert set(anchors()) == {name.lower() for name in ALERTS} | codes | {"alerts", "exit-codes"}


def test_entries_of_the_runbook() -> None:
    """An entry has a meaning, something to look at with a command or query, an action, and an alert what clears it."""
    for anchor, text in anchors().items():
        if anchor not in {"alerts", "exit-codes"}:
            clears = [] if anchor.startswith("exit-code-") else ["Clears"]
            assert re.findall(r"^- (\w+):", text, re.MULTILINE) == ["Means", "Look", "Do", *clears], anchor
            look = text.split("\n- Look:")[1].split("\n- Do:")[0]
            assert re.search(r"`(kubectl|curl) [^`]+`", look), anchor


def test_runbook_needs_no_events() -> None:
    """No entry looks at events, which Kubernetes keeps for an hour, or at what is mostly events."""
    assert re.findall(r"`[^`]*\bget events\b[^`]*`|`kubectl [^`]*describe (?:job|cronjob)\b[^`]*`", RUNBOOK) == []
    first = RUNBOOK.partition("```sh\n")[2].partition("```")[0]
    assert "state.terminated.message" in first


def test_a_failed_night_is_a_warning_by_either_source() -> None:
    """A run that failed has the same severity, whether the Pushgateway or kube-state-metrics tells of it."""
    severities = [ALERTS[name]["labels"]["severity"] for name in ("FlagjobLastRunFailed", "FlagjobCronJobFailing")]
    assert severities == ["warning", "warning"]
