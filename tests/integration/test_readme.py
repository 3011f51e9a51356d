"""The README's code and commands run, and its tables are those of the code."""

from __future__ import annotations

import ast
import asyncio
import builtins
import inspect
import json
import os
import re
import shlex
import sys
import tomllib
from pathlib import Path
from typing import Any

import aiohttp
import attrs
import pytest

import sendgrid_exports
from sendgrid_exports import (
    DownloadPolicy,
    ExportClient,
    PollPolicy,
    fetch_export,
    read_contacts,
)
from sendgrid_exports.cli.exits import Exit, exit_of
from sendgrid_exports.cli.main import cli
from sendgrid_exports.cli.output import Output
from sendgrid_exports.testing import FakeSendGrid

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
RESULTS = (ROOT / "tests" / "benchmarks" / "results.md").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
FENCES = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
LIST_ID = "5f0cf4a3-5b4c-4d0e-8a43-9f1c3a7d2b10"


def fences(language: str) -> list[str]:
    return [code for name, code in FENCES if name == language]


FIRST, *BLOCKS = fences("python")
TESTS = [code for code in BLOCKS if "import pytest" in code]
SERVICES = [code for code in BLOCKS if "FastAPI(" in code]
BLOCKS = [code for code in BLOCKS if code not in TESTS + SERVICES]


def cron_jobs() -> list[tuple[list[str], list[str]]]:
    """Return the time and the command line of each job, in words."""
    lines = "".join(fences("crontab")).splitlines()
    jobs = [line.split(maxsplit=5) for line in lines if not re.match(r"\w+=", line)]
    return [(job[:5], shlex.split(job[5])) for job in jobs]


def test_no_fence_is_of_a_kind_that_is_not_tested() -> None:
    assert {name for name, _ in FENCES} == {"bash", "crontab", "python", "sh"}
    assert len(TESTS) == len(SERVICES) == 1


def test_the_first_code_stands_on_the_first_screen() -> None:
    before, code, _ = README.partition("```python\n")
    assert code
    assert before.count("\n") < 25
    assert len([line for line in FIRST.splitlines() if line.strip()]) <= 10


