"""What is measured, and what is asked of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any, TypeAlias

import attrs

from tests.benchmarks.measure import Sample
from tests.benchmarks.tools import (
    AIOFILES,
    CURL,
    CURL_GZIP,
    CURL_PARALLEL,
    CURL_SUMS,
    HTTPX,
    OURS,
    OURS_BEATING,
    OURS_LENGTH,
    OURS_LENGTH_BEATING,
    OURS_WITHOUT_ISAL,
    PARFIVE,
    PYPDL,
    Tool,
    aria2,
    ours,
    thrown_away,
)

__all__ = ["CONNECTIONS", "ROWS", "Bar", "Row", "Samples", "curve", "value"]

Samples: TypeAlias = Mapping[str, Sequence[Sample]]
"""By the tool's name."""

CONNECTIONS = (1, 2, 4, 8, 16)
MIB = 1024 * 1024


@attrs.frozen(kw_only=True)
class Bar:
    """What is asked: `ratio` of ours to the best of the peers must be at most, or at least, this.

    Attributes:
        ours: the tool that is held to it.
        peers: the tools it is compared with: the one with the least `of` counts.
        text: what is asked, in words.
        most: the largest ratio allowed, or None.
        least: the smallest ratio of the peer to ours allowed, or None.
        of: which figure of a `Sample`.
    """

    ours: Tool
    peers: Sequence[Tool]
    text: str
    most: float | None = None
    least: float | None = None
    of: str = "seconds"


@attrs.frozen(kw_only=True)
class Row:
    """Files brought by several tools in turn.

    Attributes:
        name: for the command line.
        title: as it is printed.
        files: which files of `Data`.
        line: `tls`, `plain` or `limited`.
        tools: who brings them.
        bars: what is asked.
        slow: tools that run once in the first round only.
    """

    name: str
    title: str
    files: str
    line: str
    tools: Sequence[Tool]
    bars: Sequence[Bar]
    slow: Sequence[Tool] = ()


def value(samples: Samples, tool: Tool, of: str = "seconds") -> float | None:
    """Return the median of a figure of a tool, or None where it did not run."""
    found = samples.get(tool.name)
    return median(float(getattr(sample, of)) for sample in found) if found else None


ARIA2_WHOLE, ARIA2_SPLIT, ARIA2_8 = aria2(1), aria2(4), aria2(8)
BEST = (CURL_PARALLEL, ARIA2_WHOLE, ARIA2_SPLIT)
LIMITS = (thrown_away(1), thrown_away(2), thrown_away(4))
THROWN_BEATING = thrown_away(2, heartbeat=True)
OURS_LARGE_PIECES = ours(
    "sendgrid_exports, LENGTH, pieces of 128 MiB",
    options={"verify": "length", "piece_size": 128 * MIB},
)

ROWS = (
    Row(
        name="tls",
        title="4 large files, lengths checked",
        files="files",
        line="tls",
        tools=(OURS_LENGTH, *BEST, AIOFILES, HTTPX, PYPDL, PARFIVE, *LIMITS),
        bars=(
            Bar(ours=OURS_LENGTH, peers=BEST, text="at most 1.0", most=1.0),
            Bar(ours=OURS_LENGTH, peers=[AIOFILES], text="1.5 times as fast", least=1.5),
            Bar(ours=OURS_LENGTH, peers=[HTTPX], text="2 times as fast", least=2.0),
            Bar(ours=OURS_LENGTH, peers=[PYPDL], text="faster", least=1.0),
            Bar(ours=OURS_LENGTH, peers=[PARFIVE], text="faster", least=1.0),
            Bar(ours=OURS_LENGTH, peers=LIMITS, text="0.8 of its speed", most=1.25),
            Bar(
                ours=OURS_LENGTH,
                peers=[CURL_PARALLEL],
                text="at most 1.6",
                most=1.6,
                of="cpu",
            ),
        ),
    ),
    Row(
        name="plain",
        title="the same without TLS",
        files="files",
        line="plain",
        tools=(OURS_LENGTH, *BEST),
        bars=(Bar(ours=OURS_LENGTH, peers=BEST, text="at most 0.95", most=0.95),),
    ),
    Row(
        name="proved",
        title="4 large files, checksums",
        files="files",
        line="tls",
        tools=(OURS, CURL_SUMS),
        bars=(Bar(ours=OURS, peers=[CURL_SUMS], text="less than 1.0", most=1.0),),
    ),
    Row(
        name="exports",
        title="4 gzip CSV exports, checksums, gzip whole, contacts counted",
        files="exports",
        line="tls",
        tools=(OURS, OURS_WITHOUT_ISAL, CURL_GZIP),
        bars=(
            Bar(ours=OURS, peers=[CURL_GZIP], text="at most 0.8", most=0.8),
            Bar(ours=OURS_WITHOUT_ISAL, peers=[CURL_GZIP], text="at most 0.8", most=0.8),
        ),
    ),
    Row(
        name="limited",
        title="1 large file, 20 MB/s a connection",
        files="single",
        line="limited",
        tools=(OURS_LENGTH, OURS, OURS_LARGE_PIECES, ARIA2_8, CURL),
        slow=(CURL,),
        bars=(
            Bar(ours=OURS_LENGTH, peers=[ARIA2_8], text="at most 1.0", most=1.0),
            Bar(ours=OURS_LENGTH, peers=[CURL], text="6 times as fast", least=6.0),
            Bar(ours=OURS, peers=[ARIA2_8], text="at most 1.0", most=1.0),
        ),
    ),
    Row(
        name="small",
        title="64 files of 1 MiB",
        files="small",
        line="tls",
        tools=(OURS_LENGTH, CURL_PARALLEL),
        bars=(Bar(ours=OURS_LENGTH, peers=[CURL_PARALLEL], text="at most 1.0", most=1.0),),
    ),
    Row(
        name="loop",
        title="the event loop meanwhile",
        files="files",
        line="tls",
        tools=(OURS_LENGTH_BEATING, OURS_BEATING, THROWN_BEATING),
        bars=(),
    ),
    Row(
        name="loop-exports",
        title="the event loop meanwhile, gzip CSV exports",
        files="exports",
        line="tls",
        tools=(OURS_BEATING,),
        bars=(),
    ),
)


def curve(connections: int) -> tuple[Tool, Tool]:
    """Return ours and aria2 with as many connections for one file."""
    options: dict[str, Any] = {
        "verify": "length",
        "connections": connections,
        "connections_per_file": connections,
    }
    return ours(f"sendgrid_exports, {connections}", options=options), aria2(connections)
