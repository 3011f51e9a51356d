"""The main job: from an export id to verified files on disk."""

from __future__ import annotations

import asyncio
import csv
import gzip
import hashlib
import io
import json
import os
from pathlib import Path

import aiohttp
import attrs
import pytest

from sendgrid_exports import (
    BytesReceived,
    ContactExport,
    CorruptDownloadError,
    CountMismatch,
    DownloadInProgressError,
    DownloadPolicy,
    Event,
    ExportClient,
    ExportExpiredError,
    ExportNotFoundError,
    ExportNotReadyError,
    ExportStarted,
    ExportStatus,
    ExportTimeoutError,
    FileFinished,
    FileStarted,
    InvalidResponseError,
    LinkRenewed,
    StatusPolled,
    Verify,
    export_contacts,
    fetch_export,
)
from sendgrid_exports.testing import Delay, FakeClock, Stall, make_contacts
from tests.integration.conftest import MakeClient, MakeFake

SMALL_PIECES = DownloadPolicy(piece_size=16 * 1024)


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


async def test_an_export_becomes_verified_files(
    make_fake: MakeFake, make_client: MakeClient, tmp_path: Path, events: list[Event]
) -> None:
    fake = await make_fake(contacts=3000, files=3)
    client = make_client(fake)
    export_id = await client.start()
    result = await client.fetch(export_id, tmp_path, on_event=events.append)

    stored = await fake.file_bytes(export_id)
    assert [file.path.read_bytes() for file in result.files] == list(stored)
    assert names(tmp_path) == [f"{export_id}-{n:05}.csv.gz" for n in (1, 2, 3)] + [
        f"{export_id}.manifest.json"
    ]
    for file, raw in zip(result.files, stored, strict=True):
        assert file.size == len(raw)
        assert file.sha256 == hashlib.sha256(raw).hexdigest()
        assert file.etag == hashlib.md5(raw).hexdigest()
        assert file.compressed
        assert file.verified_by == ("length", "etag-md5", "gzip-crc")
    assert (result.contact_count, result.export.contact_count) == (3000, 3000)
    assert result.directory == tmp_path
    manifest = json.loads(result.manifest.read_text())
    assert (manifest["state"], manifest["contacts"]) == ("complete", 3000)
    assert len(fake.storage_requests) == 3

    kinds = [type(event) for event in events]
    assert kinds[:2] == [StatusPolled, StatusPolled]
    assert kinds.count(FileStarted) == kinds.count(FileFinished) == 3
    assert kinds.count(BytesReceived) >= 3
    rows = [
        row
        for file in result.files
        for row in csv.reader(io.StringIO(gzip.decompress(file.path.read_bytes()).decode(), ""))
        if row[0] != "EMAIL"
    ]
    assert len(rows) == 3000


@pytest.mark.parametrize("file_type", ["csv", "json"])
@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize("content_encoding", ["x-gzip", "gzip", None])
async def test_names_follow_the_bytes_and_not_the_headers(
    make_fake: MakeFake,
    make_client: MakeClient,
    tmp_path: Path,
    *,
    file_type: str,
    compressed: bool,
    content_encoding: str | None,
) -> None:
    fake = await make_fake(contacts=50, compressed=compressed, content_encoding=content_encoding)
    client = make_client(fake)
    export_id = await fake.add_export(file_type=file_type)
    result = await client.fetch(export_id, tmp_path)
    [file] = result.files
    assert file.path.name == f"{export_id}-00001.{file_type}{'.gz' if compressed else ''}"
    assert [file.path.read_bytes()] == list(await fake.file_bytes(export_id))
    assert result.contact_count == 50


async def test_a_finished_export_is_answered_without_a_request(
    make_fake: MakeFake, make_client: MakeClient, tmp_path: Path
) -> None:
    fake = await make_fake(files=2)
    client = make_client(fake)
    export_id = await fake.add_export()
    first = await client.fetch(export_id, tmp_path)
    requests = len(fake.requests)
    again = await make_client(fake).fetch(export_id, tmp_path)
    also = await make_client(fake).download(first.export, tmp_path)
    assert len(fake.requests) == requests
    assert again.files == also.files == first.files
    assert again.contact_count == first.contact_count
    assert again.export == attrs.evolve(
        first.export, urls=tuple(url.partition("?")[0] for url in first.export.urls), metadata=None
    )


