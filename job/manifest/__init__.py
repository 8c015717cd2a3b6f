"""What is known of each code from earlier runs, crash-safe."""

from job.manifest.history import Change
from job.manifest.known import BUILT_IN, Manifest
from job.manifest.whole import entries, forget

__all__ = ["BUILT_IN", "Change", "Manifest", "entries", "forget"]