@pytest.fixture
async def fake(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A service that an `ExportClient` reaches without a `base_url`."""
    async with FakeSendGrid(contacts=10, statuses=["ready"]) as fake:
        defaults: Any = ExportClient.__init__.__kwdefaults__
        monkeypatch.setitem(defaults, "base_url", fake.base_url)
        yield fake


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A `sendgrid-exports` of this checkout first on the PATH, and nothing in the directory."""
    (tmp_path / "bin").mkdir()
    script = tmp_path / "bin" / "sendgrid-exports"
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m sendgrid_exports "$@"\n')
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{script.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    directory = tmp_path / "here"
    directory.mkdir()
    monkeypatch.chdir(directory)
    return script


async def test_the_first_code_runs_as_it_is(
    fake: FakeSendGrid,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SENDGRID_API_KEY", fake.api_key)
    await asyncio.to_thread(exec, FIRST, {})
    assert capsys.readouterr().out == "10 contacts in 1 files\n"


@pytest.mark.parametrize("code", BLOCKS)
@pytest.mark.usefixtures("command")
async def test_every_other_code_runs_where_its_names_are_given(
    code: str, fake: FakeSendGrid
) -> None:
    for extra in ("dask", "dlt"):
        if f"integrations.{extra}" in code:
            pytest.importorskip(extra, reason=f"needs the extra {extra}")
    async with aiohttp.ClientSession() as session:
        names: dict[str, Any] = {
            "key": fake.api_key,
            "list_id": LIST_ID,
            "client": ExportClient(fake.api_key, session=session),
            "export_id": await fake.add_export(),
            "environment": os.environ,
        }
        if re.search(r"exports/|read_\w+\(|sendgrid\(|write_parquet|compare_exports", code):
            await fetch_export(names["export_id"], "exports", api_key=fake.api_key)
            names["old"] = names["new"] = "exports"
        compiled = compile(code, "README.md", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        run = await asyncio.to_thread(eval, compiled, names)
        if inspect.isawaitable(run):
            await run
        if isinstance(client := names["client"], ExportClient):
            await client.close()
    assert "result" not in names or names["result"].files
    assert all(len(names[name]) == 10 for name in ("arrow", "frame") if name in names)
    if plans := names.get("plans"):
        contacts = await asyncio.to_thread(lambda: list(read_contacts("exports")))
        rows = [(row["Plan"], row["plan"]) for row in contacts]
        assert plans == rows
        assert any(first != second for first, second in rows)


async def test_the_test_for_users_passes(tmp_path: Path) -> None:
    (tmp_path / "test_theirs.py").write_text(TESTS[0])
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "pytest", "-q"),
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTEST_ADDOPTS": ""},
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await process.communicate()
    assert b"1 passed" in output, output.decode()


async def test_the_service_has_one_job_for_each_id_and_survives_an_error(
    fake: FakeSendGrid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("fastapi", reason="pip install --group test")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"key": fake.api_key}
    exec(SERVICES[0], names)
    app, jobs = names["app"], names["jobs"]
    export_id = await fake.add_export()
    async with app.router.lifespan_context(app):
        assert await call(app, "GET", f"/backups/{export_id}") == 404
        assert await call(app, "PUT", f"/backups/{export_id}") == {"state": "running"}
        first = jobs[export_id]
        assert await call(app, "GET", f"/backups/{export_id}") == {"state": "running"}
        assert await call(app, "PUT", f"/backups/{export_id}") == {"state": "running"}
        assert jobs[export_id] is first
        await first
        assert await call(app, "GET", f"/backups/{export_id}") == {"state": "done", "contacts": 10}
        await call(app, "PUT", "/backups/unknown")
        await asyncio.wait([jobs["unknown"]])
        failed = await call(app, "GET", "/backups/unknown")
        assert (failed["state"], "404" in failed["error"]) == ("failed", True)
        pending = await fake.add_export(statuses=["pending"])
        await call(app, "PUT", f"/backups/{pending}")
    assert jobs[pending].cancelled()


async def call(app: Any, method: str, path: str) -> Any:
    """Send one request to an ASGI application; return the JSON, or the status of an error."""
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope: dict[str, Any] = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "scheme": "http",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [],
        "server": ("127.0.0.1", 80),
        "client": None,
    }
    await app(scope, receive, send)
    status = sent[0]["status"]
    body = b"".join(message.get("body", b"") for message in sent[1:])
    return status if status >= 400 else json.loads(body)


def test_the_commands_that_set_everything_up_are_one_line_each() -> None:
    commands = fences("sh")
    assert [command.count("\n") for command in commands] == [1, 1]
    assert commands[0].rstrip().endswith("examples/backup_contacts.py")
    assert commands[1].rstrip().endswith("-m pytest")


@pytest.mark.parametrize("line", [line for code in fences("sh") for line in code.splitlines()])
def test_a_command_that_sets_everything_up_names_what_is_there(line: str) -> None:
    words = [word for part in line.split(" && ") for word in shlex.split(part)]
    assert all((ROOT / word).exists() for word in words if word.startswith("examples/"))
    assert set(words[:4]) == {"python3", "-m", "venv", ".venv"}


def test_the_line_that_installs_asks_for_extras_that_exist() -> None:
    [code] = [code for code in fences("bash") if "pip install" in code]
    found = re.findall(r"'\.\[(.*)\]'", code)
    assert set(",".join(found).split(",")) <= {*EXTRAS}
    assert code.count("\n") == 1


def test_what_the_line_installs_is_named_beside_it() -> None:
    before = README.partition("```python\n")[0]
    [everything] = EXTRAS["all"]
    assert {*re.findall(r"[\w-]+", everything.partition("[")[2])} <= {
        *re.findall(r"`([\w-]+)`", before)
    }


@pytest.mark.parametrize("code", [code for code in fences("bash") if "pip install" not in code])
async def test_every_script_runs(code: str, command: Path) -> None:
    key = FakeSendGrid().api_key
    with_base_url = 'case $1 in backup|start|fetch) set -- "$@" --base-url "$BASE_URL";; esac\n'
    command.write_text(command.read_text().replace("exec", f"{with_base_url}exec"))
    async with FakeSendGrid(contacts=10, statuses=["ready"]) as fake:
        process = await asyncio.create_subprocess_exec(
            *("bash", "-euc", code),
            env=os.environ | {"SENDGRID_API_KEY": key, "BASE_URL": fake.base_url},
            stderr=asyncio.subprocess.PIPE,
        )
        _, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()
    assert Path("contacts.parquet").stat().st_size > 1000


COMMANDS = [
    *(words for _, words in cron_jobs()),
    *map(shlex.split, re.findall(r"`(sendgrid-exports [^`]*)`", README)),
]


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_command_line_is_one_that_the_command_takes(words: list[str], tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "sendgrid.key").touch()
    program, name, *arguments = (re.sub("^/(etc|var)", rf"{tmp_path}/\1", word) for word in words)
    assert Path(program).name == "sendgrid-exports"
    assert cli.commands[name].make_context(name, arguments, obj=Output()).params


def test_every_cron_job_runs_once_a_day_into_a_directory_of_its_own() -> None:
    for (minute, hour, *others), _ in cron_jobs():
        assert (int(minute) < 60, int(hour) < 24, others) == (True, True, ["*", "*", "*"])
    directories = [words[2] for _, words in cron_jobs()]
    assert len({*directories}) == len(directories) == 3


def test_the_table_of_commands_has_all_of_them() -> None:
    _, _, table = README.partition("## Command line")
    table = table.partition("## Python")[0]
    cells = re.findall(r"^\| (`.*?) \|", table, re.MULTILINE)
    named = [code for cell in cells for code in re.findall(r"`([^`]+)`", cell)]
    assert {code.split()[0] for code in named} == {*cli.commands}
    for code in named:
        options = {
            option for param in cli.commands[code.split()[0]].params for option in param.opts
        }
        assert {*re.findall(r"--[\w-]+", code)} <= options


def test_every_option_that_is_named_exists() -> None:
    options = {o for one in cli.commands.values() for param in one.params for o in param.opts}
    prose = re.sub(r"^```.*?^```$", "", README, flags=re.MULTILINE | re.DOTALL)
    named = re.findall(r"`(?:sendgrid-exports )?(--[\w-]+)[^`]*`", prose)
    assert named
    assert {*named} <= options


def exceptions() -> dict[str, int]:
    """Return the exit code that the table gives each exception."""
    _, _, table = README.partition("| exception |")
    rows = re.findall(r"^\| (`.*?) \|.*\| (\d+) \|$", table, re.MULTILINE)
    return {name: int(code) for cell, code in rows for name in re.findall(r"`(\w+)`", cell)}


def test_every_error_is_in_the_table_of_exceptions() -> None:
    abstract = {"SendGridExportsError", "APIError", "ExportError"}
    errors = {name for name in sendgrid_exports.__all__ if name.endswith("Error")} - abstract
    assert {*exceptions()} == errors | {"ImportError", "OSError", "TypeError", "ValueError"}


@pytest.mark.parametrize(("name", "code"), exceptions().items())
def test_an_exception_has_the_exit_code_of_the_table(name: str, code: int) -> None:
    kind = getattr(sendgrid_exports, name, None) or getattr(builtins, name)
    assert exit_of(kind.__new__(kind)) == code


def test_the_table_of_exit_codes_is_that_of_the_help() -> None:
    _, _, table = README.partition("| exit code |")
    rows = re.findall(r"^\| (\d+) \| (.*?) \|", table, re.MULTILINE)
    assert {int(code): meaning for code, meaning in rows} == {
        int(code): code.meaning for code in Exit
    }


def measured(work: str) -> dict[str, float]:
    """Return the seconds of each tool in the one work that was measured with that title."""
    sections = [section.partition("\n") for section in RESULTS.split("\n## ")[1:]]
    [table] = [table for title, _, table in sections if re.match(work, title)]
    return {
        tool: float(time)
        for tool, time in re.findall(r"^\| (.+?) \| ([\d.]+) s", table, re.MULTILINE)
    }


def test_the_figures_are_those_that_were_measured() -> None:
    _, _, figures = README.partition("<!-- figures -->")
    figures = " ".join(figures.partition("<!-- end of figures -->")[0].split())
    [day] = re.findall(r"^- (\d{4}-\d{2}-\d{2}), by ", RESULTS, re.MULTILINE)
    exports = measured("4 gzip CSV exports")
    checked = exports["sendgrid_exports"] / exports["curl --parallel; md5sum; sha256sum; gzip -t"]
    files = measured("4 (large )?files of .* MiB, lengths checked$")
    unchecked = files["sendgrid_exports, LENGTH"] / files["curl --parallel"]
    assert re.findall(r"\d{4}-\d{2}-\d{2}|\d+\.\d+", figures) == [
        day,
        f"{checked:.2f}",
        f"{unchecked:.1f}",
    ]


def test_the_chart_shows_what_was_measured() -> None:
    [chart] = re.findall(r"\]\((tests/\S+\.svg)\)", README)
    # Its text is drawn; a comment before each says what it is.
    texts = re.findall("<!-- (.*) -->", (ROOT / chart).read_text())
    drawn = [text for text in texts if re.fullmatch(r"\d+\.\d", text)]
    assert sorted(drawn) == sorted(
        f"{time:.1f}" for time in measured("4 gzip CSV exports").values()
    )


@pytest.mark.parametrize("policy", [PollPolicy, DownloadPolicy])
def test_every_setting_is_documented_where_the_reference_is_made_from(
    policy: type[attrs.AttrsInstance],
) -> None:
    named = re.findall(r"^ {4}(\w+): ", inspect.getdoc(policy) or "", re.MULTILINE)
    assert named == [field.name for field in attrs.fields(policy)]


def test_what_is_shown_by_default_is_read_in_three_minutes() -> None:
    shown = re.sub(r"<details>.*?</details>", "", README, flags=re.DOTALL)
    prose = "\n".join(line for line in shown.splitlines() if not line.startswith("|"))
    assert len(re.findall(r"\S*\w\S*", prose)) <= 700
    assert len(re.findall(r"\S*\w\S*", shown)) <= 1000
    assert README.count("<details>\n<summary>") == README.count("\n</details>\n")
