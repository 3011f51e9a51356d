"""Every way in which aiohttp can fail becomes one error of ours, which says no secret."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import socket
import ssl
import struct
import subprocess
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import cast

import aiohttp
import pytest
from aiohttp.base_protocol import BaseProtocol
from aiohttp.client_exceptions import UnixClientConnectorError
from aiohttp.client_reqrep import ConnectionKey
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from sendgrid_exports import (
    ContactExport,
    DownloadError,
    ExportClient,
    ExportStatus,
    TransportError,
    session,
)
from sendgrid_exports.receiving import ReaderBody
from sendgrid_exports.session import Session, Stream, translate
from sendgrid_exports.testing import FakeClock
from sendgrid_exports.timing import SystemClock
from tests.integration.conftest import Handler, serving

KEY = "SG.some-id.some-secret"
SIGNATURE = "0123456789abcdef0123456789abcdef"
LINK = (
    f"https://bucket.example/x.csv.gzip?X-Amz-Security-Token=tok%2Fen&X-Amz-Signature={SIGNATURE}"
)
SECRETS = (KEY, "some-secret", SIGNATURE, "tok%2Fen", "tok/en")
SAID = f"while asking {LINK} with Authorization: Bearer {KEY}"


# The table: every error class aiohttp has, as it comes


def all_kinds(kind: type[aiohttp.ClientError]) -> Iterator[type[aiohttp.ClientError]]:
    yield kind
    for child in kind.__subclasses__():
        yield from all_kinds(child)


KINDS = sorted(set(all_kinds(aiohttp.ClientError)), key=lambda kind: kind.__name__)


def make(kind: type[aiohttp.ClientError]) -> aiohttp.ClientError:
    """Return an error of this class that says every secret it can."""
    headers = CIMultiDictProxy(CIMultiDict({"Authorization": f"Bearer {KEY}"}))
    url = URL(LINK, encoded=True)
    place = ConnectionKey("bucket.example", 443, True, True, None, None, None)
    make_it = cast("Callable[..., aiohttp.ClientError]", kind)
    if issubclass(kind, aiohttp.ClientResponseError):
        info = aiohttp.RequestInfo(url, "GET", headers, url)
        return make_it(info, (), status=400, message=SAID, headers=headers)
    if issubclass(kind, UnixClientConnectorError):
        return make_it("/run/proxy.sock", place, OSError(111, SAID))
    if issubclass(kind, aiohttp.ClientConnectorCertificateError):
        return make_it(place, ssl.SSLCertVerificationError(1, SAID))
    if issubclass(kind, aiohttp.ClientConnectorError):
        return make_it(place, OSError(111, SAID))
    if issubclass(kind, aiohttp.ClientOSError):
        return make_it(104, SAID)
    if issubclass(kind, aiohttp.ServerFingerprintMismatch):
        return make_it(b"expected", b"got", "bucket.example", 443)
    if issubclass(kind, aiohttp.InvalidURL):
        return make_it(url, SAID)
    return make_it(SAID)


def certainly_unsent(kind: type[aiohttp.ClientError]) -> bool:
    """Whether such an error comes before the first byte of a request has left."""
    return issubclass(
        kind,
        aiohttp.ClientConnectorError
        | aiohttp.ConnectionTimeoutError
        | aiohttp.ClientHttpProxyError
        | aiohttp.ServerFingerprintMismatch
        | aiohttp.InvalidURL,
    )


def will_stay(kind: type[aiohttp.ClientError]) -> bool:
    """Whether such an error comes again as often as one asks."""
    return issubclass(
        kind,
        aiohttp.ClientConnectorCertificateError
        | aiohttp.ServerFingerprintMismatch
        | aiohttp.InvalidURL,
    )


def test_aiohttp_has_the_errors_that_are_known_here() -> None:
    assert len(KINDS) >= 20
    assert {aiohttp.ClientError, aiohttp.ServerFingerprintMismatch} < set(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_every_error_says_whether_it_was_sent_and_whether_it_passes(
    kind: type[aiohttp.ClientError],
) -> None:
    error = translate(make(kind), "GET https://api.sendgrid.com/v3")
    assert error.request_sent is not certainly_unsent(kind)
    assert error.transient is not will_stay(kind)


@pytest.mark.parametrize("kind", KINDS)
def test_no_error_says_a_secret(kind: type[aiohttp.ClientError]) -> None:
    original = make(kind)
    error = translate(original, "GET https://api.sendgrid.com/v3")
    assert type(error) is TransportError
    assert kind.__name__ in str(error)
    assert "GET https://api.sendgrid.com/v3" in str(error)
    for secret in SECRETS:
        assert secret not in f"{error} {error!r} {vars(error)!r}"


def test_a_setting_of_aiohttp_is_no_word_for_people() -> None:
    assert " ssl:default " in str(make(aiohttp.ClientConnectorError))
    error = translate(make(aiohttp.ClientConnectorError), "GET x")
    assert "Cannot connect to host bucket.example:443 [" in str(error)


async def test_a_host_that_has_no_form_on_the_wire_is_not_asked(tmp_path: Path) -> None:
    export = ContactExport(id="x", status=ExportStatus.READY, urls=("https://a..b/x.csv?s3cr3t=1",))
    async with ExportClient("key", base_url="http://127.0.0.1:1") as client:
        with pytest.raises(DownloadError, match="not valid") as caught:
            await client.download(export, tmp_path)
    assert "s3cr3t" not in str(caught.value)


@pytest.mark.parametrize("original", [TimeoutError(), OSError(5, "io"), ConnectionResetError()])
def test_errors_of_the_system_are_translated_too(original: Exception) -> None:
    error = translate(original, "GET x")
    assert (error.request_sent, error.transient) == (True, True)
    assert type(original).__name__ in str(error)


# The real thing


def reset(writer: asyncio.StreamWriter) -> None:
    sock: socket.socket = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def reset_at_once(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    reset(writer)


async def reset_after_the_request(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    await reader.readuntil(b"\r\n\r\n")
    reset(writer)


async def close_after_the_request(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    await reader.readuntil(b"\r\n\r\n")


async def reset_in_the_body(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await close_in_the_body(reader, writer)
    reset(writer)


async def close_in_the_body(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
    await writer.drain()


async def no_http(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(1)
    writer.write(b"SSH-2.0-OpenSSH_9.9\r\n\r\n")
    await writer.drain()


async def no_answer(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
    await reader.read(-1)


async def no_rest(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await close_in_the_body(reader, writer)
    await reader.read(-1)


async def send(to: Session, url: str) -> None:
    await to.send("GET", url + f"/v3?X-Amz-Signature={SIGNATURE}", headers=key_header())


async def stream(to: Session, url: str) -> None:
    link = url + f"/x.csv?X-Amz-Signature={SIGNATURE}"
    async with to.stream(link, headers=key_header(), read_timeout=0.1) as answer:
        async for _ in answer.blocks():
            pass


def key_header() -> dict[str, str]:
    return {"Authorization": f"Bearer {KEY}"}


both_ways = pytest.mark.parametrize("ask", [send, stream])
Ask = Callable[[Session, str], Awaitable[None]]


async def failure_of(ask: Ask, url: str) -> TransportError:
    async with Session() as ours:
        with pytest.raises(TransportError) as caught:
            await ask(ours, url)
    assert url.partition("?")[0] in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None
    for secret in SECRETS:
        assert secret not in repr(caught.value)
    return caught.value


@both_ways
async def test_a_refused_connection(ask: Ask) -> None:
    async with serving(no_answer) as url:
        pass
    error = await failure_of(ask, url)
    assert (error.request_sent, error.transient) == (False, True)


@both_ways
async def test_a_name_nobody_knows(ask: Ask) -> None:
    error = await failure_of(ask, "http://nowhere.invalid")
    assert (error.request_sent, error.transient) == (False, True)
    assert "nowhere.invalid" in str(error)


@both_ways
@pytest.mark.parametrize(
    "handler",
    [
        reset_at_once,
        reset_after_the_request,
        close_after_the_request,
        reset_in_the_body,
        close_in_the_body,
        no_http,
        no_answer,
        no_rest,
    ],
)
async def test_what_breaks_once_there_is_a_connection_may_have_been_processed(
    ask: Ask, handler: Handler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "_API_SECONDS", 0.1)
    async with serving(handler) as url:
        error = await failure_of(ask, url)
    assert (error.request_sent, error.transient) == (True, True)


@pytest.fixture(scope="module")
def untrusted(tmp_path_factory: pytest.TempPathFactory) -> ssl.SSLContext:
    """A server's side of TLS with a certificate that it signed itself."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("there is no openssl to make a certificate with")
    directory: Path = tmp_path_factory.mktemp("tls")
    key, certificate = directory / "key.pem", directory / "certificate.pem"
    made = [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1"]
    made += ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    made += ["-keyout", str(key), "-out", str(certificate)]
    subprocess.run(made, check=True, capture_output=True, timeout=60)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return context


@both_ways
async def test_a_certificate_nobody_vouches_for(ask: Ask, untrusted: ssl.SSLContext) -> None:
    async with serving(no_answer, untrusted) as url:
        error = await failure_of(ask, url)
    assert (error.request_sent, error.transient) == (False, False)
    assert "certificate" in str(error).lower()


async def test_a_refused_certificate_ends_the_waiting_at_once(untrusted: ssl.SSLContext) -> None:
    clock = FakeClock()
    async with (
        serving(no_answer, untrusted) as url,
        ExportClient(KEY, base_url=url, clock=clock) as client,
    ):
        with pytest.raises(TransportError):
            await client.wait("x")
        with pytest.raises(TransportError):
            await client.start()
    assert clock.sleeps == []


@both_ways
async def test_tls_with_a_server_that_speaks_none(ask: Ask) -> None:
    async with serving(no_http) as url:
        error = await failure_of(ask, url.replace("http:", "https:"))
    assert (error.request_sent, error.transient) == (False, True)


async def test_an_error_of_the_caller_is_left_alone() -> None:
    async with serving(close_in_the_body) as url, Session() as ours:
        with pytest.raises(ZeroDivisionError):
            async with ours.stream(url, headers={}, read_timeout=1.0):
                raise ZeroDivisionError


def body_of(seconds: float) -> tuple[aiohttp.StreamReader, Stream]:
    """Return a body that is still open, and the stream that reads it for `seconds` at a time."""
    loop = asyncio.get_running_loop()
    protocol = BaseProtocol(loop)
    protocol.connection_made(asyncio.Transport())
    body = aiohttp.StreamReader(protocol, 1024, loop=loop)
    reader = ReaderBody(body, block=1 << 20, read_timeout=seconds, clock=SystemClock())
    return body, Stream(200, {}, reader, "https://host/file?secret", seconds)


async def test_a_body_that_nobody_brings_any_more_is_not_waited_for() -> None:
    # As aiohttp leaves it where its session is closed: with neither bytes nor an end nor a timer.
    body, stream = body_of(0.01)
    body.feed_data(b"what had arrived")
    chunks = stream.blocks()
    assert bytes(await anext(chunks)) == b"what had arrived"
    with pytest.raises(TransportError, match=r"GET https://host/file\?\[redacted\] \(TimeoutError"):
        await asyncio.wait_for(anext(chunks), 10)


async def test_what_had_arrived_before_a_body_broke_off_is_handed_out_first() -> None:
    body, stream = body_of(10)
    body.feed_data(b"what had arrived")
    body.set_exception(aiohttp.ClientPayloadError("cut"))
    chunks = stream.blocks()
    assert bytes(await anext(chunks)) == b"what had arrived"
    with pytest.raises(TransportError, match="ClientPayloadError"):
        await anext(chunks)


async def test_a_head_that_trickles_is_not_waited_for() -> None:
    ended = asyncio.Event()

    async def trickle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n")
        while not writer.is_closing():
            writer.write(b"X: y\r\n")
            await asyncio.sleep(0.02)
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
        ended.set()

    server = await asyncio.start_server(trickle, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    async with server, Session() as opened:
        with pytest.raises(TransportError, match="TimeoutError"):
            async with asyncio.timeout(10), opened.stream(url, headers={}, read_timeout=0.1):
                raise AssertionError("there is no answer")
        await asyncio.wait_for(ended.wait(), 10)
