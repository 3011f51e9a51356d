"""Measure everything, print the table, and write it with its plot beside this file.

nox -s benchmarks             all of it, half an hour on two cores
nox -s benchmarks -- --quick  small files and one round, under two minutes
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
from pathlib import Path
from statistics import median

import attrs

from tests.benchmarks.bench import Bench, open_bench
from tests.benchmarks.data import QUICK, Data, Sizes, name_data
from tests.benchmarks.measure import python, run
from tests.benchmarks.report import IMPORT_PEER, IMPORTS, Results, write_results
from tests.benchmarks.rows import CONNECTIONS, ROWS, curve
from tests.benchmarks.tools import OURS

_NAMES = [*(row.name for row in ROWS), "connections", "memory", "import", "polling"]
_HERE = Path(__file__).parent
_RAM_DISK = Path("/dev/shm")
_IMPORTS_A_ROUND = 7
_IMPORT = "import time; t = time.perf_counter(); {}; print(time.perf_counter() - t)"


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(prog="nox -s benchmarks --", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small files and one round")
    parser.add_argument("--rounds", type=int, help="runs of every tool")
    parser.add_argument("--rows", nargs="+", choices=_NAMES, default=_NAMES, help="only these")
    parser.add_argument("--data", type=Path, help="where the files are kept for the next time")
    parser.add_argument("--out", type=Path, default=_HERE, help="where to write the results")
    asked = parser.parse_args()
    # Nothing is left running, or in the RAM disk, by whoever loses patience.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    sizes = QUICK if asked.quick else Sizes()
    rounds = asked.rounds or sizes.rounds
    target = _RAM_DISK if _RAM_DISK.is_dir() else Path(tempfile.gettempdir())
    with tempfile.TemporaryDirectory(prefix="sendgrid-exports-") as temporary:
        kept = (asked.data or Path(temporary)) / ("quick" if asked.quick else "full")
        data = name_data(kept.absolute(), sizes)
        print(f"Making the files in {kept}: once, if --data keeps them.", flush=True)
        run(python("tests.benchmarks.data", data.directory, json.dumps(attrs.asdict(sizes))))
        results = Results(command=_command(asked), sizes=sizes, rounds=rounds, target=target)
        root = Path(tempfile.mkdtemp(prefix="sendgrid-exports-", dir=target)) / "run"
        try:
            with open_bench(data, root) as bench:
                _measure(bench, data, results, asked.rows)
        finally:
            root.parent.rmdir()
    print(write_results(results, asked.out))


def _measure(bench: Bench, data: Data, results: Results, rows: list[str]) -> None:
    results.md5_etags = bench.md5_etags
    for row in ROWS:
        if row.name in rows:
            print(f"{row.title}:", flush=True)
            results.samples[row.name] = bench.run_row(row, results.rounds)
    few = max(1, results.rounds // 2)
    if "connections" in rows:
        for connections in CONNECTIONS:
            print(f"1 file over {connections} connections:", flush=True)
            tools = curve(connections)
            results.curve[connections] = bench.run(data.single, "tls", tools, few)
    if "memory" in rows:
        for names in (data.small[:1], data.files[:1], data.single, data.large):
            size = (data.directory / names[0]).stat().st_size
            print(f"1 file of {size:,} bytes:", flush=True)
            results.memory[size] = bench.run(names, "tls", [OURS], few)
    if "import" in rows:
        times: dict[str, list[float]] = {line: [] for line in (IMPORT_PEER, *IMPORTS)}
        for _ in range(_IMPORTS_A_ROUND * results.rounds):
            for line, seconds in times.items():
                seconds.append(float(run(_python_c(_IMPORT.format(line)))[1]))
        results.imports = {line: median(seconds) for line, seconds in times.items()}
    if "polling" in rows:
        results.polling = run(python("tests.benchmarks.polling"))[1]
    results.failures = bench.failures


def _command(asked: argparse.Namespace) -> str:
    # Without the directories, which are nobody's business.
    said = ["--quick"] if asked.quick else []
    said += ["--rounds", str(asked.rounds)] if asked.rounds else []
    said += ["--rows", *asked.rows] if asked.rows != _NAMES else []
    return " ".join(["nox -s benchmarks", *(["--", *said] if said else [])])


def _python_c(code: str) -> list[str]:
    return [python("x")[0], "-c", code]


if __name__ == "__main__":
    main()
