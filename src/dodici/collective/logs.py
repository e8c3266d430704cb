"""Log records that say to which trace they belong.

Every record of the logger ``dodici.collective`` has `trace_id` and `span_id`, those of the call that the running
handler serves, or empty ones. An application's own records get them by the same filter, on its handler:

    handler.addFilter(TraceFilter())
    handler.setFormatter(logging.Formatter("%(levelname)s %(trace_id)s %(message)s"))
"""

from __future__ import annotations

import logging
from typing import Any

from .context import CallContext, current


class TraceFilter(logging.Filter):
    """Lets every record pass, and gives it `trace_id` and `span_id`, where it has none."""

    def filter(self, record: logging.LogRecord) -> bool:
        """See `logging.Filter.filter`."""
        if not hasattr(record, "trace_id"):
            context = current.get()
            vars(record).update(NOWHERE if context is None else place_of(context))
        return True


NOWHERE = {"trace_id": "", "span_id": ""}


def place_of(context: CallContext) -> dict[str, Any]:
    """What `extra` of a record is that is made outside of the handler which it is about."""
    trace = context.trace
    return {"trace_id": trace.trace_id, "span_id": trace.span_id}


log = logging.getLogger("dodici.collective")
log.addFilter(TraceFilter())
