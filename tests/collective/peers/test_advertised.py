"""The address that others are told, where it is not the one that is listened on."""

from __future__ import annotations

import logging

import pytest
from tests.collective.fleet import collector, fleet, serve, settled

from dodici.collective import Collector, MemberRecord
from dodici.core.errors import InvalidArgumentError


async def test_others_are_told_it_and_dial_it(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "dodici.collective"):
        b = collector("b", "0.0.0.0:0", insecure=True, advertise="localhost:0")
        serve(b)
        async with b, fleet(a={}) as (a,):
            port = b.address.rpartition(":")[2]
            assert (b.address, b.advertised) == (f"0.0.0.0:{port}", f"localhost:{port}")
            # b dials, and a dials back where b says that it is.
            await b.connect_to(a.address)
            await settled(a, "b")
            assert [each.address for each in a.connections] == [f"localhost:{port}"]
            assert (await a.dispatch("shop", "Work", "Who")).output == "b"
    assert [each.message for each in caplog.records if "others are told" in each.message] == []


async def test_discovery_is_told_it_and_nobody_dials_himself() -> None:
    told: list[MemberRecord] = []

    class Discovery:
        members: dict[str, MemberRecord] = {}  # noqa: RUF012

        async def start(self, record: MemberRecord, on_change: object) -> None:
            told.append(record)

        async def update(self, record: MemberRecord) -> None: ...

        async def withdraw(self) -> None: ...

        async def stop(self) -> None: ...

    async with Collector(
        "a", "127.0.0.1:0", namespaces=["shop"], discovery=Discovery(), advertise="localhost:4711"
    ) as a:
        assert [record.address for record in told] == ["localhost:4711"]
        assert (a.advertised, a.address == a.advertised) == ("localhost:4711", False)


async def test_every_interface_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "dodici.collective"):
        async with collector("a", "0.0.0.0:0", insecure=True):
            pass
    assert "give advertise=" in caplog.text


@pytest.mark.parametrize(
    ("address", "advertise", "said"),
    [
        ("127.0.0.1:0", "nowhere", "not an address"),
        ("127.0.0.1:0", "0.0.0.0:80", "every interface"),
        ("127.0.0.1:0", "[::]:80", "every interface"),
        ("unix:/tmp/x", "localhost:0", "needs a port"),
    ],
)
def test_what_nobody_can_dial_is_refused(address: str, advertise: str, said: str) -> None:
    with pytest.raises(InvalidArgumentError, match=said):
        Collector("a", address, advertise=advertise)
