"""Every fault of the storage ends in the right bytes, or in the right error and no file."""

from __future__ import annotations

import asyncio
import gzip
import resource
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime
from email.utils import format_datetime
from pathlib import Path

import pytest

from sendgrid_exports import (
    CorruptDownloadError,
    DownloadError,
    DownloadPolicy,
    Event,
    ExportClient,
    ExportExpiredError,
    IncompleteDownloadError,
    Retrying,
    SendGridExportsError,
    Verify,
)
from sendgrid_exports.testing import (
    ContentDisposition,
    EarlyEnd,
    EndlessBody,
    ExpiredLink,
    FakeClock,
    FakeSendGrid,
    Fault,
    FlippedBit,
    IgnoreRange,
    LongerBody,
    NoLength,
    Redirect,
    Reset,
    Stall,
    Status,
    TruncatedChunks,
    WrongContentRange,
    WrongETag,
)
from tests.integration.conftest import MakeClient, MakeFake, serving

MIB = 1024 * 1024

POLICY = DownloadPolicy(read_timeout=0.1)


@pytest.mark.parametrize(
    ("fault", "requests"),
    [
        (Reset(), 2),
        (Reset(after=30_000), 2),
        (EarlyEnd(after=30_000), 2),
        (TruncatedChunks(after=30_000), 2),
        (Stall(), 2),
        (Stall(after=30_000), 2),
        (Status(503), 2),
        (Status(503, retry_after=7), 2),
        (Status(429, retry_after=7), 2),
        (Status(500, code="InternalError"), 2),
        (Status(400, code="RequestTimeout"), 2),
        (ExpiredLink(), 2),
        (Status(400, code="ExpiredToken"), 2),
        (Status(403, code="AccessDenied"), 2),
        (FlippedBit(at=1000), 2),
        (IgnoreRange(), 1),
        (NoLength(), 1),
        (LongerBody(), 2),
        (WrongContentRange(), 2),
        (ContentDisposition('attachment; filename="../../escape"'), 1),
    ],
    ids=repr,
)
async def test_a_transient_fault_costs_one_request(
    make_fake: MakeFake, make_client: MakeClient, tmp_path: Path, fault: Fault, requests: int
) -> None:
    fake = await make_fake(contacts=2000)
    fake.inject(fault)
    await arrives(fake, make_client(fake, downloads=POLICY), tmp_path / "exports")
    assert len(fake.storage_requests) == requests
    assert [path.name for path in tmp_path.iterdir()] == ["exports"]


async def arrives(fake: FakeSendGrid, client: ExportClient, directory: Path) -> None:
    export_id = await fake.add_export()
    result = await client.fetch(export_id, directory)
    assert [file.path.read_bytes() for file in result.files] == list(
        await fake.file_bytes(export_id)
    )


@pytest.mark.parametrize(
    ("fault", "error", "requests"),
    [
        (Status(404, code="NoSuchKey"), ExportExpiredError, 3),
        (Status(403, code="SignatureDoesNotMatch"), DownloadError, 1),
        (Status(403, code="AccessDenied"), DownloadError, 3),
        (Status(400, code="InvalidArgument"), DownloadError, 1),
        (Status(405, code="MethodNotAllowed"), DownloadError, 1),
        (Redirect(), DownloadError, 1),
        (ExpiredLink(), DownloadError, 4),
        (Reset(), IncompleteDownloadError, 3),
        (Status(503), IncompleteDownloadError, 3),
        (Stall(), IncompleteDownloadError, 3),
        (WrongContentRange(), IncompleteDownloadError, 3),
        (FlippedBit(at=1000), CorruptDownloadError, 2),
    ],
    ids=repr,
)
async def test_a_lasting_fault_ends_in_its_error_and_leaves_no_file(
    make_fake: MakeFake,
    make_client: MakeClient,
    tmp_path: Path,
    fault: Fault,
    error: type[SendGridExportsError],
    requests: int,
) -> None:
    fake = await make_fake(contacts=2000)
    fake.inject(fault, times=None)
    client = make_client(fake, downloads=DownloadPolicy(read_timeout=0.05, attempts=3))
    export_id = await fake.add_export()
    with pytest.raises(error) as caught:
        await client.fetch(export_id, tmp_path)
    assert type(caught.value) is error
    assert len(fake.storage_requests) == requests
    assert not [path for path in tmp_path.iterdir() if path.suffix in {".gz", ".csv"}]
    if isinstance(caught.value, DownloadError):
        assert caught.value.url == fake.storage_url + fake.storage_requests[0].path


