"""How a one-hour job is polled: how often, how late, how close, on a clock that never waits."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from random import Random

from aiohttp import web
from aiohttp.test_utils import RawTestServer

from sendgrid_exports import ExportClient
from sendgrid_exports.testing import FakeClock

_HOUR = 3600.0
_JOBS = 60


async def wait_for(clock: FakeClock, seconds: float, seed: int) -> tuple[list[float], float]:
    """Return the times of all polls of a job of `seconds`, and how late its end was found."""
    began = clock.monotonic()
    started = clock.utc()
    polls: list[float] = []

    async def status(request: web.BaseRequest) -> web.StreamResponse:
        polls.append(clock.monotonic() - began)
        ready = polls[-1] >= seconds
        return web.json_response(
            {
                "id": "job",
                "status": "ready" if ready else "pending",
                "created_at": started.isoformat(),
                "updated_at": started.isoformat(),
                "expires_at": (started + timedelta(hours=12)).isoformat(),
                "urls": ["http://127.0.0.1/file.csv"] if ready else [],
            },
            headers={"Date": f"{clock.utc():%a, %d %b %Y %H:%M:%S} GMT"},
        )

    server = RawTestServer(status)
    await server.start_server()
    base_url = str(server.make_url("/")).rstrip("/")
    async with ExportClient("key", base_url=base_url, clock=clock, random=Random(seed).random) as c:
        await c.wait("job", timeout=2 * _HOUR)
    await server.close()
    return polls, polls[-1] - seconds


async def main() -> None:
    """Wait for jobs that end within the last minute of the hour; print the worst of each."""
    most, latest, closest = 0, 0.0, float("inf")
    for n in range(_JOBS):
        clock = FakeClock(start=datetime(2026, 3, 2, tzinfo=UTC))
        polls, late = await wait_for(clock, _HOUR - n, seed=n)
        most, latest = max(most, len(polls)), max(latest, late)
        closest = min([closest, *(after - before for before, after in pairwise(polls))])
    print(json.dumps({"polls": most, "late": latest, "closest": closest}))


if __name__ == "__main__":
    asyncio.run(main())
