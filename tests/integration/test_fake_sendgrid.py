"""The fake API over real sockets: SendGrid's three calls, in SendGrid's words."""

from __future__ import annotations

import asyncio
import csv
import gzip
import hashlib
import inspect
import io
import json
import math
import threading
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
import pytest
from yarl import URL

from sendgrid_exports import ExportClient, fetch_export
from sendgrid_exports.testing import (
    FakeClock,
    FakeSendGrid,
    RecordedRequest,
    Status,
    make_contacts,
)

pytestmark = pytest.mark.fake_sendgrid(contacts=20)

EXPORTS = "/v3/marketing/contacts/exports"


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(auto_decompress=False) as session:
        yield session


async def call(
    session: aiohttp.ClientSession,
    fake: FakeSendGrid,
    path: str = "",
    *,
    method: str = "GET",
    body: Any = None,
    key: str | None = None,
) -> tuple[int, Any]:
    headers = {"Authorization": f"Bearer {key or fake.api_key}"}
    url = URL(fake.base_url + EXPORTS + path, encoded=True)
    data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    async with session.request(method, url, headers=headers, data=data) as response:
        text = await response.text()
        is_json = response.content_type == "application/json"
        return response.status, json.loads(text) if is_json else text


async def start(session: aiohttp.ClientSession, fake: FakeSendGrid, body: Any = None) -> str:
    status, answer = await call(session, fake, method="POST", body=body)
    assert status == 202
    return str(answer["id"])


async def body_at(session: aiohttp.ClientSession, url: str) -> bytes:
    async with session.get(URL(url, encoded=True)) as response:
        assert response.status == 200
        return await response.read()


async def test_an_export_can_be_started_polled_and_downloaded(
    fake: FakeSendGrid, session: aiohttp.ClientSession, clock: FakeClock
) -> None:
    export_id = await start(session, fake)
    clock.advance(1)
    status, pending = await call(session, fake, f"/{export_id}")
    assert status == 200
    assert pending["status"] == "pending"
    assert not {"urls", "completed_at", "contact_count", "message"} & pending.keys()
    clock.advance(1.5)
    status, ready = await call(session, fake, f"/{export_id}")
    assert status == 200
    assert {key: value for key, value in ready.items() if key != "urls"} == {
        "id": export_id,
        "status": "ready",
        "created_at": "2026-03-02T09:30:00Z",
        "updated_at": "2026-03-02T09:30:02.500000Z",
        "completed_at": "2026-03-02T09:30:02.500000Z",
        "expires_at": "2026-03-02T21:30:00Z",
        "contact_count": 20,
        "_metadata": {"self": f"{fake.base_url}{EXPORTS}/{export_id}", "count": 1},
    }
    (url,) = ready["urls"]
    assert url.startswith(fake.storage_url + "/")
    assert ".csv.gzip?X-Amz-Algorithm=" in url
    raw = await body_at(session, url)
    assert (raw,) == await fake.file_bytes(export_id)
    text = io.StringIO(gzip.decompress(raw).decode(), newline="")
    assert list(csv.DictReader(text)) == list(fake.rows_of(export_id))
    _, again = await call(session, fake, f"/{export_id}")
    assert again["status"] == "ready"
    assert again["updated_at"] == ready["updated_at"]
    assert again["urls"] != ready["urls"]
    assert again["urls"][0].partition("?")[0] == url.partition("?")[0]


async def test_a_json_export_is_shaped_as_asked_for(
    fake: FakeSendGrid, session: aiohttp.ClientSession
) -> None:
    asked = {
        "list_ids": ["11111111-aaaa"],
        "segment_ids": [],
        "notifications": {"email": False},
        "file_type": "json",
        "max_file_size": 500,
    }
    export_id = await start(session, fake, asked)
    (raw,) = await fake.file_bytes(export_id)
    lines = [json.loads(line) for line in gzip.decompress(raw).splitlines()]
    assert lines == list(fake.contacts_of(export_id)) == list(make_contacts(20))
    await call(session, fake, f"/{export_id}")
    _, ready = await call(session, fake, f"/{export_id}")
    assert ".json.gzip?" in ready["urls"][0]
    _, listing = await call(session, fake)
    assert listing["result"][0]["export_type"] == "list_export"
    assert listing["result"][0]["lists"] == [{"ID": "11111111-aaaa", "Name": "List 11111111"}]
    assert json.loads(fake.requests[0].body) == asked


