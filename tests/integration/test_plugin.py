"""The pytest plugin as somebody who installed the package uses it."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from sendgrid_exports import ExportClient, InvalidRequestError
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
def test_the_fixture_works_in_another_project(tmp_path: Path, mode: str) -> None:
    assert "1 passed" in run_tests(tmp_path, USERS_TEST, f"--asyncio-mode={mode}")


def run_tests(directory: Path, test: str, *options: str) -> str:
    (directory / "test_mine.py").write_text(test)
    command = [sys.executable, "-m", "pytest", "-q", *options]
    return subprocess.run(
        command, cwd=directory, capture_output=True, text=True, check=False
    ).stdout


def test_pytest_starts_without_loading_the_server() -> None:
    code = "import sys, sendgrid_exports.testing.plugin; print('aiohttp' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout == "False\n"


SYNCHRONOUS_TEST = """
import asyncio
from sendgrid_exports import fetch_export

def test_mine(fake_sendgrid, tmp_path):
    key, url = fake_sendgrid.api_key, fake_sendgrid.base_url
    asyncio.run(fetch_export("x", tmp_path, api_key=key, base_url=url))
"""

TEST_IN_ANOTHER_LOOP = """
import pytest
from sendgrid_exports import fetch_export

@pytest.mark.asyncio(loop_scope="module")
async def test_mine(fake_sendgrid, tmp_path):
    key, url = fake_sendgrid.api_key, fake_sendgrid.base_url
    await fetch_export("x", tmp_path, api_key=key, base_url=url)
"""


@pytest.mark.parametrize(
    "test", [SYNCHRONOUS_TEST, TEST_IN_ANOTHER_LOOP], ids=["synchronous", "another loop scope"]
)
def test_the_fixture_says_when_its_event_loop_is_not_running(tmp_path: Path, test: str) -> None:
    output = run_tests(tmp_path, test, "-o", "asyncio_default_fixture_loop_scope=function")
    assert "1 failed" in output, output
    assert "InvalidRequestError" in output
    assert "the event loop that started it is not running" in output


def test_a_server_whose_loop_has_stopped_says_so_to_its_clients() -> None:
    async def ask() -> None:
        async with ExportClient(fake.api_key, base_url=fake.base_url) as client:
            await client.get("x")

    with asyncio.Runner() as runner:
        fake = runner.run(FakeSendGrid().__aenter__())
        with pytest.raises(InvalidRequestError, match=r"event loop.*not running"):
            asyncio.run(ask())
        runner.run(fake.__aexit__(None, None, None))
