"""The fake storage over real sockets: S3's rules, and every fault."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import time
import zlib
from collections.abc import AsyncIterator, Mapping
from typing import Any

import aiohttp
import attrs
import pytest
from yarl import URL

from sendgrid_exports.testing import (
    ContentDisposition,
    Delay,
    EarlyEnd,
    EndlessBody,
    ExpiredLink,
    FakeClock,
    FakeSendGrid,
    Fault,
    FlippedBit,
    IgnoreRange,
    LongerBody,
    NoLength,
    Page,
    Redirect,
    Reset,
    Slow,
    Stall,
    Status,
    TooManyAtOnce,
    Trickle,
    TruncatedChunks,
    WrongContentRange,
    WrongETag,
)

BODY = bytes(range(256)) * 4
NO_CHUNK = aiohttp.ClientTimeout(total=None, sock_read=5)


@attrs.frozen
class Got:
    """What a client received; `error` is what ended the body before its time."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    error: aiohttp.ClientError | None = None

    @property
    def text(self) -> str:
        return self.body.decode()


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(auto_decompress=False, timeout=NO_CHUNK) as session:
        yield session


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def sendgrid(clock: FakeClock) -> AsyncIterator[FakeSendGrid]:
    async with FakeSendGrid(clock=clock, contacts=20) as sendgrid:
        yield sendgrid


async def links(session: aiohttp.ClientSession, sendgrid: FakeSendGrid, export_id: str) -> Any:
    url = f"{sendgrid.base_url}/v3/marketing/contacts/exports/{export_id}"
    headers = {"Authorization": f"Bearer {sendgrid.api_key}"}
    async with session.get(url, headers=headers) as response:
        return (await response.json())["urls"]


async def link(
    session: aiohttp.ClientSession, sendgrid: FakeSendGrid, body: bytes = BODY, **more: Any
) -> str:
    export_id = await sendgrid.add_export(bodies=[body], **more)
    (url,) = await links(session, sendgrid, export_id)
    return str(url)


async def get(
    session: aiohttp.ClientSession,
    url: str,
    *,
    method: str = "GET",
    encoded: bool = True,
    **headers: str,
) -> Got:
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    async with session.request(
        method, URL(url, encoded=encoded), headers=sent, allow_redirects=False
    ) as response:
        body, error = bytearray(), None
        try:
            async for chunk in response.content.iter_any():
                body += chunk
        except aiohttp.ClientError as caught:
            error = caught
        return Got(response.status, response.headers, bytes(body), error)


async def test_a_whole_object(
    sendgrid: FakeSendGrid, session: aiohttp.ClientSession, clock: FakeClock
) -> None:
    url = await link(session, sendgrid)
    got = await get(session, url)
    assert (got.status, got.body) == (200, BODY)
    assert got.headers["ETag"] == f'"{hashlib.md5(BODY).hexdigest()}"'
    assert got.headers["Content-Length"] == "1024"
    assert got.headers["Accept-Ranges"] == "bytes"
    assert got.headers["Content-Type"] == "text/csv"
    assert got.headers["x-amz-server-side-encryption"] == "AES256"
    assert got.headers["Last-Modified"] == got.headers["Date"] == "Mon, 02 Mar 2026 09:30:00 GMT"
    assert got.headers["x-amz-request-id"]
    assert not {"Content-Encoding", "Content-Range", "x-amz-checksum-sha256"} & set(got.headers)
    (request,) = sendgrid.storage_requests
    path, _, query = url.removeprefix(sendgrid.storage_url).partition("?")
    assert (request.path, request.query) == (path, query)
    assert (request.status, request.sent, request.at) == (200, 1024, clock.utc())


async def test_large_objects_pass_in_pieces(
    sendgrid: FakeSendGrid, session: aiohttp.ClientSession
) -> None:
    body = bytes(1_000_003)
    got = await get(session, await link(session, sendgrid, body), Range="bytes=1-")
    assert got.body == body[1:]


