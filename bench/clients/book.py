"""The thread pool of *Fluent Python* in our own words: requests.get for each file, each code printed as it comes."""

import os
import sys
from concurrent import futures
from pathlib import Path

import requests


class Book:
    """Where flags come from and where they go."""

    def __init__(self, prefix: str, destination: str) -> None:
        self._prefix = prefix
        self._destination = destination

    def download_one(self, code: str) -> str:
        """Get a flag over a connection of its own, print its code, save it; return the code."""
        image = requests.get(f"{self._prefix}{code}.gif").content  # noqa: S113  # the book's has no timeout
        print(code, end=" ")
        sys.stdout.flush()
        with open(os.path.join(self._destination, f"{code}.gif"), "wb") as file:  # noqa: PTH118, PTH123  # as it was
            file.write(image)
        return code


def main(prefix: str, codes_file: str, destination: str, workers: str) -> None:
    """Download every code of the file."""
    codes = Path(codes_file).read_text("ascii").split()
    book = Book(prefix, destination)
    with futures.ThreadPoolExecutor(int(workers)) as executor:
        results = executor.map(book.download_one, sorted(codes))
    print(f"\n{len(list(results))} flags downloaded")


if __name__ == "__main__":
    main(*sys.argv[1:])
