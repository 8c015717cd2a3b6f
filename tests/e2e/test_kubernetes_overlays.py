"""Each overlay of k8s/: exactly the fields that it changes in the base."""

import shutil
import urllib.parse
from pathlib import Path

import pytest

from e2e.manifests import COMPONENTS, JOB, OVERLAYS, POD, Manifests, copy_with_examples, differences, render
from e2e.programs import ROOT, run
from e2e.tree import branch, each, number, pick, text
from job.settings.options import OPTIONS

pytestmark = pytest.mark.e2e
MEBIBYTE = 2**20
RUN_BYTES = 100 * MEBIBYTE
"""More memory than a run needs besides the bodies in flight."""


def overlay(name: str) -> Manifests:
    """Render the base or an overlay."""
    return render(ROOT / "k8s", name)


def mebibytes(tree: object, path: str) -> int:
    """Return the bytes at a path, which are written in Mi."""
    return int(text(tree, path).removesuffix("Mi")) * MEBIBYTE


def default(setting: str) -> object:
    """Return a setting's default as the program parses it."""
    (option,) = (option for option in OPTIONS if option.variable == setting)
    return option.parse(option.default or "")


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        (
            "sharded",
            {
                "activeDeadlineSeconds",
                "backoffLimit",
                "backoffLimitPerIndex",
                "completionMode",
                "completions",
                "parallelism",
                "podFailurePolicy.rules",
                "template.spec.containers.env",
            },
        ),
        (
            "object-store",
            {
                "template.spec.containers.envFrom",
                "template.spec.containers.resources.limits.ephemeral-storage",
                "template.spec.containers.resources.limits.memory",
                "template.spec.containers.resources.requests.ephemeral-storage",
                "template.spec.containers.volumeMounts",
                "template.spec.volumes",
            },
        ),
        ("openshift", {f"template.spec.securityContext.{name}" for name in ("fsGroup", "runAsGroup", "runAsUser")}),
        ("monitoring", {"template.spec.containers.env", "template.spec.containers.envFrom"}),
    ],
)
def test_overlay_changes_only_these_fields(name: str, changes: set[str]) -> None:
    """An overlay's CronJob differs from the base's in exactly these fields."""
    found = set(differences(pick(overlay("base").cronjob, "spec"), pick(overlay(name).cronjob, "spec"), "spec"))
    assert found == {f"{JOB}.{path}" for path in changes}


def test_pod_is_written_once() -> None:
    """Only one file in k8s/ contains a whole pod template; the others patch it."""
    files = [path for path in (ROOT / "k8s").rglob("*.yaml") if "restartPolicy:" in path.read_text()]
    assert [path.relative_to(ROOT).as_posix() for path in files] == ["k8s/base/cronjob.yaml"]


def test_component_has_an_overlay() -> None:
    """Each component has an overlay of its name, and so can be applied alone."""
    assert [name for name in COMPONENTS if name not in OVERLAYS] == []


def test_number_of_shards_is_the_number_of_pods() -> None:
    """FLAGJOB_SHARD_COUNT equals `completions`, so that the shards cover the whole list."""
    sharded = overlay("sharded")
    assert sharded.settings["FLAGJOB_SHARD_COUNT"] == str(number(sharded.cronjob, f"{JOB}.completions"))


def test_shards_are_retried_alone() -> None:
    """Each index has its own retries, and one that failed ends no other."""
    job = branch(overlay("sharded").cronjob, JOB)
    found = [job.get(name) for name in ("completionMode", "backoffLimitPerIndex", "backoffLimit", "maxFailedIndexes")]
    assert found == ["Indexed", 2, None, None]


def test_there_are_more_shards_than_pods_at_once() -> None:
    """There are two to four times as many shards as pods at a time, so that a slow one delays little."""
    job = branch(overlay("sharded").cronjob, JOB)
    assert 2 <= number(job, "completions") / number(job, "parallelism") <= 4


def test_shards_share_a_volume() -> None:
    """Pods on several nodes can mount the volume at the same time."""
    assert pick(overlay("sharded").find("PersistentVolumeClaim", "flagjob-data"), "spec.accessModes") == [
        "ReadWriteMany"
    ]


def test_object_store_needs_no_volume() -> None:
    """With the object store files go into a bucket, and no storage is claimed."""
    store = overlay("object-store")
    assert urllib.parse.urlsplit(store.settings["FLAGJOB_DEST"]).scheme == "s3"
    assert store.kind("PersistentVolumeClaim") == []
    assert sorted(text(volume, "name") for volume in each(store.cronjob, f"{POD}.volumes")) == ["codes", "tmp"]


def test_credentials_come_from_a_secret() -> None:
    """The bucket's credentials come from a Secret, if there is one, and are not in the manifests."""
    store = overlay("object-store")
    assert {"secretRef": {"name": "flagjob-bucket", "optional": True}} in list(each(store.container, "envFrom"))
    assert store.kind("Secret") == []
    assert [name for name in store.settings if "KEY" in name or "TOKEN" in name] == []


