"""The manifest: a record of each file from earlier runs, and the changes of this run, in files that survive a crash."""

from job.manifest.changes import KILLED, UNFINISHED, Change, PastRun, read_past_runs
from job.manifest.shard_manifest import DEMO_SERVER, Manifest, ManifestScope, forget, read_entries

__all__ = [
    "DEMO_SERVER",
    "KILLED",
    "UNFINISHED",
    "Change",
    "Manifest",
    "ManifestScope",
    "PastRun",
    "forget",
    "read_entries",
    "read_past_runs",
]
