"""Fixtures of all end-to-end tests: the image, built once, the rendered base, and a new volume."""

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from e2e.programs import ROOT, output, podman

IMAGE = "localhost/flagjob:e2e"
SOURCE = "https://source.example/flagjob"
BUILD = """
(umask 077 && cp -r .git .ci .dockerignore Dockerfile job requirements.lock requirements-report.lock "$1") && cd "$1" &&
    .ci/image-without-registry.sh
"""


@pytest.fixture(scope="session")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Build the image from a checkout that only its owner can read; yield its name."""
    checkout = str(tmp_path_factory.mktemp("private"))
    output("env", f"IMAGE={IMAGE}", f"SOURCE={SOURCE}", "sh", "-c", BUILD, "sh", checkout)
    yield IMAGE
    podman("image", "rm", IMAGE)


@pytest.fixture(scope="session")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Render the base; return the file."""
    path = tmp_path_factory.mktemp("rendered") / "base.yaml"
    path.write_text(output("kubectl", "kustomize", str(ROOT / "k8s" / "base")))
    return path


@pytest.fixture(scope="session")
def base(rendered: Path) -> list[object]:
    """Return the documents of the rendered base."""
    return list(yaml.safe_load_all(rendered.read_text()))


@pytest.fixture
def volume() -> Iterator[str]:
    """Yield the name of a new, empty volume, which podman creates at its first use."""
    name = f"e2e-{uuid.uuid4().hex}"
    yield name
    podman("volume", "rm", "--force", name)
