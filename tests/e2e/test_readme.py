"""The README's commands, from the top to the bottom, in one directory, as a new user types them."""

import os
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme
from images import PNG
from scripted import Answer, ScriptedServer

from e2e.programs import CONTAINERS, ROOT, podman

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]
DOCKER = f"""#!{sys.executable}
# Stands for docker: podman, with the image of these tests in place of a build and the host's network in place of mapped
# ports.
import os
import sys
words = sys.argv[1:]
authority = os.environ["FLAGJOB_CA_BUNDLE"]
trusted = [f"--volume={{authority}}:/ca.pem:ro", "--env=FLAGJOB_CA_BUNDLE=/ca.pem"]
if words[0] == "build":
    words = ["tag", os.environ["BUILT_IMAGE"], "flagjob"]
elif words[0] == "run":
    network = [] if "--network" in words else ["--network=host"]
    mapped = words.index("-p") if "-p" in words else len(words)
    words = ["run", *trusted, *network, *words[1:mapped], *words[mapped + 2:]]
os.execvp("podman", ["podman", *words])
"""
KUBECTL = f"""#!{sys.executable}
# Stands for a cluster: what would be applied is rendered.
import os
import sys
words = sys.argv[1:]
if words[:2] == ["apply", "-k"]:
    os.execv({str(Path(sys.executable).with_name("kubectl"))!r}, ["kubectl", "kustomize", *words[2:]])
"""
TYPED = r"""
set -m # job control, as at a prompt
mount --bind "$1" /etc/hosts
while IFS= read -r line <&9; do
    printf '\nflagjob README: %s\n' "$line"
    eval "$line" || printf '\nflagjob README: exit code %s\n' $?
done 9<"$2"
"""


def commands() -> Iterator[str]:
    """Yield each line of the README's shell code, in order."""
    inside = False
    for line in (ROOT / "README.md").read_text("utf-8").splitlines():
        if line.startswith("```"):
            inside = line == "```sh"
        elif inside:
            yield line


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Return a directory with a clone, stand-ins for docker and kubectl, and the names of the web's origins."""
    subprocess.run(["git", "clone", "--quiet", ROOT, tmp_path / "clone"], check=True)
    (tmp_path / "bin").mkdir()
    for name, script in (("docker", DOCKER), ("kubectl", KUBECTL)):
        (tmp_path / "bin" / name).write_text(script)
        (tmp_path / "bin" / name).chmod(0o755)
    (tmp_path / "hosts").write_text(Path("/etc/hosts").read_text() + "\n127.0.0.1 flagcdn.com\n")
    (tmp_path / "typed").write_text("\n".join(commands()) + "\n")
    (tmp_path / "script").write_text(TYPED)
    return tmp_path


def test_every_command_works_after_the_one_before(image: str, home: Path) -> None:
    """On a fresh clone every line of the README ends with exit code 0, in the order of the README."""
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("flagcdn.com").configure_cert(context)
    authority.cert_pem.write_to_path(str(home / "ca.pem"))
    flags = {f"/w320/{code}.png": Answer(body=PNG) for code in ("cn", "us")}
    own = {"FLAGJOB_CA_BUNDLE": str(home / "ca.pem"), "BUILT_IMAGE": image}
    environment = {**CONTAINERS, **own, "PATH": f"{home / 'bin'}:{os.environ['PATH']}"}
    isolated = ["unshare", "--mount", "--propagation", "private"]
    typed = [*isolated, "bash", str(home / "script"), str(home / "hosts"), str(home / "typed")]
    with ScriptedServer(flags, context, port=443) as server:
        try:
            done = subprocess.run(
                typed, cwd=home / "clone", env=environment, check=False, capture_output=True, text=True, timeout=500
            )
        finally:
            podman("rmi", "flagjob")
            podman("volume", "rm", "flags")
        asked = {request.target for request in server.requests}
    said = [line for line in done.stdout.splitlines() if line.startswith("flagjob README: ")]
    assert said == [f"flagjob README: {line}" for line in commands()], done.stdout + done.stderr
    assert asked == set(flags)
    assert {path.name for path in (home / "clone" / "sets" / "current").glob("*.gif")} == {"cn.gif", "in.gif"}
