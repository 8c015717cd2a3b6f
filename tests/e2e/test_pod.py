"""The pod of the Kubernetes base, run as it is written."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e.flags import POP20, package_flags
from e2e.nginx import serve
from e2e.pods import Place, Pod, play
from e2e.programs import files_in, totals

pytestmark = pytest.mark.e2e
FLAGS = {f"{code.lower()}.gif": package_flags()[code.lower()] for code in POP20}


@pytest.fixture
def name(volume: str) -> Iterator[str]:
    """Name a pod that ends with the test."""
    yield f"pod-{volume}"
    Pod(f"pod-{volume}").remove()


def test_pod_runs_as_written(base: list[object], image: str, volume: str, name: str, tmp_path: Path) -> None:
    """With the base's own codes, user, mounts and limits the pod mirrors a real server, ends with 0 and says so."""
    message = tmp_path / "termination-log"
    with serve(tmp_path, FLAGS) as nginx:
        settings = {"FLAGJOB_URL": f"{nginx.url}/{{cc}}.gif", "FLAGJOB_METRICS_ADDRESS": ":0"}
        pod = play(base, name, Place(image, volume, settings, message=message), tmp_path)
        exit_code = pod.wait()
        requests = nginx.finish()
    logged = pod.logged()
    assert exit_code == "0", logged
    assert files_in(volume) == FLAGS
    assert sorted(request.path for request in requests) == sorted(f"/{file}" for file in FLAGS)
    assert len(totals(logged, "code")) == len(FLAGS)
    told, last = json.loads(message.read_text()), json.loads(logged.splitlines()[-1])
    assert (last["event"], told["exit_code"], told["counts"]) == ("run_finished", 0, last["counts"])


def test_pod_without_its_url(base: list[object], image: str, volume: str, name: str, tmp_path: Path) -> None:
    """A pod whose URL is empty ends with 2, which ends its Job, and leaves no file; the log ends with the reason."""
    pod = play(base, name, Place(image, volume, {"FLAGJOB_URL": ""}), tmp_path)
    exit_code, told = pod.wait(), json.loads(pod.logged().splitlines()[-1])
    assert (exit_code, told["event"], told["setting"]) == ("2", "usage_error", "FLAGJOB_URL")
    assert files_in(volume) == {}
