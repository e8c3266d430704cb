"""The configuration of `dodici collector`: what is read, what is refused and on which line, and the page's keys."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("grpc")

from dodici.cli import main
from dodici.collective import Breaker, Limits, Retry
from dodici.collective.authz import Rule
from dodici.server.collector.build import build, methods_of
from dodici.server.collector.config import CollectorConfig, load
from dodici.server.collector.served import ServedConfig
from dodici.server.schema import ConfigError

PAGE = Path(__file__).parents[2] / "docs" / "config.md"
Capture = pytest.CaptureFixture[str]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "collector.toml"


def read(file: Path, text: str, **overrides: Any) -> CollectorConfig:
    file.write_text(text)
    return load(file, overrides)


def problems(file: Path, text: str, *, building: bool = False) -> list[tuple[int | None, str, str]]:
    with pytest.raises(ConfigError) as caught:
        config = read(file, text)
        if building:
            build(config)
    assert str(file) in str(caught.value)
    return [(each.line, ".".join(each.path), each.message) for each in caught.value.problems]


def test_small_file_has_the_defaults(file: Path) -> None:
    config = read(file, '[collector]\nid = "a"\n')
    assert (config.id, config.listen, config.namespaces, config.connect) == ("a", "127.0.0.1:50051", (), ())
    assert (config.discovery, config.registry, config.tls, config.metrics) == (None, None, None, None)
    assert (config.balance, config.default_timeout, config.max_hops) == ("p2c", 30.0, 4)
    assert (config.insecure, config.reflection, config.local_first) == (False, True, True)
    assert (config.limits, config.breaker, config.retry, config.services) == (None, None, None, ())


def test_every_key_is_read(file: Path) -> None:
    for name in ("cert.pem", "key.pem", "ca.pem"):
        (file.parent / name).write_text("")
    text = """
[collector]
id = "orders-1"
listen = "0.0.0.0:50051"
advertise = "10.0.0.7:50051"
link_port = 50052
namespaces = ["orders", "users"]
connect = ["10.0.0.8:50051", "unix:/run/b.sock"]
discovery = "etcd://127.0.0.1:2379/shop?ttl=5"
registry = "sqlite:registry.db"
validator = "shop.rules:Validator()"
insecure = true
tls = { cert = "cert.pem", key = "key.pem", ca = "ca.pem", require_client_cert = true, server_name = "x", max_age = 60 }
balance = "round_robin"
local_first = false
default_timeout = 0
max_hops = 2
reflection = false
limits = { in_flight = 10, queued = 0, message = "1MiB", per_namespace = 7, per_peer = 5 }
breaker = { failures = 3, open_for = 1.5 }
retry = { attempts = 2, on = ["UNAVAILABLE", "ABORTED"], budget = { ratio = 0.1 } }
drain_timeout = 3
metrics = "127.0.0.1:0"
log_level = "debug"
connect_timeout = 2.5

[[collector.policy]]
identity = "spiffe://corp/*"
namespace = "orders"
method = "OrderService.Get*"

[collector.services."orders.shop.v1.OrderService"]
handler = "shop.orders:Orders"
idempotent = ["GetOrder"]
kinds = { Upload = "stream_unary" }

