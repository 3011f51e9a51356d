"""The seam to the disk: threads that are waited for, and files that are never left open."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from io import FileIO
from pathlib import Path
from typing import Any

import pytest

from sendgrid_exports import DownloadPolicy, ExportClient, InsufficientDiskSpaceError, Verify
from sendgrid_exports import disk as disk_module
from sendgrid_exports.disk import (
    Disk,
    Steps,
    append,
    free_space,
    replace_file,
)
from sendgrid_exports.settings import Limits
from sendgrid_exports.testing import Delay, FakeClock, FakeSendGrid, Stall
from sendgrid_exports.transfer import checking
from sendgrid_exports.transfer.checks import Checked
from sendgrid_exports.transfer.folder import open_folder
from sendgrid_exports.transfer.lock import Lock
from sendgrid_exports.transfer.manifest import read_manifest
from tests.integration.conftest import MakeClient, MakeFake

DESCRIPTORS = Path("/proc/self/fd")


@pytest.fixture
def disk() -> Iterator[Disk]:
    with Disk(2) as disk:
        yield disk


async def test_a_cancel_waits_for_one_step_of_long_work_and_closes_what_it_has_open(
    disk: Disk,
) -> None:
    begun, may_end = threading.Event(), threading.Event()
    seen: list[str] = []

    def work() -> Steps[None]:
        try:
            while True:
                begun.set()
                may_end.wait(10)
                seen.append("step")
                yield
        finally:
            seen.append(threading.current_thread().name)
            raise OSError(errno.ENOSPC, "No space left on device")

    task = asyncio.create_task(disk.run_long(work()))
    while not begun.is_set():
        await asyncio.sleep(0.005)
    task.cancel()
    for _ in range(5):
        await asyncio.sleep(0)
    assert not task.done()
    may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    step, closed_in = seen
    assert step == "step"
    assert closed_in.startswith("sendgrid-exports")


async def test_long_work_that_waits_for_its_turn_can_be_cancelled(disk: Disk) -> None:
    may_end = threading.Event()

    def work() -> Steps[bool]:
        assert may_end.wait(10)
        yield
        return True

    under_way = [asyncio.create_task(disk.run_long(work())) for _ in range(2)]
    await asyncio.sleep(0)
    waiting = asyncio.create_task(disk.run_long(work()))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    may_end.set()
    assert await asyncio.gather(*under_way) == [True, True]


async def test_long_work_lets_others_have_their_turn_in_between(disk: Disk) -> None:
    ended: list[str] = []

    def work(name: str, steps: int) -> Steps[str]:
        for _ in range(steps):
            yield
        ended.append(name)
        return name

    sizes = {"long": 3000, "longer": 5000, "short": 40, "shorter": 1, "none": 0}
    results = await asyncio.gather(*(disk.run_long(work(*size)) for size in sizes.items()))
    assert results == list(sizes)
    assert ended[-2:] == ["long", "longer"]


async def test_two_may_do_long_work_at_once_and_not_three() -> None:
    begun: list[int] = []
    may_end = threading.Event()

    def work(number: int) -> Steps[None]:
        begun.append(number)
        assert may_end.wait(10)
        yield

    with Disk(6) as disk:
        tasks = [asyncio.create_task(disk.run_long(work(number))) for number in range(4)]
        while len(begun) < 2:
            await asyncio.sleep(0.001)
        # A third would have begun by the time another thread has done something.
        await disk.run(int)
        assert sorted(begun) == [0, 1]
        may_end.set()
        await asyncio.gather(*tasks)
    assert sorted(begun) == [0, 1, 2, 3]


async def test_an_error_of_long_work_is_raised(disk: Disk) -> None:
    def work() -> Steps[None]:
        yield
        raise OSError(errno.EIO, "the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        await disk.run_long(work())


@pytest.mark.skipif(not DESCRIPTORS.is_dir(), reason="descriptors are listed on Linux")
def test_no_part_file_stays_open_when_the_event_loop_ends(tmp_path: Path) -> None:
    async def main() -> None:
        async with FakeSendGrid() as fake:
            fake.inject(Stall(after=5_000_000), times=None)
            export_id = await fake.add_export(bodies=[b"," * 6_000_000])
            client = ExportClient(fake.api_key, base_url=fake.base_url)
            fetching = asyncio.create_task(client.fetch(export_id, tmp_path))
            while not list(tmp_path.glob("*-00001.part")):
                await asyncio.sleep(0.005)
            # As at the end of `asyncio.run`: every task at once, not only the outermost.
            others = asyncio.all_tasks() - {asyncio.current_task()}
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)
            assert fetching.cancelled()
            await client.close()

    asyncio.run(main())
    assert not open_below(tmp_path)


@pytest.fixture
def pipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a pipe that a part file can be, which hangs until its other end is read."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    monkeypatch.setattr(disk_module, "_open_at", lambda path, _: FileIO(path, "wb"))
    return path


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_a_cancel_while_a_part_file_is_opened_waits_and_leaves_it_closed(
    pipe: Path, disk: Disk
) -> None:
    async def write() -> None:
        part = disk.part(pipe, 0)
        try:
            await part.write(memoryview(b"one"))
        finally:
            await part.close()

    opening = asyncio.create_task(write())
    await settle()
    opening.cancel()
    await settle()
    waited = not opening.done()
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    with pytest.raises(asyncio.CancelledError):
        await opening
    assert waited
    # Its other end is closed, and nothing was written.
    assert os.read(reader, 1) == b""
    os.close(reader)


async def test_a_write_that_was_cancelled_is_over_before_the_file_is_closed(
    pipe: Path, disk: Disk
) -> None:
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    block = bytes(1 << 20)
    part = disk.part(pipe, 0)
    # Far more than a pipe holds.
    writing = asyncio.create_task(part.write(memoryview(block)))
    while not (received := read(reader)):
        await asyncio.sleep(0.001)
    writing.cancel()
    closing = asyncio.create_task(part.close())
    await settle()
    assert not writing.done()
    assert not closing.done()
    while not closing.done():
        received += read(reader)
        await asyncio.sleep(0.001)
    with pytest.raises(asyncio.CancelledError):
        await writing
    assert received + read(reader) == block
    os.close(reader)


def read(descriptor: int) -> bytes:
    """Return what is in a pipe now."""
    try:
        return os.read(descriptor, 1 << 20)
    except BlockingIOError:
        return b""


def open_below(directory: Path) -> list[Path]:
    """Return the files below a directory that this process has open."""
    links = [link.readlink() for link in DESCRIPTORS.iterdir() if link.is_symlink()]
    return [path for path in links if path.is_relative_to(directory)]


@pytest.mark.skipif(not DESCRIPTORS.is_dir(), reason="descriptors are listed on Linux")
@pytest.mark.parametrize("cancels", [1, 2, 3])
@pytest.mark.parametrize("everything", [False, True], ids=["the close", "every task"])
@pytest.mark.parametrize("opened", [False, True])
async def test_a_close_that_is_cancelled_closes_the_file(
    pipe: Path, disk: Disk, cancels: int, everything: bool, opened: bool
) -> None:
    # The thread that writes is busy with another file, a pipe that holds no megabyte.
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    busy, part = disk.part(pipe, 0), disk.part(pipe.with_name("x.part"), 0)
    if opened:
        await part.write(memoryview(b"one"))
    other = asyncio.create_task(busy.write(memoryview(bytes(1 << 20))))
    while not read(reader):
        await asyncio.sleep(0.001)
    writing = asyncio.create_task(part.write(memoryview(b"two")))
    await settle()
    closing = asyncio.create_task(part.close())
    await settle()
    for _ in range(cancels):
        for task in asyncio.all_tasks() if everything else {writing, closing}:
            if task is not asyncio.current_task():
                task.cancel()
        await settle()
    while not closing.done():
        read(reader)
        await asyncio.sleep(0.001)
    ends = await asyncio.gather(other, writing, closing, return_exceptions=True)
    assert isinstance(ends[-1], asyncio.CancelledError)
    await busy.close()
    os.close(reader)
    assert not open_below(pipe.parent)


def with_write(monkeypatch: pytest.MonkeyPatch, write: Callable[[FileIO, memoryview], int]) -> None:
    """Let part files be written by `write`."""

    class Disturbed(FileIO):
        def write(self, block: Any, /) -> int:
            return write(self, block)

    monkeypatch.setattr(disk_module, "_open_at", lambda path, _: Disturbed(path, "wb"))


async def test_closing_waits_for_the_write_in_flight_which_may_fail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, disk: Disk
) -> None:
    begun, may_fail = threading.Event(), threading.Event()

    def fail(file: FileIO, _: memoryview) -> int:
        begun.set()
        may_fail.wait(10)
        raise OSError(errno.EIO, "the disk is gone")

    with_write(monkeypatch, fail)
    part = disk.part(tmp_path / "x.part", 0)
    writing = asyncio.create_task(part.write(memoryview(b"one")))
    while not begun.is_set():
        await asyncio.sleep(0.001)
    closing = asyncio.create_task(part.close())
    await settle()
    assert not closing.done()
    may_fail.set()
    await closing
    with pytest.raises(OSError, match="the disk is gone"):
        await writing


async def test_a_short_write_is_continued(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, disk: Disk
) -> None:
    sizes: list[int] = []

    def reluctant(file: FileIO, block: memoryview) -> int:
        """Take three bytes at a time, as a disk may that is nearly full."""
        sizes.append(os.write(file.fileno(), block[:3]))
        return sizes[-1]

    with_write(monkeypatch, reluctant)
    path = tmp_path / "x.part"
    part = disk.part(path, 0)
    await part.write(memoryview(b"0123456"))
    await part.write(memoryview(b"789"))
    await part.close()
    assert await disk.run(path.read_bytes) == b"0123456789"
    assert sizes == [3, 3, 1, 3]


async def test_files_finished_at_once_are_published_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, disk: Disk
) -> None:
    written: list[Path] = []

    def counted(path: Path, data: bytes) -> None:
        written.append(path)
        replace_file(path, data)

    monkeypatch.setattr("sendgrid_exports.transfer.folder.replace_file", counted)
    checked = Checked(
        size=1, sha256=None, compressed=False, kind=None, contacts=None, verified_by=()
    )
    policy = DownloadPolicy(verify=Verify.LENGTH)
    async with open_folder(tmp_path, "x", disk, FakeClock()) as folder:

        async def publish(number: int) -> None:
            await disk.run(folder.names.part(number).write_bytes, b"x")
            file = await folder.publish(number, "csv", checked, None, policy)
            saved = read_manifest(await disk.run(folder.names.manifest.read_bytes), "x")
            assert saved is not None
            assert file.path.name in {entry.name for entry in saved.files}
            assert await disk.run(file.path.read_bytes) == b"x"

        await asyncio.gather(*(publish(number) for number in range(1, 30)))
        assert {entry.number for entry in folder.manifest.files} == set(range(1, 30))
    assert len(written) < 15


@pytest.mark.skipif(not DESCRIPTORS.is_dir(), reason="descriptors are listed on Linux")
@pytest.mark.parametrize("size", [100, 3_000_000])
async def test_a_file_is_synced_then_named_in_the_manifest_then_renamed_and_its_directory_synced(
    make_fake: MakeFake,
    make_client: MakeClient,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    size: int,
) -> None:
    final, manifest = tmp_path / "x-00001.csv", tmp_path / "x.manifest.json"
    seen: list[tuple[str, bool, bool]] = []

    def sync(descriptor: int) -> None:
        name = (DESCRIPTORS / str(descriptor)).readlink().name
        named = manifest.exists() and final.name in manifest.read_text()
        seen.append((name, named, final.exists()))

    for name in ("fsync", "fdatasync"):
        monkeypatch.setattr(os, name, sync)
    fake = await make_fake()
    await fake.add_export(export_id="x", bodies=[b"EMAIL\n".ljust(size, b"\n")])
    await make_client(fake).fetch("x", tmp_path)
    last = seen.index((tmp_path.name, True, True))
    assert seen[last - 3 : last + 1] == [
        ("x-00001.part", False, False),
        ("x.manifest.json.part", False, False),
        (tmp_path.name, True, False),
        (tmp_path.name, True, True),
    ]
    # What comes whole in one block is synced for its name alone.
    assert size > 100 or [name for name, *_ in seen].count("x-00001.part") == 1


@pytest.mark.skipif(not DESCRIPTORS.is_dir(), reason="descriptors are listed on Linux")
async def test_a_name_that_a_killed_run_did_not_give_is_durable_before_anything_is_said_of_it(
    make_fake: MakeFake, make_client: MakeClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = await make_fake()
    await fake.add_export(export_id="x", bodies=[b"EMAIL\n".ljust(100, b"\n")])
    [file] = (await make_client(fake).fetch("x", tmp_path)).files
    assert file.path is not None
    # As between the manifest and the rename.
    file.path.rename(tmp_path / "x-00001.part")
    synced: list[tuple[str, bool]] = []

    def sync(descriptor: int) -> None:
        name = (DESCRIPTORS / str(descriptor)).readlink().name
        synced.append((name, (tmp_path / "x-00001.csv").exists()))

    requests = len(fake.storage_requests)
    monkeypatch.setattr(os, "fsync", sync)
    await make_client(fake).fetch("x", tmp_path)
    assert (tmp_path.name, True) in synced
    assert file.path.read_bytes() == b"EMAIL\n".ljust(100, b"\n")
    assert len(fake.storage_requests) == requests


def test_what_can_not_be_appended_leaves_no_half_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.journal"
    append(path, b"one\n")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            append(path, b"two\n")
    assert path.read_bytes() == b"one\n"
    append(path, b"three\n")
    assert path.read_bytes() == b"one\nthree\n"


@pytest.mark.parametrize("error", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
async def test_a_file_system_without_flock_is_good_enough(
    make_fake: MakeFake,
    make_client: MakeClient,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: int,
) -> None:
    def no_flock(*_: Any) -> None:
        raise OSError(error, "no locks here")

    monkeypatch.setattr(fcntl, "flock", no_flock)
    fake = await make_fake(contacts=10)
    result = await make_client(fake).fetch(await fake.add_export(), tmp_path)
    assert result.contact_count == 10
    assert not list(tmp_path.glob("*.lock"))


def test_a_lock_that_somebody_took_over_is_left_to_them(tmp_path: Path) -> None:
    path = tmp_path / "x.lock"
    lock = Lock(path)
    assert lock.acquire()
    path.write_bytes(b"somebody else's")
    assert not lock.is_held()
    lock.release()
    assert path.read_bytes() == b"somebody else's"


async def test_threads_are_there_while_somebody_uses_the_disk() -> None:
    disk = Disk(1)
    with disk:
        thread = await disk.run(threading.current_thread)
        with disk:
            assert await disk.run(threading.current_thread) is thread
        assert await disk.run(threading.current_thread) is thread
    thread.join(10)
    assert not thread.is_alive()
    with disk:
        assert await disk.run(threading.current_thread) is not thread


async def test_a_file_system_with_room_to_spare_is_not_asked_for_every_file(
    make_fake: MakeFake, make_client: MakeClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = []

    def look(directory: Path) -> int | None:
        looks.append(directory)
        return free_space(directory)

    monkeypatch.setattr("sendgrid_exports.transfer.folder.free_space", look)
    fake = await make_fake(files=20)
    result = await make_client(fake).fetch(await fake.add_export(), tmp_path)
    assert len(result.files) == 20
    # As many as began together, before the first had an answer.
    assert len(looks) <= Limits().first_connections


@pytest.mark.parametrize(
    ("free", "seconds"), [pytest.param(1000, 0, id="half"), pytest.param(10**12, 2, id="later")]
)
async def test_a_file_system_is_asked_again_where_half_is_needed_or_a_second_later(
    make_fake: MakeFake,
    make_client: MakeClient,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    free: int,
    seconds: float,
) -> None:
    # Somebody else fills it between the two files.
    seen = [free, 100]
    monkeypatch.setattr("sendgrid_exports.transfer.folder.free_space", lambda _: seen.pop(0))
    fake = await make_fake()
    fake.inject(Delay(seconds), skip=1)
    export_id = await fake.add_export(bodies=[b"," * 600, b"," * 600])
    client = make_client(fake, downloads=DownloadPolicy(connections=1))
    with pytest.raises(InsufficientDiskSpaceError, match="has 100 bytes free"):
        await client.fetch(export_id, tmp_path)


async def test_a_small_file_takes_few_hops_to_a_thread(
    make_fake: MakeFake, make_client: MakeClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hops: list[object] = []

    class Counting(ThreadPoolExecutor):
        def submit(self, work: Any, /, *args: Any, **kwargs: Any) -> Any:
            hops.append(work)
            return super().submit(work, *args, **kwargs)

    monkeypatch.setattr(disk_module, "Threads", Counting)
    fake = await make_fake(contacts=100)
    counts = []
    for files in (10, 40):
        hops.clear()
        client = make_client(fake, downloads=DownloadPolicy(verify=Verify.LENGTH))
        await client.fetch(await fake.add_export(files=files), tmp_path)
        counts.append(len(hops))
    few, many = counts
    # To write it, to check it, to sync it, and to publish it, which several may share.
    assert many - few <= 4 * 30


async def test_two_files_of_an_export_are_inflated_at_once_and_not_more(
    make_fake: MakeFake, make_client: MakeClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: set[Path] = set()
    counts: list[int] = []

    def counted(source: Path, target: Path) -> Steps[None]:
        begun.add(source)
        counts.append(len(begun))
        for _ in range(2000):
            # The first may be done before the second arrives: it gives its turn away meanwhile.
            if max(counts) > 1:
                break
            yield
        yield from checking.inflate(source, target)
        begun.remove(source)

    monkeypatch.setattr("sendgrid_exports.transfer.folder.inflate", counted)
    monkeypatch.setattr(disk_module, "_STEPS_A_TURN", 1)
    fake = await make_fake(files=8, contacts=20_000)
    client = make_client(fake, downloads=DownloadPolicy(decompress=True))
    result = await client.fetch(await fake.add_export(), tmp_path)
    assert len(result.files) == 8
    assert max(counts) == 2


@pytest.mark.skipif(
    sys.platform != "linux", reason="elsewhere threads have no niceness of their own"
)
async def test_long_work_gives_way_to_all_the_rest(disk: Disk) -> None:
    def niceness() -> int:
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    def work() -> Steps[int]:
        yield
        return niceness()

    assert await disk.run(niceness) == niceness()
    assert await disk.run_long(work()) == min(niceness() + 10, 19)
