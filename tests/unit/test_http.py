"""Requests, responses, and the dates of HTTP."""

from __future__ import annotations

from datetime import UTC, datetime

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sendgrid_exports.http import Request, Response, is_loopback, read_http_date

MOMENT = datetime(1994, 11, 6, 8, 49, 37, tzinfo=UTC)
quick = settings(derandomize=True, max_examples=100, deadline=None)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("Sun, 06 Nov 1994 08:49:37 GMT", MOMENT),
        ("Sunday, 06-Nov-94 08:49:37 GMT", MOMENT),
        ("Sun Nov  6 08:49:37 1994", MOMENT),
        ("Sun, 06 Nov 1994 08:49:37 -0000", MOMENT),
        ("Sun, 06 Nov 1994 01:49:37 -0700", MOMENT),
        ("", None),
        ("soon", None),
        ("120", None),
        ("1994-11-06T08:49:37Z", None),
        ("Sun, 06 Nov 1994", None),
        ("Sun, 31 Feb 1994 08:49:37 GMT", None),
        ("Sun, 06 Nov 1994 25:49:37 GMT", None),
        ("Sun, 06 Nov 1994 08:49:37 +9999", None),
        ("Sun, 06 Nov 99999 08:49:37 GMT", None),
        ("Fri, 31 Dec 9999 23:59:59 -0100", None),
    ],
)
def test_an_http_date_is_read_in_every_format_of_the_rfc(
    text: str, moment: datetime | None
) -> None:
    found = read_http_date(text)
    assert found == moment
    assert found is None or found.tzinfo is UTC
    assert Response(status=200, headers={"date": text}).date == moment


@quick
@given(st.text("SunOctGMT0123456789:+-,. ()", max_size=40) | st.text(max_size=40))
def test_any_text_is_a_date_or_none(text: str) -> None:
    found = read_http_date(text)
    assert found is None or found.tzinfo is UTC


@quick
@given(st.datetimes(datetime(1970, 1, 1), datetime(2100, 1, 1)))  # noqa: DTZ001
def test_a_date_is_read_to_the_second(moment: datetime) -> None:
    moment = moment.replace(tzinfo=UTC, microsecond=0)
    assert read_http_date(moment.strftime("%a, %d %b %Y %H:%M:%S GMT")) == moment


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("localhost", True),
        ("LOCALHOST", True),
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("0:0:0:0:0:0:0:1", True),
        ("", False),
        ("0.0.0.0", False),
        ("10.0.0.1", False),
        ("localhost.example", False),
        ("127.0.0.1.example", False),
        ("::2", False),
    ],
)
def test_only_this_machine_is_loopback(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback


def test_a_response_without_a_date_has_none() -> None:
    assert Response(status=200).date is None


def test_a_response_shows_neither_headers_nor_body() -> None:
    response = Response(status=200, headers={"x": "s3cr3t"}, body=b"s3cr3t")
    assert "s3cr3t" not in repr(response)
    assert "200" in repr(response)


@pytest.mark.parametrize("cls", [Request, Response])
def test_requests_and_responses_are_frozen_and_keyword_only(cls: type[attrs.AttrsInstance]) -> None:
    assert all(field.kw_only for field in attrs.fields(cls))
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        Request(method="GET", target="/").method = "POST"  # type: ignore[misc]
