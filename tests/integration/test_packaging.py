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
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_the_package_is_typed_and_has_five_dependencies() -> None:
    assert (Path(sendgrid_exports.__file__).parent / "py.typed").exists()
    core = [text for text in requires("sendgrid-exports") or [] if "extra ==" not in text]
    names = {re.split(r"[<>=!~ ]", text)[0] for text in core}
    assert names == {"aiohttp", "attrs", "cattrs", "aiofiles", "backoff"}


def test_the_extras_are_optional() -> None:
    code = (
        "import sys; sys.modules['isal'] = None; import sendgrid_exports.formats.gunzip as g; "
        "print(g.zlib.__name__)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "zlib\n"


@pytest.mark.parametrize("module", ["sendgrid_exports", "sendgrid_exports.testing"])
def test_importing_has_no_effect_and_needs_no_extra(module: str) -> None:
    code = f"import sys; sys.modules['isal'] = None; import {module}"
    found = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True
    )
    assert (found.stdout, found.stderr) == ("", "")


def test_the_top_level_is_the_designs() -> None:
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    assert {path.partition("/")[0] for path in listed.stdout.split()} <= {
        *("pyproject.toml", "README.md", "noxfile.py", "LICENSE", "CHANGELOG.md"),
        *("sendgrid_exports", "tests", "examples", ".gitignore", ".ci", ".github"),
    }
