"""Rows: what the standard library reads of the whole, however it is cut; or where it is broken."""

from __future__ import annotations

import codecs
import csv
import io
import json
from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sendgrid_exports.formats import csv_rows
from sendgrid_exports.formats.csv_rows import CsvRows, split_values
from sendgrid_exports.formats.ndjson_rows import NdjsonRows
from sendgrid_exports.formats.text import LONGEST_RECORD, BrokenTextError, WholeLines

BOM = codecs.BOM_UTF8
HEADER = b'"EMAIL","CONTACT_ID","Shoe, ""size"""\n'
COLUMNS = ("EMAIL", "CONTACT_ID", 'Shoe, "size"')
quick = settings(derandomize=True, max_examples=150, deadline=None)

TEXTS = st.text(
    st.one_of(st.sampled_from('aü ,"\n\r\t;\0\x0b\x85\u2028🦊'), st.characters(codec="utf-8")),
    max_size=8,
)
CUTS = st.lists(st.integers(0, 1000), max_size=12)


def pieces(data: bytes, cuts: Iterable[int]) -> Iterator[bytes]:
    """Cut `data` at the given thousandths of its length."""
    places = sorted({0, len(data), *(len(data) * cut // 1000 for cut in cuts)})
    return (data[start:end] for start, end in pairwise(places))


def read(decoder: CsvRows | NdjsonRows, parts: Iterable[bytes]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for part in parts:
        rows += decoder.feed(part)
    return rows + list(decoder.finish())


def read_csv(data: bytes, cuts: Iterable[int] = (), **options: Any) -> list[dict[str, Any]]:
    return read(CsvRows(**options), pieces(data, cuts))


def write(values: Iterable[str]) -> str:
    """A record as SendGrid writes it: every value quoted, an empty one nothing at all."""
    return ",".join('"{}"'.format(value.replace('"', '""')) if value else "" for value in values)


@quick
@given(
    records=st.lists(st.tuples(TEXTS, TEXTS, TEXTS), max_size=8),
    newline=st.sampled_from(["\n", "\r\n"]),
    ended=st.booleans(),
    bom=st.booleans(),
    cuts=CUTS,
)
@example(records=[("", "", ""), ("\n", '"', "\r")], newline="\r\n", ended=False, bom=True, cuts=[])
def test_csv_is_read_as_the_standard_library_reads_the_whole(
    records: list[tuple[str, str, str]], newline: str, ended: bool, bom: bool, cuts: list[int]
) -> None:
    text = newline.join([HEADER.decode().strip(), *map(write, records)]) + newline * ended
    data = BOM * bom + text.encode()
    expected = list(csv.DictReader(io.StringIO(text, newline="")))
    assert read_csv(data, cuts) == read_csv(data, range(1000)) == expected
    if newline == "\n" or ended:
        assert expected == [dict(zip(COLUMNS, record, strict=True)) for record in records]


@quick
@given(
    objects=st.lists(
        st.dictionaries(TEXTS, st.one_of(TEXTS, st.integers(), st.none(), st.lists(TEXTS))),
        max_size=8,
    ),
    newline=st.sampled_from(["\n", "\r\n", "\n\n", " \n\t\n"]),
    ascii_only=st.booleans(),
    bom=st.booleans(),
    cuts=CUTS,
)
def test_ndjson_is_read_as_the_standard_library_reads_each_line(
    objects: list[dict[str, Any]], newline: str, ascii_only: bool, bom: bool, cuts: list[int]
) -> None:
    text = newline.join(json.dumps(one, ensure_ascii=ascii_only) for one in objects)
    data = BOM * bom + text.encode()
    for parts in (pieces(data, cuts), pieces(data, range(1000))):
        assert read(NdjsonRows(), parts) == objects


def test_text_stays_text() -> None:
    data = HEADER + b'"NA","007",\n"null"," 1.0 ","\0"\n\n"=1+1","1e5","\\""\\n"\n'
    assert [list(row.values()) for row in read_csv(data)] == [
        ["NA", "007", ""],
        ["null", " 1.0 ", "\0"],
        ["=1+1", "1e5", '\\"\\n'],
    ]


@pytest.mark.parametrize("data", [b"", BOM, b"\n\n", HEADER, HEADER.strip(), BOM + HEADER + b"\n"])
def test_without_contacts_there_are_no_rows(data: bytes) -> None:
    assert read_csv(data) == read_csv(data, range(1000)) == []
    assert read(NdjsonRows(), [b"\n \t\r\n"]) == []


def test_a_part_without_a_header_has_the_columns_of_the_one_before() -> None:
    data = b'"a","b","c"\n"d",,"e"\n'
    rows = read_csv(data, columns=COLUMNS)
    assert rows == [
        dict(zip(COLUMNS, "abc", strict=True)),
        dict(zip(COLUMNS, ["d", "", "e"], strict=True)),
    ]
    with pytest.raises(BrokenTextError, match="a record of 3 values"):
        read_csv(data, columns=COLUMNS[:2])


def test_united_columns_stand_in_their_order_and_are_empty_where_a_part_has_none() -> None:
    united = ("Other", *COLUMNS, "More")
    for data, columns in (
        (HEADER + b'"a","b","c"\n"d",,\n', None),
        (b'"a","b","c"\n"d",,\n', COLUMNS),
    ):
        rows = read_csv(data, columns=columns, united=united)
        assert [list(row) for row in rows] == [list(united)] * 2
        assert [list(row.values()) for row in rows] == [
            ["", "a", "b", "c", ""],
            ["", "d", "", "", ""],
        ]


@pytest.mark.parametrize(
    ("data", "line", "said"),
    [
        (b'"a","b"\n', 1, "there should be the columns CONTACT_ID and EMAIL, and there is a rec"),
        (b"\n<!DOCTYPE html>\n<html>", 2, "there is markup: '<!DOCTYPE html>'"),
        (b'{"contact_id": "1"}\n', 1, "there is JSON"),
        (b'"EMAIL","CONTACT_ID","EMAIL"\n', 1, "two columns are called 'EMAIL'"),
        (HEADER + b'"a","b"\n', 2, "the record has 2 values, and there are 3 columns"),
        (HEADER + b'"a\n\nb","b",\n"a"\n', 5, "the record has 1 values"),
        (HEADER + b'"a","b","c","d"\n', 2, "the record has 4 values"),
        (HEADER + b'"a","b",\n"a","lone, "quote","c"\n', 3, "is no CSV"),
        (HEADER + b'"a","b",\n"a","cut', 3, "is no CSV"),
        (HEADER + b"a\rb,c,d\n", 2, "is no CSV"),
        (b'"EMAIL","CONTACT_ID', 1, "is no CSV"),
    ],
)
def test_what_is_no_csv_of_contacts(data: bytes, line: int, said: str) -> None:
    for cuts in ((), range(1000)):
        with pytest.raises(BrokenTextError, match=said) as caught:
            read_csv(data, cuts)
        assert caught.value.line == line
        assert str(caught.value).startswith(f"line {line}: ")


def test_no_contact_is_quoted_in_an_error() -> None:
    for decoder in (CsvRows(), NdjsonRows()):
        with pytest.raises(BrokenTextError) as caught:
            read(decoder, [b"ann@example.com,secret\n"])
        assert "ann" not in str(caught.value)


@pytest.mark.parametrize(
    ("data", "line", "column", "said"),
    [
        (b'{"a": 1}\n{"a": 1 b}\n', 2, 9, "there is text that is none"),
        (b"<html>\n", 1, 1, "markup: '<html>'"),
        (b"[1]\n", 1, None, "another value"),
        (b'\n"text"\n', 2, None, "text that is none"),
        (b'{"a": "b\n', 1, 7, "text that is none"),
        (b"{}\n" + b'{"a":' * 100_000, 2, None, "text that is none"),
    ],
)
def test_what_is_no_ndjson(data: bytes, line: int, column: int | None, said: str) -> None:
    with pytest.raises(BrokenTextError, match=said) as caught:
        read(NdjsonRows(), [data])
    assert (caught.value.line, caught.value.column) == (line, column)


@pytest.mark.parametrize(
    ("before", "line", "column"),
    [(b"", 3, 1), (b'"\xc3\xbc\n \xf0\x9f\xa6\x8a"', 4, 4), (b'"c",,""\n', 4, 1)],
)
def test_bytes_that_are_no_utf8_have_a_place(before: bytes, line: int, column: int) -> None:
    data = HEADER + b'"a","b",\n' + before + b"\xff\xfe\n"
    for parts in ([data], pieces(data, range(1000))):
        with pytest.raises(BrokenTextError, match=r"b'\\xff' is not UTF-8") as caught:
            read(CsvRows(), parts)
        assert (caught.value.line, caught.value.column) == (line, column)


@quick
@given(values=st.lists(st.binary(max_size=6), max_size=6), cuts=CUTS)
def test_bytes_that_are_no_utf8_are_replaced_as_in_the_whole(
    values: list[bytes], cuts: list[int]
) -> None:
    data = HEADER + b"".join(b'"x","' + value.replace(b'"', b"") + b'",\n' for value in values)
    text = data.decode("utf-8", "replace")
    expected = list(csv.DictReader(io.StringIO(text, newline="")))
    assert read_csv(data, cuts, errors="replace") == expected


MIB = 1024 * 1024


def endless(start: bytes, piece: bytes) -> Iterator[bytes]:
    """Give more than enough, and fail if all of it is taken."""
    yield start
    yield from [piece] * (LONGEST_RECORD // len(piece) + 2)
    pytest.fail("it was never given up")


@pytest.mark.parametrize(
    ("decoder", "start", "piece"),
    [
        (CsvRows(), HEADER + b'"a","b\n', b"x" * MIB),
        (CsvRows(), HEADER + b'"a","b\n', b"xxxxxxx\n" * (MIB // 8)),
        (NdjsonRows(), b'{"a": "', b"x" * MIB),
        (CsvRows(columns=COLUMNS), b'"', b"\n" * MIB),
    ],
)
def test_a_record_without_an_end_is_given_up(
    decoder: CsvRows | NdjsonRows, start: bytes, piece: bytes
) -> None:
    with pytest.raises(BrokenTextError, match="16,777,216"):
        read(decoder, endless(start, piece))


def test_a_long_value_is_read_whatever_the_limit_of_the_process_is() -> None:
    limit = csv.field_size_limit()
    value = "x" * (10 * MIB)
    data = HEADER + f'"{value}","b","c"\n'.encode()
    parts = [data[start : start + MIB // 4] for start in range(0, len(data), MIB // 4)]
    assert read(CsvRows(), parts) == [dict(zip(COLUMNS, [value, "b", "c"], strict=True))]
    assert csv.field_size_limit() == limit < len(value)
    assert csv_rows._csv.field_size_limit() > LONGEST_RECORD


def test_lines_are_whole() -> None:
    lines = WholeLines("strict")
    assert [lines.feed(part) for part in (BOM[:1], BOM[1:] + b"a", b"b\nc", b"\n\n", b"d")] == [
        "",
        "",
        "ab\n",
        "c\n\n",
        "",
    ]
    assert lines.finish() == "d"


@quick
@given(values=st.lists(TEXTS, min_size=1, max_size=5))
def test_a_record_alone(values: list[str]) -> None:
    assert split_values(",".join('"{}"'.format(v.replace('"', '""')) for v in values)) == values


@pytest.mark.parametrize("text", ["", '"a', '"a"b', "a\nb", '"a"\n"b"'])
def test_what_is_no_record_alone(text: str) -> None:
    with pytest.raises(ValueError):
        split_values(text)
