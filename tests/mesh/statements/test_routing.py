"""Which hosts belong to the mesh, and what of a request and a response crosses it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from dodici import InvalidArgumentError

from .kit import Elsewhere, ElsewhereError, Mesh, no_tasks_left

pytestmark = pytest.mark.asyncio(loop_scope="module")

ORIGIN = "http://api.local"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def elsewhere() -> Elsewhere:
    return Elsewhere()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def mesh(elsewhere: Elsewhere) -> AsyncIterator[Mesh]:
    tasks = asyncio.all_tasks()
    async with Mesh(elsewhere) as mesh:
        await mesh.start("api")
        yield mesh
    await no_tasks_left(tasks)


async def told(mesh: Mesh, path: str = "/scope", origin: str = ORIGIN, **options: Any) -> dict[str, Any]:
    result: dict[str, Any] = await mesh.json(f"{origin}{path}", **options)
    return result


@pytest.mark.statement(51)
@pytest.mark.parametrize(
    "url",
    [
        "http://api.local/whoami",
        "http://API.Local/whoami",
        "http://api.local./whoami",
        "http://api.local:8080/whoami",
        "http://user:secret@api.local/whoami",
        "HTTP://Api.LOCAL.:80/whoami",
    ],
)
async def test_spellings_of_one_host(mesh: Mesh, elsewhere: Elsewhere, url: str) -> None:
    before = len(elsewhere.origins)
    assert await mesh.text(url) == str(mesh.workers[0].pid)
    assert len(elsewhere.origins) == before


@pytest.mark.statement(51)
@pytest.mark.parametrize(
    "origin",
    ["http://evillocal", "http://local", "http://x.locale", "http://api.local.example", "http://127.0.0.1:9"],
)
async def test_other_hosts_go_elsewhere_untouched(mesh: Mesh, elsewhere: Elsewhere, origin: str) -> None:
    with pytest.raises(ElsewhereError, match=origin):
        await mesh.agent.request(f"{origin}/path")
    assert elsewhere.origins[-1] == origin


@pytest.mark.statement(51)
async def test_an_unknown_host_of_the_domain_has_no_target(mesh: Mesh, elsewhere: Elsewhere) -> None:
    before = len(elsewhere.origins)
    recorder = await mesh.send("http://nobody.local", "/").wait()
    assert type(recorder.error).__name__ == "NoTargetError"
    assert "No target found for http://nobody.local" in str(recorder.error)
    assert len(elsewhere.origins) == before


@pytest.mark.statement(51)
async def test_unknown_pass_is_for_unknown_hosts_only(mesh: Mesh) -> None:
    base = Elsewhere()
    async with Mesh(base, unknown="pass", domain=".mesh.example") as own:
        [worker] = await own.start("api")
        assert await own.text("http://api.mesh.example/whoami") == str(worker.pid)
        assert await own.outcome("http://nobody.mesh.example/") == "!ElsewhereError"
        assert await own.outcome("http://api.local/") == "!ElsewhereError"
        await own.interceptor.pause_worker(worker)
        assert await own.outcome("http://api.mesh.example/whoami") == "!NoTargetError"
        assert base.origins == ["http://nobody.mesh.example", "http://api.local"]


@pytest.mark.statement(51)
async def test_two_workers_are_taken_in_turn_exactly(mesh: Mesh) -> None:
    async with Mesh() as own:
        workers = await own.start("api", 2)
        seen = Counter(await own.spread(f"{ORIGIN}/whoami", 101))
        assert sorted(seen.values()) == [50, 51]
        assert set(seen) == {str(worker.pid) for worker in workers}
        # The cursor outlives a change of the mesh.
        first = await own.text(f"{ORIGIN}/whoami")
        await own.start("other")
        assert await own.text(f"{ORIGIN}/whoami") != first


@pytest.mark.statement(52)
async def test_host_is_the_urls_authority(mesh: Mesh) -> None:
    for origin, host in [
        (ORIGIN, "api.local"),
        ("http://API.local:8080", "api.local:8080"),
        ("http://user:pw@api.local", "api.local"),
    ]:
        headers = (await told(mesh, origin=origin, headers=[("host", "evil.example"), ("x-a", "1")]))[
            "headers"
        ]
        assert [value.lower() for name, value in headers if name == "host"] == [host]


@pytest.mark.statement(52)
async def test_fields_keep_their_order_their_duplicates_and_their_bytes(mesh: Mesh) -> None:
    sent = [("X-Many", "one"), ("X-Other", "\xfcber"), ("x-many", "two"), ("X-MANY", "one")]
    headers = (await told(mesh, headers=sent))["headers"]
    assert [each for each in headers if each[0].startswith("x-")] == [
        ["x-many", "one"],
        ["x-other", "\xfcber"],
        ["x-many", "two"],
        ["x-many", "one"],
    ]
    assert all(name == name.lower() for name, _ in headers)


@pytest.mark.statement(52)
async def test_a_field_without_a_value_is_dropped(mesh: Mesh) -> None:
    headers = (await told(mesh, headers={"x-none": None, "x-some": "1"}))["headers"]
    assert [name for name, _ in headers if name.startswith("x-")] == ["x-some"]


@pytest.mark.statement(52)
async def test_set_cookie_twice_stays_twice(mesh: Mesh) -> None:
    recorder = await mesh.send(ORIGIN, "/repeated").wait()
    assert recorder.headers is not None
    assert recorder.headers.get_list("set-cookie") == ["a=1", "b=2, c"]
    assert [(name, value) for name, value in recorder.headers.raw if name.lower() != b"content-length"] == [
        (b"set-cookie", b"a=1"),
        (b"x-many", b"one"),
        (b"set-cookie", b"b=2, c"),
        (b"x-many", b"two"),
    ]


@pytest.mark.statement(53)
async def test_fields_for_one_hop_do_not_reach_the_app(mesh: Mesh) -> None:
    sent = [
        ("connection", "X-Foo, x-bar"),
        ("x-foo", "1"),
        ("X-Bar", "2"),
        ("x-kept", "3"),
        ("te", "trailers"),
        ("trailer", "x-sum"),
        ("proxy-connection", "keep-alive"),
        ("proxy-authorization", "Basic eA=="),
    ]
    headers = (await told(mesh, headers=sent))["headers"]
    names = {name for name, _ in headers}
    assert "x-kept" in names
    assert not names & {"connection", "x-foo", "x-bar", "te", "trailer", "proxy-connection", "keep-alive"}


@pytest.mark.statement(53)
@pytest.mark.parametrize("name", ["transfer-encoding", "upgrade", "keep-alive"])
async def test_what_the_core_refuses_is_refused_here(mesh: Mesh, name: str) -> None:
    recorder = mesh.send(ORIGIN, "/scope", headers={name: "chunked"})
    await recorder.wait()
    assert isinstance(recorder.error, InvalidArgumentError)


@pytest.mark.statement(53)
async def test_fields_for_one_hop_do_not_come_back(mesh: Mesh) -> None:
    recorder = await mesh.send(ORIGIN, "/hop").wait()
    assert recorder.headers is not None
    names = {name.lower() for name, _ in recorder.headers.raw}
    assert not names & {b"connection", b"x-hop", b"keep-alive", b"upgrade"}
    assert recorder.headers["x-kept"] == "\xfcber"
    assert recorder.body == b"hop"


@pytest.mark.statement(53)
@pytest.mark.parametrize("size", [1, 1000, 100_000])
async def test_content_length_is_what_the_body_has(mesh: Mesh, size: int) -> None:
    result = await told(mesh, "/echo", method="POST", body=b"x" * size)
    assert [value for name, value in result["headers"] if name == "content-length"] == [str(size)]
    assert result["size"] == size


@pytest.mark.statement(54)
async def test_the_path_as_bytes_and_decoded(mesh: Mesh) -> None:
    result = await told(mesh, "/scope/a%2Fb%20c?x=1%2B1&y=%C3%A9#fragment")
    assert result["raw_path"] == "/scope/a%2Fb%20c"
    assert result["path"] == "/scope/a/b c"
    assert result["query_string"] == "x=1%2B1&y=%C3%A9"
    result = await told(mesh, "/scope", query={"a": ["1", "2"], "b": "c d"})
    assert (result["raw_path"], result["query_string"]) == ("/scope", "a=1&a=2&b=c+d")
    result = await told(mesh, "/scope/%C3%A9")
    assert result["path"] == "/scope/\xe9"


@pytest.mark.statement(55)
async def test_the_scope(mesh: Mesh) -> None:
    result = await told(mesh)
    assert result["type"] == "http"
    assert result["server"] == ["api.local", 80]
    assert result["client"] is None or result["client"][1] == 0
    assert (result["scheme"], result["http_version"], result["root_path"]) == ("http", "1.1", "")
    assert result["method"] == "GET"
    assert (await told(mesh, method="PURGE"))["method"] == "PURGE"
    assert (await told(mesh, origin="http://api.local:8080"))["server"] == ["api.local", 8080]


@pytest.mark.statement(55)
async def test_every_request_has_its_own_copy_of_the_state(mesh: Mesh) -> None:
    for _ in range(3):
        assert (await told(mesh))["state"] == {"shared": {"label": "plain"}, "number": 1}
