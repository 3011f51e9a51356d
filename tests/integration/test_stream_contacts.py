"""Streaming: every contact once, through whatever happens, or an error that says it was not so."""

from __future__ import annotations

import asyncio
import gzip
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import attrs
import pytest

from sendgrid_exports import (
    BytesReceived,
    ContactExport,
    CorruptDownloadError,
    CountMismatch,
    DownloadError,
    DownloadPolicy,
    Event,
    ExportClient,
    ExportExpiredError,
    ExportNotReadyError,
    ExportTimeoutError,
    FileFinished,
    FileStarted,
    IncompleteDownloadError,
    LinkRenewed,
    Retrying,
    SendGridExportsError,
    Verify,
    parse_contact,
)
from sendgrid_exports.testing import (
    Delay,
    EarlyEnd,
    ExpiredLink,
    FakeClock,
    FakeSendGrid,
    Fault,
    FlippedBit,
    IgnoreRange,
    LongerBody,
    NoLength,
    Redirect,
    Reset,
    Stall,
    Status,
    Trickle,
    TruncatedChunks,
    WrongContentRange,
)
from tests.integration.conftest import MakeClient, MakeFake

CONTACTS = 3000


async def stream(client: ExportClient, export: ContactExport, **options: Any) -> list[Any]:
    rows: list[Any] = []
    async with client.stream_contacts(export, **options) as batches:
        async for batch in batches:
            assert batch
            rows += batch
    return rows


async def fails(
    error: type[SendGridExportsError], said: str, client: ExportClient, export: ContactExport
) -> SendGridExportsError:
    with pytest.raises(error, match=said) as caught:
        await stream(client, export)
    return caught.value


@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize("repeat_header", [True, False])
@pytest.mark.parametrize("file_type", ["csv", "json"])
async def test_every_contact_comes(
    make_fake: MakeFake,
    make_client: MakeClient,
    events: list[Event],
    file_type: str,
    repeat_header: bool,
    compressed: bool,
) -> None:
    fake = await make_fake(
        contacts=1000, files=3, repeat_header=repeat_header, compressed=compressed
    )
    export_id = await fake.add_export(file_type=file_type)
    client = make_client(fake)
    export = await client.wait(export_id)
    sizes = []
    rows = []
    async with client.stream_contacts(export, batch_size=300, on_event=events.append) as batches:
        async for batch in batches:
            sizes.append(len(batch))
            rows += batch
    assert sizes == [300, 300, 300, 100]
    expected = fake.rows_of(export_id) if file_type == "csv" else fake.contacts_of(export_id)
    assert rows == list(expected)
    assert [type(event) for event in events] == [FileStarted, BytesReceived, FileFinished] * 3
    finished = [event.file for event in events if isinstance(event, FileFinished)]
    suffix = f".{file_type}" + ".gz" * compressed
    assert [file.path.name for file in finished] == [
        f"{export_id}-{number:05}{suffix}" for number in (1, 2, 3)
    ]
    assert [file.size for file in finished] == [
        len(body) for body in await fake.file_bytes(export_id)
    ]
    passed = ("length", "etag-md5", "gzip-crc") if compressed else ("length", "etag-md5")
    assert {file.verified_by for file in finished} == {passed}
    assert all("authorization" not in request.headers for request in fake.storage_requests)


async def test_nothing_at_all(make_fake: MakeFake, make_client: MakeClient) -> None:
    fake = await make_fake()
    client = make_client(fake)
    for bodies in ([], [b""], [gzip.compress(b"")], [b'"EMAIL","CONTACT_ID"\n']):
        export_id = await fake.add_export(bodies=bodies, contact_count=0)
        assert await stream(client, await client.wait(export_id)) == []