@pytest.mark.parametrize("damage", ["removed", "shortened", "altered", "still whole gzip"])
async def test_only_what_is_damaged_is_fetched_again(
    make_fake: MakeFake, make_client: MakeClient, tmp_path: Path, damage: str
) -> None:
    fake = await make_fake(files=3)
    export_id = await fake.add_export()
    first = await make_client(fake).fetch(export_id, tmp_path)
    hurt = first.files[1].path
    content = hurt.read_bytes()
    match damage:
        case "removed":
            hurt.unlink()
        case "shortened":
            hurt.write_bytes(content[:-1])
        case "altered":
            hurt.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
            os.utime(hurt, ns=(1, 1))
        case "still whole gzip":
            # No checksum of gzip's is about its byte for the operating system.
            hurt.write_bytes(content[:9] + bytes([content[9] ^ 1]) + content[10:])
            os.utime(hurt, ns=(1, 1))
    requests = len(fake.storage_requests)
    again = await make_client(fake).fetch(export_id, tmp_path)
    assert len(fake.storage_requests) == requests + 1
    assert again.files == first.files
    assert hurt.read_bytes() == content


@pytest.mark.parametrize("damage", ["removed", "touched"])
async def test_the_manifest_is_not_written_again_for_each_file_that_is_not_as_it_was(
    make_fake: MakeFake,
    make_client: MakeClient,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    damage: str,
) -> None:
    fake = await make_fake(contacts=100)
    export_id = await fake.add_export(files=50)
    first = await make_client(fake).fetch(export_id, tmp_path)
    for file in first.files:
        file.path.unlink() if damage == "removed" else os.utime(file.path, ns=(1, 1))
    replace = os.replace
    written: list[int] = []

    def counted(source: Path, target: Path) -> None:
        if target == first.manifest:
            written.append(len(fake.requests))
        replace(source, target)

    monkeypatch.setattr(os, "replace", counted)
    requests = len(fake.requests)
    assert (await make_client(fake).fetch(export_id, tmp_path)).files == first.files
    assert 0 < written.count(requests) <= 3


async def test_a_file_only_touched_is_read_and_kept(
    make_fake: MakeFake, make_client: MakeClient, tmp_path: Path
) -> None:
    fake = await make_fake()
    export_id = await fake.add_export()
    first = await make_client(fake).fetch(export_id, tmp_path)
    os.utime(first.files[0].path, ns=(1, 1))
    requests = len(fake.requests)
    assert (await make_client(fake).fetch(export_id, tmp_path)).files == first.files
    assert len(fake.requests) == requests


async def test_plain_text_of_other_bytes_is_known_by_its_hash(
    make_fake: MakeFake, make_client: MakeClient, tmp_path: Path
) -> None:
    fake = await make_fake()
    body = b"EMAIL,CONTACT_ID\nann@example.com,1\n"
    export_id = await fake.add_export(bodies=[body])
    [file] = (await make_client(fake).fetch(export_id, tmp_path)).files
    # As long, and with as many contacts.
    file.path.write_bytes(body.replace(b"ann", b"bob"))
    os.utime(file.path, ns=(1, 1))
    await make_client(fake).fetch(export_id, tmp_path)
    assert file.path.read_bytes() == body
    assert len(fake.storage_requests) == 2


