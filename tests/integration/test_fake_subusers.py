"""The fake's subusers: the list of them, their exports kept apart, limits, regions and scopes."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import aiohttp
import pytest

from sendgrid_exports import (
    AuthenticationError,
    ExportFailedError,
    ExportNotFoundError,
    ExportStatus,
    ExportTimeoutError,
    PermissionDeniedError,
    RateLimitedError,
)
from sendgrid_exports.testing import FakeClock, FakeSendGrid, FakeSubuser
from tests.integration.conftest import MakeClient, MakeFake


async def ask(
    fake: FakeSendGrid, path: str, *, key: str | None = None, **headers: str
) -> tuple[int, Any, dict[str, str]]:
    sent = {"Authorization": f"Bearer {key or fake.api_key}"}
    sent |= {name.replace("_", "-"): value for name, value in headers.items()}
    async with (
        aiohttp.ClientSession() as session,
        session.get(fake.base_url + path, headers=sent) as response,
    ):
        limits = {
            name.removeprefix("X-RateLimit-"): value
            for name, value in response.headers.items()
            if name.startswith("X-RateLimit-")
        }
        return response.status, json.loads(await response.read()), limits


async def names(fake: FakeSendGrid, query: str) -> list[str]:
    status, subusers, _ = await ask(fake, f"/v3/subusers{query}")
    assert status == 200
    return [subuser["username"] for subuser in subusers]


async def test_subusers_are_listed_in_pages_without_metadata(make_fake: MakeFake) -> None:
    fake = await make_fake(subusers=[FakeSubuser(f"agency-{n}") for n in range(5)])
    assert await names(fake, "?limit=2") == ["agency-0", "agency-1"]
    assert await names(fake, "?limit=2&offset=4") == ["agency-4"]
    assert await names(fake, "?limit=2&offset=5") == []
    assert len(await names(fake, "")) == 5
    assert await names(fake, "?username=agency-3") == ["agency-3"]


async def test_a_page_of_subusers_is_never_larger_than_500(make_fake: MakeFake) -> None:
    fake = await make_fake(subusers=[FakeSubuser(f"agency-{n}") for n in range(501)])
    assert len(await names(fake, "?limit=1000")) == 500
    assert await names(fake, "?limit=1000&offset=500") == ["agency-500"]


async def test_a_subuser_has_the_documented_fields(make_fake: MakeFake) -> None:
    fake = await make_fake(
        subusers=[FakeSubuser("a", disabled=True), FakeSubuser("b", region="eu")]
    )
    a = {"disabled": True, "id": 1000, "username": "a", "email": "subuser.0@example.com"}
    b = {"disabled": False, "id": 1001, "username": "b", "email": "subuser.1@example.com"}
    _, without, _ = await ask(fake, "/v3/subusers")
    assert without == [a, b]
    _, included, _ = await ask(fake, "/v3/subusers?include_region=true")
    assert included == [a | {"region": "global"}, b | {"region": "eu"}]
    assert await names(fake, "?region=eu") == ["b"]
    assert await names(fake, "?region=all") == ["a", "b"]


@pytest.mark.parametrize("query", ["limit=0", "limit=x", "offset=-1"])
async def test_a_senseless_page_of_subusers_is_refused(make_fake: MakeFake, query: str) -> None:
    fake = await make_fake(subusers=[])
    assert (await ask(fake, f"/v3/subusers?{query}"))[0] == 400


async def test_exports_of_subusers_are_kept_apart(
    make_fake: MakeFake, make_client: MakeClient
) -> None:
    fake = await make_fake(subusers=[FakeSubuser("a", contacts=7), FakeSubuser("b", contacts=8)])
    parent = make_client(fake)
    a, b = (make_client(fake, on_behalf_of=name) for name in "ab")
    ids = [await client.start() for client in (parent, a, b)]
    added = await fake.add_export(subuser="b")
    for client, own in ((parent, [ids[0]]), (a, [ids[1]]), (b, [ids[2], added])):
        assert [listing.id for listing in await client.list_exports()] == own
    assert (await a.wait(ids[1])).contact_count == 7
    assert (await b.wait(added)).contact_count == 8
    for client, other in ((parent, ids[1]), (a, ids[0]), (b, ids[1])):
        with pytest.raises(ExportNotFoundError):
            await client.get(other)


async def test_an_export_may_be_added_for_a_known_subuser_alone(make_fake: MakeFake) -> None:
    fake = await make_fake(subusers=[FakeSubuser("a")])
    with pytest.raises(KeyError):
        await fake.add_export(subuser="unknown")


async def test_usernames_are_unique() -> None:
    with pytest.raises(ValueError, match="username"):
        FakeSendGrid(subusers=[FakeSubuser("a"), FakeSubuser("a")])


@pytest.mark.parametrize("name", ["unknown", "switched off"])
async def test_an_unknown_or_disabled_subuser_is_refused(
    make_fake: MakeFake, make_client: MakeClient, name: str
) -> None:
    fake = await make_fake(subusers=[FakeSubuser("switched off", disabled=True)])
    with pytest.raises(PermissionDeniedError):
        await make_client(fake, on_behalf_of=name).list_exports()


async def test_without_subusers_the_header_changes_nothing(
    make_fake: MakeFake, make_client: MakeClient
) -> None:
    fake = await make_fake()
    export_id = await make_client(fake, on_behalf_of="any").start()
    assert (await make_client(fake).get(export_id)).id == export_id


async def test_a_subuser_may_have_a_key_of_its_own(make_fake: MakeFake) -> None:
    fake = await make_fake(subusers=[FakeSubuser("a", api_key="SG.a.key"), FakeSubuser("b")])
    await fake.add_export(subuser="a", export_id="of a")
    _, listing, _ = await ask(fake, "/v3/marketing/contacts/exports", key="SG.a.key")
    assert [item["id"] for item in listing["result"]] == ["of a"]
    path = "/v3/marketing/contacts/exports"
    assert (await ask(fake, path, key="SG.a.key", on_behalf_of="b"))[0] == 403
    assert (await ask(fake, "/v3/subusers", key="SG.a.key"))[1] == []


async def test_an_eu_subuser_is_served_at_its_own_host_alone(
    make_fake: MakeFake, make_client: MakeClient
) -> None:
    fake = await make_fake(
        statuses=["ready"],
        list_page_size=1,
        subusers=[FakeSubuser("eu", region="eu"), FakeSubuser("global")],
    )
    right = make_client(fake, base_url=fake.eu_base_url, on_behalf_of="eu")
    ids = [await right.start() for _ in range(2)]
    assert [listing.id for listing in await right.list_exports()] == ids
    for wrong in (
        make_client(fake, on_behalf_of="eu"),
        make_client(fake, base_url=fake.eu_base_url, on_behalf_of="global"),
        make_client(fake, base_url=fake.eu_base_url),
    ):
        with pytest.raises(AuthenticationError):
            await wrong.list_exports()


async def test_exports_of_a_subuser_may_fail_or_never_be_ready(
    make_fake: MakeFake, make_client: MakeClient
) -> None:
    fake = await make_fake(
        subusers=[
            FakeSubuser("failing", statuses=["pending", "failure"], message="no contacts"),
            FakeSubuser("endless", statuses=["pending"]),
        ]
    )
    failing, endless = (make_client(fake, on_behalf_of=name) for name in ("failing", "endless"))
    with pytest.raises(ExportFailedError, match="no contacts"):
        await failing.wait(await failing.start())
    with pytest.raises(ExportTimeoutError):
        await endless.wait(await endless.start(), timeout=3600)


async def test_an_export_may_become_ready_by_time_in_the_list_too(
    make_fake: MakeFake, make_client: MakeClient, clock: FakeClock
) -> None:
    fake = await make_fake(ready_after=90)
    client = make_client(fake)
    export_id = await client.start()
    clock.advance(89)
    for _ in range(3):
        assert (await client.get(export_id)).status is ExportStatus.PENDING
    [listing] = await client.list_exports()
    assert listing.status is ExportStatus.PENDING
    clock.advance(2)
    [listing] = await client.list_exports()
    assert (listing.status, len(listing.urls)) == (ExportStatus.READY, 1)
    export = await client.get(export_id)
    assert export.created_at is not None
    assert export.completed_at is not None
    assert (export.completed_at - export.created_at).total_seconds() == 90


async def test_a_key_has_a_number_of_requests_each_minute(
    make_fake: MakeFake, clock: FakeClock
) -> None:
    fake = await make_fake(rate_limit=2, subusers=[FakeSubuser("a", api_key="SG.a.key")])
    clock.advance(15)
    minute = int(clock.utc().timestamp()) // 60 * 60 + 60
    told = []
    for _ in range(3):
        status, answer, limits = await ask(fake, "/v3/scopes")
        told.append((status, limits))
    assert told == [
        (200, {"Limit": "2", "Remaining": "1", "Reset": str(minute)}),
        (200, {"Limit": "2", "Remaining": "0", "Reset": str(minute)}),
        (429, {"Limit": "2", "Remaining": "0", "Reset": str(minute)}),
    ]
    assert answer == {"errors": [{"message": "too many requests", "field": None}]}
    assert (await ask(fake, "/v3/scopes", on_behalf_of="a"))[0] == 429
    assert (await ask(fake, "/v3/scopes", key="SG.a.key"))[0] == 200
    clock.advance(45)
    assert (await ask(fake, "/v3/scopes"))[0] == 200


async def test_a_subuser_has_a_limit_besides_that_of_the_key(
    make_fake: MakeFake, make_client: MakeClient
) -> None:
    fake = await make_fake(
        rate_limit=10, subuser_rate_limit=2, subusers=[FakeSubuser("a"), FakeSubuser("b")]
    )
    told = [(await ask(fake, "/v3/scopes", on_behalf_of="a"))[2]["Remaining"] for _ in range(3)]
    assert told == ["1", "0", "0"]
    assert (await ask(fake, "/v3/scopes", on_behalf_of="b"))[2]["Remaining"] == "1"
    assert (await ask(fake, "/v3/scopes"))[2] == {
        "Limit": "10",
        "Remaining": "6",
        "Reset": str(int(fake.clock.utc().timestamp()) // 60 * 60 + 60),
    }
    with pytest.raises(RateLimitedError) as caught:
        await make_client(fake, on_behalf_of="a").list_exports()
    assert caught.value.retry_after == 60


async def test_a_key_has_scopes_and_is_refused_without_the_right_one(
    make_fake: MakeFake, make_client: MakeClient
) -> None:
    fake = await make_fake(scopes=["mail.send"])
    assert (await ask(fake, "/v3/scopes"))[:2] == (200, {"scopes": ["mail.send"]})
    assert (await ask(fake, "/v3/subusers"))[0] == 403
    with pytest.raises(PermissionDeniedError):
        await make_client(fake).start()
    fake.respond(401, on="scopes")
    assert [(await ask(fake, "/v3/scopes"))[0] for _ in range(2)] == [401, 200]


async def test_a_thousand_subusers_share_their_files(
    make_fake: MakeFake, make_client: MakeClient
) -> None:
    fake = await make_fake(
        statuses=["ready"], subusers=[FakeSubuser(f"{n}", contacts=2000) for n in range(1000)]
    )
    async with aiohttp.ClientSession() as session:
        clients = [make_client(fake, session=session, on_behalf_of=f"{n}") for n in range(1000)]
        ids = await asyncio.gather(*(client.start() for client in clients))
    assert len(set(ids)) == 1000
    assert len({fake.links(export_id)[0].partition("?")[0] for export_id in ids}) == 1000
    assert len({fake.file_path(export_id, 1) for export_id in ids}) == 1
    assert len(list(fake.directory.iterdir())) == 1
