"""Receiving bodies over real sockets, block by block, on asyncio's event loop and on uvloop."""

from __future__ import annotations

import asyncio
import functools
import inspect
import random
import shutil
import socket
import ssl
import struct
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from pathlib import Path
from typing import Any, TypeAlias

import aiohttp
import pytest

from sendgrid_exports import TransportError
from sendgrid_exports.receiving import BufferedBody, ReaderBody
from sendgrid_exports.session import Session, Stream

KIB, MIB = 1024, 1024 * 1024
BLOCK = 256 * KIB
"""More than what aiohttp has received of a body when its head is read."""

DATA = random.Random(0).randbytes(5 * MIB)
SIZES = [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK + 7, 5 * MIB]

Write: TypeAlias = Callable[[asyncio.StreamWriter, bytes], Awaitable[None]]
Consume: TypeAlias = "Callable[[Stream], Awaitable[bytes]]"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return a certificate for the loopback interface, and its key."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("there is no openssl to make a certificate with")
    directory = tmp_path_factory.mktemp("tls")
    key, certificate = directory / "key.pem", directory / "certificate.pem"
    made = [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1"]
    made += ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    made += ["-keyout", str(key), "-out", str(certificate)]
    subprocess.run(made, check=True, capture_output=True, timeout=60)
    return certificate, key


class Server:
    """A server that keeps connections alive, and writes each body as it is told to.

    Attributes:
        bodies: the body of each path.
        heads: the header fields of each path, where they are not just the length.
        write: writes the bodies.
        accepted: how many connections were accepted.
        ended: how many of them have ended.
    """

    def __init__(self) -> None:
        self.bodies: dict[str, bytes] = {}
        self.heads: dict[str, str] = {}
        self.write: Write = write_at_once
        self.accepted = 0
        self.ended = 0
        self.url = ""
        self._connections: set[asyncio.Task[None]] = set()

    def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        self._connections.add(asyncio.create_task(self._serve(reader, writer)))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                request = await reader.readuntil(b"\r\n\r\n")
                path = request.split(b" ", 2)[1].decode()
                body = self.bodies[path]
                head = self.heads.get(path, f"Content-Length: {len(body)}")
                writer.write(f"HTTP/1.1 200 OK\r\n{head}\r\n\r\n".encode())
                await self.write(writer, body)
                if "Content-Length" not in head and "chunked" not in head:
                    return
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            self.ended += 1
            writer.transport.close()

    async def end(self) -> None:
        for connection in self._connections:
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        await asyncio.sleep(0)


@asynccontextmanager
async def serving(tls: ssl.SSLContext | None = None) -> AsyncIterator[Server]:
    server = Server()
    listening = await asyncio.start_server(server.accept, "127.0.0.1", 0, ssl=tls)
    scheme = "https" if tls else "http"
    server.url = f"{scheme}://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    try:
        yield server
    finally:
        listening.close()
        await server.end()
        await listening.wait_closed()


def new_uvloop() -> asyncio.AbstractEventLoop:
    reason = "uvloop is not installed, and receiving must work on it too"
    loop: asyncio.AbstractEventLoop = pytest.importorskip("uvloop", reason=reason).new_event_loop()
    return loop


def on_both_loops(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run a test on the event loop of asyncio and on uvloop, with a server and a session."""
    names = [*inspect.signature(test).parameters]

    @functools.wraps(test)
    def run(loop: str, **arguments: Any) -> None:
        async def main() -> None:
            async with AsyncExitStack() as stack:
                if "server" in names:
                    arguments["server"] = await stack.enter_async_context(serving())
                if "session" in names:
                    arguments["session"] = await stack.enter_async_context(Session())
                await test(**arguments)

        factory = new_uvloop if loop == "uvloop" else asyncio.new_event_loop
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(main())

    kept = ["loop", *(name for name in names if name not in {"server", "session"})]
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    signature = inspect.Signature([inspect.Parameter(name, kind) for name in kept])
    run.__signature__ = signature  # type: ignore[attr-defined]
    both: Callable[..., None] = pytest.mark.parametrize("loop", ["asyncio", "uvloop"])(run)
    return both


@asynccontextmanager
async def opened(
    session: Session, server: Server, path: str, *, read_timeout: float = 10
) -> AsyncIterator[Stream]:
    async with (
        asyncio.timeout(20),
        session.stream(
            server.url + path, headers={}, read_timeout=read_timeout, block=BLOCK
        ) as stream,
    ):
        yield stream


async def receive(
    session: Session, server: Server, path: str, consume: Consume | None = None
) -> bytes:
    async with opened(session, server, path) as stream:
        return await (consume or fast)(stream)


# How a server writes


async def write_at_once(writer: asyncio.StreamWriter, body: bytes) -> None:
    writer.write(body)
    await writer.drain()


async def write_in_small_pieces(writer: asyncio.StreamWriter, body: bytes) -> None:
    """Write pieces that end at no block's end, and let each arrive by itself."""
    size = max(1000, len(body) // 50)
    for start in range(0, len(body), size):
        writer.write(body[start : start + size])
        await writer.drain()
        await settle()


async def write_chunked(writer: asyncio.StreamWriter, body: bytes) -> None:
    for start in range(0, len(body), 10_000):
        chunk = body[start : start + 10_000]
        writer.write(b"%x\r\n%b\r\n" % (len(chunk), chunk))
        await writer.drain()
    writer.write(b"0\r\n\r\n")
    await writer.drain()


async def settle(turns: int = 3) -> None:
    for _ in range(turns):
        await asyncio.sleep(0)


# How a caller consumes


async def fast(stream: Stream) -> bytes:
    received = bytearray()
    async with aclosing(stream.blocks()) as blocks:
        async for block in blocks:
            received += block
    return bytes(received)


async def slow(stream: Stream) -> bytes:
    """Use each block only after the next bytes have had time to come."""
    received = bytearray()
    async with aclosing(stream.blocks()) as blocks:
        async for block in blocks:
            before = bytes(block)
            await settle(10)
            assert block == before
            received += block
    return bytes(received)


@on_both_loops
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("consume", [fast, slow])
@pytest.mark.parametrize("write", [write_at_once, write_in_small_pieces])
async def test_a_body_of_known_length_arrives_byte_for_byte(
    server: Server, session: Session, size: int, consume: Consume, write: Write
) -> None:
    server.bodies["/"] = DATA[:size]
    server.write = write
    assert await receive(session, server, "/", consume) == DATA[:size]


@on_both_loops
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("consume", [fast, slow])
@pytest.mark.parametrize(
    ("head", "write"),
    [("Transfer-Encoding: chunked", write_chunked), ("Connection: close", write_at_once)],
    ids=["chunked", "until the end"],
)
async def test_a_body_of_unknown_length_arrives_byte_for_byte(
    server: Server, session: Session, size: int, consume: Consume, head: str, write: Write
) -> None:
    server.bodies["/"], server.heads["/"] = DATA[:size], head
    server.write = write
    async with opened(session, server, "/") as stream:
        assert isinstance(stream.body, ReaderBody)
        assert await consume(stream) == DATA[:size]


@on_both_loops
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("consume", [fast, slow])
async def test_a_body_over_tls_arrives_byte_for_byte(
    certificate: tuple[Path, Path], size: int, consume: Consume
) -> None:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(*certificate)
    trust = ssl.create_default_context(cafile=str(certificate[0]))
    async with (
        serving(tls) as server,
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=trust)) as borrowed,
    ):
        session = Session(borrowed)
        server.bodies["/"] = DATA[:size]
        for _ in range(2):
            async with opened(session, server, "/") as stream:
                # A small body may be all there with the head.
                assert isinstance(stream.body, BufferedBody) or size < 5 * MIB
                assert await consume(stream) == DATA[:size]
        assert server.accepted == 1


@on_both_loops
async def test_blocks_are_full_but_for_the_last_and_share_two_buffers(
    server: Server, session: Session
) -> None:
    server.bodies["/"] = DATA
    sizes: list[int] = []
    buffers: set[int] = set()
    async with opened(session, server, "/") as stream, aclosing(stream.blocks()) as blocks:
        async for block in blocks:
            sizes.append(len(block))
            buffers.add(id(block.obj))
            await settle()
    assert sum(sizes) == len(DATA)
    # A block that is held too long is handed on before it is full.
    assert sizes.count(BLOCK) >= len(sizes) // 2
    assert max(sizes) == BLOCK
    assert len(buffers) == 2
    assert stream.body.reads >= len(sizes)


@on_both_loops
async def test_a_block_on_a_slow_line_is_not_held_until_it_is_full(
    server: Server, session: Session
) -> None:
    used = asyncio.Event()

    async def write(writer: asyncio.StreamWriter, body: bytes) -> None:
        writer.write(body[:10])
        await used.wait()
        writer.write(body[10:])

    server.bodies["/"], server.write = DATA[:100], write
    async with opened(session, server, "/") as stream, aclosing(stream.blocks()) as blocks:
        assert bytes(await anext(blocks)) == DATA[:10]
        used.set()
        assert b"".join([bytes(block) async for block in blocks]) == DATA[10:100]


# Connections


@on_both_loops
async def test_a_connection_is_used_again_after_exactly_the_announced_bytes(
    server: Server, session: Session
) -> None:
    for number, size in enumerate(SIZES):
        server.bodies[f"/{number}"] = DATA[number : number + size]
    for consume in (fast, slow):
        for number, size in enumerate(SIZES):
            body = await receive(session, server, f"/{number}", consume)
            assert body == DATA[number : number + size]
    assert (server.accepted, server.ended) == (1, 0)


@on_both_loops
async def test_requests_of_the_session_that_are_not_streamed_use_the_same_connection(
    server: Server, session: Session
) -> None:
    server.bodies["/"] = DATA[:MIB]
    for _ in range(2):
        assert await receive(session, server, "/") == DATA[:MIB]
        response = await session.send("GET", server.url + "/", headers={})
        assert response.body == DATA[:MIB]
    assert server.accepted == 1


@on_both_loops
@pytest.mark.parametrize("after", [0, 1, 3])
@pytest.mark.parametrize("head", ["Content-Length: 5242880", "Transfer-Encoding: chunked"])
async def test_a_connection_that_is_left_in_mid_body_is_closed(
    server: Server, session: Session, after: int, head: str
) -> None:
    server.bodies |= {"/": DATA, "/other": DATA[:100]}
    server.heads["/"] = head
    chunked = "chunked" in head

    async def write(writer: asyncio.StreamWriter, body: bytes) -> None:
        await (write_chunked if chunked and len(body) > 100 else write_at_once)(writer, body)

    server.write = write
    async with opened(session, server, "/") as stream, aclosing(stream.blocks()) as blocks:
        for _ in range(after):
            await anext(blocks)
    assert await receive(session, server, "/other") == DATA[:100]
    assert server.accepted == 2
    async with asyncio.timeout(10):
        while not server.ended:
            await asyncio.sleep(0.001)


@on_both_loops
@pytest.mark.parametrize("steps", [0, 1, 2, 3, 5, 8, 13, 21, 34, 55])
async def test_a_consumer_that_is_cancelled_leaves_no_connection_behind(
    server: Server, session: Session, steps: int
) -> None:
    server.bodies |= {"/": DATA, "/other": DATA[:100]}
    before = asyncio.all_tasks()
    receiving = asyncio.create_task(receive(session, server, "/", slow))
    while not server.accepted:
        await asyncio.sleep(0)
    await settle(steps)
    receiving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await receiving
    assert await receive(session, server, "/other") == DATA[:100]
    assert server.accepted == 2
    async with asyncio.timeout(10):
        while not server.ended:
            await asyncio.sleep(0.001)
    # The server's for the second connection is still there.
    assert len(asyncio.all_tasks() - before) <= 1


@on_both_loops
@pytest.mark.parametrize("size", [0, 100, BLOCK, MIB, MIB + 7])
async def test_a_body_that_is_longer_than_announced_leaves_the_next_request_alone(
    server: Server, session: Session, size: int
) -> None:
    server.bodies |= {"/": DATA[:size] + b"HTTP/1.1 500 Poison\r\n\r\n", "/other": DATA[:1000]}
    server.heads["/"] = f"Content-Length: {size}"
    assert await receive(session, server, "/") == DATA[:size]
    # What is too much may come before the next request, or after it.
    await settle(20)
    assert await receive(session, server, "/other") == DATA[:1000]


# Bodies that break off


def reset(writer: asyncio.StreamWriter) -> None:
    sock: socket.socket = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


def close(writer: asyncio.StreamWriter) -> None:
    writer.transport.close()


HEADS = ["Content-Length: 5242880", "Transfer-Encoding: chunked"]


async def write_the_beginning(writer: asyncio.StreamWriter, body: bytes, *, chunked: bool) -> None:
    writer.write(b"%x\r\n%b" % (len(DATA), body) if chunked else body)
    await writer.drain()


@on_both_loops
@pytest.mark.parametrize("size", [0, 10, BLOCK, 3 * BLOCK + 100])
@pytest.mark.parametrize("end", [reset, close])
@pytest.mark.parametrize("head", HEADS)
async def test_what_arrived_before_a_body_broke_off_is_yielded_first(
    server: Server,
    session: Session,
    size: int,
    head: str,
    end: Callable[[asyncio.StreamWriter], None],
) -> None:
    # What has arrived but for the last few bytes, which the end of the body follows at once.
    seen = asyncio.Event()

    async def write(writer: asyncio.StreamWriter, body: bytes) -> None:
        await write_the_beginning(writer, body, chunked="chunked" in head)
        await seen.wait()
        end(writer)

    server.bodies["/"], server.heads["/"], server.write = DATA[:size], head, write
    received = bytearray()

    async def consume() -> None:
        async with opened(session, server, "/") as stream, aclosing(stream.blocks()) as blocks:
            if size < BLOCK:
                seen.set()
            async for block in blocks:
                received.extend(block)
                if len(received) >= size - size % BLOCK:
                    seen.set()

    with pytest.raises(TransportError):
        await consume()
    assert received == DATA[:size]
    server.bodies["/other"] = DATA[:100]
    server.heads.clear()
    server.write = write_at_once
    assert await receive(session, server, "/other") == DATA[:100]
    assert server.accepted == 2


@on_both_loops
@pytest.mark.parametrize("size", [0, 10, 3 * BLOCK + 100])
@pytest.mark.parametrize("head", HEADS)
async def test_a_connection_that_is_silent_in_mid_body_is_a_timeout(
    server: Server, session: Session, size: int, head: str
) -> None:
    async def write(writer: asyncio.StreamWriter, body: bytes) -> None:
        await write_the_beginning(writer, body, chunked="chunked" in head)
        await asyncio.Event().wait()

    server.bodies["/"], server.heads["/"], server.write = DATA[:size], head, write
    received = bytearray()

    async def consume() -> None:
        async with opened(session, server, "/", read_timeout=0.2) as stream:
            async for block in stream.blocks():
                received.extend(block)

    with pytest.raises(TransportError, match="TimeoutError") as caught:
        await consume()
    assert received == DATA[:size]
    assert caught.value.transient


@on_both_loops
async def test_a_consumer_that_takes_long_is_not_a_silent_connection(
    server: Server, session: Session
) -> None:
    server.bodies["/"] = DATA
    received = bytearray()
    async with opened(session, server, "/", read_timeout=0.1) as stream:
        async for block in stream.blocks():
            received += block
            if len(received) < 3 * BLOCK:
                await asyncio.sleep(0.3)
    assert received == DATA


# What `receiving` needs of aiohttp

NEEDED = {
    "response": ("connection", "content"),
    "response.connection": ("protocol", "transport"),
    "response.connection.protocol": ("pause_reading", "connection_lost", "read_timeout"),
    "response.content": ("read_nowait", "feed_eof", "is_eof", "set_exception", "exception"),
    "response.connection.transport": (
        "set_protocol",
        "get_protocol",
        "pause_reading",
        "resume_reading",
        "abort",
    ),
}


def missing(response: aiohttp.ClientResponse) -> list[str]:
    """Return the names that an answer of aiohttp no longer has."""
    lacking = []
    for place, names in NEEDED.items():
        thing: Any = response
        for step in place.split(".")[1:]:
            thing = getattr(thing, step, None)
        lacking += [f"{place}.{name}" for name in names if not hasattr(thing, name)]
    return lacking


@on_both_loops
async def test_a_body_of_known_length_goes_straight_into_buffers_of_our_own(
    server: Server, session: Session
) -> None:
    server.bodies["/"] = DATA
    async with aiohttp.ClientSession() as plain, plain.get(server.url + "/") as response:
        lacking = missing(response)
    async with opened(session, server, "/") as stream:
        assert isinstance(stream.body, BufferedBody), (
            f"aiohttp {aiohttp.__version__} is not as sendgrid_exports/receiving.py knows it, and "
            f"downloads are slower now. Missing: {', '.join(lacking) or 'no name'}."
        )
    assert not lacking
