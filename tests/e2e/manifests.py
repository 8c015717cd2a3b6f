"""What Kustomize makes of k8s/: the base, each overlay, the guide's examples, and all of the components together."""

import re
import shutil
from collections.abc import Iterator
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
    """The documents of one kustomization. Safe to share: nothing changes them."""

    name: str
    rendered: str

    @cached_property
    def documents(self) -> list[object]:
        """All of them."""
        return list(yaml.safe_load_all(self.rendered))

    def named(self, kind: str, name: str = "flagjob") -> object:
        """Give the one document of that kind and name, which may end in the hash that Kustomize gives a ConfigMap."""
        pattern = re.compile(rf"{name}(-[0-9a-z]{{10}})?")
        (found,) = (one for one in self.kind(kind) if pattern.fullmatch(text(one, "metadata.name")))
        return found

    def kind(self, kind: str) -> list[object]:
        """Give the documents of a kind."""
        return [one for one in self.documents if pick(one, "kind") == kind]

    @property
    def cronjob(self) -> object:
        """The CronJob."""
        return self.named("CronJob")

    @property
    def container(self) -> object:
        """The one container of its pod."""
        (found,) = each(self.cronjob, f"{POD}.containers")
        return found

    @property
    def pods(self) -> list[object]:
        """The spec of every pod that anything here makes."""
        templates = (pick(one, path) for one in self.documents for path in (POD, "spec.template.spec"))
        return [found for found in templates if found is not None]

    @property
    def settings(self) -> dict[str, str]:
        """What the job's environment is: the ConfigMap, then what the container names."""
        data = branch(self.named("ConfigMap", "flagjob-env"), "data")
        own = {text(one, "name"): text(one, "value") for one in each(self.container, "env")}
        return {**{name: str(value) for name, value in data.items()}, **own}


def guide_files() -> dict[str, str]:
    """Give the files that the guide shows, by path: each block whose first line is a comment with one."""
    blocks = re.findall(r"^```[a-z]+\n(# (k8s/\S+)\n.*?)^```$", GUIDE.read_text(), flags=re.DOTALL | re.MULTILINE)
    return {path: block for block, path in blocks}


EXAMPLES = sorted({Path(path).parent.name for path in guide_files()})


def workshop(directory: Path) -> Path:
    """Give a copy of k8s/ in which the guide's examples lie where they belong."""
    k8s = directory / "k8s"
    shutil.copytree(ROOT / "k8s", k8s)
    for path, content in guide_files().items():
        (directory / path).parent.mkdir(exist_ok=True)
        (directory / path).write_text(content)
    return k8s


def render(k8s: Path, name: str) -> Manifests:
    """Render the base or an overlay."""
    directory = k8s / "base" if name == "base" else k8s / "overlays" / name
    return Manifests(name, output("kubectl", "kustomize", str(directory)))


def composed(k8s: Path, below: str, components: tuple[str, ...]) -> Manifests:
    """Render components over something else, as the guide says."""
    name = "-".join([Path(below).name, "with", *components])
    kustomization = {
        "resources": [below],
        "components": [f"../../components/{component}" for component in components],
    }
    (k8s / "overlays" / name).mkdir(exist_ok=True)
    (k8s / "overlays" / name / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
    return render(k8s, name)


def differences(old: object, new: object, path: str = "") -> Iterator[str]:
    """Give the paths at which two trees differ; lists are compared as a whole, but containers one by one."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(old.keys() | new.keys()):
            yield from differences(old.get(key), new.get(key), f"{path}.{key}".strip("."))
    elif path.endswith("containers") and isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for before, after in zip(old, new, strict=True):
            yield from differences(before, after, path)
    elif old != new:
        yield path
