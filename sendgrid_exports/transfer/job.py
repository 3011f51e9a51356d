"""What every part of one download works with."""

from __future__ import annotations

import attrs

from sendgrid_exports.api.exports import Exports
from sendgrid_exports.delays import Random
from sendgrid_exports.disk import Disk
from sendgrid_exports.events import OnEvent
from sendgrid_exports.session import Session
from sendgrid_exports.settings import DownloadPolicy
from sendgrid_exports.timing import Clock, Deadline
from sendgrid_exports.transfer.connections import Connections
from sendgrid_exports.transfer.folder import Folder

__all__ = ["Job"]


@attrs.frozen(kw_only=True)
class Job:
    """One download: what is brought, where to, by what means, and until when.

    Attributes:
        export_id: the export.
        folder: where it goes.
        exports: SendGrid, for fresh links.
        session: the way to the storage.
        connections: how much of it may be used at once, by all downloads of the client.
        disk: the threads for the disk.
        clock: the time.
        random: numbers from 0 to below 1, for jitter.
        policy: how to download.
        on_event: who is told.
        deadline: when it has to be done.
        allow_http: whether links may be plain http, as those of a local server are.
    """

    export_id: str
    folder: Folder
    exports: Exports
    session: Session
    connections: Connections
    disk: Disk
    clock: Clock
    random: Random
    policy: DownloadPolicy
    on_event: OnEvent
    deadline: Deadline
    allow_http: bool
