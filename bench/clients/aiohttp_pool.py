"""A pool of coroutines over one aiohttp session; as many take codes from one iterator as there may be connections."""

import asyncio
import sys
from collections.abc import Iterator
from pathlib import Path

import aiohttp


async def _work(session: aiohttp.ClientSession, prefix: str, codes: Iterator[str], destination: str) -> None:
    """Download codes until none is left."""
    for code in codes:
        async with session.get(f"{prefix}{code}.gif") as response:
            response.raise_for_status()
            body = await response.read()
        with open(f"{destination}/{code}.gif", "wb") as file:  # noqa: ASYNC230, PTH123  # small files, on the loop
            file.write(body)


async def main(prefix: str, codes_file: str, destination: str, workers: str) -> None:
    """Download every code of the file."""
    codes = iter(Path(codes_file).read_text("ascii").split())  # noqa: ASYNC240  # nothing else runs yet
    connector = aiohttp.TCPConnector(limit=int(workers))
    async with aiohttp.ClientSession(connector=connector) as session, asyncio.TaskGroup() as group:
        for _ in range(int(workers)):
            group.create_task(_work(session, prefix, codes, destination))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
