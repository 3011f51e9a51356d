"""A script: export contacts as on Windows, on macOS without flock, or where files are limited.

What the other system lacks is taken away before the package is imported. The one argument is
JSON; the result, or the error, is printed as JSON.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import json
import os
import resource
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

PATHS = Path("/proc/self/fd")


def become_windows() -> None:
    for name in (
        *("pread", "preadv", "pwrite", "pwritev", "readv", "writev", "sendfile"),
        *("fdatasync", "posix_fallocate", "posix_fadvise", "fchmod", "geteuid", "getuid"),
    ):
        if hasattr(os, name):
            delattr(os, name)
    control, sync, open_ = fcntl.fcntl, os.fsync, os.open

    def fsync(descriptor: Any) -> None:
        if control(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        sync(descriptor)

    def open_file(path: Any, flags: int, *rest: Any, **options: Any) -> int:
        if Path(path).is_dir():
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), os.fspath(path))
        return open_(path, flags, *rest, **options)

    def unless_open(name: str) -> None:
        change = getattr(os, name)

        def changed(path: Any, *rest: Any, **options: Any) -> None:
            for one in (path, *rest):
                if is_open(one):
                    raise PermissionError(errno.EACCES, "another program uses the file", str(one))
            change(path, *rest, **options)

        setattr(os, name, changed)

    def is_open(path: Any) -> bool:
        links = list(PATHS.iterdir()) if PATHS.is_dir() else []
        return Path(path).absolute() in {link.readlink() for link in links if link.is_symlink()}

    for name, call in {"fsync": fsync, "open": open_file}.items():
        setattr(os, name, call)
    for name in ("unlink", "remove", "rename", "replace"):
        unless_open(name)
    sys.modules["fcntl"] = None  # type: ignore[assignment]


def become_macos_without_flock() -> None:
    errno.ENOTSUP = 45  # type: ignore[misc]

    def flock(*_: object) -> None:
        raise OSError(45, "Operation not supported")

    fcntl.flock = flock


def limit_files(size: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


async def main(told: dict[str, Any]) -> None:
    from sendgrid_exports import DownloadPolicy, PollPolicy, export_contacts, verify_download

    try:
        result = await export_contacts(
            told["directory"],
            api_key=told["key"],
            base_url=told["base_url"],
            polling=PollPolicy(initial=0.01),
            downloads=DownloadPolicy(decompress=told["decompress"], piece_size=10_000),
        )
    except OSError as error:
        print(json.dumps({"error": str(error), "errno": error.errno, "filename": error.filename}))
    else:
        report = await verify_download(told["directory"], result.export.id)
        print(json.dumps({"contacts": result.contact_count, "ok": report.ok}))


SYSTEMS: dict[str, Callable[[], None]] = {
    "windows": become_windows,
    "macos": become_macos_without_flock,
    "fat, small": partial(limit_files, 50_000),
    "fat, large": partial(limit_files, 200_000),
}

if __name__ == "__main__":
    SYSTEMS[sys.argv[1]]()
    asyncio.run(main(json.loads(sys.argv[2])))
