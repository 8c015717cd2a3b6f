"""The container image: its Dockerfile, its size, and exactly the files that it must contain."""

import json
import re
import tarfile
import tomllib
from collections.abc import Mapping
from pathlib import Path

import pytest

from e2e.conftest import SOURCE
from e2e.programs import HARDENED, ROOT, output, podman, run
from e2e.tree import branch, each, pick, text

pytestmark = pytest.mark.e2e
LABEL = "org.opencontainers.image."
MOST_BYTES = 40_000_000
MISSING_BYTECODE = """
import runpy, sys
from pathlib import Path
sys.argv = ["flagjob", "--server", "local"]
try:
    runpy.run_module("job", run_name="__main__", alter_sys=True)
except SystemExit:
    import obstore.store, obstore.exceptions  # imported only for a destination in a bucket
    specs = [getattr(module, "__spec__", None) for module in list(sys.modules.values())]
    files = [spec.cached for spec in specs if spec and (spec.origin or "").endswith(".py")]
    print(len(files) > 100, [file for file in files if not Path(file).exists()])
"""
SPARE_BYTECODE = """
from importlib.util import find_spec
from pathlib import Path
print([name for name in ("tqdm.gui", "unittest.case") if Path(find_spec(name).cached).exists()])
"""
INSTALLED = """
import json
from importlib.metadata import distributions
print(json.dumps(sorted((found.name, found.version) for found in distributions(path=["PACKAGES"]))))
"""


def run_in_image(image: str, *command: str) -> str:
    """Return what a program in the image prints."""
    sandbox = ("--rm", "--network", "none", *HARDENED, "--tmpfs", "/data", "--entrypoint", command[0])
    return output("podman", "run", *sandbox, image, *command[1:])


def size_bytes(image: str) -> int:
    """Return the unpacked size of all layers of an image."""
    return int(output("podman", "image", "inspect", "--format", "{{.Size}}", image))


def labels(image: str) -> dict[str, str]:
    """Return the image's labels of the Open Container Initiative, without their prefix."""
    found = json.loads(output("podman", "image", "inspect", "--format", "{{json .Labels}}", image))
    return {name.removeprefix(LABEL): value for name, value in found.items() if name.startswith(LABEL)}


def normalized_name(name: str) -> str:
    """Return a package's normalized name (packaging.python.org, names and normalization)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def digests_in_lock() -> Mapping[str, set[str]]:
    """Return the digests in the lock file by `name==version`."""
    packages = re.split(r"^(?=\w)", (ROOT / "requirements.lock").read_text(), flags=re.MULTILINE)
    return {package.split()[0]: set(re.findall(r"sha256:([0-9a-f]{64})", package)) for package in packages if package}


def test_dockerfile_is_clean() -> None:
    """Hadolint finds no fault in the Dockerfile."""
    checked = run("hadolint", "--no-color", "Dockerfile")
    assert (checked.returncode, checked.stdout) == (0, "")


def test_size(image: str) -> None:
    """The image adds at most 40 MB to its base, unpacked."""
    base = output(".ci/containers.sh").strip()
    assert 0 < size_bytes(image) - size_bytes(base) <= MOST_BYTES


def test_all_bytecode_is_present(image: str) -> None:
    """A run imports no module that must be compiled first."""
    assert run_in_image(image, "python3", "-c", MISSING_BYTECODE).splitlines()[-1] == "True []"


def test_no_bytecode_is_unused(image: str) -> None:
    """Modules that no run imports are not compiled."""
    assert run_in_image(image, "python3", "-c", SPARE_BYTECODE) == "[]\n"


def test_image_labels(image: str) -> None:
    """The labels have the program's version, the revision, the base image, the licence and where to read more."""
    project = branch(tomllib.loads((ROOT / "pyproject.toml").read_text()), "project")
    head = run("git", "rev-parse", "--quiet", "--verify", "HEAD").stdout.strip() or "unknown"
    found = labels(image)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d([+-]\d\d:\d\d|Z)", found.pop("created"))
    assert found == {
        "title": text(project, "name"),
        "description": text(project, "description"),
        "version": run_in_image(image, "python3", "-m", "job", "--version").split()[-1],
        "revision": head,
        "licenses": text(project, "license"),
        "base.name": output(".ci/containers.sh").strip(),
        "source": SOURCE,
        "url": SOURCE,
        "documentation": f"{SOURCE}/blob/{head}/README.md",
    }


