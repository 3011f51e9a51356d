"""What to do after a request that did not bring its bytes, and when to stop trying. Pure.

Progress resets the budgets: only tries in a row that brought nothing count. What can't get
better is not tried again, so nothing loops while a server keeps answering.
"""

from __future__ import annotations

from pathlib import Path
from typing import TypeAlias, assert_never

import attrs

from sendgrid_exports.delays import Random, retry_delay
from sendgrid_exports.errors import DownloadError, ExportExpiredError, IncompleteDownloadError
from sendgrid_exports.models import ContactExport
from sendgrid_exports.transfer.answers import (
    AskPlain,
    Gone,
    LinkDead,
    Refused,
    StartOver,
    TryAgain,
)

__all__ = [
    "Again",
    "Begin",
    "Expired",
    "Fail",
    "Failure",
    "GiveUpOn",
    "Renew",
    "Step",
    "Tries",
    "error_of",
    "next_step",
]

_START_OVERS = 3
_RENEWALS = 3
_LONGEST_WAIT = 3600.0


@attrs.frozen(kw_only=True)
class Tries:
    """How often a file was tried in vain.

    Attributes:
        starts_over: how often it began again from its first byte.
        renewals: renewals in a row that were followed by no byte.
        denials: refusals in a row that age does not explain.
    """

    starts_over: int = 0
    renewals: int = 0
    denials: int = 0

    def after_progress(self) -> Tries:
        """Return the counts after bytes arrived."""
        return attrs.evolve(self, renewals=0, denials=0)


@attrs.frozen
class Again:
    """Ask again after `delay` seconds."""

    delay: float


@attrs.frozen
class Renew:
    """Ask for a fresh link, then again."""


@attrs.frozen
class Begin:
    """Begin the file again, if `plain` without ranges."""

    plain: bool


@attrs.frozen
class GiveUpOn:
    """The tries are used up."""

    reason: str


@attrs.frozen
class Expired:
    """The file is gone."""

    reason: str


@attrs.frozen
class Fail:
    """There is nothing to be tried."""

    reason: str
    status: int | None = None
    code: str | None = None


Step: TypeAlias = Again | Renew | Begin | GiveUpOn | Expired | Fail
Failure: TypeAlias = StartOver | AskPlain | LinkDead | Gone | TryAgain | Refused


def next_step(
    meaning: Failure,
    tries: Tries,
    *,
    failures: int,
    attempts: int,
    left: float,
    random: Random,
) -> tuple[Step, Tries]:
    """Return what to do next, and the counts after it.

    Args:
        meaning: what became of the request.
        tries: the file's counts so far.
        failures: tries of this piece in a row that brought nothing, this one included.
        attempts: how many of them are allowed.
        left: seconds until the deadline.
        random: between 0 and 1, for the jitter.
    """
    match meaning:
        case TryAgain(reason, retry_after):
            delay = max(retry_delay(max(failures, 1), random), retry_after or 0.0)
            if failures >= attempts:
                return GiveUpOn(f"{reason} ({failures} tries without progress)"), tries
            left = min(left, _LONGEST_WAIT)
            if retry_after is not None and retry_after >= left:
                asked = f"the storage asks to wait {retry_after:.0f} s, of {left:.0f} s at most"

                return GiveUpOn(f"{reason}; {asked}"), tries
            return Again(min(delay, left)), tries
        case LinkDead():
            return _after_dead_link(meaning, tries)
        case StartOver(reason, plain):
            if tries.starts_over >= _START_OVERS:
                return Fail(f"{reason}; it began anew {_START_OVERS} times"), tries
            return Begin(plain), attrs.evolve(tries, starts_over=tries.starts_over + 1)
        case AskPlain():
            return Begin(plain=True), attrs.evolve(tries, starts_over=tries.starts_over + 1)
        case Gone(reason):
            return Expired(reason), tries
        case Refused():
            return Fail(meaning.reason, meaning.status, meaning.code), tries
        case _:
            assert_never(meaning)


def error_of(
    step: GiveUpOn | Expired | Fail,
    *,
    path: Path,
    url: str,
    export_id: str,
    export: ContactExport | None,
) -> ExportExpiredError | DownloadError:
    """Return the error that ends a file, known as `path`, for which there is nothing more to try.

    Args:
        step: the last one.
        path: the file's final path.
        url: where it comes from, without its query.
        export_id: the export.
        export: the export as last seen, or None.
    """
    match step:
        case Expired(reason):
            return ExportExpiredError(
                f"The file {path.name} of export {export_id} is deleted ({reason}). "
                "Start another export.",
                export_id=export_id,
                export=export,
            )
        case GiveUpOn(reason):
            return IncompleteDownloadError(
                f"{path.name} did not arrive: {reason.rstrip('.')}. Fetch again with the same id.",
                path=path,
                url=url,
            )
        case Fail(reason, status, code):
            return DownloadError(
                f"The storage does not give {path.name}: {reason.rstrip('.')}. Fetch again "
                "with the same id; if it stays so, start another export.",
                path=path,
                url=url,
                status=status,
                code=code,
            )
        case _:
            assert_never(step)


def _after_dead_link(dead: LinkDead, tries: Tries) -> tuple[Step, Tries]:
    if tries.renewals >= _RENEWALS:
        reason = f"{dead.reason}; {_RENEWALS} fresh links were refused too"
        return Fail(reason, dead.status, dead.code), tries
    if not dead.proven and tries.denials:
        reason = f"{dead.reason}; a fresh link was refused too"
        return Fail(reason, dead.status, dead.code), tries
    return Renew(), attrs.evolve(
        tries, renewals=tries.renewals + 1, denials=tries.denials + (not dead.proven)
    )
