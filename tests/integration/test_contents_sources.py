"""Which files are meant, and their plain text: found, whole, or an error that says what to do."""

from __future__ import annotations

import gzip
import json
from asyncio import to_thread
from collections.abc import Iterator
from pathlib import Path

import pytest

from sendgrid_exports import CorruptDownloadError, DownloadError, DownloadResult
from sendgrid_exports.contents.plain import read_plain
from sendgrid_exports.contents.sources import Source, SourceFile, find_files
from sendgrid_exports.formats import gunzip
from sendgrid_exports.testing import FakeSendGrid
from tests.integration.conftest import MakeClient, MakeFake

MIB = 1024 * 1024


@pytest.fixture
def names(tmp_path: Path) -> Path:
    for name in ("a-00001.csv.gz", "a-00002.csv.gz", "a-00003.csv", "note.txt"):
        (tmp_path / name).touch()
    return tmp_path


async def fetched(make_fake: MakeFake, make_client: MakeClient, to: Path) -> DownloadResult:
    fake: FakeSendGrid = await make_fake(contacts=10, files=2)
    return await make_client(fake).fetch(await fake.add_export(export_id="Ä/1"), to)


async def test_a_result_and_its_directory_name_the_same_files(
    make_fake: MakeFake, make_client: MakeClient, tmp_path: Path
) -> None:
    result = await fetched(make_fake, make_client, tmp_path)
    files = tuple(SourceFile(file.path, "csv") for file in result.files)
    assert await to_thread(find_files, result) == files
    assert (
        await to_thread(find_files, tmp_path)
        == await to_thread(find_files, str(tmp_path), "Ä/1")
        == files
    )
    assert await to_thread(find_files, [file.path for file in result.files]) == files


@pytest.mark.parametrize("manifest", [True, False])
async def test_what_a_system_puts_into_a_directory_is_not_an_export(
    make_fake: MakeFake, make_client: MakeClient, tmp_path: Path, *, manifest: bool
) -> None:
    result = await fetched(make_fake, make_client, tmp_path)
    paths = [file.path for file in result.files]
    for name in [".DS_Store", "Thumbs.db", *(f"._{path.name}" for path in tmp_path.iterdir())]:
        (tmp_path / name).write_bytes(b"\x00\x05\x16\x07")
    (tmp_path / "@eaDir" / f"{paths[0].name}@SynoEAStream").mkdir(parents=True)
    if not manifest:
        await to_thread(result.manifest.unlink)
    assert [file.path for file in await to_thread(find_files, tmp_path)] == paths


@pytest.mark.parametrize("state", ["pending", "downloading"])
async def test_a_download_that_is_not_finished(
    make_fake: MakeFake, make_client: MakeClient, tmp_path: Path, state: str
) -> None:
    result = await fetched(make_fake, make_client, tmp_path)
    manifest = json.loads(await to_thread(result.manifest.read_text))
    await to_thread(result.manifest.write_text, json.dumps(manifest | {"state": state}))
    with pytest.raises(DownloadError, match="not finished: fetch again"):
        await to_thread(find_files, tmp_path)


async def test_a_manifest_that_is_damaged(
    make_fake: MakeFake, make_client: MakeClient, tmp_path: Path
) -> None:
    result = await fetched(make_fake, make_client, tmp_path)
    await to_thread(result.manifest.write_text, "{")
    for export_id in (None, "Ä/1"):
        with pytest.raises(DownloadError, match=r"is damaged|nothing of export"):
            await to_thread(find_files, tmp_path, export_id)


async def test_a_file_that_is_gone(
    make_fake: MakeFake, make_client: MakeClient, tmp_path: Path
) -> None:
    result = await fetched(make_fake, make_client, tmp_path)
    await to_thread(result.files[1].path.unlink)
    with pytest.raises(DownloadError, match="is gone") as caught:
        await to_thread(find_files, tmp_path)
    assert caught.value.path == result.files[1].path


