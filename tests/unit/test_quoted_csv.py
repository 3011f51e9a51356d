"""The fast way to read rows: what the standard library reads, or it is left to that."""

from __future__ import annotations

import csv
import io

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sendgrid_exports.formats import quoted_csv
from sendgrid_exports.formats.quoted_csv import QuotedCsv

COLUMNS = ("a", "b", "c")
quick = settings(derandomize=True, max_examples=400, deadline=None)

TEXTS = st.text(
    st.one_of(st.sampled_from('aü ,"\n\r\t;\0\x0b\x85\u2028🦊'), st.characters(codec="utf-8")),
    max_size=8,
)


def read(text: str, columns: tuple[str, ...] = COLUMNS) -> tuple[list[dict[str, str]], str] | None:
    """The rows, and what is left of the text."""
    found = QuotedCsv(columns, columns).read(text)
    return None if found is None else (list(found[0]), text[found[1] :])


def standard(text: str) -> list[dict[str, str]]:
    records = csv.reader(io.StringIO(text, newline="\n"), strict=True)
    return [dict(zip(COLUMNS, record, strict=True)) for record in records if record]


def write(values: tuple[str, ...]) -> str:
    return ",".join('"{}"'.format(value.replace('"', '""')) if value else "" for value in values)


@quick
@given(records=st.lists(st.tuples(TEXTS, TEXTS, TEXTS), max_size=6), opened=st.booleans())
@example(records=[('"', '""', '"a""b"'), ("\n", ',"\n",', "")], opened=True)
def test_what_is_written_like_sendgrid_does_it_is_read(
    records: list[tuple[str, str, str]], opened: bool
) -> None:
    text = "".join(write(record) + "\n" for record in records)
    rest = '"x","\n' * opened
    assert read(text + rest) == (
        [dict(zip(COLUMNS, record, strict=True)) for record in records],
        rest,
    )


SCRAPS = st.sampled_from(['"', '"', '""', '"a"', ",", ",,", "\n", "\n", "a", "\r", '"\n"', ',"'])


@settings(quick, max_examples=3000)
@given(text=st.lists(SCRAPS, max_size=14).map(lambda scraps: "".join(scraps) + "\n"))
def test_whatever_is_read_the_standard_library_reads_too(text: str) -> None:
    found = read(text)
    if found is None:
        return
    rows, rest = found
    assert rows == standard(text.removesuffix(rest))
    if rest:
        with pytest.raises(csv.Error, match="unexpected end of data"):
            standard(rest)


@pytest.mark.parametrize(
    "text",
    [
        '"a","b"\n',
        '"a","b","c","d"\n',
        '"a","b","c"\r\n',
        '"a",b,"c"\n',
        '"a", "b","c"\n',
        '"a","b"x,"c"\n',
        '1,a"b,"c"\n',
        '"a","b","c"\n1,a"b,"c\n',
    ],
)
def test_what_is_written_otherwise_is_left_alone(text: str) -> None:
    assert read(text) is None
    assert read('"a","b","c"\n' * 3 + text) is None


def test_an_empty_value_may_be_quoted() -> None:
    assert read('"","",\n\n,,\n') == ([dict.fromkeys(COLUMNS, "")] * 2, "")


def test_columns_of_other_files_are_there_and_empty() -> None:
    rows, _ = QuotedCsv(("b", "a"), COLUMNS).read('"1",\n,"2"\n') or ([], 0)
    assert [list(row.items()) for row in rows] == [
        [("a", ""), ("b", "1"), ("c", "")],
        [("a", "2"), ("b", ""), ("c", "")],
    ]


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quoted_csv, "_MOST_SHAPES", 3)
    monkeypatch.setattr(quoted_csv, "_LONGEST_SHAPE", 6)
    found = QuotedCsv(COLUMNS, COLUMNS)
    texts = ['"a",,\n', ',"a",\n', ',,"a"\n', ',,"""a"\n', ',,"""""""a"\n', '"a","a",\n']
    for text in texts * 2:
        rows, _ = found.read(text) or ([], 0)
        assert list(rows) == standard(text)
        assert len(found._shapes) <= 3
        assert all(len(shape) <= 6 for shape in found._shapes)
    assert read('"' * (quoted_csv._LONGEST_TEXT + 1)) is None
