"""Network namespaces: machines that drop packets, and name servers that know no name or do not answer."""

import subprocess
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from shutil import rmtree

POLL_SECONDS = 0.02
SYN = ("-p", "tcp", "--syn")
LOOK_UP = ("-p", "udp", "--dport", "53")
POD_RESOLVER = """\
nameserver 127.0.0.1
search default.svc.cluster.local svc.cluster.local cluster.local
options ndots:5
"""
"""The resolver configuration that the kubelet writes for a pod, but for the address."""

ANY_GIF = "server { listen 80; location / { empty_gif; } }"
"""A configuration of nginx that serves a GIF under every name."""


@dataclass(frozen=True, slots=True)
class Namespace:
    """A namespace with a loopback interface only; no packet enters or leaves it."""

    name: str

    @property
    def command_prefix(self) -> Sequence[str]:
        """The words before a command that runs it in this namespace."""
        return "ip", "netns", "exec", self.name

    def run(self, *command: str) -> str:
        """Run a program in the namespace; return what it prints."""
        return subprocess.run([*self.command_prefix, *command], check=True, capture_output=True, text=True).stdout

    def count(self, *match: str) -> None:
        """Count the matching packets that are sent from now on."""
        self.run("iptables", "-A", "OUTPUT", *match)

    def drop(self, *match: str) -> None:
        """Drop the matching packets that arrive from now on, without a reply."""
        self.run("iptables", "-A", "INPUT", *match, "-j", "DROP")

    def stop_dropping(self) -> None:
        """Drop no packet any more."""
        self.run("iptables", "-F", "INPUT")

    @property
    def packet_count(self) -> int:
        """How many packets were sent that `count` matches, retransmissions included."""
        lines = self.run("iptables", "-nvxL", "OUTPUT").splitlines()[2:]
        return sum(int(line.split()[0]) for line in lines)

    def wait_for_packets(self, count: int) -> None:
        """Return as soon as that many packets were counted."""
        while self.packet_count < count:
            time.sleep(POLL_SECONDS)

    @contextmanager
    def name_server(self) -> Iterator[None]:
        """Run a real name server in the namespace that knows no name."""
        words = ["dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--no-hosts", "--no-resolv", "--pid-file="]
        words += ["--user=root", "--interface=lo", "--bind-interfaces", "--local=//", "--log-facility=-", "--local=/#/"]
        with background([*self.command_prefix, *words]):
            while "127.0.0.1:53 " not in self.run("ss", "-Hnul"):
                time.sleep(POLL_SECONDS)
            yield

    @contextmanager
    def nginx(self, home: Path, configuration: str) -> Iterator[None]:
        """Run nginx in the namespace, with this content of its `http` block, in a directory of its own."""
        home.mkdir()
        (home / "nginx.conf").write_text(NGINX.format(home=home, configuration=configuration))
        with background(
            [*self.command_prefix, "nginx", "-p", str(home), "-c", str(home / "nginx.conf"), "-e", str(home / "log")]
        ):
            while not (home / "pid").exists():  # it is written once nginx listens
                time.sleep(POLL_SECONDS)
            yield


NGINX = """
daemon off;
user root;
worker_processes 1;
pid {home}/pid;
events {{ worker_connections 512; }}
http {{
    types {{ image/gif gif; }}
    access_log off;
    client_body_temp_path {home}/body;
    proxy_temp_path {home}/proxy;
    fastcgi_temp_path {home}/fastcgi;
    uwsgi_temp_path {home}/uwsgi;
    scgi_temp_path {home}/scgi;
    {configuration}
}}
"""


@contextmanager
def background(command: Sequence[str]) -> Iterator["subprocess.Popen[bytes]"]:
    """Run a program in the background until the end of the block."""
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            yield process
        finally:
            process.terminate()


@contextmanager
def namespace(hosts: str = "") -> Iterator[Namespace]:
    """Yield a namespace with a pod's resolver and these lines in its hosts file; remove it after the block."""
    name = f"flagjob-{uuid.uuid4().hex[:12]}"
    etc = Path("/etc/netns") / name
    with ExitStack() as stack:
        subprocess.run(["ip", "netns", "add", name], check=True)
        stack.callback(subprocess.run, ["ip", "netns", "delete", name], check=True)
        etc.mkdir(parents=True)
        stack.callback(rmtree, etc)
        (etc / "resolv.conf").write_text(POD_RESOLVER)
        (etc / "hosts").write_text(f"127.0.0.1 localhost\n{hosts}")
        (etc / "nsswitch.conf").write_text("hosts: files dns\n")
        made = Namespace(name)
        made.run("ip", "link", "set", "lo", "up")
        yield made
