"""How often the garbage collector of CPython looks for circles, in processes that serve and are dodici's own.

By default it looks whenever 700 more objects have been made than freed, which a few requests at a time are enough for:
it finds that all of them are in use. Measured on a node of a collective with 16 callers, 30 us of 570 for each request.
dodici itself leaves no circles behind a request; what an app leaves waits for a few more of its kind.
"""

from __future__ import annotations

import gc
from typing import Final

_OBJECTS: Final = 10_000


def look_rarely() -> None:
    """Let it look when 10,000 objects have been made. Where it was told to look more rarely, or never, that stays."""
    young, *older = gc.get_threshold()
    if 0 < young < _OBJECTS:
        gc.set_threshold(_OBJECTS, *older)
