"""How many connections, and how large a piece for each."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sendgrid_exports.transfer.plan import (
    FEW,
    MIB,
    SMALLEST_PIECE,
    Limit,
    Pace,
    has_room,
    is_room_doubtful,
    piece_size,
)


@pytest.mark.parametrize(
    ("waiting", "connections", "largest", "size"),
    [
        pytest.param(80 * MIB, 8, 32 * MIB, 10 * MIB, id="even over the connections"),
        pytest.param(80 * MIB + 1, 8, 32 * MIB, 10 * MIB + 1, id="rounded up"),
        pytest.param(800 * MIB, 8, 32 * MIB, 32 * MIB, id="the largest piece"),
        pytest.param(8 * MIB, 8, 32 * MIB, SMALLEST_PIECE, id="no tiny pieces"),
        pytest.param(80 * MIB, 1, 32 * MIB, 32 * MIB, id="one connection"),
        pytest.param(20 * MIB, 0, 32 * MIB, 20 * MIB, id="none left counts as one"),
        pytest.param(80 * MIB, 8, 1024, 1024, id="the setting wins over the smallest piece"),
        pytest.param(0, 8, 32 * MIB, SMALLEST_PIECE, id="nothing known to wait"),
    ],
)
def test_piece_size(waiting: int, connections: int, largest: int, size: int) -> None:
    assert piece_size(waiting=waiting, connections=connections, largest=largest) == size


@settings(derandomize=True, max_examples=100, deadline=None)
@given(st.integers(0, 2**40), st.integers(0, 64), st.integers(1, 2**30))
def test_pieces_are_never_empty_nor_too_large(waiting: int, connections: int, largest: int) -> None:
    assert 1 <= piece_size(waiting=waiting, connections=connections, largest=largest) <= largest


def full(most: int) -> Pace:
    """A pace that has grown to its setting."""
    pace = Pace(most)
    while pace.arrived(1, 1):
        pass
    return pace


def test_storage_that_asks_to_slow_down_is_heard_once_for_all_under_way() -> None:
    pace = full(16)
    for active in range(16, 8, -1):
        pace.slower(active)
    assert pace.limit == 8
    pace.slower(8)
    assert pace.limit == 4


def test_one_connection_is_always_left() -> None:
    pace = Pace(3)
    for _ in range(5):
        pace.slower(1)
    assert pace.limit == 1


def test_what_succeeds_allows_one_more_up_to_the_setting() -> None:
    pace = full(8)
    pace.slower(8)
    limits = []
    for _ in range(13):
        pace.faster()
        limits.append(pace.limit)
    # One more in about half as many successes as there are requests.
    assert limits == [4, 4, 5, 5, 6, 6, 6, 7, 7, 7, 7, 8, 8]


@pytest.mark.parametrize(
    ("active", "others", "ahead", "shares", "hungry", "room"),
    [
        pytest.param(0, 0, 0, 1, False, True, id="the first"),
        pytest.param(7, 0, 0, 1, False, True, id="alone, up to the limit"),
        pytest.param(8, 0, 0, 1, False, False, id="alone, at the limit"),
        pytest.param(6, 1, 0, 2, False, True, id="what the other does not want"),
        pytest.param(6, 1, 0, 2, True, False, id="more than its part, while the other waits"),
        pytest.param(3, 4, 0, 2, True, True, id="less than its part"),
        pytest.param(4, 4, 0, 2, True, False, id="all are taken"),
        pytest.param(0, 8, 0, 9, True, False, id="all are taken by many"),
        pytest.param(0, 7, 0, 9, True, True, id="everybody may have one"),
        pytest.param(0, 7, 1, 9, True, False, id="but in the order in which they came"),
        pytest.param(0, 6, 1, 9, True, True, id="one for each of two"),
        pytest.param(1, 6, 0, 9, True, False, id="but not two for one"),
    ],
)
def test_room_for_one_more(
    active: int, others: int, ahead: int, shares: int, hungry: bool, room: bool
) -> None:
    assert room is has_room(
        active=active, others=others, ahead=ahead, shares=shares, hungry=hungry, limit=8
    )


def test_a_limit_is_halved_and_grows_again() -> None:
    limit = Limit(8)
    limit.slower(8)
    limit.slower(8)
    assert limit.limit == 4
    for _ in range(13):
        limit.faster()
    assert limit.limit == 8


def test_few_at_first_and_more_while_the_line_has_more_to_give() -> None:
    pace = Pace(6)
    assert pace.limit == FEW == 4
    # Large chunks: what arrives has waited for us.
    assert not pace.arrived(2 * MIB, 16)
    assert pace.limit == 4
    assert pace.arrived(2 * MIB, 17)
    assert pace.arrived(20_000, 1)
    assert pace.limit == 6
    assert not pace.arrived(20_000, 1)
    assert pace.limit == 6
    for _ in range(3):
        assert not pace.arrived(2 * MIB, 16)
    assert pace.limit == 4


def test_never_more_than_the_setting_and_fewer_where_asked_to_slow_down() -> None:
    assert Pace(2).limit == 2
    pace = full(16)
    pace.slower(16)
    assert pace.limit == 8
    pace.arrived(1, 1)
    assert pace.limit == 8


@pytest.mark.parametrize(
    ("needed", "free", "age", "doubtful"),
    [
        (0, 0, math.inf, True),
        (50, 100, 0.9, False),
        (51, 100, 0.0, True),
        (1, 100, 1.0, True),
        (0, 0, 0.0, False),
    ],
)
def test_the_room_on_the_disk_is_asked_for_anew(
    needed: int, free: int, age: float, *, doubtful: bool
) -> None:
    assert is_room_doubtful(needed=needed, free=free, age=age) is doubtful
