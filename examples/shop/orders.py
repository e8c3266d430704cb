"""Orders, with FastAPI. Takes what is ordered out of the inventory, which runs in another process."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator

from fastapi import FastAPI, HTTPException, WebSocket
from fastapi.responses import StreamingResponse
from pydantic import BaseModel

import dodici

INVENTORY = os.environ.get("INVENTORY", "http://inventory.local/inventory")

app = FastAPI(title="orders")


class Order(BaseModel):
    item: str
    amount: int = 1


@app.post("/orders", status_code=201)
async def create(order: Order) -> dict[str, object]:
    try:
        answer = await dodici.post(f"{INVENTORY}/{order.item}/take", json={"amount": order.amount})
    except dodici.NoTargetError as error:
        raise HTTPException(503, "the inventory takes no requests at the moment") from error
    if answer.status_code not in (200, 409):
        raise HTTPException(answer.status_code, f"the inventory failed: {await answer.text()}")
    said = await answer.json()
    if answer.status_code == 409:
        raise HTTPException(409, said["error"])
    return {**order.model_dump(), "left": said["left"], "worker": os.getpid(), "stock_worker": said["worker"]}


@app.get("/orders/worker")
async def worker() -> dict[str, int]:
    return {"worker": os.getpid()}


@app.get("/orders/stock")
async def stock() -> StreamingResponse:
    async def lines() -> AsyncIterator[bytes]:
        # Passed on as it comes: nothing of it is kept here.
        async with dodici.stream("GET", INVENTORY) as response:
            async for chunk in response.body:
                yield chunk

    return StreamingResponse(lines(), media_type="text/csv")


@app.websocket("/orders/echo")
async def echo(socket: WebSocket) -> None:
    await socket.accept()
    async for text in socket.iter_text():
        await socket.send_text(text)
