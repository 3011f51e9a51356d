"""The tools: how each is asked to bring some files, and what has to be installed for it."""

from __future__ import annotations

import importlib.util
import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from tests.benchmarks.measure import python
from tests.benchmarks.server import find_program

__all__ = [
    "AIOFILES",
    "CURL",
    "CURL_GZIP",
    "CURL_PARALLEL",
    "CURL_SUMS",
    "HTTPX",
    "OURS",
    "OURS_BEATING",
    "OURS_LENGTH",
    "OURS_LENGTH_BEATING",
    "OURS_WITHOUT_ISAL",
    "PARFIVE",
    "PYPDL",
    "Tool",
    "Work",
    "aria2",
    "ours",
    "thrown_away",
]


@attrs.frozen(kw_only=True)
class Work:
    """Files to be brought.

    Attributes:
        links: where they are.
        sizes: their bytes.
        target: an empty directory.
        certificate: of the authority to be trusted.
        status: the url of the status call.
        export_id: the export whose files they are.
        job: a file for a job or a list of links.
    """

    links: Sequence[str]
    sizes: Sequence[int]
    target: Path
    certificate: Path
    status: str
    export_id: str
    job: Path


@attrs.frozen
class Tool:
    """A way to bring files.

    Attributes:
        name: as it is printed.
        needs: the programs, or the module, without which it is missing.
        command: what to run.
        brings: whether files are there afterwards.
    """

    name: str
    needs: Sequence[str]
    command: Callable[[Work], Sequence[str]]
    brings: bool = True

    @property
    def missing(self) -> list[str]:
        """What it needs and is not installed."""
        return [
            need
            for need in self.needs
            if not find_program(need) and importlib.util.find_spec(need) is None
        ]


def _curl(work: Work, *options: str) -> list[str]:
    return [
        *("curl", "--silent", "--show-error", "--fail", "--cacert", str(work.certificate)),
        *(*options, "--output-dir", str(work.target), "--remote-name-all", *work.links),
    ]


def _curl_parallel(work: Work) -> list[str]:
    return _curl(work, "--parallel", "--parallel-immediate", "--parallel-max", "64")


def _curl_then(*checks: str) -> Callable[[Work], Sequence[str]]:
    def command(work: Work) -> Sequence[str]:
        files = shlex.join(str(work.target / link.rpartition("/")[2]) for link in work.links)
        steps = [shlex.join(_curl_parallel(work)), *(f"{check} {files}" for check in checks)]
        return ["sh", "-c", " && ".join(steps)]

    return command


def _aria2(connections: int) -> Callable[[Work], Sequence[str]]:
    def command(work: Work) -> Sequence[str]:
        work.job.write_text("\n".join(work.links))
        return [
            *("aria2c", "--no-conf", "--quiet", f"--ca-certificate={work.certificate}"),
            *(f"--max-connection-per-server={connections}", f"--split={connections}"),
            *("--min-split-size=1M", f"--max-concurrent-downloads={len(work.links)}"),
            *("--file-allocation=none", f"--dir={work.target}", f"--input-file={work.job}"),
        ]

    return command


def _child(tool: str, **settings: Any) -> Callable[[Work], Sequence[str]]:
    def command(work: Work) -> Sequence[str]:
        job = {
            "tool": tool,
            "urls": list(work.links),
            "sizes": list(work.sizes),
            "target": str(work.target),
            "status": work.status,
            "export": work.export_id,
            **settings,
        }
        work.job.write_text(json.dumps(job))
        return python("tests.benchmarks.child", work.job)

    return command


def ours(name: str = "sendgrid_exports", **settings: Any) -> Tool:
    """Return the library itself: `options` are those of its policy, the rest the child's."""
    return Tool(name, ("sendgrid_exports",), _child("ours", **settings))


def aria2(connections: int) -> Tool:
    """Return aria2 with as many connections a file."""
    return Tool(f"aria2c -x{connections} -s{connections}", ("aria2c",), _aria2(connections))


def thrown_away(connections: int, *, heartbeat: bool = False) -> Tool:
    """Return the receiving alone, with as many connections a file."""
    options = {"connections_per_file": connections}
    name = f"aiohttp, thrown away ({connections} a file)" + ", with a heartbeat" * heartbeat
    return Tool(
        name,
        ("aiohttp",),
        _child("thrown_away", options=options, heartbeat=heartbeat),
        brings=False,
    )


LENGTH: Mapping[str, Any] = {"options": {"verify": "length"}}
OURS = ours()
OURS_LENGTH = ours("sendgrid_exports, LENGTH", **LENGTH)
OURS_BEATING = ours("sendgrid_exports, with a heartbeat", heartbeat=True)
OURS_LENGTH_BEATING = ours("sendgrid_exports, LENGTH, with a heartbeat", heartbeat=True, **LENGTH)
OURS_WITHOUT_ISAL = ours("sendgrid_exports, without isal", without_isal=True)
CURL = Tool("curl", ("curl",), _curl)
CURL_PARALLEL = Tool("curl --parallel", ("curl",), _curl_parallel)
CURL_SUMS = Tool(
    "curl --parallel; md5sum; sha256sum",
    ("curl", "md5sum", "sha256sum"),
    _curl_then("md5sum", "sha256sum"),
)
CURL_GZIP = Tool(
    "curl --parallel; md5sum; sha256sum; gzip -t",
    ("curl", "md5sum", "sha256sum", "gzip"),
    _curl_then("md5sum", "sha256sum", "gzip -t"),
)
AIOFILES = Tool("aiohttp + aiofiles, 64 KiB", ("aiohttp", "aiofiles"), _child("aiohttp_aiofiles"))
HTTPX = Tool("httpx", ("httpx",), _child("httpx"))
PYPDL = Tool("pypdl", ("pypdl",), _child("pypdl"))
PARFIVE = Tool("parfive", ("parfive",), _child("parfive"))