def test_inventory_is_complete(image: str) -> None:
    """The bill of materials has exactly the image's packages, with their versions and a digest of the lock."""
    packages = run_in_image(image, "sh", "-c", "echo /app/lib/python3*/site-packages").strip()
    installed = json.loads(run_in_image(image, "python3", "-c", INSTALLED.replace("PACKAGES", packages)))
    bill = json.loads(run_in_image(image, "cat", "/app/flagjob.cdx.json"))
    listed = {
        f"{normalized_name(text(component, 'name'))}=={text(component, 'version')}": {
            text(digest, "content") for digest in each(component, "hashes")
        }
        for component in each(bill, "components")
        if text(component, "type") == "library"
    }
    assert (bill["bomFormat"], pick(bill, "metadata.component.version")) == ("CycloneDX", labels(image)["version"])
    assert sorted(listed) == sorted(f"{normalized_name(name)}=={version}" for name, version in installed)
    assert [
        name for name, digests in listed.items() if len(digests) != 1 or not digests <= digests_in_lock()[name]
    ] == []


def test_inventory_includes_the_base(image: str) -> None:
    """The bill of materials has the base image by name, each Debian package in it, and its Python."""
    bill = json.loads(run_in_image(image, "cat", "/app/flagjob.cdx.json"))
    (base,) = (component for component in each(bill, "components") if pick(component, "type") == "container")
    python, *packages = each(base, "components")
    lines = run_in_image(image, "dpkg-query", "--show", "--showformat", "${Package} ${Version} ${Architecture}\n")
    installed = sorted(line.split() for line in lines.splitlines())
    assert text(base, "name") == labels(image)["base.name"]
    assert sorted([text(package, "name"), text(package, "version")] for package in packages) == [
        [name, version] for name, version, _architecture in installed
    ]
    assert sorted(text(package, "purl").partition("?arch=")[2] for package in packages) == sorted(
        architecture for _name, _version, architecture in installed
    )
    assert text(python, "version") == run_in_image(image, "python3", "--version").split()[-1]


def test_inventory_includes_libcurl_and_openssl(image: str) -> None:
    """The bill of materials has the libcurl and TLS library that pycurl's wheel contains."""
    bill = json.loads(run_in_image(image, "cat", "/app/flagjob.cdx.json"))
    (curl,) = (component for component in each(bill, "components") if pick(component, "name") == "pycurl")
    inside = [f"{text(library, 'name')}/{text(library, 'version')}" for library in each(curl, "components")]
    _, *versions = run_in_image(image, "python3", "-c", "import pycurl; print(pycurl.version)").split()
    assert inside == versions
    assert {"libcurl", "OpenSSL"} <= {library.partition("/")[0] for library in inside}


def test_build_context_has_the_program_only(tmp_path: Path) -> None:
    """The build context has the job, its lock file and the build scripts only: no history, no tests."""
    (tmp_path / "Dockerfile").write_text("FROM scratch\nCOPY . /\n")
    options = ("--quiet", "--isolation", "chroot", "--layers=false", "--file", str(tmp_path / "Dockerfile"))
    probe = output("podman", "build", *options, ".").strip()
    container = output("podman", "create", probe, "none").strip()
    podman("export", "--output", str(tmp_path / "context.tar"), container)
    podman("rm", container)
    podman("rmi", probe)
    with tarfile.open(tmp_path / "context.tar") as context:
        sent = {
            member.name
            for member in context
            if member.isfile() and not member.name.startswith(("dev/", "etc/", "run/"))
        }
    program = {
        str(path.relative_to(ROOT)) for path in (ROOT / "job").rglob("*") if path.is_file() and path.suffix != ".pyc"
    }
    assert sent == program | {"requirements.lock", "requirements-report.lock", ".ci/inventory.py", ".ci/precompile.py"}


def test_build_files_are_not_in_the_image(image: str) -> None:
    """Files that only the build needs are not in the image."""
    paths = (
        "/requirements.lock",
        "/requirements-report.lock",
        "/precompile.py",
        "/inventory.py",
        "/installed.json",
        "/base.tsv",
        "/usr/bin/strip",
    )
    listed = podman("run", "--rm", "--entrypoint", "ls", image, *paths, "/etc/pip.conf", "/run/pip.crt")
    assert listed.stdout == ""