@pytest.mark.parametrize("encoding", ["x-gzip", "gzip", None])
async def test_generated_files_say_how_they_are_encoded(
    session: aiohttp.ClientSession, encoding: str | None
) -> None:
    async with FakeSendGrid(contacts=5, content_encoding=encoding) as sendgrid:
        export_id = await sendgrid.add_export()
        (url,) = await links(session, sendgrid, export_id)
        got = await get(session, url)
        assert got.headers.get("Content-Encoding") == encoding
        assert got.body.startswith(b"\x1f\x8b")


async def test_uncompressed_files_say_nothing(session: aiohttp.ClientSession) -> None:
    async with FakeSendGrid(contacts=5, compressed=False) as sendgrid:
        export_id = await sendgrid.add_export(file_type="json")
        (url,) = await links(session, sendgrid, export_id)
        got = await get(session, url)
        assert ".json?" in url
        assert "Content-Encoding" not in got.headers
        assert got.headers["Content-Type"] == "application/json"
        assert got.body.startswith(b"{")


@pytest.mark.parametrize(
    ("asked", "start", "stop"),
    [
        ("bytes=0-", 0, 1024),
        ("bytes=0-0", 0, 1),
        ("bytes=100-199", 100, 200),
        ("bytes=1000-5000", 1000, 1024),
        ("bytes=1023-", 1023, 1024),
        ("bytes=-24", 1000, 1024),
        ("bytes=-5000", 0, 1024),
    ],
)
async def test_ranges(
    sendgrid: FakeSendGrid, session: aiohttp.ClientSession, asked: str, start: int, stop: int
) -> None:
    got = await get(session, await link(session, sendgrid), Range=asked)
    assert (got.status, got.body) == (206, BODY[start:stop])
    assert got.headers["Content-Range"] == f"bytes {start}-{stop - 1}/1024"
    assert got.headers["Content-Length"] == str(stop - start)


@pytest.mark.parametrize("asked", ["bytes=5-4", "bytes=a-b", "lines=0-1", "bytes=0-1,4-5", "x"])
async def test_senseless_ranges_are_ignored(
    sendgrid: FakeSendGrid, session: aiohttp.ClientSession, asked: str
) -> None:
    got = await get(session, await link(session, sendgrid), Range=asked)
    assert (got.status, got.body) == (200, BODY)


@pytest.mark.parametrize(
    ("size", "asked"), [(1024, "bytes=1024-"), (1024, "bytes=-0"), (0, "bytes=0-"), (0, "bytes=-5")]
)
async def test_ranges_outside(
    sendgrid: FakeSendGrid, session: aiohttp.ClientSession, size: int, asked: str
) -> None:
    got = await get(session, await link(session, sendgrid, BODY[:size]), Range=asked)
    assert got.status == 416
    assert got.headers["Content-Range"] == f"bytes */{size}"
    assert "<Code>InvalidRange</Code>" in got.text
    assert f"<ActualObjectSize>{size}</ActualObjectSize>" in got.text


async def test_an_empty_object(sendgrid: FakeSendGrid, session: aiohttp.ClientSession) -> None:
    got = await get(session, await link(session, sendgrid, b""))
    assert (got.status, got.body, got.headers["Content-Length"]) == (200, b"", "0")


