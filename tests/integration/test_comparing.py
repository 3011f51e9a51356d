"""Comparing two exports: every difference, and none that is not there."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sendgrid_exports import (
    ChangeKind,
    ComparisonSummary,
    ContactChange,
    CorruptDownloadError,
    DownloadError,
    FieldChange,
    compare_exports,
)
from sendgrid_exports.contents.batches import open_reader
from sendgrid_exports.testing.contacts import csv_row, make_contacts

quick = settings(derandomize=True, max_examples=25, deadline=None)

COLUMNS = ("CONTACT_ID", "EMAIL", "Plan", "plan")
TEXTS = st.text(st.sampled_from('aA7é"\n\0 ,'), max_size=3) | st.sampled_from(["007", "7", "NULL"])
EXPORTS = st.dictionaries(st.sampled_from("abcdef"), st.tuples(TEXTS, TEXTS, TEXTS))


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory for temporary files alone."""
    directory = tmp_path / "temporary"
    directory.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(directory))
    return directory


def export(path: Path, *records: Iterable[str], columns: Iterable[str] = COLUMNS) -> Path:
    lines = (
        ",".join('"{}"'.format(value.replace('"', '""')) if value else "" for value in record)
        for record in chain([columns], records)
    )
    path.write_bytes("".join(f"{line}\n" for line in lines).encode())
    return path


def ordered(changes: Iterable[ContactChange]) -> list[ContactChange]:
    return sorted(changes, key=lambda change: change.contact_id)


def differences(
    old: Mapping[str, tuple[str, ...]], new: Mapping[str, tuple[str, ...]]
) -> list[ContactChange]:
    """What is different, as a loop over two dicts sees it."""
    found = []
    nothing = ("",) * (len(COLUMNS) - 1)
    for contact_id in sorted(old.keys() | new.keys()):
        values = zip(
            COLUMNS[1:], old.get(contact_id, nothing), new.get(contact_id, nothing), strict=True
        )
        fields = tuple(FieldChange(*value) for value in values if value[1] != value[2])
        kind = ChangeKind.CHANGED
        if contact_id not in old or contact_id not in new:
            kind = ChangeKind.REMOVED if contact_id in old else ChangeKind.ADDED
        elif not fields:
            continue
        found.append(ContactChange(contact_id=contact_id, kind=kind, fields=fields))
    return found


@quick
@given(old=EXPORTS, new=EXPORTS)
def test_it_finds_what_a_loop_over_all_finds(
    old: dict[str, tuple[str, ...]], new: dict[str, tuple[str, ...]]
) -> None:
    expected = differences(old, new)
    with tempfile.TemporaryDirectory() as directory:
        paths = [
            export(Path(directory, name), *((key, *values) for key, values in contacts.items()))
            for name, contacts in (("old.csv", old), ("new.csv", new))
        ]
        with compare_exports(*paths) as comparison:
            assert ordered(comparison) == ordered(comparison) == expected
            summary = comparison.summary
    kinds = [change.kind for change in expected]
    assert (summary.added, summary.removed, summary.changed) == tuple(
        kinds.count(ChangeKind(kind)) for kind in ("added", "removed", "changed")
    )
    assert summary.unchanged == len(old) - summary.removed - summary.changed
    assert summary.fields == {
        name: count
        for name in COLUMNS[1:]
        if (
            count := sum(
                name in {field.name for field in change.fields}
                for change in expected
                if change.kind == "changed"
            )
        )
    }


def test_csv_and_json_of_the_same_contacts_are_no_change(tmp_path: Path, temporary: Path) -> None:
    contacts = list(make_contacts(2000))
    rows = [csv_row(contact) for contact in contacts]
    old = export(tmp_path / "old.csv", *(row.values() for row in rows), columns=rows[0])
    new = tmp_path / "new.json"
    new.write_text("".join(json.dumps(contact) + "\n" for contact in reversed(contacts)))
    with compare_exports(old, new) as comparison:
        assert list(comparison) == []
        assert comparison.summary == ComparisonSummary(
            added=0, removed=0, changed=0, unchanged=2000, fields={}
        )
        assert list(temporary.iterdir())
    assert not list(temporary.iterdir())


