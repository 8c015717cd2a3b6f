"""The Kubernetes base: its documents, its schedule, its security, and the addresses that its pod can reach."""

import ipaddress

import pytest

from e2e.manifests import JOB, POD, Manifests, render
from e2e.programs import ROOT
from e2e.tree import branch, each, pick, text

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def base() -> Manifests:
    """Render the base."""
    return render(ROOT / "k8s", "base")


def test_base_is_complete(base: Manifests) -> None:
    """One `kubectl apply` creates the permissions, the data and the schedule; the namespace must be there."""
    kinds = sorted(text(document, "kind") for document in base.documents)
    expected = ["ConfigMap", "ConfigMap", "CronJob", "NetworkPolicy", "PersistentVolumeClaim"]
    assert kinds == [*expected, "ServiceAccount"]


def test_schedule_has_one_writer_and_never_ends(base: Manifests) -> None:
    """Runs start off the full hour in a named time zone, one at a time, and missed starts are tolerated."""
    spec = branch(base.cronjob, "spec")
    assert {name: value for name, value in spec.items() if name != "jobTemplate"} == {
        "schedule": "17 4 * * *",
        "timeZone": "Etc/UTC",
        "concurrencyPolicy": "Forbid",
        "startingDeadlineSeconds": 3600,
        "successfulJobsHistoryLimit": 1,
        "failedJobsHistoryLimit": 1,
    }


def test_pods_and_jobs_are_cleaned_up(base: Manifests) -> None:
    """A failed pod stays for its log, one runs at a time, and the Job is deleted after two days."""
    job = branch(base.cronjob, JOB)
    expected = {"backoffLimit": 2, "podReplacementPolicy": "Failed", "ttlSecondsAfterFinished": 172_800}
    assert {name: job[name] for name in expected} == expected
    assert pick(base.cronjob, f"{POD}.restartPolicy") == "Never"


def test_user_is_the_user_of_the_image(base: Manifests) -> None:
    """The pod runs as the image's user, and the volume belongs to that group."""
    expected = {
        "runAsNonRoot": True,
        "runAsUser": 65532,
        "runAsGroup": 65532,
        "fsGroup": 65532,
        "fsGroupChangePolicy": "OnRootMismatch",
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    assert branch(base.cronjob, f"{POD}.securityContext") == expected


def test_pod_has_no_access_to_the_cluster(base: Manifests) -> None:
    """The pod has no API token, and no variables of Services."""
    names = ("automountServiceAccountToken", "enableServiceLinks")
    assert [pick(base.cronjob, f"{POD}.{name}") for name in names] == [False, False]
    assert pick(base.find("ServiceAccount"), "automountServiceAccountToken") is False


def test_memory_is_limited_and_the_processor_is_not(base: Manifests) -> None:
    """Memory and scratch space have limits, the CPU has none, and all three have requests."""
    assert pick(base.container, "resources") == {
        "requests": {"cpu": "100m", "memory": "96Mi", "ephemeral-storage": "64Mi"},
        "limits": {"memory": "256Mi", "ephemeral-storage": "256Mi"},
    }


def test_termination_message_falls_back_to_the_log(base: Manifests) -> None:
    """`kubectl describe` shows the summary, or the end of the log if there is none."""
    assert pick(base.container, "terminationMessagePolicy") == "FallbackToLogsOnError"
    assert pick(base.container, "terminationMessagePath") is None


@pytest.mark.parametrize(
    ("address", "reachable"),
    [
        ("1.1.1.1", True),
        ("2606:4700::1111", True),
        ("10.96.0.1", False),
        ("100.100.100.200", False),
        ("169.254.169.254", False),
        ("168.63.129.16", False),
        ("192.0.0.192", False),
        ("172.20.0.1", False),
        ("192.168.0.1", False),
        ("fd00:ec2::254", False),
        ("fe80::1", False),
    ],
)
def test_only_public_addresses_are_reachable(base: Manifests, address: str, reachable: bool) -> None:  # noqa: FBT001  (a parameter of a table)
    """The pod reaches public addresses only: no private or link-local one, such as a cloud's metadata."""
    policy = base.find("NetworkPolicy")
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
