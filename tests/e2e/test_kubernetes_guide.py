"""docs/kubernetes.md: the paths that it applies exist, and the configuration that it shows works."""

import ipaddress
import json
import re
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from e2e.manifests import EXAMPLES, GUIDE, JOB, POD, Manifests, copy_with_examples, guide_files, render
from e2e.nginx import free_port, wait_until_listening
from e2e.programs import ROOT, flagjob
from e2e.prometheus import prometheus, pushgateway, wait_until
from e2e.tree import branch, each, pick, text

pytestmark = pytest.mark.e2e
MIRROR = "k8s/overlays/mirror/mirror.conf"
NGINX_CONFIGURATION = """
daemon off;
pid {home}/pid;
events {{ }}
http {{
    access_log off;
    client_body_temp_path {home}/body;
    proxy_temp_path {home}/proxy;
    fastcgi_temp_path {home}/fastcgi;
    uwsgi_temp_path {home}/uwsgi;
    scgi_temp_path {home}/scgi;
    {server}
}}
"""


@pytest.fixture
def mirror(tmp_path: Path) -> Iterator[str]:
    """Serve the files of a run with the guide's own configuration of nginx; yield the URL."""
    files = tmp_path / "files"
    done = flagjob({"FLAGJOB_SERVER": "local", "FLAGJOB_DEST": str(files)}, "CN", "IN", "US", "ID")
    assert done.returncode == 0, done.stdout
    tmp_path.chmod(0o755)
    port, server = free_port(), guide_files()[MIRROR]
    assert server.count("listen 8080;") == server.count("root /srv/flags;") == 1
    server = server.replace("8080", f"127.0.0.1:{port}").replace("/srv/flags;", f"{files};", 1)
    (tmp_path / "nginx.conf").write_text("user root;" + NGINX_CONFIGURATION.format(home=tmp_path, server=server))
    with subprocess.Popen(["nginx", "-p", tmp_path, "-c", tmp_path / "nginx.conf", "-e", tmp_path / "log"]) as process:
        try:
            wait_until_listening(port, process)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()


def status(url: str) -> int:
    """Send a GET request; return the status of the answer."""
    try:
        with urllib.request.urlopen(url) as answer:  # noqa: S310  (the URL is ours)
            return int(answer.status)
    except urllib.error.HTTPError as refused:
        refused.close()
        return refused.code


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/cn.gif", 200),
        ("/SHA256SUMS", 200),
        ("/fr.gif", 404),
        ("/.flagjob/manifest.jsonl", 404),
        ("/.flagjob/", 404),
        ("/-/ready", 204),
    ],
)
def test_mirror_serves_the_files_and_hides_the_rest(mirror: str, path: str, expected: int) -> None:
    """The guide's nginx serves a run's files, but not its manifest."""
    assert status(mirror + path) == expected


def test_mirror_cannot_write(tmp_path: Path) -> None:
    """The mirror mounts the job's claim read-only."""
    manifests = render(copy_with_examples(tmp_path), "mirror")
    deployment = manifests.find("Deployment", "flagjob-mirror")
    pod = pick(deployment, "spec.template.spec")
    (container,) = each(pod, "containers")
    claimed = {"name": "files", "persistentVolumeClaim": {"claimName": "flagjob-data"}}
    assert claimed in list(each(pod, "volumes"))
    assert {"name": "files", "mountPath": "/srv/flags", "readOnly": True} in list(each(container, "volumeMounts"))


def test_job_runs_on_the_node_of_the_mirror(tmp_path: Path) -> None:
    """The job's pod runs on the mirror's node, where their volume is, and the Service selects the mirror."""
    manifests = render(copy_with_examples(tmp_path), "mirror")
    rules = "spec.jobTemplate.spec.template.spec.affinity.podAffinity.requiredDuringSchedulingIgnoredDuringExecution"
    (rule,) = each(manifests.cronjob, rules)
    labels = branch(manifests.find("Deployment", "flagjob-mirror"), "spec.template.metadata.labels")
    assert pick(rule, "topologyKey") == "kubernetes.io/hostname"
    assert branch(rule, "labelSelector.matchLabels").items() <= labels.items()
    assert branch(manifests.find("Service", "flagjob-mirror"), "spec.selector").items() <= labels.items()


@pytest.mark.parametrize("page", [GUIDE, ROOT / "README.md"])
def test_namespace_is_made_before_anything_is_applied(page: Path) -> None:
    """The page makes the namespace and lets it enforce the restricted profile; only then it applies something."""
    commands = re.findall(r"^kubectl (?:[^\\\n]|\\\n)+", page.read_text(), flags=re.MULTILINE)
    made, labelled, applied = commands[:3]
    assert (made.strip(), applied.strip()) == ("kubectl create namespace flagjob", "kubectl apply -k k8s/base")
    assert "label namespace flagjob" in labelled
    assert "pod-security.kubernetes.io/enforce=restricted" in labelled


def reachable(manifests: Manifests, address: str, port: int) -> bool:
    """Return whether the NetworkPolicies of the job let its pod out to an address and port."""
    target = ipaddress.ip_address(address)
    for policy in manifests.kind("NetworkPolicy"):
        for rule in each(policy, "spec.egress"):
            blocks = [found for peer in each(rule, "to") if (found := pick(peer, "ipBlock"))]
            cidrs = [block for block in blocks if target in ipaddress.ip_network(text(block, "cidr"))]
            cuts = [str(cut) for block in cidrs for cut in each(block, "except")]
            excepted = any(target in ipaddress.ip_network(cut) for cut in cuts)
            if cidrs and not excepted and port in [pick(one, "port") for one in each(rule, "ports")]:
                return True
    return False