def test_a_value_is_the_same_only_if_every_character_is(tmp_path: Path) -> None:
    pairs = [("007", "7"), ("NA", ""), ("1.0", "1"), ("é", "e\u0301"), ("a", "A"), ("a", "a ")]
    pairs += [("null", ""), ("\0", ""), ("x\ny", "x\r\ny")]
    old = export(tmp_path / "old.csv", *((str(n), "", one, "") for n, (one, _) in enumerate(pairs)))
    new = export(tmp_path / "new.csv", *((str(n), "", one, "") for n, (_, one) in enumerate(pairs)))
    with compare_exports(old, new) as comparison:
        assert [change.fields for change in ordered(comparison)] == [
            (FieldChange("Plan", *pair),) for pair in pairs
        ]


def test_times_and_emails_are_compared_by_what_they_mean(tmp_path: Path) -> None:
    columns = ("CONTACT_ID", "EMAIL", "CREATED_AT", "ALTERNATE_EMAILS")
    old = export(
        tmp_path / "old.csv",
        ("1", "", "2021-02-01T12:35:22Z", '"a","b"'),
        ("2", "", "2021-02-01T12:35:22Z", '"a","b"'),
        ("3", "", "0001-01-01T00:00:00Z", ""),
        columns=columns,
    )
    new = export(
        tmp_path / "new.csv",
        ("1", "", "2021-02-01 12:35:22 +0000 UTC", '"a", "b"'),
        ("2", "", "", '"b","a"'),
        ("3", "", "", ""),
        columns=columns,
    )
    with compare_exports(old, new) as comparison:
        [change] = comparison
    assert change.contact_id == "2"
    assert change.fields == (
        FieldChange("CREATED_AT", "2021-02-01T12:35:22Z", ""),
        FieldChange("ALTERNATE_EMAILS", '"a","b"', '"b","a"'),
    )


def test_columns_of_one_name_are_compared_each_with_its_own(tmp_path: Path) -> None:
    """Also CSV with JSON: a custom field may be called as a column that newer accounts have."""
    columns = ("CONTACT_ID", "EMAIL", "EXTERNAL_ID", "EXTERNAL_ID")
    old = export(tmp_path / "old.csv", ("1", "a", "custom", "reserved"), columns=columns)
    new = export(tmp_path / "new.csv", ("1", "a", "custom", "other"), columns=columns)
    same = tmp_path / "same.json"
    contact = {"contact_id": "1", "email": "a", "external_id": "reserved"}
    same.write_text(json.dumps(contact | {"custom_fields": {"EXTERNAL_ID": "custom"}}))
    with compare_exports(old, new) as comparison:
        [change] = comparison
    assert change.fields == (FieldChange("EXTERNAL_ID (2)", "reserved", "other"),)
    with compare_exports(old, same) as comparison:
        assert list(comparison) == []


def test_columns_are_compared_by_name_and_a_missing_one_is_empty(tmp_path: Path) -> None:
    old = export(tmp_path / "old.csv", ("1", "a", "x"), columns=("CONTACT_ID", "EMAIL", "gone"))
    new = export(
        tmp_path / "new.csv", ("", "a", "1", "y"), columns=("empty", "EMAIL", "CONTACT_ID", "come")
    )
    with compare_exports(old, new) as comparison:
        [change] = comparison
    assert change.fields == (FieldChange("gone", "x", ""), FieldChange("come", "", "y"))
    with compare_exports(old, new, ignore=("gone", "come")) as comparison:
        assert list(comparison) == []
    for name in ("CONTACT_ID", "unheard of"):
        with pytest.raises(ValueError, match=name), compare_exports(old, new, ignore=[name]):
            pass


def test_a_contact_that_is_there_twice(tmp_path: Path) -> None:
    once = export(tmp_path / "once.csv", ("1", "a", "", ""), ("2", "b", "", ""))
    twice = export(tmp_path / "twice.csv", ("1", "a", "", ""), ("2", "b", "", ""))
    with compare_exports(once, [once, twice]) as comparison:
        assert list(comparison) == []
        assert comparison.summary.unchanged == 2
    export(twice, ("2", "other", "", ""))
    with (
        pytest.raises(DownloadError, match="The contact 2 is in the new export several times"),
        compare_exports(once, [once, twice]),
    ):
        pass


