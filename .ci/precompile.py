"""Compile what the job imports, the standard library included, and nothing else.

The official image ships no bytecode and a read-only root can never write any, so every start would compile anew.
Python itself tells what is imported, however late: it caches what it reads from source, here in a directory of ours.
Unchecked: nothing in the image changes after this step, so no start has to compare sources.
"""  # noqa: INP001  (a script for the Dockerfile, not a package)

import importlib.util
import os
import py_compile
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

EVERY_MODULE = """
from importlib import import_module
from pkgutil import walk_packages
import job
for module in walk_packages(job.__path__, "job."):
    import_module(module.name)
import_module("obstore.exceptions")
import_module("obstore.store")
"""
"""What a run from the demo server leaves out; obstore is imported by a function, when a bucket is opened."""


def cached_by(*arguments: str) -> Iterator[Path]:
    """Run Python to its end and give the sources that it compiled."""
    with tempfile.TemporaryDirectory() as cache:
        caching = {"PYTHONPYCACHEPREFIX": cache, "PYTHONDONTWRITEBYTECODE": ""}
        subprocess.run([sys.executable, *arguments], env={**os.environ, **caching}, check=True)  # noqa: S603  (ours)
        for compiled in Path(cache).rglob("*.pyc"):
            module = compiled.name.partition(".")[0]
            yield Path("/", compiled.relative_to(cache)).with_name(f"{module}.py")


def main() -> None:
    """Compile for a run from the built-in origin, whole as it comes, and for each other module of the job."""
    with tempfile.TemporaryDirectory() as dest:
        sources = {*cached_by("-m", "job", "--server", "local", "--dest", dest), *cached_by("-c", EVERY_MODULE)}
    for source in sorted(sources):
        target = importlib.util.cache_from_source(str(source))
        mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
        py_compile.compile(str(source), target, doraise=True, invalidation_mode=mode)


main()
