"""Programs of the system that the benchmark needs or compares with, installed if they are missing."""

import os
import re
import shutil
import subprocess
from pathlib import Path

PACKAGES = {"nginx": "nginx", "curl": "curl", "wget2": "wget2", "rclone": "rclone", "aria2c": "aria2"}
"""Programs, and the Debian packages that have them."""
ECHO = "ngx_http_echo_module.so"
"""nginx's module that can wait before it answers, without blocking its loop."""
_ECHO_PACKAGE = "libnginx-mod-http-echo"
_WITHOUT_SERVICES = {"RUNLEVEL": "1", "DEBIAN_FRONTEND": "noninteractive"}
"""At this run level no package starts its service."""


def install_missing() -> None:
    """Install what is missing where that is possible: on Debian, as root. What stays missing is left out by name."""
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        return
    missing = [package for program, package in PACKAGES.items() if not shutil.which(program)]
    if "nginx" in missing or not echo_module():
        missing.append(_ECHO_PACKAGE)
    if missing:
        _apt_get("update")
    for package in missing:
        _apt_get("install", "--no-install-recommends", package)


def _apt_get(*arguments: str) -> None:
    """Run apt-get; a failure shows up as a program that is still missing."""
    environment = os.environ | _WITHOUT_SERVICES
    subprocess.run(["apt-get", "-qq", *arguments], env=environment, stdout=subprocess.DEVNULL, check=False)


def echo_module() -> Path | None:
    """Return the path of nginx's echo module, or None."""
    if not shutil.which("nginx"):
        return None
    build = subprocess.run(["nginx", "-V"], capture_output=True, text=True, check=True).stderr
    found = re.search(r"--modules-path=(\S+)", build)
    path = Path(found[1]) / ECHO if found else None
    return path if path and path.exists() else None
