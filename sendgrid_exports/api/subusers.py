"""The list of subusers as pure functions: to ask for a page, to read it, to know the last.

https://www.twilio.com/docs/sendgrid/api-reference/subusers-api/list-all-subusers
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime

from sendgrid_exports.api.wire import describe, read_success
from sendgrid_exports.decoding import decode
from sendgrid_exports.http import Request, Response
from sendgrid_exports.models import Subuser

__all__ = ["is_last_page", "read_subusers", "subusers_request"]

# SendGrid documents neither its default nor its largest page, and may send fewer than asked for.
_PAGE = 500


def subusers_request(offset: int) -> Request:
    """Return the request for a page of subusers, from number `offset` (from 0) on."""
    query = f"limit={_PAGE}&offset={offset}&include_region=true"
    return Request(method="GET", target=f"/v3/subusers?{query}")


def read_subusers(response: Response, request: Request, now: datetime) -> tuple[Subuser, ...]:
    """Return one page of subusers.

    Raises:
        APIError: SendGrid refused; the subclass says how.
        InvalidResponseError: the body is not what is documented.
    """
    value = read_success(response, request, now, wanted="")
    return decode(tuple[Subuser, ...], [] if value is None else value, describe(request))


def is_last_page(page: Collection[object], new: Collection[object], largest: int) -> bool:
    """Whether no page comes after this one.

    A page may be short of what was asked for because SendGrid never sends more: only one that is
    shorter than another page was, or has nothing new, is the last.

    Args:
        page: what is on it.
        new: what of that was not on a page before.
        largest: how many were on the largest page before.
    """
    return not new or len(page) < largest
