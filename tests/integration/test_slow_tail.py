"""Connections that are too slow are replaced, unless it is the line; and the line is left alone."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from sendgrid_exports import (
    BytesReceived,
    ContactExport,
    DownloadPolicy,
    Event,
    ExportClient,
    ExportStatus,
    Retrying,
)
from sendgrid_exports.disk import PartFile
from sendgrid_exports.testing import FakeClock, FakeSendGrid, Slow, Trickle
from tests.integration.conftest import MANY_AT_ONCE, MakeClient, MakeFake

DRIP = Trickle(size=1, every=0.4)
"""2.5 bytes a second."""

QUICK = DownloadPolicy(speed_window=5)
OFF = DownloadPolicy(minimum_speed=0)


def rows(size: int) -> bytes:
    return (b"EMAIL,CONTACT_ID\n" + b"ann@example.com,1\n" * (size // 18 + 1))[:size]


def starts(fake: FakeSendGrid, path: str | None = None) -> list[int]:
    """Return the first byte each request asked for."""
    asked = [request for request in fake.storage_requests if path in {None, request.path}]
    return [int(request.headers["Range"][6:].partition("-")[0]) for request in asked]


async def arrives(
    fake: FakeSendGrid,
    client: ExportClient,
    export_id: str,
    directory: Path,
    on_event: Callable[[Event], None] | None = None,
) -> None:
    result = await client.fetch(export_id, directory, timeout=130, on_event=on_event)
    assert [file.path.read_bytes() for file in result.files] == list(
        await fake.file_bytes(export_id)
    )


def too_slow(events: list[Event]) -> int:
    return sum(isinstance(event, Retrying) and "too slow" in event.reason for event in events)


async def test_one_that_trickles_among_fast_ones_is_dropped_and_its_rest_asked_for(
    make_fake: MakeFake,
    make_client: MakeClient,
    clock: FakeClock,
    tmp_path: Path,
    events: list[Event],
) -> None:
    fake = await make_fake()
    export_id = await fake.add_export(bodies=[rows(2_000_000)] * 3)
    fake.inject(DRIP, file=2)
    fake.inject(Slow(200_000), times=None)
    began = clock.monotonic()
    client = make_client(fake, downloads=QUICK)
    await arrives(fake, client, export_id, tmp_path, events.append)
    # A window to notice it, half a second of delay, and the file itself at its own pace.
    assert clock.monotonic() - began < 5 + 0.5 + 2 * 2_000_000 / 200_000
    assert too_slow(events) == 1
    assert len(fake.storage_requests) == 4
    [slow] = {request.path for request in fake.storage_requests if request.sent < 100}
    assert starts(fake, slow)[0] == 0 < starts(fake, slow)[1] < 100


async def test_one_that_trickles_alone_is_dropped_too(
    make_fake: MakeFake,
    make_client: MakeClient,
    clock: FakeClock,
    tmp_path: Path,
    events: list[Event],
) -> None:
    fake = await make_fake()
    fake.inject(DRIP)
    began = clock.monotonic()
    await arrives(fake, make_client(fake), await fake.add_export(), tmp_path, events.append)
    assert clock.monotonic() - began < 25
    [first, again] = starts(fake)
    assert first == 0 < again < 100
    assert too_slow(events) == 1


async def test_one_that_starts_well_and_then_trickles_keeps_what_it_brought(
    make_fake: MakeFake, make_client: MakeClient, clock: FakeClock, tmp_path: Path
) -> None:
    fake = await make_fake(contacts=2000)
    fake.inject(Trickle(after=30_000, size=1, every=0.4))
    began = clock.monotonic()
    await arrives(fake, make_client(fake), await fake.add_export(), tmp_path)
    assert clock.monotonic() - began < 50
    [_, again] = starts(fake)
    assert again >= 30_000


async def test_one_that_trickles_alone_again_later_is_dropped_again(
    make_fake: MakeFake, make_client: MakeClient, clock: FakeClock, tmp_path: Path
) -> None:
    fake = await make_fake(contacts=3000)
    fake.inject(DRIP)
    fake.inject(DRIP, skip=3)
    client = make_client(fake, downloads=DownloadPolicy(connections=1, piece_size=50_000))
    began = clock.monotonic()
    await arrives(fake, client, await fake.add_export(), tmp_path)
    assert clock.monotonic() - began < 60


async def test_the_last_two_trickling_are_not_the_line(
    make_fake: MakeFake, make_client: MakeClient, clock: FakeClock, tmp_path: Path
) -> None:
    fake = await make_fake()
    fake.inject(DRIP, times=2)
    began = clock.monotonic()
    await arrives(fake, make_client(fake), await fake.add_export(files=5), tmp_path)
    assert clock.monotonic() - began < 120


async def test_two_that_trickle_from_the_start_are_not_the_line_for_ever(
    make_fake: MakeFake, make_client: MakeClient, clock: FakeClock, tmp_path: Path
) -> None:
    fake = await make_fake()
    fake.inject(DRIP, times=2)
    began = clock.monotonic()
    await arrives(fake, make_client(fake), await fake.add_export(files=2), tmp_path)
    assert clock.monotonic() - began < 120


async def test_a_second_trickle_on_end_is_given_up_as_well(
    make_fake: MakeFake, make_client: MakeClient, clock: FakeClock, tmp_path: Path
) -> None:
    fake = await make_fake()
    fake.inject(DRIP, times=2)
    began = clock.monotonic()
    await arrives(fake, make_client(fake), await fake.add_export(), tmp_path)
    assert clock.monotonic() - began < 120


class SharedLine:
    """The clock of a server whose open requests share one line evenly."""

    def __init__(self, clock: FakeClock, under_way: list[object]) -> None:
        self._clock = clock
        self._under_way = under_way
        self._sent: dict[asyncio.Task[Any] | None, float] = {}

    def monotonic(self) -> float:
        # What a request sends takes its time, whatever passes for the others meanwhile.
        return 0.0

    def utc(self) -> datetime:
        return self._clock.utc()

    def timeout(self, seconds: float | None) -> AbstractAsyncContextManager[object]:
        return self._clock.timeout(seconds)

    async def sleep(self, seconds: float) -> None:
        now = self._clock.monotonic()
        sender = asyncio.current_task()
        share = seconds * max(len(self._under_way), 1)
        last = self._sent.get(sender, now)
        if now - last > 10 * share:
            last = now  # The same connection, and another request.
        self._sent[sender] = last + share
        await self._clock.sleep(max(0.0, last + share - now))


@pytest.mark.parametrize("limits", [MANY_AT_ONCE])
@pytest.mark.parametrize("files", [24, 1])
async def test_a_slow_line_gets_fewer_connections_and_no_drops(
    make_fake: MakeFake,
    make_client: MakeClient,
    clock: FakeClock,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    events: list[Event],
    opened: list[int],
    under_way: list[object],
    files: int,
) -> None:
    fake = await make_fake(clock=SharedLine(clock, under_way))
    fake.inject(Slow(100_000), times=None)
    # No two end at once, so that each end shows how many there may be.
    sizes = [24 * 200_000 // files + 5_000 * number for number in range(files)]
    export_id = await fake.add_export(bodies=[rows(size) for size in sizes])
    largest = max(sizes) if files > 1 else 200_000
    policy = DownloadPolicy(connections_per_file=16, piece_size=largest)
    began = clock.monotonic()
    client = make_client(fake, downloads=policy)
    await arrives(fake, client, export_id, tmp_path, events.append)
    assert clock.monotonic() - began < 120
    # One may be taken for the only one, before there is anything to compare it with.
    assert too_slow(events) <= 1
    assert len(fake.storage_requests) <= 25
    assert max(opened[:17]) == 16
    assert max(opened[17:]) <= 12


async def test_a_line_at_just_the_lowest_speed_is_no_storm(
    make_fake: MakeFake,
    make_client: MakeClient,
    clock: FakeClock,
    tmp_path: Path,
    events: list[Event],
    opened: list[int],
    under_way: list[object],
) -> None:
    fake = await make_fake(clock=SharedLine(clock, under_way))
    fake.inject(Slow(100_000), times=None)
    export_id = await fake.add_export(bodies=[rows(300_000)] * 10)
    client = make_client(fake, downloads=DownloadPolicy(minimum_speed=10_000))
    await arrives(fake, client, export_id, tmp_path, events.append)
    # Thirty seconds are one window and a half: each connection is dropped once at the most.
    assert len(fake.storage_requests) <= 20


@pytest.mark.parametrize("how", ["the clock jumps", "the disk sleeps"])
async def test_time_blocked_on_our_own_disk_drops_nothing(
    make_fake: MakeFake,
    make_client: MakeClient,
    clock: FakeClock,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    events: list[Event],
    how: str,
) -> None:
    write = PartFile.write
    writes = []

    async def slow(self: PartFile, block: memoryview) -> None:
        writes.append(len(block))
        if how == "the clock jumps":
            clock.advance(1000)
        else:
            await clock.sleep(1000)
        await write(self, block)

    monkeypatch.setattr(PartFile, "write", slow)
    fake = await make_fake()
    export_id = await fake.add_export(bodies=[rows(8_300_000)])
    result = await make_client(fake).fetch(export_id, tmp_path, on_event=events.append)
    assert [result.files[0].path.read_bytes()] == list(await fake.file_bytes(export_id))
    assert len(writes) > 3
    assert not too_slow(events)
    assert len(fake.storage_requests) == 1


async def test_time_spent_in_the_callers_listener_drops_nothing(
    make_fake: MakeFake, make_client: MakeClient, clock: FakeClock, tmp_path: Path
) -> None:
    def ponder(event: Event) -> None:
        if isinstance(event, BytesReceived):
            clock.advance(1000)

    fake = await make_fake()
    fake.inject(Trickle(size=300_000, every=1.0))
    export_id = await fake.add_export(bodies=[rows(2_000_000)])
    await make_client(fake).fetch(export_id, tmp_path, on_event=ponder)
    assert len(fake.storage_requests) == 1


async def test_no_lowest_speed_drops_nothing(
    make_fake: MakeFake, make_client: MakeClient, clock: FakeClock, tmp_path: Path
) -> None:
    fake = await make_fake()
    fake.inject(Trickle(size=500), file=1)
    export_id = await fake.add_export(bodies=[rows(60_000), rows(60_000)])
    began = clock.monotonic()
    await arrives(fake, make_client(fake, downloads=OFF), export_id, tmp_path)
    assert clock.monotonic() - began >= 120
    assert len(fake.storage_requests) == 2


class DrippingStorage:
    """A storage whose first answer drips after `answer`, one byte a second; then it is well."""

    def __init__(self, clock: FakeClock, answer: bytes, body: bytes) -> None:
        self._clock = clock
        self._answer = answer
        self._body = body
        self._requests: list[asyncio.Task[None] | None] = []
        self._closing = False

    async def __aenter__(self) -> str:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        port = self._server.sockets[0].getsockname()[1]
        return f"http://127.0.0.1:{port}/file.csv"

    async def __aexit__(self, *_: object) -> None:
        self._closing = True
        await asyncio.gather(*filter(None, self._requests))
        self._server.close()
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._requests.append(asyncio.current_task())
        first = len(self._requests) == 1
        with suppress(ConnectionError):
            await reader.readuntil(b"\r\n\r\n")
            if first:
                writer.write(self._answer)
                while not (self._closing or writer.is_closing()):
                    writer.write(b"x")
                    await writer.drain()
                    await self._clock.sleep(1)
                    await asyncio.sleep(0.001)
            else:
                size = len(self._body)
                head = (
                    f"HTTP/1.1 206 OK\r\nContent-Length: {size}\r\nConnection: close\r\n"
                    f'ETag: "1"\r\nContent-Range: bytes 0-{size - 1}/{size}\r\n\r\n'
                )
                writer.write(head.encode() + self._body)
                await writer.drain()
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(
            b"HTTP/1.1 503 Slow Down\r\nContent-Length: 60000\r\n\r\n",
            id="the text of an error",
        ),
        pytest.param(b"HTTP/1.1 206 Partial Content\r\nX-Header: ", id="the headers"),
    ],
)
async def test_what_comes_before_the_body_may_not_trickle_for_ever(
    make_fake: MakeFake,
    make_client: MakeClient,
    clock: FakeClock,
    tmp_path: Path,
    answer: bytes,
) -> None:
    client = make_client(await make_fake(), downloads=DownloadPolicy(read_timeout=0.1))
    await client.list_exports()
    body = rows(1000)
    async with DrippingStorage(clock, answer, body) as url:
        export = ContactExport(id="x", status=ExportStatus.READY, urls=(url,))
        result = await client.download(export, tmp_path)
    assert result.files[0].path.read_bytes() == body
