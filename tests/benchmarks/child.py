"""One run of one Python tool, in a process of its own: `python child.py job.json`.

Only the work is timed: neither the start of the interpreter nor the imports, which a program of a
user has behind it. Peers are imported by name: one that is not installed is not a type error.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import json
import resource
import ssl
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

Job: TypeAlias = dict[str, Any]
Ready: TypeAlias = Callable[[], Awaitable[object]]

_BEAT = 0.005
_PROFILE_LINES = 30


def ours(job: Job) -> Ready:
    """Fetch an export by its id."""
    if job.get("without_isal"):
        sys.modules["isal"] = None  # type: ignore[assignment]
    if checkout := job.get("checkout"):
        sys.path.insert(0, checkout)
    library = importlib.import_module("sendgrid_exports")
    options = dict(job.get("options", {}))
    if "verify" in options:
        options["verify"] = library.Verify(options["verify"])
    policy = library.DownloadPolicy(**options)
    # Loaded when first used, which is not part of the work.
    make_client = library.ExportClient

    async def work() -> None:
        client = make_client("key", base_url=job["status"], downloads=policy)
        async with client:
            await client.fetch(job["export"], job["target"])

    return work


def aiohttp_aiofiles(job: Job) -> Ready:
    """All files at once, 64 KiB at a time, each written by aiofiles: what is written first."""
    aiohttp, aiofiles = map(importlib.import_module, ("aiohttp", "aiofiles"))

    async def one(session: Any, url: str) -> None:
        async with session.get(url) as answer, aiofiles.open(_path(job, url), "wb") as file:
            async for chunk in answer.content.iter_chunked(64 * 1024):
                await file.write(chunk)

    async def work() -> None:
        async with aiohttp.ClientSession() as session:
            await asyncio.gather(*(one(session, url) for url in job["urls"]))

    return work


def httpx(job: Job) -> Ready:
    """All files at once, each chunk written as it arrives, as httpx's documentation shows."""
    library = importlib.import_module("httpx")
    context = ssl.create_default_context()

    async def one(client: Any, url: str) -> None:
        async with client.stream("GET", url) as answer:
            with _path(job, url).open("wb") as file:
                async for chunk in answer.aiter_bytes():
                    file.write(chunk)

    async def work() -> None:
        async with library.AsyncClient(verify=context, timeout=60) as client:
            await asyncio.gather(*(one(client, url) for url in job["urls"]))

    return work


def pypdl(job: Job) -> Ready:
    """All files at once, each in segments."""
    library = importlib.import_module("pypdl")
    tasks = [{"url": url, "file_path": str(_path(job, url))} for url in job["urls"]]

    def blocking() -> None:
        downloader = library.Pypdl(max_concurrent=len(tasks))
        downloader.start(tasks=tasks, segments=4, display=False)

    async def work() -> None:
        await asyncio.to_thread(blocking)

    return work


def parfive(job: Job) -> Ready:
    """All files at once, each in splits."""
    library = importlib.import_module("parfive")

    async def work() -> None:
        config = library.SessionConfig(file_progress=False)
        downloader = library.Downloader(
            max_conn=len(job["urls"]), max_splits=4, progress=False, overwrite=True, config=config
        )
        for url in job["urls"]:
            downloader.enqueue_file(url, path=job["target"])
        await downloader.run_download()

    return work


def discarded(job: Job) -> Ready:
    """Receive with aiohttp and keep nothing: each file in ranges of its own connections."""
    aiohttp = importlib.import_module("aiohttp")
    connections = job["connections"]

    async def one(session: Any, url: str, start: int, end: int) -> None:
        headers = {"Range": f"bytes={start}-{end - 1}", "Accept-Encoding": "identity"}
        async with session.get(url, headers=headers, read_bufsize=512 * 1024) as answer:
            async for _ in answer.content.iter_any():
                pass

    async def work() -> None:
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector) as session:
            await asyncio.gather(
                *(
                    one(session, url, size * n // connections, size * (n + 1) // connections)
                    for url, size in zip(job["urls"], job["sizes"], strict=True)
                    for n in range(connections)
                )
            )

    return work


TOOLS: dict[str, Callable[[Job], Ready]] = {
    tool.__name__: tool for tool in (ours, aiohttp_aiofiles, httpx, pypdl, parfive, discarded)
}


def _path(job: Job, url: str) -> Path:
    return Path(job["target"]) / url.rpartition("/")[2]


@contextlib.contextmanager
def _heartbeat(late: list[float]) -> Iterator[None]:
    """Note in `late` by how many seconds each beat of 5 ms is late."""

    async def beat() -> None:
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + _BEAT
            await asyncio.sleep(_BEAT)
            late.append(loop.time() - due)

    task = asyncio.ensure_future(beat())
    try:
        yield
    finally:
        task.cancel()


@contextlib.contextmanager
def _profiled(path: str) -> Iterator[None]:
    """Write to `path` where the thread of the loop spends its time."""
    cprofile, pstats = map(importlib.import_module, ("cProfile", "pstats"))
    with cprofile.Profile() as profile:
        yield
    with Path(path).open("w") as file:
        pstats.Stats(profile, stream=file).sort_stats("tottime").print_stats(_PROFILE_LINES)


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


async def _run(job: Job, work: Ready) -> dict[str, float]:
    late: list[float] = []
    with contextlib.ExitStack() as stack:
        if job.get("heartbeat"):
            stack.enter_context(_heartbeat(late))
        if "profile" in job:
            stack.enter_context(_profiled(job["profile"]))
        cpu, began = _cpu(), time.perf_counter()
        await work()
        taken = {"seconds": time.perf_counter() - began, "cpu": _cpu() - cpu}
    if late:
        late.sort()
        taken |= {"late": late[int(len(late) * 0.99)], "latest": late[-1]}
    return taken


def main() -> None:
    """Do the job, and print what it took."""
    job: Job = json.loads(Path(sys.argv[1]).read_text())
    print(json.dumps(asyncio.run(_run(job, TOOLS[job["tool"]](job)))))


if __name__ == "__main__":
    main()
