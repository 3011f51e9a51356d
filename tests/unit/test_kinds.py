"""What a file is, by the beginning of its plain text: CSV, NDJSON or not an export."""

from __future__ import annotations

import csv
import io
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sendgrid_exports.formats.kinds import (
    BEGINNING,
    Kind,
    NotAnExportError,
    first_record,
    is_enough,
    recognise,
)

BOM = b"\xef\xbb\xbf"
HEADER = b'"EMAIL","FIRST_NAME","CONTACT_ID","Shoe, ""size"""\n'
MANY = ",".join(f'"Field {n}"' for n in range(500)).encode()
LONG_HEADER = b'"EMAIL","CONTACT_ID",' + b",".join([MANY] * 20) + b"\n"


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        pytest.param(HEADER, "csv", id="a header"),
        pytest.param(HEADER.strip(), "csv", id="a header without an end"),
        pytest.param(HEADER + b'"a@b",,"1",\n', "csv", id="CSV"),
        pytest.param(b"EMAIL,CONTACT_ID\r\na@b,1\r\n", "csv", id="CSV without quotes"),
        pytest.param(b"email,contact_id\n", "csv", id="CSV in small letters"),
        pytest.param(b"EMAIL\n", "csv", id="one column"),
        pytest.param(BOM + HEADER, "csv", id="CSV with a byte order mark"),
        pytest.param(b"\n\r\n" + HEADER, "csv", id="CSV after empty lines"),
        pytest.param(b'"two\nlines","EMAIL"\n', "csv", id="a line feed in a column's name"),
        pytest.param(LONG_HEADER, "csv", id="a long header"),
        pytest.param(LONG_HEADER[:BEGINNING], "csv", id="a header that is cut"),
        pytest.param(b'"CONTACT_ID","caf\xff"\n', "csv", id="not UTF-8"),
        pytest.param(b'{"contact_id":"1"}\n', "json", id="NDJSON"),
        pytest.param(b'{"contact_id":"1"}', "json", id="NDJSON without an end"),
        pytest.param(b'{"email":"a@b","custom_fields":{}}\r\n{', "json", id="NDJSON, email"),
        pytest.param(BOM + b' {"CONTACT_ID":1}\n', "json", id="NDJSON with a byte order mark"),
        pytest.param(
            b'{"custom_fields":{"a":"' + b"x" * BEGINNING, "json", id="an object that is cut"
        ),
        pytest.param(b"", None, id="nothing"),
        pytest.param(BOM, None, id="a byte order mark"),
        pytest.param(b"\r\n \n", None, id="empty lines"),
    ],
)
def test_contacts_are_recognised(text: bytes, kind: Kind | None) -> None:
    assert recognise(text, whole=len(text) < BEGINNING) == kind
    assert recognise(text, first=False, whole=len(text) < BEGINNING) == kind


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize(
    ("text", "said"),
    [
        pytest.param(
            b"<!DOCTYPE html>\n<html><head><title>Sign in</title>",
            "it is an HTML page such as proxies send ('Sign in')",
            id="a login page",
        ),
        pytest.param(b"  <html>", "it is an HTML page such as proxies send", id="HTML"),
        pytest.param(
            b'<?xml version="1.0"?>\n<Error><Code>AccessDenied</Code><Message>No</Message></Error>',
            "it is markup, such as an error of the storage in XML (AccessDenied: No)",
            id="an error of S3",
        ),
        pytest.param(
            b"<a>", "it is markup, such as an error of the storage in XML", id="other markup"
        ),
        pytest.param(
            b'{"errors":[{"message":"access forbidden"}]}',
            "it is a JSON object without the fields of a contact "
            "([{'message': 'access forbidden'}])",
            id="an error of SendGrid",
        ),
        pytest.param(
            b'{"message":"no"}\n',
            "it is a JSON object without the fields of a contact (no)",
            id="another error",
        ),
        pytest.param(b"{}", "it is a JSON object without the fields of a contact", id="{}"),
        pytest.param(b'{"a":1}\n{"contact_id":"1"}', "it is a JSON object without", id="a first"),
        pytest.param(b'{\n  "errors": []\n}', "it is JSON, but not an object on", id="indented"),
        pytest.param(b'[{"contact_id":"1"}]', "it is JSON, but not an object on", id="an array"),
        pytest.param(b"[" * 5000, "it is JSON, but not an object on", id="a deep array"),
        pytest.param(b"{\x00\x01", "it is JSON, but not an object on", id="a brace"),
        pytest.param(
            b'{"errors":"' + b"x" * BEGINNING, "it is JSON, but not an object on", id="long error"
        ),
        pytest.param(b"Forbidden", "it is text without the columns", id="a word"),
        pytest.param(b"Forbidden, see the email\n", "it is text without", id="a sentence"),
        pytest.param(b'"Forbidden"', "it is text without the columns", id="a quoted word"),
        pytest.param(b"a,b\n1,2\n", "it is text without the columns", id="another table"),
        pytest.param(b'"a","b" c\n', "it is text without the columns", id="half quoted"),
        pytest.param(b"\x89PNG\r\n\x1a\n", "it is text without the columns", id="an image"),
        pytest.param(b"x" * BEGINNING, "it is text without the columns", id="no line"),
        pytest.param(b" " * BEGINNING, "its first 65,536 bytes are blank", id="blanks"),
        pytest.param(
            "EMAIL,CONTACT_ID\n".encode("utf-16"), "it is text without the columns", id="UTF-16"
        ),
    ],
)
def test_what_is_not_an_export_is_refused(text: bytes, said: str, first: bool) -> None:
    with pytest.raises(NotAnExportError) as caught:
        recognise(text, first=first, whole=len(text) < BEGINNING)
    assert str(caught.value).startswith(said)


