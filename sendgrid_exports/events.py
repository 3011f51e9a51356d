"""What `on_event` is told: one small frozen object for everything that happens.

Progress bars, logs, metrics and traces are all built on this one stream. No event carries a
key or a link's query.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import attrs

from sendgrid_exports.models import ContactExport, DownloadedFile

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
    "StatusSeen",
]


def _without_credentials(export: ContactExport) -> ContactExport:
    return export.without_credentials()


@attrs.frozen(kw_only=True)
class ExportStarted:
    """SendGrid accepted the job: from here on the id is all that must be kept."""

    export_id: str


@attrs.frozen(kw_only=True)
class StatusSeen:
    """A look at the status succeeded.

    Attributes:
        export_id: the export.
        export: what was seen, its links without their query.
        next_look: seconds until the next look, or None if this was the last.
    """

    export_id: str
    export: ContactExport = attrs.field(converter=_without_credentials)
    next_look: float | None


@attrs.frozen(kw_only=True)
class FileStarted:
    """The first byte of a file is about to arrive.

    Attributes:
        export_id: the export.
        path: the file's final path; nothing is there yet.
        size: bytes to come in all, or None where the storage does not say.
        received: bytes of it that an earlier run left on disk.
    """

    export_id: str
    path: Path
    size: int | None
    received: int = 0


@attrs.frozen(kw_only=True)
class BytesReceived:
    """Some of a file arrived; told at most ten times a second and file, so not of its last byte.

    Attributes:
        export_id: the export.
        path: the file's final path.
        received: bytes so far.
        size: bytes to come in all, or None.
    """

    export_id: str
    path: Path
    received: int
    size: int | None


@attrs.frozen(kw_only=True)
class LinkRenewed:
    """Links had died or were about to; a fresh status brought new ones.

    Attributes:
        export_id: the export.
        links: how many links were renewed.
    """

    export_id: str
    links: int


@attrs.frozen(kw_only=True)
class Retrying:
    """Something failed in passing and is tried again.

    Attributes:
        export_id: the export, or None while it has no id yet.
        path: the file it is about, or None for the API.
        reason: what was seen.
        delay: seconds until the next try.
    """

    export_id: str | None
    path: Path | None
    reason: str
    delay: float


@attrs.frozen(kw_only=True)
class RunningLate:
    """At the rate so far, the download will not be done before its deadline; it goes on.

    Attributes:
        export_id: the export.
        needed: seconds that the rest takes at the rate so far.
        left: seconds until the files expire, or the caller's timeout passes.
    """

    export_id: str
    needed: float
    left: float


@attrs.frozen(kw_only=True)
class FileFinished:
    """A file is complete, verified, and under its final name."""

    export_id: str
    file: DownloadedFile


@attrs.frozen(kw_only=True)
class CountMismatch:
    """The files do not hold as many contacts as SendGrid says it exported.

    Attributes:
        export_id: the export.
        expected: SendGrid's `contact_count`.
        counted: the records in the files.
    """

    export_id: str
    expected: int
    counted: int


Event: TypeAlias = (
    ExportStarted
    | StatusSeen
    | FileStarted
    | BytesReceived
    | LinkRenewed
    | Retrying
    | RunningLate
    | FileFinished
    | CountMismatch
)

OnEvent: TypeAlias = Callable[[Event], None]
