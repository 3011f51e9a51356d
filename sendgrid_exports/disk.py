"""The seam to the disk: part files written large through aiofiles, syncs, atomic renames.

Everything runs on a small executor of our own. A cancelled `await` returns at once while its
thread goes on, so nothing here gives up a file before the thread that uses it is done.
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
from pathlib import Path
from typing import Any, ParamSpec, TypeAlias, TypeVar

import aiofiles
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
]

_MOST_BUFFERS = 64
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
    """The threads that touch the disk; there are some while anybody is within `with disk:`."""

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._users = 0

    def __enter__(self) -> Disk:
        if not self._users:
            self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="sendgrid-exports")
            # More at once would not be faster, and hold the event loop up. Who waits for a turn
            # here, rather than in the line of the threads, can be cancelled at once.
            self._long = asyncio.Semaphore(_MOST_LONG)
            self._long_pool = ThreadPoolExecutor(
                _MOST_LONG, thread_name_prefix="sendgrid-exports-long", initializer=_give_way
            )
        self._users += 1
        return self

    def __exit__(self, *_: object) -> None:
        self._users -= 1
        if not self._users:
            # The threads are idle, since everything was awaited.
            self._pool.shutdown(wait=False)
            self._long_pool.shutdown(wait=False)

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
        return PartFile(path, position, self._pool)


def _give_way() -> None:
    # Where processors are scarce the event loop goes first. Elsewhere it is the whole process that
    # has a niceness.
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


def _open_at(position: int, path: str, flags: int) -> int:
    # What is there already is kept, unlike what the mode says.
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666)
    try:
        os.lseek(descriptor, position, os.SEEK_SET)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


class _OneFile(Executor):
    """The pool as one file sees it: it knows what it opened, and what was called last."""

    def __init__(self, pool: Executor) -> None:
        self._pool = pool
        self._opening: Future[Any] | None = None
        self._last: Future[Any] | None = None

    def submit(self, work: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        future = self._pool.submit(work, *args, **kwargs)
        self._opening = self._opening or future
        self._last = future
        return future

    async def close(self) -> None:
        """Close the file, after the last call, whatever became of it and of whoever awaited it.

        It takes no task of its own: when the loop ends, that would be cancelled with the others.
        """
        if self._opening is None or self._last is None:
            return
        try:
            if not self._last.done():
                with contextlib.suppress(OSError):
                    await unbroken(asyncio.wrap_future(self._last))
        finally:
            if not self._opening.cancelled() and not self._opening.exception():
                closing = self._pool.submit(self._opening.result().close)
                await unbroken(asyncio.wrap_future(closing))


class PartFile:
    """A file on its way: one write is in flight while the caller fills the next buffer."""

    def __init__(self, path: Path, position: int, pool: Executor) -> None:
        self._path = path
        self._opener = partial(_open_at, position)
        self._pool = pool
        self._threads = _OneFile(pool)
        self._file: AsyncFileIO | None = None
        self._flight: asyncio.Future[None] | None = None

    async def write(self, chunks: list[bytes], *, last: bool = False) -> None:
        """Begin to write `chunks`, once the write before is done.

        Args:
            chunks: what follows the write before.
            last: whether it is all that is left; then `close` has less to do.

        Raises:
            OSError: the file can't be opened, or the write before failed.
        """
        await self.settle()
        loop = asyncio.get_running_loop()
        if self._file is None and last:
            # To hand work to a thread takes longer than to write a small file.
            work = partial(_write_at_once, self._path, self._opener, chunks)
            self._flight = loop.run_in_executor(self._pool, work)
            return
        if self._file is None:
            self._file = await aiofiles.open(
                self._path, "wb", buffering=0, opener=self._opener, executor=self._threads
            )
        # Not by aiofiles' own write: that takes one buffer, for which all would be copied.
        self._flight = loop.run_in_executor(self._threads, _write, self._file.fileno(), chunks)

    async def settle(self) -> None:
        """Wait for the write in flight.

        Raises:
            OSError: it failed.
        """
        if self._flight is not None:
            flight, self._flight = self._flight, None
            await unbroken(flight)

    async def close(self) -> None:
        """Close the file, after the write in flight, which may fail unheard."""
        try:
            with contextlib.suppress(OSError):
                await self.settle()
        finally:
            await self._threads.close()


def _write_at_once(path: Path, opener: Callable[[str, int], int], chunks: list[bytes]) -> None:
    with open(path, "wb", buffering=0, opener=opener) as file:
        _write(file.fileno(), chunks)


def _write(descriptor: int, chunks: list[bytes]) -> None:
    if len(chunks) > _MOST_BUFFERS or not hasattr(os, "writev"):
        chunks = [b"".join(chunks)]
    rest = [memoryview(chunk) for chunk in chunks if chunk]
    while rest:
        # A write may be short, as it is just before the disk is full.
        written = _write_some(descriptor, rest)
        while rest and written >= len(rest[0]):
            written -= len(rest.pop(0))
        if rest:
            rest[0] = rest[0][written:]


def _write_some(descriptor: int, buffers: list[memoryview]) -> int:
    if hasattr(os, "writev"):
        return os.writev(descriptor, buffers)
    return os.write(descriptor, buffers[0])  # pragma: no cover


def publish(part: Path, final: Path) -> None:
    """Give a complete part file its final name, durably: file, rename, then directory."""
    with part.open("rb") as file:
        os.fsync(file.fileno())
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