async def test_every_request_cut_still_arrives_since_progress_resets_the_budget(
    make_fake: MakeFake, make_client: MakeClient, tmp_path: Path
) -> None:
    fake = await make_fake(contacts=2000)
    fake.inject(EarlyEnd(after=10_000), times=None)
    client = make_client(fake, downloads=DownloadPolicy(attempts=2))
    await arrives(fake, client, tmp_path)
    starts = [request.headers["Range"].partition("-")[0] for request in fake.storage_requests]
    assert starts == [f"bytes={n * 10_000}" for n in range(len(starts))]


async def test_of_an_error_that_does_not_end_little_is_read(
    make_fake: MakeFake, make_client: MakeClient, tmp_path: Path
) -> None:
    sent = 0

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 400 Bad Request\r\nTransfer-Encoding: chunked\r\n\r\n")
        while sent < 256 * MIB:
            writer.write(b"100000\r\n" + bytes(MIB) + b"\r\n")
            await writer.drain()
            sent += MIB

    fake = await make_fake()
    async with serving(answer) as url:
        body = {"id": "x", "status": "ready", "urls": [f"{url}/x.csv"], "contact_count": 10}
        fake.respond(200, body=body, times=None, on="status")
        with pytest.raises(DownloadError, match="400"):
            await make_client(fake).fetch("x", tmp_path)
    assert sent < 64 * MIB


@pytest.mark.parametrize("fault", [Reset(after=30_000), TruncatedChunks(after=30_000)], ids=repr)
async def test_without_ranges_a_cut_file_begins_again(
    make_fake: MakeFake, make_client: MakeClient, tmp_path: Path, fault: Fault
) -> None:
    fake = await make_fake(contacts=2000, etag="none")
    fake.inject(IgnoreRange(), times=1)
    fake.inject(fault, times=1)
    await arrives(fake, make_client(fake, downloads=DownloadPolicy(piece_size=20_000)), tmp_path)


class Meanwhile(FakeClock):
    """A clock that does something the first time somebody sleeps."""

    def __init__(self, work: Callable[[], Awaitable[None]]) -> None:
        super().__init__()
        self._work: Callable[[], Awaitable[None]] | None = work

    async def sleep(self, seconds: float) -> None:
        if self._work is not None:
            work, self._work = self._work, None
            await work()
        await super().sleep(seconds)


async def test_a_replaced_object_is_never_mixed_with_the_old_one(
    make_fake: MakeFake, make_client: MakeClient, tmp_path: Path
) -> None:
    fake = await make_fake(contacts=2000)
    export_id = await fake.add_export()
    [old] = await fake.file_bytes(export_id)
    new = b"EMAIL\n" + b"x" * (len(old) - 6)
    fake.inject(Reset(after=30_000), times=1)
    client = make_client(fake, clock=Meanwhile(lambda: fake.replace_file(export_id, 1, new)))
    result = await client.fetch(export_id, tmp_path)
    assert result.files[0].path.read_bytes() == new
    assert [request.status for request in fake.storage_requests] == [206, 412, 206]


async def test_an_object_that_keeps_changing_is_given_up(
    make_fake: MakeFake, make_client: MakeClient, tmp_path: Path
) -> None:
    fake = await make_fake(contacts=2000)
    fake.inject(WrongETag('"00000000000000000000000000000001"'), times=None, skip=1)
    client = make_client(fake, downloads=DownloadPolicy(piece_size=20_000))
    with pytest.raises((DownloadError, CorruptDownloadError)):
        await client.fetch(await fake.add_export(), tmp_path)
    assert not list(tmp_path.glob("*.gz"))