@pytest.mark.parametrize(
    "text",
    [
        b'"a@b",,"1"\n',
        b',,"1"\r\n,,"2"\r\n',
        b",\n",
        b'"said ""hi""","two\nlines"',
        b'"a@b","' + b"x" * BEGINNING,
    ],
    ids=["a row", "empty values", "nothing but empty", "quotes and line feeds", "cut"],
)
def test_only_a_later_file_may_begin_with_a_row_of_quoted_values(text: bytes) -> None:
    whole = len(text) < BEGINNING
    assert recognise(text, first=False, whole=whole) == "csv"
    with pytest.raises(NotAnExportError):
        recognise(text, whole=whole)


def test_no_contact_and_no_secret_is_quoted() -> None:
    for text in (
        b"ann@example.com,Ann\n",
        b'{"name":"ann@example.com"}',
        b'{"error":"no: https://h/p?X-Amz-Signature=ann@example.com"}',
        b"<Error><Message>SG.ann@example.com</Message></Error>",
    ):
        with pytest.raises(NotAnExportError) as caught:
            recognise(text, whole=True)
        assert "ann" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "enough"),
    [
        (b"", False),
        (BOM[:2], False),
        (b"EMAIL,CONTACT_ID", False),
        (b"\n\n", False),
        (b'"two\nlines', False),
        (b'"two\nlines"', False),
        (b'{"a":"x"', False),
        (b'{"a":"half a quote\n', True),
        (b"EMAIL,CONTACT_ID\n", True),
        (b"<html>\n", True),
        (b"x" * BEGINNING, True),
    ],
)
def test_the_first_record_is_enough(text: bytes, enough: bool) -> None:
    assert is_enough(text) is enough


VALUES = st.text(st.sampled_from('aü ,"\n\r;'), max_size=6)


@settings(derandomize=True, max_examples=200, deadline=None)
@given(st.lists(VALUES, min_size=1, max_size=5), st.booleans())
def test_the_first_record_is_that_of_csv_reader(values: list[str], bom: bool) -> None:
    text = ",".join('"{}"'.format(value.replace('"', '""')) if value else "" for value in values)
    text += "\nmore"
    expected = next(filter(None, csv.reader(io.StringIO(text, newline=""))))
    assert first_record((BOM if bom else b"") + text.encode()) == expected


@settings(derandomize=True, max_examples=200, deadline=None)
@given(st.binary(max_size=200) | st.text(max_size=100).map(str.encode), st.booleans())
def test_any_bytes_are_an_export_or_not(text: bytes, first: bool) -> None:
    for whole in (True, False):
        try:
            said = str(recognise(text, first=first, whole=whole))
        except NotAnExportError as error:
            said = str(error)
        assert len(said) < 300


@settings(derandomize=True, max_examples=100, deadline=None)
@given(st.dictionaries(st.text(max_size=9), st.text(max_size=9)), st.integers(0, 400))
def test_an_object_of_a_contact_is_recognised_wherever_it_is_cut(
    fields: dict[str, str], cut: int
) -> None:
    text = json.dumps({"contact_id": "1", **fields}).encode() + b"\n"
    beginning = text[: max(3, cut)]
    assert recognise(beginning, whole=False) == "json"


def test_a_first_record_that_the_standard_library_refuses_has_no_values() -> None:
    limit = csv.field_size_limit(3)
    try:
        assert first_record(b"abc,abcd\n") == []
    finally:
        csv.field_size_limit(limit)
