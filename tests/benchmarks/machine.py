"""Where and with what it was measured."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from tests.benchmarks.server import find_program

__all__ = ["describe", "versions"]

_PROGRAMS = {
    "nginx": "-v",
    "openssl": "version",
    "curl": "--version",
    "aria2c": "--version",
    "gzip": "--version",
    "md5sum": "--version",
}
_PACKAGES = ("aiohttp", "aiofiles", "isal", "httpx", "pypdl", "parfive", "matplotlib")


def describe(target: Path) -> str:
    """Return the machine in one line."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    place = "a RAM disk" if str(target).startswith("/dev/shm") else f"{target} (no RAM disk)"
    return (
        f"{_processor()}, {os.cpu_count()} cores, {memory:.0f} GiB, "
        f"{platform.system()} {platform.release()}, target on {place}"
    )


def versions() -> tuple[Sequence[str], Sequence[str]]:
    """Return the programs and packages with their versions, and those that are missing."""
    found, missing = [f"Python {platform.python_version()}"], []
    for name, option in _PROGRAMS.items():
        if program := find_program(name):
            said = subprocess.run([program, option], capture_output=True, text=True, check=False)
            number = re.search(r"\d+(\.\d+)+\w*", said.stdout + said.stderr)
            found.append(f"{name} {number[0] if number else '?'}")
        else:
            missing.append(name)
    for name in _PACKAGES:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            missing.append(name)
    return found, missing


def _processor() -> str:
    try:
        told = Path("/proc/cpuinfo").read_text()
        found = re.search(r"^model name\s*:\s*(.+)$", told, re.MULTILINE)
    except OSError:
        found = None
    return found[1] if found else platform.processor() or platform.machine()
