"""Waiting for an export over real sockets, with all the time on a fake clock."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable
from datetime import datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest

from sendgrid_exports import (
    APIError,
    AuthenticationError,
    Event,
    ExportClient,
    ExportError,
    ExportExpiredError,
    ExportFailedError,
    ExportNotFoundError,
    ExportStatus,
    ExportTimeoutError,
    InvalidRequestError,
    InvalidResponseError,
    PermissionDeniedError,
    PollPolicy,
    RateLimitedError,
    Retrying,
    SendGridExportsError,
    ServerError,
    StatusPolled,
    TransportError,
    export_contacts,
)
from sendgrid_exports.testing import FakeClock, FakeSendGrid
from tests.integration.conftest import MakeClient, serving

pytestmark = pytest.mark.fake_sendgrid(contacts=3)

HOUR = 3600.0
PENDING = {"id": "x", "status": "pending"}
READY_WITHOUT_LINKS = {"id": "x", "status": "ready", "urls": []}
STRANGE_BODIES = ["null", "", "[]", '"ready"', "{", '{"id": "x"}', '{"status": "ready"}', "<html>"]


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0)


# Delays


async def test_every_poll_has_its_slot_whatever_it_saw(
    fake: FakeSendGrid, client: ExportClient, clock: FakeClock
) -> None:
    export_id = await fake.add_export(export_id="x", statuses=["pending", "ready"])
    fake.respond(200, body=PENDING)
    fake.respond(429)
    fake.respond(503)
    events: list[Event] = []
    export = await client.wait(export_id, on_event=events.append)
    assert export.status is ExportStatus.READY
    assert clock.sleeps == [1.0, 1.5, 2.25, 3.375]
    first, limited, trouble, second, last = events
    assert isinstance(first, StatusPolled)
    assert (first.export.status, first.next_poll) == (ExportStatus.PENDING, 1.0)
    assert isinstance(limited, Retrying)
    assert (limited.export_id, limited.path, limited.delay) == (export_id, None, 1.5)
    assert "429" in limited.reason
    assert isinstance(trouble, Retrying)
    assert trouble.delay == 2.25
    assert "503" in trouble.reason
    assert isinstance(second, StatusPolled)
    assert second.next_poll == 3.375
    assert last == StatusPolled(export_id=export_id, export=export, next_poll=None)


async def test_delays_grow_to_the_maximum_and_no_further(
    fake: FakeSendGrid, make_client: MakeClient, clock: FakeClock
) -> None:
    export_id = await fake.add_export(export_id="x", statuses=["pending"] * 5 + ["ready"])
    async with make_client(fake, polling=PollPolicy(initial=2, factor=2, maximum=7)) as client:
        await client.wait(export_id)
    assert clock.sleeps == [2, 4, 7, 7, 7]


def in_seconds(clock: FakeClock, seconds: float) -> datetime:
    return clock.utc() + timedelta(seconds=seconds)


WAITS: dict[str, tuple[Callable[[FakeClock], dict[str, str]], float]] = {
    "seconds": (lambda _: {"Retry-After": "7"}, 7.0),
    "date": (lambda c: {"Retry-After": format_datetime(in_seconds(c, 40), usegmt=True)}, 40.0),
    "reset epoch": (
        lambda c: {"X-RateLimit-Reset": f"{in_seconds(c, 25).timestamp():.0f}"},
        25.0,
    ),
    "reset seconds": (lambda _: {"X-RateLimit-Reset": "12"}, 12.0),
    "both": (lambda _: {"Retry-After": "7", "X-RateLimit-Reset": "50"}, 7.0),
    "sooner than the slot": (lambda _: {"Retry-After": "0"}, 1.0),
    "past": (lambda c: {"Retry-After": format_datetime(in_seconds(c, -9), usegmt=True)}, 1.0),
    "nonsense": (lambda _: {"Retry-After": "soon", "X-RateLimit-Reset": ""}, 1.0),
}


@pytest.mark.parametrize("skew", [0.0, HOUR, -HOUR], ids=["right", "fast", "slow"])
@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize(("headers", "seconds"), WAITS.values(), ids=WAITS.keys())
async def test_the_server_may_ask_for_a_longer_delay(
    fake: FakeSendGrid,
    make_client: MakeClient,
    clock: FakeClock,
    headers: Callable[[FakeClock], dict[str, str]],
    seconds: float,
    status: int,
    skew: float,
) -> None:
    export_id = await fake.add_export(export_id="x")
    fake.respond(status, headers=headers(clock))
    async with make_client(fake, clock=clock.offset(skew)) as client:
        await client.wait(export_id)
    assert clock.sleeps == [seconds]


@pytest.mark.parametrize("skew", [HOUR, -HOUR, 24 * HOUR])
async def test_a_wrong_local_clock_changes_no_delay(
    fake: FakeSendGrid, make_client: MakeClient, clock: FakeClock, skew: float, tmp_path: Path
) -> None:
    export_id = await fake.add_export(export_id="x", statuses=["pending", "pending", "ready"])
    fake.respond(200, body=READY_WITHOUT_LINKS | {"expires_at": "2026-03-02T10:00:00Z"})
    async with make_client(fake, clock=clock.offset(skew)) as client:
        result = await client.fetch(export_id, tmp_path)
    assert result.contact_count == 3
    assert clock.sleeps == [1.0, 1.5, 2.25]


# The end of it


@pytest.mark.parametrize("message", ["the segment was deleted", None])
async def test_the_status_failure_ends_the_wait_with_its_message(
    make_client: MakeClient, clock: FakeClock, message: str | None
) -> None:
    async with (
        FakeSendGrid(clock=clock, contacts=1, message=message) as fake,
        make_client(fake) as client,
    ):
        export_id = await fake.add_export(export_id="x", statuses=["pending", "failure"])
        with pytest.raises(ExportFailedError, match=message or "no reason") as caught:
            await client.wait(export_id)
    assert caught.value.export_id == export_id
    assert caught.value.export is not None
    assert caught.value.export.message == message
    assert clock.sleeps == [1.0]


async def test_ready_without_contacts_is_ready(
    fake: FakeSendGrid, client: ExportClient, clock: FakeClock
) -> None:
    fake.respond(200, body=READY_WITHOUT_LINKS | {"contact_count": 0})
    assert (await client.wait("x")).urls == ()
    assert clock.sleeps == []


@pytest.mark.parametrize("urls", [[], None])
async def test_ready_without_links_is_polled_again(
    fake: FakeSendGrid, client: ExportClient, clock: FakeClock, urls: list[str] | None
) -> None:
    export_id = await fake.add_export(export_id="x")
    fake.respond(200, body=READY_WITHOUT_LINKS | {"urls": urls, "contact_count": 3})
    assert (await client.wait(export_id)).urls
    assert clock.sleeps == [1.0]


@pytest.mark.parametrize("skew", [0.0, -HOUR, HOUR])
async def test_links_that_stay_away_mean_expired(
    make_client: MakeClient, clock: FakeClock, skew: float
) -> None:
    async with (
        FakeSendGrid(clock=clock, contacts=1, after_expiry="no_urls", file_lifetime=10.0) as fake,
        make_client(fake, clock=clock.offset(skew)) as client,
    ):
        export_id = await fake.add_export(export_id="x")
        clock.advance(11)
        with pytest.raises(ExportExpiredError) as caught:
            await client.wait(export_id)
    assert caught.value.export_id == export_id
    assert clock.sleeps == []


async def test_404_for_what_an_earlier_wait_saw_ready_means_expired(
    make_client: MakeClient,
    clock: FakeClock,
) -> None:
    async with (
        FakeSendGrid(clock=clock, contacts=1, file_lifetime=10.0) as fake,
        make_client(fake) as client,
    ):
        export_id = await fake.add_export(export_id="x")
        await client.wait(export_id)
        clock.advance(11)
        with pytest.raises(ExportExpiredError):
            await client.wait(export_id)


async def test_404_right_after_ready_means_expired(
    fake: FakeSendGrid, client: ExportClient
) -> None:
    fake.respond(200, body=READY_WITHOUT_LINKS)
    fake.respond(404)
    with pytest.raises(ExportExpiredError):
        await client.wait("x")


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, InvalidRequestError),
        (401, AuthenticationError),
        (403, PermissionDeniedError),
        (404, ExportNotFoundError),
        (302, APIError),
        (418, APIError),
    ],
)
async def test_permanent_errors_end_the_wait_at_once(
    fake: FakeSendGrid,
    client: ExportClient,
    clock: FakeClock,
    status: int,
    error: type[APIError],
) -> None:
    fake.respond(status, times=None)
    with pytest.raises(APIError) as caught:
        await client.wait("x")
    assert type(caught.value) is error
    assert "to resume" not in str(caught.value)
    assert len(fake.requests) == 1
    assert clock.sleeps == []


async def test_too_many_failures_in_a_row_raise_the_last_one_itself(
    fake: FakeSendGrid, make_client: MakeClient
) -> None:
    fake.respond(429)
    fake.respond(200, body="null")
    fake.respond(503, times=None)
    async with make_client(fake, polling=PollPolicy(max_failures=3)) as client:
        with pytest.raises(ServerError) as caught:
            await client.wait("x")
    assert caught.value.status == 503
    assert str(caught.value).endswith("Wait or fetch again with the same id to resume.")
    assert caught.value.__cause__ is None
    assert len(fake.requests) == 3


async def test_a_good_poll_resets_the_count_of_failures(
    fake: FakeSendGrid, make_client: MakeClient
) -> None:
    export_id = await fake.add_export(export_id="x")
    for status in (500, 502, 200, 503, 504):
        fake.respond(status, body=PENDING if status == 200 else None)
    async with make_client(fake, polling=PollPolicy(max_failures=3)) as client:
        assert (await client.wait(export_id)).status is ExportStatus.READY


async def test_dropped_connections_are_retried_with_the_polls_delays(
    fake: FakeSendGrid, client: ExportClient, clock: FakeClock
) -> None:
    export_id = await fake.add_export(export_id="x")
    fake.respond(None, times=6)
    events: list[Event] = []
    assert (await client.wait(export_id, on_event=events.append)).urls
    # How often aiohttp itself repeats a lost GET is its own affair.
    assert clock.sleeps
    assert clock.sleeps == [1.0, 1.5, 2.25, 3.375, 5.0625, 7.59375][: len(clock.sleeps)]
    assert [type(event) for event in events] == [Retrying] * len(clock.sleeps) + [StatusPolled]


async def test_connections_dropped_for_ever_end_the_wait(
    fake: FakeSendGrid, make_client: MakeClient, clock: FakeClock
) -> None:
    fake.respond(None, times=None)
    async with make_client(fake, polling=PollPolicy(max_failures=4)) as client:
        with pytest.raises(
            TransportError, match=r"\. Wait or fetch again with the same id to resume"
        ):
            await client.wait("x")
    assert clock.sleeps == [1.0, 1.5, 2.25]


@pytest.mark.parametrize("body", STRANGE_BODIES)
async def test_an_undocumented_answer_is_survived_once_and_raised_if_it_stays(
    fake: FakeSendGrid, make_client: MakeClient, clock: FakeClock, body: str
) -> None:
    export_id = await fake.add_export(export_id="x")
    fake.respond(200, body=body)
    async with make_client(fake, polling=PollPolicy(max_failures=3)) as client:
        assert (await client.wait(export_id)).urls
        assert clock.sleeps == [1.0]
        fake.respond(200, body=body, times=None)
        with pytest.raises(InvalidResponseError) as caught:
            await client.wait(export_id)
    assert caught.value.problems
    assert len(fake.requests) == 2 + 3


async def test_an_absurd_date_header_breaks_nothing(
    fake: FakeSendGrid, client: ExportClient
) -> None:
    export_id = await fake.add_export(export_id="x")
    fake.respond(503, headers={"Date": "Fri, 31 Dec 9999 23:59:59 GMT"})
    fake.respond(None, times=2)
    assert (await client.wait(export_id)).urls


@pytest.mark.parametrize("status", ["queued", "failed", "completed", "READY", ""])
async def test_an_unknown_status_is_pending_and_logged_once(
    fake: FakeSendGrid,
    client: ExportClient,
    caplog: pytest.LogCaptureFixture,
    status: str,
) -> None:
    export_id = await fake.add_export(export_id="x", statuses=[status, status, status, "ready"])
    fake.respond(503)
    events: list[Event] = []
    with caplog.at_level(logging.WARNING, logger="sendgrid_exports"):
        await client.wait(export_id, on_event=events.append)
    unknown = next(event.export for event in events if isinstance(event, StatusPolled))
    assert (unknown.status, unknown.status_text) == (ExportStatus.PENDING, status)
    (record,) = caplog.records
    assert repr(status) in record.getMessage()


async def test_an_export_just_started_may_be_unknown_for_a_minute(
    fake: FakeSendGrid, client: ExportClient, clock: FakeClock
) -> None:
    export_id = await client.start()
    fake.respond(404, on="status", times=3)
    assert (await client.wait(export_id)).status is ExportStatus.READY
    assert clock.sleeps == [1.0, 1.5, 2.25, 3.375]


async def test_an_export_still_unknown_a_minute_after_its_start_is_not_found(
    fake: FakeSendGrid, make_client: MakeClient, clock: FakeClock
) -> None:
    async with make_client(fake, polling=PollPolicy(max_failures=100)) as client:
        export_id = await client.start()
        fake.respond(404, on="status", times=None)
        with pytest.raises(ExportNotFoundError):
            await client.wait(export_id)
        assert 60 <= sum(clock.sleeps) < 120
        with pytest.raises(ExportNotFoundError):
            await client.wait(export_id)
        assert sum(clock.sleeps) < 120


async def test_export_contacts_waits_for_an_export_that_is_not_known_yet(
    fake: FakeSendGrid, clock: FakeClock, tmp_path: Path
) -> None:
    fake.respond(404, on="status")
    result = await export_contacts(tmp_path, **fake.credentials, clock=clock)
    assert result.contact_count == 3


async def test_one_401_between_good_polls_is_polled_again(
    fake: FakeSendGrid, client: ExportClient, clock: FakeClock
) -> None:
    export_id = await fake.add_export(export_id="x")
    fake.respond(200, body=PENDING)
    fake.respond(401)
    fake.respond(200, body=PENDING)
    fake.respond(401)
    events: list[Event] = []
    assert (await client.wait(export_id, on_event=events.append)).urls
    assert clock.sleeps == [1.0, 1.5, 2.25, 3.375]
    assert [type(event) for event in events] == [
        StatusPolled,
        Retrying,
        StatusPolled,
        Retrying,
        StatusPolled,
    ]


async def test_a_second_401_in_a_row_ends_the_wait(
    fake: FakeSendGrid, client: ExportClient, clock: FakeClock
) -> None:
    fake.respond(200, body=PENDING)
    fake.respond(401, times=None)
    with pytest.raises(AuthenticationError):
        await client.wait("x")
    assert clock.sleeps == [1.0, 1.5]


@pytest.mark.parametrize(
    "body",
    [{"errors": [{"message": "the segment is locked"}]}, {"error": "the segment is locked"}],
    ids=["errors", "error"],
)
async def test_a_200_that_holds_errors_ends_the_wait_with_what_they_say(
    fake: FakeSendGrid, client: ExportClient, clock: FakeClock, body: dict[str, Any]
) -> None:
    fake.respond(200, body=body, times=None)
    with pytest.raises(APIError, match="the segment is locked") as caught:
        await client.wait("x")
    assert caught.value.status == 200
    assert [detail.message for detail in caught.value.errors] == ["the segment is locked"]
    assert len(fake.requests) == 1
    assert clock.sleeps == []


async def test_no_cache_on_the_way_may_answer_a_poll(
    fake: FakeSendGrid, client: ExportClient
) -> None:
    export_id = await client.start()
    await client.wait(export_id)
    await client.list_exports()
    start, *polls = fake.requests
    assert "Cache-Control" not in start.headers
    assert len(polls) == 3
    assert {request.headers["Cache-Control"] for request in polls} == {"no-cache"}


# Time


@pytest.mark.parametrize("timeout", [10.0, 10, timedelta(seconds=10)])
async def test_the_timeout_is_kept_with_a_last_poll_before_it(
    fake: FakeSendGrid, client: ExportClient, clock: FakeClock, timeout: float | timedelta
) -> None:
    export_id = await fake.add_export(export_id="x", statuses=["pending"])
    began = clock.monotonic()
    with pytest.raises(ExportTimeoutError, match="pending") as caught:
        await client.wait(export_id, timeout=timeout)
    assert 9 < clock.monotonic() - began <= 10
    assert clock.sleeps[:4] == [1.0, 1.5, 2.25, 3.375]
    assert fake.requests[-1].at == clock.utc(), "no sleep is without a poll after it"
    error = caught.value
    assert isinstance(error, TimeoutError)
    assert (error.export_id, export_id in str(error)) == (export_id, True)
    assert error.export is not None
    assert error.export.status is ExportStatus.PENDING


async def test_the_policy_has_a_timeout_too(
    fake: FakeSendGrid, make_client: MakeClient, clock: FakeClock
) -> None:
    export_id = await fake.add_export(export_id="x", statuses=["pending"])
    began = clock.monotonic()
    async with make_client(fake, polling=PollPolicy(timeout=timedelta(minutes=2))) as client:
        with pytest.raises(ExportTimeoutError):
            await client.wait(export_id)
    assert 110 < clock.monotonic() - began <= 120


async def test_a_timeout_of_zero_raises_timeout_error(
    fake: FakeSendGrid, client: ExportClient
) -> None:
    with pytest.raises(ExportTimeoutError, match="never seen"):
        await client.wait("x", timeout=0)


async def test_the_timeout_names_what_kept_failing(
    fake: FakeSendGrid, client: ExportClient
) -> None:
    fake.respond(503, times=None)
    with pytest.raises(ExportTimeoutError) as caught:
        await client.wait("x", timeout=5)
    assert isinstance(caught.value.__cause__, ServerError)
    assert str(caught.value.__cause__).rstrip(".") in str(caught.value)
    assert "SendGrid answered 503" in str(caught.value)


async def test_the_timeout_does_not_name_a_failure_that_was_overcome(
    fake: FakeSendGrid, client: ExportClient
) -> None:
    export_id = await fake.add_export(export_id="x", statuses=["pending"])
    fake.respond(503)
    with pytest.raises(ExportTimeoutError, match="pending") as caught:
        await client.wait(export_id, timeout=5)
    assert "503" not in str(caught.value)
    assert caught.value.__cause__ is None


async def test_a_timeout_in_the_middle_of_a_poll_names_the_failure_before_it(
    fake: FakeSendGrid, client: ExportClient
) -> None:
    fake.respond(503)
    fake.respond(200, body=PENDING, delay=1000)
    with pytest.raises(ExportTimeoutError, match="SendGrid answered 503"):
        await client.wait("x", timeout=60)


@pytest.mark.parametrize("status", [429, 503])
async def test_a_retry_after_beyond_the_timeout_is_not_slept(
    fake: FakeSendGrid, client: ExportClient, clock: FakeClock, status: int
) -> None:
    fake.respond(200, body=PENDING)
    fake.respond(status, headers={"Retry-After": "120"})
    with pytest.raises(ExportTimeoutError, match="120") as caught:
        await client.wait("x", timeout=60)
    assert clock.sleeps == [1.0]
    assert isinstance(caught.value.__cause__, APIError)
    assert caught.value.__cause__.retry_after == 120
    assert caught.value.export is not None


async def test_a_retry_after_within_the_timeout_is_slept_however_long(
    fake: FakeSendGrid, client: ExportClient, clock: FakeClock
) -> None:
    export_id = await fake.add_export(export_id="x")
    fake.respond(429, headers={"Retry-After": "59"})
    await client.wait(export_id, timeout=60)
    assert clock.sleeps == [59.0]


async def test_a_poll_that_hangs_ends_with_the_timeout(
    fake: FakeSendGrid, client: ExportClient, clock: FakeClock
) -> None:
    fake.respond(200, body=PENDING)
    fake.respond(200, body=PENDING, delay=1000)
    began = clock.monotonic()
    with pytest.raises(ExportTimeoutError, match="pending") as caught:
        await client.wait("x", timeout=60)
    assert clock.monotonic() - began == 60
    assert caught.value.export is not None


async def test_a_poll_that_hangs_after_its_headers_ends_with_the_timeout(
    clock: FakeClock,
) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b'HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{"id": "x", ')
        answered.set()
        await reader.read()

    answered = asyncio.Event()
    async with (
        serving(answer) as url,
        ExportClient("SG.key", base_url=url, clock=clock) as client,
    ):
        waiting = asyncio.create_task(client.wait("x", timeout=60))
        await answered.wait()
        clock.advance(59)
        await asyncio.sleep(0)
        assert not waiting.done()
        clock.advance(1)
        with pytest.raises(ExportTimeoutError, match="never seen"):
            await waiting


class TestExportContacts:
    """The timeout of `export_contacts` bounds the start too."""

    @pytest.mark.parametrize(
        "trouble",
        [
            {"status": 202, "body": '{"id": "x"}', "delay": 1000.0},
            {"status": 429, "headers": {"Retry-After": "30"}},
            {"status": 429, "times": None},
        ],
        ids=["hangs", "asks to wait", "keeps refusing"],
    )
    async def test_the_start_is_within_the_timeout(
        self, fake: FakeSendGrid, clock: FakeClock, tmp_path: Path, trouble: dict[str, Any]
    ) -> None:
        fake.respond(**trouble, on="start")
        began = clock.monotonic()
        with pytest.raises(SendGridExportsError):
            await export_contacts(
                tmp_path,
                **fake.credentials,
                clock=clock,
                random=lambda: 0.0,
                timeout=4,
            )
        assert clock.monotonic() - began <= 4


# The caller


class StuckClock(FakeClock):
    """A clock on which no sleep ends."""

    async def sleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)
        await asyncio.Event().wait()


@pytest.mark.parametrize("where", ["a poll", "a sleep"])
async def test_cancelling_a_wait_raises_and_leaves_the_client_usable(
    fake: FakeSendGrid, make_client: MakeClient, where: str
) -> None:
    export_id = await fake.add_export(export_id="x", statuses=["pending", "ready"])
    stuck = StuckClock()
    if where == "a poll":
        fake.respond(200, delay=math.inf)
    async with make_client(fake, clock=stuck) as client:
        waiting = asyncio.create_task(client.wait(export_id))
        await until(lambda: fake.requests if where == "a poll" else stuck.sleeps)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert (await client.get(export_id)).id == export_id


class CallersError(Exception):
    """Not ours."""


@pytest.mark.parametrize("error", [CallersError(), TimeoutError(), OSError(), RuntimeError()])
@pytest.mark.parametrize("told", [StatusPolled, Retrying])
async def test_an_error_raised_by_on_event_reaches_the_caller_unchanged(
    fake: FakeSendGrid, client: ExportClient, error: Exception, told: type[Event]
) -> None:
    def on_event(event: Event) -> None:
        if isinstance(event, told):
            raise error

    export_id = await fake.add_export(export_id="x")
    fake.respond(503)
    with pytest.raises(type(error)) as caught:
        await client.wait(export_id, on_event=on_event)
    assert caught.value is error
    assert error.__cause__ is None
    assert not isinstance(caught.value, ExportError)


async def test_one_client_waits_for_many_at_once(fake: FakeSendGrid, client: ExportClient) -> None:
    ids = [await fake.add_export(statuses=["pending", "ready"]) for _ in range(10)]
    exports = await asyncio.gather(*(client.wait(export_id) for export_id in ids))
    assert [export.id for export in exports] == ids


async def test_a_rate_limit_of_one_call_does_not_bind_another(
    fake: FakeSendGrid, client: ExportClient
) -> None:
    fake.respond(429, headers={"Retry-After": "9"}, on="status")
    with pytest.raises(RateLimitedError):
        await client.get("x")
    assert await client.list_exports() == ()
