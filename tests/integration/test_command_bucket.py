"""The command with a bucket in the place of a directory, and which backups it drops there."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from obstore.store import LocalStore

from sendgrid_exports import (
    Bucket,
    DownloadError,
    export_contacts,
    find_exports,
    verify_download,
)
from sendgrid_exports.cli.backups import drop_old, find_backups, read_name
from sendgrid_exports.testing import FakeSendGrid, Stall
from tests.integration.command import Command

A, B, C, NEW = (f"2026-03-0{day}T000000Z" for day in range(1, 5))


@pytest.fixture
async def fake() -> AsyncIterator[FakeSendGrid]:
    async with FakeSendGrid(contacts=50, files=2, statuses=["ready"]) as fake:
        yield fake


@pytest.fixture
def command(fake: FakeSendGrid, tmp_path: Path) -> Command:
    return Command(fake, tmp_path)


@pytest.fixture
def target(request: pytest.FixtureRequest) -> str:
    return f"memory://{request.node.name}/backups"


async def test_backups_in_a_bucket_are_made_verified_read_compared_and_dropped(
    command: Command, target: str
) -> None:
    ended = [
        await command.here("backup", target, "--keep", "2", "--output", "json") for _ in range(3)
    ]
    assert [one.code for one in ended] == [0, 0, 0], ended[0].errors
    first, second, third = (json.loads(one.output) for one in ended)
    assert (first["dropped"], second["dropped"]) == ([], [])
    assert third["dropped"] == [first["directory"]]
    assert third["files"][0]["url"].startswith(f"{third['directory']}/")
    assert third["manifest"] == f"{third['directory']}/{third['export_id']}.manifest.json"
    folders = Bucket.from_url(target).list()[1]
    assert [f"{target}/{name}" for name in folders] == [second["directory"], third["directory"]]
    assert all(map(read_name, folders))

    verified = await command.here("verify", target)
    assert verified.code == 0
    assert verified.output.count("verified") == 2
    contacts = await command.here("contacts", target)
    assert contacts.output.count("\n") == 50
    assert f"Reading {third['directory']}." in contacts.errors
    compared = await command.here("compare", second["directory"], third["directory"])
    assert "50 unchanged" in compared.errors
    parquet = await command.here("contacts", target, "--parquet", "contacts.parquet")
    assert "50 contacts in contacts.parquet" in parquet.output


async def test_an_export_is_fetched_to_a_bucket(
    command: Command, fake: FakeSendGrid, target: str
) -> None:
    await fake.add_export(export_id="an-export")
    ended = await command.here("fetch", "an-export", target)
    assert ended.code == 0, ended.errors
    assert f"50 contacts in 2 files of {target}" in ended.output
    assert "Downloaded and verified" in ended.errors
    Bucket.from_url(target).delete("an-export-00001.csv.gz")
    verified = await command.here("verify", target)
    assert verified.code == 7
    assert "missing: backups/an-export-00001.csv.gz" in verified.output


async def test_a_url_that_holds_credentials_is_refused_and_not_shown(command: Command) -> None:
    for words in (
        ("backup", "s3://key:s3cr3t@bucket/prefix"),
        ("fetch", "an-export", "az://container/prefix?sig=s3cr3t"),
        ("fetch", "az://container/prefix?sig=s3cr3t", "directory"),
        ("verify", "s3://bucket?X=s3cr3t"),
        ("backup", "https://bucket.s3.amazonaws.com/?s3cr3t"),
    ):
        ended = await command.here(*words)
        assert ended.code == 2, ended.errors
        assert "s3cr3t" not in ended.errors
    assert command.fake.requests == []


async def test_a_bucket_is_not_for_plain_files(command: Command, target: str) -> None:
    ended = await command.here("backup", target, "--decompress")
    assert ended.code == 2, ended.errors
    assert "a directory" in ended.errors
    assert command.fake.requests == []


async def test_an_interruption_says_that_unfinished_files_are_not_kept_in_a_bucket(
    command: Command, fake: FakeSendGrid, target: str
) -> None:
    await fake.add_export(export_id="an-export")
    fake.inject(Stall(after=100), file=2, times=None)
    process = await command.begin("fetch", "an-export", target)
    assert process.stderr is not None
    await process.stderr.readuntil(b"Downloaded and verified")
    process.send_signal(signal.SIGINT)
    ended = await command.end(process)
    assert ended.code == 130
    assert "Interrupted. 1 of 2 files is verified." in ended.errors
    assert "unfinished files are kept" not in ended.errors
    assert f"fetch an-export {target}" in ended.errors


# Which backups are dropped


@pytest.fixture
def backups(tmp_path: Path) -> Bucket:
    """Return a bucket with four whole backups of the same export."""
    bucket = Bucket(LocalStore(tmp_path / "store", mkdir=True, automatic_cleanup=True), "backups")

    async def make(name: str) -> None:
        async with FakeSendGrid(contacts=20, files=2, statuses=["ready"]) as fake:
            await export_contacts(bucket / name, **fake.credentials)

    for name in (A, B, C, NEW):
        asyncio.run(make(name))
    return bucket


def drop(backups: Bucket, keep: int) -> tuple[list[str], list[str]]:
    """Drop what may go; return the names that are left, and what was warned of."""
    warnings: list[str] = []
    [new] = find_exports(backups / NEW)
    drop_old(new, keep, warnings.append, lambda one: warnings.append(f"unfinished {one.target}"))
    return [*backups.list()[1], *(each.name for each in backups.list()[0])], warnings


@pytest.mark.parametrize(
    ("keep", "left"),
    [(1, [NEW]), (2, [C, NEW]), (3, [B, C, NEW]), (4, [A, B, C, NEW]), (9, [A, B, C, NEW])],
)
def test_the_oldest_go_until_so_many_stay(backups: Bucket, keep: int, left: list[str]) -> None:
    assert drop(backups, keep) == (left, [])
    assert [one.target.name for one in find_backups(backups)] == left


def name_in(folder: Bucket, ending: str) -> str:
    return next(each.name for each in folder.list()[0] if each.name.endswith(ending))


def manifest_as(state: str) -> Callable[[Bucket], object]:
    def change(folder: Bucket) -> None:
        name = name_in(folder, ".manifest.json")
        found = folder.read(name)
        assert found is not None
        folder.update(name, found[0].replace(b'"complete"', b'"%s"' % state.encode()), found[1])

    return change


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda folder: folder.delete(name_in(folder, "1.csv.gz")), "missing or changed"),
        (lambda folder: folder.create("notes.txt", b"x"), "notes.txt is not part of an export"),
        (lambda folder: (folder / "more").create("a", b"x"), "more is not part of an export"),
        (lambda folder: folder.delete(name_in(folder, ".manifest.json")), "exactly one export"),
        (manifest_as("downloading"), "unfinished"),
    ],
)
def test_what_is_not_a_whole_backup_alone_is_neither_counted_nor_dropped(
    backups: Bucket, spoil: Callable[[Bucket], object], said: str
) -> None:
    spoil(backups / A)
    left, warnings = drop(backups, 2)
    assert left == [A, C, NEW]
    assert len(warnings) == 1
    assert said in warnings[0]
    assert f"{backups}/{A}" in warnings[0]


def test_what_a_killed_run_was_dropping_is_dropped_by_the_next(backups: Bucket) -> None:
    backups.create(f".{A}.dropped", b"")
    (backups / A).delete(name_in(backups / A, ".manifest.json"))
    backups.create(".2026-not-ours.dropped", b"")
    left, warnings = drop(backups, 4)
    assert (left, warnings) == ([B, C, NEW, ".2026-not-ours.dropped"], [])


def test_what_can_not_be_deleted_is_known_as_what_was_to_be_dropped(
    backups: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Bucket, name: str) -> None:
        raise DownloadError(f"{self.url_of(name)} can't be deleted.")

    with monkeypatch.context() as patch:
        patch.setattr(Bucket, "delete", refuse)
        left, warnings = drop(backups, 3)
    assert left == [A, B, C, NEW, f".{A}.dropped"]
    assert len(warnings) == 1
    assert warnings[0].startswith(f"{backups / A} can't be dropped: ")
    assert drop(backups, 3) == ([B, C, NEW], [])


def test_a_dropped_backup_leaves_nothing(backups: Bucket) -> None:
    drop(backups, 1)
    assert (backups / A).list() == ([], [])
    report = asyncio.run(verify_download(backups / NEW, find_exports(backups / NEW)[0].export_id))
    assert report.ok
