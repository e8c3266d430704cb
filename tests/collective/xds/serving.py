"""A collector in a process of its own, until its stdin closes; prints its address."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from tests.collective.xds.xds_kit import collectors


async def main(name: str) -> None:
    async with collectors(name) as (collector,):
        print(collector.address, flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
