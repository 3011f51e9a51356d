"""Bring Twilio SendGrid contact exports to disk: every file, whole, verified, in time.

    result = await fetch_export(export_id, "exports/", api_key=key)

- `export_contacts` and `fetch_export` do everything in one call; `ExportClient` does it step by
  step, for services. `PollPolicy` and `DownloadPolicy` are the settings.
- `on_event=` is a plain function that is told of every `Event`; the standard library's logging
  hears the same under `sendgrid_exports`, but for the bytes.
- `verify_download` proves a finished download again, from the disk alone.
- `read_contacts`, `read_contacts_async`, `read_arrow` and `write_parquet` read what came;
  `parse_contact` makes a `Contact` of a row; `compare_exports` tells what changed.
- Every failure is a `SendGridExportsError`, where it is also said what is tried again first.
- `sendgrid_exports.testing` has a server to test against, and
  `sendgrid_exports.integrations.opentelemetry` makes spans and metrics of the events.

What lies in the directory is named here, never by the server, so a glob such as `*.csv.gz` feeds
other programs:

| file | |
|---|---|
| `<id>-00001.csv.gz` | complete and verified; `.csv`, `.json.gz` or `.json` where it is that |
| `<id>.manifest.json` | what is there: sizes, SHA-256, ETags, contacts, the checks that passed |
| `<id>-00001.part`, `<id>.journal`, `<id>.lock` | unfinished: the next call goes on from them |

Durations are seconds or a `datetime.timedelta`, sizes bytes.
"""

from importlib import import_module
from typing import TYPE_CHECKING

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
    StatusPolled,
)
from sendgrid_exports.models import (
    ChangeKind,
    ComparisonSummary,
    Contact,
    ContactChange,
    ContactExport,
    DownloadedFile,
    DownloadResult,
    ErrorDetail,
    ExportListing,
    ExportMetadata,
    ExportStatus,
    FieldChange,
    NamedId,
    VerificationReport,
)
from sendgrid_exports.settings import DownloadPolicy, PollPolicy, Verify
from sendgrid_exports.timing import Clock, SystemClock

if TYPE_CHECKING:
    from sendgrid_exports.client import ExportClient, export_contacts, fetch_export
    from sendgrid_exports.contents.arrow import read_arrow, write_parquet
    from sendgrid_exports.contents.compare import Comparison, compare_exports
    from sendgrid_exports.contents.contacts import (
        parse_contact,
        read_contacts,
        read_contacts_async,
    )
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
    "StatusPolled",
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

# Loaded when first asked for: who reads what lies on disk needs no network, and the other way.
_LATER = {
    "Comparison": "contents.compare",
    "ExportClient": "client",
    "compare_exports": "contents.compare",
    "export_contacts": "client",
    "fetch_export": "client",
    "parse_contact": "contents.contacts",
    "read_arrow": "contents.arrow",
    "read_contacts": "contents.contacts",
    "read_contacts_async": "contents.contacts",
    "verify_download": "transfer.audit",
    "write_parquet": "contents.arrow",
}


def __getattr__(name: str) -> object:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(f"{__name__}.{_LATER[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
