"""The endpoints as pure functions: arguments to a request, a response to a model or error.

https://www.twilio.com/docs/sendgrid/api-reference/contacts/export-contacts
https://www.twilio.com/docs/sendgrid/api-reference/contacts/export-contacts-status
https://www.twilio.com/docs/sendgrid/api-reference/contacts/get-all-existing-exports
https://www.twilio.com/docs/sendgrid/api-reference/api-key-permissions/retrieve-a-list-of-scopes-for-which-this-user-has-access
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from urllib.parse import quote, urljoin, urlsplit

from sendgrid_exports.api.arguments import check_text
from sendgrid_exports.decoding import decode, parse_json
from sendgrid_exports.delays import server_delay
from sendgrid_exports.errors import (
    APIError,
    AuthenticationError,
    ExportNotFoundError,
    InvalidRequestError,
    InvalidResponseError,
    PermissionDeniedError,
    RateLimitedError,
    ServerError,
)
from sendgrid_exports.http import Request, Response
from sendgrid_exports.models import ContactExport, ErrorDetail, ExportListing
from sendgrid_exports.redaction import redact_page, redact_text

__all__ = [
    "describe",
    "listing_request",
    "read_export",
    "read_id",
    "read_listing",
    "read_scopes",
    "read_success",
    "scopes_request",
    "start_request",
    "status_request",
]

_EXPORTS = "/v3/marketing/contacts/exports"
_SUBUSERS = "/v3/subusers"
_SCOPES = "/v3/scopes"

_ON_THE_WAY = "Check base_url and the proxies on the way."
_ERRORS: Mapping[int, type[APIError]] = {
    400: InvalidRequestError,
    401: AuthenticationError,
    403: PermissionDeniedError,
    404: ExportNotFoundError,
    422: InvalidRequestError,
    429: RateLimitedError,
}

# Checked in this order: what SendGrid says tells more than the status alone.
# https://support.sendgrid.com/hc/en-us/articles/18322114821403
# https://support.sendgrid.com/hc/en-us/articles/16599001560347
_ADVICE: tuple[tuple[set[int], str, str], ...] = (
    ({400, 422}, "", "Fix the arguments that the message names."),
    (
        {401},
        "credits",
        "The plan's credits are used up: wait until they are reset, or change the plan. The API "
        "key itself may be right.",
    ),
    (
        {401},
        "not authorized",
        "The API key lacks a permission: it needs the scope marketing.read.",
    ),
    (
        {401},
        "",
        "Check the API key: it may be mistyped, deleted or revoked. A key of an account in the EU "
        "needs base_url https://api.eu.sendgrid.com. An account whose credits are used up is "
        "refused in the same way.",
    ),
    (
        {403},
        r"\bip\b|white-?list|allow-?list",
        "IP Access Management of the account does not know the address of this machine: add it "
        "in SendGrid's settings, or send from an allowed address.",
    ),
    (
        {403},
        "",
        "The API key needs the scope marketing.read, and the account the new Marketing "
        "Campaigns rather than the legacy ones. Where IP Access Management is on, the address of "
        "this machine must be allowed.",
    ),
    ({429}, "", "Send fewer requests."),
)
_SUBUSERS_ADVICE = (
    "To list subusers, use an API key of the parent account with the scope subusers.read; the "
    "plan must have subusers (Pro or Premier)."
)


def start_request(
    *,
    list_ids: Sequence[str] = (),
    segment_ids: Sequence[str] = (),
    file_type: str = "csv",
    max_file_size: int | None = None,
    notify_email: bool = False,
) -> Request:
    """Return the request that starts an export; without arguments, of every contact.

    Raises:
        TypeError, ValueError: an argument is not what SendGrid takes; it is named.
    """
    body: dict[str, object] = {}
    for name, ids in (("list_ids", list_ids), ("segment_ids", segment_ids)):
        if checked := _check_ids(ids, name):
            body[name] = checked
    if file_type not in ("csv", "json"):
        raise ValueError(f"file_type must be 'csv' or 'json', not {file_type!r}")
    if file_type != "csv":
        body["file_type"] = file_type
    if max_file_size is not None:
        if isinstance(max_file_size, bool) or not isinstance(max_file_size, int):
            raise TypeError("max_file_size must be a whole number of megabytes")
        if max_file_size < 1:
            raise ValueError(f"max_file_size must be at least 1 megabyte, not {max_file_size}")
        body["max_file_size"] = max_file_size
    if not isinstance(notify_email, bool):
        raise TypeError(f"notify_email must be True or False, not {notify_email!r}")
    if notify_email:
        body["notifications"] = {"email": True}
    return Request(method="POST", target=_EXPORTS, body=json.dumps(body).encode())


def _check_ids(ids: object, name: str) -> list[str]:
    if isinstance(ids, str) or not isinstance(ids, Sequence):
        raise TypeError(f"{name} must be a list of ids, not {type(ids).__name__}")
    return [check_text(item, f"{name}[{place}]") for place, item in enumerate(ids)]


def status_request(export_id: str) -> Request:
    """Return the request for an export's status; any id is one segment of the path."""
    # Clients and proxies resolve a path of dots away.
    escaped = quote(export_id, safe="")
    if not escaped.strip("."):
        escaped = escaped.replace(".", "%2E")
    return Request(method="GET", target=f"{_EXPORTS}/{escaped}")


