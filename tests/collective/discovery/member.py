"""A collector's membership in a process of its own: member.py URL ID PORT [PLACE]. Ends with its stdin."""

from __future__ import annotations

import asyncio
import sys

from dodici.collective.contracts import MemberRecord
from dodici.collective.discovery import EtcdDiscovery


async def main(url: str, name: str, port: str, place: str = "") -> None:
    discovery = EtcdDiscovery(url, place=place or None)
    await discovery.start(MemberRecord(name, f"127.0.0.1:{port}", ("users",)), lambda change: None)
    record = await discovery.registered()
    print("registered", record.epoch, flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await discovery.stop()


asyncio.run(main(*sys.argv[1:]))
