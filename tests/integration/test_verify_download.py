"""A download on disk, compared with its manifest: nothing is asked, and nothing is touched."""

from __future__ import annotations

import asyncio
import gzip
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sendgrid_exports import (
    DownloadError,
    DownloadPolicy,
    DownloadResult,
    ExportTimeoutError,
    FileFinished,
    FileStarted,
    SendGridExportsError,
    VerificationReport,
    Verify,
    verify_download,
)
from sendgrid_exports.testing import FakeSendGrid, Stall
from sendgrid_exports.transfer.checking import check_file
from tests.integration.conftest import MakeClient, MakeFake


@pytest.fixture
async def fake(make_fake: MakeFake) -> FakeSendGrid:
    made: FakeSendGrid = await make_fake(files=3, contacts=60)
    return made


@pytest.fixture
async def result(fake: FakeSendGrid, make_client: MakeClient, tmp_path: Path) -> DownloadResult:
    """A finished download of three files."""
    return await make_client(fake).fetch(await fake.add_export(), tmp_path)


def state(directory: Path) -> dict[str, tuple[bytes, int, int]]:
    """Return everything that could be changed in a directory."""
    seen = {".": (b"", directory.stat().st_mtime_ns, directory.stat().st_mode)}
    for path in directory.iterdir():
        status = path.stat()
        data = path.read_bytes() if path.is_file() else b""
        seen[path.name] = (data, status.st_mtime_ns, status.st_mode)
    return seen


async def verified(directory: Path, export_id: str) -> VerificationReport:
    """Verify, and see that nothing on disk is another afterwards."""
    before = state(directory)
    report = await verify_download(directory, export_id)
    assert state(directory) == before
    assert report.export_id == export_id
    assert report.ok == (report.complete and not (report.missing + report.changed + report.extra))
    return report


async def of(result: DownloadResult) -> VerificationReport:
    return await verified(result.directory, result.export.id)


def paths(result: DownloadResult) -> tuple[Path, ...]:
    return tuple(file.path for file in result.files)


async def test_a_finished_download_is_as_it_was(fake: FakeSendGrid, result: DownloadResult) -> None:
    requests = len(fake.requests)
    report = await of(result)
    assert report.ok
    assert report.complete
    assert report.verified == paths(result)
    assert (report.missing, report.changed, report.extra) == ((), (), ())
    assert len(fake.requests) == requests


@pytest.mark.parametrize("as_text", [True, False])
async def test_the_directory_may_be_a_text_or_a_path(
    result: DownloadResult, *, as_text: bool
) -> None:
    directory = str(result.directory) if as_text else result.directory
    assert (await verify_download(directory, result.export.id)).ok


