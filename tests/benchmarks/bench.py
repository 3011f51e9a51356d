"""Running the rows: every tool in turn, round after round, each time into an empty directory."""

from __future__ import annotations

import filecmp
import itertools
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import attrs

from tests.benchmarks.data import Data
from tests.benchmarks.line import LineUnavailableError, open_line
from tests.benchmarks.measure import FailedRunError, Sample, run
from tests.benchmarks.rows import Row, Samples
from tests.benchmarks.server import Storage, serve, serve_status
from tests.benchmarks.tools import Tool, Work

__all__ = ["Bench", "open_bench"]

_EXPORT_ID = "an-export"
_READ_BYTES = 1 << 20


@attrs.define
class Bench:
    """A storage to download from, and a place to download to.

    Attributes:
        failures: of tools, by row and tool.
    """

    _data: Data
    _root: Path
    _stack: ExitStack
    _near: Storage
    failures: dict[tuple[str, str], str] = attrs.field(factory=dict)
    _far: Storage | LineUnavailableError | None = None
    _targets: Iterator[int] = attrs.field(factory=lambda: itertools.count(1))

    @property
    def md5_etags(self) -> bool:
        """Whether the storage's ETags are MD5s."""
        return self._near.md5_etags

    def run(self, row: Row, rounds: int) -> Samples:
        """Run a row: `rounds` of each tool, each round beginning with another one.

        What is missing or fails has no samples.

        Raises:
            LineUnavailableError: the row needs the long line, and this machine has none.
        """
        storage = self._open_far() if row.far else self._near
        names = row.files(self._data)
        links = storage.links(names, tls=row.tls, limited=row.limited)
        samples: dict[str, list[Sample]] = {tool.name: [] for tool in row.tools}
        usable = [tool for tool in row.tools if not tool.missing]
        self._read(names)
        with serve_status({_EXPORT_ID: links}) as status:
            for number in range(rounds):
                turn = number % max(len(usable), 1)
                for tool in [*usable[turn:], *usable[:turn]]:
                    if (row.name, tool.name) in self.failures or (number and tool in row.once):
                        continue
                    work = Work(
                        links=links,
                        sizes=[(self._data.directory / name).stat().st_size for name in names],
                        target=self._root / f"target-{next(self._targets)}",
                        certificate=storage.certificate,
                        status=status,
                        export_id=_EXPORT_ID,
                        job=self._root / "job",
                    )
                    try:
                        sample = self._run_one(tool, work, names, compare=number == 0)
                    except FailedRunError as failure:
                        self.failures[row.name, tool.name] = str(failure)
                        print(f"  {tool.name:<50} failed: {failure}", flush=True)
                    else:
                        samples[tool.name].append(sample)
                        print(f"  {tool.name:<50} {sample.seconds:8.3f} s", flush=True)
        return samples

    def _run_one(self, tool: Tool, work: Work, names: Sequence[str], *, compare: bool) -> Sample:
        work.target.mkdir()
        try:
            sample, _ = run(tool.command(work), work.certificate)
            if tool.keeps:
                files = sorted(work.target.glob("*.csv*"))
                sizes = [path.stat().st_size for path in files]
                if sizes != work.sizes:
                    raise FailedRunError(f"ended without an error, with files of {sizes} bytes")
                if compare:
                    self._compare(files, names)
        finally:
            shutil.rmtree(work.target)
        return sample

    def _compare(self, files: Sequence[Path], names: Sequence[str]) -> None:
        for path, name in zip(files, names, strict=True):
            if not filecmp.cmp(path, self._data.directory / name, shallow=False):
                raise FailedRunError(f"ended without an error, but {path.name} is not {name}")
        filecmp.clear_cache()

    def _read(self, names: Sequence[str]) -> None:
        """Have the files in memory, so that the first tool does not wait for the disk."""
        for name in names:
            with (self._data.directory / name).open("rb", buffering=0) as file:
                while file.read(_READ_BYTES):
                    pass

    def _open_far(self) -> Storage:
        if self._far is None:
            directory = self._root / "far"
            directory.mkdir()
            try:
                line = self._stack.enter_context(open_line(directory))
                self._far = self._stack.enter_context(
                    serve(
                        directory / "nginx",
                        self._data,
                        address=line.address,
                        prefix=line.at_far_end,
                    )
                )
            except LineUnavailableError as error:
                self._far = error
        if isinstance(self._far, LineUnavailableError):
            raise self._far
        return self._far


@contextmanager
def open_bench(data: Data, root: Path) -> Iterator[Bench]:
    """Start the storage, with everything temporary in `root`, which is removed at the end."""
    root.mkdir(parents=True)
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, root)
        near = stack.enter_context(serve(root / "nginx", data))
        yield Bench(data, root, stack, near)
