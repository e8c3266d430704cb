"""A client of gRPC as anybody would write it. Reads requests for calls, one a line, and prints how they ended."""

from __future__ import annotations

import json
import sys

import grpc


def main(target: str) -> None:
    with grpc.insecure_channel(target) as channel:
        ask = channel.unary_unary("/Who/Ask")
        for line in sys.stdin:
            wanted = json.loads(line)
            print(json.dumps([_call(ask, wanted["payload"]) for _ in range(wanted["count"])]), flush=True)


def _call(ask: grpc.UnaryUnaryMultiCallable, payload: str) -> dict[str, str]:
    metadata = () if payload == "bare" else (("x-dodici-namespace", "orders"),)
    try:
        _, call = ask.with_call(payload.encode(), timeout=10, metadata=metadata, wait_for_ready=False)
    except grpc.RpcError as error:
        call = error
    trailing = {name: value for name, value in call.trailing_metadata() or () if name.startswith("x-who")}
    return {
        "who": trailing.get("x-who", ""),
        "code": call.code().name,
        "details": call.details() or "",
        "binary": trailing.get("x-who-bin", b"").hex(),
    }


if __name__ == "__main__":
    main(sys.argv[1])
