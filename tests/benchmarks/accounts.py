"""Twenty accounts at once against one export of the same bytes, both over the loopback interface.

    python -m tests.benchmarks.accounts

The service runs in a process of its own. Of several rounds, in turn, the best of each counts.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from sendgrid_exports import ExportClient, PollPolicy, export_accounts
from sendgrid_exports.testing import FakeSendGrid, FakeSubuser
from sendgrid_exports.testing.server import Credentials

_SMALL, _LARGE = "account-{}", "large"


async def serve(accounts: int, contacts: int) -> None:
    """Serve until the standard input ends: small accounts, and one with all of their bytes."""
    subusers = [
        FakeSubuser(_SMALL.format(n), contacts=contacts, statuses=["ready"])
        for n in range(accounts)
    ]
    async with FakeSendGrid(subusers=[*subusers, FakeSubuser(_LARGE)]) as fake:
        small = await fake.add_export(subuser=_SMALL.format(0), contacts=contacts)
        [body] = await fake.file_bytes(small)
        # Several gzip members in one file are legal.
        await fake.add_export(subuser=_LARGE, bodies=[body * accounts], export_id=_LARGE)
        print(json.dumps({"credentials": fake.credentials, "size": len(body)}), flush=True)
        await asyncio.to_thread(sys.stdin.read)


@contextlib.contextmanager
def service(accounts: int, contacts: int) -> Iterator[tuple[Credentials, int]]:
    """Run the service in a process; yield its credentials, and the bytes of an account."""
    arguments = ["--serve", "--accounts", str(accounts), "--contacts", str(contacts)]
    with subprocess.Popen(
        [sys.executable, "-m", "tests.benchmarks.accounts", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        found = json.loads(process.stdout.readline())
        yield found["credentials"], found["size"]
        assert process.stdin is not None
        process.stdin.close()


@contextlib.asynccontextmanager
async def lateness() -> AsyncIterator[list[float]]:
    """Measure by how many seconds the event loop is late."""
    late: list[float] = []

    async def watch() -> None:
        while True:
            began = time.monotonic()
            await asyncio.sleep(0.005)
            late.append(time.monotonic() - began - 0.005)

    watching = asyncio.create_task(watch())
    try:
        yield late
    finally:
        watching.cancel()


async def measure(client: ExportClient, directory: Path, accounts: int, jobs: int) -> float:
    """Return the seconds of one download: of all accounts, or of the large one where 0."""
    began = time.monotonic()
    if accounts:
        clients = [client.for_subuser(_SMALL.format(n)) for n in range(accounts)]
        target = directory / "{account}"
        async for account in export_accounts(target, clients, jobs=jobs, max_age=0):
            if account.error is not None:
                raise account.error
    else:
        await client.for_subuser(_LARGE).fetch(_LARGE, directory)
    return time.monotonic() - began


async def main(accounts: int, contacts: int, jobs: int, rounds: int) -> None:
    """Measure, and print a table."""
    with service(accounts, contacts) as (credentials, body):
        size = body * accounts / 1e6
        seconds: dict[str, list[float]] = {"one export": [], f"{accounts} accounts": []}
        worst: dict[str, float] = dict.fromkeys(seconds, 0.0)
        for _ in range(rounds):
            for name, count in zip(seconds, (0, accounts), strict=True):
                directory = Path(tempfile.mkdtemp(prefix="sendgrid-exports-"))
                os.sync()
                polling = PollPolicy(initial=0.05)
                async with (
                    ExportClient(**credentials, polling=polling) as client,
                    lateness() as late,
                ):
                    seconds[name].append(await measure(client, directory, count, jobs))
                worst[name] = max(worst[name], *late)
                shutil.rmtree(directory)
    for name, taken in seconds.items():
        rate = size / min(taken)
        print(f"{name:12} {size:7.0f} MB {min(taken):6.2f} s {rate:6.0f} MB/s", end="")
        print(f"  event loop late by {worst[name] * 1000:.0f} ms at most")
    one, many = (min(taken) for taken in seconds.values())
    print(f"{one / many:.2f} of the throughput of one export")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--serve", action="store_true", help="be the service")
    parser.add_argument("--accounts", type=int, default=20)
    parser.add_argument("--contacts", type=int, default=200_000, help="of each account")
    parser.add_argument("--jobs", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    chosen = parser.parse_args()
    if chosen.serve:
        asyncio.run(serve(chosen.accounts, chosen.contacts))
    else:
        asyncio.run(main(chosen.accounts, chosen.contacts, chosen.jobs, chosen.rounds))
