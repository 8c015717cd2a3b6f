"""The pods of the sharded overlay, run as they are written, in the way of an Indexed Job."""

import json
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Event
from zlib import crc32

import pytest
import yaml
from images import numbered_gif
from scripted import Answer, Hold, Request, ScriptedServer, Step

from e2e.pods import Pod, PodEnvironment, play
from e2e.programs import HARDENED, ROOT, files_in, output, podman
from e2e.tree import number, pick

pytestmark = pytest.mark.e2e
FILES = {f"c{code:03}.gif": numbered_gif(code) for code in range(800)}
SHARDS = 8
KILLED = (2, 5)
ANSWERED_BEFORE = 50
"""How many requests of a shard are answered before its pod is killed: more than concurrent ones, less than all."""


def shard_of(request: Request) -> int:
    """Return the shard that a request belongs to."""
    return crc32(request.target.removeprefix("/").removesuffix(".gif").upper().encode()) % SHARDS


@dataclass
class BlockingOrigin:
    """Serves every file, but answers the shards in KILLED only in part until their first pod is dead.

    Handler threads count and set `blocked`; the test waits for it, and sets `killed`.
    """

    blocked: dict[int, Event] = field(default_factory=lambda: {shard: Event() for shard in KILLED})
    killed: dict[int, Event] = field(default_factory=lambda: {shard: Event() for shard in KILLED})
    counts: Counter[int] = field(default_factory=Counter)
    server: ScriptedServer = field(init=False)

    def __post_init__(self) -> None:
        self.server = ScriptedServer({f"/{file}": self._step for file in FILES})

    def _step(self, request: Request) -> Step:
        file, shard = request.target.removeprefix("/"), shard_of(request)
        etag = {"ETag": f'"{file}"'}
        answer = Answer(304, etag) if "if-none-match" in request.headers else Answer(200, etag, FILES[file])
        if shard not in KILLED or self.killed[shard].is_set():
            return answer
        self.counts[shard] += 1
        if self.counts[shard] <= ANSWERED_BEFORE:
            return answer
        self.blocked[shard].set()
        return Hold(self.killed[shard], answer)


@dataclass
class Job:
    """The pods of an Indexed Job on this machine: `documents` describe them, `environment` is where they run."""

    documents: list[object]
    environment: PodEnvironment
    home: Path
    pods: list[Pod] = field(default_factory=list)

    def spec(self, path: str) -> int:
        """Return a number of the Job's spec."""
        (cronjob,) = (document for document in self.documents if pick(document, "kind") == "CronJob")
        return number(cronjob, f"spec.jobTemplate.spec.{path}")

    def start(self, shard: int) -> Pod:
        """Start a pod for a shard; called by as many threads as the Job's parallelism."""
        name = f"pod-{self.environment.volume}-{shard}-{len(self.pods)}"
        self.pods.append(Pod(name))
        return play(self.documents, name, replace(self.environment, index=shard), self.home)

    def exit_codes(self, shard: int, origin: BlockingOrigin) -> list[str]:
        """Run a shard's pods to the end; return their exit codes."""
        codes = []
        if shard in KILLED:
            first = self.start(shard)
            assert origin.blocked[shard].wait(60), first.read_log()
            first.kill()
            codes.append(first.wait())
            origin.killed[shard].set()
        return [*codes, self.start(shard).wait()]


@pytest.fixture
def job(image: str, volume: str, tmp_path: Path) -> Iterator[Job]:
    """Yield the Job of the rendered overlay; its pods are removed after the test."""
    rendered = output("kubectl", "kustomize", str(ROOT / "k8s" / "overlays" / "sharded"))
    codes = [file.removesuffix(".gif") for file in FILES]
    made = Job(list(yaml.safe_load_all(rendered)), PodEnvironment(image, volume, {}, codes), tmp_path)
    yield made
    for pod in made.pods:
        pod.remove()


def mountpoint(volume: str) -> Path:
    """Return the path of a volume on this machine."""
    return Path(output("podman", "volume", "inspect", "--format", "{{.Mountpoint}}", volume).strip())


def recorded_files(manifests: list[Path]) -> list[str]:
    """Return the file of each manifest entry, sorted; every line must be whole."""
    rows = [json.loads(line) for manifest in manifests for line in manifest.read_bytes().splitlines()[1:]]
    return sorted(row["file"] for row in rows)


def test_killed_shards_are_completed(job: Job) -> None:
    """Two of eight shards are killed in mid-run and run again: every file exists, and is recorded once."""
    origin = BlockingOrigin()
    assert job.spec("completions") == SHARDS
    with origin.server, ThreadPoolExecutor(job.spec("parallelism")) as pods:
        settings = {"FLAGJOB_URL": origin.server.url("/{cc}.gif"), "FLAGJOB_METRICS_ADDRESS": ":0"}
        job.environment = replace(job.environment, settings=settings)
        exit_codes = list(pods.map(lambda shard: job.exit_codes(shard, origin), range(SHARDS)))
    assert exit_codes == [["137", "0"] if shard in KILLED else ["0"] for shard in range(SHARDS)]
    conditional = [shard_of(request) for request in origin.server.requests if "if-none-match" in request.headers]
    assert set(conditional) == set(KILLED), "what a killed pod had stored is not downloaded again"
    files, volume = files_in(job.environment.volume), f"{job.environment.volume}:/data"
    assert {name: content for name, content in files.items() if name.endswith(".gif")} == FILES
    manifests = sorted(mountpoint(job.environment.volume).glob(".flagjob/manifest-*"))
    assert [path.name for path in manifests] == [f"manifest-{shard}-of-{SHARDS}.jsonl" for shard in range(SHARDS)]
    assert recorded_files(manifests) == sorted(FILES)
    sandbox = ("--rm", "--network", "none", *HARDENED, "--user", "65532:65532", "--volume", volume)
    verified = podman("run", *sandbox, job.environment.image, "verify")
    counts = json.loads(verified.stdout.splitlines()[-1])["counts"]
    assert (verified.returncode, counts["whole"], sum(counts.values())) == (0, len(FILES), len(FILES))
