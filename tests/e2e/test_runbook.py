"""The first commands of the runbook, run by a real kubectl against a scripted API server."""

import json
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml
from scripted import Answer, Script, ScriptedServer

from e2e.programs import CONTAINERS, ROOT

pytestmark = pytest.mark.e2e
MESSAGE = '{"outcome":"origin_down","exit_code":6}'
TERMINATED = {"exitCode": 6, "reason": "Error", "message": MESSAGE}
POD = {
    "metadata": {"name": "flagjob-1-x", "namespace": "flagjob", "creationTimestamp": "2026-11-29T04:17:00Z"},
    "status": {"containerStatuses": [{"name": "flagjob", "state": {"terminated": TERMINATED}}]},
}
RUNNING = {
    "metadata": {"name": "flagjob-2-y", "namespace": "flagjob", "creationTimestamp": "2026-11-30T04:17:00Z"},
    "status": {"containerStatuses": [{"name": "flagjob", "state": {"running": {}}}]},
}
JOB = {
    "metadata": {"name": "flagjob-1", "namespace": "flagjob", "creationTimestamp": "2026-11-29T04:17:00Z"},
    "status": {
        "startTime": "2026-11-29T04:17:00Z",
        "conditions": [{"type": "Failed", "reason": "BackoffLimitExceeded", "message": "it has reached the limit"}],
    },
}


def document(kind: str, api_version: str = "v1", **fields: object) -> Answer:
    """Return an answer of the API."""
    body = json.dumps({"kind": kind, "apiVersion": api_version, **fields}).encode()
    return Answer(200, {"Content-Type": "application/json"}, body)


def resource(name: str, kind: str) -> Mapping[str, object]:
    """Return a resource as the API lists it."""
    return {"name": name, "singularName": kind.lower(), "namespaced": True, "kind": kind, "verbs": ["get", "list"]}


BATCH = {"groupVersion": "batch/v1", "version": "v1"}
API: Script = {
    "/api": document("APIVersions", versions=["v1"]),
    "/apis": document("APIGroupList", groups=[{"name": "batch", "versions": [BATCH], "preferredVersion": BATCH}]),
    "/api/v1": document("APIResourceList", groupVersion="v1", resources=[resource("pods", "Pod")]),
    "/apis/batch/v1": document("APIResourceList", groupVersion="batch/v1", resources=[resource("jobs", "Job")]),
    "/api/v1/namespaces/flagjob/pods": document("PodList", items=[RUNNING, POD]),
    "/apis/batch/v1/namespaces/flagjob/jobs": document("JobList", "batch/v1", items=[JOB]),
}


@pytest.fixture
def said(tmp_path: Path) -> list[str]:
    """Return what the runbook's first two commands print."""
    blocks = re.findall(r"^```sh\n(.*?)^```$", (ROOT / "docs" / "runbook.md").read_text(), re.DOTALL | re.MULTILINE)
    with ScriptedServer(API) as server:
        context = {"clusters": [{"name": "c", "cluster": {"server": server.url().removesuffix("/")}}]}
        context |= {"contexts": [{"name": "c", "context": {"cluster": "c"}}]}
        (tmp_path / "config").write_text(yaml.safe_dump({**context, "current-context": "c"}))
        environment = {**CONTAINERS, "HOME": str(tmp_path), "KUBECONFIG": str(tmp_path / "config")}
        done = [
            subprocess.run(["sh", "-ec", block], env=environment, check=False, capture_output=True, text=True)
            for block in blocks[:2]
        ]
    assert [(one.returncode, one.stderr) for one in done] == [(0, ""), (0, "")]
    return [one.stdout for one in done]


def test_first_command_shows_the_termination_messages(said: list[str]) -> None:
    """The first command prints each pod's exit code and termination message, the newest pod last."""
    assert said[0] == f"flagjob-1-x exit 6 Error\n{MESSAGE}\nflagjob-2-y exit  \n\n"


def test_second_command_shows_why_jobs_ended(said: list[str]) -> None:
    """The second command prints why each Job ended."""
    titles, job = said[1].splitlines()
    assert titles.split() == ["JOB", "STARTED", "ENDED", "WHY", "MORE"]
    assert re.split(r" {2,}", job)[::3] == ["flagjob-1", "BackoffLimitExceeded"]
    assert job.endswith("it has reached the limit")