@pytest.mark.parametrize(
    ("kind", "tag", "encryption"),
    [
        ("md5", '"{md5}"', "AES256"),
        ("multipart", '"{other}-2"', "AES256"),
        ("kms", '"{other}"', "aws:kms"),
        ("weak", 'W/"{md5}"', "AES256"),
        ("none", None, "AES256"),
    ],
)
async def test_kinds_of_etags(
    session: aiohttp.ClientSession, kind: Any, tag: str | None, encryption: str
) -> None:
    async with FakeSendGrid(etag=kind) as sendgrid:
        url = await link(session, sendgrid)
        got = await get(session, url)
        md5 = hashlib.md5(BODY).hexdigest()
        other = (got.headers.get("ETag") or "").strip('"').partition("-")[0]
        expected = None if tag is None else tag.format(md5=md5, other=other)
        assert got.headers.get("ETag") == expected
        assert len(other) == 32 or kind in {"weak", "none"}
        assert (other == md5) == (kind == "md5")
        assert got.headers["x-amz-server-side-encryption"] == encryption
        conditional = await get(session, url, If_Match=expected or '"x"')
        assert conditional.status == (412 if kind in {"weak", "none"} else 200)


async def test_if_match(sendgrid: FakeSendGrid, session: aiohttp.ClientSession) -> None:
    url = await link(session, sendgrid)
    tag = (await get(session, url)).headers["ETag"]
    assert (await get(session, url, If_Match=tag, Range="bytes=0-1")).status == 206
    assert (await get(session, url, If_Match="*")).status == 200
    got = await get(session, url, If_Match='"another"')
    assert got.status == 412
    assert "<Code>PreconditionFailed</Code>" in got.text


async def test_if_range(sendgrid: FakeSendGrid, session: aiohttp.ClientSession) -> None:
    url = await link(session, sendgrid)
    tag = (await get(session, url)).headers["ETag"]
    assert (await get(session, url, If_Range=tag, Range="bytes=0-1")).status == 206
    assert (await get(session, url, If_Range='"another"', Range="bytes=0-1")).status == 200


@pytest.mark.parametrize("kind", ["sha256", "crc32"])
async def test_checksum_headers(session: aiohttp.ClientSession, kind: Any) -> None:
    async with FakeSendGrid(checksum_headers=True if kind == "sha256" else kind) as sendgrid:
        url = await link(session, sendgrid)
        digest = {
            "sha256": hashlib.sha256(BODY).digest(),
            "crc32": zlib.crc32(BODY).to_bytes(4, "big"),
        }[kind]
        whole = await get(session, url)
        assert whole.headers[f"x-amz-checksum-{kind}"] == base64.b64encode(digest).decode()
        assert whole.headers["x-amz-checksum-type"] == "FULL_OBJECT"
        part = await get(session, url, Range="bytes=1-")
        assert f"x-amz-checksum-{kind}" not in part.headers


async def test_links_expire(
    sendgrid: FakeSendGrid, session: aiohttp.ClientSession, clock: FakeClock
) -> None:
    url = await link(session, sendgrid)
    assert "&X-Amz-Expires=300&" in url
    clock.advance(299)
    assert (await get(session, url)).status == 200
    clock.advance(1)
    got = await get(session, url)
    assert got.status == 403
    assert got.text.startswith('<?xml version="1.0" encoding="UTF-8"?>\n<Error>')
    for element in (
        "<Code>AccessDenied</Code>",
        "<Message>Request has expired</Message>",
        "<X-Amz-Expires>300</X-Amz-Expires>",
        "<Expires>2026-03-02T09:35:00Z</Expires>",
        "<ServerTime>2026-03-02T09:35:00Z</ServerTime>",
        "<RequestId>",
    ):
        assert element in got.text


async def test_a_lifetime_is_whole_seconds(session: aiohttp.ClientSession) -> None:
    async with FakeSendGrid(link_lifetime=0.2) as sendgrid:
        assert "&X-Amz-Expires=1&" in await link(session, sendgrid)


async def test_a_transfer_survives_the_end_of_its_link(
    sendgrid: FakeSendGrid, session: aiohttp.ClientSession, clock: FakeClock
) -> None:
    url = await link(session, sendgrid, bytes(5_000_000))
    async with session.get(URL(url, encoded=True)) as response:
        clock.advance(100_000)
        assert len(await response.read()) == 5_000_000


