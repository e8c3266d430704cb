"""The service of the gRPC tests on grpcio: `python grpc_server.py MAX_CONCURRENT_STREAMS [CHAIN KEY]`.

The limit is none with 0, and with a certificate it speaks TLS. Prints its port. grpc_server.js is the same service on grpc-js. Messages are bytes as they are.

/test.Echo/Unary      the message back; `x-echo*` metadata come back as initial metadata and, with `x-echo`
                      replaced by `x-trailing`, as trailing metadata. `x-status`, `x-text-bin`, `x-details-bin`
                      make it fail with that; `x-compress` makes the response compressed
/test.Echo/Repeat     the message, so many times as `x-count` says
/test.Echo/Collect    how many messages came, and their total size: b"3 17"
/test.Echo/Chat       each message back as it comes; initial metadata before the first. That the call was
                      cancelled is noted under `x-note`
/test.Echo/Wait       a message, then nothing until the call is cancelled, which is noted under the request
/test.Echo/Noted      waits for the note that the request names
/test.Echo/Seen       the request's metadata, as lines of `name=value`, and the seconds left
/test.Echo/Peak       holds the call until `x-count` of them are there or 0.2 s have passed; how many there were
"""

from __future__ import annotations

import collections
import sys
import threading
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc

notes: dict[bytes, threading.Event] = collections.defaultdict(threading.Event)
present = 0
changed = threading.Condition()


def given(context: Any) -> dict[str, Any]:
    return dict(context.invocation_metadata())


def unary(request: bytes, context: Any) -> bytes:
    pairs = [(name, value) for name, value in context.invocation_metadata() if name.startswith("x-echo")]
    metadata = given(context)
    if pairs:
        context.send_initial_metadata(pairs)
    trailing = [(name.replace("x-echo", "x-trailing"), value) for name, value in pairs]
    if "x-details-bin" in metadata:
        trailing.append(("grpc-status-details-bin", metadata["x-details-bin"]))
    context.set_trailing_metadata(trailing)
    if "x-status" in metadata:
        code = next(code for code in grpc.StatusCode if code.value[0] == int(metadata["x-status"]))
        context.abort(code, metadata.get("x-text-bin", b"").decode())
    if "x-compress" in metadata:
        context.set_compression(grpc.Compression[metadata["x-compress"]])
    return request


def repeat(request: bytes, context: Any) -> Any:
    for _ in range(int(given(context)["x-count"])):
        yield request


def collect(requests: Any, context: Any) -> bytes:
    sizes = [len(request) for request in requests]
    return b"%d %d" % (len(sizes), sum(sizes))


def chat(requests: Any, context: Any) -> Any:
    if "x-note" in given(context):
        context.add_callback(notes[given(context)["x-note"].encode()].set)
    context.send_initial_metadata([("x-ready", "yes")])
    yield from requests


def wait(request: bytes, context: Any) -> Any:
    context.add_callback(notes[request].set)
    yield b"waiting"
    notes[request].wait(30)


def noted(request: bytes, context: Any) -> bytes:
    return b"yes" if notes[request].wait(10) else b"no"


def seen(request: bytes, context: Any) -> bytes:
    lines = []
    for name, value in context.invocation_metadata():
        lines.append(f"{name}={value if isinstance(value, str) else value.hex()}")
    left = context.time_remaining()
    lines.append(f"left={left if left is not None and left < 1e9 else ''}")
    return "\n".join(lines).encode()


def peak(request: bytes, context: Any) -> bytes:
    global present
    wanted = int(given(context)["x-count"])
    with changed:
        present += 1
        changed.notify_all()
        changed.wait_for(lambda: present >= wanted, 0.2)
        most = present
    with changed:
        present -= 1
    return b"%d" % most


def main() -> None:
    options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    if int(sys.argv[1]):
        options.append(("grpc.max_concurrent_streams", int(sys.argv[1])))
    server = grpc.server(futures.ThreadPoolExecutor(64), options=options)
    handlers = {
        "Unary": grpc.unary_unary_rpc_method_handler(unary),
        "Repeat": grpc.unary_stream_rpc_method_handler(repeat),
        "Collect": grpc.stream_unary_rpc_method_handler(collect),
        "Chat": grpc.stream_stream_rpc_method_handler(chat),
        "Wait": grpc.unary_stream_rpc_method_handler(wait),
        "Noted": grpc.unary_unary_rpc_method_handler(noted),
        "Seen": grpc.unary_unary_rpc_method_handler(seen),
        "Peak": grpc.unary_unary_rpc_method_handler(peak),
    }
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("test.Echo", handlers)])
    if len(sys.argv) > 2:
        chain, key = (Path(name).read_bytes() for name in sys.argv[2:])
        port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([(key, chain)]))
    else:
        port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(port, flush=True)
    server.wait_for_termination()


if __name__ == "__main__":
    main()
