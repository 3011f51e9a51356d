"""The things the library speaks of: exports, listings, the files that came of them, contacts.

Field for field as SendGrid documents them, with times as aware datetimes:
https://www.twilio.com/docs/sendgrid/api-reference/contacts/export-contacts-status
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import attrs

from sendgrid_exports.redaction import redact_text, redact_url

if TYPE_CHECKING:
    from sendgrid_exports.bucket import Bucket

    # As typeshed writes it where only those who pass a bucket get anything but a path.
    PathOrNone: TypeAlias = Path | Any
    PathOrUrl: TypeAlias = Path | Any
else:
    PathOrNone = Path | None
    PathOrUrl = Path | str

__all__ = [
    "AccountResult",
    "ChangeKind",
    "ComparisonSummary",
    "Contact",
    "ContactChange",
    "ContactExport",
    "DownloadResult",
    "DownloadedFile",
    "ErrorDetail",
    "ExportListing",
    "ExportMetadata",
    "ExportRequest",
    "ExportStatus",
    "FieldChange",
    "FoundExport",
    "NamedId",
    "Subuser",
    "VerificationReport",
]


def _without_queries(urls: tuple[str, ...]) -> str:
    return repr(tuple(redact_url(url) for url in urls))


def _quoted(text: str | None) -> str:
    return repr(text and redact_text(text))


class ExportStatus(enum.Enum):
    """Where an export stands."""

    PENDING = "pending"
    READY = "ready"
    FAILURE = "failure"


@attrs.frozen(kw_only=True)
class ErrorDetail:
    """One entry of `errors` in an error body.

    Attributes:
        message: what SendGrid says.
        field: the request field it is about, or None.
        parameter: the parameter it is about, or None.
        error_id: SendGrid's id of the error, or None.
        help: a text or link to help, or None.
    """

    message: str
    field: str | None = None
    parameter: str | None = None
    error_id: str | None = None
    help: str | None = None


@attrs.frozen(kw_only=True)
class ExportMetadata:
    """Paging of a result: urls of the API, and the number of items over all pages.

    Attributes:
        prev: the page before, or None.
        self_: this page, `self` on the wire, or None.
        next: the page after, or None.
        count: the items over all pages, or None.
    """

    prev: str | None = None
    self_: str | None = None
    next: str | None = None
    count: int | None = None


@attrs.frozen(kw_only=True)
class ContactExport:
    """An export job as the status endpoint describes it.

    Attributes:
        id: the export's id, opaque.
        status: where it stands; an unknown status counts as pending.
        status_text: the status in SendGrid's own word.
        created_at: when it was begun, or None where SendGrid does not say.
        updated_at: when it last changed, or None.
        completed_at: when it was done, or None.
        expires_at: when SendGrid deletes the files, or None.
        urls: the download links, each a credential for some minutes; hidden in the repr.
        message: why it failed, or None.
        contact_count: how many contacts were exported, or None.
        metadata: paging, or None.
    """

    id: str
    status: ExportStatus
    status_text: str = attrs.field(default="", repr=_quoted)
    created_at: datetime | None = None
    updated_at: datetime | None = None
    completed_at: datetime | None = None
    expires_at: datetime | None = None
    urls: tuple[str, ...] = attrs.field(default=(), repr=_without_queries)
    message: str | None = attrs.field(default=None, repr=_quoted)
    contact_count: int | None = None
    metadata: ExportMetadata | None = None

    def without_credentials(self) -> ContactExport:
        """Return the export as it may be kept and sent around: its links without their query."""
        urls = tuple(redact_url(url).partition("?")[0] for url in self.urls)
        return self if urls == self.urls else attrs.evolve(self, urls=urls)


@attrs.frozen(kw_only=True)
class NamedId:
    """A list or a segment that an export was made of."""

    id: str
    name: str | None = None


@attrs.frozen(kw_only=True)
class ExportListing:
    """An export as the list of all exports tells it; it lacks `contact_count` and `message`.

    Attributes:
        id: the export's id.
        status: where it stands.
        status_text: the status in SendGrid's own word.
        created_at: when it was begun, or None.
        completed_at: when it was done, or None.
        expires_at: when SendGrid deletes the files, or None.
        urls: the download links, hidden in the repr.
        user_id: whose account, or None.
        export_type: `contacts_export`, `list_export` or `segment_export`, or None.
        segments: the segments it was made of.
        lists: the lists it was made of.
    """

    id: str
    status: ExportStatus
    status_text: str = attrs.field(default="", repr=_quoted)
    created_at: datetime | None = None
    completed_at: datetime | None = None
    expires_at: datetime | None = None
    urls: tuple[str, ...] = attrs.field(default=(), repr=_without_queries)
    user_id: str | None = None
    export_type: str | None = None
    segments: tuple[NamedId, ...] = ()
    lists: tuple[NamedId, ...] = ()


@attrs.frozen(kw_only=True)
class DownloadedFile:
    """A file under its final name: complete and verified.

    Attributes:
        number: its place among the files of the export, from 1.
        url: where it is: a `file://` url, or that of an object in a bucket; of a stream, where it
            came from, without query.
        path: where it is on disk; None in a bucket.
        size: its size on disk, in bytes.
        sha256: of the file on disk, in hex; None under `Verify.LENGTH`.
        etag: the storage's entity tag of what was sent, without quotes, or None.
        compressed: whether the file on disk is gzip.
        verified_by: the checks that really passed, out of `length`, `etag-md5`,
            `x-amz-checksum-crc32`, `x-amz-checksum-sha1`, `x-amz-checksum-sha256`, `gzip-crc`.
    """

    number: int
    url: str
    path: PathOrNone
    size: int
    sha256: str | None
    etag: str | None
    compressed: bool
    verified_by: tuple[str, ...]

    @property
    def name(self) -> str:
        """What it is called, without the directory or the bucket."""
        return self.path.name if self.path is not None else self.url.rpartition("/")[2]


@attrs.frozen(kw_only=True)
class DownloadResult:
    """Everything that came of an export.

    Attributes:
        export: the export; its links may be dead by now, and lack their query where the
            result was read from a manifest, which has no metadata either.
        target: where the files are: the directory, or the `Bucket`.
        files: the files, in the order of the links.
        contact_count: how many contacts the files hold, counted while they were verified; None
            where they were not or could not be counted.
        manifest: the path of the manifest; None in a bucket.
        manifest_url: where the manifest is, as a `file://` url or a bucket's.
    """

    export: ContactExport
    target: Path | Bucket
    files: tuple[DownloadedFile, ...]
    contact_count: int | None
    manifest: PathOrNone
    manifest_url: str

    @property
    def directory(self) -> PathOrNone:
        """The directory where the files are; None in a bucket."""
        return self.target if isinstance(self.target, Path) else None


@attrs.frozen(kw_only=True)
class Subuser:
    """A subuser of a parent account.

    https://www.twilio.com/docs/sendgrid/api-reference/subusers-api/list-all-subusers

    Attributes:
        username: its name, by which the parent account acts for it.
        id: SendGrid's id of it, or None.
        email: its address, or None.
        disabled: whether it is disabled; SendGrid then refuses requests on its behalf.
        region: "global" or "eu": the host that serves it.
    """

    username: str
    id: str | None = None
    email: str | None = None
    disabled: bool = False
    region: str = "global"


@attrs.frozen(kw_only=True)
class AccountResult:
    """What came of one account in `export_accounts`: a result or an error.

    Attributes:
        name: the account.
        result: its export, complete and verified; None after an error.
        error: why there is none; None after a success.
    """

    name: str
    result: DownloadResult | None = None
    error: Exception | None = None


@attrs.frozen(kw_only=True)
class ExportRequest:
    """What an export was asked to hold, as the manifest keeps it.

    Attributes:
        host: the API's host.
        on_behalf_of: the subuser it was exported for, or None.
        list_ids: the lists in it; with no list and no segment, every contact.
        segment_ids: the segments in it.
        file_type: `csv` or `json`.
        demo: whether a demonstration made it, with contacts that do not exist.
        allow_shrink: whether it may hold far fewer contacts than the one before it.
    """

    host: str
    on_behalf_of: str | None = None
    list_ids: tuple[str, ...] = ()
    segment_ids: tuple[str, ...] = ()
    file_type: Literal["csv", "json"] = "csv"
    demo: bool = False
    allow_shrink: bool = False


@attrs.frozen(kw_only=True)
class FoundExport:
    """An export that `find_exports` found, as its manifest describes it.

    Attributes:
        export_id: the export; of a damaged manifest, the beginning of its name.
        state: "pending" until SendGrid has made it, "downloading" until every file is there,
            "complete", or "damaged" where the manifest can't be read.
        target: where the manifest and the files are: the directory, or the `Bucket`.
        files: the paths of the verified files, or their urls in a bucket, in the order of the
            links.
        contact_count: how many contacts they hold, or None where that is not known.
        manifest: the path of the manifest, or its url in a bucket.
        export: the export as last polled, its links without their query, or None.
        request: what was asked for, or None where only the id was known.
    """

    export_id: str
    state: Literal["pending", "downloading", "complete", "damaged"]
    target: Path | Bucket
    files: tuple[PathOrUrl, ...] = ()
    contact_count: int | None = None
    manifest: PathOrUrl
    export: ContactExport | None = None
    request: ExportRequest | None = None

    @property
    def directory(self) -> PathOrNone:
        """The directory where the manifest and the files are; None in a bucket."""
        return self.target if isinstance(self.target, Path) else None


@attrs.frozen(kw_only=True)
class VerificationReport:
    """What a download is worth, compared with its manifest; files are paths, or a bucket's urls.

    Attributes:
        export_id: the export.
        complete: whether the manifest says that every file had arrived.
        verified: the files that are as they were when they arrived.
        missing: the files that are not there.
        changed: the files whose bytes are others now.
        extra: files with a name of this export that the manifest does not know.
    """

    export_id: str
    complete: bool
    verified: tuple[PathOrUrl, ...]
    missing: tuple[PathOrUrl, ...]
    changed: tuple[PathOrUrl, ...]
    extra: tuple[PathOrUrl, ...]

    @property
    def ok(self) -> bool:
        """Whether everything is there as it was, and nothing else."""
        return self.complete and not (self.missing or self.changed or self.extra)


@attrs.frozen(kw_only=True)
class Contact:
    """A contact as an export has it, whether CSV or JSON; a text it has not is empty.

    https://www.twilio.com/docs/sendgrid/api-reference/contacts/get-a-contact-by-id

    Attributes:
        contact_id: SendGrid's id of the contact.
        email: its address; newer accounts have contacts without one.
        first_name: its first name.
        last_name: its last name.
        address_line_1: the first line of its address.
        address_line_2: the second line of its address.
        city: its city.
        state_province_region: its state, province or region.
        postal_code: its postal code.
        country: its country.
        alternate_emails: its other addresses.
        phone_number: its phone number.
        whatsapp: its WhatsApp number.
        line: its LINE id.
        facebook: its Facebook id.
        unique_name: its unique name.
        created_at: when it was made, or None.
        updated_at: when it was last changed, or None.
        custom_fields: the custom fields that have a value, by their names in their own case; a
            number is its digits.
        phone_number_id: its phone number as an identifier.
        external_id: the id that another system has for it.
        anonymous_id: the id of a visitor who is not known.
    """

    contact_id: str
    email: str = ""
    first_name: str = ""
    last_name: str = ""
    address_line_1: str = ""
    address_line_2: str = ""
    city: str = ""
    state_province_region: str = ""
    postal_code: str = ""
    country: str = ""
    alternate_emails: tuple[str, ...] = ()
    phone_number: str = ""
    whatsapp: str = ""
    line: str = ""
    facebook: str = ""
    unique_name: str = ""
    created_at: datetime | None = None
    updated_at: datetime | None = None
    # A mapping has no hash; the contacts that differ in it alone may share one.
    custom_fields: Mapping[str, str] = attrs.field(factory=dict, hash=False)
    phone_number_id: str = ""
    external_id: str = ""
    anonymous_id: str = ""


class ChangeKind(enum.StrEnum):
    """What happened to a contact between two exports."""

    ADDED = "added"
    REMOVED = "removed"
    CHANGED = "changed"


@attrs.frozen
class FieldChange:
    """A value that differs; both values as a CSV export has them, empty where there is none.

    Attributes:
        name: the column: reserved ones in capitals, custom fields in their own case.
        old: the value in the old export.
        new: the value in the new export.
    """

    name: str
    old: str
    new: str


@attrs.frozen(kw_only=True)
class ContactChange:
    """A contact that is in one export only, or differs between the two.

    Attributes:
        contact_id: SendGrid's id of the contact.
        kind: what happened to it.
        fields: the values that differ; for an added or removed contact, all that it has.
    """

    contact_id: str
    kind: ChangeKind
    fields: tuple[FieldChange, ...]


@attrs.frozen(kw_only=True)
class ComparisonSummary:
    """How many contacts differ between two exports.

    Attributes:
        added: contacts that only the new export has.
        removed: contacts that only the old export has.
        changed: contacts that both exports have, with different values.
        unchanged: contacts that are the same in both.
        fields: how many of the changed contacts differ in each column.
    """

    added: int
    removed: int
    changed: int
    unchanged: int
    fields: Mapping[str, int]
