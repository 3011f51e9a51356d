"""A task of a group that was cancelled, although nothing ended the group."""

from __future__ import annotations

import asyncio

import pytest

from sendgrid_exports.transfer.together import together


async def test_a_task_whose_awaited_future_was_cancelled_ends_its_group() -> None:
    future = asyncio.get_running_loop().create_future()

    async def wait_for_it() -> None:
        await future

    async def wait_for_ever() -> None:
        await asyncio.Event().wait()

    async def run() -> None:
        async with together() as group:
            group.create_task(wait_for_it())
            group.create_task(wait_for_ever())

    running = asyncio.create_task(run())
    await asyncio.sleep(0)
    future.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(running, 5)


async def test_a_task_that_is_cancelled_on_purpose_does_not_end_its_group() -> None:
    ended = []

    async def wait_for_ever() -> None:
        await asyncio.Event().wait()

    async def cancel(task: asyncio.Task[None]) -> None:
        task.cancel()
        await asyncio.sleep(0)
        ended.append(task)

    async with together() as group:
        group.create_task(cancel(group.create_task(wait_for_ever())))
    assert ended
