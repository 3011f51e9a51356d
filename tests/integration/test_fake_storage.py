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

pytestmark = pytest.mark.fake_sendgrid(contacts=20)

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


async def links(session: aiohttp.ClientSession, fake: FakeSendGrid, export_id: str) -> Any:
    url = f"{fake.base_url}/v3/marketing/contacts/exports/{export_id}"
    headers = {"Authorization": f"Bearer {fake.api_key}"}
    async with session.get(url, headers=headers) as response:
        return (await response.json())["urls"]


async def link(
    session: aiohttp.ClientSession, fake: FakeSendGrid, body: bytes = BODY, **more: Any
) -> str:
    export_id = await fake.add_export(bodies=[body], **more)
    (url,) = await links(session, fake, export_id)
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


async def test_a_whole_object_has_the_headers_of_s3(
    fake: FakeSendGrid, session: aiohttp.ClientSession, clock: FakeClock
) -> None:
    url = await link(session, fake)
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
    (request,) = fake.storage_requests
    path, _, query = url.removeprefix(fake.storage_url).partition("?")
    assert (request.path, request.query) == (path, query)
    assert (request.status, request.sent, request.at) == (200, 1024, clock.utc())


async def test_large_objects_arrive_whole(
    fake: FakeSendGrid, session: aiohttp.ClientSession
) -> None:
    body = bytes(1_000_003)
    got = await get(session, await link(session, fake, body), Range="bytes=1-")
    assert got.body == body[1:]


@pytest.mark.parametrize("encoding", ["x-gzip", "gzip", None])
async def test_content_encoding_is_as_asked_for(
    session: aiohttp.ClientSession, encoding: str | None
) -> None:
    async with FakeSendGrid(contacts=5, content_encoding=encoding) as fake:
        export_id = await fake.add_export()
        (url,) = await links(session, fake, export_id)
        got = await get(session, url)
        assert got.headers.get("Content-Encoding") == encoding
        assert got.body.startswith(b"\x1f\x8b")


async def test_uncompressed_files_have_no_content_encoding(session: aiohttp.ClientSession) -> None:
    async with FakeSendGrid(contacts=5, compressed=False) as fake:
        export_id = await fake.add_export(file_type="json")
        (url,) = await links(session, fake, export_id)
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
async def test_a_range_is_answered_by_206(
    fake: FakeSendGrid, session: aiohttp.ClientSession, asked: str, start: int, stop: int
) -> None:
    got = await get(session, await link(session, fake), Range=asked)
    assert (got.status, got.body) == (206, BODY[start:stop])
    assert got.headers["Content-Range"] == f"bytes {start}-{stop - 1}/1024"
    assert got.headers["Content-Length"] == str(stop - start)


@pytest.mark.parametrize("asked", ["bytes=5-4", "bytes=a-b", "lines=0-1", "bytes=0-1,4-5", "x"])
async def test_an_invalid_range_is_answered_by_200(
    fake: FakeSendGrid, session: aiohttp.ClientSession, asked: str
) -> None:
    got = await get(session, await link(session, fake), Range=asked)
    assert (got.status, got.body) == (200, BODY)


@pytest.mark.parametrize(
    ("size", "asked"), [(1024, "bytes=1024-"), (1024, "bytes=-0"), (0, "bytes=0-"), (0, "bytes=-5")]
)
async def test_a_range_outside_the_object_is_answered_by_416(
    fake: FakeSendGrid, session: aiohttp.ClientSession, size: int, asked: str
) -> None:
    got = await get(session, await link(session, fake, BODY[:size]), Range=asked)
    assert got.status == 416
    assert got.headers["Content-Range"] == f"bytes */{size}"
    assert "<Code>InvalidRange</Code>" in got.text
    assert f"<ActualObjectSize>{size}</ActualObjectSize>" in got.text


