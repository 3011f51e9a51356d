"""Work under way, and what to do with each outcome, one at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from sendgrid_exports.disk import unbroken

__all__ = ["Tasks"]

T = TypeVar("T")


class Tasks:
    """Tasks that each belong to an owner; whoever asks settles them in the order they end."""

    def __init__(self) -> None:
        self._running: dict[asyncio.Task[Any], tuple[object, Callable[[Any], Any]]] = {}
        self._ended: asyncio.Queue[asyncio.Task[Any] | None] = asyncio.Queue()

    def begin(
        self,
        owner: object,
        work: Coroutine[Any, Any, T],
        settle: Callable[[T], Coroutine[Any, Any, None]],
    ) -> None:
        """Start `work`; once it ends, `settle` is awaited with its result."""
        task = asyncio.create_task(work)
        self._running[task] = (owner, settle)
        task.add_done_callback(self._ended.put_nowait)

    def wake(self) -> None:
        """Let `settle_one` return although nothing ended."""
        self._ended.put_nowait(None)

    async def settle_one(self) -> None:
        """Wait for a task to end and settle it; what it raised is raised here."""
        task = await self._ended.get()
        if task in self._running:
            _, settle = self._running.pop(task)
            await settle(task.result())

    async def stop(self, owner: object = None) -> None:
        """Cancel the tasks of `owner`, or all, and wait until they have ended."""
        # Until there are none: one that ends may begin another, such as a last sync.
        while stopped := [
            task for task, (of, _) in self._running.items() if owner is None or of is owner
        ]:
            for task in stopped:
                del self._running[task]
                task.cancel()
            await unbroken(asyncio.gather(*stopped, return_exceptions=True))
