"""The fake clock: time passes by sleeping and advancing, and timeouts obey it."""

from __future__ import annotations

import asyncio
import math
from datetime import UTC, datetime, timedelta, timezone

import pytest

from sendgrid_exports.testing import FakeClock
from sendgrid_exports.timing import Clock


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


def test_is_a_clock_that_stands_still() -> None:
    clock: Clock = FakeClock(datetime(2026, 1, 1, 2, tzinfo=timezone(timedelta(hours=2))), 5.0)
    assert clock.monotonic() == 5.0
    assert clock.utc() == datetime(2026, 1, 1, tzinfo=UTC)
    assert clock.utc().tzinfo is UTC


def test_refuses_a_naive_start() -> None:
    with pytest.raises(ValueError, match="start"):
        FakeClock(datetime(2026, 1, 1))  # noqa: DTZ001


def test_advance_moves_both_times(clock: FakeClock) -> None:
    before, day = clock.monotonic(), clock.utc()
    clock.advance(2.5)
    assert clock.monotonic() - before == 2.5
    assert clock.utc() - day == timedelta(seconds=2.5)


def test_advance_never_goes_back(clock: FakeClock) -> None:
    with pytest.raises(ValueError, match="seconds"):
        clock.advance(-1)


async def test_sleep_is_recorded_and_takes_no_time(clock: FakeClock) -> None:
    before = clock.monotonic()
    await clock.sleep(3600)
    await clock.sleep(-1)
    assert clock.sleeps == [3600, -1]
    assert clock.monotonic() - before == 3600


async def test_sleeps_begun_together_end_together(clock: FakeClock) -> None:
    before = clock.monotonic()
    await asyncio.gather(*(clock.sleep(10) for _ in range(5)))
    assert clock.monotonic() - before == 10


async def test_sleepers_wake_in_the_order_of_their_ends(clock: FakeClock) -> None:
    before = clock.monotonic()
    woken: list[tuple[float, float]] = []

    async def sleeper(seconds: float) -> None:
        await clock.sleep(seconds)
        woken.append((seconds, clock.monotonic() - before))

    await asyncio.gather(*(sleeper(seconds) for seconds in (30, 10, 20)))
    assert woken == [(10, 10), (20, 20), (30, 30)]


async def test_a_sleep_lets_others_run(clock: FakeClock) -> None:
    ran = asyncio.Event()
    task = asyncio.create_task(asyncio.to_thread(lambda: None))
    asyncio.get_running_loop().call_soon(ran.set)
    await clock.sleep(1)
    assert ran.is_set()
    await task


async def test_an_endless_sleep_ends_only_by_cancelling(clock: FakeClock) -> None:
    sleeper = asyncio.create_task(clock.sleep(math.inf))
    await clock.sleep(5)
    assert not sleeper.done()
    sleeper.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sleeper
    assert clock.monotonic() == 1005.0


async def test_timeout_fires_during_a_sleep_at_its_own_instant(clock: FakeClock) -> None:
    before = clock.monotonic()
    with pytest.raises(TimeoutError):
        async with clock.timeout(10):
            await clock.sleep(100)
    assert clock.monotonic() - before == 10


async def test_timeout_fires_when_somebody_else_advances(clock: FakeClock) -> None:
    async def wait() -> str:
        try:
            async with clock.timeout(10):
                await asyncio.Event().wait()
        except TimeoutError:
            return "timed out"
        return "never"

    task = asyncio.create_task(wait())
    await asyncio.sleep(0)
    clock.advance(9)
    await asyncio.sleep(0)
    assert not task.done()
    clock.advance(1)
    assert await task == "timed out"


async def test_timeouts_of_others_fire_on_the_way(clock: FakeClock) -> None:
    fired: list[float] = []

    async def wait(seconds: float) -> None:
        with pytest.raises(TimeoutError):
            async with clock.timeout(seconds):
                await asyncio.Event().wait()
        fired.append(clock.monotonic() - 1000.0)

    waiting = [asyncio.create_task(wait(seconds)) for seconds in (20, 10, 50)]
    await asyncio.sleep(0)
    await clock.sleep(40)
    assert fired == [10, 20]
    clock.advance(10)
    await asyncio.gather(*waiting)


async def test_inner_timeout_fires_before_the_outer_one(clock: FakeClock) -> None:
    async with clock.timeout(20):
        with pytest.raises(TimeoutError):
            async with clock.timeout(10):
                await clock.sleep(30)
        await clock.sleep(5)


async def test_no_timeout_never_fires(clock: FakeClock) -> None:
    async with clock.timeout(None):
        await clock.sleep(1e9)


@pytest.mark.parametrize("seconds", [0, -1])
async def test_timeout_that_is_over_fires_at_the_next_await(
    clock: FakeClock, seconds: float
) -> None:
    reached = asyncio.Event()

    async def wait() -> None:
        async with clock.timeout(seconds):
            reached.set()
            await asyncio.Event().wait()

    with pytest.raises(TimeoutError):
        await wait()
    assert reached.is_set()


async def test_timeout_left_in_time_is_forgotten(clock: FakeClock) -> None:
    async with clock.timeout(10):
        await clock.sleep(9)
    clock.advance(100)
    await asyncio.sleep(0)


async def test_timeout_lets_other_errors_pass(clock: FakeClock) -> None:
    with pytest.raises(KeyError):
        async with clock.timeout(10):
            raise KeyError


async def test_timeout_respects_cancelling_from_outside(clock: FakeClock) -> None:
    async def wait() -> None:
        async with clock.timeout(10):
            await asyncio.Event().wait()

    task = asyncio.create_task(wait())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_offset_shares_everything_but_the_time_of_day(clock: FakeClock) -> None:
    skewed = clock.offset(3600)
    assert skewed.utc() - clock.utc() == timedelta(hours=1)
    await skewed.sleep(7)
    assert clock.sleeps == [7]
    assert skewed.monotonic() == clock.monotonic() == 1007.0
    with pytest.raises(TimeoutError):
        async with skewed.timeout(1):
            await clock.sleep(2)
