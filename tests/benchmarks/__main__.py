"""Measure everything, print the table, and write it as `results.md` with its plot.

nox -s benchmarks                          all of it, half an hour on two cores
nox -s benchmarks -- --quick               small files and one round, a few minutes
nox -s benchmarks -- --rows small,line     these rows; `line` is every row `line-…`

The package measured is the first one on PYTHONPATH, or else this checkout's.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from statistics import median

import attrs

from tests.benchmarks.bench import Bench, open_bench
from tests.benchmarks.data import QUICK, Sizes, name_data
from tests.benchmarks.line import LineUnavailableError
from tests.benchmarks.machine import count_code, find_package
from tests.benchmarks.measure import python, run
from tests.benchmarks.report import (
    HEAD,
    IMPORT_PEER,
    IMPORTS,
    Results,
    judge_code,
    judge_imports,
    judge_memory,
    judge_polling,
    judge_row,
    write_results,
)
from tests.benchmarks.rows import CONNECTIONS, ROWS, Row, curve

_NAMES = [*(row.name for row in ROWS), "code", "connections", "import", "polling"]
_HERE = Path(__file__).parent
_RAM_DISK = Path("/dev/shm")
_DATA_TIMEOUT = 1800.0
_IMPORTS_A_ROUND = 7
_IMPORT = "import time; t = time.perf_counter(); {}; print(time.perf_counter() - t)"


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(
        prog="nox -s benchmarks --",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="small files and one round")
    parser.add_argument("--rounds", type=int, help="runs of every tool, 5 by default")
    parser.add_argument(
        "--rows", type=_names, default=_NAMES, help=f"only these, of {', '.join(_NAMES)}"
    )
    parser.add_argument("--baseline", type=Path, help="another checkout to measure beside it")
    parser.add_argument("--profile", type=Path, help="a directory for a profile of each row")
    parser.add_argument("--data", type=Path, help="where the files are kept for the next time")
    parser.add_argument("--out", type=Path, help="where to write them; all of it, beside this file")
    asked = parser.parse_args()
    # Whatever ends it, nothing is left running or in the RAM disk.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    sizes = QUICK if asked.quick else Sizes()
    target = _RAM_DISK if _RAM_DISK.is_dir() else Path(tempfile.gettempdir())
    results = Results(
        command=_command(asked), sizes=sizes, rounds=asked.rounds or sizes.rounds, target=target
    )
    results.rows = [row for row in ROWS if row.name in asked.rows]
    if asked.baseline:
        results.rows = [row.beside(asked.baseline.absolute()) for row in results.rows]
    package = find_package()
    print(f"Measuring {package}.", flush=True)
    with tempfile.TemporaryDirectory(prefix="sendgrid-exports-") as temporary:
        kept = (asked.data or Path(temporary)) / ("quick" if asked.quick else "full")
        data = name_data(kept.absolute(), sizes)
        print(f"Making the files in {kept}: only once, with --data.", flush=True)
        groups = {row.group for row in results.rows}
        groups |= {"single"} if "connections" in asked.rows else set()
        making = python("data.py", data.directory, json.dumps(attrs.asdict(sizes)), *groups)
        run(making, timeout=_DATA_TIMEOUT)
        root = Path(tempfile.mkdtemp(prefix="sendgrid-exports-", dir=target)) / "run"
        try:
            with open_bench(data, root) as bench:
                if asked.profile:
                    _profile(bench, results.rows, asked.profile.absolute())
                    return
                _measure(bench, results, asked.rows, package)
        finally:
            root.parent.rmdir()
    print("\n".join(["", HEAD, *results.table]), flush=True)
    complete = asked.rows == _NAMES and not asked.quick
    if out := asked.out or (_HERE if complete else None):
        write_results(results, out)


def _measure(bench: Bench, results: Results, names: list[str], package: Path) -> None:
    results.md5_etags = bench.md5_etags
    results.failures = bench.failures
    for row in results.rows:
        print(f"{row.name}: {results.title(row)}:", flush=True)
        try:
            results.samples[row.name] = bench.run(row, results.rounds)
        except LineUnavailableError as error:
            results.unavailable[row.name] = str(error)
        _add(results, judge_row(results, row))
    _add(results, judge_memory(results))
    if "code" in names:
        _add(results, judge_code(*count_code(package)))
    if "connections" in names:
        for connections in CONNECTIONS:
            print(f"1 file over {connections} connections:", flush=True)
            row = Row(
                name=f"connections-{connections}",
                title="",
                group="single",
                tools=curve(connections),
                bars=[],
            )
            results.curve[connections] = bench.run(row, max(1, results.rounds // 2))
    if "import" in names:
        times: dict[str, list[float]] = {line: [] for line in (IMPORT_PEER, *IMPORTS)}
        for _ in range(_IMPORTS_A_ROUND * results.rounds):
            for line, seconds in times.items():
                seconds.append(float(run(python("-c", _IMPORT.format(line)))[1]))
        _add(results, judge_imports({line: median(found) for line, found in times.items()}))
    if "polling" in names:
        _add(results, judge_polling(**run(python("polling.py"))[1]))


def _add(results: Results, lines: Iterable[str]) -> None:
    for line in lines:
        results.table.append(line)
        print(line, flush=True)


def _profile(bench: Bench, rows: Iterable[Row], directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    for row in rows:
        path = directory / f"{row.name}.txt"
        try:
            bench.run(attrs.evolve(row, tools=[row.bars[0].ours.profiled(path)]), 1)
        except LineUnavailableError as error:
            print(f"{row.name}: {error}", flush=True)
        else:
            print(f"{row.name}: see {path}", flush=True)


def _names(text: str) -> list[str]:
    names: list[str] = []
    for asked in text.split(","):
        found = [name for name in _NAMES if name == asked or name.startswith(f"{asked}-")]
        if not found:
            raise argparse.ArgumentTypeError(f"{asked!r} is not one of {', '.join(_NAMES)}")
        names += found
    return names


def _command(asked: argparse.Namespace) -> str:
    # Without the directories, which mean nothing to a reader.
    options = ["--quick"] if asked.quick else []
    options += ["--rounds", str(asked.rounds)] if asked.rounds else []
    options += ["--rows", ",".join(asked.rows)] if asked.rows != _NAMES else []
    options += ["--baseline", "…"] if asked.baseline else []
    return " ".join(["nox -s benchmarks", *(["--", *options] if options else [])])


if __name__ == "__main__":
    main()
