"""Where files go, and what is remembered of them there: one face for directories, sets and buckets."""

from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

from job.errors import Fault, UsageError
from job.inputs import Inputs
from job.manifest import BUILT_IN
from job.settings import BUCKETS, Publish, Settings
from job.target.bucket import Bucket
from job.target.directories import Directory, SetOfFiles
from job.target.face import SUMS, Share, Store, Target

__all__ = ["SUMS", "Bucket", "Directory", "SetOfFiles", "Share", "Store", "Target", "target_of"]


def target_of(settings: Settings, inputs: Inputs, stack: ExitStack) -> Target:
    """Return the destination that the settings name, and hand to `stack` what must be cleaned up after the run."""
    origin = BUILT_IN if inputs.built_in else inputs.template.origin
    share = Share(origin, settings.shard_index, settings.shard_count)
    if settings.dest.startswith(BUCKETS):
        return Bucket(settings.dest, _scratch(stack), share, settings.ca_bundle)
    root = Path(settings.dest)
    room = min(settings.workers, inputs.known or settings.workers) * settings.max_bytes
    if settings.publish is Publish.SET:
        return SetOfFiles(root, settings.keep, share, room)
    return Directory(root, share, room)


def _scratch(stack: ExitStack) -> Path:
    try:
        return Path(stack.enter_context(TemporaryDirectory(prefix="flagjob-")))
    except OSError as error:
        problem = f"must be a directory that can be written, for what goes into a bucket ({error.strerror})"
        raise UsageError(Fault("TMPDIR", None, problem)) from error
