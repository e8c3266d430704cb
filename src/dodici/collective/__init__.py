"""The collective: collectors that route calls between machines, over gRPC.

Names are loaded on first use (PEP 562).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..core.lazy import lazy

if TYPE_CHECKING:
    from .authz import Policy as Policy
    from .collector import Collector as Collector
    from .context import CallContext as CallContext
    from .contracts import (
        Authorizer as Authorizer,
        Discovery as Discovery,
        Identity as Identity,
        MemberRecord as MemberRecord,
        Validator as Validator,
    )
    from .errors import (
        CallAbortedError as CallAbortedError,
        CollectiveError as CollectiveError,
        DeadlineExceededError as DeadlineExceededError,
        PeerUnavailableError as PeerUnavailableError,
    )
    from .history import DispatchRecord as DispatchRecord, History as History
    from .http.interceptor import CollectiveInterceptor as CollectiveInterceptor
    from .names import CallKind as CallKind
    from .origin.mapping import OriginMethod as OriginMethod
    from .policies import (
        Breaker as Breaker,
        Budget as Budget,
        Limits as Limits,
        Outlier as Outlier,
        Reconnect as Reconnect,
        Retry as Retry,
        SlowStart as SlowStart,
    )
    from .registry.client import RemoteRegistry as RemoteRegistry
    from .registry.interceptor import ValidationInterceptor as ValidationInterceptor
    from .registry.registry import LocalRegistry as LocalRegistry
    from .registry.validators import LocalValidator as LocalValidator, RemoteValidator as RemoteValidator
    from .results import DispatchResult as DispatchResult, DispatchStream as DispatchStream, Status as Status
    from .stats import CollectorStats as CollectorStats, PeerStats as PeerStats, RouteStats as RouteStats
    from .tls import TLS as TLS
    from .trace import Trace as Trace

_HOMES = {
    "TLS": "tls",
    "Authorizer": "contracts",
    "Breaker": "policies",
    "Budget": "policies",
    "CallAbortedError": "errors",
    "CallContext": "context",
    "CallKind": "names",
    "CollectiveError": "errors",
    "CollectiveInterceptor": "http.interceptor",
    "Collector": "collector",
    "CollectorStats": "stats",
    "DeadlineExceededError": "errors",
    "Discovery": "contracts",
    "DispatchRecord": "history",
    "DispatchResult": "results",
    "DispatchStream": "results",
    "History": "history",
    "Identity": "contracts",
    "Limits": "policies",
    "MemberRecord": "contracts",
    "OriginMethod": "origin.mapping",
    "Outlier": "policies",
    "PeerStats": "stats",
    "PeerUnavailableError": "errors",
    "Policy": "authz",
    "Reconnect": "policies",
    "Retry": "policies",
    "RouteStats": "stats",
    "SlowStart": "policies",
    "Status": "results",
    "Trace": "trace",
    "Validator": "contracts",
    "LocalRegistry": "registry.registry",
    "LocalValidator": "registry.validators",
    "RemoteRegistry": "registry.client",
    "RemoteValidator": "registry.validators",
    "ValidationInterceptor": "registry.interceptor",
}

__all__ = [*sorted(_HOMES)]  # noqa: PLE0604


if not TYPE_CHECKING:  # a checker would take every misspelling for a name that is found here
    __getattr__, __dir__ = lazy(__name__, _HOMES)
