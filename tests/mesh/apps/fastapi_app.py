"""FastAPI: JSON, dependencies, streaming, background tasks, WebSockets, lifespan state."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any, TypedDict

from fastapi import BackgroundTasks, Depends, FastAPI, Header, HTTPException, Request, WebSocket
from fastapi.responses import StreamingResponse
from pydantic import BaseModel

done = asyncio.Event()
"""Set by the background task."""
events: list[str] = []


class State(TypedDict):
    stock: dict[str, int]


class Order(BaseModel):
    item: str
    number: int = 1


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[State]:
    events.append("startup")
    yield {"stock": {"tea": 3}}
    events.append("shutdown")


app = FastAPI(lifespan=lifespan)


def customer(x_customer: Annotated[str, Header()]) -> str:
    return x_customer


async def connection() -> AsyncIterator[str]:
    events.append("opened")
    try:
        yield "connection"
    finally:
        events.append("closed")


@app.post("/orders", status_code=201)
async def order(
    order: Order,
    customer: Annotated[str, Depends(customer)],
    connection: Annotated[str, Depends(connection)],
    request: Request,
) -> dict[str, Any]:
    if order.number > request.state.stock.get(order.item, 0):
        raise HTTPException(409, f"not enough {order.item}")
    return {"customer": customer, "item": order.item, "via": connection}


@app.get("/numbers/{count}")
async def numbers(count: int) -> StreamingResponse:
    async def lines() -> AsyncIterator[bytes]:
        for number in range(count):
            yield b"%d\n" % number

    return StreamingResponse(lines(), media_type="text/plain")


@app.get("/later")
async def later(tasks: BackgroundTasks) -> dict[str, bool]:
    async def work() -> None:
        done.set()

    done.clear()
    tasks.add_task(work)
    return {"accepted": True}


@app.get("/threaded")
def threaded() -> dict[str, str]:
    import threading

    return {"thread": threading.current_thread().name}


@app.get("/broken")
async def broken() -> None:
    raise LookupError("no such page")


@app.websocket("/echo")
async def echo(websocket: WebSocket) -> None:
    await websocket.accept(subprotocol="chat")
    async for text in websocket.iter_text():
        await websocket.send_text(text.upper())
    events.append("websocket closed")
