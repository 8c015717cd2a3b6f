"""Whole accepted files at the destination, or nothing."""

from job.store.draft import Draft
from job.store.generations import Generations, GenerationStore
from job.store.local import OWN_DIRECTORY, LocalStore
from job.store.objects import ObjectStore
from job.store.parts import Parts
from job.store.place import Patience

__all__ = [
    "OWN_DIRECTORY",
    "Draft",
    "GenerationStore",
    "Generations",
    "LocalStore",
    "ObjectStore",
    "Parts",
    "Patience",
]
