"""Exports loaded by dlt into DuckDB: the table that is there, and its history."""

from __future__ import annotations

import asyncio
import csv
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

# dlt reads it when it is imported, and would speak to a server of its makers.
os.environ["RUNTIME__DLTHUB_TELEMETRY"] = "false"

dlt = pytest.importorskip("dlt", reason="needs the extra dlt")
duckdb = pytest.importorskip("duckdb", reason="needs duckdb")

import pyarrow as pa  # noqa: E402

from sendgrid_exports import DownloadResult, export_contacts, read_arrow  # noqa: E402
from sendgrid_exports.integrations.dlt import hash_rows, name_columns, sendgrid  # noqa: E402
from sendgrid_exports.testing import FakeSendGrid  # noqa: E402

quick = settings(derandomize=True, max_examples=60, deadline=None)

COLUMNS = ("CONTACT_ID", "EMAIL", "ALTERNATE_EMAILS", "UPDATED_AT")
TIME = "2021-02-01T12:35:22Z"
LATER = "2021-02-02T12:35:22Z"
ANN = ("1", "ann@example.com", '"a@example.com","b@example.com"', TIME)
BOB = ("2", "bob@example.com", "", TIME)
CAT = ("3", "cat@example.com", "", TIME)
DAN = ("4", "dan@example.com", "", TIME)
OTHER_ANN = ("1", "ann@example.com", '"a@example.com","c@example.com"', TIME)

Write: TypeAlias = Callable[..., Path]
Rows: TypeAlias = list[tuple[Any, ...]]


