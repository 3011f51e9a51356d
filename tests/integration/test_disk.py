"""The seam to the disk: threads that are waited for, and files that are never left open."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import attrs
import pytest
from sendgrid_exports.transfer.plan import FEW

from sendgrid_exports import DownloadPolicy, ExportClient, InsufficientDiskSpaceError, Verify
from sendgrid_exports import disk as disk_module
from sendgrid_exports.disk import (
    Disk,
    Steps,
    _OneFile,
    append,
    free_space,
    publish,
)
from sendgrid_exports.testing import Delay, FakeSendGrid, Stall
from sendgrid_exports.transfer import proof, reading
from sendgrid_exports.transfer.folder import Folder
from sendgrid_exports.transfer.lock import Lock
from sendgrid_exports.transfer.manifest import FileEntry, Manifest, read_manifest, with_files
from sendgrid_exports.transfer.names import Names
from tests.integration.conftest import MakeClient, MakeFake

DESCRIPTORS = Path("/proc/self/fd")

ENTRY = FileEntry(
    number=1,
    name="x-00001.csv",
    size=1,
    sha256=None,
    mtime_ns=0,
    compressed=False,
    etag=None,
    raw_size=1,
    raw_compressed=False,
    contacts=None,
    verify=Verify.LENGTH,
    verified_by=(),
)


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
        may_end.wait(10)
        yield
        return True

    under_way = [asyncio.create_task(disk.run_long(work())) for _ in range(2)]
    await asyncio.sleep(0)
    waiting = asyncio.create_task(disk.run_long(work()))
    await asyncio.sleep(0)
    waiting.cancel()
    may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await waiting
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
        # The pool is in order: what was given to it before this has begun by now.
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
    still_open = [link.readlink() for link in DESCRIPTORS.iterdir() if link.is_symlink()]
    assert not [path for path in still_open if path.is_relative_to(tmp_path)]


@pytest.mark.parametrize("last", [False, True])
async def test_a_cancel_while_a_part_file_is_opened_waits_and_leaves_it_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, disk: Disk, *, last: bool
) -> None:
    # A pipe is opened for writing only once somebody reads: until then the thread hangs in it.
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    begun = threading.Event()

    def opener(position: int, path: str, flags: int) -> int:
        begun.set()
        return os.open(path, os.O_WRONLY)

    monkeypatch.setattr(disk_module, "_open_at", opener)

    async def write() -> None:
        part = disk.part(pipe, 0)
        try:
            await part.write([], last=last)
            await part.settle()
        finally:
            await part.close()

    opening = asyncio.create_task(write())
    while not begun.is_set():
        await asyncio.sleep(0.005)
    opening.cancel()
    for _ in range(5):
        await asyncio.sleep(0)
    waited = not opening.done()
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    with pytest.raises(asyncio.CancelledError):
        await opening
    assert waited
    assert os.read(reader, 1) == b""
    os.close(reader)


class Held:
    """A file whose closing is held up, and seen."""

    def __init__(self) -> None:
        self.may_close = threading.Event()
        self.closing = threading.Event()
        self.closed = False

    def close(self) -> None:
        self.closing.set()
        self.may_close.wait(10)
        self.closed = True


async def test_a_file_is_closed_after_its_last_call_and_not_before() -> None:
    with ThreadPoolExecutor(2) as pool:
        file, write_ends = Held(), threading.Event()
        threads = _OneFile(pool)
        threads.submit(lambda: file).result()
        threads.submit(write_ends.wait, 10)
        closing = asyncio.create_task(threads.close())
        await asyncio.sleep(0)
        # The pool is in order: what was given to it before this has begun by now.
        await asyncio.wrap_future(pool.submit(int))
        assert not file.closing.is_set()
        write_ends.set()
        while not file.closing.is_set():
            await asyncio.sleep(0.001)
        for _ in range(5):
            await asyncio.sleep(0)
        assert not closing.done()
        file.may_close.set()
        await closing
        assert file.closed


async def test_a_write_begins_only_after_the_one_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, disk: Disk
) -> None:
    write, may_write = disk_module._write_some, threading.Event()

    def held_up(descriptor: int, buffers: list[memoryview]) -> int:
        may_write.wait(10)
        return write(descriptor, buffers)

    monkeypatch.setattr(disk_module, "_write_some", held_up)
    path = tmp_path / "x.part"
    part = disk.part(path, 0)
    await part.write([b"one"])
    second = asyncio.create_task(part.write([b"two"], last=True))
    for _ in range(5):
        await asyncio.sleep(0)
    assert not second.done()
    may_write.set()
    await second
    await part.close()
    assert await disk.run(path.read_bytes) == b"onetwo"


@pytest.mark.parametrize("last", [False, True])
async def test_closing_waits_for_the_write_in_flight_which_may_fail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, disk: Disk, *, last: bool
) -> None:
    may_fail = threading.Event()

    def fail(*_: object) -> int:
        may_fail.wait(10)
        raise OSError(errno.EIO, "the disk is gone")

    monkeypatch.setattr(disk_module, "_write_some", fail)
    part = disk.part(tmp_path / "x.part", 0)
    await part.write([b"one"], last=last)
    closing = asyncio.create_task(part.close())
    for _ in range(5):
        await asyncio.sleep(0)
    assert not closing.done()
    may_fail.set()
    await closing


@pytest.mark.parametrize("last", [False, True])
async def test_a_short_write_is_gone_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, disk: Disk, *, last: bool
) -> None:
    sizes: list[int] = []

    def reluctant(descriptor: int, buffers: list[memoryview]) -> int:
        """Take three bytes at a time, across chunks, as a disk may that is nearly full."""
        sizes.append(os.write(descriptor, b"".join(buffers)[:3]))
        return sizes[-1]

    monkeypatch.setattr(disk_module, "_write_some", reluctant)
    path = tmp_path / "x.part"
    part = disk.part(path, 0)
    await part.write([b"01", b"", b"2345", b"6", b"789"], last=last)
    await part.close()
    assert await disk.run(path.read_bytes) == b"0123456789"
    assert sizes == [3, 3, 3, 1]


async def test_manifests_saved_at_once_are_written_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, disk: Disk
) -> None:
    writes: list[Manifest] = []
    write = Folder._write

    def counted(self: Folder, manifest: Manifest) -> None:
        writes.append(manifest)
        write(self, manifest)

    monkeypatch.setattr(Folder, "_write", counted)
    names = Names(tmp_path, "x")
    folder = Folder(names, tmp_path, Lock(names.lock), Manifest(export_id="x"), {}, disk)

    async def finish(number: int) -> None:
        await folder.save(
            lambda known, number=number: with_files(known, [attrs.evolve(ENTRY, number=number)])
        )
        data = await disk.run(names.manifest.read_bytes)
        saved = read_manifest(data, "x")
        assert saved is not None
        assert number in {entry.number for entry in saved.files}

    await asyncio.gather(*(finish(number) for number in range(1, 30)))
    assert len(writes) <= 2


@pytest.mark.skipif(not DESCRIPTORS.is_dir(), reason="descriptors are listed on Linux")
def test_a_file_is_synced_before_it_gets_its_name_and_its_directory_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    part, final = tmp_path / "a.part", tmp_path / "a.csv"
    part.write_bytes(b"x")
    seen: list[tuple[str, bool]] = []

    def fsync(descriptor: int) -> None:
        seen.append(((DESCRIPTORS / str(descriptor)).readlink().name, final.exists()))

    monkeypatch.setattr(os, "fsync", fsync)
    publish(part, final)
    assert seen == [("a.part", False), (tmp_path.name, True)]


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

    monkeypatch.setattr("sendgrid_exports.transfer.progress.free_space", look)
    fake = await make_fake(files=20)
    result = await make_client(fake).fetch(await fake.add_export(), tmp_path)
    assert len(result.files) == 20
    # As many as began together, before the first had an answer.
    assert len(looks) <= FEW


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
    seen = iter([free, 100])
    monkeypatch.setattr("sendgrid_exports.transfer.progress.free_space", lambda _: next(seen))
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
    # To write it, to publish it, and at most one for the manifest, which several may share.
    assert many - few <= 3 * 30


def test_a_file_that_waits_for_its_turn_to_be_proved_is_not_open() -> None:
    assert disk_module._STEPS_A_TURN * reading._READ > proof._STEP


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
        yield from reading.inflate(source, target)
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