async def test_max_file_size_splits_the_files(session: aiohttp.ClientSession) -> None:
    async with FakeSendGrid(contacts=6000, statuses=["ready"]) as fake:
        export_id = await start(session, fake, {"max_file_size": 1})
        files = await fake.file_bytes(export_id)
        assert len(files) == 2
        assert all(len(gzip.decompress(file)) <= 1_000_000 for file in files)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"file_type": "xml"}, "file_type"),
        ({"list_ids": "abc"}, "list_ids"),
        ({"segment_ids": [1]}, "segment_ids"),
        ({"notifications": True}, "notifications"),
        ({"notifications": {"email": "yes"}}, "notifications"),
        ({"max_file_size": 0}, "max_file_size"),
        ({"max_file_size": True}, "max_file_size"),
        ({"max_file_size": "500"}, "max_file_size"),
    ],
)
async def test_a_wrong_field_is_refused_by_its_name(
    fake: FakeSendGrid, session: aiohttp.ClientSession, body: Any, field: str
) -> None:
    status, answer = await call(session, fake, method="POST", body=body)
    assert status == 400
    assert [error["field"] for error in answer["errors"]] == [field]


@pytest.mark.parametrize("body", [b"{", b"[]", b'"csv"'])
async def test_a_body_that_is_not_an_object_is_refused(
    fake: FakeSendGrid, session: aiohttp.ClientSession, body: bytes
) -> None:
    status, answer = await call(session, fake, method="POST", body=body)
    assert status == 400
    assert answer["errors"][0].keys() == {"message"}


async def test_requests_without_the_key_are_refused(
    fake: FakeSendGrid, session: aiohttp.ClientSession
) -> None:
    status, answer = await call(session, fake, key="SG.another")
    assert status == 401
    assert answer == {
        "errors": [
            {
                "message": "The provided authorization grant is invalid, expired, or revoked",
                "field": None,
                "help": None,
            }
        ]
    }
    for headers in ({}, {"Authorization": fake.api_key}, {"Authorization": "Bearer"}):
        async with session.get(fake.base_url + EXPORTS, headers=headers) as response:
            assert response.status == 401


async def test_unknown_exports_and_paths_are_404_and_other_methods_405(
    fake: FakeSendGrid, session: aiohttp.ClientSession
) -> None:
    missing = {"errors": [{"message": "resource not found", "field": None}]}
    assert await call(session, fake, "/nobody") == (404, missing)
    assert await call(session, fake, "-of-another-kind") == (404, missing)
    assert (await call(session, fake, "/a/b"))[0] == 404
    assert (await call(session, fake, method="DELETE"))[0] == 405
    assert (await call(session, fake, "/nobody", method="POST"))[0] == 405


@pytest.mark.parametrize("export_id", ["a/b c", "..", "Ünï?#&%25", "x" * 500])
async def test_an_export_id_may_be_any_text(
    fake: FakeSendGrid, session: aiohttp.ClientSession, export_id: str
) -> None:
    assert await fake.add_export(export_id=export_id) == export_id
    path = "/" + quote(export_id, safe="").replace(".", "%2E")
    status, answer = await call(session, fake, path)
    assert (status, answer["id"]) == (200, export_id)
    assert fake.requests[-1].path == EXPORTS + path


