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
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sendgrid_exports import (
    CorruptDownloadError,
    DownloadError,
    parse_contact,
    read_arrow,
    read_contacts,
    write_parquet,
)
from sendgrid_exports.contents.files import require
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


@quick
@given(
    records=st.lists(CONTACTS, max_size=12),
    cuts=st.lists(st.integers(0, 12), max_size=2),
    members=st.lists(st.integers(0, 1000), max_size=4),
    repeat=st.booleans(),
    compressed=st.booleans(),
)
def test_batches_and_parquet_are_what_the_standard_library_reads(
    records: list[tuple[str, ...]],
    cuts: list[int],
    members: list[int],
    repeat: bool,
    compressed: bool,
) -> None:
    text = (HEADER + b"".join(map(line, records))).decode()
    expected = [plain(row) for row in csv.DictReader(io.StringIO(text, newline=""))]
    places = [0, *sorted(min(cut, len(records)) for cut in cuts), len(records)]
    with TemporaryDirectory() as directory:
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
        ("0001-01-01T00:00:00Z", None),
        ("0001-01-01 00:00:00 +0000 UTC", None),
        ("0001-01-01T00:00:00.000Z", None),
        ("2021-02-01T12:35:22Z", datetime(2021, 2, 1, 12, 35, 22, tzinfo=UTC)),
        ("2021-02-01T12:35:22.123456789Z", datetime(2021, 2, 1, 12, 35, 22, 123456, tzinfo=UTC)),
        ("2021-02-01 12:35:22 +0000 UTC", datetime(2021, 2, 1, 12, 35, 22, tzinfo=UTC)),
        ("2021-02-01T14:35:22+02:00", datetime(2021, 2, 1, 12, 35, 22, tzinfo=UTC)),
    ],
)
@pytest.mark.parametrize("neighbour", ["2020-01-01T00:00:00Z", "2020-01-01 00:00:00 +0000 UTC", ""])
def test_times_are_read_in_every_spelling_whatever_stands_beside_them(
    tmp_path: Path, text: str, time: datetime | None, neighbour: str
) -> None:
    rows = [line(["1", "", "", value, text]) for value in (neighbour, text)]
    path = write(tmp_path / "a.csv", HEADER + b"".join(rows))
    assert table(path)[1]["CREATED_AT"] == time
    assert list(map(parse_contact, read_contacts(path)))[1].created_at == time
    contact = {"contact_id": "1", "created_at": text, "updated_at": neighbour}
    assert table(write(tmp_path / "a.json", json.dumps(contact).encode()))[0]["CREATED_AT"] == time
    write_parquet(path, tmp_path / "a.parquet")
    assert pq.read_table(tmp_path / "a.parquet")["CREATED_AT"].to_pylist()[1] == time


@pytest.mark.parametrize("kind", [pa.timestamp("ns", "UTC"), pa.timestamp("s"), pa.timestamp("ms")])
def test_the_zero_time_is_null_in_a_column_typed_as_asked(tmp_path: Path, kind: Any) -> None:
    rows = [line(["1", "", "", "", text]) for text in ("0001-01-01T00:00:00Z", "")]
    path = write(tmp_path / "a.csv", HEADER + b"".join(rows))
    if kind.tz is None:
        path.write_bytes(path.read_bytes().replace(b"00Z", b"00"))
    assert [row["Größe"] for row in table(path, column_types={"Größe": kind})] == [None, None]


@pytest.mark.parametrize("text", ["1500-01-01T00:00:00Z", "2500-01-01T00:00:00Z"])
def test_a_time_that_nanoseconds_cannot_hold_is_no_other_time(tmp_path: Path, text: str) -> None:
    rows = [line(["1", "", "", "", value]) for value in (text, "2024-01-01T00:00:00Z", "")]
    path = write(tmp_path / "a.csv", HEADER + b"".join(rows))
    with pytest.raises(ValueError, match="Größe"):
        table(path, column_types={"Größe": pa.timestamp("ns", "UTC")})