async def test_an_empty_object_is_served(
    fake: FakeSendGrid, session: aiohttp.ClientSession
) -> None:
    got = await get(session, await link(session, fake, b""))
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
async def test_etags_are_of_the_kind_asked_for(
    session: aiohttp.ClientSession, kind: Any, tag: str | None, encryption: str
) -> None:
    async with FakeSendGrid(etag=kind) as fake:
        url = await link(session, fake)
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


async def test_if_match_is_honoured(fake: FakeSendGrid, session: aiohttp.ClientSession) -> None:
    url = await link(session, fake)
    tag = (await get(session, url)).headers["ETag"]
    assert (await get(session, url, If_Match=tag, Range="bytes=0-1")).status == 206
    assert (await get(session, url, If_Match="*")).status == 200
    got = await get(session, url, If_Match='"another"')
    assert got.status == 412
    assert "<Code>PreconditionFailed</Code>" in got.text


async def test_if_range_is_honoured(fake: FakeSendGrid, session: aiohttp.ClientSession) -> None:
    url = await link(session, fake)
    tag = (await get(session, url)).headers["ETag"]
    assert (await get(session, url, If_Range=tag, Range="bytes=0-1")).status == 206
    assert (await get(session, url, If_Range='"another"', Range="bytes=0-1")).status == 200


@pytest.mark.parametrize("kind", ["sha256", "crc32"])
async def test_checksum_headers_come_with_whole_objects_alone(
    session: aiohttp.ClientSession, kind: Any
) -> None:
    async with FakeSendGrid(checksum_headers=True if kind == "sha256" else kind) as fake:
        url = await link(session, fake)
        digest = {
            "sha256": hashlib.sha256(BODY).digest(),
            "crc32": zlib.crc32(BODY).to_bytes(4, "big"),
        }[kind]
        whole = await get(session, url)
        assert whole.headers[f"x-amz-checksum-{kind}"] == base64.b64encode(digest).decode()
        assert whole.headers["x-amz-checksum-type"] == "FULL_OBJECT"
        part = await get(session, url, Range="bytes=1-")
        assert f"x-amz-checksum-{kind}" not in part.headers


async def test_a_link_expires_after_its_lifetime(
    fake: FakeSendGrid, session: aiohttp.ClientSession, clock: FakeClock
) -> None:
    url = await link(session, fake)
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


async def test_a_links_lifetime_is_rounded_up_to_seconds(session: aiohttp.ClientSession) -> None:
    async with FakeSendGrid(link_lifetime=0.2) as fake:
        assert "&X-Amz-Expires=1&" in await link(session, fake)


async def test_a_transfer_survives_the_end_of_its_link(
    fake: FakeSendGrid, session: aiohttp.ClientSession, clock: FakeClock
) -> None:
    url = await link(session, fake, bytes(5_000_000))
    async with session.get(URL(url, encoded=True)) as response:
        clock.advance(100_000)
        assert len(await response.read()) == 5_000_000


async def test_a_poll_renews_links_that_were_expired(
    fake: FakeSendGrid, session: aiohttp.ClientSession
) -> None:
    export_id = await fake.add_export(bodies=[BODY])
    (old,) = await links(session, fake, export_id)
    fake.expire_links()
    got = await get(session, old)
    assert got.status == 403
    assert "Request has expired" in got.text
    assert "<Expires>2026-03-02T09:29:59Z</Expires>" in got.text
    (new,) = await links(session, fake, export_id)
    assert (await get(session, new)).body == BODY


async def test_a_link_is_valid_for_get_alone_and_byte_for_byte(
    fake: FakeSendGrid, session: aiohttp.ClientSession
) -> None:
    url = await link(session, fake)
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


async def test_a_link_without_its_signature_is_refused(
    fake: FakeSendGrid, session: aiohttp.ClientSession
) -> None:
    url = await link(session, fake)
    got = await get(session, url.partition("?")[0])
    assert got.status == 403
    assert "<Message>Access Denied</Message>" in got.text


