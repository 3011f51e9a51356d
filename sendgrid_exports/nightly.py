"""Which export of an account counts for tonight: one that exists, or a new one. Pure.

An export counts for tonight if it was started less than `max_age` ago, by default 12 hours, as long
as SendGrid keeps the files. So a second run finds what the first one finished or started, even if
the date has changed since, and a run a day later starts anew.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import TypeAlias

import attrs

from sendgrid_exports.models import ContactExport, ExportListing, ExportRequest, ExportStatus
from sendgrid_exports.transfer.links import read_kind
from sendgrid_exports.transfer.manifest import Manifest

__all__ = [
    "AskAgain",
    "Resume",
    "Start",
    "Step",
    "account_name",
    "check_pattern",
    "choose",
    "directories",
    "find_finished",
    "most_jobs",
    "request_of",
]

_FIELDS = ("account", "date")
_MOST_IN_FLIGHT = 2
# SendGrid's clock and ours, or a listing's time and the request's, may differ by this much.
_TOLERANCE = timedelta(seconds=5)
# SendGrid may not know an export at once.
_UNTIL_LISTED = timedelta(minutes=1)
_LONGEST_NAME = 100
# The lock of an account, the lock of its export, and a file that is written meanwhile.
_DESCRIPTORS_A_JOB = 3
_DESCRIPTORS_A_CONNECTION = 2
# The API's connections, the threads' files, and what the rest of the program opens meanwhile.
_OTHER_DESCRIPTORS = 48


@attrs.frozen
class Resume:
    """Fetch the export `export_id` into `directory`, whatever is there of it already.

    Attributes:
        export_id: the export.
        directory: one of those that `directories` returns.
    """

    export_id: str
    directory: str


@attrs.frozen
class Start:
    """Start a new export."""


@attrs.frozen
class AskAgain:
    """Ask for SendGrid's list again later; `reason` says why nothing is started now."""

    reason: str


Step: TypeAlias = Resume | Start | AskAgain


def check_pattern(target: str) -> None:
    """Check a pattern of targets, such as `backups/{account}/{date}`.

    Raises:
        ValueError: it does not keep the accounts apart, or has other fields.
    """
    rest = target
    for field in _FIELDS:
        rest = rest.replace(f"{{{field}}}", "")
    if "{" in rest or "}" in rest:
        raise ValueError("target may have the fields {account} and {date} alone")
    if "{account}" not in target:
        raise ValueError(
            "target must have the field {account}, as in backups/{account}/{date}, which keeps "
            "the accounts apart"
        )


def account_name(account: str) -> str:
    """Return an account's name as the part of a path, different for all accounts.

    It is the name itself where that is harmless. Otherwise characters are replaced and a hash is
    added; so it is for capitals, which some file systems do not tell from small letters, and for
    a name that ends as one with a hash does.
    """
    plain = re.fullmatch(r"(?!.*-[0-9a-f]{12}$)[a-z0-9_@+-]([a-z0-9._@+-]*[a-z0-9_@+-])?", account)
    if plain and len(account) <= _LONGEST_NAME:
        return account
    name = re.sub(r"[^A-Za-z0-9._@+-]|^\.", "_", account)[:_LONGEST_NAME]
    return f"{name}-{hashlib.sha256(account.encode()).hexdigest()[:12]}"


def directories(pattern: str, account: str, *, now: datetime, since: datetime) -> list[str]:
    """Return where tonight's export of an account may be: today's directory first."""
    named = pattern.replace("{account}", account_name(account))
    day, first = now.astimezone(UTC).date(), since.astimezone(UTC).date()
    days = [day - timedelta(days=n) for n in range((day - first).days + 1)]
    return list(dict.fromkeys(named.replace("{date}", day.isoformat()) for day in days))


def find_finished(
    found: Iterable[tuple[str, Manifest]], *, since: datetime, file_type: str
) -> Resume | None:
    """Return the newest complete export in the target that counts for tonight, if any."""
    finished = [
        (created, manifest.export_id, directory)
        for directory, manifest in found
        if manifest.state == "complete"
        and _is_wanted(manifest, file_type)
        and manifest.export is not None
        and (created := manifest.export.created_at) is not None
        and created >= since
    ]
    if not finished:
        return None
    _, export_id, directory = max(finished)
    return Resume(export_id, directory)


