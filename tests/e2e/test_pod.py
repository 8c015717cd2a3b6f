"""The pod of the Kubernetes base, run as it is written."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from e2e.flags import POP20, package_flags
from e2e.nginx import serve
from e2e.programs import files_in, podman, tally
from e2e.tree import branch, each, pick

pytestmark = pytest.mark.e2e


def local_pod(documents: list[object], name: str, image: str, url: str) -> str:
    """Give the YAML of the CronJob's pod with its ConfigMaps; image, claim and origin are this machine's."""
    (cronjob,) = (document for document in documents if pick(document, "kind") == "CronJob")
    spec = branch(cronjob, "spec.jobTemplate.spec.template.spec")
    (container,) = each(spec, "containers")
    here = {**branch(container, "."), "image": image, "imagePullPolicy": "Never", "ports": []}
    claim = {"name": "data", "persistentVolumeClaim": {"claimName": name}}
    volumes = [claim if pick(volume, "name") == "data" else volume for volume in each(spec, "volumes")]
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": f"pod-{name}"}}
    return yaml.safe_dump_all(
        [*config_maps(documents, url), {**pod, "spec": {**spec, "containers": [here], "volumes": volumes}}]
    )


def config_maps(documents: list[object], url: str) -> Iterator[object]:
    """Give the ConfigMaps with another origin; an `env` in the pod would not do, as podman 4.3 lets `envFrom` win."""
    for document in documents:
        if pick(document, "kind") == "ConfigMap":
            data = branch(document, "data")
            changed = {"FLAGJOB_URL": url} if "FLAGJOB_URL" in data else {}
            yield {**branch(document, "."), "data": {**data, **changed}}


@pytest.fixture
def pod(volume: str) -> Iterator[str]:
    """Name a pod that ends with the test, and its ConfigMaps' volumes with it."""
    name = f"pod-{volume}"
    yield name
    mounts = podman("inspect", "--format", "{{range .Mounts}}{{.Name}} {{end}}", f"{name}-flagjob").stdout.split()
    podman("pod", "rm", "--force", name)
    podman("volume", "rm", "--force", *mounts)


def test_pod_runs_as_written(base: list[object], image: str, volume: str, pod: str, tmp_path: Path) -> None:
    """With the base's own settings, codes, user, mounts and limits, the pod mirrors a real server and ends with 0."""
    flags = {f"{code.lower()}.gif": package_flags()[code.lower()] for code in POP20}
    with serve(tmp_path, flags) as nginx:
        manifest = tmp_path / "pod.yaml"
        manifest.write_text(local_pod(base, volume, image, f"{nginx.url}/{{cc}}.gif"))
        played = podman("kube", "play", "--network", "host", str(manifest))
        assert played.returncode == 0, played.stderr
        exit_code = podman("wait", f"{pod}-flagjob").stdout.strip()
        requests = nginx.finish()
    logged = podman("logs", f"{pod}-flagjob")
    assert exit_code == "0", logged.stdout + logged.stderr
    assert files_in(volume) == flags
    assert sorted(request.path for request in requests) == sorted(f"/{name}" for name in flags)
    assert len(tally(logged.stdout, "code")) == len(flags)
