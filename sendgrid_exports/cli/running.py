"""Running the asynchronous part, so that a signal ends it promptly and cleanly."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Coroutine
from typing import Any, TypeVar

from sendgrid_exports.cli.exits import Stopped

__all__ = ["run"]

T = TypeVar("T")


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run `work` to its end; Ctrl-C and SIGTERM cancel it, a second one kills.

    Raises:
        Stopped: a signal ended it.
    """
    return asyncio.run(_stoppable(work))


async def _stoppable(work: Coroutine[Any, Any, T]) -> T:
    loop = asyncio.get_running_loop()
    task = asyncio.ensure_future(work)
    seen: list[int] = []

    def stop(number: int) -> None:
        seen.append(number)
        task.cancel()
        for other in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(other)

    # Not in a thread, and not everywhere: there Ctrl-C is asyncio's own affair.
    with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop, number)
    try:
        return await task
    except asyncio.CancelledError:
        if seen:
            raise Stopped(seen[0]) from None
        raise
