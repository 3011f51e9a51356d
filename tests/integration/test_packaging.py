"""What a checkout and an installed package hold, and what they must not."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from importlib.metadata import requires
from pathlib import Path

import pytest

import sendgrid_exports

ROOT = Path(__file__).parents[2]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]

WITHOUT_EXTRAS = """
import asyncio, sys
sys.modules.update(dict.fromkeys(["click", "duckdb", "isal", "opentelemetry", "pyarrow", "rich"]))
from sendgrid_exports import export_contacts, read_contacts
from sendgrid_exports.testing import FakeSendGrid

async def main():
    async with FakeSendGrid(contacts=5, statuses=["ready"]) as fake:
        return await export_contacts("exports", api_key=fake.api_key, base_url=fake.base_url)

result = asyncio.run(main())
print(result.contact_count, len(list(read_contacts(result))))
"""


def test_the_package_is_typed_and_has_five_dependencies() -> None:
    assert (Path(sendgrid_exports.__file__).parent / "py.typed").exists()
    core = [text for text in requires("sendgrid-exports") or [] if "extra ==" not in text]
    names = {re.split(r"[<>=!~ ]", text)[0] for text in core}
    assert names == {"aiohttp", "attrs", "cattrs", "aiofiles", "backoff"}


# Whole applications, which pin what they run with: they are installed where they run.
APPLICATIONS = {"airflow", "dask", "dlt"}


def test_the_extra_all_is_every_extra_but_the_applications() -> None:
    extras = {*PROJECT["optional-dependencies"]} - {"all"} - APPLICATIONS
    assert PROJECT["optional-dependencies"]["all"] == [
        f"sendgrid-exports[{','.join(sorted(extras))}]"
    ]


def test_what_development_needs_is_not_published() -> None:
    published = {*PROJECT["optional-dependencies"]}
    assert not published & {*PYPROJECT["dependency-groups"]}


def test_contacts_are_downloaded_and_read_without_any_extra(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", WITHOUT_EXTRAS],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("5 5\n", "")


@pytest.mark.parametrize("module", ["sendgrid_exports", "sendgrid_exports.testing"])
def test_importing_prints_and_warns_nothing(module: str) -> None:
    found = subprocess.run(
        [sys.executable, "-W", "error", "-c", f"import {module}"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert (found.stdout, found.stderr) == ("", "")


def test_the_gate_ends_with_the_test_command_of_the_readme() -> None:
    commands = re.findall(
        r"^```sh\n(.* -m pytest)\n```$", (ROOT / "README.md").read_text(), re.MULTILINE
    )
    assert commands == [(ROOT / ".ci/run").read_text().splitlines()[-1]]


def git(*arguments: str) -> str:
    done = subprocess.run(
        ["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode == 128:
        pytest.skip("not a git checkout")
    return done.stdout


@pytest.mark.parametrize(
    "path",
    [
        "exports/some-id-00001.csv.gz",
        "backups/2026-11-27/some-id.manifest.json",
        "contacts.parquet",
        "some/where/some-id-00001.json.gz",
    ],
)
def test_git_ignores_contacts(path: str) -> None:
    assert git("check-ignore", path).strip() == path


def test_the_top_level_holds_what_tools_look_for_and_no_more() -> None:
    assert {path.partition("/")[0] for path in git("ls-files").split()} <= {
        *("pyproject.toml", "README.md", "noxfile.py", "LICENSE", "CHANGELOG.md"),
        *("sendgrid_exports", "tests", "examples"),
        *(".ci", ".github", ".gitignore", ".pre-commit-config.yaml"),
    }