def test_object_store_has_space_for_all_bodies_in_flight() -> None:
    """The largest file for each worker fits into the scratch volume and into memory."""
    store = overlay("object-store")
    workers, size = default("FLAGJOB_WORKERS"), default("FLAGJOB_MAX_BYTES")
    assert isinstance(workers, int)
    assert isinstance(size, int)
    scratch = next(volume for volume in each(store.cronjob, f"{POD}.volumes") if pick(volume, "name") == "tmp")
    limits = pick(store.container, "resources.limits")
    assert workers * size <= mebibytes(scratch, "emptyDir.sizeLimit") <= mebibytes(limits, "ephemeral-storage")
    assert 2 * workers * size + RUN_BYTES <= mebibytes(limits, "memory")


def test_openshift_assigns_the_ids() -> None:
    """The OpenShift overlay sets no user and no group; all others set those of the image."""
    found = {name: fixed_ids(overlay(name)) for name in OVERLAYS}
    images_own = dict.fromkeys(("runAsUser", "runAsGroup", "fsGroup"), 65532)
    assert found == {**dict.fromkeys(OVERLAYS, images_own), "openshift": {}}


def fixed_ids(manifests: Manifests) -> dict[str, object]:
    """Return the user and groups that the pod sets."""
    context = branch(manifests.cronjob, f"{POD}.securityContext")
    return {name: context[name] for name in ("runAsUser", "runAsGroup", "fsGroup") if name in context}


def test_openshift_resolves_names() -> None:
    """The pod may reach OpenShift's DNS pods, which listen on a port of their own."""
    base, openshift = (list(each(overlay(name).find("NetworkPolicy"), "spec.egress")) for name in ("base", "openshift"))
    *rules, rule = openshift
    assert rules == base
    assert sorted((text(one, "protocol"), number(one, "port")) for one in each(rule, "ports")) == [
        ("TCP", 5353),
        ("UDP", 5353),
    ]


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("monitoring", ["PodMonitor", "PrometheusRule"]),
        ("openshift-monitoring", ["PodMonitor", "PrometheusRule", "ServiceMonitor"]),
        ("large", ["PodMonitor"]),
    ],
)
def test_operators_kinds_are_valid(name: str, kinds: list[str], tmp_path: Path) -> None:
    """The models of the Prometheus operator read every field of its documents, those of the guide, too."""
    (tmp_path / "rendered.yaml").write_text(render(copy_with_examples(tmp_path), name).rendered)
    python = Path(shutil.which("checkov") or "checkov").with_name("python")
    checked = run(str(python), "tests/e2e/operator_kinds.py", str(tmp_path / "rendered.yaml"))
    assert (checked.stdout.splitlines(), checked.stderr) == ([f"{kind} as read" for kind in kinds], "")


def test_kube_prometheus_stack_selects_its_kinds() -> None:
    """PodMonitor and rules carry the label by which a Prometheus of that chart selects them, written once."""
    monitoring = overlay("monitoring")
    for kind in ("PodMonitor", "PrometheusRule"):
        assert branch(monitoring.find(kind), "metadata.labels")["release"] == "kube-prometheus-stack"
    written = [path for path in (ROOT / "k8s").rglob("*.yaml") if "release: kube-prometheus-stack" in path.read_text()]
    assert [path.name for path in written] == ["kustomization.yaml"]


def test_one_line_has_the_address_of_the_runbook(tmp_path: Path) -> None:
    """The address in the overlay replaces what stands before the # of every link, and is what the dashboard reads."""
    shutil.copytree(ROOT / "k8s", tmp_path / "k8s")
    file = tmp_path / "k8s" / "overlays" / "monitoring" / "kustomization.yaml"
    before, _, after = file.read_text().partition("docs/runbook.md")
    file.write_text(f"{before}https://wiki.test/a/runbook?x=1{after}")
    changed = render(tmp_path / "k8s", "monitoring")
    rules = list(each(changed.find("PrometheusRule"), "spec.groups"))
    texts = [rule for group in rules for rule in each(group, "rules")]
    links = {text(rule, "alert"): text(rule, "annotations.runbook_url") for rule in texts if pick(rule, "alert")}
    assert links == {name: f"https://wiki.test/a/runbook?x=1#{name.lower()}" for name in links}
    labels = [pick(rule, "labels.runbook") for rule in texts if pick(rule, "record") == "flagjob:runbook:info"]
    assert (len(links) > 10, labels) == (True, ["https://wiki.test/a/runbook?x=1"])
    applied = [text(one, "metadata.name") for one in changed.kind("ConfigMap")]
    assert [name for name in applied if "runbook" in name] == []


