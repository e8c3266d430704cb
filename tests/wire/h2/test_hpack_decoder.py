"""HPACK, the decoding side: RFC 7541's own examples, what real servers send, each error."""

from __future__ import annotations

import pytest
from tests.wire.h2.hpack_blocks import table

from dodici.wire.h2.hpack import Decoder, Field, HPACKError

# ------------------------------------------------------------------------------- RFC 7541 Appendix C

GET = (b":method", b"GET")
HTTP = (b":scheme", b"http")
ROOT = (b":path", b"/")
EXAMPLE = (b":authority", b"www.example.com")
DATE_21 = (b"date", b"Mon, 21 Oct 2013 20:13:21 GMT")
DATE_22 = (b"date", b"Mon, 21 Oct 2013 20:13:22 GMT")
LOCATION = (b"location", b"https://www.example.com")
PRIVATE = (b"cache-control", b"private")
COOKIE = (b"set-cookie", b"foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1")
GZIP = (b"content-encoding", b"gzip")

REQUESTS = [
    ([GET, HTTP, ROOT, EXAMPLE], [EXAMPLE]),
    (
        [GET, HTTP, ROOT, EXAMPLE, (b"cache-control", b"no-cache")],
        [(b"cache-control", b"no-cache"), EXAMPLE],
    ),
    (
        [
            GET,
            (b":scheme", b"https"),
            (b":path", b"/index.html"),
            EXAMPLE,
            (b"custom-key", b"custom-value"),
        ],
        [(b"custom-key", b"custom-value"), (b"cache-control", b"no-cache"), EXAMPLE],
    ),
]
RESPONSES = [
    (
        [(b":status", b"302"), PRIVATE, DATE_21, LOCATION],
        [LOCATION, DATE_21, PRIVATE, (b":status", b"302")],
    ),
    (
        [(b":status", b"307"), PRIVATE, DATE_21, LOCATION],
        [(b":status", b"307"), LOCATION, DATE_21, PRIVATE],
    ),
    (
        [(b":status", b"200"), PRIVATE, DATE_22, LOCATION, GZIP, COOKIE],
        [COOKIE, GZIP, DATE_22],
    ),
]


@pytest.mark.parametrize(
    ("block", "field", "entries"),
    [
        pytest.param(
            "400a637573746f6d2d6b65790d637573746f6d2d686561646572",
            (b"custom-key", b"custom-header"),
            [(b"custom-key", b"custom-header")],
            id="C.2.1 literal with indexing",
        ),
        pytest.param(
            "040c2f73616d706c652f70617468",
            (b":path", b"/sample/path"),
            [],
            id="C.2.2 literal without indexing",
        ),
        pytest.param(
            "100870617373776f726406736563726574",
            (b"password", b"secret"),
            [],
            id="C.2.3 literal never indexed",
        ),
        pytest.param("82", GET, [], id="C.2.4 indexed"),
    ],
)
def test_appendix_c2(block: str, field: Field, entries: list[Field]) -> None:
    decoder = Decoder()
    assert decoder.decode(bytes.fromhex(block)) == [field]
    assert table(decoder) == entries


@pytest.mark.parametrize(
    "blocks",
    [
        pytest.param(
            [
                "828684410f7777772e6578616d706c652e636f6d",
                "828684be58086e6f2d6361636865",
                "828785bf400a637573746f6d2d6b65790c637573746f6d2d76616c7565",
            ],
            id="C.3 plain",
        ),
        pytest.param(
            [
                "828684418cf1e3c2e5f23a6ba0ab90f4ff",
                "828684be5886a8eb10649cbf",
                "828785bf408825a849e95ba97d7f8925a849e95bb8e8b4bf",
            ],
            id="C.4 Huffman",
        ),
    ],
)
def test_appendix_c_requests(blocks: list[str]) -> None:
    decoder = Decoder()
    for count, (block, (fields, _)) in enumerate(zip(blocks, REQUESTS, strict=True), 1):
        assert decoder.decode(bytes.fromhex(block)) == fields
        copy = Decoder()  # a look at the table ends with an error, after which a decoder is not used
        for before in blocks[:count]:
            copy.decode(bytes.fromhex(before))
        assert table(copy) == REQUESTS[count - 1][1]


