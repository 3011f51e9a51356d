"""Dated folders: what they are called, and which may be dropped."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta, timezone

import pytest

from sendgrid_exports.cli.backups import (
    Backup,
    backup_name,
    droppable,
    may_drop,
    older_backups,
    read_name,
)

NOW = datetime(2026, 3, 2, 9, 30, 0, 999_999, tzinfo=UTC)
NAME = "2026-03-02T093000Z"


@pytest.mark.parametrize(
    ("taken", "name"),
    [
        ([], NAME),
        (["2026-03-02T092959Z"], NAME),
        ([NAME], f"{NAME}-2"),
        ([NAME, f"{NAME}-2", f"{NAME}-3"], f"{NAME}-4"),
        ([f"{NAME}-2"], NAME),
    ],
)
def test_a_backup_is_called_by_when_it_begins(taken: list[str], name: str) -> None:
    assert backup_name(NOW, taken) == name
    assert read_name(name) is not None


def test_the_name_is_in_utc_wherever_one_is() -> None:
    assert backup_name(NOW.astimezone(timezone(timedelta(hours=-7))), []) == NAME


@pytest.mark.parametrize(
    "name",
    [
        "",
        "exports",
        "2026-03-02",
        "2026-03-02T093000",
        "2026-03-02T093000Z-",
        "2026-03-02T093000Z-0",
        "2026-03-02T093000Z-1",
        "2026-03-02T093000Z-02",
        "2026-03-02T093000Z old",
        "2026-02-30T093000Z",
        "2026-03-02T253000Z",
        ".2026-03-02T093000Z.dropped",
        "x2026-03-02T093000Z",
        "2026-03-02T093000Z\n",
        "２026-03-02T093000Z",
    ],
)
def test_any_other_name_is_not_ours(name: str) -> None:
    assert read_name(name) is None


def test_later_ones_are_greater_also_within_a_second() -> None:
    names = ["2025-12-31T235959Z", NAME, f"{NAME}-2", f"{NAME}-10", "2026-03-02T093001Z"]
    backups = [read_name(name) for name in names]
    assert backups == sorted(backups, key=lambda backup: backup or Backup(NOW, 0, ""))
    for a, b in itertools.pairwise(backups):
        assert a is not None
        assert b is not None
        assert a < b


A, B, C, D, NEW = (f"2026-03-0{day}T000000Z" for day in range(1, 6))


@pytest.mark.parametrize(
    ("names", "older"),
    [
        ([NEW], []),
        ([A, B, NEW], [B, A]),
        ([B, A, "mine", NEW], [B, A]),
        # The clock went back: what is newer is none of its business.
        ([A, NEW, "2026-03-06T000000Z"], [A]),
        ([A, NEW, f"{NEW}-2"], [A]),
    ],
)
def test_older_are_those_before_the_new_one(names: list[str], older: list[str]) -> None:
    assert [backup.name for backup in older_backups(names, NEW)] == older


def test_beside_a_folder_that_is_not_ours_nothing_is_older() -> None:
    assert older_backups([A, B], "mine") == []


@pytest.mark.parametrize(
    ("verified", "keep", "dropped"),
    [
        ([A, B, C, D], 1, [A, B, C, D]),
        ([A, B, C, D], 2, [A, B, C]),
        ([A, B, C, D], 4, [A]),
        ([A, B, C, D], 5, []),
        ([A, B, C, D], 99, []),
        # What is not verified is neither dropped nor counted.
        ([], 1, []),
        ([A], 1, [A]),
        ([A], 2, []),
        ([A, C], 2, [A]),
        ([A, B, C], 2, [A, B]),
        ([B, C, D], 3, [B]),
    ],
)
def test_the_oldest_verified_ones_go(verified: list[str], keep: int, dropped: list[str]) -> None:
    older = older_backups([C, A, D, B], NEW)
    assert [backup.name for backup in droppable(older, verified, keep)] == dropped
    assert not dropped or may_drop(older, keep)


@pytest.mark.parametrize("keep", [0, -1])
def test_the_new_one_always_stays(keep: int) -> None:
    with pytest.raises(ValueError, match="keep must be at least 1"):
        droppable(older_backups([A], NEW), [A], keep)


def test_nothing_is_read_again_where_nothing_could_go() -> None:
    older = older_backups([A, B], NEW)
    assert [may_drop(older, keep) for keep in (1, 2, 3, 4)] == [True, True, False, False]
