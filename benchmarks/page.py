"""The page docs/benchmarks.md and the short table of the README."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import collective_page
import mesh_page
from plan import CONTENDERS
from report import Board, markdown

if TYPE_CHECKING:
    from plan import Contender

_INTRO = """# Benchmarks

This page is written by `make bench`; the same numbers, with every round, are in
`benchmarks/results.json`. Only the ratios travel: run it on your own machine.

```console
$ make bench                                                  # some twenty minutes
$ python benchmarks/run.py --quick                            # four minutes, prints only
$ python benchmarks/run.py --only dodici,undici --scenario h1-p1,h2 --repeat 5
$ python benchmarks/run.py --scenario mesh                    # the mesh alone, prints only
$ python benchmarks/run.py --scenario collective              # the collective alone, prints only
```
"""

_METHOD = """## How it is measured

- One nginx with one worker serves everybody; it has one core, the client under test has the
  other, with all its threads. Everything goes over loopback.
- Each client runs in a process of its own for each scenario, warms up for {warmup:g} s, then
  works for {seconds:g} s when its turn comes: a fixed number of requests is always open, each
  answer is followed by the next request, each body is read to its end and its length is checked.
- {repeat} round{s}; within a round all clients take their turn, so a machine that drifts drifts
  for all. Whose turn it is not is stopped by a signal. Shown is the median round, and the range
  of all rounds.
- The server logs the first request of every connection. A client that did not speak the
  scenario's version of HTTP, or used another number of connections, is listed as invalid. With
  HTTP/2 the number has to be exact; with HTTP/1.1 half as many more are allowed over a process's
  life, since some pools replace a connection now and then.
- TLS is 1.3 with AES-256-GCM for everybody. Every client verifies the certificate against the
  run's own authority, curl included; wrk and h2load cannot.
- `req/s` counts finished requests; `CPU us/req` is the processor time of the client's process
  per request, which noise from neighbours disturbs least; percentiles are of the time from
  asking to the last byte, waiting for a connection included.
- `vs undici` compares a dispatch with undici's dispatch (the faster of its two kinds of
  handlers) and a request with undici's request. `vs other Python` compares with the fastest
  Python client here that is not dodici; with pipelining, which the others do not have, with
  their best number without it. More is always better: twice the ratio of idle connections is
  half the memory. The last column of HTTP/2 compares with a program in C.
- HTTP/2 on fifty connections: most pools put all streams of an origin on one connection, so
  whoever does runs as fifty pools (dodici, pyreqwest, httpunk, httpx2, niquests, httpx); undici
  has one pool with one stream per connection.
- Beside a slow reader: one stream takes a body of 100 MiB at 1 MiB/s, the others do small
  requests on the same connection. `alone` is the same without the slow stream, measured just
  before, in the same process.
- Python clients run on uvloop, except where asyncio's own loop is the subject.
- Upload targets read the whole body before they answer; this is checked when the server starts.
"""

_CAVEATS = """## What to keep in mind

- Loopback has no latency and no loss: it shows what a client costs, not what a network does.
- Two busy processes on neighbouring cores share caches and, in a virtual machine, a host.
  Differences below a tenth mean nothing; look at the range.
- Long uploads end in a file of a memory file system, and writing it is nginx's work: several
  clients reach that limit, and the processor time per GiB tells them apart.
- wrk and h2load are the limit of this nginx and this machine for small bodies: they do not check
  what they receive, keep little state per request and make one request once. For large bodies
  wrk reads in small pieces and is not a limit; curl is. h2load tells no percentiles.
- HTTP/2 windows, like all else, are each client's defaults. Over loopback small windows cost a
  little; over a long line they bound the speed.
- A dispatch does less than a request: no future, no task, no response object. The other Python
  clients have no such interface, so only `dodici-request` is a fair comparison with them.
- undici's small bodies are read with a data listener, the way that measured fastest.
- aiohttp has cookies switched off; httpx, httpx2 and niquests follow cookies, redirects and
  authentication in every request, and dodici's request does not until an interceptor is added.
  httpx, httpx2 and niquests get a timeout of 60 s: with their defaults some scenarios end early.
- pyreqwest runs Rust threads beside the loop's thread; with one core they share it. Given more
  cores it would gain, and the loop-bound clients would not.
- httpunk makes connections and leaves pooling to its user; it runs with its own cache of
  connections, without redirects, cookies or default headers.
- Memory: growth is counted from the moment when the client exists and has sent nothing. For
  idle connections it is what stays in the process after the burst that opened them, divided by
  their number; the kernel's buffers are not in it. Node returns memory late.
- httpx2, niquests and httpx take part in the scenarios in which everybody does; elsewhere they
  are measured when asked for by name (`--only httpx2`).
- A client that did not finish in time is listed as such.
"""

_HEADLINES = {
    "h1-p1": "HTTP/1.1",
    "h1-p10": "pipelining 10",
    "tls": "TLS",
    "h2": "HTTP/2 over TLS",
}


def page(board: Board, facts: dict[str, str], settings: dict[str, Any]) -> str:
    """The whole page as Markdown."""
    rounds = int(settings["repeat"])
    parts = [_INTRO, "## Machine and versions\n", markdown(_machine(board, facts)), ""]
    parts.append(_METHOD.format(**settings, s="" if rounds == 1 else "s"))
    parts.append("## Results\n")
    for name, scenario in board.scenarios.items():
        if scenario.part == "http":
            parts += [f"### {scenario.title}\n", markdown(board.table(name)), ""]
    return "\n".join([*parts, _CAVEATS, *mesh_page.section(board), *collective_page.section(board)])


def _machine(board: Board, facts: dict[str, str]) -> list[list[str]]:
    versions: dict[str, str] = {}
    for rows in board.rows.values():
        for row in rows:
            if row.runs:
                name = row.contender.family
                versions[name] = str(row.runs[0].get("version", "?"))
    return [["what", "value"], *([key, value] for key, value in {**facts, **versions}.items())]


def _headline(board: Board, name: str, contender: Contender) -> str:
    for row in board.rows[name]:
        if row.contender is contender and row.runs:
            ratio = board.ratios(row)[0]
            return f"{row.value:,.0f} ({ratio})" if ratio else f"{row.value:,.0f}"
    return ""


def readme_block(board: Board, facts: dict[str, str]) -> str:
    """The short table: requests per second in the headline scenarios, and ratios."""
    names = [name for name in _HEADLINES if name in board.rows]
    if not names:
        return "\n\n".join(filter(None, (mesh_page.block(board), collective_page.block(board))))
    heads = [_HEADLINES[name] for name in names]
    lines = [["requests per second", *heads, "vs other Python"]]
    shown = {row.contender: row for name in reversed(names) for row in board.rows[name] if row.runs}
    for contender in (each for each in CONTENDERS if each in shown and not each.variant):
        cells = [_headline(board, name, contender) for name in names]
        lines.append([contender.name, *cells, board.ratios(shown[contender])[1]])
    where = f"{facts['CPU']}, Python {facts['Python']}, Node {facts['Node']}, {facts['Date']}"
    note = (
        f"13 bytes, one nginx worker on one core, the client on another ({where}); 50 connections, "
        f"and with HTTP/2 one with 100 streams. In brackets: a dispatch against undici's dispatch, "
        f"a request against undici's request. The last column compares the first with the fastest "
        f"other Python client. "
        f"Method, limits and all other scenarios: [docs/benchmarks.md](docs/benchmarks.md)."
    )
    parts = (markdown(lines), note, mesh_page.block(board), collective_page.block(board))
    return "\n\n".join(part for part in parts if part)
