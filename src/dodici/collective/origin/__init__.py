"""Origins: services of a collector that any Dispatcher reaches by HTTP, first of all the routes of a mesh.

specs.py       from `Collector.register_origin` to the methods that are served
mapping.py     what request stands for a call
bodies.py      values as bodies, and back
fields.py      metadata as header fields, and back
exchange.py    runs a call as an exchange
failures.py    the one table of failures
capacity.py    how much of an origin accepts calls, told to the peers
"""

from __future__ import annotations

from .mapping import OriginMethod

__all__ = ["OriginMethod"]
