"""Messages with descriptors over a unix socket: order, ownership, limits, and the ends of it."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import struct

import pytest

from dodici import InvalidArgumentError, LinkError
from dodici.net import handover
from dodici.net.handover import MAX_DESCRIPTORS, MAX_MESSAGE, Handover, guard, unguard


class End:
    """One end, with what it was told."""

    def __init__(self, sock):
        self.messages = []
        self.received = asyncio.Queue()
        self.lost = asyncio.get_running_loop().create_future()
        self.raises = None
        self.connection = Handover(sock, asyncio.get_running_loop(), self.on_message, self.lost.set_result)

    def on_message(self, payload, descriptors):
        self.messages.append(payload)
        self.received.put_nowait((payload, descriptors))
        if self.raises is not None:
            raise self.raises


def descriptors_open():
    return len(os.listdir("/proc/self/fd"))


@pytest.fixture
async def pair():
    before = descriptors_open()
    ends = [End(sock) for sock in socket.socketpair()]
    for end in ends:
        end.connection.start()
    yield ends
    for end in ends:
        end.connection.abort()
    assert descriptors_open() == before
    assert not handover._guarded


async def test_messages_arrive_in_order(pair):
    one, two = pair
    for number in range(100):
        one.connection.send(b"%d" % number * number)
    expected = [b"%d" % number * number for number in range(100)]
    assert [(await two.received.get())[0] for _ in range(100)] == expected


async def test_a_descriptor_arrives_and_is_not_inherited(pair):
    one, two = pair
    read, write = os.pipe()
    one.connection.send(b"here", [write])
    payload, (received,) = await two.received.get()
    try:
        assert payload == b"here"
        assert not os.get_inheritable(received)
        os.write(received, b"through")
        assert os.read(read, 100) == b"through"
    finally:
        os.close(received)
        assert os.read(read, 1) == b""  # and the sender's is closed
        os.close(read)


async def test_descriptors_belong_to_their_messages(pair):
    one, two = pair
    pipes = [os.pipe() for _ in range(12)]
    for number, (_, write) in enumerate(pipes):
        one.connection.send(b"none")
        one.connection.send(b"%d" % number, [write])
    for number, (read, _) in enumerate(pipes):
        assert await two.received.get() == (b"none", [])
        payload, (received,) = await two.received.get()
        assert payload == b"%d" % number
        os.write(received, payload)
        os.close(received)
        assert os.read(read, 100) == payload
        os.close(read)


async def test_more_than_the_socket_holds(pair):
    one, two = pair
    read, write = os.pipe()
    big = os.urandom(1 << 20)
    for _ in range(3):
        one.connection.send(big)
    one.connection.send(big, [write])
    assert one.connection._unsent
    for _ in range(3):
        assert await two.received.get() == (big, [])
    payload, (received,) = await two.received.get()
    assert payload == big
    assert not one.connection._unsent
    os.close(received)
    os.close(read)


async def test_a_newer_message_takes_the_place_of_an_unsent_one(pair):
    one, two = pair
    big = b"x" * (1 << 20)
    one.connection.send(big)
    _, write = os.pipe()
    for number in range(50):
        one.connection.send(b"state %d" % number, [write] if not number else (), key="state")
        one.connection.send(b"ack %d" % number, key="ack")
    assert len(one.connection._unsent) == 3
    one.connection.send(b"end")
    found = [(await two.received.get()) for _ in range(4)]
    assert found == [(big, []), (b"state 49", []), (b"ack 49", []), (b"end", [])]
    os.close(_)


async def test_close_sends_what_waits(pair):
    one, two = pair
    big = os.urandom(1 << 20)
    one.connection.send(big)
    one.connection.send(b"last")
    one.connection.close()
    assert one.connection.closed
    assert (await two.received.get())[0] == big
    assert (await two.received.get())[0] == b"last"
    assert await two.lost is None
    one.connection.send(b"after")
    two.connection.send(b"after")
    assert not one.lost.done()


async def test_abort_drops_descriptors_that_were_not_sent(pair):
    one, two = pair
    read, write = os.pipe()
    one.connection.send(b"x" * (1 << 22))
    one.connection.send(b"never", [write])
    one.connection.abort()
    assert os.read(read, 1) == b""  # nobody has the other end
    os.close(read)
    error = await two.lost
    assert isinstance(error, LinkError)
    assert "inside a message" in str(error)


async def test_descriptors_for_a_closed_connection_are_closed(pair):
    one, two = pair
    one.connection.close()
    read, write = os.pipe()
    one.connection.send(b"late", [write])
    assert os.read(read, 1) == b""
    os.close(read)
    await two.lost


async def test_descriptors_of_a_message_that_is_never_complete_are_closed(pair):
    one, two = pair
    read, write = os.pipe()
    raw = one.connection._sock
    socket.send_fds(raw, [struct.pack("<IB", 100, 1) + b"half"], [write])
    os.close(write)
    one.connection.abort()
    await two.lost
    assert os.read(read, 1) == b""
    os.close(read)


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (struct.pack("<IB", MAX_MESSAGE + 1, 0), "malformed message"),
        (struct.pack("<IB", 1, MAX_DESCRIPTORS + 1), "malformed message"),
        (struct.pack("<IB", 1, 2) + b"x", "without its 2 descriptors"),
        (b"\xff" * 64, "malformed message"),
    ],
    ids=["long", "many descriptors", "missing descriptors", "noise"],
)
async def test_garbage_ends_the_connection(pair, data, text):
    one, two = pair
    one.connection._sock.send(data)
    error = await two.lost
    assert isinstance(error, LinkError)
    assert text in str(error)
    assert two.connection.closed
    assert await one.lost is None


async def test_what_on_message_raises_ends_the_connection(pair):
    one, two = pair
    two.raises = RuntimeError("not understood")
    one.connection.send(b"a")
    one.connection.send(b"b")
    assert str(await two.lost) == "not understood"
    assert two.messages == [b"a"]


async def test_limits_of_a_sender(pair):
    one, _ = pair
    with pytest.raises(InvalidArgumentError):
        one.connection.send(bytes(MAX_MESSAGE + 1))
    pipes = [os.pipe() for _ in range(5)]
    with pytest.raises(InvalidArgumentError):
        one.connection.send(b"", [end for pipe in pipes for end in pipe])
    with pytest.raises(OSError):
        os.fstat(pipes[0][0])


async def test_a_peer_that_does_not_read_is_given_up(monkeypatch):
    monkeypatch.setattr(handover, "MAX_UNSENT", 1 << 20)
    sock, other = socket.socketpair()
    end = End(sock)
    end.connection.start()
    with other:
        for _ in range(10):
            end.connection.send(bytes(1 << 19))
        error = await end.lost
        assert "does not read" in str(error)


async def test_what_arrived_before_the_end_is_read():
    sock, other = socket.socketpair()
    end = End(sock)
    with other:
        for number in range(5):
            other.send(struct.pack("<IB", 1, 0) + b"%d" % number)
    end.connection.start()
    end.connection.send(b"to nobody")
    end.connection.read_rest()
    assert end.messages == [b"0", b"1", b"2", b"3", b"4"]
    await end.lost
    end.connection.read_rest()


async def test_a_forked_child_lets_go():
    here, there = socket.socketpair()
    guard(here.fileno())
    ready, tell = os.pipe()
    child = os.fork()
    if not child:
        os.write(tell, b"%d" % os.fstat(here.fileno()).st_rdev)
        signal.pause()
        os._exit(0)
    try:
        assert int(os.read(ready, 100)) == os.stat(os.devnull).st_rdev  # the number is taken, by nothing
        here.send(b"still mine")
        assert there.recv(100) == b"still mine"
        unguard(here.fileno())
        here.close()
        there.settimeout(5)
        assert there.recv(1) == b""
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        there.close()
        os.close(ready)
        os.close(tell)


async def test_a_guarded_number_that_means_something_else_is_left_alone():
    here, there = socket.socketpair()
    guard(here.fileno())
    number = here.fileno()
    here.close()
    read, write = os.pipe()
    assert number in (read, write)
    child = os.fork()
    if not child:
        os._exit(os.fstat(number).st_rdev == os.stat(os.devnull).st_rdev)
    assert os.waitpid(child, 0)[1] == 0
    unguard(number)
    there.close()
    os.close(read)
    os.close(write)