PASSING: list[tuple[Fault, int]] = [
    (Reset(), 2),
    (Reset(after=40_000), 2),
    (Reset(after=1), 2),
    (EarlyEnd(after=50_000), 2),
    (TruncatedChunks(after=50_000), 2),
    (Status(503), 2),
    (Status(500, retry_after=7), 2),
    (ExpiredLink(), 2),
    (Status(403), 2),
    (Status(400, "ExpiredToken"), 2),
    (LongerBody(), 2),
    (NoLength(), 1),
    (IgnoreRange(), 1),
    (WrongContentRange(), 2),
    (Trickle(after=30_000, size=1, every=0.4), 2),
]


@pytest.mark.parametrize(("fault", "requests"), PASSING, ids=repr)
async def test_what_passes(
    make_fake: MakeFake, make_client: MakeClient, fault: Fault, requests: int
) -> None:
    fake = await make_fake(contacts=CONTACTS, files=2)
    fake.inject(fault, file=1)
    export_id = await fake.add_export()
    client = make_client(fake)
    rows = await stream(client, await client.wait(export_id))
    assert rows == list(fake.rows_of(export_id))
    first = [r for r in fake.storage_requests if r.path == fake.storage_requests[0].path]
    assert len(first) == requests
    if isinstance(fault, Reset | EarlyEnd | TruncatedChunks) and fault.after > 1:
        start = int(first[1].headers["Range"][6:].partition("-")[0])
        assert 0 < start <= fault.after
        assert first[1].headers["If-Match"]


async def test_it_goes_on_as_often_as_it_makes_progress(
    make_fake: MakeFake, make_client: MakeClient, events: list[Event]
) -> None:
    fake = await make_fake(contacts=CONTACTS)
    fake.inject(Reset(after=3000), times=30)
    export_id = await fake.add_export()
    client = make_client(fake)
    rows = await stream(client, await client.wait(export_id), on_event=events.append)
    assert rows == list(fake.rows_of(export_id))
    assert len(fake.storage_requests) == 31
    assert sum(isinstance(event, Retrying) for event in events) == 30
    assert {event.delay for event in events if isinstance(event, Retrying)} == {0.5}


async def test_it_gives_up_without_progress(make_fake: MakeFake, make_client: MakeClient) -> None:
    fake = await make_fake(contacts=CONTACTS)
    fake.inject(Reset(after=3000))
    fake.inject(Status(503), times=None)
    client = make_client(fake, downloads=DownloadPolicy(attempts=3))
    export = await client.wait(await fake.add_export())
    await fails(IncompleteDownloadError, "3 tries without progress", client, export)
    assert len(fake.storage_requests) == 4


async def test_dead_links_are_renewed_in_the_middle(
    make_fake: MakeFake, make_client: MakeClient, clock: FakeClock, events: list[Event]
) -> None:
    fake = await make_fake(contacts=CONTACTS, files=3)
    fake.inject(Reset(after=20_000), file=2)
    export_id = await fake.add_export()
    client = make_client(fake)
    export = await client.wait(export_id)

    def tell(event: Event) -> None:
        events.append(event)
        if isinstance(event, Retrying):
            fake.expire_links()

    assert await stream(client, export, on_event=tell) == list(fake.rows_of(export_id))
    assert [event.links for event in events if isinstance(event, LinkRenewed)] == [2]


async def test_a_slow_consumer_is_nobodys_fault(
    make_fake: MakeFake, make_client: MakeClient, clock: FakeClock, events: list[Event]
) -> None:
    """Links die meanwhile, and files that have not begun get fresh ones in time."""
    fake = await make_fake(contacts=CONTACTS, files=3)
    export_id = await fake.add_export()
    client = make_client(fake, downloads=DownloadPolicy(read_timeout=0.5, speed_window=5))
    rows: list[Any] = []
    export = await client.wait(export_id)
    async with client.stream_contacts(export, batch_size=100, on_event=events.append) as batches:
        async for batch in batches:
            rows += batch
            await clock.sleep(60)
    assert rows == list(fake.rows_of(export_id))
    assert not [event for event in events if isinstance(event, Retrying)]
    assert sum(isinstance(event, LinkRenewed) for event in events) == 2
    assert len(fake.storage_requests) == 3


