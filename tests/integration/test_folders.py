"""Dropping old backups on a real disk: nothing goes that is not ours, verified and older."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeAlias

import pytest

from sendgrid_exports import ExportRequest, export_contacts, find_exports
from sendgrid_exports.cli.backups import (
    discard_if_empty,
    drop_old,
    find_backups,
    make_folder,
)
from sendgrid_exports.testing import FakeClock, FakeSendGrid

A, B, C, NEW = (f"2026-03-0{day}T000000Z" for day in range(1, 5))
Spoil: TypeAlias = Callable[[Path], object]


@pytest.fixture
def backups(tmp_path: Path) -> Path:
    """Return a directory with four whole backups of the same export."""
    parent = tmp_path / "backups"
    asyncio.run(fetch(parent / A))
    for name in (B, C, NEW):
        shutil.copytree(parent / A, parent / name)
    return parent


async def fetch(directory: Path) -> None:
    async with FakeSendGrid(contacts=20, files=2, statuses=["ready"]) as fake:
        export_id = await fake.add_export(export_id="some-id")
        fake.respond(202, body={"id": export_id}, on="start")
        await export_contacts(directory, api_key=fake.api_key, base_url=fake.base_url)


def drop(backups: Path, keep: int) -> tuple[set[str], list[str]]:
    """Drop what may go; return the names that are left, and what was warned of."""
    warnings: list[str] = []
    [new] = find_exports(backups / NEW)
    gone, _ = drop_old(
        new, keep, warnings.append, lambda one: warnings.append(f"unfinished {one.directory.name}")
    )
    assert not [place for place in gone if Path(str(place)).exists()]
    return {path.name for path in backups.iterdir()}, warnings


@pytest.mark.parametrize(
    ("keep", "left"),
    [(1, {NEW}), (2, {C, NEW}), (3, {B, C, NEW}), (4, {A, B, C, NEW}), (9, {A, B, C, NEW})],
)
def test_the_oldest_go_until_so_many_stay(backups: Path, keep: int, left: set[str]) -> None:
    assert drop(backups, keep) == (left, [])


def test_a_folder_whose_name_is_a_date_alone_goes_only_beside_others_of_a_night(
    backups: Path,
) -> None:
    day = "2026-02-28"
    (backups / A).rename(backups / day)
    assert drop(backups, 1) == ({day, NEW}, [])
    (backups / NEW).rename(backups / "2026-03-04")
    [new] = find_exports(backups / "2026-03-04")
    assert drop_old(new, 1, print, print) == ([backups / day], None)


def flip_a_byte(folder: Path) -> None:
    file = folder / "some-id-00001.csv.gz"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)


def rewrite(folder: Path, **changes: object) -> None:
    manifest = folder / "some-id.manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), **changes}))


def lose_a_file(folder: Path) -> None:
    (folder / "some-id-00002.csv.gz").unlink()


def lose_the_manifest(folder: Path) -> None:
    (folder / "some-id.manifest.json").unlink()


SPOILT: dict[str, tuple[Spoil, str]] = {
    "a byte is another one": (flip_a_byte, "files are missing or changed"),
    "a file is missing": (lose_a_file, "files are missing or changed"),
    "no manifest": (lose_the_manifest, "it does not hold exactly one export"),
    "a damaged manifest": (
        lambda folder: (folder / "some-id.manifest.json").write_text("{"),
        "its manifest is damaged",
    ),
    "a second manifest": (
        lambda folder: (folder / "other.manifest.json").write_text("{}"),
        "it does not hold exactly one export",
    ),
    "a manifest that does not say what was asked for": (
        lambda folder: rewrite(folder, request=None),
        "its manifest does not say which contacts were asked for",
    ),
    "notes of somebody's": (
        lambda folder: (folder / "notes.txt").write_text("mine"),
        "notes.txt is not part of an export",
    ),
    "a folder of somebody's": (
        lambda folder: (folder / "below").mkdir(),
        "below is not part of an export",
    ),
    "a link to elsewhere": (
        lambda folder: (folder / "link").symlink_to("/"),
        "link is not part of an export",
    ),
}


@pytest.mark.parametrize(("spoil", "reason"), SPOILT.values(), ids=SPOILT.keys())
def test_what_is_not_whole_and_ours_alone_is_neither_dropped_nor_counted(
    backups: Path, spoil: Spoil, reason: str
) -> None:
    spoil(backups / C)
    before = sorted(path.name for path in (backups / C).iterdir())
    left, warnings = drop(backups, 2)
    # B is the one that counts in the place of C.
    assert left == {B, C, NEW}
    why = f"{reason}. Remove it if you don't need it."
    assert warnings == [f"{backups / C} is left alone and not counted: {why}"]
    assert sorted(path.name for path in (backups / C).iterdir()) == before


def test_an_unfinished_backup_is_neither_dropped_nor_counted(backups: Path) -> None:
    rewrite(backups / C, state="downloading")
    assert drop(backups, 2) == ({B, C, NEW}, [f"unfinished {C}"])


OTHERS: dict[str, dict[str, object]] = {
    "a demonstration": {"demo": True},
    "a list": {"list_ids": ["one"]},
    "a segment": {"segment_ids": ["one"]},
    "a subuser": {"on_behalf_of": "sub"},
    "JSON": {"file_type": "json"},
}


@pytest.mark.parametrize("changes", OTHERS.values(), ids=OTHERS.keys())
def test_backups_of_other_contacts_displace_nothing_and_stay(
    backups: Path, changes: dict[str, object]
) -> None:
    for name in (A, C):
        manifest = json.loads((backups / name / "some-id.manifest.json").read_text())
        rewrite(backups / name, request={**manifest["request"], **changes})
    assert drop(backups, 2) == ({A, B, C, NEW}, [])
    assert drop(backups, 1) == ({A, C, NEW}, [])


def test_whether_backups_of_other_contacts_are_whole_is_not_asked(backups: Path) -> None:
    for name in (A, C):
        manifest = json.loads((backups / name / "some-id.manifest.json").read_text())
        rewrite(backups / name, request={**manifest["request"], "list_ids": ["one"]})
    flip_a_byte(backups / A)
    rewrite(backups / C, state="downloading")
    assert drop(backups, 1) == ({A, C, NEW}, [])


@pytest.mark.parametrize(
    "litter", ["._some-id.manifest.json", ".DS_Store", "Thumbs.db", "@eaDir/x"]
)
def test_what_systems_leave_in_any_folder_keeps_no_backup(backups: Path, litter: str) -> None:
    for name in (A, NEW):
        path = backups / name / litter
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"\0")
    assert drop(backups, 3) == ({B, C, NEW}, [])


@pytest.mark.parametrize(
    ("keep", "left"), [(1, {B, NEW}), (2, {B, C, NEW}), (3, {A, B, C, NEW}), (4, {A, B, C, NEW})]
)
def test_what_a_run_killed_at_once_left_is_passed_in_silence(
    backups: Path, keep: int, left: set[str]
) -> None:
    shutil.rmtree(backups / B)
    (backups / B).mkdir()
    assert drop(backups, keep) == (left, [])


def clutter(folder: Path) -> None:
    """Put there what macOS, Windows and a NAS put into any folder."""
    for name in ("._some-id.manifest.json", "._some-id-00001.csv.gz", ".DS_Store", "Thumbs.db"):
        (folder / name).write_bytes(b"\x00\x05\x16\x07")
    (folder / "@eaDir" / "some-id-00001.csv.gz@SynoEAStream").mkdir(parents=True)


def test_what_a_system_puts_into_a_folder_does_not_keep_a_backup(backups: Path) -> None:
    for name in (A, B):
        clutter(backups / name)
    shutil.rmtree(backups / C)
    (backups / C).mkdir()
    clutter(backups / C)
    # C is as empty as one that a run left which was killed at once.
    assert drop(backups, 2) == ({B, C, NEW}, [])


def test_a_folder_with_the_name_of_a_clutter_file_is_not_clutter(backups: Path) -> None:
    (backups / A / "._mine").mkdir()
    left, [warning] = drop(backups, 1)
    assert left == {A, NEW}
    assert "._mine is not part of an export" in warning


def test_a_link_of_the_name_of_clutter_is_not_followed(backups: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (backups / A / "@eaDir").symlink_to(elsewhere)
    left, [warning] = drop(backups, 1)
    assert left == {A, NEW}
    assert "@eaDir is not part of an export" in warning
    (backups / A).rename(backups / f".{A}.dropped")
    assert drop(backups, 1) == ({NEW}, [])
    assert elsewhere.is_dir()


def test_other_names_are_not_looked_at(backups: Path) -> None:
    (backups / A).rename(backups / "my own copy")
    (backups / B).rename(backups / f"{B}.bak")
    (backups / "2026-02-01T000000Z").write_text("a file, not a folder")
    left, warnings = drop(backups, 1)
    assert left == {"my own copy", f"{B}.bak", "2026-02-01T000000Z", NEW}
    assert warnings == []


def test_a_link_to_a_backup_is_not_followed(backups: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    (backups / A).rename(elsewhere)
    (backups / A).symlink_to(elsewhere)
    left, _ = drop(backups, 1)
    assert left == {A, NEW}
    assert len(list(elsewhere.iterdir())) == 3


def test_what_is_newer_stays(backups: Path) -> None:
    (backups / A).rename(backups / "2026-03-05T000000Z")
    left, _ = drop(backups, 1)
    assert left == {"2026-03-05T000000Z", NEW}


def test_the_lock_of_a_run_that_was_killed_does_not_keep_a_backup(backups: Path) -> None:
    (backups / A / "some-id.lock").write_text("")
    left, warnings = drop(backups, 3)
    assert (left, warnings) == ({B, C, NEW}, [])


def test_what_was_half_dropped_goes_with_the_next_run(backups: Path) -> None:
    (backups / A).rename(backups / f".{A}.dropped")
    (backups / f".{A}.dropped" / "some-id-00001.csv.gz").unlink()
    (backups / ".mine.dropped").mkdir()
    left, warnings = drop(backups, 9)
    assert (left, warnings) == ({B, C, NEW, ".mine.dropped"}, [])


def test_a_backup_is_never_half_gone_under_its_own_name(
    backups: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", fail)
        left, warnings = drop(backups, 3)
    assert left == {f".{A}.dropped", B, C, NEW}
    assert warnings == [f"{backups / f'.{A}.dropped'} can't be removed: Input/output error."]
    assert [one.target.name for one in find_backups(backups)] == [B, C, NEW]
    assert drop(backups, 3) == ({B, C, NEW}, [])


def test_folders_are_made_by_the_clock_and_never_shared(tmp_path: Path) -> None:
    clock = FakeClock(datetime(2026, 3, 2, 9, 30, tzinfo=UTC))
    made = [make_folder(tmp_path / "a/b", clock) for _ in range(3)]
    clock.advance(1)
    made.append(make_folder(tmp_path / "a/b", clock))
    first = "2026-03-02T093000Z"
    names = [first, f"{first}-2", f"{first}-3", "2026-03-02T093001Z"]
    assert [path.name for path in made] == names


def test_only_an_empty_folder_is_discarded(backups: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for folder in (backups / A, tmp_path / "empty", tmp_path / "none"):
        discard_if_empty(folder)
    assert (backups / A).exists()
    assert not (tmp_path / "empty").exists()


def test_exports_are_found_in_a_folder_or_in_dated_ones_below(backups: Path) -> None:
    found = find_backups(backups)
    assert [(one.directory.name, one.export_id) for one in found] == [
        (name, "some-id") for name in (A, B, C, NEW)
    ]
    assert find_backups(backups / A) == found[:1]
    assert find_backups(backups / A)[0].state == "complete"


def test_find_exports_tells_what_each_manifest_says(backups: Path) -> None:
    (backups / A / "other.manifest.json").write_text("{")
    (backups / A / ".hidden.manifest.json").write_text("{}")
    damaged, whole = find_exports(backups / A)
    assert (damaged.export_id, damaged.state, damaged.files) == ("other", "damaged", ())
    assert (whole.export_id, whole.state, whole.contact_count) == ("some-id", "complete", 20)
    assert [path.name for path in whole.files] == [f"some-id-0000{n}.csv.gz" for n in (1, 2)]
    assert all(path.exists() for path in (*whole.files, whole.manifest))
    assert whole.export is not None
    assert whole.export.contact_count == 20
    assert whole.request == ExportRequest(host="127.0.0.1")
    assert find_exports(str(backups)) == ()
    with pytest.raises(FileNotFoundError):
        find_exports(backups / "nowhere")
