"""The pod of the Kubernetes base, run as it is written."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e.flags import POP20, package_flags
from e2e.nginx import serve
from e2e.pods import Pod, PodEnvironment, play
from e2e.programs import files_in, result_fields

pytestmark = pytest.mark.e2e
FLAGS = {f"{code.lower()}.gif": package_flags()[code.lower()] for code in POP20}


@pytest.fixture
def name(volume: str) -> Iterator[str]:
    """Yield the name of a pod, which is removed after the test."""
    yield f"pod-{volume}"
    Pod(f"pod-{volume}").remove()


def test_pod_runs_as_written(base: list[object], image: str, volume: str, name: str, tmp_path: Path) -> None:
    """With the base's own codes, user, mounts and limits the pod downloads from nginx and ends with 0."""
    message = tmp_path / "termination-log"
    with serve(tmp_path, FLAGS) as nginx:
        settings = {"FLAGJOB_URL": f"{nginx.url}/{{cc}}.gif", "FLAGJOB_METRICS_ADDRESS": ":0"}
        pod = play(base, name, PodEnvironment(image, volume, settings, message=message), tmp_path)
        exit_code = pod.wait()
        requests = nginx.finish()
    log = pod.read_log()
    assert exit_code == "0", log
    assert files_in(volume) == FLAGS
    assert sorted(request.path for request in requests) == sorted(f"/{file}" for file in FLAGS)
    assert len(result_fields(log, "code")) == len(FLAGS)
    message_fields, last = json.loads(message.read_text()), json.loads(log.splitlines()[-1])
    assert (last["event"], message_fields["exit_code"], message_fields["counts"]) == ("run_finished", 0, last["counts"])


def test_pod_without_its_url(base: list[object], image: str, volume: str, name: str, tmp_path: Path) -> None:
    """A pod without a URL ends with exit code 2, which ends its Job, and writes no file."""
    pod = play(base, name, PodEnvironment(image, volume, {"FLAGJOB_URL": ""}), tmp_path)
    exit_code, message_fields = pod.wait(), json.loads(pod.read_log().splitlines()[-1])
    assert (exit_code, message_fields["event"], message_fields["setting"]) == ("2", "usage_error", "FLAGJOB_URL")
    assert files_in(volume) == {}