async def test_killed_links_are_renewed_by_a_look(
    sendgrid: FakeSendGrid, session: aiohttp.ClientSession
) -> None:
    export_id = await sendgrid.add_export(bodies=[BODY])
    (old,) = await links(session, sendgrid, export_id)
    sendgrid.expire_links()
    got = await get(session, old)
    assert got.status == 403
    assert "Request has expired" in got.text
    assert "<Expires>2026-03-02T09:29:59Z</Expires>" in got.text
    (new,) = await links(session, sendgrid, export_id)
    assert (await get(session, new)).body == BODY


async def test_links_are_for_get_and_byte_for_byte(
    sendgrid: FakeSendGrid, session: aiohttp.ClientSession
) -> None:
    url = await link(session, sendgrid)
    assert (await get(session, url, method="HEAD")).status == 403
    for got in (
        await get(session, url, method="PUT"),
        await get(session, url, encoded=False),  # yarl turns %2F into a slash
        await get(session, url + "0"),
        await get(session, url.replace(".csv", ".csb")),
    ):
        assert got.status == 403
        assert "<Code>SignatureDoesNotMatch</Code>" in got.text
        assert "X-Amz-Credential=" in got.text


async def test_no_signature_no_entry(
    sendgrid: FakeSendGrid, session: aiohttp.ClientSession
) -> None:
    url = await link(session, sendgrid)
    got = await get(session, url.partition("?")[0])
    assert got.status == 403
    assert "<Message>Access Denied</Message>" in got.text


async def test_authorization_is_refused_and_echoed(
    sendgrid: FakeSendGrid, session: aiohttp.ClientSession
) -> None:
    got = await get(session, await link(session, sendgrid), Authorization="Bearer <secret>")
    assert got.status == 400
    assert "<Code>InvalidArgument</Code><Message>Only one auth mechanism allowed;" in got.text
    assert "<ArgumentName>Authorization</ArgumentName>" in got.text
    assert "<ArgumentValue>Bearer &lt;secret&gt;</ArgumentValue>" in got.text


async def test_removed_files(sendgrid: FakeSendGrid, session: aiohttp.ClientSession) -> None:
    export_id = await sendgrid.add_export()
    (url,) = await links(session, sendgrid, export_id)
    sendgrid.remove_files(export_id)
    got = await get(session, url)
    assert got.status == 404
    assert "<Code>NoSuchKey</Code>" in got.text


async def test_a_good_link_to_nothing(
    sendgrid: FakeSendGrid, session: aiohttp.ClientSession, clock: FakeClock
) -> None:
    url = await link(session, sendgrid)
    async with FakeSendGrid(clock=clock) as another:
        got = await get(session, url.replace(sendgrid.storage_url, another.storage_url))
    assert (got.status, "NoSuchKey" in got.text) == (404, True)


async def test_a_replaced_object(sendgrid: FakeSendGrid, session: aiohttp.ClientSession) -> None:
    export_id = await sendgrid.add_export(bodies=[BODY])
    (url,) = await links(session, sendgrid, export_id)
    before = await get(session, url)
    await sendgrid.replace_file(export_id, 1, BODY[::-1])
    after = await get(session, url)
    assert (after.status, after.body) == (200, BODY[::-1])
    assert after.headers["ETag"] != before.headers["ETag"]
    assert await sendgrid.file_bytes(export_id) == (BODY[::-1],)


async def test_an_answer_under_way_keeps_the_old_object(
    sendgrid: FakeSendGrid, session: aiohttp.ClientSession
) -> None:
    export_id = await sendgrid.add_export(bodies=[bytes(20_000_000)])
    (url,) = await links(session, sendgrid, export_id)
    async with session.get(URL(url, encoded=True)) as response:
        await sendgrid.replace_file(export_id, 1, b"\x01" * 20_000_000)
        assert await response.read() == bytes(20_000_000)


