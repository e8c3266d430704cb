"""A service for collectors: what `dodici collector --config orders.toml` serves in the namespace "orders"."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from typing import Any


class Orders:
    """Public methods are what can be called. Each takes (context, input)."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)
        self._orders: dict[int, dict[str, Any]] = {}

    async def CreateOrder(self, context: Any, order: Any) -> dict[str, Any]:  # noqa: N802 - as it is called
        if not isinstance(order, dict) or not order.get("sku"):
            context.abort(400, "an order needs a sku")
        number = next(self._numbers)
        self._orders[number] = {"id": number, **order}
        return self._orders[number]

    def GetOrder(self, context: Any, number: Any) -> dict[str, Any]:  # noqa: N802
        if number not in self._orders:
            context.abort(404, f"there is no order {number}")
        return self._orders[number]

    async def ListOrders(self, context: Any, _: Any) -> AsyncIterator[dict[str, Any]]:  # noqa: N802
        for order in list(self._orders.values()):
            yield order