@pytest.mark.parametrize(
    "blocks",
    [
        pytest.param(
            [
                (
                    "4803333032580770726976617465611d4d6f6e2c203231204f637420323031332032303a31333a323120474d54"
                    "6e1768747470733a2f2f7777772e6578616d706c652e636f6d"
                ),
                "4803333037c1c0bf",
                (
                    "88c1611d4d6f6e2c203231204f637420323031332032303a31333a323220474d54c05a04677a69707738666f6f3d"
                    "4153444a4b48514b425a584f5157454f50495541585157454f49553b206d61782d6167653d333630303b20766572"
                    "73696f6e3d31"
                ),
            ],
            id="C.5 plain",
        ),
        pytest.param(
            [
                (
                    "488264025885aec3771a4b6196d07abe941054d444a8200595040b8166e082a62d1bff6e919d29ad171863c78f0b"
                    "97c8e9ae82ae43d3"
                ),
                "4883640effc1c0bf",
                (
                    "88c16196d07abe941054d444a8200595040b8166e084a62d1bffc05a839bd9ab77ad94e7821dd7f2e6c7b335dfdf"
                    "cd5b3960d5af27087f3672c1ab270fb5291f9587316065c003ed4ee5b1063d5007"
                ),
            ],
            id="C.6 Huffman",
        ),
    ],
)
def test_appendix_c_responses_with_eviction(blocks: list[str]) -> None:
    decoder = Decoder(max_table_size=256)
    for count, (block, (fields, entries)) in enumerate(zip(blocks, RESPONSES, strict=True), 1):
        assert decoder.decode(bytes.fromhex(block)) == fields
        copy = Decoder(max_table_size=256)
        for before in blocks[:count]:
            copy.decode(bytes.fromhex(before))
        assert table(copy) == entries


# ------------------------------------------------------------------------------------ real servers

DATE = (b"date", b"Sat, 21 Nov 2026 07:39:28 GMT")
MODIFIED = (b"last-modified", DATE[1])
DATE_BYTES = "96dc34fd2820a9a4fdd41004e28076e32fdc13ca62d1bf"
NGINX = (
    f"887689aa6355e580ae212e1f61{DATE_BYTES}5f87497ca589d34d1f5c0231356c{DATE_BYTES}"
    "00832a47378afe5c8c01687181697f9f008bf2b4b60e92ac7ad263d48f89dd0e8c1ab6e4c5934f"
    "00874152b10e7ea62f9441a48190c8d48fb85680e8c72342fb52b1a67818008919085ad2b583aa62a3848fd24a8f"
)
NGINX_FIELDS = [
    (b":status", b"200"),
    (b"server", b"nginx/1.22.1"),
    DATE,
    (b"content-type", b"text/html"),
    (b"content-length", b"15"),
    MODIFIED,
    (b"etag", b'"6b014ab0-f"'),
    (b"x-frame-options", b"SAMEORIGIN"),
    (b"set-cookie", b"sid=31d4d96e407aad42; path=/"),
    (b"accept-ranges", b"bytes"),
]
NODE = [
    f"885f961d75d0620d263d4c7441eafb50938ec415305a99567b5886a8eb2127b0bf4089f2b567f05b0b22d1fa83a8f21761{DATE_BYTES}",
    "88c1c0bfbe",
]
NODE_FIELDS = [
    (b":status", b"200"),
    (b"content-type", b"application/json; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-powered-by", b"node"),
    DATE,
]
NGHTTPD = [
    f"887690aa69d29ae452a9a74a6b13015db12e0f5889a47e561cc58197000f61{DATE_BYTES}0f0d0231356c{DATE_BYTES}5f87497ca589d34d1f",
    "88c2c1c00f0d023135bfbe",
]
NGHTTPD_FIELDS = [
    (b":status", b"200"),
    (b"server", b"nghttpd nghttp2/1.52.0"),
    (b"cache-control", b"max-age=3600"),
    DATE,
    (b"content-length", b"15"),
    MODIFIED,
    (b"content-type", b"text/html"),
]


@pytest.mark.parametrize(
    ("blocks", "fields"),
    [
        pytest.param(NODE, NODE_FIELDS, id="node"),
        pytest.param(NGHTTPD, NGHTTPD_FIELDS, id="nghttpd"),
    ],
)
def test_servers_that_use_the_table(blocks: list[str], fields: list[Field]) -> None:
    decoder = Decoder()
    first, later = map(bytes.fromhex, blocks)
    assert decoder.decode(first) == fields
    version = decoder.version
    for _ in range(3):
        assert decoder.decode(later) == fields
        assert (decoder.version, decoder.pure) == (version, False)


def test_nginx_adds_the_same_fields_each_time() -> None:
    decoder = Decoder()
    block = bytes.fromhex(NGINX)
    versions = set()
    for _ in range(40):  # four entries each: the table fills and evicts
        assert decoder.decode(block) == NGINX_FIELDS
        versions.add(decoder.version)
    assert len(versions) == 40


def test_nginx_after_a_setting_of_the_table_size_keeps_no_table() -> None:
    # Any SETTINGS_HEADER_TABLE_SIZE makes nginx set its table to 0 and go on "adding" to it.
    decoder = Decoder()
    block = bytes.fromhex(NGINX)
    assert decoder.decode(b"\x20" + block) == NGINX_FIELDS
    version = decoder.version
    assert version == 1
    assert decoder.decode(block) == NGINX_FIELDS
    assert (decoder.version, decoder.pure) == (version, False)


