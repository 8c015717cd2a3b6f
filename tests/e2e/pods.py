"""Runs the pod of a rendered CronJob with podman on this machine, as it is written."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from e2e.programs import output, podman
from e2e.tree import branch, each, pick, text

CONTAINER = "flagjob"


@dataclass(frozen=True, slots=True)
class PodEnvironment:
    """The parts of this machine: image, volume, settings, codes and the file of the termination message.

    `index` is the completion index that Kubernetes sets for a pod of an Indexed Job.
    """

    image: str
    volume: str
    settings: Mapping[str, str]
    codes: Sequence[str] = ()
    index: int | None = None
    message: Path | None = None


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod that was started; the names of its parts on this machine contain its name."""

    name: str
    container: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "container", f"{self.name}-{CONTAINER}")

    def wait(self) -> str:
        """Wait for the end; return the exit code."""
        return output("podman", "wait", self.container).strip()

    def kill(self) -> None:
        """Kill the container, as a node without memory does."""
        output("podman", "kill", "--signal", "KILL", self.container)

    def read_log(self) -> str:
        """Return the log so far."""
        return podman("logs", self.container).stdout

    def remove(self) -> None:
        """Remove the pod and the volumes of its ConfigMaps."""
        mounts = podman("inspect", "--format", "{{range .Mounts}}{{.Name}} {{end}}", self.container).stdout.split()
        podman("pod", "rm", "--force", self.name)
        podman("volume", "rm", "--force", *(mount for mount in mounts if mount.endswith(self.name)))


def play(documents: Sequence[object], name: str, environment: PodEnvironment, home: Path) -> Pod:
    """Start the CronJob's pod with its ConfigMaps; `home` keeps the manifest."""
    manifest = home / f"{name}.yaml"
    manifest.write_text(
        yaml.safe_dump_all([*_config_maps(documents, name, environment), _pod(documents, name, environment)])
    )
    played = podman("kube", "play", "--network", "host", str(manifest))
    assert played.returncode == 0, played.stderr
    return Pod(name)


def _pod(documents: Sequence[object], name: str, environment: PodEnvironment) -> Mapping[str, object]:
    """Return the pod, changed only where this machine requires it."""
    (cronjob,) = (document for document in documents if pick(document, "kind") == "CronJob")
    spec = branch(cronjob, "spec.jobTemplate.spec.template.spec")
    (container,) = each(spec, "containers")
    env, mounts = list(each(container, "env")), list(each(container, "volumeMounts"))
    volumes = [_volume(volume, name, environment) for volume in each(spec, "volumes")]
    if environment.index is not None:
        env.append({"name": "JOB_COMPLETION_INDEX", "value": str(environment.index)})
    if environment.message:  # a kubelet mounts one, podman does not
        environment.message.touch()
        environment.message.chmod(0o666)
        mounts.append({"name": "message", "mountPath": "/dev/termination-log"})
        volumes.append({"name": "message", "hostPath": {"path": str(environment.message), "type": "File"}})
    of_this_machine = {
        "image": environment.image,
        "imagePullPolicy": "Never",
        "ports": [],
        "env": env,
        "volumeMounts": mounts,
    }
    sources = [
        {"configMapRef": {"name": f"{_config_map_name(source)}-{name}"}} for source in each(container, "envFrom")
    ]
    changed = {**branch(container, "."), **of_this_machine, "envFrom": sources}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}}
    return {**pod, "spec": {**spec, "containers": [changed], "volumes": volumes}}


def _config_map_name(source: object) -> str:
    return text(source, "configMapRef.name")


def _volume(volume: object, name: str, environment: PodEnvironment) -> object:
    """Return a volume of the pod: the claim is this machine's, and each pod has ConfigMaps of its own."""
    if pick(volume, "persistentVolumeClaim"):
        return {"name": text(volume, "name"), "persistentVolumeClaim": {"claimName": environment.volume}}
    if pick(volume, "configMap"):
        return {"name": text(volume, "name"), "configMap": {"name": f"{text(volume, 'configMap.name')}-{name}"}}
    return volume


def _config_maps(documents: Sequence[object], name: str, environment: PodEnvironment) -> Iterator[object]:
    """Yield the ConfigMaps with this machine's values: podman 4.3 lets them override the pod's `env`."""
    for document in documents:
        if pick(document, "kind") == "ConfigMap":
            data = branch(document, "data")
            if "codes.txt" in data:
                changed = {"codes.txt": "\n".join(environment.codes)} if environment.codes else {}
            else:
                changed = dict(environment.settings)
            metadata = {"name": f"{text(document, 'metadata.name')}-{name}"}
            yield {**branch(document, "."), "metadata": metadata, "data": {**data, **changed}}
