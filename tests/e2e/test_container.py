"""The image as a container: under the limits of an engine or cluster, and as its users start it."""

import json
import os
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from statistics import median
from threading import Event

import pytest
import trustme
from scripted import Answer, Hold, Request, ScriptedServer

from e2e.flags import POP20, package_flags
from e2e.programs import CONTAINERS, HARDENED, events, files_in, podman, result_fields, setting_flags

pytestmark = pytest.mark.e2e
ANSWERED = ("br", "cn", "in", "us")
HELD = tuple(f"held-{number:02}" for number in range(60))
ROUNDS = 7
SOMEBODY = 1000
STARTED_AT = 'date +%s%N; exec "$@"'
"""A shell command that prints the time, in nanoseconds of Unix time, and then becomes the given command."""


def answer(code: str) -> Answer:
    """Return the answer of an origin with a flag."""
    return Answer(200, {"Content-Type": "image/gif"}, package_flags()[code])


def read_until_results(stdout: Iterable[str], count: int) -> str:
    """Read until that many result lines, or the end; return what was read."""
    lines = []
    for line in stdout:
        lines.append(line)
        if len(events("".join(lines), "result")) == count:
            break
    return "".join(lines)


@pytest.mark.parametrize("user", ["65532:0", "65532:65532", "12345:0", "1234567890:0"])
def test_default_run(image: str, volume: str, user: str) -> None:
    """Without settings, network or privileges, in 96 MB and as any user, the image downloads the twenty flags."""
    sandbox = ("--rm", "--network", "none", "--memory", "96m", *HARDENED)
    done = podman("run", *sandbox, "--user", user, "--volume", f"{volume}:/data", image)
    assert done.returncode == 0, done.stdout + done.stderr
    flags = package_flags()
    assert files_in(volume) == {f"{code.lower()}.gif": flags[code.lower()] for code in POP20}
    assert [str(code).upper() for code, _ in result_fields(done.stdout, "code", "status")] == POP20
    assert {status for _, status in result_fields(done.stdout, "code", "status")} == {"ok"}
    assert json.loads(done.stdout.splitlines()[-1])["event"] == "run_finished"


def test_destination_in_memory(image: str) -> None:
    """A tmpfs that the engine mounts at /data needs no further options."""
    done = podman("run", "--rm", "--network", "none", *HARDENED, "--tmpfs", "/data", image)
    assert (done.returncode, len(result_fields(done.stdout, "code"))) == (0, len(POP20))


def test_directory_of_another_user(image: str, tmp_path: Path) -> None:
    """A directory of another user is exit code 5; as that user, the run succeeds and the files are theirs."""
    os.chown(tmp_path, SOMEBODY, SOMEBODY)
    sandbox = ("--rm", "--network", "none", *HARDENED, "--volume", f"{tmp_path}:/data")
    refused = podman("run", *sandbox, image)
    as_owner = podman("run", *sandbox, "--user", str(SOMEBODY), image)
    assert (refused.returncode, as_owner.returncode) == (5, 0)
    assert "the destination cannot be written" in refused.stdout
    assert {path.stat().st_uid for path in tmp_path.glob("*.gif")} == {SOMEBODY}


