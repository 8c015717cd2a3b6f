"""Print what the image adds to its base, as a CycloneDX 1.6 bill of materials in JSON.

usage: inventory.py REPORT     REPORT: what `pip install --report` wrote

Package, version and digest are those of the wheels that pip installed. The libraries inside pycurl's wheel are named,
too, as scanners cannot know them; obstore and orjson bring lists of their own (`*.dist-info/sboms`, PEP 770).
"""  # noqa: INP001  (a script for the Dockerfile, not a package)

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pycurl

from job import __version__

Component = dict[str, object]


def component(kind: str, purl_type: str, name: str, version: str, **more: object) -> Component:
    """Give a component whose package URL, which is also its reference, is made of its name and version."""
    purl = f"pkg:{purl_type}/{name.lower().replace('_', '-')}@{version}"
    return {"type": kind, "bom-ref": purl, "name": name, "version": version, "purl": purl, **more}


def inside_pycurl() -> list[Component]:
    """Give libcurl and the libraries that it was linked to."""
    words = (word.partition("/") for word in pycurl.version.split())
    return [component("library", "generic", name, version) for name, _, version in words if name != "PycURL"]


def licence(metadata: Mapping[str, str]) -> Component:
    """Give a package's licence as the package states it: an SPDX expression, else words of its own, else nothing."""
    if "license_expression" in metadata:
        return {"licenses": [{"expression": metadata["license_expression"]}]}
    return {"licenses": [{"license": {"name": metadata["license"]}}]} if metadata.get("license") else {}


def packages(report: Path) -> Iterator[Component]:
    """Give what pip installed, in the order of the names."""
    for item in sorted(json.loads(report.read_text())["install"], key=lambda item: item["metadata"]["name"]):
        metadata, digest = item["metadata"], item["download_info"]["archive_info"]["hashes"]["sha256"]
        more = {"hashes": [{"alg": "SHA-256", "content": digest}], **licence(metadata)}
        if metadata["name"] == "pycurl":
            more["components"] = inside_pycurl()
        yield component("library", "pypi", metadata["name"], metadata["version"], **more)


json.dump(
    {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": component("application", "generic", "flagjob", __version__)},
        "components": list(packages(Path(sys.argv[1]))),
    },
    sys.stdout,
    indent=1,
)
