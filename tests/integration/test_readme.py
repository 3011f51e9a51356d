"""The README's code runs, its commands are those of the project, its tables tell the truth."""

from __future__ import annotations

import ast
import asyncio
import inspect
import re
import sys
from pathlib import Path
from typing import Any

import aiohttp
import attrs
import pytest

import sendgrid_exports
from sendgrid_exports import DownloadPolicy, ExportClient, PollPolicy, fetch_export
from sendgrid_exports.testing import FakeSendGrid

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def test_the_first_code_stands_on_the_first_screen() -> None:
    before, code, _ = README.partition("```python\n")
    assert code
    assert before.count("\n") < 25
    assert len([line for line in BLOCKS[0].splitlines() if line.strip()]) <= 10


async def test_the_first_code_runs_as_it_is(tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-W", "error", "-c", BLOCKS[0], cwd=tmp_path, stdout=asyncio.subprocess.PIPE
    )
    output, _ = await process.communicate()
    assert process.returncode == 0
    assert output.decode().startswith("1000 contacts in exports/")


@pytest.mark.parametrize("code", BLOCKS[1:])
async def test_every_other_code_runs_where_its_names_are_given(
    code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    async with (
        FakeSendGrid(contacts=10, statuses=["ready"]) as fake,
        aiohttp.ClientSession() as session,
    ):
        defaults: Any = ExportClient.__init__.__kwdefaults__
        monkeypatch.setitem(defaults, "base_url", fake.base_url)
        names: dict[str, Any] = {
            "key": fake.api_key,
            "list_id": "5f0cf4a3",
            "app_session": session,
            "client": ExportClient(fake.api_key, session=session),
            "export_id": await fake.add_export(),
        }
        if re.search("verify_download|exports/|read_contacts|read_arrow|compare_exports", code):
            await fetch_export(names["export_id"], "exports", api_key=fake.api_key)
            names["old"] = names["new"] = "exports"
        compiled = compile(code, "README.md", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        run = await asyncio.to_thread(eval, compiled, names)
        if inspect.isawaitable(run):
            await run
    assert "result" not in names or names["result"].files
    assert "frame" not in names or len(names["frame"]) == 10


def test_the_commands_are_one_line_each() -> None:
    commands = re.findall(r"^```sh\n(.*?)```$", README, re.MULTILINE | re.DOTALL)
    assert [command.count("\n") for command in commands] == [1, 1]
    assert commands[0].rstrip().endswith("examples/backup_contacts.py")
    assert commands[1].rstrip().endswith("-m pytest")


def test_every_error_is_in_the_table() -> None:
    abstract = {"SendGridExportsError", "APIError", "ExportError"}
    errors = {name for name in sendgrid_exports.__all__ if name.endswith("Error")} - abstract
    told = set(re.findall(r"`(\w+Error)`", README))
    assert errors <= told
    assert told - abstract - {"OSError", "TypeError", "ValueError"} <= errors


@pytest.mark.parametrize("policy", [PollPolicy, DownloadPolicy])
def test_every_setting_is_told_where_the_reference_is_made_from(
    policy: type[attrs.AttrsInstance],
) -> None:
    told = re.findall(r"^ {4}(\w+): ", inspect.getdoc(policy) or "", re.MULTILINE)
    assert told == [field.name for field in attrs.fields(policy)]


def test_what_is_read_by_default_is_read_in_three_minutes() -> None:
    shown = re.sub(r"<details>.*?</details>", "", README, flags=re.DOTALL)
    prose = "\n".join(line for line in shown.splitlines() if not line.startswith("|"))
    assert len(re.findall(r"\S*\w\S*", prose)) <= 700
    assert len(re.findall(r"\S*\w\S*", shown)) <= 1000
    assert README.count("<details>\n<summary>") == README.count("\n</details>\n")
