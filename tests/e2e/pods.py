"""The pod of a rendered CronJob, played by podman on this machine as it is written."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from e2e.programs import output, podman
from e2e.tree import branch, each, pick, text

CONTAINER = "flagjob"


@dataclass(frozen=True, slots=True)
class Place:
    """What is this machine's and not the manifest's: image, volume, settings, codes, the file of the last message.

    `index` is what Kubernetes tells a pod of an Indexed Job.
    """

    image: str
    volume: str
    settings: Mapping[str, str]
    codes: Sequence[str] = ()
    index: int | None = None
    message: Path | None = None


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod that was started; names on this machine are made of its own."""

    name: str
    container: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "container", f"{self.name}-{CONTAINER}")

    def wait(self) -> str:
        """Wait for the end; give the exit code."""
        return output("podman", "wait", self.container).strip()

    def kill(self) -> None:
        """End it as a node that runs out of memory does."""
        output("podman", "kill", "--signal", "KILL", self.container)

    def logged(self) -> str:
        """Give what it wrote so far."""
        return podman("logs", self.container).stdout

    def remove(self) -> None:
        """Remove it, and the volumes of its ConfigMaps."""
        mounts = podman("inspect", "--format", "{{range .Mounts}}{{.Name}} {{end}}", self.container).stdout.split()
        podman("pod", "rm", "--force", self.name)
        podman("volume", "rm", "--force", *(mount for mount in mounts if mount.endswith(self.name)))


def play(documents: Sequence[object], name: str, place: Place, home: Path) -> Pod:
    """Start the CronJob's pod with its ConfigMaps; `home` keeps the manifest."""
    manifest = home / f"{name}.yaml"
    manifest.write_text(yaml.safe_dump_all([*_config_maps(documents, name, place), _pod(documents, name, place)]))
    played = podman("kube", "play", "--network", "host", str(manifest))
    assert played.returncode == 0, played.stderr
    return Pod(name)


def _pod(documents: Sequence[object], name: str, place: Place) -> Mapping[str, object]:
    """Give the pod; only what is this machine's is changed."""
    (cronjob,) = (document for document in documents if pick(document, "kind") == "CronJob")
    spec = branch(cronjob, "spec.jobTemplate.spec.template.spec")
    (container,) = each(spec, "containers")
    env, mounts = list(each(container, "env")), list(each(container, "volumeMounts"))
    volumes = [_volume(volume, name, place) for volume in each(spec, "volumes")]
    if place.index is not None:
        env.append({"name": "JOB_COMPLETION_INDEX", "value": str(place.index)})
    if place.message:  # a kubelet mounts one, podman does not
        place.message.touch()
        place.message.chmod(0o666)
        mounts.append({"name": "message", "mountPath": "/dev/termination-log"})
        volumes.append({"name": "message", "hostPath": {"path": str(place.message), "type": "File"}})
    here = {"image": place.image, "imagePullPolicy": "Never", "ports": [], "env": env, "volumeMounts": mounts}
    sources = [{"configMapRef": {"name": f"{_named(source)}-{name}"}} for source in each(container, "envFrom")]
    changed = {**branch(container, "."), **here, "envFrom": sources}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}}
    return {**pod, "spec": {**spec, "containers": [changed], "volumes": volumes}}


def _named(source: object) -> str:
    return text(source, "configMapRef.name")


def _volume(volume: object, name: str, place: Place) -> object:
    """Give a volume of the pod: the claim is this machine's, and each pod has ConfigMaps of its own."""
    if pick(volume, "persistentVolumeClaim"):
        return {"name": text(volume, "name"), "persistentVolumeClaim": {"claimName": place.volume}}
    if pick(volume, "configMap"):
        return {"name": text(volume, "name"), "configMap": {"name": f"{text(volume, 'configMap.name')}-{name}"}}
    return volume


def _config_maps(documents: Sequence[object], name: str, place: Place) -> Iterator[object]:
    """Give the ConfigMaps with this machine's values; an `env` in the pod would not do, as podman 4.3 lets them win."""
    for document in documents:
        if pick(document, "kind") == "ConfigMap":
            data = branch(document, "data")
            if "codes.txt" in data:
                changed = {"codes.txt": "\n".join(place.codes)} if place.codes else {}
            else:
                changed = dict(place.settings)
            metadata = {"name": f"{text(document, 'metadata.name')}-{name}"}
            yield {**branch(document, "."), "metadata": metadata, "data": {**data, **changed}}
