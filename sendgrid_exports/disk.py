"""The disk: part files written in large blocks through aiofiles, syncs, atomic renames.

Everything runs in threads of our own. A cancelled `await` returns at once while its thread is
still at work, so nothing here gives up a file before the thread that uses it is done.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import shutil
import sys
import threading
from collections.abc import Callable, Generator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from functools import partial
from io import FileIO
from pathlib import Path
from typing import ParamSpec, TypeAlias, TypeVar

from aiofiles.threadpool import wrap
from aiofiles.threadpool.binary import AsyncFileIO

__all__ = [
    "DISK_FULL",
    "Disk",
    "PartFile",
    "Steps",
    "append",
    "free_space",
    "publish",
    "replace_file",
    "size_of",
    "sync_directory",
    "sync_file",
    "truncate",
    "unbroken",
    "write_file",
]

_MOST_LONG = 2
_STEPS_A_TURN = 64
_NICENESS = 10

DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})

P = ParamSpec("P")
T = TypeVar("T")

Steps: TypeAlias = Generator[None, None, T]
"""Long work that yields after each step, where it may be left or given up."""


async def unbroken(future: asyncio.Future[T], on_cancel: Callable[[], object] = lambda: None) -> T:
    """Return the future's result; if cancelled meanwhile, raise that only once it is done."""
    if future.done():
        return future.result()
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        on_cancel()
        while not future.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait([future])
        if not future.cancelled():
            future.exception()
        raise


