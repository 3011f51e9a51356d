"""The public API: what a reader of `__init__.py` may count on."""

from __future__ import annotations

import inspect
import subprocess
import sys
import types

import attrs
import pytest

import sendgrid_exports
from sendgrid_exports import testing

PUBLIC = """
APIError AuthenticationError Bucket BytesReceived Clock ContactExport CorruptDownloadError
CountMismatch
DownloadError DownloadInProgressError DownloadPolicy DownloadResult DownloadedFile ErrorDetail Event
ExportClient ExportError ExportExpiredError ExportFailedError ExportListing ExportMetadata
ExportNotFoundError ExportNotReadyError ExportStarted ExportStatus ExportTimeoutError FileFinished
FileStarted IncompleteDownloadError InsufficientDiskSpaceError InvalidRequestError
InvalidResponseError LinkRenewed NamedId PermissionDeniedError PollPolicy RateLimitedError Retrying
RunningLate VerificationReport verify_download
SendGridExportsError ServerError StatusPolled SystemClock TransportError Verify export_contacts
fetch_export Contact parse_contact read_contacts read_contacts_async
ChangeKind Comparison ComparisonSummary ContactChange FieldChange compare_exports read_arrow
write_parquet AccountResult Subuser export_accounts ExportRequest FoundExport find_exports
""".split()


def test_the_public_names_are_those_and_no_others() -> None:
    assert sorted(PUBLIC) == sorted(sendgrid_exports.__all__)
    visible = {
        name
        for name in dir(sendgrid_exports)
        if not name.startswith("_")
        and not isinstance(getattr(sendgrid_exports, name), types.ModuleType)
    }
    assert visible - {"TYPE_CHECKING"} == set(PUBLIC)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        sendgrid_exports.nothing  # noqa: B018


@pytest.mark.parametrize(
    ("names", "absent"),
    [
        ("ExportClient, fetch_export, export_contacts", "pyarrow"),
        ("__version__", "aiohttp"),
        ("read_contacts, parse_contact, compare_exports, read_arrow, write_parquet", "aiohttp"),
        ("verify_download, DownloadPolicy, ContactExport, TransportError", "aiohttp"),
    ],
)
def test_a_name_loads_only_what_it_needs(names: str, absent: str) -> None:
    code = f"import sys; from sendgrid_exports import {names}; print({absent!r} in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout == "False\n"


def test_no_public_name_loads_an_integration_or_what_it_needs() -> None:
    code = (
        "import sys; from sendgrid_exports import *; "
        "print([name for name in sys.modules if 'integrations' in name.split('.')], "
        "{'airflow', 'dask', 'dlt', 'opentelemetry'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout == "[] set()\n"


def test_the_version_stands_in_one_place() -> None:
    from importlib.metadata import version

    assert version("sendgrid-exports") == sendgrid_exports.__version__


@pytest.mark.parametrize(
    "name", [*(f"sendgrid_exports.{n}" for n in PUBLIC), *(f"testing.{n}" for n in testing.__all__)]
)
def test_every_public_name_is_documented(name: str) -> None:
    module, _, attribute = name.partition(".")
    value = getattr(testing if module == "testing" else sendgrid_exports, attribute)
    if attribute in {"Event", "Fault"} and not inspect.isclass(value):
        return
    assert inspect.getdoc(value)
    if not inspect.isclass(value):
        return
    for member, function in vars(value).items():
        if not member.startswith("_") and (
            inspect.isfunction(function) or isinstance(function, property)
        ):
            assert inspect.getdoc(function), f"{name}.{member}"


SIGNATURES = {
    sendgrid_exports.ExportClient.__init__: (
        ["self", "api_key"],
        [
            "session",
            "base_url",
            "eu_base_url",
            "on_behalf_of",
            "allow_insecure_http",
            "polling",
            "downloads",
            "clock",
            "random",
        ],
    ),
    sendgrid_exports.ExportClient.start: (
        ["self"],
        ["list_ids", "segment_ids", "file_type", "max_file_size", "notify_email"],
    ),
    sendgrid_exports.ExportClient.get: (["self", "export_id"], []),
    sendgrid_exports.ExportClient.list_exports: (["self"], []),
    sendgrid_exports.ExportClient.subusers: (["self"], []),
    sendgrid_exports.ExportClient.for_subuser: (["self", "subuser"], ["region"]),
    sendgrid_exports.ExportClient.for_key: (["self", "api_key"], ["account", "region"]),
    sendgrid_exports.ExportClient.scopes: (["self"], []),
    sendgrid_exports.ExportClient.wait: (["self", "export_id"], ["timeout", "on_event"]),
    sendgrid_exports.ExportClient.download: (
        ["self", "export", "target"],
        ["timeout", "on_event"],
    ),
    sendgrid_exports.ExportClient.fetch: (
        ["self", "export_id", "target"],
        ["timeout", "on_event"],
    ),
    sendgrid_exports.ExportClient.stream_contacts: (
        ["self", "export"],
        ["batch_size", "timeout", "errors", "on_event"],
    ),
    sendgrid_exports.read_contacts: (["source"], ["export_id", "errors"]),
    sendgrid_exports.read_contacts_async: (["source"], ["export_id", "errors", "batch_size"]),
    sendgrid_exports.parse_contact: (["row"], []),
}


@pytest.mark.parametrize(
    ("function", "names"), SIGNATURES.items(), ids=lambda f: getattr(f, "__name__", "")
)
def test_everything_after_the_essentials_is_keyword_only(
    function: types.FunctionType, names: tuple[list[str], list[str]]
) -> None:
    parameters = inspect.signature(function).parameters.values()
    essentials = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    keywords = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]
    assert (essentials, keywords) == names


@pytest.mark.parametrize(
    ("cls", "fields"),
    [
        (
            sendgrid_exports.ContactExport,
            "id status status_text created_at updated_at completed_at expires_at urls message "
            "contact_count metadata",
        ),
        (
            sendgrid_exports.DownloadResult,
            "export target files contact_count manifest manifest_url",
        ),
        (
            sendgrid_exports.DownloadedFile,
            "number url path size sha256 etag compressed verified_by",
        ),
        (
            sendgrid_exports.Contact,
            "contact_id email first_name last_name address_line_1 address_line_2 city "
            "state_province_region postal_code country alternate_emails phone_number whatsapp line "
            "facebook unique_name created_at updated_at custom_fields phone_number_id external_id "
            "anonymous_id",
        ),
        (sendgrid_exports.PollPolicy, "initial factor maximum timeout max_failures"),
        (
            sendgrid_exports.DownloadPolicy,
            "connections connections_per_file piece_size read_timeout minimum_speed speed_window "
            "attempts decompress verify require_count limits",
        ),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_the_fields_are_the_contract(cls: type[attrs.AttrsInstance], fields: str) -> None:
    assert [field.name for field in attrs.fields(cls)] == fields.split()
    instance_dict = getattr(cls, "__setattr__", None)
    assert instance_dict is not object.__setattr__  # frozen
