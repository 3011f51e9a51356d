"""Rate limits: what is left, whose limit an answer states, and how long to wait."""

from __future__ import annotations

import math
from datetime import UTC, datetime

import pytest

from sendgrid_exports.api.rates import Rate, Stated, is_of_account, read_rate

NOW = 1000.0
UTC_NOW = datetime(2026, 3, 2, 9, 30, 15, tzinfo=UTC)
RESET = str(int(UTC_NOW.timestamp()) + 45)


@pytest.mark.parametrize(
    ("rate", "seconds"),
    [
        (Rate(), 0),
        (Rate(limit=600, left=600, ends=NOW + 45), 0),
        (Rate(limit=600, left=31, ends=NOW + 45), 0),
        (Rate(limit=600, left=30, ends=NOW + 45), 45),
        (Rate(limit=2, left=1, ends=NOW + 45), 0),
        (Rate(limit=2, left=0, ends=NOW + 45), 45),
        (Rate(limit=2, left=-3, ends=NOW + 45), 45),
        (Rate(limit=None, left=0, ends=NOW + 45), 45),
        (Rate(limit=2, left=0, ends=NOW), 0),
        (Rate(limit=2, left=0, ends=NOW - 1), 0),
        (Rate(limit=2, left=0, ends=NOW + 3600), 0),
    ],
)
def test_requests_wait_for_the_next_period_when_few_are_left(rate: Rate, seconds: float) -> None:
    assert rate.seconds_to_wait(NOW) == seconds


def test_a_request_counts_in_its_period_alone() -> None:
    rate = Rate(limit=10, left=5, ends=NOW + 1, sent=3)
    assert rate.after_request(NOW) == Rate(limit=10, left=4, ends=NOW + 1, sent=4)
    begun = rate.after_request(NOW + 1)
    assert (begun.limit, begun.left, begun.sent) == (10, 9, 1)


def test_a_rate_that_is_not_known_never_waits() -> None:
    rate = Rate()
    for _ in range(1000):
        rate = rate.after_request(NOW)
    assert (rate.left, rate.sent) == (math.inf, 1000)
    assert rate.seconds_to_wait(NOW) == 0


@pytest.mark.parametrize(
    ("stated", "left"),
    [
        (Stated(limit=10, left=3, ends=NOW + 45), 3),
        (Stated(limit=10, left=8, ends=NOW + 45), 5),
        (Stated(limit=10, left=8, ends=NOW + 46), 5),
        (Stated(limit=10, left=8, ends=NOW + 105), 8),
        (Stated(limit=20, left=18, ends=NOW + 45), 18),
    ],
)
def test_in_one_period_the_smaller_count_of_what_is_left_is_right(
    stated: Stated, left: int
) -> None:
    rate = Rate(limit=10, left=5, ends=NOW + 45, sent=5).after_answer(stated)
    assert (rate.limit, rate.left, rate.ends, rate.sent) == (stated.limit, left, stated.ends, 5)


@pytest.mark.parametrize(
    ("limit", "left", "account", "key", "is_accounts"),
    [
        (20, 19, Rate(sent=1), Rate(sent=30), True),
        (20, 17, Rate(sent=3), Rate(sent=30), True),
        (20, 16, Rate(sent=3), Rate(sent=30), False),
        (600, 570, Rate(sent=1), Rate(sent=30), False),
        (600, 0, Rate(sent=1), Rate(sent=30), False),
        (None, 0, Rate(sent=1), Rate(sent=30), False),
        (600, 599, Rate(sent=1), Rate(limit=600, left=599, sent=1), False),
        (20, 19, Rate(sent=1), Rate(limit=600, left=599, sent=1), True),
    ],
)
def test_an_answer_is_of_the_account_if_it_alone_can_have_used_as_much(
    limit: int | None, left: int, account: Rate, key: Rate, is_accounts: bool
) -> None:
    stated = Stated(limit=limit, left=left, ends=NOW + 45)
    assert is_of_account(stated, account, key) is is_accounts


@pytest.mark.parametrize(
    ("status", "headers", "stated"),
    [
        (200, {}, None),
        (200, {"limit": "600", "remaining": "599", "reset": RESET}, (600, 599, 45)),
        (200, {"limit": "600", "remaining": "599", "reset": "45"}, (600, 599, 45)),
        (200, {"limit": "600", "remaining": "0", "reset": RESET}, (600, 0, 45)),
        (404, {"limit": "600", "remaining": "7", "reset": RESET}, (600, 7, 45)),
        (200, {"limit": "600", "remaining": "599"}, None),
        (200, {"limit": "600", "reset": RESET}, None),
        (200, {"remaining": "599", "reset": RESET}, None),
        (200, {"limit": "many", "remaining": "599", "reset": RESET}, None),
        (200, {"limit": "600", "remaining": "-1", "reset": RESET}, None),
        (429, {}, None),
        (429, {"limit": "600", "remaining": "3", "reset": RESET}, (600, 0, 45)),
        (429, {"reset": "7"}, (None, 0, 7)),
    ],
)
def test_answers_state_a_limit_in_their_headers(
    status: int, headers: dict[str, str], stated: tuple[int | None, int, float] | None
) -> None:
    named = {f"x-ratelimit-{name}": text for name, text in headers.items()}
    read = read_rate(status, named, now=NOW, utc=UTC_NOW)
    if stated is None:
        assert read is None
    else:
        limit, left, seconds = stated
        assert read == Stated(limit=limit, left=left, ends=NOW + seconds)


def test_a_refusal_may_ask_for_a_delay_instead() -> None:
    headers = {"retry-after": "9", "x-ratelimit-reset": "45"}
    assert read_rate(429, headers, now=NOW, utc=UTC_NOW) == Stated(limit=None, left=0, ends=NOW + 9)
    assert read_rate(503, headers, now=NOW, utc=UTC_NOW) is None


def test_the_reset_is_compared_with_the_date_of_its_answer() -> None:
    headers = {
        "date": "Mon, 02 Mar 2026 09:30:00 GMT",
        "x-ratelimit-limit": "5",
        "x-ratelimit-remaining": "1",
        "x-ratelimit-reset": RESET,
    }
    stated = read_rate(200, headers, now=NOW, utc=UTC_NOW)
    assert stated is not None
    assert stated.ends == NOW + 60
