"""Time: deadlines as arithmetic, the server's clock, and the system's."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sendgrid_exports.testing import FakeClock
from sendgrid_exports.timing import Clock, Deadline, ServerClock, SystemClock

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
INSTANTS = st.floats(-1e9, 1e9)


@pytest.mark.parametrize(
    ("timeout", "now", "left", "passed"),
    [
        (10, 100, 10, False),
        (10, 104, 6, False),
        (10, 110, 0, True),
        (10, 111, 0, True),
        (0, 100, 0, True),
        (None, 1e12, math.inf, False),
        (math.inf, 1e12, math.inf, False),
    ],
)
def test_a_deadline(timeout: float | None, now: float, left: float, passed: bool) -> None:
    deadline = Deadline.after(timeout, 100)
    assert deadline.left(now) == left
    assert deadline.passed(now) is passed


@settings(derandomize=True, max_examples=100, deadline=None)
@given(first=INSTANTS | st.just(math.inf), second=INSTANTS | st.just(math.inf), now=INSTANTS)
def test_of_two_deadlines_the_earlier_counts(first: float, second: float, now: float) -> None:
    one, other = Deadline(first), Deadline(second)
    both = one.earlier(other)
    assert both == other.earlier(one) == Deadline(min(first, second))
    assert both.left(now) == min(one.left(now), other.left(now))
    assert both.passed(now) is (one.passed(now) or other.passed(now))
    assert both.passed(now) is (both.left(now) == 0)


def test_no_deadline_is_the_default() -> None:
    assert Deadline() == Deadline.after(None, 5)


@pytest.mark.parametrize(
    ("ahead", "believed"),
    [
        (timedelta(), timedelta()),
        (timedelta(seconds=1.9), timedelta()),
        (timedelta(seconds=-1.9), timedelta()),
        (timedelta(seconds=2), timedelta(seconds=2)),
        (timedelta(hours=1), timedelta(hours=1)),
        (timedelta(hours=-1), timedelta(hours=-1)),
    ],
    ids=str,
)
def test_the_servers_clock_is_believed(ahead: timedelta, believed: timedelta) -> None:
    local = FakeClock(NOON)
    server = ServerClock(local)
    assert (server.utc(), server.known) == (NOON, False)
    server.hear(NOON + ahead)
    assert (server.utc(), server.known) == (NOON + believed, True)
    local.advance(60)
    assert server.utc() == NOON + believed + timedelta(minutes=1)


def test_an_answer_without_a_date_changes_nothing() -> None:
    server = ServerClock(FakeClock(NOON))
    server.hear(None)
    assert not server.known
    server.hear(NOON + timedelta(hours=1))
    server.hear(None)
    assert (server.utc(), server.known) == (NOON + timedelta(hours=1), True)


def test_the_last_date_counts() -> None:
    server = ServerClock(FakeClock(NOON))
    server.hear(NOON + timedelta(hours=1))
    server.hear(NOON)
    assert server.utc() == NOON


def test_a_date_of_any_zone_is_the_same_instant() -> None:
    server = ServerClock(FakeClock(NOON))
    server.hear((NOON + timedelta(hours=1)).astimezone(timezone(timedelta(hours=-7))))
    assert server.utc() == NOON + timedelta(hours=1)


async def test_the_systems_clock() -> None:
    clock: Clock = SystemClock()
    before = clock.monotonic()
    await clock.sleep(0.002)
    assert clock.monotonic() > before
    assert clock.utc().tzinfo is UTC
    assert abs(clock.utc() - datetime.now(UTC)) < timedelta(seconds=1)
    async with clock.timeout(None):
        await clock.sleep(0)
    with pytest.raises(TimeoutError):
        async with clock.timeout(0.001):
            await clock.sleep(10)
