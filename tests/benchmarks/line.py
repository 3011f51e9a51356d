"""A server at the far end of a long line, on this machine: `line.c` and a network namespace."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import attrs

from tests.benchmarks.programs import find_program

__all__ = ["MBIT", "ROUND_TRIP_MS", "Line", "LineUnavailableError", "open_line"]

MBIT = 500
ROUND_TRIP_MS = 40
_COMPILERS = ("cc", "gcc", "clang")


class LineUnavailableError(Exception):
    """This machine can't simulate a line; the text says what is missing."""


@attrs.frozen(kw_only=True)
class Line:
    """An open line.

    Attributes:
        address: of the far end, as it is reached from here.
        at_far_end: what to write before a command so that it runs at the far end.
    """

    address: str
    at_far_end: Sequence[str]


@contextmanager
def open_line(directory: Path) -> Iterator[Line]:
    """Open a line of `MBIT` and `ROUND_TRIP_MS`, with the compiled simulator in `directory`.

    Raises:
        LineUnavailableError: something is missing for it.
    """
    ip = find_program("ip")
    compiler = next(filter(None, map(find_program, _COMPILERS)), None)
    missing = [
        *(["Linux"] if sys.platform != "linux" else []),
        *(["root"] if os.geteuid() else []),
        *(["/dev/net/tun"] if not Path("/dev/net/tun").exists() else []),
        *(["ip, of iproute2"] if not ip else []),
        *(["a C compiler"] if not compiler else []),
    ]
    if missing or not ip or not compiler:
        raise LineUnavailableError(f"needs {', '.join(missing)}")
    program = directory / "line"
    source = Path(__file__).with_suffix(".c")
    _run(compiler, "-std=gnu11", "-O2", "-Wall", "-Wextra", "-o", str(program), str(source))
    # RFC 2544 sets these addresses aside for benchmarks; the id keeps two at once apart.
    number = os.getpid() % 250
    near, far = f"198.18.{number}.1", f"198.18.{number}.2"
    namespace, near_device, far_device = (f"{name}{os.getpid()}" for name in ("far", "wan", "lan"))
    with ExitStack() as stack:
        _run(ip, "netns", "add", namespace)
        stack.callback(_run, ip, "netns", "delete", namespace)
        delay = ROUND_TRIP_MS * 1000 // 2
        ends = [f"/run/netns/{namespace}", near_device, far_device]
        simulator = subprocess.Popen(
            [program, *ends, str(MBIT), str(delay)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        stack.enter_context(simulator)
        stack.callback(simulator.terminate)
        assert simulator.stdout
        if (said := simulator.stdout.readline().strip()) != "ready":
            raise LineUnavailableError(said or "the simulator ended at once")
        there = ["-n", namespace]
        _run(ip, "address", "add", near, "peer", far, "dev", near_device)
        _run(ip, *there, "address", "add", far, "peer", near, "dev", far_device)
        _run(ip, "link", "set", near_device, "up", "txqueuelen", "10000")
        _run(ip, *there, "link", "set", far_device, "up", "txqueuelen", "10000")
        _run(ip, *there, "link", "set", "lo", "up")
        at_far_end = [ip, "netns", "exec", namespace]
        # What TCP remembers of one tool's connections must not speed up the next one's.
        _run(*at_far_end, "sh", "-c", "echo 1 > /proc/sys/net/ipv4/tcp_no_metrics_save")
        yield Line(address=far, at_far_end=at_far_end)


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise LineUnavailableError(f"{' '.join(command)}: {done.stderr.strip()[-300:]}")
