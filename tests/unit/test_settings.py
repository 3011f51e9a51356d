"""Settings: their defaults, and that a wrong value is refused by its name."""

from __future__ import annotations

import math
from datetime import timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sendgrid_exports.settings import DownloadPolicy, Limits, PollPolicy, Verify, read_duration

MIB = 1024 * 1024
DURATIONS = [
    (PollPolicy, "initial"),
    (PollPolicy, "maximum"),
    (PollPolicy, "timeout"),
    (DownloadPolicy, "read_timeout"),
    (DownloadPolicy, "speed_window"),
    (Limits, "sync_seconds"),
]
WHOLES = [
    (PollPolicy, "max_failures", 1),
    (DownloadPolicy, "connections", 1),
    (DownloadPolicy, "connections_per_file", 1),
    (DownloadPolicy, "piece_size", 1),
    (DownloadPolicy, "attempts", 1),
    (DownloadPolicy, "minimum_speed", 0),
    *((Limits, field.name, 1) for field in attrs.fields(Limits) if field.name != "sync_seconds"),
]


@pytest.mark.parametrize(
    ("policy", "defaults"),
    [
        (
            PollPolicy(),
            {"initial": 1.0, "factor": 1.5, "maximum": 30.0, "timeout": 3600.0, "max_failures": 10},
        ),
        (
            DownloadPolicy(),
            {
                "connections": 16,
                "connections_per_file": 8,
                "piece_size": 64 * MIB,
                "read_timeout": 30.0,
                "minimum_speed": 10_000,
                "speed_window": 20.0,
                "attempts": 8,
                "decompress": False,
                "verify": Verify.CONTENTS,
                "require_count": False,
                "limits": Limits(),
            },
        ),
    ],
    ids=["poll", "download"],
)
def test_defaults(policy: Any, defaults: dict[str, object]) -> None:
    assert attrs.asdict(policy, recurse=False) == defaults
    assert all(field.kw_only for field in attrs.fields(type(policy)))
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        policy.timeout = 1.0


@pytest.mark.parametrize(("cls", "name"), DURATIONS)
def test_a_duration_is_seconds_or_a_timedelta(cls: Any, name: str) -> None:
    assert getattr(cls(**{name: 2}), name) == 2
    assert getattr(cls(**{name: timedelta(minutes=1, milliseconds=500)}), name) == 60.5


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (-0.001, ValueError),
        (timedelta(seconds=-1), ValueError),
        (math.inf, ValueError),
        (math.nan, ValueError),
        ("30", TypeError),
        (None, TypeError),
        (True, TypeError),
        (Decimal(1), TypeError),
        (1j, TypeError),
    ],
    ids=repr,
)
@pytest.mark.parametrize(("cls", "name"), [*DURATIONS, (None, "patience")])
def test_anything_else_is_refused_as_a_duration_by_its_name(
    cls: Any, name: str, value: object, kind: type[Exception]
) -> None:
    with pytest.raises(kind, match=rf"^{name} must be ") as caught:
        read_duration(value, name) if cls is None else cls(**{name: value})
    assert type(caught.value) is kind


@pytest.mark.parametrize(("cls", "name"), [(PollPolicy, "timeout"), (PollPolicy, "factor")])
def test_a_number_beyond_all_floats_is_refused_by_its_name(cls: Any, name: str) -> None:
    with pytest.raises(ValueError, match=rf"^'?{name}'? must be "):
        cls(**{name: 10**400})


@pytest.mark.parametrize(("cls", "name"), DURATIONS)
@pytest.mark.parametrize("nothing", [0, 0.0, timedelta()], ids=repr)
def test_only_a_timeout_may_be_zero(cls: Any, name: str, nothing: object) -> None:
    if name == "timeout":
        assert cls(timeout=nothing).timeout == 0
        return
    with pytest.raises(ValueError, match=rf"^'{name}' must be > 0"):
        cls(**{name: nothing})


@settings(derandomize=True, max_examples=50, deadline=None)
@given(st.floats(0, 1e9) | st.integers(0, 10**9) | st.fractions(0, 100))
def test_a_duration_reads_as_the_same_seconds(value: float | Fraction) -> None:
    seconds = read_duration(value, "timeout")
    assert type(seconds) is float
    assert seconds == float(value)
    assert read_duration(timedelta(seconds=seconds), "t") == pytest.approx(seconds, abs=1e-6)


@pytest.mark.parametrize(("cls", "name", "least"), WHOLES)
def test_a_whole_number_has_a_least_value(cls: Any, name: str, least: int) -> None:
    assert getattr(cls(**{name: least}), name) == least
    with pytest.raises(ValueError, match=rf"^'{name}' must be >= {least}: {least - 1}"):
        cls(**{name: least - 1})
    for value in (float(least), "1", None, True):
        with pytest.raises(TypeError, match=rf"^{name} must be a whole number"):
            cls(**{name: value})


@pytest.mark.parametrize(
    ("cls", "name", "value", "kind"),
    [
        (PollPolicy, "factor", 0.99, ValueError),
        (PollPolicy, "factor", math.inf, ValueError),
        (PollPolicy, "factor", math.nan, ValueError),
        (PollPolicy, "factor", "2", TypeError),
        (PollPolicy, "factor", True, TypeError),
        (DownloadPolicy, "verify", "contents", TypeError),
        (DownloadPolicy, "decompress", 1, TypeError),
        (DownloadPolicy, "require_count", None, TypeError),
        (DownloadPolicy, "limits", None, TypeError),
    ],
)
def test_other_wrong_values_are_refused_by_their_name(
    cls: Any, name: str, value: object, kind: type[Exception]
) -> None:
    with pytest.raises(kind, match=rf"^'?{name}'? must be "):
        cls(**{name: value})


def test_a_factor_of_one_is_an_even_pace() -> None:
    assert PollPolicy(factor=1).factor == 1


@pytest.mark.parametrize("verify", list(Verify))
def test_only_contents_can_be_counted(verify: Verify) -> None:
    if verify is Verify.CONTENTS:
        assert DownloadPolicy(require_count=True, verify=verify).require_count
        return
    with pytest.raises(ValueError, match="require_count"):
        DownloadPolicy(require_count=True, verify=verify)


def test_the_ways_to_verify() -> None:
    assert [verify.name for verify in Verify] == ["LENGTH", "CHECKSUM", "CONTENTS"]
