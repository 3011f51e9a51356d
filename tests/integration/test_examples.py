"""Every example as a user runs it, in a process of its own, against the embedded server."""

from __future__ import annotations

import asyncio
import json
import os
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


async def test_the_backup_brings_every_contact_and_shows_progress(tmp_path: Path) -> None:
    code, output, errors = await run("backup_contacts.py", directory=tmp_path)
    assert (code, errors) == (0, "")
    assert "finished files: 4" in output
    assert "MB" in output
    [manifest] = (tmp_path / "exports").glob("*.manifest.json")
    told = json.loads(manifest.read_text())
    assert told["contacts"] == told["export"]["contact_count"] == 200_000
    assert len(list((tmp_path / "exports").glob("*.csv.gz"))) == 4


async def test_fetching_by_id_twice_fetches_once(tmp_path: Path) -> None:
    code, first, errors = await run("fetch_export.py", "some-id", "here", directory=tmp_path)
    assert (code, errors) == (0, "")
    assert "5000 contacts" in first
    changed = (tmp_path / "here" / "some-id-00001.csv.gz").stat().st_mtime_ns
    assert await run("fetch_export.py", "some-id", "here", directory=tmp_path) == (0, first, "")
    assert (tmp_path / "here" / "some-id-00001.csv.gz").stat().st_mtime_ns == changed


async def test_the_job_counts_the_contacts_of_every_country(tmp_path: Path) -> None:
    code, output, errors = await run("etl_job.py", directory=tmp_path)
    assert (code, errors) == (0, "")
    _, told, *lines = output.splitlines()
    [parquet] = (tmp_path / "exports").glob("*.parquet")
    assert told == f"50000 contacts in {parquet.relative_to(tmp_path)}"
    counts = {country: int(count) for count, country in (line.split(None, 1) for line in lines)}
    assert sum(counts.values()) == 50_000
    assert list(counts.values()) == sorted(counts.values(), reverse=True)
    assert set(counts) == {"USA", "Germany", "China", "Sweden", "Brazil", "NA"}


async def test_fetching_without_an_id_says_how(tmp_path: Path) -> None:
    code, _, errors = await run("fetch_export.py", directory=tmp_path)
    assert code == 2
    assert "EXPORT_ID" in errors


@pytest.mark.parametrize("interrupt", [True, False])
async def test_the_service_answers_with_progress(tmp_path: Path, *, interrupt: bool) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-W", "error"),
        str(EXAMPLES / "inside_a_service.py"),
        *("--port", "0"),
        cwd=tmp_path,
        env=WITHOUT_KEY,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    url = (await process.stdout.readline()).decode().rpartition(" ")[2].strip()
    try:
        async with aiohttp.ClientSession(url) as session:
            async with session.post("/backups") as answer:
                assert answer.status == 202
                location = answer.headers["Location"]
            progress = await look(session, location)
            while not interrupt and progress["state"] != "done":
                progress = await look(session, location)
                assert progress["state"] != "failed", progress
            async with session.get("/backups/unknown") as answer:
                assert answer.status == 404
    finally:
        process.send_signal(2)
        output, errors = await process.communicate()
    assert (output.decode(), errors.decode()) == ("Stopped.\n", "")
    if not interrupt:
        assert progress["contacts"] == 50_000
        assert len(progress["finished"]) == 3


async def look(session: aiohttp.ClientSession, location: str) -> dict[str, Any]:
    async with session.get(location) as answer:
        progress: dict[str, Any] = await answer.json()
        return progress