async def test_all_files_are_there(session: aiohttp.ClientSession) -> None:
    async with FakeSendGrid(contacts=100, files=7) as sendgrid:
        export_id = await sendgrid.add_export()
        urls = await links(session, sendgrid, export_id)
        bodies = await asyncio.gather(*(get(session, url) for url in urls))
        assert tuple(got.body for got in bodies) == await sendgrid.file_bytes(export_id)


# -- faults -----------------------------------------------------------------------------------


async def faulty(
    session: aiohttp.ClientSession,
    sendgrid: FakeSendGrid,
    fault: Fault,
    *,
    asked: str | None = None,
) -> Got:
    url = await link(session, sendgrid)
    sendgrid.inject(fault)
    got = await (get(session, url) if asked is None else get(session, url, Range=asked))
    assert (await get(session, url)).body == BODY, "a fault strikes once"
    return got


@pytest.mark.parametrize("after", [0, 100, 1023])
@pytest.mark.parametrize("kind", [Reset, EarlyEnd])
async def test_bodies_that_break_off(
    sendgrid: FakeSendGrid, session: aiohttp.ClientSession, kind: Any, after: int
) -> None:
    got = await faulty(session, sendgrid, kind(after))
    assert isinstance(got.error, aiohttp.ClientError)
    assert (got.status, got.body) == (200, BODY[:after])
    assert got.headers["Content-Length"] == "1024"
    assert sendgrid.storage_requests[0].sent == after


@pytest.mark.parametrize("kind", [Reset, EarlyEnd])
async def test_a_reset_is_one_on_the_wire_too(
    sendgrid: FakeSendGrid, session: aiohttp.ClientSession, kind: Any
) -> None:
    url = URL(await link(session, sendgrid), encoded=True)
    sendgrid.inject(kind(10))
    reader, writer = await asyncio.open_connection(url.host, url.port)
    writer.write(f"GET {url.raw_path_qs} HTTP/1.1\r\nHost: {url.host}\r\n\r\n".encode())
    await reader.readuntil(b"\r\n\r\n")
    assert await reader.readexactly(10) == BODY[:10]
    if kind is Reset:
        with pytest.raises(ConnectionResetError):
            await reader.read()
    else:
        assert await reader.read() == b""
    writer.close()


async def test_a_reset_after_more_than_fits_a_socket(
    sendgrid: FakeSendGrid, session: aiohttp.ClientSession
) -> None:
    url = await link(session, sendgrid, bytes(20_000_000))
    sendgrid.inject(Reset(15_000_000))
    got = await get(session, url)
    assert got.error is not None
    assert 0 < len(got.body) <= 15_000_000


async def test_a_break_counts_the_bytes_of_the_answer(
    sendgrid: FakeSendGrid, session: aiohttp.ClientSession
) -> None:
    got = await faulty(session, sendgrid, EarlyEnd(10), asked="bytes=500-599")
    assert (got.status, got.body) == (206, BODY[500:510])


async def test_truncated_chunks(sendgrid: FakeSendGrid, session: aiohttp.ClientSession) -> None:
    got = await faulty(session, sendgrid, TruncatedChunks(100))
    assert got.body == BODY[:100]
    assert isinstance(got.error, aiohttp.ClientPayloadError)
    assert got.headers["Transfer-Encoding"] == "chunked"
    assert "Content-Length" not in got.headers


async def test_no_length(sendgrid: FakeSendGrid, session: aiohttp.ClientSession) -> None:
    got = await faulty(session, sendgrid, NoLength(), asked="bytes=4-")
    assert (got.status, got.body, got.error) == (206, BODY[4:], None)
    assert "Content-Length" not in got.headers


async def test_range_ignored(sendgrid: FakeSendGrid, session: aiohttp.ClientSession) -> None:
    got = await faulty(session, sendgrid, IgnoreRange(), asked="bytes=4-9")
    assert (got.status, got.body) == (200, BODY)