async def test_statuses_are_seen_one_by_one(
    fake: FakeSendGrid, session: aiohttp.ClientSession
) -> None:
    script = ("pending", "thinking", "pending", "ready")
    export_id = await fake.add_export(statuses=script)
    answers = [(await call(session, fake, f"/{export_id}"))[1] for _ in range(5)]
    assert [answer["status"] for answer in answers] == [*script, "ready"]
    assert [answer.get("urls", "absent") for answer in answers[:3]] == ["absent", [], "absent"]
    assert all("completed_at" not in answer for answer in answers[:3])


async def test_a_failure_carries_its_message(session: aiohttp.ClientSession) -> None:
    async with FakeSendGrid(message="too many contacts", statuses=("failure",)) as fake:
        export_id = await start(session, fake)
        _, answer = await call(session, fake, f"/{export_id}")
        assert (answer["status"], answer["message"]) == ("failure", "too many contacts")
        assert not answer.get("urls")


async def test_a_failure_may_have_no_message(
    fake: FakeSendGrid, session: aiohttp.ClientSession
) -> None:
    export_id = await fake.add_export(statuses=("failure",))
    assert "message" not in (await call(session, fake, f"/{export_id}"))[1]


@pytest.mark.parametrize(
    ("given", "seen"), [({}, 20), ({"contact_count": 7}, 7), ({"contact_count": None}, "absent")]
)
async def test_the_count_may_differ(
    fake: FakeSendGrid, session: aiohttp.ClientSession, given: dict[str, Any], seen: Any
) -> None:
    export_id = await fake.add_export(**given)
    answer = (await call(session, fake, f"/{export_id}"))[1]
    assert answer.get("contact_count", "absent") == seen


async def test_an_export_may_have_no_files(
    fake: FakeSendGrid, session: aiohttp.ClientSession
) -> None:
    export_id = await fake.add_export(contacts=0, files=0)
    answer = (await call(session, fake, f"/{export_id}"))[1]
    assert (answer["status"], answer["urls"], answer["contact_count"]) == ("ready", [], 0)


async def test_bodies_and_names_are_served_as_given(
    fake: FakeSendGrid, session: aiohttp.ClientSession
) -> None:
    names = ["n" * 300 + ".csv.gzip", "../../Zoë & co.csv"]
    bodies = [gzip.compress(b"a,b\n"), b""]
    export_id = await fake.add_export(bodies=bodies, names=names)
    answer = (await call(session, fake, f"/{export_id}"))[1]
    assert "contact_count" not in answer
    paths = [url.partition("?")[0] for url in answer["urls"]]
    assert paths[0].endswith("/" + names[0])
    assert paths[1].endswith("/../../" + quote("Zoë & co.csv"))
    assert [await body_at(session, url) for url in answer["urls"]] == bodies
    assert list(fake.contacts_of(export_id)) == []


async def test_ids_and_names_are_unique(fake: FakeSendGrid) -> None:
    await fake.add_export(export_id="once", names=["x.csv"])
    with pytest.raises(ValueError, match="already"):
        await fake.add_export(export_id="once")
    with pytest.raises(ValueError, match="already"):
        await fake.add_export(names=["x.csv"])
    with pytest.raises(ValueError, match="already"):
        await fake.add_export(files=2, names=["y.csv", "y.csv"])
    with pytest.raises(ValueError, match="2 files, but 1 names"):
        await fake.add_export(files=2, names=["z.csv"])


async def test_contacts_may_begin_elsewhere(fake: FakeSendGrid) -> None:
    export_id = await fake.add_export(contacts=3, start=100)
    assert list(fake.contacts_of(export_id)) == list(make_contacts(3, start=100))


