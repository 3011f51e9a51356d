"""Disks that are full or can't be written to; processes with too few descriptors or threads."""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from sendgrid_exports import (
    DownloadPolicy,
    Event,
    ExportClient,
    FileStarted,
    InsufficientDiskSpaceError,
    export_contacts,
)
from sendgrid_exports.testing import FakeClock, FakeSendGrid
from tests.components.conftest import MIB, Line, MakeClient, wait_until_durable

if not sys.platform.startswith("linux"):
    pytest.skip("tmpfs and /proc are Linux's", allow_module_level=True)

IN_TURN = DownloadPolicy(connections=1, piece_size=MIB)
NOBODY = 65534


@pytest.fixture
def make_disk(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """Return a function that mounts a disk of so many bytes in memory."""
    disk = tmp_path / "disk"

    def mount(size: int, kind: str = "tmpfs") -> Path:
        disk.mkdir()
        done = subprocess.run(
            ["mount", "-t", kind, "-o", f"size={size}", kind, disk],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            pytest.skip(f"a small disk can't be mounted, which takes root: {done.stderr.strip()}")
        return disk

    if shutil.which("mount") is None:
        pytest.skip("there is no mount command")
    yield mount
    if disk.is_mount():
        subprocess.run(["umount", "--lazy", disk], check=True)


@pytest.fixture
async def fake(closing: AsyncExitStack) -> AsyncIterator[FakeSendGrid]:
    async with FakeSendGrid(compressed=False) as fake:
        yield fake


@pytest.fixture
def client(fake: FakeSendGrid, make_client: MakeClient) -> ExportClient:
    return make_client(fake.base_url, api_key=fake.api_key, downloads=IN_TURN)


def noise(size: int, seed: int = 0) -> bytes:
    return (b"EMAIL\n" + random.Random(seed).randbytes(size))[:size]


def free(directory: Path) -> int:
    return shutil.disk_usage(directory).free


def fill(directory: Path, *, leave: int) -> Path:
    """Take all of the disk but `leave` bytes by a file."""
    ballast = directory / "ballast"
    with ballast.open("wb", buffering=0) as file:
        while (rest := free(directory) - leave) > 0:
            file.write(bytes(min(rest, MIB)))
    return ballast


@pytest.mark.parametrize(
    ("sizes", "connections"), [([32 * MIB], 1), ([32 * MIB], 16), ([3 * MIB] * 3, 16)]
)
async def test_what_has_no_room_is_refused_before_it_flows(
    fake: FakeSendGrid,
    make_client: MakeClient,
    make_disk: Callable[[int], Path],
    sizes: list[int],
    connections: int,
) -> None:
    disk = make_disk(8 * MIB)
    export_id = await fake.add_export(bodies=[noise(size) for size in sizes])
    policy = DownloadPolicy(connections=connections)
    client = make_client(fake.base_url, api_key=fake.api_key, downloads=policy)
    with pytest.raises(InsufficientDiskSpaceError, match="Make room and fetch again") as caught:
        await client.fetch(export_id, disk)
    assert caught.value.path == disk
    assert str(disk) in str(caught.value)
    assert not list(disk.glob("*.csv"))
    if connections == 1:
        [request] = fake.storage_requests
        # The buffers of two sockets and of aiohttp are filled all the same.
        assert request.sent < 4 * MIB
        assert not list(disk.glob("*.part"))


@pytest.mark.parametrize("leave", [MIB // 2, 0])
@pytest.mark.parametrize("connections", [1, 8])
async def test_a_disk_that_fills_up_ends_it_at_once_and_keeps_what_is_durable(
    fake: FakeSendGrid,
    make_client: MakeClient,
    make_disk: Callable[[int], Path],
    line: Line,
    events: list[Event],
    leave: int,
    connections: int,
) -> None:
    disk = make_disk(32 * MIB)
    body = noise(24 * MIB)
    export_id = await fake.add_export(bodies=[body])
    policy = DownloadPolicy(connections=connections, piece_size=MIB)
    # No second passes on that clock: the first sync comes with the sixteenth MiB.
    client = make_client(fake.base_url, api_key=fake.api_key, downloads=policy, clock=FakeClock())

    def eat() -> None:
        wait_until_durable(disk, export_id)
        fill(disk, leave=leave)

    line.before[20] = eat
    started = time.monotonic()
    with pytest.raises(InsufficientDiskSpaceError, match="Make room and fetch again") as caught:
        await client.fetch(export_id, disk)
    assert time.monotonic() - started < 10
    assert isinstance(caught.value, OSError)
    assert str(disk) in str(caught.value)
    assert not list(disk.glob("*.csv"))

    (disk / "ballast").unlink()
    line.ranges.clear()
    line.before.clear()
    result = await client.fetch(export_id, disk, on_event=events.append)
    [resumed] = [event for event in events if isinstance(event, FileStarted)]
    assert resumed.received >= 16 * MIB
    assert len(line.ranges) <= 16
    assert result.files[0].path.read_bytes() == body
    assert "etag-md5" in result.files[0].verified_by
    assert sorted(path.suffix for path in disk.iterdir()) == [".csv", ".json"]


async def test_a_file_under_its_final_name_is_never_fetched_again_for_want_of_a_manifest(
    fake: FakeSendGrid, make_client: MakeClient, make_disk: Callable[[int], Path], line: Line
) -> None:
    disk = make_disk(16 * MIB)
    # No second passes on that clock, so nothing is synced on the way, which needs room too.
    client = make_client(fake.base_url, api_key=fake.api_key, downloads=IN_TURN, clock=FakeClock())
    body = noise(4 * MIB)
    export_id = await fake.add_export(bodies=[body])
    line.before[2] = lambda: fill(disk, leave=3 * MIB)
    with pytest.raises(InsufficientDiskSpaceError):
        await client.fetch(export_id, disk)
    (disk / "ballast").unlink()
    is_final = bool(list(disk.glob("*.csv")))
    result = await client.fetch(export_id, disk)
    assert result.files[0].path.read_bytes() == body
    assert len(line.ranges) == (4 if is_final else 8)
    assert sorted(path.suffix for path in disk.iterdir()) == [".csv", ".json"]


async def test_an_empty_file_waits_for_a_disk_that_is_slow_to_tell_its_room(
    fake: FakeSendGrid, client: ExportClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def tell_slowly(directory: Path) -> int:
        time.sleep(0.2)
        return free(directory)

    monkeypatch.setattr("sendgrid_exports.transfer.folder.free_space", tell_slowly)
    export_id = await fake.add_export(bodies=[b""])
    result = await client.fetch(export_id, tmp_path)
    assert result.files[0].path.read_bytes() == b""
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".csv", ".json"]


async def test_a_disk_without_a_single_free_byte_says_so(
    fake: FakeSendGrid, client: ExportClient, make_disk: Callable[[int], Path]
) -> None:
    disk = make_disk(MIB)
    fill(disk, leave=0)
    export_id = await fake.add_export(bodies=[b"EMAIL,CONTACT_ID\n"])
    with pytest.raises(InsufficientDiskSpaceError) as caught:
        await client.fetch(export_id, disk)
    assert str(disk) in str(caught.value)


async def test_a_disk_without_a_single_free_byte_is_found_before_an_export_is_started(
    fake: FakeSendGrid, make_disk: Callable[[int], Path]
) -> None:
    disk = make_disk(MIB)
    fill(disk, leave=0)
    with pytest.raises(InsufficientDiskSpaceError, match="no export was started") as caught:
        await export_contacts(disk, api_key=fake.api_key, base_url=fake.base_url)
    assert str(disk) in str(caught.value)
    assert not fake.requests
    assert [path.name for path in disk.iterdir()] == ["ballast"]


@pytest.mark.parametrize(("kind", "size"), [("tmpfs", 0), ("ramfs", MIB)])
async def test_a_disk_that_says_it_has_0_of_0_bytes_takes_an_export(
    fake: FakeSendGrid, client: ExportClient, make_disk: Callable[..., Path], kind: str, size: int
) -> None:
    disk = make_disk(size, kind)
    assert shutil.disk_usage(disk).total == 0
    result = await client.fetch(await fake.add_export(contacts=10), disk)
    assert result.contact_count == 10


async def test_a_disk_without_a_single_free_byte_keeps_nobody_out_later(
    fake: FakeSendGrid, client: ExportClient, make_disk: Callable[[int], Path]
) -> None:
    disk = make_disk(MIB)
    ballast = fill(disk, leave=0)
    export_id = await fake.add_export(bodies=[b"EMAIL,CONTACT_ID\n"])
    with pytest.raises(OSError, match=r"No space left|is full"):
        await client.fetch(export_id, disk)
    ballast.unlink()
    assert (await client.fetch(export_id, disk)).contact_count == 0


@pytest.mark.parametrize(
    "before",
    [
        "the download",
        pytest.param("the conversion"),
    ],
)
async def test_a_disk_too_small_to_inflate_on_keeps_the_raw_file(
    make_client: MakeClient,
    make_disk: Callable[[int], Path],
    closing: AsyncExitStack,
    before: str,
) -> None:
    disk = make_disk(4 * MIB)
    fake = await closing.enter_async_context(FakeSendGrid(contacts=50_000))
    export_id = await fake.add_export()
    packed = make_client(fake.base_url, api_key=fake.api_key)
    if before == "the conversion":
        await packed.fetch(export_id, disk)
    policy = DownloadPolicy(decompress=True)
    client = make_client(fake.base_url, api_key=fake.api_key, downloads=policy)
    with pytest.raises(InsufficientDiskSpaceError):
        await client.fetch(export_id, disk)
    assert len([*disk.glob("*.gz"), *disk.glob("*.part")]) == 1
    assert not [*disk.glob("*.csv")]
    assert (await packed.fetch(export_id, disk)).contact_count == 50_000
    assert len(fake.storage_requests) == 1
    assert len(fake.storage_requests) == 1


async def test_a_disk_mounted_read_only_is_named(
    fake: FakeSendGrid, client: ExportClient, make_disk: Callable[[int], Path]
) -> None:
    disk = make_disk(MIB)
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    export_id = await fake.add_export(bodies=[b"EMAIL,CONTACT_ID\n"])
    with pytest.raises(ValueError, match=r"directory .* is not writable \(Read-only") as caught:
        await client.fetch(export_id, disk)
    assert str(disk) in str(caught.value)
    assert not fake.requests


# Works as nobody, or with few descriptors, or both; imports happen before.
CHILD = """
import _strptime, asyncio, encodings.utf_8_sig, json, os, resource, sys
from sendgrid_exports import ExportClient
told = json.loads(sys.argv[1])

async def main():
    async with ExportClient(told["key"], base_url=told["base_url"]) as client:
        if (user := told["user"]) is not None:
            os.setgroups([])
            os.setgid(user)
            os.setuid(user)
        if (spare := told["spare"]) is not None:
            most = max(map(int, os.listdir("/proc/self/fd"))) + spare
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        if (threads := told["threads"]) is not None:
            most = len(os.listdir("/proc/self/task")) + threads
            resource.setrlimit(resource.RLIMIT_NPROC, (most, most))
        try:
            result = await client.fetch(told["export_id"], told["directory"])
        except Exception as error:
            print(type(error).__name__)
            print(error)
        else:
            print("arrived")
            print(len(result.files))

asyncio.run(main())
"""


async def fetch_in_child(
    fake: FakeSendGrid,
    export_id: str,
    directory: Path,
    *,
    user: int | None = None,
    spare: int | None = None,
    threads: int | None = None,
) -> tuple[str, str]:
    """Return an error's class and text, or "arrived" and how many files."""
    told = {
        "key": fake.api_key,
        "base_url": fake.base_url,
        "export_id": export_id,
        "directory": str(directory),
        "user": user,
        "spare": spare,
        "threads": threads,
    }
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        "-W",
        "always::ResourceWarning",
        "-c",
        CHILD,
        json.dumps(told),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(30):
            out, said = await child.communicate()
    except TimeoutError:
        child.kill()
        await child.wait()
        pytest.fail("it hangs")
    assert (child.returncode, said.decode()) == (0, "")
    kind, _, text = out.decode().partition("\n")
    return kind, text.strip()


@pytest.fixture
def open_path() -> Iterator[Path]:
    """Return a directory that everybody may look into, unlike that of root's tests."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory)
        path.chmod(0o755)
        yield path


@pytest.mark.parametrize(
    ("mode", "name"),
    [
        (0o555, ""),
        (0o555, "new"),
        (0o555, "new/deeper"),
        (0, ""),
        pytest.param(0, "new"),
    ],
)
async def test_a_directory_without_permission_is_named(
    fake: FakeSendGrid, open_path: Path, mode: int, name: str
) -> None:
    locked = open_path / "locked"
    locked.mkdir()
    locked.chmod(mode)
    export_id = await fake.add_export(bodies=[b"EMAIL,CONTACT_ID\n"])
    user = NOBODY if os.geteuid() == 0 else None
    kind, text = await fetch_in_child(fake, export_id, locked / name, user=user)
    assert kind == "ValueError"
    assert text == f"directory {str(locked / name)!r} is not writable (Permission denied)"
    assert not fake.requests


@pytest.mark.parametrize("spare", [0, 2, 8, 64])
async def test_too_few_descriptors_are_an_error_that_says_so(
    fake: FakeSendGrid, tmp_path: Path, spare: int
) -> None:
    export_id = await fake.add_export(bodies=[noise(100_000, seed) for seed in range(20)])
    started = time.monotonic()
    kind, text = await fetch_in_child(fake, export_id, tmp_path, spare=spare)
    assert time.monotonic() - started < 10
    if spare == 64:
        assert (kind, text) == ("arrived", "20")
    else:
        assert kind in {"OSError", "TransportError", "DownloadError"}
        assert re.search("too many (open files|files are open)", text.lower())
    # With enough of them, the next one takes up what is there.
    result = await fetch_in_child(fake, export_id, tmp_path)
    assert result == ("arrived", "20")


@pytest.mark.parametrize(
    "spare",
    [
        0,
        pytest.param(1),
        4,
    ],
)
async def test_too_few_descriptors_leave_no_lock_file(
    fake: FakeSendGrid, tmp_path: Path, spare: int
) -> None:
    export_id = await fake.add_export(bodies=[b"EMAIL,CONTACT_ID\n"])
    await fetch_in_child(fake, export_id, tmp_path, spare=spare)
    assert not list(tmp_path.glob("*.lock"))


async def test_a_directory_that_can_be_written_to_and_not_read_is_good_enough(
    fake: FakeSendGrid, open_path: Path
) -> None:
    directory = open_path / "letterbox"
    directory.mkdir()
    directory.chmod(0o333)
    export_id = await fake.add_export(bodies=[b"EMAIL,CONTACT_ID\n"])
    user = NOBODY if os.geteuid() == 0 else None
    assert await fetch_in_child(fake, export_id, directory, user=user) == ("arrived", "1")


@pytest.mark.parametrize("threads", [0, 1, 4])
async def test_too_few_threads_are_an_error_that_says_so(
    fake: FakeSendGrid, open_path: Path, threads: int
) -> None:
    if os.geteuid() != 0:
        pytest.skip("to be a user without other threads takes root")
    open_path.chmod(0o777)
    export_id = await fake.add_export(bodies=[noise(100_000, seed) for seed in range(9)])
    # The limit is for all threads of a user.
    user = 3_000_000_000 + os.getpid()
    kind, text = await fetch_in_child(fake, export_id, open_path, user=user, threads=threads)
    if threads == 4:
        assert (kind, text) == ("arrived", "9")
    else:
        assert kind == "DownloadError"
        assert "can't start new thread" in text
        assert "ulimit -u" in text
        assert not fake.requests


async def test_a_lock_file_of_another_user_is_named(fake: FakeSendGrid, open_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("to be another user takes root")
    open_path.chmod(0o777)
    export_id = await fake.add_export(bodies=[b"EMAIL,CONTACT_ID\n"])
    lock = open_path / f"{export_id}.lock"
    lock.touch(0o600)
    kind, text = await fetch_in_child(fake, export_id, open_path, user=NOBODY)
    assert kind == "PermissionError"
    assert str(lock) in text