@pytest.mark.parametrize(
    ("asked", "shift", "start", "stop"),
    [
        ("bytes=4-9", 1, 5, 11),
        ("bytes=0-", 1, 1, 1024),
        ("bytes=4-9", -3, 1, 7),
        ("bytes=0-4", -3, 0, 2),
        ("bytes=1020-", 100, 1023, 1024),
    ],
)
async def test_another_range(
    sendgrid: FakeSendGrid,
    session: aiohttp.ClientSession,
    asked: str,
    shift: int,
    start: int,
    stop: int,
) -> None:
    got = await faulty(session, sendgrid, WrongContentRange(shift), asked=asked)
    assert (got.status, got.body) == (206, BODY[start:stop])
    assert got.headers["Content-Range"] == f"bytes {start}-{stop - 1}/1024"


async def test_another_range_needs_a_range(
    sendgrid: FakeSendGrid, session: aiohttp.ClientSession
) -> None:
    got = await faulty(session, sendgrid, WrongContentRange())
    assert (got.status, got.body) == (200, BODY)


async def test_a_longer_body(sendgrid: FakeSendGrid, session: aiohttp.ClientSession) -> None:
    got = await faulty(session, sendgrid, LongerBody(7), asked="bytes=4-9")
    assert got.body == BODY[4:10] + bytes(7)
    assert got.headers["Content-Length"] == "13"
    assert got.headers["Content-Range"] == "bytes 4-9/1024"


async def test_an_endless_body(sendgrid: FakeSendGrid, session: aiohttp.ClientSession) -> None:
    url = await link(session, sendgrid)
    sendgrid.inject(EndlessBody())
    async with session.get(URL(url, encoded=True), headers={"Range": "bytes=0-"}) as response:
        assert response.status == 200
        assert "Content-Length" not in response.headers
        received = await response.content.readexactly(3_000_000)
    assert received[:1024] == BODY
    assert not any(received[1024:])


async def test_a_stall_ends_when_the_client_hangs_up(
    sendgrid: FakeSendGrid, session: aiohttp.ClientSession
) -> None:
    url = await link(session, sendgrid)
    sendgrid.inject(Stall(100))
    timeout = aiohttp.ClientTimeout(sock_read=0.05)
    async with session.get(URL(url, encoded=True), timeout=timeout) as response:
        assert await response.content.readexactly(100) == BODY[:100]
        with pytest.raises(aiohttp.SocketTimeoutError):
            await response.content.readany()
    assert sendgrid.storage_requests[0].status == 200
    assert (await get(session, url)).body == BODY


@pytest.mark.parametrize("fault", [Stall(), Stall(10), Delay(float("inf")), EndlessBody()])
async def test_the_servers_exit_ends_whatever_hangs(
    session: aiohttp.ClientSession, fault: Fault
) -> None:
    async with FakeSendGrid() as sendgrid:
        url = await link(session, sendgrid)
        sendgrid.inject(fault)
        hanging = asyncio.create_task(get(session, url))
        await asyncio.sleep(0.02)
        began = time.perf_counter()
    assert time.perf_counter() - began < 0.5
    (answer,) = await asyncio.gather(hanging, return_exceptions=True)
    assert isinstance(answer.error if isinstance(answer, Got) else answer, aiohttp.ClientError)


async def test_a_client_that_stops_reading_does_not_hold_up_the_exit(
    session: aiohttp.ClientSession,
) -> None:
    async with FakeSendGrid() as sendgrid:
        url = await link(session, sendgrid, bytes(30_000_000))
        sendgrid.inject(Reset(29_000_000))
        response = await session.get(URL(url, encoded=True))
        await asyncio.sleep(0.02)
        began = time.perf_counter()
    assert time.perf_counter() - began < 0.5
    response.close()


