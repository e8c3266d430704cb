"""From a target to an app: what is found, what it is taken for, and what is said when it is none."""

from __future__ import annotations

import os
import sys
import traceback
from pathlib import Path
from typing import Any

import pytest
from tests.mesh.apps import raw_asgi, raw_wsgi

from dodici.core.errors import InvalidArgumentError
from dodici.mesh.loading import App, resolve

ASGI = "tests.mesh.apps.raw_asgi"
WSGI = "tests.mesh.apps.raw_wsgi"


# -- names ---------------------------------------------------------------------------------------------


def test_names_an_attribute_of_a_module() -> None:
    assert resolve(f"{ASGI}:app") == App(
        interface="asgi", call=raw_asgi.app, address=None, name=f"{ASGI}:app"
    )


def test_follows_a_dotted_attribute() -> None:
    assert resolve(f"{ASGI}:Holder.service").call is raw_asgi.Holder.service


def test_calls_a_factory() -> None:
    made = resolve(f"{ASGI}:create_app()")
    assert isinstance(made.call, raw_asgi.Service)
    assert made.call.greeting == "made"
    assert made.name == f"{ASGI}:create_app()"


@pytest.mark.parametrize(
    "target",
    ["", "api", ":", "shop.api:", ":app", "shop.api:app:more", "shop api:app", "shop..api:app", "shop.api:app(1)",
     "shop.api:app.()", "1shop:app", "shop.api:app()()", "shop/api.py:app"],
)  # fmt: skip
def test_refuses_what_is_malformed(target: str) -> None:
    with pytest.raises(InvalidArgumentError, match="must be a module and an attribute") as caught:
        resolve(target)
    assert repr(target) in str(caught.value)


def test_malformed_targets_get_a_proposal() -> None:
    with pytest.raises(InvalidArgumentError, match=r'Did you mean "shop.api:app"'):
        resolve("shop.api")
    with pytest.raises(InvalidArgumentError, match=r'named as in an import: "shop.api:make"'):
        resolve("./shop/api.py:make")


def test_a_missing_attribute_names_those_nearby() -> None:
    with pytest.raises(
        InvalidArgumentError, match=r"has no attribute 'create_ap'. Did you mean 'create_app'"
    ):
        resolve(f"{ASGI}:create_ap()")
    with pytest.raises(
        InvalidArgumentError, match=r"Holder has no attribute 'services'. Did you mean 'service'"
    ):
        resolve(f"{ASGI}:Holder.services")


def test_a_missing_attribute_without_neighbours_names_apps() -> None:
    with pytest.raises(InvalidArgumentError, match="Did you mean 'app' or"):
        resolve(f"{WSGI}:zzzzzzzz")


def test_what_an_import_raises_passes_with_its_traceback() -> None:
    with pytest.raises(RuntimeError, match="the settings are missing") as caught:
        resolve("tests.mesh.apps.raises_on_import:app")
    assert traceback.extract_tb(caught.value.__traceback__)[-1].filename.endswith("raises_on_import.py")
    with pytest.raises(ModuleNotFoundError, match=r"tests.mesh.apps.nowhere"):
        resolve("tests.mesh.apps.nowhere:app")


def test_what_a_factory_raises_passes_with_its_traceback() -> None:
    with pytest.raises(LookupError, match="no database here") as caught:
        resolve(f"{ASGI}:broken_factory()")
    assert traceback.extract_tb(caught.value.__traceback__)[-1].name == "broken_factory"


def test_an_attribute_error_inside_a_module_is_not_taken_for_a_missing_attribute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "lazy_mod_of_dodici.py").write_text(
        "class Lazy:\n    @property\n    def app(self):\n        return None.nothing\nlazy = Lazy()\n"
    )
    with pytest.raises(AttributeError, match="'NoneType' object has no attribute 'nothing'"):
        resolve("lazy_mod_of_dodici:lazy.app", cwd=tmp_path)


def test_imports_from_cwd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "app_in_cwd_of_dodici.py").write_text("def app(environ, start_response): ...\n")
    assert resolve("app_in_cwd_of_dodici:app", cwd=tmp_path).interface == "wsgi"
    assert sys.path[0] == str(tmp_path.resolve())
    resolve("app_in_cwd_of_dodici:app", cwd=os.fspath(tmp_path))
    assert sys.path.count(str(tmp_path.resolve())) == 1


