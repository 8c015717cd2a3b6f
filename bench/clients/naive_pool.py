"""The naive pool: one shared requests.Session, threads, and files written under their final names."""

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import requests
from requests.adapters import HTTPAdapter


def main(prefix: str, codes_file: str, destination: str, workers: str) -> None:
    """Download every code of the file."""
    codes = Path(codes_file).read_text("ascii").split()
    session = requests.Session()
    adapter = HTTPAdapter(pool_maxsize=int(workers))
    session.mount("http://", adapter)
    session.mount("https://", adapter)

    def download(code: str) -> None:
        response = session.get(f"{prefix}{code}.gif", timeout=30)
        response.raise_for_status()
        with open(f"{destination}/{code}.gif", "wb") as file:  # noqa: PTH123  # naive, as it is mostly written
            file.write(response.content)

    with ThreadPoolExecutor(int(workers)) as pool:
        list(pool.map(download, codes))


if __name__ == "__main__":
    main(*sys.argv[1:])
