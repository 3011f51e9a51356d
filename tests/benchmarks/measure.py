"""One run in a fresh process: what it took."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs

__all__ = ["FailedRunError", "Sample", "python", "run"]

_PATIENCE = 300.0
_RSS_UNIT = 1 if sys.platform == "darwin" else 1024


class FailedRunError(Exception):
    """A run that did not do its work."""


@attrs.frozen(kw_only=True)
class Sample:
    """What one run took.

    Attributes:
        seconds: the work; of a Python tool without its start and imports.
        whole: seconds from the start of the process to its end.
        cpu: seconds of processor time of the work.
        memory: bytes resident at the peak, of the whole process.
        late: by how many seconds each heartbeat came late, where there was one.
    """

    seconds: float
    whole: float
    cpu: float
    memory: int
    late: Sequence[float] = ()


def python(*arguments: str | Path) -> list[str]:
    """Return the command for a module of ours."""
    return [sys.executable, "-m", *map(str, arguments)]


def run(command: Sequence[str], certificate: Path | None = None) -> tuple[Sample, Any]:
    """Run a command; return what it took, and what it printed as JSON, if it did.

    Raises:
        FailedRunError: it did not end well, or not in time.
    """
    # Compiled once, as an installed package is.
    env = {**os.environ, "PYTHONDONTWRITEBYTECODE": ""}
    if certificate is not None:
        env["SSL_CERT_FILE"] = str(certificate)
    began = time.perf_counter()
    # The peak that the system tells of a child is at least what its parent held when it was
    # made: hence nothing large is imported or kept where this runs.
    with (
        tempfile.TemporaryFile() as printed,
        tempfile.TemporaryFile() as errors,
        subprocess.Popen(command, stdout=printed, stderr=errors, env=env) as process,
    ):
        timer = threading.Timer(_PATIENCE, process.kill)
        timer.start()
        _, status, used = os.wait4(process.pid, 0)
        whole = time.perf_counter() - began
        timer.cancel()
        process.returncode = os.waitstatus_to_exitcode(status)
        printed.seek(0)
        errors.seek(0)
        said, complaint = _last_json(printed.read()), errors.read()[-500:].decode(errors="replace")
    if process.returncode:
        program = Path(command[0]).name
        raise FailedRunError(f"{program} ended with {process.returncode}: {complaint}")
    own = said if isinstance(said, dict) else {}
    sample = Sample(
        seconds=own.get("seconds", whole),
        whole=whole,
        cpu=own.get("cpu", used.ru_utime + used.ru_stime),
        memory=used.ru_maxrss * _RSS_UNIT,
        late=own.get("late", ()),
    )
    return sample, said


def _last_json(printed: bytes) -> Any:
    lines = printed.strip().splitlines()
    try:
        return json.loads(lines[-1]) if lines else None
    except ValueError:
        return None
