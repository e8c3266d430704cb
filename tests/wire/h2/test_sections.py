"""What is remembered of header blocks: bounded, never secrets, and never so that one response is taken for another."""

from __future__ import annotations

import pytest
from tests.wire.h2.frames_kit import Link, headers, rst_stream, settings

from dodici.wire.h2 import sections
from dodici.wire.h2.frames import ConnectionFault, ErrorCode
from dodici.wire.h2.hpack import Decoder, table_size_update
from dodici.wire.h2.sections import UNKNOWN_LENGTH, Malformed, SectionDecoder, SharedSections
from dodici.wire.h2.settings import LocalSettings

LOCAL = LocalSettings(65_535, 65_535, 16_384)
OK = b"\x88"
NEWEST = b"\xbe"


def literal(name: bytes, value: bytes, first: int = 0x00) -> bytes:
    return bytes((first, len(name))) + name + bytes((len(value),)) + value


def decoder(shared: SharedSections | None = None, limit: int = 16_384) -> SectionDecoder:
    return SectionDecoder(LOCAL, {} if shared is None else shared, limit)


def raw(section: sections.Section) -> tuple[tuple[bytes, bytes], ...]:
    return section.headers.raw


@pytest.fixture
def decodings(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The blocks that were decoded, and not remembered."""
    seen: list[bytes] = []
    decode = Decoder.decode

    def counted(self: Decoder, block: bytes) -> list[tuple[bytes, bytes]]:
        seen.append(block)
        return decode(self, block)

    monkeypatch.setattr(Decoder, "decode", counted)
    return seen


def test_a_section() -> None:
    section = decoder().decode(OK + literal(b"x", b"1") + literal(b"content-length", b"12"))
    assert (section.status_code, section.length) == (200, 12)
    assert raw(section) == ((b"x", b"1"), (b"content-length", b"12"))
    assert decoder().decode(OK).length == UNKNOWN_LENGTH


# ----------------------------------------------------------------------------------- blocks without a table


def test_pure_blocks_are_decoded_once_for_all_connections(decodings: list[bytes]) -> None:
    shared: SharedSections = {}
    block = OK + literal(b"x", b"1")
    first = decoder(shared).decode(block)
    assert decoder(shared).decode(block) is first
    assert decodings == [block]
    assert list(shared) == [block]


def test_other_pools_know_nothing_of_them() -> None:
    shared: SharedSections = {}
    decoder(shared).decode(OK)
    assert decoder().shared == {}


@pytest.mark.parametrize(
    "block",
    [
        pytest.param(OK + literal(b"x", b"1", 0x40), id="adds"),
        pytest.param(table_size_update(100) + OK, id="changes-the-size"),
        pytest.param(table_size_update(4096) + OK, id="says-the-size"),
    ],
)
def test_blocks_that_touch_the_table_are_nobody_elses(block: bytes) -> None:
    one = decoder()
    one.decode(block)
    assert one.shared == {}
    one.decode(OK + NEWEST if block[-1:] == b"1" else OK)
    assert list(one.shared) in ([], [OK])


@pytest.mark.parametrize("never", [0x00, 0x10])
def test_the_same_bytes_on_two_connections(never: int) -> None:
    """One byte stands for whatever the connection's own table has."""
    shared: SharedSections = {}
    one, two = decoder(shared), decoder(shared)
    one.decode(OK + literal(b"user", b"alice", 0x40))
    two.decode(OK + literal(b"user", b"bob", 0x40))
    by_name = OK + bytes((never | 0x0F, 62 - 0x0F, 1)) + b"!"
    for _ in range(3):
        assert raw(one.decode(OK + NEWEST)) == ((b"user", b"alice"),)
        assert raw(two.decode(OK + NEWEST)) == ((b"user", b"bob"),)
        assert raw(one.decode(by_name)) == raw(two.decode(by_name)) == ((b"user", b"!"),)
    assert shared == {}


# ---------------------------------------------------------------------------------- blocks that read the table


def test_blocks_that_read_are_remembered_while_the_table_stands_still(decodings: list[bytes]) -> None:
    one = decoder()
    one.decode(OK + literal(b"x", b"1", 0x40))
    first = one.decode(OK + NEWEST)
    assert one.decode(OK + NEWEST) is first
    assert decodings == [OK + literal(b"x", b"1", 0x40), OK + NEWEST]
    one.decode(OK + literal(b"x", b"2", 0x40))
    assert raw(one.decode(OK + NEWEST)) == ((b"x", b"2"),)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(literal(b"x", b"2", 0x40), id="an-entry"),
        pytest.param(literal(b"x", b"2", 0x40) + NEWEST * 2000, id="an-entry-in-a-list-that-is-too-large"),
        pytest.param(literal(b"x", b"2", 0x40) + literal(b"Bad", b""), id="an-entry-in-a-malformed-head"),
    ],
)
def test_whatever_changes_the_table_is_noticed(change: bytes) -> None:
    one = decoder()
    one.decode(OK + literal(b"x", b"1", 0x40))
    assert raw(one.decode(OK + NEWEST)) == ((b"x", b"1"),)
    try:
        one.decode(OK + change)
    except Malformed:
        pass
    assert raw(one.decode(OK + NEWEST)) == ((b"x", b"2"),)


