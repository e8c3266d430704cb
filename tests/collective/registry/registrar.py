"""Another process that registers: `python registrar.py FILE NAMESPACE FIRST COUNT`. Prints the versions it got."""

from __future__ import annotations

import asyncio
import sys

from google.protobuf.descriptor_pb2 import ServiceDescriptorProto

from dodici.collective.registry import LocalRegistry, SQLiteStore


async def main(path: str, namespace: str, first: str, count: str) -> None:
    registry = LocalRegistry(SQLiteStore(path))
    await registry.start()
    try:
        services = [ServiceDescriptorProto(name=f"S{int(first) + number}") for number in range(int(count))]
        for service in services:
            service.method.add(name="Get")
        done = await asyncio.gather(*(registry.register_service(namespace, service) for service in services))
        print(*(service.version for service in done))
    finally:
        await registry.stop()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
