"""What is measured, where, and with which versions."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from tests.benchmarks.measure import python, run
from tests.benchmarks.programs import find_program

__all__ = ["count_code", "describe", "find_package", "versions"]

_PROGRAMS = {
    "nginx": "-v",
    "openssl": "version",
    "curl": "--version",
    "aria2c": "--version",
    "gzip": "--version",
    "md5sum": "--version",
}
_PACKAGES = ("aiohttp", "aiofiles", "isal", "httpx", "pypdl", "parfive", "matplotlib")
_DOWNLOADING = (
    "transfer/**/*.py",
    "client*.py",
    "disk*.py",
    "session*.py",
    "receiving.py",
    "contents/stream*.py",
)


def describe(target: Path) -> str:
    """Return the machine in one line."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    place = "a RAM disk" if str(target).startswith("/dev/shm") else f"{target} (not a RAM disk)"
    return (
        f"{_processor()}, {os.cpu_count()} cores, {memory:.0f} GiB, "
        f"{platform.system()} {platform.release()}, target on {place}"
    )


def versions() -> tuple[Sequence[str], Sequence[str]]:
    """Return the programs and packages with their versions, and those that are missing."""
    found, missing = [f"Python {platform.python_version()}"], []
    for name, option in _PROGRAMS.items():
        if program := find_program(name):
            done = subprocess.run([program, option], capture_output=True, text=True, check=False)
            number = re.search(r"\d+(\.\d+)+\w*", done.stdout + done.stderr)
            found.append(f"{name} {number[0] if number else '?'}")
        else:
            missing.append(name)
    for name in _PACKAGES:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            missing.append(name)
    return found, missing


def find_package() -> Path:
    """Return the directory of the package that is measured."""
    code = "import json, sendgrid_exports as package; print(json.dumps(package.__file__))"
    return Path(run(python("-c", code))[1]).parent


def count_code(package: Path) -> tuple[int, int]:
    """Return the lines and the modules of what downloads."""
    modules = [path for pattern in _DOWNLOADING for path in package.glob(pattern)]
    return sum(len(path.read_text().splitlines()) for path in modules), len(modules)


def _processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text()
        found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    except OSError:
        found = None
    return found[1] if found else platform.processor() or platform.machine()
