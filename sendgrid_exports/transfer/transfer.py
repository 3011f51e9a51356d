"""One transfer of an export: by what means, until when, and for which listener.

Whatever ends a transfer because time ran out is translated here, and nowhere else.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import attrs

from sendgrid_exports.api.exports import Exports
from sendgrid_exports.api.polling import is_transient
from sendgrid_exports.delays import Random
from sendgrid_exports.disk import Disk
from sendgrid_exports.errors import (
    CorruptDownloadError,
    ExportExpiredError,
    ExportTimeoutError,
    SendGridExportsError,
)
from sendgrid_exports.events import CountMismatch, OnEvent
from sendgrid_exports.models import ContactExport
from sendgrid_exports.session import Session
from sendgrid_exports.settings import DownloadPolicy
from sendgrid_exports.timing import Clock, Deadline
from sendgrid_exports.transfer.connections import Connections


@attrs.frozen(kw_only=True)
class Means:
    """What all transfers of one client share.

    Attributes:
        exports: SendGrid's API, for statuses and fresh links.
        session: the way to the storage.
        connections: the queue for connections to the storage.
        disk: the threads that touch the disk.
        clock: the time.
        random: numbers from 0 to below 1, for jitter.
        policy: how to download.
        allow_http: whether links may be plain http, as those of a local server are.
    """

    exports: Exports
    session: Session
    connections: Connections
    disk: Disk
    clock: Clock
    random: Random
    policy: DownloadPolicy
    allow_http: bool


@attrs.define(eq=False, kw_only=True)
class Transfer:
    """One transfer.

    Attributes:
        means: what it works with.
        export_id: the export.
        timeout: when the caller's time is over.
        on_event: receives every event.
        expiry: when SendGrid deletes the files, by its own clock; never until that is known.
        export: the export as last seen, or None.
        kept: says what a failed transfer leaves behind, for messages.
        advice: what to do after a timeout.
    """

    means: Means
    export_id: str
    timeout: Deadline
    on_event: OnEvent
    expiry: Deadline = attrs.field(factory=Deadline)
    export: ContactExport | None = None
    kept: Callable[[], str] = attrs.field(default=lambda: "nothing was downloaded")
    advice: str = "fetch again with the same id and target"

    @property
    def deadline(self) -> Deadline:
        """When the transfer must be done."""
        return self.timeout.earlier(self.expiry)

    @property
    def seconds_left(self) -> float:
        """Seconds until the deadline, infinite where there is none."""
        return self.deadline.left(self.means.clock.monotonic())

    async def begin(self, export: ContactExport) -> ContactExport:
        """Learn when the files expire, and return the export as it is now.

        Links expire by SendGrid's clock. If no answer has shown it yet, the status is polled once.
        Where that fails the links may still work: half of the time is left to try them.

        Raises:
            SendGridExportsError: SendGrid refused.
        """
        exports, now = self.means.exports, self.means.clock.monotonic()
        if not exports.server_clock.known:
            left = self.timeout.left(now)
            half = Deadline.after(left / 2 if math.isfinite(left) else None, now)
            try:
                export = await exports.renew(
                    export.id, deadline=half, on_event=self.on_event, max_failures=1
                )
            except SendGridExportsError as error:
                if not is_transient(error) and not isinstance(error, ExportTimeoutError):
                    raise
        self.export = export
        if export.expires_at is not None and exports.server_clock.known:
            left = (export.expires_at - exports.server_clock.utc()).total_seconds()
            self.expiry = Deadline.after(left, self.means.clock.monotonic())
        return export

    @asynccontextmanager
    async def in_time(self) -> AsyncIterator[None]:
        """Bound a block by the deadline.

        Raises:
            ExportTimeoutError, ExportExpiredError: the deadline came first.
        """
        left = self.seconds_left
        try:
            async with self.means.clock.timeout(left if math.isfinite(left) else None):
                yield
        except TimeoutError as error:
            ended = self._out_of_time(error)
            if ended is None:
                raise
            raise ended from None

    def _out_of_time(self, error: TimeoutError) -> ExportTimeoutError | ExportExpiredError | None:
        """Return the error of ours for `error`; None if it is not about the deadline."""
        renewing = isinstance(error, ExportTimeoutError)
        now = self.means.clock.monotonic()
        if not renewing and not self.deadline.passed(now):
            # The listener's, or the disk's.
            return None
        if self.expiry.at <= self.timeout.at and self.export is not None:
            verb = "expired" if self.expiry.passed(now) else "expire"
            why = f" ({error})" if renewing else ""
            return ExportExpiredError(
                f"The files of export {self.export_id} {verb} at {self.export.expires_at}, before "
                f"all could arrive{why}; {self.kept()}. Start another export.",
                export_id=self.export_id,
                export=self.export,
            )
        if renewing:
            text = f"{error} Until now {self.kept()}."
        else:
            text = (
                f"The timeout passed before every file of export {self.export_id} had arrived; "
                f"{self.kept()}: {self.advice}."
            )
        return ExportTimeoutError(text, export_id=self.export_id, export=self.export)

    def check_count(self, counted: int | None) -> None:
        """Compare the counted contacts with SendGrid's count.

        Raises:
            CorruptDownloadError: they differ, and the policy requires that they do not.
        """
        expected = self.export.contact_count if self.export is not None else None
        if expected is None or expected == counted:
            return
        if counted is not None:
            self.on_event(
                CountMismatch(export_id=self.export_id, expected=expected, counted=counted)
            )
        if self.means.policy.require_count:
            seen = "they can't be counted" if counted is None else f"the files hold {counted}"
            raise CorruptDownloadError(
                f"SendGrid says that export {self.export_id} has {expected} contacts, and {seen}. "
                "Every file is complete; start another export, or do without require_count."
            )
