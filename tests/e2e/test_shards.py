"""Eight shards of one list, four at a time, two of which run twice at the same time."""

import json
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event

import pytest
from command import Done, flagjob
from images import numbered_gif
from scripted import Answer, Hold, Request, ScriptedServer

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]
SHARDS = 8
CODES = 10_000
AT_A_TIME = 4
FILES = {f"c{number:05}.gif": numbered_gif(number, 200 + number % 300) for number in range(CODES)}
TWINS = {"shard-2/first": "shard-2/second", "shard-5/first": "shard-5/second"}
"""User-Agents of two pods that run the same shard."""
PODS = [*TWINS, *TWINS.values(), *(f"shard-{shard}/only" for shard in range(SHARDS) if shard not in {2, 5})]


@dataclass
class TwinOrigin:
    """Serves each file, but answers a twin only after both have sent a request, so that they run concurrently."""

    arrived: dict[str, Event] = field(default_factory=lambda: {pod: Event() for pod in PODS})
    server: ScriptedServer = field(init=False)

    def __post_init__(self) -> None:
        self.server = ScriptedServer({f"/{file}": self._answer for file in FILES})

    def requested_by(self, shard: int) -> list[str]:
        """Return the files that the pods of one shard requested."""
        prefix = f"shard-{shard}/"
        return [
            request.target[1:] for request in self.server.requests if request.headers["user-agent"].startswith(prefix)
        ]

    def _answer(self, request: Request) -> Hold:
        file, pod = request.target[1:], request.headers["user-agent"]
        self.arrived[pod].set()
        twin = next((other for twins in TWINS.items() for other in twins if pod in twins and other != pod), pod)
        etag = {"ETag": f'"{file}"'}
        unchanged = request.headers.get("if-none-match") == etag["ETag"]
        return Hold(self.arrived[twin], Answer(304, etag) if unchanged else Answer(200, etag, FILES[file]))


def run(pod: str, server: ScriptedServer, home: Path) -> Done:
    """Run one pod to its end."""
    settings = {
        "FLAGJOB_URL": server.url("/{cc}.gif"),
        "FLAGJOB_CODES_FILE": str(home / "codes"),
        "FLAGJOB_DEST": str(home / "dest"),
        "FLAGJOB_SHARD_INDEX": pod.removeprefix("shard-").partition("/")[0],
        "FLAGJOB_SHARD_COUNT": str(SHARDS),
        "FLAGJOB_USER_AGENT": pod,
        "FLAGJOB_LOG_RESULTS": "problems",
    }
    return flagjob(cwd=home, settings=settings)


def recorded_files(manifest: Path) -> list[str]:
    """Return the file of each manifest entry, sorted; every line must be whole."""
    _, *rows = [json.loads(line) for line in manifest.read_bytes().splitlines()]
    return sorted(row["file"] for row in rows)


def listed_files(sums: Path) -> list[str]:
    """Return the files that a SHA256SUMS lists, sorted; each must have its digest."""
    subprocess.run(["sha256sum", "--strict", "--quiet", "-c", sums.name], cwd=sums.parent, check=True)
    return sorted(line.split("  ")[1] for line in sums.read_text().splitlines())


def test_shards_divide_a_list_even_with_twin_pods(tmp_path: Path) -> None:
    """Eight shards request each file once; twin pods leave a whole manifest and valid checksums."""
    (tmp_path / "codes").write_text("\n".join(file.removesuffix(".gif") for file in FILES))
    origin, dest = TwinOrigin(), tmp_path / "dest"
    with origin.server, ThreadPoolExecutor(AT_A_TIME) as pods:
        done = list(pods.map(lambda pod: run(pod, origin.server, tmp_path), PODS))
    assert {pod: (one.code, one.stderr) for pod, one in zip(PODS, done, strict=True)} == dict.fromkeys(PODS, (0, ""))
    assert {path.name: path.read_bytes() for path in dest.glob("*.gif")} == FILES
    requested = [origin.requested_by(shard) for shard in range(SHARDS)]
    assert sorted(file for shard in requested for file in set(shard)) == sorted(FILES)
    assert [len(set(requested[shard])) - len(requested[shard]) for shard in range(SHARDS) if shard not in {2, 5}] == [
        0
    ] * 6
    for shard, files in enumerate(requested):
        assert recorded_files(dest / ".flagjob" / f"manifest-{shard}-of-{SHARDS}.jsonl") == sorted(set(files))
        assert listed_files(dest / f"SHA256SUMS-{shard}-of-{SHARDS}") == sorted(set(files))
    assert list((dest / ".flagjob" / "tmp").iterdir()) == []
