"""Arrow and Parquet: the values that the standard library reads, typed, whatever is in the way."""

from __future__ import annotations

import csv
import gzip
import io
import itertools
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import sendgrid_exports.contents.extras
from sendgrid_exports import (
    CorruptDownloadError,
    DownloadError,
    parse_contact,
    read_arrow,
    read_contacts,
    write_parquet,
)
from sendgrid_exports.contents import arrow_batches, csv_batches
from sendgrid_exports.testing.contacts import CUSTOM_FIELDS, csv_row, make_contacts

quick = settings(derandomize=True, max_examples=60, deadline=None)

COLUMNS = ("CONTACT_ID", "EMAIL", "ALTERNATE_EMAILS", "CREATED_AT", "Größe")
TEXTS = st.text(
    st.one_of(st.sampled_from('aü ,"\n\r\t;\0\u2028🦊'), st.characters(codec="utf-8")), max_size=8
)
TIMES = st.datetimes(
    datetime.fromisoformat("1700-01-01"), datetime.fromisoformat("2200-01-01")
).map(lambda time: time.replace(microsecond=0).isoformat() + "Z")
CONTACTS = st.tuples(TEXTS, TEXTS, TEXTS, st.just("") | TIMES, TEXTS)


def line(values: Iterable[str]) -> bytes:
    """A record as SendGrid writes it: every value quoted, an empty one nothing at all."""
    quoted = ['"{}"'.format(value.replace('"', '""')) if value else "" for value in values]
    return (",".join(quoted) + "\n").encode()


HEADER = line(COLUMNS)


def table(*paths: Path | str, **options: Any) -> list[dict[str, Any]]:
    return list(read_arrow(paths, **options).read_all().to_pylist())


