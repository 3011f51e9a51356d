"""File names: whatever the id, safe, distinct, and of our own making."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sendgrid_exports.transfer.names import Names, OurName, is_clutter, parse_name, safe_name

HOSTILE = [
    "a/b",
    "a\\b",
    "a b",
    "a:b",
    "a\nb",
    "a\x00b",
    "..",
    ".",
    "../../etc/passwd",
    "/etc/passwd",
    ".hidden",
    "~root",
    "$HOME",
    "é",
    "e\u0301",
    "李",
    "🦊",
    "\u202ecsv",
    "x" * 300,
    "x" * 301,
    "/" * 300,
    "李" * 300,
]


@pytest.mark.parametrize(
    "export_id", ["ZGkrHSypTsudrGkmdpJJ", "0f1e2d3c-4b5a", "a.b_c-d", "-", "_"]
)
def test_a_plain_id_is_its_own_name(export_id: str) -> None:
    assert safe_name(export_id) == export_id


@pytest.mark.parametrize("export_id", HOSTILE)
def test_any_other_id_is_replaced_and_told_apart_by_a_hash(export_id: str) -> None:
    assert re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,140}-[0-9a-f]{8}", safe_name(export_id))


def test_hostile_ids_have_names_of_their_own() -> None:
    assert len({safe_name(export_id) for export_id in HOSTILE}) == len(HOSTILE)


@settings(derandomize=True, max_examples=100, deadline=None)
@given(st.text(min_size=1), st.text(min_size=1))
def test_names_are_safe_and_distinct(one: str, other: str) -> None:
    directory = Path("exports")
    final = Names(directory, safe_name(one)).final(1, "csv", compressed=True)
    assert final.parent == directory
    assert len(final.name) <= 200
    assert re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]*", final.name)
    assert (safe_name(one) == safe_name(other)) == (one == other)


def test_names_in_a_directory() -> None:
    names = Names(Path("exports"), "id")
    assert names.manifest == Path("exports/id.manifest.json")
    assert names.lock == Path("exports/id.lock")
    assert names.part(1) == Path("exports/id-00001.part")
    assert names.converted(1) == Path("exports/id-00001.converted.part")
    assert names.part(123456) == Path("exports/id-123456.part")


@pytest.mark.parametrize(
    ("kind", "compressed", "name"),
    [
        ("csv", True, "id-00012.csv.gz"),
        ("csv", False, "id-00012.csv"),
        ("json", True, "id-00012.json.gz"),
        ("json", False, "id-00012.json"),
    ],
)
def test_final_names(kind: str, compressed: bool, name: str) -> None:
    assert Names(Path("exports"), "id").final(12, kind, compressed=compressed).name == name


@settings(derandomize=True, max_examples=100, deadline=None)
@given(st.text(min_size=1) | st.sampled_from([*HOSTILE, "a-00001", "a-00001.csv", "a.part"]))
def test_every_name_of_ours_says_what_it_is(export_id: str) -> None:
    stem = safe_name(export_id)
    names = Names(Path("exports"), stem)
    written = {
        names.manifest: OurName(stem, 0, "manifest.json"),
        names.lock: OurName(stem, 0, "lock"),
        names.journal: OurName(stem, 0, "journal"),
        names.part(7): OurName(stem, 7, "part"),
        names.converted(7): OurName(stem, 7, "converted.part"),
        names.final(7, "csv", compressed=True): OurName(stem, 7, "csv.gz"),
        names.final(123456, "json", compressed=False): OurName(stem, 123456, "json"),
    }
    assert {path: parse_name(path.name) for path in written} == written
    assert [ours.is_final for ours in written.values()] == [False] * 5 + [True] * 2
    assert not any(is_clutter(path.name, folder=False) for path in written)


@pytest.mark.parametrize(
    "name",
    [
        *("._id.manifest.json", "._id-00001.csv.gz", ".DS_Store", "Thumbs.db", "@eaDir"),
        *("id-00001.csv.bak", "id-1.csv", "id.csv", "id-00001.xml", "notes.txt", "my id.lock", ""),
    ],
)
def test_a_name_of_others_is_not_ours(name: str) -> None:
    assert parse_name(name) is None


@pytest.mark.parametrize(
    ("name", "folder", "clutter"),
    [
        ("._id.manifest.json", False, True),
        ("._id.manifest.json", True, False),
        (".DS_Store", False, True),
        ("Thumbs.db", False, True),
        ("desktop.ini", False, True),
        ("@eaDir", True, True),
        ("@eaDir", False, False),
        (".sendgrid-exports-probe-0123.lock", False, True),
        (".env", False, False),
        (".git", True, False),
        ("id.DS_Store", False, False),
        ("notes.txt", False, False),
    ],
)
def test_clutter_is_what_a_system_writes_and_not_what_a_person_does(
    name: str, folder: bool, clutter: bool
) -> None:
    assert is_clutter(name, folder=folder) == clutter