@pytest.mark.parametrize("level", [Verify.LENGTH, Verify.CONTENTS])
async def test_plain_text_in_the_place_of_gzip_is_downloaded_again_although_it_is_as_long(
    make_fake: MakeFake, make_client: MakeClient, tmp_path: Path, level: Verify
) -> None:
    fake = await make_fake()
    export_id = await fake.add_export()
    lengths = DownloadPolicy(verify=Verify.LENGTH)
    [file] = (await make_client(fake, downloads=lengths).fetch(export_id, tmp_path)).files
    content = file.path.read_bytes()
    plain = b"EMAIL,CONTACT_ID\nann@example.com," + b"1" * (file.size - 34) + b"\n"
    assert file.path.write_bytes(plain) == file.size
    os.utime(file.path, ns=(1, 1))
    policy = DownloadPolicy(verify=level)
    assert (
        (await make_client(fake, downloads=policy).fetch(export_id, tmp_path)).files[0].compressed
    )
    assert file.path.read_bytes() == content


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"version": 99}', '{"files": [{"name": "../x"}]}']
)
async def test_a_damaged_manifest_means_starting_anew(
    make_fake: MakeFake, make_client: MakeClient, tmp_path: Path, text: str
) -> None:
    fake = await make_fake()
    export_id = await fake.add_export()
    first = await make_client(fake).fetch(export_id, tmp_path)
    first.manifest.write_text(text)
    assert (await make_client(fake).fetch(export_id, tmp_path)).files == first.files


async def test_decompressing_is_a_matter_of_the_disk_alone(
    make_fake: MakeFake, make_client: MakeClient, tmp_path: Path
) -> None:
    fake = await make_fake(files=2)
    export_id = await fake.add_export()
    stored = await fake.file_bytes(export_id)
    plain = await make_client(fake, downloads=DownloadPolicy(decompress=True)).fetch(
        export_id, tmp_path
    )
    assert [file.path.read_bytes() for file in plain.files] == [gzip.decompress(s) for s in stored]
    assert [file.path.name for file in plain.files] == [f"{export_id}-{n:05}.csv" for n in (1, 2)]
    for file in plain.files:
        assert not file.compressed
        assert file.size == file.path.stat().st_size
        assert file.sha256 == hashlib.sha256(file.path.read_bytes()).hexdigest()
    entries = json.loads(plain.manifest.read_text())["files"]
    assert [entry["raw_size"] for entry in entries] == [len(raw) for raw in stored]
    assert [entry["etag"] for entry in entries] == [hashlib.md5(raw).hexdigest() for raw in stored]

    requests = len(fake.requests)
    packed = await make_client(fake).fetch(export_id, tmp_path)
    assert [gzip.decompress(file.path.read_bytes()) for file in packed.files] == [
        gzip.decompress(raw) for raw in stored
    ]
    again = await make_client(fake, downloads=DownloadPolicy(decompress=True)).fetch(
        export_id, tmp_path
    )
    assert again.files == plain.files
    assert len(fake.requests) == requests
    assert names(tmp_path) == [f"{export_id}-{n:05}.csv" for n in (1, 2)] + [
        f"{export_id}.manifest.json"
    ]


async def test_more_proof_asked_for_later_is_taken_from_the_disk(
    make_fake: MakeFake, make_client: MakeClient, tmp_path: Path
) -> None:
    fake = await make_fake()
    export_id = await fake.add_export()
    lengths = DownloadPolicy(verify=Verify.LENGTH)
    first = await make_client(fake, downloads=lengths).fetch(export_id, tmp_path)
    assert first.files[0].verified_by == ("length",)
    assert (first.files[0].sha256, first.contact_count) == (None, None)
    requests = len(fake.requests)
    again = await make_client(fake).fetch(export_id, tmp_path)
    assert len(fake.requests) == requests
    assert again.files[0].verified_by == ("length", "gzip-crc")
    assert again.files[0].sha256 is not None
    assert again.contact_count == 1000
    assert json.loads(again.manifest.read_text())["contacts"] == 1000


@pytest.mark.parametrize(
    ("etag", "verified_by"),
    [
        ("md5", ("length", "etag-md5", "gzip-crc")),
        ("multipart", ("length", "gzip-crc")),
        ("kms", ("length", "gzip-crc")),
        ("weak", ("length", "gzip-crc")),
        ("none", ("length", "gzip-crc")),
    ],
)
async def test_an_etag_is_an_md5_only_where_it_is_one(
    make_fake: MakeFake,
    make_client: MakeClient,
    tmp_path: Path,
    etag: str,
    verified_by: tuple[str, ...],
) -> None:
    fake = await make_fake(etag=etag, contacts=2000)
    export_id = await fake.add_export()
    result = await make_client(fake, downloads=SMALL_PIECES).fetch(export_id, tmp_path)
    assert result.files[0].verified_by == verified_by
    assert [result.files[0].path.read_bytes()] == list(await fake.file_bytes(export_id))


