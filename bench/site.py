"""The origin: nginx on loopback, with real flags hard-linked to many codes."""

import hashlib
import os
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import cycle
from pathlib import Path

from bench.measure import BenchError
from bench.packages import echo_module

LATENCY_SECONDS = 0.05
_READY_SECONDS = 10.0
_SERVER = """
    server {{
        listen 127.0.0.1:{port}{options};
        ssl_certificate {home}/tls/server.pem;
        ssl_certificate_key {home}/tls/server.key;
        root {home}/www;
        location /logged/ {{ access_log {home}/access.log facts; }}
        location /one/ {{ rewrite ^ /files/{first} break; }}
        {slow}
    }}
"""
_SLOW = """
        location /slow/ {{ echo_sleep {seconds}; echo_exec @files; }}
        location @files {{ }}
"""
_CONFIGURATION = """
{module}
daemon off;
{user}
worker_processes 1;
pid {home}/pid;
error_log {home}/error.log;
events {{ worker_connections 4096; }}
http {{
    types {{ image/gif gif; }}
    log_format facts '$status $uri';
    access_log off;
    # A connection lasts as long as its client wants it, whoever that is.
    keepalive_requests 10000000;
    client_body_temp_path {home}/body;
    proxy_temp_path {home}/proxy;
    fastcgi_temp_path {home}/fastcgi;
    uwsgi_temp_path {home}/uwsgi;
    scgi_temp_path {home}/scgi;
    {servers}
}}
"""


@dataclass(frozen=True, slots=True)
class Site:
    """A running origin. `digests` has each file of `files/` with its SHA-256, in the order of the codes.

    Below `/files/` it answers at once, below `/slow/` after LATENCY_SECONDS, below `/logged/` with a line in its
    access log; below `/one/` every path is the same file, whose digest is `one` and whose size is `one_bytes`.
    """

    plain: str
    tls: str
    authority: Path
    digests: dict[str, str]
    one: str
    one_bytes: int
    is_slow_possible: bool
    access_log: Path

    def statuses(self, offset: int = 0) -> Counter[str]:
        """Count the answers below `/logged/` by status, from an offset of the log in bytes."""
        with self.access_log.open("rb") as log:
            log.seek(offset)
            return Counter(line.split()[0].decode() for line in log)


@contextmanager
def serve(home: Path, count: int) -> Iterator[Site]:
    """Serve `count` files for as long as the context lasts; raise BenchError where nginx cannot be started."""
    flags = _real_flags()
    digests = _link(home, flags, count)
    _certify(home / "tls")
    ports = _free_ports(2)
    module = echo_module()
    (home / "nginx.conf").write_text(_configuration(home, ports, module, next(iter(digests))), "utf-8")
    argv = ["nginx", "-p", str(home), "-c", str(home / "nginx.conf"), "-e", str(home / "error.log")]
    with subprocess.Popen(argv) as process:
        try:
            _await(ports, process, home / "error.log")
            plain, tls = (f"{scheme}://127.0.0.1:{port}" for scheme, port in zip(("http", "https"), ports, strict=True))
            name, first = next(iter(digests.items()))
            one_bytes = (home / "www" / "files" / name).stat().st_size
            authority = home / "tls" / "client.pem"
            yield Site(plain, tls, authority, digests, first, one_bytes, module is not None, home / "access.log")
        finally:
            process.terminate()


def code(number: int) -> str:
    """Return the code of a number, the same for every client."""
    return f"c{number:06}"


def _real_flags() -> Sequence[Path]:
    """Return the flags of django-countries, which is installed for the built-in origin."""
    package = find_spec("django_countries")
    if package is None or not package.submodule_search_locations:
        raise BenchError("no flags: django-countries is not installed (make .venv/.installed)")
    return sorted(Path(package.submodule_search_locations[0]).glob("static/flags/*.gif"))


def _link(home: Path, flags: Sequence[Path], count: int) -> dict[str, str]:
    """Copy the flags once and link them to the codes in turn; return the digests by file name."""
    (home / "flags").mkdir()
    files = home / "www" / "files"
    files.mkdir(parents=True)
    for alias in ("slow", "logged"):
        (home / "www" / alias).symlink_to(files)
    digests = {}
    copies = []
    for flag in flags:
        copy = home / "flags" / flag.name
        copy.write_bytes(flag.read_bytes())
        copies.append((copy, hashlib.sha256(copy.read_bytes()).hexdigest()))
    for number, (copy, digest) in zip(range(count), cycle(copies), strict=False):
        name = f"{code(number)}.gif"
        os.link(copy, files / name)
        digests[name] = digest
    return digests


def _certify(directory: Path) -> None:
    """Make a certificate for the loopback address with an authority of its own, by trustme's command."""
    directory.mkdir()
    subprocess.run([sys.executable, "-m", "trustme", "-q", "-d", directory, "-i", "127.0.0.1"], check=True)


def _configuration(home: Path, ports: Sequence[int], module: Path | None, first: str) -> str:
    """Return nginx's configuration: one server in plain text, one with TLS."""
    slow = _SLOW.format(seconds=LATENCY_SECONDS) if module else ""
    servers = [
        _SERVER.format(port=port, options=options, home=home, first=first, slow=slow)
        for port, options in zip(ports, ("", " ssl"), strict=True)
    ]
    return _CONFIGURATION.format(
        module=f"load_module {module};" if module else "",
        user="user root;" if os.geteuid() == 0 else "",
        home=home,
        servers="".join(servers),
    )


def _free_ports(count: int) -> list[int]:
    """Return ports that nobody listened on a moment ago."""
    probes = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(probe.getsockname()[1]) for probe in probes]
    for probe in probes:
        probe.close()
    return ports


def _await(ports: Sequence[int], process: subprocess.Popen[bytes], log: Path) -> None:
    """Return when nginx accepts on every port; raise BenchError with its log if it has ended or takes too long."""
    ends_at = time.monotonic() + _READY_SECONDS
    waiting = list(ports)
    while waiting:
        if process.poll() is not None or time.monotonic() > ends_at:
            raise BenchError(f"nginx did not start: {log.read_text('utf-8', 'replace')}")
        try:
            socket.create_connection(("127.0.0.1", waiting[0])).close()
            waiting.pop(0)
        except ConnectionRefusedError:
            time.sleep(0.02)
