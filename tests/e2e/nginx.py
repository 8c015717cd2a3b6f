"""A real nginx on loopback, with the faults that its own configuration can make."""

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
        location /busy/ {{ proxy_pass http://in_turns/; proxy_next_upstream off; }}
    }}
}}
"""
ASK_AGAIN_SECONDS = 0.02


@dataclass(frozen=True, slots=True)
class Access:
    """One request as nginx logged it: its connection's serial number, the status, its end (Unix time), the path."""

    connection: int
    status: int
    ended_seconds: float
    path: str


@dataclass(frozen=True, slots=True)
class Nginx:
    """A running server. `url` has no path; what lies in `www` is served."""

    url: str
    home: Path
    process: subprocess.Popen[bytes]

    def finish(self) -> list[Access]:
        """Let nginx end its requests and itself; give all that it was asked, in the order of the answers."""
        self.process.send_signal(signal.SIGQUIT)
        self.process.wait()
        lines = (line.split() for line in (self.home / "access.log").read_text().splitlines())
        return [Access(int(serial), int(status), float(ended), path) for serial, status, ended, path in lines]


@contextmanager
def serve(home: Path, files: dict[str, bytes]) -> Iterator[Nginx]:
    """Serve files by name for as long as the context lasts."""
    (home / "www").mkdir()
    for name, content in files.items():
        (home / "www" / name).write_bytes(content)
    port = free_port()
    (home / "nginx.conf").write_text(CONFIGURATION.format(home=home, port=port))
    with subprocess.Popen(["nginx", "-p", home, "-c", home / "nginx.conf", "-e", home / "error.log"]) as process:
        try:
            socket_ready(port, process)
            yield Nginx(f"http://127.0.0.1:{port}", home, process)
        finally:
            process.terminate()


def free_port() -> int:
    """Give a port that nobody listened on a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def socket_ready(port: int, process: subprocess.Popen[bytes]) -> None:
    """Return when the server accepts; its end is the only other way out."""
    while process.poll() is None:
        try:
            return socket.create_connection(("127.0.0.1", port)).close()
        except ConnectionRefusedError:
            with suppress(subprocess.TimeoutExpired):
                process.wait(ASK_AGAIN_SECONDS)
    raise AssertionError("nginx did not start")
