"""Apps as people write them, with Flask and with FastAPI."""

import time
from typing import Any

from fastapi import FastAPI, HTTPException
from flask import Flask, Response, jsonify, request
from pydantic import BaseModel


class Order(BaseModel):
    sku: str
    count: int


def flask_app() -> Any:
    app = Flask("stock")

    @app.get("/inventory/<item>")
    def look(item: str) -> Response:
        return jsonify(
            item=item, left=3, asked=dict(request.args), timeout=request.headers.get("grpc-timeout")
        )

    @app.post("/inventory/<item>/take")
    def take(item: str) -> Any:
        amount = request.get_json()["amount"]
        if amount > 3:
            return jsonify(error=f"only 3 of {item} are left"), 409
        return jsonify(left=3 - amount)

    @app.post("/Lines")
    def lines() -> Response:
        return Response(
            (f"{number}\n" for number in range(request.get_json())), mimetype="application/x-ndjson"
        )

    return app


def fastapi_app() -> Any:
    app = FastAPI()

    @app.post("/Create")
    async def create(order: Order) -> dict[str, Any]:
        if order.count < 0:
            raise HTTPException(429, "too many", headers={"retry-after": "2"})
        return {"sku": order.sku.upper(), "count": order.count + 1, "at": int(time.time())}

    return app
