"""A locale that no system has by itself: names are in UTF-8 also where its encoding has other bytes for them."""

import subprocess
import sys
from pathlib import Path

import pytest
from test_locales import check_names

from e2e.programs import output

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def latin_1(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Make a locale of ISO-8859-1, and return the variables that choose it."""
    directory = tmp_path_factory.mktemp("locales")
    # Its exit code is 1 where it has warned, as of a character that the encoding has not.
    command = ["localedef", "-i", "de_DE", "-f", "ISO-8859-1", str(directory / "de_DE.ISO-8859-1")]
    subprocess.run(command, check=False)
    return {"LOCPATH": str(directory), "LC_ALL": "de_DE.ISO-8859-1"}


def test_the_locale_is_there(latin_1: dict[str, str]) -> None:
    """Python takes its encoding for names; without that the next test would show nothing."""
    variables = [f"{name}={value}" for name, value in latin_1.items()]
    program = "import sys; print(sys.getfilesystemencoding())"
    assert output("env", *variables, sys.executable, "-c", program).strip() == "iso8859-1"


@pytest.mark.parametrize("publish", ["each", "set"])
def test_files_are_named_in_utf_8(tmp_path: Path, latin_1: dict[str, str], publish: str) -> None:
    """Names, SHA256SUMS, verify and a second run are as in a locale of UTF-8."""
    check_names(tmp_path, latin_1, publish)
