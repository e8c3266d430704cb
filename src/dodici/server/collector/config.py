"""The table `[collector]` of `dodici collector` and `dodici up`, as frozen values.

Every field of these classes is a key of its table, and docs/collective.md has them all. What a key means is what the
argument of the same name means to `Collector`, which checks its values once more; a mistake that only it finds is
told with the line of its key all the same.
"""

# ruff: noqa: RUF009 - a field is made by `key()`, whose defaults are immutable or factories
from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from ...collective.addresses import is_loopback, split_address
from ...collective.authz import Policy, Rule
from ...collective.names import checked_name
from ...collective.policies import Breaker, Budget, Limits, Retry
from ...core.errors import InvalidArgumentError
from ..document import parse_document, read_text
from ..schema import (
    NestedError,
    Problems,
    boolean,
    count,
    each,
    key,
    keys_of,
    one_of,
    positive_seconds,
    read_table,
    seconds,
    size,
    string,
    toml_type,
    unknown_key,
)
from .served import ServedConfig, read_object, read_services

_ID = re.compile(r"[A-Za-z0-9_.:@+~-]{1,128}").fullmatch
_BALANCE: Final = ("p2c", "round_robin", "least_request", "weighted", "hash")
OF_UP: Final = ("gateway", "services", "admin", "reload", "mesh")
_TLS_KEYS: Final = ("cert", "key", "ca", "require_client_cert", "server_name", "max_age")


def _id(value: Any) -> str:
    text = string(value)
    if _ID(text) is None:
        raise InvalidArgumentError(f"must be 1 to 128 letters, digits or '_.:@+~-', not {text!r}")
    return text


def _address(value: Any) -> str:
    text = string(value)
    split_address(text)
    return text


def _peer(value: Any) -> str:
    text = _address(value)
    host, port = split_address(text)
    if host is not None and not port:
        raise InvalidArgumentError(f"must be where a collector listens, with its port, not {text!r}")
    return text


def _link_port(value: Any) -> int | None:
    if value == "off":
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= 65535:
        raise InvalidArgumentError(f"must be a port, 0 for any free one, or 'off', not {value!r}")
    return value


def _namespace(value: Any) -> str:
    return checked_name("namespace", string(value))


def _discovery(value: Any) -> str | tuple[str, ...]:
    return tuple(map(string, value)) if isinstance(value, list) else string(value)


def _timeout(value: Any) -> float | None:
    return seconds(value) or None


def _table_of(kind: type[Any], readers: Mapping[str, Callable[[Any], Any]]) -> Callable[[Any], Any]:
    """A reader of a table that makes a `kind`."""
    names = sorted(each.name for each in dataclasses.fields(kind))

    def read(value: Any) -> Any:
        given = _items(value, "a table", names, readers)
        try:
            return kind(**given)
        except InvalidArgumentError as error:
            # It begins with the name of the argument that is wrong.
            name, _, rest = error.message.partition(" ")
            if (name := name.rstrip(":")) not in given:
                raise
            raise NestedError(rest, keys=(name,)) from None

    return read


def _items(
    value: Any, due: str, names: Iterable[str], readers: Mapping[str, Callable[[Any], Any]]
) -> dict[str, Any]:
    """The values of a table, each as its reader has it."""
    if not isinstance(value, dict):
        raise InvalidArgumentError(f"must be {due}, not {toml_type(value)}")
    given = {}
    for name, item in value.items():
        if name not in names:
            raise NestedError(unknown_key(name, names), keys=(name,))
        try:
            given[name] = readers[name](item) if name in readers else item
        except InvalidArgumentError as error:
            raise NestedError(error.message, keys=(name, *keys_of(error))) from None
    return given


def _tls(value: Any) -> dict[str, Any]:
    readers: dict[str, Callable[[Any], Any]] = {
        **dict.fromkeys(_TLS_KEYS, string),
        "require_client_cert": boolean,
        "max_age": _timeout,
    }
    given = _items(value, "a table with cert, key and ca", _TLS_KEYS, readers)
    for name in ("cert", "key"):
        if name not in given:
            raise InvalidArgumentError(f"lacks {name!r}: the path of a PEM file")
    return given