async def test_a_slow_consumer_holds_the_sender_back(
    make_fake: MakeFake, make_client: MakeClient
) -> None:
    row = b'"a@example.com","1","' + b"x" * 1000 + b'"\n'
    body = b'"EMAIL","CONTACT_ID","x"\n' + row * 40_000
    fake = await make_fake()
    client = make_client(fake)
    export = await client.wait(await fake.add_export(bodies=[body]))
    async with client.stream_contacts(export, batch_size=10) as batches:
        await anext(batches)
        for _ in range(200):
            await asyncio.sleep(0.001)
        [request] = fake.storage_requests
        assert request.sent < len(body) / 2
        assert len([1 async for _ in batches]) == 3999


async def replaced(fake: FakeSendGrid, export_id: str) -> None:
    [body] = await fake.file_bytes(export_id)
    await fake.replace_file(export_id, 1, body + gzip.compress(b'"more"\n'))


async def test_an_object_replaced_in_the_middle_is_an_error(
    make_fake: MakeFake, make_client: MakeClient
) -> None:
    fake = await make_fake(contacts=CONTACTS)
    fake.inject(Reset(after=60_000))
    export_id = await fake.add_export()
    client = make_client(fake)
    export = await client.wait(export_id)
    async with client.stream_contacts(export, batch_size=10) as batches:
        assert len(await anext(batches)) == 10
        await replaced(fake, export_id)
        with pytest.raises(CorruptDownloadError, match="another version") as caught:
            [batch async for batch in batches]
    assert "drop them, and stream again" in str(caught.value)
    assert [request.status for request in fake.storage_requests] == [206, 412]


class Meanwhile(FakeClock):
    """A clock that does something while it sleeps for the first time."""

    def __init__(self, work: Callable[[], Awaitable[object]]) -> None:
        super().__init__()
        self._work: Callable[[], Awaitable[object]] | None = work

    async def sleep(self, seconds: float) -> None:
        work, self._work = self._work, None
        if work is not None:
            await work()
        await super().sleep(seconds)


async def test_an_object_replaced_before_its_first_byte_is_no_error(
    make_fake: MakeFake, make_client: MakeClient
) -> None:
    fake = await make_fake(contacts=50)
    export_id = await fake.add_export(contact_count=None)
    fake.inject(Reset())
    body = gzip.compress(b'"EMAIL","CONTACT_ID"\n"a","1"\n', mtime=0)
    client = make_client(fake, clock=Meanwhile(lambda: fake.replace_file(export_id, 1, body)))
    rows = await stream(client, await client.wait(export_id))
    assert rows == [{"EMAIL": "a", "CONTACT_ID": "1"}]
    assert [request.status for request in fake.storage_requests] == [206, 412, 206]


@pytest.mark.parametrize(
    ("fault", "error", "said"),
    [
        (FlippedBit(at=60_000), CorruptDownloadError, "fails its checks: "),
        (Status(404), ExportExpiredError, "is deleted"),
        (Redirect(), DownloadError, "Redirects are not followed"),
        (Status(403, "SignatureDoesNotMatch"), DownloadError, "SignatureDoesNotMatch"),
    ],
    ids=repr,
)
async def test_what_does_not_pass(
    make_fake: MakeFake,
    make_client: MakeClient,
    fault: Fault,
    error: type[SendGridExportsError],
    said: str,
) -> None:
    fake = await make_fake(contacts=CONTACTS)
    fake.inject(fault, times=None)
    client = make_client(fake)
    export = await client.wait(await fake.add_export())
    await fails(error, said, client, export)


