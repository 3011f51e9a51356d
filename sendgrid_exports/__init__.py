"""Download Twilio SendGrid contact exports: every file, complete and verified, before it expires.

    result = await fetch_export(export_id, "exports/", api_key=key)

- `export_contacts` and `fetch_export` do everything in one call; `ExportClient` does it step by
  step, for services. `PollPolicy` and `DownloadPolicy` are the settings.
- `export_accounts` exports many accounts at once, such as the subusers of an agency:
  `ExportClient.subusers` lists them, `for_subuser` and `for_key` make their clients.
- `on_event=` is a plain function that receives every `Event`; the logger `sendgrid_exports` of the
  standard library gets the same, except for received bytes.
- `find_exports` lists what is in a directory; `verify_download` checks a finished download again,
  from the disk alone.
- Wherever a directory goes, a bucket goes too: `s3://bucket/prefix`, `gs://`, `az://`, or a
  `Bucket` around a store of obstore's (the extra `cloud`).
- `read_contacts`, `read_contacts_async`, `read_arrow` and `write_parquet` read the files;
  `parse_contact` makes a `Contact` of a row; `compare_exports` finds what changed.
- Every failure is a `SendGridExportsError`, whose documentation says what is retried first.
- `sendgrid_exports.testing` has a server to test against, and
  `sendgrid_exports.integrations.opentelemetry` makes spans and metrics of the events.

Files in the directory are named by this library, never by the server, so a glob such as
`*.csv.gz` can feed other programs:

| file | |
|---|---|
| `<id>-00001.csv.gz` | complete and verified; `.csv`, `.json.gz` or `.json` where it is that |
| `<id>.manifest.json` | what is there: sizes, SHA-256, ETags, contacts, the checks that passed |
| `<id>-00001.part`, `<id>.journal`, `<id>.lock` | unfinished: the next call resumes from them |

Durations are seconds or a `datetime.timedelta`, sizes bytes.
"""

import importlib
from typing import TYPE_CHECKING

from sendgrid_exports.bucket import Bucket
from sendgrid_exports.contents.arrow import read_arrow, write_parquet
from sendgrid_exports.contents.compare import Comparison, compare_exports
from sendgrid_exports.contents.contacts import (
    parse_contact,
    read_contacts,
    read_contacts_async,
)
from sendgrid_exports.contents.find import find_exports
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
    AccountResult,
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
    ExportRequest,
    ExportStatus,
    FieldChange,
    FoundExport,
    NamedId,
    Subuser,
    VerificationReport,
)
from sendgrid_exports.settings import DownloadPolicy, PollPolicy, Verify
from sendgrid_exports.timing import Clock, SystemClock
from sendgrid_exports.transfer.audit import verify_download
from sendgrid_exports.version import __version__ as __version__

if TYPE_CHECKING:
    from sendgrid_exports.accounts import export_accounts
    from sendgrid_exports.client import ExportClient, export_contacts, fetch_export


__all__ = [
    "APIError",
    "AccountResult",
    "AuthenticationError",
    "Bucket",
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
    "ExportRequest",
    "ExportStarted",
    "ExportStatus",
    "ExportTimeoutError",
    "FieldChange",
    "FileFinished",
    "FileStarted",
    "FoundExport",
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
    "Subuser",
    "SystemClock",
    "TransportError",
    "VerificationReport",
    "Verify",
    "compare_exports",
    "export_accounts",
    "export_contacts",
    "fetch_export",
    "find_exports",
    "parse_contact",
    "read_arrow",
    "read_contacts",
    "read_contacts_async",
    "verify_download",
    "write_parquet",
]


def __getattr__(name: str) -> object:
    # Only the client needs aiohttp: reading files must not wait for it to load.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = "accounts" if name == "export_accounts" else "client"
    value: object = getattr(importlib.import_module(f"sendgrid_exports.{module}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
