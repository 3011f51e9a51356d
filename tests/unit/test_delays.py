"""Delays: how they grow, and what the server says about them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sendgrid_exports.delays import (
    poll_delay,
    read_reset,
    read_retry_after,
    retry_delay,
    server_delay,
)
from sendgrid_exports.settings import PollPolicy

NOW = datetime(2026, 3, 2, 9, 30, tzinfo=UTC)
EPOCH = int(NOW.timestamp())
DATE = "Mon, 02 Mar 2026 09:32:00 GMT"
quick = settings(derandomize=True, max_examples=100, deadline=None)


def least() -> float:
    return 0.0


def most() -> float:
    return 1 - 1e-9


@pytest.mark.parametrize(
    ("policy", "delays"),
    [
        (PollPolicy(), [1, 1.5, 2.25, 3.375, 5.0625, 7.59375, 11.390625, 17.0859375, 25.62890625]),
        (PollPolicy(initial=2, factor=2, maximum=10), [2, 4, 8, 10, 10, 10]),
        (PollPolicy(initial=5, factor=1), [5, 5, 5]),
        (PollPolicy(initial=60, maximum=30), [30, 30]),
        (PollPolicy(initial=timedelta(seconds=1), factor=3), [1, 3, 9, 27, 30, 30]),
    ],
)
def test_poll_delays_grow_to_the_maximum(policy: PollPolicy, delays: list[float]) -> None:
    assert [poll_delay(n, policy, least) for n in range(len(delays))] == delays
    shortened = [poll_delay(n, policy, most) for n in range(len(delays))]
    assert shortened == pytest.approx([delay * 0.9 for delay in delays])


@quick
@given(
    n=st.integers(0, 500),
    random=st.floats(0, 1, exclude_max=True),
    initial=st.floats(0.01, 100),
    factor=st.floats(1, 100),
    maximum=st.floats(0.01, 100),
)
def test_a_poll_delay_is_the_formula_less_a_tenth_at_most(
    n: int, random: float, initial: float, factor: float, maximum: float
) -> None:
    policy = PollPolicy(initial=initial, factor=factor, maximum=maximum)
    try:
        full = min(maximum, initial * factor**n)
    except OverflowError:
        full = maximum
    delay = poll_delay(n, policy, lambda: random)
    assert full * 0.9 * (1 - 1e-9) <= delay <= full * (1 + 1e-9)


def test_retry_delays_double_up_to_ten_seconds() -> None:
    delays = [0.5, 1, 2, 4, 8, 10, 10, 10]
    assert [retry_delay(failures, least) for failures in range(1, 9)] == delays
    shortened = [retry_delay(failures, most) for failures in range(1, 9)]
    assert shortened == pytest.approx([delay * 0.9 for delay in delays])


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0),
        ("120", 120),
        (" 7 ", 7),
        ("1.5", 1.5),
        (DATE, 120),
        ("Mon, 02 Mar 2026 09:29:00 GMT", 0),
        ("Mon, 02 Mar 2026 10:32:00 +0100", 120),
        ("", None),
        ("-1", None),
        ("nan", None),
        ("inf", None),
        ("soon", None),
        ("Mon, 99 Mar 2026 09:32:00 GMT", None),
    ],
)
def test_retry_after(text: str, seconds: float | None) -> None:
    assert read_retry_after(text, NOW) == seconds


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0),
        ("60", 60),
        ("999999999", 999_999_999),
        (str(EPOCH + 90), 90),
        (str(EPOCH), 0),
        (str(EPOCH - 90), 0),
        ("1000000000", 0),
        ("", None),
        ("-60", None),
        ("nan", None),
        (DATE, None),
    ],
)
def test_rate_limit_reset(text: str, seconds: float | None) -> None:
    assert read_reset(text, NOW) == seconds
    assert read_reset(text, NOW.astimezone(tz=None)) == seconds


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "5"}, 5),
        ({"x-ratelimit-reset": "60"}, 60),
        ({"retry-after": "5", "x-ratelimit-reset": "60"}, 5),
        ({"retry-after": "0", "x-ratelimit-reset": "60"}, 0),
        ({"retry-after": "soon", "x-ratelimit-reset": "60"}, 60),
        ({"x-ratelimit-reset": str(EPOCH + 90)}, 90),
        ({"retry-after": DATE}, 120),
        ({"retry-after": DATE, "date": "Mon, 02 Mar 2026 09:31:50 GMT"}, 10),
        ({"retry-after": DATE, "date": "Mon, 02 Mar 2026 08:32:00 GMT"}, 3600),
        ({"retry-after": DATE, "date": "today"}, 120),
        ({"x-ratelimit-reset": str(EPOCH), "date": "Mon, 02 Mar 2026 09:29:00 GMT"}, 60),
        ({"x-ratelimit-limit": "600", "x-ratelimit-remaining": "0"}, None),
    ],
)
def test_retry_after_comes_before_the_rate_limit_reset(
    headers: dict[str, str], seconds: float | None
) -> None:
    assert server_delay(headers, NOW) == seconds


@quick
@given(st.text(max_size=30), st.text("0123456789.-+eE ", max_size=30))
def test_whatever_the_server_says_is_a_wait_or_nothing(first: str, second: str) -> None:
    seconds = server_delay({"retry-after": first, "x-ratelimit-reset": second}, NOW)
    assert seconds is None or 0 <= seconds < float("inf")