async def test_authorization_is_refused_and_echoed(
    fake: FakeSendGrid, session: aiohttp.ClientSession
) -> None:
    got = await get(session, await link(session, fake), Authorization="Bearer <secret>")
    assert got.status == 400
    assert "<Code>InvalidArgument</Code><Message>Only one auth mechanism allowed;" in got.text
    assert "<ArgumentName>Authorization</ArgumentName>" in got.text
    assert "<ArgumentValue>Bearer &lt;secret&gt;</ArgumentValue>" in got.text


async def test_removed_files_are_404_no_such_key(
    fake: FakeSendGrid, session: aiohttp.ClientSession
) -> None:
    export_id = await fake.add_export()
    (url,) = await links(session, fake, export_id)
    fake.remove_files(export_id)
    got = await get(session, url)
    assert got.status == 404
    assert "<Code>NoSuchKey</Code>" in got.text


async def test_a_valid_link_to_an_unknown_object_is_404(
    fake: FakeSendGrid, session: aiohttp.ClientSession, clock: FakeClock
) -> None:
    url = await link(session, fake)
    async with FakeSendGrid(clock=clock) as another:
        got = await get(session, url.replace(fake.storage_url, another.storage_url))
    assert (got.status, "NoSuchKey" in got.text) == (404, True)


async def test_a_replaced_object_has_new_bytes_and_a_new_etag(
    fake: FakeSendGrid, session: aiohttp.ClientSession
) -> None:
    export_id = await fake.add_export(bodies=[BODY])
    (url,) = await links(session, fake, export_id)
    before = await get(session, url)
    await fake.replace_file(export_id, 1, BODY[::-1])
    after = await get(session, url)
    assert (after.status, after.body) == (200, BODY[::-1])
    assert after.headers["ETag"] != before.headers["ETag"]
    assert await fake.file_bytes(export_id) == (BODY[::-1],)


async def test_an_answer_under_way_keeps_the_old_object(
    fake: FakeSendGrid, session: aiohttp.ClientSession
) -> None:
    export_id = await fake.add_export(bodies=[bytes(20_000_000)])
    (url,) = await links(session, fake, export_id)
    async with session.get(URL(url, encoded=True)) as response:
        await fake.replace_file(export_id, 1, b"\x01" * 20_000_000)
        assert await response.read() == bytes(20_000_000)


async def test_every_file_of_an_export_is_served(session: aiohttp.ClientSession) -> None:
    async with FakeSendGrid(contacts=100, files=7) as fake:
        export_id = await fake.add_export()
        urls = await links(session, fake, export_id)
        bodies = await asyncio.gather(*(get(session, url) for url in urls))
        assert tuple(got.body for got in bodies) == await fake.file_bytes(export_id)


# -- faults -----------------------------------------------------------------------------------


async def faulty(
    session: aiohttp.ClientSession,
    fake: FakeSendGrid,
    fault: Fault,
    *,
    asked: str | None = None,
) -> Got:
    url = await link(session, fake)
    fake.inject(fault)
    got = await (get(session, url) if asked is None else get(session, url, Range=asked))
    assert (await get(session, url)).body == BODY, "a fault strikes once"
    return got


@pytest.mark.parametrize("after", [0, 100, 1023])
@pytest.mark.parametrize("kind", [Reset, EarlyEnd])
async def test_reset_and_early_end_break_the_body_off(
    fake: FakeSendGrid, session: aiohttp.ClientSession, kind: Any, after: int
) -> None:
    got = await faulty(session, fake, kind(after))
    assert isinstance(got.error, aiohttp.ClientError)
    assert (got.status, got.body) == (200, BODY[:after])
    assert got.headers["Content-Length"] == "1024"
    assert fake.storage_requests[0].sent == after


