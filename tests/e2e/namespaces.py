"""Network namespaces of our own: machines that drop packets, and name servers that know nothing or say nothing."""

import subprocess
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from shutil import rmtree

ASK_AGAIN_SECONDS = 0.02
SYN = ("-p", "tcp", "--syn")
LOOK_UP = ("-p", "udp", "--dport", "53")
POD_RESOLVER = """\
nameserver 127.0.0.1
search default.svc.cluster.local svc.cluster.local cluster.local
options ndots:5
"""
"""What the kubelet writes for a pod, but for the address."""

ANY_GIF = "server { listen 80; location / { empty_gif; } }"
"""An nginx that has a GIF under every name."""


@dataclass(frozen=True, slots=True)
class Namespace:
    """A namespace with a loopback interface and nothing else; no packet comes in or goes out."""

    name: str

    @property
    def inside(self) -> Sequence[str]:
        """What to write before a command that shall run in it."""
        return "ip", "netns", "exec", self.name

    def run(self, *command: str) -> str:
        """Run a program inside; give what it prints."""
        return subprocess.run([*self.inside, *command], check=True, capture_output=True, text=True).stdout

    def count(self, *match: str) -> None:
        """Count what is sent and matches from now on."""
        self.run("iptables", "-A", "OUTPUT", *match)

    def drop(self, *match: str) -> None:
        """Lose what arrives and matches from now on, without a word to its sender."""
        self.run("iptables", "-A", "INPUT", *match, "-j", "DROP")

    def accept_again(self) -> None:
        """Lose nothing any more."""
        self.run("iptables", "-F", "INPUT")

    @property
    def counted(self) -> int:
        """How many packets were sent that `count` asked for, retransmissions too."""
        lines = self.run("iptables", "-nvxL", "OUTPUT").splitlines()[2:]
        return sum(int(line.split()[0]) for line in lines)

    def wait_for_packets(self, count: int) -> None:
        """Return as soon as so many packets were counted."""
        while self.counted < count:
            time.sleep(ASK_AGAIN_SECONDS)

    @contextmanager
    def name_server(self) -> Iterator[None]:
        """Run a real name server inside that says of every name that it does not exist."""
        words = ["dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--no-hosts", "--no-resolv", "--pid-file="]
        words += ["--user=root", "--interface=lo", "--bind-interfaces", "--local=//", "--log-facility=-", "--local=/#/"]
        with ended([*self.inside, *words]):
            while "127.0.0.1:53 " not in self.run("ss", "-Hnul"):
                time.sleep(ASK_AGAIN_SECONDS)
            yield

    @contextmanager
    def nginx(self, home: Path, configuration: str) -> Iterator[None]:
        """Run nginx inside, with what stands in its `http` block, in a directory of its own."""
        home.mkdir()
        (home / "nginx.conf").write_text(NGINX.format(home=home, configuration=configuration))
        with ended([*self.inside, "nginx", "-p", str(home), "-c", str(home / "nginx.conf"), "-e", str(home / "log")]):
            while not (home / "pid").exists():  # it is written once nginx listens
                time.sleep(ASK_AGAIN_SECONDS)
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
def ended(command: Sequence[str]) -> Iterator["subprocess.Popen[bytes]"]:
    """Run a program in the background; end it with the block."""
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            yield process
        finally:
            process.terminate()


@contextmanager
def namespace(hosts: str = "") -> Iterator[Namespace]:
    """Make a namespace, with a pod's resolver and these lines in its hosts file; remove all of it after the block."""
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
