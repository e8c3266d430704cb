"""Log records that say to which trace they belong.

Every record of the logger ``dodici.collective`` has `trace_id` and `span_id`, those of the call that the running
handler serves, or empty ones. An application's own records get them by the same filter, on its handler:

    handler.addFilter(TraceFilter())
    handler.setFormatter(logging.Formatter("%(levelname)s %(trace_id)s %(message)s"))
"""

from __future__ import annotations

import logging

from ..core.trace import TraceFilter

__all__ = ["TraceFilter", "log"]


log = logging.getLogger("dodici.collective")
log.addFilter(TraceFilter())
