"""Where files go, and what is remembered of them there: one face for directories, sets and buckets."""

from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

from job.destination.bucket import BucketDestination
from job.destination.directories import DirectoryDestination, GenerationDestination
from job.destination.face import Destination, Scope
from job.errors import Fault, UsageError
from job.inputs import Inputs
from job.layout import is_bucket
from job.manifest import DEMO_SERVER
from job.settings import Publish, Settings
from job.shard import Shard

__all__ = [
    "BucketDestination",
    "Destination",
    "DirectoryDestination",
    "GenerationDestination",
    "Scope",
    "destination_for",
]


def destination_for(settings: Settings, inputs: Inputs, stack: ExitStack) -> Destination:
    """Return the destination that the settings name, and hand to `stack` what must be cleaned up after the run."""
    origin = DEMO_SERVER if inputs.built_in else inputs.template.origin
    scope = Scope(origin, Shard(settings.shard_index, settings.shard_count))
    if is_bucket(settings.dest):
        return BucketDestination(settings.dest, _scratch(stack), scope, settings.ca_bundle)
    root = Path(settings.dest)
    room = min(settings.workers, inputs.known or settings.workers) * settings.max_bytes
    if settings.publish is Publish.SET:
        return GenerationDestination(root, settings.keep, scope, room)
    return DirectoryDestination(root, scope, room)


def _scratch(stack: ExitStack) -> Path:
    try:
        return Path(stack.enter_context(TemporaryDirectory(prefix="flagjob-")))
    except OSError as error:
        problem = f"must be a directory that can be written, for what goes into a bucket ({error.strerror})"
        raise UsageError(Fault("TMPDIR", None, problem)) from error
