"""parfive with its queue of files, without its progress bars."""

import sys
from pathlib import Path

from parfive import Downloader, SessionConfig


def main(prefix: str, codes_file: str, destination: str, workers: str) -> None:
    """Download every code of the file; exit with 1 if parfive reports an error."""
    config = SessionConfig(file_progress=False)
    downloader = Downloader(max_conn=int(workers), max_splits=1, progress=False, overwrite=True, config=config)
    for code in Path(codes_file).read_text("ascii").split():
        downloader.enqueue_file(f"{prefix}{code}.gif", path=destination, filename=f"{code}.gif")
    results = downloader.download()
    sys.exit(1 if results.errors else 0)


if __name__ == "__main__":
    main(*sys.argv[1:])