def plain(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of texts with the types that Arrow has for them."""
    typed: dict[str, Any] = dict(row)
    for name in {"CREATED_AT", "UPDATED_AT"} & typed.keys():
        typed[name] = datetime.fromisoformat(row[name]) if row[name] else None
    if "ALTERNATE_EMAILS" in typed:
        text = row["ALTERNATE_EMAILS"]
        try:
            [typed["ALTERNATE_EMAILS"]] = csv.reader(
                io.StringIO(text, newline=""), strict=True, skipinitialspace=True
            )
        except (csv.Error, ValueError):
            typed["ALTERNATE_EMAILS"] = [text] if text else []
    return typed


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


@contextmanager
def small_blocks(size: int) -> Iterator[None]:
    usual, csv_batches._BLOCK = csv_batches._BLOCK, size
    try:
        yield
    finally:
        csv_batches._BLOCK = usual


@quick
@given(
    records=st.lists(CONTACTS, max_size=12),
    cuts=st.lists(st.integers(0, 12), max_size=2),
    members=st.lists(st.integers(0, 1000), max_size=4),
    repeat=st.booleans(),
    compressed=st.booleans(),
    block=st.sampled_from([64, 200, 512 * 1024]),
)
def test_batches_and_parquet_are_what_the_standard_library_reads(
    records: list[tuple[str, ...]],
    cuts: list[int],
    members: list[int],
    repeat: bool,
    compressed: bool,
    block: int,
) -> None:
    text = (HEADER + b"".join(map(line, records))).decode()
    expected = [plain(row) for row in csv.DictReader(io.StringIO(text, newline=""))]
    places = [0, *sorted(min(cut, len(records)) for cut in cuts), len(records)]
    with TemporaryDirectory() as directory, small_blocks(block):
        paths = []
        for number, (start, end) in enumerate(itertools.pairwise(places)):
            data = HEADER * (repeat or not number) + b"".join(map(line, records[start:end]))
            if compressed:
                ends = [0, *sorted(len(data) * member // 1000 for member in members), len(data)]
                data = b"".join(gzip.compress(data[a:b]) for a, b in itertools.pairwise(ends))
            name = f"x-{number:05}.csv{'.gz' if compressed else ''}"
            paths.append(write(Path(directory, name), data))
        assert table(*paths) == expected
        target = Path(directory, "contacts.parquet")
        assert write_parquet(paths, target) == len(records)
        assert pq.read_table(target).to_pylist() == expected
        assert write_parquet(paths, Path(directory, "all"), one_file_per_part=True) == len(records)
        assert [
            row
            for path in sorted(Path(directory, "all").iterdir())
            for row in pq.ParquetFile(path).read().to_pylist()
        ] == expected


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The same contacts as CSV and as NDJSON."""
    directory = tmp_path_factory.mktemp("both")
    contacts = list(make_contacts(3000))
    rows = [csv_row(contact) for contact in contacts]
    texts = line(rows[0]) + b"".join(line(row.values()) for row in rows)
    objects = "".join(json.dumps(contact) + "\n" for contact in contacts)
    return (
        write(directory / "a.csv.gz", gzip.compress(texts)),
        write(directory / "b.json.gz", gzip.compress(objects.encode())),
    )


def test_the_schema_is_stable_and_typed(both: tuple[Path, Path]) -> None:
    schema = read_arrow(both[0]).schema
    types = {field.name: str(field.type) for field in schema}
    assert types.pop("CREATED_AT") == types.pop("UPDATED_AT") == "timestamp[us, tz=UTC]"
    assert types.pop("ALTERNATE_EMAILS") == "list<item: string>"
    assert set(types.values()) == {"string"}
    assert {batch.schema for batch in read_arrow(both[0])} == {schema}
    assert set(read_arrow(both[1]).schema.names) == set(schema.names)


def test_csv_and_json_of_the_same_contacts_are_the_same(both: tuple[Path, Path]) -> None:
    texts, objects = map(table, both)
    assert objects == [{name: row[name] for name in objects[0]} for row in texts]
    for row, contact in zip(texts, map(parse_contact, read_contacts(both[0])), strict=True):
        assert row["CREATED_AT"] == contact.created_at
        assert tuple(row["ALTERNATE_EMAILS"]) == contact.alternate_emails
        assert {name: row[name] for name in CUSTOM_FIELDS if row[name]} == contact.custom_fields


def test_text_stays_text(tmp_path: Path) -> None:
    texts = ["NA", "null", "007", "1e5", " ", "true", "-", '"', "\0", "N/A", "", "line\r\nbreak"]
    data = HEADER + b"".join(line([str(n), text, "", "", text]) for n, text in enumerate(texts))
    rows = table(write(tmp_path / "a.csv", data))
    assert [row["EMAIL"] for row in rows] == [row["Größe"] for row in rows] == texts


@pytest.mark.parametrize(
    ("text", "emails"),
    [
        ("", []),
        ('"a@b"', ["a@b"]),
        ('"a@b","c,""d""@e"', ["a@b", 'c,"d"@e']),
        ('"a@b", "c@d"', ["a@b", "c@d"]),
        ("a@b,c@d", ["a@b", "c@d"]),
        ('"a@b', ['"a@b']),
        ('"', ['"']),
        ('""', [""]),
    ],
)
def test_alternate_emails_are_a_list_of_which_nothing_is_lost(
    tmp_path: Path, text: str, emails: list[str]
) -> None:
    rows = [line(["1", "", value, "", ""]) for value in ("", text, '"x@y"', "")]
    path = write(tmp_path / "a.csv", HEADER + b"".join(rows))
    assert [row["ALTERNATE_EMAILS"] for row in table(path)] == [[], emails, ["x@y"], []]


@pytest.mark.parametrize(
    ("text", "time"),
    [
        ("", None),
        ("2021-02-01T12:35:22Z", datetime(2021, 2, 1, 12, 35, 22, tzinfo=UTC)),
        ("2021-02-01T12:35:22.123456789Z", datetime(2021, 2, 1, 12, 35, 22, 123456, tzinfo=UTC)),
        ("2021-02-01 12:35:22 +0000 UTC", datetime(2021, 2, 1, 12, 35, 22, tzinfo=UTC)),
        ("2021-02-01T14:35:22+02:00", datetime(2021, 2, 1, 12, 35, 22, tzinfo=UTC)),
    ],
)
def test_times_are_read_in_every_spelling(tmp_path: Path, text: str, time: datetime | None) -> None:
    rows = [line(["1", "", "", value, ""]) for value in ("2020-01-01T00:00:00Z", text)]
    path = write(tmp_path / "a.csv", HEADER + b"".join(rows))
    assert table(path)[1]["CREATED_AT"] == time


def test_parts_whose_columns_differ_are_united_by_name(tmp_path: Path) -> None:
    first = write(tmp_path / "a.csv", line(["EMAIL", "CONTACT_ID", "x"]) + line("abc"))
    second = write(
        tmp_path / "b.csv", line(["CONTACT_ID", "CREATED_AT", "EMAIL"]) + line(["d", "", "f"])
    )
    third = write(tmp_path / "c.csv", line(["g", "", "h"]))
    names = ["EMAIL", "CONTACT_ID", "x", "CREATED_AT"]
    assert [list(row.values()) for row in table(first, second, third)] == [
        ["a", "b", "c", None],
        ["f", "d", "", None],
        ["h", "g", "", None],
    ]
    assert read_arrow([first, second, third]).schema.names == names


def test_custom_fields_are_typed_where_asked(both: tuple[Path, Path], tmp_path: Path) -> None:
    types = {"lifetime_value": pa.float64(), "Signed_Up_On": pa.timestamp("s", "UTC")}
    for path in both:
        batches = read_arrow(path, column_types=types)
        assert batches.schema.field("lifetime_value").type == pa.float64()
        values = batches.read_all().column("lifetime_value").to_pylist()
        assert values == [
            float(row["lifetime_value"]) if row["lifetime_value"] else None
            for row in table(both[0])
        ]
        with pytest.raises(ValueError, match="column_types asks for int64 in column 'Plan'"):
            read_arrow(path, column_types={"Plan": pa.int64()}).read_all()
        with pytest.raises(ValueError, match="column_types names 'plam'"):
            read_arrow(path, column_types={"plam": pa.int64()})
        write_parquet(path, tmp_path / "typed.parquet", column_types=types)
        assert pq.read_schema(tmp_path / "typed.parquet").field("lifetime_value").type == "double"
    raw = read_arrow(both[0], column_types={"ALTERNATE_EMAILS": pa.string()}).read_all()
    assert raw.column("ALTERNATE_EMAILS").to_pylist() == [
        row["ALTERNATE_EMAILS"] for row in read_contacts(both[0])
    ]


def test_json_of_every_shape_becomes_texts(tmp_path: Path) -> None:
    contact = {
        "contact_id": "1",
        "first_name": None,
        "alternate_emails": ["a,b", 'c"d'],
        "custom_fields": {"n": 12.5, "b": True, "z": None, "o": {"ü": [1]}, "s": "\ud83d"},
        "new_key": 7,
    }
    path = write(tmp_path / "a.json", json.dumps(contact).encode())
    [row] = table(path)
    assert {name: value for name, value in row.items() if value} == {
        "CONTACT_ID": "1",
        "ALTERNATE_EMAILS": ["a,b", 'c"d'],
        "n": "12.5",
        "b": "true",
        "o": '{"ü":[1]}',
        "s": "?",
        "NEW_KEY": "7",
    }
    path.write_text('{"contact_id": "1", "email": "a", "custom_fields": {"EMAIL": "b"}}')
    with pytest.raises(CorruptDownloadError, match="a custom field is called 'EMAIL'"):
        read_arrow(path)


@pytest.mark.parametrize("data", [b"", b"\n", HEADER, HEADER.strip(), b"\xef\xbb\xbf" + HEADER])
def test_without_contacts_there_are_no_rows(tmp_path: Path, data: bytes) -> None:
    path = write(tmp_path / "a.csv", data)
    assert table(path) == []
    assert write_parquet(path, tmp_path / "a.parquet") == 0
    assert "CONTACT_ID" in pq.read_schema(tmp_path / "a.parquet").names


ROW = line(["1", "a@example.com", "", "", "text"])


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (HEADER + ROW * 9 + b'"2","a@exam', "the record is no CSV"),
        (HEADER + ROW * 9 + b'"2",,,,"lone\n', "the record is no CSV"),
        (HEADER + ROW * 9 + b'"2","b"\n', "line 11: the record has 2 values"),
        (HEADER + ROW * 9 + b'"2","\xff",,,\n' + ROW, "line 11, column 6"),
        (HEADER + ROW + b'"2",,,"yesterday",\n', "a value of column 'CREATED_AT' is no time"),
        (b"<html>\n<body>Forbidden</body>\n</html>\n", "markup: '<html>'"),
        (b'"a","b"\n"c","d"\n', "there should be the columns CONTACT_ID and EMAIL"),
        (gzip.compress(HEADER + ROW * 5000)[:-30], "gzip"),
        (gzip.compress(HEADER + ROW)[:-8] + b"\0" * 8, "gzip"),
    ],
)
def test_what_is_broken_is_an_error_and_no_file(tmp_path: Path, data: bytes, reason: str) -> None:
    path = write(tmp_path / "a.csv", data)
    with pytest.raises(CorruptDownloadError, match=reason) as caught:
        table(path)
    assert caught.value.path == path
    assert "example.com" not in str(caught.value)
    assert "yesterday" not in str(caught.value)
    with pytest.raises(CorruptDownloadError):
        write_parquet([path], tmp_path / "there.parquet")
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.csv"]


