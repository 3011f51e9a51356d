"""Tasks that end together: one error ends all, and a cancellation is never lost."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeAlias

import pytest

from sendgrid_exports.transfer.together import Group, together

Start: TypeAlias = "Callable[[Group], Awaitable[None]]"


async def steps(count: int) -> None:
    """Let the event loop run so many times."""
    for _ in range(count):
        await asyncio.sleep(0)


async def fail(text: str, after: int = 0) -> None:
    await steps(after)
    raise ValueError(text)


async def fail_while_ending(text: str) -> None:
    try:
        await asyncio.Event().wait()
    finally:
        await steps(2)
        raise ValueError(text)


async def swallow_a_cancel(count: int) -> None:
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        await steps(count)


async def start_another_while_ending(group: Group) -> None:
    try:
        await asyncio.Event().wait()
    finally:
        group.create_task(fail_while_ending("the late one"))
        await steps(1)


async def run(start: Start) -> None:
    async with together() as group:
        await start(group)


async def test_the_block_ends_when_all_tasks_have_ended() -> None:
    ended: list[int] = []

    async def end(after: int) -> None:
        await steps(after)
        ended.append(after)

    async with together() as group:
        for after in (5, 0, 3):
            group.create_task(end(after))
    assert ended == [0, 3, 5]


async def test_a_task_may_start_others() -> None:
    ended: list[str] = []

    async def child() -> None:
        await steps(3)
        ended.append("child")

    async def parent() -> None:
        group.create_task(child())

    async with together() as group:
        group.create_task(parent())
    assert ended == ["child"]


async def test_an_empty_group_ends_at_once() -> None:
    async with together():
        pass


async def test_the_first_error_is_raised_as_it_is_with_the_others_as_its_notes() -> None:
    async def start(group: Group) -> None:
        group.create_task(fail("first", after=1))
        for text in ("the disk is gone", "the disk is gone", "another", ""):
            group.create_task(fail_while_ending(text))

    with pytest.raises(ValueError, match="first") as caught:
        await run(start)
    assert str(caught.value) == "first"
    assert sorted(caught.value.__notes__) == ["Meanwhile: another", "Meanwhile: the disk is gone"]
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_a_task_that_was_cancelled_ends_alone() -> None:
    ended: list[str] = []

    async def end() -> None:
        await steps(3)
        ended.append("the other")

    async with together() as group:
        group.create_task(asyncio.Event().wait()).cancel()
        group.create_task(end())
    assert ended == ["the other"]


async def test_an_error_of_the_block_ends_the_tasks_and_is_raised() -> None:
    with pytest.raises(ZeroDivisionError):
        await run(failing_in_the_block)
    assert asyncio.all_tasks() == {asyncio.current_task()}


# Cancelled at every step


async def several(group: Group) -> None:
    for count in range(3):
        group.create_task(steps(2 + count))


async def failing_while_ending(group: Group) -> None:
    group.create_task(fail_while_ending("one"))
    group.create_task(fail_while_ending("two"))
    group.create_task(steps(5))


async def failing(group: Group) -> None:
    group.create_task(fail("one", after=4))
    group.create_task(fail_while_ending("two"))
    group.create_task(swallow_a_cancel(6))


async def starting_others_while_ending(group: Group) -> None:
    group.create_task(start_another_while_ending(group))
    group.create_task(fail("one", after=3))


async def swallowing_a_cancel(group: Group) -> None:
    group.create_task(swallow_a_cancel(4))
    group.create_task(swallow_a_cancel(1))
    group.create_task(fail("one", after=3))


async def failing_in_the_block(group: Group) -> None:
    group.create_task(swallow_a_cancel(4))
    await steps(2)
    raise ZeroDivisionError


async def nested(group: Group) -> None:
    async def inside() -> None:
        async with together() as inner:
            await failing(inner)

    group.create_task(inside())
    group.create_task(fail_while_ending("outside"))


SCENES = [
    several,
    failing_while_ending,
    failing,
    starting_others_while_ending,
    swallowing_a_cancel,
    failing_in_the_block,
    nested,
]


@pytest.mark.parametrize("start", SCENES)
@pytest.mark.parametrize("times", [1, 2])
async def test_a_cancel_at_any_step_is_raised_and_leaves_no_task(start: Start, times: int) -> None:
    ended = 0
    # Some never end by themselves.
    for count in range(40):
        task = asyncio.create_task(run(start))
        await steps(count)
        if task.done():
            task.exception()
            ended += 1
            continue
        for _ in range(times):
            task.cancel()
            await steps(1)
        with pytest.raises(asyncio.CancelledError):
            await task
        assert asyncio.all_tasks() == {asyncio.current_task()}
    assert (ended > 0) is (start is not failing_while_ending)


async def times_out(start: Start, count: int) -> bool:
    """Run with a timeout that passes after so many steps, if it is not over by then."""
    over = False

    async def expire(timeout: asyncio.Timeout) -> None:
        await steps(count)
        if not over:
            timeout.reschedule(asyncio.get_running_loop().time())

    try:
        async with asyncio.timeout(None) as timeout:
            expiring = asyncio.create_task(expire(timeout))
            try:
                await run(start)
            finally:
                over = True
    except (ValueError, ZeroDivisionError):
        assert not timeout.expired()
    except TimeoutError:
        assert timeout.expired()
    await expiring
    return timeout.expired()


@pytest.mark.parametrize("start", SCENES)
async def test_a_timeout_at_any_step_is_a_timeout(start: Start) -> None:
    this = asyncio.current_task()
    assert this is not None
    ends = []
    for count in range(40):
        ends.append(await times_out(start, count))
        assert asyncio.all_tasks() == {this}
        assert not this.cancelling()
    assert any(ends)
