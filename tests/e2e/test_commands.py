"""The commands of the documents, from the top to the bottom, in one directory, as a new user types them."""

import os
import re
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

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]
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
    printf '\nflagjob typed: %s\n' "$line"
    eval "$line"
    printf '\nflagjob ended: %s\n' $?
done 9<"$2"
"""
TRIED_ELSEWHERE = {
    "docs/kubernetes.md": "e2e/test_kubernetes_guide.py",
    "docs/lists.md": "test_lists_guide.py",
    "docs/runbook.md": "e2e/test_runbook.py",
}
"""Documents whose commands need a cluster, or lists that the document shows, and the tests that hold them."""


def documents() -> list[str]:
    """Return the documents in the order in which a reader meets them: the README leads to the others."""
    pages = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob("docs/*.md"))
    return [
        "README.md",
        *(page for page in pages if page not in TRIED_ELSEWHERE),
        "CONTRIBUTING.md",
        "CONFIGURATION.md",
    ]


def commands(document: str) -> Iterator[str]:
    """Yield each command of a document's shell code, in order; one that goes on in further lines is one."""
    blocks = re.findall(r"^```sh\n(.*?)^```$", (ROOT / document).read_text("utf-8"), re.MULTILINE | re.DOTALL)
    for block in blocks:
        yield from block.replace("\\\n", "").splitlines()


def expected_codes(command: str) -> set[int]:
    """Return how a command may end: with 0, unless its comment names exit codes."""
    named = re.search(r"# .*exit code ([0-9]+(?: or [0-9]+)*)", command)
    return {int(code) for code in named[1].split(" or ")} if named else {0}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Return a directory with a clone, stand-ins for docker and kubectl, and the names of the web's origins."""
    subprocess.run(["git", "clone", "--quiet", ROOT, tmp_path / "clone"], check=True)
    (tmp_path / "bin").mkdir()
    for name, script in (("docker", DOCKER), ("kubectl", KUBECTL)):
        (tmp_path / "bin" / name).write_text(script)
        (tmp_path / "bin" / name).chmod(0o755)
    (tmp_path / "hosts").write_text(Path("/etc/hosts").read_text() + "\n127.0.0.1 flagcdn.com\n")
    (tmp_path / "typed").write_text("".join(f"{command}\n" for page in documents() for command in commands(page)))
    (tmp_path / "script").write_text(TYPED)
    return tmp_path


def test_every_command_works_after_the_one_before(image: str, home: Path) -> None:
    """On a fresh clone every command ends as its document says, in the order of the documents."""
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
                typed, cwd=home / "clone", env=environment, check=False, capture_output=True, text=True, timeout=800
            )
        finally:
            podman("rmi", "flagjob")
            podman("volume", "rm", "flags")
        asked = {request.target for request in server.requests}
    ended = re.findall(r"^flagjob (typed|ended): (.*)$", done.stdout, re.MULTILINE)
    typed_lines = [text for kind, text in ended if kind == "typed"]
    assert typed_lines == [command for page in documents() for command in commands(page)], done.stdout + done.stderr
    codes = [int(text) for kind, text in ended if kind == "ended"]
    wrong = [row for row in zip(typed_lines, codes, strict=True) if row[1] not in expected_codes(row[0])]
    assert wrong == [], done.stdout + done.stderr
    assert asked == set(flags)
    assert {path.name for path in (home / "clone" / "sets" / "current").glob("*.gif")} == {"cn.gif", "in.gif"}


@pytest.mark.parametrize(("document", "test"), TRIED_ELSEWHERE.items())
def test_what_needs_more_is_tried_elsewhere(document: str, test: str) -> None:
    """The tests of those documents read them."""
    assert document.rpartition("/")[2] in (ROOT / "tests" / test).read_text("utf-8")