def test_podman_stop_drains_the_run(image: str, volume: str) -> None:
    """A stopped container ends within its grace period: exit code 143, all result lines, summary and textfile."""
    script = {f"/{code}.gif": answer(code) for code in ANSWERED}
    held = {f"/{code}.gif": Hold(Event(), answer("br")) for code in HELD}
    name = f"{volume}-stopped"
    with ScriptedServer({**script, **held}) as origin:
        own = {"FLAGJOB_METRICS_ADDRESS": "", "FLAGJOB_METRICS_FILE": "/data/flagjob.prom"}
        settings = setting_flags({"FLAGJOB_URL": origin.url("/{cc}.gif"), **own})
        sandbox = ("--rm", "--name", name, "--network", "host", *HARDENED, "--volume", f"{volume}:/data", *settings)
        command = ["podman", "run", *sandbox, image, *ANSWERED, *HELD]
        with subprocess.Popen(command, env=CONTAINERS, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            begun = read_until_results(process.stdout, len(ANSWERED))
            origin.wait_for(len(ANSWERED) + 1)
            podman("stop", name)
            stdout = begun + process.stdout.read()
    left = files_in(volume)
    metrics = left.pop("flagjob.prom").decode().splitlines()
    assert process.returncode == 128 + signal.SIGTERM
    expected = [*((code, "ok") for code in ANSWERED), *((code, "cancelled") for code in HELD)]
    assert result_fields(stdout.lower(), "code", "status") == sorted(expected)
    assert json.loads(stdout.splitlines()[-1])["exit_code"] == 128 + signal.SIGTERM
    assert "flagjob_last_run_exit_code 143.0" in metrics
    assert f'flagjob_downloads_total{{status="cancelled"}} {len(HELD)}.0' in metrics
    assert sorted(left) == [f"{code}.gif" for code in ANSWERED]


def test_no_demo_server_in_a_cluster(image: str) -> None:
    """In a pod without a URL the image ends with exit code 2 instead of downloading from the demo server."""
    in_a_pod = setting_flags({"KUBERNETES_SERVICE_HOST": "192.0.2.1"})
    done = podman("run", "--rm", "--network", "none", *HARDENED, *in_a_pod, image)
    assert (done.returncode, result_fields(done.stdout, "code")) == (2, [])


def test_downloads_are_never_imported(image: str, tmp_path: Path) -> None:
    """A file in the working directory, where downloads are stored, is never imported as a module."""
    tmp_path.chmod(0o755)
    (tmp_path / "json.py").write_text("raise SystemExit('imported')")
    done = podman("run", "--rm", "--network", "none", *HARDENED, "--volume", f"{tmp_path}:/data", image, "--version")
    assert (done.returncode, done.stderr) == (0, "")


def test_tls(image: str, tmp_path: Path) -> None:
    """The libraries in the image, which the build strips, support TLS and verify certificates."""
    authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    tmp_path.chmod(0o755)
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    sandbox = ("--rm", "--network", "host", *HARDENED, "--tmpfs", "/data", "--volume", f"{tmp_path}/ca.pem:/ca.pem:ro")
    with ScriptedServer({"/br.gif": answer("br")}, context) as origin:
        url = {"FLAGJOB_URL": origin.url("/{cc}.gif"), "FLAGJOB_METRICS_ADDRESS": ""}
        trusted = podman("run", *sandbox, *setting_flags({**url, "FLAGJOB_CA_BUNDLE": "/ca.pem"}), image, "br")
        untrusted = podman("run", *sandbox, *setting_flags(url), image, "br")
    assert (trusted.returncode, result_fields(trusted.stdout, "code", "status")) == (0, [("BR", "ok")])
    assert result_fields(untrusted.stdout, "status", "reason") == [("error", "tls")]


def first_request_seconds(*command: str) -> float:
    """Run a command that prints its start time, with a URL as its last word; return the time to its request."""
    requested_at: list[int] = []

    def answer_and_record(_: Request) -> Answer:
        requested_at.append(time.time_ns())
        return answer("br")

    with ScriptedServer({"/br.gif": answer_and_record}) as origin:
        done = subprocess.run([*command, origin.url("/{cc}.gif")], env=CONTAINERS, check=True, capture_output=True)
    return (requested_at[0] - int(done.stdout.split()[0])) / 1e9


def test_start_time(image: str, tmp_path: Path) -> None:
    """The program sends its first request in a container after at most 1.5 times as long as outside."""
    sandbox = ("--rm", "--network", "host", *HARDENED, "--tmpfs", "/data", "--entrypoint", "sh")
    shell, job = ("-c", STARTED_AT, "sh"), ("-m", "job", "br", "--metrics-address", ":0", "--url")
    inside: list[float] = []
    outside: list[float] = []
    for turn in range(ROUNDS):
        own = ("--dest", str(tmp_path / str(turn)))
        inside.append(first_request_seconds("podman", "run", *sandbox, image, *shell, "python3", *job))
        outside.append(first_request_seconds("sh", *shell, sys.executable, *job[:2], *own, *job[2:]))
    assert median(inside) <= 1.5 * median(outside), (inside, outside)
