"""Reads alerts and dashboard, and finds the metrics and the functions that an expression uses."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
OVERLAY = ROOT / "k8s" / "overlays" / "monitoring"
KEYWORDS = {"and", "or", "unless", "bool", "offset", "on", "ignoring", "by", "without", "group_left", "group_right"}
"""Keywords of PromQL, among them those that take labels in parentheses."""


def rules() -> dict[str, Any]:
    """Return the groups of the PrometheusRule, in the form of a Prometheus rule file."""
    spec: dict[str, Any] = yaml.safe_load((OVERLAY / "flagjob-rules.yaml").read_text("utf-8"))["spec"]
    return spec


def alerts() -> dict[str, dict[str, Any]]:
    """Return every alert by its name."""
    return {rule["alert"]: rule for group in rules()["groups"] for rule in group["rules"] if "alert" in rule}


def recording_rules() -> dict[str, str]:
    """Return the expression of every series that a rule records, by its name."""
    return {rule["record"]: rule["expr"] for group in rules()["groups"] for rule in group["rules"] if "record" in rule}


def dashboard() -> dict[str, Any]:
    """Return the dashboard."""
    found: dict[str, Any] = json.loads((OVERLAY / "flagjob-dashboard.json").read_text("utf-8"))
    return found


def panels() -> dict[str, list[dict[str, Any]]]:
    """Return the panels of each row of the dashboard."""
    rows: dict[str, list[dict[str, Any]]] = {}
    for panel in dashboard()["panels"]:
        if panel["type"] == "row":
            rows[panel["title"]] = []
        else:
            rows[list(rows)[-1]].append(panel)
    return rows


def queries() -> Iterator[tuple[str, str, str]]:
    """Yield row, panel and expression of each query of the dashboard."""
    for row, charts in panels().items():
        for panel in charts:
            yield from ((row, panel["title"], target["expr"]) for target in panel["targets"])


def metrics(expression: str) -> set[str]:
    """Return the metrics in an expression: names that are not quoted, and no label, function, duration or keyword."""
    bare = re.sub(r'"[^"]*"', "", expression)
    bare = re.sub(r"\{[^}]*\}|\[[^]]*\]|\b(on|by|ignoring|without|group_left|group_right) *\([^)]*\)", " ", bare)
    return set(re.findall(r"(?<![\w:.])([a-zA-Z_:][\w:]*)(?![\w:]| *\()", bare)) - KEYWORDS


def call_arguments(expression: str, function: str) -> list[str]:
    """Return the text in the parentheses of each call of a function."""
    found = []
    for match in re.finditer(rf"\b{function} *\(", expression):
        depth = 1
        end = match.end()
        while depth:
            depth += {"(": 1, ")": -1}.get(expression[end], 0)
            end += 1
        found.append(expression[match.end() : end - 1])
    return found
