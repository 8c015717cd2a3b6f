"""Runs behind a real proxy: its refusals are final, and no request bypasses it."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from rows import row

from e2e.live import FinishedJob, run_to_end
from e2e.namespaces import POLL_SECONDS, Namespace, background, namespace

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]
CODES = 40
"""More than the failures in a row that open the circuit, fewer than the repeated-failure cutoff."""
ORIGIN = """
log_format way '$http_via';
server {{ listen 80; access_log {home}/ways way; location / {{ empty_gif; }} }}
"""
SQUID = """
http_port 127.0.0.1:3128
visible_hostname proxy.example
access_log none
cache_log /dev/null
cache_store_log none
netdb_filename none
pid_filename none
pinger_enable off
coredump_dir /
max_filedescriptors 1024
shutdown_lifetime 0 seconds
cache deny all
auth_param basic program /usr/lib/squid/basic_fake_auth
auth_param basic children 1
acl known proxy_auth REQUIRED
"""


@dataclass(frozen=True)
class Network:
    """A machine with an origin and, at times, a proxy."""

    machine: Namespace
    home: Path

    @property
    def proxies_seen(self) -> list[str]:
        """The `Via` header of each request to the origin."""
        return (self.home / "nginx" / "ways").read_text().splitlines()

    @contextmanager
    def squid(self, *rules: str) -> Iterator[None]:
        """Run a proxy with these rules."""
        configuration = self.home / "squid.conf"
        configuration.write_text(SQUID + "".join(f"http_access {rule}\n" for rule in rules))
        with background([*self.machine.command_prefix, "squid", "-N", "-f", str(configuration)]):
            while "127.0.0.1:3128" not in self.machine.run("ss", "-Hntl"):
                time.sleep(POLL_SECONDS)
            yield

    def run_job(self, proxy: str = "127.0.0.1:3128", scheme: str = "http") -> FinishedJob:
        """Run the job behind a proxy."""
        settings = {
            "FLAGJOB_URL": f"{scheme}://127.0.0.1/{{cc}}.gif",
            "FLAGJOB_CODES": " ".join(f"c{number}" for number in range(CODES)),
            "FLAGJOB_DEST": str(self.home / "out"),
            "http_proxy": f"http://{proxy}",
            "https_proxy": f"http://{proxy}",
        }
        done = run_to_end(self.home, settings, self.machine.command_prefix)
        assert done.stderr == ""
        assert len(set(done.codes)) == CODES == len(done.codes)
        return done


@pytest.fixture
def network(tmp_path: Path) -> Iterator[Network]:
    """Yield a machine with an origin that could be reached without a proxy."""
    home = tmp_path / "nginx"
    with namespace() as machine, machine.nginx(home, ORIGIN.format(home=home)):
        yield Network(machine, tmp_path)


def kinds(done: FinishedJob) -> set[tuple[str, str | None]]:
    return {(line["status"], line["reason"]) for line in done.events_named("result")}


@row(17)
def test_proxy_that_works(network: Network) -> None:
    """Through a proxy that allows it all files are downloaded, and every request passes the proxy."""
    with network.squid("allow all"):
        done = network.run_job()
    assert (done.code, kinds(done)) == (0, {("ok", None)})
    assert len(network.proxies_seen) == CODES
    assert all("proxy.example" in way for way in network.proxies_seen)


@pytest.mark.parametrize("scheme", ["http", "https"])
@row(17)
def test_proxy_that_is_dead(network: Network, scheme: str) -> None:
    """A dead proxy counts as a dead origin, and no request bypasses it."""
    done = network.run_job(proxy="127.0.0.1:9", scheme=scheme)
    assert (done.code, network.proxies_seen) == (6, [])
    assert kinds(done) <= {("error", "proxy"), ("cancelled", "origin_down")}
    assert "Could not connect" in done.events_named("origin_down")[0]["error"]


@pytest.mark.parametrize(("rule", "status"), [("deny all", 403), ("allow known", 407)])
@row(17)
def test_proxy_that_refuses(network: Network, rule: str, status: int) -> None:
    """A refusal of the proxy is permanent: one attempt for each item, and no request bypasses the proxy."""
    with network.squid(rule):
        done = network.run_job()
    assert (done.code, network.proxies_seen) == (4, [])
    assert kinds(done) == {("error", f"http_{status}")}
    assert {line["attempts"] for line in done.events_named("result")} == {1}


@row(17)
def test_proxy_that_refuses_to_connect(network: Network) -> None:
    """A proxy that refuses the tunnel to a TLS origin counts as a dead origin."""
    with network.squid("deny all"):
        done = network.run_job(scheme="https")
    assert (done.code, network.proxies_seen) == (6, [])
    assert kinds(done) <= {("error", "proxy"), ("cancelled", "origin_down")}