async def test_a_trickle_takes_the_clocks_time(
    sendgrid: FakeSendGrid, session: aiohttp.ClientSession, clock: FakeClock
) -> None:
    got = await faulty(session, sendgrid, Trickle(1000, 10, 4.0))
    assert got.body == BODY
    assert clock.sleeps == [4.0, 4.0, 4.0]


async def test_a_trickle_from_the_start(
    sendgrid: FakeSendGrid, session: aiohttp.ClientSession, clock: FakeClock
) -> None:
    got = await faulty(session, sendgrid, Trickle(size=512, every=0.0))
    assert got.body == BODY


@pytest.mark.parametrize(("speed", "seconds"), [(512, 2.0), (1, 1024.0), (1_000_000, 0.001024)])
async def test_a_slow_line(
    sendgrid: FakeSendGrid,
    session: aiohttp.ClientSession,
    clock: FakeClock,
    speed: float,
    seconds: float,
) -> None:
    asked = "bytes=0-" if speed > 1 else "bytes=1014-"
    got = await faulty(session, sendgrid, Slow(speed), asked=asked)
    assert got.body == BODY[-len(got.body) :]
    passed = clock.monotonic() - 1000.0
    assert passed == pytest.approx(seconds * len(got.body) / 1024)


async def test_a_delay(
    sendgrid: FakeSendGrid, session: aiohttp.ClientSession, clock: FakeClock
) -> None:
    got = await faulty(session, sendgrid, Delay(90))
    assert got.body == BODY
    assert clock.sleeps == [90]


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (Status(503), "SlowDown"),
        (Status(500), "InternalError"),
        (Status(403), "AccessDenied"),
        (Status(404), "NoSuchKey"),
        (Status(400, "ExpiredToken", message="a & b"), "ExpiredToken"),
        (Status(418), "SlowDown"),
    ],
)
async def test_errors(
    sendgrid: FakeSendGrid, session: aiohttp.ClientSession, fault: Status, code: str
) -> None:
    got = await faulty(session, sendgrid, fault)
    assert got.status == fault.status
    assert got.headers["Content-Type"] == "application/xml"
    assert f"<Code>{code}</Code>" in got.text
    assert "Retry-After" not in got.headers
    assert ("a &amp; b" in got.text) == (fault.status == 400)


@pytest.mark.parametrize("retry_after", [7, "Mon, 02 Mar 2026 09:31:00 GMT"])
async def test_errors_with_headers(
    sendgrid: FakeSendGrid, session: aiohttp.ClientSession, retry_after: Any
) -> None:
    fault = Status(429, retry_after=retry_after, headers={"X-More": "1"})
    got = await faulty(session, sendgrid, fault)
    assert got.headers["Retry-After"] == str(retry_after)
    assert got.headers["X-More"] == "1"


async def test_an_expired_link(sendgrid: FakeSendGrid, session: aiohttp.ClientSession) -> None:
    got = await faulty(session, sendgrid, ExpiredLink())
    assert got.status == 403
    assert "<Message>Request has expired</Message>" in got.text
    assert "<Expires>2026-03-02T09:29:59Z</Expires>" in got.text
    assert "<ServerTime>2026-03-02T09:30:00Z</ServerTime>" in got.text


@pytest.mark.parametrize(
    ("page", "content_type"),
    [
        (Page(), "text/html; charset=utf-8"),
        (Page("<Error/>", content_type="application/xml"), "application/xml"),
        (Page("<html>Blocked", 403), "text/html; charset=utf-8"),
    ],
    ids=["a login form", "an error with status 200", "a proxy's refusal"],
)
async def test_a_page_comes_complete_in_the_files_place(
    sendgrid: FakeSendGrid, session: aiohttp.ClientSession, page: Page, content_type: str
) -> None:
    got = await faulty(session, sendgrid, page, asked="bytes=0-")
    assert (got.status, got.text, got.error) == (page.status, page.body, None)
    assert got.headers["Content-Type"] == content_type
    assert got.headers["Content-Length"] == str(len(page.body))
    assert not {"ETag", "Content-Range", "Accept-Ranges"} & set(got.headers)


