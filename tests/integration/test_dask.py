"""An export as a Dask DataFrame, computed in two other processes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import pytest

dd = pytest.importorskip("dask.dataframe", reason="needs the extra dask")
distributed = pytest.importorskip("distributed", reason="needs the extra dask")

import pandas as pd  # noqa: E402
import pyarrow as pa  # noqa: E402

from sendgrid_exports import CorruptDownloadError, DownloadError, read_arrow  # noqa: E402
from sendgrid_exports.integrations.dask import read_dask  # noqa: E402
from sendgrid_exports.testing.contacts import csv_row, make_contacts  # noqa: E402


@pytest.fixture(scope="module")
def workers() -> Iterator[Any]:
    """Every computation of this module runs in two processes."""
    with (
        distributed.LocalCluster(  # type: ignore[no-untyped-call, unused-ignore]
            n_workers=2, threads_per_worker=1, dashboard_address=None
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client


pytestmark = pytest.mark.usefixtures("workers")


def write_csv(path: Path, *records: Iterable[str]) -> Path:
    lines = (
        ",".join('"{}"'.format(value.replace('"', '""')) if value else "" for value in record)
        for record in records
    )
    path.write_bytes("".join(f"{line}\n" for line in lines).encode())
    return path


@pytest.fixture
def export(tmp_path: Path) -> Path:
    """An export of three files, the second of which has no header."""
    rows = [csv_row(contact) for contact in make_contacts(600)]
    for number in range(3):
        records: Iterable[Iterable[str]] = (
            row.values() for row in rows[number * 200 : number * 200 + 200]
        )
        if number != 1:
            records = chain([rows[0]], records)
        write_csv(tmp_path / f"e-{number + 1:05}.csv", *records)
    return tmp_path


def arrow(frame: pd.DataFrame) -> pa.Table:
    return pa.Table.from_pandas(frame, preserve_index=False).replace_schema_metadata(None)


def test_a_computed_frame_equals_what_read_arrow_reads(export: Path) -> None:
    frame = read_dask(export)
    assert frame.npartitions == 3
    assert len(frame) == 600
    assert arrow(frame.compute()).equals(read_arrow(export).read_all())


def test_the_files_are_read_in_the_workers(export: Path, workers: Any) -> None:
    pids = read_dask(export).map_partitions(
        lambda part: pd.Series([os.getpid()] * len(part)), meta=(None, "int64")
    )
    assert set(pids.compute()) <= set(workers.run(os.getpid).values()) - {os.getpid()}


def test_a_path_is_found_from_another_directory(
    export: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(export)
    assert len(read_dask(".").compute()) == 600


@pytest.mark.parametrize("kind", ["csv", "json"])
def test_files_whose_columns_differ_have_one_schema(tmp_path: Path, kind: str) -> None:
    first = write_csv(tmp_path / "a.csv", ["CONTACT_ID", "EMAIL", "Plan"], ["1", "a@b.c", "pro"])
    second = tmp_path / f"b.{kind}"
    if kind == "csv":
        write_csv(second, ["plan", "EMAIL", "CONTACT_ID"], ["free", "", "2"])
    else:
        second.write_text('{"contact_id":"2","custom_fields":{"plan":"free"}}\n')
    paths = [first, second]
    frame = read_dask(paths)[["CONTACT_ID", "Plan", "plan"]].compute()
    assert frame.to_dict("list") == {
        "CONTACT_ID": ["1", "2"],
        "Plan": ["pro", ""],
        "plan": ["", "free"],
    }
    assert arrow(read_dask(paths).compute()).equals(read_arrow(paths).read_all())


def test_what_dask_expects_is_what_it_gets(export: Path) -> None:
    frame = read_dask(export, column_types={"lifetime_value": pa.float64()})
    computed = frame.compute()
    pd.testing.assert_series_equal(frame.dtypes, computed.dtypes)
    assert computed["lifetime_value"].dtype == pd.ArrowDtype(pa.float64())
    assert computed["CREATED_AT"].dtype == pd.ArrowDtype(pa.timestamp("us", "UTC"))


def test_columns_are_those_asked_for_in_their_order(export: Path) -> None:
    frame = read_dask(export, columns=["plan", "EMAIL"])
    assert list(frame.columns) == ["plan", "EMAIL"]
    expected = read_arrow(export).read_all().select(["plan", "EMAIL"])
    assert arrow(frame.compute()).equals(expected)
    with pytest.raises(ValueError, match="columns names 'Email', a column that no file has"):
        read_dask(export, columns=["EMAIL", "Email"])


def test_a_selection_is_pushed_down_to_the_reading(export: Path) -> None:
    selected = read_dask(export)[["EMAIL", "COUNTRY"]]
    expected = read_arrow(export).read_all().select(["EMAIL", "COUNTRY"])
    assert arrow(selected.compute()).equals(expected)
    [reading] = selected.optimize(fuse=False).expr.find_operations(type(read_dask(export).expr))
    assert sorted(reading.columns) == ["COUNTRY", "EMAIL"]


def test_an_aggregation_counts_every_contact(export: Path) -> None:
    counts = read_dask(export).groupby("COUNTRY").size().compute()
    expected = read_arrow(export).read_all().to_pandas()["COUNTRY"].value_counts()
    assert counts.to_dict() == expected.to_dict()


def test_a_file_that_changed_is_read_again(tmp_path: Path) -> None:
    header = ["CONTACT_ID", "EMAIL"]
    path = write_csv(tmp_path / "a.csv", header, ["1", ""])
    kept = read_dask(path).persist()
    distributed.wait(kept)  # type: ignore[no-untyped-call, unused-ignore]
    write_csv(path, header, ["1", ""], ["2", ""])
    assert len(read_dask(path).compute()) == 2
    assert len(kept.compute()) == 1


def test_an_export_without_contacts_is_an_empty_frame_of_its_columns(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "a.csv", ["CONTACT_ID", "EMAIL"])
    frame = read_dask(path).compute()
    assert (len(frame), list(frame.columns)) == (0, ["CONTACT_ID", "EMAIL"])


def test_a_broken_file_is_named_by_the_error_of_the_computation(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('"CONTACT_ID","EMAIL"\n"1","never closed\n')
    frame = read_dask(path)
    with pytest.raises(CorruptDownloadError, match=r"a\.csv is corrupt") as caught:
        frame.compute()
    assert caught.value.path == path


def test_what_is_wrong_with_the_source_is_said_at_once(tmp_path: Path) -> None:
    with pytest.raises(DownloadError):
        read_dask(tmp_path)
    path = write_csv(tmp_path / "a.csv", ["CONTACT_ID", "EMAIL"])
    with pytest.raises(ValueError, match="column_types names 'Plan'"):
        read_dask(path, column_types={"Plan": pa.float64()})


def test_without_dask_the_error_names_the_extra() -> None:
    code = (
        "import sys; sys.modules['dask'] = None\n"
        "from sendgrid_exports.integrations.dask import read_dask\n"
        "read_dask('.')"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "pip install 'sendgrid-exports[dask]'" in run.stderr
