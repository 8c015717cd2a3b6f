"""No secret appears in the output of a run: log lines, files, metrics and messages, whatever goes wrong."""

import base64
import signal
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trustme
from images import GIF
from scripted import Answer, Raw, ScriptedServer, Step

from job import validation
from job.cli import main
from job.run import Run

TOKEN = "tok-3nWq8zKfQ1"  # noqa: S105  (an example)
PASSWORD = "pass-7Rk2mVx9Lb"  # noqa: S105  (an example)
SIGNATURE = "sig-5Yt4cHj6Ne"
SECRETS = (TOKEN, PASSWORD, SIGNATURE)
PATH = f"/{{cc}}.gif?sig={SIGNATURE}&size=big"
ECHO = f"no {TOKEN} for http://user:{PASSWORD}@127.0.0.1/cn.gif?sig={SIGNATURE}"
"""A message in which a server or a library repeats secrets that it has received."""


@dataclass
class Scene:
    """A run whose settings contain secrets, and the servers and patches that make it fail."""

    root: Path
    stack: ExitStack
    patch: pytest.MonkeyPatch
    settings: dict[str, str] = field(default_factory=dict)
    arguments: list[str] = field(default_factory=list)

    def origin(self, step: Step, context: ssl.SSLContext | None = None, *, path: str = "/cn.gif") -> str:
        """Serve one step, and return the URL of the server."""
        script = {path: step, "/moved.gif": Answer(body=GIF)}
        return self.stack.enter_context(ScriptedServer(script, context)).url("")

    def closed_address(self) -> str:
        """Return an address on which no server listens."""
        with socket.create_server(("127.0.0.1", 0)) as listener:
            return f"127.0.0.1:{listener.getsockname()[1]}"

    def use(self, url: str, proxy: str = "127.0.0.1:1", direct: str = "127.0.0.1") -> int:
        """Set the environment, run the command, and return its exit code."""
        (self.root / "headers").write_text(f"Authorization: Bearer {TOKEN}\n")
        paths = {"HEADERS_FILE": "headers", "METRICS_FILE": "run.prom", "TERMINATION_LOG": "message"}
        settings = {f"FLAGJOB_{name}": str(self.root / file) for name, file in paths.items()}
        settings |= {"FLAGJOB_DEST": str(self.root / "dest"), "FLAGJOB_URL": url + PATH, "FLAGJOB_MAX_ATTEMPTS": "2"}
        settings |= {"http_proxy": f"http://user:{PASSWORD}@{proxy}", "no_proxy": direct}
        for name, value in {**settings, **self.settings}.items():
            self.patch.setenv(name, value)
        return main(["-v", "cn", *self.arguments])


def success(scene: Scene) -> int:
    return scene.use(scene.origin(Answer(headers={"ETag": '"1"'}, body=GIF)))


def success_by_proxy(scene: Scene) -> int:
    proxy = scene.origin(Answer(body=GIF), path="http://origin.example/cn.gif")
    return scene.use("http://origin.example", proxy.removeprefix("http://"), direct="")


def dead_proxy(scene: Scene) -> int:
    return scene.use("http://origin.example", scene.closed_address(), direct="")


def refused(scene: Scene) -> int:
    return scene.use(f"http://{scene.closed_address()}")


def unknown_authority(scene: Scene) -> int:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    return scene.use(scene.origin(Answer(body=GIF), context))


def redirect_followed(scene: Scene) -> int:
    return scene.use(scene.origin(Answer(302, {"Location": f"/moved.gif?sig={SIGNATURE}"})))


def redirect_refused(scene: Scene) -> int:
    there = f"http://user:{PASSWORD}@elsewhere.example/{TOKEN}?sig={SIGNATURE}"
    return scene.use(scene.origin(Answer(302, {"Location": there})))


def echoed_by_the_origin(scene: Scene) -> int:
    return scene.use(scene.origin(Raw(f"HTTP/1.1 503 {ECHO}\r\nContent-Length: 0\r\n\r\n".encode())))


def echoed_as_an_encoding(scene: Scene) -> int:
    return scene.use(scene.origin(Answer(headers={"Content-Encoding": TOKEN}, body=GIF)))


def dry_run(scene: Scene) -> int:
    scene.arguments.append("--dry-run")
    return scene.use(scene.origin(Answer(body=GIF)))


def usage(scene: Scene) -> int:
    scene.settings["HTTP_PROXY"] = f"ftp://user:{PASSWORD}@127.0.0.1"
    scene.settings["FLAGJOB_WORKRES"] = f"http://user:{PASSWORD}@127.0.0.1/?sig={SIGNATURE}"
    return scene.use(scene.origin(Answer(body=GIF)))


def bug_in_an_item(scene: Scene) -> int:
    def broken(*_: object) -> None:
        raise RuntimeError(ECHO)

    scene.patch.setattr(validation, "validate", broken)
    return scene.use(scene.origin(Answer(body=GIF)))


def bug_in_the_run(scene: Scene) -> int:
    def broken(_: Run) -> None:
        raise RuntimeError(ECHO)

    scene.patch.setattr(Run, "execute", broken)
    return scene.use(scene.origin(Answer(body=GIF)))


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    """Yield a run in a directory of its own, and restore the signal handlers afterwards."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    with ExitStack() as stack:
        yield Scene(tmp_path, stack, monkeypatch)
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("log_format", ["json", "console"])
@pytest.mark.parametrize(
    ("act", "exit_code"),
    [
        (success, 0),
        (success_by_proxy, 0),
        (dead_proxy, 6),
        (refused, 6),
        (unknown_authority, 6),
        (redirect_followed, 0),
        (redirect_refused, 4),
        (echoed_by_the_origin, 3),
        (echoed_as_an_encoding, 4),
        (dry_run, 0),
        (usage, 2),
        (bug_in_an_item, 1),
        (bug_in_the_run, 1),
    ],
)
def test_no_secret_is_left_anywhere(
    scene: Scene,
    capfdbinary: pytest.CaptureFixture[bytes],
    log_format: str,
    act: Callable[[Scene], int],
    exit_code: int,
) -> None:
    """At level debug, no output has the header's token, the proxy's password or the query's signature."""
    scene.settings["FLAGJOB_LOG_FORMAT"] = log_format
    assert act(scene) == exit_code
    output = capfdbinary.readouterr()
    outputs = {path: path.read_bytes() for path in scene.root.rglob("*") if path.is_file() and path.name != "headers"}
    outputs |= {Path("stdout"): output.out, Path("stderr"): output.err}
    forms = [form for secret in SECRETS for form in (secret, base64.b64encode(secret.encode()).decode())]
    forms.append(base64.b64encode(f"user:{PASSWORD}".encode()).decode())
    assert [(str(path), form) for path, data in outputs.items() for form in forms if form.encode() in data] == []
    assert output.out
    if exit_code not in {1, 2} and act is not dry_run:
        assert {"manifest.jsonl", "run.prom", "message"} <= {path.name for path in outputs}
