"""Decoding a body as it comes: the handler, and the controller, of one exchange.

What waits, waits coded, before the first decoder; only the rest of what a decoder had to give at once is
kept decoded. The inner exchange is paused for as long as anything waits: while the handler pauses, and while
one turn of the loop has decoded its share (a small chunk can be a lot of output).
"""

from __future__ import annotations

from collections import deque
from typing import Any

from ..core.controller import DispatchController
from ..core.errors import DecompressionError
from ..core.headers import EMPTY, Headers
from ..core.relay import Relay
from ._codings import Stage, stage_errors, stage_maker
from ._common import notify_error, running_loop, tell_dispatch

PIECE = 64 * 1024
"""Bytes of output at a time."""
SLICE = 32 * 1024
"""Bytes of input at a time: zlib copies what it leaves over."""
SHARE = 1024 * 1024
"""Bytes decoded in one turn of the loop."""
RATIO_FLOOR = 1024 * 1024
"""Bytes of output below which no ratio is a bomb."""
MAX_CODINGS = 5


def make_stages(headers: Headers) -> list[Stage] | None:
    """The decoders of a body, the last coding first; None if it is not coded, or unknowably so.

    Raises:
        DecompressionError: too many codings.
    """
    codings = [coding.strip().lower() for coding in headers.get("content-encoding", "").split(",")]
    codings = [coding for coding in codings if coding and coding != "identity"]
    if len(codings) > MAX_CODINGS:
        raise DecompressionError(
            f"too many content codings: {len(codings)}, at most {MAX_CODINGS} are decoded"
        )
    makers = [stage_maker(coding) for coding in reversed(codings)]
    stages = [maker() for maker in makers if maker is not None]
    return stages if stages and len(stages) == len(makers) else None


class DecoderRelay(Relay):
    """A controller whose `resume()` delivers what waits before the inner exchange goes on."""

    __slots__ = ("_decoder",)

    def __init__(self, decoder: Decoder) -> None:
        super().__init__(running_loop(), decoder.fail)
        self._decoder: Decoder | None = decoder

    def close(self) -> None:
        super().close()
        self._decoder = None

    def _settle(self) -> None:
        if self._decoder is not None and not self.paused:
            self._loop.call_soon(self._decoder.pump)
        else:
            super()._settle()