@pytest.mark.parametrize("kind", [Reset, EarlyEnd])
async def test_a_reset_is_an_rst_and_an_early_end_a_fin(
    fake: FakeSendGrid, session: aiohttp.ClientSession, kind: Any
) -> None:
    url = URL(await link(session, fake), encoded=True)
    fake.inject(kind(10))
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
    fake: FakeSendGrid, session: aiohttp.ClientSession
) -> None:
    url = await link(session, fake, bytes(20_000_000))
    fake.inject(Reset(15_000_000))
    got = await get(session, url)
    assert got.error is not None
    assert 0 < len(got.body) <= 15_000_000


async def test_a_break_counts_the_bytes_of_the_answer(
    fake: FakeSendGrid, session: aiohttp.ClientSession
) -> None:
    got = await faulty(session, fake, EarlyEnd(10), asked="bytes=500-599")
    assert (got.status, got.body) == (206, BODY[500:510])


async def test_truncated_chunks_end_without_the_last_chunk(
    fake: FakeSendGrid, session: aiohttp.ClientSession
) -> None:
    got = await faulty(session, fake, TruncatedChunks(100))
    assert got.body == BODY[:100]
    assert isinstance(got.error, aiohttp.ClientPayloadError)
    assert got.headers["Transfer-Encoding"] == "chunked"
    assert "Content-Length" not in got.headers


async def test_no_length_sends_valid_chunks(
    fake: FakeSendGrid, session: aiohttp.ClientSession
) -> None:
    got = await faulty(session, fake, NoLength(), asked="bytes=4-")
    assert (got.status, got.body, got.error) == (206, BODY[4:], None)
    assert "Content-Length" not in got.headers


async def test_ignore_range_answers_200_with_the_whole_object(
    fake: FakeSendGrid, session: aiohttp.ClientSession
) -> None:
    got = await faulty(session, fake, IgnoreRange(), asked="bytes=4-9")
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
async def test_wrong_content_range_sends_another_range_with_its_label(
    fake: FakeSendGrid,
    session: aiohttp.ClientSession,
    asked: str,
    shift: int,
    start: int,
    stop: int,
) -> None:
    got = await faulty(session, fake, WrongContentRange(shift), asked=asked)
    assert (got.status, got.body) == (206, BODY[start:stop])
    assert got.headers["Content-Range"] == f"bytes {start}-{stop - 1}/1024"


async def test_wrong_content_range_leaves_whole_answers_alone(
    fake: FakeSendGrid, session: aiohttp.ClientSession
) -> None:
    got = await faulty(session, fake, WrongContentRange())
    assert (got.status, got.body) == (200, BODY)


async def test_longer_body_sends_more_than_asked_for(
    fake: FakeSendGrid, session: aiohttp.ClientSession
) -> None:
    got = await faulty(session, fake, LongerBody(7), asked="bytes=4-9")
    assert got.body == BODY[4:10] + bytes(7)
    assert got.headers["Content-Length"] == "13"
    assert got.headers["Content-Range"] == "bytes 4-9/1024"


async def test_endless_body_continues_after_the_object(
    fake: FakeSendGrid, session: aiohttp.ClientSession
) -> None:
    url = await link(session, fake)
    fake.inject(EndlessBody())
    async with session.get(URL(url, encoded=True), headers={"Range": "bytes=0-"}) as response:
        assert response.status == 200
        assert "Content-Length" not in response.headers
        received = await response.content.readexactly(3_000_000)
    assert received[:1024] == BODY
    assert not any(received[1024:])


async def test_a_stall_ends_when_the_client_hangs_up(
    fake: FakeSendGrid, session: aiohttp.ClientSession
) -> None:
    url = await link(session, fake)
    fake.inject(Stall(100))
    timeout = aiohttp.ClientTimeout(sock_read=0.05)
    async with session.get(URL(url, encoded=True), timeout=timeout) as response:
        assert await response.content.readexactly(100) == BODY[:100]
        with pytest.raises(aiohttp.SocketTimeoutError):
            await response.content.readany()
    assert fake.storage_requests[0].status == 200
    assert (await get(session, url)).body == BODY