class Database:
    """A DuckDB file, and the pipeline that loads into it."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._path = str(directory / "contacts.duckdb")
        self.open_pipeline("first")

    def open_pipeline(self, home: str) -> None:
        """Use a pipeline whose state is in the directory `home` and in the database."""
        self._pipeline = dlt.pipeline(
            "sendgrid",
            destination=dlt.destinations.duckdb(self._path),
            dataset_name="sendgrid",
            pipelines_dir=str(self._directory / home),
        )

    def load(self, source: Any, run: Mapping[str, Any] | None = None, **options: Any) -> None:
        self._pipeline.run(sendgrid(source, **options), **(run or {})).raise_on_failed_jobs()

    def rows(self, columns: str, where: str = "true") -> Rows:
        with duckdb.connect(self._path, read_only=True) as database:
            query = f"select {columns} from sendgrid.contacts where {where} order by all"
            return list(database.execute(query).fetchall())

    def versions(self) -> tuple[Rows, Rows]:
        """Return the versions that are current, and those that ended."""
        columns = "contact_id, alternate_emails ->> -1"
        return (
            self.rows(columns, "_dlt_valid_to is null"),
            self.rows(columns, "_dlt_valid_to is not null"),
        )

    def description(self, column: str) -> str | None:
        columns: Mapping[str, Mapping[str, str]] = self._pipeline.default_schema.get_table_columns(
            "contacts"
        )
        return columns[column].get("description")


@pytest.fixture
def database(tmp_path: Path) -> Database:
    return Database(tmp_path)


@pytest.fixture
def export(tmp_path: Path) -> Write:
    def write(*records: Iterable[str], columns: Iterable[str] = COLUMNS) -> Path:
        path = tmp_path / "export.csv"
        with path.open("w", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows([columns, *records])
        return path

    return write


def test_each_run_replaces_the_table(database: Database, export: Write) -> None:
    database.load(export(ANN, BOB, CAT))
    database.load(export(OTHER_ANN, BOB, DAN))
    assert database.rows("contact_id, alternate_emails ->> -1") == [
        ("1", "c@example.com"),
        ("2", None),
        ("4", None),
    ]
    database.load(export())
    assert database.rows("contact_id") == []


def test_a_merge_keeps_the_contacts_that_the_export_lacks(
    database: Database, export: Write
) -> None:
    merge = {"write_disposition": "merge"}
    database.load(export(ANN, BOB, CAT), merge)
    database.load(export(OTHER_ANN, BOB, DAN), merge)
    assert database.rows("contact_id, alternate_emails ->> -1") == [
        ("1", "c@example.com"),
        ("2", None),
        ("3", None),
        ("4", None),
    ]


def test_history_ends_what_changed_or_is_gone_and_adds_what_is_new(
    database: Database, export: Write
) -> None:
    database.load(export(ANN, BOB, CAT), history=True)
    ann, bob, cat, dan = ("1", "b@example.com"), ("2", None), ("3", None), ("4", None)
    assert database.versions() == ([ann, bob, cat], [])
    other_ann = ("1", "c@example.com")
    for _ in range(2):
        database.load(export(OTHER_ANN, BOB, DAN), history=True)
        assert database.versions() == ([other_ann, bob, dan], [ann, cat])
    database.load(export(OTHER_ANN, BOB, CAT), history=True)
    assert database.versions() == ([other_ann, bob, cat], [ann, cat, dan])
    database.load(export(), history=True)
    assert database.versions() == ([], sorted([ann, cat, dan, other_ann, bob, cat]))


def test_a_version_begins_when_the_one_before_it_ends(database: Database, export: Write) -> None:
    database.load(export(ANN), history=True)
    database.load(export(OTHER_ANN), history=True)
    [(ended,)] = database.rows("_dlt_valid_to", "_dlt_valid_to is not null")
    assert database.rows("_dlt_valid_from", "_dlt_valid_to is null") == [(ended,)]


def test_only_contacts_that_have_a_new_field_get_a_new_version(
    database: Database, export: Write
) -> None:
    database.load(export(ANN, BOB), history=True)
    columns = ("Plan", *reversed(COLUMNS))
    records = [("pro", *reversed(ANN)), ("", *reversed(BOB))]
    database.load(export(*records, columns=columns), history=True)
    current = database.rows("contact_id, plan", "_dlt_valid_to is null")
    assert current == [("1", "pro"), ("2", None)]
    assert database.rows("contact_id", "_dlt_valid_to is not null") == [("1",)]


def test_an_ignored_column_alone_makes_no_new_version(database: Database, export: Write) -> None:
    database.load(export(ANN, BOB), history=True, ignore=["UPDATED_AT"])
    bob = (*BOB[:3], LATER)
    database.load(export((*OTHER_ANN[:3], LATER), bob), history=True, ignore=["UPDATED_AT"])
    assert database.versions() == ([("1", "c@example.com"), ("2", None)], [("1", "b@example.com")])


def test_names_that_differ_in_case_are_columns_that_keep_their_names(
    database: Database, export: Write
) -> None:
    first = ("CONTACT_ID", "EMAIL", "Plan", "plan", "email")
    database.load(export(("1", "a", "b", "c", "d"), columns=first))
    names = "contact_id, email, plan, plan_2, email_2"
    assert database.rows(names) == [("1", "a", "b", "c", "d")]
    assert [database.description(name) for name in ("plan", "plan_2", "email_2")] == [
        None,
        "plan",
        "email",
    ]
    # Another machine has the state from the database alone.
    database.open_pipeline("second")
    later = ("CONTACT_ID", "EMAIL", "email", "PLAN", "plan", "Plan")
    database.load(export(("1", "a", "d", "e", "c", "b"), columns=later))
    assert database.rows(f"{names}, plan_3") == [("1", "a", "b", "c", "d", "e")]


def test_an_export_that_cannot_be_loaded_changes_nothing(
    database: Database, export: Write, tmp_path: Path
) -> None:
    database.load(export(ANN, BOB), history=True)
    with pytest.raises(Exception, match="ignore names 'Plan', a column that the export lacks"):
        database.load(export(ANN), history=True, ignore=["Plan"])
    broken = tmp_path / "broken.csv"
    broken.write_bytes(export(OTHER_ANN, DAN).read_bytes() + b'"5","never closed')
    with pytest.raises(Exception, match=r"broken\.csv is corrupt"):
        database.load(broken, history=True)
    assert database.versions() == ([("1", "b@example.com"), ("2", None)], [])


def test_a_real_export_arrives_as_read_arrow_reads_it(database: Database, tmp_path: Path) -> None:
    async def download() -> dict[str, DownloadResult]:
        async with FakeSendGrid(contacts=300, files=3, statuses=["ready"]) as fake:
            return {
                kind: await export_contacts(tmp_path / kind, **fake.credentials, file_type=kind)
                for kind in ("csv", "json")
            }

    exported = asyncio.run(download())
    database.load(exported["csv"], history=True)
    table = read_arrow(exported["csv"]).read_all().sort_by("CONTACT_ID")
    names = ["CONTACT_ID", "EMAIL", "FIRST_NAME", "ADDRESS_LINE_1", "Plan", "plan", "Notes 📝"]
    columns = "contact_id, email, first_name, address_line_1, plan, plan_2, notesx"
    expected = list(zip(*(table[name].to_pylist() for name in names), strict=True))
    assert database.rows(columns) == sorted(expected)
    # What is the same contact in CSV and JSON is the same version.
    database.load(exported["json"], history=True)
    assert database.rows("count(*), count(_dlt_valid_to)") == [(300, 0)]


@pytest.mark.parametrize(
    ("names", "known", "columns"),
    [
        (["EMAIL", "Plan"], {}, ["EMAIL", "Plan"]),
        (["Plan", "plan", "PLAN"], {}, ["Plan", "plan_2", "PLAN_3"]),
        (["Plan", "plan_2", "plan"], {}, ["Plan", "plan_2", "plan_3"]),
        (["plan", "Plan"], {"Plan": "Plan", "plan": "plan_2"}, ["plan_2", "Plan"]),
        (["plan"], {"Plan": "Plan"}, ["plan_2"]),
        (["Straße", "STRASSE"], {}, ["Straße", "STRASSE_2"]),
        (["row_hash", "_DLT_ID"], {}, ["row_hash_2", "_DLT_ID_2"]),
    ],
)
def test_columns_have_names_that_no_folding_of_case_makes_equal(
    names: list[str], known: dict[str, str], columns: list[str]
) -> None:
    assert name_columns(names, known, str) == columns
    assert known.items() >= dict(zip(names, columns, strict=True)).items()


TEXTS = st.text(st.sampled_from("12:,ab"), max_size=4)
CONTACTS = st.fixed_dictionaries(
    {"a": TEXTS, "b": TEXTS, "1:a": TEXTS, "ALTERNATE_EMAILS": st.lists(TEXTS, max_size=2)}
)


@quick
@given(st.lists(CONTACTS, min_size=2, max_size=8), st.permutations(["a", "b", "1:a", "empty"]))
def test_hashes_are_equal_where_the_filled_values_are(
    contacts: list[dict[str, Any]], order: list[str]
) -> None:
    schema = pa.schema([(name, pa.string()) for name in ("a", "b", "1:a")])
    schema = schema.append(pa.field("ALTERNATE_EMAILS", pa.list_(pa.string())))
    table = pa.Table.from_pylist(contacts, schema)
    hashes = hash_rows(table).to_pylist()
    assert len(set(hashes)) == len({json.dumps(contact, sort_keys=True) for contact in contacts})
    empty = pa.nulls(len(contacts), pa.timestamp("us", "UTC"))
    others = table.append_column("empty", empty).select([*order, "ALTERNATE_EMAILS"])
    assert hash_rows(others).to_pylist() == hashes


def test_a_hash_stays_what_it_is_from_release_to_release() -> None:
    table = pa.table({"EMAIL": ["é@example.com"], "ALTERNATE_EMAILS": [["a", "b"]], "EMPTY": [""]})
    assert hash_rows(table).to_pylist() == ["f8ccf20eeb77794ed106eac73cda99a0"]


def test_without_dlt_the_error_names_the_extra() -> None:
    code = "import sys; sys.modules['dlt'] = None; import sendgrid_exports.integrations.dlt"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "pip install 'sendgrid-exports[dlt]'" in run.stderr