@pytest.mark.parametrize("etag", ["weak", "none"])
async def test_without_a_version_it_can_not_go_on(
    make_fake: MakeFake, make_client: MakeClient, etag: str
) -> None:
    fake = await make_fake(contacts=CONTACTS, etag=etag)
    export_id = await fake.add_export()
    client = make_client(fake)
    export = await client.wait(export_id)
    assert await stream(client, export) == list(fake.rows_of(export_id))
    fake.inject(Reset(after=60_000))
    error = await fails(IncompleteDownloadError, "nothing pins its version", client, export)
    assert "or download" in str(error)


async def test_a_storage_that_can_not_go_on_in_the_middle(
    make_fake: MakeFake, make_client: MakeClient
) -> None:
    fake = await make_fake(contacts=CONTACTS)
    fake.inject(Reset(after=60_000))
    fake.inject(IgnoreRange())
    client = make_client(fake)
    export = await client.wait(await fake.add_export())
    await fails(CorruptDownloadError, "answers a range with the whole file", client, export)


async def test_an_etag_that_is_no_md5_still_pins(
    make_fake: MakeFake, make_client: MakeClient
) -> None:
    for etag in ("multipart", "kms"):
        fake = await make_fake(contacts=CONTACTS, etag=etag, checksum_headers="crc32")
        fake.inject(Reset(after=60_000))
        export_id = await fake.add_export()
        client = make_client(fake)
        assert await stream(client, await client.wait(export_id)) == list(fake.rows_of(export_id))


@pytest.mark.parametrize("verify", Verify)
async def test_what_is_verified(
    make_fake: MakeFake, make_client: MakeClient, events: list[Event], verify: Verify
) -> None:
    """A bit flipped in the header of gzip changes no row, and is known by the MD5 alone."""
    fake = await make_fake(contacts=100)
    fake.inject(FlippedBit(at=5))
    client = make_client(fake, downloads=DownloadPolicy(verify=verify))
    export = await client.wait(await fake.add_export())
    if verify is Verify.LENGTH:
        assert len(await stream(client, export, on_event=events.append)) == 100
        [file] = [event.file for event in events if isinstance(event, FileFinished)]
        assert (file.verified_by, file.sha256) == (("length", "gzip-crc"), None)
    else:
        await fails(CorruptDownloadError, "its etag-md5 is", client, export)


async def test_bytes_that_are_no_utf8(make_fake: MakeFake, make_client: MakeClient) -> None:
    fake = await make_fake()
    client = make_client(fake)
    body = b'"EMAIL","CONTACT_ID"\n"a\xff","1"\n'
    export = await client.wait(await fake.add_export(bodies=[body]))
    await fails(CorruptDownloadError, "line 2, column 3", client, export)
    assert await stream(client, export, errors="replace") == [
        {"EMAIL": "a\ufffd", "CONTACT_ID": "1"}
    ]


@pytest.mark.parametrize("require_count", [True, False])
async def test_the_contacts_are_counted(
    make_fake: MakeFake, make_client: MakeClient, events: list[Event], require_count: bool
) -> None:
    fake = await make_fake(contacts=50)
    export_id = await fake.add_export(contact_count=51)
    client = make_client(fake, downloads=DownloadPolicy(require_count=require_count))
    export = await client.wait(export_id)
    if require_count:
        await fails(CorruptDownloadError, "has 51 contacts, and the files hold 50", client, export)
        return
    assert len(await stream(client, export, on_event=events.append)) == 50
    assert events[-1] == CountMismatch(export_id=export_id, expected=51, counted=50)