@pytest.mark.parametrize("bad", [b'{"contact_id"', b"[]", b"<html>", b'"text"'])
def test_what_is_no_json_is_an_error(tmp_path: Path, bad: bytes) -> None:
    path = write(tmp_path / "a.json", b'{"contact_id": "1"}\n' + bad)
    with pytest.raises(CorruptDownloadError, match="line 2"):
        read_arrow(path)


def test_what_comes_before_something_odd_comes_once(tmp_path: Path) -> None:
    rows = [line([str(n), "", "", "2021-02-01T12:35:22Z", "x" * 90]) for n in range(3000)]
    rows[2500] = line(["2500", "", "", "2021-02-01 12:35:22 +0000 UTC", "y" * 300_000])
    path = write(tmp_path / "a.csv", HEADER + b"".join(rows))
    with small_blocks(10_000):
        read = table(path)
    assert [row["CONTACT_ID"] for row in read] == [str(n) for n in range(3000)]
    assert {row["CREATED_AT"] for row in read} == {datetime(2021, 2, 1, 12, 35, 22, tzinfo=UTC)}


def test_a_quote_within_an_unquoted_value_is_read_or_refused_but_not_guessed(
    tmp_path: Path,
) -> None:
    data = HEADER + b'1,a"b,,,"x\ny"\n' + b'"2",,,,"\n,,,\n"\n' * 2
    assert [row["Größe"] for row in table(write(tmp_path / "a.csv", data))] == [
        "x\ny",
        "\n,,,\n",
        "\n,,,\n",
    ]


