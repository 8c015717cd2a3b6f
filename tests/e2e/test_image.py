"""The container image: how it is written, and that it runs as strictly as a cluster may demand."""

import json
import signal
import subprocess
import tarfile
import threading
from collections.abc import Iterable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from e2e.flags import POP20, package_flags
from e2e.programs import CONTAINERS, HARDENED, ROOT, events, files_in, output, podman, run, setting_flags, tally

pytestmark = pytest.mark.e2e
ANSWERED = ("br", "cn", "in", "us")
HELD = tuple(f"held-{number:02}" for number in range(60))
MISSING_BYTECODE = """
import runpy, sys
from pathlib import Path
sys.argv = ["flagjob", "--server", "local"]
try:
    runpy.run_module("job", run_name="__main__", alter_sys=True)
except SystemExit:
    specs = [getattr(module, "__spec__", None) for module in list(sys.modules.values())]
    files = [spec.cached for spec in specs if spec and (spec.origin or "").endswith(".py")]
    print(len(files) > 100, [file for file in files if not Path(file).exists()])
"""


class Holding(ThreadingHTTPServer):
    """Answers the flags in ANSWERED at once and no other request before it is closed."""

    block_on_close = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), HoldingHandler)
        self.flags = {f"/{code}.gif": flag for code, flag in package_flags().items() if code in ANSWERED}
        self.asked = threading.Event()
        """Set when a request is held: set by handler threads, awaited by the test."""
        self.released = threading.Event()


class HoldingHandler(BaseHTTPRequestHandler):
    """One request to a Holding server."""

    protocol_version = "HTTP/1.1"
    server: Holding

    def do_GET(self) -> None:
        """Answer, or hold."""
        flag = self.server.flags.get(self.path)
        if flag is None:
            self.server.asked.set()
            self.server.released.wait()
            self.close_connection = True
            return
        self.send_response(200)
        self.send_header("Content-Type", "image/gif")
        self.send_header("Content-Length", str(len(flag)))
        self.end_headers()
        self.wfile.write(flag)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  (the base class names it so)
        """Say nothing."""


@pytest.fixture
def holding() -> Iterator[Holding]:
    """Serve on loopback until the test ends."""
    with Holding() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.released.set()
        server.shutdown()


def until_results(stdout: Iterable[str], count: int) -> str:
    """Read until that many result lines have come, or the end; give what was read."""
    lines = []
    for line in stdout:
        lines.append(line)
        if len(events("".join(lines), "result")) == count:
            break
    return "".join(lines)


def test_dockerfile_is_clean() -> None:
    """Hadolint finds nothing to say against the Dockerfile."""
    checked = run("hadolint", "--no-color", "Dockerfile")
    assert (checked.returncode, checked.stdout) == (0, "")


@pytest.mark.parametrize("user", ["65532:65532", "12345:0", "1000700000:0"])
def test_default_run(image: str, volume: str, user: str) -> None:
    """Without a setting, a network or a privilege, as any user, the image leaves the twenty flags, byte for byte."""
    sandbox = ("--rm", "--network", "none", *HARDENED, "--user", user, "--volume", f"{volume}:/data")
    done = podman("run", *sandbox, image)
    assert done.returncode == 0, done.stdout + done.stderr
    flags = package_flags()
    assert files_in(volume) == {f"{code.lower()}.gif": flags[code.lower()] for code in POP20}
    assert [str(code).upper() for code, _ in tally(done.stdout, "code", "status")] == POP20
    assert {status for _, status in tally(done.stdout, "code", "status")} == {"ok"}
    assert json.loads(done.stdout.splitlines()[-1])["event"] == "run_finished"


