"""When to look again, when it is done, when to give up. Pure: what was seen and `now` decide.

- A look that failed in passing takes the next slot like any other, or the server's own later
  one; `max_failures` of them in a row end the waiting with the last error itself.
- What cannot get better ends it at once. Two errors only may: 404 for an export that was started
  less than a minute ago, and one 401 after the key was accepted in the same wait.
- No wait reaches the deadline: the last one is cut so that one more look fits before it.
"""

from __future__ import annotations

import math
from datetime import datetime
from typing import TypeAlias

import attrs

from sendgrid_exports.delays import Random, poll_delay
from sendgrid_exports.errors import (
    APIError,
    AuthenticationError,
    ExportExpiredError,
    ExportFailedError,
    ExportNotFoundError,
    ExportTimeoutError,
    InvalidResponseError,
    SendGridExportsError,
    TransportError,
)
from sendgrid_exports.models import ContactExport, ExportStatus
from sendgrid_exports.redaction import redact_text
from sendgrid_exports.settings import PollPolicy
from sendgrid_exports.timing import Deadline

__all__ = [
    "Decision",
    "Done",
    "GiveUp",
    "PollAgain",
    "Polling",
    "certainly_not_processed",
    "decide",
    "may_have_started",
    "passes",
    "timed_out",
]

_TIME_FOR_A_LOOK = 1.0


@attrs.frozen(kw_only=True)
class Polling:
    """What is known of one wait.

    Attributes:
        export_id: the export.
        known_ready: whether it was seen ready before, so that a 404 means it is gone.
        looks: looks made so far.
        failures: looks in a row that failed in passing.
        refusals: how many of them were answered 401.
        failure: the error of the last look, or None if it succeeded.
        export: the export as last seen, or None.
        last: whether the next look is the last that fits before the deadline.
        new_until: the monotonic instant until which SendGrid may not know the export yet.
    """

    export_id: str
    known_ready: bool = False
    looks: int = 0
    failures: int = 0
    refusals: int = 0
    failure: SendGridExportsError | None = None
    export: ContactExport | None = None
    last: bool = False
    new_until: float = -math.inf


@attrs.frozen
class Done:
    """The export is ready."""

    export: ContactExport


@attrs.frozen
class PollAgain:
    """Sleep `delay` seconds and look again, in the state `polling`."""

    delay: float
    polling: Polling


@attrs.frozen
class GiveUp:
    """End the waiting with `error`."""

    error: SendGridExportsError


Decision: TypeAlias = Done | PollAgain | GiveUp
Seen: TypeAlias = ContactExport | SendGridExportsError


def passes(error: SendGridExportsError) -> bool:
    """Whether a failed look may succeed if only repeated."""
    if isinstance(error, APIError):
        return error.status in {408, 425, 429} or error.status >= 500
    if isinstance(error, TransportError):
        return error.transient
    return isinstance(error, InvalidResponseError)


def may_have_started(error: SendGridExportsError) -> bool:
    """Whether a start that failed like this may have begun an export all the same."""
    if isinstance(error, APIError) and error.status < 300:
        return True
    return passes(error) and not certainly_not_processed(error)


def certainly_not_processed(error: SendGridExportsError) -> bool:
    """Whether a start that failed like this cannot have begun an export."""
    if isinstance(error, TransportError):
        return error.transient and not error.request_sent
    return isinstance(error, APIError) and error.status == 429


def decide(
    polling: Polling,
    seen: Seen,
    *,
    policy: PollPolicy,
    deadline: Deadline,
    now: float,
    utc: datetime,
    random: Random,
) -> Decision:
    """Return what follows from a look that saw `seen`; `now` is monotonic, `utc` the server's."""
    if isinstance(seen, SendGridExportsError):
        return _after_failure(polling, seen, policy, deadline, now, random)
    ready = seen.status is ExportStatus.READY
    polling = attrs.evolve(
        polling,
        export=seen,
        failures=0,
        refusals=0,
        failure=None,
        known_ready=polling.known_ready or ready,
    )
    if seen.status is ExportStatus.FAILURE:
        return GiveUp(_failed(polling.export_id, seen))
    if ready:
        if seen.urls or seen.contact_count == 0:
            return Done(seen)
        if seen.expires_at is not None and seen.expires_at <= utc:
            return GiveUp(_expired(polling, "SendGrid lists no files for it any more"))
    return _look_again(polling, None, policy, deadline, now, random)


def _after_failure(
    polling: Polling,
    error: SendGridExportsError,
    policy: PollPolicy,
    deadline: Deadline,
    now: float,
    random: Random,
) -> Decision:
    if isinstance(error, ExportNotFoundError) and polling.known_ready:
        return GiveUp(_expired(polling, "SendGrid does not know it any more"))
    again = passes(error)
    refusals = polling.refusals
    if isinstance(error, ExportNotFoundError):
        again = now < polling.new_until
    elif isinstance(error, AuthenticationError):
        refusals += 1
        again = polling.export is not None and refusals == 1
    polling = attrs.evolve(polling, failures=polling.failures + 1, refusals=refusals, failure=error)
    if not again or polling.failures >= policy.max_failures:
        return GiveUp(error)
    return _look_again(polling, error, policy, deadline, now, random)


def _look_again(
    polling: Polling,
    error: SendGridExportsError | None,
    policy: PollPolicy,
    deadline: Deadline,
    now: float,
    random: Random,
) -> Decision:
    delay = poll_delay(polling.looks, policy, random)
    asked = error.retry_after if isinstance(error, APIError) else None
    left = deadline.left(now)
    if asked is not None and asked >= left:
        return GiveUp(
            timed_out(polling, f"SendGrid asks to wait {asked:.0f} s, and {left:.0f} s are left")
        )
    delay = max(delay, asked or 0.0)
    polling = attrs.evolve(polling, looks=polling.looks + 1)
    if delay < left:
        return PollAgain(delay, polling)
    if polling.last or left <= 0:
        return GiveUp(timed_out(polling, "the timeout is over"))
    kept = min(_TIME_FOR_A_LOOK, left / 10)
    return PollAgain(max(asked or 0.0, left - kept), attrs.evolve(polling, last=True))


def timed_out(polling: Polling, reason: str) -> ExportTimeoutError:
    """Return the error of a wait that ends undone."""
    seen = redact_text(polling.export.status_text) if polling.export else "never seen"
    state = "was ready, no fresh links came" if polling.known_ready else "is not ready"
    failed = f"The last poll failed: {polling.failure}" if polling.failure else ""
    return ExportTimeoutError(
        f"Export {polling.export_id} {state} and {reason}; its last status: {seen}. "
        f"{failed and failed.rstrip('.') + '. '}"
        f"It goes on at SendGrid: wait or fetch again with the same id.",
        export_id=polling.export_id,
        export=polling.export,
    )


def _failed(export_id: str, export: ContactExport) -> ExportFailedError:
    reason = redact_text(export.message or "no reason given").rstrip(".")
    return ExportFailedError(
        f"SendGrid could not make export {export_id}: {reason}. Start another one.",
        export_id=export_id,
        export=export,
    )


def _expired(polling: Polling, seen: str) -> ExportExpiredError:
    return ExportExpiredError(
        f"Export {polling.export_id} was ready and has expired: {seen}. Start another one.",
        export_id=polling.export_id,
        export=polling.export,
    )
