"""dodici: one dispatcher for HTTP/1 and HTTP/2 origins, workers and collectives of machines.

Names are loaded on first use (PEP 562), so that `import dodici` costs next to nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    # What __getattr__ finds, spelt out for those who read and do not run (and checked by a test).
    from . import interceptors as interceptors, testing as testing
    from .api.grpc import (
        GrpcCall as GrpcCall,
        GrpcChannel as GrpcChannel,
        GrpcMetadata as GrpcMetadata,
        GrpcResponse as GrpcResponse,
        GrpcStatus as GrpcStatus,
    )
    from .api.response import (
        Response as Response,
        ResponseBody as ResponseBody,
    )
    from .api.verbs import (
        connect as connect,
        delete as delete,
        get as get,
        head as head,
        options as options,
        patch as patch,
        pipeline as pipeline,
        post as post,
        put as put,
        request as request,
        stream as stream,
        upgrade as upgrade,
    )
    from .api.websocket import (
        WebSocket as WebSocket,
        websocket as websocket,
    )
    from .core import diagnostics as diagnostics, errors as errors
    from .core.controller import (
        DispatchController as DispatchController,
    )
    from .core.dispatcher import (
        ComposedDispatcher as ComposedDispatcher,
        Dispatcher as Dispatcher,
        DispatchFunction as DispatchFunction,
        Interceptor as Interceptor,
    )
    from .core.errors import (
        AbortError as AbortError,
        BalancedPoolMissingUpstreamError as BalancedPoolMissingUpstreamError,
        BodyAbortedError as BodyAbortedError,
        BodyTimeoutError as BodyTimeoutError,
        BodyUnusableError as BodyUnusableError,
        ClientClosedError as ClientClosedError,
        ClientDestroyedError as ClientDestroyedError,
        ConnectError as ConnectError,
        ConnectionRefused as ConnectionRefused,
        ConnectTimeoutError as ConnectTimeoutError,
        DecompressionError as DecompressionError,
        DodiciError as DodiciError,
        GrpcDeadlineError as GrpcDeadlineError,
        GrpcError as GrpcError,
        HeadersOverflowError as HeadersOverflowError,
        HeadersTimeoutError as HeadersTimeoutError,
        HTTP2Error as HTTP2Error,
        HTTPParserError as HTTPParserError,
        InformationalError as InformationalError,
        InvalidArgumentError as InvalidArgumentError,
        InvalidReturnValueError as InvalidReturnValueError,
        LinkError as LinkError,
        LoopMismatchError as LoopMismatchError,
        MaxOriginsReachedError as MaxOriginsReachedError,
        MeshError as MeshError,
        MeshTimeoutError as MeshTimeoutError,
        NameResolutionError as NameResolutionError,
        NoTargetError as NoTargetError,
        NotSupportedError as NotSupportedError,
        ProxyConnectionError as ProxyConnectionError,
        RemoteAppError as RemoteAppError,
        RequestAbortedError as RequestAbortedError,
        RequestContentLengthMismatchError as RequestContentLengthMismatchError,
        RequestRetryError as RequestRetryError,
        RequestTimeoutError as RequestTimeoutError,
        ResponseContentLengthMismatchError as ResponseContentLengthMismatchError,
        ResponseError as ResponseError,
        ResponseExceededMaxSizeError as ResponseExceededMaxSizeError,
        SecureProxyConnectionError as SecureProxyConnectionError,
        SocketError as SocketError,
        StreamResetError as StreamResetError,
        TargetChangedError as TargetChangedError,
        TLSError as TLSError,
        WebSocketClosedError as WebSocketClosedError,
        WebSocketError as WebSocketError,
        WorkerExitedError as WorkerExitedError,
        WorkerStartError as WorkerStartError,
    )
    from .core.handler import (
        DecoratorHandler as DecoratorHandler,
        DispatchHandler as DispatchHandler,
        Handler as Handler,
    )
    from .core.headers import (
        Headers as Headers,
    )
    from .core.options import (
        DispatchOptions as DispatchOptions,
    )
    from .net.connector import (
        Connector as Connector,
    )
    from .net.upgraded import (
        UpgradedSocket as UpgradedSocket,
    )
    from .pool.agent import (
        Agent as Agent,
    )
    from .pool.balanced import (
        BalancedPool as BalancedPool,
    )
    from .pool.client import (
        Client as Client,
        H2CClient as H2CClient,
    )
    from .pool.default import (
        get_global_dispatcher as get_global_dispatcher,
        set_global_dispatcher as set_global_dispatcher,
    )
    from .pool.pool import (
        Pool as Pool,
    )
    from .pool.round_robin import (
        RoundRobinPool as RoundRobinPool,
    )

_HOMES = {
    "dodici.core.dispatcher": ("Dispatcher", "ComposedDispatcher", "Interceptor", "DispatchFunction"),
    "dodici.core.options": ("DispatchOptions",),
    "dodici.core.handler": ("Handler", "DispatchHandler", "DecoratorHandler"),
    "dodici.core.controller": ("DispatchController",),
    "dodici.core.headers": ("Headers",),
    "dodici.core.errors": (
        "AbortError",
        "BalancedPoolMissingUpstreamError",
        "BodyAbortedError",
        "BodyTimeoutError",
        "BodyUnusableError",
        "ClientClosedError",
        "ClientDestroyedError",
        "ConnectError",
        "ConnectTimeoutError",
        "ConnectionRefused",
        "DecompressionError",
        "DodiciError",
        "GrpcDeadlineError",
        "GrpcError",
        "HTTP2Error",
        "HTTPParserError",
        "HeadersOverflowError",
        "HeadersTimeoutError",
        "InformationalError",
        "InvalidArgumentError",
        "InvalidReturnValueError",
        "LinkError",
        "LoopMismatchError",
        "MaxOriginsReachedError",
        "MeshError",
        "MeshTimeoutError",
        "NameResolutionError",
        "NoTargetError",
        "NotSupportedError",
        "ProxyConnectionError",
        "RemoteAppError",
        "RequestAbortedError",
        "RequestContentLengthMismatchError",
        "RequestRetryError",
        "RequestTimeoutError",
        "ResponseContentLengthMismatchError",
        "ResponseError",
        "ResponseExceededMaxSizeError",
        "SecureProxyConnectionError",
        "SocketError",
        "StreamResetError",
        "TLSError",
        "TargetChangedError",
        "WebSocketClosedError",
        "WebSocketError",
        "WorkerExitedError",
        "WorkerStartError",
    ),
    "dodici.net.upgraded": ("UpgradedSocket",),
    "dodici.net.connector": ("Connector",),
    "dodici.pool.client": ("Client", "H2CClient"),
    "dodici.pool.pool": ("Pool",),
    "dodici.pool.round_robin": ("RoundRobinPool",),
    "dodici.pool.balanced": ("BalancedPool",),
    "dodici.pool.agent": ("Agent",),
    "dodici.pool.default": ("get_global_dispatcher", "set_global_dispatcher"),
    "dodici.api.response": ("Response", "ResponseBody"),
    "dodici.api.grpc": ("GrpcCall", "GrpcChannel", "GrpcMetadata", "GrpcResponse", "GrpcStatus"),
    "dodici.api.websocket": ("WebSocket", "websocket"),
    "dodici.api.verbs": (
        "connect",
        "delete",
        "get",
        "head",
        "options",
        "patch",
        "pipeline",
        "post",
        "put",
        "request",
        "stream",
        "upgrade",
    ),
}
_MODULES = ("interceptors", "diagnostics", "testing", "errors")
_MODULE_HOMES = {"diagnostics": "dodici.core.diagnostics", "errors": "dodici.core.errors"}
_home = {name: module for module, names in _HOMES.items() for name in names}

__all__ = ["__version__", *sorted(_home), *_MODULES]  # noqa: PLE0604


if not TYPE_CHECKING:  # a checker would take every misspelling for a name that is found here

    def __getattr__(name: str) -> Any:
        if name in _home:
            value = getattr(importlib.import_module(_home[name]), name)
        elif name in _MODULES:
            value = importlib.import_module(_MODULE_HOMES.get(name, f"dodici.{name}"))
        else:
            raise AttributeError(f"module 'dodici' has no attribute {name!r}")
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
