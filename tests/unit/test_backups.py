"""Dated folders: what they are called, and which backups count."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import attrs
import pytest

from sendgrid_exports import ContactExport, ExportRequest, ExportStatus, FoundExport
from sendgrid_exports.cli.backups import (
    Backup,
    backup_name,
    counting,
    doubt_of,
    read_name,
    series_of,
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
        # The first of that second may have been dropped.
        ([f"{NAME}-2"], f"{NAME}-3"),
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
        "2026-03-02-2",
        "2026-02-30",
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


def held(
    contacts: int | None, day: int = 1, *, expected: int | None = None, **request: Any
) -> FoundExport:
    return FoundExport(
        export_id="id",
        state="complete",
        contact_count=contacts,
        target=(target := Path(f"backups/2026-03-{day:02}T000000Z")),
        manifest=target / "id.manifest.json",
        export=ContactExport(id="id", status=ExportStatus.READY, contact_count=expected),
        request=ExportRequest(host="h", **request),
    )


@pytest.mark.parametrize(
    ("new", "earlier", "doubt"),
    [
        (held(500), None, None),
        (held(500, expected=500), held(500), None),
        (held(250), held(500), None),
        (held(5000), held(1), None),
        (held(249), held(500), "it holds 249, and 2026-03-01T000000Z holds 500"),
        (held(0), None, "it is empty"),
        (held(0), held(0, allow_shrink=True), "it is empty"),
        (held(0), held(1), "it is empty, and 2026-03-01T000000Z holds 1"),
        (held(None), None, "its contacts were not counted"),
        (
            held(500, expected=501),
            None,
            "SendGrid says it exported 501 contacts, and the files hold 500",
        ),
        (held(0, expected=7), None, "SendGrid says it exported 7 contacts, and the files hold 0"),
        (held(0, allow_shrink=True), held(500), None),
        (held(1, allow_shrink=True), held(500), None),
        (held(500, expected=501, allow_shrink=True), None, None),
    ],
)
def test_a_backup_counts_unless_it_is_empty_in_doubt_or_much_smaller(
    new: FoundExport, earlier: FoundExport | None, doubt: str | None
) -> None:
    assert doubt_of(new, earlier) == doubt


@pytest.mark.parametrize(
    ("nights", "counted"),
    [
        ([], []),
        ([500, 510, 480], [500, 510, 480]),
        # A second small night does not make it normal.
        ([500, 100, 110, 120], [500]),
        ([500, 0, 0, 505], [500, 505]),
        ([0, 0, 3], [3]),
        # It may shrink slowly.
        ([500, 260, 140, 80], [500, 260, 140, 80]),
    ],
)
def test_each_night_is_compared_with_the_newest_that_counts(
    nights: list[int], counted: list[int]
) -> None:
    found = counting([held(contacts, day) for day, contacts in enumerate(nights, 1)])
    assert [one.contact_count for one in found] == counted


def test_a_shrinking_that_is_meant_is_what_later_nights_are_compared_with() -> None:
    nights = [held(500), held(100, allow_shrink=True), held(60), held(20)]
    assert [one.contact_count for one in counting(nights)] == [500, 100, 60]


def test_an_unfinished_or_damaged_backup_does_not_count() -> None:
    for state in ("pending", "downloading", "damaged"):
        assert counting([attrs.evolve(held(500), state=state)]) == []


@pytest.mark.parametrize(
    ("request_", "same"),
    [
        ({}, True),
        ({"allow_shrink": True}, True),
        ({"list_ids": ("a",)}, False),
        ({"segment_ids": ("a",)}, False),
        ({"on_behalf_of": "sub"}, False),
        ({"file_type": "json"}, False),
        ({"demo": True}, False),
    ],
)
def test_backups_of_the_same_contacts_are_one_series(request_: dict[str, Any], same: bool) -> None:
    asked = ExportRequest(host="h")
    assert (series_of(attrs.evolve(asked, **request_)) == series_of(asked)) == same
    assert series_of(attrs.evolve(asked, host="eu")) != series_of(asked)
    both = ("a", "b"), ("b", "a")
    assert len({series_of(ExportRequest(host="h", list_ids=ids)) for ids in both}) == 1
