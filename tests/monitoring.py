"""Reads alerts and dashboard, and tells which metrics and which functions an expression uses."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
OVERLAY = ROOT / "k8s" / "overlays" / "monitoring"
WORDS = {"and", "or", "unless", "bool", "offset", "on", "ignoring", "by", "without", "group_left", "group_right"}
"""What PromQL keeps for itself, and what takes labels in parentheses."""


def rules() -> dict[str, Any]:
    """Give the groups of the PrometheusRule, as a rule file of Prometheus has them."""
    spec: dict[str, Any] = yaml.safe_load((OVERLAY / "flagjob-rules.yaml").read_text("utf-8"))["spec"]
    return spec


def alerts() -> dict[str, dict[str, Any]]:
    """Give every alert by its name."""
    return {rule["alert"]: rule for group in rules()["groups"] for rule in group["rules"] if "alert" in rule}


def recorded() -> dict[str, str]:
    """Give the expression of every series that a rule makes, by its name."""
    return {rule["record"]: rule["expr"] for group in rules()["groups"] for rule in group["rules"] if "record" in rule}


def dashboard() -> dict[str, Any]:
    """Give the dashboard."""
    found: dict[str, Any] = json.loads((OVERLAY / "flagjob-dashboard.json").read_text("utf-8"))
    return found


def panels() -> dict[str, list[dict[str, Any]]]:
    """Give the panels of each row of the dashboard."""
    rows: dict[str, list[dict[str, Any]]] = {}
    for panel in dashboard()["panels"]:
        if panel["type"] == "row":
            rows[panel["title"]] = []
        else:
            rows[list(rows)[-1]].append(panel)
    return rows


def queries() -> Iterator[tuple[str, str, str]]:
    """Give row, panel and expression of each query of the dashboard."""
    for row, charts in panels().items():
        for panel in charts:
            yield from ((row, panel["title"], target["expr"]) for target in panel["targets"])


def metrics(expression: str) -> set[str]:
    """Give the names of metrics in an expression: what is neither in quotes nor a label, function, duration or word."""
    bare = re.sub(r'"[^"]*"', "", expression)
    bare = re.sub(r"\{[^}]*\}|\[[^]]*\]|\b(on|by|ignoring|without|group_left|group_right) *\([^)]*\)", " ", bare)
    return set(re.findall(r"(?<![\w:.])([a-zA-Z_:][\w:]*)(?![\w:]| *\()", bare)) - WORDS


def called(expression: str, function: str) -> list[str]:
    """Give what stands in the parentheses of each call of a function."""
    found = []
    for match in re.finditer(rf"\b{function} *\(", expression):
        depth, end = 1, match.end()
        while depth:
            depth += {"(": 1, ")": -1}.get(expression[end], 0)
            end += 1
        found.append(expression[match.end() : end - 1])
    return found
