"""Bring Twilio SendGrid contact exports to disk: every file, whole, verified, in time.

    result = await fetch_export(export_id, "exports/", api_key=key)

`ExportClient` is the same for services; `sendgrid_exports.testing` has a server to test against.
"""

from sendgrid_exports.client import ExportClient, export_contacts, fetch_export
from sendgrid_exports.contents.arrow import read_arrow, write_parquet
from sendgrid_exports.contents.batches import read_contacts_async
from sendgrid_exports.contents.changes import (
    ChangeKind,
    ComparisonSummary,
    ContactChange,
    FieldChange,
)
from sendgrid_exports.contents.comparing import Comparison, compare_exports
from sendgrid_exports.contents.rows import read_contacts
from sendgrid_exports.contents.typed import parse_contact
from sendgrid_exports.errors import (
    APIError,
    AuthenticationError,
    CorruptDownloadError,
    DownloadError,
    DownloadInProgressError,
    ExportError,
    ExportExpiredError,
    ExportFailedError,
    ExportNotFoundError,
    ExportNotReadyError,
    ExportTimeoutError,
    IncompleteDownloadError,
    InsufficientDiskSpaceError,
    InvalidRequestError,
    InvalidResponseError,
    PermissionDeniedError,
    RateLimitedError,
    SendGridExportsError,
    ServerError,
    TransportError,
)
from sendgrid_exports.events import (
    BytesReceived,
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
from sendgrid_exports.models import (
    Contact,
    ContactExport,
    DownloadedFile,
    DownloadResult,
    ErrorDetail,
    ExportListing,
    ExportMetadata,
    ExportStatus,
    NamedId,
    VerificationReport,
)
from sendgrid_exports.settings import DownloadPolicy, PollPolicy, Verify
from sendgrid_exports.timing import Clock, SystemClock
from sendgrid_exports.transfer.audit import verify_download

__version__ = "0.1.0"

__all__ = [
    "APIError",
    "AuthenticationError",
    "BytesReceived",
    "ChangeKind",
    "Clock",
    "Comparison",
    "ComparisonSummary",
    "Contact",
    "ContactChange",
    "ContactExport",
    "CorruptDownloadError",
    "CountMismatch",
    "DownloadError",
    "DownloadInProgressError",
    "DownloadPolicy",
    "DownloadResult",
    "DownloadedFile",
    "ErrorDetail",
    "Event",
    "ExportClient",
    "ExportError",
    "ExportExpiredError",
    "ExportFailedError",
    "ExportListing",
    "ExportMetadata",
    "ExportNotFoundError",
    "ExportNotReadyError",
    "ExportStarted",
    "ExportStatus",
    "ExportTimeoutError",
    "FieldChange",
    "FileFinished",
    "FileStarted",
    "IncompleteDownloadError",
    "InsufficientDiskSpaceError",
    "InvalidRequestError",
    "InvalidResponseError",
    "LinkRenewed",
    "NamedId",
    "PermissionDeniedError",
    "PollPolicy",
    "RateLimitedError",
    "Retrying",
    "RunningLate",
    "SendGridExportsError",
    "ServerError",
    "StatusSeen",
    "SystemClock",
    "TransportError",
    "VerificationReport",
    "Verify",
    "compare_exports",
    "export_contacts",
    "fetch_export",
    "parse_contact",
    "read_arrow",
    "read_contacts",
    "read_contacts_async",
    "verify_download",
    "write_parquet",
]