def test_contacts_without_an_id_are_an_error(tmp_path: Path) -> None:
    good = export(tmp_path / "good.csv", ("1", "a", "", ""))
    bad = export(tmp_path / "bad.csv", ("1", "a", "", ""), ("", "b", "", ""))
    with (
        pytest.raises(DownloadError, match="1 contacts of the old export have no CONTACT_ID"),
        compare_exports(bad, good),
    ):
        pass
    none = export(tmp_path / "none.csv", ("a", "b"), columns=("EMAIL", "Plan"))
    with pytest.raises(CorruptDownloadError, match="CONTACT_ID"), compare_exports(good, none):
        pass


@pytest.mark.parametrize("cached", [True, False], ids=["it is gone", "there never was one"])
def test_without_a_temporary_directory_it_is_said_how_to_name_one(
    tmp_path: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch, *, cached: bool
) -> None:
    old = export(tmp_path / "old.csv", ["1", "a@b.c", "", ""])
    temporary.rmdir()
    if not cached:
        monkeypatch.setattr(tempfile, "tempdir", None)
        monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: [str(temporary)])
    with (
        pytest.raises(FileNotFoundError, match=r"Set TMPDIR to a directory") as caught,
        compare_exports(old, old),
    ):
        pass
    assert str(temporary) in str(caught.value)


def test_control_c_while_the_database_reads_is_control_c(
    tmp_path: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*arguments: Any) -> Iterator[object]:
        signal.raise_signal(signal.SIGINT)
        # In a thread of the database this continues until the main thread has seen the signal.
        yield from open_reader(*arguments)

    good = export(tmp_path / "good.csv", ("1", "a", "", ""))
    # Not while it reads the header.
    monkeypatch.setattr("sendgrid_exports.contents.differences.open_reader", interrupted)
    with pytest.raises(KeyboardInterrupt), compare_exports(good, good):
        pass
    assert list(temporary.iterdir()) == []


def test_a_broken_file_is_told_as_everywhere(tmp_path: Path, temporary: Path) -> None:
    good = export(tmp_path / "good.csv", ("1", "a", "", ""))
    bad = export(tmp_path / "bad.csv", ("1", "a", "", ""), ("2", "b"))
    with (
        pytest.raises(CorruptDownloadError, match="line 3: the record has 2 values") as caught,
        compare_exports(good, bad),
    ):
        pass
    assert caught.value.path == bad
    assert not list(temporary.iterdir())


def test_exports_without_contacts(tmp_path: Path) -> None:
    empty = tmp_path / "empty.csv"
    empty.touch()
    some = export(tmp_path / "some.csv", ("1", "a", "", ""))
    with compare_exports(empty, empty) as comparison:
        assert not list(comparison)
    with compare_exports(empty, some) as comparison:
        assert [change.kind for change in comparison] == [ChangeKind.ADDED]


def test_several_iterations_do_not_disturb_each_other(tmp_path: Path) -> None:
    old = export(tmp_path / "old.csv")
    new = export(tmp_path / "new.csv", *((f"{n:05}", "a", "", "") for n in range(3000)))
    with compare_exports(old, new) as comparison:
        first, second = iter(comparison), iter(comparison)
        assert next(first).kind == next(second).kind == "added"
        assert comparison.summary.added == 3000
        assert len(list(first)) == len(list(second)) == 2999


def test_memory_is_bounded(tmp_path: Path) -> None:
    def peak(contacts: int) -> int:
        code = (
            "import re, resource, sys\n"
            "from sendgrid_exports import compare_exports\n"
            "with compare_exports(*sys.argv[1:]) as comparison: assert next(iter(comparison))\n"
            "if sys.platform == 'linux':\n"
            # Unlike ru_maxrss, this leaves out what the parent had when it forked.
            "    print(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1])\n"
            "else: print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
        )
        paths = [
            export(
                tmp_path / name,
                *((f"{n:09}", "a@example.com", name * 50, "") for n in range(contacts)),
            )
            for name in ("old.csv", "new.csv")
        ]
        command = [sys.executable, "-c", code, *map(str, paths)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        return int(done.stdout) * (1 if sys.platform == "darwin" else 1024)

    # The limit of the database, and a hundred for all else.
    assert peak(300_000) < peak(1000) + 350 * 1024 * 1024


@pytest.mark.parametrize("missing", ["duckdb", "pyarrow"])
def test_without_the_extra_the_error_says_what_to_install(
    missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    with (
        pytest.raises(ImportError, match=rf"{missing}.*pip install 'sendgrid-exports\[compare\]'"),
        compare_exports(tmp_path, tmp_path),
    ):
        pass
