"""The pages tell the truth: their Python runs, and the reference has every public name.

Every block of Python in README.md and docs/ is run, page by page, in one namespace and one event loop. Requests for
hosts of the network go to a server in this process. A block that cannot run here has a comment before it that
says why, `<!-- not run: REASON -->`; it is compiled, and what it names of dodici must exist.
"""

from __future__ import annotations

import ast
import asyncio
import importlib
import inspect
import re
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, NamedTuple

import pytest
import trustme

import dodici
from dodici.collective import Collector
from dodici.testing import PeerConnection, ScriptedPeer

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md"))]
PACKAGES = ["dodici", "dodici.interceptors", "dodici.mesh", "dodici.collective", "dodici.testing"]


class Block(NamedTuple):
    line: int
    code: str
    runs: bool


def blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    found = re.finditer(
        r"^(?P<not><!-- not run: .+ -->\n)?```python\n(?P<code>.*?)^```$", text, re.MULTILINE | re.DOTALL
    )
    return [
        Block(text.count("\n", 0, each.start("code")) + 1, each["code"], each["not"] is None)
        for each in found
    ]


WITH_PYTHON = {page.relative_to(ROOT).as_posix(): page for page in PAGES if blocks(page)}


# -- every block --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", WITH_PYTHON)
def test_what_a_page_names_exists(name: str) -> None:
    for block in blocks(WITH_PYTHON[name]):
        tree = ast.parse(block.code, f"{name}:{block.line}")
        modules: dict[str, Any] = {"dodici": dodici}
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "dodici":
                module = importlib.import_module(node.module or "")
                for alias in node.names:
                    modules[alias.asname or alias.name] = getattr(module, alias.name)
        for node in ast.walk(tree):
            path = _path(node)
            if path and path[0] in modules and not inspect.isclass(modules[path[0]]):
                _look_up(modules[path[0]], path[1:], f"{name}:{block.line}: {'.'.join(path)}")


def _path(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Attribute):
        above = _path(node.value)
        return [*above, node.attr] if above else []
    return [node.id] if isinstance(node, ast.Name) else []


def _look_up(value: Any, path: list[str], told: str) -> None:
    for name in path:
        if isinstance(value, ModuleType) and value.__name__ == "dodici":
            importlib.import_module(f"dodici.{name}") if name in {"mesh", "collective"} else None
        assert hasattr(value, name), f"{told} does not exist"
        value = getattr(value, name)
        if not isinstance(value, ModuleType):
            return


# -- running them -------------------------------------------------------------------------------------


