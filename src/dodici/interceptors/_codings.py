"""Decoders of content codings, with one interface: bounded output, streamed input.

A stage is fed while it `needs_input`; `feed(data, limit)` gives at most about `limit` bytes, and is called
with `b""` until what it had been given is used up. So memory is bounded by the stage's window and a piece on
each side, whatever the ratio. Libraries are imported at their first use; a coding without one is unknown.

Source: RFC 9110 §8.4.1 (codings), RFC 1950, 1951, 1952 (zlib, deflate, gzip), RFC 7932 (br), RFC 8878 and
RFC 9659 (zstd and its window).
"""

from __future__ import annotations

import functools
import importlib
import zlib
from collections.abc import Callable
from typing import Any, Protocol

from ..core.errors import DecompressionError


class Stage(Protocol):
    """One decoder."""

    needs_input: bool
    """Whether `feed()` wants new data; otherwise it is to be called with `b""`."""

    def feed(self, data: bytes | memoryview, limit: int) -> bytes:
        """Decode. Raises whatever the library raises for data that is broken."""

    def finish(self) -> None:
        """The input has ended.

        Raises:
            DecompressionError: in the middle.
        """


def _truncated(coding: str) -> DecompressionError:
    return DecompressionError(f"{coding} body is truncated")


class ZlibStage:
    """gzip of any number of members, and deflate with or without the zlib header.

    Some servers send raw deflate (RFC 1951) where HTTP means zlib (RFC 1950): the first two bytes tell. What
    follows the last gzip member is padding, and ignored, as is what follows a zlib stream.
    """

    __slots__ = ("_begun", "_coding", "_decoder", "_held", "_input", "needs_input")

    def __init__(self, coding: str) -> None:
        self._coding = coding
        self._decoder: Any = None
        self._held = b""
        self._input: bytes | memoryview = b""
        self._begun = False
        self.needs_input = True

    def feed(self, data: bytes | memoryview, limit: int) -> bytes:
        if data:
            self._input = data if not self._held else self._held + bytes(data)
            self._held = b""
        while True:
            if self._decoder is None and not self._open():
                self.needs_input = True
                return b""
            decoder = self._decoder
            out: bytes = decoder.decompress(self._input, limit)
            if not decoder.eof:
                self._input = decoder.unconsumed_tail
                self.needs_input = len(out) < limit
                return out
            self._input = decoder.unused_data
            self._decoder = None
            if self._coding == "deflate":
                self._coding = "ignore"
            if out:
                self.needs_input = False
                return out

    def _open(self) -> bool:
        """Begin a member, if there is one and enough of it is there to tell."""
        if self._coding == "ignore":
            self._input = b""
            return False
        if len(self._input) < 2:
            self._held, self._input = bytes(self._input), b""
            return False
        first, second = self._input[0], self._input[1]
        if self._coding == "deflate":
            wrapped = first & 0x0F == 8 and (first << 8 | second) % 31 == 0
            self._decoder = zlib.decompressobj(zlib.MAX_WBITS if wrapped else -zlib.MAX_WBITS)
        elif self._begun and (first, second) != (0x1F, 0x8B):
            self._coding = "ignore"
            self._input = b""
            return False
        else:
            self._decoder = zlib.decompressobj(16 + zlib.MAX_WBITS)
        self._begun = True
        return True

    def finish(self) -> None:
        if self._decoder is not None or (self._held and not self._begun):
            raise _truncated(self._coding)


class BrotliStage:
    """br, through the package `brotli` (or `brotlicffi`), 1.2 or later."""

    __slots__ = ("_begun", "_decoder", "needs_input")

    def __init__(self) -> None:
        self._decoder = _brotli().Decompressor()
        self._begun = False
        self.needs_input = True

    def feed(self, data: bytes | memoryview, limit: int) -> bytes:
        decoder = self._decoder
        if decoder.is_finished():
            # The library refuses this where it comes in the same chunk; chunks must make no difference.
            raise DecompressionError("data after the end of a br body")
        self._begun = True
        out: bytes = decoder.process(bytes(data), output_buffer_limit=limit)
        # All input may be taken while output is still owed: only a short piece says that there is no more.
        self.needs_input = decoder.is_finished() or (len(out) < limit and decoder.can_accept_more_data())
        return out

    def finish(self) -> None:
        if self._begun and not self._decoder.is_finished():
            raise _truncated("br")


class ZstdStage:
    """zstd of any number of frames, with windows of at most 8 MiB, as RFC 9659 has it."""

    __slots__ = ("_decoder", "_module", "_pending", "needs_input")

    def __init__(self) -> None:
        self._module = _zstd()
        self._decoder: Any = None
        self._pending: bytes | memoryview = b""
        self.needs_input = True

    def feed(self, data: bytes | memoryview, limit: int) -> bytes:
        data = data or self._pending
        while True:
            if self._decoder is None:
                if not data:
                    self.needs_input = True
                    return b""
                option = self._module.DecompressionParameter.window_log_max
                self._decoder = self._module.ZstdDecompressor(options={option: 23})
            decoder = self._decoder
            out: bytes = decoder.decompress(data, limit)
            self._pending = data = b""
            if decoder.eof:
                self._pending = data = decoder.unused_data
                self._decoder = None
                self.needs_input = not data
            else:
                self.needs_input = decoder.needs_input
            if out or self.needs_input:
                return out

    def finish(self) -> None:
        if self._decoder is not None:
            raise _truncated("zstd")


@functools.cache
def _brotli() -> Any:
    for name in ("brotli", "brotlicffi"):
        try:
            module = importlib.import_module(name)
        except ImportError:
            continue
        # Older ones cannot bound their output: one small chunk could fill the memory.
        if hasattr(module.Decompressor, "can_accept_more_data"):
            return module
    return None


@functools.cache
def _zstd() -> Any:
    for name in ("compression.zstd", "backports.zstd"):
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    return None


def stage_maker(coding: str) -> Callable[[], Stage] | None:
    """What makes a decoder for a coding; None if there is none here."""
    if coding in {"gzip", "x-gzip"}:
        return lambda: ZlibStage("gzip")
    if coding == "deflate":
        return lambda: ZlibStage("deflate")
    if coding == "br":
        return BrotliStage if _brotli() is not None else None
    if coding == "zstd":
        return ZstdStage if _zstd() is not None else None
    return None


def available() -> list[str]:
    """The codings that can be decoded here, as for `accept-encoding`."""
    return [coding for coding in ("gzip", "deflate", "br", "zstd") if stage_maker(coding) is not None]


def stage_errors() -> tuple[type[BaseException], ...]:
    """What stages raise for broken data."""
    errors: list[type[BaseException]] = [DecompressionError, zlib.error, EOFError]
    if _brotli() is not None:
        errors.append(_brotli().error)
    if _zstd() is not None:
        errors.append(_zstd().ZstdError)
    return tuple(errors)
