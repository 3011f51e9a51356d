"""File systems and systems that do less than a local disk of Linux, or do it wrongly."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import json
import os
import stat
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest

from sendgrid_exports import (
    DownloadError,
    DownloadInProgressError,
    DownloadPolicy,
    Event,
    ExportClient,
    FileFinished,
    SystemClock,
    TransportError,
    export_contacts,
    verify_download,
)
from sendgrid_exports.cli.exits import Failure
from sendgrid_exports.settings import Limits
from sendgrid_exports.testing import FakeSendGrid
from sendgrid_exports.transfer.names import parse_name
from tests.integration.conftest import MakeClient, MakeFake

CHILD = Path(__file__).with_name("other_system.py")
BROKEN = Path("/proc/self/mem")


def refuse(number: int) -> Callable[..., NoReturn]:
    """Return a call on a descriptor that fails, without a filename, as the system's calls do."""

    def call(*_: object) -> NoReturn:
        raise OSError(number, os.strerror(number))

    return call


@pytest.fixture
async def fake(make_fake: MakeFake) -> FakeSendGrid:
    fake: FakeSendGrid = await make_fake(contacts=10)
    return fake


@pytest.fixture
def client(fake: FakeSendGrid, make_client: MakeClient) -> ExportClient:
    return make_client(fake)


