"""Rows: what the standard library reads of the whole, however it is cut, or where it is broken."""

from __future__ import annotations

import codecs
import csv
import io
import itertools
import json
from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sendgrid_exports.formats.records import record_end
from sendgrid_exports.formats.rows import (
    LONGEST_RECORD,
    BrokenTextError,
    Rows,
    distinct_names,
    split_values,
)

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


def read(decoder: Rows, parts: Iterable[bytes]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for part in parts:
        rows += decoder.feed(part)
    return rows + list(decoder.finish())


def read_cut(data: bytes, cuts: Iterable[int] = (), **options: Any) -> list[dict[str, Any]]:
    return read(Rows(**options), pieces(data, cuts))


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
    assert read_cut(data, cuts) == read_cut(data, range(1000)) == expected
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
    objects = [{"contact_id": ""} | one for one in objects]
    text = newline.join(json.dumps(one, ensure_ascii=ascii_only) for one in objects)
    data = BOM * bom + text.encode()
    assert read_cut(data, cuts) == read_cut(data, range(1000)) == objects


def test_text_stays_text() -> None:
    data = HEADER + b'"NA","007",\n"null"," 1.0 ","\0"\n\n"=1+1","1e5","\\""\\n"\n'
    assert [list(row.values()) for row in read_cut(data)] == [
        ["NA", "007", ""],
        ["null", " 1.0 ", "\0"],
        ["=1+1", "1e5", '\\"\\n'],
    ]


@pytest.mark.parametrize(
    "data", [b"", BOM, b"\n\n", b"\n \t\r\n", HEADER, HEADER.strip(), BOM + HEADER + b"\n"]
)
def test_without_contacts_there_are_no_rows(data: bytes) -> None:
    assert read_cut(data) == read_cut(data, range(1000)) == []


def test_a_part_without_a_header_has_the_columns_of_the_one_before() -> None:
    data = b'"a","b","c"\n"d",,"e"\n'
    rows = read_cut(data, columns=COLUMNS)
    assert rows == [
        dict(zip(COLUMNS, "abc", strict=True)),
        dict(zip(COLUMNS, ["d", "", "e"], strict=True)),
    ]
    with pytest.raises(BrokenTextError, match="a record of 3 values"):
        read_cut(data, columns=COLUMNS[:2])


def test_united_columns_stand_in_their_order_and_are_empty_where_a_part_has_none() -> None:
    united = ("Other", *COLUMNS, "More")
    for data, columns in (
        (HEADER + b'"a","b","c"\n"d",,\n', None),
        (b'"a","b","c"\n"d",,\n', COLUMNS),
    ):
        rows = read_cut(data, columns=columns, united=united)
        assert [list(row) for row in rows] == [list(united)] * 2
        assert [list(row.values()) for row in rows] == [
            ["", "a", "b", "c", ""],
            ["", "d", "", "", ""],
        ]


@pytest.mark.parametrize(
    ("data", "line", "said"),
    [
        (
            b'"a","b"\n',
            1,
            "a CSV header with CONTACT_ID and EMAIL, or JSON lines, found a rec",
        ),
        (b"\n<!DOCTYPE html>\n<html>", 2, "found markup: '<!DOCTYPE html>'"),
        (
            b"<Error><Code>AccessDenied</Code></Error>",
            1,
            "found markup: '<Error>",
        ),
        (b"\n[1, 2]\n", 2, "found JSON"),
        (b"Access denied\n", 1, "found a record of 1 values"),
        (HEADER + b'"a","b"\n', 2, "the record has 2 values for 3 columns"),
        (HEADER + b'"a\n\nb","b",\n"a"\n', 5, "the record has 1 values"),
        (HEADER + b'"a","b","c","d"\n', 2, "the record has 4 values"),
        (HEADER + b'"a","b",\n"a","lone, "quote","c"\n', 3, "is not CSV"),
        (HEADER + b'"a","b",\n"a","cut', 3, "is not CSV"),
        (HEADER + b"a\rb,c,d\n", 2, "is not CSV"),
        (b'"EMAIL","CONTACT_ID', 1, "is not CSV"),
        (b"\n\n" + HEADER + b'"a"\n', 4, "the record has 1 values"),
        (b'{"errors": [{"message": "access forbidden"}]}', 1, "found an error: .* forbidden"),
        (b'\n{"error": "not found"}\n', 2, 'found an error: "not found"'),
        (b'{"status": "ready", "urls": []}\n', 1, "found an object without either"),
        (b'{"email": "a"}\n["b"]\n', 2, "expected a JSON object, found other JSON"),
        (b'{"email": "a"}\n\n"b"\n', 3, "expected a JSON object, found other JSON"),
        (b'{"email": "a"}\n' + b'{"a":' * 100_000, 2, "expected a JSON object, found broken JSON"),
        (b'{"email": "a"}\n{"a": 1,}\n', 2, "found broken JSON"),
        (b'{"email": "a"}\n<html>\n', 2, "found markup: '<html>'"),
        (b'{"email": "a"}\n' + HEADER, 2, "found other text"),
    ],
)
def test_other_text_is_an_error_that_says_what_it_is(data: bytes, line: int, said: str) -> None:
    for cuts in ((), range(1000)):
        with pytest.raises(BrokenTextError, match=f"^line {line}[:,].*{said}"):
            read_cut(data, cuts)


def test_an_error_does_not_quote_a_contact() -> None:
    for data in (
        b"ann@example.com,secret\n",
        HEADER + b"ann",
        b'{"email": "ann"}\n{"email": "ann"',
    ):
        with pytest.raises(BrokenTextError) as caught:
            read_cut(data)
        assert "ann" not in str(caught.value)


def test_an_error_that_came_as_contacts_is_quoted_without_secrets() -> None:
    with pytest.raises(BrokenTextError) as caught:
        read_cut(b'{"error": "https://storage.example/x?X-Amz-Signature=abc is gone"}')
    assert "storage.example" in str(caught.value)
    assert "abc" not in str(caught.value)


@pytest.mark.parametrize(
    ("names", "distinct"),
    [
        ("a b c", "a b c"),
        ("a A a", "a A a_(2)"),
        ("a a a b b", "a a_(2) a_(3) b b_(2)"),
        ("a a a_(2)", "a a_(3) a_(2)"),
        ("a_(2) a a a", "a_(2) a a_(3) a_(4)"),
        ("a_(2) a_(2) a a", "a_(2) a_(2)_(2) a a_(3)"),
    ],
)
def test_of_columns_of_one_name_the_first_keeps_it(names: str, distinct: str) -> None:
    def split(text: str) -> tuple[str, ...]:
        return tuple(name.replace("_", " ") for name in text.split())

    assert distinct_names(split(names)) == split(distinct)


@quick
@given(names=st.lists(st.sampled_from(["a", "A", "a (2)", "a (3)", "a (2) (2)"]), max_size=8))
def test_distinct_names_are_distinct_and_rename_as_little_as_they_can(names: list[str]) -> None:
    found = distinct_names(names)
    assert len(set(found)) == len(names)
    for place, (name, new) in enumerate(zip(names, found, strict=True)):
        assert (name == new) == (name not in names[:place])
        assert new.startswith(name)
    assert distinct_names(found) == found


SCRAPS = st.sampled_from(['"', '"', '""', '"a"', ",", "\n", "\n", "\r\n", "a", '"\n"', ',"'])


@settings(quick, max_examples=1000)
@given(values=st.lists(st.tuples(TEXTS, TEXTS), max_size=6), cut=st.integers(0, 1000))
def test_a_record_ends_where_the_standard_library_ends_it(
    values: list[tuple[str, str]], cut: int
) -> None:
    records = [f"{write(record)}\n".encode() for record in values]
    data = b"".join(records)
    ends = [0, *itertools.accumulate(map(len, records))]
    end = len(data) * cut // 1000
    assert record_end(data[:end]) == max(place for place in ends if place <= end)
    start = max(place for place in ends if place <= end)
    quoted = data[start:end].count(b'"') % 2 == 1
    later = [place - end for place in ends if place > end]
    assert record_end(data[end:], quoted=quoted) == (later[-1] if later else 0)


@settings(quick, max_examples=1000)
@given(text=st.lists(SCRAPS, max_size=14).map("".join))
def test_where_a_record_ends_the_quotes_before_it_are_even(text: str) -> None:
    data = text.encode()
    ends = [
        place + 1
        for place, byte in enumerate(data)
        if byte == ord("\n") and data[:place].count(b'"') % 2 == 0
    ]
    assert record_end(data) == max(ends, default=0)


@pytest.mark.parametrize(
    ("before", "line", "column"),
    [(b"", 3, 1), (b'"\xc3\xbc\n \xf0\x9f\xa6\x8a"', 4, 4), (b'"c",,""\n', 4, 1)],
)
def test_bytes_that_are_no_utf8_have_a_place(before: bytes, line: int, column: int) -> None:
    data = HEADER + b'"a","b",\n' + before + b"\xff\xfe\n"
    for parts in ([data], pieces(data, range(1000))):
        with pytest.raises(
            BrokenTextError, match=rf"^line {line}, column {column}: b'\\xff' is not UTF-8"
        ):
            read(Rows(), parts)


@quick
@given(values=st.lists(st.binary(max_size=6), max_size=6), cuts=CUTS)
def test_bytes_that_are_no_utf8_are_replaced_as_in_the_whole(
    values: list[bytes], cuts: list[int]
) -> None:
    data = HEADER + b"".join(b'"x","' + value.replace(b'"', b"") + b'",\n' for value in values)
    text = data.decode("utf-8", "replace")
    expected = list(csv.DictReader(io.StringIO(text, newline="")))
    assert read_cut(data, cuts, errors="replace") == expected


MIB = 1024 * 1024


def endless(start: bytes, piece: bytes) -> Iterator[bytes]:
    """Give more than enough, and fail if all of it is taken."""
    yield start
    yield from [piece] * (LONGEST_RECORD // len(piece) + 2)
    pytest.fail("it was never given up")


@pytest.mark.parametrize(
    ("start", "piece"),
    [
        (HEADER + b'"a","b\n', b"x" * MIB),
        (HEADER + b'"a","b\n', b"xxxxxxx\n" * (MIB // 8)),
        (HEADER + b'"', b"\n" * MIB),
        (b'{"a": "', b"x" * MIB),
        (b"", b"\n" * MIB),
    ],
)
def test_a_record_without_an_end_is_given_up(start: bytes, piece: bytes) -> None:
    with pytest.raises(BrokenTextError, match="no end within 16,777,216 bytes"):
        read(Rows(), endless(start, piece))


def test_a_value_beyond_the_limit_of_the_standard_library_is_an_error_that_names_it() -> None:
    limit = csv.field_size_limit()
    rows = HEADER + write(["x" * limit, "b", "c"]).encode() + b"\n"
    assert [len(row["EMAIL"]) for row in read_cut(rows)] == [limit]
    with pytest.raises(BrokenTextError, match=f"line 2: .* larger than field limit .{limit}"):
        read_cut(HEADER + write(["x" * (limit + 1), "b", "c"]).encode() + b"\n")


def test_contacts_before_something_broken_come_first() -> None:
    rows = Rows()
    contacts = rows.feed(HEADER + b'"a","1",\n\n"b","2",\n"c"\n"d","4",\n')
    assert [next(contacts)["EMAIL"], next(contacts)["EMAIL"]] == ["a", "b"]
    with pytest.raises(BrokenTextError, match="line 5"):
        next(contacts)


@quick
@given(values=st.lists(TEXTS, min_size=1, max_size=5))
def test_a_record_alone(values: list[str]) -> None:
    assert split_values(",".join('"{}"'.format(v.replace('"', '""')) for v in values)) == values


@pytest.mark.parametrize("text", ["", '"a', '"a"b', "a\nb", '"a"\n"b"'])
def test_what_is_no_record_alone(text: str) -> None:
    with pytest.raises(ValueError):
        split_values(text)