async def test_an_export_that_is_not_ready(make_fake: MakeFake, make_client: MakeClient) -> None:
    fake = await make_fake()
    client = make_client(fake)
    export = await client.get(await fake.add_export(statuses=["pending"]))
    await fails(ExportNotReadyError, "is pending", client, export)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"batch_size": 0}, ValueError),
        ({"errors": "ignore"}, ValueError),
        ({"timeout": -1}, ValueError),
        ({"on_event": 1}, TypeError),
    ],
)
async def test_bad_arguments(
    make_fake: MakeFake,
    make_client: MakeClient,
    arguments: dict[str, Any],
    error: type[Exception],
) -> None:
    fake = await make_fake(contacts=1)
    client = make_client(fake)
    export = await client.wait(await fake.add_export())
    with pytest.raises(error, match=next(iter(arguments))):
        await stream(client, export, **arguments)
    with pytest.raises(TypeError, match="export must be a ContactExport"):
        await stream(client, "id")  # type: ignore[arg-type]
    assert not fake.storage_requests


async def test_the_timeout_bounds_the_waiting(make_fake: MakeFake, make_client: MakeClient) -> None:
    fake = await make_fake(contacts=CONTACTS)
    fake.inject(Delay(100), times=None)
    client = make_client(fake)
    export = await client.wait(await fake.add_export())
    with pytest.raises(ExportTimeoutError, match="The timeout passed") as caught:
        await stream(client, export, timeout=50)
    assert caught.value.export_id == export.id


async def test_the_timeout_never_cancels_what_the_caller_does(
    make_fake: MakeFake, make_client: MakeClient, clock: FakeClock
) -> None:
    fake = await make_fake(contacts=CONTACTS)
    client = make_client(fake)
    export = await client.wait(await fake.add_export())
    async with client.stream_contacts(export, timeout=50, batch_size=10) as batches:
        assert len(await anext(batches)) == 10
        await clock.sleep(100)
        with pytest.raises(ExportTimeoutError, match="or download"):
            await anext(batches)


async def test_files_that_expire_meanwhile(
    make_fake: MakeFake, make_client: MakeClient, clock: FakeClock
) -> None:
    fake = await make_fake(contacts=CONTACTS, file_lifetime=500.0)
    client = make_client(fake)
    export = await client.wait(await fake.add_export())
    async with client.stream_contacts(export, timeout=50_000, batch_size=10) as batches:
        await anext(batches)
        await clock.sleep(1000)
        with pytest.raises(ExportExpiredError, match="expired at"):
            await anext(batches)


async def test_a_stall_is_gone_on_from(make_fake: MakeFake, make_client: MakeClient) -> None:
    fake = await make_fake(contacts=CONTACTS)
    fake.inject(Stall(after=60_000))
    export_id = await fake.add_export()
    client = make_client(fake, downloads=DownloadPolicy(read_timeout=0.1))
    assert await stream(client, await client.wait(export_id)) == list(fake.rows_of(export_id))
    assert len(fake.storage_requests) == 2


def reading_threads() -> set[threading.Thread]:
    return {t for t in threading.enumerate() if t.name.startswith("sendgrid-exports")}


@pytest.mark.parametrize("how", ["break", "error", "cancel", "nothing read"])
async def test_leaving_early_leaves_nothing_behind(
    make_fake: MakeFake, make_client: MakeClient, how: str
) -> None:
    fake = await make_fake(contacts=CONTACTS)
    fake.inject(Stall(after=100_000))
    client = make_client(fake)
    export = await client.wait(await fake.add_export())
    before = asyncio.all_tasks()
    begun = asyncio.Event()

    async def read() -> None:
        async with client.stream_contacts(export, batch_size=10) as batches:
            if how == "nothing read":
                return
            async for _ in batches:
                begun.set()
                if how == "break":
                    break
                if how == "error":
                    raise KeyError("the caller's own")

    task = asyncio.create_task(read())
    if how == "cancel":
        await begun.wait()
        # Everything that came is read, and the rest never comes.
        for _ in range(50):
            await asyncio.sleep(0.001)
        task.cancel()
    [outcome] = await asyncio.gather(task, return_exceptions=True)
    expected = {"error": KeyError, "cancel": asyncio.CancelledError}.get(how, type(None))
    assert isinstance(outcome, expected)
    left = [task for task in asyncio.all_tasks() - before if "web_protocol.py" not in str(task)]
    assert left == []
    for thread in reading_threads():
        await asyncio.to_thread(thread.join)