# ------------------------------------------------------------------------------------------ errors


@pytest.mark.parametrize(
    ("block", "message"),
    [
        pytest.param(b"\x80", "index 0", id="index 0"),
        pytest.param(b"\xbe", "index 62", id="index into an empty table"),
        pytest.param(b"\xff\x80\x01", "index 255", id="index beyond the table"),
        pytest.param(b"\x7e\x00", "index 62", id="name index beyond the table, added"),
        pytest.param(b"\x0f\x2f\x00", "index 62", id="name index beyond the table, not added"),
        pytest.param(b"\x1f\x2f\x00", "index 62", id="name index beyond the table, never added"),
        pytest.param(b"\xff\xff\xff\xff\xff\x0f", "integer", id="integer of 2**32 and more"),
        pytest.param(b"\xff\x81\xff\xff\xff\x07", "integer", id="integer of 2**31"),
        pytest.param(b"\xff\x80\x80\x80\x80\x80\x00", "integer", id="integer of six continuation octets"),
        pytest.param(b"\x00\x7f\x81\xff\xff\xff\x07", "integer", id="string length of 2**31"),
        pytest.param(b"\xff", "ends", id="ends within an index"),
        pytest.param(b"\xff\x80", "ends", id="ends within an index's continuation"),
        pytest.param(b"\x40", "ends", id="ends before a name"),
        pytest.param(b"\x00\x03ab", "ends", id="ends within a name"),
        pytest.param(b"\x00\x01a", "ends", id="ends before a value"),
        pytest.param(b"\x41", "ends", id="ends before the value of an indexed name"),
        pytest.param(b"\x41\x02a", "ends", id="ends within a value"),
        pytest.param(b"\x41\x82\x1f", "ends", id="ends within a Huffman value"),
        pytest.param(b"\x41\x7f", "ends", id="ends within a value's length"),
        pytest.param(b"\x41\x7f\x01" + 127 * b"a", "ends", id="ends within a long value"),
        pytest.param(b"\x3f", "ends", id="ends within a size update"),
        pytest.param(b"\x3f\xe2\x1f", "table size 4097", id="size update above the limit"),
        pytest.param(b"\x82\x20", "after a field", id="size update after a field"),
        pytest.param(b"\x41\x84\xff\xff\xff\xff", "EOS", id="EOS in a Huffman string"),
        pytest.param(b"\x41\x82\x1f\xff", "padding", id="Huffman padding of a whole octet"),
        pytest.param(b"\x41\x81\x1e", "padding", id="Huffman padding that is not all ones"),
        pytest.param(b"\x00\x81\x18\x00", "padding", id="Huffman padding of zeros, in a name"),
    ],
)
def test_decoding_errors(block: bytes, message: str) -> None:
    decoder = Decoder()
    assert decoder.decode(b"\x82") == [GET]
    assert decoder.pure
    with pytest.raises(HPACKError, match=message):
        decoder.decode(block)
    assert not decoder.pure
    with pytest.raises(HPACKError):  # and whatever stands before it does not hide it
        Decoder().decode(b"\x82\x01\x03abc" + block)


def test_a_known_huffman_string_is_not_found_beyond_the_end() -> None:
    decoder = Decoder()
    assert decoder.decode(b"\x01\x81\x1f") == [(b":authority", b"a")]
    with pytest.raises(HPACKError, match="ends"):
        decoder.decode(b"\x01\x82\x1f")


@pytest.mark.parametrize(
    ("block", "fields"),
    [
        pytest.param(b"", [], id="empty block"),
        pytest.param(b"\x20", [], id="size update alone"),
        pytest.param(b"\x01\x00", [(b":authority", b"")], id="empty value"),
        pytest.param(b"\x01\x80", [(b":authority", b"")], id="empty Huffman value"),
        pytest.param(b"\x00\x00\x00", [(b"", b"")], id="empty name"),
        pytest.param(b"\x0f\x80\x80\x80\x80\x00\x01a", [(b"accept-charset", b"a")], id="padded integer"),
        pytest.param(
            b"\x01\x7f\x00" + 127 * b"a", [(b":authority", 127 * b"a")], id="first length with continuation"
        ),
        pytest.param(b"\x01\x7e" + 126 * b"a", [(b":authority", 126 * b"a")], id="last without"),
    ],
)
def test_corner_cases_that_are_right(block: bytes, fields: list[Field]) -> None:
    decoder = Decoder()
    assert decoder.decode(block) == fields
    assert decoder.decode(block) == fields
