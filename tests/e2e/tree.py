"""Reads values from the nested mappings and lists of a YAML document."""

from collections.abc import Iterator, Mapping
from itertools import chain


def pick(tree: object, path: str) -> object:
    """Return the value at a path such as `spec.jobTemplate.spec`; None if there is none, the whole for `.`."""
    for key in filter(None, path.split(".")):
        tree = tree.get(key) if isinstance(tree, Mapping) else None
    return tree


def each(tree: object, *paths: str) -> Iterator[object]:
    """Yield the members of the lists at these paths, one list after the other."""
    lists = (pick(tree, path) for path in paths)
    return chain.from_iterable(found for found in lists if isinstance(found, list))


def number(tree: object, path: str) -> int:
    """Return the integer at a path."""
    found = pick(tree, path)
    assert isinstance(found, int), f"{path}: {found!r}"
    return found


def text(tree: object, path: str) -> str:
    """Return the string at a path."""
    found = pick(tree, path)
    assert isinstance(found, str), f"{path}: {found!r}"
    return found


def branch(tree: object, path: str) -> dict[str, object]:
    """Return the mapping at a path."""
    found = pick(tree, path)
    assert isinstance(found, dict), f"{path}: {found!r}"
    return found
