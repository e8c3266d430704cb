"""What docs/benchmarks.md says about the mesh, and the README's short table of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mesh_plan import MESH_CONTENDERS
from part_page import part_section, short_table
from report import markdown

if TYPE_CHECKING:
    from report import Board

METHOD = """## How the mesh is measured

- A contender is a client and its workers, which serve the same answers: 17 bytes of JSON, or 1 MiB
  in one piece, both with a content-length. Nobody is pinned to a core. Each tree of processes
  begins anew for every scenario; warm-up, rounds and the closed loop are those of HTTP above.
- Every answer's status and length are checked, the content of each small one, and that of one
  large one before the first round.
- dodici's workers are processes, or threads of the client's process where the name says so; they
  serve a plain ASGI app. `dodici-request` is the whole client interface with the body read.
- undici-thread-interceptor has workers in threads with a raw handler and a content-length, which
  is its fast path, called through undici's `request` or, for comparison with a dispatch, its
  `dispatch`. It needs Node 22 or newer; npm brings one along. Its warm-up is four times as long as
  that of the others: its compiler goes on to gain for that long.
- uvicorn (uvloop, httptools) and granian serve the same ASGI app over a unix socket; aiohttp is
  the client.
- `socketpair` is the limit: bare messages between processes on uvloop, taken one by one, without
  heads, streams, apps or checks. `vs other Python` compares with the faster of the two servers.
- Processor time and memory are those of the client and all its workers together.
- Memory: what the processes have grown since their start without a request (the stopped reader),
  or since a warm-up of another 10,000 requests (those that are given up).
  `set_accepting(False)` is timed by the worker that calls it, 50 times per round, while 100
  callers keep all workers busy; it returns when every member of the mesh has applied it.
"""

CAVEATS = """### What to keep in mind about the mesh

- On two cores a client and one busy worker fill the machine; a second worker shows what it costs
  there, not what it would give on a larger one.
- Threads of one Python interpreter take turns; a thread worker is for isolation of event loops and
  not for speed. Node's threads do run side by side.
- Most of what uvicorn and granian need here is aiohttp's time, not theirs.
- undici-thread-interceptor hears of an abort only when the answer arrives; its `mesh-abort` takes
  as long as its app does. Node returns memory late.
"""

# A large body is a mebibyte, so that its requests per second are MiB/s.
_HEADLINES = {
    "mesh-c1": "1 caller, req/s",
    "mesh-c100": "100 callers, req/s",
    "mesh-c100-w2": "100 callers and 2 workers, req/s",
    "mesh-1m": "1 MiB and 10 callers, MiB/s",
}


def section(board: Board) -> list[str]:
    """The part of the page about the mesh; nothing if it was not measured."""
    return part_section(board, "mesh", METHOD, CAVEATS)


def block(board: Board) -> str:
    """The short table of the mesh; empty if none of its scenarios was measured."""
    everybody = [each for each in MESH_CONTENDERS if not each.variant]
    lines = short_table(board, "mesh", _HEADLINES, everybody, lambda row: board.ratios(row)[0])
    if not lines:
        return ""
    note = (
        "The mesh: a client and its workers on two cores, nobody pinned; 17 bytes of JSON, one "
        "worker unless said. In brackets: against undici-thread-interceptor, whose workers are "
        "threads. uvicorn and granian are called by aiohttp over a unix socket; `socketpair` is "
        "bytes between two processes and nothing else."
    )
    return f"{markdown(lines)}\n\n{note}"
