"""Starlette: middleware, streaming both ways, lifespan state."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, TypedDict

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route


class State(TypedDict):
    visits: list[str]


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[State]:
    yield {"visits": []}


async def visit(request: Request) -> Response:
    request.state.visits.append(request.path_params["name"])
    request.scope["state"]["private"] = True
    return JSONResponse({"visits": request.state.visits, "url": str(request.url)})


async def private(request: Request) -> Response:
    return JSONResponse(hasattr(request.state, "private"))


async def upload(request: Request) -> Response:
    async def back() -> AsyncIterator[bytes]:
        async for piece in request.stream():
            yield piece

    return StreamingResponse(back(), media_type="application/octet-stream")


async def text(request: Request) -> Response:
    return PlainTextResponse("dodici " * 1000)


async def timing(request: Request, call_next: Any) -> Response:
    response: Response = await call_next(request)
    response.headers["x-path"] = request.url.path
    return response


app = Starlette(
    routes=[
        Route("/visit/{name}", visit),
        Route("/private", private),
        Route("/upload", upload, methods=["POST"]),
        Route("/text", text),
    ],
    middleware=[
        Middleware(BaseHTTPMiddleware, dispatch=timing),
        Middleware(GZipMiddleware, minimum_size=500),
    ],
    lifespan=lifespan,
)
