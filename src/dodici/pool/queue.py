"""A FIFO of exchanges from which any can be withdrawn at once."""

from __future__ import annotations

from collections import deque

from ..core.controller import Exchange


class ExchangeQueue:
    """Exchanges that wait. One that ended meanwhile stays where it is and is passed over.

    Withdrawing from the middle of a deque costs its length; counting the ended ones and sweeping them out
    when they are half of the queue costs O(1) each, and keeps the memory within twice what waits.
    """

    __slots__ = ("_items", "waiting")

    def __init__(self) -> None:
        self._items: deque[Exchange] = deque()
        self.waiting = 0
        """How many wait."""

    def push(self, exchange: Exchange) -> None:
        self.waiting += 1
        self._items.append(exchange)

    def push_front(self, exchanges: list[Exchange]) -> None:
        """Put back, before all others, in the order given."""
        self.waiting += len(exchanges)
        self._items.extendleft(reversed(exchanges))

    def peek(self) -> Exchange | None:
        """The first that waits."""
        items = self._items
        while items:
            if not items[0].done:
                return items[0]
            items.popleft()
        return None

    def pop(self) -> Exchange | None:
        """Take the first that waits."""
        exchange = self.peek()
        if exchange is not None:
            self._items.popleft()
            self.waiting -= 1
        return exchange

    def withdraw(self, exchange: Exchange, error: BaseException) -> None:
        """Fail one that waits."""
        self.waiting -= 1
        exchange.fail(error)
        if len(self._items) > 64 and self.waiting * 2 < len(self._items):
            self._items = deque(item for item in self._items if not item.done)

    def clear(self) -> list[Exchange]:
        """Take all that wait."""
        items = [exchange for exchange in self._items if not exchange.done]
        for exchange in items:
            exchange.carrier = None  # who aborts one from the callback of another is not counted again
        self._items.clear()
        self.waiting = 0
        return items