class Disk:
    """The threads that touch the disk; there are none while nothing is within `with disk:`."""

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._users = 0

    def __enter__(self) -> Disk:
        if not self._users:
            self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="sendgrid-exports")
            self._writer = ThreadPoolExecutor(1, thread_name_prefix="sendgrid-exports-write")
            # More at once would not be faster, and would hold the event loop up. What waits for a
            # turn here, rather than in the queue of the threads, can be cancelled at once.
            self._long = asyncio.Semaphore(_MOST_LONG)
            self._long_pool = ThreadPoolExecutor(
                _MOST_LONG, thread_name_prefix="sendgrid-exports-long", initializer=_lower_priority
            )
        self._users += 1
        return self

    def __exit__(self, *_: object) -> None:
        self._users -= 1
        if not self._users:
            # The threads are idle, since everything was awaited.
            for pool in (self._pool, self._writer, self._long_pool):
                pool.shutdown(wait=False)

    async def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Return what `work` returns in a thread; a cancellation waits for its end."""
        loop = asyncio.get_running_loop()
        return await unbroken(loop.run_in_executor(self._pool, partial(work, *args, **kwargs)))

    async def run_long(self, steps: Steps[T]) -> T:
        """Like `run`, for work that takes long: some steps at a time, each time in its turn.

        So nobody waits for all of somebody else's work, and a cancellation for one step alone.
        """
        stopped = threading.Event()
        loop = asyncio.get_running_loop()
        try:
            while True:
                async with self._long:
                    turn = loop.run_in_executor(self._long_pool, _take_turn, steps, stopped)
                    ended = await unbroken(turn, stopped.set)
                if ended is not None:
                    return ended[0]
        except asyncio.CancelledError:
            # To flush what is given up may fail, unheard.
            with contextlib.suppress(OSError):
                await self.run(steps.close)
            raise

    def part(self, path: Path, position: int) -> PartFile:
        """Return the part file at `path`, made if need be, to be written from `position` on."""
        return PartFile(path, position, self._writer)


def _lower_priority() -> None:
    # Let the event loop have the CPU. Linux only: elsewhere nice() applies to the whole process.
    if sys.platform == "linux":
        os.nice(_NICENESS)


def _take_turn(steps: Steps[T], stopped: threading.Event) -> tuple[T] | None:
    """Go on with `steps`; return their result in a tuple, or None if there are more."""
    for _ in range(_STEPS_A_TURN):
        try:
            next(steps)
        except StopIteration as end:
            return (end.value,)
        if stopped.is_set():
            break
    return None


class PartFile:
    """A file that is written from one position on, block after block.

    It is written through aiofiles, by the one thread that also opens and closes it: a write that a
    cancelled task abandoned is over before the file is closed. Where a task is cancelled while
    aiofiles opens or closes a file, nothing would close it. A hop to a thread costs nothing
    beside a block of a megabyte, but more than it takes to write a small file: what fits into one
    block is opened, written, synced and closed in one hop, by `write_file`.
    """

    def __init__(self, path: Path, position: int, writer: Executor) -> None:
        self._path = path
        self._position = position
        self._writer = writer
        self._opening: Future[FileIO] | None = None
        self._file: AsyncFileIO | None = None

    async def write(self, block: memoryview) -> None:
        """Write a block after the one before.

        Raises:
            OSError: the file can't be opened or written.
        """
        if self._file is None:
            self._file = await self._open()
        while block:
            # A write may be short, as it is just before the disk is full.
            written = await unbroken(asyncio.ensure_future(self._file.write(block)))
            block = block[written:]

    async def close(self) -> None:
        """Close the file, if it was opened."""
        if self._opening is not None:
            # aiofiles would take the call out of the queue where its task is cancelled.
            loop = asyncio.get_running_loop()
            await unbroken(loop.run_in_executor(self._writer, _close, self._opening))

    async def _open(self) -> AsyncFileIO:
        if self._opening is None:
            self._opening = self._writer.submit(_open_at, self._path, self._position)
        opened = await unbroken(asyncio.wrap_future(self._opening))
        file: AsyncFileIO = wrap(opened, executor=self._writer)
        return file


def _open_at(path: Path, position: int) -> FileIO:
    # What is there already is kept, which no mode of `open` does for a file that may be missing.
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666)
    file = FileIO(descriptor, "wb")
    file.seek(position)
    return file


def _close(opening: Future[FileIO]) -> None:
    # In the thread that opened it, so that is done.
    if opening.exception() is None:
        opening.result().close()


def write_file(path: Path, data: memoryview) -> None:
    """Write a small file, durably."""
    with path.open("wb", buffering=0) as file:
        while data:
            data = data[file.write(data) :]
        os.fsync(file.fileno())


def publish(part: Path, final: Path) -> None:
    """Give a complete part file its final name, durably: file, rename, then directory."""
    sync_file(part)
    part.replace(final)
    sync_directory(final.parent)


def sync_file(path: Path) -> None:
    """Make a file's bytes durable."""
    descriptor = os.open(path, os.O_RDWR)
    try:
        # All that is needed to read them back, and no more: not the time of change.
        getattr(os, "fdatasync", os.fsync)(descriptor)
    finally:
        os.close(descriptor)


def size_of(path: Path) -> int:
    """Return a file's size in bytes, 0 where there is no file."""
    return path.stat().st_size if path.exists() else 0


def free_space(directory: Path) -> int:
    """Return how many bytes may still be written below `directory`."""
    return shutil.disk_usage(directory).free


def append(path: Path, data: bytes) -> None:
    """Append to a file, durably, all of it or nothing: what comes next must not follow a half.

    Raises:
        OSError: the disk failed.
    """
    with path.open("ab", buffering=0) as file:
        before = file.tell()
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[file.write(rest) :]
            os.fsync(file.fileno())
        except BaseException:
            file.truncate(before)
            raise


def truncate(part: Path) -> None:
    """Drop every byte of a part file that may be there."""
    part.unlink(missing_ok=True)


def replace_file(path: Path, data: bytes) -> None:
    """Write a small file so that a reader sees the old or the new one, never half of it."""
    part = path.with_name(f"{path.name}.part")
    with part.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
    sync_directory(path.parent)


def sync_directory(directory: Path) -> None:
    """Make the names in `directory` durable, where the system lets a directory be synced."""
    if os.name == "nt":  # pragma: no cover
        return
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
