"""Which export counts for tonight, and where the accounts go."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from sendgrid_exports import ContactExport, ExportListing, ExportRequest, ExportStatus, NamedId
from sendgrid_exports.nightly import (
    AskAgain,
    Resume,
    Start,
    Step,
    account_name,
    check_pattern,
    choose,
    directories,
    find_finished,
    most_jobs,
    request_of,
)
from sendgrid_exports.transfer.manifest import Manifest

NOW = datetime(2026, 3, 2, 2, 0, tzinfo=UTC)
HOUR = timedelta(hours=1)
SINCE = NOW - 12 * HOUR
TODAY, YESTERDAY = "b/a/2026-03-02", "b/a/2026-03-01"
CSV, JSON = "https://s/x.csv.gzip", "https://s/x.json.gzip"


def times(hours: float) -> dict[str, Any]:
    created = NOW - hours * HOUR
    return {"created_at": created, "expires_at": created + 12 * HOUR}


def manifest(export_id: str, state: Any, hours: float | None = 1, link: str = CSV) -> Manifest:
    export = None
    if hours is not None:
        export = ContactExport(id=export_id, status=ExportStatus.READY, **times(hours))
    return Manifest(export_id=export_id, state=state, export=export, links=(link,))


def listing(
    export_id: str, status: str = "pending", hours: float = 1, **more: Any
) -> ExportListing:
    kind = {"export_type": "contacts_export", **more}
    return ExportListing(id=export_id, status=ExportStatus(status), **times(hours), **kind)


@pytest.mark.parametrize(
    ("found", "export_id"),
    [
        ([], None),
        ([manifest("x", "complete")], "x"),
        ([manifest("x", "complete", 11)], "x"),
        ([manifest("x", "complete", 13)], None),
        ([manifest("x", "complete", None)], None),
        ([manifest("x", "downloading")], None),
        ([manifest("x", "pending", None)], None),
        ([manifest("x", "complete", link=JSON)], None),
        ([manifest("x", "complete", 3), manifest("y", "complete", 2)], "y"),
    ],
)
def test_the_newest_complete_export_of_tonight_is_the_result(
    found: list[Manifest], export_id: str | None
) -> None:
    pairs = [(YESTERDAY, each) for each in found]
    step = find_finished(pairs, since=SINCE, file_type="csv")
    assert step == (None if export_id is None else Resume(export_id, YESTERDAY))


UNLISTED = AskAgain("an export that may have been started is not listed yet")
STEPS: list[tuple[str, list[Manifest], list[ExportListing], float | None, Step]] = [
    ("nothing at all", [], [], None, Start()),
    # What is on disk.
    ("a pending manifest", [manifest("x", "pending", None)], [], None, Resume("x", YESTERDAY)),
    ("half of the files", [manifest("x", "downloading")], [], None, Resume("x", YESTERDAY)),
    ("half of old files", [manifest("x", "downloading", 13)], [], None, Start()),
    ("half of a JSON export", [manifest("x", "downloading", link=JSON)], [], None, Start()),
    ("a complete one is too old", [manifest("x", "complete", 24)], [], None, Start()),
    (
        "a manifest of an export that failed",
        [manifest("x", "pending", None)],
        [listing("x", "failure")],
        None,
        Start(),
    ),
    (
        "a manifest of an export from before",
        [manifest("x", "pending", None)],
        [listing("x", "ready", 20)],
        None,
        Start(),
    ),
    (
        "the manifest comes before the list",
        [manifest("x", "pending", None)],
        [listing("x"), listing("y", hours=0.1)],
        None,
        Resume("x", YESTERDAY),
    ),
    # What is at SendGrid.
    ("one in preparation", [], [listing("y")], None, Resume("y", TODAY)),
    (
        "the newest in preparation",
        [],
        [listing("x", hours=3), listing("y", hours=2)],
        None,
        Resume("y", TODAY),
    ),
    ("one of a list", [], [listing("y", lists=(NamedId(id="l"),))], None, Start()),
    ("one of a segment", [], [listing("y", segments=(NamedId(id="s"),))], None, Start()),
    ("one of another type", [], [listing("y", export_type="list_export")], None, Start()),
    ("one without a type", [], [listing("y", export_type=None)], None, Resume("y", TODAY)),
    ("somebody else's that is ready", [], [listing("y", "ready", 0.5)], None, Start()),
    ("one that was intended", [], [listing("y", "ready", 0.5)], 0.5, Resume("y", TODAY)),
    ("one from before the intent", [], [listing("y", "ready", 3)], 0.5, Start()),
    ("one that was intended, and failed", [], [listing("y", "failure", 0.5)], 0.5, Start()),
    ("one that was intended, and expired", [], [listing("y", "ready", 12)], 12, Start()),
    (
        "one that was intended, of JSON",
        [],
        [listing("y", "ready", 0.5, urls=(f"{JSON}?X-Amz-Signature=0",))],
        0.5,
        Start(),
    ),
    (
        "one of CSV with links",
        [],
        [listing("y", "ready", 0.5, urls=(f"{CSV}?X-Amz-Signature=0",))],
        0.5,
        Resume("y", TODAY),
    ),
    (
        "a damaged one is not resumed from the list",
        [manifest("x", "complete", 24)],
        [listing("x", "ready", 1)],
        2,
        Start(),
    ),
    ("one that was intended just now", [], [listing("y", hours=0)], 0, Resume("y", TODAY)),
    ("one just intended that failed", [], [listing("y", "failure", 0.0)], 0.01, Start()),
    ("one that may still appear", [], [], 0.01, UNLISTED),
    ("one that would have appeared", [], [], 0.02, Start()),
    # No more than two in preparation.
    (
        "two lists in preparation",
        [],
        [listing(name, export_type="list_export") for name in "yz"],
        None,
        AskAgain("2 other exports of the account are still in preparation"),
    ),
    (
        "one of two has expired",
        [],
        [listing(f"{n}", hours=n, export_type="list_export") for n in (1, 12)],
        None,
        Start(),
    ),
    (
        "one of two is ready",
        [],
        [listing(status, status, export_type="list_export") for status in ("pending", "ready")],
        None,
        Start(),
    ),
]


@pytest.mark.parametrize(
    ("found", "listings", "intended", "step"),
    [case[1:] for case in STEPS],
    ids=[case[0] for case in STEPS],
)
def test_an_account_resumes_what_was_started_for_it_or_starts_an_export(
    found: list[Manifest],
    listings: list[ExportListing],
    intended: float | None,
    step: Step,
) -> None:
    chosen = choose(
        [(YESTERDAY, each) for each in found],
        listings,
        directory=TODAY,
        since=SINCE,
        now=NOW,
        intended=None if intended is None else NOW - intended * HOUR,
        file_type="csv",
    )
    assert chosen == step


def test_an_export_in_preparation_may_be_csv_alone() -> None:
    chosen = choose(
        [], [listing("y")], directory=TODAY, since=SINCE, now=NOW, intended=None, file_type="json"
    )
    assert chosen == Start()


@pytest.mark.parametrize("target", ["{account}", "b/{account}/{date}", "b-{date}/{account}-full"])
def test_a_target_has_an_account_and_perhaps_a_date(target: str) -> None:
    check_pattern(target)


@pytest.mark.parametrize(
    "target",
    [
        "backups",
        "b/{date}",
        "b/{account}/{name}",
        "b/{account}/{",
        "{account.real}",
    ],
)
def test_any_other_target_is_refused(target: str) -> None:
    with pytest.raises(ValueError, match="target"):
        check_pattern(target)


def test_an_export_may_be_in_the_directories_of_every_day_that_counts() -> None:
    def found(pattern: str, hours: float) -> list[str]:
        return directories(pattern, "a", now=NOW, since=NOW - hours * HOUR)

    assert found("b/{account}/{date}", 12) == [TODAY, YESTERDAY]
    assert found("b/{account}/{date}", 1) == [TODAY]
    assert found("b/{account}/{date}", 48) == [TODAY, YESTERDAY, "b/a/2026-02-28"]
    assert found("b/{account}", 48) == ["b/a"]


@pytest.mark.parametrize("name", ["a", "agency-7", "a.b@example.com", "x+y_z"])
def test_the_name_of_an_account_is_kept_where_it_is_harmless(name: str) -> None:
    assert account_name(name) == name


ODD = ["A", "a/b", "a_b", "..", ".", ".a", "a.", "a b", "ä", "", "-" * 300, "account-id 7", "a\\b"]


@pytest.mark.parametrize("name", ODD)
def test_any_name_of_an_account_is_one_part_of_a_path(name: str) -> None:
    safe = account_name(name)
    assert Path("b", safe).parts == ("b", safe)
    assert not safe.startswith(".")
    assert not safe.endswith(".")
    assert len(safe) < 130
    assert safe.isascii()


def test_names_of_accounts_never_collide() -> None:
    names = {*ODD, "a", "a-b", "aa"}
    names |= {account_name(name) for name in ODD}
    assert len({account_name(name).lower() for name in names}) == len(names)


@pytest.mark.parametrize(
    ("jobs", "free", "connections", "most"),
    [
        (8, None, 16, 8),
        (8, 1000, 16, 8),
        (8, 245, 16, 8),
        (500, 245, 16, 55),
        (500, 1_000_000, 16, 500),
        (8, 100, 16, 6),
        (8, 10, 16, 1),
    ],
)
def test_accounts_at_once_are_as_many_as_the_process_may_open_files_for(
    jobs: int, free: int | None, connections: int, most: int
) -> None:
    assert most_jobs(jobs, free=free, connections=connections) == most


STRICT = ExportRequest(host="h")
LENIENT = ExportRequest(host="h", allow_shrink=True)


@pytest.mark.parametrize(
    ("known", "asked", "kept"),
    [
        (STRICT, STRICT, STRICT),
        (STRICT, LENIENT, LENIENT),
        (LENIENT, STRICT, LENIENT),
        # Of an export that was fetched by its id, only the id is known.
        (None, LENIENT, None),
    ],
)
def test_a_request_on_disk_stays_but_for_the_leave_to_shrink(
    known: ExportRequest | None, asked: ExportRequest, kept: ExportRequest | None
) -> None:
    assert request_of(Manifest(export_id="x", request=known), asked) == kept


def test_an_export_that_was_started_or_listed_has_the_request_of_this_run() -> None:
    assert request_of(None, LENIENT) == LENIENT
