"""Fresh links: bounded in time, never another file's, and not asked for where they are no use."""

from __future__ import annotations

import asyncio
import math
import pickle
from pathlib import Path

import pytest

from sendgrid_exports import (
    DownloadError,
    DownloadPolicy,
    Event,
    ExportNotReadyError,
    ExportTimeoutError,
    InvalidResponseError,
    LinkRenewed,
    PollPolicy,
    SendGridExportsError,
    StatusPolled,
)
from sendgrid_exports.testing import (
    Delay,
    EarlyEnd,
    ExpiredLink,
    FakeClock,
    FakeSendGrid,
    Reset,
    Status,
)
from tests.integration.conftest import MakeClient, MakeFake


def status_body(export_id: str, status: str, urls: tuple[str, ...] = ()) -> dict[str, object]:
    return {
        "id": export_id,
        "status": status,
        "created_at": "2026-03-02T09:00:00Z",
        "updated_at": "2026-03-02T09:00:00Z",
        "expires_at": "2026-03-02T21:00:00Z",
        "urls": list(urls),
        "contact_count": 10,
    }


async def test_a_renewal_that_stays_pending_ends_within_the_polling_timeout(
    make_fake: MakeFake, make_client: MakeClient, clock: FakeClock, tmp_path: Path
) -> None:
    fake: FakeSendGrid = await make_fake()
    fake.inject(ExpiredLink(), times=None)
    export_id = await fake.add_export(contacts=10)
    client = make_client(fake, polling=PollPolicy(timeout=120))
    export = await client.get(export_id)
    fake.respond(200, body=status_body(export_id, "pending"), times=None, on="status")
    began = clock.monotonic()
    with pytest.raises(ExportNotReadyError, match="no fresh links") as caught:
        await client.download(export, tmp_path)
    assert clock.monotonic() - began <= 120
    assert not isinstance(caught.value, ExportTimeoutError)
    assert not list(tmp_path.glob("*.csv*"))


async def test_links_of_other_paths_in_another_order_bring_no_file_twice(
    make_fake: MakeFake, make_client: MakeClient, tmp_path: Path
) -> None:
    fake: FakeSendGrid = await make_fake()
    bodies = [b"EMAIL,CONTACT_ID\n" + b"%d@example.com,%d\n" % (n, n) * 50 for n in range(2)]
    export_id = await fake.add_export(bodies=bodies)
    fake.inject(Reset(after=0), file=2, times=None)
    client = make_client(fake)
    with pytest.raises(DownloadError):
        await client.fetch(export_id, tmp_path)
    [first] = tmp_path.glob("*.csv")
    # The same files by other names, the second one in the place of the first.
    moved = await fake.add_export(bodies=bodies[::-1], names=["x.csv", "y.csv"])
    links = (await client.get(moved)).urls
    fake.respond(200, body=status_body(export_id, "ready", links), times=None, on="status")
    with pytest.raises(DownloadError, match="another file's"):
        await client.fetch(export_id, tmp_path)
    assert list(tmp_path.glob("*.csv")) == [first]
    assert await asyncio.to_thread(first.read_bytes) == bodies[0]


async def test_a_file_under_way_is_not_brought_in_the_place_of_another_either(
    make_fake: MakeFake, make_client: MakeClient, tmp_path: Path
) -> None:
    fake: FakeSendGrid = await make_fake()
    bodies = [b"EMAIL,CONTACT_ID\n" + b"%d@example.com,%d\n" % (n, n) * 50 for n in range(2)]
    export_id = await fake.add_export(bodies=bodies)
    fake.inject(Delay(math.inf), file=1, export_id=export_id, times=None)
    fake.inject(EarlyEnd(after=100), file=2)
    # Enough time passes for a sync, and then nothing more comes.
    fake.inject(Reset(after=0), file=2, times=3)
    fake.inject(Delay(math.inf), file=2, export_id=export_id, times=None)
    fetching = asyncio.create_task(make_client(fake).fetch(export_id, tmp_path))
    while not any(b'"done":[[0,100]]' in path.read_bytes() for path in tmp_path.glob("*.journal")):
        await asyncio.sleep(0.005)
    fetching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await fetching
    moved = await fake.add_export(bodies=bodies[::-1], names=["x.csv", "y.csv"])
    links = (await make_client(fake).get(moved)).urls
    fake.respond(200, body=status_body(export_id, "ready", links), times=None, on="status")
    # One at a time, and the one of which nothing is there yet comes first.
    client = make_client(fake, downloads=DownloadPolicy(connections=1))
    with pytest.raises(DownloadError, match="another file's"):
        await client.fetch(export_id, tmp_path)
    assert not list(tmp_path.glob("*.csv"))


