"""The manifest: it comes back as it was written, believes nothing else, and holds no secret."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sendgrid_exports.models import ContactExport, ExportMetadata, ExportRequest, ExportStatus
from sendgrid_exports.settings import Verify
from sendgrid_exports.transfer.links import read_links, remember_links
from sendgrid_exports.transfer.manifest import (
    FileEntry,
    Manifest,
    ManifestWriter,
    as_complete,
    as_found,
    is_whole,
    read_manifest,
    with_export,
    with_files,
)

LINKS = ("https://h/a.csv.gzip", "https://h/b.csv.gzip")


def write_manifest(manifest: Manifest) -> bytes:
    return ManifestWriter().write(manifest)


def entry(number: int = 1, **changes: Any) -> FileEntry:
    return attrs.evolve(
        FileEntry(
            number=number,
            name=f"id-{number:05}.csv.gz",
            size=10,
            sha256="ab" * 32,
            mtime_ns=1_700_000_000_123_456_789,
            compressed=True,
            etag="e",
            raw_size=10,
            raw_compressed=True,
            contacts=5,
            verify=Verify.CONTENTS,
            verified_by=("length", "gzip-crc"),
        ),
        **changes,
    )


def export(*urls: str, **changes: Any) -> ContactExport:
    return ContactExport(
        id="id",
        status=ExportStatus.READY,
        status_text="ready",
        created_at=datetime(2026, 1, 2, 3, 4, 5, 678901, UTC),
        expires_at=datetime(2026, 1, 2, 15, 4, 5, tzinfo=UTC),
        urls=urls,
        contact_count=10,
        **changes,
    )


FULL = Manifest(
    export_id="id",
    state="complete",
    export=export(*LINKS),
    links=LINKS,
    files=(entry(1), entry(2, sha256=None, etag=None, contacts=None, verify=Verify.LENGTH)),
    contacts=10,
)


@pytest.mark.parametrize("manifest", [Manifest(export_id="id"), Manifest(export_id="李/🦊"), FULL])
def test_round_trip(manifest: Manifest) -> None:
    data = write_manifest(manifest)
    assert read_manifest(data, manifest.export_id) == manifest
    assert data.endswith(b"}\n")


@settings(derandomize=True, max_examples=100, deadline=None)
@given(
    st.text(min_size=1),
    st.builds(
        FileEntry,
        number=st.integers(1),
        name=st.from_regex(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,20}", fullmatch=True),
        sha256=st.none() | st.text(),
        etag=st.none() | st.text(),
        contacts=st.none() | st.integers(0),
    ),
)
def test_every_entry_comes_back(export_id: str, file: FileEntry) -> None:
    manifest = Manifest(export_id=export_id, files=(file,))
    assert read_manifest(write_manifest(manifest), export_id) == manifest


def test_what_sendgrid_said_is_written_without_its_secrets() -> None:
    link = f"{LINKS[0]}?X-Amz-Signature=s3cr3t"
    said = f"ready at {link} for Bearer SG.s3cr3t.key"
    manifest = with_export(Manifest(export_id="id"), export(link, message=said), LINKS)
    assert b"s3cr3t" not in write_manifest(manifest)
    assert manifest.export is not None
    assert manifest.export.message == f"ready at {LINKS[0]}?[redacted] for Bearer [redacted]"


def changed(**changes: Any) -> bytes:
    return json.dumps({**json.loads(write_manifest(FULL)), **changes}).encode()


def with_entry(**changes: Any) -> bytes:
    first, second = json.loads(write_manifest(FULL))["files"]
    return changed(files=[{**first, **changes}, second])


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"\x00" * 100, id="zeros"),
        pytest.param(b"\xff\xfe{}", id="not text"),
        pytest.param(b"[" * 100_000, id="nested too deeply"),
        pytest.param(b"null", id="null"),
        pytest.param(b"[]", id="array"),
        pytest.param(b'"id"', id="text"),
        pytest.param(b"{}", id="no fields"),
        pytest.param(changed(version=2), id="a later version"),
        pytest.param(changed(version=0), id="an earlier version"),
        pytest.param(changed(version="1"), id="version as text"),
        pytest.param(changed(export_id="di"), id="another export"),
        pytest.param(changed(state="done"), id="unknown state"),
        pytest.param(changed(links="https://h/a"), id="links as text"),
        pytest.param(changed(files={}), id="files as object"),
        pytest.param(changed(files=[{}]), id="an empty entry"),
        pytest.param(changed(contacts=1.5), id="half a contact"),
        pytest.param(changed(contacts=True), id="true contacts"),
        pytest.param(changed(export={"id": "id"}), id="an export without status"),
        pytest.param(changed(export={**json.loads(changed())["export"], "urls": 5}), id="urls"),
        pytest.param(with_entry(size="10"), id="size as text"),
        pytest.param(with_entry(size=None), id="no size"),
        pytest.param(with_entry(verify="everything"), id="unknown level"),
        pytest.param(with_entry(compressed=1), id="compressed as number"),
        pytest.param(with_entry(verified_by="length"), id="checks as text"),
    ],
)
def test_whatever_is_not_this_manifest_is_none(data: bytes) -> None:
    assert read_manifest(data, "id") is None


@settings(derandomize=True, max_examples=100, deadline=None)
@given(st.integers(0, 5000), st.binary(max_size=3))
def test_a_damaged_manifest_never_raises(place: int, patch: bytes) -> None:
    data = write_manifest(FULL)
    place %= len(data)
    read_manifest(data[:place] + patch + data[place + 1 :], "id")
    if place < len(data.rstrip()):
        assert read_manifest(data[:place], "id") is None


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "/etc/passwd",
        "../id-00001.csv.gz",
        "a/b",
        "a\\b",
        "..\\b",
        "/",
        pytest.param("a\x00b"),
    ],
)
def test_a_name_that_leaves_the_directory_is_not_believed(name: str) -> None:
    assert read_manifest(with_entry(name=name), "id") is None


def test_an_etag_that_is_no_utf_8_can_be_written() -> None:
    odd = b"caf\xe9".decode("utf-8", "surrogateescape")
    manifest = attrs.evolve(FULL, files=(entry(etag=odd),))
    read = read_manifest(write_manifest(manifest), "id")
    assert read is not None
    assert read.files[0].etag == "caf?"


SECRET = "5ec2e7"
QUERY = f"?X-Amz-Credential={SECRET}&X-Amz-Security-Token={SECRET}&X-Amz-Signature={SECRET}"


@settings(derandomize=True, max_examples=100, deadline=None)
@given(st.lists(st.sampled_from(["a", "b.csv.gzip", "c/d.json", "%3F", ""]), max_size=5))
def test_no_query_of_a_link_is_ever_written(paths: list[str]) -> None:
    ready = export(
        *(f"https://h/{path}{QUERY}#{SECRET}" for path in paths),
        metadata=ExportMetadata(self_=f"https://api/{QUERY}"),
    )
    known = remember_links((), read_links(ready.urls, allow_http=False, now=0.0))
    manifest = with_export(FULL, ready, known)
    data = write_manifest(manifest)
    assert SECRET.encode() not in data
    assert b"X-Amz" not in data
    assert read_manifest(data, "id") == manifest
    assert manifest.export is not None
    assert manifest.export.urls == manifest.links == tuple(f"https://h/{path}" for path in paths)


@pytest.mark.parametrize(
    "url", [f"https://user:{SECRET}@h/a", f"{SECRET}", f"https://[{SECRET}", f"https://?{SECRET}"]
)
def test_no_secret_of_a_strange_url_is_written(url: str) -> None:
    assert SECRET.encode() not in write_manifest(with_export(FULL, export(url), ()))


def test_a_download_that_begins_keeps_the_files() -> None:
    manifest = with_export(FULL, export("https://h/a?x"), LINKS)
    assert (manifest.state, manifest.contacts) == ("downloading", None)
    assert (manifest.files, manifest.links) == (FULL.files, LINKS)


def test_files_are_kept_in_order_and_replaced_by_number() -> None:
    manifest = Manifest(export_id="id")
    for number in (3, 1, 2):
        manifest = with_files(manifest, [entry(number)])
    manifest = with_files(manifest, [entry(2, size=99)])
    assert [(file.number, file.size) for file in manifest.files] == [(1, 10), (2, 99), (3, 10)]


def test_a_file_taken_out_makes_it_unfinished() -> None:
    manifest = as_found(FULL, {1: None})
    assert [file.number for file in manifest.files] == [2]
    assert (manifest.state, manifest.contacts) == ("downloading", None)
    assert not is_whole(manifest)
    assert as_found(FULL, {}) == FULL


@pytest.mark.parametrize(
    ("counts", "contacts"),
    [([], 0), ([5], 5), ([5, 0, 7], 12), ([5, None, 7], None), ([None], None), ([0], 0)],
)
def test_contacts_are_known_if_those_of_every_file_are(
    counts: list[int | None], contacts: int | None
) -> None:
    files = tuple(entry(n, contacts=count) for n, count in enumerate(counts, start=1))
    assert as_complete(Manifest(export_id="id", files=files)).contacts == contacts


@pytest.mark.parametrize(
    ("state", "numbers", "whole"),
    [
        ("complete", [1, 2], True),
        ("downloading", [1, 2], True),
        ("pending", [1, 2], False),
        ("complete", [1], False),
        ("complete", [2], False),
        ("complete", [], False),
        ("complete", [1, 2, 3], False),
        ("complete", [1, 1], False),
        ("complete", [2, 1], False),
    ],
)
def test_whole_is_every_file_once(state: Any, numbers: list[int], whole: bool) -> None:
    files = tuple(entry(number) for number in numbers)
    manifest = Manifest(export_id="id", state=state, links=LINKS, files=files)
    assert is_whole(manifest) is whole


def test_an_export_of_no_files_is_whole() -> None:
    assert is_whole(Manifest(export_id="id", state="downloading"))
    assert not is_whole(Manifest(export_id="id"))


def test_what_was_asked_for_is_kept_and_may_be_missing() -> None:
    asked = ExportRequest(host="api.sendgrid.com", list_ids=("a",), file_type="json", demo=True)
    manifest = attrs.evolve(with_export(Manifest(export_id="id"), export(), LINKS), request=asked)
    assert read_manifest(write_manifest(manifest), "id") == manifest
    older = json.loads(write_manifest(manifest))
    del older["request"]
    found = read_manifest(json.dumps(older).encode(), "id")
    assert found == attrs.evolve(manifest, request=None)
