"""URLs of etcd, and what else may be given as a discovery."""

from __future__ import annotations

import sys
import types
from typing import Any

import pytest

pytest.importorskip("grpc", reason="grpcio is not installed")

from dodici.collective.discovery import (
    CombinedDiscovery,
    EtcdConfig,
    EtcdDiscovery,
    StaticDiscovery,
    discovery_of,
    parse_etcd_url,
)
from dodici.core.errors import InvalidArgumentError


@pytest.mark.parametrize(
    ("url", "config"),
    [
        ("etcd://host:1234", EtcdConfig(("host:1234",))),
        ("etcd://host", EtcdConfig(("host:2379",))),
        ("ETCD://host/", EtcdConfig(("host:2379",))),
        ("etcd://a:1,b,[::1]:3,[::2]", EtcdConfig(("a:1", "b:2379", "[::1]:3", "[::2]:2379"))),
        ("etcd://a:1,a:1", EtcdConfig(("a:1",))),
        ("etcd://host/shop/west/", EtcdConfig(("host:2379",), "/shop/west")),
        ("etcd://host/shop?ttl=10&timeout=0.5", EtcdConfig(("host:2379",), "/shop", ttl=10, timeout=0.5)),
        ("etcd://host?ttl=7", EtcdConfig(("host:2379",), ttl=7)),
        ("etcd://me:p%40s%2Fs@host", EtcdConfig(("host:2379",), user="me", password="p@s/s")),
        ("etcd://me:a:b@host", EtcdConfig(("host:2379",), user="me", password="a:b")),
        ("etcds://host", EtcdConfig(("host:2379",), tls=True)),
        (
            "etcds://host?ca=/c.pem&cert=/a.pem&key=/b.pem",
            EtcdConfig(("host:2379",), tls=True, ca="/c.pem", cert="/a.pem", key="/b.pem"),
        ),
    ],
)
def test_urls(url: str, config: EtcdConfig) -> None:
    assert parse_etcd_url(url) == config


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://host", "not the URL of an etcd: 'http://host'; use etcd://"),
        ("host:2379", "not the URL of an etcd"),
        ("etcd://", "no host in 'etcd://'"),
        ("etcd:///prefix", "no host in"),
        ("etcd://a,,b", "an empty host"),
        ("etcd://host:port", "not a host:port of etcd: 'host:port'"),
        ("etcd://host:0", "not a host:port of etcd: 'host:0'"),
        ("etcd://host:70000", "not a host:port"),
        ("etcd://::1", "not a host:port"),
        ("etcd://host#x", "has no '#'"),
        ("etcd://host//x", "a prefix is like '/dodici', not '//x'"),
        ("etcd://host?ttl", "not options of an etcd's URL: 'ttl'"),
        ("etcd://host?ttl=", "ttl is a number of seconds, not ''"),
        ("etcd://host?ttl=five", "ttl is a number of seconds, not 'five'"),
        ("etcd://host?ttl=1", "ttl is a number of seconds from 2 to 3600, not 1"),
        ("etcd://host?ttl=3601", "from 2 to 3600"),
        ("etcd://host?timeout=nan", "timeout is a number of seconds from 0.01 to 60, not nan"),
        ("etcd://host?ttl=5&ttl=6", "'ttl' of an etcd's URL is given twice"),
        ("etcd://host?tls=1", "no option 'tls'; there are ttl, timeout, ca, cert, key"),
        ("etcd://host?ca=/c", "ca, cert and key are for TLS: the scheme is etcds://"),
        ("etcds://host?ca=", "the option 'ca' of an etcd's URL is empty"),
        ("etcds://host?cert=/c", "cert and key of an etcd client go together"),
        ("etcd://me@host", "user:password is needed"),
        ("etcd://me:@host", "user:password is needed"),
    ],
)
def test_wrong_urls(url: str, said: str) -> None:
    with pytest.raises(InvalidArgumentError) as refused:
        parse_etcd_url(url)
    assert said in str(refused.value)


