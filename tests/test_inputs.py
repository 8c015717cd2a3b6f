"""Inputs of a run: what is known of the items before the first download."""

from contextlib import ExitStack

from job.cancellation import Cancellation
from job.file_table import FileTable
from job.inputs import Inputs, open_inputs
from job.settings import load, parse_arguments


def shard_inputs(index: int) -> Inputs:
    environ = {"FLAGJOB_SHARD_INDEX": str(index), "FLAGJOB_SHARD_COUNT": "2", "FLAGJOB_SERVER": "remote"}
    settings = load(parse_arguments(["BR"]), environ)
    with ExitStack() as stack:
        return open_inputs(settings, Cancellation(), stack, FileTable())


def test_a_shard_may_own_no_code() -> None:
    """Of two shards of one code, one has no item and no first or last code, which is no usage error."""
    facts = [(inputs.known, inputs.first, inputs.last) for inputs in map(shard_inputs, range(2))]
    assert sorted(facts, key=str) == [(0, None, None), (1, "BR", "BR")]
