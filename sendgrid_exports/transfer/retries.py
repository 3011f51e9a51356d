"""What follows from a failure: try again, renew the link, start over, or give up. Pure.

Progress resets the budgets: only attempts in a row without progress count. What can't get
better is not tried again, so nothing loops while a server keeps answering.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, TypeAlias, assert_never

import attrs

from sendgrid_exports.delays import Random, retry_delay
from sendgrid_exports.errors import (
    CorruptDownloadError,
    DownloadError,
    ExportExpiredError,
    IncompleteDownloadError,
)
from sendgrid_exports.models import ContactExport
from sendgrid_exports.transfer.answers import LinkDead, Refused, StartOver, TryAgain
from sendgrid_exports.transfer.checks import CheckFailedError

__all__ = ["Again", "Failure", "GiveUp", "Renew", "Step", "Tries", "error_of", "next_step"]

_START_OVERS = 3
_RENEWALS = 3
_LONGEST_WAIT = 3600.0
_FETCH_AGAIN = "Fetch again with the same id"
_THEN_ANOTHER = f"{_FETCH_AGAIN}; if that fails too, start another export."


@attrs.frozen(kw_only=True)
class Tries:
    """How often a file was tried without success.

    Attributes:
        starts_over: how often it began again from its first byte.
        failed_checks: how often all of it came and failed a check.
        renewals: renewals in a row that no byte followed.
        denials: refusals in a row that age does not explain.
    """

    starts_over: int = 0
    failed_checks: int = 0
    renewals: int = 0
    denials: int = 0

    def after_progress(self) -> Tries:
        """Return the counts after bytes arrived."""
        return attrs.evolve(self, renewals=0, denials=0)


@attrs.frozen
class Again:
    """Ask again after `delay` seconds."""

    delay: float
    reason: str


@attrs.frozen
class Renew:
    """Get a fresh link, then ask again."""


@attrs.frozen
class GiveUp:
    """Nothing is left to try.

    Attributes:
        kind: what became of the file: `incomplete` if a later run may get it, `expired` if it is
            gone, `refused` by the storage, or `corrupt`.
        reason: what was seen.
        advice: what to do, where the kind alone does not tell.
        status: of the last answer, or None.
        code: S3's code in it, or None.
    """

    kind: Literal["incomplete", "expired", "refused", "corrupt"]
    reason: str
    advice: str = ""
    status: int | None = None
    code: str | None = None


Step: TypeAlias = Again | Renew | StartOver | GiveUp
Failure: TypeAlias = StartOver | LinkDead | TryAgain | Refused | CheckFailedError


def next_step(
    failure: Failure,
    tries: Tries,
    *,
    failures: int,
    attempts: int,
    left: float,
    random: Random,
) -> tuple[Step, Tries]:
    """Return what to do next, and the counts after it.

    Args:
        failure: what became of the request, or of the check of the whole file.
        tries: the file's counts so far.
        failures: attempts of this piece in a row without progress, this one included.
        attempts: how many of them are allowed.
        left: seconds until the deadline.
        random: between 0 and 1, for the jitter.
    """
    match failure:
        case TryAgain(reason, retry_after):
            if failures >= attempts:
                return GiveUp("incomplete", _used_up(reason, failures)), tries
            delay = max(retry_delay(max(failures, 1), random), retry_after or 0.0)
            left = min(left, _LONGEST_WAIT)
            if retry_after is not None and retry_after >= left:
                asked = f"the storage asks to wait {retry_after:.0f} s, of {left:.0f} s at most"
                return GiveUp("incomplete", f"{reason}; {asked}"), tries
            return Again(min(delay, left), reason), tries
        case LinkDead(reason, expired):
            if tries.renewals >= _RENEWALS:
                reason = f"{reason}; {_RENEWALS} fresh links were refused too"
                return _give_up_link(failure, reason), tries
            if expired:
                return Renew(), attrs.evolve(tries, renewals=tries.renewals + 1)
            if failures >= attempts:
                return _give_up_link(failure, _used_up(reason, failures)), tries
            counted = attrs.evolve(tries, denials=tries.denials + 1)
            if tries.denials:
                return Again(min(retry_delay(tries.denials, random), left), reason), counted
            return Renew(), attrs.evolve(counted, renewals=tries.renewals + 1)
        case StartOver(reason):
            if tries.starts_over >= _START_OVERS:
                reason = f"{reason}; it started over {_START_OVERS} times"
                return GiveUp("refused", reason), tries
            return failure, attrs.evolve(tries, starts_over=tries.starts_over + 1)
        case Refused(reason=reason, status=status, code=code, advice=advice):
            return GiveUp("refused", reason, advice, status, code), tries
        case CheckFailedError():
            counted = attrs.evolve(tries, failed_checks=tries.failed_checks + 1)
            if tries.failed_checks:
                return GiveUp("corrupt", str(failure), failure.advice), counted
            return StartOver(f"it fails its checks: {failure}"), counted
        case _:
            assert_never(failure)


def error_of(
    given_up: GiveUp,
    *,
    name: str,
    path: Path | None,
    url: str,
    export_id: str,
    export: ContactExport | None,
) -> ExportExpiredError | DownloadError:
    """Return the error that ends the download of a file.

    Args:
        given_up: the last step.
        name: what the file is called.
        path: the file's final path, or None if it is not on disk.
        url: where it comes from, without its query.
        export_id: the export.
        export: the export as last seen, or None.
    """
    reason, advice = given_up.reason.rstrip("."), given_up.advice
    match given_up.kind:
        case "expired":
            return ExportExpiredError(
                f"The file {name} of export {export_id} is deleted ({reason}). "
                "Start another export.",
                export_id=export_id,
                export=export,
            )
        case "incomplete":
            return IncompleteDownloadError(
                f"{name} did not arrive: {reason}. {advice or f'{_FETCH_AGAIN}.'}",
                path=path,
                url=url,
            )
        case "refused":
            return DownloadError(
                f"The storage does not deliver {name}: {reason}. {advice or _THEN_ANOTHER}",
                path=path,
                url=url,
                status=given_up.status,
                code=given_up.code,
            )
        case "corrupt":
            return CorruptDownloadError(
                f"{name} was downloaded twice, and it fails its checks: {reason}. {advice}",
                path=path,
                url=url,
            )
        case _:
            assert_never(given_up.kind)


def _used_up(reason: str, failures: int) -> str:
    return f"{reason} ({failures} tries without progress)"


def _give_up_link(dead: LinkDead, reason: str) -> GiveUp:
    kind: Literal["expired", "refused"] = "expired" if dead.status in {404, 410} else "refused"
    return GiveUp(kind, reason, status=dead.status, code=dead.code)
