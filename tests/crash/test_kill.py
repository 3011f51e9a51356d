"""Real processes, killed with SIGKILL in the middle, and what the last one has to fetch again.

Slow, so it is run by name: `pytest tests/crash`. `SENDGRID_EXPORTS_ROUNDS` sets how many stories
of kills are told, `SENDGRID_EXPORTS_CRASH_SIZE` the size of the file in MiB.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import signal
import sys
from pathlib import Path

import pytest

from sendgrid_exports.testing import FakeSendGrid, Slow
from sendgrid_exports.transfer.journal import Record, read_journal

MIB = 1024 * 1024
ROUNDS = int(os.environ.get("SENDGRID_EXPORTS_ROUNDS", "10"))
SIZE = int(os.environ.get("SENDGRID_EXPORTS_CRASH_SIZE", "64")) * MIB
KILLS = 10
CONNECTIONS = 8
SECONDS = max(12.0, SIZE / (50 * MIB))
"""What the whole file would take without a kill."""

# Each story kills a process ten times, as late as the size makes it.
pytestmark = pytest.mark.timeout(0)

CHILD = """
import asyncio, sys
from sendgrid_exports import DownloadPolicy, fetch_export

async def main() -> None:
    base_url, key, directory, piece_size = sys.argv[1:]
    downloads = DownloadPolicy(piece_size=int(piece_size))
    result = await fetch_export(
        "killed", directory, api_key=key, base_url=base_url, downloads=downloads
    )
    print(result.files[0].sha256)

asyncio.run(main())
"""


class Child:
    """A process that fetches the export."""

    def __init__(self, fake: FakeSendGrid, directory: Path) -> None:
        self._fake = fake
        self._arguments = [fake.base_url, fake.api_key, str(directory), str(SIZE // 32)]

    async def finish(self) -> str:
        """Return what it prints."""
        process = await self._start()
        out, _ = await process.communicate()
        assert process.returncode == 0
        return out.decode().strip()

    async def kill(self, after: float) -> None:
        """Let it die so many seconds after its first request for the file."""
        requests = len(self._fake.storage_requests)
        process = await self._start()
        while len(self._fake.storage_requests) == requests:
            assert process.returncode is None
            await asyncio.sleep(0.01)
        await asyncio.sleep(after)
        process.send_signal(signal.SIGKILL)
        assert await process.wait() == -signal.SIGKILL

    async def _start(self) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            sys.executable, "-c", CHILD, *self._arguments, stdout=asyncio.subprocess.PIPE
        )


def journal(directory: Path) -> Record | None:
    path = directory / "killed.journal"
    records = read_journal(path.read_bytes(), "killed") if path.exists() else None
    return records.get(1) if records else None


def is_true(record: Record | None, part: Path, body: Path) -> bool:
    """Whether the part file holds every byte that the journal claims."""
    if record is None or not part.exists():
        return True
    with part.open("rb") as left, body.open("rb") as right:
        for start, end in record.done:
            for position in range(start, end, MIB):
                left.seek(position)
                right.seek(position)
                size = min(MIB, end - position)
                if left.read(size) != right.read(size):
                    return False
    return True


@pytest.mark.parametrize("story", range(ROUNDS))
async def test_killed_at_random_it_gets_there_and_little_is_sent_twice(
    tmp_path: Path, story: int
) -> None:
    chance = random.Random(story)
    chunk = chance.randbytes(MIB)
    body = b"".join(b"EMAIL\n" + n.to_bytes(8, "big") + chunk[14:] for n in range(SIZE // MIB))
    digest = hashlib.sha256(body).hexdigest()
    async with FakeSendGrid(etag="multipart", link_lifetime=36_000) as fake:
        await fake.add_export(export_id="killed", bodies=[body])
        del body
        fake.inject(Slow(SIZE / SECONDS / CONNECTIONS), times=None)
        stored = fake.file_path("killed", 1)
        child, part = Child(fake, tmp_path), tmp_path / "killed-00001.part"
        kept = 0
        for _ in range(KILLS):
            await child.kill(chance.uniform(0.0, 1.6 * SECONDS / KILLS))
            assert is_true(journal(tmp_path), part, stored)
            record = journal(tmp_path)
            durable = sum(end - start for start, end in record.done) if record else 0
            assert durable >= kept
            kept = durable
            assert not list(tmp_path.glob("*.csv*"))
        fake.clear_faults()
        before = sum(request.sent for request in fake.storage_requests)
        assert await child.finish() == digest
        sent = sum(request.sent for request in fake.storage_requests)
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == ["killed-00001.csv", "killed.manifest.json"]
    twice = (sent - SIZE) / SIZE
    print(
        f"story {story}: {KILLS} kills, {kept / SIZE:.1%} durable before the last run, "
        f"{before / SIZE:.1%} sent until then, {twice:.1%} sent twice"
    )
    # Where a connection takes over half of another's piece, a little is on its way already.
    assert SIZE - kept <= sent - before < SIZE - kept + 32 * MIB
    if SIZE >= 1024 * MIB:
        assert twice < 0.2
