"""The pods of the sharded overlay, run as they are written, as an Indexed Job would run them."""

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
from scripted import Answer, Request, ScriptedServer, Step, Throttle

from e2e.pods import Place, Pod, play
from e2e.programs import HARDENED, ROOT, files_in, output, podman
from e2e.tree import number, pick

pytestmark = pytest.mark.e2e
FILES = {f"c{code:03}.gif": numbered_gif(code) for code in range(800)}
SHARDS = 8
KILLED = (2, 5)
ANSWERED_BEFORE = 50
"""So many requests of a shard are answered before its pod is killed: more than are sent at once, less than a share."""


def shard_of(request: Request) -> int:
    """Give the shard whose share a request is of."""
    return crc32(request.target.removeprefix("/").removesuffix(".gif").upper().encode()) % SHARDS


@dataclass
class Origin:
    """Serves every file, but to the shards in KILLED only a few until their first pod is dead.

    Handler threads count and set `asked`; the test awaits it, and sets `killed`.
    """

    asked: dict[int, Event] = field(default_factory=lambda: {shard: Event() for shard in KILLED})
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
        self.asked[shard].set()
        return Throttle(self.killed[shard], answer)


@dataclass
class Job:
    """An Indexed Job's pods on this machine: `documents` describe them, `place` but for the index is where they run."""

    documents: list[object]
    place: Place
    home: Path
    pods: list[Pod] = field(default_factory=list)

    def spec(self, path: str) -> int:
        """Give a number of the Job."""
        (cronjob,) = (document for document in self.documents if pick(document, "kind") == "CronJob")
        return number(cronjob, f"spec.jobTemplate.spec.{path}")

    def start(self, shard: int) -> Pod:
        """Start a pod for a shard; called by the threads that stand for the Job's parallelism."""
        name = f"pod-{self.place.volume}-{shard}-{len(self.pods)}"
        self.pods.append(Pod(name))
        return play(self.documents, name, replace(self.place, index=shard), self.home)

    def exit_codes(self, shard: int, origin: Origin) -> list[str]:
        """Run a shard to its end, as often as that takes."""
        codes = []
        if shard in KILLED:
            first = self.start(shard)
            assert origin.asked[shard].wait(60), first.logged()
            first.kill()
            codes.append(first.wait())
            origin.killed[shard].set()
        return [*codes, self.start(shard).wait()]


@pytest.fixture
def job(image: str, volume: str, tmp_path: Path) -> Iterator[Job]:
    """Give the Job of the rendered overlay; its pods end with the test."""
    rendered = output("kubectl", "kustomize", str(ROOT / "k8s" / "overlays" / "sharded"))
    codes = [file.removesuffix(".gif") for file in FILES]
    made = Job(list(yaml.safe_load_all(rendered)), Place(image, volume, {}, codes), tmp_path)
    yield made
    for pod in made.pods:
        pod.remove()


def mountpoint(volume: str) -> Path:
    """Give where a volume lies on this machine."""
    return Path(output("podman", "volume", "inspect", "--format", "{{.Mountpoint}}", volume).strip())


def recorded(manifests: list[Path]) -> list[str]:
    """Give the file of each entry, in order; every line must be whole."""
    rows = [json.loads(line) for manifest in manifests for line in manifest.read_bytes().splitlines()[1:]]
    return sorted(row["file"] for row in rows)


def test_killed_shards_are_made_whole(job: Job) -> None:
    """Of eight shards, four at a time, two are killed in mid-run and run again: each file is there, recorded once."""
    origin = Origin()
    assert job.spec("completions") == SHARDS
    with origin.server, ThreadPoolExecutor(job.spec("parallelism")) as pods:
        settings = {"FLAGJOB_URL": origin.server.url("/{cc}.gif"), "FLAGJOB_METRICS_ADDRESS": ":0"}
        job.place = replace(job.place, settings=settings)
        exit_codes = list(pods.map(lambda shard: job.exit_codes(shard, origin), range(SHARDS)))
    assert exit_codes == [["137", "0"] if shard in KILLED else ["0"] for shard in range(SHARDS)]
    conditional = [shard_of(request) for request in origin.server.requests if "if-none-match" in request.headers]
    assert set(conditional) == set(KILLED), "what a killed pod had stored is not downloaded again"
    files, volume = files_in(job.place.volume), f"{job.place.volume}:/data"
    assert {name: content for name, content in files.items() if name.endswith(".gif")} == FILES
    manifests = sorted(mountpoint(job.place.volume).glob(".flagjob/manifest-*"))
    assert [path.name for path in manifests] == [f"manifest-{shard}-of-{SHARDS}.jsonl" for shard in range(SHARDS)]
    assert recorded(manifests) == sorted(FILES)
    sandbox = ("--rm", "--network", "none", *HARDENED, "--user", "65532:65532", "--volume", volume)
    verified = podman("run", *sandbox, job.place.image, "verify")
    counts = json.loads(verified.stdout.splitlines()[-1])["counts"]
    assert (verified.returncode, counts["whole"], sum(counts.values())) == (0, len(FILES), len(FILES))
