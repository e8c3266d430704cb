"""What docs/benchmarks.md says about the collective, and the README's short table of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from collective_plan import COLLECTIVE_CONTENDERS
from part_page import part_section, short_table
from report import markdown

if TYPE_CHECKING:
    from report import Board

METHOD = """## How the collective is measured

- A plain grpc.aio client calls a method that gives back the 100 bytes that it is sent. The client
  and each server are processes of their own, all on uvloop; nobody is pinned to a core. Warm-up,
  rounds and the closed loop are those of HTTP above; every answer is compared.
- `grpc.aio` is the limit: a generic handler of raw bytes, and for a hop a handler that forwards
  these bytes on one channel. `vs grpc.aio` and `p99 added` compare with it, in the same run.
- `dodici-face` is called on the transparent face, as by an unmodified stub; `dodici-envelope` with
  `Dispatch` and an `Any`. Over a hop the client calls a collector that has nothing itself;
  `dodici-link` is what two collectors do, calls in batches on a connection of its own;
  `dodici-link-stream` puts them on a stream of grpc's, as where that connection cannot be made, and
  `dodici-no-link` makes a call of its own for each. The client always calls on the transparent face there.
- TLS is mutual, for both.
- All layers: `dodici-whole` is a request to the gateway of one node that is answered by a worker of
  another: gateway, collector, hop, mesh, worker, all of `dodici up`. `dodici-gateway` is gateway,
  mesh and worker of one node; `dodici-hop` a collector in the client's process, the hop, mesh and
  worker. The two together have the layers of the whole, and a worker more: compare CPU us/req and p50.
- Slow peer: three collectors serve the method; one of them takes 200 ms, the others 1 ms. `p2c` is
  the default; look at p99 and req/s.
"""

CAVEATS = """### What to keep in mind about the collective

- Client, hop and server share two cores: a hop is a third busy process. With one caller there is
  nothing to put into a batch, and what the link saves is a call's own cost.
- Percentiles at one caller are the noisiest numbers of this page.
"""

_HEADLINES = {
    "collective-direct-c1": "direct, 1 caller",
    "collective-direct-c100": "direct, 100 callers",
    "collective-hop-c1": "one hop, 1 caller",
    "collective-hop-c100": "one hop, 100 callers",
    "collective-tls": "direct with TLS, 32 callers",
}


def section(board: Board) -> list[str]:
    """The part of the page about the collective; nothing if it was not measured."""
    return part_section(board, "collective", METHOD, CAVEATS)


def block(board: Board) -> str:
    """The short table of the collective; empty if none of its scenarios was measured."""
    lines = short_table(board, "collective, calls/s", _HEADLINES, COLLECTIVE_CONTENDERS, board.against_limit)
    if not lines:
        return ""
    note = (
        "The collective: unary gRPC calls of 100 bytes, all processes on two cores. In brackets: "
        "against bare grpc.aio, which over a hop forwards raw bytes."
    )
    return f"{markdown(lines)}\n\n{note}"
