"""Which service a request is for, and the fields that are sent on."""

from __future__ import annotations

import ipaddress
from typing import Any

import pytest
from tests.server.server_kit import router, service

from dodici.core.errors import InvalidArgumentError
from dodici.core.headers import Headers
from dodici.server.forwarded import Forwarding, response_fields

SERVICES = (
    service("api", path=("/api",)),
    service("deep", path=("/api/deep", "/other")),
    service("root", path=("/",)),
    service("hosted", host=("shop.example",)),
    service("below", host=("*.shop.example",), path=("/x",)),
    service("lower", host=("*.eu.shop.example",)),
    service("hidden"),
)


@pytest.mark.parametrize(
    ("host", "path", "found"),
    [
        ("a", "/api", "api"),
        ("a", "/api/", "api"),
        ("a", "/api?x=/api/deep", "api"),
        ("a", "/api/7", "api"),
        ("a", "/apiary", "root"),
        ("a", "/api/deep/er", "deep"),
        ("a", "/api/deeper", "api"),
        ("a", "/other", "deep"),
        ("a", "/", "root"),
        ("a", "*", "root"),
        ("shop.example", "/api", "hosted"),
        ("SHOP.example.:8080", "/", "hosted"),
        ("b.shop.example", "/x", "below"),
        ("b.shop.example", "/api", "api"),
        ("b.eu.shop.example", "/x", "lower"),
        ("eu.shop.example", "/x", "below"),
        ("", "/api", "api"),
        ("[::1]:8000", "/api", "api"),
    ],
)
def test_host_then_longest_prefix(host: str, path: str, found: str) -> None:
    routes = router(*SERVICES)
    for _ in range(2):  # the second time from memory
        route = routes.find(host, path)
        assert route is not None
        assert route.service == found
        assert route.origin == f"http://{found}.local"


@pytest.mark.parametrize("host", ["a/b", "a b", "a@b", "a,b", "[::1", "a:b", "a:99999999"])
def test_what_is_no_host(host: str) -> None:
    with pytest.raises(InvalidArgumentError, match="names no host"):
        router(*SERVICES).find(host, "/api")


def test_no_route() -> None:
    routes = router(service("api", path=("/api",)), service("hidden"))
    assert routes.find("a", "/") is None
    assert routes.find("hidden.local", "/") is None


def test_services_have_the_gateways_limits_or_their_own() -> None:
    routes = router(
        service("one", path=("/one",)),
        service("two", path=("/two",), request_size=5, request_timeout=0.0, strip_path=True),
        request_size=7,
        request_timeout=8.0,
    )
    one, two = routes.find("", "/one"), routes.find("", "/two")
    assert one is not None
    assert two is not None
    assert (one.request_size, one.request_timeout, one.strip) == (7, 8.0, 0)
    assert (two.request_size, two.request_timeout, two.strip) == (5, 0.0, 4)


def test_hosts_that_clients_invent_do_not_pile_up() -> None:
    routes = router(*SERVICES)
    for number in range(3000):
        routes.find(f"h{number}.example", "/")
    assert len(routes._found) <= 1024


def scope(
    *headers: tuple[bytes, bytes], client: Any = ("192.0.2.7", 1), scheme: str = "http"
) -> dict[str, Any]:
    return {"client": client, "scheme": scheme, "headers": list(headers)}


def test_hop_by_hop_fields_end_here() -> None:
    headers, length = Forwarding().fields(
        scope(
            (b"host", b"shop.example"),
            (b"connection", b"X-Secret, keep-alive, content-length"),
            (b"x-secret", b"1"),
            (b"te", b"trailers"),
            (b"proxy-authorization", b"Basic abc"),
            (b"upgrade", b"h2c"),
            (b"expect", b"100-continue"),
            (b"content-length", b"3"),
            (b"x-kept", b"1"),
        )
    )
    assert dict(headers) == {
        "content-length": "3",
        "x-kept": "1",
        "x-forwarded-for": "192.0.2.7",
        "x-forwarded-proto": "http",
        "x-forwarded-host": "shop.example",
    }
    assert length == 3


def test_chunked_body_wins_over_a_length() -> None:
    headers, length = Forwarding().fields(
        scope((b"transfer-encoding", b"chunked"), (b"content-length", b"3"))
    )
    assert length == -1
    assert "content-length" not in headers
    assert "transfer-encoding" not in headers


SPOOFED = (
    (b"host", b"shop.example"),
    (b"x-forwarded-for", b"203.0.113.1"),
    (b"x-forwarded-for", b"203.0.113.2"),
    (b"x-forwarded-proto", b"https"),
    (b"x-forwarded-host", b"public.example"),
    (b"x-forwarded-prefix", b"/outer"),
    (b"x-forwarded-port", b"444"),
    (b"forwarded", b"for=203.0.113.1"),
)


def test_strangers_are_not_believed() -> None:
    headers, _ = Forwarding([ipaddress.ip_network("10.0.0.0/8"), "unix"]).fields(scope(*SPOOFED), "/api")
    assert dict(headers) == {
        "x-forwarded-for": "192.0.2.7",
        "x-forwarded-proto": "http",
        "x-forwarded-host": "shop.example",
        "x-forwarded-prefix": "/api",
    }


@pytest.mark.parametrize(
    ("trusted", "client"),
    [
        ([ipaddress.ip_network("10.0.0.0/8")], ("10.1.2.3", 1)),
        ([ipaddress.ip_network("10.0.0.0/8")], ("::ffff:10.1.2.3", 1)),
        (["*"], ("10.1.2.3", 1)),
    ],
)
def test_trusted_proxies_are_believed(trusted: Any, client: Any) -> None:
    headers, _ = Forwarding(trusted).fields(scope(*SPOOFED, client=client), "/api")
    node = '"[::ffff:10.1.2.3]"' if ":" in client[0] else client[0]
    assert dict(headers) == {
        "x-forwarded-for": f"203.0.113.1, 203.0.113.2, {client[0]}",
        "x-forwarded-proto": "https",
        "x-forwarded-host": "public.example",
        "x-forwarded-prefix": "/outer/api",
        "x-forwarded-port": "444",
        "forwarded": f"for=203.0.113.1, for={node};proto=http",
    }


def test_clients_at_a_unix_socket() -> None:
    said, _ = Forwarding(["unix"]).fields(scope(*SPOOFED, client=None))
    assert said["x-forwarded-for"] == "203.0.113.1, 203.0.113.2"
    unsaid, _ = Forwarding().fields(scope(*SPOOFED, client=None))
    assert "x-forwarded-for" not in unsaid


def test_handshake_is_made_anew() -> None:
    headers, _ = Forwarding().fields(
        scope(
            (b"sec-websocket-key", b"a"),
            (b"sec-websocket-extensions", b"b"),
            (b"cookie", b"c=d"),
            scheme="ws",
        ),
        handshake=True,
    )
    assert dict(headers) == {
        "cookie": "c=d",
        "x-forwarded-for": "192.0.2.7",
        "x-forwarded-proto": "http",
    }


def test_response_fields() -> None:
    headers = Headers.from_raw(
        (
            (b"Set-Cookie", b"a=1"),
            (b"Connection", b"X-Gone"),
            (b"X-Gone", b"1"),
            (b"Keep-Alive", b"timeout=5"),
            (b"Set-Cookie", b"b=2"),
            (b"Transfer-Encoding", b"chunked"),
        )
    )
    assert response_fields(headers) == [(b"set-cookie", b"a=1"), (b"set-cookie", b"b=2")]
