"""The key and the links' signatures are told to nobody, whatever happens and however it fails."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import traceback
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote

import attrs
import pytest

from sendgrid_exports import (
    ContactExport,
    CorruptDownloadError,
    DownloadError,
    DownloadPolicy,
    DownloadResult,
    Event,
    ExportClient,
    ExportExpiredError,
    ExportFailedError,
    ExportListing,
    ExportStatus,
    ExportTimeoutError,
    FileStarted,
    IncompleteDownloadError,
    InvalidRequestError,
    InvalidResponseError,
    LinkRenewed,
    PermissionDeniedError,
    PollPolicy,
    RateLimitedError,
    Retrying,
    SendGridExportsError,
    ServerError,
    StatusPolled,
    TransportError,
)
from sendgrid_exports.testing import (
    Delay,
    ExpiredLink,
    FakeClock,
    FakeSendGrid,
    FlippedBit,
    Redirect,
    Reset,
    Status,
)
from tests.integration.conftest import serving

SIGNED = {"X-Amz-Signature", "X-Amz-Credential", "X-Amz-Security-Token"}
PLANTED = "0f1e2d3c4b5a69788796a5b4c3d2e1f0"
PLANTED_QUERY = (
    f"X-Amz-Security-Token={PLANTED}t&X-Amz-Credential={PLANTED}c&X-Amz-Signature={PLANTED}"
)
PLANTED_URL = f"https://bucket.example/x.csv.gzip?{PLANTED_QUERY}"
KEYS = ["SG.fake-key-id.fake-key-secret", "a-key-of-another-shape-0123456789"]


@pytest.fixture(params=KEYS, ids=["usual key", "unusual key"])
async def fake(request: pytest.FixtureRequest, clock: FakeClock) -> AsyncIterator[FakeSendGrid]:
    async with FakeSendGrid(clock=clock, contacts=50, files=2, api_key=request.param) as fake:
        yield fake


@pytest.fixture(autouse=True)
def everything_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    for name in ("aiohttp.client", "aiohttp.internal", "asyncio", "sendgrid_exports"):
        caplog.set_level(logging.DEBUG, logger=name)


class Ears:
    """Everything that was said, and everything that should not have been."""

    def __init__(self, fake: FakeSendGrid, clock: FakeClock) -> None:
        self.fake = fake
        self.events: list[Event] = []
        self.models: list[object] = []
        self.errors: list[BaseException] = []
        self.client = ExportClient(
            fake.api_key,
            base_url=fake.base_url,
            clock=clock,
            random=lambda: 0.0,
            polling=PollPolicy(max_failures=6),
            downloads=DownloadPolicy(attempts=6),
        )

    def secrets(self) -> set[str]:
        """The key, and whatever was in the query of a link that was ever handed out."""
        seen = {event.export for event in self.events if isinstance(event, StatusPolled)}
        for model in self.models:
            if isinstance(model, DownloadResult):
                seen.add(model.export)
            elif isinstance(model, ContactExport):
                seen.add(model)
        links = [url for export in seen for url in export.urls]
        links += [url for m in self.models if isinstance(m, ExportListing) for url in m.urls]
        queries = [url.partition("?")[2] for url in links]
        queries += [request.query for request in self.fake.storage_requests]
        found = {self.fake.api_key, PLANTED}
        for query in queries:
            found |= {value for name, value in parse_qsl(query) if name in SIGNED}
            found |= {
                value
                for name, _, value in (field.partition("=") for field in query.split("&"))
                if name in SIGNED
            }
        return found

    def said(
        self, directory: Path, records: list[logging.LogRecord], *, hidden: bool
    ) -> Iterator[str]:
        """Yield every text a person might read."""
        yield repr(self.client)
        for thing in (*self.events, *self.models):
            yield f"{thing!r} {thing}"
        for error in self.errors:
            yield "".join(traceback.format_exception(error))
            for link in chain(error, hidden=hidden):
                own = vars(link) if isinstance(link, SendGridExportsError) else {}
                yield f"{link!r} {link} {own!r} {getattr(link, '__notes__', ())}"
        for record in records:
            yield logging.Formatter("%(name)s %(message)s").format(record)
        for path in directory.rglob("*"):
            yield str(path)
            if path.is_file():
                yield path.read_bytes().decode("latin-1")

    def check(
        self, directory: Path, records: list[logging.LogRecord], *, hidden: bool = True
    ) -> None:
        """Assert that no secret was said, nor the key sent to the storage."""
        secrets = self.secrets()
        for text in self.said(directory, records, hidden=hidden):
            for secret in secrets:
                assert secret not in text
        for request in self.fake.storage_requests:
            sent = [request.path, request.query, *request.headers.values(), request.body.decode()]
            assert not any(self.fake.api_key in unquote(text) for text in sent)


def chain(error: BaseException, *, hidden: bool) -> Iterator[BaseException]:
    """Yield an error and its causes, also those that a traceback leaves out if `hidden`."""
    waiting, seen = [error], set[int]()
    while waiting:
        link = waiting.pop()
        if id(link) not in seen:
            seen.add(id(link))
            yield link
            context = link.__context__ if hidden or not link.__suppress_context__ else None
            waiting += [e for e in (link.__cause__, context) if e is not None]
            waiting += getattr(link, "exceptions", ())


@pytest.fixture
async def ears(fake: FakeSendGrid, clock: FakeClock) -> AsyncIterator[Ears]:
    ears = Ears(fake, clock)
    async with ears.client:
        yield ears


# What goes well in the end


async def test_nothing_is_told_by_an_export_that_survives_everything(
    fake: FakeSendGrid, ears: Ears, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    killed = False

    def on_event(event: Event) -> None:
        nonlocal killed
        ears.events.append(event)
        if isinstance(event, FileStarted) and not killed:
            killed = True
            fake.expire_links()

    echo = {"errors": [{"message": f"retry later, Bearer {fake.api_key} at {PLANTED_URL}"}]}
    fake.respond(429, body=echo, on="start")
    fake.respond(429, body=echo, on="status")
    fake.respond(503, body=f"<html>{PLANTED_URL} {fake.api_key}</html>", on="status")
    fake.respond(None, times=2, on="status")
    for fault in (
        ExpiredLink(),
        Status(503, message=PLANTED_URL),
        Reset(100),
        Status(403, message=PLANTED_URL),
    ):
        fake.inject(fault)
    export_id = await ears.client.start(list_ids=["a-list"])
    result = await ears.client.fetch(export_id, tmp_path, on_event=on_event)
    ears.models += [result, *result.files, await ears.client.get(export_id)]
    ears.models += await ears.client.list_exports()
    ears.models.append(await ears.client.fetch(export_id, tmp_path))
    assert result.contact_count == 50
    assert killed
    assert {LinkRenewed, Retrying, StatusPolled} <= {type(event) for event in ears.events}
    assert len(ears.secrets()) > 10
    assert any(record.name.startswith("sendgrid_exports") for record in caplog.records)
    ears.check(tmp_path, caplog.records)


# What goes wrong in the end

Arrange = Callable[[FakeSendGrid], None]


def answer(status: int, body: Callable[[str], Any]) -> Arrange:
    """Let the API answer for ever with a body made of the key."""
    return lambda fake: fake.respond(status, body=body(fake.api_key), times=None)


def refuse(fault: Any) -> Arrange:
    """Let the storage meet every request with a fault."""
    return lambda fake: fake.inject(fault, times=None)


def said(text: str) -> Callable[[str], Any]:
    return lambda key: {"errors": [{"message": text.replace("KEY", key)}]}


FAILURES: dict[str, tuple[type[Exception], Arrange]] = {
    "400 echoes": (InvalidRequestError, answer(400, said("no such key: KEY"))),
    "400 echoes a header": (InvalidRequestError, answer(400, said("Authorization: Bearer KEY"))),
    "400 echoes a link": (InvalidRequestError, answer(400, said(f"is {PLANTED_URL} yours?"))),
    "400 echoes a query": (InvalidRequestError, answer(400, said(f"/x?{PLANTED_QUERY}"))),
    "403 echoes everywhere": (
        PermissionDeniedError,
        answer(
            403,
            lambda key: {
                "errors": [
                    dict.fromkeys(("message", "field", "parameter", "error_id"), key)
                    | {"help": {"url": PLANTED_URL, "key": [key]}}
                ]
            },
        ),
    ),
    "429 echoes": (RateLimitedError, answer(429, lambda key: {"error": f"too many for {key}"})),
    "500 echoes in HTML": (
        ServerError,
        answer(502, lambda key: f'<html><a href="{PLANTED_URL}">{key}</a></html>'),
    ),
    "500 echoes after much else": (ServerError, answer(500, lambda key: "x" * 1990 + key)),
    "no JSON": (InvalidResponseError, answer(200, lambda key: f"what is {key}? {PLANTED_URL}")),
    "not what is documented": (
        InvalidResponseError,
        answer(
            200,
            lambda key: {
                "id": "x",
                "status": "ready",
                "created_at": f"{key} {PLANTED_URL}",
                "contact_count": key,
                "urls": {"link": PLANTED_URL},
            },
        ),
    ),
    "links of another scheme": (
        InvalidResponseError,
        answer(
            200,
            lambda _: {
                "id": "x",
                "status": "ready",
                "urls": [PLANTED_URL.replace("https", "ftp"), f"https://u:{PLANTED}@host/x"],
            },
        ),
    ),
    "failure": (
        ExportFailedError,
        answer(200, lambda key: {"id": "x", "status": "failure", "message": f"{key} is bad"}),
    ),
    "an unknown status": (
        ExportTimeoutError,
        answer(200, lambda key: {"id": "x", "status": f"held for {key}"}),
    ),
    "dropped": (TransportError, lambda fake: fake.respond(None, times=None)),
    "hangs": (ExportTimeoutError, refuse(Delay(10_000.0))),
    "resets": (IncompleteDownloadError, refuse(Reset())),
    "storage 403": (DownloadError, refuse(Status(403, message=f"{PLANTED_URL} is denied"))),
    "storage 400": (
        DownloadError,
        refuse(Status(400, "InvalidArgument", message=f"GET /x?{PLANTED_QUERY} HTTP/1.1")),
    ),
    "storage redirects": (DownloadError, refuse(Redirect(PLANTED_URL))),
    "links that always die": (DownloadError, refuse(ExpiredLink())),
    "a flipped bit": (CorruptDownloadError, refuse(FlippedBit(at=30))),
}


@pytest.mark.parametrize(("error", "arrange"), FAILURES.values(), ids=FAILURES.keys())
async def test_nothing_is_told_by_a_failure(
    fake: FakeSendGrid,
    ears: Ears,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    error: type[Exception],
    arrange: Arrange,
) -> None:
    export_id = await fake.add_export(export_id="x", statuses=["pending", "ready"])
    arrange(fake)
    with pytest.raises(error) as caught:
        await ears.client.fetch(export_id, tmp_path, timeout=3600, on_event=ears.events.append)
    ears.errors.append(caught.value)
    ears.check(tmp_path, caplog.records)


async def test_nothing_is_told_when_the_files_are_gone(
    fake: FakeSendGrid, ears: Ears, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    export_id = await fake.add_export()
    fake.remove_files(export_id)
    with pytest.raises(ExportExpiredError) as caught:
        await ears.client.fetch(export_id, tmp_path, on_event=ears.events.append)
    ears.errors.append(caught.value)
    ears.check(tmp_path, caplog.records)


async def test_nothing_is_told_when_the_storage_quotes_a_bad_signature(
    fake: FakeSendGrid, ears: Ears, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    export_id = await fake.add_export()
    export = await ears.client.get(export_id)
    ears.models.append(attrs.evolve(export, urls=tuple(f"{url}0" for url in export.urls)))
    with pytest.raises(DownloadError, match="SignatureDoesNotMatch") as caught:
        await ears.client.download(
            attrs.evolve(export, urls=tuple(f"{url}0" for url in export.urls)),
            tmp_path,
            on_event=ears.events.append,
        )
    ears.errors.append(caught.value)
    ears.check(tmp_path, caplog.records)


# Answers that aiohttp itself refuses; its error carries the request's headers and url


@contextlib.asynccontextmanager
async def garbage(api_key: str) -> AsyncIterator[str]:
    """Serve what is no HTTP and quotes the request, and yield the url."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await reader.readuntil(b"\r\n\r\n")
        words = request.split()
        quoted = b" ".join([*words, *(word for word in words if word == api_key.encode())])
        writer.write(b"HTTP/1.1 200 OK\r\nBad header " + quoted + b"\r\n\r\n")
        await writer.drain()

    async with serving(answer) as url:
        yield url


