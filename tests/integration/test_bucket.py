"""Downloads into a bucket keep the promises of a directory, over obstore's own stores."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import io
import json
import os
import pickle
import signal
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
from obstore.store import LocalStore, MemoryStore

from sendgrid_exports import (
    Bucket,
    CorruptDownloadError,
    DownloadError,
    DownloadInProgressError,
    DownloadPolicy,
    DownloadResult,
    Event,
    ExportClient,
    ExportTimeoutError,
    FileFinished,
    FileStarted,
    IncompleteDownloadError,
    LinkRenewed,
    Retrying,
    Verify,
    compare_exports,
    export_contacts,
    find_exports,
    read_arrow,
    read_contacts,
    read_contacts_async,
    verify_download,
    write_parquet,
)
from sendgrid_exports.bucket_files import Upload
from sendgrid_exports.settings import Limits
from sendgrid_exports.testing import (
    EarlyEnd,
    ExpiredLink,
    FakeClock,
    FakeSendGrid,
    Fault,
    FlippedBit,
    IgnoreRange,
    NoLength,
    Page,
    Reset,
    Stall,
    Status,
    WrongETag,
)
from tests.integration.conftest import (
    MakeClient,
    MakeFake,
    cancelled_at,
    check_conditional_writes,
)

ID = "an-export"
KIB = 1024
BODY = b"EMAIL,CONTACT_ID\n" + b"".join(
    hashlib.sha256(str(n).encode()).hexdigest().encode() + b",%d\n" % n for n in range(6000)
)


@pytest.fixture
def limits() -> Limits:
    """Let small files have several blocks and parts."""
    return Limits(block=32 * KIB, part=64 * KIB, parts=2, uploads=2)


@pytest.fixture(params=["memory", "local"])
def bucket(request: pytest.FixtureRequest, tmp_path: Path) -> Bucket:
    if request.param == "memory":
        return Bucket(MemoryStore(), "some/where")
    return Bucket(LocalStore(tmp_path / "store", mkdir=True), "some/where")


def names(bucket: Bucket) -> list[str]:
    return [each.name for each in bucket.list()[0]]


def content(bucket: Bucket, name: str) -> bytes:
    found = bucket.read(name)
    assert found is not None
    return found[0]


def entries(bucket: Bucket) -> dict[str, Any]:
    """Return the files of the manifest by their names."""
    if (found := bucket.read(f"{ID}.manifest.json")) is None:
        return {}
    return {entry["name"]: entry for entry in json.loads(found[0])["files"]}


def everything(bucket: Bucket, tmp_path: Path) -> list[str]:
    """Return all objects, and what a local store keeps of unfinished uploads."""
    kept = [path.name for path in (tmp_path / "store").rglob("*") if "#" in path.name]
    return names(bucket) + kept


async def test_objects_are_created_and_replaced_on_condition(bucket: Bucket) -> None:
    await asyncio.to_thread(check_conditional_writes, bucket)


@pytest.mark.parametrize("write", ["create", "update"])
async def test_a_write_whose_answer_was_lost_is_no_other_run(
    make_fake: MakeFake,
    make_client: MakeClient,
    bucket: Bucket,
    monkeypatch: pytest.MonkeyPatch,
    write: str,
) -> None:
    fake = await make_fake()
    await fake.add_export(export_id=ID, contacts=10)
    sent = getattr(Bucket, write)
    lost: list[str] = []

    def lose(self: Bucket, name: str, *written: Any) -> Any:
        stored = sent(self, name, *written)
        if name.endswith(".manifest.json") and not lost:
            lost.append(name)
            # Sent again, it meets what it wrote itself.
            return sent(self, name, *written)
        return stored

    monkeypatch.setattr(Bucket, write, lose)
    assert (await make_client(fake).fetch(ID, bucket)).contact_count == 10
    assert lost == [f"{ID}.manifest.json"]
    assert (await verify_download(bucket, ID, deep=True)).ok


async def test_an_object_that_is_replaced_at_once_is_not_entered_in_the_manifest(
    make_fake: MakeFake, make_client: MakeClient, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = await make_fake()
    await fake.add_export(export_id=ID, bodies=[BODY])
    finish = Upload.finish

    async def finish_and_replace(upload: Upload) -> None:
        await finish(upload)
        [stored] = [each for each in bucket.list()[0] if each.name == f"{ID}-00001.csv"]
        await asyncio.to_thread(bucket.update, stored.name, b"EMAIL\n", stored)

    with monkeypatch.context() as patch:
        patch.setattr(Upload, "finish", finish_and_replace)
        with pytest.raises(IncompleteDownloadError, match="is not what was uploaded"):
            await make_client(fake).fetch(ID, bucket)
    assert entries(bucket) == {}
    await make_client(fake).fetch(ID, bucket)
    assert content(bucket, f"{ID}-00001.csv") == BODY


async def test_no_more_files_are_uploaded_at_once_than_the_limit(
    make_fake: MakeFake, make_client: MakeClient, bucket: Bucket, opened: list[int]
) -> None:
    fake = await make_fake()
    await fake.add_export(export_id=ID, bodies=[BODY] * 6)
    await make_client(fake).fetch(ID, bucket)
    assert (len(opened), max(opened)) == (6, 2)


async def test_nothing_is_written_to_the_disk(make_fake: MakeFake, make_client: MakeClient) -> None:
    fake = await make_fake()
    await fake.add_export(export_id=ID, bodies=[BODY, gzip.compress(BODY)])
    bucket, watching = Bucket(MemoryStore()), True
    written: list[object] = []

    def watch(event: str, arguments: Any) -> None:
        if watching and event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            written.append(arguments[0])

    # It can't be removed, only switched off.
    sys.addaudithook(watch)
    try:
        await make_client(fake).fetch(ID, bucket)
    finally:
        watching = False
    assert len(entries(bucket)) == 2
    assert written == []


async def test_an_export_becomes_verified_objects(
    make_fake: MakeFake, make_client: MakeClient, bucket: Bucket, events: list[Event]
) -> None:
    fake = await make_fake()
    await fake.add_export(export_id=ID, contacts=3000, files=3)
    result = await make_client(fake).fetch(ID, bucket, on_event=events.append)

    stored = await fake.file_bytes(ID)
    assert names(bucket) == [f"{ID}-{n:05}.csv.gz" for n in (1, 2, 3)] + [f"{ID}.manifest.json"]
    for file, raw in zip(result.files, stored, strict=True):
        name = f"{ID}-{file.number:05}.csv.gz"
        assert content(bucket, name) == raw
        assert (file.url, file.path) == (f"{bucket}/{name}", None)
        assert (file.size, file.sha256) == (len(raw), hashlib.sha256(raw).hexdigest())
        assert file.verified_by == ("length", "etag-md5", "gzip-crc")
    assert (result.target, result.directory, result.manifest) == (bucket, None, None)
    assert result.manifest_url == f"{bucket}/{ID}.manifest.json"
    assert result.contact_count == 3000
    assert len(fake.storage_requests) == 3
    assert {str(event) for event in events if isinstance(event, FileStarted | FileFinished)} == {
        *(f"Downloading file {file.number} of {file.size:,} bytes." for file in result.files),
        *(f"Downloaded and verified {ID}-{n:05}.csv.gz." for n in (1, 2, 3)),
    }
    assert (await verify_download(bucket, ID)).ok


async def test_no_secret_of_a_link_gets_into_a_bucket(
    make_fake: MakeFake, make_client: MakeClient, bucket: Bucket
) -> None:
    fake = await make_fake()
    await fake.add_export(export_id=ID, contacts=10)
    await make_client(fake).fetch(ID, bucket)
    assert b"X-Amz" not in content(bucket, f"{ID}.manifest.json")


async def test_a_finished_export_is_answered_without_any_request(
    make_fake: MakeFake, make_client: MakeClient, bucket: Bucket
) -> None:
    fake = await make_fake()
    await fake.add_export(export_id=ID, contacts=100, files=2)
    first = await make_client(fake).fetch(ID, bucket)
    asked = len(fake.requests)
    again = await make_client(fake).fetch(ID, bucket)
    assert (again.files, again.contact_count) == (first.files, first.contact_count)
    assert len(fake.requests) == asked


async def test_only_what_is_missing_or_other_is_downloaded_again(
    make_fake: MakeFake, make_client: MakeClient, bucket: Bucket
) -> None:
    fake = await make_fake()
    await fake.add_export(export_id=ID, contacts=400, files=4)
    await make_client(fake).fetch(ID, bucket)
    missing, same, other, _ = (f"{ID}-{n:05}.csv.gz" for n in (1, 2, 3, 4))
    bucket.delete(missing)
    for name, data in (
        (same, content(bucket, same)),
        (other, content(bucket, other)[::-1]),
    ):
        known = bucket.head(name)
        assert known is not None
        bucket.update(name, data, known)
    report = await verify_download(bucket, ID)
    assert (report.missing, report.changed) == ((f"{bucket}/{missing}",), (f"{bucket}/{other}",))

    asked = len(fake.storage_requests)
    result = await make_client(fake).fetch(ID, bucket)
    assert len(fake.storage_requests) == asked + 2
    assert [content(bucket, file.url.rpartition("/")[2]) for file in result.files] == list(
        await fake.file_bytes(ID)
    )
    assert (await verify_download(bucket, ID, deep=True)).ok


async def test_a_deep_verification_reads_what_a_quick_one_trusts(
    make_fake: MakeFake, make_client: MakeClient, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    bucket = Bucket(LocalStore(store, mkdir=True))
    fake = await make_fake()
    await fake.add_export(export_id=ID, bodies=[BODY])
    await make_client(fake).fetch(ID, bucket)
    manifest = store / f"{ID}.manifest.json"
    digest = hashlib.sha256(BODY).hexdigest()
    manifest.write_text(manifest.read_text().replace(digest, digest[::-1]))
    assert (await verify_download(bucket, ID)).ok
    assert (await verify_download(bucket, ID, deep=True)).changed == (f"{bucket}/{ID}-00001.csv",)


async def test_verification_names_what_is_extra(
    make_fake: MakeFake, make_client: MakeClient, bucket: Bucket
) -> None:
    fake = await make_fake()
    await fake.add_export(export_id=ID, contacts=10)
    await make_client(fake).fetch(ID, bucket)
    bucket.create(f"{ID}-00007.csv.gz", b"x")
    bucket.create("something-else.txt", b"x")
    report = await verify_download(bucket, ID)
    assert report.extra == (f"{bucket}/{ID}-00007.csv.gz",)


async def test_verification_needs_a_manifest(bucket: Bucket) -> None:
    with pytest.raises(DownloadError, match="no manifest of export nothing") as failed:
        await verify_download(bucket, "nothing")
    assert failed.value.url == f"{bucket}/nothing.manifest.json"
    bucket.create("damaged.manifest.json", b"{")
    with pytest.raises(DownloadError, match="is damaged"):
        await verify_download(bucket, "damaged")


async def test_a_damaged_manifest_is_started_anew(
    make_fake: MakeFake, make_client: MakeClient, bucket: Bucket
) -> None:
    fake = await make_fake()
    await fake.add_export(export_id=ID, contacts=10)
    bucket.create(f"{ID}.manifest.json", b"{")
    await make_client(fake).fetch(ID, bucket)
    assert (await verify_download(bucket, ID)).ok


# Faults: each ends in the right bytes, or in an error and no object.


@pytest.mark.parametrize(
    "fault",
    [
        Reset(),
        Reset(100_000),
        EarlyEnd(100_000),
        Stall(100_000),
        Status(503),
        Status(500),
        Status(403),
        ExpiredLink(),
        FlippedBit(200_000),
        IgnoreRange(),
        NoLength(),
        WrongETag('"other"'),
        Page(),
    ],
    ids=repr,
)
async def test_a_fault_of_the_storage_leaves_the_right_bytes(
    make_fake: MakeFake, make_client: MakeClient, bucket: Bucket, tmp_path: Path, fault: Fault
) -> None:
    fake = await make_fake()
    await fake.add_export(export_id=ID, bodies=[BODY])
    fake.inject(fault)
    client = make_client(fake, downloads=DownloadPolicy(read_timeout=0.2))
    result = await client.fetch(ID, bucket, timeout=600)
    assert content(bucket, f"{ID}-00001.csv") == BODY
    assert everything(bucket, tmp_path) == [f"{ID}-00001.csv", f"{ID}.manifest.json"]
    assert result.contact_count == 6000


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (Reset(100_000), IncompleteDownloadError),
        (Status(503), IncompleteDownloadError),
        (FlippedBit(200_000), CorruptDownloadError),
        (Page(), CorruptDownloadError),
        (Status(405), DownloadError),
    ],
    ids=repr,
)
async def test_a_fault_that_stays_leaves_no_object(
    make_fake: MakeFake,
    make_client: MakeClient,
    bucket: Bucket,
    tmp_path: Path,
    fault: Fault,
    error: type[Exception],
) -> None:
    fake = await make_fake()
    await fake.add_export(export_id=ID, bodies=[BODY])
    fake.inject(Reset(0) if fault == Reset(100_000) else fault, times=None)
    with pytest.raises(error) as failed:
        await make_client(fake).fetch(ID, bucket, timeout=3600)
    assert f"{ID}-00001.csv" in str(failed.value)
    assert getattr(failed.value, "path", None) is None
    assert everything(bucket, tmp_path) == [f"{ID}.manifest.json"]


async def test_after_a_break_a_file_continues_at_its_next_byte(
    make_fake: MakeFake, make_client: MakeClient, bucket: Bucket
) -> None:
    fake = await make_fake()
    await fake.add_export(export_id=ID, bodies=[BODY])
    fake.inject(EarlyEnd(150_000))
    await make_client(fake).fetch(ID, bucket)
    first, second = fake.storage_requests
    assert (first.headers["Range"], second.headers["Range"]) == ("bytes=0-", "bytes=150000-418906")
    assert second.headers["If-Match"]


async def test_a_dead_link_is_renewed_in_the_middle(
    make_fake: MakeFake, make_client: MakeClient, bucket: Bucket, events: list[Event]
) -> None:
    fake = await make_fake()
    await fake.add_export(export_id=ID, bodies=[BODY])
    fake.inject(EarlyEnd(150_000))

    def expire(event: Event) -> None:
        events.append(event)
        if isinstance(event, Retrying):
            fake.expire_links()

    await make_client(fake).fetch(ID, bucket, on_event=expire)
    assert [type(event) for event in events].count(LinkRenewed) == 1
    assert content(bucket, f"{ID}-00001.csv") == BODY


async def test_another_version_starts_the_file_over(
    make_fake: MakeFake,
    make_client: MakeClient,
    bucket: Bucket,
    clock: FakeClock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fake = await make_fake()
    await fake.add_export(export_id=ID, bodies=[BODY])
    other = BODY.replace(b"a", b"b")
    fake.inject(EarlyEnd(150_000))
    sleep = clock.sleep

    async def replace(seconds: float) -> None:
        await fake.replace_file(ID, 1, other)
        await sleep(seconds)

    monkeypatch.setattr(clock, "sleep", replace)
    await make_client(fake).fetch(ID, bucket)
    assert content(bucket, f"{ID}-00001.csv") == other


async def test_what_a_file_is_called_is_decided_by_its_content(
    make_fake: MakeFake, make_client: MakeClient, bucket: Bucket
) -> None:
    fake = await make_fake()
    await fake.add_export(export_id=ID, bodies=[BODY, b'{"contact_id":"1"}\n', b""])
    await make_client(fake).fetch(ID, bucket)
    assert names(bucket)[:3] == [f"{ID}-00001.csv", f"{ID}-00002.json", f"{ID}-00003.csv"]


@pytest.mark.parametrize("verify", Verify)
async def test_every_level_of_checks_is_possible(
    make_fake: MakeFake, make_client: MakeClient, bucket: Bucket, verify: Verify
) -> None:
    fake = await make_fake()
    await fake.add_export(export_id=ID, contacts=500, files=2)
    client = make_client(fake, downloads=DownloadPolicy(verify=verify))
    result = await client.fetch(ID, bucket)
    assert [file.sha256 is None for file in result.files] == [verify is Verify.LENGTH] * 2
    # A deeper level reads what is there, and downloads nothing.
    asked = len(fake.storage_requests)
    deeper = await make_client(fake).fetch(ID, bucket)
    assert len(fake.storage_requests) == asked
    assert all(file.sha256 for file in deeper.files)
    assert deeper.contact_count == 500


async def test_a_timeout_keeps_the_files_that_are_complete(
    make_fake: MakeFake, make_client: MakeClient, bucket: Bucket, tmp_path: Path
) -> None:
    fake = await make_fake()
    await fake.add_export(export_id=ID, bodies=[b"EMAIL\na@b.c\n", BODY])
    fake.inject(Stall(0), file=2, times=None)
    client = make_client(fake, downloads=DownloadPolicy(read_timeout=0.05, attempts=10**6))
    with pytest.raises(ExportTimeoutError, match="files that are complete are kept"):
        await client.fetch(ID, bucket, timeout=30)
    assert everything(bucket, tmp_path) == [f"{ID}-00001.csv", f"{ID}.manifest.json"]
    fake.clear_faults()
    result = await make_client(fake).fetch(ID, bucket)
    assert [request.headers["Range"] for request in fake.storage_requests][-1:] == ["bytes=0-"]
    assert len(result.files) == 2


# Two runs at once.


async def test_of_two_runs_at_once_none_makes_a_wrong_file(
    make_fake: MakeFake, make_client: MakeClient, bucket: Bucket, tmp_path: Path
) -> None:
    fake = await make_fake()
    await fake.add_export(export_id=ID, contacts=4000, files=8)
    runs = [make_client(fake).fetch(ID, bucket) for _ in range(3)]
    ended = await asyncio.gather(*runs, return_exceptions=True)
    done = [one for one in ended if isinstance(one, DownloadResult)]
    assert done, ended
    for one in ended:
        assert isinstance(one, DownloadResult | DownloadInProgressError)
    assert (await verify_download(bucket, ID, deep=True)).ok
    for number, raw in enumerate(await fake.file_bytes(ID), start=1):
        assert content(bucket, f"{ID}-{number:05}.csv.gz") == raw


async def test_a_run_ends_when_another_has_changed_the_manifest(
    make_fake: MakeFake, make_client: MakeClient, bucket: Bucket, tmp_path: Path
) -> None:
    fake = await make_fake()
    await fake.add_export(export_id=ID, bodies=[BODY])
    other: list[int] = []

    def overtake(event: Event) -> None:
        if isinstance(event, FileStarted) and not other:
            other.append(1)
            name = f"{ID}.manifest.json"
            found = bucket.read(name)
            assert found is not None
            bucket.update(name, found[0] + b"\n", found[1])

    with pytest.raises(DownloadInProgressError, match="Another process or task") as failed:
        await make_client(fake).fetch(ID, bucket, on_event=overtake)
    assert failed.value.url == f"{bucket}/{ID}.manifest.json"
    assert entries(bucket) == {}


async def test_a_run_that_was_overtaken_finds_the_work_done(
    make_fake: MakeFake, make_client: MakeClient, bucket: Bucket
) -> None:
    fake = await make_fake()
    await fake.add_export(export_id=ID, contacts=100, files=2)
    held = asyncio.Event()
    slow = make_client(fake)
    export = await slow.wait(ID)
    fake.inject(Stall(1000), times=2)
    started = asyncio.Event()

    def wait(event: Event) -> None:
        if isinstance(event, FileStarted):
            started.set()

    late = asyncio.create_task(
        make_client(fake, downloads=DownloadPolicy(read_timeout=1.0)).download(
            export, bucket, on_event=wait
        )
    )
    await started.wait()
    first = await make_client(fake).fetch(ID, bucket)
    held.set()
    assert (await late).files == first.files
    assert (await verify_download(bucket, ID, deep=True)).ok


# Cancelling at every await.


async def test_cancelled_at_any_await_it_leaves_whole_objects_and_nothing_else(
    make_fake: MakeFake, make_client: MakeClient, tmp_path: Path
) -> None:
    fake = await make_fake()
    await fake.add_export(export_id=ID, bodies=[BODY, BODY[:1000]])
    client = make_client(fake)
    export = await client.wait(ID)
    cancelled = 0
    for number in range(1, 10_000):
        store = tmp_path / str(number)
        bucket = Bucket(LocalStore(store, mkdir=True))
        download, started = await cancelled_at(number, client.download(export, bucket))
        assert started
        assert all(task.done() for task in started)
        found = {path.name for path in store.rglob("*") if path.is_file()}
        complete = entries(bucket)
        assert found - {f"{ID}.manifest.json"} == set(complete)
        for name, entry in complete.items():
            assert hashlib.sha256((store / name).read_bytes()).hexdigest() == entry["sha256"]
        if not download.cancelled():
            assert len(download.result().files) == 2
            break
        cancelled += 1
    assert cancelled > 30
    assert names(bucket) == [f"{ID}-00001.csv", f"{ID}-00002.csv", f"{ID}.manifest.json"]


CHILD = """
import asyncio, sys
from obstore.store import LocalStore
from sendgrid_exports import Bucket, fetch_export
url, key, store = sys.argv[1:]
asyncio.run(fetch_export("an-export", Bucket(LocalStore(store)), api_key=key, base_url=url))
"""


async def test_after_a_kill_only_the_unfinished_files_are_downloaded_again(tmp_path: Path) -> None:
    store = tmp_path / "store"
    bucket = Bucket(LocalStore(store, mkdir=True))
    async with FakeSendGrid() as fake:
        bodies = [b"EMAIL\n" + bytes([65 + n]) * 10 + b"@b.c\n" for n in range(3)]
        await fake.add_export(export_id=ID, bodies=[*bodies, BODY])
        fake.inject(Stall(100_000), file=4, times=None)
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", CHILD, fake.base_url, fake.api_key, str(store))
        )
        while len(entries(bucket)) < 3:
            assert process.returncode is None
            await asyncio.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        assert await process.wait() == -signal.SIGKILL
        assert sorted(entries(bucket)) == [f"{ID}-{n:05}.csv" for n in (1, 2, 3)]
        fake.clear_faults()
        asked = len(fake.storage_requests)
        async with ExportClient(**fake.credentials) as client:
            await client.fetch(ID, bucket)
        assert len(fake.storage_requests) == asked + 1
    assert (await verify_download(bucket, ID, deep=True)).ok
    assert content(bucket, f"{ID}-00004.csv") == BODY


# Urls, and what is said before an export is started.


@pytest.fixture
def memory(request: pytest.FixtureRequest) -> str:
    return f"memory://{request.node.name}/deep/down"


async def test_a_url_is_a_bucket_wherever_a_directory_goes(
    make_fake: MakeFake, memory: str
) -> None:
    fake = await make_fake(contacts=100, clock=FakeClock())
    result = await export_contacts(memory, **fake.credentials)
    export_id = result.export.id
    assert result.files[0].url == f"{memory}/{export_id}-00001.csv.gz"
    assert (await verify_download(memory, export_id)).ok
    assert names(Bucket.from_url(memory)) == [
        f"{export_id}-00001.csv.gz",
        f"{export_id}.manifest.json",
    ]


async def test_a_file_url_is_the_directory_that_it_names(
    make_fake: MakeFake, make_client: MakeClient, tmp_path: Path
) -> None:
    fake = await make_fake()
    await fake.add_export(export_id=ID, contacts=10)
    directory = tmp_path / "with space"
    result = await make_client(fake).fetch(ID, directory.as_uri())
    assert result.directory == directory
    assert (await verify_download(directory.as_uri(), ID)).ok


async def test_files_in_a_bucket_are_not_inflated_and_that_is_said_before_a_start(
    make_fake: MakeFake, make_client: MakeClient, memory: str
) -> None:
    fake = await make_fake()
    with pytest.raises(ValueError, match="decompress=True is for a directory"):
        await export_contacts(memory, **fake.credentials, downloads=DownloadPolicy(decompress=True))
    assert fake.requests == []


async def test_a_missing_extra_is_named_before_a_start(
    make_fake: MakeFake, monkeypatch: pytest.MonkeyPatch, memory: str
) -> None:
    fake = await make_fake()
    monkeypatch.setitem(sys.modules, "obstore", None)
    with pytest.raises(ImportError, match=r"pip install 'sendgrid-exports\[cloud\]'"):
        await export_contacts(memory, **fake.credentials)
    assert fake.requests == []


async def test_a_bucket_that_cannot_be_written_is_an_error_before_a_start(
    make_fake: MakeFake, tmp_path: Path
) -> None:
    fake = await make_fake()
    (tmp_path / "taken").write_text("a file where the prefix would be")
    bucket = Bucket(LocalStore(tmp_path), "taken")
    with pytest.raises(DownloadError, match=r"taken/.* can't be used") as failed:
        await export_contacts(bucket, **fake.credentials)
    assert str(failed.value.url).startswith(f"{bucket}/")
    assert fake.requests == []


def test_a_bucket_is_not_pickled_with_the_credentials_of_its_store() -> None:
    with pytest.raises(TypeError, match="can't be pickled"):
        pickle.dumps(Bucket(MemoryStore()))


@pytest.mark.parametrize(
    ("target", "variable"),
    [("az://container/prefix", "AZURE_STORAGE_ACCOUNT_NAME"), ("s3://bucket", "AWS_ACCESS_KEY_ID")],
)
def test_what_the_environment_lacks_for_a_store_is_said(
    monkeypatch: pytest.MonkeyPatch, target: str, variable: str
) -> None:
    for name in ("AZURE_STORAGE_ACCOUNT_NAME", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s3cr3t")
    with pytest.raises(DownloadError, match="Set the credentials in the environment") as failed:
        Bucket.from_url(target)
    assert variable in str(failed.value)
    assert "s3cr3t" not in str(failed.value)


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("s3://key:s3cr3t@bucket/prefix", "without user, password, query and fragment"),
        ("az://container/prefix?sv=1&sig=s3cr3t", "without user, password, query and fragment"),
        ("s3://bucket/prefix#s3cr3t", "without user, password, query and fragment"),
        ("https://account.blob.core.windows.net/c?sig=s3cr3t", "without user, password, query"),
        ("https://bucket.s3.amazonaws.com/prefix", "begins with s3://"),
        ("ftp://host/directory", "begins with s3://"),
        ("s3:///prefix", "must name a bucket"),
        ("memory://a/b//c", "empty parts"),
        ("memory://a/../c", "empty parts"),
        ("s3://bucket/a\nb", "begins with s3://"),
        (Path("s3://bucket/prefix"), "a url that became a path"),
        ("file://other-host/directory", "file url of this machine"),
    ],
)
async def test_a_target_that_is_not_a_bucket_is_refused_and_shows_no_secret(
    make_fake: MakeFake, make_client: MakeClient, target: Any, said: str
) -> None:
    fake = await make_fake()
    with pytest.raises(ValueError, match=said) as failed:
        await make_client(fake).fetch(ID, target)
    assert "s3cr3t" not in str(failed.value)
    assert fake.requests == []


def test_a_bucket_takes_stores_of_obstore_alone() -> None:
    with pytest.raises(TypeError, match="store of obstore, not str"):
        Bucket("s3://bucket")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="prefix must be text"):
        Bucket(MemoryStore(), 1)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="prefix must not"):
        Bucket(MemoryStore(), "a/../b")


def test_a_bucket_is_walked_like_a_path() -> None:
    bucket = Bucket(MemoryStore(), "/backups/")
    deeper = bucket / "2026-01-01"
    assert (str(deeper), deeper.name) == ("memory:///backups/2026-01-01", "2026-01-01")
    assert (deeper.parent, repr(bucket)) == (bucket, "Bucket('memory:///backups')")
    deeper.create("a", b"1")
    bucket.create("b", b"2")
    assert (names(bucket), bucket.list()[1], names(deeper)) == (["b"], ["2026-01-01"], ["a"])


# Reading what is in a bucket.


async def test_what_is_in_a_bucket_is_read_as_from_a_directory(
    make_fake: MakeFake, make_client: MakeClient, tmp_path: Path, memory: str
) -> None:
    fake = await make_fake()
    await fake.add_export(export_id=ID, contacts=500, files=3)
    result = await make_client(fake).fetch(ID, memory)
    await make_client(fake).fetch(ID, tmp_path)
    rows = await asyncio.to_thread(lambda: list(read_contacts(tmp_path)))
    table = await asyncio.to_thread(lambda: read_arrow(tmp_path).read_all())

    def read(source: Any) -> None:
        assert list(read_contacts(source)) == rows
        assert read_arrow(source).read_all() == table
        assert write_parquet(source, tmp_path / "contacts.parquet") == 500

    sources: list[Any] = [
        memory,
        Bucket.from_url(memory),
        result,
        [file.url for file in result.files],
    ]
    for source in sources:
        await asyncio.to_thread(read, source)
        async with read_contacts_async(source) as batches:
            assert [row async for batch in batches for row in batch] == rows
    await asyncio.to_thread(lambda: [*read_contacts(result.files[1].url)])

    def compare() -> None:
        with compare_exports(memory, tmp_path) as comparison:
            assert comparison.summary.unchanged == 500

    await asyncio.to_thread(compare)


async def test_contacts_are_written_as_parquet_into_a_bucket(
    make_fake: MakeFake, make_client: MakeClient, tmp_path: Path, bucket: Bucket
) -> None:
    fake = await make_fake()
    await fake.add_export(export_id=ID, contacts=500, files=3)
    await make_client(fake).fetch(ID, bucket)

    def write() -> None:
        assert write_parquet(bucket, bucket / "all.parquet") == 500
        assert write_parquet(bucket, bucket / "parts", one_file_per_part=True) == 500
        table = read_arrow(bucket).read_all()
        assert pyarrow.parquet.read_table(io.BytesIO(content(bucket, "all.parquet"))) == table
        assert names(bucket / "parts") == [f"{ID}-{n:05}.parquet" for n in (1, 2, 3)]
        with pytest.raises(ValueError, match="has no name"):
            write_parquet(bucket, Bucket(MemoryStore()))

    await asyncio.to_thread(write)


async def test_parquet_that_can_not_be_written_whole_is_not_there(
    tmp_path: Path, bucket: Bucket
) -> None:
    broken = gzip.compress(BODY)[:-8] + bytes(8)
    (tmp_path / "broken.csv.gz").write_bytes(broken)

    def write() -> None:
        with pytest.raises(CorruptDownloadError):
            write_parquet(tmp_path / "broken.csv.gz", bucket / "all.parquet")

    await asyncio.to_thread(write)
    assert everything(bucket, tmp_path) == []


async def test_the_exports_in_a_bucket_are_found(
    make_fake: MakeFake, make_client: MakeClient, memory: str
) -> None:
    fake = await make_fake()
    await fake.add_export(export_id=ID, contacts=10)
    result = await make_client(fake).fetch(ID, memory)
    bucket = Bucket.from_url(memory)
    bucket.create("other.manifest.json", b"{")
    found, damaged = await asyncio.to_thread(find_exports, memory)
    assert (found.export_id, found.state, found.contact_count) == (ID, "complete", 10)
    assert (found.target, found.directory) == (bucket, None)
    assert (found.files, found.manifest) == ((result.files[0].url,), result.manifest_url)
    assert (damaged.export_id, damaged.state) == ("other", "damaged")


async def test_a_missing_object_is_named_when_it_is_read(
    make_fake: MakeFake, make_client: MakeClient, memory: str
) -> None:
    fake = await make_fake()
    await fake.add_export(export_id=ID, contacts=100, files=2)
    result = await make_client(fake).fetch(ID, memory)
    Bucket.from_url(memory).delete(result.files[1].name)
    for source in (memory, result):
        with pytest.raises(DownloadError, match="is missing, and the manifest") as failed:
            read_contacts(source)
        assert failed.value.url == result.files[1].url
    with pytest.raises(FileNotFoundError):
        read_contacts(result.files[1].url)
    with pytest.raises(DownloadError, match="Nothing of export another"):
        read_contacts(memory, export_id="another")
    with pytest.raises(DownloadError, match="No export is in"):
        read_contacts(f"{memory}/nothing")
    with pytest.raises(ValueError, match="must not mix files and buckets"):
        read_contacts([memory])


async def test_an_object_that_is_replaced_while_it_is_read_is_an_error(
    make_fake: MakeFake, make_client: MakeClient, memory: str
) -> None:
    fake = await make_fake()
    await fake.add_export(export_id=ID, bodies=[BODY])
    await make_client(fake).fetch(ID, memory)
    bucket = Bucket.from_url(memory)

    def read() -> None:
        rows = read_contacts(memory)
        stored = bucket.head(f"{ID}-00001.csv")
        assert stored is not None
        bucket.update(stored.name, BODY, stored)
        with pytest.raises(CorruptDownloadError, match="was replaced or deleted"):
            next(rows)

    await asyncio.to_thread(read)


def test_a_bucket_of_a_url_may_be_sent_to_another_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s3cr3t")
    bucket = Bucket.from_url("s3://exports/prefix") / "deeper"
    data = pickle.dumps(bucket)
    assert b"s3cr3t" not in data
    assert str(pickle.loads(data)) == "s3://exports/prefix/deeper"