def test_stop_in_mid_run(image: str, volume: str, holding: Holding) -> None:
    """Stopped in mid-run, the container ends by itself within the grace with 143, and every item has its line."""
    name = f"{volume}-stopped"
    url = f"http://127.0.0.1:{holding.server_port}/{{cc}}.gif"
    settings = setting_flags({"FLAGJOB_URL": url, "FLAGJOB_METRICS_ADDRESS": ""})
    sandbox = ("--rm", "--name", name, "--network", "host", *HARDENED, "--volume", f"{volume}:/data", *settings)
    command = ["podman", "run", *sandbox, image, *ANSWERED, *HELD]
    with subprocess.Popen(command, env=CONTAINERS, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        begun = until_results(process.stdout, len(ANSWERED))
        assert holding.asked.wait(timeout=60)
        podman("stop", "--time", "30", name)
        stdout = begun + process.stdout.read()
    assert process.returncode == 128 + signal.SIGTERM
    expected = [*((code, "ok") for code in ANSWERED), *((code, "cancelled") for code in HELD)]
    assert tally(stdout.lower(), "code", "status") == sorted(expected)
    assert json.loads(stdout.splitlines()[-1])["exit_code"] == 128 + signal.SIGTERM
    assert sorted(files_in(volume)) == [f"{code}.gif" for code in ANSWERED]


def test_no_demonstration_in_a_cluster(image: str) -> None:
    """In a pod whose URL went missing the image refuses with 2 instead of downloading its own flags."""
    in_a_pod = setting_flags({"KUBERNETES_SERVICE_HOST": "192.0.2.1"})
    done = podman("run", "--rm", "--network", "none", *HARDENED, *in_a_pod, image)
    assert (done.returncode, tally(done.stdout, "code")) == (2, [])


def test_downloads_are_never_imported(image: str, tmp_path: Path) -> None:
    """A file in the working directory, which is where downloads go, never runs in place of a module."""
    tmp_path.chmod(0o755)
    (tmp_path / "json.py").write_text("raise SystemExit('imported')")
    done = podman("run", "--rm", "--network", "none", *HARDENED, "--volume", f"{tmp_path}:/data", image, "--version")
    assert (done.returncode, done.stderr) == (0, "")


def test_all_bytecode_is_there(image: str, volume: str) -> None:
    """A run imports nothing that has to be compiled first."""
    sandbox = ("--rm", "--network", "none", *HARDENED, "--volume", f"{volume}:/data", "--entrypoint", "python3")
    done = podman("run", *sandbox, image, "-c", MISSING_BYTECODE)
    assert done.stdout.splitlines()[-1] == "True []"


def test_image_says_what_it_is(image: str) -> None:
    """The labels name the version that the program prints and the revision that it was built from."""
    labels = json.loads(podman("image", "inspect", "--format", "{{json .Labels}}", image).stdout)
    head = run("git", "rev-parse", "--quiet", "--verify", "HEAD").stdout.strip()
    printed = podman("run", "--rm", "--network", "none", *HARDENED, image, "--version").stdout.split()
    assert labels["org.opencontainers.image.version"] in printed
    assert labels["org.opencontainers.image.revision"] == (head or "unknown")


def test_context_holds_the_program_only(tmp_path: Path) -> None:
    """What a build is sent is the job, its lock and the step that compiles it: no history, no tests."""
    (tmp_path / "Dockerfile").write_text("FROM scratch\nCOPY . /\n")
    options = ("--quiet", "--isolation", "chroot", "--layers=false", "--file", str(tmp_path / "Dockerfile"))
    probe = output("podman", "build", *options, ".").strip()
    container = output("podman", "create", probe, "none").strip()
    podman("export", "--output", str(tmp_path / "context.tar"), container)
    podman("rm", container)
    podman("rmi", probe)
    with tarfile.open(tmp_path / "context.tar") as context:
        sent = {
            member.name
            for member in context
            if member.isfile() and not member.name.startswith(("dev/", "etc/", "run/"))
        }
    program = {
        str(path.relative_to(ROOT)) for path in (ROOT / "job").rglob("*") if path.is_file() and path.suffix != ".pyc"
    }
    assert sent == program | {"requirements.lock", ".ci/precompile.py"}


def test_build_leaves_nothing_behind(image: str) -> None:
    """What only the build needs is in no layer that ships: the lock, the compiler step, the settings of pip."""
    paths = ("/requirements.lock", "/precompile.py", "/etc/pip.conf", "/run/pip.crt")
    listed = podman("run", "--rm", "--entrypoint", "ls", image, *paths)
    assert listed.stdout == ""
