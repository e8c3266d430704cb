"""decompress(): every coding, cut everywhere, within bounds."""

from __future__ import annotations

import asyncio
import gzip
import itertools
import random
import sys
import tracemalloc
import zlib
from functools import partial

import brotli
import pytest
from tests.unit.interceptor_kit import (
    ORIGIN,
    ScriptedDispatcher,
    answer,
    data,
    end,
    fail,
    hang,
    head,
    play,
    start,
    virtual,
)

from dodici.core.errors import DecompressionError, InvalidArgumentError, SocketError
from dodici.core.options import DispatchOptions
from dodici.interceptors import _codings, decompress
from dodici.testing import RecordingHandler, settle

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd


def raw_deflate(plain: bytes) -> bytes:
    coder = zlib.compressobj(wbits=-15)
    return coder.compress(plain) + coder.flush()


CODERS = {
    "gzip": gzip.compress,
    "x-gzip": gzip.compress,
    "GZip": gzip.compress,
    "deflate": zlib.compress,
    "deflate, identity": zlib.compress,
    "br": partial(brotli.compress, quality=5),  # the default takes seconds for what is large
    "zstd": zstd.compress,
    "gzip, br": lambda plain: brotli.compress(gzip.compress(plain), quality=5),
    "deflate, gzip, zstd": lambda plain: zstd.compress(gzip.compress(zlib.compress(plain))),
    "gzip, gzip, gzip, gzip, gzip": lambda plain: gzip.compress(
        gzip.compress(gzip.compress(gzip.compress(gzip.compress(plain))))
    ),
}
every_coding = pytest.mark.parametrize("coding", CODERS)
SIMPLE = ["gzip", "deflate", "br", "zstd"]
PLAIN = random.Random(12).randbytes(300) + b"dodici " * 40
LARGE = random.Random(13).randbytes(200_000) + bytes(800_000) + b"end"


def coded(coding, *pieces, **more):
    return [start(), head(200, {"content-encoding": coding, **more}), *map(data, pieces), end({"t": "1"})]


# ------------------------------------------------------------------------------------------------ decoding


@every_coding
@virtual
async def test_decoded(coding):
    body = CODERS[coding](PLAIN)
    recorder, _ = await play(
        decompress(),
        coded(coding, body, **{"content-length": str(len(body)), "etag": '"x"', "vary": "accept"}),
    )
    assert recorder.body == PLAIN
    assert dict(recorder.headers) == {"etag": '"x"', "vary": "accept"}
    assert recorder.trailers["t"] == "1"


@every_coding
@virtual
async def test_split_at_every_byte(coding):
    body = CODERS[coding](PLAIN)
    recorder, _ = await play(decompress(), coded(coding, *(body[i : i + 1] for i in range(len(body)))))
    assert recorder.body == PLAIN
    for cut in range(1, len(body), 7):
        recorder, _ = await play(decompress(), coded(coding, body[:cut], body[cut:]))
        assert recorder.body == PLAIN


@every_coding
@virtual
async def test_large_bodies_come_in_pieces(coding):
    recorder, _ = await play(decompress(), coded(coding, CODERS[coding](LARGE)))
    assert recorder.body == LARGE
    assert max(map(len, recorder.chunks)) <= 64 * 1024


