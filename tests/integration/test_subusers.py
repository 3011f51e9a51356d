"""Clients of subusers and of other keys: what they share, and what they do not."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from sendgrid_exports import (
    Event,
    ExportClient,
    PermissionDeniedError,
    RateLimitedError,
    Subuser,
)
from sendgrid_exports.testing import FakeClock, FakeSendGrid, FakeSubuser
from tests.integration.conftest import MakeClient, MakeFake


def times(fake: FakeSendGrid, status: int) -> int:
    return sum(request.status == status for request in fake.api_requests)


async def test_every_subuser_is_listed_once_over_all_pages(
    make_fake: MakeFake, make_client: MakeClient
) -> None:
    fake = await make_fake(
        subusers=[
            FakeSubuser(f"agency-{n}", disabled=n == 3, region="eu" if n == 4 else "global")
            for n in range(1100)
        ]
    )
    found = [subuser async for subuser in make_client(fake).subusers()]
    assert [subuser.username for subuser in found] == [f"agency-{n}" for n in range(1100)]
    assert [subuser.username for subuser in found if subuser.disabled] == ["agency-3"]
    assert [subuser.username for subuser in found if subuser.region == "eu"] == ["agency-4"]
    assert len(fake.api_requests) == 3


async def test_a_page_that_is_shorter_than_asked_for_need_not_be_the_last(
    make_fake: MakeFake, make_client: MakeClient
) -> None:
    fake = await make_fake(subusers=[FakeSubuser(f"agency-{n}") for n in range(500)])
    assert len([subuser async for subuser in make_client(fake).subusers()]) == 500
    assert len(fake.api_requests) == 2


async def test_a_server_that_ignores_the_offset_ends_the_list(
    make_fake: MakeFake, make_client: MakeClient
) -> None:
    fake = await make_fake()
    body = '[{"username": "a", "disabled": false, "id": 1, "email": "a@example.com"}]'
    fake.respond(200, body=body, times=None)
    assert [subuser.username async for subuser in make_client(fake).subusers()] == ["a"]


async def test_a_page_of_subusers_that_fails_in_a_transient_way_is_asked_for_again(
    make_fake: MakeFake, make_client: MakeClient, clock: FakeClock
) -> None:
    fake = await make_fake(subusers=[FakeSubuser("a")])
    fake.respond(503)
    assert [subuser.username async for subuser in make_client(fake).subusers()] == ["a"]
    assert clock.sleeps == [1.0]
    fake.respond(503, times=None)
    with pytest.raises(Exception, match="503"):
        [subuser async for subuser in make_client(fake).subusers()]


async def test_a_client_of_a_subuser_acts_for_it_and_names_it_in_its_events(
    make_fake: MakeFake, make_client: MakeClient, tmp_path: Path, events: list[Event]
) -> None:
    fake = await make_fake(subusers=[FakeSubuser("a", contacts=7), FakeSubuser("b", contacts=8)])
    parent = make_client(fake)
    client = parent.for_subuser("b")
    assert (parent.account, client.account) == (None, "b")
    export_id = await client.start()
    result = await client.fetch(export_id, tmp_path, on_event=events.append)
    assert result.contact_count == 8
    assert {event.account for event in events} == {"b"}
    assert all(str(event).startswith("b: ") for event in events)


async def test_a_client_of_a_key_acts_for_the_account_of_that_key(
    make_fake: MakeFake, make_client: MakeClient, tmp_path: Path
) -> None:
    fake = await make_fake(subusers=[FakeSubuser("a", contacts=7, api_key="SG.a.key")])
    client = make_client(fake, on_behalf_of="other").for_key("SG.a.key", account="the first")
    result = await client.fetch(await client.start(), tmp_path)
    assert (result.contact_count, client.account) == (7, "the first")
    assert "on-behalf-of" not in fake.api_requests[-1].headers


async def test_a_subuser_in_the_eu_is_reached_at_its_host(
    make_fake: MakeFake, make_client: MakeClient, tmp_path: Path
) -> None:
    fake = await make_fake(
        subusers=[FakeSubuser("in eu", region="eu", api_key="SG.eu.key"), FakeSubuser("other")]
    )
    parent = make_client(fake, eu_base_url=fake.eu_base_url)
    found = [subuser async for subuser in parent.subusers()]
    clients = [
        *(parent.for_subuser(subuser) for subuser in found),
        parent.for_subuser("in eu", region="eu"),
        parent.for_key("SG.eu.key", region="eu"),
        parent.for_subuser(found[0]).for_subuser("other", region="global"),
    ]
    for client in clients:
        assert (await client.fetch(await client.start(), tmp_path)).contact_count == 1000


def test_a_key_for_another_host_is_not_sent_to_sendgrids() -> None:
    subuser = Subuser(username="a", region="eu")
    with pytest.raises(ValueError, match="eu_base_url"):
        ExportClient("key", base_url="http://127.0.0.1:1").for_subuser(subuser)
    assert "api.eu.sendgrid.com" in repr(ExportClient("key").for_subuser(subuser))
    assert "//api.sendgrid.com" in repr(ExportClient("key").for_subuser("a"))
    eu = ExportClient("key", base_url="https://api.eu.sendgrid.com")
    assert "//api.sendgrid.com" in repr(eu.for_key("other", region="global"))


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda client: client.for_subuser(7), TypeError),
        (lambda client: client.for_subuser(""), ValueError),
        (lambda client: client.for_subuser("a\r\nx: y"), ValueError),
        (lambda client: client.for_subuser("a", region="mars"), ValueError),
        (lambda client: client.for_key(""), ValueError),
        (lambda client: client.for_key("key", account=""), ValueError),
    ],
)
def test_a_senseless_account_is_refused(make: object, error: type[Exception]) -> None:
    assert callable(make)
    with pytest.raises(error):
        make(ExportClient("key"))


async def test_an_account_of_a_partner_is_named_by_its_id(
    make_fake: MakeFake, make_client: MakeClient
) -> None:
    fake = await make_fake()
    await make_client(fake).for_subuser("account-id 12345").list_exports()
    assert fake.api_requests[-1].headers["on-behalf-of"] == "account-id 12345"


async def test_a_refusal_on_behalf_of_an_account_names_it(
    make_fake: MakeFake, make_client: MakeClient
) -> None:
    fake = await make_fake(subusers=[FakeSubuser("a", disabled=True)])
    with pytest.raises(PermissionDeniedError, match="on behalf of a, which may be disabled"):
        await make_client(fake).for_subuser("a").list_exports()


async def test_only_the_first_client_closes_what_all_share(
    make_fake: MakeFake, make_client: MakeClient
) -> None:
    fake = await make_fake()
    client = make_client(fake)
    async with client.for_subuser("a") as other:
        await other.list_exports()
    await client.list_exports()
    await client.close()
    with pytest.raises(RuntimeError, match="closed"):
        await other.list_exports()


async def test_all_clients_of_a_key_share_one_pace(
    make_fake: MakeFake, make_client: MakeClient, clock: FakeClock
) -> None:
    fake = await make_fake(rate_limit=100, subusers=[FakeSubuser(f"{n}") for n in range(40)])
    parent = make_client(fake)
    clients = [parent.for_subuser(f"{n}") for n in range(40)]
    await asyncio.gather(*(client.list_exports() for client in clients for _ in range(10)))
    assert (times(fake, 200), times(fake, 429)) == (400, 0)
    # Four periods, of which the first is not used up and some pass while answers are under way.
    assert 180 <= clock.monotonic() - 1000 <= 600


async def test_the_limit_of_a_subuser_does_not_slow_the_others(
    make_fake: MakeFake, make_client: MakeClient, clock: FakeClock
) -> None:
    fake = await make_fake(
        rate_limit=1000, subuser_rate_limit=20, subusers=[FakeSubuser(f"{n}") for n in range(40)]
    )
    parent = make_client(fake)
    clients = [parent.for_subuser(f"{n}") for n in range(40)]
    for _ in range(15):
        await asyncio.gather(*(client.list_exports() for client in clients))
    assert (times(fake, 200), times(fake, 429), clock.sleeps) == (600, 0, [])
    for _ in range(10):
        await asyncio.gather(*(client.list_exports() for client in clients))
    assert (times(fake, 200), times(fake, 429)) == (1000, 0)
    assert 30 <= clock.monotonic() - 1000 <= 120


async def test_a_wait_for_longer_than_a_period_is_left_to_the_caller(
    make_fake: MakeFake, make_client: MakeClient
) -> None:
    fake = await make_fake()
    fake.respond(429, headers={"Retry-After": "3600"}, times=2)
    client = make_client(fake)
    for _ in range(2):
        with pytest.raises(RateLimitedError):
            await client.list_exports()
    await client.list_exports()
