"""The machine that measures, in words, without its name; and which of its directories lie in memory."""

import os
import platform
import sysconfig
from pathlib import Path

from bench.measure import BenchError

_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108  # where Linux has a tmpfs by default
_GIGABYTE = 1_000_000_000


def describe(memory: Path, disk: Path | None) -> list[str]:
    """Return lines on processor, memory, system, Python and where files go."""
    cores = len(os.sched_getaffinity(0))
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / _GIGABYTE
    system = platform.freedesktop_os_release().get("PRETTY_NAME", "unknown system")
    load = " ".join(f"{value:.1f}" for value in os.getloadavg())
    disk_system = file_system(disk) if disk else "left out"
    return [
        f"machine: {platform.machine()}, {_processor()}, {cores} cores, {total:.0f} GB of memory",
        f"system: {system}, Linux {platform.release()}; load before the run: {load}",
        f"Python: {platform.python_implementation()} {platform.python_version()}, {python_build()}",
        f"files: {file_system(memory)}; row disk: {disk_system}",
    ]


def python_build() -> str:
    """Return how this Python was built: optimized builds are 15 to 20 % faster."""
    arguments = str(sysconfig.get_config_var("CONFIG_ARGS"))
    pgo = "with PGO" if "--enable-optimizations" in arguments else "without PGO"
    lto = "with LTO" if "--with-lto" in arguments else "without LTO"
    return f"built {pgo}, {lto}, {platform.python_compiler()}"


def _processor() -> str:
    """Return the processor's model, as far as Linux says."""
    lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else "unknown processor"


def memory_directory() -> Path:
    """Return a writable directory on tmpfs: /dev/shm, else TMPDIR; raise BenchError if neither is one."""
    for directory in (_SHARED_MEMORY, Path(os.environ.get("TMPDIR", "/tmp"))):  # noqa: S108  # as tempfile
        if directory.is_dir() and file_system(directory) == "tmpfs" and os.access(directory, os.W_OK):
            return directory
    raise BenchError("no tmpfs: neither /dev/shm nor TMPDIR is one that can be written to")


def disk_directory(directory: Path) -> Path | None:
    """Return the directory if it lies on a disk, or None."""
    return directory if directory.is_dir() and file_system(directory) != "tmpfs" else None


def file_system(directory: Path) -> str:
    """Return the type of the file system that a directory lies on."""
    place = directory.resolve()
    mounts = (line.split() for line in Path("/proc/self/mounts").read_text("utf-8").splitlines())
    around = [(Path(fields[1]), fields[2]) for fields in mounts if place.is_relative_to(fields[1])]
    # Of two file systems mounted at the same place the later one is seen.
    return max(enumerate(around), key=lambda entry: (len(entry[1][0].parts), entry[0]))[1][1]