@pytest.mark.parametrize("fault", [Stall(), Stall(10), Delay(float("inf")), EndlessBody()])
async def test_the_exit_ends_faults_that_hang(session: aiohttp.ClientSession, fault: Fault) -> None:
    async with FakeSendGrid() as fake:
        url = await link(session, fake)
        fake.inject(fault)
        hanging = asyncio.create_task(get(session, url))
        await asyncio.sleep(0.02)
        began = time.perf_counter()
    assert time.perf_counter() - began < 0.5
    (answer,) = await asyncio.gather(hanging, return_exceptions=True)
    assert isinstance(answer.error if isinstance(answer, Got) else answer, aiohttp.ClientError)


async def test_a_client_that_stops_reading_does_not_hold_up_the_exit(
    session: aiohttp.ClientSession,
) -> None:
    async with FakeSendGrid() as fake:
        url = await link(session, fake, bytes(30_000_000))
        fake.inject(Reset(29_000_000))
        response = await session.get(URL(url, encoded=True))
        await asyncio.sleep(0.02)
        began = time.perf_counter()
    assert time.perf_counter() - began < 0.5
    response.close()


async def test_a_trickle_takes_the_clocks_time(
    fake: FakeSendGrid, session: aiohttp.ClientSession, clock: FakeClock
) -> None:
    got = await faulty(session, fake, Trickle(1000, 10, 4.0))
    assert got.body == BODY
    assert clock.sleeps == [4.0, 4.0, 4.0]


async def test_trickle_may_begin_at_the_first_byte(
    fake: FakeSendGrid, session: aiohttp.ClientSession
) -> None:
    got = await faulty(session, fake, Trickle(size=512, every=0.0))
    assert got.body == BODY


@pytest.mark.parametrize(("speed", "seconds"), [(512, 2.0), (1, 1024.0), (1_000_000, 0.001024)])
async def test_slow_sends_at_its_speed_on_the_clock(
    fake: FakeSendGrid,
    session: aiohttp.ClientSession,
    clock: FakeClock,
    speed: float,
    seconds: float,
) -> None:
    asked = "bytes=0-" if speed > 1 else "bytes=1014-"
    got = await faulty(session, fake, Slow(speed), asked=asked)
    assert got.body == BODY[-len(got.body) :]
    passed = clock.monotonic() - 1000.0
    assert passed == pytest.approx(seconds * len(got.body) / 1024)


async def test_delay_takes_the_clocks_time(
    fake: FakeSendGrid, session: aiohttp.ClientSession, clock: FakeClock
) -> None:
    got = await faulty(session, fake, Delay(90))
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
async def test_status_answers_with_the_codes_of_s3(
    fake: FakeSendGrid, session: aiohttp.ClientSession, fault: Status, code: str
) -> None:
    got = await faulty(session, fake, fault)
    assert got.status == fault.status
    assert got.headers["Content-Type"] == "application/xml"
    assert f"<Code>{code}</Code>" in got.text
    assert "Retry-After" not in got.headers
    assert ("a &amp; b" in got.text) == (fault.status == 400)


@pytest.mark.parametrize("retry_after", [7, "Mon, 02 Mar 2026 09:31:00 GMT"])
async def test_status_may_carry_retry_after_and_other_headers(
    fake: FakeSendGrid, session: aiohttp.ClientSession, retry_after: Any
) -> None:
    fault = Status(429, retry_after=retry_after, headers={"X-More": "1"})
    got = await faulty(session, fake, fault)
    assert got.headers["Retry-After"] == str(retry_after)
    assert got.headers["X-More"] == "1"


async def test_expired_link_answers_as_s3_does_for_one(
    fake: FakeSendGrid, session: aiohttp.ClientSession
) -> None:
    got = await faulty(session, fake, ExpiredLink())
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
async def test_page_comes_complete_in_the_files_place(
    fake: FakeSendGrid, session: aiohttp.ClientSession, page: Page, content_type: str
) -> None:
    got = await faulty(session, fake, page, asked="bytes=0-")
    assert (got.status, got.text, got.error) == (page.status, page.body, None)
    assert got.headers["Content-Type"] == content_type
    assert got.headers["Content-Length"] == str(len(page.body))
    assert not {"ETag", "Content-Range", "Accept-Ranges"} & set(got.headers)


