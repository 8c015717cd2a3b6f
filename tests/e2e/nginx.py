"""A real nginx on loopback, with the faults that its own configuration can produce."""

import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

CONFIGURATION = """
daemon off;
user root;
worker_processes 1;
pid {home}/pid;
error_log {home}/error.log;
events {{ worker_connections 512; }}
http {{
    types {{ image/gif gif; }}
    log_format facts '$connection $status $msec $uri';
    access_log {home}/access.log facts;
    client_body_temp_path {home}/body;
    proxy_temp_path {home}/proxy;
    fastcgi_temp_path {home}/fastcgi;
    uwsgi_temp_path {home}/uwsgi;
    scgi_temp_path {home}/scgi;
    limit_conn_zone $server_port zone=all:1m;
    # In turns, so that every second request is refused, beginning with the first.
    upstream in_turns {{ server unix:{home}/busy; server unix:{home}/free; }}
    server {{
        listen unix:{home}/busy;
        access_log off;
        location / {{ add_header Retry-After 1 always; return 503; }}
    }}
    server {{
        listen unix:{home}/free;
        access_log off;
        root {home}/www;
    }}
    server {{
        listen 127.0.0.1:{port};
        root {home}/www;
        location /few/ {{ limit_conn all 4; proxy_pass {upstream}/; }}
        location /busy/ {{ proxy_pass http://in_turns/; proxy_next_upstream off; }}
    }}
}}
"""
POLL_SECONDS = 0.02


@dataclass(frozen=True, slots=True)
class Access:
    """One request in nginx's log: its connection's serial number, its status, its end (Unix time) and its path."""

    connection: int
    status: int
    ended_seconds: float
    path: str


@dataclass(frozen=True, slots=True)
class Nginx:
    """A running nginx. `url` has no path; the files in `www` are served."""

    url: str
    home: Path
    process: subprocess.Popen[bytes]

    def finish(self) -> list[Access]:
        """End nginx after its running requests; return all requests in the order of their answers."""
        self.process.send_signal(signal.SIGQUIT)
        self.process.wait()
        lines = (line.split() for line in (self.home / "access.log").read_text().splitlines())
        return [Access(int(serial), int(status), float(ended), path) for serial, status, ended, path in lines]


@contextmanager
def serve(home: Path, files: dict[str, bytes], upstream: str = "http://127.0.0.1:1") -> Iterator[Nginx]:
    """Serve files by name until the end of the block; below `/few/` those of `upstream`, four at the same time."""
    (home / "www").mkdir()
    for name, content in files.items():
        (home / "www" / name).write_bytes(content)
    port = free_port()
    (home / "nginx.conf").write_text(CONFIGURATION.format(home=home, port=port, upstream=upstream))
    with subprocess.Popen(["nginx", "-p", home, "-c", home / "nginx.conf", "-e", home / "error.log"]) as process:
        try:
            wait_until_listening(port, process)
            yield Nginx(f"http://127.0.0.1:{port}", home, process)
        finally:
            process.terminate()


def free_port() -> int:
    """Return a port that no server listened on a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def wait_until_listening(port: int, process: subprocess.Popen[bytes]) -> None:
    """Return when the server accepts connections; raise AssertionError if it ends first."""
    while process.poll() is None:
        try:
            return socket.create_connection(("127.0.0.1", port)).close()
        except ConnectionRefusedError:
            with suppress(subprocess.TimeoutExpired):
                process.wait(POLL_SECONDS)
    raise AssertionError("nginx did not start")