[collector.services."users.Users"]
handler = "shop.users:make()"
descriptor = "shop.users_pb2:Users"
"""
    config = read(file, text)
    assert config.listen == "0.0.0.0:50051"
    assert (config.advertise, config.link_port) == ("10.0.0.7:50051", 50052)
    assert config.namespaces == ("orders", "users")
    assert config.connect == ("10.0.0.8:50051", "unix:/run/b.sock")
    assert config.discovery == "etcd://127.0.0.1:2379/shop?ttl=5"
    assert config.registry == "sqlite:registry.db"
    assert config.validator == "shop.rules:Validator()"
    assert config.tls is not None
    assert (config.tls["server_name"], config.tls["max_age"]) == ("x", 60.0)
    assert (config.balance, config.local_first, config.default_timeout) == ("round_robin", False, None)
    assert (config.max_hops, config.reflection, config.drain_timeout) == (2, False, 3.0)
    assert config.limits == Limits(in_flight=10, queued=0, message=1 << 20, per_namespace=7, per_peer=5)
    assert config.breaker == Breaker(failures=3, open_for=1.5)
    assert isinstance(config.retry, Retry)
    assert config.retry.attempts == 2
    assert config.retry.budget.ratio == 0.1
    assert config.policy is not None
    assert config.policy.rules == (Rule("spiffe://corp/*", "orders", "OrderService.Get*"),)
    first, second = config.services
    assert (first.namespace, first.service) == ("orders", "shop.v1.OrderService")
    assert (first.idempotent, first.kinds) == (("GetOrder",), {"Upload": "stream_unary"})
    assert second.descriptor == "shop.users_pb2:Users"
    every = {each.name for each in fields(CollectorConfig) if "read" in each.metadata}
    assert every <= set(re.findall(r"^(?:\[\[collector\.)?(\w+)", text, re.MULTILINE)), (
        "a key is not in this test"
    )


@pytest.mark.parametrize(
    ("text", "line", "path", "message"),
    [
        ("", None, "collector", "'id' is missing"),
        ("[collectors]\n", 1, "collectors", "unknown table; did you mean 'collector'?"),
        ('[collector]\nid = "a"\nlissten = 1\n', 3, "collector.lissten", "did you mean 'listen'?"),
        ('[collector]\nid = "a b"\n', 2, "collector.id", "must be 1 to 128 letters"),
        ('[collector]\nid = "a"\nlisten = "50051"\n', 3, "collector.listen", "use 'host:port'"),
        ('[collector]\nid = "a"\n\nlisten = "0.0.0.0:1"\n', 4, "collector.listen", "insecure = true"),
        ('[collector]\nid = "a"\nlink_port = "of"\n', 3, "collector.link_port", "or 'off', not 'of'"),
        ('[collector]\nid = "a"\nlink_port = 65536\n', 3, "collector.link_port", "must be a port"),
        ('[collector]\nid = "a"\nnamespaces = ["a/b"]\n', 3, "collector.namespaces", "no '/'"),
        ('[collector]\nid = "a"\nbalance = "p2"\n', 3, "collector.balance", "did you mean 'p2c'?"),
        (
            '[collector]\nid = "a"\n\nlimits = {inflight = 1}\n',
            4,
            "collector.limits.inflight",
            "unknown key; did you mean 'in_flight'?",
        ),
        (
            '[collector]\nid = "a"\nlimits = {in_flight = 0}\n',
            3,
            "collector.limits.in_flight",
            "must be a whole",
        ),
        (
            '[collector]\nid = "a"\n[collector.limits]\nqueued = 4\nmessage = "1 TB"\n',
            5,
            "collector.limits.message",
            "must be a number of bytes",
        ),
        (
            '[collector]\nid = "a"\n[collector.breaker]\nfailures = 2\nopen_for = nan\n',
            5,
            "collector.breaker.open_for",
            "must be a number of seconds",
        ),
        (
            '[collector]\nid = "a"\nretry = {budget = {ratio = -1}}\n',
            3,
            "collector.retry.budget.ratio",
            "must be a number",
        ),
        (
            '[collector]\nid = "a"\n[collector.retry]\n[collector.retry.budget]\nratioo = 1\n',
            5,
            "collector.retry.budget.ratioo",
            "did you mean 'ratio'?",
        ),
        ('[collector]\nid = "a"\nretry = {on = ["OKAY"]}\n', 3, "collector.retry.on", "no status 'OKAY'"),
        (
            '[collector]\nid = "a"\n[collector.tls]\ncret = "c"\n',
            4,
            "collector.tls.cret",
            "did you mean 'cert'?",
        ),
        ('[collector]\nid = "a"\ntls = {cert = "c"}\n', 3, "collector.tls", "lacks 'key'"),
        (
            '[collector]\nid = "a"\ntls = {cert = "c", key = "k"}\n',
            3,
            "collector.tls.cert",
            "there is no file 'c'",
        ),
        ('[collector]\nid = "a"\nmetrics = "0.0.0.0:1"\n', 3, "collector.metrics", "on loopback"),
        (
            '[collector]\nid = "a"\n[[collector.policy]]\nidentity = "x"\n',
            3,
            "collector.policy.1",
            "each rule needs",
        ),
        (
            """[collector]
