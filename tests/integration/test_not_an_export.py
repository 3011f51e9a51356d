"""What is not an export is never kept as one, and what is one is kept as what it is."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import re
import zlib
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from sendgrid_exports import (
    CorruptDownloadError,
    DownloadError,
    DownloadPolicy,
    DownloadResult,
    Event,
    ExportClient,
    ExportExpiredError,
    Retrying,
    SendGridExportsError,
    Verify,
    read_contacts,
    verify_download,
)
from sendgrid_exports.testing import FakeClock, FakeSendGrid, Fault, Reset, Status, WrongETag
from tests.integration.conftest import MakeClient, MakeFake

CSV = b'"EMAIL","CONTACT_ID"\n"ann@example.com","1"\n"bob@example.com","2"\n'
ROWS = b'"ann@example.com","1"\n"bob@example.com","2"\n'
JSON = b'{"contact_id":"1","email":"ann@example.com"}\n{"contact_id":"2"}\n'
PAGES = {
    "HTML": b"<!DOCTYPE html>\n<html><head><title>Sign in</title></head></html>\n" + b" " * 99_999,
    "XML": b'<?xml version="1.0"?>\n<Error><Code>AccessDenied</Code></Error>',
    "a JSON error": b'{"errors":[{"message":"access forbidden"}]}',
    "text": b"upstream connect error or disconnect/reset before headers\n",
    "another table": b"time,host\n1,a\n",
}
pages = pytest.mark.parametrize("page", PAGES.values(), ids=PAGES.keys())
levels = pytest.mark.parametrize("verify", list(Verify))


def finals(directory: Path) -> list[str]:
    names = [path.name for path in directory.iterdir()]
    return [name for name in names if ".csv" in name or re.search(r"-\d{5}\.json", name)]


@pages
@levels
@pytest.mark.parametrize("packed", [True, False])
async def test_a_page_is_downloaded_once_more_and_then_refused(
    make_fake: MakeFake,
    make_client: MakeClient,
    tmp_path: Path,
    events: list[Event],
    page: bytes,
    verify: Verify,
    packed: bool,
) -> None:
    fake = await make_fake()
    client = make_client(fake, downloads=DownloadPolicy(verify=verify))
    export_id = await fake.add_export(bodies=[gzip.compress(page) if packed else page])
    with pytest.raises(CorruptDownloadError, match="fails its checks: it is") as caught:
        await client.fetch(export_id, tmp_path, on_event=events.append)
    assert len(fake.storage_requests) == 2
    assert finals(tmp_path) == []
    assert "proxy" in str(caught.value)
    [retry] = [event for event in events if isinstance(event, Retrying)]
    assert retry.reason.startswith("it fails its checks: it is ")


@pages
async def test_a_page_is_not_streamed(
    make_fake: MakeFake, make_client: MakeClient, page: bytes
) -> None:
    fake = await make_fake()
    client = make_client(fake, downloads=DownloadPolicy(verify=Verify.LENGTH))
    export = await client.wait(await fake.add_export(bodies=[CSV, page]))
    with pytest.raises(CorruptDownloadError, match="fails its checks: it is"):
        await stream(client, export)


async def stream(client: ExportClient, export: Any) -> list[Any]:
    async with client.stream_contacts(export) as batches:
        return [row async for batch in batches for row in batch]


@pages
@levels
async def test_a_page_in_the_place_of_a_verified_file_is_a_change(
    make_fake: MakeFake, make_client: MakeClient, tmp_path: Path, page: bytes, verify: Verify
) -> None:
    fake = await make_fake()
    export_id = await fake.add_export(bodies=[CSV + b"," * (len(page) - len(CSV))])
    client = make_client(fake, downloads=DownloadPolicy(verify=verify))
    [file] = (await client.fetch(export_id, tmp_path)).files
    file.path.write_bytes(page + b"\n" * (file.size - len(page)))
    assert (await verify_download(tmp_path, export_id)).changed == (file.path,)


def read_all(result: DownloadResult) -> list[Any]:
    return list(read_contacts(result))


class Meanwhile(aiohttp.TraceConfig):
    """Replaces the first file before the second request for it."""

    def __init__(self, fake: FakeSendGrid, export_id: str, body: bytes) -> None:
        super().__init__()
        self.on_request_start.append(self._replace)
        self._arguments = export_id, 1, body
        self._fake = fake

    async def _replace(self, _: object, __: object, asked: aiohttp.TraceRequestStartParams) -> None:
        if str(asked.url).startswith(self._fake.storage_url) and self._fake.storage_requests:
            await self._fake.replace_file(*self._arguments)


async def test_a_page_that_is_gone_at_the_second_request_costs_only_that(
    make_fake: MakeFake, make_client: MakeClient, tmp_path: Path, closing: AsyncExitStack
) -> None:
    fake = await make_fake()
    export_id = await fake.add_export(bodies=[PAGES["HTML"]])
    trace = Meanwhile(fake, export_id, CSV)
    session = await closing.enter_async_context(aiohttp.ClientSession(trace_configs=[trace]))
    result = await make_client(fake, session=session).fetch(export_id, tmp_path)
    assert [file.path.read_bytes() for file in result.files] == [CSV]
    assert result.contact_count == 2


@levels
@pytest.mark.parametrize(
    ("bodies", "suffixes"),
    [
        ([CSV], [".csv"]),
        ([JSON], [".json"]),
        ([CSV.partition(b"\n")[0]], [".csv"]),
        ([b""], [".csv"]),
        ([gzip.compress(b"")], [".csv.gz"]),
        ([CSV, ROWS, gzip.compress(ROWS)], [".csv", ".csv", ".csv.gz"]),
    ],
    ids=["CSV", "NDJSON", "a header", "nothing", "gzip of nothing", "one header for all"],
)
async def test_what_can_be_an_export_is_kept(
    make_fake: MakeFake,
    make_client: MakeClient,
    tmp_path: Path,
    verify: Verify,
    bodies: list[bytes],
    suffixes: list[str],
) -> None:
    fake = await make_fake()
    client = make_client(fake, downloads=DownloadPolicy(verify=verify))
    export_id = await fake.add_export(bodies=bodies)
    result = await client.fetch(export_id, tmp_path)
    assert [file.path.read_bytes() for file in result.files] == bodies
    assert ["".join(file.path.suffixes) for file in result.files] == suffixes
    assert (await verify_download(tmp_path, export_id)).ok


@levels
@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize(
    ("name", "body", "suffix"),
    [
        ("export", JSON, ".json"),
        ("export.csv", JSON, ".json"),
        ("export", CSV, ".csv"),
        ("export.json.gzip", CSV, ".csv"),
    ],
)
async def test_the_kind_of_a_file_is_that_of_its_content(
    make_fake: MakeFake,
    make_client: MakeClient,
    tmp_path: Path,
    events: list[Event],
    verify: Verify,
    packed: bool,
    name: str,
    body: bytes,
    suffix: str,
) -> None:
    fake = await make_fake()
    client = make_client(fake, downloads=DownloadPolicy(verify=verify))
    stored = gzip.compress(body) if packed else body
    export_id = await fake.add_export(bodies=[stored], names=[name])
    result = await client.fetch(export_id, tmp_path, on_event=events.append)
    [file] = result.files
    assert "".join(file.path.suffixes) == suffix + ".gz" * packed
    assert result.contact_count == (2 if verify is Verify.CONTENTS else None)
    rows = await asyncio.to_thread(read_all, result)
    assert [row.get("CONTACT_ID") or row.get("contact_id") for row in rows] == ["1", "2"]
    export = await client.get(export_id)
    assert len(await stream(client, export)) == 2
    assert (await verify_download(tmp_path, export_id)).ok


@pytest.mark.parametrize(
    ("fault", "times", "seconds"),
    [
        (Status(404), 1, 0),
        (Status(404), 3, 1.5),
        (Status(404), 7, 25.5),
        (Status(403), 1, 0),
        (Status(403), 3, 1.5),
        (Status(403), 7, 25.5),
    ],
    ids=str,
)
@pytest.mark.parametrize("streamed", [True, False])
async def test_a_refusal_that_passes_is_waited_for(
    make_fake: MakeFake,
    make_client: MakeClient,
    clock: FakeClock,
    tmp_path: Path,
    fault: Fault,
    times: int,
    seconds: float,
    streamed: bool,
) -> None:
    fake = await make_fake(contacts=10)
    fake.inject(fault, times=times)
    client = make_client(fake)
    export_id = await fake.add_export()
    export = await client.wait(export_id)
    began, asked = clock.monotonic(), len(fake.api_requests)
    if streamed:
        assert len(await stream(client, export)) == 10
    else:
        assert (await client.download(export, tmp_path)).contact_count == 10
    assert clock.monotonic() - began == pytest.approx(seconds)
    assert len(fake.storage_requests) == times + 1
    assert len(fake.api_requests) - asked == 1


@pytest.mark.parametrize(
    ("fault", "error", "requests"),
    [
        (Status(404), ExportExpiredError, 3),
        (Status(403), DownloadError, 3),
        (Status(403, code="SignatureDoesNotMatch"), DownloadError, 1),
    ],
    ids=str,
)
async def test_a_refusal_that_stays_ends_within_the_attempts(
    make_fake: MakeFake,
    make_client: MakeClient,
    tmp_path: Path,
    fault: Fault,
    error: type[SendGridExportsError],
    requests: int,
) -> None:
    fake = await make_fake(contacts=10)
    fake.inject(fault, times=None)
    client = make_client(fake, downloads=DownloadPolicy(attempts=3))
    with pytest.raises(error) as caught:
        await client.fetch(await fake.add_export(), tmp_path)
    assert type(caught.value) is error
    assert len(fake.storage_requests) == requests


@pytest.mark.parametrize(
    ("fault", "said", "unsaid"),
    [
        (
            Status(307, code="TemporaryRedirect", headers={"x-amz-bucket-region": "eu-central-1"}),
            r"S3 itself redirects to the bucket's own region \(eu-central-1\)",
            "prox",
        ),
        (Status(302, code=""), "check the proxies", "support"),
        (Status(400, code="InvalidArgument"), "neither the session nor a proxy adds", "support"),
        (
            WrongETag(f'"{hashlib.md5(gzip.compress(CSV), usedforsecurity=False).hexdigest()}"'),
            "a proxy may inflate it on the way",
            "support",
        ),
    ],
    ids=["another region", "a redirect", "a bad request", "inflated on the way"],
)
async def test_an_error_names_what_is_on_the_way(
    make_fake: MakeFake,
    make_client: MakeClient,
    tmp_path: Path,
    fault: Fault,
    said: str,
    unsaid: str,
) -> None:
    fake = await make_fake()
    fake.inject(fault, times=None)
    with pytest.raises(DownloadError, match=said) as caught:
        await make_client(fake).fetch(await fake.add_export(bodies=[CSV]), tmp_path)
    assert unsaid not in str(caught.value)


async def test_a_session_that_adds_an_authorization_is_named(
    make_fake: MakeFake, make_client: MakeClient, tmp_path: Path, closing: AsyncExitStack
) -> None:
    fake = await make_fake()

    async def add(_: object, __: object, asked: aiohttp.TraceRequestStartParams) -> None:
        if str(asked.url).startswith(fake.storage_url):
            asked.headers["Authorization"] = "Bearer the-secret"

    trace = aiohttp.TraceConfig()
    trace.on_request_start.append(add)
    session = await closing.enter_async_context(aiohttp.ClientSession(trace_configs=[trace]))
    client = make_client(fake, session=session)
    export_id = await fake.add_export()
    with pytest.raises(DownloadError, match="The session passed to ExportClient") as caught:
        await client.fetch(export_id, tmp_path)
    assert "the-secret" not in str(caught.value)
    assert "support" not in str(caught.value)


async def test_a_file_that_is_replaced_starts_over_with_an_event(
    make_fake: MakeFake,
    make_client: MakeClient,
    tmp_path: Path,
    events: list[Event],
    closing: AsyncExitStack,
) -> None:
    fake = await make_fake()
    export_id = await fake.add_export(contacts=2000)
    body = gzip.compress(CSV)
    trace = Meanwhile(fake, export_id, body)
    session = await closing.enter_async_context(aiohttp.ClientSession(trace_configs=[trace]))
    fake.inject(Reset(30_000))
    client = make_client(fake, session=session)
    result = await client.fetch(export_id, tmp_path, on_event=events.append)
    assert [file.path.read_bytes() for file in result.files] == [body]
    reasons = [event.reason for event in events if isinstance(event, Retrying)]
    assert "another version of the file is there now" in reasons


def member(text: bytes, extra: bytes, name: bytes = b"") -> bytes:
    """Return a gzip member whose header has an extra field, and perhaps a name (RFC 1952 §2.3)."""
    flags = bytes([4 | (8 if name else 0)])
    header = b"\x1f\x8b\x08" + flags + b"\0\0\0\0\0\xff" + len(extra).to_bytes(2, "little") + extra
    header += name + b"\0" if name else b""
    deflate = zlib.compressobj(6, zlib.DEFLATED, -15)
    body = deflate.compress(text) + deflate.flush()
    return header + body + zlib.crc32(text).to_bytes(4, "little") + len(text).to_bytes(4, "little")


@pytest.mark.parametrize("decompress", [True, False])
async def test_a_header_that_a_read_boundary_cuts_is_not_corrupt(
    make_fake: MakeFake, make_client: MakeClient, tmp_path: Path, decompress: bool
) -> None:
    """Files are read in blocks of 2**n bytes, and here each such place is within a header."""
    header, one = member(CSV[:21], b""), b'"%d@example.com","1"\n'
    body, texts = header, [CSV[:21]]
    for place in (2**power for power in range(12, 21)):
        while len(body) < place - 20:
            left = place - 20 - len(body)
            text = one % len(texts)
            packed = len(member(text, b""))
            texts.append(text)
            extra = min(60000, left - packed)
            body += member(text, b"x" * max(0, extra))
        texts.append(one % len(texts))
        body += member(texts[-1], b"x" * 12, b"contacts.csv")
    assert gzip.decompress(body) == b"".join(texts)
    fake = await make_fake()
    client = make_client(fake, downloads=DownloadPolicy(decompress=decompress))
    export_id = await fake.add_export(bodies=[body])
    result = await client.fetch(export_id, tmp_path)
    assert result.contact_count == len(texts) - 1
    assert (await verify_download(tmp_path, export_id)).ok
    assert len(await asyncio.to_thread(read_all, result)) == len(texts) - 1
    assert len(await stream(client, await client.get(export_id))) == len(texts) - 1
