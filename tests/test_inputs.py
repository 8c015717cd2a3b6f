"""Inputs of a run: what is known of the items before the first download."""

import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from job.cancellation import Cancellation
from job.file_table import FileTable
from job.inputs import Inputs, open_inputs
from job.settings import load, parse_arguments


def shard_inputs(index: int) -> Inputs:
    environ = {"FLAGJOB_SHARD_INDEX": str(index), "FLAGJOB_SHARD_COUNT": "2", "FLAGJOB_SERVER": "remote"}
    settings = load(parse_arguments(["BR"]), environ)
    with ExitStack() as stack:
        return open_inputs(settings, Cancellation(), stack, FileTable())


def test_items_of_a_pipe_may_be_none(tmp_path: Path) -> None:
    """The first code is waited for; after it a None says that the pipe has nothing, until its writer has gone."""
    fifo = tmp_path / "codes"
    os.mkfifo(fifo)
    settings = load(parse_arguments([]), {"FLAGJOB_CODES_FILE": str(fifo), "FLAGJOB_SERVER": "remote"})
    with ExitStack() as stack, ThreadPoolExecutor(1) as executor:
        opening = executor.submit(open_inputs, settings, Cancellation(), stack, FileTable())
        with fifo.open("wb", buffering=0) as writer:
            writer.write(b"# none yet\n")
            with pytest.raises(TimeoutError):
                opening.result(0.2)
            writer.write(b"br\n")
            items = opening.result(20).items
            first = next(item for item in items if item)
            silence = [next(items), next(items)]
            writer.write(b"cn")
        rest = [item.code for item in items if item]
    assert (first.code, silence, rest) == ("BR", [None, None], ["CN"])


def test_a_shard_may_own_no_code() -> None:
    """Of two shards of one code, one has no item and no first or last code, which is no usage error."""
    facts = [(inputs.known, inputs.first, inputs.last) for inputs in map(shard_inputs, range(2))]
    assert sorted(facts, key=str) == [(0, None, None), (1, "BR", "BR")]
