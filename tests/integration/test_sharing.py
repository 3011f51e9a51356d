"""One client, many tasks: they share its connections, and whoever closes it ends them all."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import aiohttp
import attrs
import pytest
from aiohttp.abc import AbstractResolver, ResolveResult

from sendgrid_exports import (
    BytesReceived,
    DownloadPolicy,
    Event,
    ExportClient,
    IncompleteDownloadError,
    TransportError,
)
from sendgrid_exports.session import Session
from sendgrid_exports.settings import Limits
from sendgrid_exports.testing import Delay, FakeClock, FakeSendGrid, Stall
from tests.integration.conftest import MakeClient, MakeFake, serving


async def test_all_downloads_of_a_client_share_its_connections(
    make_fake: MakeFake, make_client: MakeClient, tmp_path: Path, opened: list[int]
) -> None:
    fake = await make_fake(contacts=20)
    fake.inject(Delay(1), times=None)
    exports = [await fake.add_export(files=3) for _ in range(8)]
    client = make_client(fake, downloads=DownloadPolicy(connections=4))
    results = await asyncio.gather(*(client.fetch(export, tmp_path) for export in exports))
    assert [len(result.files) for result in results] == [3] * 8
    assert max(opened) == 4
    assert len(fake.storage_requests) == 24
    assert not client._session._bodies


@pytest.mark.parametrize(
    "connector",
    [{"limit": 3}, {"limit": 1}, {"limit_per_host": 2}, {"limit": 0}, {"limit": 9}],
    ids=str,
)
async def test_no_request_waits_within_a_borrowed_session_for_its_turn(
    make_fake: MakeFake, make_client: MakeClient, tmp_path: Path, connector: dict[str, Any]
) -> None:
    """What waits there can't be told from a storage that does not answer."""
    fake = await make_fake(contacts=20)
    fake.inject(Delay(1), times=None)
    export_id = await fake.add_export(files=6)
    waited = []

    async def waits(*_: object) -> None:
        waited.append(1)

    trace = aiohttp.TraceConfig()
    trace.on_connection_queued_start.append(waits)
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(**connector), trace_configs=[trace]
    ) as session:
        client = make_client(fake, session=session, downloads=DownloadPolicy(connections=8))
        await client.fetch(export_id, tmp_path)
    assert not waited


async def test_one_that_has_much_leaves_room_for_one_that_comes_later(
    make_fake: MakeFake, make_client: MakeClient, tmp_path: Path, clock: FakeClock
) -> None:
    fake = await make_fake()
    fake.inject(Delay(1), times=None)
    much = await fake.add_export(files=60, contacts=60)
    little = await fake.add_export(files=1, contacts=5)
    # No more of its files than these are before one that comes later.
    limits = Limits(files=8)
    client = make_client(fake, downloads=DownloadPolicy(connections=4, limits=limits))
    begun = asyncio.Event()

    def begins(event: Event) -> None:
        if isinstance(event, BytesReceived):
            begun.set()

    async with asyncio.TaskGroup() as group:
        large = group.create_task(client.fetch(much, tmp_path, on_event=begins))
        await begun.wait()
        await client.fetch(little, tmp_path)
        assert not large.done()


async def test_one_that_waits_for_fresh_links_does_not_keep_the_others_waiting(
    make_fake: MakeFake, make_client: MakeClient, tmp_path: Path
) -> None:
    # Links that die in the line, again and again.
    fake = await make_fake(contacts=20, link_lifetime=2)
    fake.inject(Delay(1), times=None)
    exports = [await fake.add_export(files=4) for _ in range(3)]
    client = make_client(fake, downloads=DownloadPolicy(connections=1))
    async with asyncio.timeout(20):
        results = await asyncio.gather(*(client.fetch(export, tmp_path) for export in exports))
    assert [len(result.files) for result in results] == [4] * 3


async def test_closing_the_client_ends_its_downloads_at_once(
    make_fake: MakeFake, make_client: MakeClient, tmp_path: Path
) -> None:
    fake = await make_fake(contacts=500)
    fake.inject(Stall(after=100), times=None)
    export_id = await fake.add_export()
    client = make_client(fake)
    arrived = asyncio.Event()
    fetching = asyncio.create_task(
        client.fetch(export_id, tmp_path, on_event=lambda _: arrived.set())
    )
    await arrived.wait()
    while not any(request.sent for request in fake.storage_requests):
        await asyncio.sleep(0.005)
    await client.close()
    with pytest.raises(RuntimeError, match="ExportClient is closed"):
        await asyncio.wait_for(fetching, 10)
    assert not list(tmp_path.glob("*.csv*"))


