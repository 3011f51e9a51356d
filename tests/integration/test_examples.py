"""Every example as a user runs it, in a process of its own, against the embedded server."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import sys
from pathlib import Path
from typing import Any

import aiohttp
import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"

WITHOUT_KEY = {name: value for name, value in os.environ.items() if name != "SENDGRID_API_KEY"}


async def run(*arguments: str, directory: Path) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-W", "error"),
        str(EXAMPLES / arguments[0]),
        *arguments[1:],
        cwd=directory,
        env=WITHOUT_KEY,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, errors = await process.communicate()
    assert process.returncode is not None
    return process.returncode, output.decode(), errors.decode()


async def test_the_backup_downloads_every_contact_and_prints_each_event(tmp_path: Path) -> None:
    code, output, errors = await run("backup_contacts.py", directory=tmp_path)
    assert (code, errors) == (0, "")
    assert " is ready." in output
    assert output.count("Downloading ") == 4
    assert output.endswith("200000 contacts of 200000 exported\n")
    [manifest] = (tmp_path / "exports").glob("*.manifest.json")
    written = json.loads(manifest.read_text())
    assert written["contacts"] == written["export"]["contact_count"] == 200_000
    assert len(list((tmp_path / "exports").glob("*.csv.gz"))) == 4


async def test_fetching_an_export_twice_downloads_it_once(tmp_path: Path) -> None:
    code, first, errors = await run("fetch_export.py", "some-id", "here", directory=tmp_path)
    assert (code, errors) == (0, "")
    assert "5000 contacts" in first
    changed = (tmp_path / "here" / "some-id-00001.csv.gz").stat().st_mtime_ns
    assert await run("fetch_export.py", "some-id", "here", directory=tmp_path) == (0, first, "")
    assert (tmp_path / "here" / "some-id-00001.csv.gz").stat().st_mtime_ns == changed


async def test_what_arrived_in_a_bucket_is_asked_by_duckdb(tmp_path: Path) -> None:
    for target in ("memory://demo", (tmp_path / "exports").as_uri()):
        code, output, errors = await run("to_a_bucket.py", target, directory=tmp_path)
        assert (code, errors) == (0, "")
        assert output.count(f"{target}/") == 5
        assert "4 files verified" in output
        counts = [int(word) for word in re.findall(r"│ +(\d+) │", output)]
        assert sum(counts) == 20_000


async def test_the_job_counts_the_contacts_of_every_country(tmp_path: Path) -> None:
    code, output, errors = await run("etl_job.py", directory=tmp_path)
    assert (code, errors) == (0, "")
    _, written, *lines = output.splitlines()
    [parquet] = (tmp_path / "exports").glob("*.parquet")
    assert written == f"50000 contacts in {parquet.relative_to(tmp_path)}"
    counts = {country: int(count) for count, country in (line.split(None, 1) for line in lines)}
    assert sum(counts.values()) == 50_000
    assert list(counts.values()) == sorted(counts.values(), reverse=True)
    assert set(counts) == {"USA", "Germany", "China", "Sweden", "Brazil", "NA"}


async def test_fetching_without_an_id_prints_the_usage(tmp_path: Path) -> None:
    code, _, errors = await run("fetch_export.py", directory=tmp_path)
    assert code == 1
    assert errors == "usage: fetch_export.py EXPORT_ID [DIRECTORY]\n"


@pytest.mark.parametrize("interrupt", [True, False])
async def test_the_service_answers_with_progress_and_stops_cleanly(
    tmp_path: Path, *, interrupt: bool
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-W", "error", "-u"),
        *(str(EXAMPLES / "inside_a_service.py"), str(port)),
        cwd=tmp_path,
        env=WITHOUT_KEY,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        assert b"Running on" in await process.stdout.readline()
        async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:
            async with session.post("/backups") as answer:
                assert answer.status == 202
                location = answer.headers["Location"]
            backup = await get(session, location)
            while not interrupt and backup["state"] == "running":
                backup = await get(session, location)
            async with session.get("/backups/unknown") as answer:
                assert answer.status == 404
    finally:
        process.send_signal(signal.SIGINT)
        _, errors = await process.communicate()
    assert (process.returncode, errors) == (0, b"")
    if not interrupt:
        assert backup["state"] == "done", backup
        assert backup["contacts"] == 50_000
        assert len(backup["files"]) == 3


async def get(session: aiohttp.ClientSession, location: str) -> dict[str, Any]:
    async with session.get(location) as answer:
        backup: dict[str, Any] = await answer.json()
        return backup
