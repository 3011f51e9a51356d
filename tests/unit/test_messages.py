"""Requests, responses, and the dates of HTTP."""

from __future__ import annotations

from datetime import UTC, datetime

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sendgrid_exports.messages import Request, Response, read_http_date

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
def test_a_date(text: str, moment: datetime | None) -> None:
    found = read_http_date(text)
    assert found == moment
    assert found is None or found.tzinfo is UTC
    assert Response(status=200, headers={"date": text}).date == moment


@quick
@given(st.text("SunOctGMT0123456789:+-,. ()", max_size=40) | st.text(max_size=40))
def test_any_text_can_be_a_date(text: str) -> None:
    found = read_http_date(text)
    assert found is None or found.tzinfo is UTC


@quick
@given(st.datetimes(datetime(1970, 1, 1), datetime(2100, 1, 1)))  # noqa: DTZ001
def test_a_date_is_read_to_the_second(moment: datetime) -> None:
    moment = moment.replace(tzinfo=UTC, microsecond=0)
    assert read_http_date(moment.strftime("%a, %d %b %Y %H:%M:%S GMT")) == moment


def test_a_response_without_a_date_has_none() -> None:
    assert Response(status=200).date is None


def test_a_response_shows_neither_headers_nor_body() -> None:
    response = Response(status=200, headers={"x": "s3cr3t"}, body=b"s3cr3t")
    assert "s3cr3t" not in repr(response)
    assert "200" in repr(response)


@pytest.mark.parametrize("cls", [Request, Response])
def test_messages_are_frozen_and_keyword_only(cls: type[attrs.AttrsInstance]) -> None:
    assert all(field.kw_only for field in attrs.fields(cls))
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        Request(method="GET", target="/").method = "POST"  # type: ignore[misc]