async def test_the_list_has_the_documented_fields(
    fake: FakeSendGrid, session: aiohttp.ClientSession, clock: FakeClock
) -> None:
    first = await start(session, fake, {"segment_ids": ["seg"]})
    clock.advance(60)
    second = await fake.add_export()
    status, listing = await call(session, fake)
    assert status == 200
    assert listing["_metadata"] == {"self": fake.base_url + EXPORTS, "count": 2}
    older, newer = listing["result"]
    assert older == {
        "id": first,
        "status": "pending",
        "created_at": "2026-03-02T09:30:00Z",
        "expires_at": "2026-03-02T21:30:00Z",
        "user_id": "1234567",
        "export_type": "segment_export",
        "segments": [{"ID": "seg", "Name": "Segment seg"}],
        "lists": [],
    }
    assert (newer["id"], newer["status"]) == (second, "ready")
    assert newer["export_type"] == "contacts_export"
    assert newer["completed_at"] == "2026-03-02T09:31:00Z"
    assert await body_at(session, newer["urls"][0])
    assert not {"updated_at", "message", "contact_count"} & newer.keys()


async def test_the_list_comes_in_pages(session: aiohttp.ClientSession) -> None:
    async with FakeSendGrid(list_page_size=2, contacts=1) as fake:
        ids = [await fake.add_export() for _ in range(5)]
        seen, pages, path = [], 0, ""
        while True:
            _, listing = await call(session, fake, path)
            seen += [item["id"] for item in listing["result"]]
            pages += 1
            assert listing["_metadata"]["count"] == 5
            assert ("prev" in listing["_metadata"]) == (pages > 1)
            if (following := listing["_metadata"].get("next")) is None:
                break
            assert following.startswith(fake.base_url + EXPORTS)
            path = following.removeprefix(fake.base_url + EXPORTS)
        assert seen == ids
        assert pages == 3


@pytest.mark.parametrize("after_expiry", ["not_found", "no_urls", "dead_urls"])
async def test_after_expires_at_it_answers_as_asked_for(
    session: aiohttp.ClientSession, after_expiry: Any
) -> None:
    clock = FakeClock()
    async with FakeSendGrid(
        clock=clock, after_expiry=after_expiry, file_lifetime=3600, contacts=1
    ) as fake:
        export_id = await fake.add_export()
        clock.advance(3599)
        alive = (await call(session, fake, f"/{export_id}"))[1]["urls"]
        assert await body_at(session, alive[0])
        clock.advance(1)
        status, answer = await call(session, fake, f"/{export_id}")
        listed = (await call(session, fake))[1]["result"]
        if after_expiry == "not_found":
            assert status == 404
            assert listed == []
            return
        assert (status, answer["status"]) == (200, "ready")
        assert len(answer["urls"]) == len(listed[0]["urls"]) == (after_expiry == "dead_urls")
        for url in answer["urls"]:
            async with session.get(URL(url, encoded=True)) as response:
                assert response.status == 404
                assert "<Code>NoSuchKey</Code>" in await response.text()


async def test_the_date_follows_the_clock(
    fake: FakeSendGrid, session: aiohttp.ClientSession, clock: FakeClock
) -> None:
    clock.advance(86_400)
    async with session.get(fake.base_url + EXPORTS) as response:
        assert response.headers["Date"] == "Tue, 03 Mar 2026 09:30:00 GMT"
        assert response.headers["X-Request-Id"]


async def test_without_a_clock_it_uses_the_systems(session: aiohttp.ClientSession) -> None:
    async with FakeSendGrid(contacts=1) as fake:
        await fake.add_export()
        await call(session, fake)
        assert abs(fake.requests[0].at - datetime.now(UTC)) < timedelta(minutes=1)


async def test_requests_are_recorded(
    fake: FakeSendGrid, session: aiohttp.ClientSession, clock: FakeClock
) -> None:
    headers = {"Authorization": f"Bearer {fake.api_key}", "on-behalf-of": "subuser"}
    async with session.get(f"{fake.base_url}{EXPORTS}?page_token=0", headers=headers) as got:
        size = len(await got.read())
    (request,) = fake.requests
    assert isinstance(request, RecordedRequest)
    assert (request.server, request.method) == ("api", "GET")
    assert (request.path, request.query) == (EXPORTS, "page_token=0")
    assert request.headers["On-Behalf-Of"] == "subuser"
    assert (request.status, request.sent, request.at) == (200, size, clock.utc())
    assert fake.api_requests == [request]
    assert fake.storage_requests == []