@pytest.mark.parametrize("algorithm", ["sha256", "crc32"])
async def test_the_storages_own_checksums_are_compared(
    make_fake: MakeFake, make_client: MakeClient, tmp_path: Path, algorithm: str
) -> None:
    fake = await make_fake(checksum_headers=algorithm, etag="none")
    result = await make_client(fake).fetch(await fake.add_export(), tmp_path)
    assert f"x-amz-checksum-{algorithm}" in result.files[0].verified_by


async def test_no_contacts_are_no_files(
    make_fake: MakeFake, make_client: MakeClient, tmp_path: Path
) -> None:
    fake = await make_fake()
    export_id = await fake.add_export(contacts=0, bodies=[], contact_count=0)
    result = await make_client(fake).fetch(export_id, tmp_path)
    assert (result.files, result.contact_count) == ((), 0)
    requests = len(fake.requests)
    assert (await make_client(fake).fetch(export_id, tmp_path)).files == ()
    assert len(fake.requests) == requests


async def test_an_empty_object_is_an_empty_file(
    make_fake: MakeFake, make_client: MakeClient, tmp_path: Path
) -> None:
    fake = await make_fake(compressed=False)
    export_id = await fake.add_export(bodies=[b"", b"EMAIL,CONTACT_ID\n"])
    result = await make_client(fake).fetch(export_id, tmp_path)
    assert [file.path.read_bytes() for file in result.files] == [b"", b"EMAIL,CONTACT_ID\n"]
    assert result.contact_count == 0


@pytest.mark.parametrize("repeat_header", [True, False])
async def test_contacts_are_counted_with_or_without_a_header_in_each_part(
    make_fake: MakeFake, make_client: MakeClient, tmp_path: Path, *, repeat_header: bool
) -> None:
    fake = await make_fake(files=3, contacts=100, repeat_header=repeat_header)
    result = await make_client(fake).fetch(await fake.add_export(), tmp_path)
    assert result.contact_count == 100


async def test_a_wrong_count_is_told_and_raised_only_where_asked(
    make_fake: MakeFake, make_client: MakeClient, tmp_path: Path, events: list[Event]
) -> None:
    fake = await make_fake()
    export_id = await fake.add_export(contacts=10, contact_count=11)
    result = await make_client(fake).fetch(export_id, tmp_path, on_event=events.append)
    assert result.contact_count == 10
    assert events[-1] == CountMismatch(export_id=export_id, expected=11, counted=10)
    strict = make_client(fake, downloads=DownloadPolicy(require_count=True))
    with pytest.raises(CorruptDownloadError, match=r"11 contacts, and the files hold 10"):
        await strict.fetch(export_id, tmp_path)


async def test_what_cannot_be_counted_has_no_count(
    make_fake: MakeFake, make_client: MakeClient, tmp_path: Path
) -> None:
    fake = await make_fake()
    export_id = await fake.add_export(bodies=[b'EMAIL,CONTACT_ID\n"lone quote\n'], contact_count=1)
    assert (await make_client(fake).fetch(export_id, tmp_path)).contact_count is None
    strict = make_client(fake, downloads=DownloadPolicy(require_count=True))
    with pytest.raises(CorruptDownloadError, match="can't be counted"):
        await strict.fetch(export_id, tmp_path)


