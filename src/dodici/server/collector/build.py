"""From a configuration to a collector that is not started: handlers are imported, services registered.

Services that an origin serves are registered apart (`register_origins`): what reaches the origin is made later than
the mistakes of a file are told.
"""

from __future__ import annotations

import contextlib
import difflib
import importlib
import inspect
import sys
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final, NoReturn

from ...collective import Collector
from ...collective.origin.specs import OriginSpecs, checked_origin
from ...collective.policies import Limits
from ...core.errors import InvalidArgumentError
from ..schema import Problems

if TYPE_CHECKING:
    from google.protobuf.descriptor import ServiceDescriptor

    from ...core.dispatcher import Dispatcher
    from .config import CollectorConfig
    from .served import ServedConfig

Path = tuple[str, ...]
_ANY: Final = (Exception, SystemExit)
"""Whatever the code of a module does: one that was written as a script may end by itself."""


def build(config: CollectorConfig) -> Collector:
    """The collector that a configuration means.

    Raises:
        ConfigError: a handler cannot be imported, or does not fit; a certificate or an address cannot be used.
    """
    problems = Problems("", "") if config.problems is None else config.problems
    folder = str(config.folder)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    validator = None
    if config.validator is not None:
        validator = _found(config.validator, ("collector", "validator"), problems)
    problems.done()
    try:
        collector = Collector(
            config.id,
            config.listen,
            advertise=config.advertise,
            link_port=config.link_port,
            namespaces=config.namespaces,
            validator=validator,
            registry=_registry(config),
            discovery=list(config.discovery) if isinstance(config.discovery, tuple) else config.discovery,
            balance=config.balance,
            retry=config.retry,
            breaker=config.breaker,
            limits=config.limits,
            tls=_tls(config),
            insecure=config.insecure,
            policy=config.policy,
            default_timeout=config.default_timeout,
            max_hops=config.max_hops,
            local_first=config.local_first,
            reflection=config.reflection,
        )
    except InvalidArgumentError as error:
        _refuse(problems, _key_of(error.message, config), error.message)
    for served in config.services:
        if served.origin is None:
            register(collector, served, problems)
        else:
            _check_origin(served, problems)
    problems.done()
    return collector


def register_origins(collector: Collector, config: CollectorConfig, dispatcher: Dispatcher | None) -> None:
    """Serve what the configuration has origins for.

    Args:
        collector: of `build`.
        config: see there.
        dispatcher: reaches the origins; None: the global one.

    Raises:
        ConfigError: an origin cannot be one.
    """
    problems = Problems("", "") if config.problems is None else config.problems
    for served in config.services:
        if served.origin is not None:
            register(collector, served, problems, dispatcher)
    problems.done()


def register(
    collector: Collector, served: ServedConfig, problems: Problems, dispatcher: Dispatcher | None = None
) -> None:
    """Serve one service, or note why that is not possible."""
    try:
        if served.origin is None:
            _serve(collector, served, served.table, problems)
            return
        methods = origin_methods(served, problems)
        collector.register_origin(
            served.namespace,
            served.service,
            served.origin,
            dispatcher=dispatcher,
            methods=methods,
            path=served.path,
            codec=served.codec,
        )
    except InvalidArgumentError as error:
        problems.add(served.table, error.message)


def unregister(collector: Collector, served: ServedConfig) -> None:
    """Take back `register`; harmless if that has failed."""
    descriptor = _descriptor(served, Problems("", "")) if served.descriptor is not None else None
    name = served.service if descriptor is None else descriptor.full_name
    with contextlib.suppress(InvalidArgumentError):
        collector.unregister_service(served.namespace, name)


def origin_methods(served: ServedConfig, problems: Problems) -> Any:
    """The argument `methods` of `register_origin`; None for all."""
    if served.descriptor is not None:
        return _descriptor(served, problems)
    methods = {name: dict(known) for name, known in served.methods.items()}
    for name, kind in served.kinds.items():
        methods[name].setdefault("kind", kind)
    for name in served.idempotent:
        methods[name].setdefault("idempotent", True)
    return methods or None


def _check_origin(served: ServedConfig, problems: Problems) -> None:
    """Note what `register` would, where there is nothing yet that reaches the origin."""
    assert served.origin is not None
    methods = origin_methods(served, problems)
    try:
        origin = checked_origin(served.origin)
        OriginSpecs(
            served.namespace,
            served.service,
            origin,
            dispatcher=None,
            path=served.path,
            codec=served.codec,
            limit=Limits().message,
        ).make(methods)
    except InvalidArgumentError as error:
        problems.add(served.table, error.message)


_BEGINNINGS: Final = {
    "ttl ": "discovery",
    "a validator ": "validator",
    "cannot load TLS ": "tls",
    "client certificates need ": "tls",
}
"""How refusals begin that speak of a part of a key's value."""


