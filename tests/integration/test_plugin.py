"""The pytest plugin as somebody who installed the package uses it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from sendgrid_exports import ExportClient
from sendgrid_exports.testing import FakeSendGrid


@pytest.mark.fake_sendgrid(contacts=7, statuses=["ready"])
async def test_the_fixture_takes_its_arguments_from_the_marker(
    fake_sendgrid: FakeSendGrid, tmp_path: Path
) -> None:
    async with ExportClient(fake_sendgrid.api_key, base_url=fake_sendgrid.base_url) as client:
        result = await client.fetch(await client.start(), tmp_path)
    assert result.contact_count == 7


USERS_TEST = """
import pytest
from sendgrid_exports import ExportClient

@pytest.mark.asyncio
async def test_mine(fake_sendgrid, tmp_path):
    async with ExportClient(fake_sendgrid.api_key, base_url=fake_sendgrid.base_url) as client:
        assert (await client.get(await fake_sendgrid.add_export(contacts=3))).contact_count == 3
"""


@pytest.mark.parametrize("mode", ["strict", "auto"])
def test_it_works_in_a_project_of_somebody_else(tmp_path: Path, mode: str) -> None:
    (tmp_path / "test_mine.py").write_text(USERS_TEST)
    found = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", f"--asyncio-mode={mode}"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "1 passed" in found.stdout, found.stdout
