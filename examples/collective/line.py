"""Three collectors in a line, in one process: what enters at the first is served by the last, and each tells its part.

python examples/collective/line.py
"""

from __future__ import annotations

import asyncio
from typing import Any

from orders import Orders

from dodici.collective import Collector


async def main() -> None:
    gate = Collector("gate", "127.0.0.1:0", namespaces=["orders"])
    between = Collector("between", "127.0.0.1:0", namespaces=["orders"])
    store = Collector("store", "127.0.0.1:0")
    orders = Orders()
    store.register_service("orders", "OrderService", "CreateOrder", orders.CreateOrder)
    store.register_service("orders", "OrderService", "GetOrder", orders.GetOrder, idempotent=True)

    @store.method("orders", "OrderService", "ListOrders", kind="unary_stream")
    async def list_orders(context: Any, given: Any) -> Any:
        async for order in orders.ListOrders(context, given):
            yield order

    async with store, between, gate:
        await between.connect_to(store.address)
        await gate.connect_to(between.address)

        for sku in ("a-1", "b-2", ""):
            result = await gate.dispatch("orders", "OrderService", "CreateOrder", {"sku": sku})
            print(f"{int(result.status)} {result.output or result.status.message}")
        async for order in gate.dispatch_stream("orders", "OrderService", "ListOrders"):
            print(f"    {order}")

        for collector in (gate, between, store):
            record = collector.history[-1]
            print(f"{collector.id}: {record.role}, handled by {record.handled_by}, trace {record.trace_id}")
        print(f"gate knows {gate.stats().peers['between'].calls} calls to between")


if __name__ == "__main__":
    asyncio.run(main())