def _key_of(message: str, config: CollectorConfig) -> Path:
    """The key that a refusal of `Collector` speaks of: it begins with its name, or shows its value."""
    for beginning, name in _BEGINNINGS.items():
        if message.startswith(beginning):
            return "collector", name
    for name in ("advertise", "max_hops", "discovery", "registry"):
        value = getattr(config, name)
        values = value if isinstance(value, tuple) else (value,)
        if message.startswith(f"{name} ") or any(
            repr(each) in message for each in values if each is not None
        ):
            return "collector", name
    return ("collector",)


def _refuse(problems: Problems, path: Path, message: str) -> NoReturn:
    problems.add(path, message)
    problems.done()
    raise AssertionError("a problem was noted")


def _registry(config: CollectorConfig) -> str | None:
    given = config.registry
    if given is not None and given.startswith("sqlite:"):
        return f"sqlite:{config.folder / given.removeprefix('sqlite:')}"
    return given


def _tls(config: CollectorConfig) -> dict[str, Any] | None:
    if config.tls is None:
        return None
    files = {
        name: str(config.folder / config.tls[name]) for name in ("cert", "key", "ca") if name in config.tls
    }
    return {**config.tls, **files}


# -- services --------------------------------------------------------------------------------------------


def _serve(collector: Collector, served: ServedConfig, path: Path, problems: Problems) -> None:
    handler = None if served.handler is None else _found(served.handler, (*path, "handler"), problems)
    if handler is None:
        return
    if inspect.isclass(handler):
        try:
            handler = handler()
        except _ANY as error:
            problems.add(
                (*path, "handler"), f"{served.handler} cannot be made: {type(error).__name__}: {error}"
            )
            return
    if served.descriptor is not None:
        descriptor = _descriptor(served, problems)
        if descriptor is not None:
            collector.add_service(served.namespace, handler, descriptor)
        return
    methods = methods_of(handler)
    for key, names in (("idempotent", served.idempotent), ("kinds", tuple(served.kinds))):
        for name in names:
            if name not in methods:
                near = difflib.get_close_matches(name, methods, 1)
                hint = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(sorted(methods))}"
                problems.add((*path, key), f"{served.handler} has no method {name!r}; {hint}")
    if not methods:
        problems.add((*path, "handler"), f"{served.handler} has no public functions to serve")
    for name, method in methods.items():
        generates = inspect.isasyncgenfunction(method) or inspect.isgeneratorfunction(method)
        collector.register_service(
            served.namespace,
            served.service,
            name,
            method,
            idempotent=name in served.idempotent,
            kind=served.kinds.get(name, "unary_stream" if generates else "unary_unary"),
        )


def _descriptor(served: ServedConfig, problems: Problems) -> ServiceDescriptor | None:
    text = served.descriptor or ""
    path = (*served.table, "descriptor")
    module_name, _, name = text.partition(":")
    module = _imported(module_name, text, path, problems)
    if module is None:
        return None
    file = getattr(module, "DESCRIPTOR", None)
    descriptor: ServiceDescriptor | None = getattr(file, "services_by_name", {}).get(name)
    if descriptor is None:
        problems.add(path, f"{module_name} is no module of protoc's with a service {name!r}")
    elif served.service not in {descriptor.name, descriptor.full_name}:
        problems.add(path, f"describes {descriptor.full_name}, not {served.service}")
        return None
    return descriptor


def methods_of(handler: Any) -> dict[str, Callable[..., Any]]:
    """The methods that an object offers: a mapping's values, a module's own functions, an object's public methods."""
    if isinstance(handler, Mapping):
        return {str(name): method for name, method in handler.items() if callable(method)}
    found: dict[str, Callable[..., Any]] = {}
    for name in dir(handler):
        if name.startswith("_"):
            continue
        method = getattr(handler, name)
        if not inspect.isroutine(method):
            continue
        if isinstance(handler, ModuleType) and method.__module__ != handler.__name__:
            continue  # what it has imported
        found[name] = method
    return found


def _found(target: str, path: Path, problems: Problems) -> Any:
    """The object of "module:object" or "module:factory()"; None with a problem noted."""
    module_name, _, name = target.partition(":")
    found: Any = _imported(module_name, target, path, problems)
    if found is None:
        return None
    called = name.endswith("()")
    for part in name.removesuffix("()").split("."):
        if not hasattr(found, part):
            problems.add(path, f"{module_name!r} has no {name!r}")
            return None
        found = getattr(found, part)
    if called:
        try:
            found = found()
        except _ANY as error:
            problems.add(path, f"{target} has failed: {type(error).__name__}: {error}")
            return None
    return found


def _imported(module_name: str, target: str, path: Path, problems: Problems) -> Any:
    try:
        return importlib.import_module(module_name)
    except _ANY as error:
        problems.add(path, f"cannot import {module_name!r} for {target!r}: {type(error).__name__}: {error}")
        return None