async def test_one_renewal_serves_all_files_whose_links_died_together(
    make_fake: MakeFake, make_client: MakeClient, tmp_path: Path, events: list[Event]
) -> None:
    fake: FakeSendGrid = await make_fake(contacts=20)
    fake.inject(ExpiredLink(), times=6)
    export_id = await fake.add_export(files=6)
    await make_client(fake).fetch(export_id, tmp_path, on_event=events.append)
    assert len(fake.storage_requests) == 12
    assert [event.links for event in events if isinstance(event, LinkRenewed)] == [6]


async def test_files_that_hold_the_same_are_each_brought(
    make_fake: MakeFake, make_client: MakeClient, tmp_path: Path
) -> None:
    fake: FakeSendGrid = await make_fake()
    body = b"EMAIL,CONTACT_ID\nann@example.com,1\n"
    export_id = await fake.add_export(bodies=[body] * 3)
    result = await make_client(fake).fetch(export_id, tmp_path)
    assert [await asyncio.to_thread(file.path.read_bytes) for file in result.files] == [body] * 3


async def test_links_that_live_are_followed_though_the_api_is_down(
    make_fake: MakeFake, make_client: MakeClient, tmp_path: Path
) -> None:
    fake: FakeSendGrid = await make_fake()
    export_id = await fake.add_export(contacts=10)
    export = await make_client(fake).get(export_id)
    fake.respond(503, times=None)
    result = await make_client(fake).download(export, tmp_path)
    assert result.contact_count == 10


async def test_links_that_live_are_followed_though_the_api_hangs(
    make_fake: MakeFake, make_client: MakeClient, clock: FakeClock, tmp_path: Path
) -> None:
    fake: FakeSendGrid = await make_fake()
    export_id = await fake.add_export(contacts=10)
    export = await make_client(fake).get(export_id)
    fake.respond(200, delay=1000.0, times=None)
    began = clock.monotonic()
    result = await make_client(fake).download(export, tmp_path, timeout=100)
    assert result.contact_count == 10
    assert clock.monotonic() - began <= 60


async def test_a_timeout_says_that_links_did_not_come_and_what_is_kept(
    make_fake: MakeFake, make_client: MakeClient, tmp_path: Path
) -> None:
    fake: FakeSendGrid = await make_fake()
    export_id = await fake.add_export(contacts=10)
    client = make_client(fake)
    export = await client.get(export_id)
    fake.expire_links()
    fake.respond(503, headers={"Retry-After": "90"}, times=None)
    with pytest.raises(ExportTimeoutError, match=r"no fresh links came.*90 s.*durable"):
        await client.download(export, tmp_path, timeout=60)


async def test_a_refusal_of_the_api_is_told_and_no_link_followed(
    make_fake: MakeFake, make_client: MakeClient, tmp_path: Path
) -> None:
    fake: FakeSendGrid = await make_fake()
    export_id = await fake.add_export(contacts=10)
    export = await make_client(fake).get(export_id)
    fake.respond(401, times=None)
    with pytest.raises(SendGridExportsError, match="401"):
        await make_client(fake).download(export, tmp_path)
    assert not fake.storage_requests


