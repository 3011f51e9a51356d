"""Where programs are, also those that only root has on its path."""

from __future__ import annotations

import os
import shutil

__all__ = ["find_program", "require_program"]

_PATH = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/usr/local/sbin:/sbin"


def find_program(name: str) -> str | None:
    """Return the path of a program, or None where it is not installed."""
    return shutil.which(name, path=_PATH)


def require_program(name: str) -> str:
    """Return the path of a program without which nothing can be measured."""
    if program := find_program(name):
        return program
    raise SystemExit(f"{name} is not installed, and nothing can be measured without it")