def test_a_directory_without_a_manifest(names: Path) -> None:
    found = [file.path.name for file in find_files(names)]
    assert found == ["a-00001.csv.gz", "a-00002.csv.gz", "a-00003.csv"]
    assert find_files(names, "a") == find_files(names)


def test_several_exports_are_named(names: Path) -> None:
    (names / "b-00001.json.gz").touch()
    with pytest.raises(ValueError, match=r"several exports; .*: a, b"):
        find_files(names)
    assert find_files(names, "b") == (SourceFile(names / "b-00001.json.gz", "json"),)


@pytest.mark.parametrize("change", ["a-00002.csv", "a-00005.csv"])
def test_numbers_that_are_not_one_by_one(names: Path, change: str) -> None:
    (names / change).touch()
    with pytest.raises(DownloadError, match=change):
        find_files(names)


@pytest.mark.parametrize("export_id", [None, "b", "a*"])
def test_nothing_there(tmp_path: Path, export_id: str | None) -> None:
    (tmp_path / "a.csv").touch()
    with pytest.raises(DownloadError, match=r"no export in|nothing of export") as caught:
        find_files(tmp_path, export_id)
    assert caught.value.path == tmp_path


@pytest.mark.parametrize(
    ("name", "kind"),
    [("x.csv", "csv"), ("x.JSON", "json"), ("x.ndjson.gz", "json"), ("x", "csv")],
)
def test_the_kind_of_a_path_is_that_of_its_name(tmp_path: Path, name: str, kind: str) -> None:
    path = tmp_path / name
    path.touch()
    assert find_files(str(path)) == find_files([path]) == (SourceFile(path, kind),)


@pytest.mark.parametrize("source", [None, 3, b"a", [b"a"], [1], {"a": 1}])
def test_what_is_no_source(source: object) -> None:
    with pytest.raises(TypeError, match=r"^source"):
        find_files(source)  # type: ignore[arg-type]


def test_sources_that_can_not_be_meant(names: Path) -> None:
    empty: list[Source] = [[], (), ""]
    for source in empty:
        with pytest.raises(ValueError, match=r"^source"):
            find_files(source)
    with pytest.raises(ValueError, match="export_id is for a directory"):
        find_files(names / "a-00001.csv.gz", "a")
    with pytest.raises(ValueError, match="give it alone"):
        find_files([names, names / "a-00001.csv.gz"])
    with pytest.raises(FileNotFoundError, match="missing"):
        find_files(names / "missing.csv")


@pytest.fixture(params=["isal.isal_zlib", "zlib"])
def inflater(request: pytest.FixtureRequest) -> Iterator[None]:
    library = pytest.importorskip(request.param)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gunzip, "zlib", library)
        yield


@pytest.mark.parametrize("size", [0, 1, 2, 300, MIB - 1, MIB, 3 * MIB + 1])
@pytest.mark.usefixtures("inflater")
def test_plain_text_is_what_was_written(tmp_path: Path, size: int) -> None:
    text = (b"some text, \n" * (size // 12 + 1))[:size]
    for data in (text, gzip.compress(text), gzip.compress(text[:9]) + gzip.compress(text[9:])):
        path = tmp_path / "file"
        path.write_bytes(data)
        pieces = list(read_plain(path))
        assert b"".join(pieces) == text
        assert all(0 < len(piece) <= MIB for piece in pieces)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda data: data[:-1], "unexpected end in the gzip data after byte"),
        (lambda data: data[:2], "unexpected end in the gzip data after byte 2"),
        (lambda data: data[:-8] + b"\0" * 8, "in the gzip data after byte"),
        (lambda data: data + b"more", "in the gzip data after byte"),
    ],
)
@pytest.mark.usefixtures("inflater")
def test_broken_gzip_says_where(tmp_path: Path, change: object, said: str) -> None:
    assert callable(change)
    path = tmp_path / "x.csv.gz"
    path.write_bytes(change(gzip.compress(b"EMAIL\n" * 50_000)))
    with pytest.raises(CorruptDownloadError, match=said) as caught:
        list(read_plain(path))
    assert caught.value.path == path
    assert str(path) in str(caught.value)
