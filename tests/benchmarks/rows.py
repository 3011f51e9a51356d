"""What is measured, and the bar for each row."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any, TypeAlias

import attrs

from tests.benchmarks.data import Data
from tests.benchmarks.line import MBIT, ROUND_TRIP_MS
from tests.benchmarks.measure import Sample
from tests.benchmarks.tools import (
    AIOFILES,
    CURL,
    CURL_GZIP,
    CURL_PARALLEL,
    CURL_SUMS,
    DISCARDED_BEATING,
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
    discarded,
    ours,
)

__all__ = ["CONNECTIONS", "ROWS", "Bar", "Row", "Samples", "curve", "value"]

Samples: TypeAlias = Mapping[str, Sequence[Sample]]
"""By the tool's name."""

CONNECTIONS = (1, 2, 4, 8, 16)
MIB = 1024 * 1024


@attrs.frozen(kw_only=True)
class Bar:
    """A figure of ours that is shown, and is at most `most`.

    Attributes:
        ours: the tool that is measured by it.
        most: the largest ratio of ours to the best of the peers, or without peers the largest
            value; None only compares.
        peers: the tools it is compared with: the one with the least `of` is the best.
        of: which figure of a `Sample`.
        worst: without peers, the largest `latest` of any run.
        note: what the title lacks.
    """

    ours: Tool
    most: float | None
    peers: Sequence[Tool] = ()
    of: str = "seconds"
    worst: float | None = None
    note: str = ""


@attrs.frozen(kw_only=True)
class Row:
    """Files downloaded by several tools in turn.

    Attributes:
        name: for the command line, which also takes the part before a dash for all of them.
        title: as it is printed, with `{fields}` of `Sizes`.
        group: which files of `Data`.
        tools: what downloads them.
        bars: what ours is measured by.
        count: how many of the files; None is all.
        tls: whether over TLS.
        limited: whether each connection is limited to 20 MB/s.
        far: whether over the long line.
        once: tools that run in the first round only, because they are slow.
        most_of_baseline: the largest ratio of ours to the baseline, where one is given; None
            only compares.
    """

    name: str
    title: str
    group: str
    tools: Sequence[Tool]
    bars: Sequence[Bar]
    count: int | None = None
    tls: bool = True
    limited: bool = False
    far: bool = False
    once: Sequence[Tool] = ()
    most_of_baseline: float | None = None

    def files(self, data: Data) -> Sequence[str]:
        """Return the names of its files."""
        return data.groups[self.group][: self.count]

    def beside(self, baseline: Path) -> Row:
        """Return this row with each tool of ours also as the checkout `baseline` has it."""
        pairs = [(tool, tool.of(baseline)) for tool in self.tools if tool.settings is not None]
        bars = [
            Bar(
                ours=tool,
                peers=[old],
                most=self.most_of_baseline,
                of=self.bars[0].of,
                note=f"{tool.name} against the baseline",
            )
            for tool, old in pairs
        ]
        tools = [*self.tools, *(old for _, old in pairs)]
        return attrs.evolve(self, tools=tools, bars=[*self.bars, *bars])


def value(samples: Samples, tool: Tool, of: str = "seconds") -> float | None:
    """Return the median of a figure of a tool, or None where it did not run."""
    found = samples.get(tool.name)
    return median(float(getattr(sample, of)) for sample in found) if found else None


ARIA2_1, ARIA2_4, ARIA2_8 = aria2(1), aria2(4), aria2(8)
BEST = (CURL_PARALLEL, ARIA2_1, ARIA2_4)
LINE_PEERS = (CURL_PARALLEL, ARIA2_1, ARIA2_8)
DISCARDED = (discarded(1), discarded(2), discarded(4))


def _line_row(name: str, files: str, group: str, count: int | None = None) -> Row:
    return Row(
        name=name,
        title=f"{MBIT} Mbit/s and {ROUND_TRIP_MS} ms, {files}, lengths checked",
        group=group,
        count=count,
        far=True,
        tools=(OURS_LENGTH, *LINE_PEERS),
        bars=[Bar(ours=OURS_LENGTH, peers=LINE_PEERS, most=1.03)],
    )


def _loop_row(name: str, files: str, group: str, beating: Mapping[str, Tool]) -> Row:
    return Row(
        name=name,
        title=f"event loop late at p99 (worst), {files}",
        group=group,
        tools=[*beating.values(), DISCARDED_BEATING],
        bars=[
            Bar(ours=tool, most=0.01, of="late", worst=0.05, note=note)
            for note, tool in beating.items()
        ],
    )


