"""What reading contacts costs, against what a user would otherwise write.

    python tests/benchmarks/contents.py [--contacts N] [--rounds N] [--large] [--only WORD]

Every measurement is a process of its own, ours and the peers' by turns; the times are medians,
without the imports, and the memory is the largest peak. Where four files are read, they hold the
same contacts together. `--large` adds files of ten times as many contacts, for the memory alone.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import csv
import gzip
import itertools
import json
import os
import platform
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import attrs

from sendgrid_exports.testing.contacts import CSV_COLUMNS, csv_values, make_contacts

MEBIBYTE = 1024 * 1024


def count_ours(path: Path, _target: Path) -> int:
    from sendgrid_exports import Verify
    from sendgrid_exports.disk import Disk
    from sendgrid_exports.transfer.answers import Expected
    from sendgrid_exports.transfer.checking import check_file

    async def count() -> int:
        with Disk(1) as disk:
            steps = check_file(path, Verify.CONTENTS, Expected(), first=True)
            return (await disk.run_long(steps)).contacts or 0

    return asyncio.run(count())


def count_csv(path: Path, _target: Path) -> int:
    with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
        return sum(1 for _ in csv.reader(file)) - 1


def rows_ours(path: Path, _target: Path) -> int:
    from sendgrid_exports import read_contacts

    return sum(1 for _ in read_contacts(path))


def rows_csv(path: Path, _target: Path) -> int:
    with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
        return sum(1 for _ in csv.DictReader(file))


def arrow_ours(path: Path, _target: Path) -> int:
    from sendgrid_exports import read_arrow

    return sum(batch.num_rows for batch in read_arrow(path))


def arrow_polars(path: Path, _target: Path) -> int:
    import polars

    return polars.read_csv(path).height


def arrow_pyarrow(path: Path, _target: Path) -> int:
    import pyarrow.csv

    # Without this it fails: there are line breaks in the addresses.
    parse = pyarrow.csv.ParseOptions(newlines_in_values=True)
    return sum(batch.num_rows for batch in pyarrow.csv.open_csv(path, parse_options=parse))


def arrow_pyarrow_text(path: Path, _target: Path) -> int:
    import pyarrow.csv

    return sum(
        batch.num_rows
        for batch in pyarrow.csv.open_csv(
            path,
            parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True),
            convert_options=pyarrow.csv.ConvertOptions(
                column_types=dict.fromkeys(CSV_COLUMNS, pyarrow.string())
            ),
        )
    )


def parquet_ours(path: Path, target: Path) -> int:
    from sendgrid_exports import write_parquet

    return write_parquet(path, target, compression="snappy")


def parquet_ours_zstd(path: Path, target: Path) -> int:
    from sendgrid_exports import write_parquet

    return write_parquet(path, target)


def duckdb_copy(files: str | list[str], target: Path, compression: str) -> int:
    import duckdb

    duckdb.sql(
        f"COPY (FROM read_csv({files!r})) TO '{target}' (FORMAT parquet, COMPRESSION {compression})"
    )
    [(rows,)] = duckdb.execute(f"SELECT count(*) FROM '{target}'").fetchall()
    return int(rows)


def parquet_duckdb(path: Path, target: Path) -> int:
    return duckdb_copy(str(path), target, "snappy")


def parquet_duckdb_zstd(path: Path, target: Path) -> int:
    return duckdb_copy(str(path), target, "zstd")


def quarters(path: Path) -> list[Path]:
    """Return the four files that hold what is in `path`."""
    return sorted(path.parent.glob(f"{path.name.partition('.')[0]}-0000?.csv.gz"))


def four_ours(path: Path, _target: Path) -> int:
    from sendgrid_exports import read_arrow

    return sum(batch.num_rows for batch in read_arrow(quarters(path)))


def four_polars(path: Path, _target: Path) -> int:
    return sum(arrow_polars(quarter, _target) for quarter in quarters(path))


def four_pyarrow(path: Path, _target: Path) -> int:
    return sum(arrow_pyarrow(quarter, _target) for quarter in quarters(path))


def four_duckdb(path: Path, _target: Path) -> int:
    import duckdb

    files = list(map(str, quarters(path)))
    relation = duckdb.sql(f"FROM read_csv({files})")
    assert relation is not None
    return sum(batch.num_rows for batch in relation.fetch_arrow_reader())


def four_parquet_ours(path: Path, target: Path) -> int:
    from sendgrid_exports import write_parquet

    return write_parquet(quarters(path), target, compression="snappy")


def four_parquets_ours(path: Path, target: Path) -> int:
    from sendgrid_exports import write_parquet

    directory = target.with_name("parts")
    return write_parquet(quarters(path), directory, compression="snappy", one_file_per_part=True)


def four_parquet_duckdb(path: Path, target: Path) -> int:
    return duckdb_copy(list(map(str, quarters(path))), target, "snappy")


def four_parquet_polars(path: Path, target: Path) -> int:
    import polars

    table = polars.concat(map(polars.read_csv, quarters(path)), how="vertical_relaxed")
    table.write_parquet(target, compression="snappy")
    return table.height


def four_parquet_pyarrow(path: Path, target: Path) -> int:
    import pyarrow.csv
    import pyarrow.parquet

    parse = pyarrow.csv.ParseOptions(newlines_in_values=True)
    convert = pyarrow.csv.ConvertOptions(column_types=dict.fromkeys(CSV_COLUMNS, pyarrow.string()))
    schema = pyarrow.schema([(name, pyarrow.string()) for name in CSV_COLUMNS])
    rows = 0
    with pyarrow.parquet.ParquetWriter(target, schema, compression="snappy") as writer:
        for quarter in quarters(path):
            for batch in pyarrow.csv.open_csv(
                quarter, parse_options=parse, convert_options=convert
            ):
                rows += batch.num_rows
                writer.write_batch(batch)
    return rows


@attrs.frozen
class Row:
    """A work, who does it, and how much faster ours has to be."""

    work: str
    ours: Callable[[Path, Path], int]
    peers: dict[str, Callable[[Path, Path], int]]
    bar: float | None


ROWS = [
    Row("count and verify", count_ours, {"`csv.reader(gzip.open(…))`": count_csv}, 8.0),
    Row("rows as dicts", rows_ours, {"`csv.DictReader`": rows_csv}, 1.2),
    Row(
        "Arrow batches",
        arrow_ours,
        {"`polars.read_csv`": arrow_polars, "`pyarrow.csv.open_csv`": arrow_pyarrow},
        0.95,
    ),
    Row(
        "Arrow batches, the peer told that all is text",
        arrow_ours,
        {"`pyarrow.csv.open_csv`": arrow_pyarrow_text},
        None,
    ),
    Row("gzip CSV to Parquet, snappy", parquet_ours, {"DuckDB `COPY … TO`": parquet_duckdb}, 1.0),
    Row(
        "gzip CSV to Parquet, zstd",
        parquet_ours_zstd,
        {"DuckDB `COPY … TO`": parquet_duckdb_zstd},
        1.0,
    ),
    Row(
        "four files, Arrow batches",
        four_ours,
        {
            "`polars.read_csv`": four_polars,
            "`pyarrow.csv.open_csv`": four_pyarrow,
            "DuckDB `read_csv`": four_duckdb,
        },
        1.2,
    ),
    Row(
        "four files, one Parquet, snappy",
        four_parquet_ours,
        {
            "polars": four_parquet_polars,
            "pyarrow, all text": four_parquet_pyarrow,
            "DuckDB `COPY … TO`": four_parquet_duckdb,
        },
        1.2,
    ),
    Row(
        "four files, four of Parquet, snappy",
        four_parquets_ours,
        {"DuckDB `COPY … TO`, one": four_parquet_duckdb},
        None,
    ),
]
WORKS = {work.__name__: work for row in ROWS for work in (row.ours, *row.peers.values())}


@attrs.define
class Cost:
    """What a work took in each of its runs: seconds, seconds of processors, peaks in bytes."""

    seconds: list[float] = attrs.field(factory=list)
    processors: list[float] = attrs.field(factory=list)
    peaks: list[int] = attrs.field(factory=list)

    @property
    def second(self) -> float:
        """The median of the seconds."""
        return statistics.median(self.seconds)

    @property
    def peak(self) -> int:
        """The largest peak, in MiB."""
        return max(self.peaks) // MEBIBYTE


def child(name: str, path: Path, target: Path, small: Path) -> None:
    """Do a work and print what it took; it was done for few before, and its imports with it."""
    WORKS[name](small, target)
    started, used = time.perf_counter(), time.process_time()
    contacts = WORKS[name](path, target)
    seconds, processors = time.perf_counter() - started, time.process_time() - used
    print(json.dumps([contacts, seconds, processors, peak()]))


def peak() -> int:
    """Return the most memory that this process had, in bytes."""
    # Elsewhere than in /proc, Linux counts what the parent had when it forked.
    with contextlib.suppress(OSError):
        found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
        if found:
            return int(found[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def measure(name: str, path: Path, contacts: int, cost: Cost) -> None:
    """Run a work in a process of its own and note what it took."""
    directory = path.parent
    command = [sys.executable, __file__, "--child", name, str(path)]
    command += [str(directory / "out.parquet"), str(directory / "small.csv.gz")]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    seen, seconds, processors, peak = json.loads(done.stdout)
    assert seen == contacts, f"{name} saw {seen} contacts of {contacts}"
    cost.seconds.append(seconds)
    cost.processors.append(processors)
    cost.peaks.append(peak)


def generate(directory: Path, contacts: int, *, large: bool) -> dict[str, Path]:
    """Write the files to read; the large ones have the same contacts ten times."""
    sizes = {"small": 100, "usual": contacts} | ({"large": contacts} if large else {})
    for name, size in sizes.items():
        texts = lines(size)
        with (directory / f"{name}.csv.gz").open("wb") as whole:
            whole.write(compressed([header()]))
            for number in range(1, 5):
                end = size if number == 4 else size // 4
                body = compressed(itertools.islice(texts, end)) * (10 if name == "large" else 1)
                whole.write(body)
                quarter = directory / f"{name}-{number:05}.csv.gz"
                quarter.write_bytes(compressed([header()]) + body)
    return {name: directory / f"{name}.csv.gz" for name in sizes}


def header() -> bytes:
    return line(list(CSV_COLUMNS))


def lines(contacts: int) -> Iterator[bytes]:
    return (line(csv_values(contact)) for contact in make_contacts(contacts))


def line(values: list[str]) -> bytes:
    quoted = ['"{}"'.format(value.replace('"', '""')) if value else "" for value in values]
    return (",".join(quoted) + "\n").encode()


def compressed(texts: Iterable[bytes]) -> bytes:
    deflate = zlib.compressobj(6, zlib.DEFLATED, 31)
    return b"".join([*map(deflate.compress, texts), deflate.flush()])


def machine() -> str:
    with contextlib.suppress(OSError):
        for entry in Path("/proc/cpuinfo").read_text().splitlines():
            if entry.startswith("model name"):
                return f"{os.cpu_count()} × {entry.partition(':')[2].strip()}"
    return f"{os.cpu_count()} × {platform.processor() or platform.machine()}"


def report(costs: dict[str, Cost], large: dict[str, Cost]) -> Iterator[str]:
    """Yield the lines of the table."""
    yield "| work | ours | peer | | ratio | to reach | CPU, ours and peer | peak, ours and peer |"
    yield "|---|---|---|---|---|---|---|---|"
    for row in ROWS:
        ours = costs[row.ours.__name__]
        if not ours.seconds:
            continue
        for label, peer in row.peers.items():
            cost = costs[peer.__name__]
            ratio = statistics.median(
                theirs / mine for mine, theirs in zip(ours.seconds, cost.seconds, strict=False)
            )
            bar = f"{row.bar:g} ×" if row.bar else ""
            used = statistics.median(ours.processors), statistics.median(cost.processors)
            yield (
                f"| {row.work} | {ours.second:.2f} s | {cost.second:.2f} s | {label} "
                f"| {ratio:.2f} × | {bar} | {used[0]:.2f} s, {used[1]:.2f} s "
                f"| {ours.peak} MiB, {cost.peak} MiB |"
            )
    for name, cost in large.items():
        yield (
            f"| {name}, ten times the contacts | {cost.second:.2f} s | | | | 250 MiB "
            f"| {statistics.median(cost.processors):.2f} s | {cost.peak} MiB |"
        )


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--contacts", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--large", action="store_true")
    parser.add_argument("--only", default="", metavar="WORD", help="works with it in their names")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        paths = generate(Path(directory), options.contacts, large=options.large)
        costs = {name: Cost() for name in WORKS}
        for _ in range(options.rounds):
            for name, cost in costs.items():
                if not options.only or options.only in name:
                    measure(name, paths["usual"], options.contacts, cost)
        ours = [row.ours.__name__ for row in ROWS if options.only in row.ours.__name__]
        large = {name: Cost() for name in ours} if options.large else {}
        for name, cost in large.items():
            measure(name, paths["large"], options.contacts * 10, cost)
        size = paths["usual"].stat().st_size / 1e6
    print(
        f"{options.contacts:,} contacts, gzip CSV of {size:.0f} MB, {options.rounds} rounds; "
        f"{machine()}, Python {platform.python_version()}, {time.strftime('%Y-%m-%d')}\n"
    )
    print(*report(costs, large), sep="\n")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2], *map(Path, sys.argv[3:6]))
    else:
        main()
