r"""For those who test dispatchers, handlers and interceptors: of dodici, or their own.

- `RecordingHandler` records what a dispatch tells and asserts what every dispatch promises.
- `ScriptedPeer` is a server that does exactly what its script says, byte by byte, faults included.
- `VirtualClock` and `run_virtual` make timeouts of minutes pass in milliseconds.
- `DispatcherConformance` puts any `Dispatcher` through the contract (needs pytest).

    async def greet(connection: PeerConnection) -> None:
        request = await connection.read_request()
        assert request.target == "/hello"
        await connection.send(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhi")
        connection.reset()                              # three bytes short

    async with ScriptedPeer(greet) as peer, Client(peer.origin) as client:
        recorder = RecordingHandler(on_response_data=lambda controller, chunk: controller.pause())
        recorder.dispatch(client, {"path": "/hello"})
        await recorder.received(2)
        recorder.controller.resume()
        await recorder.wait()
        assert recorder.body == b"hi" and isinstance(recorder.error, SocketError)

Names are loaded on first use: pytest is needed for `DispatcherConformance` alone, trustme for TLS alone.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from ..core.lazy import lazy

if TYPE_CHECKING:
    from .app import Board, ConformanceApp, Control, DispatcherControl, conformance_app, pattern
    from .clock import VirtualClock, VirtualTimeLoop, run_virtual
    from .conformance import FEATURES, DispatcherConformance, Target
    from .peers import PeerConnection, PeerError, PeerRequest, PeerTLS, ScriptedPeer, make_tls, serve
    from .recorder import PromiseError, RecordingHandler, settle

_HOMES = {
    "app": ("Board", "ConformanceApp", "Control", "DispatcherControl", "conformance_app", "pattern"),
    "clock": ("VirtualClock", "VirtualTimeLoop", "run_virtual"),
    "conformance": ("FEATURES", "DispatcherConformance", "Target"),
    "peers": ("PeerConnection", "PeerError", "PeerRequest", "ScriptedPeer", "PeerTLS", "make_tls", "serve"),
    "recorder": ("PromiseError", "RecordingHandler", "settle"),
}
_home = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "FEATURES",
    "Board",
    "ConformanceApp",
    "Control",
    "DispatcherConformance",
    "DispatcherControl",
    "PeerConnection",
    "PeerError",
    "PeerRequest",
    "PromiseError",
    "RecordingHandler",
    "ScriptedPeer",
    "Target",
    "PeerTLS",
    "VirtualClock",
    "VirtualTimeLoop",
    "conformance_app",
    "make_tls",
    "pattern",
    "run_virtual",
    "serve",
    "settle",
]

if "pytest" in sys.modules:
    # The suite's plain asserts then fail with both sides shown, as in a test file.
    sys.modules["pytest"].register_assert_rewrite("dodici.testing.suite", "dodici.testing.target")


__getattr__, __dir__ = lazy(__name__, _home)
