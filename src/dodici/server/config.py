"""The configuration of `dodici up`: a TOML file, as frozen values.

Every field of these classes is a key of its table, and `docs/config.md` has them all. Times are seconds, sizes are
bytes. Unknown keys are errors: a key with a slip in it would else be a default that nobody asked for.
"""

# ruff: noqa: RUF009 - a field is made by `key()`, whose defaults are immutable or factories
from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, fields, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final

from ..core.errors import InvalidArgumentError
from ..core.trace import PER_SECOND
from .address import Address
from .collector.check import check_collective, is_collective
from .document import parse_document, read_text
from .schema import (
    Problems,
    address,
    boolean,
    count,
    each,
    folder,
    key,
    one_of,
    positive_seconds,
    read_table,
    seconds,
    size,
    string,
    string_table,
    toml_type,
)

if TYPE_CHECKING:
    from .collector.config import CollectorConfig

_MIB: Final = 1024 * 1024
_SERVICE_NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?").fullmatch
_TARGET = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*(?:\(\))?|https?://\S+|unix:/\S+").fullmatch
_HOST = re.compile(r"(?:\*\.)?[a-z0-9_](?:[a-z0-9_.-]*[a-z0-9_])?|\[[0-9a-f:.]+\]|\*").fullmatch
_DOMAIN = re.compile(r"(?:\.[a-z0-9](?:[a-z0-9-]*[a-z0-9])?)+").fullmatch
_Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def _target(value: Any) -> str:
    text = string(value)
    if _TARGET(text) is None:
        hint = f"; did you mean {text + ':app'!r}?" if re.fullmatch(r"[A-Za-z_][\w.]*", text) else ""
        raise InvalidArgumentError(
            f"must be 'module:app', 'module:factory()', 'http://host:port' or 'unix:/path', not {text!r}{hint}"
        )
    return text


def _prefix(value: Any) -> str:
    text = string(value)
    if not text.startswith("/") or re.search(r"[\s?#]|//|/\.\.?(/|$)", text):
        raise InvalidArgumentError(
            f"must be the beginning of a path, such as '/api', without query, '//' or dots, not {text!r}"
        )
    return text if text == "/" else text.rstrip("/")


def _host(value: Any) -> str:
    text = string(value).lower().rstrip(".")
    if _HOST(text) is None:
        raise InvalidArgumentError(
            f"must be a host name such as 'api.example.com' or '*.example.com', without a port, not {value!r}"
        )
    return text


def _domain(value: Any) -> str:
    text = string(value).lower()
    text = text if text.startswith(".") else f".{text}"
    if _DOMAIN(text) is None:
        raise InvalidArgumentError(f"must be a domain such as '.local', not {value!r}")
    return text


