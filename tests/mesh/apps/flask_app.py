"""Flask: forms, uploads, streaming, sessions, errors."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from typing import Any

from flask import Flask, Response, jsonify, request, session, stream_with_context

app = Flask(__name__)
app.secret_key = "not a secret"
closed = threading.Event()
"""Set when an endless response was closed."""


@app.post("/form")
def form() -> Any:
    return jsonify(name=request.form["name"], tags=request.form.getlist("tag"), page=request.args.get("page"))


@app.post("/upload")
def upload() -> Any:
    file = request.files["file"]
    return jsonify(
        name=file.filename, sha256=hashlib.sha256(file.read()).hexdigest(), title=request.form["title"]
    )


@app.post("/raw")
def raw() -> Any:
    digest = hashlib.sha256()
    while piece := request.stream.read(10_000):
        digest.update(piece)
    return digest.hexdigest()


@app.get("/numbers/<int:count>")
def numbers(count: int) -> Any:
    def lines() -> Iterator[str]:
        for number in range(count):
            yield f"{request.path} {number}\n"

    return Response(stream_with_context(lines()), mimetype="text/plain")


@app.get("/endless")
def endless() -> Any:
    def lines() -> Iterator[bytes]:
        try:
            while True:
                yield b"x" * 1000
        finally:
            closed.set()

    return Response(lines())


@app.get("/visits")
def visits() -> Any:
    session["visits"] = session.get("visits", 0) + 1
    return jsonify(visits=session["visits"], url=request.url, remote=request.remote_addr)


@app.get("/broken")
def broken() -> Any:
    raise LookupError("no such page")


def create_app() -> Flask:
    return app