async def test_an_endless_body_ends_with_the_timeout(
    make_fake: MakeFake, make_client: MakeClient, clock: FakeClock, tmp_path: Path
) -> None:
    fake = await make_fake()
    fake.inject(EndlessBody(), times=None)

    def tick(_: Event) -> None:
        clock.advance(20)

    client = make_client(fake)
    with pytest.raises(TimeoutError):
        await client.fetch(await fake.add_export(), tmp_path, timeout=600, on_event=tick)
    assert not list(tmp_path.glob("*.csv*"))


@pytest.mark.parametrize("as_date", [True, False])
async def test_retry_after_is_obeyed_in_both_forms(
    make_fake: MakeFake,
    make_client: MakeClient,
    clock: FakeClock,
    tmp_path: Path,
    events: list[Event],
    *,
    as_date: bool,
) -> None:
    fake = await make_fake()
    until = clock.utc().replace(microsecond=0).timestamp() + 44
    date = format_datetime(datetime.fromtimestamp(until, UTC), usegmt=True)
    fake.inject(Status(503, retry_after=date if as_date else 44))
    export_id = await fake.add_export()
    await make_client(fake).fetch(export_id, tmp_path, on_event=events.append)
    [delay] = [event.delay for event in events if isinstance(event, Retrying)]
    assert delay == pytest.approx(44, abs=1)


async def test_a_retry_after_beyond_the_deadline_fails_now_with_the_number(
    make_fake: MakeFake, make_client: MakeClient, clock: FakeClock, tmp_path: Path
) -> None:
    fake = await make_fake()
    fake.inject(Status(503, retry_after=600))
    started = clock.monotonic()
    with pytest.raises(IncompleteDownloadError, match="600 s"):
        await make_client(fake).fetch(await fake.add_export(), tmp_path, timeout=60)
    assert clock.monotonic() - started < 5


@pytest.fixture
def files_of_at_most_30_000_bytes() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


async def test_a_disk_that_takes_no_more_ends_the_download_at_once(
    make_fake: MakeFake,
    make_client: MakeClient,
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    fake = await make_fake(contacts=2000)
    export_id = await fake.add_export()
    request.getfixturevalue("files_of_at_most_30_000_bytes")
    with pytest.raises(OSError, match="File too large"):
        await make_client(fake).fetch(export_id, tmp_path)
    assert len(fake.storage_requests) == 1
    assert not list(tmp_path.glob("*.gz"))


async def test_a_stream_without_ranges_that_always_breaks_off_is_given_up(
    make_fake: MakeFake, make_client: MakeClient, tmp_path: Path
) -> None:
    fake = await make_fake(contacts=2000, etag="none")
    fake.inject(TruncatedChunks(after=1000), times=None)
    export_id = await fake.add_export()
    client = make_client(fake, downloads=DownloadPolicy(attempts=3))
    with pytest.raises(IncompleteDownloadError, match="3 tries without progress"):
        await client.fetch(export_id, tmp_path, timeout=600)


async def test_an_inflated_file_begun_from_broken_gzip_is_removed(
    make_fake: MakeFake, make_client: MakeClient, tmp_path: Path
) -> None:
    fake = await make_fake()
    export_id = await fake.add_export(bodies=[gzip.compress(b"EMAIL\n" * 1000)[:-1]])
    # By its length alone the file is as it should be.
    policy = DownloadPolicy(verify=Verify.LENGTH, decompress=True)
    with pytest.raises(CorruptDownloadError, match="can't be inflated"):
        await make_client(fake, downloads=policy).fetch(export_id, tmp_path)
    assert not [path for path in tmp_path.iterdir() if path.suffix in {".part", ".gz", ".csv"}]