def one_by_one(lines: Iterable[bytes]) -> bytes:
    """Lines as gzip that is read line by line."""
    return b"".join(map(gzip.compress, lines))


@pytest.mark.parametrize("block", [1, 100, 5000, csv_batches._BLOCK])
def test_what_sendgrid_writes_is_read_by_arrow_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    rows = [csv_row(contact) for contact in make_contacts(500)]
    text = b"\xef\xbb\xbf" + line(rows[0]) + b"".join(line(row.values()) for row in rows)
    path = write(tmp_path / "a.csv.gz", one_by_one(text.splitlines(keepends=True)))
    expected = list(map(plain, read_contacts(path)))
    monkeypatch.delattr(arrow_batches, "_texts")
    with small_blocks(block):
        assert table(path) == expected


@quick
@given(records=st.lists(CONTACTS, min_size=1, max_size=6), cut=st.integers(0, 1000))
def test_a_record_ends_where_it_is_said_to(records: list[tuple[str, ...]], cut: int) -> None:
    lines = [line(record) for record in records]
    ends = set(itertools.accumulate(map(len, lines)))
    text = b"".join(lines)
    start = len(text) * cut // 1000
    for end in range(start, len(text) + 1):
        found = csv_batches._record_end(text[start:end])
        assert not found or start + found in ends


@pytest.mark.parametrize(
    ("text", "end"),
    [
        (b'"a","b"\n', 8),
        (b'"a"\r\n"b"\r\n', 10),
        (b'"a",,\n,,\n', 6),
        (b'x"\n', 3),
        (b'x"""\n', 5),
        (b'x"",\n', 0),
        (b'x""""\n', 0),
        (b'"\n', 0),
        (b',"\n', 0),
        (b'\n",\n', 0),
        (b"a,b\n", 0),
        (b"", 0),
    ],
)
def test_where_a_record_ends_for_certain(text: bytes, end: int) -> None:
    assert csv_batches._record_end(text) == end


def test_what_stands_before_a_record_is_nothing_or_all_of_it(tmp_path: Path) -> None:
    names = ["EMAIL", "CONTACT_ID", "x"]
    path = write(tmp_path / "a.csv", b"\n\n" + line(names) + line("abc"))
    assert [list(row.values()) for row in table(path)] == [list("abc")]
    mark = "\ufeff"
    lines = [line(names), line("abc"), f'{mark}d,e,"f"\n'.encode(), line("ghi")]
    write(path, one_by_one(lines))
    with small_blocks(1):
        assert [row["EMAIL"] for row in table(path)] == ["a", f"{mark}d", "g"]