async def test_a_directory_may_be_relative(
    result: DownloadResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(result.directory)
    assert (await verify_download(".", result.export.id)).ok


async def test_a_file_that_is_gone_is_missing(result: DownloadResult) -> None:
    first, second, third = paths(result)
    second.unlink()
    report = await of(result)
    assert not report.ok
    assert report.complete
    assert (report.verified, report.missing) == ((first, third), (second,))


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("at", [0, 200, -1])
@pytest.mark.parametrize("restored", [True, False])
async def test_one_flipped_bit_is_a_change_whatever_the_time_of_change_says(
    result: DownloadResult, at: int, *, restored: bool
) -> None:
    path = paths(result)[1]
    before = path.stat()
    flip(path, at)
    if restored:
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    report = await of(result)
    assert not report.ok
    assert (report.changed, report.missing) == ((path,), ())


@pytest.mark.parametrize("size", [0, 1, 100, -1])
async def test_a_shortened_file_is_a_change(result: DownloadResult, size: int) -> None:
    path = paths(result)[0]
    os.truncate(path, size if size >= 0 else path.stat().st_size - 1)
    assert (await of(result)).changed == (path,)


@pytest.mark.parametrize("more", [b"\0", b"junk", gzip.compress(b"a,b\n", mtime=0)])
async def test_a_file_with_more_behind_it_is_a_change(result: DownloadResult, more: bytes) -> None:
    path = paths(result)[0]
    path.write_bytes(path.read_bytes() + more)
    assert (await of(result)).changed == (path,)


async def test_two_files_that_changed_places_are_both_changed(result: DownloadResult) -> None:
    first, second, _ = paths(result)
    data = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(data)
    assert set((await of(result)).changed) == {first, second}


async def test_a_touched_file_is_as_it_was(result: DownloadResult) -> None:
    os.utime(paths(result)[0], ns=(1, 1))
    assert (await of(result)).ok


async def test_a_copy_of_the_directory_is_as_good(result: DownloadResult, tmp_path: Path) -> None:
    shutil.copytree(result.directory, tmp_path / "copy")
    assert (await verified(tmp_path / "copy", result.export.id)).ok


@pytest.mark.parametrize(
    "ending",
    [
        "-00001.part",
        "-00001.converted.part",
        "-00004.csv.gz",
        "-00001.csv",
        "-00001.json.gz",
        "-123456.csv.gz",
        ".journal",
        ".manifest.json.part",
    ],
)
async def test_what_has_a_name_of_this_export_and_no_place_in_it_is_extra(
    result: DownloadResult, ending: str
) -> None:
    extra = result.directory / f"{result.export.id}{ending}"
    extra.write_bytes(b"x")
    report = await of(result)
    assert not report.ok
    assert report.extra == (extra,)
    assert report.verified == paths(result)


@pytest.mark.parametrize(
    "name",
    [
        "notes.txt",
        "{id}",
        "{id}.txt",
        "{id}.csv.gz",
        "{id}-1.csv.gz",
        "{id}-summary.csv",
        "{id}-00001",
        "{id}x-00001.csv.gz",
        "x{id}-00001.csv.gz",
        "other-00001.csv.gz",
        "other.manifest.json",
        ".{id}-00001.csv.gz.swp",
        "{id}-00001.CSV.GZ",
        "{id}-00001.csv.gz~",
    ],
)
async def test_the_users_own_files_are_nobodys_business(result: DownloadResult, name: str) -> None:
    (result.directory / name.format(id=result.export.id)).write_bytes(b"x")
    assert (await of(result)).ok


@pytest.mark.parametrize("ending", ["-00001.parquet", "-00001.csv.gz.bak", "-00001.txt"])
async def test_what_the_user_made_of_a_file_is_the_users(
    result: DownloadResult, ending: str
) -> None:
    (result.directory / f"{result.export.id}{ending}").write_bytes(b"x")
    assert (await of(result)).ok


async def test_another_export_in_the_directory_is_another(
    fake: FakeSendGrid, result: DownloadResult, make_client: MakeClient
) -> None:
    other = await make_client(fake).fetch(await fake.add_export(), result.directory)
    assert (await of(result)).ok
    assert (await of(other)).ok
    paths(other)[0].unlink()
    assert (await of(result)).ok
    assert (await of(other)).missing == paths(other)[:1]


async def test_an_export_whose_id_begins_with_this_one_is_another(
    fake: FakeSendGrid, make_client: MakeClient, tmp_path: Path
) -> None:
    client = make_client(fake)
    for export_id in ("2026", "2026-00001"):
        await fake.add_export(export_id=export_id)
        await client.fetch(export_id, tmp_path)
    assert (await verified(tmp_path, "2026-00001")).ok
    assert (await verified(tmp_path, "2026")).ok


@pytest.mark.parametrize("export_id", ["a/b", "..", "é" * 200, "a[0-9]+", "*", "a b"])
async def test_an_id_of_any_letters_finds_its_files(
    fake: FakeSendGrid, make_client: MakeClient, tmp_path: Path, export_id: str
) -> None:
    await fake.add_export(export_id=export_id)
    result = await make_client(fake).fetch(export_id, tmp_path)
    (tmp_path / "a7-00001.csv.gz").write_bytes(b"of another")
    report = await verified(tmp_path, export_id)
    assert report.ok
    assert report.verified == paths(result)


@pytest.mark.parametrize("verify", [Verify.CHECKSUM, Verify.CONTENTS])
@pytest.mark.parametrize("file_type", ["csv", "json"])
async def test_decompressed_files_are_proved_as_they_are(
    fake: FakeSendGrid, make_client: MakeClient, tmp_path: Path, verify: Verify, file_type: str
) -> None:
    policy = DownloadPolicy(decompress=True, verify=verify)
    export_id = await fake.add_export(file_type=file_type)
    result = await make_client(fake, downloads=policy).fetch(export_id, tmp_path)
    report = await of(result)
    assert report.ok
    assert [path.suffix for path in report.verified] == [f".{file_type}"] * 3
    flip(paths(result)[2], 100)
    assert (await of(result)).changed == paths(result)[2:]


async def test_compressed_again_it_is_as_it_was(
    fake: FakeSendGrid, make_client: MakeClient, tmp_path: Path
) -> None:
    export_id = await fake.add_export()
    plain = DownloadPolicy(decompress=True)
    await make_client(fake, downloads=plain).fetch(export_id, tmp_path)
    assert (await of(await make_client(fake).fetch(export_id, tmp_path))).ok


async def test_a_plain_file_in_the_place_of_a_compressed_one_is_a_change(
    result: DownloadResult,
) -> None:
    path = paths(result)[0]
    path.write_bytes(gzip.decompress(path.read_bytes()))
    assert (await of(result)).changed == (path,)


async def test_of_a_download_by_length_alone_length_and_gzip_are_proved(
    fake: FakeSendGrid, make_client: MakeClient, tmp_path: Path
) -> None:
    policy = DownloadPolicy(verify=Verify.LENGTH)
    result = await make_client(fake, downloads=policy).fetch(await fake.add_export(), tmp_path)
    assert [file.sha256 for file in result.files] == [None] * 3
    assert (await of(result)).ok
    first, second, _ = paths(result)
    flip(first, 200)
    os.truncate(second, 100)
    assert (await of(result)).changed == (first, second)


async def test_of_plain_files_by_length_alone_only_the_length_is_known(
    fake: FakeSendGrid, make_client: MakeClient, tmp_path: Path
) -> None:
    policy = DownloadPolicy(verify=Verify.LENGTH)
    export_id = await fake.add_export(bodies=[b"EMAIL\na@b.c\n"])
    result = await make_client(fake, downloads=policy).fetch(export_id, tmp_path)
    [path] = paths(result)
    flip(path, 7)
    assert (await of(result)).ok
    os.truncate(path, 5)
    assert (await of(result)).changed == (path,)


@pytest.mark.parametrize("bodies", [[], [b""], [b"\n"], [b"EMAIL"]])
async def test_nothing_and_next_to_nothing_are_verified_too(
    fake: FakeSendGrid, make_client: MakeClient, tmp_path: Path, bodies: list[bytes]
) -> None:
    export_id = await fake.add_export(bodies=bodies, contact_count=0)
    result = await make_client(fake).fetch(export_id, tmp_path)
    report = await of(result)
    assert report.ok
    assert len(report.verified) == len(bodies)


async def interrupted(
    fake: FakeSendGrid, make_client: MakeClient, directory: Path, **policy: Any
) -> str:
    """Break a download off of which one file has arrived and another has begun; return its id."""
    fake.inject(Stall(after=2000), file=2, times=None)
    fake.inject(Stall(), file=3, times=None)
    client = make_client(fake, downloads=DownloadPolicy(read_timeout=0.05, **policy))
    export_id = await fake.add_export(contacts=3000)
    with pytest.raises(ExportTimeoutError):
        await client.fetch(export_id, directory, timeout=3)
    return export_id


@pytest.mark.parametrize("decompress", [False, True])
async def test_a_download_broken_off_is_incomplete_and_its_own_files_are_not_extra(
    fake: FakeSendGrid, make_client: MakeClient, tmp_path: Path, *, decompress: bool
) -> None:
    export_id = await interrupted(fake, make_client, tmp_path, decompress=decompress)
    assert list(tmp_path.glob("*.part"))
    report = await verified(tmp_path, export_id)
    assert not report.ok
    assert not report.complete
    assert [path.name.partition(".")[0] for path in report.missing] == [
        f"{export_id}-00002",
        f"{export_id}-00003",
    ]
    assert len(report.verified) == 1
    assert (report.changed, report.extra) == ((), ())


async def test_a_download_under_way_is_incomplete_and_goes_on(
    fake: FakeSendGrid, make_client: MakeClient, tmp_path: Path
) -> None:
    export_id = await fake.add_export()
    fake.inject(Stall(after=100), file=3)
    finished = asyncio.Semaphore(0)

    def listen(event: object) -> None:
        if isinstance(event, FileFinished):
            finished.release()

    client = make_client(fake, downloads=DownloadPolicy(read_timeout=0.3))
    task = asyncio.create_task(client.fetch(export_id, tmp_path, on_event=listen))
    await finished.acquire()
    await finished.acquire()
    report = await verify_download(tmp_path, export_id)
    assert not report.complete
    assert len(report.verified) == 2
    assert len(report.missing) == 1
    assert report.extra == ()
    result = await task
    assert (await of(result)).ok


async def test_a_cancelled_download_is_incomplete(
    fake: FakeSendGrid, make_client: MakeClient, tmp_path: Path
) -> None:
    export_id = await fake.add_export()
    fake.inject(Stall(after=100), times=None)
    begun = asyncio.Event()

    def listen(event: object) -> None:
        if isinstance(event, FileStarted):
            begun.set()

    task = asyncio.create_task(make_client(fake).fetch(export_id, tmp_path, on_event=listen))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    report = await verified(tmp_path, export_id)
    assert not report.complete
    assert (report.verified, report.extra) == ((), ())


async def test_an_export_that_is_only_started_is_incomplete(
    fake: FakeSendGrid, tmp_path: Path
) -> None:
    text = '{"export_id": "x", "state": "pending", "links": [], "files": [], "version": 1}'
    (tmp_path / "x.manifest.json").write_text(text)
    report = await verified(tmp_path, "x")
    assert not report.ok
    assert (report.verified, report.missing, report.extra) == ((), (), ())


@pytest.mark.parametrize("there", [True, False])
async def test_without_a_manifest_there_is_nothing_to_compare_with(
    tmp_path: Path, *, there: bool
) -> None:
    directory = tmp_path if there else tmp_path / "nowhere"
    with pytest.raises(DownloadError, match="no manifest of export x") as caught:
        await verify_download(directory, "x")
    assert caught.value.path == directory / "x.manifest.json"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe",
        b'{"version": 99}',
        b"[" * 100_000,
        b'{"export_id": "x"}',
        b'{"export_id": "x", "version": 1, "files": [{"name": "../x"}]}',
        b'{"export_id": "another", "version": 1}',
    ],
    ids=lambda text: repr(text[:40]),
)
async def test_a_damaged_manifest_says_so(result: DownloadResult, text: bytes) -> None:
    result.manifest.write_bytes(text)
    with pytest.raises(DownloadError, match="damaged") as caught:
        await verify_download(result.directory, result.export.id)
    assert caught.value.path == result.manifest


