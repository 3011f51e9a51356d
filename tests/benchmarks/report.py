"""From samples to a table that says for each row what the bar is, and whether it is reached."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

import attrs

from tests.benchmarks.data import Sizes
from tests.benchmarks.machine import describe, versions
from tests.benchmarks.plot import draw
from tests.benchmarks.rows import Bar, Row, Samples, value
from tests.benchmarks.tools import DISCARDED_BEATING, OURS, Tool

__all__ = [
    "HEAD",
    "IMPORTS",
    "IMPORT_PEER",
    "Results",
    "judge_code",
    "judge_imports",
    "judge_memory",
    "judge_polling",
    "judge_row",
    "write_results",
]

IMPORT_PEER = "import aiohttp"
IMPORTS = ("import sendgrid_exports", "from sendgrid_exports import ExportClient")
HEAD = "| work | ours | peers, the best first | ratio | bar | reached |\n|---|---|---|---|---|---|"

MIB = 1024 * 1024
_MOST_MEMORY = 120 * MIB
_MOST_LINES = 4300
_LINE = "| {} | {} | {} | {} | {} | {} |"


@attrs.define(kw_only=True)
class Results:
    """All that was measured.

    Attributes:
        command: what the maintainer typed.
        target: where the files were written.
        rows: those that were measured.
        samples: by row.
        unavailable: why a row could not be measured, by row.
        failures: why a tool failed, by row and tool.
        curve: by connections.
        table: the lines of the table so far.
    """

    command: str
    sizes: Sizes
    rounds: int
    target: Path
    md5_etags: bool = True
    rows: list[Row] = attrs.field(factory=list)
    samples: dict[str, Samples] = attrs.field(factory=dict)
    unavailable: dict[str, str] = attrs.field(factory=dict)
    failures: dict[tuple[str, str], str] = attrs.field(factory=dict)
    curve: dict[int, Samples] = attrs.field(factory=dict)
    table: list[str] = attrs.field(factory=list)

    def title(self, row: Row) -> str:
        """Return the title of a row, with the sizes."""
        return row.title.format(**attrs.asdict(self.sizes))


def write_results(results: Results, directory: Path) -> None:
    """Write `results.md` and `results.svg` into `directory`, made if need be."""
    directory.mkdir(parents=True, exist_ok=True)
    found, missing = versions()
    plot = draw(results, directory / "results.svg") if "matplotlib" not in missing else None
    failures = [f"{tool} failed in {row}: {why}" for (row, tool), why in results.failures.items()]
    (directory / "results.md").write_text(
        "\n".join(
            [
                "# Measured against the tools you would otherwise use\n",
                f"- {datetime.now(UTC):%Y-%m-%d}, by `{results.command}`: every tool in turn, "
                f"medians of {results.rounds}",
                f"- {describe(results.target)}; nginx shares the cores",
                f"- {', '.join(found)}",
                f"- missing: {', '.join(missing) or 'nothing'}",
                *(f"- {' '.join(failure.split())}" for failure in failures),
                *([] if results.md5_etags else [_NO_MD5]),
                "",
                *([f"![bars and curves]({plot.name})\n"] if plot else []),
                HEAD,
                *results.table,
                "",
                _NOTES,
                *_all_figures(results),
            ]
        )
        + "\n"
    )


_NO_MD5 = "- nginx's headers-more module is missing: ETags were not MD5s, and ours checked none"
_NOTES = (
    "A ratio is ours divided by the best peer, in one run on one machine; the seconds say little "
    "elsewhere. A Python tool is timed without its start and imports, which a program has behind "
    "it (the tables below have the whole process too); `curl` and `aria2c` from start to end. "
    "Memory is the peak of the whole process. nginx limits a connection by a pause after each "
    "buffer, so that it gets a little less than its limit. The long line is simulated, with the "
    "server at its far end and TLS; the status call does not pass over it. Everything checked: "
    "length, MD5 or checksum headers, gzip to its last byte, and the records counted.\n"
)


def judge_row(results: Results, row: Row) -> Iterator[str]:
    """Yield the lines of a row: one for each of its bars."""
    samples = results.samples.get(row.name, {})
    for bar in row.bars:
        title = ", ".join(filter(None, (results.title(row), bar.note)))
        if row.name in results.unavailable:
            why = f"not measured: {' '.join(results.unavailable[row.name].split())}"
            yield _line(title, why, "", None, _text(bar), None)
        elif (own := value(samples, bar.ours, bar.of)) is None:
            yield _line(title, _why_not(results, row, bar.ours), "", None, _text(bar), None)
        elif bar.peers:
            yield _against_peers(results, row, bar, title, own)
        else:
            yield _alone(bar, samples, title, own)


def _against_peers(results: Results, row: Row, bar: Bar, title: str, own: float) -> str:
    samples = results.samples[row.name]
    found = [(value(samples, peer, bar.of), peer) for peer in bar.peers]
    known = [(figure, peer) for figure, peer in found if figure is not None]
    known.sort(key=lambda pair: pair[0])
    peers = [
        *(f"{_figure(figure, bar.of)} {peer.name}" for figure, peer in known),
        *(_why_not(results, row, peer) for figure, peer in found if figure is None),
    ]
    ratio = own / known[0][0] if known else None
    reached = None if ratio is None or bar.most is None else ratio <= bar.most
    return _line(title, _figure(own, bar.of), ", ".join(peers), ratio, _text(bar), reached)


def _alone(bar: Bar, samples: Samples, title: str, own: float) -> str:
    shown = _figure(own, bar.of)
    reached = bar.most is None or own < bar.most
    if bar.worst is not None:
        worst = max(sample.latest for sample in samples[bar.ours.name])
        shown += f" ({_figure(worst, bar.of)})"
        reached = reached and worst < bar.worst
    compared = value(samples, DISCARDED_BEATING, bar.of)
    peers = "" if compared is None else f"{_figure(compared, bar.of)} {DISCARDED_BEATING.name}"
    return _line(title, shown, peers, None, _text(bar), reached)


def judge_memory(results: Results) -> Iterator[str]:
    """Yield what is asked of the memory of several rows together."""
    small, large = (
        value(results.samples.get(name, {}), OURS, "memory")
        for name in ("memory-file", "memory-large")
    )
    if small and large:
        yield _line(
            f"peak memory, {results.sizes.large:,} MiB against {results.sizes.file} MiB",
            _figure(large, "memory"),
            _figure(small, "memory"),
            large / small,
            "0.9 to 1.1",
            0.9 <= large / small <= 1.1,
        )
    peaks = [
        sample.memory
        for row in results.rows
        for tool in row.tools
        if tool.settings is not None and "checkout" not in tool.settings
        for sample in results.samples.get(row.name, {}).get(tool.name, ())
    ]
    if peaks:
        most = max(peaks)
        shown = _figure(most, "memory")
        bar = f"under {_figure(_MOST_MEMORY, 'memory')}"
        yield _line("peak memory, worst run of all rows", shown, "", None, bar, most < _MOST_MEMORY)


def judge_code(lines: int, modules: int) -> Iterator[str]:
    """Yield the line about the size of the code."""
    yield _line(
        "code: `transfer/`, `client`, `disk`, `session`, `contents/stream*`",
        f"{lines:,} lines, {modules} modules",
        "",
        None,
        f"at most {_MOST_LINES:,} lines",
        lines <= _MOST_LINES,
    )


def judge_imports(seconds: dict[str, float]) -> Iterator[str]:
    """Yield the lines about the time of imports, by the line that imports."""
    for line in IMPORTS:
        above = 1000 * (seconds[line] - seconds[IMPORT_PEER])
        title = f"`{line}`, above `{IMPORT_PEER}`"
        yield _line(title, f"{above:.0f} ms", "", None, "at most 60 ms", above <= 60)


def judge_polling(polls: int, late: float, closest: float) -> Iterator[str]:
    """Yield the lines about polling: polls in an hour, seconds late, seconds between two."""
    yield _line("polling: polls in an hour", f"{polls}", "", None, "under 140", polls < 140)
    yield _line("polling: found late", f"{late:.1f} s", "", None, "at most 31 s", late <= 31)
    yield _line(
        "polling: shortest gap", f"{closest:.2f} s", "", None, "at least 0.9 s", closest >= 0.9
    )


def _why_not(results: Results, row: Row, tool: Tool) -> str:
    if tool.missing:
        return f"{tool.name} is missing ({', '.join(tool.missing)})"
    failed = (row.name, tool.name) in results.failures
    return f"{tool.name} failed" if failed else f"{tool.name} did not run"


def _all_figures(results: Results) -> Iterator[str]:
    for row in results.rows:
        samples = results.samples.get(row.name)
        if not samples:
            continue
        yield f"\n## {results.title(row)}\n"
        yield "| tool | seconds (spread) | whole process | CPU seconds | peak memory | runs |"
        yield "|---|---|---|---|---|---|"
        for tool in row.tools:
            if found := samples.get(tool.name):
                whole, cpu, memory = (value(samples, tool, of) for of in ("whole", "cpu", "memory"))
                assert whole is not None
                assert cpu is not None
                assert memory is not None
                yield _LINE.format(
                    tool.name,
                    _spread([sample.seconds for sample in found]),
                    f"{whole:.2f} s",
                    f"{cpu:.2f}",
                    _figure(memory, "memory"),
                    len(found),
                )
            else:
                yield _LINE.format(_why_not(results, row, tool), "", "", "", "", "0")


def _spread(seconds: Sequence[float]) -> str:
    return f"{median(seconds):.2f} s ({min(seconds):.2f} to {max(seconds):.2f})"


def _line(
    work: str, own: str, peers: str, ratio: float | None, bar: str, reached: bool | None
) -> str:
    verdict = {True: "yes", False: "**no**", None: "–"}[reached]
    return _LINE.format(work, own, peers, "" if ratio is None else f"{ratio:.2f}", bar, verdict)


def _text(bar: Bar) -> str:
    if bar.most is None:
        return ""
    if bar.peers:
        return f"at most {bar.most:.2f}"
    worst = "" if bar.worst is None else f" ({_figure(bar.worst, bar.of)})"
    return f"under {_figure(bar.most, bar.of)}{worst}"


def _figure(number: float, of: str) -> str:
    if of == "memory":
        return f"{number / MIB:.0f} MiB"
    return f"{1000 * number:.1f} ms" if of == "late" else f"{number:.2f} s"
