"""Records: counted as csv.reader and a reader of lines would, however they are cut."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sendgrid_exports.formats.records import CsvCounter, NdjsonCounter, record_counter

BOM = b"\xef\xbb\xbf"
HEADER = b'"EMAIL","FIRST_NAME","CONTACT_ID","Shoe, ""size"""\n'
quick = settings(derandomize=True, max_examples=100, deadline=None)

VALUES = st.text(st.sampled_from('aü ,"\n\r\t;'), max_size=6)
ROWS = st.lists(st.lists(VALUES, min_size=1, max_size=4), max_size=6)
CUTS = st.lists(st.integers(0, 1000), max_size=10)


def write(row: list[str]) -> str:
    """A record as SendGrid writes it: every value quoted, an empty one nothing at all."""
    return ",".join('"{}"'.format(value.replace('"', '""')) if value else "" for value in row)


def count(kind: str, data: bytes, cuts: Iterable[int] = ()) -> int | None:
    """Feed `data`, cut at the given thousandths of its length."""
    counter = record_counter(kind)
    places = sorted({0, len(data), *(len(data) * cut // 1000 for cut in cuts)})
    for start, end in pairwise(places):
        counter.feed(data[start:end])
    return counter.finish()


@quick
@given(
    rows=ROWS,
    header=st.booleans(),
    bom=st.booleans(),
    newline=st.sampled_from(["\n", "\r\n"]),
    ended=st.booleans(),
    cuts=CUTS,
)
@example(
    rows=[["\n"], [""], ['"'], ["", ""]],
    header=False,
    bom=False,
    newline="\r\n",
    ended=True,
    cuts=[],
)
def test_csv_is_counted_as_csv_reader_does(
    rows: list[list[str]], header: bool, bom: bool, newline: str, ended: bool, cuts: list[int]
) -> None:
    text = newline.join(write(row) for row in rows) + newline * ended
    expected = sum(1 for row in csv.reader(io.StringIO(text, newline="")) if row)
    data = (HEADER if header else b"") + text.encode()
    mark = BOM if bom and data.strip() and data[:1] not in b"\r\n" else b""
    assert count("csv", mark + data, cuts) == expected


def count_one_by_one(text: bytes) -> int | None:
    """Count the records of CSV in the plainest way; None where a quote never ended."""
    records, record = 0, b""
    for place in range(len(text)):
        char = text[place : place + 1]
        if char == b"\n" and record.count(b'"') % 2 == 0:
            records += record.strip(b"\r") != b""
            record = b""
        else:
            record += char
    if record.count(b'"') % 2:
        return None
    return records + (record.strip(b"\r") != b"")


HOSTILE = st.lists(
    st.sampled_from([b'"', b'""', b'"\n', b"\n", b"\n\n", b"\r\n", b"\r", b",", b"a", b" ", b"{"]),
    max_size=30,
).map(b"".join)


@settings(derandomize=True, max_examples=1000, deadline=None)
@given(text=HOSTILE, header=st.booleans(), bom=st.booleans(), cuts=CUTS)
@example(text=b'"\n\n\n"\n\n"a"\n', header=True, bom=False, cuts=[])
@example(text=b"\n\n\r\na\n\n", header=False, bom=True, cuts=[1, 2, 999])
def test_hostile_text_is_counted_by_the_quotes_before_each_line_feed(
    text: bytes, header: bool, bom: bool, cuts: list[int]
) -> None:
    data = (BOM if bom else b"") + (HEADER if header else b"") + text
    assert count("csv", data, cuts) == count_one_by_one(text)


@pytest.mark.parametrize(
    ("record", "records"),
    [(b'"a\n\nb",\n', 1), (b"\n", 0), (b"a,b\r\n", 1), (b'"",\n', 1), (b'""",\n"\n', 1)],
)
def test_many_records_are_counted_in_blocks_of_any_size(record: bytes, records: int) -> None:
    data = HEADER + record * 5000
    for cuts in ((), range(1000), (1, 500)):
        assert count("csv", data, cuts) == records * 5000


@pytest.mark.parametrize(
    ("data", "contacts"),
    [
        (b"", 0),
        (b"\n", 0),
        (b"\r\n\r\n\n", 0),
        (HEADER, 0),
        (HEADER.strip(), 0),
        (HEADER.replace(b'"', b"").replace(b"\n", b"\r\n"), 0),
        (b"\n\n" + HEADER + b"\n", 0),
        (BOM + HEADER + b'"a@b","A","1",\n', 1),
        (HEADER + b'"a@b","A","1",', 1),
        (HEADER + b',,"1",\r\n\r\n"a@b",,"2",\r\n', 2),
        (HEADER + b'"a@b","two\n\nlines, ""quoted""\r\n","1",\n', 1),
        (b'"a@b","A","1",\n"c@d","C","2",\n', 2),
        (b'"EMAIL","FIRST_NAME"\n"a@b","A"\n', 2),
        (b'"email","contact_id"\n', 1),
        (b'"EMAIL","CONTACT_ID\n', None),
        (HEADER + b'"a@b","cut', None),
        (b'""\n', 1),
        (b" \n", 1),
        (b'"a\xff","CONTACT_ID","EMAIL"\n', 0),
        (b"\r\r\r", 0),
        (b"\r\r\r\n" + HEADER + b'"a@b","A","1",\n\r', 1),
        (b'"\r\n\r\n"', 1),
        (b'"EMAIL","CONTACT_ID"\n"a","1"\n"EMAIL","CONTACT_ID"\n', 2),
    ],
)
def test_csv(data: bytes, contacts: int | None) -> None:
    assert count("csv", data) == contacts
    assert count("csv", data, range(1000)) == contacts


@pytest.mark.parametrize("kind", ["csv", "json"])
@pytest.mark.parametrize("data", [BOM, BOM + b"\n", BOM + b"\r\n"])
def test_a_byte_order_mark_is_no_record(kind: str, data: bytes) -> None:
    assert count(kind, data) == 0


@pytest.mark.parametrize("size", [100, 200_000, 3 * 1024 * 1024])
def test_a_first_record_of_any_size_is_a_record(size: int) -> None:
    data = b'"' + b"x" * size + b'"\n"b"\n'
    assert count("csv", data) == count("csv", data, range(1000)) == 2


def test_a_header_of_many_columns_is_a_header() -> None:
    columns = ",".join(f'"Field {n}"' for n in range(500))
    assert count("csv", b'"EMAIL","CONTACT_ID",' + columns.encode() + b"\n", range(1000)) == 0


@quick
@given(
    lines=st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\n")), max_size=8),
    newline=st.sampled_from([b"\n", b"\r\n"]),
    ended=st.booleans(),
    cuts=CUTS,
)
@example(lines=['{"name": "a\u2028b"}', "", " \t", "{}"], newline=b"\r\n", ended=False, cuts=[])
def test_ndjson_is_counted_by_lines(
    lines: list[str], newline: bytes, ended: bool, cuts: list[int]
) -> None:
    data = newline.join(line.encode() for line in lines) + newline * ended
    expected = sum(1 for line in data.split(b"\n") if line.strip())
    assert count("json", data, cuts) == expected


@pytest.mark.parametrize(
    ("data", "contacts"),
    [
        (b"", 0),
        (b"\n \r\n\t\n", 0),
        (b'{"contact_id": "1"}', 1),
        (b'{"contact_id": "1"}\n{"contact_id": "2"}\n', 2),
        (b'{"a": "x\\ny"}\r\n\r\n{}', 2),
        (b'{"a": "\xe2\x80\xa8"}\n', 1),
    ],
)
def test_ndjson(data: bytes, contacts: int) -> None:
    assert count("json", data) == count("json", data, range(1000)) == contacts


def test_a_counter_for_each_kind_of_file() -> None:
    assert isinstance(record_counter("csv"), CsvCounter)
    assert isinstance(record_counter("json"), NdjsonCounter)