id = "a"
[[collector.policy]]
identity = "x"
namespace = "*"
[[collector.policy]]
namespaces = "*"
""",
            7,
            "collector.policy.2.namespaces",
            "did you mean 'namespace'?",
        ),
        (
            '[collector]\nid = "a"\n[[collector.policy]]\nidentity = "x"\nnamespace = "*"\n',
            3,
            "collector.policy",
            "needs tls",
        ),
        (
            '[collector]\nid = "a"\n[collector.services.orders.Orders]\nhandler = "a:b"\n',
            3,
            "collector.services.orders.Orders",
            "in quotes",
        ),
        (
            '[collector]\nid = "a"\n[collector.services."o.S"]\nhandler = "a.b"\n',
            4,
            "collector.services.o.S.handler",
            "'module:object'",
        ),
        (
            '[collector]\nid = "a"\n[collector.services."o.S"]\nidempotent = ["x"]\n',
            3,
            "collector.services.o.S",
            "or an origin, such as 'http://orders.local', is missing",
        ),
        (
            '[collector]\nid = "a"\n[collector.services."o.S"]\nhandler = "a:b"\nkinds = {X = "stream"}\n',
            5,
            "collector.services.o.S.kinds",
            "must be one of",
        ),
        ('[collector]\nid = "a"\nconnect = ["127.0.0.1:0"]\n', 3, "collector.connect", "with its port"),
        ("[collector\n", 1, "", "not TOML"),
    ],
)
def test_mistakes_name_the_line_and_the_fix(
    text: str, line: int | None, path: str, message: str, file: Path
) -> None:
    found = problems(file, text)
    assert any(each[:2] == (line, path) and message in each[2] for each in found), found


def test_options_count_instead_of_keys(file: Path) -> None:
    config = read(file, '[collector]\nid = "a"\nlisten = "nonsense"\n', id="b", listen="127.0.0.1:0")
    assert (config.id, config.listen) == ("b", "127.0.0.1:0")


# -- handlers ------------------------------------------------------------------------------------------------

CODE = '''
import os
from typing import Any

class Orders:
    """A class is made."""
    def Get(self, context, given): return given
    async def List(self, context, given): yield given
    def _private(self, context, given): ...

def Say(context, given): return given

table = {"One": Say, "Two": Say}
empty = {}
number = 7

def make(): return {"Made": Say}
def fail(): raise ValueError("no luck")
'''
SERVICES = '[collector]\nid = "a"\n[collector.services."o.S"]\n'


@pytest.fixture
def module(file: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    import sys

    name = "handlers_of_this_test"
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, name, raising=False)
    (file.parent / f"{name}.py").write_text(CODE)
    (file.parent / "ends_by_itself.py").write_text("raise SystemExit(3)")
    return name


@pytest.mark.parametrize(
    ("target", "methods"),
    [
        ("Orders", {"Get": "unary_unary", "List": "unary_stream"}),
        ("Orders()", {"Get": "unary_unary", "List": "unary_stream"}),
        ("table", {"One": "unary_unary", "Two": "unary_unary"}),
        ("make()", {"Made": "unary_unary"}),
    ],
)
def test_what_can_be_a_handler(target: str, methods: dict[str, str], file: Path, module: str) -> None:
    collector = build(read(file, f'{SERVICES}handler = "{module}:{target}"\n'))
    routes = collector.stats().routes
    assert {key.method: str(route.kind) for key, route in routes.items()} == methods
    assert {(key.namespace, key.service) for key in routes} == {("o", "S")}


def test_methods_of_a_module_are_its_own(file: Path, module: str) -> None:
    import importlib
    import sys

    sys.path.insert(0, str(file.parent))
    assert set(methods_of(importlib.import_module(module))) == {"Say", "make", "fail"}


def test_kinds_and_idempotency_are_said_in_the_file(file: Path, module: str) -> None:
    text = f'{SERVICES}handler = "{module}:table"\nidempotent = ["One"]\nkinds = {{Two = "stream_unary"}}\n'
    routes = {key.method: route for key, route in build(read(file, text)).stats().routes.items()}
    assert (routes["One"].idempotent, routes["Two"].idempotent) == (True, False)
    assert routes["Two"].kind == "stream_unary"


@pytest.mark.parametrize(
    ("keys", "line", "message"),
    [
        ('handler = "nowhere_at_all:x"', 4, "cannot import 'nowhere_at_all'"),
        ('handler = "MODULE:nothing"', 4, "has no 'nothing'"),
        ('handler = "MODULE:fail()"', 4, "has failed: ValueError: no luck"),
        ('handler = "MODULE:empty"', 4, "no public functions"),
        (
            'handler = "ends_by_itself:Orders"',
            4,
            "cannot import 'ends_by_itself' for 'ends_by_itself:Orders': SystemExit: 3",
        ),
        ('handler = "MODULE:table"\nidempotent = ["Onne"]', 5, "has no method 'Onne'; did you mean 'One'?"),
        ('handler = "MODULE:Orders"\ndescriptor = "MODULE:Orders"', 5, "no module of protoc's"),
    ],
)
def test_mistakes_that_only_importing_finds(
    keys: str, line: int, message: str, file: Path, module: str
) -> None:
    found = problems(file, SERVICES + keys.replace("MODULE", module) + "\n", building=True)
    assert [(each[0], message in each[2]) for each in found] == [(line, True)], found


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ('methods = ["*"]', "method '*' has a meaning of its own"),
        ('methods = { Make = { path = "/{item" } }', "method 'Make': path '/{item' may have"),
        ('path = "/{item}"', "path '/{item}' has item, which only"),
        ('methods = { Make = { verb = "GET", kind = "stream_stream" } }', "GET has no body"),
    ],
)
def test_mistakes_of_an_origin_are_found_before_anything_reaches_it(
    keys: str, message: str, file: Path
) -> None:
    found = problems(file, f'{SERVICES}origin = "http://shop.local"\n{keys}\n', building=True)
    assert [(each[0], message in each[2]) for each in found] == [(3, True)], found
    found = problems(file, f'{SERVICES}origin = "http://shop.local:99999"\n', building=True)
    assert "its port must be" in found[0][2]


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ('discovery = "etcd://127.0.0.1:99999"', "not a host:port of etcd"),
        ('discovery = ["127.0.0.1:0"]', "needs its port"),
        ('registry = "mysql:x"', "not a registry"),
        ('advertise = "0.0.0.0:1"', "must be an address that others can dial"),
        ("max_hops = 99", "max_hops must be 1 to 32"),
        ('discovery = "etcd://127.0.0.1:2379?ttl=soon"', "ttl"),
        ('validator = "os:sep"', "a validator has validate_service_method"),
        (
            'tls = { cert = "collector.toml", key = "collector.toml", ca = "collector.toml" }',
            "cannot load TLS certificates",
        ),
    ],
)
def test_mistakes_that_the_collector_finds_have_the_line_of_their_key(
    key: str, message: str, file: Path
) -> None:
    found = problems(file, f'[collector]\nid = "a"\n{key}\nlink_port = 0\n', building=True)
    assert [(each[0], message in each[2]) for each in found] == [(3, True)], found


def test_command_tells_mistakes_and_ends(
    file: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(file.parent)
    assert main(["collector"]) == 2
    assert "there is no collector.toml here" in capsys.readouterr().err
    file.write_text('[collector]\nid = "a"\nlisten = 1\n')
    assert main(["collector", "--config", str(file), "--check"]) == 2
    told = capsys.readouterr().err
    assert told == f"dodici: {file}:3: collector.listen: must be a string, not an integer\n"
    file.write_text('[collector]\nid = "a"\n')
    assert main(["collector", "--check"]) == 0
    assert capsys.readouterr().out == f"{file}: collector a: no mistakes found\n"
    assert main(["collector", "--id", "b", "--listen", "x", "--check"]) == 2
    assert "dodici: collector.listen: not an address: 'x'" in capsys.readouterr().err
    assert main(["collector", "--id", "b", "--serve", "o.S", "--check"]) == 2
    assert "NAMESPACE.SERVICE=MODULE:OBJECT" in capsys.readouterr().err


def test_page_has_every_key() -> None:
    text = PAGE.read_text()
    for kind in (CollectorConfig, ServedConfig):
        for each in fields(kind):
            if "read" in each.metadata:
                assert f"| `{each.name}` |" in text, each.name
