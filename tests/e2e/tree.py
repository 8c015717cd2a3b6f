"""Walk the nested mappings and lists that YAML becomes."""

from collections.abc import Iterator, Mapping
from itertools import chain


def pick(tree: object, path: str) -> object:
    """Give what lies at a path such as `spec.jobTemplate.spec`; None where there is nothing, the whole for `.`."""
    for key in filter(None, path.split(".")):
        tree = tree.get(key) if isinstance(tree, Mapping) else None
    return tree


def each(tree: object, *paths: str) -> Iterator[object]:
    """Give the members of the lists at these paths, one list after the other."""
    lists = (pick(tree, path) for path in paths)
    return chain.from_iterable(found for found in lists if isinstance(found, list))


def number(tree: object, path: str) -> int:
    """Give the whole number at a path."""
    found = pick(tree, path)
    assert isinstance(found, int), f"{path}: {found!r}"
    return found


def text(tree: object, path: str) -> str:
    """Give the string at a path."""
    found = pick(tree, path)
    assert isinstance(found, str), f"{path}: {found!r}"
    return found


def branch(tree: object, path: str) -> dict[str, object]:
    """Give the mapping at a path."""
    found = pick(tree, path)
    assert isinstance(found, dict), f"{path}: {found!r}"
    return found
