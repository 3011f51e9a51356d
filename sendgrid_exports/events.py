"""What `on_event` receives: one small frozen object for everything that happens.

Progress bars, logs, metrics and traces are all built on this one stream. `str(event)` is one line
for people, and begins with the account where a client acts for one of several. No event carries
a key or a link's query.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import attrs

from sendgrid_exports.models import ContactExport, DownloadedFile, ExportStatus
from sendgrid_exports.redaction import redact_text

__all__ = [
    "BytesReceived",
    "CountMismatch",
    "Event",
    "ExportStarted",
    "FileFinished",
    "FileStarted",
    "LinkRenewed",
    "OnEvent",
    "Retrying",
    "RunningLate",
    "StatusPolled",
    "log",
]

logger = logging.getLogger("sendgrid_exports")


def _name(number: int, path: Path | None) -> str:
    return f"file {number}" if path is None else path.name


def _without_credentials(export: ContactExport) -> ContactExport:
    return export.without_credentials()


@attrs.frozen(kw_only=True)
class AccountEvent:
    """The base of every event.

    Attributes:
        account: the account it is about, where a client acts for one of several; else None.
    """

    account: str | None = None

    def __str__(self) -> str:
        line = self._line()
        return line if self.account is None else f"{self.account}: {line}"

    def _line(self) -> str:
        raise NotImplementedError


@attrs.frozen(kw_only=True)
class ExportStarted(AccountEvent):
    """SendGrid accepted the job: from here on the id is all that must be kept."""

    export_id: str

    def _line(self) -> str:
        return f"Export {self.export_id} started."


@attrs.frozen(kw_only=True)
class StatusPolled(AccountEvent):
    """A poll of the status succeeded.

    Attributes:
        export_id: the export.
        export: what SendGrid answered, its links without their query.
        next_poll: seconds until the next poll, or None if this was the last.
    """

    export_id: str
    export: ContactExport = attrs.field(converter=_without_credentials)
    next_poll: float | None

    def _line(self) -> str:
        status = redact_text(self.export.status_text or self.export.status.value)
        return f"Export {self.export_id} is {status}."


@attrs.frozen(kw_only=True)
class FileStarted(AccountEvent):
    """The first byte of a file is about to arrive.

    Attributes:
        export_id: the export.
        number: the file's place among the files of the export, from 1.
        path: the file's final path, or None in a bucket; nothing is there yet. Its suffix may
            change once the content is known, its number does not.
        size: bytes to come in all, or None where the storage does not say.
        received: bytes of it that an earlier run left on disk.
    """

    export_id: str
    number: int
    path: Path | None
    size: int | None
    received: int = 0

    def _line(self) -> str:
        size = "of unknown size" if self.size is None else f"of {self.size:,} bytes"
        return f"Downloading {_name(self.number, self.path)} {size}."


@attrs.frozen(kw_only=True)
class BytesReceived(AccountEvent):
    """Part of a file arrived; at most ten of these a second and file, so none for its last byte.

    Attributes:
        export_id: the export.
        number: the file's place among the files of the export, from 1.
        path: the file's final path, or None in a bucket.
        received: bytes so far.
        size: bytes to come in all, or None.
    """

    export_id: str
    number: int
    path: Path | None
    received: int
    size: int | None

    def _line(self) -> str:
        of = "" if self.size is None else f" of {self.size:,}"
        return f"Received {self.received:,}{of} bytes of {_name(self.number, self.path)}."


@attrs.frozen(kw_only=True)
class LinkRenewed(AccountEvent):
    """Links had died or were about to; a fresh status replaced them.

    Attributes:
        export_id: the export.
        links: how many links were renewed.
    """

    export_id: str
    links: int

    def _line(self) -> str:
        return f"Renewed {self.links} {'link' if self.links == 1 else 'links'}."


@attrs.frozen(kw_only=True)
class Retrying(AccountEvent):
    """A request failed in a transient way and is sent again.

    Attributes:
        export_id: the export, or None while it has no id yet.
        number: the file it is about, from 1, or None for the API.
        path: that file's final path; None for the API, and in a bucket.
        reason: what was seen.
        delay: seconds until the next attempt.
    """

    export_id: str | None
    number: int | None = None
    path: Path | None = None
    reason: str
    delay: float

    def _line(self) -> str:
        what = "" if self.number is None else f" {_name(self.number, self.path)}"
        when = f"in {self.delay:.1f} s" if self.delay else "now"
        return f"Retrying{what} {when}: {self.reason}"


@attrs.frozen(kw_only=True)
class RunningLate(AccountEvent):
    """At the rate so far, the download will not finish before its deadline; it continues.

    Attributes:
        export_id: the export.
        seconds_needed: what the rest takes at the rate so far.
        seconds_left: until the files expire, or the caller's timeout passes.
    """

    export_id: str
    seconds_needed: float
    seconds_left: float

    def _line(self) -> str:
        return (
            f"Export {self.export_id} needs {self.seconds_needed:.0f} s more at this rate, "
            f"and {self.seconds_left:.0f} s are left."
        )


@attrs.frozen(kw_only=True)
class FileFinished(AccountEvent):
    """A file is complete, verified, and under its final name."""

    export_id: str
    file: DownloadedFile

    @property
    def number(self) -> int:
        """The file's place among the files of the export, from 1."""
        return self.file.number

    def _line(self) -> str:
        return f"Downloaded and verified {self.file.name}."


@attrs.frozen(kw_only=True)
class CountMismatch(AccountEvent):
    """The files do not hold as many contacts as SendGrid says it exported.

    Attributes:
        export_id: the export.
        expected: SendGrid's `contact_count`.
        counted: the records in the files.
    """

    export_id: str
    expected: int
    counted: int

    def _line(self) -> str:
        return (
            f"SendGrid says that export {self.export_id} has {self.expected:,} contacts; "
            f"its files hold {self.counted:,}."
        )


Event: TypeAlias = (
    ExportStarted
    | StatusPolled
    | FileStarted
    | BytesReceived
    | LinkRenewed
    | Retrying
    | RunningLate
    | FileFinished
    | CountMismatch
)

OnEvent: TypeAlias = Callable[[Event], None]


def log(event: Event) -> None:
    """Log an event to `sendgrid_exports`: its line as the message, its fields as extras.

    The extra `event` is the name of its class. Polls and file starts are logged at debug, what
    may need a person at warning, received bytes not at all, and everything else at info.
    """
    level = logging.INFO
    fields: dict[str, Any]
    match event:
        case BytesReceived():
            return
        case StatusPolled(export=export, next_poll=next_poll):
            if export.status is not ExportStatus.READY:
                level = logging.DEBUG
            fields = {
                "status": redact_text(export.status_text or export.status.value),
                "files": len(export.urls),
                "contacts": export.contact_count,
                "next_poll": next_poll,
            }
        case FileFinished(file=file):
            fields = {
                "number": file.number,
                "path": None if file.path is None else str(file.path),
                "url": file.url,
                "size": file.size,
                "verified_by": file.verified_by,
            }
        case _:
            fields = attrs.asdict(event)
            del fields["account"]
            if fields.get("path") is not None:
                fields["path"] = str(fields["path"])
            if isinstance(event, FileStarted):
                level = logging.DEBUG
            elif isinstance(event, RunningLate | CountMismatch):
                level = logging.WARNING
    extra = {"event": type(event).__name__, "export_id": event.export_id, **fields}
    if event.account is not None:
        extra["account"] = event.account
    logger.log(level, "%s", event, extra=extra)