@pytest.mark.parametrize("status", [400, 401, 403, 404, 429, 500])
async def test_scripted_errors_speak_as_documented(
    fake: FakeSendGrid, session: aiohttp.ClientSession, status: int
) -> None:
    fake.respond(status)
    seen, answer = await call(session, fake)
    assert seen == status
    assert answer["errors"][0]["message"]
    assert (await call(session, fake))[0] == 200


@pytest.mark.parametrize("status", [502, 503])
async def test_scripted_proxies_answer_html(
    fake: FakeSendGrid, session: aiohttp.ClientSession, status: int
) -> None:
    fake.respond(status)
    seen, text = await call(session, fake)
    assert seen == status
    assert text.startswith("<html>")


@pytest.mark.parametrize(
    ("body", "received"),
    [
        ("null", b"null"),
        (b"", b""),
        (None, b""),
        ('{"id": ', b'{"id": '),
        ({"error": "x"}, b'{"error": "x"}'),
        ("<html>", b"<html>"),
    ],
)
async def test_scripted_bodies_are_sent_as_they_are(
    fake: FakeSendGrid, session: aiohttp.ClientSession, body: Any, received: bytes
) -> None:
    fake.respond(200, body=body)
    async with session.get(fake.base_url) as response:
        assert response.status == 200
        assert await response.read() == received


async def test_scripted_headers_replace_the_usual_ones(
    fake: FakeSendGrid, session: aiohttp.ClientSession
) -> None:
    fake.respond(429, headers={"X-RateLimit-Reset": "17", "Date": "never"})
    async with session.get(fake.base_url) as response:
        assert response.headers["X-RateLimit-Reset"] == "17"
        assert response.headers["Date"] == "never"


async def test_scripted_answers_wait_for_their_call(
    fake: FakeSendGrid, session: aiohttp.ClientSession
) -> None:
    export_id = await fake.add_export()
    fake.respond(500, on="status", times=2)
    fake.respond(429, on="status")
    fake.respond(403, on="list", times=None)
    assert (await call(session, fake, method="POST"))[0] == 202
    looks = [(await call(session, fake, f"/{export_id}"))[0] for _ in range(4)]
    assert looks == [500, 500, 429, 200]
    assert [(await call(session, fake))[0] for _ in range(3)] == [403] * 3


async def test_scripted_answers_may_let_requests_pass_first(
    fake: FakeSendGrid, session: aiohttp.ClientSession
) -> None:
    export_id = await fake.add_export()
    fake.respond(401, on="status", skip=2)
    assert (await call(session, fake))[0] == 200
    polls = [(await call(session, fake, f"/{export_id}"))[0] for _ in range(4)]
    assert polls == [200, 200, 401, 200]


async def test_a_scripted_success_may_hold_errors(
    fake: FakeSendGrid, session: aiohttp.ClientSession
) -> None:
    errors = {"errors": [{"message": "try again later"}]}
    fake.respond(200, body=errors, on="status")
    assert await call(session, fake, "/x") == (200, errors)


async def test_status_none_drops_the_connection(
    fake: FakeSendGrid, session: aiohttp.ClientSession
) -> None:
    fake.respond(None)
    with pytest.raises(aiohttp.ServerDisconnectedError):
        # A GET would be tried again by aiohttp itself.
        await call(session, fake, method="POST")
    assert fake.requests[-1].status is None
    assert (await call(session, fake))[1]["result"] == []


async def test_processed_does_the_work_and_loses_the_answer(
    fake: FakeSendGrid, session: aiohttp.ClientSession
) -> None:
    fake.respond(None, on="start", processed=True)
    with pytest.raises(aiohttp.ServerDisconnectedError):
        await call(session, fake, method="POST")
    assert len((await call(session, fake))[1]["result"]) == 1


