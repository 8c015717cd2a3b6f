"""The base, every overlay and every example of the guide: valid, restricted, and with settings that exist."""

import itertools
import math
import re
import urllib.parse
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from e2e.manifests import (
    COMPONENTS,
    EXAMPLES,
    JOB,
    OVERLAYS,
    POD,
    Manifests,
    copy_with_examples,
    render,
    render_components,
    render_over,
)
from e2e.pod_security import violations
from e2e.programs import ROOT, flagjob, run
from e2e.tree import branch, each, number, pick, text
from job import __version__

pytestmark = pytest.mark.e2e
VERSIONS = ["1.31", "1.33", "1.37"]
"""The oldest for the base, the oldest for shards (1.31 has their fields as beta), the newest with schemas."""
OPERATOR = "monitoring.coreos.com/v1"
BACK_OFF_SECONDS = 10
"""The wait of a Job before its first retry, doubled each time (kubernetes.io, Jobs, "Pod backoff failure policy")."""
ALL_FAILED = {"FailJob": [2, 4]}
EACH_ALONE = {"FailJob": [2], "FailIndex": [4]}


@pytest.fixture(scope="module")
def k8s(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of k8s/ with the guide's examples."""
    return copy_with_examples(tmp_path_factory.mktemp("kustomize"))


@pytest.fixture(scope="module", params=[*OVERLAYS, *EXAMPLES])
def manifests(request: pytest.FixtureRequest, k8s: Path) -> Manifests:
    """Render the base, each overlay and each of the guide's examples."""
    return render(k8s, str(request.param))


def validation_errors(version: str, directory: Path, *manifests: Manifests) -> list[str]:
    """Return the errors of that version's API schemas; the operator's own kinds are skipped."""
    files = [directory / f"{one.name}.yaml" for one in manifests]
    for path, one in zip(files, manifests, strict=True):
        path.write_text(one.rendered)
    checked = run("kubernetes-validate", "--strict", "--quiet", "-k", version, *map(str, files))
    errors = [line for line in checked.stdout.splitlines() if f"api version {OPERATOR} " not in line]
    assert errors or checked.returncode == 0, checked.stderr
    return errors


@pytest.mark.parametrize("version", VERSIONS)
def test_manifests_are_valid(manifests: Manifests, version: str, tmp_path: Path) -> None:
    """That Kubernetes version's API schemas accept every field."""
    assert validation_errors(version, tmp_path, manifests) == []


@pytest.fixture(scope="module")
def combined(k8s: Path) -> list[Manifests]:
    """Render the components in any choice and order, over the base and over the monitoring."""
    sizes = range(1, len(COMPONENTS) + 1)
    choices = [chosen for size in sizes for chosen in itertools.permutations(COMPONENTS, size)]
    return [render_components(k8s, below, some) for below in ("../../base", "../monitoring") for some in choices]


@pytest.mark.parametrize("version", VERSIONS)
def test_combined_components_are_valid(combined: list[Manifests], version: str, tmp_path: Path) -> None:
    """That Kubernetes version's API schemas accept every field of every combination."""
    assert validation_errors(version, tmp_path, *combined) == []


def test_combined_components_are_restricted_and_in_time(combined: list[Manifests]) -> None:
    """The restricted profile admits every combination, and its Job outlasts its retries."""
    for one in combined:
        assert [violations(pod) for pod in one.pods] == [[]], one.name
        assert needed_seconds(one) <= number(one.cronjob, f"{JOB}.activeDeadlineSeconds"), one.name


def test_order_of_components_does_not_matter(k8s: Path) -> None:
    """Components in the opposite order make the same documents."""
    pair = ("object-store", "sharded")
    straight, reverse = (render_components(k8s, "../monitoring", some) for some in (pair, pair[::-1]))
    assert straight.documents == reverse.documents


def test_manifests_pass_yamllint() -> None:
    """Yamllint finds no fault in the manifests."""
    checked = run("yamllint", "--strict", "--config-file", ".ci/yamllint.yaml", "k8s", ".ci")
    assert (checked.returncode, checked.stdout) == (0, "")


def checkov(k8s: Path, directory: Path, *arguments: str) -> str:
    """Return what checkov reports for the base, each overlay and each of the guide's examples."""
    for name in [*OVERLAYS, *EXAMPLES]:
        (directory / f"{name}.yaml").write_text(render(k8s, name).rendered)
    return run("checkov", "--config-file", ".ci/checkov.yaml", "--directory", str(directory), *arguments).stdout


def test_manifests_pass_checkov(k8s: Path, tmp_path: Path) -> None:
    """Checkov fails no check but those that .ci/checkov.yaml skips."""
    assert re.fullmatch(
        r"\s*kubernetes scan results:\s+Passed checks: \d{3,}, Failed checks: 0, Skipped checks: 0\s*",
        checkov(k8s, tmp_path),
    )


def test_skips_have_reasons_and_are_needed(k8s: Path, tmp_path: Path) -> None:
    """Each check that .ci/checkov.yaml skips has a reason, and would fail."""
    _, _, skips = (ROOT / ".ci" / "checkov.yaml").read_text().partition("skip-check:\n")
    explained = [re.fullmatch(r"  - (CKV2?_K8S_\d+) # .{30,}", line) for line in skips.splitlines()]
    names = [match[1] for match in explained if match]
    found = re.findall(r"^Check: (\w+):", checkov(k8s, tmp_path, "--skip-check", "none"), flags=re.MULTILINE)
    assert (sorted(set(found)), len(names)) == (sorted(names), len(explained))


def test_pods_are_restricted(manifests: Manifests) -> None:
    """The restricted profile admits every pod."""
    assert [violations(pod) for pod in manifests.pods] == [[]] * len(manifests.pods)


def test_all_is_in_the_namespace(manifests: Manifests) -> None:
    """All documents are in one namespace, which is none of them: `kubectl delete -k` takes nothing of others."""
    assert {text(one, "metadata.namespace") for one in manifests.documents} == {"flagjob"}
    assert manifests.kind("Namespace") == []


def test_every_document_is_labelled(manifests: Manifests) -> None:
    """Each document and each pod has the labels that Kubernetes recommends; ours have the program's version."""
    labels = [branch(one, "metadata.labels") for one in manifests.documents]
    templates = [pick(one, path) for one in manifests.documents for path in (f"{JOB}.template", "spec.template")]
    labels += [branch(template, "metadata.labels") for template in templates if template is not None]
    instance = f"{manifests.prefix}flagjob"
    for found in labels:
        own = {"version": __version__} if found["app.kubernetes.io/name"] == "flagjob" else {}
        expected = {"part-of": "flagjob", "instance": instance, "managed-by": "kustomize", **own}
        assert {f"app.kubernetes.io/{name}": value for name, value in expected.items()}.items() <= found.items()


def test_version_is_the_tag_of_the_image(manifests: Manifests) -> None:
    """The image is that of this version, but where an example names another one."""
    image = text(manifests.container, "image")
    assert image == f"registry.example/flagjob:{__version__}" or (manifests.name == "mine" and "@sha256:" in image)


def references(manifests: Manifests) -> Iterator[tuple[str, str]]:
    """Yield kind and name of each object that a pod or a binding refers to, but for Secrets, which others make."""
    for pod in manifests.pods:
        yield "ServiceAccount", str(pick(pod, "serviceAccountName"))
        for volume in each(pod, "volumes"):
            yield "PersistentVolumeClaim", str(pick(volume, "persistentVolumeClaim.claimName"))
            yield "ConfigMap", str(pick(volume, "configMap.name"))
        for container in each(pod, "containers"):
            yield from (("ConfigMap", str(pick(one, "configMapRef.name"))) for one in each(container, "envFrom"))


@pytest.mark.parametrize("changes", [{}, {"namePrefix": "a-"}, {"nameSuffix": "-b"}, {"namespace": "other"}])
def test_names_and_namespace_can_be_changed(manifests: Manifests, k8s: Path, changes: Mapping[str, str]) -> None:
    """Laid over anything, a prefix, a suffix or another namespace reaches every document and every reference."""
    below = "../../base" if manifests.name == "base" else f"../{manifests.name}"
    changed = render_over(k8s, f"{manifests.name}-changed", {"resources": [below], **changes})
    assert len(changed.documents) == len(manifests.documents)
    names = {(text(one, "kind"), text(one, "metadata.name")) for one in changed.documents}
    assert {found for found in references(changed) if found[1] != "None"} <= names
    prefix, suffix = changes.get("namePrefix", ""), changes.get("nameSuffix", "")
    assert all(name.startswith(prefix) and suffix in name for _, name in names)
    assert {text(one, "metadata.namespace") for one in changed.documents} == {changes.get("namespace", "flagjob")}


@pytest.mark.parametrize("below", ["../../base", "../monitoring"])
def test_components_combine_with_a_prefix(k8s: Path, below: str) -> None:
    """Components change the CronJob in the same way below, beside and above a prefix."""
    parts = {"components": [f"../../components/{component}" for component in COMPONENTS]}
    render_over(k8s, "prefixed", {"resources": [below], "namePrefix": "a-"})
    plain = render_over(k8s, "plain", {"resources": [below], **parts})
    beside = render_over(k8s, "beside", {"resources": [below], "namePrefix": "a-", **parts})
    above = render_over(k8s, "above", {"resources": ["../prefixed"], **parts})
    under = render_over(k8s, "under", {"resources": ["../plain"], "namePrefix": "a-"})
    assert beside.documents == above.documents == under.documents
    assert pick(beside.cronjob, f"{JOB}.completions") == pick(plain.cronjob, f"{JOB}.completions")


def needed_seconds(manifests: Manifests) -> int:
    """Return how long the Job takes if every try takes its full time."""
    job, settings = branch(manifests.cronjob, JOB), manifests.settings
    waves = math.ceil(number(job, "completions") / number(job, "parallelism"))
    retries = number(job, "backoffLimitPerIndex" if "backoffLimitPerIndex" in job else "backoffLimit")
    grace = number(manifests.cronjob, f"{POD}.terminationGracePeriodSeconds")
    run_seconds = int(settings["FLAGJOB_DEADLINE"]) + int(settings.get("FLAGJOB_METRICS_LINGER", 0)) + grace
    back_off = BACK_OFF_SECONDS * ((1 << retries) - 1)
    return waves * ((retries + 1) * run_seconds + back_off)


def test_job_outlasts_its_retries(manifests: Manifests) -> None:
    """The Job's deadline covers every wave, every try and every back-off, and is less than a day."""
    assert needed_seconds(manifests) <= number(manifests.cronjob, f"{JOB}.activeDeadlineSeconds") < 86_400


def test_patience_ends_before_the_run(manifests: Manifests) -> None:
    """A run that waits for a dead origin ends by itself before its deadline."""
    assert 60 < int(manifests.settings["FLAGJOB_ORIGIN_PATIENCE"]) < int(manifests.settings["FLAGJOB_DEADLINE"])


def test_pod_has_time_to_stop(manifests: Manifests) -> None:
    """The pod's grace period is longer than the run's, which is 8 seconds by default."""
    grace = float(manifests.settings.get("FLAGJOB_SHUTDOWN_GRACE", "8"))
    assert grace < number(manifests.cronjob, f"{POD}.terminationGracePeriodSeconds")


def test_fatal_exit_codes_come_first(manifests: Manifests) -> None:
    """Permanent exit codes end the Job or the shard, also in an eviction; an eviction costs no retry."""
    *fatal, last = each(manifests.cronjob, f"{JOB}.podFailurePolicy.rules")
    indexed = pick(manifests.cronjob, f"{JOB}.completionMode") == "Indexed"
    actions = {text(rule, "action"): pick(rule, "onExitCodes.values") for rule in fatal}
    assert (list(actions), actions) == (list(expected := EACH_ALONE if indexed else ALL_FAILED), expected)
    condition = {"type": "DisruptionTarget", "status": "True"}
    assert last == {"action": "Ignore", "onPodConditions": [condition]}


def test_every_pod_has_a_network_policy(manifests: Manifests) -> None:
    """Each pod has a NetworkPolicy for both directions."""
    ruled = [
        pick(one, "spec.podSelector.matchLabels")
        for one in manifests.kind("NetworkPolicy")
        if pick(one, "spec.policyTypes") == ["Ingress", "Egress"]
    ]
    labels = [pick(manifests.cronjob, f"{JOB}.template.metadata.labels")]
    labels += [pick(one, "spec.template.metadata.labels") for one in manifests.kind("Deployment")]
    for pod in labels:
        assert isinstance(pod, dict)
        assert any(isinstance(rule, dict) and rule.items() <= pod.items() for rule in ruled), pod


def test_settings_exist() -> None:
    """Every FLAGJOB_ name in k8s/ and in the guide is a setting of the program."""
    files = [ROOT / "docs" / "kubernetes.md", *(path for path in (ROOT / "k8s").rglob("*") if path.is_file())]
    events = {name for path in files for name in re.findall(r"FLAGJOB_[A-Z_]+", path.read_text())}
    options = re.findall(r"--([a-z][a-z-]+)", flagjob({}, "--help").stdout)
    settings = {f"FLAGJOB_{option.replace('-', '_').upper()}" for option in options}
    assert events - settings - {"FLAGJOB_URL_FILE"} == set()


def test_settings_are_accepted(manifests: Manifests, tmp_path: Path) -> None:
    """The program accepts the settings and the list of codes."""
    codes, headers = tmp_path / "codes.txt", tmp_path / "headers"
    codes.write_text(str(branch(manifests.find("ConfigMap", "flagjob-codes"), "data")["codes.txt"]))
    headers.write_text("X-Token: secret\n")
    local = {"FLAGJOB_CODES_FILE": str(codes)}
    if "FLAGJOB_HEADERS_FILE" in manifests.settings:
        local["FLAGJOB_HEADERS_FILE"] = str(headers)
    if manifests.settings["FLAGJOB_DEST"].startswith("/"):
        local["FLAGJOB_DEST"] = str(tmp_path)
    platform = {"KUBERNETES_SERVICE_HOST": "192.0.2.1"}
    if pick(manifests.cronjob, f"{JOB}.completionMode") == "Indexed":
        platform["JOB_COMPLETION_INDEX"] = str(number(manifests.cronjob, f"{JOB}.completions") - 1)
    done = flagjob({**manifests.settings, **local, **platform}, "--dry-run")
    assert done.returncode == 0, done.stdout + done.stderr
    assert manifests.settings["FLAGJOB_URL"].partition("{cc}")[0] in done.stdout


def test_url_is_a_public_origin(manifests: Manifests) -> None:
    """The URL is a public https site, and no demo server is configured."""
    url = urllib.parse.urlsplit(manifests.settings["FLAGJOB_URL"])
    assert (url.scheme, "{cc}" in url.path) == ("https", True)
    assert not re.search(r"(^|\.)(example|invalid|local|localhost|test)(\.(com|net|org))?$", url.netloc)
    assert "FLAGJOB_SERVER" not in manifests.settings


def test_settings_agree_with_the_pod(manifests: Manifests) -> None:
    """The codes, secret headers and destination are on paths that the pod mounts."""
    mounts = {text(mount, "mountPath") for mount in each(manifests.container, "volumeMounts")}
    settings = manifests.settings
    files = [settings[name] for name in ("FLAGJOB_CODES_FILE", "FLAGJOB_HEADERS_FILE") if name in settings]
    directories = [dest for dest in [settings["FLAGJOB_DEST"]] if "://" not in dest]
    assert {*directories, *(str(Path(file).parent) for file in files)} <= mounts
    (port,) = each(manifests.container, "ports")
    assert settings["FLAGJOB_METRICS_ADDRESS"] == f":{number(port, 'containerPort')}"
