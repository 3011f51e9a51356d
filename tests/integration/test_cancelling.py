"""A download that is cancelled anywhere leaves nothing behind, and the next one finishes it."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import Iterator
from pathlib import Path

import pytest

from sendgrid_exports import DownloadPolicy, ExportClient
from sendgrid_exports.settings import Limits
from tests.integration.conftest import MakeClient, MakeFake
from tests.integration.test_resume import KIB, PACKED, random_file

DESCRIPTORS = Path("/proc/self/fd")
BODIES = [random_file(90_000, seed=1), PACKED, random_file(100, seed=3)]


pytestmark = pytest.mark.usefixtures("unsynced")


@pytest.fixture
def limits() -> Limits:
    return Limits(
        block=4 * KIB, discovery=8 * KIB, smallest_piece=4 * KIB, sync_bytes=16 * KIB, files=2
    )


def open_below(directory: Path) -> list[Path]:
    """Return the files below a directory that this process has open."""
    if not DESCRIPTORS.is_dir():
        return []
    links = [link.readlink() for link in DESCRIPTORS.iterdir() if link.is_symlink()]
    return [path for path in links if path.is_relative_to(directory)]


def others() -> list[str]:
    """Return what tasks there are, but for this one and the server's."""
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    names = [getattr(task.get_coro(), "__qualname__", "") for task in tasks]
    return [name for name in names if not name.startswith("RequestHandler.")]


async def is_cancelled(client: ExportClient, directory: Path, steps: int, times: int) -> bool:
    """Cancel a fetch after so many steps; return whether it came to that."""
    fetching = asyncio.create_task(client.fetch("x", directory))
    for _ in range(steps):
        if fetching.done():
            break
        await asyncio.sleep(0)
    if fetching.done():
        await fetching
        return False
    for _ in range(times):
        fetching.cancel()
        await asyncio.sleep(0)
    with pytest.raises(asyncio.CancelledError):
        await fetching
    return True


def numbers() -> Iterator[int]:
    """Yield every number at first, and then every tenth part more."""
    number = 0
    while True:
        yield number
        number += 1 + number // 10


@pytest.mark.parametrize("times", [1, 3])
@pytest.mark.parametrize("decompress", [False, True], ids=["as it is", "plain"])
async def test_a_download_that_is_cancelled_at_any_step_leaves_nothing_open(
    make_fake: MakeFake, make_client: MakeClient, tmp_path: Path, times: int, decompress: bool
) -> None:
    fake = await make_fake(etag="multipart")
    await fake.add_export(export_id="x", bodies=BODIES)
    policy = DownloadPolicy(piece_size=16 * KIB, connections=4, decompress=decompress)
    expected = [
        gzip.decompress(PACKED) if decompress and body is PACKED else body for body in BODIES
    ]
    client = make_client(fake, downloads=policy)
    cancelled = 0
    for steps in numbers():
        directory = tmp_path / str(steps)
        if not await is_cancelled(client, directory, steps, times):
            break
        cancelled += 1
        assert not others()
        assert not open_below(tmp_path)
        assert not (directory / "x.lock").exists()
        if cancelled % 4 == 0:
            await finishes(client, directory, expected)
    assert cancelled > 30


async def finishes(client: ExportClient, directory: Path, expected: list[bytes]) -> None:
    result = await client.fetch("x", directory)
    assert [file.path.read_bytes() for file in result.files] == expected
    left = {path.name for path in directory.iterdir()}
    assert left == {*(file.path.name for file in result.files), result.manifest.name}
