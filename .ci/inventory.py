"""Print what the image holds, as a CycloneDX 1.6 bill of materials in JSON.

usage: inventory.py REPORT BASE NAME     REPORT: what `pip install --report` wrote; BASE: Debian package, version and
                                         architecture a line, with tabs; NAME: of the base image

Package, version and digest are those of the wheels that pip installed. The libraries inside pycurl's wheel are named,
too, as scanners cannot know them; obstore and orjson bring lists of their own (`*.dist-info/sboms`, PEP 770). The base
is one component: its Debian packages, and the Python that its makers compiled.
"""  # noqa: INP001  (a script for the Dockerfile, not a package)

import json
import platform
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import quote

import pycurl

from job import __version__

Component = dict[str, object]


def purl(kind: str, name: str, version: str, **qualifiers: str) -> str:
    """Give a package URL (ECMA-427)."""
    words = "&".join(f"{key}={value}" for key, value in sorted(qualifiers.items()))
    return f"pkg:{kind}/{name}@{quote(version, safe='.-~:')}{'?' if words else ''}{words}"


def component(kind: str, name: str, version: str, package_url: str, **more: object) -> Component:
    """Give a component whose package URL is its reference, too."""
    return {"type": kind, "bom-ref": package_url, "name": name, "version": version, "purl": package_url, **more}


def generic(kind: str, name: str, version: str, **more: object) -> Component:
    """Give a component that no index of packages has."""
    return component(kind, name, version, purl("generic", name.lower(), version), **more)


def inside_pycurl() -> list[Component]:
    """Give libcurl and the libraries that it was linked to."""
    words = (word.partition("/") for word in pycurl.version.split())
    return [generic("library", name, version) for name, _, version in words if name != "PycURL"]


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
        name, version = metadata["name"], metadata["version"]
        yield component("library", name, version, purl("pypi", name.lower().replace("_", "-"), version), **more)


def base(packages: Path, name: str) -> Component:
    """Give the base image, with the packages of its system and its interpreter."""
    lines = (line.split("\t") for line in packages.read_text().splitlines())
    inside = [
        component("library", package, version, purl("deb/debian", package, version, arch=architecture))
        for package, version, architecture in lines
    ]
    interpreter = generic("platform", "python", platform.python_version())
    return {"type": "container", "bom-ref": "base", "name": name, "components": [interpreter, *inside]}


json.dump(
    {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": generic("application", "flagjob", __version__)},
        "components": [*packages(Path(sys.argv[1])), base(Path(sys.argv[2]), sys.argv[3])],
    },
    sys.stdout,
    indent=1,
)
sys.stdout.write("\n")
