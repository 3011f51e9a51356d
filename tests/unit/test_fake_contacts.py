"""Generated contacts: the same every time, and as awkward as real ones."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

import pytest

from sendgrid_exports.testing import make_contacts
from sendgrid_exports.testing.contacts import CSV_COLUMNS, CUSTOM_FIELDS, csv_row
from sendgrid_exports.testing.files import ContactFiles


def parts(**changes: Any) -> list[bytes]:
    settings: dict[str, Any] = {
        "contacts": 1000,
        "files": 1,
        "file_type": "csv",
        "compressed": True,
        "repeat_header": True,
        "seed": 0,
    }
    return [b"".join(lines) for lines in ContactFiles(**(settings | changes)).parts()]


def rows(part: bytes) -> list[list[str]]:
    return list(csv.reader(io.StringIO(part.decode(), newline="")))


def test_are_the_same_every_time() -> None:
    assert list(make_contacts(50)) == list(make_contacts(50))
    assert list(make_contacts(50, seed=1)) != list(make_contacts(50))


def test_can_begin_anywhere() -> None:
    assert list(make_contacts(10, start=40)) == list(make_contacts(50))[40:]


def test_have_ids_of_their_own() -> None:
    contacts = list(make_contacts(5000))
    assert len({contact["contact_id"] for contact in contacts}) == 5000
    emails = [contact["email"] for contact in contacts if "email" in contact]
    assert len(set(emails)) == len(emails) == 4900


def test_include_what_breaks_parsers() -> None:
    contacts = list(make_contacts(1000))
    texts = {
        value
        for contact in contacts
        for value in (*contact.values(), *contact["custom_fields"].values())
        if isinstance(value, str)
    }
    assert {"NA", "null", "007"} <= texts
    for special in (",", '"', "\n", "\r\n", "🦊", "さくら", "محمد"):
        assert any(special in text for text in texts), special
    assert any("email" not in contact for contact in contacts)
    assert any("alternate_emails" in contact for contact in contacts)
    assert any({"Plan", "plan"} <= contact["custom_fields"].keys() for contact in contacts)
    assert not any(value in ("", None) for contact in contacts for value in contact.values())


def test_every_field_occurs() -> None:
    seen = {key for contact in make_contacts(5000) for key in contact} - {"custom_fields"}
    custom = {key for contact in make_contacts(5000) for key in contact["custom_fields"]}
    assert {key.upper() for key in seen} == set(CSV_COLUMNS) - set(CUSTOM_FIELDS)
    assert custom == set(CUSTOM_FIELDS)


def test_csv_reads_back_as_the_same_contacts() -> None:
    (part,) = parts()
    header, *body = rows(part)
    assert tuple(header) == CSV_COLUMNS
    expected = [list(csv_row(contact).values()) for contact in make_contacts(1000)]
    assert body == expected


def test_csv_quotes_every_value_and_leaves_empty_ones_out() -> None:
    (part,) = parts(contacts=200)
    header, *lines = part.decode().split("\n")
    assert header == ",".join(f'"{column}"' for column in CSV_COLUMNS)
    plain = next(make_contacts(1, start=4))
    row = csv_row(plain)
    assert not any('"' in value or "\r" in value for value in row.values())
    expected = ",".join(f'"{value}"' if value else "" for value in row.values())
    assert expected.split("\n")[-1] in lines
    assert b'"\r\n"contact' not in part
    assert b',"",' not in part
    assert part.endswith(b"\n")


def test_alternate_emails_are_a_quoted_list_in_a_quoted_value() -> None:
    contact = next(c for c in make_contacts(1000) if "alternate_emails" in c)
    listed = csv_row(contact)["ALTERNATE_EMAILS"]
    assert next(csv.reader([listed])) == contact["alternate_emails"]


def test_json_is_one_contact_a_line() -> None:
    (part,) = parts(file_type="json")
    assert [json.loads(line) for line in part.splitlines()] == list(make_contacts(1000))


@pytest.mark.parametrize(("contacts", "files"), [(1000, 3), (2, 5), (0, 2), (7, 7)])
def test_files_are_as_even_as_can_be(contacts: int, files: int) -> None:
    counts = [len(rows(part)) - 1 for part in parts(contacts=contacts, files=files)]
    assert len(counts) == files
    assert sum(counts) == contacts
    assert max(counts) - min(counts) <= 1


def test_no_files_are_no_files() -> None:
    assert parts(files=0) == []


def test_the_header_may_stand_in_the_first_file_only() -> None:
    first, *others = parts(files=3, repeat_header=False)
    assert rows(first)[0] == list(CSV_COLUMNS)
    assert all(rows(part)[0] != list(CSV_COLUMNS) for part in others)
    assert sum(len(rows(part)) for part in [first, *others]) == 1001


@pytest.mark.parametrize("file_type", ["csv", "json"])
@pytest.mark.parametrize("repeat_header", [True, False])
def test_a_largest_size_splits_further(file_type: str, repeat_header: bool) -> None:
    split = parts(files=2, max_size=20_000, file_type=file_type, repeat_header=repeat_header)
    assert len(split) > 10
    assert all(len(part) <= 20_000 for part in split)
    whole = parts(file_type=file_type)[0]
    if file_type == "csv":
        header = whole[: whole.index(b"\n") + 1]
        split[1:] = [part.removeprefix(header) for part in split[1:]]
    assert b"".join(split) == whole


def test_a_line_longer_than_the_largest_size_gets_a_file() -> None:
    assert len(parts(contacts=5, max_size=1, file_type="json")) == 5