async def test_a_file_comes_over_several_connections(
    make_fake: MakeFake, make_client: MakeClient, tmp_path: Path
) -> None:
    fake = await make_fake(contacts=20_000)
    export_id = await fake.add_export()
    await make_client(fake, downloads=SMALL_PIECES).fetch(export_id, tmp_path)
    [raw] = await fake.file_bytes(export_id)
    ranges = [request.headers["Range"] for request in fake.storage_requests]
    assert ranges[0] == f"bytes=0-{16 * 1024 - 1}"
    assert len(ranges) == len(set(ranges)) == -(-len(raw) // (16 * 1024))
    assert all("If-Match" in request.headers for request in fake.storage_requests[1:])


async def test_links_that_live_two_seconds_are_renewed_once_for_all_that_wait(
    make_fake: MakeFake, make_client: MakeClient, tmp_path: Path, events: list[Event]
) -> None:
    fake = await make_fake(link_lifetime=2, files=4, contacts=400)
    fake.inject(Delay(3), times=2)
    export_id = await fake.add_export()
    client = make_client(fake, downloads=DownloadPolicy(connections=2))
    result = await client.fetch(export_id, tmp_path, on_event=events.append)
    assert [file.path.read_bytes() for file in result.files] == list(
        await fake.file_bytes(export_id)
    )
    assert [type(event) for event in events].count(LinkRenewed) == 1
    assert len(fake.api_requests) == 2
    assert len(fake.storage_requests) == 4


async def test_links_killed_from_outside_cost_one_request_and_one_status(
    make_fake: MakeFake, make_client: MakeClient, tmp_path: Path
) -> None:
    fake = await make_fake(files=3)
    client = make_client(fake)
    export_id = await fake.add_export()
    export = await client.wait(export_id)
    fake.expire_links()
    await client.download(export, tmp_path)
    assert len(fake.api_requests) == 2
    assert [request.status for request in fake.storage_requests] == [403] * 3 + [206] * 3


async def test_an_export_whose_files_expired_says_so(
    make_fake: MakeFake, make_client: MakeClient, clock: FakeClock, tmp_path: Path
) -> None:
    fake = await make_fake(file_lifetime=3600)
    client = make_client(fake)
    export = await client.wait(await fake.add_export())
    clock.advance(3601)
    with pytest.raises(ExportExpiredError, match="Start another export"):
        await client.download(export, tmp_path)
    assert names(tmp_path) == [f"{export.id}.manifest.json"]
    with pytest.raises(ExportNotFoundError):
        await make_client(fake).fetch(export.id, tmp_path / "never seen here")
    assert names(tmp_path / "never seen here") == []
    with pytest.raises(ExportExpiredError):
        await client.fetch(export.id, tmp_path)


@pytest.mark.parametrize("after_expiry", ["not_found", "no_urls", "dead_urls"])
async def test_whatever_the_service_says_of_expired_files_is_the_one_error(
    make_fake: MakeFake,
    make_client: MakeClient,
    clock: FakeClock,
    tmp_path: Path,
    after_expiry: str,
) -> None:
    fake = await make_fake(file_lifetime=3600, after_expiry=after_expiry)
    export = await make_client(fake).wait(await fake.add_export())
    clock.advance(3601)
    unaware = attrs.evolve(export, expires_at=None)
    with pytest.raises(ExportExpiredError):
        await make_client(fake).download(unaware, tmp_path)


async def test_files_removed_early_say_so(
    make_fake: MakeFake, make_client: MakeClient, tmp_path: Path
) -> None:
    fake = await make_fake()
    client = make_client(fake, downloads=DownloadPolicy(attempts=3))
    export = await client.wait(await fake.add_export())
    fake.remove_files(export.id)
    with pytest.raises(ExportExpiredError, match="NoSuchKey"):
        await client.download(export, tmp_path)
    assert len(fake.storage_requests) == 3


@pytest.mark.parametrize("offset", [-3600, 3600])
async def test_a_clock_that_is_an_hour_wrong_changes_nothing(
    make_fake: MakeFake, make_client: MakeClient, clock: FakeClock, tmp_path: Path, offset: int
) -> None:
    fake = await make_fake(file_lifetime=1800)
    wrong = clock.offset(offset)
    export_id = await fake.add_export()
    result = await make_client(fake, clock=wrong).fetch(export_id, tmp_path / "fetched")
    await make_client(fake, clock=wrong).download(
        await make_client(fake).get(export_id), tmp_path / "downloaded"
    )
    assert result.contact_count == 1000
    assert {request.status for request in fake.storage_requests} == {206}


async def test_the_timeout_bounds_a_stalled_download(
    make_fake: MakeFake, make_client: MakeClient, clock: FakeClock, tmp_path: Path
) -> None:
    fake = await make_fake(files=2)
    fake.inject(Stall(after=100), file=2, times=None)
    client = make_client(fake, downloads=DownloadPolicy(read_timeout=0.05, attempts=99))
    export_id = await fake.add_export()
    started = clock.monotonic()
    with pytest.raises(ExportTimeoutError, match="fetch again") as caught:
        await client.fetch(export_id, tmp_path, timeout=60)
    assert clock.monotonic() - started <= 60.5
    assert caught.value.export_id == export_id
    assert (tmp_path / f"{export_id}-00001.csv.gz").exists()
    assert not (tmp_path / f"{export_id}-00002.csv.gz").exists()


async def test_cancelling_is_prompt_and_leaves_nothing_behind(
    make_fake: MakeFake, make_client: MakeClient, tmp_path: Path, events: list[Event]
) -> None:
    fake = await make_fake(files=4, contacts=8000)
    fake.inject(Stall(after=50_000), times=None)
    export_id = await fake.add_export()
    before = asyncio.all_tasks()
    started = asyncio.Event()

    def note(event: Event) -> None:
        events.append(event)
        if sum(isinstance(event, BytesReceived) for event in events) == 4:
            started.set()

    client = make_client(fake)
    task = asyncio.create_task(client.fetch(export_id, tmp_path, on_event=note))
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await client.close()
    assert not [path for path in tmp_path.iterdir() if path.suffix == ".gz"]
    assert not (tmp_path / f"{export_id}.lock").exists()
    assert not [left for left in asyncio.all_tasks() - before if "fetch" in repr(left)]


async def test_a_second_download_of_the_same_export_is_refused_at_once(
    make_fake: MakeFake, make_client: MakeClient, tmp_path: Path
) -> None:
    fake = await make_fake()
    client = make_client(fake)
    export_id = await fake.add_export()
    results = await asyncio.gather(
        *(client.fetch(export_id, tmp_path) for _ in range(5)), return_exceptions=True
    )
    refused = [result for result in results if isinstance(result, DownloadInProgressError)]
    assert len(refused) == 4
    await client.fetch(export_id, tmp_path / "elsewhere")
    other = await fake.add_export()
    await asyncio.gather(client.fetch(other, tmp_path), client.fetch(export_id, tmp_path))


async def test_a_lock_left_behind_needs_nobody(
    make_fake: MakeFake, make_client: MakeClient, tmp_path: Path
) -> None:
    fake = await make_fake()
    export_id = await fake.add_export()
    (tmp_path / f"{export_id}.lock").write_text("whoever held it is dead, and wrote a lot")
    await make_client(fake).fetch(export_id, tmp_path)


async def test_download_wants_a_ready_export(
    make_fake: MakeFake, make_client: MakeClient, tmp_path: Path
) -> None:
    fake = await make_fake()
    client = make_client(fake)
    export = await client.get(await client.start())
    assert export.status is ExportStatus.PENDING
    with pytest.raises(ExportNotReadyError, match="pending"):
        await client.download(export, tmp_path)


@pytest.mark.parametrize(
    "url",
    [
        "ftp://example.com/a.csv",
        "https://somebody:hunter2@example.com/a.csv?X-Amz-Signature=secret",
        "/relative",
        "https://example.com:port/a.csv",
        "https://exa mple.com/a.csv",
    ],
)
async def test_a_link_that_is_none_is_refused_before_any_request(
    make_fake: MakeFake, make_client: MakeClient, tmp_path: Path, url: str
) -> None:
    fake = await make_fake()
    client = make_client(fake)
    await client.list_exports()
    export = ContactExport(id="x", status=ExportStatus.READY, urls=(url,))
    with pytest.raises(InvalidResponseError, match=r"\$\.urls\[0\]") as caught:
        await client.download(export, tmp_path)
    assert "hunter2" not in str(caught.value)
    assert "secret" not in str(caught.value)
    assert not fake.storage_requests


async def test_plain_http_links_are_refused_where_the_api_is_https(tmp_path: Path) -> None:
    export = ContactExport(id="x", status=ExportStatus.READY, urls=("http://127.0.0.1:1/a.csv",))
    async with ExportClient("key") as client:
        client._exports.server_clock.known = True
        with pytest.raises(InvalidResponseError, match="https://"):
            await client.download(export, tmp_path)


@pytest.mark.parametrize("export_id", ["a/b", "..", "a b", "../../etc/passwd", "é" * 200, "%2e%2e"])
async def test_an_id_of_any_letters_stays_in_the_directory(
    make_fake: MakeFake, make_client: MakeClient, tmp_path: Path, export_id: str
) -> None:
    fake = await make_fake(contacts=10)
    await fake.add_export(export_id=export_id)
    directory = tmp_path / "exports"
    result = await make_client(fake).fetch(export_id, directory)
    assert result.export.id == export_id
    assert [path.name for path in tmp_path.iterdir()] == ["exports"]
    assert result.files[0].path.parent == directory


@pytest.mark.parametrize("name", ["../../escape.csv", "x" * 300 + ".csv.gzip", "a b%2Fc;d.csv"])
async def test_names_of_the_server_do_not_reach_the_disk(
    make_fake: MakeFake, make_client: MakeClient, tmp_path: Path, name: str
) -> None:
    fake = await make_fake()
    export_id = await fake.add_export(bodies=[b"EMAIL,CONTACT_ID\na,b\n"], names=[name])
    result = await make_client(fake).fetch(export_id, tmp_path)
    assert result.files[0].path.name == f"{export_id}-00001.csv"


async def test_the_functions_do_it_in_one_call(
    make_fake: MakeFake, clock: FakeClock, tmp_path: Path, events: list[Event]
) -> None:
    fake = await make_fake(contacts=100)
    result = await export_contacts(
        tmp_path,
        api_key=fake.api_key,
        base_url=fake.base_url,
        clock=clock,
        file_type="json",
        on_event=events.append,
    )
    assert events[0] == ExportStarted(export_id=result.export.id)
    lines = gzip.decompress(result.files[0].path.read_bytes()).splitlines()
    assert [json.loads(line) for line in lines] == list(make_contacts(100))
    again = await fetch_export(
        result.export.id, tmp_path, api_key=fake.api_key, base_url=fake.base_url, clock=clock
    )
    assert again.files == result.files


async def test_dying_after_the_start_loses_nothing(
    make_fake: MakeFake, clock: FakeClock, tmp_path: Path
) -> None:
    fake = await make_fake(statuses=["pending"] * 3 + ["ready"])

    def die(event: Event) -> None:
        if isinstance(event, StatusPolled):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        await export_contacts(
            tmp_path, api_key=fake.api_key, base_url=fake.base_url, clock=clock, on_event=die
        )
    [manifest] = tmp_path.iterdir()
    seen = json.loads(manifest.read_text())
    assert seen["state"] == "pending"
    result = await fetch_export(
        seen["export_id"], tmp_path, api_key=fake.api_key, base_url=fake.base_url, clock=clock
    )
    assert result.contact_count == 1000


async def test_an_error_of_the_listener_is_the_callers(
    make_fake: MakeFake, make_client: MakeClient, tmp_path: Path
) -> None:
    fake = await make_fake(files=3)

    class OwnError(Exception):
        pass

    def listen(event: Event) -> None:
        if isinstance(event, BytesReceived):
            raise OwnError

    export_id = await fake.add_export()
    with pytest.raises(OwnError):
        await make_client(fake).fetch(export_id, tmp_path, on_event=listen)
    await make_client(fake).fetch(export_id, tmp_path)


async def test_a_borrowed_session_is_used_and_left_open(
    make_fake: MakeFake, make_client: MakeClient, tmp_path: Path
) -> None:
    fake = await make_fake()
    export_id = await fake.add_export()
    timeout = aiohttp.ClientTimeout(total=60)
    async with aiohttp.ClientSession(
        headers={"User-Agent": "ours"}, raise_for_status=True, timeout=timeout
    ) as session:
        client = make_client(fake, session=session)
        fake.expire_links()
        await client.fetch(export_id, tmp_path)
        await client.close()
        assert not session.closed
    assert {request.headers["User-Agent"] for request in fake.requests} == {"ours"}