class Decoder:
    """The handler of one exchange whose body may need decoding."""

    __slots__ = (
        "_budget",
        "_chunks",
        "_decoded",
        "_dry",
        "_ended",
        "_handler",
        "_limits",
        "_over",
        "_pumping",
        "_ready",
        "_received",
        "_relay",
        "_skip_errors",
        "_skipped",
        "_stages",
        "_trailers",
    )

    def __init__(
        self,
        handler: Any,
        skipped: frozenset[int],
        skip_errors: bool,
        max_size: int | None,
        max_ratio: float | None,
    ) -> None:
        self._handler = handler
        self._skipped = skipped
        self._skip_errors = skip_errors
        self._limits = (max_size, max_ratio)
        self._stages: list[Stage] | None = None
        self._decoded: list[int] = []
        self._received = 0
        self._chunks: deque[bytes | memoryview] = deque()
        self._budget = 0
        self._dry = True
        self._pumping = False
        self._ready = memoryview(b"")
        self._ended = False
        self._over = False
        self._trailers = EMPTY
        self._relay = DecoderRelay(self)

    # What the inner exchange tells.

    def on_dispatch(self, controller: DispatchController) -> None:
        self._relay.attach(controller)
        tell_dispatch(self._handler, self._relay)

    def on_request_start(self, controller: DispatchController, context: dict[str, Any]) -> None:
        self._relay.attach(controller)
        self._handler.on_request_start(self._relay, context)

    def on_response_start(
        self, controller: DispatchController, status_code: int, headers: Headers, status_message: str
    ) -> None:
        skip = status_code < 200 or status_code == 206 or status_code in self._skipped
        if not skip and not (self._skip_errors and status_code >= 400) and "content-encoding" in headers:
            self._stages = make_stages(headers)
            if self._stages is not None:
                self._decoded = [0] * len(self._stages)
                headers = headers.without("content-encoding", "content-length")
        self._handler.on_response_start(self._relay, status_code, headers, status_message)

    def on_response_data(self, controller: DispatchController, chunk: bytes) -> None:
        if self._stages is None:
            self._handler.on_response_data(self._relay, chunk)
            return
        self._received += len(chunk)
        self._chunks.append(chunk)
        self.pump()

    def on_response_end(self, controller: DispatchController, trailers: Headers) -> None:
        if self._stages is None:
            self._handler.on_response_end(self._relay, trailers)
            self._close()
            return
        self._ended = True
        self._trailers = trailers
        self._relay.detach()
        self.pump()

    def on_response_error(self, controller: DispatchController, error: BaseException) -> None:
        self.fail(error)

    def on_request_upgrade(
        self, controller: DispatchController, status_code: int, headers: Headers, socket: Any
    ) -> None:
        self._handler.on_request_upgrade(self._relay, status_code, headers, socket)
        self._close()

    # Decoding.

    def fail(self, error: BaseException) -> None:
        """The one terminal error."""
        if not self._over:
            self._close()
            notify_error(self._handler, self._relay, error)

    def _close(self) -> None:
        self._over = True
        self._relay.close()
        self._chunks.clear()
        self._ready = memoryview(b"")
        self._stages = None

    def pump(self) -> None:
        """Decode and deliver until the input is used up, the handler pauses, or this turn's share is done."""
        if self._over or self._pumping:
            return
        relay = self._relay
        self._pumping = True
        self._budget = SHARE
        self._dry = self._stages is None
        try:
            while not (self._over or self._dry or relay.paused or relay.aborted or self._budget <= 0):
                if not self._ready:
                    # A decoder may give somewhat more than it was asked for.
                    self._ready = memoryview(self._decode(len(self._stages or ()) - 1))
                if self._ready:
                    piece, self._ready = bytes(self._ready[:PIECE]), self._ready[PIECE:]
                    self._handler.on_response_data(relay, piece)
        except Exception as error:
            self._break(error)
        finally:
            self._pumping = False
        if not self._over:
            self._go_on()

    def _go_on(self) -> None:
        relay = self._relay
        inner = relay.inner
        if relay.aborted:
            return
        if not self._dry:
            if inner is not None and not inner.paused:
                inner.pause()
            if not relay.paused:
                running_loop().call_soon(self.pump)
        elif relay.paused:
            return
        elif not self._ended:
            if inner is not None and inner.paused:
                inner.resume()
        elif self._stages is not None:
            self._finish(self._stages)

    def _finish(self, stages: list[Stage]) -> None:
        try:
            for stage in stages:
                stage.finish()
            self._handler.on_response_end(self._relay, self._trailers)
        except Exception as error:
            # The inner exchange has ended, and cannot tell the handler any more.
            self.fail(error)
        else:
            self._close()

    def _break(self, error: BaseException) -> None:
        """Decoding failed, or the handler raised: the inner exchange ends with that error, or has ended."""
        inner = self._relay.inner
        if inner is None:
            self.fail(error)
        else:
            inner.abort(error)

    def _decode(self, index: int) -> bytes:
        """Some output of a stage; b"" if there is no more input, or this turn's share is done."""
        stages = self._stages
        if stages is None:
            return b""
        stage = stages[index]
        while self._budget > 0:
            data: bytes | memoryview = b""
            if stage.needs_input:
                data = self._decode(index - 1) if index else self._next_slice()
                if not data:
                    return b""
            try:
                piece = stage.feed(data, PIECE)
            except stage_errors() as error:
                if isinstance(error, DecompressionError):
                    raise
                raise DecompressionError(f"broken content-encoding: {error}") from error
            if piece:
                self._count(index, len(piece))
                return piece
        return b""

    def _next_slice(self) -> bytes | memoryview:
        if not self._chunks:
            self._dry = True
            return b""
        chunk = self._chunks.popleft()
        if len(chunk) > SLICE:
            view = memoryview(chunk)
            self._chunks.appendleft(view[SLICE:])
            chunk = view[:SLICE]
        return chunk

    def _count(self, index: int, size: int) -> None:
        self._budget -= size
        self._decoded[index] += size
        total = self._decoded[index]
        max_size, max_ratio = self._limits
        if max_size is not None and total > max_size and index == len(self._decoded) - 1:
            raise DecompressionError(
                f"body decodes to more than {max_size} bytes (max_size)", bytes_read=self._received
            )
        if max_ratio is not None and total > RATIO_FLOOR and total > max_ratio * self._received:
            raise DecompressionError(
                f"body decodes to more than {max_ratio:g} times its size (max_ratio)",
                bytes_read=self._received,
            )
