"""What is logged of the events: a sentence for people, the event's fields for machines.

Every record is one of the logger `sendgrid_exports` or below it, and has as extras `event`, the
name of the event, and the fields of it. There is no handler here and no level is set: that is
the program's affair.
"""

from __future__ import annotations

import logging
from typing import Any

from sendgrid_exports.events import (
    CountMismatch,
    Event,
    ExportStarted,
    FileFinished,
    FileStarted,
    LinkRenewed,
    Retrying,
    RunningLate,
    StatusSeen,
)
from sendgrid_exports.models import ExportStatus
from sendgrid_exports.redaction import redact_text

__all__ = ["log"]

logger = logging.getLogger("sendgrid_exports")


def log(event: Event) -> None:
    """Log an event: debug for looks and starts, warning for what may need somebody, else info.

    Bytes that arrive are not logged.
    """
    fields: dict[str, Any] = {}
    level = logging.INFO
    match event:
        case ExportStarted(export_id=export_id):
            message = f"Export {export_id} has started."
        case StatusSeen(export_id=export_id, export=export, next_look=next_look):
            status = redact_text(export.status_text or export.status.value)
            files, contacts = len(export.urls), export.contact_count
            fields = {"status": status, "files": files, "contacts": contacts}
            fields["next_look"] = next_look
            level = logging.INFO if export.status is ExportStatus.READY else logging.DEBUG
            message = f"Export {export_id} is {status}."
        case FileStarted(path=path, size=size, received=received):
            fields = {"path": str(path), "size": size, "received": received}
            level = logging.DEBUG
            message = f"{path.name} begins to arrive."
        case FileFinished(file=file):
            fields = {"path": str(file.path), "size": file.size, "verified_by": file.verified_by}
            message = f"{file.path.name} is there and verified."
        case LinkRenewed(links=links):
            fields = {"links": links}
            message = f"{links} links were renewed."
        case Retrying(path=path, reason=reason, delay=delay):
            fields = {"path": path and str(path), "reason": reason, "delay": delay}
            message = f"Trying again in {delay:.1f} s: {reason}"
        case RunningLate(export_id=export_id, needed=needed, left=left):
            fields = {"needed": needed, "left": left}
            level = logging.WARNING
            message = (
                f"Export {export_id} needs {needed:.0f} s more at this rate, "
                f"and {left:.0f} s are left."
            )
        case CountMismatch(export_id=export_id, expected=expected, counted=counted):
            fields = {"expected": expected, "counted": counted}
            level = logging.WARNING
            message = (
                f"Export {export_id} has {expected} contacts by SendGrid's count, "
                f"and {counted} in its files."
            )
        case _:
            return
    extra = {"event": type(event).__name__, "export_id": event.export_id, **fields}
    logger.log(level, "%s", message, extra=extra)