def test_leaving_early_leaves_no_thread_of_ours(both: tuple[Path, Path]) -> None:
    before = threading.active_count()
    reader = read_arrow(both[0])
    next(iter(reader))
    del reader
    assert threading.active_count() <= before


def test_a_parquet_file_is_replaced_whole_or_not_at_all(
    both: tuple[Path, Path], tmp_path: Path
) -> None:
    target = tmp_path / "contacts.parquet"
    write_parquet(both[0], target)
    before = target.read_bytes()
    broken = write(tmp_path / "a.csv", HEADER + ROW * 9 + b'"')
    with pytest.raises(CorruptDownloadError):
        write_parquet([broken], target)
    assert target.read_bytes() == before
    with pytest.raises(ValueError, match="one name"):
        write_parquet([both[0], both[0]], tmp_path / "parts", one_file_per_part=True)
    (tmp_path / "nothing").mkdir()
    with pytest.raises(DownloadError, match="no export"):
        write_parquet(tmp_path / "nothing", target)
    with pytest.raises(OSError, match="nowhere"):
        write_parquet(both[0], tmp_path / "nowhere" / "a.parquet")


def test_what_is_another_text_in_every_contact_has_no_dictionary(
    both: tuple[Path, Path], tmp_path: Path
) -> None:
    target = tmp_path / "contacts.parquet"
    write_parquet(both[0], target)
    group = pq.read_metadata(target).row_group(0)
    columns = [group.column(n) for n in range(group.num_columns)]
    found = {column.path_in_schema: column.has_dictionary_page for column in columns}
    assert not found["EMAIL"]
    assert not found["CONTACT_ID"]
    assert found["COUNTRY"]
    assert found["Plan"]


def test_memory_is_bounded_whatever_the_file_is(tmp_path: Path) -> None:
    def peak(path: Path) -> int:
        code = (
            "import re, resource, sys\n"
            "from sendgrid_exports import CorruptDownloadError, write_parquet\n"
            "try: write_parquet(sys.argv[1], sys.argv[2])\n"
            "except CorruptDownloadError as error: assert '16,777,216' in str(error), error\n"
            "if sys.platform == 'linux':\n"
            # Unlike ru_maxrss, this leaves out what the parent had when it forked.
            "    print(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1])\n"
            "else: print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
        )
        command = [sys.executable, "-c", code, str(path), str(tmp_path / "out.parquet")]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        return int(done.stdout) * (1 if sys.platform == "darwin" else 1024)

    rows = b"".join(line(csv_row(contact).values()) for contact in make_contacts(3000))
    header = line(csv_row(next(make_contacts(1))))
    few = write(tmp_path / "few.csv.gz", gzip.compress(header + rows))
    many = write(tmp_path / "many.csv.gz", gzip.compress(header) + gzip.compress(rows) * 100)
    bomb = write(tmp_path / "bomb.csv.gz", gzip.compress(HEADER + b'"' + b"x" * 100_000_000))
    least = peak(few)
    assert peak(many) < least + 150 * 1024 * 1024
    assert peak(bomb) < least + 250 * 1024 * 1024


def test_without_the_extra_the_error_says_what_to_install(
    both: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ImportError, match=r"pip install 'sendgrid-exports\[arrow\]'") as caught:
        read_arrow(both[0])
    assert caught.value.name == "pyarrow"
    with pytest.raises(ImportError, match="sendgrid-exports"):
        write_parquet(both[0], "never.parquet")
    assert not os.path.lexists("never.parquet")


def test_a_broken_extra_says_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "broken_extra.py").write_text("import not_there_at_all")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="not_there_at_all"):
        sendgrid_exports.contents.extras.require("arrow", "broken_extra")


def test_importing_the_library_loads_no_extra() -> None:
    code = "import sys, sendgrid_exports; print({'pyarrow', 'duckdb', 'numpy'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout == "set()\n"


def test_rows_and_batches_agree(both: tuple[Path, Path]) -> None:
    rows: Sequence[Mapping[str, Any]] = list(read_contacts(both[0]))
    assert table(both[0]) == [plain(row) for row in rows]