async def test_a_borrowed_session_is_used_and_stays_open(
    make_fake: MakeFake, clock: FakeClock
) -> None:
    fake = await make_fake(contacts=20)
    export_id = await fake.add_export()
    async with aiohttp.ClientSession() as session:
        client = ExportClient(fake.api_key, base_url=fake.base_url, session=session, clock=clock)
        rows = await stream(client, await client.wait(export_id))
        assert not session.closed
    assert [parse_contact(row) for row in rows] == list(map(parse_contact, fake.rows_of(export_id)))


async def test_a_link_matched_by_its_place_may_not_bring_another_file(
    make_fake: MakeFake, make_client: MakeClient
) -> None:
    body = b'"EMAIL","CONTACT_ID"\n"a","1"\n'
    fake = await make_fake()
    client = make_client(fake)
    export = await client.wait(await fake.add_export(bodies=[body, body], names=["a.csv", "b.csv"]))
    urls = (export.urls[0], export.urls[1].replace("/b.csv", "/c.csv"))
    fake.expire_links()
    await fails(DownloadError, "another file's", client, attrs.evolve(export, urls=urls))


async def test_a_file_that_is_no_longer_listed(
    make_fake: MakeFake, make_client: MakeClient, clock: FakeClock
) -> None:
    fake = await make_fake(contacts=10, files=2)
    client = make_client(fake)
    export = await client.wait(await fake.add_export())
    urls = (export.urls[0], export.urls[0].replace(".csv", "-more.csv"), export.urls[1])
    async with client.stream_contacts(attrs.evolve(export, urls=urls), batch_size=1) as batches:
        await anext(batches)
        clock.advance(290)
        with pytest.raises(DownloadError, match="no longer lists file 2"):
            [batch async for batch in batches]


async def test_a_renewal_that_takes_too_long(make_fake: MakeFake, make_client: MakeClient) -> None:
    fake = await make_fake(contacts=10)
    client = make_client(fake)
    export = await client.wait(await fake.add_export())
    fake.expire_links()
    fake.respond(500, times=None)
    with pytest.raises(ExportTimeoutError):
        await stream(client, export, timeout=20)


async def test_a_timeout_of_the_listener_is_its_own(
    make_fake: MakeFake, make_client: MakeClient
) -> None:
    fake = await make_fake(contacts=10)
    client = make_client(fake)
    export = await client.wait(await fake.add_export())

    def tell(event: Event) -> None:
        raise TimeoutError("the listener's own")

    with pytest.raises(TimeoutError, match="the listener's own"):
        await stream(client, export, timeout=20, on_event=tell)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b'"EMAIL","CONTACT_ID"\n"a","cut', "line 2: the record is not CSV"),
        (gzip.compress(b'"EMAIL","CONTACT_ID"\n"a","1"\n', mtime=0)[:-3], "unexpected end"),
        (b"<html>", "it is an HTML page"),
        (b"<", "it is markup"),
    ],
)
async def test_what_is_broken_at_its_end(
    make_fake: MakeFake, make_client: MakeClient, body: bytes, said: str
) -> None:
    fake = await make_fake()
    client = make_client(fake)
    export = await client.wait(await fake.add_export(bodies=[body]))
    await fails(CorruptDownloadError, said, client, export)


async def test_one_contact_of_one_byte_is_not_taken_for_gzip(
    make_fake: MakeFake, make_client: MakeClient
) -> None:
    fake = await make_fake()
    fake.inject(Reset(after=1))
    client = make_client(fake)
    body = b'{"contact_id":"1"}'
    export_id = await fake.add_export(bodies=[body], file_type="json")
    assert await stream(client, await client.wait(export_id)) == [{"contact_id": "1"}]
