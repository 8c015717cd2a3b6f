"""What is known of each code from earlier runs, crash-safe."""

from job.manifest.history import Change
from job.manifest.known import DEMO_SERVER, Manifest
from job.manifest.whole import entries, forget

__all__ = ["DEMO_SERVER", "Change", "Manifest", "entries", "forget"]
