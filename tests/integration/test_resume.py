"""What was durable is not asked for again, whatever ended the run before; and never a mix."""

from __future__ import annotations

import asyncio
import errno
import gzip
import os
import random
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from io import FileIO
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypeVar

import attrs
import pytest

from sendgrid_exports import (
    BytesReceived,
    DownloadError,
    DownloadPolicy,
    DownloadResult,
    Event,
    ExportClient,
    FileFinished,
    FileStarted,
    IncompleteDownloadError,
    InsufficientDiskSpaceError,
    Verify,
)
from sendgrid_exports.disk import append, remove_file
from sendgrid_exports.settings import Limits
from sendgrid_exports.testing import (
    Delay,
    FakeSendGrid,
    Fault,
    IgnoreRange,
    RecordedRequest,
    Reset,
    Slow,
    Stall,
    Status,
    WrongContentRange,
    WrongETag,
)
from sendgrid_exports.transfer import folder
from sendgrid_exports.transfer.journal import Record, read_journal, write_journal, write_record
from sendgrid_exports.transfer.lock import Lock
from tests.integration.conftest import MakeClient, MakeFake

T = TypeVar("T")
Spans: TypeAlias = "tuple[tuple[int, int], ...]"

KIB = 1024
PIECES = DownloadPolicy(piece_size=16 * KIB, connections=3)
ONE_BY_ONE = DownloadPolicy(piece_size=16 * KIB, connections=1)
ID = "the-export"


def random_file(size: int, seed: int = 0) -> bytes:
    """A file of `size` bytes of which no two pieces are alike."""
    return b"EMAIL,CONTACT_ID\n" + random.Random(seed).randbytes(size - 17).replace(b'"', b"'")


BODY = random_file(200_000)
SHORT = gzip.compress(b"EMAIL\n" + random.Random(1).randbytes(6_000).hex().encode(), mtime=0)
PACKED = gzip.compress(b"EMAIL\n" + random.Random(1).randbytes(150_000).hex().encode(), mtime=0)


pytestmark = pytest.mark.usefixtures("unsynced")


@pytest.fixture
def limits() -> Limits:
    """Let small files take the course of large ones."""
    return Limits(sync_bytes=16 * KIB, block=4 * KIB)


def journal(directory: Path) -> dict[int, Record]:
    path = directory / f"{ID}.journal"
    return (read_journal(path.read_bytes(), ID) or {}) if path.exists() else {}


def durable(directory: Path, number: int = 1) -> int:
    record = journal(directory).get(number)
    return 0 if record is None else durable_of(record)


def durable_of(record: Record) -> int:
    return sum(end - start for start, end in record.done)


def asked(requests: list[RecordedRequest]) -> list[tuple[int, int, int]]:
    """The file, the first byte and the byte after the last of each request for a range."""
    found = []
    for request in requests:
        number = int(request.path.rpartition("/")[2].partition(".")[0])
        first, _, last = (
            request.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")
        )
        found.append((number, int(first), int(last) + 1 if last else 1 << 60))
    return found


def asked_again(requests: list[RecordedRequest], known: dict[int, Record]) -> list[Any]:
    """The requests for bytes that were durable already."""
    return [
        (number, start, end, record.done)
        for number, start, end in asked(requests)
        if (record := known.get(number))
        for first, last in record.done
        if start < last and first < end
    ]


async def add(fake: FakeSendGrid, *bodies: bytes) -> str:
    names = [f"{number}.csv" for number in range(1, len(bodies) + 1)]
    return await fake.add_export(export_id=ID, bodies=bodies, names=names)


async def cancelled(
    client: ExportClient, directory: Path, until: Callable[[], bool], **options: Any
) -> None:
    """Run until something is so, then cancel."""
    task = asyncio.create_task(client.fetch(ID, directory, **options))
    while not until():
        assert not task.done(), await task
        await asyncio.sleep(0.002)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def broken_off(
    fake: FakeSendGrid, client: ExportClient, directory: Path, *, after: int = 6, file: int = 1
) -> dict[int, Record]:
    """Bring some pieces of a file until the rest stalls, cancel, and return the journal."""
    fake.inject(Stall(after=1000), skip=after, times=None, file=file)
    before = durable(directory, file)
    await cancelled(client, directory, lambda: durable(directory, file) > before)
    fake.clear_faults()
    known = journal(directory)
    assert known[file].done
    assert not (directory / f"{ID}.lock").exists()
    return known


def settled(directory: Path, result: DownloadResult) -> bool:
    """Whether there is nothing but the files and their manifest."""
    left = {path.name for path in directory.iterdir()}
    return left == {*(file.path.name for file in result.files), result.manifest.name}


SETTINGS = [
    PIECES,
    DownloadPolicy(),
    DownloadPolicy(connections=1, piece_size=7000),
    DownloadPolicy(connections=9, connections_per_file=9, piece_size=3333),
    DownloadPolicy(verify=Verify.LENGTH),
    DownloadPolicy(verify=Verify.CHECKSUM),
    DownloadPolicy(decompress=True),
]


