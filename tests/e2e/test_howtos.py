"""The how-tos: each works by itself on a fresh clone, and what they say of curl is so."""

import re
import subprocess
import sys
from gzip import compress
from pathlib import Path

import pytest
from images import GIF, HTML
from scripted import Answer, Raw, ScriptedServer, Step

from e2e.programs import ROOT, events, flagjob
from e2e.test_commands import TYPED, commands, expected_codes

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]
PAGES = ["nightly-mirror", "tiles", "last-night", "from-curl", "systemd"]
HEAD = b"HTTP/1.1 200 OK\r\nContent-"
PACKED = compress(GIF * 50)
ANSWERS: list[Step] = [
    Answer(body=HTML),
    Answer(body=GIF[:20]),
    Answer(),
    Raw(HEAD),
    Answer(headers={"Content-Encoding": "gzip"}, body=PACKED[: len(PACKED) // 2]),
    Answer(302, {"Location": "/elsewhere.gif"}),
    Raw(HEAD + b"Length: 100\r\n\r\n" + GIF[:20]),
]
"""What the servers of the table do, row by row."""
LEFT = [HTML, GIF[:20], b"", b"", PACKED[: len(PACKED) // 2], b"", GIF[:20]]
"""What curl leaves in place of yesterday's file."""


@pytest.mark.parametrize("page", PAGES)
def test_page_stands_alone(page: str, tmp_path: Path) -> None:
    """On a fresh clone the commands of the page alone end as it says, and leave no process."""
    typed = [*commands(f"docs/{page}.md"), "wait"]
    subprocess.run(["git", "clone", "--quiet", ROOT, tmp_path / "clone"], check=True)
    (tmp_path / "clone" / ".venv").symlink_to(Path(sys.executable).parents[1])
    (tmp_path / "typed").write_text("".join(f"{command}\n" for command in typed))
    (tmp_path / "script").write_text(f"ip link set lo up\n{TYPED}")
    isolated = ["unshare", "--net", "--mount", "--propagation", "private"]
    shell = [*isolated, "bash", str(tmp_path / "script"), "/etc/hosts", str(tmp_path / "typed")]
    done = subprocess.run(shell, cwd=tmp_path / "clone", check=False, capture_output=True, text=True, timeout=200)
    codes = [int(code) for code in re.findall(r"^flagjob ended: (.*)$", done.stdout, re.MULTILINE)]
    wrong = [pair for pair in zip(typed, codes, strict=True) if pair[1] not in expected_codes(pair[0])]
    assert wrong == [], done.stdout + done.stderr


def rows() -> list[list[str]]:
    """Return the cells of the table of what curl takes for a success."""
    found = re.findall(r"^\| (.*) \|$", (ROOT / "docs" / "from-curl.md").read_text("utf-8"), re.MULTILINE)
    return [row.split(" | ") for row in found[1 : len(ANSWERS) + 1]]


@pytest.mark.parametrize("number", range(len(ANSWERS)))
def test_what_curl_takes_for_a_success(number: int, tmp_path: Path) -> None:
    """For each answer of the table curl has the exit code, and leaves the bytes, that it says; flagjob the reason."""
    _, curl, ours = rows()[number]
    (tmp_path / "br.gif").write_bytes(b"of yesterday")
    with ScriptedServer({"/br.gif": ANSWERS[number], "/elsewhere.gif": Answer(body=GIF)}) as server:
        asked = ["curl", "--silent", "--fail", "--output", str(tmp_path / "br.gif"), server.url("/br.gif")]
        code = subprocess.run(asked, check=False).returncode
        done = flagjob(
            {
                "FLAGJOB_URL": server.url("/{cc}.gif"),
                "FLAGJOB_DEST": str(tmp_path / "ours"),
                "FLAGJOB_MAX_ATTEMPTS": "1",
            },
            "BR",
        )
    (result,) = events(done.stdout, "result")
    assert curl.startswith(f"exit code {code},")
    assert (tmp_path / "br.gif").read_bytes() == LEFT[number]
    assert result["reason"] == (re.findall(r"`(\w+)`", ours) or [None])[0]


def test_the_last_url_hides_the_others(tmp_path: Path) -> None:
    """Without -Z and --fail-early curl forgets that a URL before the last one failed."""
    with ScriptedServer({"/br.gif": Answer(404), "/cn.gif": Answer(body=GIF)}) as server:
        curl = ["curl", "--silent", "--fail", "--output", str(tmp_path / "#1"), server.url("/{br,cn}.gif")]
        codes = [subprocess.run([*curl, *more], check=False).returncode for more in ([], ["-Z"], ["--fail-early"])]
    assert codes == [0, 22, 22]
