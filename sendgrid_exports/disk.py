"""Disk I/O: part files written in large blocks through aiofiles, syncs, atomic renames.

Everything runs on a small executor of our own. A cancelled `await` returns at once while its
thread continues, so nothing here gives up a file before the thread that uses it is done. Every
`OSError` names its path.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import shutil
import sys
import threading
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from functools import partial
from io import FileIO
from pathlib import Path
from typing import Any, ParamSpec, TypeAlias, TypeVar

from aiofiles.threadpool import wrap
from aiofiles.threadpool.binary import AsyncFileIO

from sendgrid_exports.errors import DownloadError

__all__ = [
    "DISK_FULL",
    "NOT_SUPPORTED",
    "Disk",
    "PartFile",
    "Steps",
    "Threads",
    "append",
    "free_descriptors",
    "free_space",
    "naming",
    "publish",
    "remove_file",
    "replace_file",
    "size_of",
    "sync_directory",
    "sync_file",
    "sync_whole",
    "unbroken",
    "write_file",
]

_MOST_LONG = 2
_STEPS_A_TURN = 64
_NICENESS = 10

DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})

NOT_SUPPORTED = frozenset({errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP})
"""How a file system answers a call that it does not implement."""

# SMB, FUSE and 9p answer the sync of a directory with one of these; Windows opens no directory.
_NO_DIRECTORY_SYNC = NOT_SUPPORTED | {errno.EINVAL, errno.EBADF, errno.EACCES}

_TOO_LARGE = (
    "the file system, or a limit (ulimit -f), allows no file this large; FAT32 ends at 4 GiB. Use "
    "a directory on another file system, or start an export in smaller files (max_file_size=, "
    "--max-file-size)"
)

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


@contextlib.contextmanager
def naming(path: object) -> Iterator[None]:
    """Give an `OSError` that has no filename, as calls on a descriptor have none, that of `path`.

    Raises:
        OSError: as within; a file that is too large says what to do.
    """
    try:
        yield
    except OSError as error:
        # Without an errno it is not the disk's, such as gzip's BadGzipFile.
        if error.errno is None or error.filename is not None:
            raise
        if error.errno == errno.EFBIG:
            said = f"{error.strerror}: {_TOO_LARGE}"
            raise OSError(errno.EFBIG, said, str(path)) from error
        error.filename = str(path)
        raise


class Threads(ThreadPoolExecutor):
    """A thread pool that makes do with the threads it can get, at least one.

    The standard one raises for a thread too many, and runs the work all the same. Here the first
    thread is started at once, so that having none is an error before any work.
    """

    def __init__(
        self, most: int, thread_name_prefix: str, initializer: Callable[[], None] | None = None
    ) -> None:
        super().__init__(most, thread_name_prefix, initializer)
        self._adjust_thread_count()

    def _adjust_thread_count(self) -> None:
        try:
            super()._adjust_thread_count()
        except RuntimeError as error:
            if not self._threads:
                raise DownloadError(
                    f"No thread can be started to read or write files ({error}): the process is "
                    "at a limit. Raise it (ulimit -u, or the container's limit of pids), or run "
                    "fewer programs."
                ) from error


class Disk:
    """The threads that use the disk; they exist while a caller is within `with disk:`."""

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._users = 0

    def __enter__(self) -> Disk:
        if not self._users:
            self._pool = Threads(self._threads, thread_name_prefix="sendgrid-exports")
            self._writer = Threads(1, thread_name_prefix="sendgrid-exports-write")
            # More at once would not be faster, and would hold the event loop up.
            self._long_pool = Threads(
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

        So a piece of work waits only for a turn of another one, and a cancellation for one step.
        """
        stopped = threading.Event()
        try:
            while True:
                turn = self._long_pool.submit(_take_turn, steps, stopped)
                ended = await unbroken(asyncio.wrap_future(turn), partial(_give_up, turn, stopped))
                if ended is not None:
                    return ended[0]
        except asyncio.CancelledError:
            # Flushing what is given up may fail, which does not matter.
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
    """Continue with `steps`; return their result in a tuple, or None if there are more."""
    for _ in range(_STEPS_A_TURN):
        try:
            next(steps)
        except StopIteration as end:
            return (end.value,)
        if stopped.is_set():
            break
    return None