def _network(value: Any) -> _Network | str:
    text = string(value)
    if text in {"unix", "*"}:
        return text
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise InvalidArgumentError(
            f"must be an address, a network such as '10.0.0.0/8', 'unix' or '*', not {text!r}"
        ) from None


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayConfig:
    """`[gateway]`: where requests come in, and what is allowed of them."""

    listen: tuple[Address, ...] = key(
        each(address, "address"), (Address("127.0.0.1", 8000),), shown='"127.0.0.1:8000"'
    )
    backlog: int = key(count(1), 2048)
    max_connections: int = key(count(0), 10_000)
    header_size: int = key(size, 64 * 1024, shown='"64KiB"')
    header_timeout: float = key(seconds, 10.0)
    keep_alive: float = key(positive_seconds, 5.0)
    request_size: int = key(size, 100 * _MIB, shown='"100MiB"')
    request_timeout: float = key(seconds, 60.0)
    body_timeout: float = key(seconds, 300.0)
    websocket_size: int = key(size, 16 * _MIB, shown='"16MiB"')
    trusted_proxies: tuple[_Network | str, ...] = key(
        lambda value: each(_network, "address")(value) if value != [] else (), (), shown="[]"
    )
    access_log: bool = key(boolean, False)
    trace: bool = key(boolean, True)
    traces_per_second: int = key(count(0), PER_SECOND)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceConfig:
    """`[services.NAME]`: an app, how many workers run it, and what is sent to it."""

    name: str
    """Not a key: the name of the table."""
    app: str = key(_target)
    workers: int = key(count(1), 1)
    kind: str = key(one_of("process", "thread", "loop"), "process")
    path: tuple[str, ...] = key(each(_prefix, "path"), (), shown="none")
    host: tuple[str, ...] = key(each(_host, "host"), (), shown="none")
    strip_path: bool = key(boolean, False)
    request_size: int | None = key(size, None, shown="the gateway's")
    request_timeout: float | None = key(seconds, None, shown="the gateway's")
    env: dict[str, str] = key(string_table, dict, shown="{}")
    cwd: Path | None = key(folder, None, shown="the file's folder")
    interface: str = key(one_of("auto", "asgi", "wsgi"), "auto")
    lifespan: str = key(one_of("auto", "on", "off"), "auto")
    wsgi_threads: int = key(count(1), 8)
    start_timeout: float = key(positive_seconds, 60.0)
    drain_timeout: float = key(seconds, 30.0)
    max_requests: int = key(count(0), 0)
    max_requests_jitter: int = key(count(0), 0)
    max_rss: int = key(size, 0)
    crash_limit: int = key(count(1), 5)
    crash_window: float = key(positive_seconds, 60.0)

    def __post_init__(self) -> None:
        if self.kind != "process":
            if self.max_rss:
                raise InvalidArgumentError(
                    "max_rss is for kind = 'process': threads and loops share one memory"
                )
            if self.env:
                raise InvalidArgumentError(
                    "env is for kind = 'process': threads and loops share one environment"
                )
        if self.strip_path and not self.path:
            raise InvalidArgumentError("strip_path needs a path to strip")
        if self.is_address and self.workers != 1:
            raise InvalidArgumentError("a service at an address has no workers of its own: leave out workers")
        if self.is_collective:
            for name in ("workers", "kind", "env", "max_requests", "max_rss"):
                given = getattr(self, name)
                if given and given != _DEFAULTS[name]:
                    raise InvalidArgumentError(
                        f"a service of the collective has no workers of its own: leave out {name}"
                    )

    @property
    def is_address(self) -> bool:
        """Whether it is a server that somebody else runs."""
        return self.app.startswith(("http://", "https://", "unix:")) and not self.is_collective

    @property
    def is_collective(self) -> bool:
        """Whether it is a service of the collective, wherever that runs: ``http://SERVICE.NAMESPACE.collective``."""
        return is_collective(self.app)


_DEFAULTS: Final = {each.name: each.default for each in fields(ServiceConfig)}