def test_pod_identity_reaches_its_agent_only(tmp_path: Path) -> None:
    """The pod with an EKS Pod Identity reaches the agent on its node, but not the credentials of the node."""
    manifests = render(copy_with_examples(tmp_path), "pod-identity")
    assert reachable(manifests, "169.254.170.23", 80)
    assert not reachable(manifests, "169.254.170.23", 443)
    assert not reachable(manifests, "169.254.169.254", 80)


def test_irsa_token_is_where_the_settings_say(tmp_path: Path) -> None:
    """The pod has a token for STS at AWS_WEB_IDENTITY_TOKEN_FILE, for the role of its service account."""
    manifests = render(copy_with_examples(tmp_path), "irsa")
    settings = manifests.settings
    account = branch(manifests.find("ServiceAccount"), "metadata.annotations")
    assert account == {"eks.amazonaws.com/role-arn": settings["AWS_ROLE_ARN"]}
    volumes = {text(one, "name"): one for one in each(manifests.cronjob, f"{POD}.volumes")}
    mounts = {text(one, "name"): text(one, "mountPath") for one in each(manifests.container, "volumeMounts")}
    (source,) = each(volumes["aws-iam-token"], "projected.sources")
    token = branch(source, "serviceAccountToken")
    assert f"{mounts['aws-iam-token']}/{token['path']}" == settings["AWS_WEB_IDENTITY_TOKEN_FILE"]
    assert token["audience"] == "sts.amazonaws.com"
    assert pick(manifests.cronjob, f"{POD}.automountServiceAccountToken") is False
    assert reachable(manifests, "203.0.113.1", 443)
    assert not reachable(manifests, "169.254.170.23", 80)


def test_second_job_is_apart_from_the_first(tmp_path: Path) -> None:
    """A second job in the namespace shares no object with the first, and each PodMonitor selects its own pods."""
    k8s = copy_with_examples(tmp_path)
    first, second = render(k8s, "monitoring"), render(k8s, "large")
    names = [{(pick(one, "kind"), pick(one, "metadata.name")) for one in job.documents} for job in (first, second)]
    assert names[0] & names[1] == set()
    assert second.kind("PrometheusRule") == []
    pods = [branch(job.cronjob, f"{JOB}.template.metadata.labels") for job in (first, second)]
    selectors = [branch(job.kind("PodMonitor")[0], "spec.selector.matchLabels") for job in (first, second)]
    chosen = [[selector.items() <= labels.items() for labels in pods] for selector in selectors]
    assert chosen == [[True, False], [False, True]]


def test_openshift_keeps_the_pushed_job(tmp_path: Path) -> None:
    """Where a Prometheus overrides `job`, as OpenShift's does, the guide's ServiceMonitor puts it back."""
    manifests = render(copy_with_examples(tmp_path), "openshift-monitoring")
    (endpoint,) = each(manifests.find("ServiceMonitor", "flagjob-pushgateway"), "spec.endpoints")
    relabelings = [
        {re.sub("(?=[A-Z])", "_", name).lower(): value for name, value in branch(one, ".").items()}
        for one in each(endpoint, "metricRelabelings")
    ]

    def override(job: dict[str, Any]) -> None:
        if job["job_name"] == "pushgateway":
            job |= {"honor_labels": False, "metric_relabel_configs": relabelings}

    with pushgateway() as gateway, prometheus(tmp_path, gateway, change=override) as database:
        assert gateway.push("job/flagjob", "flagjob_shards 1\n") == 200
        wait_until(lambda: database.query('flagjob_shards{job="flagjob",exported_job=""}'))
        assert database.query('flagjob_shards{job!="flagjob"}') == {}


def test_applied_directories_exist() -> None:
    """Each directory that the guide applies or deletes exists, or is shown in the guide."""
    events = re.findall(r"kubectl (?:apply|delete) -k (\S+?)`?$", GUIDE.read_text(), flags=re.MULTILINE)
    shown = {f"k8s/overlays/{name}" for name in EXAMPLES}
    assert {"k8s/base", *shown} & set(events)
    assert [path for path in events if path not in shown and not (ROOT / path / "kustomization.yaml").is_file()] == []


def test_linked_files_exist() -> None:
    """Each file that the guide links to exists."""
    links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", GUIDE.read_text())
    assert [link for link in links if not (GUIDE.parent / link).exists()] == []


def test_shown_termination_message_is_real(tmp_path: Path) -> None:
    """The termination message in the guide has the fields and counts of a first run."""
    message = tmp_path / "message"
    settings = {"FLAGJOB_SERVER": "local", "FLAGJOB_DEST": str(tmp_path), "FLAGJOB_TERMINATION_LOG": str(message)}
    assert flagjob(settings).returncode == 0
    (block,) = re.findall(r"^```json\n(.*?)^```$", GUIDE.read_text(), flags=re.DOTALL | re.MULTILINE)
    real, shown = json.loads(message.read_text()), json.loads(block)
    assert list(shown) == list(real)
    assert {**shown, "duration_s": 0, "summary": ""} == {**real, "duration_s": 0, "summary": ""}
