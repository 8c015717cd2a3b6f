"""Run the job once from its built-in origin, then compile all that the run imported, the standard library included.

The official image ships no bytecode and a read-only root can never write any, so every start would compile anew.
Unchecked: nothing in the image changes after this step, so no start has to compare sources.
"""  # noqa: INP001  (a script for the Dockerfile, not a package)

import py_compile
import runpy
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path


def run_once() -> None:
    """Let a whole run import what it needs, also what it imports late."""
    with tempfile.TemporaryDirectory() as dest:
        sys.argv = ["flagjob", "--server", "local", "--dest", dest]
        try:
            runpy.run_module("job", run_name="__main__", alter_sys=True)
        except SystemExit as ended:
            if ended.code:
                raise


def sources() -> Iterator[str]:
    """Give the file of every module that Python read from source, and all of the job's own."""
    for module in list(sys.modules.values()):
        spec = getattr(module, "__spec__", None)
        if spec is not None and (spec.origin or "").endswith(".py"):
            yield spec.origin
    yield from map(str, Path(sys.modules["job"].__path__[0]).glob("**/*.py"))


run_once()
for source in sorted(set(sources())):
    py_compile.compile(source, doraise=True, invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)