@pytest.mark.parametrize("damage", ["../../etc/passwd", "/etc/passwd", "..", "a/b", "a\\b", "a\0b"])
async def test_a_manifest_never_leads_out_of_its_directory(
    result: DownloadResult, damage: str
) -> None:
    text = result.manifest.read_text().replace(paths(result)[0].name, repr(damage)[1:-1])
    result.manifest.write_text(text.replace("\\x00", "\\u0000"))
    with pytest.raises(DownloadError, match="damaged"):
        await verify_download(result.directory, result.export.id)


@pytest.mark.parametrize("cut", [1, 10, 300])
async def test_a_torn_manifest_is_damaged(result: DownloadResult, cut: int) -> None:
    data = result.manifest.read_bytes()
    result.manifest.write_bytes(data[: -cut - 1])
    with pytest.raises(DownloadError, match="damaged"):
        await verify_download(result.directory, result.export.id)


async def test_the_manifest_of_another_export_is_none(result: DownloadResult) -> None:
    shutil.copy(result.manifest, result.directory / "x.manifest.json")
    with pytest.raises(DownloadError, match="damaged"):
        await verify_download(result.directory, "x")


@pytest.mark.parametrize(
    ("directory", "export_id", "error", "name"),
    [
        (".", "", ValueError, "export_id"),
        (".", None, TypeError, "export_id"),
        (".", 7, TypeError, "export_id"),
        (".", b"x", TypeError, "export_id"),
        *(
            pytest.param(directory, "x", error, "directory")
            for directory, error in [
                ("", ValueError),
                ("a\0b", ValueError),
                (None, TypeError),
                (7, TypeError),
                (b"x", TypeError),
            ]
        ),
    ],
)
async def test_arguments_that_can_t_be_used_are_named(
    directory: Any, export_id: Any, error: type[Exception], name: str
) -> None:
    with pytest.raises(error, match=f"^{name}\\b"):
        await verify_download(directory, export_id)