def test_a_factory_must_be_a_plain_callable() -> None:
    with pytest.raises(InvalidArgumentError, match="the factory is asynchronous"):
        resolve(f"{ASGI}:create_later()")
    with pytest.raises(InvalidArgumentError, match="12 cannot be called"):
        resolve(f"{ASGI}:number()")


# -- addresses -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "address"),
    [
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000"),
        ("HTTP://Example.com:80/", "http://example.com"),
        ("https://[::1]:8443", "https://[::1]:8443"),
        ("unix:/run/api.sock", "unix:/run/api.sock"),
    ],
)
def test_addresses(target: str, address: str) -> None:
    assert resolve(target) == App(interface="address", call=None, address=address, name=address)


@pytest.mark.parametrize(
    ("target", "why"),
    [
        ("http://127.0.0.1:8000/api", "without a path"),
        ("http://127.0.0.1:8000?x=1", "without a path"),
        ("http://me@127.0.0.1", "a user"),
        ("http://", "invalid url"),
        ("http://127.0.0.1:99999", "port"),
        ("ftp://127.0.0.1", "scheme must be http or https"),
        ("unix:api.sock", "absolute path"),
        ("unix:/a\0b", "absolute path"),
    ],
)
def test_refuses_addresses_that_are_none(target: str, why: str) -> None:
    with pytest.raises(InvalidArgumentError, match=why):
        resolve(target)


# -- interfaces ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["app", "Holder.service", "create_app()", "prefixed"])
def test_recognises_asgi(name: str) -> None:
    assert resolve(f"{ASGI}:{name}").interface == "asgi"


@pytest.mark.parametrize("name", ["app", "Service()", "PerRequest", "partial", "lenient", "wrapped"])
def test_recognises_wsgi(name: str) -> None:
    assert resolve(f"{WSGI}:{name}").interface == "wsgi"


def test_takes_app_objects_and_names_them() -> None:
    assert resolve(raw_asgi.app).name == f"{ASGI}.app"
    service = raw_wsgi.Service()
    assert resolve(service) == App(interface="wsgi", call=service, address=None, name=f"{WSGI}.Service")
    assert resolve(service.__call__).interface == "wsgi"
    app = resolve(raw_asgi.app)
    assert resolve(app) is app


def test_a_lambda_around_an_app_needs_a_word() -> None:
    def either(*args: Any) -> Any: ...

    with pytest.raises(InvalidArgumentError, match='say interface="asgi" or interface="wsgi"'):
        resolve(either)
    assert resolve(either, interface="asgi").interface == "asgi"
    assert resolve(f"{ASGI}:unclear", interface="wsgi").interface == "wsgi"


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("DoubleCallable", "ASGI 2.*guarantee_single_callable"),
        ("double_callable", "ASGI 2.*guarantee_single_callable"),
        ("create_app", r"is it a factory\? Then write it with \(\)"),
        ("Service", "give an instance"),
        ("Holder", "give an instance"),
        ("needs_settings", "neither ASGI .* nor WSGI"),
        ("coroutine_of_two", "neither ASGI .* nor WSGI"),
        ("number", "12 is no app"),
    ],
)
def test_refuses_what_is_no_app(name: str, why: str) -> None:
    with pytest.raises(InvalidArgumentError, match=why):
        resolve(f"{ASGI}:{name}")


def test_refuses_other_objects_and_interfaces() -> None:
    with pytest.raises(InvalidArgumentError, match="None is no app"):
        resolve(None)
    with pytest.raises(
        InvalidArgumentError, match='interface must be "auto", "asgi" or "wsgi", not \'rsgi\''
    ):
        resolve(raw_asgi.app, interface="rsgi")


def test_frameworks_are_recognised() -> None:
    fastapi = pytest.importorskip("fastapi")
    flask = pytest.importorskip("flask")
    starlette = pytest.importorskip("starlette.applications")
    from django.core.handlers.asgi import ASGIHandler
    from django.core.handlers.wsgi import WSGIHandler

    assert resolve(fastapi.FastAPI()).interface == "asgi"
    assert resolve(starlette.Starlette()).interface == "asgi"
    assert resolve(flask.Flask("shop")).interface == "wsgi"
    assert resolve(flask.Flask("shop").wsgi_app).interface == "wsgi"
    assert resolve(ASGIHandler.__new__(ASGIHandler)).interface == "asgi"
    assert resolve(WSGIHandler.__new__(WSGIHandler)).interface == "wsgi"
    with pytest.raises(InvalidArgumentError, match="give an instance"):
        resolve(fastapi.FastAPI)
