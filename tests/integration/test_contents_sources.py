"""Which files a caller means, and their plain text: whole, or an error that says what to do."""

from __future__ import annotations

import gzip
import json
from asyncio import to_thread
from pathlib import Path

import pytest

from sendgrid_exports import CorruptDownloadError, DownloadError, DownloadResult
from sendgrid_exports.contents import files
from sendgrid_exports.contents.files import PlainFile, Source, find_files
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
    files = tuple(file.path for file in result.files)
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
    assert list(await to_thread(find_files, tmp_path)) == paths


@pytest.mark.parametrize("state", ["pending", "downloading"])
async def test_a_download_that_is_not_finished(
    make_fake: MakeFake, make_client: MakeClient, tmp_path: Path, state: str
) -> None:
    result = await fetched(make_fake, make_client, tmp_path)
    manifest = json.loads(await to_thread(result.manifest.read_text))
    await to_thread(result.manifest.write_text, json.dumps(manifest | {"state": state}))
    with pytest.raises(DownloadError, match="is not finished"):
        await to_thread(find_files, tmp_path)


async def test_a_manifest_that_is_damaged(
    make_fake: MakeFake, make_client: MakeClient, tmp_path: Path
) -> None:
    result = await fetched(make_fake, make_client, tmp_path)
    await to_thread(result.manifest.write_text, "{")
    for export_id in (None, "Ä/1"):
        with pytest.raises(DownloadError, match=r"is damaged|Nothing of export"):
            await to_thread(find_files, tmp_path, export_id)


async def test_a_file_that_is_gone(
    make_fake: MakeFake, make_client: MakeClient, tmp_path: Path
) -> None:
    result = await fetched(make_fake, make_client, tmp_path)
    await to_thread(result.files[1].path.unlink)
    with pytest.raises(DownloadError, match="is missing") as caught:
        await to_thread(find_files, tmp_path)
    assert caught.value.path == result.files[1].path


@pytest.mark.parametrize("left", [0, 20])
async def test_a_file_that_was_cut_where_it_still_can_be_read(
    make_fake: MakeFake, make_client: MakeClient, tmp_path: Path, left: int
) -> None:
    # Nothing at all reads as a file without contacts, and so does one that ends after a member.
    result = await fetched(make_fake, make_client, tmp_path)
    path = result.files[1].path
    await to_thread(path.write_bytes, gzip.compress(b"", mtime=0)[:left])
    for source in (tmp_path, result):
        with pytest.raises(CorruptDownloadError, match=f"it has {left} bytes, and was") as caught:
            await to_thread(find_files, source)
        assert caught.value.path == path
    assert await to_thread(find_files, path) == (path,)


def test_a_directory_without_a_manifest(names: Path) -> None:
    found = [path.name for path in find_files(names)]
    assert found == ["a-00001.csv.gz", "a-00002.csv.gz", "a-00003.csv"]
    assert find_files(names, "a") == find_files(names)


def test_several_exports_are_named(names: Path) -> None:
    (names / "b-00001.json.gz").touch()
    with pytest.raises(ValueError, match=r"several exports; pass export_id, one of a, b"):
        find_files(names)
    assert find_files(names, "b") == (names / "b-00001.json.gz",)


def test_what_file_systems_add_to_a_directory_is_not_an_export(names: Path) -> None:
    for name in ("._a.manifest.json", "._a-00001.csv.gz", ".DS_Store", "Thumbs.db"):
        (names / name).touch()
    (names / "@eaDir").mkdir()
    assert len(find_files(names)) == 3


@pytest.mark.parametrize("change", ["a-00002.csv", "a-00005.csv"])
def test_numbers_that_are_not_one_by_one(names: Path, change: str) -> None:
    (names / change).touch()
    with pytest.raises(DownloadError, match=change):
        find_files(names)


@pytest.mark.parametrize("export_id", [None, "b", "a*"])
def test_nothing_there(tmp_path: Path, export_id: str | None) -> None:
    (tmp_path / "a.csv").touch()
    with pytest.raises(DownloadError, match=r"No export is in|Nothing of export") as caught:
        find_files(tmp_path, export_id)
    assert caught.value.path == tmp_path


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
    with pytest.raises(ValueError, match="must not mix files and directories"):
        find_files([names, names / "a-00001.csv.gz"])
    with pytest.raises(FileNotFoundError, match="missing"):
        find_files(names / "missing.csv")


@pytest.fixture(params=["isal", "zlib"])
def _inflater(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "isal":
        pytest.importorskip("isal")
    else:
        monkeypatch.setattr(files, "_ISAL", None)


def plain_text(path: Path, size: int) -> list[bytes]:
    with PlainFile(path) as file:
        return list(iter(lambda: file.read(size), b""))


@pytest.mark.parametrize("size", [0, 1, 2, 300, MIB - 1, MIB, 3 * MIB + 1])
@pytest.mark.usefixtures("_inflater")
def test_plain_text_is_what_was_written(tmp_path: Path, size: int) -> None:
    text = (b"some text, \n" * (size // 12 + 1))[:size]
    for data in (
        text,
        gzip.compress(text),
        gzip.compress(text[:9]) + gzip.compress(text[9:]),
        gzip.compress(text) + bytes(5000) + gzip.compress(b"") + bytes(5000),
    ):
        path = tmp_path / "file"
        path.write_bytes(data)
        pieces = plain_text(path, 64 * 1024)
        assert b"".join(pieces) == text
        assert all(len(piece) == 64 * 1024 for piece in pieces[:-1])


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data[:-1],
        lambda data: data[:2],
        lambda data: data[:-8] + b"\0" * 8,
        lambda data: data[:90] + b"\xff" * 20 + data[110:],
        lambda data: data + b"more",
    ],
)
@pytest.mark.usefixtures("_inflater")
def test_broken_gzip_is_an_error_that_names_the_file(tmp_path: Path, change: object) -> None:
    assert callable(change)
    path = tmp_path / "x.csv.gz"
    path.write_bytes(change(gzip.compress(b"EMAIL\n" * 50_000)))
    with pytest.raises(CorruptDownloadError, match="its gzip data is damaged after") as caught:
        plain_text(path, 1000)
    assert caught.value.path == path
    assert str(path) in str(caught.value)


def member(text: bytes, *, extra: int = 0, name: int = 0, comment: int = 0) -> bytes:
    """Gzip whose header has an extra field, a name and a comment of so many bytes (RFC 1952)."""
    data = gzip.compress(text, mtime=0)
    flags = 4 * bool(extra) | 8 * bool(name) | 16 * bool(comment)
    fields = [data[:3], bytes([flags]), data[4:10]]
    fields += [extra.to_bytes(2, "little"), b"x" * extra] if extra else []
    fields += [b"n" * size + b"\0" for size in (name, comment) if size]
    return b"".join([*fields, data[10:]])


# Where libraries read their input up to, and so cut the header that stands there.
CUTS = [128 * 1024, 256 * 1024, 512 * 1024, 1024 * 1024]


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.usefixtures("_inflater")
def test_gzip_that_only_zlib_reads_is_read(tmp_path: Path, cut: int) -> None:
    pytest.importorskip("isal")
    texts = [b'"EMAIL","CONTACT_ID"\n' * 2, b'"a","1"\n' * 1000]
    path = tmp_path / "x.csv.gz"
    for before in range(1, 100, 7):
        first = member(texts[0], comment=cut - before - len(member(texts[0])) - 1)
        assert len(first) == cut - before
        path.write_bytes(first + member(texts[1], extra=50, name=40))
        assert b"".join(plain_text(path, 1000)) == b"".join(texts)
