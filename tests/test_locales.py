"""Names beyond ASCII, and with characters that URLs encode, in every locale and in a bucket."""

import hashlib
import os
import subprocess
from io import BytesIO
from pathlib import Path
from urllib.parse import unquote

import pytest
from command import environment, flagjob
from images import PNG
from inprocess import run
from scripted import Answer, ScriptedServer, Step
from test_scripted_bucket import Bucket, variables

from job.cancellation import Cancellation

IDS = ["a+b", "50%", "k=v", "caf\u00e9", "D\u00fcsseldorf/Stra\u00dfe", "\u5317\u4eac", "a%2Bb"]
FILES = {f"{name}.png" for name in IDS}


class AnyPath(dict[str, Step]):
    """A script that serves one picture for each of the ids, and keeps which were asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []

    def get(self, key: str, default: object = None) -> Step:
        """Return the picture if the path is that of an id, percent-encoded."""
        del default
        self.asked.append(unquote(key).removeprefix("/"))
        return Answer(body=PNG) if self.asked[-1] in FILES else Answer(404)


def check_names(directory: Path, locale: dict[str, str], publish: str) -> None:
    """Assert that runs with these variables of a locale leave what they leave in a locale of UTF-8."""
    (directory / "ids").write_text("\n".join(IDS), "utf-8")
    script = AnyPath()
    with ScriptedServer(script) as server:
        settings = {"FLAGJOB_URL": server.url("/{id}.png"), "FLAGJOB_CODES_FILE": "ids", "FLAGJOB_PUBLISH": publish}
        settings |= locale
        first = flagjob(cwd=directory, settings=settings)
        second = flagjob(cwd=directory, settings=settings)
    verified = flagjob("verify", cwd=directory, settings=settings)
    assert first.statuses == dict.fromkeys(IDS, "ok")
    assert second.statuses == dict.fromkeys(IDS, "unchanged")
    assert (first.code, second.code, sorted(script.asked)) == (0, 0, sorted(2 * list(FILES)))
    assert (verified.code, verified.events[-1]["counts"]["whole"]) == (0, len(IDS))
    root = directory / "downloads" / ("current" if publish == "set" else "")
    found = {os.fsencode(path.relative_to(root)) for path in root.rglob("*.png")}
    assert found == {file.encode("utf-8") for file in FILES}
    digest = hashlib.sha256(PNG).hexdigest()
    sums = (root / "SHA256SUMS").read_text("utf-8").splitlines()
    assert sorted(sums) == sorted(f"{digest}  {file}" for file in FILES)
    check = ["sha256sum", "--check", "--quiet", "SHA256SUMS"]
    assert subprocess.run(check, cwd=root, env=environment(), check=False).returncode == 0


@pytest.mark.slow
@pytest.mark.parametrize("name", ["C", "POSIX"])
@pytest.mark.parametrize("publish", ["each", "set"])
def test_files_are_named_in_utf_8_in_every_locale(tmp_path: Path, name: str, publish: str) -> None:
    """Names, SHA256SUMS, verify and a second run are as in a locale of UTF-8; e2e/ has one of Latin-1."""
    check_names(tmp_path, {"LC_ALL": name, "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, publish)


@pytest.mark.parametrize("executor", ["threads", "greenlets"])
def test_objects_are_named_as_files_are(monkeypatch: pytest.MonkeyPatch, executor: str) -> None:
    """A bucket has each id as its key, encoded once; a second run finds them all, and the listing tells one gone."""
    bucket = Bucket()
    with ScriptedServer(AnyPath()) as origin, ScriptedServer(bucket) as server:
        for variable, value in variables(server.url()).items():
            monkeypatch.setenv(variable, value)

        def again() -> dict[str, str]:
            settings = {"url": origin.url("/{id}.png"), "executor": executor}
            done = run(IDS, Cancellation(), BytesIO(), dest="s3://b/p", **settings)
            assert done.code == 0
            return done.statuses

        assert again() == dict.fromkeys(IDS, "ok")
        assert {key for key in bucket.objects if ".flagjob" not in key} == {
            f"p/{name}" for name in (*FILES, "SHA256SUMS")
        }
        assert {line.split("  ")[1] for line in bucket.objects["p/SHA256SUMS"].decode().splitlines()} == FILES
        assert again() == dict.fromkeys(IDS, "unchanged")
        del bucket.objects["p/a+b.png"]
        assert again() == {**dict.fromkeys(IDS, "unchanged"), "a+b": "ok"}