def listing_request(page: str | None = None) -> Request:
    """Return the request for the list of exports, or for `page` of it."""
    return Request(method="GET", target=page or _EXPORTS)


def scopes_request() -> Request:
    """Return the request for the permissions of the API key."""
    return Request(method="GET", target=_SCOPES)


def read_id(response: Response, request: Request, now: datetime) -> str:
    """Return the id of the export that was started.

    Raises:
        APIError: SendGrid refused; the subclass says how.
        InvalidResponseError: the response holds no id.
    """
    value = read_success(response, request, now, wanted="")
    export_id = value.get("id") if isinstance(value, Mapping) else None
    if isinstance(export_id, int) and not isinstance(export_id, bool):
        export_id = str(export_id)
    if not isinstance(export_id, str) or not export_id:
        raise InvalidResponseError(
            f"SendGrid accepted the export and named no id: {redact_text(repr(value))}",
            problems=("required field missing @ $.id",),
        )
    return export_id


def read_export(response: Response, request: Request, now: datetime) -> ContactExport:
    """Return the export in a response of the status endpoint.

    Raises:
        APIError: SendGrid refused; the subclass says how.
        InvalidResponseError: the body is not what is documented.
    """
    what = describe(request)
    export = decode(ContactExport, read_success(response, request, now, wanted="status"), what)
    if status_request(export.id).target != request.target:
        raise InvalidResponseError(
            f"{what} is about another export: {redact_text(export.id)!r}",
            problems=("another id than the one asked for @ $.id",),
        )
    return export


def read_listing(
    response: Response, request: Request, now: datetime
) -> tuple[tuple[ExportListing, ...], str | None]:
    """Return one page of exports, and the target of the next page or None.

    Raises:
        APIError: SendGrid refused; the subclass says how.
        InvalidResponseError: the body is not what is documented.
    """
    what = describe(request)
    value = read_success(response, request, now, wanted="result")
    if not isinstance(value, Mapping):
        raise InvalidResponseError(
            f"{what} is not what is documented: {redact_text(repr(value))}",
            problems=("expected an object @ $",),
        )
    result = value.get("result")
    listings = decode(
        tuple[ExportListing, ...], [] if result is None else result, what, path="$.result"
    )
    metadata = value.get("_metadata")
    following = metadata.get("next") if isinstance(metadata, Mapping) else None
    if not isinstance(following, str) or not following:
        return listings, None
    return listings, _target(following, request)


def read_scopes(response: Response, request: Request, now: datetime) -> tuple[str, ...]:
    """Return the permissions of the API key.

    Raises:
        APIError: SendGrid refused; the subclass says how.
        InvalidResponseError: the body is not what is documented.
    """
    value = read_success(response, request, now, wanted="scopes")
    scopes = value.get("scopes") if isinstance(value, Mapping) else None
    if not isinstance(scopes, list) or not all(isinstance(scope, str) for scope in scopes):
        raise InvalidResponseError(
            f"{describe(request)} is not what is documented: {redact_text(repr(value))}",
            problems=("expected a list of texts @ $.scopes",),
        )
    return tuple(scopes)


