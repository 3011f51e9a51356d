"""Running tasks together: the first error ends all of them.

`asyncio.TaskGroup` cancels the task that waits for it when another one fails. Where that happens
while the group is ending, Python 3.11 and 3.12 leave the waiting task marked as cancelled, and a
cancellation from outside is lost. Here the waiting task is never cancelled from inside.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

T = TypeVar("T")


class Group:
    """Tasks that end together; see `together`."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()
        self._errors: list[BaseException] = []
        self._stopping = False
        self._waiter: asyncio.Future[None] | None = None

    def create_task(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Start a task of the group."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        if self._stopping:
            task.cancel()
        return task

    async def wait(self) -> None:
        """Wait until all tasks have ended, or one has failed."""
        while self._tasks and not self._errors:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter

    async def stop(self) -> None:
        """Cancel what is left, and raise the first error with the others as its notes."""
        self._stopping = True
        cancelled: asyncio.CancelledError | None = None
        for task in self._tasks:
            task.cancel()
        while self._tasks:
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            except asyncio.CancelledError as error:
                cancelled = error
        if cancelled is not None:
            raise cancelled
        if self._errors:
            failure, *others = self._errors
            for text in dict.fromkeys(f"Meanwhile: {other}" for other in others if str(other)):
                failure.add_note(text)
            raise failure

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            error = task.exception()
        else:
            # It may have waited for something that was cancelled, and is then as good as failed.
            error = None if task.cancelling() else asyncio.CancelledError()
        if error is not None:
            self._errors.append(error)
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


@asynccontextmanager
async def together() -> AsyncIterator[Group]:
    """Open a group of tasks, which have all ended when the block is left.

    The first error ends all others and is raised as it is. A cancellation from outside is always
    raised, whatever else failed. An error does not interrupt the block itself: where the block
    waits, the error is raised once it has ended.
    """
    group = Group()
    try:
        yield group
        await group.wait()
    except BaseException:
        # The error of the block counts, unless a cancellation comes while the tasks end.
        with contextlib.suppress(Exception):
            await group.stop()
        raise
    await group.stop()