async def test_a_directory_in_the_place_of_a_file_is_no_verified_file(
    result: DownloadResult,
) -> None:
    path = paths(result)[0]
    path.unlink()
    path.mkdir()
    with pytest.raises((OSError, SendGridExportsError)):
        await verify_download(result.directory, result.export.id)


@pytest.fixture
def held_up(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Path]]:
    """The files read so far; whoever reads one is held up until the test lets go."""
    read: list[Path] = []
    let_go = threading.Event()

    def slow(path: Path, *args: Any, **options: Any) -> Any:
        read.append(path)
        let_go.wait(0.2)
        return (yield from check_file(path, *args, **options))

    monkeypatch.setattr("sendgrid_exports.transfer.checking.check_file", slow)
    yield read
    let_go.set()


async def test_cancelling_waits_for_one_file_and_not_for_all(
    result: DownloadResult, held_up: list[Path]
) -> None:
    task = asyncio.create_task(verify_download(result.directory, result.export.id))
    while not held_up:
        await asyncio.sleep(0.005)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(held_up) < 3


async def test_two_at_once_do_not_disturb_each_other(result: DownloadResult) -> None:
    reports = await asyncio.gather(*(of(result) for _ in range(5)))
    assert all(report.ok for report in reports)


async def test_no_thread_is_left_behind(result: DownloadResult) -> None:
    before = set(threading.enumerate())
    await verify_download(result.directory, result.export.id)
    for thread in set(threading.enumerate()) - before:
        await asyncio.to_thread(thread.join, 5)
        assert not thread.is_alive()
