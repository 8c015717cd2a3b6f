"""The manifest: a record of each code from earlier runs, and the changes of this run, in files that survive a crash."""

from job.manifest.changes import Change
from job.manifest.shard_manifest import DEMO_SERVER, Manifest, forget, read_entries

__all__ = ["DEMO_SERVER", "Change", "Manifest", "forget", "read_entries"]