# Directories that can't be synced, disks that fail


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EBADF])
async def test_the_sync_of_a_directory_is_done_without_where_there_is_none(
    fake: FakeSendGrid,
    client: ExportClient,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
) -> None:
    fsync = os.fsync

    def files_only(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            refuse(number)()
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", files_only)
    result = await client.fetch(await fake.add_export(), tmp_path)
    assert result.contact_count == 10


@pytest.mark.parametrize("limits", [Limits(block=256, sync_bytes=256)])
@pytest.mark.parametrize("name", ["fsync", "fdatasync", "ftruncate", "write", "pread", "flock"])
async def test_an_error_of_the_disk_names_the_file(
    fake: FakeSendGrid,
    client: ExportClient,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    module = fcntl if name == "flock" else os
    call = getattr(module, name)

    def fail(descriptor: int, *rest: object) -> Any:
        there = {path.stat().st_ino for path in tmp_path.iterdir()}
        is_there = os.fstat(descriptor).st_ino in there
        return (refuse(errno.EIO) if is_there else call)(descriptor, *rest)

    monkeypatch.setattr(module, name, fail)
    with pytest.raises(OSError, match=r"Input/output error|I/O error") as caught:
        await client.fetch(await fake.add_export(), tmp_path)
    assert Path(caught.value.filename).parent == tmp_path
    assert caught.value.filename in str(caught.value)


@pytest.mark.parametrize(
    ("name", "limits"),
    [
        ("fdatasync", Limits(block=4096, sync_bytes=16_384, sync_seconds=60.0)),
        ("fsync", Limits(block=4096)),
    ],
)
async def test_bytes_whose_sync_failed_are_downloaded_again(
    make_fake: MakeFake,
    make_client: MakeClient,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    """Linux reports lost pages once: a second sync succeeds although they were never written."""
    fake = await make_fake(contacts=2000, compressed=False)
    export_id = await fake.add_export()
    sync = getattr(os, name)
    failed: list[Path] = []

    def fail_once(descriptor: int) -> None:
        for part in tmp_path.glob("*-00001.part"):
            if part.stat().st_ino == os.fstat(descriptor).st_ino and not failed:
                failed.append(part)
                refuse(errno.EIO)()
        sync(descriptor)

    monkeypatch.setattr(os, name, fail_once)
    with pytest.raises(OSError, match="error") as caught:
        await make_client(fake).fetch(export_id, tmp_path)
    assert caught.value.filename == str(failed[0])
    before = len(fake.storage_requests)
    await make_client(fake).fetch(export_id, tmp_path)
    assert fake.storage_requests[before].headers["Range"].startswith("bytes=0-")


async def test_a_file_that_came_whole_is_kept_where_the_manifest_can_not_be_written(
    make_fake: MakeFake, make_client: MakeClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = await make_fake(contacts=10)
    export_id = await fake.add_export()
    fsync = os.fsync

    def fail(descriptor: int) -> None:
        part = tmp_path / f"{export_id}-00001.part"
        manifest = tmp_path / f"{export_id}.manifest.json.part"
        is_manifest = manifest.exists() and os.path.samestat(manifest.stat(), os.fstat(descriptor))
        (refuse(errno.EIO) if is_manifest and part.exists() else fsync)(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(OSError, match="error"):
            await make_client(fake).fetch(export_id, tmp_path)
    before = len(fake.storage_requests)
    result = await make_client(fake).fetch(export_id, tmp_path)
    assert result.contact_count == 10
    assert len(fake.storage_requests) == before


async def test_a_file_that_got_its_name_before_the_disk_failed_stays_in_the_manifest(
    make_fake: MakeFake, make_client: MakeClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = await make_fake(contacts=30)
    export_id = await fake.add_export(files=3)
    fsync = os.fsync
    synced: dict[int, int] = {}
    failed: list[Path] = []

    def fail_once(descriptor: int) -> None:
        status = os.fstat(descriptor)
        synced[status.st_ino] = synced.get(status.st_ino, 0) + 1
        named = list(tmp_path.glob("*.csv.gz"))
        if stat.S_ISDIR(status.st_mode) and named and not failed:
            failed.extend(named)
            # Until the others wait for their names.
            for _ in range(500):
                parts = [synced.get(path.stat().st_ino, 0) for path in tmp_path.glob("*-*.part")]
                if all(count > 0 for count in parts):
                    break
                time.sleep(0.001)
            time.sleep(0.05)
            refuse(errno.EIO)()
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", fail_once)
    with pytest.raises(OSError, match="error"):
        await make_client(fake).fetch(export_id, tmp_path)
    manifest = json.loads((tmp_path / f"{export_id}.manifest.json").read_bytes())
    assert {path.name for path in failed} <= {entry["name"] for entry in manifest["files"]}


async def test_a_file_is_announced_once_its_name_is_durable(
    make_fake: MakeFake, make_client: MakeClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = await make_fake(contacts=30)
    export_id = await fake.add_export(files=3)
    fsync, replace = os.fsync, os.replace
    volatile: set[str] = set()
    announced: list[str] = []

    def sync(descriptor: int) -> None:
        names = set(volatile)
        fsync(descriptor)
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            volatile.difference_update(names)

    def rename(source: Path, target: Path) -> None:
        volatile.add(target.name)
        replace(source, target)

    def see(event: Event) -> None:
        if isinstance(event, FileFinished):
            assert event.file.path is not None
            announced.append(event.file.path.name)
            assert announced[-1] not in volatile

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(os, "replace", rename)
    await make_client(fake).fetch(export_id, tmp_path, on_event=see)
    assert len(announced) == 3
    assert not volatile


async def test_an_error_of_the_disk_that_a_directory_meets_names_it(
    fake: FakeSendGrid, client: ExportClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsync = os.fsync

    def fail(descriptor: int) -> None:
        directory = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        (refuse(errno.EIO) if directory else fsync)(descriptor)

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="error") as caught:
        await client.fetch(await fake.add_export(), tmp_path)
    assert caught.value.filename == str(tmp_path)


@pytest.mark.skipif(not BROKEN.exists(), reason="a file that can't be read is Linux's")
async def test_a_file_that_can_not_be_read_is_named(
    fake: FakeSendGrid, client: ExportClient, tmp_path: Path
) -> None:
    result = await client.fetch(await fake.add_export(), tmp_path)
    path = result.files[0].path
    path.unlink()
    path.symlink_to(BROKEN)
    with pytest.raises(OSError, match="Input/output error") as caught:
        await verify_download(tmp_path, result.export.id)
    assert caught.value.filename == str(path)


async def test_a_disk_that_fails_is_found_before_an_export_is_started(
    fake: FakeSendGrid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", refuse(errno.EIO))
    with pytest.raises(OSError, match="error") as caught:
        await export_contacts(tmp_path / "new", api_key=fake.api_key, base_url=fake.base_url)
    assert Path(caught.value.filename).parent == tmp_path / "new"
    assert not fake.requests
    assert not list((tmp_path / "new").iterdir())


# Locks


async def test_a_lock_file_that_is_stale_is_taken_for_one_that_vanished(
    fake: FakeSendGrid, client: ExportClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flock = fcntl.flock
    calls = iter([refuse(errno.ESTALE)] * 3)
    monkeypatch.setattr(fcntl, "flock", lambda *told: next(calls, flock)(*told))
    result = await client.fetch(await fake.add_export(), tmp_path)
    assert result.contact_count == 10
    assert not list(tmp_path.glob("*.lock"))


async def test_a_lock_file_that_stays_stale_is_an_error_that_names_it(
    fake: FakeSendGrid, client: ExportClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fcntl, "flock", refuse(errno.ESTALE))
    export_id = await fake.add_export()
    with pytest.raises(OSError, match="Stale") as caught:
        await client.fetch(export_id, tmp_path)
    assert caught.value.filename == str(tmp_path / f"{export_id}.lock")


async def test_a_lock_file_that_became_stale_is_not_held_any_more(
    fake: FakeSendGrid, client: ExportClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "pread", refuse(errno.ESTALE))
    with pytest.raises(DownloadInProgressError):
        await client.fetch(await fake.add_export(), tmp_path)
    assert not list(tmp_path.glob("*.csv*"))


# Room


@pytest.mark.parametrize(
    "answer",
    [
        refuse(errno.EOPNOTSUPP),
        refuse(errno.ENOSYS),
        refuse(errno.EPERM),
        lambda _: os.statvfs_result((4096, 4096, 0, 0, 0, 0, 0, 0, 0, 255)),
    ],
    ids=["EOPNOTSUPP", "ENOSYS", "EPERM", "0 of 0 bytes"],
)
async def test_room_that_is_unknown_stops_nothing(
    fake: FakeSendGrid,
    client: ExportClient,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    answer: Any,
) -> None:
    monkeypatch.setattr(os, "statvfs", answer)
    result = await client.fetch(await fake.add_export(files=3), tmp_path)
    assert result.contact_count == 10


# Threads


def limit_threads(
    monkeypatch: pytest.MonkeyPatch, most: int, *, of: str = "sendgrid-exports"
) -> None:
    """Let so many threads start whose names begin so, and no more."""
    start, started = threading.Thread.start, list[str]()

    def limited(self: threading.Thread) -> None:
        if self.name.startswith(of):
            if len(started) == most:
                raise RuntimeError("can't start new thread")
            started.append(self.name)
        start(self)

    monkeypatch.setattr(threading.Thread, "start", limited)


@pytest.mark.parametrize("most", [3, 4])
async def test_a_download_does_with_the_threads_it_can_get(
    make_fake: MakeFake,
    make_client: MakeClient,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    most: int,
) -> None:
    fake = await make_fake(contacts=2000, files=8)
    limit_threads(monkeypatch, most)
    client = make_client(fake, downloads=DownloadPolicy(decompress=True))
    result = await client.fetch(await fake.add_export(), tmp_path)
    assert result.contact_count == 2000
    assert sorted({path.suffix for path in tmp_path.iterdir()}) == [".csv", ".json"]


async def test_without_a_single_thread_no_export_is_started_and_it_is_said_why(
    fake: FakeSendGrid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit_threads(monkeypatch, 0)
    with pytest.raises(DownloadError, match=r"can't start new thread.*ulimit -u.*limit of pids"):
        await export_contacts(tmp_path, api_key=fake.api_key, base_url=fake.base_url)
    assert not fake.requests


async def test_a_name_that_no_thread_resolves_is_an_error_of_the_connection(
    fake: FakeSendGrid, make_client: MakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = make_client(fake, base_url=fake.base_url.replace("127.0.0.1", "localhost"))
    limit_threads(monkeypatch, 0, of="asyncio")
    with pytest.raises(TransportError, match=r"can't start new thread.*ulimit -u") as caught:
        await client.get("some-id")
    assert not caught.value.request_sent


def test_the_command_does_not_call_a_limit_of_threads_a_bug() -> None:
    failure = Failure(RuntimeError("can't start new thread"))
    assert failure.exit_code == 1
    assert "ulimit -u" in failure.message
    assert "bug" not in failure.message


# Other systems


@pytest.mark.parametrize("decompress", [False, True])
@pytest.mark.parametrize("system", ["windows", "macos"])
async def test_contacts_are_exported_on_a_system_that_lacks_calls(
    make_fake: MakeFake, tmp_path: Path, system: str, *, decompress: bool
) -> None:
    told = await export_elsewhere(make_fake, tmp_path, system, decompress=decompress)
    assert told == {"contacts": 3000, "ok": True}
    # No lock, journal or part file is left, which is all that Windows might not remove.
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize(("decompress", "ending"), [(False, "part"), (True, "converted.part")])
async def test_a_file_beyond_the_largest_size_is_named_and_what_to_do(
    make_fake: MakeFake, tmp_path: Path, ending: str, *, decompress: bool
) -> None:
    system = "fat, large" if decompress else "fat, small"
    told = await export_elsewhere(make_fake, tmp_path, system, decompress=decompress)
    assert told["errno"] == errno.EFBIG
    ours = parse_name(Path(told["filename"]).name)
    assert ours is not None
    assert ours.ending == ending
    for word in ("4 GiB", "max_file_size=", "--max-file-size", told["filename"]):
        assert word in told["error"]


async def export_elsewhere(
    make_fake: MakeFake, directory: Path, system: str, *, decompress: bool
) -> dict[str, Any]:
    """Export contacts in a process of another system, and return what it tells."""
    fake = await make_fake(contacts=3000, files=2, clock=SystemClock(), statuses=["ready"])
    told = {
        "directory": str(directory),
        "key": fake.api_key,
        "base_url": fake.base_url,
        "decompress": decompress,
    }
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "always::ResourceWarning", str(CHILD), system, json.dumps(told)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, errors = await child.communicate()
    assert (child.returncode, errors.decode()) == (0, "")
    answer: dict[str, Any] = json.loads(out)
    return answer
