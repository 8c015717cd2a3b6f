"""The Kubernetes base: valid, restricted, within its own limits, and about settings that exist."""

import ipaddress
import re
import urllib.parse
from pathlib import Path

import pytest

from e2e.pod_security import violations
from e2e.programs import ROOT, flagjob, run
from e2e.tree import branch, each, number, pick, text

pytestmark = pytest.mark.e2e
TEMPLATE = "spec.jobTemplate.spec.template"
BACK_OFF_SECONDS = 10
"""What a Job waits before its first retry, doubled each time (kubernetes.io, Jobs, "Pod backoff failure policy")."""


def only(base: list[object], kind: str, name: str) -> object:
    """Give the one document of a kind whose name begins so (ConfigMaps end in a hash)."""
    (found,) = (each for each in base if pick(each, "kind") == kind and text(each, "metadata.name").startswith(name))
    return found


@pytest.fixture(scope="session")
def cronjob(base: list[object]) -> object:
    """Give the CronJob."""
    return only(base, "CronJob", "flagjob")


@pytest.fixture(scope="session")
def settings(base: list[object]) -> dict[str, str]:
    """Give the settings that the pod gets."""
    data = branch(only(base, "ConfigMap", "flagjob-env"), "data")
    return {name: str(value) for name, value in data.items()}


def test_base_holds_all_that_a_run_needs(base: list[object]) -> None:
    """One `kubectl apply` makes the namespace, the rights, the data and the schedule."""
    kinds = sorted(text(document, "kind") for document in base)
    expected = ["ConfigMap", "ConfigMap", "CronJob", "Namespace", "NetworkPolicy", "PersistentVolumeClaim"]
    assert kinds == [*expected, "ServiceAccount"]


@pytest.mark.parametrize("version", ["1.31", "1.33", "1.37"])
def test_base_is_valid(rendered: Path, version: str) -> None:
    """The API server of that version knows every field of the base."""
    checked = run("kubernetes-validate", "--strict", "--quiet", "-k", version, str(rendered))
    assert (checked.returncode, checked.stdout) == (0, "")


def test_manifests_are_tidy() -> None:
    """Yamllint finds nothing to say against the manifests."""
    checked = run("yamllint", "--strict", "--config-file", ".ci/yamllint.yaml", "k8s")
    assert (checked.returncode, checked.stdout) == (0, "")


def test_pod_is_restricted(cronjob: object) -> None:
    """A namespace that enforces the restricted profile admits the pod."""
    assert violations(pick(cronjob, f"{TEMPLATE}.spec")) == []


def test_namespace_enforces_the_profile(base: list[object]) -> None:
    """The base's own namespace is such a one."""
    labels = branch(only(base, "Namespace", "flagjob"), "metadata.labels")
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"


def test_job_outlasts_its_retries(cronjob: object, settings: dict[str, str]) -> None:
    """The Job's deadline spans every try at its full length and the waits between them; a day spans the Job."""
    retries = number(cronjob, "spec.jobTemplate.spec.backoffLimit")
    grace = number(cronjob, f"{TEMPLATE}.spec.terminationGracePeriodSeconds")
    back_off = sum(BACK_OFF_SECONDS * 2**retry for retry in range(retries))
    needed = (retries + 1) * (int(settings["FLAGJOB_DEADLINE"]) + grace) + back_off
    assert needed <= number(cronjob, "spec.jobTemplate.spec.activeDeadlineSeconds") < 86_400


def test_fatal_exit_codes_come_first(cronjob: object) -> None:
    """A wrong setting ends the Job even in a pod that is being evicted; an eviction costs no try."""
    first, second = each(cronjob, "spec.jobTemplate.spec.podFailurePolicy.rules")
    assert (pick(first, "action"), pick(first, "onExitCodes.values")) == ("FailJob", [2, 4])
    assert pick(second, "action") == "Ignore"
    assert [pick(condition, "type") for condition in each(second, "onPodConditions")] == ["DisruptionTarget"]


def test_settings_exist() -> None:
    """Every FLAGJOB_ name anywhere in k8s/ is a setting of the program."""
    files = [path for path in (ROOT / "k8s").rglob("*") if path.is_file()]
    named = {name for path in files for name in re.findall(r"FLAGJOB_\w+", path.read_text())}
    options = re.findall(r"--([a-z][a-z-]+)", flagjob({}, "--help").stdout)
    assert named - {f"FLAGJOB_{option.replace('-', '_').upper()}" for option in options} == set()


def test_settings_are_accepted(base: list[object], settings: dict[str, str], tmp_path: Path) -> None:
    """The program finds no fault in the base's settings and its list of codes, and takes the URL from them."""
    codes = tmp_path / "codes.txt"
    codes.write_text(str(branch(only(base, "ConfigMap", "flagjob-codes"), "data")["codes.txt"]))
    local = {"FLAGJOB_CODES_FILE": str(codes), "FLAGJOB_DEST": str(tmp_path)}
    done = flagjob({**settings, **local, "KUBERNETES_SERVICE_HOST": "192.0.2.1"}, "--dry-run")
    assert done.returncode == 0, done.stdout + done.stderr
    assert settings["FLAGJOB_URL"].replace("{cc}", "br") in done.stdout


def test_url_is_a_public_origin(settings: dict[str, str]) -> None:
    """The base downloads from a real site over TLS, never from the built-in origin by omission."""
    url = urllib.parse.urlsplit(settings["FLAGJOB_URL"])
    assert (url.scheme, "{cc}" in url.path) == ("https", True)
    assert not re.search(r"(^|\.)(example|invalid|local|localhost|test)(\.(com|net|org))?$", url.netloc)


def test_settings_agree_with_the_pod(cronjob: object, settings: dict[str, str]) -> None:
    """Codes and destination are paths that the pod mounts."""
    (container,) = each(cronjob, f"{TEMPLATE}.spec.containers")
    mounts = {text(mount, "mountPath") for mount in each(container, "volumeMounts")}
    assert {settings["FLAGJOB_DEST"], str(Path(settings["FLAGJOB_CODES_FILE"]).parent)} <= mounts
    (port,) = each(container, "ports")
    assert settings["FLAGJOB_METRICS_ADDRESS"] == f":{number(port, 'containerPort')}"


@pytest.mark.parametrize(
    ("address", "reachable"),
    [
        ("1.1.1.1", True),
        ("2606:4700::1111", True),
        ("10.96.0.1", False),
        ("100.100.100.200", False),
        ("169.254.169.254", False),
        ("172.20.0.1", False),
        ("192.168.0.1", False),
        ("fd00:ec2::254", False),
        ("fe80::1", False),
    ],
)
def test_only_public_addresses_are_reachable(base: list[object], address: str, reachable: bool) -> None:  # noqa: FBT001
    """A redirect to a private or link-local address, such as a cloud's metadata, finds no way out of the pod."""
    policy = only(base, "NetworkPolicy", "flagjob")
    target = ipaddress.ip_address(address)
    web = [rule for rule in each(policy, "spec.egress") if {"port": 443, "protocol": "TCP"} in each(rule, "ports")]
    blocks = [pick(peer, "ipBlock") for rule in web for peer in each(rule, "to")]
    open_to = [
        block
        for block in blocks
        if target in ipaddress.ip_network(text(block, "cidr"))
        and not any(target in ipaddress.ip_network(str(cut)) for cut in each(block, "except"))
    ]
    assert bool(open_to) is reachable
    assert pick(policy, "spec.ingress") in ([], None)
