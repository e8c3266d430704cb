"""From what people write down to what can be called: ``"module:app"``, an app object, or an address.

Which interface an app speaks is read from its signature, because that is what ASGI and WSGI define: three
arguments (scope, receive, send), or two (environ, start_response). Whatever could be both is refused and not guessed:
an app that is called the wrong way fails in each of its requests.

What a module raises while it is imported, or a factory while it is called, is not caught: its traceback is what
people need.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import os
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..api.url import split_url
from ..core.errors import InvalidArgumentError

INTERFACES = ("auto", "asgi", "wsgi")

_REFERENCE = re.compile(
    r"(?P<module>[^\W\d]\w*(?:\.[^\W\d]\w*)*):(?P<attribute>[^\W\d]\w*(?:\.[^\W\d]\w*)*)(?P<call>\(\))?"
).fullmatch
_EXAMPLES = 'such as "shop.api:app" or "shop.api:create_app()"'


@dataclass(frozen=True, slots=True, kw_only=True)
class App:
    """Something that answers requests."""

    interface: str
    """``"asgi"``, ``"wsgi"`` or ``"address"``."""
    call: Callable[..., Any] | None
    """The app, as its interface says. None for an address."""
    address: str | None
    """``"http://host:port"``, ``"https://host:port"`` or ``"unix:/path"``. None for an app."""
    name: str
    """What to call it in a message: the target as it was given, or the app's own name."""


def resolve(target: Any, *, interface: str = "auto", cwd: str | os.PathLike[str] | None = None) -> App:
    """Find the app that `target` means.

    Args:
        target: ``"module:attribute"``, ``"module:factory()"`` (the attribute may be dotted, the factory is called
            without arguments), an address (``"http://host:port"``, ``"https://host:port"``, ``"unix:/path"``), or
            the app itself.
        interface: ``"asgi"`` or ``"wsgi"`` where the signature does not say; ``"auto"`` looks at it.
        cwd: the folder to import from. It stays on `sys.path`, in front: apps import when they run, too.

    Raises:
        InvalidArgumentError: the target is malformed, the module has no such attribute, or what it names is not an
            app. What importing the module or calling the factory raises, it raises.
    """
    if interface not in INTERFACES:
        raise InvalidArgumentError(f'interface must be "auto", "asgi" or "wsgi", not {interface!r}')
    if isinstance(target, App):
        return target
    if not isinstance(target, str):
        return _app(target, interface, _name_of(target))
    address = _address(target)
    if address is not None:
        return App(interface="address", call=None, address=address, name=address)
    return _app(_load(target, cwd), interface, target)


def _address(target: str) -> str | None:
    """The address that the target is, as it is passed on; None if it is the name of an app."""
    if target.startswith("unix:"):
        path = target.removeprefix("unix:")
        if not path.startswith("/") or "\0" in path:
            raise InvalidArgumentError(
                f'{target!r} is no address: a unix socket is "unix:" and an absolute path'
            )
        return target
    if "://" not in target:
        return None
    scheme = target.partition("://")[0].lower()
    if scheme not in {"http", "https"}:
        raise InvalidArgumentError(f"{target!r} is no address: its scheme must be http or https")
    url = split_url(target)
    if url.path != "/" or url.userinfo is not None:
        raise InvalidArgumentError(
            f"{target!r} is no address: that is a scheme, a host and a port ({url.origin!r}), without a path, "
            "a query or a user"
        )
    return url.origin


def _load(target: str, cwd: str | os.PathLike[str] | None) -> Any:
    found = _REFERENCE(target)
    if found is None:
        raise InvalidArgumentError(_malformed(target))
    if cwd is not None:
        folder = str(Path(cwd).resolve())
        if folder not in sys.path:
            sys.path.insert(0, folder)
    module = importlib.import_module(found["module"])
    value: Any = module
    path = found["module"]
    for part in found["attribute"].split("."):
        try:
            value = getattr(value, part)
        except AttributeError:
            if not _is_missing(value, part):
                raise  # a module's __getattr__, or a property, failed by itself
            raise InvalidArgumentError(_no_such(target, path, value, part)) from None
        path = f"{path}.{part}" if value is not module else part
    if not found["call"]:
        return value
    if not callable(value):
        raise InvalidArgumentError(f"{target!r}: {_shown(value)} cannot be called, so it is no factory")
    if inspect.iscoroutinefunction(value):
        raise InvalidArgumentError(
            f"{target!r}: the factory is asynchronous. Make it a plain function, and let the app's lifespan do what "
            "has to be awaited"
        )
    return value()


