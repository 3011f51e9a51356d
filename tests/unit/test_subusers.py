"""Pages of subusers: what is asked for, what is read, and which page is the last."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from sendgrid_exports import InvalidResponseError, PermissionDeniedError, Subuser
from sendgrid_exports.api.subusers import is_last_page, read_subusers, subusers_request
from sendgrid_exports.http import Response

NOW = datetime(2026, 3, 2, 9, 30, tzinfo=UTC)


def read(value: Any, status: int = 200) -> tuple[Subuser, ...]:
    response = Response(status=status, body=json.dumps(value).encode())
    return read_subusers(response, subusers_request(0), NOW)


def test_a_page_is_asked_for_with_regions() -> None:
    request = subusers_request(500)
    assert (request.method, request.body) == ("GET", None)
    assert request.target == "/v3/subusers?limit=500&offset=500&include_region=true"


@pytest.mark.parametrize(
    ("item", "subuser"),
    [
        (
            {"username": "a", "id": 7, "email": "a@b.c", "disabled": False, "region": "eu"},
            Subuser(username="a", id="7", email="a@b.c", region="eu"),
        ),
        ({"username": "a", "disabled": True}, Subuser(username="a", disabled=True)),
        (
            {"username": "a", "id": None, "email": None, "disabled": None, "region": None},
            Subuser(username="a"),
        ),
        ({"username": "a", "new": {}}, Subuser(username="a")),
    ],
)
def test_a_subuser_is_read_with_whatever_is_stated(item: dict[str, Any], subuser: Subuser) -> None:
    assert read([item]) == (subuser,)


def test_no_subusers_are_an_empty_page() -> None:
    assert read([]) == read(None) == ()


@pytest.mark.parametrize("value", [{"result": []}, [{}], [{"username": 7.5}], ["a"], "a"])
def test_any_other_page_is_not_what_is_documented(value: Any) -> None:
    with pytest.raises(InvalidResponseError, match="/v3/subusers"):
        read(value)


def test_a_refusal_names_the_scope() -> None:
    with pytest.raises(PermissionDeniedError, match=r"subusers\.read"):
        read({"errors": [{"message": "access forbidden"}]}, status=403)


@pytest.mark.parametrize(
    ("page", "new", "largest", "last"),
    [
        ("", "", 0, True),
        ("abc", "abc", 0, False),
        ("def", "def", 3, False),
        ("de", "de", 3, True),
        ("", "", 3, True),
        ("cde", "de", 3, False),
        ("abc", "", 3, True),
    ],
)
def test_the_last_page_is_shorter_than_another_or_has_nothing_new(
    page: str, new: str, largest: int, last: bool
) -> None:
    assert is_last_page(page, new, largest) is last