@every_coding
@virtual
async def test_truncated_everywhere(coding):
    body = CODERS[coding](PLAIN)
    for cut in {1, 2, 3, 5, 11, len(body) // 2, len(body) - 9, len(body) - 1}:
        recorder, _ = await play(decompress(), coded(coding, body[:cut]))
        assert isinstance(recorder.error, DecompressionError), cut
        assert recorder.count("on_response_end") == 0


@every_coding
@virtual
async def test_empty(coding):
    recorder, _ = await play(decompress(), coded(coding))
    assert (recorder.body, recorder.error) == (b"", None)
    recorder, _ = await play(decompress(), coded(coding, CODERS[coding](b"")))
    assert (recorder.body, recorder.error) == (b"", None)


@pytest.mark.parametrize("coding", SIMPLE)
@virtual
async def test_broken(coding):
    body = bytearray(CODERS[coding](LARGE[:100_000]))
    # Compressed data is not protected in every coding: break its structure, at the beginning.
    body[:4] = b"\xff\xff\xff\xff"
    recorder, base = await play(
        decompress(), [start(), head(200, {"content-encoding": coding}), data(bytes(body)), hang()]
    )
    assert isinstance(recorder.error, DecompressionError)
    assert recorder.error.code == "DODICI_ERR_DECOMPRESSION"
    assert base.players[0].exchange.aborted


@virtual
async def test_a_wrong_checksum():
    body = bytearray(gzip.compress(PLAIN))
    body[-6] ^= 1
    recorder, _ = await play(decompress(), coded("gzip", bytes(body)))
    assert isinstance(recorder.error, DecompressionError)


@virtual
async def test_raw_deflate():
    body = raw_deflate(PLAIN)
    for pieces in ([body], [body[:1], body[1:]]):
        recorder, _ = await play(decompress(), coded("deflate", *pieces))
        assert recorder.body == PLAIN


@virtual
async def test_gzip_members_and_what_follows_them():
    members = [gzip.compress(b"one "), gzip.compress(b""), gzip.compress(b"two")]
    body = b"".join(members)
    for padding in (b"", bytes(1000), b"\x1f", b"garbage"):
        padded = body + padding
        for size in (1, 2, 7, len(padded)):
            pieces = [padded[i : i + size] for i in range(0, len(padded), size)]
            recorder, _ = await play(decompress(), coded("gzip", *pieces))
            assert (recorder.body, recorder.error) == (b"one two", None)


@virtual
async def test_a_truncated_second_member():
    recorder, _ = await play(decompress(), coded("gzip", gzip.compress(b"one"), gzip.compress(b"two")[:-3]))
    assert isinstance(recorder.error, DecompressionError)
    assert recorder.body.startswith(b"one")


@virtual
async def test_what_follows_deflate_is_ignored():
    recorder, _ = await play(decompress(), coded("deflate", zlib.compress(b"one") + b"xx", b"yy"))
    assert (recorder.body, recorder.error) == (b"one", None)


@pytest.mark.parametrize("coding", ["br", "zstd"])
@virtual
async def test_what_follows_the_others_is_an_error_wherever_it_is_cut(coding):
    body = CODERS[coding](b"one")
    for pieces in ([body + b"garbage"], [body, b"garbage"], [body, b"g"]):
        recorder, _ = await play(decompress(), coded(coding, *pieces))
        assert isinstance(recorder.error, DecompressionError)


@virtual
async def test_zstd_frames():
    skippable = b"\x50\x2a\x4d\x18\x04\x00\x00\x00meta"
    body = zstd.compress(b"one ") + skippable + zstd.compress(LARGE)
    for size in (31, 1000, len(body)):
        pieces = [body[i : i + size] for i in range(0, len(body), size)]
        recorder, _ = await play(decompress(), coded("zstd", *pieces))
        assert recorder.body == b"one " + LARGE


@virtual
async def test_a_zstd_window_beyond_what_http_allows():
    parameter = zstd.CompressionParameter
    body = zstd.compress(
        bytes(20_000_000), options={parameter.window_log: 26, parameter.content_size_flag: 0}
    )
    coder = zstd.ZstdCompressor(options={parameter.window_log: 26})
    body = coder.compress(bytes(20_000_000)) + coder.flush()
    recorder, _ = await play(decompress(max_ratio=None), coded("zstd", body))
    assert isinstance(recorder.error, DecompressionError)


# ---------------------------------------------------------------------------------------- what passes untouched


@pytest.mark.parametrize(
    "coding", ["compress", "x-compress", "klingon", "gzip, klingon", "klingon, gzip", "identity", "", ","]
)
@virtual
async def test_unknown_codings_pass(coding):
    recorder, _ = await play(decompress(), coded(coding, b"as it is", **{"content-length": "8"}))
    assert recorder.body == b"as it is"
    assert (recorder.headers["content-encoding"], recorder.headers["content-length"]) == (coding, "8")


@virtual
async def test_too_many_codings():
    recorder, base = await play(
        decompress(), [start(), head(200, {"content-encoding": ", ".join(["gzip"] * 6)}), hang()]
    )
    assert isinstance(recorder.error, DecompressionError)
    assert base.outcomes == [recorder.error]


@virtual
async def test_repeated_fields_are_one_list():
    body = brotli.compress(gzip.compress(PLAIN))
    fields = [("content-encoding", "gzip"), ("content-encoding", "br")]
    recorder, _ = await play(decompress(), answer(200, fields, body))
    assert recorder.body == PLAIN


@virtual
async def test_statuses_that_pass():
    body = gzip.compress(PLAIN)
    for status, options in [
        (204, {}),
        (304, {}),
        (206, {}),
        (404, {}),
        (503, {}),
        (201, {"skip_status_codes": [201]}),
    ]:
        recorder, _ = await play(decompress(**options), answer(status, {"content-encoding": "gzip"}, body))
        assert recorder.body == body
        assert recorder.headers["content-encoding"] == "gzip"
    for status in (200, 201, 302):
        recorder, _ = await play(decompress(), answer(status, {"content-encoding": "gzip"}, body))
        assert recorder.body == PLAIN
    recorder, _ = await play(
        decompress(skip_error_responses=False), answer(404, {"content-encoding": "gzip"}, body)
    )
    assert recorder.body == PLAIN


@virtual
async def test_head_passes():
    options = DispatchOptions(origin=ORIGIN, method="HEAD")
    base = ScriptedDispatcher(answer(200, {"content-encoding": "gzip", "content-length": "9"}))
    recorder = RecordingHandler()
    recorder.dispatch(base.compose(decompress()), options)
    await recorder.wait()
    assert dict(recorder.headers) == {"content-encoding": "gzip", "content-length": "9"}
    assert base.requests[0] is options


@virtual
async def test_1xx_passes_without_being_decoded():
    script = coded("gzip", gzip.compress(PLAIN))
    script.insert(1, head(103, {"content-encoding": "gzip"}))
    recorder, _ = await play(decompress(), script)
    assert recorder.informational[0][1]["content-encoding"] == "gzip"
    assert recorder.body == PLAIN


# ------------------------------------------------------------------------------------------ accept-encoding


@virtual
async def test_accept_encoding_is_added():
    _recorder, base = await play(decompress(), answer(), options={"headers": {"x": "y"}})
    assert dict(base.requests[0].fields) == {"x": "y", "accept-encoding": "gzip, deflate, br, zstd"}


@pytest.mark.parametrize(
    "options",
    [
        {"headers": {"Accept-Encoding": "identity"}},
        {"headers": {"range": "bytes=0-1"}},
        {"upgrade": "websocket"},
        {"method": "CONNECT", "path": "b.test:443"},
    ],
)
@virtual
async def test_accept_encoding_is_left_alone(options):
    _, base = await play(decompress(), answer(), options=options)
    given = options.get("headers", {})
    assert dict(base.requests[0].fields) == {key.lower(): value for key, value in given.items()}


@virtual
async def test_options_that_are_used_again_are_changed_once():
    base = ScriptedDispatcher(answer())
    composed = base.compose(decompress())
    options = DispatchOptions(origin=ORIGIN)
    other = DispatchOptions(origin=ORIGIN, method="POST", body=b"x")
    for one in (options, options, other, other, options):
        recorder = RecordingHandler()
        recorder.dispatch(composed, one)
        await recorder.wait()
    assert base.requests[0] is base.requests[1]
    assert base.requests[2].body == b"x"
    assert base.requests[4].method == "GET"


@virtual
async def test_codings_without_their_package(monkeypatch):
    monkeypatch.setattr(_codings, "_brotli", lambda: None)
    monkeypatch.setattr(_codings, "_zstd", lambda: None)
    recorder, base = await play(decompress(), coded("br", b"as it is"))
    assert base.requests[0].fields["accept-encoding"] == "gzip, deflate"
    assert recorder.body == b"as it is"
    recorder, _ = await play(decompress(), coded("zstd", b"as it is"))
    assert recorder.body == b"as it is"
    recorder, _ = await play(decompress(), coded("gzip", gzip.compress(PLAIN)))
    assert recorder.body == PLAIN


def test_a_brotli_that_cannot_bound_its_output_is_not_used(monkeypatch):
    class Old:
        class Decompressor:
            pass

    monkeypatch.setitem(sys.modules, "brotli", Old)
    monkeypatch.setitem(sys.modules, "brotlicffi", None)
    assert _codings._brotli.__wrapped__() is None


def test_no_zstd(monkeypatch):
    for name in ("compression.zstd", "compression", "backports.zstd"):
        monkeypatch.setitem(sys.modules, name, None)
    assert _codings._zstd.__wrapped__() is None


# ------------------------------------------------------------------------------------------------ bombs


@pytest.mark.parametrize("coding", [*SIMPLE, "gzip, gzip"])
@virtual
async def test_max_size(coding):
    body = CODERS.get(coding, lambda plain: gzip.compress(gzip.compress(plain)))(LARGE)
    recorder, _base = await play(decompress(max_size=300_000), coded(coding, body))
    assert isinstance(recorder.error, DecompressionError)
    assert "max_size" in str(recorder.error)
    assert recorder.body_size <= 300_000
    recorder, _ = await play(decompress(max_size=len(LARGE)), coded(coding, body))
    assert recorder.body == LARGE


@pytest.mark.parametrize("coding", ["br", "zstd", "gzip, gzip"])
@virtual
async def test_max_ratio(coding):
    coder = CODERS.get(coding, lambda plain: gzip.compress(gzip.compress(plain)))
    bomb = coder(bytes(50_000_000))
    recorder, base = await play(
        decompress(), [start(), head(200, {"content-encoding": coding}), data(bomb), hang()]
    )
    assert isinstance(recorder.error, DecompressionError)
    assert "max_ratio" in str(recorder.error)
    assert recorder.body_size < 2_000_000 + 1000 * len(bomb)
    assert base.players[0].exchange.aborted
    recorder, _ = await play(decompress(max_ratio=None), coded(coding, bomb), keep_body=False)
    assert recorder.body_size == 50_000_000


@virtual
async def test_a_small_body_may_have_any_ratio():
    recorder, _ = await play(decompress(), coded("br", brotli.compress(bytes(1_000_000))))
    assert recorder.body_size == 1_000_000


@virtual
async def test_a_bomb_between_two_codings():
    # Five bytes of an empty stored block each: the outer coding expands, the inner one gives nothing.
    blocks = b"\x78\x9c" + b"\x00\x00\x00\xff\xff" * 2_000_000
    bomb = brotli.compress(blocks, quality=5)
    recorder, _ = await play(decompress(), coded("deflate, br", bomb))
    assert isinstance(recorder.error, DecompressionError)
    assert recorder.body == b""


@pytest.mark.parametrize("coding", ["gzip", "br", "zstd"])
@virtual
async def test_a_paused_bomb_takes_no_memory(coding):
    bomb = CODERS[coding](bytes(30_000_000))
    base = ScriptedDispatcher(coded(coding, bomb))
    recorder = RecordingHandler(keep_body=False, on_response_data=lambda controller, _: controller.pause())
    tracemalloc.start()
    try:
        recorder.dispatch(base.compose(decompress(max_ratio=None)), {"origin": ORIGIN})
        await recorder.received(1)
        await settle()
        assert recorder.body_size <= 64 * 1024
        assert base.players[0].exchange.paused or base.outcomes == ["end"]
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()
    recorder.controller.abort("enough")
    await recorder.wait()
    assert str(recorder.error) == "enough"


@virtual
async def test_a_large_chunk_does_not_hold_the_loop():
    base = ScriptedDispatcher(coded("gzip", gzip.compress(bytes(20_000_000))))
    recorder = RecordingHandler(keep_body=False)
    turns = []
    recorder.dispatch(base.compose(decompress(max_ratio=None)), {"origin": ORIGIN})
    while not recorder.ended.done():
        turns.append(recorder.body_size)
        await asyncio.sleep(0)
    await recorder.wait()
    assert max(after - before for before, after in itertools.pairwise(turns)) <= 1024 * 1024 + 64 * 1024
    assert recorder.body_size == 20_000_000


# -------------------------------------------------------------------------------------- pause, abort, mistakes


@pytest.mark.parametrize("coding", [*SIMPLE, "deflate, gzip, zstd"])
@virtual
async def test_pause_after_every_piece(coding):
    body = CODERS[coding](LARGE)
    base = ScriptedDispatcher(coded(coding, body[:1000], body[1000:]))
    recorder = RecordingHandler(on_response_data=lambda controller, _: controller.pause())
    recorder.dispatch(base.compose(decompress()), {"origin": ORIGIN})
    pieces = 0
    while not recorder.ended.done():
        await settle(5)
        assert recorder.count("on_response_data") <= pieces + 1
        pieces = recorder.count("on_response_data")
        recorder.controller.resume()
    await recorder.wait()
    assert recorder.body == LARGE


@virtual
async def test_resume_inside_a_callback():
    def both(controller, chunk):
        controller.pause()
        controller.resume()

    recorder, _ = await play(decompress(), coded("gzip", gzip.compress(LARGE)), on_response_data=both)
    assert recorder.body == LARGE


@virtual
async def test_the_end_waits_for_the_handler():
    base = ScriptedDispatcher(coded("gzip", gzip.compress(LARGE)))
    recorder = RecordingHandler(on_response_data=lambda controller, _: controller.pause())
    recorder.dispatch(base.compose(decompress()), {"origin": ORIGIN})
    await recorder.received(1)
    await settle()
    assert recorder.count("on_response_end") == 0
    # One that comes when the inner exchange may have ended has to be answered here.
    recorder.controller.abort("enough")
    await recorder.wait()
    assert str(recorder.error) == "enough"


@pytest.mark.parametrize("after", [1, 2, 5])
@virtual
async def test_a_mistake_of_the_handler_after_a_pause(after):
    mistake = ValueError("mine")
    calls = []

    def raises(controller, chunk):
        calls.append(chunk)
        if len(calls) == after:
            raise mistake
        controller.pause()
        asyncio.get_running_loop().call_later(1, controller.resume)

    recorder, _base = await play(decompress(), coded("gzip", gzip.compress(LARGE)), on_response_data=raises)
    assert recorder.error is mistake
    assert recorder.count("on_response_data") == after


@virtual
async def test_a_mistake_at_the_end_after_a_pause():
    mistake = ValueError("mine")

    def raises(controller, trailers):
        raise mistake

    def pauses(controller, chunk):
        controller.pause()
        asyncio.get_running_loop().call_later(1, controller.resume)

    recorder, _ = await play(
        decompress(), coded("gzip", gzip.compress(PLAIN)), on_response_data=pauses, on_response_end=raises
    )
    assert recorder.error is mistake


@virtual
async def test_a_failure_below_in_the_body():
    broken = SocketError("other side closed")
    body = gzip.compress(LARGE)
    recorder, _ = await play(
        decompress(), [start(), head(200, {"content-encoding": "gzip"}), data(body[:5000]), fail(broken)]
    )
    assert recorder.error is broken
    assert LARGE.startswith(recorder.body)


@pytest.mark.parametrize(
    "arguments",
    [
        {"skip_status_codes": 204},
        {"skip_status_codes": "204"},
        {"skip_status_codes": ["204"]},
        {"skip_error_responses": 1},
        {"max_size": 0},
        {"max_size": 1.5},
        {"max_ratio": 0.5},
        {"max_ratio": "many"},
        {"max_ratio": float("nan")},
        {"max_ratio": True},
    ],
    ids=str,
)
def test_invalid_arguments(arguments):
    with pytest.raises(InvalidArgumentError):
        decompress(**arguments)
