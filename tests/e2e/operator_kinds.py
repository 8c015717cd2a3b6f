"""Print which fields of a YAML file the Prometheus operator does not know; for the Python that has its models.

usage: operator_kinds.py FILE     prints a line for each document of the operator's, and "as read" if all of it was
"""

import sys
from importlib import import_module
from pathlib import Path

import yaml

API_VERSION = "monitoring.coreos.com/v1"


def report(path: Path) -> None:
    """Read each document by its model, which drops unknown fields, and compare the two."""
    models = import_module("cloudcoil.models.prometheus_operator.v1")
    for document in yaml.safe_load_all(path.read_text()):
        if document["apiVersion"] == API_VERSION:
            read = getattr(models, document["kind"]).model_validate(document)
            same = read.model_dump(by_alias=True, exclude_unset=True, mode="json") == document
            print(document["kind"], "as read" if same else f"read as {read}")


if __name__ == "__main__":
    report(Path(sys.argv[1]))
