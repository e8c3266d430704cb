"""Control channels: one interface, over a socket and over a queue."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import struct
import threading
from contextvars import ContextVar

import pytest

from dodici import LinkError
from dodici.mesh import control
from dodici.mesh.control import SocketChannel, deliver, queue_channels

KINDS = ("socket", "queue")


class End:
    def __init__(self, channel):
        self.channel = channel
        self.messages = []
        self.attachments = []
        self.received = asyncio.Event()
        self.lost = asyncio.get_running_loop().create_future()

    def start(self):
        self.channel.start(self.on_message, self.lost.set_result)

    def on_message(self, message, attachments):
        if message["type"] == "raise":
            raise RuntimeError("as asked")
        if message["type"] == "lacking":
            message["nothing"]
        self.messages.append(message)
        self.attachments += attachments
        self.received.set()

    async def until(self, count):
        async with asyncio.timeout(5):
            while len(self.messages) < count:
                self.received.clear()
                await self.received.wait()


@pytest.fixture(params=KINDS)
async def pair(request):
    loop = asyncio.get_running_loop()
    if request.param == "socket":
        channels = [SocketChannel(sock, loop) for sock in socket.socketpair()]
    else:
        channels = queue_channels(loop, loop)
    ends = [End(channel) for channel in channels]
    for end in ends:
        end.start()
    yield ends
    for end in ends:
        end.channel.close()
        for attachment in end.attachments:
            attachment.close()


async def test_messages_in_order_both_ways(pair):
    one, two = pair
    for number in range(50):
        one.channel.send({"type": "a", "number": number})
        two.channel.send({"type": "b", "number": number})
    await one.until(50)
    await two.until(50)
    assert [message["number"] for message in two.messages] == list(range(50))
    assert one.messages[7] == {"type": "b", "number": 7}


async def test_attachments(pair):
    one, two = pair
    here, there = socket.socketpair()
    one.channel.send({"type": "link"}, (there,))
    await two.until(1)
    (received,) = two.attachments
    with here:
        here.send(b"through")
        assert received.recv(100) == b"through"


async def test_the_newest_of_a_key(pair):
    one, two = pair
    one.channel.send({"type": "big", "text": "x" * (1 << 20)})
    for number in range(100):
        one.channel.send({"type": "state", "number": number}, key="state")
    one.channel.send({"type": "end"})
    await two.until(3)
    assert [message["type"] for message in two.messages] == ["big", "state", "end"]
    assert two.messages[1]["number"] == 99


async def test_closing_is_told_once_and_after_the_last_message(pair):
    one, two = pair
    one.channel.send({"type": "last"})
    one.channel.close()
    one.channel.close()
    assert one.channel.closed
    assert await two.lost is None
    assert [message["type"] for message in two.messages] == ["last"]
    assert two.channel.closed
    two.channel.send({"type": "nobody hears"})
    one.channel.send({"type": "nobody hears"})
    await asyncio.sleep(0)
    assert not one.lost.done()


@pytest.mark.parametrize(("kind", "error"), [("raise", RuntimeError), ("lacking", LinkError)])
async def test_a_message_that_cannot_be_taken_ends_the_channel(pair, kind, error):
    one, two = pair
    here, there = socket.socketpair()
    with here:
        one.channel.send({"type": kind}, (there,))
        one.channel.send({"type": "never"})
        assert isinstance(await two.lost, error)
        assert not isinstance(await one.lost, LinkError)
        assert not two.messages
        here.settimeout(5)
        assert here.recv(1) == b""  # what came with it is closed


async def test_what_was_handed_over_to_nobody_is_closed(pair):
    one, two = pair
    two.channel.close()
    here, there = socket.socketpair()
    with here:
        one.channel.send({"type": "link"}, (there,))
        await asyncio.wait_for(one.lost, 5)
        other, end = socket.socketpair()
        with other:
            one.channel.send({"type": "link"}, (end,))
            for sock in (here, other):
                sock.settimeout(5)
                assert sock.recv(1) == b""
    gc.collect()


async def test_read_rest_takes_what_has_arrived(pair):
    one, two = pair
    two.channel.send({"type": "last words"})
    two.channel.close()
    one.channel.read_rest()
    assert [message["type"] for message in one.messages] == ["last words"]


def test_deliver_names_the_message():
    with pytest.raises(LinkError, match=r"malformed control message 'ack': KeyError: 'version'"):
        deliver(lambda message, attachments: message["version"], {"type": "ack"}, ())


@pytest.mark.parametrize(
    "payload",
    [b"{", b"[]", b'"text"', b"{}", b'{"type": 5}', b"\xff\xfe", b"null", b"{" * 5000],
    ids=["cut", "list", "text", "empty", "type", "bytes", "null", "deep"],
)
async def test_garbage_over_a_socket(payload):
    sock, raw = socket.socketpair()
    end = End(SocketChannel(sock, asyncio.get_running_loop()))
    end.start()
    with raw:
        raw.send(struct.pack("<IB", len(payload), 0) + payload)
        error = await asyncio.wait_for(end.lost, 5)
        assert isinstance(error, LinkError | RecursionError)
        assert not end.messages


async def test_a_descriptor_that_is_no_socket():
    before = len(os.listdir("/proc/self/fd"))
    sock, raw = socket.socketpair()
    end = End(SocketChannel(sock, asyncio.get_running_loop()))
    end.start()
    read, write = os.pipe()
    payload = b'{"type":"link"}'
    socket.send_fds(raw, [struct.pack("<IB", len(payload), 1) + payload], [write])
    os.close(write)
    assert isinstance(await asyncio.wait_for(end.lost, 5), LinkError)
    assert os.read(read, 1) == b""
    os.close(read)
    raw.close()
    assert len(os.listdir("/proc/self/fd")) == before


# -- queues between threads ------------------------------------------------------------------------------


@pytest.fixture
async def other_loop():
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    yield loop
    if not loop.is_closed():
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def test_across_threads(other_loop):
    here, there = queue_channels(asyncio.get_running_loop(), other_loop)
    threads = set()

    def echo(message, attachments):
        threads.add(threading.get_ident())
        there.send({**message, "type": "echo"})

    other_loop.call_soon_threadsafe(there.start, echo, lambda error: None)
    end = End(here)
    end.start()
    for number in range(1000):
        here.send({"type": "call", "number": number})
    await end.until(1000)
    assert [message["number"] for message in end.messages] == list(range(1000))
    assert len(threads) == 1
    assert threading.get_ident() not in threads
    here.close()


async def test_the_senders_context_stays_with_the_sender():
    variable = ContextVar("variable", default="nothing")
    loop = asyncio.get_running_loop()
    one, two = queue_channels(loop, loop)
    seen = loop.create_future()
    variable.set("the receiver's")
    two.start(lambda message, attachments: seen.set_result(variable.get()), lambda error: None)
    variable.set("the sender's")
    one.send({"type": "a"})
    assert await seen == "the receiver's"
    one.close()
    two.close()


async def test_a_loop_that_is_closed():
    loop = asyncio.new_event_loop()
    here, there = queue_channels(asyncio.get_running_loop(), loop)
    there.start(lambda message, attachments: None, lambda error: None)
    loop.close()
    kept, given = socket.socketpair()
    here._peer._scheduled = False
    here.send({"type": "a"}, (given,))
    with kept:
        kept.settimeout(5)
        assert kept.recv(1) == b""
    here.close()


async def test_a_queue_that_nobody_reads_ends(monkeypatch):
    monkeypatch.setattr(control, "MAX_QUEUED", 10)
    loop = asyncio.get_running_loop()
    here, there = queue_channels(loop, loop)
    one, two = End(here), End(there)
    one.start()
    for number in range(20):
        here.send({"type": "a", "number": number})
    two.start()
    await two.lost
    assert len(two.messages) == 10
    await asyncio.wait_for(one.lost, 5)