@pytest.mark.parametrize("policy", SETTINGS, ids=repr)
@pytest.mark.parametrize("body", [BODY, PACKED], ids=["plain", "gzip"])
async def test_a_cancelled_download_goes_on_whatever_the_settings(
    make_fake: MakeFake,
    make_client: MakeClient,
    tmp_path: Path,
    policy: DownloadPolicy,
    body: bytes,
) -> None:
    fake = await make_fake()
    await add(fake, body)
    known = await broken_off(fake, make_client(fake, downloads=PIECES), tmp_path)
    before = len(fake.storage_requests)
    result = await make_client(fake, downloads=policy).fetch(ID, tmp_path)
    content = result.files[0].path.read_bytes()
    assert content == (gzip.decompress(body) if policy.decompress and body is PACKED else body)
    requests = fake.storage_requests[before:]
    assert not asked_again(requests, known)
    assert all(request.headers["If-Match"] == known[1].etag for request in requests)
    assert sum(request.sent for request in requests) == len(body) - durable_of(known[1])
    assert settled(tmp_path, result)


@pytest.mark.parametrize("limits", [Limits(sync_bytes=1 << 40)])
async def test_a_cancel_keeps_what_had_come_since_the_last_sync(
    make_fake: MakeFake, make_client: MakeClient, tmp_path: Path
) -> None:
    fake = await make_fake()
    await add(fake, BODY)
    fake.inject(Stall(after=50_000), times=None)
    part = tmp_path / f"{ID}-00001.part"
    await cancelled(
        make_client(fake), tmp_path, lambda: part.exists() and part.stat().st_size > 20_000
    )
    assert durable(tmp_path) >= 20_000
    fake.clear_faults()
    await make_client(fake).fetch(ID, tmp_path)
    assert asked(fake.storage_requests)[-1][1] >= 20_000


@pytest.mark.parametrize("fails_at", [2, 3, 6])
async def test_the_journal_claims_nothing_of_a_write_that_failed(
    make_fake: MakeFake,
    make_client: MakeClient,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    fails_at: int,
) -> None:
    writes: list[int] = []

    class FullInTheEnd(FileIO):
        def write(self, block: Any, /) -> int:
            writes.append(len(block))
            if len(writes) >= fails_at:
                raise OSError(errno.ENOSPC, "No space left on device")
            return super().write(block)

    fake = await make_fake()
    await add(fake, BODY)
    fake.inject(Slow(40_000), times=None)
    with monkeypatch.context() as patch:
        patch.setattr("sendgrid_exports.disk.FileIO", FullInTheEnd)
        with pytest.raises(InsufficientDiskSpaceError):
            await make_client(fake).fetch(ID, tmp_path)
    there = (tmp_path / f"{ID}-00001.part").stat().st_size
    assert 0 < durable(tmp_path) <= there < len(BODY)
    fake.clear_faults()
    before = len(fake.storage_requests)
    known = journal(tmp_path)
    await make_client(fake).fetch(ID, tmp_path)
    assert not asked_again(fake.storage_requests[before:], known)