def choose(
    found: Sequence[tuple[str, Manifest]],
    listings: Sequence[ExportListing],
    *,
    directory: str,
    since: datetime,
    now: datetime,
    intended: datetime | None,
    file_type: str,
) -> Step:
    """Return what to do for an account of which nothing finished is in the target.

    Args:
        found: the manifests there, each with its directory.
        listings: the exports that SendGrid lists for the account.
        directory: where a new export goes.
        since: an export that was started before does not count for tonight.
        now: the server's time of day.
        intended: when another run was about to start an export, of which nothing more is
            known; or None.
        file_type: `csv` or `json`.
    """
    listed = {listing.id: listing for listing in listings}
    for there, manifest in found:
        known = listed.get(manifest.export_id) or manifest.export
        usable = manifest.state != "complete" and _is_wanted(manifest, file_type)
        if usable and _counts(known, since, now):
            return Resume(manifest.export_id, there)
    there_already = {manifest.export_id for _, manifest in found}
    running = [listing for listing in listings if _counts(listing, since, now)]
    same = [listing for listing in running if _is_same(listing, file_type)]
    for listing in sorted(same, key=lambda listing: listing.created_at or since, reverse=True):
        # One that is still being prepared is as good as a new one. One that is ready may hold the
        # contacts of hours ago: it is taken only if an earlier run was about to start it. The list
        # does not state the file type before there are links; others than CSV are rare.
        fresh = listing.status is ExportStatus.PENDING and file_type == "csv"
        if listing.id not in there_already and (fresh or _is_intended(listing, intended)):
            return Resume(listing.id, directory)
    if (
        intended is not None
        and now - intended < _UNTIL_LISTED
        and not any(_is_intended(listing, intended) for listing in listings)
    ):
        return AskAgain("an export that may have been started is not listed yet")
    in_flight = sum(listing.status is ExportStatus.PENDING for listing in running)
    if in_flight >= _MOST_IN_FLIGHT:
        return AskAgain(f"{in_flight} other exports of the account are still in preparation")
    return Start()


def _counts(export: ExportListing | ContactExport | None, since: datetime, now: datetime) -> bool:
    """Whether an export counts for tonight; one of which nothing is known may."""
    if export is None:
        return True
    if export.status is ExportStatus.FAILURE:
        return False
    if export.expires_at is not None and export.expires_at <= now:
        return False
    return export.created_at is None or export.created_at >= since


def _is_same(listing: ExportListing, file_type: str) -> bool:
    """Whether a listed export has all contacts, in files of that type as far as is known."""
    whole = listing.export_type in {None, "contacts_export"}
    parts = listing.lists or listing.segments
    return whole and not parts and _is_kind(listing.urls, file_type)


def _is_intended(listing: ExportListing, intended: datetime | None) -> bool:
    if intended is None or listing.created_at is None:
        return False
    return listing.created_at >= intended - _TOLERANCE


def _is_wanted(manifest: Manifest, file_type: str) -> bool:
    """Whether an export in the target has all contacts, in files of that type."""
    request = manifest.request
    if request is None:
        return _is_kind(manifest.links, file_type)
    parts = request.list_ids or request.segment_ids
    return not parts and not request.demo and request.file_type == file_type


def _is_kind(links: Iterable[str], file_type: str) -> bool:
    return all(read_kind(link.partition("?")[0]) == file_type for link in links)


def request_of(manifest: Manifest | None, asked: ExportRequest) -> ExportRequest | None:
    """Return what a manifest is to say of the request for its export; None where it is unknown.

    Args:
        manifest: that of the export in the target; None where it was started just now, or found in
            SendGrid's list, which shows that it has all contacts.
        asked: what this run asks for.
    """
    if manifest is None:
        return asked
    if manifest.request is not None and asked.allow_shrink:
        return attrs.evolve(manifest.request, allow_shrink=True)
    return manifest.request


def most_jobs(jobs: int, *, free: int | None, connections: int) -> int:
    """Return how many accounts may be under way at once, of the `jobs` that are wanted.

    Args:
        jobs: how many are wanted.
        free: how many more files and sockets the process may open, or None where unknown.
        connections: how many connections to the storage there are at most, for all of them.
    """
    if free is None:
        return jobs
    left = free - _OTHER_DESCRIPTORS - _DESCRIPTORS_A_CONNECTION * connections
    return max(1, min(jobs, left // _DESCRIPTORS_A_JOB))
