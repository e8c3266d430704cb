"""Interceptors: functions from a dispatch function to a dispatch function, for `Dispatcher.compose()`.

Each is loaded at its first use. In `compose(a, b)` the last one is the outermost: `b` sees a request
first and its response last.

The modules are named otherwise than the functions in them. Importing a module sets it as an attribute of
its package, so a module `retry` would one day stand where the function `retry` is expected.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..core.lazy import lazy

if TYPE_CHECKING:
    from .decompression import decompress as decompress
    from .dumping import dump as dump
    from .redirects import redirect as redirect
    from .response_errors import response_error as response_error
    from .retries import RetryPolicy as RetryPolicy, RetryState as RetryState, retry as retry

_HOMES = {
    "RetryPolicy": "retries",
    "RetryState": "retries",
    "decompress": "decompression",
    "dump": "dumping",
    "redirect": "redirects",
    "response_error": "response_errors",
    "retry": "retries",
}

__all__ = ["RetryPolicy", "RetryState", "decompress", "dump", "redirect", "response_error", "retry"]


__getattr__, __dir__ = lazy(__name__, _HOMES)
