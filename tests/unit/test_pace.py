"""How many connections there may be, and which of them is too slow."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sendgrid_exports.transfer.pace import LARGE_READ, Line, Pace, Speed, Verdict, time_needed


def full(most: int) -> Pace:
    """Return a pace that has grown to its setting."""
    pace = Pace(most, 1)
    while pace.limit < most:
        pace.received(1, 1)
    return pace


def test_small_reads_add_connections_up_to_the_setting_and_large_ones_remove_them() -> None:
    pace = Pace(6, 4)
    limits = []
    # A read that is large on average found data waiting for this process.
    for size, reads in [(2 * LARGE_READ, 2), (LARGE_READ - 1, 1), (1, 1), (1, 1)]:
        pace.received(size, reads)
        limits.append(pace.limit)
    for _ in range(3):
        pace.received(16 * LARGE_READ, 16)
        limits.append(pace.limit)
    assert limits == [4, 5, 6, 6, 5, 4, 4]


def test_several_refusals_of_requests_under_way_together_halve_the_limit_once() -> None:
    pace = full(16)
    for active in range(16, 8, -1):
        pace.slower(active)
    assert pace.limit == 8
    pace.slower(8)
    assert pace.limit == 4


def test_one_connection_is_always_allowed() -> None:
    pace = Pace(3, 3)
    for _ in range(5):
        pace.slower(1)
    assert pace.limit == 1


def test_successes_raise_a_halved_limit_by_one_up_to_the_setting() -> None:
    pace = full(8)
    pace.slower(8)
    limits = []
    for _ in range(13):
        pace.faster()
        limits.append(pace.limit)
    # One more in about half as many successes as there are requests.
    assert limits == [4, 4, 5, 5, 6, 6, 6, 7, 7, 7, 7, 8, 8]


def test_small_reads_do_not_lift_the_limit_that_the_storage_set() -> None:
    pace = full(16)
    pace.slower(16)
    pace.received(1, 1)
    assert pace.limit == 8


CHANGES = st.one_of(
    st.tuples(st.just("received"), st.tuples(st.integers(0, 2**21), st.integers(1, 40))),
    st.tuples(st.just("slower"), st.tuples(st.integers(0, 40))),
    st.tuples(st.just("faster"), st.just(())),
)


@settings(derandomize=True, max_examples=100, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.lists(CHANGES, max_size=80))
def test_the_limit_lies_between_one_and_the_setting(
    most: int, first: int, changes: list[tuple[str, tuple[int, ...]]]
) -> None:
    pace = Pace(most, min(most, first))
    for name, arguments in changes:
        getattr(pace, name)(*arguments)
        assert 1 <= pace.limit <= most


KEEP, DROP, SLOW_LINE = Verdict.KEEP, Verdict.DROP, Verdict.SLOW_LINE


def fed(speed: Speed, rate: int, start: int, end: int) -> Speed:
    """Let `rate` bytes arrive every second, the last ones at `end`."""
    for second in range(start + 1, end + 1):
        speed.add(rate, float(second))
    return speed


def test_there_is_no_rate_before_a_window_has_passed() -> None:
    speed = Speed(20.0, 0.0)
    assert fed(speed, 100, 0, 19).rate(19.9) is None
    assert speed.rate(20.0) == pytest.approx(95)


def test_the_rate_is_that_of_the_last_window() -> None:
    speed = fed(Speed(20.0, 0.0), 1000, 0, 100)
    assert speed.rate(100.0) == pytest.approx(1000)
    fed(speed, 10, 100, 120)
    assert speed.rate(120.0) == pytest.approx(10)


def test_silence_lowers_the_rate() -> None:
    speed = fed(Speed(20.0, 0.0), 1000, 0, 20)
    assert speed.rate(40.0) == pytest.approx(500)
    assert speed.rate(20_000.0) == pytest.approx(1)


def test_a_pause_of_ours_does_not_count() -> None:
    paused, other = Speed(20.0, 0.0), Speed(20.0, 0.0)
    fed(paused, 100, 0, 10)
    paused.pause(1000.0)
    fed(paused, 100, 1010, 1030)
    fed(other, 100, 0, 30)
    assert paused.rate(1030.0) == other.rate(30.0)


def test_during_a_pause_no_window_passes() -> None:
    speed = fed(Speed(20.0, 0.0), 0, 0, 10)
    speed.pause(60.0)
    assert speed.rate(79.0) is None
    assert speed.rate(80.0) == 0


def test_a_window_that_is_one_long_wait_has_a_rate() -> None:
    speed = Speed(20.0, 5.0)
    speed.add(400, 45.0)
    assert speed.rate(45.0) == 10


@settings(derandomize=True, max_examples=100, deadline=None)
@given(
    st.lists(
        st.tuples(st.floats(0.0, 30.0), st.integers(0, 10_000), st.floats(0.0, 10.0)),
        min_size=1,
        max_size=60,
    )
)
def test_a_rate_lies_between_the_slowest_and_the_fastest(
    steps: list[tuple[float, int, float]],
) -> None:
    speed, now, received = Speed(20.0, 0.0), 0.0, 0
    for wait, size, pause in steps:
        now += wait
        speed.add(size, now)
        received += size
        now += pause
        speed.pause(pause)
        rate = speed.rate(now)
        assert rate is None or 0 <= rate <= received / 20.0 + 1e-6


@settings(derandomize=True, max_examples=50, deadline=None)
@given(st.integers(1, 5000), st.integers(25, 200))
def test_a_steady_rate_is_told_as_it_is(rate: int, seconds: int) -> None:
    assert fed(Speed(20.0, 0.0), rate, 0, seconds).rate(float(seconds)) == pytest.approx(rate)


@pytest.mark.parametrize(
    ("rate", "others", "verdict"),
    [
        (None, [], KEEP),
        (None, [5000.0], KEEP),
        (100.0, [], KEEP),
        (100.0, [0.0, 50.0], KEEP),
        (2.5, [5000.0], DROP),
        (2.5, [1.0, None, 100.0], DROP),
        (99.9, [100.0], DROP),
        (2.5, [1.0], SLOW_LINE),
        (2.5, [None, 99.0], SLOW_LINE),
        (0.0, [0.0], SLOW_LINE),
        (2.5, [], DROP),
        (2.5, [None, None], DROP),
    ],
)
def test_verdicts(rate: float | None, others: list[float | None], verdict: Verdict) -> None:
    assert Line(100, 20.0).judge(rate, others, 0.0) is verdict


def test_one_alone_is_dropped_and_then_left_in_peace_for_longer_and_longer() -> None:
    line = Line(100, 20.0)
    dropped = [second for second in range(1000) if line.judge(2.5, [], float(second)) is DROP]
    assert dropped == [0, 40, 120, 280, 600]


def test_one_that_trickles_among_fast_ones_is_dropped_at_any_time() -> None:
    line = Line(100, 20.0)
    assert line.judge(2.5, [], 0.0) is DROP
    assert line.judge(2.5, [], 1.0) is SLOW_LINE
    assert line.judge(2.5, [500.0], 2.0) is DROP


def test_several_that_never_were_fast_are_the_line_but_for_a_rare_trial() -> None:
    line = Line(100, 20.0)
    dropped = [second for second in range(1000) if line.judge(2.5, [1.0], float(second)) is DROP]
    assert dropped == [40, 80, 160, 320, 640]


def test_several_that_were_fast_may_be_stuck() -> None:
    line = Line(100, 20.0)
    assert line.judge(500.0, [1.0], 0.0) is KEEP
    dropped = [second for second in range(200) if line.judge(2.5, [1.0], float(second)) is DROP]
    assert dropped == [0, 40, 120]


@pytest.mark.parametrize("seen_by", ["judge", "fast"])
def test_a_line_that_is_fast_again_is_tried_again_at_once(seen_by: str) -> None:
    line = Line(100, 20.0)
    assert [line.judge(2.5, [], now) for now in (0.0, 1.0)] == [DROP, SLOW_LINE]
    if seen_by == "fast":
        line.fast()
    else:
        assert line.judge(100.0, [], 2.0) is KEEP
    assert [line.judge(2.5, [], now) for now in (3.0, 4.0, 42.9, 43.0)] == [
        DROP,
        SLOW_LINE,
        SLOW_LINE,
        DROP,
    ]


def test_nothing_is_slow_without_a_minimum() -> None:
    assert Line(0, 20.0).judge(0.0, [], 0.0) is KEEP


@settings(derandomize=True, max_examples=100, deadline=None)
@given(st.lists(st.none() | st.floats(0, 1000), max_size=6), st.none() | st.floats(0, 1000))
def test_whoever_is_dropped_is_slow_and_alone_or_among_faster_ones(
    others: list[float | None], rate: float | None
) -> None:
    verdict = Line(100, 20.0).judge(rate, others, 0.0)
    known = [other for other in others if other is not None]
    if verdict is not KEEP:
        assert rate is not None
        assert rate < 100
        assert (verdict is DROP) == (not known or max(known) >= 100)


def test_the_average_leaves_out_pauses() -> None:
    speed = fed(Speed(20.0, 5.0), 100, 5, 15)
    assert speed.average(15.0) == pytest.approx(100)
    speed.pause(10.0)
    assert speed.average(25.0) == pytest.approx(100)
    assert Speed(20.0, 5.0).average(5.0) == 0


@pytest.mark.parametrize(
    ("received", "passed", "rest", "needed"),
    [
        (100, 9.9, 1000, None),
        (0, 100.0, 1000, None),
        (-5, 100.0, 1000, None),
        (100, 10.0, 1000, 100.0),
        (100, 20.0, 0, 0.0),
    ],
)
def test_the_time_needed(received: int, passed: float, rest: int, needed: float | None) -> None:
    assert time_needed(received=received, passed=passed, rest=rest) == needed
