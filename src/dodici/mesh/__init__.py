"""The mesh: apps in worker processes, threads or the same loop, reached as `http://name.local/` with no network.

Names are loaded on first use (PEP 562).
"""

from __future__ import annotations