async def test_redirects(sendgrid: FakeSendGrid, session: aiohttp.ClientSession) -> None:
    got = await faulty(session, sendgrid, Redirect())
    assert (got.status, got.headers["Location"]) == (302, "http://127.0.0.1:1/")
    got = await faulty(session, sendgrid, Redirect("https://elsewhere/", status=307))
    assert (got.status, got.headers["Location"]) == (307, "https://elsewhere/")


async def test_a_flipped_bit(sendgrid: FakeSendGrid, session: aiohttp.ClientSession) -> None:
    got = await faulty(session, sendgrid, FlippedBit(700))
    assert [n for n in range(1024) if got.body[n] != BODY[n]] == [700]
    assert got.body[700] == BODY[700] ^ 1
    assert got.headers["ETag"] == f'"{hashlib.md5(BODY).hexdigest()}"'
    elsewhere = await faulty(session, sendgrid, FlippedBit(700), asked="bytes=0-699")
    assert elsewhere.body == BODY[:700]


async def test_other_headers(sendgrid: FakeSendGrid, session: aiohttp.ClientSession) -> None:
    got = await faulty(session, sendgrid, WrongETag('"wrong"'))
    assert (got.headers["ETag"], got.body) == ('"wrong"', BODY)
    got = await faulty(session, sendgrid, ContentDisposition('attachment; filename="../../x"'))
    assert got.headers["Content-Disposition"] == 'attachment; filename="../../x"'


async def test_too_many_at_once_are_refused(
    sendgrid: FakeSendGrid, session: aiohttp.ClientSession
) -> None:
    url = await link(session, sendgrid)
    sendgrid.inject(TooManyAtOnce(2), times=None)
    sendgrid.inject(Stall(), times=2)
    hanging = [asyncio.create_task(get(session, url)) for _ in range(2)]
    while len(sendgrid.storage_requests) < 2:
        await asyncio.sleep(0.001)
    got = await get(session, url)
    assert (got.status, "<Code>SlowDown</Code>" in got.text) == (503, True)
    for request in hanging:
        request.cancel()
    await asyncio.gather(*hanging, return_exceptions=True)
    while (await get(session, url)).status == 503:
        await asyncio.sleep(0.001)


async def test_faults_choose_their_requests(
    sendgrid: FakeSendGrid, session: aiohttp.ClientSession
) -> None:
    one = await sendgrid.add_export(bodies=[b"1", b"2"])
    two = await sendgrid.add_export(bodies=[b"3"])
    urls = [*await links(session, sendgrid, one), *await links(session, sendgrid, two)]
    sendgrid.inject(Status(500), file=2)
    sendgrid.inject(Status(503), export_id=two, times=2, skip=1)
    sendgrid.inject(Status(429), file=1, export_id=one, times=None, skip=2)
    statuses = [[(await get(session, url)).status for _ in range(5)] for url in urls]
    assert statuses == [
        [200, 200, 429, 429, 429],
        [500, 200, 200, 200, 200],
        [200, 503, 503, 200, 200],
    ]


async def test_refused_requests_use_up_no_fault(
    sendgrid: FakeSendGrid, session: aiohttp.ClientSession
) -> None:
    url = await link(session, sendgrid)
    sendgrid.inject(Status(500))
    assert (await get(session, url + "0")).status == 403
    assert (await get(session, url)).status == 500


async def test_a_client_that_hangs_up_is_no_error(
    sendgrid: FakeSendGrid, session: aiohttp.ClientSession, caplog: pytest.LogCaptureFixture
) -> None:
    url = await link(session, sendgrid, bytes(30_000_000))
    for _ in range(5):
        async with session.get(URL(url, encoded=True)) as response:
            await response.content.readany()
    await asyncio.sleep(0.02)
    assert caplog.records == []
