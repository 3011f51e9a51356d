"""The tools: how each downloads some files, and what has to be installed for it."""

from __future__ import annotations

import importlib.util
import json
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import attrs

from tests.benchmarks.measure import python
from tests.benchmarks.programs import find_program

__all__ = [
    "AIOFILES",
    "CURL",
    "CURL_GZIP",
    "CURL_PARALLEL",
    "CURL_SUMS",
    "DISCARDED_BEATING",
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
    "discarded",
    "ours",
]


@attrs.frozen(kw_only=True)
class Work:
    """Files to download.

    Attributes:
        links: where they are.
        sizes: their bytes.
        target: an empty directory.
        certificate: of the authority to trust.
        status: the url of the status call.
        export_id: the export whose files they are.
        job: where to write a job or a list of links.
    """

    links: Sequence[str]
    sizes: Sequence[int]
    target: Path
    certificate: Path
    status: str
    export_id: str
    job: Path


@attrs.frozen(kw_only=True, eq=False)
class Tool:
    """A way to download files.

    Attributes:
        name: as it is printed.
        needs: the programs or modules without which it can't run.
        command: what to run.
        keeps: whether the files exist afterwards.
        settings: of a tool that is ours, what `ours` was given.
    """

    name: str
    needs: Sequence[str]
    command: Callable[[Work], Sequence[str]]
    keeps: bool = True
    settings: dict[str, Any] | None = None

    @property
    def missing(self) -> list[str]:
        """What it needs and is not installed."""
        return [
            need
            for need in self.needs
            if not find_program(need) and importlib.util.find_spec(need) is None
        ]

    def of(self, checkout: Path) -> Tool:
        """Return the same tool of ours, as another checkout has it."""
        assert self.settings is not None
        return ours(f"{self.name}, baseline", **self.settings, checkout=str(checkout))

    def profiled(self, path: Path) -> Tool:
        """Return the same tool of ours, writing its profile to `path`."""
        assert self.settings is not None
        return ours(f"{self.name}, profiled", **self.settings, profile=str(path))


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
        return python("child.py", work.job)

    return command


def ours(name: str = "sendgrid_exports", **settings: Any) -> Tool:
    """Return the library itself: `options` are those of its policy, the rest the child's."""
    command = _child("ours", **settings)
    return Tool(name=name, needs=["sendgrid_exports"], command=command, settings=settings)


def aria2(connections: int) -> Tool:
    """Return aria2 with as many connections a file."""
    name = f"aria2c -x{connections} -s{connections}"
    return Tool(name=name, needs=["aria2c"], command=_aria2(connections))


def discarded(connections: int, *, heartbeat: bool = False) -> Tool:
    """Return receiving alone, with as many connections a file."""
    return Tool(
        name=f"aiohttp, discarded ({connections} a file)" + ", with a heartbeat" * heartbeat,
        needs=["aiohttp"],
        command=_child("discarded", connections=connections, heartbeat=heartbeat),
        keeps=False,
    )


_LENGTH = {"verify": "length"}
OURS = ours()
OURS_LENGTH = ours("sendgrid_exports, LENGTH", options=_LENGTH)
OURS_BEATING = ours("sendgrid_exports, with a heartbeat", heartbeat=True)
OURS_LENGTH_BEATING = ours(
    "sendgrid_exports, LENGTH, with a heartbeat", heartbeat=True, options=_LENGTH
)
OURS_WITHOUT_ISAL = ours("sendgrid_exports, without isal", without_isal=True)
DISCARDED_BEATING = discarded(2, heartbeat=True)
CURL = Tool(name="curl", needs=["curl"], command=_curl)
CURL_PARALLEL = Tool(name="curl --parallel", needs=["curl"], command=_curl_parallel)
CURL_SUMS = Tool(
    name="curl --parallel; md5sum; sha256sum",
    needs=["curl", "md5sum", "sha256sum"],
    command=_curl_then("md5sum", "sha256sum"),
)
CURL_GZIP = Tool(
    name="curl --parallel; md5sum; sha256sum; gzip -t",
    needs=["curl", "md5sum", "sha256sum", "gzip"],
    command=_curl_then("md5sum", "sha256sum", "gzip -t"),
)
AIOFILES = Tool(
    name="aiohttp + aiofiles, 64 KiB",
    needs=["aiohttp", "aiofiles"],
    command=_child("aiohttp_aiofiles"),
)
HTTPX = Tool(name="httpx", needs=["httpx"], command=_child("httpx"))
PYPDL = Tool(name="pypdl", needs=["pypdl"], command=_child("pypdl"))
PARFIVE = Tool(name="parfive", needs=["parfive"], command=_child("parfive"))
