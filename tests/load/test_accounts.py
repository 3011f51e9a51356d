"""A thousand accounts in one night, simulated: what it takes of requests, memory and descriptors.

Slow, so it is run by name: `pytest tests/load`. `SENDGRID_EXPORTS_ACCOUNTS` sets how many accounts.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ACCOUNTS = int(os.environ.get("SENDGRID_EXPORTS_ACCOUNTS", "1000"))
CONTACTS = 2000
DESCRIPTORS = 256
MIB = 1024 * 1024

pytestmark = pytest.mark.timeout(600)

NIGHT = """
import asyncio, json, resource, sys
from sendgrid_exports import ExportClient, export_accounts
from sendgrid_exports.testing import FakeClock, FakeSendGrid, FakeSubuser

async def main() -> None:
    target, accounts, contacts, descriptors, jobs = sys.argv[1], *map(int, sys.argv[2:])
    resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, descriptors))
    clock = FakeClock()
    subusers = [
        FakeSubuser(f"agency-{n}", contacts=contacts, ready_after=30 + n % 60)
        for n in range(accounts)
    ]
    fake = FakeSendGrid(clock=clock, subusers=subusers, rate_limit=600, subuser_rate_limit=40)
    async with fake, ExportClient(**fake.credentials, clock=clock) as client:
        for _ in range(2):
            before = len(fake.requests)
            clients = (client.for_subuser(subuser) async for subuser in client.subusers())
            counts, errors = [], {}
            async for account in export_accounts(target, clients, jobs=jobs):
                if account.result is None:
                    errors[account.name] = repr(account.error)
                else:
                    counts.append(account.result.contact_count)
            print(json.dumps({
                "counts": sorted(set(counts)),
                "verified": len(counts),
                "errors": errors,
                "requests": len(fake.requests) - before,
                "refused": sum(request.status == 429 for request in fake.api_requests),
                "starts": sum(request.method == "POST" for request in fake.api_requests),
                "seconds": clock.monotonic() - 1000,
                "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
            }), flush=True)

asyncio.run(main())
"""


@pytest.mark.parametrize("jobs", [8, 40])
def test_a_thousand_accounts_are_verified_within_the_limits(tmp_path: Path, jobs: int) -> None:
    numbers = map(str, (ACCOUNTS, CONTACTS, DESCRIPTORS, jobs))
    arguments = [str(tmp_path / "{account}" / "{date}"), *numbers]
    done = subprocess.run(
        [sys.executable, "-c", NIGHT, *arguments], check=True, capture_output=True, text=True
    )
    first, second = (json.loads(line) for line in done.stdout.splitlines())
    print(json.dumps(first), json.dumps(second), sep="\n")
    for night in (first, second):
        assert night["errors"] == {}
        assert (night["verified"], night["counts"]) == (ACCOUNTS, [CONTACTS])
        assert night["starts"] == ACCOUNTS
    assert first["refused"] < 0.03 * first["requests"]
    # The second run lists the subusers, and nothing more.
    assert second["requests"] <= ACCOUNTS // 500 + 2
    unit = 1 if sys.platform == "darwin" else 1024
    assert second["memory"] * unit < 200 * MIB
