"""From samples to a table that says what was asked, and whether it was reached."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import attrs

from tests.benchmarks.data import Sizes
from tests.benchmarks.machine import describe, versions
from tests.benchmarks.plot import draw
from tests.benchmarks.rows import ROWS, THROWN_BEATING, Bar, Row, Samples, value
from tests.benchmarks.tools import OURS, OURS_BEATING, OURS_LENGTH, OURS_LENGTH_BEATING, Tool

__all__ = ["IMPORTS", "IMPORT_PEER", "Results", "write_results"]

IMPORT_PEER = "import aiohttp"
IMPORTS = ("import sendgrid_exports", "from sendgrid_exports import ExportClient")

MIB = 1024 * 1024
_MOST_MEMORY = 120 * MIB
_LINE = "| {} | {} | {} | {} | {} | {} |"
_HEAD = "| work | ours | best peer | ratio | asked | reached |\n|---|---|---|---|---|---|"


@attrs.define(kw_only=True)
class Results:
    """All that was measured.

    Attributes:
        command: what the maintainer typed.
        samples: by row.
        curve: by connections.
        memory: by bytes of the file.
        imports: seconds, by the line that imports.
        polling: what `polling` printed.
        failures: why a tool did not do its work, by its name.
    """

    command: str
    sizes: Sizes
    rounds: int
    target: Path
    md5_etags: bool = True
    samples: dict[str, Samples] = attrs.field(factory=dict)
    curve: dict[int, Samples] = attrs.field(factory=dict)
    memory: dict[int, Samples] = attrs.field(factory=dict)
    imports: dict[str, float] = attrs.field(factory=dict)
    polling: dict[str, float] = attrs.field(factory=dict)
    failures: dict[str, str] = attrs.field(factory=dict)


def write_results(results: Results, directory: Path) -> str:
    """Write `results.md` and `results.svg` into `directory`, made if need be; return the table."""
    directory.mkdir(parents=True, exist_ok=True)
    table = "\n".join([_HEAD, *_asked(results)])
    found, missing = versions()
    plot = draw(results, directory / "results.svg") if "matplotlib" not in missing else None
    (directory / "results.md").write_text(
        "\n".join(
            [
                "# Measured against the tools you would otherwise use\n",
                f"- {datetime.now(UTC):%Y-%m-%d}, by `{results.command}`: every tool in turn, "
                f"medians of {results.rounds}",
                f"- {describe(results.target)}; nginx on loopback shares the cores",
                f"- {', '.join(found)}",
                f"- missing: {', '.join(missing) or 'nothing'}",
                *(f"- {name} failed: {why}" for name, why in results.failures.items()),
                *([] if results.md5_etags else [_NO_MD5]),
                "",
                *([f"![bars and curves]({plot.name})\n"] if plot else []),
                table,
                "",
                *_NOTES,
                *_all_figures(results),
            ]
        )
        + "\n"
    )
    return table


_NO_MD5 = (
    "- nginx's headers-more module is missing: ETags were no MD5s, and were not checked by ours"
)
_NOTES = (
    "Ratios compare runs of one session on one machine; the seconds say little elsewhere. A Python "
    "tool is timed without its start and imports, which a program has behind it (the last table "
    "has the whole process too); `curl` and `aria2c` from start to end. Memory is the peak of the "
    "whole process. nginx limits each request anew and lets its first second through at once, so "
    "smaller pieces gain a little on the limited line: hence the row with larger ones.",
    "",
)


def _asked(results: Results) -> Iterator[str]:
    for row in ROWS:
        if samples := results.samples.get(row.name):
            for bar in row.bars:
                yield _bar(results, row, bar, samples)
    yield from _memory(results)
    yield from _loop(results)
    for line in IMPORTS if results.imports else ():
        above = 1000 * (results.imports[line] - results.imports[IMPORT_PEER])
        yield _line(
            f"`{line}`, above `{IMPORT_PEER}`", f"{above:.0f} ms", "", "", "60 ms", above <= 60
        )
    if polling := results.polling:
        looks, late, gap = polling["looks"], polling["late"], polling["closest"]
        yield _line("polling: looks in an hour", f"{looks}", "", "", "under 140", looks < 140)
        yield _line("polling: found late", f"{late:.1f} s", "", "", "at most 31 s", late <= 31)
        yield _line("polling: closest looks", f"{gap:.2f} s", "", "", "0.9 s", gap >= 0.9)


def _bar(results: Results, row: Row, bar: Bar, samples: Samples) -> str:
    own = value(samples, bar.ours, bar.of)
    peers = {peer: value(samples, peer, bar.of) for peer in bar.peers}
    known = {peer: found for peer, found in peers.items() if found is not None}
    title = _title(results, row) + (": CPU" if bar.of == "cpu" else "")
    if bar.ours.name != OURS_LENGTH.name:
        title += f" ({bar.ours.name.removeprefix(OURS.name).strip(', ') or 'everything checked'})"
    if own is None or not known:
        names = ", ".join(_why_not(results, peer) for peer in bar.peers)
        return _line(title, _seconds(own), names, "", bar.text, None)
    best = min(known, key=lambda peer: known[peer])
    ratio = own / known[best] if bar.most is not None else known[best] / own
    reached = ratio <= bar.most if bar.most is not None else ratio >= (bar.least or 0)
    peer = f"{_seconds(known[best])} {best.name}"
    return _line(title, _seconds(own), peer, f"{ratio:.2f}", bar.text, reached)


def _memory(results: Results) -> Iterator[str]:
    peaks = [
        sample.memory
        for samples in [*results.samples.values(), *results.memory.values()]
        for name, found in samples.items()
        if name.startswith(OURS.name)
        for sample in found
    ]
    if peaks:
        most = max(peaks)
        text = f"{most / MIB:.0f} MiB"
        yield _line("peak memory, worst run", text, "", "", "under 120 MiB", most < _MOST_MEMORY)
    found = {size: value(samples, OURS, "memory") for size, samples in results.memory.items()}
    known = {size: peak for size, peak in found.items() if peak is not None}
    if len(known) > 2:
        _, small, *_, large = sorted(known)
        ratio = known[large] / known[small]
        yield _line(
            f"peak memory, a file of {large // MIB:,} MiB",
            f"{known[large] / MIB:.0f} MiB",
            f"{known[small] / MIB:.0f} MiB, of {small // MIB:,} MiB",
            f"{ratio:.2f}",
            "within 0.9 and 1.1",
            0.9 <= ratio <= 1.1,
        )


def _loop(results: Results) -> Iterator[str]:
    beating = {
        "lengths checked": ("loop", OURS_LENGTH_BEATING),
        "everything checked": ("loop", OURS_BEATING),
        "gzip CSV exports, everything checked": ("loop-exports", OURS_BEATING),
        "for comparison, aiohttp receiving alone": ("loop", THROWN_BEATING),
    }
    for what, (name, tool) in beating.items():
        samples = results.samples.get(name, {}).get(tool.name, ())
        late = sorted(1000 * beat for sample in samples for beat in sample.late)
        if late:
            nearly, worst = late[int(len(late) * 0.99)], late[-1]
            yield _line(
                f"event loop, {what}: beats late",
                f"{nearly:.1f} ms p99, {worst:.0f} ms worst",
                "",
                "",
                "10 ms p99, 50 ms worst",
                None if tool is THROWN_BEATING else nearly < 10 and worst < 50,
            )


def _title(results: Results, row: Row) -> str:
    sizes = results.sizes
    size = {"files": f" of {sizes.file} MiB", "exports": f" of {sizes.export} MiB"}
    single = {"single": f", {sizes.single} MiB"}
    return row.title.replace("files", f"files{size.get(row.files, '')}", 1) + single.get(
        row.files, ""
    )


def _why_not(results: Results, tool: Tool) -> str:
    if tool.missing:
        return f"{tool.name} is missing ({', '.join(tool.missing)})"
    return f"{tool.name} failed" if tool.name in results.failures else f"{tool.name} did not run"


def _all_figures(results: Results) -> Iterator[str]:
    for row in ROWS:
        samples = results.samples.get(row.name)
        if not samples:
            continue
        yield f"\n## {_title(results, row)}\n"
        yield "| tool | seconds | whole process | CPU seconds | peak memory | runs |"
        yield "|---|---|---|---|---|---|"
        for tool in row.tools:
            seconds, whole, cpu, memory = (
                value(samples, tool, of) for of in ("seconds", "whole", "cpu", "memory")
            )
            if seconds is None or whole is None or cpu is None or memory is None:
                yield _LINE.format(_why_not(results, tool), "", "", "", "", "0")
                continue
            runs = len(samples[tool.name])
            peak = f"{memory / MIB:.0f} MiB"
            yield _LINE.format(
                tool.name, _seconds(seconds), _seconds(whole), f"{cpu:.2f}", peak, runs
            )


def _line(work: str, own: str, peer: str, ratio: str, asked: str, reached: bool | None) -> str:
    said = {True: "yes", False: "**no**", None: "–"}[reached]
    return _LINE.format(work, own, peer, ratio, asked, said)


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:.2f} s"
