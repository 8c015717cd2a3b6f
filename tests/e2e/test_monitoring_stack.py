"""The monitoring stack: its files are valid and consistent, and its schedule runs."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from monitoring import OVERLAY, ROOT, rules

from e2e.programs import HARDENED, podman, run, setting_flags
from e2e.prometheus import pushgateway, wait_until

pytestmark = pytest.mark.e2e
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "stack" / "compose.yaml").read_text("utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]


def mounts() -> Iterator[tuple[str, Path, str]]:
    """Yield the service, source and target of every mounted file."""
    for name, service in SERVICES.items():
        for volume in service.get("volumes", ()):
            source, target, *_ = volume.split(":")
            if source.startswith("."):
                yield name, (ROOT / "stack" / source).resolve(), target


def test_compose_file_is_valid() -> None:
    """Docker Compose finds no fault in the file."""
    checked = run("docker-compose", "--file", "stack/compose.yaml", "config", "--quiet")
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_files_pass_yamllint() -> None:
    """Yamllint finds no fault in the files."""
    checked = run("yamllint", "--strict", "--config-file", ".ci/yamllint.yaml", "stack")
    assert (checked.returncode, checked.stdout) == (0, "")


def test_mounted_files_exist() -> None:
    """Every file that a service mounts exists."""
    found = list(mounts())
    assert len(found) >= 5
    assert [path for _, path, _ in found if not path.is_file()] == []


def test_images_have_versions() -> None:
    """Every image has a version, and Grafana's is the one that the dashboard is made for."""
    images = {name: service["image"] for name, service in SERVICES.items() if "build" not in service}
    assert {name: bool(re.search(r":v?\d+\.\d+\.\d+$", image)) for name, image in images.items()} == dict.fromkeys(
        images, True
    )
    (library,) = re.findall(r"grafana-foundation-sdk==\d+!([\d.]+)", (ROOT / "requirements-e2e.in").read_text("utf-8"))
    assert images["grafana"].rpartition(":")[2] == library


def test_ports_are_on_loopback() -> None:
    """Every published port is on loopback."""
    ports = [port for service in SERVICES.values() for port in service.get("ports", ())]
    assert {port.rpartition(":")[0].rpartition(":")[0] for port in ports} == {"127.0.0.1"}


def test_prometheus_configuration_is_valid() -> None:
    """Promtool finds no fault in the configuration."""
    checked = run("promtool", "check", "config", "--syntax-only", "stack/prometheus.yml")
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_prometheus_gets_the_rules(tmp_path: Path) -> None:
    """The service's command makes the rule file that the configuration names, with all rules."""
    *_, script = SERVICES["prometheus"]["entrypoint"]
    source = {target: path for name, path, target in mounts() if name == "prometheus"}
    config = yaml.safe_load(source["/etc/prometheus/prometheus.yml"].read_text("utf-8"))
    sed, _, start = script.partition(" && ")
    (made,) = config["rule_files"]
    assert start.startswith("exec prometheus --config.file=/etc/prometheus/prometheus.yml ")
    for mounted_path in ("/etc/prometheus/flagjob-rules.yaml", made):
        assert mounted_path in sed
    run_here = sed.replace("/etc/prometheus/flagjob-rules.yaml", str(source["/etc/prometheus/flagjob-rules.yaml"]))
    done = run("sh", "-c", run_here.replace(made, str(tmp_path / "made.yaml")))
    assert done.returncode == 0, done.stderr
    assert yaml.safe_load((tmp_path / "made.yaml").read_text("utf-8")) == rules()


def test_scrape_targets_are_services() -> None:
    """Each target is a service, and pushed labels are kept."""
    config = yaml.safe_load((ROOT / "stack" / "prometheus.yml").read_text("utf-8"))
    jobs = {job["job_name"]: job for job in config["scrape_configs"]}
    targets = {
        name: [target for group in job["static_configs"] for target in group["targets"]] for name, job in jobs.items()
    }
    assert targets == {"pushgateway": ["pushgateway:9091"], "flagjob-live": ["flagjob:9464"]}
    assert {target.partition(":")[0] for listed in targets.values() for target in listed} <= set(SERVICES)
    assert jobs["pushgateway"]["honor_labels"] is True


def test_grafana_finds_the_dashboard() -> None:
    """Grafana is configured with the mounted dashboard, and with Prometheus as its data source."""
    source = {target: path for name, path, target in mounts() if name == "grafana"}
    provider = yaml.safe_load(source["/etc/grafana/provisioning/dashboards/flagjob.yaml"].read_text("utf-8"))
    mounted_path = provider["providers"][0]["options"]["path"]
    assert source[f"{mounted_path}/flagjob-dashboard.json"] == OVERLAY / "flagjob-dashboard.json"
    datasource = yaml.safe_load(source["/etc/grafana/provisioning/datasources/flagjob.yaml"].read_text("utf-8"))
    assert datasource["datasources"][0]["url"] == "http://prometheus:9090"


def test_dashboard_is_up_to_date() -> None:
    """The dashboard in the repository is the output of its script."""
    made = run(sys.executable, ".ci/dashboard.py")
    assert made.stderr == ""
    assert made.stdout == (OVERLAY / "flagjob-dashboard.json").read_text("utf-8")


def test_schedule(image: str, volume: str) -> None:
    """The flagjob service runs the image again and again, pushes each run, and ends when it is stopped."""
    service, name = SERVICES["flagjob"], f"stack-{volume}"
    *shell, script = service["entrypoint"]
    with pushgateway() as gateway:
        usual = {name: re.sub(r"\$\{\w+:-(\w+)\}", r"\1", str(text)) for name, text in service["environment"].items()}
        changed = {"PAUSE_SECONDS": "1", "FLAGJOB_CODES": "BR", "FLAGJOB_METRICS_ADDRESS": ""}
        env = {**usual, **changed, "FLAGJOB_PUSHGATEWAY_URL": gateway.url}
        options = [*setting_flags(env), *HARDENED, "--network", "host", "--init", "--volume", f"{volume}:/data"]
        options += [word for path in service["tmpfs"] for word in ("--tmpfs", path)]
        command = ["--entrypoint", shell[0], image, *shell[1:], script.replace("$$", "$")]
        begun = podman("run", "--detach", "--name", name, *options, *command)
        try:
            assert begun.returncode == 0, begun.stderr
            wait_until(lambda: gateway.sample("flagjob_last_success_timestamp_seconds"))
            first = gateway.sample("flagjob_last_success_timestamp_seconds")
            wait_until(lambda: gateway.sample("flagjob_last_success_timestamp_seconds") != first)
            podman("stop", "--time", "30", name)
            ended = podman("inspect", "--format", "{{.State.ExitCode}}", name).stdout.strip()
        finally:
            logged = podman("logs", name)
            podman("rm", "--force", name)
    assert ended in {"0", "143"}, logged.stdout + logged.stderr
