"""Behind a real proxy: what it refuses is refused, and nothing ever goes past it."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from rows import row

from e2e.live import Ended, ran
from e2e.namespaces import ASK_AGAIN_SECONDS, Namespace, ended, namespace

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]
CODES = 40
"""More than the breaker bears in a row, fewer than a refusal of everything."""
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
    def ways(self) -> list[str]:
        """Give which proxy each request to the origin says that it came through."""
        return (self.home / "nginx" / "ways").read_text().splitlines()

    @contextmanager
    def squid(self, *rules: str) -> Iterator[None]:
        """Run a proxy with these rules."""
        configuration = self.home / "squid.conf"
        configuration.write_text(SQUID + "".join(f"http_access {rule}\n" for rule in rules))
        with ended([*self.machine.inside, "squid", "-N", "-f", str(configuration)]):
            while "127.0.0.1:3128" not in self.machine.run("ss", "-Hntl"):
                time.sleep(ASK_AGAIN_SECONDS)
            yield

    def mirrored(self, proxy: str = "127.0.0.1:3128", scheme: str = "http") -> Ended:
        """Run the job behind a proxy."""
        settings = {
            "FLAGJOB_URL": f"{scheme}://127.0.0.1/{{cc}}.gif",
            "FLAGJOB_CODES": " ".join(f"c{number}" for number in range(CODES)),
            "FLAGJOB_DEST": str(self.home / "out"),
            "http_proxy": f"http://{proxy}",
            "https_proxy": f"http://{proxy}",
        }
        done = ran(self.home, settings, self.machine.inside)
        assert done.stderr == ""
        assert len(set(done.codes)) == CODES == len(done.codes)
        return done


@pytest.fixture
def network(tmp_path: Path) -> Iterator[Network]:
    """Give a machine with an origin on it that anybody could reach without a proxy."""
    home = tmp_path / "nginx"
    with namespace() as machine, machine.nginx(home, ORIGIN.format(home=home)):
        yield Network(machine, tmp_path)


def kinds(done: Ended) -> set[tuple[str, str | None]]:
    return {(line["status"], line["reason"]) for line in done.named("result")}


@row(17)
def test_proxy_that_works(network: Network) -> None:
    """Through a proxy that allows it all files arrive, and each request went through it."""
    with network.squid("allow all"):
        done = network.mirrored()
    assert (done.code, kinds(done)) == (0, {("ok", None)})
    assert len(network.ways) == CODES
    assert all("proxy.example" in way for way in network.ways)


@pytest.mark.parametrize("scheme", ["http", "https"])
@row(17)
def test_proxy_that_is_dead(network: Network, scheme: str) -> None:
    """A proxy that is not there counts as an origin that is not there; nobody goes past it."""
    done = network.mirrored(proxy="127.0.0.1:9", scheme=scheme)
    assert (done.code, network.ways) == (6, [])
    assert kinds(done) <= {("error", "proxy"), ("cancelled", "origin_down")}
    assert "Could not connect" in done.named("origin_down")[0]["error"]


@pytest.mark.parametrize(("rule", "status"), [("deny all", 403), ("allow known", 407)])
@row(17)
def test_proxy_that_refuses(network: Network, rule: str, status: int) -> None:
    """What a proxy refuses is refused for good: one request an item, and none past the proxy."""
    with network.squid(rule):
        done = network.mirrored()
    assert (done.code, network.ways) == (4, [])
    assert kinds(done) == {("error", f"http_{status}")}
    assert {line["attempts"] for line in done.named("result")} == {1}


@row(17)
def test_proxy_that_refuses_to_connect(network: Network) -> None:
    """A proxy that makes no tunnel to a TLS origin counts as an origin that is not there."""
    with network.squid("deny all"):
        done = network.mirrored(scheme="https")
    assert (done.code, network.ways) == (6, [])
    assert kinds(done) <= {("error", "proxy"), ("cancelled", "origin_down")}
