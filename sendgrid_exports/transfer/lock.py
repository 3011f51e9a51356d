"""One download of an export into a directory at a time.

The system releases a lock when its holder dies, so a lock file left behind stops no later
download. Some file systems have no `flock`, or grant it to all; there the token in the file says
who took it last.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from pathlib import Path

from sendgrid_exports.disk import NOT_SUPPORTED, naming

try:
    import fcntl
except ImportError:
    _HAS_FLOCK = False
else:
    _HAS_FLOCK = True

__all__ = ["Lock"]

_NO_FLOCK = NOT_SUPPORTED | {errno.ENOLCK}
# A network disk calls a file that vanished stale.
_GONE = {errno.ENOENT, errno.ESTALE}
_MOST_TRIES = 100


def _flock(descriptor: int) -> None:
    try:
        if _HAS_FLOCK:
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
        """Take the lock, and make its directory if need be.

        Returns:
            False if another process or task holds it.

        Raises:
            OSError: the directory or the lock file cannot be made.
        """
        # A holder that ends removes the file, perhaps between our open and our lock, and the
        # directory if nothing else is in it. Then the next one is tried.
        for left in reversed(range(_MOST_TRIES)):
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                with naming(self.path):
                    if self._take():
                        return True
            except BlockingIOError:
                return False
            except OSError as error:
                if error.errno not in _GONE or not left:
                    raise
        return False

    def _take(self) -> bool:
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            _flock(descriptor)
            if self._is_there(descriptor):
                self._write(descriptor)
                self._descriptor = descriptor
        finally:
            if self._descriptor is None:
                os.close(descriptor)
        return self._descriptor is not None

    def _write(self, descriptor: int) -> None:
        try:
            # What a dead holder left may be longer than our token.
            os.ftruncate(descriptor, 0)
            os.write(descriptor, self._token)
        except OSError:
            self.path.unlink()
            raise

    def is_held(self) -> bool:
        """Whether it is still ours; where `flock` does not work, another process may take it.

        Raises:
            OSError: the disk failed.
        """
        if self._descriptor is None:
            return False
        try:
            with naming(self.path):
                return self._is_there(self._descriptor) and self._is_ours(self._descriptor)
        except OSError as error:
            if error.errno not in _GONE:
                raise
            return False

    def release(self) -> None:
        """Release the lock, if it is held, and remove its file."""
        if self._descriptor is None:
            return
        held = False
        with contextlib.suppress(OSError):
            held = self.is_held()
        descriptor, self._descriptor = self._descriptor, None
        with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
            stack.callback(os.close, descriptor)
            if not _HAS_FLOCK:
                # Windows removes no open file.
                stack.close()
            if held:
                self.path.unlink()

    def _is_there(self, descriptor: int) -> bool:
        return os.path.samestat(self.path.stat(), os.fstat(descriptor))

    def _is_ours(self, descriptor: int) -> bool:
        if hasattr(os, "pread"):
            # At the end of a download there may be no other descriptor to be had.
            return os.pread(descriptor, 2 * len(self._token), 0) == self._token
        return self.path.read_bytes() == self._token