def test_nanoseconds_are_read_to_the_last_one(tmp_path: Path) -> None:
    rows = [line(["1", "", "", "", "2024-01-01T00:00:00.123456789Z"]), line(["2", "", "", "", ""])]
    path = write(tmp_path / "a.csv", HEADER + b"".join(rows))
    types = {"Größe": pa.timestamp("ns", "UTC")}
    with read_arrow(path, column_types=types) as reader:
        read = reader.read_all()["Größe"]
    assert read.cast(pa.int64()).to_pylist() == [1704067200123456789, None]


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
        (HEADER + ROW * 9 + b'"2","a@exam', "the record is not CSV"),
        (HEADER + ROW * 9 + b'"2",,,,"lone\n', "the record is not CSV"),
        (HEADER + ROW * 9 + b'"2","b"\n', "line 11: the record has 2 values"),
        (HEADER + ROW * 9 + b'"2","\xff",,,\n' + ROW, "line 11, column 6"),
        (HEADER + ROW + b'"2",,,"yesterday",\n', "a value of column 'CREATED_AT' is not a time"),
        (b"<html>\n<body>Forbidden</body>\n</html>\n", "found markup: '<html>'"),
        (b'"a","b"\n"c","d"\n', "expected a CSV header with CONTACT_ID and EMAIL"),
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


@pytest.mark.parametrize("size", [100, 100_000])
def test_what_comes_before_something_odd_comes_once(tmp_path: Path, size: int) -> None:
    """A time in another spelling, and a record too long for Arrow's own reading."""
    more = [f"n{number}" for number in range(12)]
    rows = [
        line([str(n), "", "", "2021-02-01T12:35:22Z", "x" * 90, *[""] * 12]) for n in range(30_000)
    ]
    odd = ["y" * size] * 12
    rows[25_000] = line(["25000", "", "", "2021-02-01 12:35:22 +0000 UTC", "", *odd])
    path = write(tmp_path / "a.csv", line([*COLUMNS, *more]) + b"".join(rows))
    read = table(path)
    assert [row["CONTACT_ID"] for row in read] == [str(n) for n in range(30_000)]
    assert {row["CREATED_AT"] for row in read} == {datetime(2021, 2, 1, 12, 35, 22, tzinfo=UTC)}
    assert [read[25_000][name] for name in more] == odd


@pytest.mark.parametrize(
    ("text", "refused"),
    [
        ('1,a""b,,,"x\ny"\n"2",,,,"\n,,,\n"', set()),
        ('1,a"b,,,"x\ny"\n"2",,,,"\n,,,\n"', {"dicts"}),
        ('"1",,a",,"', {"arrow", "dicts"}),
        ('"1",,a"b",,"x\n', {"arrow", "dicts"}),
    ],
)
def test_a_quote_within_an_unquoted_value_is_read_or_refused_but_not_guessed(
    tmp_path: Path, text: str, refused: set[str]
) -> None:
    """No quote stands there in RFC 4180."""
    data = HEADER + ROW + text.encode() + b"\n"
    path = write(tmp_path / "a.csv", data)
    readers: dict[str, Callable[[Path], list[dict[str, object]]]] = {
        "arrow": table,
        "dicts": lambda path: list(map(plain, read_contacts(path))),
    }
    for name in refused:
        with pytest.raises(CorruptDownloadError):
            readers[name](path)
    for name in readers.keys() - refused:
        records = [*csv.reader(io.StringIO(data.decode(), newline="\n"), strict=True)]
        expected = [plain(dict(zip(COLUMNS, record, strict=True))) for record in records[1:]]
        assert readers[name](path) == expected


def test_what_stands_before_a_record_is_nothing_or_all_of_it(tmp_path: Path) -> None:
    names = ["EMAIL", "CONTACT_ID", "x"]
    path = write(tmp_path / "a.csv", b"\n\n" + line(names) + line("abc"))
    assert [list(row.values()) for row in table(path)] == [list("abc")]
    mark = "\ufeff"
    for before in ("", mark, "\n\r\n"):
        data = before.encode() + line(names) + f'{mark}d,e,"f"\n{mark},,\n'.encode() + line("ghi")
        expected = [f"{mark}d", mark, "g"]
        assert [row["EMAIL"] for row in table(write(path, data))] == expected
        assert [row["EMAIL"] for row in read_contacts(path)] == expected


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
    with pytest.raises(ValueError, match="of one name"):
        write_parquet([both[0], both[0]], tmp_path / "parts", one_file_per_part=True)
    (tmp_path / "nothing").mkdir()
    with pytest.raises(DownloadError, match="No export"):
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
        require("arrow", "broken_extra")


def test_importing_the_library_loads_no_extra() -> None:
    code = "import sys, sendgrid_exports; print({'pyarrow', 'duckdb', 'numpy'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout == "set()\n"


def test_rows_and_batches_agree(both: tuple[Path, Path]) -> None:
    rows: Sequence[Mapping[str, Any]] = list(read_contacts(both[0]))
    assert table(both[0]) == [plain(row) for row in rows]
