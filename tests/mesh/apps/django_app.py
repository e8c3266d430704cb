"""Django in one file, as an ASGI and as a WSGI app."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Iterator
from typing import Any

import django
from django.conf import settings
from django.core.handlers.asgi import ASGIHandler
from django.core.handlers.wsgi import WSGIHandler
from django.http import HttpRequest, HttpResponse, JsonResponse, StreamingHttpResponse
from django.urls import path

if not settings.configured:
    settings.configure(
        ALLOWED_HOSTS=["api.local"],
        DEBUG=False,
        LOGGING_CONFIG=None,
        MIDDLEWARE=["django.middleware.common.CommonMiddleware"],
        ROOT_URLCONF=__name__,
        SECRET_KEY="not a secret",
        USE_I18N=False,
    )
    django.setup()


def form(request: HttpRequest) -> HttpResponse:
    return JsonResponse(
        {
            "name": request.POST["name"],
            "page": request.GET.get("page"),
            "host": request.get_host(),
            "path": request.path,
        }
    )


def digest(request: HttpRequest) -> HttpResponse:
    found = hashlib.sha256()
    while piece := request.read(10_000):
        found.update(piece)
    return HttpResponse(found.hexdigest())


def numbers(request: HttpRequest, count: int) -> StreamingHttpResponse:
    def lines() -> Iterator[bytes]:
        for number in range(count):
            yield b"%d\n" % number

    return StreamingHttpResponse(lines())


def later_numbers(request: HttpRequest, count: int) -> StreamingHttpResponse:
    async def lines() -> AsyncIterator[bytes]:
        for number in range(count):
            await asyncio.sleep(0)
            yield b"%d\n" % number

    return StreamingHttpResponse(lines())


def broken(request: HttpRequest) -> Any:
    raise LookupError("no such page")


urlpatterns = [
    path("form/<path:rest>", lambda request, rest: form(request)),
    path("digest", digest),
    path("numbers/<int:count>", numbers),
    path("later/<int:count>", later_numbers),
    path("broken", broken),
]

asgi = ASGIHandler()
wsgi = WSGIHandler()
