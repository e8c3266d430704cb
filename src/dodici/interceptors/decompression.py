"""`decompress()`: decode gzip, deflate, br and zstd bodies as they come.

Bombs are bounded three ways: a handler that pauses is not flooded, `max_size` is for the whole body, and
`max_ratio` also counts what the decoders of a multiply coded body hand to each other.

A 206 passes untouched, for a part of a coded body cannot be decoded, and so do the answers to HEAD.

Source: RFC 9110 §8.4 (content-encoding), §12.5.3 (accept-encoding).
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from ..core.dispatcher import DispatchFunction, Interceptor
from ..core.errors import InvalidArgumentError
from ..core.headers import Headers
from ..core.options import BYTES, DispatchOptions, check_count
from ._codings import available
from ._decoder import Decoder


def decompress(
    *,
    skip_status_codes: Collection[int] = (204, 304),
    skip_error_responses: bool = True,
    max_size: int | None = None,
    max_ratio: float | None = 1000.0,
) -> Interceptor:
    """Decode response bodies, and ask for codings that can be decoded.

    `accept-encoding` is added to requests that have none, save HEAD, upgrades and ranges. What is decoded
    comes without `content-encoding` and `content-length`. A body with a coding that is not known here (or
    whose package is not installed) passes as it is, coding and all.

    Args:
        skip_status_codes: responses that pass as they are.
        skip_error_responses: pass responses with status 400 or more as they are, as undici does. Set it to
            False to read the text of errors.
        max_size: bytes that a body may decode to; None for any number.
        max_ratio: how many times its coded size a body may decode to, from the first MiB on; None for any.

    Raises:
        InvalidArgumentError: a value out of its range.
    """
    if isinstance(skip_status_codes, str | bytes) or not isinstance(skip_status_codes, Collection):
        raise InvalidArgumentError(
            f"skip_status_codes must be a collection of int, not {skip_status_codes!r}"
        )
    skipped = frozenset(check_count("skip_status_codes", code) for code in skip_status_codes)
    if not isinstance(skip_error_responses, bool):
        raise InvalidArgumentError(
            f"skip_error_responses must be True or False, not {skip_error_responses!r}"
        )
    if max_size is not None:
        check_count("max_size", max_size, minimum=1)
    if max_ratio is not None and (
        isinstance(max_ratio, bool) or not isinstance(max_ratio, int | float) or not max_ratio >= 1
    ):
        raise InvalidArgumentError(f"max_ratio must be a number, 1 or more, or None, not {max_ratio!r}")

    def interceptor(dispatch: DispatchFunction) -> DispatchFunction:
        # Options that are dispatched again and again are changed once, so that their encoding is kept too.
        known: tuple[DispatchOptions, DispatchOptions] | None = None

        def dispatch_and_decompress(options: DispatchOptions, handler: Any) -> bool:
            nonlocal known
            if options.method == "HEAD":
                return dispatch(options, handler)
            if known is None or known[0] is not options:
                changed = _asking(options)
                if options.body_kind <= BYTES and options.payload is None:
                    known = (options, changed)
            else:
                changed = known[1]
            decoder = Decoder(handler, skipped, skip_error_responses, max_size, max_ratio)
            return dispatch(changed, decoder)

        dispatch_and_decompress.__wrapped__ = dispatch  # type: ignore[attr-defined]
        return dispatch_and_decompress

    return interceptor


def _asking(options: DispatchOptions) -> DispatchOptions:
    fields = options.fields
    if options.upgrade is not None or options.method == "CONNECT":
        return options
    if "accept-encoding" in fields or "range" in fields:
        return options
    return options.replace(headers=Headers(options.headers) | {"accept-encoding": ", ".join(available())})