@pytest.mark.parametrize(
    "url", ["etcd://me:secret@host#", "http://me:secret@host", "etcd://:secret@host", "etcd://me:secret@,"]
)
def test_errors_have_no_password(url: str) -> None:
    with pytest.raises(InvalidArgumentError) as refused:
        parse_etcd_url(url)
    assert "secret" not in str(refused.value)
    assert "***@" in str(refused.value)


def test_a_configuration_shows_no_password() -> None:
    config = parse_etcd_url("etcd://me:secret@a,b/shop")
    assert "secret" not in repr(config)
    assert str(config) == "etcd://a:2379,b:2379/shop"


@pytest.mark.parametrize(
    ("facts", "said"),
    [({"endpoints": ()}, "no endpoint"), ({"endpoints": ("host:0",)}, "needs its port")],
    ids=["none", "port 0"],
)
def test_wrong_configurations(facts: Any, said: str) -> None:
    with pytest.raises(InvalidArgumentError, match=said):
        EtcdConfig(**facts)


# -- what may be given


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    made = types.ModuleType("discoveries_of_a_test")
    monkeypatch.setitem(sys.modules, made.__name__, made)
    return made


def test_what_may_be_given(module: types.ModuleType) -> None:
    given = StaticDiscovery(["127.0.0.1:1"])
    assert discovery_of(given) is given
    found = discovery_of("etcd://host/shop")
    assert isinstance(found, EtcdDiscovery)
    assert found.config.prefix == "/shop"
    assert isinstance(discovery_of(["127.0.0.1:1", "unix:/s"]), StaticDiscovery)
    assert isinstance(discovery_of(["etcd://host"]), EtcdDiscovery)
    both = discovery_of(["127.0.0.1:1", "etcd://host", "[::1]:2"])
    assert isinstance(both, CombinedDiscovery)
    assert [type(part) for part in both.parts] == [StaticDiscovery, EtcdDiscovery]


def test_discoveries_by_import(module: types.ModuleType) -> None:
    class Mine(StaticDiscovery):
        def __init__(self) -> None:
            super().__init__(["127.0.0.1:1"])

    module.__dict__.update(there=Mine(), Mine=Mine, make=lambda: module.__dict__["there"])
    name = module.__name__
    assert discovery_of(f"{name}:there") is module.__dict__["there"]
    assert discovery_of(f"{name}:make") is module.__dict__["there"]
    assert isinstance(discovery_of(f"{name}:Mine"), Mine)
    both = discovery_of([f"{name}:there", "127.0.0.1:2"])
    assert isinstance(both, CombinedDiscovery)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("127.0.0.1:1", "addresses of collectors are given as a list"),
        ("nothing", "not a discovery: 'nothing'; use etcd://"),
        ("no such:thing", "not a discovery"),
        ("no_such_module:thing", "cannot import 'no_such_module' for the discovery .*: ModuleNotFoundError"),
        (
            "discoveries_of_a_test:absent",
            "'discoveries_of_a_test' has no 'absent', which is to be the discovery",
        ),
        (
            "discoveries_of_a_test:number",
            "is int, which has no start, no update, no withdraw, no members, no stop",
        ),
        ("discoveries_of_a_test:fails", "cannot be made: ZeroDivisionError: "),
        ("zookeeper://host", "not the URL of an etcd: 'zookeeper://host'"),
        (7, "discovery is int, which has no start"),
        ([7], "discovery is int, which has no start"),
        (["127.0.0.1:0"], "a collector's address needs its port"),
    ],
)
def test_what_may_not_be_given(module: types.ModuleType, given: Any, said: str) -> None:
    module.__dict__.update(number=7, fails=lambda: 1 // 0)
    with pytest.raises(InvalidArgumentError, match=said):
        discovery_of(given)