def _is_missing(owner: Any, name: str) -> bool:
    return inspect.getattr_static(owner, name, None) is None


def _malformed(target: str) -> str:
    text = f"{target!r} is no app: it must be a module and an attribute, {_EXAMPLES}, or an address"
    module, colon, attribute = target.partition(":")
    if module.removesuffix(".py") != module or "/" in module:
        dotted = module.removesuffix(".py").strip("./").replace("/", ".")
        return f'{text}. Modules are named as in an import: "{dotted}:{attribute or "app"}"?'
    if not colon and module:
        return f'{text}. Did you mean "{module}:app"?'
    return text


def _no_such(target: str, path: str, owner: Any, name: str) -> str:
    text = f"{target!r}: {path} has no attribute {name!r}"
    public = [each for each in dir(owner) if not each.startswith("__")]
    near = difflib.get_close_matches(name, public, n=3, cutoff=0.6)
    if not near:
        near = [each for each in public if _could_be_app(getattr(owner, each, None))][:3]
    return f"{text}. Did you mean {' or '.join(map(repr, near))}?" if near else text


def _could_be_app(value: Any) -> bool:
    if inspect.isclass(value) or not callable(value):
        return False
    try:
        return _detect(value) is not None
    except InvalidArgumentError:
        return False


def _app(value: Any, interface: str, name: str) -> App:
    if not callable(value):
        raise InvalidArgumentError(
            f"{name}: {_shown(value)} is no app: an ASGI or WSGI callable is needed, a string {_EXAMPLES}, "
            "or an address"
        )
    if interface == "auto":
        found = _detect(value)
        if found is None:
            raise InvalidArgumentError(
                f"{name}: the signature of {_shown(value)} does not say whether it is an ASGI app (scope, receive, "
                'send) or a WSGI app (environ, start_response): say interface="asgi" or interface="wsgi"'
            )
        interface = found
    return App(interface=interface, call=value, address=None, name=name)


def _detect(value: Any) -> str | None:
    """The interface of a callable; None if it may be either.

    Raises:
        InvalidArgumentError: it is neither.
    """
    try:
        signature = inspect.signature(value)
    except (TypeError, ValueError):
        return None
    asynchronous = _is_async(value)
    two, three = _takes(signature, 2), _takes(signature, 3)
    if three and (asynchronous or not two):
        return "asgi"
    if two and not three and not asynchronous:
        return "wsgi"
    if two and three:
        positional = [
            p for p in signature.parameters.values() if p.kind in {p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD}
        ]
        if len(positional) >= 2:  # a third one has a default: its own business
            return "asgi" if positional[0].name == "scope" else "wsgi"
        return None
    if (
        _takes(signature, 1)
        and not asynchronous
        and (inspect.isclass(value) or "scope" in signature.parameters)
    ):
        if "scope" in signature.parameters:
            raise InvalidArgumentError(
                f"{_shown(value)} is an ASGI 2 app, called twice: wrap it with "
                "asgiref.compatibility.guarantee_single_callable()"
            )
        raise InvalidArgumentError(f"{_shown(value)} is a class: give an instance of it")
    hint = ""
    if inspect.isclass(value):
        hint = ": give an instance of it"
    elif _takes(signature, 0):
        hint = ": is it a factory? Then write it with (), or call it"
    raise InvalidArgumentError(
        f"{_shown(value)} takes {signature}, which is neither ASGI (scope, receive, send) nor WSGI (environ, "
        f"start_response){hint}"
    )


def _takes(signature: inspect.Signature, number: int) -> bool:
    try:
        signature.bind(*(None,) * number)
    except TypeError:
        return False
    return True


def _is_async(value: Any) -> bool:
    if inspect.iscoroutinefunction(value):
        return True
    call = getattr(type(value), "__call__", None)  # noqa: B004
    return not inspect.isclass(value) and inspect.iscoroutinefunction(call)


def _name_of(value: Any) -> str:
    name = getattr(value, "__qualname__", None) or type(value).__qualname__
    module = getattr(value, "__module__", None) or type(value).__module__
    return f"{module}.{name}"


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
