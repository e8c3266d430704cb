"""Where collectors listen, and where they can be dialled."""

from __future__ import annotations

import ipaddress

from ..core.errors import InvalidArgumentError


def split_address(address: object) -> tuple[str | None, int]:
    """The host and port of an address; host None and port 0 for a unix socket.

    Raises:
        InvalidArgumentError: it is neither "host:port", "[v6]:port" nor "unix:path".
    """
    if not isinstance(address, str):
        raise InvalidArgumentError(f"address must be a str, not {type(address).__name__}")
    if address.startswith("unix:"):
        if not address.removeprefix("unix:").removeprefix("//"):
            raise InvalidArgumentError(f"no path in {address!r}: use unix:/path/to/socket")
        return None, 0
    host, colon, port = address.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    wrong = not colon or not bare or (":" in bare) != (bare is not host) or not port.isdecimal()
    if (
        wrong
        or not port.isascii()
        or int(port) > 65535
        or not bare.isprintable()
        or "/" in bare
        or " " in bare
    ):
        raise InvalidArgumentError(
            f"not an address: {address!r}; use 'host:port', '[::1]:port' or 'unix:/path', with port 0 for any"
        )
    return host, int(port)


def is_loopback(address: str) -> bool:
    """Whether only this machine can reach the address."""
    host, _ = split_address(address)
    if host is None or host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def check_advertised(address: str, listening: str) -> None:
    """Refuse what nobody can dial.

    Raises:
        InvalidArgumentError: not an address, or one that means every interface; or port 0, where no port is listened on.
    """
    host, port = split_address(address)
    if host is not None and not port and split_address(listening)[0] is None:
        raise InvalidArgumentError(f"advertise needs a port: {listening} has none that {address} could mean")
    if host is not None and is_any(host):
        raise InvalidArgumentError(
            f"advertise must be an address that others can dial, and {address} is every interface of this machine"
        )


def advertised(given: str | None, listening: str) -> str:
    """The address to tell others: the given one, with the real port where it has port 0; else the listening one."""
    if given is None:
        return listening
    host, port = split_address(given)
    return given if host is None or port else f"{host}:{split_address(listening)[1]}"


def is_any(host: str) -> bool:
    """Whether a host means every interface of the machine, such as 0.0.0.0."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_unspecified
    except ValueError:
        return False