def _memory_row(name: str, size: str, group: str) -> Row:
    return Row(
        name=name,
        title=f"peak memory, 1 file of {size}, everything checked",
        group=group,
        count=1,
        tools=[OURS],
        bars=[Bar(ours=OURS, most=70 * MIB, of="memory")],
    )


def _rows() -> Iterator[Row]:
    yield Row(
        name="tls",
        title="4 files of {file} MiB, lengths checked",
        group="files",
        tools=(OURS_LENGTH, *BEST, AIOFILES, HTTPX, PYPDL, PARFIVE, *DISCARDED),
        bars=[
            Bar(ours=OURS_LENGTH, peers=[CURL_PARALLEL], most=1.25),
            Bar(ours=OURS_LENGTH, peers=[ARIA2_1, ARIA2_4], most=1.0),
            Bar(ours=OURS_LENGTH, peers=[AIOFILES], most=0.67),
            Bar(ours=OURS_LENGTH, peers=[HTTPX], most=0.5),
            Bar(ours=OURS_LENGTH, peers=[PYPDL], most=1.0),
            Bar(ours=OURS_LENGTH, peers=[PARFIVE], most=1.0),
            Bar(ours=OURS_LENGTH, peers=DISCARDED, most=1.25),
            Bar(ours=OURS_LENGTH, peers=[CURL_PARALLEL], most=1.6, of="cpu", note="CPU"),
        ],
    )
    yield Row(
        name="plain",
        title="4 files of {file} MiB without TLS, lengths checked",
        group="files",
        tls=False,
        tools=(OURS_LENGTH, *BEST),
        bars=[Bar(ours=OURS_LENGTH, peers=BEST, most=0.95)],
    )
    yield Row(
        name="checked",
        title="4 files of {file} MiB, everything checked",
        group="files",
        tools=(OURS, CURL_SUMS),
        bars=[Bar(ours=OURS, peers=[CURL_SUMS], most=0.6)],
    )
    yield Row(
        name="exports",
        title="4 gzip CSV exports of {export} MiB, everything checked",
        group="exports",
        tools=(OURS, OURS_WITHOUT_ISAL, CURL_GZIP),
        bars=[
            Bar(ours=OURS, peers=[CURL_GZIP], most=0.5),
            Bar(ours=OURS_WITHOUT_ISAL, peers=[CURL_GZIP], most=0.8, note="without isal"),
        ],
    )
    yield Row(
        name="small",
        title="{small} files of 1 MiB, lengths checked",
        group="small",
        tools=(OURS_LENGTH, CURL_PARALLEL),
        bars=[Bar(ours=OURS_LENGTH, peers=[CURL_PARALLEL], most=1.5)],
    )
    yield Row(
        name="many",
        title="{many:,} files of 100 KiB, lengths checked",
        group="many",
        tools=(OURS_LENGTH, CURL_PARALLEL),
        bars=[Bar(ours=OURS_LENGTH, peers=[CURL_PARALLEL], most=4.0)],
        most_of_baseline=0.1,
    )
    yield _line_row("line-1", "1 file of {file} MiB", "files", 1)
    yield _line_row("line-4", "4 files of {medium} MiB", "medium")
    yield _line_row("line-64", "{small} files of 1 MiB", "small")
    yield Row(
        name="limited",
        title="20 MB/s a connection, 1 file of {single:,} MiB",
        group="single",
        limited=True,
        tools=(OURS_LENGTH, OURS, ARIA2_8, CURL),
        once=[CURL],
        bars=[
            Bar(ours=OURS_LENGTH, peers=[ARIA2_8], most=1.0, note="lengths checked"),
            Bar(ours=OURS, peers=[ARIA2_8], most=1.05, note="everything checked"),
            Bar(ours=OURS_LENGTH, peers=[CURL], most=0.17, note="lengths checked"),
        ],
    )
    checked = {"everything checked": OURS_BEATING}
    both = {**checked, "lengths checked": OURS_LENGTH_BEATING}
    yield _loop_row("loop", "4 files of {file} MiB", "files", both)
    yield _loop_row("loop-exports", "4 gzip CSV exports of {export} MiB", "exports", checked)
    yield _memory_row("memory-small", "1 MiB", "small")
    yield _memory_row("memory-file", "{file} MiB", "files")
    yield _memory_row("memory-single", "{single:,} MiB", "single")
    yield _memory_row("memory-large", "{large:,} MiB", "large")


ROWS = tuple(_rows())


def curve(connections: int) -> tuple[Tool, Tool]:
    """Return ours and aria2 with as many connections for one file."""
    options: dict[str, Any] = {
        "verify": "length",
        "connections": connections,
        "connections_per_file": connections,
    }
    return ours(f"sendgrid_exports, {connections}", options=options), aria2(connections)