def test_run_lingers_for_two_scrapes() -> None:
    """A run lingers for two scrape intervals, so that one missed scrape loses nothing."""
    monitoring = overlay("monitoring")
    (endpoint,) = each(monitoring.find("PodMonitor"), "spec.podMetricsEndpoints")
    interval = int(text(endpoint, "interval").removesuffix("s"))
    assert int(monitoring.settings["FLAGJOB_METRICS_LINGER"]) == 2 * interval


def test_pod_monitor_finds_the_pod() -> None:
    """The PodMonitor selects the job's pods and a port that they have."""
    monitoring = overlay("monitoring")
    monitor = monitoring.find("PodMonitor")
    labels = branch(monitoring.cronjob, f"{JOB}.template.metadata.labels")
    assert branch(monitor, "spec.selector.matchLabels").items() <= labels.items()
    ports = [pick(port, "name") for port in each(monitoring.container, "ports")]
    assert [pick(endpoint, "port") for endpoint in each(monitor, "spec.podMetricsEndpoints")] == ports


SHARD_LABEL = "__meta_kubernetes_pod_label_batch_kubernetes_io_job_completion_index"
"""How Prometheus finds the label that Kubernetes gives each pod of an indexed Job."""


@pytest.mark.parametrize("prefix", ["", "maps-"])
def test_the_name_of_a_job_follows_a_prefix(tmp_path: Path, prefix: str) -> None:
    """Pushed series have the CronJob's name, also under a namePrefix, and the pod's namespace.

    Scraped ones have the name with `-live`, which no alert uses.
    """
    k8s = copy_with_examples(tmp_path)
    (k8s / "overlays" / "prefixed").mkdir()
    kustomization = f"namespace: geo\nnamePrefix: {prefix}\nresources: [../monitoring]\n"
    (k8s / "overlays" / "prefixed" / "kustomization.yaml").write_text(kustomization)
    name = f"{prefix}flagjob"
    manifests = render(k8s, "prefixed")
    (cronjob,) = manifests.kind("CronJob")
    (monitor,) = manifests.kind("PodMonitor")
    (container,) = each(cronjob, f"{POD}.containers")
    variables = list(each(container, "env"))
    assert text(cronjob, "metadata.name") == name
    assert {"name": "FLAGJOB_NAME", "value": name} in variables
    namespace = {"name": "POD_NAMESPACE", "valueFrom": {"fieldRef": {"fieldPath": "metadata.namespace"}}}
    labels = {"name": "FLAGJOB_PUSHGATEWAY_LABELS", "value": "namespace=$(POD_NAMESPACE)"}
    assert variables.index(namespace) < variables.index(labels)  # a variable can use those before it
    pod_labels = branch(cronjob, f"{JOB}.template.metadata.labels")
    selected = branch(monitor, "spec.selector.matchLabels")
    assert selected == {"app.kubernetes.io/name": "flagjob", "app.kubernetes.io/instance": name}
    assert selected.items() <= pod_labels.items()
    (endpoint,) = each(monitor, "spec.podMetricsEndpoints")
    assert list(each(endpoint, "relabelings")) == [
        {"targetLabel": "job", "replacement": name},
        {"sourceLabels": ["job"], "targetLabel": "job", "replacement": "$1-live"},
        {"sourceLabels": [SHARD_LABEL], "targetLabel": "shard"},  # as pushed series have it, if there are shards
    ]


def test_prometheus_reaches_the_pod_and_the_pod_its_gateway() -> None:
    """The policy lets Prometheus reach the metrics port, and the pod its Pushgateway."""
    monitoring = overlay("monitoring")
    policy = monitoring.find("NetworkPolicy", "flagjob-monitoring")
    gateway = urllib.parse.urlsplit(monitoring.settings["FLAGJOB_PUSHGATEWAY_URL"])
    name, namespace, _ = (gateway.hostname or "").split(".")
    (port,) = (pick(port, "containerPort") for port in each(monitoring.container, "ports"))
    assert list(each(policy, "spec.ingress")) == [{"from": [peer("monitoring", "prometheus")], "ports": [tcp(port)]}]
    assert list(each(policy, "spec.egress")) == [{"to": [peer(namespace, name)], "ports": [tcp(gateway.port)]}]


def peer(namespace: str, name: str) -> object:
    """Return a policy's peer: the pods of that name in a namespace."""
    return {
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}},
        "podSelector": {"matchLabels": {"app.kubernetes.io/name": name}},
    }


def tcp(port: object) -> object:
    """Return a policy's TCP port."""
    return {"protocol": "TCP", "port": port}


def test_grafana_finds_one_dashboard() -> None:
    """The dashboard has the label of Grafana's sidecar, and a name without a hash."""
    dashboard = overlay("monitoring").find("ConfigMap", "flagjob-dashboard")
    assert branch(dashboard, "metadata.labels")["grafana_dashboard"] == "1"
    assert pick(dashboard, "metadata.name") == "flagjob-dashboard"