def test_a_table_that_was_emptied() -> None:
    one = decoder()
    one.decode(OK + literal(b"x", b"1", 0x40))
    one.decode(OK + NEWEST)
    one.decode(table_size_update(0) + OK)
    with pytest.raises(ConnectionFault) as caught:
        one.decode(OK + NEWEST)
    assert caught.value.code == ErrorCode.COMPRESSION_ERROR


def test_blocks_that_add_are_decoded_each_time(decodings: list[bytes]) -> None:
    one = decoder()
    block = OK + literal(b"x", b"1", 0x40)
    for _ in range(3):
        one.decode(block)
    assert decodings == [block] * 3
    assert raw(one.decode(OK + b"\xc0")) == ((b"x", b"1"),)


# --------------------------------------------------------------------------------- what is not remembered


@pytest.mark.parametrize("name", [b"set-cookie"])
@pytest.mark.parametrize("first", [0x00, 0x10])
def test_cookies_are_not_remembered(name: bytes, first: int) -> None:
    one = decoder()
    for value in (b"a=1", b"a=2"):
        block = OK + literal(name, value, first)
        assert raw(one.decode(block)) == ((name, value),)
    one.decode(OK + literal(name, b"a=3", 0x40))
    assert raw(one.decode(OK + NEWEST)) == ((name, b"a=3"),)
    assert one.shared == {}
    assert one._reading == {}


def test_malformed_blocks_are_not_remembered() -> None:
    one = decoder()
    for _ in range(2):
        with pytest.raises(Malformed):
            one.decode(OK + literal(b"Bad", b""))
    assert one.shared == {}


@pytest.mark.parametrize("reads", [False, True])
def test_the_memory_is_bounded(reads: bool) -> None:
    one = decoder()
    one.decode(OK + literal(b"x", b"1", 0x40))
    prefix = OK + NEWEST if reads else OK
    most = 0
    for number in range(2 * sections._CACHED_SECTIONS + 1):
        one.decode(prefix + literal(b"n", b"%d" % number))
        most = max(most, len(one.shared) + len(one._reading))
    assert most <= sections._CACHED_SECTIONS
    assert len(one._reading if reads else one.shared) == 1


def test_large_blocks_are_not_remembered() -> None:
    one = decoder()
    fits = OK + literal(b"x", b"y" * 100) * 19
    one.decode(fits)
    assert len(fits) <= sections._CACHED_BLOCK
    one.decode(fits + literal(b"x", b"y" * 100))
    assert list(one.shared) == [fits]


# ----------------------------------------------------------------------------------------- in the engine


def test_two_connections_of_a_pool() -> None:
    shared: SharedSections = {}
    links = [Link(shared=shared) for _ in range(2)]
    for name, link in zip((b"alice", b"bob"), links, strict=True):
        link.open()
        link.open()
        link.open()
        link.receive(settings(), headers(1, OK + literal(b"user", name, 0x40), end=True))
        link.receive(headers(3, OK + NEWEST, end=True), headers(5, OK, end=True))
    for name, link in zip((b"alice", b"bob"), links, strict=True):
        assert [event[3] for event in link.events if event[0] == "head"] == [((b"user", name),)] * 2 + [()]
    assert list(shared) == [OK]


def test_a_block_of_a_stream_that_is_gone_is_remembered_as_any() -> None:
    link = Link()
    stream = link.open()
    link.open()
    link.engine.reset(stream)
    link.receive(settings(), headers(1, OK, end=True), headers(3, OK, end=True), rst_stream(1))
    assert link.events[1:] == [("head", 3, 200, ()), ("end", 3, ())]
