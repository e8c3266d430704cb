"""httpx2, the successor of httpx: same interface, same configuration."""

from __future__ import annotations

from harness import main
from httpx_client import Httpx


class Httpx2(Httpx):
    package = "httpx2"


if __name__ == "__main__":
    main(Httpx2)