async def test_an_answer_about_another_export_is_not_taken_for_this_one(
    make_fake: MakeFake, make_client: MakeClient, tmp_path: Path
) -> None:
    fake: FakeSendGrid = await make_fake()
    export_id, other = await fake.add_export(contacts=10), await fake.add_export(contacts=3)
    client = make_client(fake)
    links = (await client.get(other)).urls
    fake.respond(200, body=status_body(other, "ready", links), on="status")
    with pytest.raises(InvalidResponseError, match="another export") as caught:
        await client.get(export_id)
    assert caught.value.problems == ("another id than the one asked for @ $.id",)
    fake.respond(200, body=status_body(other, "ready", links), on="status")
    result = await client.fetch(export_id, tmp_path)
    assert result.contact_count == 10


async def test_no_event_and_no_error_carries_a_link_that_opens_anything(
    make_fake: MakeFake, make_client: MakeClient, tmp_path: Path, events: list[Event]
) -> None:
    fake: FakeSendGrid = await make_fake()
    export_id = await fake.add_export(contacts=10)
    fake.inject(ExpiredLink(), times=None)
    with pytest.raises(SendGridExportsError) as caught:
        await make_client(fake).fetch(export_id, tmp_path, on_event=events.append)
    signatures = {request.query.rpartition("=")[2] for request in fake.storage_requests}
    assert len(signatures) > 1
    told = pickle.dumps([*events, caught.value])
    assert not any(signature.encode() in told for signature in signatures)
    [seen, *_] = [event.export for event in events if isinstance(event, StatusPolled)]
    assert seen.urls == tuple(url.partition("?")[0] for url in seen.urls) != ()


@pytest.mark.parametrize("offset", [-3600, 0, 3600])
async def test_a_link_is_renewed_before_it_expires_by_the_clock_of_the_server(
    make_fake: MakeFake,
    make_client: MakeClient,
    clock: FakeClock,
    tmp_path: Path,
    events: list[Event],
    offset: int,
) -> None:
    fake: FakeSendGrid = await make_fake(link_lifetime=300)
    fake.inject(Status(503, retry_after=200))
    fake.inject(Status(503, retry_after=80))
    export_id = await fake.add_export(contacts=10)
    client = make_client(fake, clock=clock.offset(offset))
    result = await client.fetch(export_id, tmp_path, on_event=events.append)
    assert result.contact_count == 10
    # After 200 s the link has 100 s to live, and after 280 s less than a tenth of its life.
    assert [request.status for request in fake.storage_requests] == [503, 503, 206]
    links = [request.query for request in fake.storage_requests]
    assert links[0] == links[1] != links[2]
    assert len([event for event in events if isinstance(event, LinkRenewed)]) == 1


async def test_what_sendgrid_said_is_the_same_the_second_time(
    make_fake: MakeFake, make_client: MakeClient, tmp_path: Path
) -> None:
    fake: FakeSendGrid = await make_fake()
    export_id = await fake.add_export(contacts=10)
    [link] = (await make_client(fake).get(export_id)).urls
    body = {**status_body(export_id, "ready", (link,)), "message": "done, after a while"}
    fake.respond(200, body=body, times=None, on="status")
    first = await make_client(fake).fetch(export_id, tmp_path)
    again = await make_client(fake).fetch(export_id, tmp_path)
    assert first.export.message == again.export.message == "done, after a while"


async def test_a_renewal_is_for_the_files_too_that_have_not_begun(
    make_fake: MakeFake, make_client: MakeClient, tmp_path: Path
) -> None:
    fake: FakeSendGrid = await make_fake()
    export_id = await fake.add_export(files=6, contacts=60)
    client = make_client(fake, downloads=DownloadPolicy(connections=1))
    export = await client.get(export_id)
    fake.expire_links()
    await client.download(export, tmp_path)
    # The one that brought the links, and one for all that died.
    assert len(fake.api_requests) == 2
