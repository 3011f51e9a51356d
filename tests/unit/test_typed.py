"""Contacts: one object for a row of CSV and for a line of JSON; what fits neither is named."""

from __future__ import annotations

import pickle
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sendgrid_exports import Contact, InvalidResponseError, parse_contact
from sendgrid_exports.testing import make_contacts
from sendgrid_exports.testing.contacts import CUSTOM_FIELDS, csv_row

quick = settings(derandomize=True, max_examples=150, deadline=None)
TEXTS = st.text(st.characters(codec="utf-8"), max_size=6)
NAMES = ("email", "first_name", "address_line_1", "postal_code", "line", "external_id")


@pytest.mark.parametrize("seed", [0, 1])
def test_generated_contacts_are_the_same_from_csv_and_json(seed: int) -> None:
    for contact in make_contacts(300, seed=seed):
        assert parse_contact(csv_row(contact)) == parse_contact(contact)


@quick
@given(
    fields=st.dictionaries(st.sampled_from(NAMES), TEXTS),
    custom=st.dictionaries(st.sampled_from(CUSTOM_FIELDS), st.one_of(TEXTS, st.integers())),
    emails=st.lists(TEXTS, max_size=4),
)
def test_any_contact_is_the_same_from_csv_and_json(
    fields: dict[str, str], custom: dict[str, Any], emails: list[str]
) -> None:
    contact = {"contact_id": "1", "custom_fields": custom, **fields}
    if emails:
        contact["alternate_emails"] = emails
    parsed = parse_contact(contact)
    assert parse_contact(csv_row(contact)) == parsed
    assert parsed.alternate_emails == tuple(emails)
    assert parsed.custom_fields == {
        name: str(value) for name, value in custom.items() if value != ""
    }
    assert all(getattr(parsed, name) == value for name, value in fields.items())


def test_the_fields() -> None:
    contact = parse_contact(
        {
            "CONTACT_ID": "1",
            "EMAIL": "",
            "ALTERNATE_EMAILS": '"a@example.com", "b""@example.com"',
            "CREATED_AT": "2021-02-01T12:35:22Z",
            "UPDATED_AT": "",
            "email": "a field of its own",
            "Plan": "pro",
            "plan": "PRO",
            "Empty": "",
        }
    )
    assert contact == Contact(
        contact_id="1",
        alternate_emails=("a@example.com", 'b"@example.com'),
        created_at=datetime(2021, 2, 1, 12, 35, 22, tzinfo=UTC),
        custom_fields={"email": "a field of its own", "Plan": "pro", "plan": "PRO"},
    )
    assert contact.email == ""
    assert contact.updated_at is None


def test_what_json_can_say_besides_text() -> None:
    contact = parse_contact(
        {
            "contact_id": "1",
            "email": None,
            "postal_code": 80202,
            "list_ids": ["unknown"],
            "custom_fields": {"a": 1.5, "b": True, "c": None, "d": ["é", 1], "e": 10**20},
        }
    )
    assert contact == Contact(
        contact_id="1",
        postal_code="80202",
        custom_fields={"a": "1.5", "b": "true", "d": '["é",1]', "e": "1" + "0" * 20},
    )
    assert parse_contact({"contact_id": "1", "custom_fields": None}) == Contact(contact_id="1")


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({}, "required field missing @ $.contact_id"),
        ({"EMAIL": "a"}, "required field missing @ $.contact_id"),
        ({"CONTACT_ID": ""}, "required field missing @ $.contact_id"),
        ({"contact_id": "1", "created_at": "soon"}, "expected a time, not 'soon' @ $.created_at"),
        ({"contact_id": "1", "email": 1.5}, "expected text, not 1.5 @ $.email"),
        (
            {"contact_id": "1", "custom_fields": [1]},
            "expected an object, not [1] @ $.custom_fields",
        ),
        (
            {"CONTACT_ID": "1", "ALTERNATE_EMAILS": '"a'},
            "expected an array, not '\"a' @ $.alternate_emails",
        ),
    ],
)
def test_what_is_no_contact(row: dict[str, Any], problem: str) -> None:
    with pytest.raises(
        InvalidResponseError, match="The contact is not what is documented"
    ) as caught:
        parse_contact(row)
    assert caught.value.problems == (problem,)


def test_a_contact_is_a_value() -> None:
    contact = Contact(contact_id="1", custom_fields={"a": "b"})
    assert pickle.loads(pickle.dumps(contact)) == contact
    assert hash(contact) == hash(Contact(contact_id="1", custom_fields={"a": "b"}))
    assert contact != Contact(contact_id="1")