def _target(url: str, request: Request) -> str | None:
    # Only path and query: the key goes to our host alone, whatever the body says.
    try:
        parts = urlsplit(urljoin(f"https://host{request.target}", url))
    except ValueError:
        return None
    if not parts.path.startswith("/"):
        return None
    return f"{parts.path}?{parts.query}" if parts.query else parts.path


def describe(request: Request) -> str:
    """Return what an answer is called in messages."""
    return f"SendGrid's answer to {request.method} {request.target}"


def read_success(response: Response, request: Request, now: datetime, *, wanted: str) -> object:
    """Return the JSON of a success. `errors` without the `wanted` field are raised as an error.

    Raises:
        APIError: SendGrid refused; the subclass says how.
        InvalidResponseError: the body is not JSON.
    """
    if not 200 <= response.status < 300:
        raise _error(response, request, now)
    value = parse_json(response.body, describe(request))
    if isinstance(value, Mapping) and not value.get(wanted) and _read_details(response.body):
        raise _error(response, request, now)
    return value


def _error(response: Response, request: Request, now: datetime) -> APIError:
    status = response.status
    errors = _read_details(response.body)
    text = response.body[:2000].decode("utf-8", "replace")
    page = redact_page(text)
    said = "; ".join(
        f"{detail.message} (field {detail.field})" if detail.field else detail.message
        for detail in errors
    )
    said = redact_text(said) or page or redact_text(text) or "no explanation"
    retry_after = server_delay(response.headers, now) if _may_wait(status) else None
    waiting = "" if retry_after is None else f" It asks to wait {retry_after:.0f} s."
    cls = ServerError if status >= 500 else _ERRORS.get(status, APIError)
    return cls(
        f"SendGrid answered {status} to {request.method} {request.target}: "
        f"{said.rstrip('.')}. {_advice(status, said, request, is_page=bool(page))}".rstrip()
        + waiting,
        status=status,
        errors=errors,
        retry_after=retry_after,
        request_id=response.headers.get("x-request-id"),
    )


def _advice(status: int, said: str, request: Request, *, is_page: bool) -> str:
    """Return what to do about an error status, given what SendGrid says with it."""
    if status >= 500:
        return "SendGrid has a problem of its own: try again later."
    if status < 300:
        return ""
    if status < 400:
        return f"No redirect is followed, as the key would go elsewhere. {_ON_THE_WAY}"
    if is_page and status != 429:
        # Where a proxy refuses, another key or id does not help.
        return _ON_THE_WAY
    if status == 404:
        return _not_found_advice(request)
    if status in {401, 403} and request.target.startswith(_SUBUSERS):
        return _SUBUSERS_ADVICE
    for statuses, pattern, advice in _ADVICE:
        if status in statuses and re.search(pattern, said, re.IGNORECASE):
            return advice
    return _ON_THE_WAY


def _not_found_advice(request: Request) -> str:
    where = "the account, and the region of base_url."
    if request.method == "GET":
        has_id = request.target.startswith(f"{_EXPORTS}/")
        return f"Check {'the export id, ' if has_id else ''}{where}"
    body = json.loads(request.body or b"{}")
    ids = [
        redact_text(f"{name} {', '.join(body[field])}")
        for name, field in (("the lists", "list_ids"), ("the segments", "segment_ids"))
        if field in body
    ]
    return f"Check {', '.join([*ids, where])}"


def _may_wait(status: int) -> bool:
    return status == 429 or status >= 500


def _read_details(body: bytes) -> tuple[ErrorDetail, ...]:
    """Return the error details in a body, in any of the shapes that were seen; often none."""
    try:
        value = parse_json(body, "the error")
    except InvalidResponseError:
        return ()
    if not isinstance(value, Mapping):
        return ()
    found = value.get("errors", value.get("error"))
    entries = found if isinstance(found, list) else [found]
    return tuple(detail for entry in entries if (detail := _read_detail(entry)))


def _read_detail(entry: object) -> ErrorDetail | None:
    if isinstance(entry, str) and entry:
        return ErrorDetail(message=redact_text(entry))
    if not isinstance(entry, Mapping) or not entry.get("message"):
        return None
    texts = {
        name: redact_text(item if isinstance(item, str) else json.dumps(item))
        for name in ("message", "field", "parameter", "error_id", "help")
        if (item := entry.get(name)) is not None
    }
    return ErrorDetail(**texts)
