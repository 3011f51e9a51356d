"""The journal never says more than was written to it: damage costs bytes, not correctness."""

from __future__ import annotations

import json
import zlib
from typing import Any

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sendgrid_exports.transfer.journal import Record, read_journal, write_journal, write_record

LINK = "https://storage.example/bucket/a.csv.gzip"
ONE = Record(number=1, link=LINK, etag='"one"', total=100, md5="0" * 32, done=((0, 10), (50, 100)))
TWO = Record(number=2, link=LINK, etag='"two"', total=7, checksums={"crc32": "AAAAAA=="})
JOURNAL = write_journal("x", [ONE, TWO])


def line(text: str) -> bytes:
    return b"%08x %b\n" % (zlib.crc32(text.encode()), text.encode())


def record(**changes: Any) -> bytes:
    fields = {"number": 1, "link": LINK, "etag": '"e"', "total": 100, "done": [[0, 10]]}
    return line(json.dumps(fields | changes))


def test_what_is_written_is_read() -> None:
    assert read_journal(JOURNAL, "x") == {1: ONE, 2: TWO}


@pytest.mark.parametrize("export_id", ["", "x y", "é", "a\nb", '"', "\ud800"])
def test_an_id_of_any_letters(export_id: str) -> None:
    assert read_journal(write_journal(export_id, [ONE]), export_id) == {1: ONE}


def test_the_last_record_of_a_file_counts() -> None:
    later = attrs.evolve(ONE, done=((0, 100),))
    assert read_journal(JOURNAL + write_record(later), "x") == {1: later, 2: TWO}
    nothing = attrs.evolve(ONE, done=())
    assert read_journal(JOURNAL + write_record(nothing), "x") == {1: nothing, 2: TWO}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\n",
        b"\0" * 200,
        b"garbage",
        b"garbage\n",
        JOURNAL.replace(b"\n", b"\r\n"),
        JOURNAL.replace(b"journal 1", b"journal 2"),
        write_journal("y", [ONE, TWO]),
        line(json.dumps({"journal": "sendgrid_exports journal 2", "export_id": "x"})),
        line(json.dumps({"export_id": "x"})) + write_record(ONE),
        line("[]") + write_record(ONE),
        write_record(ONE),
        JOURNAL + b"\n",
        JOURNAL + b"00000000 \n",
        JOURNAL + line("{"),
        JOURNAL + line("[]"),
        JOURNAL + line("{}"),
        JOURNAL + record(total="many"),
        JOURNAL + record(done=[[0]]),
        JOURNAL + record(done=[[0, "x"]]),
        JOURNAL + record(number=None),
        JOURNAL + write_record(ONE).upper() + write_record(TWO),
    ],
)
def test_damage_voids_all_of_it(data: bytes) -> None:
    assert read_journal(data, "x") is None


def test_bytes_that_are_no_text_void_it_even_with_their_checksum() -> None:
    body = b'{"number": 1, "link": "\xff\xfe"}'
    assert read_journal(JOURNAL + b"%08x %b\n" % (zlib.crc32(body), body), "x") is None


@pytest.mark.parametrize(
    "done", [[[0, 101]], [[-1, 5]], [[5, 5]], [[7, 3]], [[0, 10], [90, 1000]], [[100, 101]]]
)
def test_ranges_outside_of_the_file_are_not_believed(done: list[list[int]]) -> None:
    assert read_journal(write_journal("x", [TWO]) + record(done=done), "x") == {2: TWO}


def test_an_older_record_does_not_come_back_for_an_unsound_one() -> None:
    assert read_journal(JOURNAL + record(done=[[0, 101]]), "x") == {2: TWO}


def test_a_torn_last_line_is_ignored_wherever_it_is_torn() -> None:
    later = write_record(attrs.evolve(ONE, done=((0, 100),)))
    for torn in range(len(later)):
        assert read_journal(JOURNAL + later[:torn], "x") == {1: ONE, 2: TWO}


def test_a_torn_header_voids_it() -> None:
    header = write_journal("x", [])
    assert {read_journal(header[:end], "x") for end in range(len(header))} == {None}
    assert read_journal(header, "x") == {}


@settings(derandomize=True, max_examples=300, deadline=None)
@given(st.integers(0, len(JOURNAL) - 1), st.integers(0, 7))
def test_a_flipped_bit_never_makes_up_a_record(place: int, bit: int) -> None:
    damaged = bytearray(JOURNAL)
    damaged[place] ^= 1 << bit
    # The last line break gone, its line counts as torn.
    expected = {1: ONE} if place == len(JOURNAL) - 1 else None
    assert read_journal(bytes(damaged), "x") == expected


RECORDS = st.builds(
    lambda number, etag, total, cuts, md5: Record(
        number=number,
        link=LINK,
        etag=etag,
        total=total,
        md5=md5,
        done=tuple(zip(cuts[::2], cuts[1::2], strict=False)),
    ),
    st.integers(1, 3),
    st.text(max_size=5),
    st.just(60),
    st.lists(st.integers(0, 60), unique=True, max_size=6).map(sorted),
    st.none() | st.just("f" * 32),
)


@settings(derandomize=True, max_examples=100, deadline=None)
@given(st.lists(RECORDS, max_size=5), st.data())
def test_any_cut_leaves_the_records_before_it(records: list[Record], data: st.DataObject) -> None:
    journal = write_journal("x", records)
    cut = data.draw(st.integers(0, len(journal)))
    lines = journal[:cut].count(b"\n") - 1
    before = {found.number: found for found in records[: max(lines, 0)]}
    assert read_journal(journal[:cut], "x") == (before if lines >= 0 else None)


@settings(derandomize=True, max_examples=100, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_read_without_an_error(data: bytes) -> None:
    assert read_journal(data, "x") is None
