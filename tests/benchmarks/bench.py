"""Running the rows: every tool in turn, round after round, each time into an empty directory."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.benchmarks.data import Data
from tests.benchmarks.measure import FailedRunError, Sample, run
from tests.benchmarks.rows import Row, Samples
from tests.benchmarks.server import Storage, serve, serve_status
from tests.benchmarks.tools import Tool, Work

__all__ = ["Bench", "open_bench"]


class Bench:
    """A storage to download from, and a place to download to."""

    def __init__(self, data: Data, root: Path, storage: Storage) -> None:
        self._data = data
        self._root = root
        self._storage = storage
        self._targets = itertools.count(1)
        self.md5_etags = storage.md5_etags
        self.failures: dict[str, str] = {}

    def run_row(self, row: Row, rounds: int) -> Samples:
        """Run a row; what is missing or fails has no samples."""
        names = getattr(self._data, row.files)
        return self.run(names, row.line, row.tools, rounds, once=row.slow)

    def run(
        self,
        names: Sequence[str],
        line: str,
        tools: Sequence[Tool],
        rounds: int,
        once: Sequence[Tool] = (),
    ) -> Samples:
        """Have `tools` bring `names` in turn, the first one another in every round."""
        samples: dict[str, list[Sample]] = {tool.name: [] for tool in tools}
        links = self._storage.links(names, line)
        usable = [tool for tool in tools if not tool.missing]
        with serve_status({"an-export": links}) as status:
            for number in range(rounds):
                turn = number % max(len(usable), 1)
                for tool in [*usable[turn:], *usable[:turn]]:
                    if tool.name in self.failures or (number and tool in once):
                        continue
                    try:
                        samples[tool.name].append(self._run_one(tool, names, links, status))
                    except FailedRunError as failure:
                        self.failures[tool.name] = str(failure)
        return samples

    def _run_one(
        self, tool: Tool, names: Sequence[str], links: Sequence[str], status: str
    ) -> Sample:
        target = self._root / f"target-{next(self._targets)}"
        target.mkdir()
        work = Work(
            links=links,
            sizes=[(self._data.directory / name).stat().st_size for name in names],
            target=target,
            certificate=self._storage.certificate,
            status=status,
            export_id="an-export",
            job=self._root / "job",
        )
        try:
            sample, _ = run(tool.command(work), self._storage.certificate)
            came = sorted(path.stat().st_size for path in target.glob("*.csv*"))
            if tool.brings and came != sorted(work.sizes):
                raise FailedRunError(f"{tool.name} ended well, but brought files of {came} bytes")
        finally:
            shutil.rmtree(target)
        print(f"  {tool.name:<50} {sample.seconds:8.3f} s", flush=True)
        return sample


@contextmanager
def open_bench(data: Data, root: Path) -> Iterator[Bench]:
    """Start the storage, with all that is temporary in `root`, which is removed in the end."""
    root.mkdir(parents=True)
    try:
        with serve(root / "nginx", data) as storage:
            yield Bench(data, root, storage)
    finally:
        shutil.rmtree(root)
