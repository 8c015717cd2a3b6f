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

from job.errors import Outcome
from job.exit_code import ExitCode, outcome_name
from job.metrics import Metrics
from job.metrics.counters import CHANGES
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
        "Nights": ours() | set(recording_rules()),
        "Last run": ours() | PUSHGATEWAY | set(recording_rules()),
        "Live": ours() | set(recording_rules()),
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
        assert all(
            re.search(r'\{job=~"\$job\(-live\)\?", instance!=""[^}]*\}\[\$__rate_interval\]', text) for text in inner
        ), title
        assert not inner or row == "Live", title


def test_the_dashboard_has_enough_queries() -> None:
    """There are at least sixteen queries in four rows; every panel has a unit, thresholds and a description."""
    assert list(panels()) == ["Nights", "Last run", "Live", "Kubernetes"]
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
    words = {code: outcome_name(code).replace("_", " ") for code in ExitCode}
    words |= {code: code.name for code in (ExitCode.SIGHUP, ExitCode.SIGINT, ExitCode.SIGTERM)}
    expected = {str(code.value): f"{code.value} {word}" for code, word in words.items()}
    for title, others in (
        ("How each night went, from its run to the next", set()),
        ("What was wrong, from that run to the next", {"429"}),
    ):
        (mapping,) = panel(title)["fieldConfig"]["defaults"]["mappings"]
        texts = {code: option["text"] for code, option in mapping["options"].items() if code not in others}
        assert mapping["type"] == "value"
        assert texts == expected
        assert {code for code, option in mapping["options"].items() if "green" in option["color"]} == {"0"}


def drawn_in(chart: Any, name: str) -> str | None:
    """Return the fixed colour of a series by its name, or that of all series, or None."""
    defaults = chart["fieldConfig"]["defaults"]
    for override in chart["fieldConfig"].get("overrides", []):
        if override["matcher"] == {"id": "byName", "options": name}:
            (property_,) = override["properties"]
            return str(property_["value"]["fixedColor"])
    color: str | None = defaults["color"].get("fixedColor")
    return color


@pytest.mark.parametrize(
    ("title", "names"),
    [
        ("Codes by status", ["ok", "unchanged", "failed"]),
        ("Failed codes", ["error", "not_found", "cancelled"]),
        ("Requests by outcome", list(Outcome)),
        ("Retries by reason", ["429", "5xx", "timeout", "connection", "invalid"]),
        ("Pauses before retries", ["429", "5xx", "timeout", "connection", "invalid"]),
        ("What changed", CHANGES),
        ("Files that changed", CHANGES),
        ("Codes a second", list(Status)),
        ("Requests a second", list(Outcome)),
    ],
)
def test_series_have_the_colours_of_their_meaning(title: str, names: list[str]) -> None:
    """Each series has a colour of its own, whatever else is drawn; only what is well is green."""
    colors = {str(name): drawn_in(panel(title), str(name)) for name in names}
    assert None not in colors.values()
    assert len(set(colors.values())) == len(colors)
    assert {name for name, color in colors.items() if "green" in str(color)} <= {"ok", "unchanged", "2xx", "304", "new"}


def test_no_series_has_a_colour_by_chance() -> None:
    """A line has its own colour or the panel's; shards and pods, of which none is better, are shades of blue."""
    for chart in (chart for row in panels().values() for chart in row if chart["type"] == "timeseries"):
        color = chart["fieldConfig"]["defaults"]["color"]
        assert color["mode"] in {"fixed", "shades"}, chart["title"]
        legends = {target["legendFormat"] for target in chart["targets"]}
        assert color["fixedColor"] == "blue", chart["title"]
        assert not (legends & {"{{part}}", "{{pod}}"} and drawn_in(chart, "shard 0") != "blue"), chart["title"]


def test_failed_is_all_that_is_not_well() -> None:
    """Failed codes are those with an error, not found or cancelled; no panel calls the errors alone failed."""
    for title in ("Codes that failed", "Codes by status"):
        assert 'status!~"ok|unchanged"' in panel(title)["targets"][-1]["expr"]
    assert [expression for _, _, expression in queries() if 'status="error"' in expression] == []
    assert {status for status in Status if status not in {"ok", "unchanged"}} == {"error", "not_found", "cancelled"}


def test_axes_reach_to_their_thresholds() -> None:
    """A line chart with thresholds shows the last of them although all values are below it."""
    charts = [chart for row in panels().values() for chart in row if chart["type"] == "timeseries"]
    limits = {chart["title"]: chart["fieldConfig"]["defaults"]["thresholds"]["steps"][-1]["value"] for chart in charts}
    reach = {chart["title"]: chart["fieldConfig"]["defaults"]["custom"].get("axisSoftMax") for chart in charts}
    assert {title: reach[title] for title, limit in limits.items() if limit} == {
        title: limit for title, limit in limits.items() if limit
    }
    assert any(limits.values())


def test_the_live_row_has_a_range_of_its_own() -> None:
    """A run that goes on is seen at a time range of days, too; ages are single values and no lines."""
    assert {row: {chart.get("timeFrom") for chart in charts} for row, charts in panels().items()} == {
        "Nights": {None},
        "Last run": {None},
        "Live": {"1h"},
        "Kubernetes": {None},
    }
    ages = {title for _, title, expression in queries() if re.match(r"\(?(label_replace\()*\(?time\(\) -", expression)}
    assert ages == {"Age of the files", "Since the last push", "Since the last successful Job"}
    assert {panel(title)["type"] for title in ages} == {"stat"}


def test_nothing_is_shown_where_nothing_is_good_news() -> None:
    """Counts of what must not happen are 0, and not missing, where nothing has them."""
    for title in ("Pushes refused", "Pods that failed", "Pods killed at their memory limit"):
        assert panel(title)["targets"][0]["expr"].endswith(" or vector(0)"), title


def test_no_shards_are_named_where_there_are_none() -> None:
    """The word shard stands only before a number of one."""
    legends = {target["legendFormat"] for row in panels().values() for chart in row for target in chart["targets"]}
    assert [legend for legend in legends if "shard" in legend] == []
    assert {text for _, _, expression in queries() for text in re.findall(r'"(shard [^"]*)"', expression)} == {
        "shard $1"
    }


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
