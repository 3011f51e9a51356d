"""Contacts from files: the same whatever the parts, the compression and the way to ask for them."""

from __future__ import annotations

import asyncio
import csv
import gzip
import io
import json
import sys
import threading
import tracemalloc
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sendgrid_exports import (
    CorruptDownloadError,
    DownloadError,
    compare_exports,
    parse_contact,
    read_arrow,
    read_contacts,
    read_contacts_async,
    write_parquet,
)
from sendgrid_exports.contents import files
from sendgrid_exports.testing import make_contacts
from sendgrid_exports.testing.contacts import csv_row
from tests.integration.conftest import MakeClient, MakeFake

COLUMNS = ("EMAIL", "CONTACT_ID", "Note")
TEXTS = st.text(st.one_of(st.sampled_from('aü ,"\n\r'), st.characters(codec="utf-8")), max_size=6)
MIB = 1024 * 1024
quick = settings(
    derandomize=True,
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def record(values: Sequence[str]) -> bytes:
    values = ['"{}"'.format(value.replace('"', '""')) if value else "" for value in values]
    return ",".join(values).encode() + b"\n"


HEADER = record(COLUMNS)


def write(directory: Path, *parts: bytes, kind: str = "csv") -> list[Path]:
    paths = [directory / f"x-{n:05}.{kind}.gz" for n in range(1, len(parts) + 1)]
    for path, part in zip(paths, parts, strict=True):
        path.write_bytes(part)
    return paths


@pytest.fixture(params=["isal", "zlib"])
def inflater(request: pytest.FixtureRequest) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "isal":
            pytest.importorskip("isal")
        else:
            patch.setattr(files, "_ISAL", None)
        yield


@quick
@given(
    rows=st.lists(st.tuples(TEXTS, TEXTS, TEXTS), max_size=8),
    parts=st.integers(1, 4),
    repeat_header=st.booleans(),
    members=st.lists(st.integers(0, 1000), max_size=4),
    compressed=st.booleans(),
)
@pytest.mark.usefixtures("inflater")
def test_any_rows_in_any_parts_and_gzip_members(
    tmp_path: Path,
    rows: list[tuple[str, str, str]],
    parts: int,
    repeat_header: bool,
    members: list[int],
    compressed: bool,
) -> None:
    share = -(-len(rows) // parts)
    bodies = []
    for part in range(parts):
        body = b"".join(map(record, rows[part * share : (part + 1) * share]))
        body = (HEADER if repeat_header or part == 0 else b"") + body
        if compressed:
            places = sorted({0, len(body), *(len(body) * cut // 1000 for cut in members)})
            cuts = [body[a:b] for a, b in zip(places, [*places[1:], len(body)], strict=True)]
            body = b"".join(map(gzip.compress, cuts))
        bodies.append(body)
    found = list(read_contacts(write(tmp_path, *bodies)))
    whole = (HEADER + b"".join(map(record, rows))).decode()
    assert found == list(csv.DictReader(io.StringIO(whole, newline="")))


@pytest.mark.parametrize("repeat_header", [True, False])
@pytest.mark.parametrize("file_type", ["csv", "json"])
async def test_what_was_exported_is_what_is_read(
    make_fake: MakeFake,
    make_client: MakeClient,
    tmp_path: Path,
    file_type: str,
    repeat_header: bool,
) -> None:
    fake = await make_fake(contacts=700, files=3, repeat_header=repeat_header)
    export_id = await fake.add_export(file_type=file_type)
    result = await make_client(fake).fetch(export_id, tmp_path)
    expected = list(fake.rows_of(export_id) if file_type == "csv" else fake.contacts_of(export_id))
    read = [
        await asyncio.to_thread(list, read)
        for read in (
            await asyncio.to_thread(read_contacts, result),
            await asyncio.to_thread(read_contacts, tmp_path),
            await asyncio.to_thread(read_contacts, tmp_path, export_id=export_id),
        )
    ]
    async with read_contacts_async(tmp_path, batch_size=64) as batches:
        found = [batch async for batch in batches]
    assert [len(batch) for batch in found] == [64] * 10 + [60]
    read.append([row for batch in found for row in batch])
    assert read == [expected] * 4


async def test_csv_and_json_of_the_same_contacts_are_the_same_contacts(
    make_fake: MakeFake, make_client: MakeClient, tmp_path: Path
) -> None:
    fake = await make_fake(contacts=300)
    parsed = []
    for file_type in ("csv", "json"):
        export_id = await fake.add_export(file_type=file_type)
        await make_client(fake).fetch(export_id, tmp_path)
        async with read_contacts_async(tmp_path, export_id=export_id) as batches:
            parsed.append([parse_contact(row) async for batch in batches for row in batch])
    assert parsed[0] == parsed[1]
    assert len(parsed[0]) == 300


def test_parts_whose_columns_differ_are_united_by_name(tmp_path: Path) -> None:
    paths = write(
        tmp_path,
        b"",
        record(["EMAIL", "CONTACT_ID", "a"]) + record(["e1", "1", "A"]),
        record(["b", "CONTACT_ID", "EMAIL"]) + record(["B", "2", "e2"]) + record(["", "3", ""]),
        record(["B", "4", "e4"]),
        record(["CONTACT_ID", "EMAIL"]),
    )
    rows = list(read_contacts(paths))
    assert [list(row) for row in rows] == [["EMAIL", "CONTACT_ID", "a", "b"]] * 4
    assert [tuple(row.values()) for row in rows] == [
        ("e1", "1", "A", ""),
        ("e2", "2", "", "B"),
        ("", "3", "", ""),
        ("e4", "4", "", "B"),
    ]


def test_a_header_longer_than_a_step_is_united_too(tmp_path: Path) -> None:
    many = [*COLUMNS, *(f"Field number {n}" for n in range(10_000))]
    values = [str(n) for n in range(len(many))]
    paths = write(tmp_path, HEADER, record(many) + record(values))
    [row] = read_contacts(paths)
    assert row == dict(zip(many, values, strict=True))


@pytest.mark.parametrize("kind", ["csv", "json"])
def test_no_rows(tmp_path: Path, kind: str) -> None:
    assert list(read_contacts(write(tmp_path, b"", kind=kind))) == []
    assert list(read_contacts(write(tmp_path, gzip.compress(b"", mtime=0), b"\n", kind=kind))) == []
    if kind == "csv":
        assert list(read_contacts(write(tmp_path, HEADER, gzip.compress(HEADER)))) == []


GOOD = gzip.compress(HEADER + record(["e", "1", "n"]) * 50, mtime=0)


@pytest.mark.parametrize(
    ("part", "said"),
    [
        (GOOD[:-1], "its gzip data is damaged after"),
        (GOOD[:-8] + bytes(8), "its gzip data is damaged after"),
        (HEADER + b'"a\xff"', "line 2, column 3: b'\\\\xff' is not UTF-8"),
        (b"<!DOCTYPE html>\n<html></html>", "line 1: .* found markup: '<!DOCTYPE html>'"),
        (gzip.compress(b'"a"\n', mtime=0), "line 1: .* a record of 1 values"),
        (HEADER + b'"e","1","a lone quote\n"f","2","n"\n', "line 2: the record is not CSV"),
    ],
)
@pytest.mark.usefixtures("inflater")
def test_a_corrupt_file_is_named_with_the_place(tmp_path: Path, part: bytes, said: str) -> None:
    [path] = write(tmp_path, part)
    with pytest.raises(CorruptDownloadError, match=said) as caught:
        list(read_contacts(path))
    assert caught.value.path == path
    assert str(path) in str(caught.value)
    [_, second] = write(tmp_path, HEADER, part)
    with pytest.raises(CorruptDownloadError) as caught:
        list(read_contacts(tmp_path))
    assert caught.value.path == second


PAGES = [
    (b"<!DOCTYPE html>\n<html><body>Sign in</body></html>\n", "found markup: '<!DOCTYPE html>"),
    (b'<?xml version="1.0"?>\n<Error><Code>AccessDenied</Code></Error>', "found markup: '<.xml"),
    (b'{"errors": [{"message": "access forbidden"}]}', "found an error: .*access forbidden"),
    (b"upstream connect error\n", "expected a CSV header with CONTACT_ID and EMAIL"),
]


@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize("kind", ["csv", "json"])
@pytest.mark.parametrize(("page", "said"), PAGES)
async def test_a_page_in_the_place_of_contacts_is_refused_by_every_reader(
    make_fake: MakeFake,
    make_client: MakeClient,
    tmp_path: Path,
    page: bytes,
    said: str,
    kind: str,
    compressed: bool,
) -> None:
    body = gzip.compress(page) if compressed else page
    [path] = await asyncio.to_thread(write, tmp_path, body, kind=kind)

    def read_all() -> None:
        for read in (lambda: list(read_contacts(path)), lambda: read_arrow(path)):
            with pytest.raises(CorruptDownloadError, match=said) as caught:
                read()
            assert caught.value.path == path

    await asyncio.to_thread(read_all)
    fake = await make_fake()
    client = make_client(fake)
    export = await client.wait(await fake.add_export(bodies=[body], file_type=kind))
    with pytest.raises(
        CorruptDownloadError,
        match=r"fails its checks: it is (an HTML page|markup|text without|a JSON object without)",
    ):
        async with client.stream_contacts(export) as batches:
            [batch async for batch in batches]


async def test_the_kind_of_a_file_is_that_of_its_content(
    make_fake: MakeFake, make_client: MakeClient, tmp_path: Path
) -> None:
    """Under any name, and from a link whose name says otherwise."""
    fake = await make_fake(contacts=50)
    exports = {kind: await fake.add_export(file_type=kind) for kind in ("csv", "json")}
    expected: dict[str, list[dict[str, Any]]] = {
        "csv": list(fake.rows_of(exports["csv"])),
        "json": list(fake.contacts_of(exports["json"])),
    }
    for kind, export_id in exports.items():
        [body] = await fake.file_bytes(export_id)

        def read(body: bytes = body) -> list[Any]:
            found: list[Any] = []
            for name in ("x.csv", "x.json.gz", "x.ndjson", "x"):
                (tmp_path / name).write_bytes(body)
                found.append(list(read_contacts(tmp_path / name)))
                found.append(read_arrow(tmp_path / name).read_all().num_rows)
            return found

        assert await asyncio.to_thread(read) == [expected[kind], 50] * 4
        other = await fake.add_export(
            bodies=[body], file_type="json" if kind == "csv" else "csv", contact_count=50
        )
        client = make_client(fake)
        async with client.stream_contacts(await client.wait(other)) as batches:
            assert [row async for batch in batches for row in batch] == expected[kind]


def test_csv_and_json_may_follow_each_other(tmp_path: Path) -> None:
    paths = write(tmp_path, HEADER + record("abc"), b'{"contact_id": "1"}\n', record("def"))
    assert list(read_contacts(paths)) == [
        dict(zip(COLUMNS, "abc", strict=True)),
        {"contact_id": "1"},
        dict(zip(COLUMNS, "def", strict=True)),
    ]


def test_of_columns_of_one_name_the_first_keeps_it(tmp_path: Path) -> None:
    """As where a custom field was made before its name became a reserved one."""
    names = ["EMAIL", "CONTACT_ID", "external_id", "EXTERNAL_ID", "EXTERNAL_ID", "EXTERNAL_ID (2)"]
    distinct = [*names[:4], "EXTERNAL_ID (3)", "EXTERNAL_ID (2)"]
    paths = write(tmp_path, record(names) + record("abcdef"), record(names) + record("ghijkl"))
    expected = [dict(zip(distinct, values, strict=True)) for values in ("abcdef", "ghijkl")]
    assert list(read_contacts(paths[0])) == expected[:1]
    assert list(read_contacts(paths)) == expected
    assert read_arrow(paths).read_all().to_pylist() == expected
    write_parquet(paths, tmp_path / "x.parquet")
    assert pq.read_table(tmp_path / "x.parquet").to_pylist() == expected
    with compare_exports(paths[0], paths[1]) as comparison:
        removed = next(change for change in comparison if change.kind == "removed")
    assert {"CONTACT_ID": "b"} | {f.name: f.old for f in removed.fields} == expected[0]


@pytest.mark.parametrize(("name", "value"), [("EMAIL", "a"), ("EXTERNAL_ID", ""), ("CITY", "é")])
def test_a_custom_field_named_like_a_reserved_column_is_the_same_from_csv_and_json(
    tmp_path: Path, name: str, value: str
) -> None:
    after = {"EXTERNAL_ID": "its own"}
    before = {"EMAIL": "e", "CITY": "", "CONTACT_ID": "1"}
    columns = [*before, name, *after]
    row = record(columns) + record([*before.values(), value, *after.values()])
    contact = {key.lower(): text for key, text in (before | after).items()}
    line = json.dumps(contact | {"custom_fields": {name: value}}).encode()
    [from_csv] = read_contacts(write(tmp_path, row))
    [from_json] = read_contacts(write(tmp_path, line, kind="json"))
    assert parse_contact(from_csv) == parse_contact(from_json)
    assert parse_contact(from_csv).external_id == "its own"
    tables = [
        read_arrow(tmp_path / f"x-00001.{kind}.gz").read_all().to_pylist()[0]
        for kind in ("csv", "json")
    ]
    assert tables[0] == {column: tables[1][column] for column in tables[0]}


def test_bad_bytes_are_replaced_where_asked(tmp_path: Path) -> None:
    paths = write(tmp_path, HEADER + b'"a\xffb","1",\n')
    [row] = read_contacts(paths, errors="replace")
    assert row["EMAIL"] == "a\ufffdb"


def test_a_zip_bomb_takes_little_memory(tmp_path: Path) -> None:
    row = record(["e", "1", "x" * 5000])
    bomb = gzip.compress(HEADER + row * 20_000)
    assert len(bomb) < MIB
    [path] = write(tmp_path, bomb)
    tracemalloc.start()
    try:
        assert sum(1 for _ in read_contacts(path)) == 20_000
        assert tracemalloc.get_traced_memory()[1] < 16 * MIB
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        ({"errors": "ignore"}, ValueError, "errors must be 'strict' or 'replace'"),
        ({"errors": None}, ValueError, "errors must be"),
        ({"batch_size": 0}, ValueError, "batch_size must be at least 1"),
        ({"batch_size": True}, TypeError, "batch_size must be a whole number"),
        ({"batch_size": 1.5}, TypeError, "batch_size must be a whole number"),
        ({"source": 1}, TypeError, "source must be"),
    ],
)
async def test_bad_arguments(
    tmp_path: Path, arguments: dict[str, Any], error: type[Exception], said: str
) -> None:
    arguments = {"source": tmp_path, **arguments}
    with pytest.raises(error, match=said):
        async with read_contacts_async(**arguments):
            pytest.fail("it was opened")
    if "batch_size" not in arguments:
        with pytest.raises(error, match=said):
            read_contacts(**arguments)


def test_what_is_not_there_is_an_error_at_once(tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="No export is in"):
        read_contacts(tmp_path)
    with pytest.raises(FileNotFoundError):
        read_contacts(tmp_path / "none.csv")


def open_files(directory: Path) -> list[str]:
    links = [link.readlink() for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
    return [link.name for link in links if link.parent == directory]


linux_only = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc")


def threads() -> set[threading.Thread]:
    return {t for t in threading.enumerate() if t.name.startswith("sendgrid-exports")}


def fill(directory: Path) -> None:
    rows = b"".join(record(list(csv_row(contact).values())) for contact in make_contacts(3000))
    [contact] = make_contacts(1)
    write(directory, gzip.compress(record(list(csv_row(contact))) + rows))


@linux_only
async def test_leaving_early_closes_the_file(tmp_path: Path) -> None:
    await asyncio.to_thread(fill, tmp_path)
    before = threads()
    async with read_contacts_async(tmp_path, batch_size=10) as batches:
        async for batch in batches:
            assert len(batch) == 10
            break
        assert await asyncio.to_thread(open_files, tmp_path) == ["x-00001.csv.gz"]
    assert await asyncio.to_thread(open_files, tmp_path) == []
    for thread in threads() - before:
        await asyncio.to_thread(thread.join)


@linux_only
async def test_a_cancelled_reader_leaves_nothing_behind(tmp_path: Path) -> None:
    await asyncio.to_thread(fill, tmp_path)
    begun = asyncio.Event()

    async def read() -> None:
        async with read_contacts_async(tmp_path, batch_size=1) as batches:
            async for _ in batches:
                begun.set()

    task = asyncio.create_task(read())
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await asyncio.to_thread(open_files, tmp_path) == []


async def test_an_error_in_the_middle_comes_after_the_rows_before_it(tmp_path: Path) -> None:
    body = HEADER + record(["e", "1", "n"]) * 20_000 + b'"cut'
    await asyncio.to_thread(write, tmp_path, body)
    async with read_contacts_async(tmp_path) as batches:
        for _ in range(19):
            assert len(await anext(batches)) == 1000
        with pytest.raises(CorruptDownloadError, match="line 20002"):
            [await anext(batches) for _ in range(2)]


def test_lines_of_json_are_what_json_reads(tmp_path: Path) -> None:
    objects = [{"contact_id": "1", "a": "\u2028\x85", "n": 1.5}, {"contact_id": "2", "x": None}]
    text = "\n".join(json.dumps(one, ensure_ascii=False) for one in objects)
    assert list(read_contacts(write(tmp_path, text.encode(), kind="json"))) == objects