async def test_a_delay_takes_the_clocks_time(
    fake: FakeSendGrid, session: aiohttp.ClientSession, clock: FakeClock
) -> None:
    fake.respond(503, delay=40)
    with pytest.raises(TimeoutError):
        async with clock.timeout(30):
            await call(session, fake)
    assert clock.monotonic() == 1030.0


async def test_faults_can_be_cleared(fake: FakeSendGrid, session: aiohttp.ClientSession) -> None:
    export_id = await fake.add_export()
    fake.respond(500, times=None)
    fake.inject(Status(500), times=None)
    fake.clear_faults()
    assert (await call(session, fake))[0] == 200
    await body_at(session, fake.links(export_id)[0])


async def test_links_etags_and_paths_of_files_are_returned(
    fake: FakeSendGrid, session: aiohttp.ClientSession
) -> None:
    export_id = await fake.add_export(bodies=[b"a", b"b"])
    first, second = fake.links(export_id)
    assert first.startswith(fake.storage_url + "/")
    assert (await body_at(session, first), await body_at(session, second)) == (b"a", b"b")
    assert fake.links(export_id) != (first, second)
    assert fake.etags(export_id) == tuple(
        f'"{hashlib.md5(body).hexdigest()}"' for body in (b"a", b"b")
    )
    assert fake.file_path(export_id, 2).read_bytes() == b"b"


async def test_credentials_make_a_client(fake: FakeSendGrid, tmp_path: Path) -> None:
    export_id = await fake.add_export()
    async with ExportClient(**fake.credentials) as client:
        assert (await client.get(export_id)).id == export_id
    result = await fetch_export(export_id, tmp_path, **fake.credentials)
    assert result.contact_count == 20


async def test_the_exit_ends_requests_under_way(session: aiohttp.ClientSession) -> None:
    before = set(asyncio.all_tasks())
    async with FakeSendGrid(contacts=1) as fake:
        directory = fake.directory
        assert await asyncio.to_thread(directory.is_dir)
        fake.respond(200, delay=math.inf)
        hanging = asyncio.create_task(call(session, fake, method="POST"))
        while not fake.requests:
            await asyncio.sleep(0.001)
        began = time.perf_counter()
    assert time.perf_counter() - began < 0.5
    with pytest.raises(aiohttp.ClientError):
        await hanging
    assert not await asyncio.to_thread(directory.exists)
    assert set(asyncio.all_tasks()) == before


async def test_the_exit_does_not_wait_for_files_being_written() -> None:
    async with FakeSendGrid() as fake:
        adding = asyncio.create_task(fake.add_export(contacts=10_000_000))
        await asyncio.sleep(0.02)
        began = time.perf_counter()
    assert time.perf_counter() - began < 0.5
    with pytest.raises(RuntimeError, match="closed"):
        await adding


async def test_unknown_ids_raise_key_error(fake: FakeSendGrid) -> None:
    with pytest.raises(KeyError):
        await fake.file_bytes("nobody")
    with pytest.raises(KeyError):
        fake.contacts_of("nobody")


async def test_the_exit_leaves_no_thread_behind() -> None:
    async with FakeSendGrid(contacts=1) as fake:
        await fake.add_export()
    for _ in range(1000):
        if not any("fake-sendgrid" in thread.name for thread in threading.enumerate()):
            break
        await asyncio.sleep(0.001)
    else:
        pytest.fail("a thread of the spool lives on")


def test_the_example_in_the_docstring_runs(capsys: pytest.CaptureFixture[str]) -> None:
    documentation = inspect.getdoc(FakeSendGrid) or ""
    example = documentation.partition("::\n\n")[2].partition("\n\nArgs:")[0]
    exec(inspect.cleandoc(example), {"__name__": "example"})
    assert "'contact_count': 10" in capsys.readouterr().out
