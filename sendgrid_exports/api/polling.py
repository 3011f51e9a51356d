"""When to poll again, when it is done, when to give up. Pure: what was seen and `now` decide.

- A poll that failed in a transient way takes the next slot like any other, or a later one that
  the server asks for; `max_failures` of them in a row end the wait with the last error itself.
- What can't get better ends it at once. Two refusals may get better: 404 for an export that was
  started less than a minute ago, and one 401 after the key was accepted in the same wait.
- No delay reaches the deadline: the last one is cut so that one more poll fits before it.
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
    "is_transient",
    "may_have_started",
    "timed_out",
]

_TIME_FOR_A_POLL = 1.0


@attrs.frozen(kw_only=True)
class Polling:
    """One wait: its bounds, and what is known so far.

    Attributes:
        export_id: the export.
        policy: how often to poll.
        deadline: when to give up.
        new_until: the monotonic instant until which SendGrid may not know the export yet.
        known_ready: whether it was seen ready before, so that a 404 means it has expired.
        polls: polls made so far.
        failures: polls in a row that failed.
        refusals: how many of them were answered 401.
        failure: the error of the last poll, or None if it succeeded.
        export: the export as last seen, or None.
        last: whether the next poll is the last that fits before the deadline.
    """

    export_id: str
    policy: PollPolicy = attrs.field(factory=PollPolicy)
    deadline: Deadline = attrs.field(factory=Deadline)
    new_until: float = -math.inf
    known_ready: bool = False
    polls: int = 0
    failures: int = 0
    refusals: int = 0
    failure: SendGridExportsError | None = None
    export: ContactExport | None = None
    last: bool = False


@attrs.frozen
class Done:
    """The export is ready."""

    export: ContactExport


@attrs.frozen
class PollAgain:
    """Sleep `delay` seconds and poll again, in the state `polling`."""

    delay: float
    polling: Polling


@attrs.frozen
class GiveUp:
    """End the wait with `error`."""

    error: SendGridExportsError


Decision: TypeAlias = Done | PollAgain | GiveUp
Seen: TypeAlias = ContactExport | SendGridExportsError


def is_transient(error: SendGridExportsError) -> bool:
    """Return whether a request that failed like this may succeed if it is repeated."""
    if isinstance(error, APIError):
        return error.status in {408, 425, 429} or error.status >= 500
    if isinstance(error, TransportError):
        return error.transient
    return isinstance(error, InvalidResponseError)


def certainly_not_processed(error: SendGridExportsError) -> bool:
    """Return whether a start that failed like this can't have begun an export."""
    if isinstance(error, TransportError):
        return error.transient and not error.request_sent
    return isinstance(error, APIError) and error.status == 429


def may_have_started(error: SendGridExportsError) -> bool:
    """Return whether a start that failed like this may have begun an export all the same."""
    if isinstance(error, ExportTimeoutError) or (
        isinstance(error, APIError) and error.status < 300
    ):
        return True
    return is_transient(error) and not certainly_not_processed(error)


def decide(polling: Polling, seen: Seen, *, now: float, utc: datetime, random: Random) -> Decision:
    """Return what follows from a poll that saw `seen`; `now` is monotonic, `utc` the server's."""
    if isinstance(seen, SendGridExportsError):
        return _after_failure(polling, seen, now, random)
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
    return _poll_again(polling, None, now, random)


def _after_failure(
    polling: Polling, error: SendGridExportsError, now: float, random: Random
) -> Decision:
    again, refusals = is_transient(error), polling.refusals
    if isinstance(error, ExportNotFoundError):
        if polling.known_ready:
            return GiveUp(_expired(polling, "SendGrid does not know it any more"))
        again = now < polling.new_until
    elif isinstance(error, AuthenticationError):
        refusals += 1
        again = polling.export is not None and refusals == 1
    failures = polling.failures + 1
    if not again or failures >= polling.policy.max_failures:
        return GiveUp(error)
    polling = attrs.evolve(polling, failures=failures, refusals=refusals, failure=error)
    return _poll_again(
        polling, error.retry_after if isinstance(error, APIError) else None, now, random
    )


def _poll_again(polling: Polling, asked: float | None, now: float, random: Random) -> Decision:
    left = polling.deadline.left(now)
    if asked is not None and asked >= left:
        return GiveUp(
            timed_out(polling, f"SendGrid asks to wait {asked:.0f} s, and {left:.0f} s are left")
        )
    delay = max(poll_delay(polling.polls, polling.policy, random), asked or 0.0)
    polling = attrs.evolve(polling, polls=polling.polls + 1)
    if delay < left:
        return PollAgain(delay, polling)
    if polling.last or left <= 0:
        return GiveUp(timed_out(polling, "the timeout passed"))
    kept = min(_TIME_FOR_A_POLL, left / 10)
    return PollAgain(max(asked or 0.0, left - kept), attrs.evolve(polling, last=True))


def timed_out(polling: Polling, reason: str) -> ExportTimeoutError:
    """Return the error of a wait whose time is over, with the failure of the last poll, if any."""
    seen = redact_text(polling.export.status_text) if polling.export else "never seen"
    state = "was ready, but no fresh links came," if polling.known_ready else "is not ready"
    failed = (
        f" The last poll failed: {str(polling.failure).rstrip('.')}." if polling.failure else ""
    )
    return ExportTimeoutError(
        f"Export {polling.export_id} {state} and {reason}; its last status: {seen}.{failed} "
        "Wait or fetch again with the same id to resume.",
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
