"""The plots: the README's bars, and bars, speed against connections, memory against size."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.benchmarks.rows import ROWS, curve, value
from tests.benchmarks.tools import CURL_GZIP, OURS, OURS_WITHOUT_ISAL

if TYPE_CHECKING:
    from tests.benchmarks.report import Results

__all__ = ["draw"]

MIB = 1024 * 1024
_OURS, _PEER, _LIMIT = "#1f6feb", "#9aa4b2", "#d0d7de"


def draw(results: Results, path: Path) -> Path:
    """Draw what was measured, and return `path`; the README's bars are in `verified.svg`."""
    matplotlib = importlib.import_module("matplotlib")
    matplotlib.use("svg")
    matplotlib.rcParams.update(
        {"font.size": 9, "svg.hashsalt": "results", "axes.spines.top": False}
        | {"axes.spines.right": False, "axes.titlesize": 10, "axes.titlelocation": "left"}
    )
    plot = importlib.import_module("matplotlib.pyplot")
    figure, (bars, connections, memory) = plot.subplots(
        1, 3, figsize=(13, 4), width_ratios=(5, 4, 4), layout="constrained"
    )
    _bars(results, bars)
    _connections(results, connections)
    _memory(results, memory)
    figure.savefig(path, metadata={"Date": None})
    samples = results.samples.get("exports", {})
    found = {
        tool.name: seconds
        for tool in (CURL_GZIP, OURS_WITHOUT_ISAL, OURS)
        if (seconds := value(samples, tool)) is not None
    }
    if found:
        _draw_verified(plot, found, path.with_name("verified.svg"))
    return path


def _draw_verified(plot: Any, seconds: Mapping[str, float], path: Path) -> None:
    figure, axes = plot.subplots(figsize=(8, 1.8), layout="constrained")
    colours = [_OURS if name.startswith(OURS.name) else _PEER for name in seconds]
    axes.bar_label(axes.barh([*seconds], [*seconds.values()], color=colours), fmt="%.1f", padding=3)
    axes.set_xlabel("seconds (shorter is better)")
    axes.set_title("Four gzip exports downloaded over TLS and verified")
    figure.savefig(path, metadata={"Date": None})


def _bars(results: Results, axes: Any) -> None:
    row = ROWS[0]
    samples = results.samples.get(row.name, {})
    found = {tool: value(samples, tool) for tool in row.tools}
    known = {tool: seconds for tool, seconds in found.items() if seconds is not None}
    limits = [tool for tool in known if not tool.keeps]
    limit = min(limits, key=lambda tool: known[tool], default=None)
    kept = sorted((tool for tool in known if tool.keeps), key=lambda tool: -known[tool])
    tools = [*kept, *([limit] if limit else [])]
    names = [
        tool.name.removesuffix(", LENGTH") if tool.keeps else "for comparison: nothing kept"
        for tool in tools
    ]
    colours = [
        _OURS if tool.name.startswith(OURS.name) else _PEER if tool.keeps else _LIMIT
        for tool in tools
    ]
    drawn = axes.barh(names, [known[tool] for tool in tools], color=colours)
    axes.bar_label(drawn, fmt="%.2f", padding=3)
    axes.set_xlabel("seconds (shorter is better)")
    axes.set_title(f"4 files of {results.sizes.file:,} MiB over TLS, lengths checked")


def _connections(results: Results, axes: Any) -> None:
    size = results.sizes.single
    for index, (name, colour) in enumerate((("sendgrid_exports", _OURS), ("aria2c", _PEER))):
        points = [
            (connections, size / seconds)
            for connections, samples in results.curve.items()
            if (seconds := value(samples, curve(connections)[index])) is not None
        ]
        if points:
            axes.plot(*zip(*points, strict=True), "o-", color=colour, label=name)
    axes.set_xscale("log", base=2)
    axes.set_xticks(list(results.curve), [str(connections) for connections in results.curve])
    axes.set_ylim(bottom=0)
    axes.set_xlabel("connections")
    axes.set_ylabel("MiB a second (higher is better)")
    axes.set_title(f"1 file of {size:,} MiB over TLS, lengths checked")
    if results.curve:
        axes.legend(frameon=False, loc="lower right")


def _memory(results: Results, axes: Any) -> None:
    sizes = {
        "memory-small": 1,
        "memory-file": results.sizes.file,
        "memory-single": results.sizes.single,
        "memory-large": results.sizes.large,
    }
    points = [
        (size, peak / MIB)
        for name, size in sizes.items()
        if (peak := value(results.samples.get(name, {}), OURS, "memory")) is not None
    ]
    if points:
        axes.plot(*zip(*points, strict=True), "o-", color=_OURS)
    axes.axhline(70, color=_PEER, linestyle="--")
    axes.annotate("the bar: 70 MiB", (1, 72), color="#57606a")
    axes.set_xscale("log", base=2)
    axes.set_xticks([x for x, _ in points], [_size(x) for x, _ in points])
    axes.set_ylim(0, 100)
    axes.set_xlabel("size of the file")
    axes.set_ylabel("MiB of memory at the peak")
    axes.set_title("Memory against size, everything checked")


def _size(mebibytes: float) -> str:
    return f"{mebibytes / 1024:g} GiB" if mebibytes >= 1024 else f"{mebibytes:g} MiB"
