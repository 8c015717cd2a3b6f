"""The output of Kustomize for k8s/: the base, each overlay, the guide's examples, and combined components."""

import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import yaml

from e2e.programs import ROOT, output
from e2e.tree import branch, each, pick, text

GUIDE = ROOT / "docs" / "kubernetes.md"
JOB = "spec.jobTemplate.spec"
POD = f"{JOB}.template.spec"
OVERLAYS = ["base", *sorted(path.name for path in (ROOT / "k8s" / "overlays").iterdir())]
COMPONENTS = sorted(path.name for path in (ROOT / "k8s" / "components").iterdir())


@dataclass(frozen=True)
class Manifests:
    """The documents of one kustomization. Immutable, and so safe to share."""

    name: str
    rendered: str
    prefix: str = ""

    @cached_property
    def documents(self) -> list[object]:
        """All documents."""
        return list(yaml.safe_load_all(self.rendered))

    def find(self, kind: str, name: str = "flagjob") -> object:
        """Return the only document of a kind and name, perhaps with a prefix and the hash of a generated ConfigMap."""
        pattern = re.compile(rf"{self.prefix}{name}(-[0-9a-z]{{10}})?")
        (found,) = (one for one in self.kind(kind) if pattern.fullmatch(text(one, "metadata.name")))
        return found

    def kind(self, kind: str) -> list[object]:
        """Return the documents of a kind."""
        return [one for one in self.documents if pick(one, "kind") == kind]

    @property
    def cronjob(self) -> object:
        """The CronJob."""
        return self.find("CronJob")

    @property
    def container(self) -> object:
        """The only container of the CronJob's pod."""
        (found,) = each(self.cronjob, f"{POD}.containers")
        return found

    @property
    def pods(self) -> list[object]:
        """The spec of every pod that these documents make."""
        templates = (pick(one, path) for one in self.documents for path in (POD, "spec.template.spec"))
        return [found for found in templates if found is not None]

    @property
    def settings(self) -> dict[str, str]:
        """The environment of the job: the ConfigMap, then the container's own variables."""
        data = branch(self.find("ConfigMap", "flagjob-env"), "data")
        variables = [one for one in each(self.container, "env") if pick(one, "valueFrom") is None]
        own = {text(one, "name"): text(one, "value") for one in variables}
        return {**{name: str(value) for name, value in data.items()}, **own}


def guide_files() -> dict[str, str]:
    """Return the files that the guide shows, by path: each block whose first line is a comment with a path."""
    blocks = re.findall(r"^```[a-z]+\n(# (k8s/\S+)\n.*?)^```$", GUIDE.read_text(), flags=re.DOTALL | re.MULTILINE)
    return {path: block for block, path in blocks}


EXAMPLES = sorted({Path(path).parent.name for path in guide_files()})


def copy_with_examples(directory: Path) -> Path:
    """Return a copy of k8s/ that contains the guide's examples."""
    k8s = directory / "k8s"
    shutil.copytree(ROOT / "k8s", k8s)
    for path, content in guide_files().items():
        (directory / path).parent.mkdir(exist_ok=True)
        (directory / path).write_text(content)
    return k8s


def render(k8s: Path, name: str) -> Manifests:
    """Render the base or an overlay."""
    directory = k8s / "base" if name == "base" else k8s / "overlays" / name
    kustomization = yaml.safe_load((directory / "kustomization.yaml").read_text())
    return Manifests(name, output("kubectl", "kustomize", str(directory)), kustomization.get("namePrefix", ""))


def render_components(k8s: Path, below: str, components: tuple[str, ...]) -> Manifests:
    """Render components over another kustomization, as the guide describes."""
    paths = [f"../../components/{component}" for component in components]
    name = "-".join([Path(below).name, "with", *components])
    return render_over(k8s, name, {"resources": [below], "components": paths})


def render_over(k8s: Path, name: str, kustomization: Mapping[str, object]) -> Manifests:
    """Render an overlay of that name and content, which is written for it."""
    (k8s / "overlays" / name).mkdir(exist_ok=True)
    (k8s / "overlays" / name / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
    return render(k8s, name)


def differences(old: object, new: object, path: str = "") -> Iterator[str]:
    """Yield the paths at which two trees differ; lists are compared as a whole, but containers one by one."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(old.keys() | new.keys()):
            yield from differences(old.get(key), new.get(key), f"{path}.{key}".strip("."))
    elif path.endswith("containers") and isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for before, after in zip(old, new, strict=True):
            yield from differences(before, after, path)
    elif old != new:
        yield path
