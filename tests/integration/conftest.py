"""A fake service, a clock that never waits, and a client that uses both."""

from __future__ import annotations

import asyncio
import os
import re
import ssl
import types
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Generator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import attrs
import pytest

import sendgrid_exports
from sendgrid_exports import (
    Bucket,
    DownloadInProgressError,
    DownloadPolicy,
    Event,
    ExportClient,
    SystemClock,
)
from sendgrid_exports.bucket_errors import ConflictError
from sendgrid_exports.disk import Disk
from sendgrid_exports.session import Session, Stream
from sendgrid_exports.settings import Limits
from sendgrid_exports.testing import FakeClock, FakeSendGrid
from sendgrid_exports.timing import ServerClock
from sendgrid_exports.transfer.claim import Claim, claim_object

T = TypeVar("T")
_PACKAGE = Path(sendgrid_exports.__file__).parent

MakeFake: TypeAlias = "Callable[..., Awaitable[FakeSendGrid]]"
MakeClient: TypeAlias = "Callable[..., ExportClient]"
Handler: TypeAlias = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def serving(handler: Handler, tls: ssl.SSLContext | None = None) -> AsyncIterator[str]:
    """Serve connections on the loopback interface, and yield the url."""
    connections: list[asyncio.Task[None]] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await handler(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.transport.close()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(asyncio.create_task(serve(reader, writer)))

    server = await asyncio.start_server(accept, "127.0.0.1", 0, ssl=tls)
    scheme = "https" if tls else "http"
    async with server:
        yield f"{scheme}://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    for connection in connections:
        connection.cancel()
    await asyncio.gather(*connections, return_exceptions=True)
    await asyncio.sleep(0)  # The closed transports let go of their sockets now.


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def closing() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


@pytest.fixture
def make_fake(closing: AsyncExitStack, clock: FakeClock) -> MakeFake:
    """Return a function that starts a service; it is stopped after the test."""

    async def make(**options: Any) -> FakeSendGrid:
        return await closing.enter_async_context(FakeSendGrid(**{"clock": clock, **options}))

    return make


@pytest.fixture
async def fake(request: pytest.FixtureRequest, make_fake: MakeFake) -> FakeSendGrid:
    """Return a service; its arguments come from `@pytest.mark.fake_sendgrid(...)`."""
    marker = request.node.get_closest_marker("fake_sendgrid")
    return await make_fake(**(marker.kwargs if marker else {}))


@pytest.fixture
def limits() -> Limits:
    """Return the sizes and intervals of every client; a module or a test may have its own."""
    return Limits()


@pytest.fixture
def make_client(closing: AsyncExitStack, clock: FakeClock, limits: Limits) -> MakeClient:
    """Return a function that makes a client of a service; it is closed after the test."""

    def make(fake: FakeSendGrid, **options: Any) -> ExportClient:
        arguments: dict[str, Any] = {
            **fake.credentials,
            "clock": clock,
            "random": lambda: 0.0,
            **options,
        }
        downloads = arguments.get("downloads", DownloadPolicy())
        if downloads.limits == Limits():
            arguments["downloads"] = attrs.evolve(downloads, limits=limits)
        client = ExportClient(**arguments)
        closing.push_async_callback(client.close)
        return client

    return make


@pytest.fixture
def client(fake: FakeSendGrid, make_client: MakeClient) -> ExportClient:
    """Return a client of the service `fake`."""
    return make_client(fake)


MANY_AT_ONCE = Limits(first_connections=1000)
"""Every client begins with as many connections as its setting allows."""


@pytest.fixture
def unsynced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no test wait for a disk."""
    for name in ("fsync", "fdatasync"):
        monkeypatch.setattr(os, name, lambda _: None, raising=False)


@pytest.fixture
def under_way() -> list[object]:
    """The requests to the storage that are under way."""
    return []


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch, under_way: list[object]) -> list[int]:
    """How many requests were under way whenever another began, itself included."""
    counts: list[int] = []
    stream = Session.stream

    @asynccontextmanager
    async def counted(self: Session, url: str, **options: Any) -> AsyncIterator[Stream]:
        token = object()
        under_way.append(token)
        counts.append(len(under_way))
        try:
            async with stream(self, url, **options) as opened:
                yield opened
        finally:
            under_way.remove(token)

    monkeypatch.setattr(Session, "stream", counted)
    return counts


@pytest.fixture
def events() -> list[Event]:
    """Collect events: pass its `append` as `on_event`."""
    return []


@asynccontextmanager
async def suspensions(
    on_suspend: Callable[[int], object],
) -> AsyncIterator[list[asyncio.Task[Any]]]:
    """Call `on_suspend` with a running number whenever a task that starts within suspends.

    Yields the tasks of the package that started within.
    """
    started: list[asyncio.Task[Any]] = []
    loop = asyncio.get_running_loop()
    count = 0

    @types.coroutine
    def watched(work: Coroutine[Any, Any, Any]) -> Generator[Any, Any, Any]:
        nonlocal count
        step: Callable[[Any], Any] = work.send
        value: Any = None
        while True:
            try:
                awaited = step(value)
            except StopIteration as end:
                return end.value
            count += 1
            on_suspend(count)
            try:
                step, value = work.send, (yield awaited)
            except BaseException as error:  # noqa: BLE001
                step, value = work.throw, error

    async def run(work: Coroutine[Any, Any, Any]) -> Any:
        return await watched(work)

    def factory(loop: asyncio.AbstractEventLoop, work: Any, **options: Any) -> asyncio.Task[Any]:
        task = asyncio.Task(run(work), loop=loop, **options)
        code = Path(work.cr_code.co_filename)
        if code.is_relative_to(_PACKAGE) and not code.is_relative_to(_PACKAGE / "testing"):
            started.append(task)
        return task

    loop.set_task_factory(factory)
    try:
        yield started
    finally:
        loop.set_task_factory(None)


def check_conditional_writes(bucket: Bucket) -> None:
    """See that objects are created where there are none, and replaced where they are as known."""
    first = bucket.create("a", b"1")
    with pytest.raises(ConflictError):
        bucket.create("a", b"2")
    second = bucket.update("a", b"3", first)
    with pytest.raises(ConflictError):
        bucket.update("a", b"4", first)
    assert bucket.head("a") == second
    assert bucket.list()[0] == [second]
    bucket.delete("a")
    bucket.delete("a")
    assert (bucket.head("a"), bucket.read("a")) == (None, None)
    with pytest.raises(ConflictError):
        bucket.update("a", b"5", second)


async def check_claims(bucket: Bucket) -> None:
    """See that of runs that have read the same claim one alone may start an export."""
    clock = ServerClock(SystemClock())
    async with AsyncExitStack() as stack:

        async def read() -> Claim:
            return await stack.enter_async_context(claim_object(bucket, "a.csv", Disk(1)))

        first, second = await read(), await read()
        assert first.intended is None
        await first.intend(clock)
        with pytest.raises(DownloadInProgressError, match=re.escape(str(bucket))):
            await second.intend(clock)
        third, fourth = await read(), await read()
        assert third.intended == first.intended
        await first.fulfil()
        # What they have read is no longer so, although nothing is claimed any more.
        for late in (second, third):
            with pytest.raises(DownloadInProgressError):
                await late.intend(clock)
        await fourth.fulfil()
        fifth = await read()
        assert fifth.intended is None
        await fifth.intend(clock)
        await fifth.intend(clock)
        sixth = await read()
        assert sixth.intended == fifth.intended
        await sixth.intend(clock)
        await fifth.fulfil()
        assert (await read()).intended == sixth.intended


async def cancelled_at(
    number: int, work: Coroutine[Any, Any, T]
) -> tuple[asyncio.Task[T], list[asyncio.Task[Any]]]:
    """Do some work, and cancel it when something within suspends for the time `number`.

    Returns its task, which has ended, and those of the package that started within.
    """
    running: list[asyncio.Task[T]] = []

    def cancel(count: int) -> None:
        if count == number:
            running[0].cancel()

    async with suspensions(cancel) as started:
        running.append(asyncio.create_task(work))
        await asyncio.wait(running)
    return running[0], started
