"""One download of an export into a directory at a time.

The system releases a lock when its holder dies, so a lock file left behind needs nobody. Some
network disks let everybody have the lock; then the token tells who wrote last.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from pathlib import Path

try:
    import fcntl
except ImportError:  # pragma: no cover
    fcntl = None  # type: ignore[assignment]

__all__ = ["Lock"]


# A file system that knows no flock is one where it lies: then the token tells.
_NO_FLOCK = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}


def _flock(descriptor: int) -> None:
    try:
        if fcntl is not None:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in _NO_FLOCK:
            raise


class Lock:
    """The lock of one export in one directory; made, it is not held yet."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._token = secrets.token_hex(16).encode()
        self._descriptor: int | None = None

    def acquire(self) -> bool:
        """Take the lock; return False if somebody else holds it.

        Raises:
            OSError: the lock file cannot be made.
        """
        while True:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                _flock(descriptor)
                if self._is_still_there(descriptor):
                    # What a dead holder left may be longer than our token.
                    os.ftruncate(descriptor, 0)
                    os.write(descriptor, self._token)
                    self._descriptor = descriptor
                    return True
            except BlockingIOError:
                return False
            finally:
                if self._descriptor is None:
                    os.close(descriptor)
            # The holder before removed this file between our open and our lock: try the next.

    def is_held(self) -> bool:
        """Whether it is ours, and nobody took it meanwhile, as happens where `flock` lies."""
        if self._descriptor is None or not self._is_still_there(self._descriptor):
            return False
        # Through our own descriptor: at the end there may be no other to be had.
        return os.pread(self._descriptor, 2 * len(self._token), 0) == self._token

    def release(self) -> None:
        """Give the lock up, if it is held, and remove its file."""
        if self._descriptor is None:
            return
        if self.is_held():
            with contextlib.suppress(OSError):
                self.path.unlink()
        os.close(self._descriptor)
        self._descriptor = None

    def _is_still_there(self, descriptor: int) -> bool:
        try:
            return os.path.samestat(self.path.stat(), os.fstat(descriptor))
        except FileNotFoundError:
            return False