async def test_a_disk_without_room_for_the_rest_of_a_file_is_found_before_any_request(
    make_fake: MakeFake, make_client: MakeClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = await make_fake()
    await add(fake, BODY)
    known = await broken_off(fake, make_client(fake, downloads=PIECES), tmp_path)
    before = len(fake.storage_requests)
    monkeypatch.setattr("sendgrid_exports.transfer.folder.free_space", lambda _: 100)
    with pytest.raises(InsufficientDiskSpaceError, match="has 100 bytes free"):
        await make_client(fake).fetch(ID, tmp_path)
    assert len(fake.storage_requests) == before
    assert journal(tmp_path) == known


async def test_a_file_that_was_written_at_once_and_not_named_is_not_downloaded_again(
    make_fake: MakeFake, make_client: MakeClient, tmp_path: Path
) -> None:
    fake = await make_fake()
    await add(fake, SHORT)
    client = make_client(fake, downloads=DownloadPolicy())
    fake.inject(Status(418))
    with pytest.raises(DownloadError, match="418"):
        await client.fetch(ID, tmp_path)
    # Now the disk fails exactly when the manifest is written that names the file.
    obstacle = tmp_path / f"{ID}.manifest.json.part"
    obstacle.mkdir()
    with pytest.raises(OSError, match="manifest"):
        await client.fetch(ID, tmp_path)
    assert durable(tmp_path) == len(SHORT)
    obstacle.rmdir()
    before = len(fake.storage_requests)
    result = await client.fetch(ID, tmp_path)
    assert len(fake.storage_requests) == before
    assert result.files[0].path.read_bytes() == SHORT
    assert {path.name for path in tmp_path.iterdir()} == {
        result.files[0].name,
        f"{ID}.manifest.json",
    }


async def test_the_first_event_of_a_file_says_what_was_there(
    make_fake: MakeFake, make_client: MakeClient, tmp_path: Path, events: list[Event]
) -> None:
    fake = await make_fake()
    await add(fake, BODY)
    known = await broken_off(fake, make_client(fake, downloads=PIECES), tmp_path)
    await make_client(fake).fetch(ID, tmp_path, on_event=events.append)
    [started] = [event for event in events if isinstance(event, FileStarted)]
    assert (started.received, started.size) == (durable_of(known[1]), len(BODY))
    received = [event.received for event in events if isinstance(event, BytesReceived)]
    assert min(received) > durable_of(known[1])


async def test_events_of_a_resumed_plain_file_name_it_as_it_will_be(
    make_fake: MakeFake, make_client: MakeClient, tmp_path: Path, events: list[Event]
) -> None:
    fake = await make_fake()
    await add(fake, BODY)
    known = await broken_off(fake, make_client(fake, downloads=ONE_BY_ONE), tmp_path)
    assert known[1].done[0][0] == 0
    result = await make_client(fake).fetch(ID, tmp_path, on_event=events.append)
    paths = {event.path for event in events if isinstance(event, FileStarted | BytesReceived)}
    assert paths == {result.files[0].path}


async def test_the_journal_holds_no_secret(
    make_fake: MakeFake, make_client: MakeClient, tmp_path: Path
) -> None:
    fake = await make_fake()
    await add(fake, BODY)
    known = await broken_off(fake, make_client(fake, downloads=PIECES), tmp_path)
    text = (tmp_path / f"{ID}.journal").read_text()
    assert known[1].link in text
    assert fake.api_key not in text
    assert "?" not in text
    assert "X-Amz" not in text


async def test_finished_files_stay_while_the_others_go_on(
    make_fake: MakeFake, make_client: MakeClient, tmp_path: Path, events: list[Event]
) -> None:
    fake = await make_fake()
    bodies = [
        random_file(60_000, seed=1),
        random_file(200_000, seed=2),
        random_file(90_000, seed=3),
    ]
    await add(fake, *bodies)
    fake.inject(Stall(after=1000), skip=4, times=None, file=2)

    told: list[Event] = []

    def is_far_enough() -> bool:
        return sum(isinstance(event, FileFinished) for event in told) == 2 and 2 in journal(
            tmp_path
        )

    # Three stalled connections would hold all of them up.
    wide = attrs.evolve(PIECES, connections=16)
    await cancelled(
        make_client(fake, downloads=wide), tmp_path, is_far_enough, on_event=told.append
    )
    fake.clear_faults()
    known, before = journal(tmp_path), len(fake.storage_requests)
    result = await make_client(fake, downloads=PIECES).fetch(ID, tmp_path, on_event=events.append)
    requests = fake.storage_requests[before:]
    assert {number for number, _, _ in asked(requests)} == {2}
    assert not asked_again(requests, known)
    assert [file.path.read_bytes() for file in result.files] == bodies
    assert [event.file.path for event in events if isinstance(event, FileFinished)] == [
        result.files[1].path
    ]
    assert settled(tmp_path, result)


async def test_what_is_whole_on_disk_needs_no_request(
    make_fake: MakeFake, make_client: MakeClient, tmp_path: Path
) -> None:
    fake = await make_fake()
    await add(fake, BODY)
    known = await broken_off(fake, make_client(fake, downloads=PIECES), tmp_path)
    whole = attrs.evolve(known[1], done=((0, len(BODY)),))
    (tmp_path / f"{ID}-00001.part").write_bytes(BODY)
    (tmp_path / f"{ID}.journal").write_bytes(write_journal(ID, [whole]))
    before = len(fake.storage_requests)
    result = await make_client(fake).fetch(ID, tmp_path)
    assert len(fake.storage_requests) == before
    assert result.files[0].path.read_bytes() == BODY
    assert "etag-md5" in result.files[0].verified_by
    assert settled(tmp_path, result)


async def test_durable_bytes_that_went_bad_are_fetched_once_more(
    make_fake: MakeFake, make_client: MakeClient, tmp_path: Path
) -> None:
    fake = await make_fake()
    await add(fake, BODY)
    known = await broken_off(fake, make_client(fake, downloads=PIECES), tmp_path)
    with (tmp_path / f"{ID}-00001.part").open("r+b") as part:
        part.seek(known[1].done[0][0] + 100)
        part.write(b"rotten")
    before = len(fake.storage_requests)
    result = await make_client(fake).fetch(ID, tmp_path)
    assert result.files[0].path.read_bytes() == BODY
    rest = len(BODY) - durable_of(known[1])
    assert sum(request.sent for request in fake.storage_requests[before:]) == rest + len(BODY)


def every_bit(data: bytes) -> list[bytes]:
    """The data with one bit flipped, at places all over it."""
    places = range(0, len(data) - 1, max(1, len(data) // 12))
    return [data[:n] + bytes([data[n] ^ 1 << n % 8]) + data[n + 1 :] for n in places]


def of_another_version(data: bytes) -> bytes:
    return write_journal(ID, []).replace(b"journal 1", b"journal 9") + data.partition(b"\n")[2]


def damages(data: bytes) -> Iterator[bytes]:
    yield from (b"", b"\n", b"\0" * len(data), b"garbage\n", os.urandom(300))
    yield from every_bit(data)
    yield from (data[1:], data[:40], data + b"\n", data + b"more\n", data.partition(b"\n")[2])
    yield write_journal("another", (read_journal(data, ID) or {}).values())
    yield of_another_version(data)


async def test_a_damaged_journal_means_starting_over(
    make_fake: MakeFake, make_client: MakeClient, tmp_path: Path
) -> None:
    fake = await make_fake(etag="multipart")
    await add(fake, BODY)
    source = tmp_path / "source"
    await broken_off(fake, make_client(fake, downloads=PIECES), source)
    data = (source / f"{ID}.journal").read_bytes()
    for number, damaged in enumerate(damages(data)):
        directory = tmp_path / str(number)
        shutil.copytree(source, directory)
        (directory / f"{ID}.journal").write_bytes(damaged)
        # Nothing of what is there may be believed now, and nothing else would tell.
        (directory / f"{ID}-00001.part").write_bytes(b"\0" * len(BODY))
        before = len(fake.storage_requests)
        result = await make_client(fake, downloads=PIECES).fetch(ID, directory)
        assert result.files[0].path.read_bytes() == BODY, damaged
        sent = sum(request.sent for request in fake.storage_requests[before:])
        assert sent == len(BODY), damaged
        assert settled(directory, result)


async def test_a_torn_line_costs_that_line(
    make_fake: MakeFake, make_client: MakeClient, tmp_path: Path
) -> None:
    fake = await make_fake()
    await add(fake, BODY)
    known = await broken_off(fake, make_client(fake, downloads=PIECES), tmp_path)
    with (tmp_path / f"{ID}.journal").open("ab") as file:
        file.write(write_record(attrs.evolve(known[1], done=((0, len(BODY)),)))[:-1])
    again = await broken_off(fake, make_client(fake, downloads=PIECES), tmp_path, after=2)
    assert durable_of(again[1]) > durable_of(known[1])
    result = await make_client(fake).fetch(ID, tmp_path)
    assert result.files[0].path.read_bytes() == BODY


@pytest.mark.parametrize("left", [None, 0, 1, "just too short"])
async def test_a_part_file_shorter_than_the_journal_says_starts_over(
    make_fake: MakeFake, make_client: MakeClient, tmp_path: Path, left: int | str | None
) -> None:
    fake = await make_fake(etag="multipart")
    other = random_file(120_000, seed=9)
    await add(fake, BODY, other)
    wide = attrs.evolve(PIECES, connections=16)
    fake.inject(Stall(after=1000), skip=4, times=None, file=1)
    fake.inject(Stall(after=1000), skip=4, times=None, file=2)
    await cancelled(
        make_client(fake, downloads=wide), tmp_path, lambda: len(journal(tmp_path)) == 2
    )
    fake.clear_faults()
    known = journal(tmp_path)
    part = tmp_path / f"{ID}-00001.part"
    match left:
        case None:
            part.unlink()
        case int(size):
            os.truncate(part, size)
        case _:
            os.truncate(part, known[1].done[-1][1] - 1)
    before = len(fake.storage_requests)
    result = await make_client(fake, downloads=PIECES).fetch(ID, tmp_path)
    assert [file.path.read_bytes() for file in result.files] == [BODY, other]
    requests = fake.storage_requests[before:]
    assert not asked_again(requests, {2: known[2]})
    sent = [request.sent for request in requests if request.path.endswith("/1.csv")]
    assert sum(sent) == len(BODY)


@pytest.mark.parametrize("etag", ["md5", "multipart"])
@pytest.mark.parametrize("size", [len(BODY), 120_000, 250_000])
@pytest.mark.parametrize("verify", [Verify.LENGTH, Verify.CONTENTS])
async def test_an_object_replaced_between_the_runs_starts_over(
    make_fake: MakeFake,
    make_client: MakeClient,
    tmp_path: Path,
    etag: str,
    size: int,
    verify: Verify,
) -> None:
    fake = await make_fake(etag=etag)
    await add(fake, BODY)
    await broken_off(fake, make_client(fake, downloads=PIECES), tmp_path)
    new = random_file(size, seed=5)
    await fake.replace_file(ID, 1, new)
    before = len(fake.storage_requests)
    policy = attrs.evolve(PIECES, verify=verify)
    result = await make_client(fake, downloads=policy).fetch(ID, tmp_path)
    assert result.files[0].path.read_bytes() == new
    statuses = [request.status for request in fake.storage_requests[before:]]
    assert set(statuses) == {412, 206}
    assert 1 <= statuses.count(412) <= 3
    assert settled(tmp_path, result)


async def test_an_object_replaced_under_many_connections_is_one_start_over_each_time(
    make_fake: MakeFake, make_client: MakeClient, tmp_path: Path
) -> None:
    fake = await make_fake(etag="multipart")
    await add(fake, BODY)
    # All are asked before the first answer comes.
    fake.inject(Delay(1), times=None)
    versions = [random_file(len(BODY), seed=seed) for seed in (5, 6, 7)]
    replacing: list[asyncio.Task[None]] = []

    def replace(event: Event) -> None:
        if len(fake.storage_requests) > 8 * (len(replacing) + 1) and len(replacing) < 3:
            body = versions[len(replacing)]
            replacing.append(asyncio.ensure_future(fake.replace_file(ID, 1, body)))

    wide = attrs.evolve(PIECES, connections=8, piece_size=4 * KIB)
    client = make_client(fake, downloads=wide)
    result = await client.fetch(ID, tmp_path, on_event=replace)
    assert len(replacing) == 3
    assert result.files[0].path.read_bytes() == versions[-1]


@pytest.mark.parametrize("replaced", [False, True])
@pytest.mark.parametrize(
    "fault", [IgnoreRange(), WrongETag('"another-2"'), WrongETag("W/weak"), WrongContentRange()]
)
async def test_a_storage_that_behaves_otherwise_the_second_time(
    make_fake: MakeFake,
    make_client: MakeClient,
    tmp_path: Path,
    fault: Fault,
    *,
    replaced: bool,
) -> None:
    fake = await make_fake(etag="multipart")
    await add(fake, BODY)
    await broken_off(fake, make_client(fake, downloads=PIECES), tmp_path)
    new = random_file(len(BODY), seed=5) if replaced else BODY
    await fake.replace_file(ID, 1, new)
    fake.inject(fault, times=1 if replaced else 2)
    result = await make_client(fake, downloads=PIECES).fetch(ID, tmp_path)
    assert result.files[0].path.read_bytes() == new
    assert settled(tmp_path, result)


@pytest.mark.parametrize("fault", [IgnoreRange(), Reset(after=10_000)], ids=repr)
async def test_a_storage_without_ranges_is_begun_anew_each_time(
    make_fake: MakeFake, make_client: MakeClient, tmp_path: Path, fault: Fault
) -> None:
    fake = await make_fake(etag="none")
    await add(fake, BODY)
    fake.inject(Reset(after=150_000), times=None)
    client = make_client(fake, downloads=DownloadPolicy(attempts=1))
    with pytest.raises(IncompleteDownloadError):
        await client.fetch(ID, tmp_path)
    assert not journal(tmp_path)
    fake.clear_faults()
    fake.inject(fault)
    result = await make_client(fake).fetch(ID, tmp_path)
    assert result.files[0].path.read_bytes() == BODY
    assert settled(tmp_path, result)


@pytest.mark.parametrize("change", ["order", "paths"])
async def test_links_in_another_order_or_of_another_path(
    make_fake: MakeFake,
    make_client: MakeClient,
    tmp_path: Path,
    change: str,
) -> None:
    fake = await make_fake(etag="multipart")
    other = random_file(len(BODY), seed=9)
    await add(fake, BODY, other)
    wide = attrs.evolve(PIECES, connections=16)
    for file in (1, 2):
        fake.inject(Stall(after=1000), skip=4, times=None, file=file)
    await cancelled(
        make_client(fake, downloads=wide), tmp_path, lambda: len(journal(tmp_path)) == 2
    )
    fake.clear_faults()
    known = journal(tmp_path)
    if change == "order":
        links = fake.links(ID)[::-1]
    else:
        links = fake.links(await fake.add_export(bodies=[BODY, other], names=["1.new", "2.new"]))
    fake.respond(200, body={"id": ID, "status": "ready", "urls": links}, on="status", times=None)
    before = len(fake.storage_requests)
    result = await make_client(fake, downloads=PIECES).fetch(ID, tmp_path)
    assert [file.path.read_bytes() for file in result.files] == [BODY, other]
    assert not asked_again(fake.storage_requests[before:], known)
    assert settled(tmp_path, result)


async def test_a_lost_manifest_and_another_order_never_swap_the_files(
    make_fake: MakeFake, make_client: MakeClient, tmp_path: Path
) -> None:
    fake = await make_fake(etag="multipart")
    other = random_file(len(BODY), seed=9)
    await add(fake, BODY, other)
    await broken_off(fake, make_client(fake, downloads=PIECES), tmp_path)
    (tmp_path / f"{ID}.manifest.json").unlink()
    swapped = {"id": ID, "status": "ready", "urls": fake.links(ID)[::-1]}
    fake.respond(200, body=swapped, on="status", times=None)
    result = await make_client(fake, downloads=PIECES).fetch(ID, tmp_path)
    assert [file.path.read_bytes() for file in result.files] == [other, BODY]
    assert settled(tmp_path, result)


@pytest.fixture
def synced_by_the_second(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nothing but time make bytes durable, and a second of it be long enough for a thread."""
    monkeypatch.setattr("sendgrid_exports.testing.http._BREATH", 0.01)


async def lags(client: ExportClient, directory: Path, received: int) -> list[int]:
    """Run until so many bytes arrived; return how many of them were not durable, at any time."""
    told = [durable(directory)]
    behind = []

    def note(event: Event) -> None:
        if isinstance(event, BytesReceived):
            told.append(event.received)

    def is_far_enough() -> bool:
        behind.append(told[-1] - durable(directory))
        return told[-1] >= received

    await cancelled(client, directory, is_far_enough, on_event=note)
    return behind


@pytest.mark.usefixtures("synced_by_the_second")
async def test_a_slow_line_is_journalled_before_a_resume_and_after(
    make_fake: MakeFake, make_client: MakeClient, tmp_path: Path
) -> None:
    fake = await make_fake()
    await add(fake, BODY)
    fake.inject(Slow(20_000), times=None)
    assert max(await lags(make_client(fake), tmp_path, 100_000)) < 60_000
    before = durable(tmp_path)
    assert before > 40_000
    assert max(await lags(make_client(fake), tmp_path, before + 80_000)) < 60_000


@pytest.mark.usefixtures("synced_by_the_second")
async def test_of_a_slow_line_at_most_the_last_second_or_so_is_lost(
    make_fake: MakeFake, make_client: MakeClient, tmp_path: Path
) -> None:
    fake = await make_fake()
    await add(fake, BODY)
    fake.inject(Slow(20_000), times=None)
    assert max(await lags(make_client(fake), tmp_path, 100_000)) <= 1.5 * 20_000


# What follows kills: everything written until then is there, the journal too.


class Killing:
    """Ends a run at one step of the disk's work: by a cancel, or as a SIGKILL there would.

    Steps are the jobs of the disk's threads and the syncs in them. For a kill there is one thread
    for all pools, so that the copy of the directory is of one instant. Nothing waits for a disk
    here; what was synced is remembered, so that a loss of power can take away the rest.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.steps = 0
        self._at = 0
        self._kill = True
        self._end: Callable[[], None] | None = None
        self._synced: dict[int, bytes] = {}
        self._survives: dict[str, bytes] = {}
        self._pool: ThreadPoolExecutor
        killing = self

        class Stepping(ThreadPoolExecutor):
            def __init__(
                self, threads: int, thread_name_prefix: str, initializer: Any = None
            ) -> None:
                super().__init__(1 if killing._kill else threads, thread_name_prefix)
                killing._pool = self

            def submit(self, work: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
                def stepping() -> T:
                    killing._step()
                    return work(*args, **kwargs)

                # In one thread for everything, the steps always come in the same order.
                return ThreadPoolExecutor.submit(killing._pool if killing._kill else self, stepping)

        monkeypatch.setattr("sendgrid_exports.disk.Threads", Stepping)
        for name in ("fsync", "fdatasync"):
            monkeypatch.setattr(os, name, self._sync, raising=False)

    def _step(self) -> None:
        self.steps += 1
        if self.steps >= self._at and self._end is not None:
            end, self._end = self._end, None
            end()

    def _sync(self, descriptor: int) -> None:
        self._step()
        if self._kill:
            synced = os.fstat(descriptor).st_ino
            self._synced |= {n: data for n, data in self._on_disk().items() if n == synced}

    def _on_disk(self) -> dict[int, bytes]:
        files = [path for path in self._directory.iterdir() if path.is_file()]
        return {path.stat().st_ino: path.read_bytes() for path in files}

    async def fetch(
        self,
        client: ExportClient,
        directory: Path,
        *,
        step: int,
        kill: bool = True,
        **options: Any,
    ) -> DownloadResult | None:
        """Fetch until that step, and leave what an end there leaves; None if it came so far."""
        copy = directory.with_name(f"{directory.name}.copy")
        loop = asyncio.get_running_loop()
        directory.mkdir(exist_ok=True)
        self._directory = directory
        self._synced = self._on_disk()
        self._kill = kill
        task = asyncio.create_task(client.fetch(ID, directory, **options))

        def end() -> None:
            if kill:
                shutil.copytree(directory, copy)
                paths = [(path.name, path.stat().st_ino) for path in directory.iterdir()]
                self._survives = {name: self._synced.get(inode, b"") for name, inode in paths}
            loop.call_soon_threadsafe(task.cancel)

        self.steps, self._at, self._end = 0, step, end
        try:
            result = await task
        except asyncio.CancelledError:
            result = None
        finally:
            self._end = None
            if copy.exists():
                shutil.rmtree(directory)
                copy.rename(directory)
        return result if self.steps < step else None

    def lose_power(self, rest: Literal["cut", "zeroed"]) -> None:
        """Take away what was not synced when the last run was killed, but for sizes and times."""
        for name, synced in self._survives.items():
            path = self._directory / name
            before, data = path.stat(), path.read_bytes()
            same = (old == new for old, new in zip(synced, data, strict=False))
            mixed = bytes(byte if kept else 0 for byte, kept in zip(data, same, strict=False))
            path.write_bytes(synced if rest == "cut" else mixed.ljust(len(data), b"\0"))
            os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def resumable(directory: Path) -> dict[int, Record]:
    """The records of the journal whose bytes are there."""
    parts = {number: directory / f"{ID}-{number:05}.part" for number in journal(directory)}
    return {
        number: record
        for number, record in journal(directory).items()
        if record.done
        and parts[number].exists()
        and parts[number].stat().st_size >= record.done[-1][1]
    }


@pytest.fixture
def killing(monkeypatch: pytest.MonkeyPatch) -> Killing:
    return Killing(monkeypatch)


@pytest.mark.parametrize("rest", ["kept", "cut", "zeroed"])
@pytest.mark.parametrize("step", [3, 10, 16, 25, 40, 60, 80, 100])
async def test_a_kill_at_any_step_costs_no_durable_byte(
    make_fake: MakeFake,
    make_client: MakeClient,
    tmp_path: Path,
    killing: Killing,
    step: int,
    rest: Literal["kept", "cut", "zeroed"],
) -> None:
    fake = await make_fake(etag="multipart")
    bodies = [BODY, random_file(70_000, seed=4)]
    await add(fake, *bodies)
    directory = tmp_path / "exports"
    client = make_client(fake, downloads=PIECES)
    assert await killing.fetch(client, directory, step=step) is None
    assert (directory / f"{ID}.lock").exists()
    if rest != "kept":
        killing.lose_power(rest)
    known, before = resumable(directory), len(fake.storage_requests)
    result = await make_client(fake, downloads=PIECES).fetch(ID, directory)
    assert [file.path.read_bytes() for file in result.files] == bodies
    assert not asked_again(fake.storage_requests[before:], known)
    assert settled(directory, result)


async def test_killed_again_and_again_it_still_gets_there(
    make_fake: MakeFake, make_client: MakeClient, tmp_path: Path, killing: Killing
) -> None:
    fake = await make_fake(etag="multipart")
    await add(fake, BODY)
    directory = tmp_path / "exports"
    kept: list[int] = []
    result = None
    while result is None:
        known, before = resumable(directory), len(fake.storage_requests)
        client = make_client(fake, downloads=PIECES)
        result = await killing.fetch(client, directory, step=30)
        assert not asked_again(fake.storage_requests[before:], known)
        kept.append(durable(directory))
    assert result.files[0].path.read_bytes() == BODY
    assert len(kept) > 3
    assert kept[:-2] == sorted(kept[:-2])


async def test_a_kill_once_the_manifest_names_a_file_downloads_nothing_again(
    make_fake: MakeFake, make_client: MakeClient, tmp_path: Path, killing: Killing
) -> None:
    fake = await make_fake()
    await add(fake, BODY)
    directory = tmp_path / "exports"
    final, manifest = directory / f"{ID}-00001.csv", directory / f"{ID}.manifest.json"
    renamed: list[bool] = []
    for step in range(1, 1000):
        if await killing.fetch(make_client(fake), directory, step=step):
            break
        if manifest.exists() and final.name in manifest.read_text():
            renamed.append(final.exists())
            before = len(fake.storage_requests)
            result = await make_client(fake).fetch(ID, directory)
            assert result.files[0].path.read_bytes() == BODY
            assert len(fake.storage_requests) == before
            assert settled(directory, result)
        shutil.rmtree(directory)
    # Between the manifest and the rename too.
    assert renamed[0] is False
    assert renamed[-1] is True


@pytest.mark.parametrize("step", ["replace_file", "sync_directory"])
async def test_a_cancel_while_a_file_gets_its_name_downloads_nothing_again(
    make_fake: MakeFake,
    make_client: MakeClient,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    step: str,
) -> None:
    fake = await make_fake()
    await add(fake, BODY)
    client, loop = make_client(fake), asyncio.get_running_loop()
    manifest = tmp_path / f"{ID}.manifest.json"
    task = asyncio.create_task(client.fetch(ID, tmp_path))
    work = getattr(folder, step)

    def work_and_cancel(*args: Any) -> None:
        work(*args)
        if f"{ID}-00001.csv" in manifest.read_text():
            loop.call_soon_threadsafe(task.cancel)
            # Let the cancel come before the next step.
            asyncio.run_coroutine_threadsafe(asyncio.sleep(0), loop).result(10)

    monkeypatch.setattr(folder, step, work_and_cancel)
    with pytest.raises(asyncio.CancelledError):
        await task
    monkeypatch.undo()
    before = len(fake.storage_requests)
    result = await make_client(fake).fetch(ID, tmp_path)
    assert result.files[0].path.read_bytes() == BODY
    assert len(fake.storage_requests) == before
    assert settled(tmp_path, result)


CONVERTED = attrs.evolve(PIECES, decompress=True)


@pytest.mark.parametrize("limits", [Limits(sync_bytes=KIB, block=KIB)])
@pytest.mark.parametrize(
    ("policy", "later"),
    [
        pytest.param(PIECES, PIECES, id="gzip, then gzip"),
        pytest.param(PIECES, CONVERTED, id="gzip, then plain"),
        pytest.param(CONVERTED, PIECES, id="plain, then gzip"),
        pytest.param(CONVERTED, CONVERTED, id="plain, then plain"),
    ],
)
async def test_after_a_kill_at_any_step_of_all_nothing_is_left_over(
    make_fake: MakeFake,
    make_client: MakeClient,
    tmp_path: Path,
    killing: Killing,
    policy: DownloadPolicy,
    later: DownloadPolicy,
) -> None:
    fake = await make_fake()
    await add(fake, SHORT)
    left: dict[int, set[str]] = {}
    for step in range(1, 1000):
        directory = tmp_path / str(step)
        if await killing.fetch(make_client(fake, downloads=policy), directory, step=step):
            break
        result = await make_client(fake, downloads=later).fetch(ID, directory)
        content = result.files[0].path.read_bytes()
        assert (content if later.decompress else gzip.decompress(content)) == gzip.decompress(SHORT)
        if not settled(directory, result):
            left[step] = {path.name for path in directory.iterdir()}
    assert not left


@pytest.mark.parametrize("rest", ["cut", pytest.param("zeroed")])
@pytest.mark.parametrize("policy", [PIECES, CONVERTED], ids=["gzip", "plain"])
async def test_a_loss_of_power_at_any_step_of_all_publishes_nothing_wrong(
    make_fake: MakeFake,
    make_client: MakeClient,
    tmp_path: Path,
    killing: Killing,
    policy: DownloadPolicy,
    rest: Literal["cut", "zeroed"],
) -> None:
    fake = await make_fake()
    await add(fake, SHORT)
    content = gzip.decompress(SHORT) if policy is CONVERTED else SHORT
    wrong = []
    for step in range(1, 1000):
        directory = tmp_path / str(step)
        if await killing.fetch(make_client(fake, downloads=policy), directory, step=step):
            break
        killing.lose_power(rest)
        result = await make_client(fake, downloads=policy).fetch(ID, directory)
        if result.files[0].path.read_bytes() != content:
            wrong.append(step)
    assert not wrong


def test_files_that_are_published_at_once_all_hold_the_lock(tmp_path: Path) -> None:
    lock = Lock(tmp_path / "lock")
    assert lock.acquire()
    with ThreadPoolExecutor(8) as pool:
        looks = [pool.submit(lock.is_held) for _ in range(5000)]
        assert all(look.result() for look in looks)
    lock.release()
    assert not lock.path.exists()


async def test_a_longer_lock_left_behind_needs_nobody(
    make_fake: MakeFake, make_client: MakeClient, tmp_path: Path
) -> None:
    fake = await make_fake()
    await add(fake, BODY)
    (tmp_path / f"{ID}.lock").write_text("whoever held it is dead, and had more to say of itself")
    assert settled(tmp_path, await make_client(fake).fetch(ID, tmp_path))


# What a record that claims too much costs, where no checksum comes to help.


async def test_a_record_that_was_not_believed_once_is_not_believed_later(
    make_fake: MakeFake, make_client: MakeClient, tmp_path: Path
) -> None:
    fake = await make_fake(etag="multipart")
    await add(fake, BODY)
    await broken_off(fake, make_client(fake, downloads=PIECES), tmp_path)
    part = tmp_path / f"{ID}-00001.part"
    part.unlink()
    # The first piece stalls before it is durable, later ones are written: a hole, then bytes.
    fake.inject(Stall(after=2 * KIB), times=1)
    fake.inject(Stall(after=14 * KIB), times=None)
    client = make_client(fake, downloads=attrs.evolve(PIECES, connections=8))
    far = 5 * 16 * KIB

    def is_sparse() -> bool:
        return part.exists() and part.stat().st_size > far

    await cancelled(client, tmp_path, is_sparse)
    fake.clear_faults()
    result = await make_client(fake, downloads=PIECES).fetch(ID, tmp_path)
    assert result.files[0].path.read_bytes() == BODY


async def test_a_sync_that_a_start_over_cancels_claims_nothing_later(
    make_fake: MakeFake, make_client: MakeClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = await make_fake(etag="multipart")
    await add(fake, BODY)
    appended: list[bytes] = []
    dropped: list[tuple[int, int]] = []

    def append_slowly(path: Path, data: bytes) -> None:
        append(path, data)
        appended.append(data)
        if len(appended) == 1:
            fake.inject(WrongETag('"another-2"'))
            time.sleep(0.3)

    def remove_and_note(path: Path) -> None:
        dropped.append((len(appended), durable(tmp_path)))
        remove_file(path)

    monkeypatch.setattr("sendgrid_exports.transfer.folder.append", append_slowly)
    monkeypatch.setattr("sendgrid_exports.transfer.part.remove_file", remove_and_note)
    client = make_client(fake, downloads=attrs.evolve(PIECES, connections=2))
    result = await client.fetch(ID, tmp_path)
    assert result.files[0].path.read_bytes() == BODY
    # At first there is nothing to drop; then the journal was taken back before the bytes went.
    assert [claimed for _, claimed in dropped] == [0, 0]
    assert dropped[1][0] >= 2
