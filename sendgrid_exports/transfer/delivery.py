"""From a ready export to its result: what is there already, what is to be brought, in time."""

from __future__ import annotations

import math
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING

from sendgrid_exports.api.exports import Exports
from sendgrid_exports.api.polling import is_transient
from sendgrid_exports.delays import Random
from sendgrid_exports.disk import DISK_FULL, Disk
from sendgrid_exports.errors import (
    CorruptDownloadError,
    ExportExpiredError,
    ExportTimeoutError,
    InsufficientDiskSpaceError,
    SendGridExportsError,
)
from sendgrid_exports.events import CountMismatch, OnEvent
from sendgrid_exports.models import ContactExport, DownloadResult
from sendgrid_exports.session import Session
from sendgrid_exports.settings import DownloadPolicy
from sendgrid_exports.timing import Clock, Deadline
from sendgrid_exports.transfer.connections import Connections
from sendgrid_exports.transfer.download import Download
from sendgrid_exports.transfer.folder import Folder
from sendgrid_exports.transfer.job import Job
from sendgrid_exports.transfer.manifest import is_whole

if TYPE_CHECKING:
    from sendgrid_exports.transfer.straight import Straight

__all__ = ["Delivery"]


class Delivery:
    """How one client delivers exports: into folders, or as they come."""

    def __init__(
        self,
        *,
        exports: Exports,
        session: Session,
        clock: Clock,
        random: Random,
        policy: DownloadPolicy,
        allow_http: bool,
    ) -> None:
        self._exports = exports
        self._session = session
        self._clock = clock
        self._random = random
        self._policy = policy
        self._allow_http = allow_http
        self._connections = Connections(policy.connections)

    async def finished(
        self, export_id: str, folder: Folder, deadline: Deadline, on_event: OnEvent
    ) -> DownloadResult | None:
        """Return the result if everything is on disk already, without asking anybody.

        Raises:
            ExportTimeoutError: the deadline came while the files were read.
            CorruptDownloadError: their contacts are not as many as they have to be.
        """
        try:
            async with self._timeout(deadline):
                await folder.settle(self._policy)
                export = folder.manifest.export
                if export is None or not is_whole(folder.manifest):
                    return None
                if folder.manifest.state != "complete":
                    await folder.finish()
        except TimeoutError:
            if not self._passed(deadline):
                raise
            export = folder.manifest.export
            raise _out_of_time(export_id, export, "nothing was fetched") from None
        return self._conclude(folder, export, on_event)

    async def bring(
        self,
        export: ContactExport,
        folder: Folder,
        disk: Disk,
        deadline: Deadline,
        on_event: OnEvent,
    ) -> DownloadResult:
        """Bring every file that is not there yet, and return the result.

        Raises:
            ExportTimeoutError, ExportExpiredError: the deadline or the files' expiry came first.
            SendGridExportsError: a file can't be had.
            OSError: the disk failed.
        """
        if not self._exports.server_clock.known:
            export = await self._look_first(export, deadline, on_event)
        expiry = self._expiry(export)
        earlier = deadline.earlier(expiry)
        job = Job(
            export_id=export.id,
            folder=folder,
            exports=self._exports,
            session=self._session,
            connections=self._connections,
            disk=disk,
            clock=self._clock,
            random=self._random,
            policy=self._policy,
            on_event=on_event,
            deadline=earlier,
            allow_http=self._allow_http,
        )
        download = Download(job)
        try:
            async with self._timeout(earlier):
                await download.run(export)
                await folder.finish()
        except TimeoutError as error:
            if not isinstance(error, ExportTimeoutError) and not self._passed(earlier):
                # Somebody else's: the listener's, or the disk's.
                raise
            if expiry.at <= deadline.at:
                raise _expired(export, download.progress.kept) from None
            kept = download.progress.kept
            if isinstance(error, ExportTimeoutError):
                # It was for a renewal, and says itself what came instead of links.
                raise ExportTimeoutError(
                    f"{error} Until now {kept}.", export_id=export.id, export=export
                ) from None
            raise _out_of_time(export.id, export, kept) from None
        except InsufficientDiskSpaceError:
            raise
        except OSError as error:
            if error.errno not in DISK_FULL:
                raise
            raise InsufficientDiskSpaceError(
                f"{folder.names.directory} is full: {error}. Make room and fetch again with the "
                f"same id; {download.progress.kept}.",
                path=folder.names.directory,
            ) from error
        return self._conclude(folder, export, on_event)

    def _conclude(self, folder: Folder, export: ContactExport, on_event: OnEvent) -> DownloadResult:
        expected, counted = export.contact_count, folder.manifest.contacts
        if expected is not None and counted is not None and counted != expected:
            on_event(CountMismatch(export_id=export.id, expected=expected, counted=counted))
        if self._policy.require_count and expected not in {None, counted}:
            seen = "they can't be counted" if counted is None else f"the files hold {counted}"
            raise CorruptDownloadError(
                f"SendGrid says that export {export.id} has {expected} contacts, and {seen}. The "
                "files are there and whole; start another export, or do without require_count.",
                path=folder.names.manifest,
            )
        return folder.result(export)

    async def straight(
        self, export: ContactExport, deadline: Deadline, on_event: OnEvent
    ) -> Straight:
        """Return the files of an export for whoever takes them as they come.

        Raises:
            ExportTimeoutError, ExportExpiredError: the deadline is reached, or the files are gone.
            APIError, InvalidResponseError: SendGrid refused, or its links are none.
        """
        # Loaded here: who brings files to disk does without.
        from sendgrid_exports.transfer.straight import Straight

        if not self._exports.server_clock.known:
            export = await self._look_first(export, deadline, on_event)
        expiry = self._expiry(export)
        return Straight(
            export=export,
            exports=self._exports,
            session=self._session,
            clock=self._clock,
            random=self._random,
            policy=self._policy,
            on_event=on_event,
            deadline=deadline.earlier(expiry),
            expiry=expiry,
            allow_http=self._allow_http,
        )

    async def _look_first(
        self, export: ContactExport, deadline: Deadline, on_event: OnEvent
    ) -> ContactExport:
        """Ask once, since nothing was heard of the server's clock, by which links expire.

        Where SendGrid can't be reached, its links may still be alive: they are tried, for which
        half of the time is kept.
        """
        now = self._clock.monotonic()
        left = deadline.left(now)
        soon = Deadline.after(left / 2 if math.isfinite(left) else None, now)
        try:
            return await self._exports.renew(
                export.id, deadline=soon, on_event=on_event, max_failures=1
            )
        except SendGridExportsError as error:
            if not is_transient(error) and not isinstance(error, ExportTimeoutError):
                raise
            return export

    def _expiry(self, export: ContactExport) -> Deadline:
        if export.expires_at is None or not self._exports.server_clock.known:
            return Deadline()
        left = (export.expires_at - self._exports.server_clock.utc()).total_seconds()
        return Deadline.after(left, self._clock.monotonic())

    def _passed(self, deadline: Deadline) -> bool:
        return deadline.passed(self._clock.monotonic())

    def _timeout(self, deadline: Deadline) -> AbstractAsyncContextManager[object]:
        left = deadline.left(self._clock.monotonic())
        return self._clock.timeout(left if math.isfinite(left) else None)


def _expired(export: ContactExport, kept: str) -> ExportExpiredError:
    return ExportExpiredError(
        f"The files of export {export.id} expired at {export.expires_at} before all had arrived; "
        f"{kept}. Start another export.",
        export_id=export.id,
        export=export,
    )


def _out_of_time(export_id: str, export: ContactExport | None, kept: str) -> ExportTimeoutError:
    return ExportTimeoutError(
        f"The timeout passed before every file of export {export_id} was there; {kept}, and "
        "finished files stay: fetch again with the same id and directory.",
        export_id=export_id,
        export=export,
    )