async def test_redirect_names_the_location(
    fake: FakeSendGrid, session: aiohttp.ClientSession
) -> None:
    got = await faulty(session, fake, Redirect())
    assert (got.status, got.headers["Location"]) == (302, "http://127.0.0.1:1/")
    got = await faulty(session, fake, Redirect("https://elsewhere/", status=307))
    assert (got.status, got.headers["Location"]) == (307, "https://elsewhere/")


async def test_flipped_bit_changes_one_bit_and_keeps_the_etag(
    fake: FakeSendGrid, session: aiohttp.ClientSession
) -> None:
    got = await faulty(session, fake, FlippedBit(700))
    assert [n for n in range(1024) if got.body[n] != BODY[n]] == [700]
    assert got.body[700] == BODY[700] ^ 1
    assert got.headers["ETag"] == f'"{hashlib.md5(BODY).hexdigest()}"'
    elsewhere = await faulty(session, fake, FlippedBit(700), asked="bytes=0-699")
    assert elsewhere.body == BODY[:700]


async def test_wrong_etag_and_content_disposition_are_sent_as_given(
    fake: FakeSendGrid, session: aiohttp.ClientSession
) -> None:
    got = await faulty(session, fake, WrongETag('"wrong"'))
    assert (got.headers["ETag"], got.body) == ('"wrong"', BODY)
    got = await faulty(session, fake, ContentDisposition('attachment; filename="../../x"'))
    assert got.headers["Content-Disposition"] == 'attachment; filename="../../x"'


async def test_too_many_at_once_are_refused(
    fake: FakeSendGrid, session: aiohttp.ClientSession
) -> None:
    url = await link(session, fake)
    fake.inject(TooManyAtOnce(2), times=None)
    fake.inject(Stall(), times=2)
    hanging = [asyncio.create_task(get(session, url)) for _ in range(2)]
    while len(fake.storage_requests) < 2:
        await asyncio.sleep(0.001)
    got = await get(session, url)
    assert (got.status, "<Code>SlowDown</Code>" in got.text) == (503, True)
    for request in hanging:
        request.cancel()
    await asyncio.gather(*hanging, return_exceptions=True)
    while (await get(session, url)).status == 503:
        await asyncio.sleep(0.001)


async def test_faults_meet_the_requests_they_are_meant_for(
    fake: FakeSendGrid, session: aiohttp.ClientSession
) -> None:
    one = await fake.add_export(bodies=[b"1", b"2"])
    two = await fake.add_export(bodies=[b"3"])
    urls = [*await links(session, fake, one), *await links(session, fake, two)]
    fake.inject(Status(500), file=2)
    fake.inject(Status(503), export_id=two, times=2, skip=1)
    fake.inject(Status(429), file=1, export_id=one, times=None, skip=2)
    statuses = [[(await get(session, url)).status for _ in range(5)] for url in urls]
    assert statuses == [
        [200, 200, 429, 429, 429],
        [500, 200, 200, 200, 200],
        [200, 503, 503, 200, 200],
    ]


async def test_refused_requests_use_up_no_fault(
    fake: FakeSendGrid, session: aiohttp.ClientSession
) -> None:
    url = await link(session, fake)
    fake.inject(Status(500))
    assert (await get(session, url + "0")).status == 403
    assert (await get(session, url)).status == 500


async def test_a_client_that_hangs_up_logs_no_error(
    fake: FakeSendGrid, session: aiohttp.ClientSession, caplog: pytest.LogCaptureFixture
) -> None:
    url = await link(session, fake, bytes(30_000_000))
    for _ in range(5):
        async with session.get(URL(url, encoded=True)) as response:
            await response.content.readany()
    await asyncio.sleep(0.02)
    assert caplog.records == []
