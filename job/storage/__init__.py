"""Whole accepted files at the destination, or nothing."""

from job.storage.generations import Generations, GenerationStorage
from job.storage.local import DirectoryStorage
from job.storage.objects import BucketStorage
from job.storage.parts import Parts
from job.storage.place import BucketTimeouts

__all__ = ["BucketStorage", "BucketTimeouts", "DirectoryStorage", "GenerationStorage", "Generations", "Parts"]