async def fail_on_garbage(ears: Ears, where: str, directory: Path) -> None:
    async with garbage(ears.fake.api_key) as url:
        if where == "api":
            async with ExportClient(ears.fake.api_key, base_url=url) as client:
                with pytest.raises(TransportError) as refused:
                    await client.get("x")
            ears.errors.append(refused.value)
            return
        await ears.client.list_exports()
        link = f"{url}/x.csv?{PLANTED_QUERY}"
        export = ContactExport(id="x", status=ExportStatus.READY, urls=(link,))
        with pytest.raises(IncompleteDownloadError) as broken:
            await ears.client.download(export, directory, on_event=ears.events.append)
        ears.errors.append(broken.value)


@pytest.mark.parametrize(
    ("fake", "where"),
    [
        (KEYS[0], "api"),
        (KEYS[0], "storage"),
        (KEYS[1], "storage"),
        pytest.param(KEYS[1], "api"),
    ],
    indirect=["fake"],
)
async def test_nothing_is_told_by_an_answer_that_is_no_http(
    ears: Ears, tmp_path: Path, caplog: pytest.LogCaptureFixture, where: str
) -> None:
    await fail_on_garbage(ears, where, tmp_path)
    ears.check(tmp_path, caplog.records, hidden=False)


@pytest.mark.parametrize("fake", KEYS[:1], indirect=True)
@pytest.mark.parametrize(
    "where",
    [
        "storage",
        pytest.param("api"),
    ],
)
async def test_nothing_is_told_by_a_cause_that_is_not_shown(
    ears: Ears, tmp_path: Path, caplog: pytest.LogCaptureFixture, where: str
) -> None:
    await fail_on_garbage(ears, where, tmp_path)
    ears.check(tmp_path, caplog.records)