def _give_up(turn: Future[Any], stopped: threading.Event) -> None:
    """Have a turn end after its step, or not begin."""
    if not turn.cancel():
        stopped.set()


class PartFile:
    """A file that is written from one position on, block after block.

    It is written through aiofiles, by the one thread that also opens and closes it: a write that a
    cancelled task abandoned is over before the file is closed. Where a task is cancelled while
    aiofiles opens or closes a file, nothing would close it. A hop to a thread costs nothing
    beside a block of a megabyte, but more than it takes to write a small file: what fits into one
    block is opened, written and closed in one hop, by `write_file`.
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
            with naming(self._path):
                written = await unbroken(asyncio.ensure_future(self._file.write(block)))
            block = block[written:]

    async def close(self) -> None:
        """Close the file, if it was opened."""
        if self._opening is not None:
            # aiofiles would take the call out of the queue where its task is cancelled.
            loop = asyncio.get_running_loop()
            with naming(self._path):
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
    with naming(path):
        file.seek(position)
    return file


def _close(opening: Future[FileIO]) -> None:
    # In the thread that opened it, so that is done.
    if opening.exception() is None:
        opening.result().close()


def write_file(path: Path, data: memoryview) -> None:
    """Write a small file; it is not synced."""
    with naming(path), path.open("wb", buffering=0) as file:
        while data:
            data = data[file.write(data) :]


def publish(part: Path, final: Path) -> None:
    """Give a complete part file its final name, durably: sync it, rename, sync the directory."""
    sync_whole(part)
    part.replace(final)
    sync_directory(final.parent)


def sync_whole(path: Path) -> None:
    """Make a file durable, its time of change too."""
    _sync(path, os.fsync)


def sync_file(path: Path) -> None:
    """Make a file's bytes durable."""
    # All that is needed to read them back, and no more: not the time of change.
    _sync(path, getattr(os, "fdatasync", os.fsync))


def _sync(path: Path, sync: Callable[[int], None]) -> None:
    # Opened for writing as well, without which Windows syncs nothing.
    with naming(path), path.open("r+b", buffering=0) as file:
        sync(file.fileno())


def size_of(path: Path) -> int:
    """Return a file's size in bytes, 0 where there is no file."""
    return path.stat().st_size if path.exists() else 0


def free_space(directory: Path) -> int | None:
    """Return how many bytes may still be written below `directory`, or None where that is unknown.

    Network and memory file systems may not say, or may say that they have 0 of 0 bytes free.
    """
    try:
        usage = shutil.disk_usage(directory)
    except OSError:
        return None
    return usage.free if usage.total else None


def free_descriptors() -> int | None:
    """Return how many more files and sockets this process may open, or None where unknown."""
    try:
        import resource

        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        taken = len(os.listdir("/dev/fd"))  # noqa: PTH208
    except (ImportError, OSError):
        return None
    return None if limit == resource.RLIM_INFINITY else limit - taken


def append(path: Path, data: bytes) -> None:
    """Append to a file, durably, all of it or nothing: what comes next must not follow a half.

    Raises:
        OSError: the disk failed.
    """
    with naming(path), path.open("ab", buffering=0) as file:
        before = file.tell()
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[file.write(rest) :]
            os.fsync(file.fileno())
        except BaseException:
            file.truncate(before)
            raise


def remove_file(path: Path) -> None:
    """Remove a file, if it is there."""
    path.unlink(missing_ok=True)


def replace_file(path: Path, data: bytes) -> None:
    """Write a small file so that a reader sees the old or the new one, never half of it."""
    part = path.with_name(f"{path.name}.part")
    try:
        with naming(part), part.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def sync_directory(directory: Path) -> None:
    """Make the names in `directory` durable, where the system can sync a directory.

    Raises:
        OSError: the disk failed.
    """
    try:
        with naming(directory):
            descriptor = os.open(directory, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
    except OSError as error:
        if error.errno not in _NO_DIRECTORY_SYNC:
            raise
