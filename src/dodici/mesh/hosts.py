"""Which origins belong to the mesh: names under its domain, whatever their case, port or trailing dot."""

from __future__ import annotations

import re
from typing import Any

from ..core.errors import InvalidArgumentError
from ..pool.base import Origin

_NAME = re.compile(r"[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?(?:\.[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?)*").fullmatch


class Domain:
    """The suffix of a mesh's hosts, such as ``".local"``; the dot at its front makes it match whole labels only.

    Raises:
        InvalidArgumentError: not a domain.
    """

    __slots__ = ("suffix",)

    def __init__(self, domain: Any) -> None:
        text = domain.lower().strip(".") if isinstance(domain, str) else ""
        if _NAME(text) is None:
            raise InvalidArgumentError(f"domain must be a suffix of hosts such as '.local', not {domain!r}")
        self.suffix = f".{text}"

    def name(self, name: Any) -> str:
        """A worker's name without the domain: ``"api"`` of ``"api"``, ``"API.local"`` and ``"api.local."``.

        Raises:
            InvalidArgumentError: it could not be the host of a URL.
        """
        text = name.lower().removesuffix(".").removesuffix(self.suffix) if isinstance(name, str) else ""
        if _NAME(text) is None:
            raise InvalidArgumentError(
                f"a name in the mesh must be a host such as 'api' or 'api{self.suffix}', not {name!r}"
            )
        return text

    def name_in(self, origin: str) -> str | None:
        """The name that an origin asks for; None if it is none of this mesh.

        Raises:
            InvalidArgumentError: not an origin.
        """
        host = Origin(origin).host.lower().removesuffix(".")
        return host.removesuffix(self.suffix) if host.endswith(self.suffix) and host != self.suffix else None