async def test_closing_the_client_ends_a_look_in_the_middle_of_its_answer() -> None:
    begun = asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b'HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{"id":')
        await writer.drain()
        begun.set()
        await reader.read()

    async with serving(answer) as url:
        client = ExportClient("key", base_url=url)
        looking = asyncio.create_task(client.get("x"))
        await begun.wait()
        while not client._session._bodies:
            await asyncio.sleep(0)
        await client.close()
        with pytest.raises(TransportError, match="closed"):
            await asyncio.wait_for(looking, 10)


async def test_closing_before_an_answer_has_come_ends_that_too() -> None:
    asked, closed = asyncio.Event(), asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        asked.set()
        await closed.wait()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\nEMAIL")
        await reader.read()

    async with serving(answer) as url, aiohttp.ClientSession() as borrowed:
        session = Session(borrowed)

        async def read() -> list[bytes]:
            async with session.stream(url, headers={}, read_timeout=60) as stream:
                return [bytes(block) async for block in stream.blocks()]

        reading = asyncio.create_task(read())
        await asked.wait()
        await session.close()
        closed.set()
        with pytest.raises(TransportError, match="closed"):
            await asyncio.wait_for(reading, 10)


async def test_closing_a_client_that_borrowed_its_session_ends_its_downloads_too(
    make_fake: MakeFake, make_client: MakeClient, tmp_path: Path
) -> None:
    fake: FakeSendGrid = await make_fake(contacts=500)
    fake.inject(Stall(after=100), times=None)
    export_id = await fake.add_export()
    async with aiohttp.ClientSession() as session:
        client = make_client(fake, session=session)
        fetching = asyncio.create_task(client.fetch(export_id, tmp_path))
        # Its answer is perhaps still on the way.
        while not any(request.sent for request in fake.storage_requests):
            await asyncio.sleep(0.001)
        await client.close()
        with pytest.raises(RuntimeError, match="ExportClient is closed"):
            await asyncio.wait_for(fetching, 10)
        assert not session.closed


async def test_a_lender_who_closes_the_session_does_not_leave_a_download_hanging(
    make_fake: MakeFake, clock: FakeClock, tmp_path: Path
) -> None:
    fake: FakeSendGrid = await make_fake(contacts=500)
    fake.inject(Stall(after=100), times=None)
    export_id = await fake.add_export()
    async with aiohttp.ClientSession() as session:
        client = ExportClient(
            fake.api_key,
            base_url=fake.base_url,
            session=session,
            clock=clock,
            downloads=DownloadPolicy(read_timeout=0.2),
        )
        fetching = asyncio.create_task(client.fetch(export_id, tmp_path))
        while not any(request.sent for request in fake.storage_requests):
            await asyncio.sleep(0.005)
        await session.close()
        with pytest.raises((RuntimeError, IncompleteDownloadError)):
            await asyncio.wait_for(fetching, 10)


class Unresolving(AbstractResolver):
    """A resolver that never answers."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()

    async def resolve(self, *_: Any, **__: Any) -> list[ResolveResult]:
        self.asked.set()
        await asyncio.Event().wait()
        return []

    async def close(self) -> None:
        pass


async def test_closing_a_session_that_resolves_a_host_ends_a_download(
    make_fake: MakeFake, make_client: MakeClient, tmp_path: Path
) -> None:
    fake = await make_fake(contacts=5)
    export = await make_client(fake).wait(await fake.add_export(files=2))
    urls = tuple(url.replace("127.0.0.1", "localhost") for url in export.urls)
    resolver = Unresolving()
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(resolver=resolver)) as session:
        client = make_client(fake, session=session)
        await client.get(export.id)
        export = attrs.evolve(export, urls=urls)
        downloading = asyncio.create_task(client.download(export, tmp_path))
        await resolver.asked.wait()
        await session.close()
        with pytest.raises(RuntimeError, match="session passed to ExportClient is closed"):
            await asyncio.wait_for(downloading, 10)


async def test_closing_a_session_that_resolves_a_host_ends_a_poll_with_an_error() -> None:
    resolver = Unresolving()
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(resolver=resolver)) as session:
        client = ExportClient("key", base_url="http://localhost:1", session=session)
        polling = asyncio.create_task(client.get("x"))
        await resolver.asked.wait()
        await session.close()
        with pytest.raises(TransportError, match="closed"):
            await asyncio.wait_for(polling, 10)


def test_a_client_is_of_one_event_loop(tmp_path: Path) -> None:
    client = ExportClient("key", base_url="http://127.0.0.1:1")

    async def use() -> None:
        with pytest.raises(Exception, match=r"127\.0\.0\.1"):
            await client.get("x")

    async def use_elsewhere() -> None:
        with pytest.raises(RuntimeError, match="another event loop"):
            await client.get("x")

    with asyncio.Runner() as first, asyncio.Runner() as second:
        first.run(use())
        second.run(use_elsewhere())
        first.run(client.close())