def _policy(value: Any) -> Policy:
    if not isinstance(value, list):
        raise InvalidArgumentError(
            f"must be an array of tables, [[collector.policy]], not {toml_type(value)}"
        )
    read = _table_of(Rule, dict.fromkeys(("identity", "namespace", "method"), string))
    rules = []
    for number, rule in enumerate(value, 1):
        try:
            rules.append(read(rule))
        except TypeError:
            raise NestedError("each rule needs an identity and a namespace", keys=(str(number),)) from None
        except InvalidArgumentError as error:
            raise NestedError(error.message, keys=(str(number), *keys_of(error))) from None
    return Policy(tuple(rules))


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectorConfig:
    """`[collector]`."""

    id: str = key(_id)
    listen: str = key(_address, "127.0.0.1:50051", shown='"127.0.0.1:50051"')
    advertise: str | None = key(_address, None, shown="listen")
    link_port: int | None = key(_link_port, 0)
    namespaces: tuple[str, ...] = key(
        lambda value: each(_namespace, "namespace")(value) if value != [] else (), (), shown="[]"
    )
    connect: tuple[str, ...] = key(
        lambda value: each(_peer, "address")(value) if value != [] else (), (), shown="[]"
    )
    discovery: str | tuple[str, ...] | None = key(_discovery, None, shown="none")
    registry: str | None = key(string, None, shown="none")
    validator: str | None = key(read_object, None, shown="none")
    insecure: bool = key(boolean, False)
    tls: Mapping[str, Any] | None = key(_tls, None, shown="none")
    policy: Policy | None = key(_policy, None, shown="none")
    balance: str = key(one_of(*_BALANCE), "p2c")
    local_first: bool = key(boolean, True)
    default_timeout: float | None = key(_timeout, 30.0)
    max_hops: int = key(count(1), 4)
    reflection: bool = key(boolean, True)
    limits: Limits | None = key(_table_of(Limits, {"message": size}), None, shown="their defaults")
    breaker: Breaker | None = key(_table_of(Breaker, {}), None, shown="its defaults")
    retry: Retry | None = key(_table_of(Retry, {"budget": _table_of(Budget, {})}), None, shown="its defaults")
    drain_timeout: float = key(seconds, 30.0)
    metrics: str | None = key(_address, None, shown="off")
    log_level: str = key(one_of("debug", "info", "warning", "error"), "info")
    connect_timeout: float = key(positive_seconds, 10.0)
    services: tuple[ServedConfig, ...] = ()
    file: Path | None = field(default=None, compare=False)
    problems: Problems | None = field(default=None, compare=False, repr=False)
    """Where what is found later is noted, so that it has its line, too."""

    def __post_init__(self) -> None:
        if self.tls is None and not self.insecure and not is_loopback(self.listen):
            raise NestedError(
                f"{self.listen!r} can be reached by other machines: add tls = {{ cert, key, ca }}, or say "
                "insecure = true",
                keys=("listen",),
            )
        if self.metrics is not None and (
            self.metrics.startswith("unix:") or not (is_loopback(self.metrics) or self.insecure)
        ):
            raise NestedError(
                f"must be HOST:PORT on loopback, or say insecure = true, not {self.metrics!r}",
                keys=("metrics",),
            )
        if self.policy is not None and self.tls is None:
            raise NestedError("needs tls: callers are known by their certificates", keys=("policy",))

    @property
    def folder(self) -> Path:
        """What relative paths are relative to, and handlers are imported from first."""
        return Path.cwd() if self.file is None else self.file.parent


def load(file: str | Path, overrides: Mapping[str, Any]) -> CollectorConfig:
    """Read a configuration file. `overrides` are keys of `[collector]` that count instead of the file's.

    Raises:
        ConfigError: it cannot be read, or something in it is wrong; each problem with its line.
    """
    text = read_text(file)
    document = parse_document(text, str(file))
    return parse(document, overrides, Problems(str(file), text), Path(file).resolve())


def parse(
    document: Mapping[str, Any], overrides: Mapping[str, Any], problems: Problems, file: Path | None = None
) -> CollectorConfig:
    """Make a configuration of a TOML document.

    Raises:
        ConfigError: as `load`.
    """
    for name in document:
        if name in OF_UP:
            problems.add((name,), "is a table of `dodici up`, which runs a collector, too: `dodici up FILE`")
        elif name != "collector":
            problems.unknown((name,), ["collector"], "table")
    config = read_collector(document.get("collector", {}), overrides, problems, file)
    problems.done()
    assert config is not None
    return config


def read_collector(
    table: Any, overrides: Mapping[str, Any], problems: Problems, file: Path | None
) -> CollectorConfig | None:
    """Make a configuration of a table `[collector]`; None, with the reasons in `problems`, if that is not possible."""
    if not isinstance(table, dict):
        problems.add(("collector",), f"must be a table, [collector], not {toml_type(table)}")
        table = {}
    table = {**table, **overrides}
    services = read_services(table.pop("services", {}), problems)
    # Not among the arguments of read_table(), which has a parameter of that name.
    config = read_table(CollectorConfig, table, ("collector",), problems, services=services, file=file)
    if config is not None:
        config = dataclasses.replace(config, problems=problems)
    if config is not None and config.tls is not None:
        for name in ("cert", "key", "ca"):
            if name in config.tls and not (config.folder / config.tls[name]).is_file():
                problems.add(("collector", "tls", name), f"there is no file {config.tls[name]!r}")
    return config
