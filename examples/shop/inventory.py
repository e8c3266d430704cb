"""Stock, with Flask. WSGI runs in the threads of its worker; nothing in here knows of the mesh.

The stock is in a SQLite file that all workers share: any of them may be asked, replaced or killed.
"""

from __future__ import annotations

import os
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from flask import Flask, Response, jsonify, request

app = Flask(__name__)

# The workers of one server have the same parent, and the shop of another server has its own stock.
FILE = os.environ.get("STOCK_FILE") or Path(tempfile.gettempdir(), f"dodici-shop-{os.getppid()}.sqlite")
AT_FIRST = int(os.environ.get("STOCK", "3"))


def database() -> sqlite3.Connection:
    opened = sqlite3.connect(FILE, timeout=10, isolation_level=None)
    opened.execute("CREATE TABLE IF NOT EXISTS stock (item TEXT PRIMARY KEY, amount INTEGER NOT NULL)")
    return opened


def left(stock: sqlite3.Connection, item: str) -> int:
    known = "SELECT amount FROM stock WHERE item = ?"
    found = stock.execute(known, (item,)).fetchone()
    if found is None:
        stock.execute("INSERT OR IGNORE INTO stock VALUES (?, ?)", (item, AT_FIRST))
        found = stock.execute(known, (item,)).fetchone()
    return int(found[0])


@app.get("/inventory")
def export() -> Response:
    def lines() -> Iterator[str]:
        yield "item,left\n"
        with closing(database()) as stock:
            for item, amount in stock.execute("SELECT item, amount FROM stock ORDER BY item"):
                yield f"{item},{amount}\n"

    return Response(lines(), mimetype="text/csv")


@app.get("/inventory/<item>")
def look(item: str) -> Response:
    with closing(database()) as stock:
        return jsonify(item=item, left=left(stock, item), worker=os.getpid())


@app.post("/inventory/<item>/take")
def take(item: str) -> tuple[Response, int]:
    amount = int(request.get_json()["amount"])
    with closing(database()) as stock:
        here = left(stock, item)
        # One statement looks and takes, so that two workers never take the same piece.
        taken = stock.execute(
            "UPDATE stock SET amount = amount - ?1 WHERE item = ?2 AND amount >= ?1", (amount, item)
        ).rowcount
        if not taken:
            return jsonify(error=f"only {here} of {item} are left"), 409
        return jsonify(left=left(stock, item), worker=os.getpid()), 200