@pytest.fixture
async def network(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[None]:
    """A server that answers everything with the same JSON, and agents that take it for every host of the network."""

    async def answer(connection: PeerConnection) -> None:
        while await connection.next_request() is not None:
            await connection.respond(b'{"id": 7}', headers="content-type: application/json\r\n")

    async with ScriptedPeer(answer) as peer:

        class LocalAgent(dodici.Agent):
            def dispatch(self, options: Any, handler: Any) -> bool:
                if not isinstance(options, dodici.DispatchOptions):
                    options = dodici.DispatchOptions(**options)
                return super().dispatch(options.replace(origin=peer.origin), handler)

        monkeypatch.setattr(dodici, "Agent", LocalAgent)
        async with LocalAgent() as agent:
            dodici.set_global_dispatcher(agent)
            yield
            dodici.set_global_dispatcher(None)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory of the code, with the files that the pages speak of."""
    (tmp_path / "report.pdf").write_bytes(b"%PDF-")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.crt"))
    issued = authority.issue_cert("localhost")
    issued.private_key_pem.write_to_path(str(tmp_path / "tls.key"))
    issued.cert_chain_pems[0].write_to_path(str(tmp_path / "tls.crt"))
    package = tmp_path / "shop"
    package.mkdir()
    package.joinpath("__init__.py").touch()
    package.joinpath("api.py").write_text(
        "async def app(scope, receive, send):\n"
        "    await send({'type': 'http.response.start', 'status': 200, 'headers': []})\n"
        "    await send({'type': 'http.response.body', 'body': b'{}'})\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


@asynccontextmanager
async def surroundings(name: str) -> AsyncIterator[tuple[dict[str, Any], dict[str, str]]]:
    """What the code of a page finds defined, and what is put in place of its addresses."""

    async def pieces() -> AsyncIterator[bytes]:
        yield b"piece"

    known: dict[str, Any] = {
        "asyncio": asyncio,
        "budget": SimpleNamespace(take=lambda: True),
        "dodici": dodici,
        "some_async_generator": pieces,
        "url": "https://example.com/orders",
        **{each: getattr(dodici.interceptors, each) for each in dodici.interceptors.__all__},
    }
    async with dodici.Agent() as agent, Collector("other", "127.0.0.1:0", namespaces=["orders"]) as other:
        places = {"127.0.0.1:50051": "127.0.0.1:0", "127.0.0.1:50052": other.address}
        yield known | {"agent": agent}, places


@pytest.mark.parametrize(
    "name", [name for name, page in WITH_PYTHON.items() if any(b.runs for b in blocks(page))]
)
async def test_the_code_of_a_page_runs(name: str, network: None, folder: Path) -> None:
    async with surroundings(name) as (known, places):
        for block in blocks(WITH_PYTHON[name]):
            if not block.runs:
                continue
            code = block.code
            for place, other in places.items():
                code = code.replace(place, other)
            # The loop runs already.
            code = re.sub(r"^asyncio\.run\((.+)\)$", r"await \1", code, flags=re.MULTILINE)
            flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
            compiled = compile("\n" * (block.line - 1) + code, name, "exec", flags=flags, dont_inherit=True)
            result = eval(compiled, known)
            if inspect.iscoroutine(result):
                await result


# -- what they point to ------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_a_page_points_to_is_there(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!\w+://)([^)#]+)(?:#[^)]*)?\)", text):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"
    for target in re.findall(r"\bexamples/[\w/.]*\w", text):
        assert (ROOT / target).exists(), f"{page.name} speaks of {target}"


def test_the_commands_of_the_pages_exist() -> None:
    from dodici.cli.app import cli

    rules = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^(\w+):", rules, re.MULTILINE))
    shown = "\n".join(
        block
        for page in [*PAGES, *(ROOT / "examples").glob("*/README.md")]
        for block in re.findall(
            r"^```sh\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
        )
    )
    assert set(re.findall(r"^make (\w+)", shown, re.MULTILINE)) <= targets
    assert set(re.findall(r"^(?:\S+ \| )?dodici (\w+)", shown, re.MULTILINE)) <= set(cli.commands)


# -- the reference ------------------------------------------------------------------------------------


def _public() -> list[str]:
    return [
        f"{package}.{name}"
        for package in PACKAGES
        for name in importlib.import_module(package).__all__
        if not name.startswith("__")
    ]


def _described() -> set[int]:
    """The ids of what the pages' directives describe: an object, or a module and all that it exports or defines."""
    described = set()
    for page in PAGES:
        for path in re.findall(r"^::: ([\w.]+)$", page.read_text(encoding="utf-8"), re.MULTILINE):
            module, _, rest = path, "", ""
            while module not in sys.modules:
                try:
                    importlib.import_module(module)
                except ModuleNotFoundError:
                    module, _, last = module.rpartition(".")
                    rest = f"{last}.{rest}".rstrip(".")
            value: Any = sys.modules[module]
            for part in filter(None, rest.split(".")):
                value = getattr(value, part)
            described.add(id(value))
            if isinstance(value, ModuleType):
                here = [
                    each for each in vars(value).values() if getattr(each, "__module__", "") == value.__name__
                ]
                exported = [getattr(value, each) for each in getattr(value, "__all__", ())]
                described |= {id(each) for each in [*here, *exported]}
    return described


def test_the_reference_has_every_public_name() -> None:
    described, missing = _described(), []
    for name in _public():
        package, _, attribute = name.rpartition(".")
        if id(getattr(importlib.import_module(package), attribute)) not in described:
            missing.append(name)
    assert not missing, "docs/api.md lacks a `::: NAME` for each of these"