@dataclass(frozen=True, slots=True, kw_only=True)
class AdminConfig:
    """`[admin]`: metrics and status over HTTP; off where there is no address."""

    listen: Address | None = key(address, None, shown="off")
    allow_remote: bool = key(boolean, False)

    def __post_init__(self) -> None:
        if self.listen is not None and not self.listen.loopback and not self.allow_remote:
            raise InvalidArgumentError(
                f"listen = {str(self.listen)!r} shows the insides of this server to other machines: "
                "use a loopback address, or say allow_remote = true"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class ReloadConfig:
    """`[reload]`: replace workers when files change, for development."""

    enabled: bool = key(boolean, False)
    paths: tuple[Path, ...] = key(each(folder, "path"), (), shown="every service's cwd")
    include: tuple[str, ...] = key(each(string, "pattern"), ("*.py",), shown='["*.py"]')
    exclude: tuple[str, ...] = key(each(string, "pattern"), (), shown="[]")


@dataclass(frozen=True, slots=True, kw_only=True)
class MeshConfig:
    """`[mesh]`: how the services reach each other."""

    domain: str = key(_domain, ".local")
    timeout: float = key(seconds, 60.0)
    body_timeout: float = key(seconds, 300.0)
    propagation_timeout: float = key(positive_seconds, 5.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """All of a file."""

    gateway: GatewayConfig
    services: tuple[ServiceConfig, ...]
    admin: AdminConfig
    reload: ReloadConfig
    mesh: MeshConfig
    collector: CollectorConfig | None = None
    """`[collector]`; None where there is none."""
    file: Path | None = None
    """Where it was read; None where there was no file."""

    SECTIONS: ClassVar[dict[str, type[Any]]] = {
        "gateway": GatewayConfig,
        "admin": AdminConfig,
        "reload": ReloadConfig,
        "mesh": MeshConfig,
    }

    @property
    def folder(self) -> Path:
        """What relative paths are relative to."""
        return Path.cwd() if self.file is None else self.file.parent

    def service(self, name: str) -> ServiceConfig | None:
        """The service of that name."""
        return next((service for service in self.services if service.name == name), None)


def load(file: str | Path) -> Config:
    """Read a configuration file.

    Raises:
        ConfigError: it cannot be read, or something in it is wrong; each problem with its line.
    """
    return parse(read_text(file), file=Path(file))


def parse(text: str, *, file: Path) -> Config:
    """Read the text of a configuration; `file` is its name, and what its relative paths start from.

    Raises:
        ConfigError: as `load`.
    """
    document = parse_document(text, str(file))
    problems = Problems(str(file), text)
    sections: dict[str, Any] = {}
    known = [*Config.SECTIONS, "services", "collector"]
    for name in document:
        if name not in known:
            problems.unknown((name,), known, "table")
    for name, kind in Config.SECTIONS.items():
        sections[name] = read_table(kind, document.get(name, {}), (name,), problems)
    services = _read_services(document.get("services"), problems)
    if "collector" in document:
        sections["collector"] = _read_collector(document["collector"], problems, file.resolve())
    problems.done()
    config = Config(**sections, services=tuple(services), file=file.resolve())
    config = _with_folders(config, problems)
    _check_routes(config.services, problems)
    check_collective(config, problems)
    problems.done()
    return config


def _read_collector(table: Any, problems: Problems, file: Path) -> CollectorConfig | None:
    missing = [name for name in ("grpc", "google.protobuf") if not installed(name)]
    if missing:
        problems.add(
            ("collector",),
            f"needs {' and '.join(missing)}, which the extra 'collective' installs: pip install 'dodici[collective]'",
        )
        return None
    from .collector.config import read_collector

    return read_collector(table, {}, problems, file)


def installed(name: str) -> bool:
    """Whether a module can be imported."""
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:  # what it is in is missing
        return False


def for_app(target: str, **keys: Any) -> Config:
    """The configuration of one service that gets everything: `dodici up module:app`.

    Args:
        target: as the key `app`.
        **keys: `listen`, and keys of a service.

    Raises:
        ConfigError: as `load`.
    """
    problems = Problems("", "")
    listen = keys.pop("listen", None)
    name = re.sub(r"[^a-z0-9]+", "-", target.partition(":")[0].lower()).strip("-")[:63].strip("-") or "app"
    if "//" in target or target.startswith("unix:"):
        name = "app"
    table = {"app": target, "path": "/", **{key: value for key, value in keys.items() if value is not None}}
    gateway = read_table(
        GatewayConfig, {} if not listen else {"listen": list(listen)}, ("gateway",), problems
    )
    service = read_table(ServiceConfig, table, ("services", name), problems, name=name)
    problems.done()
    assert gateway is not None
    assert service is not None
    config = Config(
        gateway=gateway,
        services=(service,),
        admin=AdminConfig(),
        reload=ReloadConfig(),
        mesh=MeshConfig(),
    )
    config = _with_folders(config, problems)
    check_collective(config, problems)
    problems.done()
    return config


def _read_services(tables: Any, problems: Problems) -> list[ServiceConfig]:
    if not isinstance(tables, dict):
        if tables is not None:
            problems.add(("services",), f"must be tables such as [services.shop], not {toml_type(tables)}")
        tables = {}
    elif not tables:
        problems.add(("services",), "there is no service in it")
    if not tables and not problems.found:
        problems.add((), "there is no service: add a table such as [services.shop] with app = 'module:app'")
    services: list[ServiceConfig] = []
    for name, table in tables.items():
        path = ("services", name)
        if _SERVICE_NAME(name) is None:
            problems.add(
                path,
                "a service's name is a label of a host name: lower-case letters, digits and '-', 63 at most",
            )
            continue
        if not isinstance(table, dict):
            problems.add(path, f"must be a table, [services.{name}], not {toml_type(table)}")
            continue
        service = read_table(ServiceConfig, table, path, problems, name=name)
        if service is not None:
            services.append(service)
    return services


def _with_folders(config: Config, problems: Problems) -> Config:
    """Paths that are absolute, and folders that are there."""
    services = []
    for service in config.services:
        cwd = config.folder if service.cwd is None else (config.folder / service.cwd).resolve()
        if not cwd.is_dir():
            problems.add(("services", service.name, "cwd"), f"there is no folder {str(cwd)!r}")
        services.append(replace(service, cwd=cwd))
    paths = tuple((config.folder / path).resolve() for path in config.reload.paths)
    for path in paths:
        if not path.exists():
            problems.add(("reload", "paths"), f"there is no {str(path)!r}")
    return replace(config, services=tuple(services), reload=replace(config.reload, paths=paths))


def _check_routes(services: tuple[ServiceConfig, ...], problems: Problems) -> None:
    """Nothing is routed to two services. A service with neither path nor host is one for the others alone."""
    taken: dict[tuple[str, str], str] = {}
    for service in services:
        for host in service.host or ("*",):
            for path in service.path or (("/",) if service.host else ()):
                other = taken.setdefault((host, path), service.name)
                if other != service.name:
                    where = path if host == "*" else f"{host}{path}"
                    problems.add(
                        ("services", service.name, "path" if service.path else "host"),
                        f"{where!r} is routed to service {other!r} already",
                    )
