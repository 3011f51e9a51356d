"""One run in a fresh process: what it took."""

from __future__ import annotations

import contextlib
import json
import os
import signal
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

_HERE = Path(__file__).parent
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
        late: seconds by which the event loop was late, at the 99th percentile, where measured.
        latest: the same at its worst.
    """

    seconds: float
    whole: float
    cpu: float
    memory: int
    late: float = 0.0
    latest: float = 0.0


def python(*arguments: str | Path) -> list[str]:
    """Return the command for a script beside this one, or for `-c` and some code.

    It imports the package from PYTHONPATH, or else from this checkout, wherever it is run.
    """
    script, *others = map(str, arguments)
    return [sys.executable, "-P", script if script == "-c" else str(_HERE / script), *others]


def run(
    command: Sequence[str], certificate: Path | None = None, *, timeout: float = 300.0
) -> tuple[Sample, Any]:
    """Run a command; return what it took, and the last line it printed where that is JSON.

    Raises:
        FailedRunError: it failed, or took too long.
    """
    paths = filter(None, (os.environ.get("PYTHONPATH"), str(_HERE.parent.parent)))
    # Compiled once, as an installed package is.
    env = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "PYTHONDONTWRITEBYTECODE": ""}
    if certificate is not None:
        env["SSL_CERT_FILE"] = str(certificate)
    began = time.perf_counter()
    # A child's peak, as the system reports it, is at least what its parent held when it started
    # it: so this process imports and keeps nothing large.
    with (
        tempfile.TemporaryFile() as printed,
        tempfile.TemporaryFile() as errors,
        subprocess.Popen(
            command, stdout=printed, stderr=errors, env=env, process_group=0
        ) as process,
    ):
        timer = threading.Timer(timeout, _kill, [process.pid])
        timer.start()
        try:
            _, status, used = os.wait4(process.pid, 0)
        except BaseException:
            _kill(process.pid)
            raise
        finally:
            timer.cancel()
        whole = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        printed.seek(0)
        errors.seek(0)
        result = _last_json(printed.read())
        complaint = errors.read()[-500:].decode(errors="replace").strip()
    if process.returncode:
        program = Path(command[0]).name
        raise FailedRunError(f"{program} ended with {process.returncode}: {complaint}")
    usual = {"seconds": whole, "cpu": used.ru_utime + used.ru_stime}
    own = result if isinstance(result, dict) and "seconds" in result else {}
    return Sample(whole=whole, memory=used.ru_maxrss * _RSS_UNIT, **{**usual, **own}), result


def _kill(group: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)


def _last_json(printed: bytes) -> Any:
    lines = printed.strip().splitlines()
    try:
        return json.loads(lines[-1]) if lines else None
    except ValueError:
        return None
