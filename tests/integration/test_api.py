"""The three calls over real sockets: what is sent, what it becomes, what is tried again."""

from __future__ import annotations

import asyncio
import gzip
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from sendgrid_exports import (
    APIError,
    AuthenticationError,
    ContactExport,
    DownloadError,
    DownloadPolicy,
    ErrorDetail,
    ExportClient,
    ExportMetadata,
    ExportNotFoundError,
    ExportStatus,
    InvalidRequestError,
    InvalidResponseError,
    NamedId,
    PermissionDeniedError,
    RateLimitedError,
    SendGridExportsError,
    ServerError,
    TransportError,
    __version__,
)
from sendgrid_exports.session import open_shared_session
from sendgrid_exports.testing import FakeClock, FakeSendGrid, RecordedRequest
from tests.integration.conftest import MakeClient, serving

pytestmark = pytest.mark.fake_sendgrid(contacts=3)

EXPORTS = "/v3/marketing/contacts/exports"
UNKNOWN_HOST = "http://sendgrid.test"

Call = Callable[[ExportClient], Awaitable[object]]

CALLS: dict[str, Call] = {
    "start": lambda client: client.start(),
    "get": lambda client: client.get("x"),
    "list": lambda client: client.list_exports(),
    "scopes": lambda client: client.scopes(),
}
SUCCESS = {"id": "x", "status": "pending", "result": [], "scopes": []}
every_call = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


async def nothing_sent_by(fake: FakeSendGrid, **arguments: Any) -> str:
    """Return what the refusal of these arguments says."""
    arguments = {"api_key": fake.api_key, "base_url": fake.base_url, **arguments}
    with pytest.raises(ValueError) as caught:
        async with ExportClient(**arguments) as client:
            await client.list_exports()
    assert type(caught.value) is ValueError
    assert fake.requests == []
    return str(caught.value)


def has_key(request: RecordedRequest, key: str) -> bool:
    sent = [request.path, request.query, request.body.decode(), *request.headers.values()]
    return any(key in text for text in sent)


# Starting


@pytest.mark.parametrize(
    ("arguments", "body"),
    [
        ({}, {}),
        ({"list_ids": ["a", "b"]}, {"list_ids": ["a", "b"]}),
        ({"list_ids": ("a",), "segment_ids": ()}, {"list_ids": ["a"]}),
        ({"segment_ids": ["s"]}, {"segment_ids": ["s"]}),
        ({"file_type": "json"}, {"file_type": "json"}),
        ({"max_file_size": 500}, {"max_file_size": 500}),
        ({"notify_email": True}, {"notifications": {"email": True}}),
    ],
)
async def test_start_sends_what_was_asked_for_and_nothing_else(
    fake: FakeSendGrid,
    client: ExportClient,
    arguments: dict[str, Any],
    body: dict[str, Any],
) -> None:
    export_id = await client.start(**arguments)
    (request,) = fake.requests
    assert (request.server, request.method, request.path) == ("api", "POST", EXPORTS)
    assert request.headers["Authorization"] == f"Bearer {fake.api_key}"
    assert request.headers["Content-Type"] == "application/json"
    assert "on-behalf-of" not in request.headers
    assert json.loads(request.body) == body
    assert (await client.get(export_id)).id == export_id


async def test_defaults_passed_explicitly_are_not_sent(
    fake: FakeSendGrid, client: ExportClient
) -> None:
    await client.start(
        list_ids=[], segment_ids=[], file_type="csv", max_file_size=None, notify_email=False
    )
    assert json.loads(fake.requests[0].body) == {}


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"list_ids": "abc"}, TypeError),
        ({"list_ids": [1]}, TypeError),
        ({"list_ids": [""]}, ValueError),
        ({"segment_ids": "abc"}, TypeError),
        ({"segment_ids": ["a\nb"]}, ValueError),
        ({"file_type": "xml"}, ValueError),
        ({"file_type": None}, ValueError),
        ({"max_file_size": 0}, ValueError),
        ({"max_file_size": -5}, ValueError),
        ({"max_file_size": 1.5}, TypeError),
        ({"max_file_size": "5"}, TypeError),
        ({"max_file_size": True}, TypeError),
    ],
)
async def test_a_bad_argument_is_named_before_anything_is_sent(
    fake: FakeSendGrid,
    client: ExportClient,
    arguments: dict[str, Any],
    error: type[Exception],
) -> None:
    (name,) = arguments
    with pytest.raises(error, match=name):
        await client.start(**arguments)
    assert fake.requests == []


@pytest.mark.parametrize(
    "arguments",
    [{"list_ids": 5}, {"list_ids": 0}, {"notify_email": "no"}, {"file_type": ["csv"]}],
)
async def test_an_argument_of_a_wrong_type_is_named(
    fake: FakeSendGrid, client: ExportClient, arguments: dict[str, Any]
) -> None:
    (name,) = arguments
    with pytest.raises((TypeError, ValueError), match=name):
        await client.start(**arguments)
    assert fake.requests == []


@pytest.mark.parametrize(
    ("refusals", "sleeps"),
    [
        ([{}], [1.0]),
        ([{}, {}, {}], [1.0, 1.5, 2.25]),
        ([{"Retry-After": "20"}, {}], [20.0, 1.5]),
        ([{"Retry-After": "0"}], [1.0]),
        ([{"X-RateLimit-Reset": "12"}], [12.0]),
    ],
)
async def test_start_obeys_retry_after(
    fake: FakeSendGrid,
    client: ExportClient,
    clock: FakeClock,
    refusals: list[dict[str, str]],
    sleeps: list[float],
) -> None:
    for headers in refusals:
        fake.respond(429, headers=headers)
    await client.start()
    assert clock.sleeps == sleeps
    assert len(await client.list_exports()) == 1


async def test_start_tries_four_times_at_most(
    fake: FakeSendGrid, client: ExportClient, clock: FakeClock
) -> None:
    fake.respond(429, times=None)
    with pytest.raises(RateLimitedError):
        await client.start()
    assert len(fake.requests) == 4
    assert clock.sleeps == [1.0, 1.5, 2.25]


async def test_start_fails_at_once_when_asked_to_wait_for_an_hour(
    fake: FakeSendGrid, client: ExportClient, clock: FakeClock
) -> None:
    fake.respond(429, headers={"Retry-After": "3600"})
    with pytest.raises(RateLimitedError, match="3600") as caught:
        await client.start()
    assert caught.value.retry_after == 3600
    assert clock.sleeps == []


class LateResolver(AbstractResolver):
    """Knows every name, but not at first."""

    def __init__(self, failures: int) -> None:
        self.failures = failures

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        if self.failures:
            self.failures -= 1
            raise OSError(None, "not known yet")
        return [
            ResolveResult(
                hostname=host, host="127.0.0.1", port=port, family=family, proto=0, flags=0
            )
        ]

    async def close(self) -> None:
        """Nothing is open."""


async def test_start_is_retried_if_there_was_no_connection(
    fake: FakeSendGrid, make_client: MakeClient, clock: FakeClock
) -> None:
    connector = aiohttp.TCPConnector(resolver=LateResolver(2), use_dns_cache=False)
    base_url = UNKNOWN_HOST + ":" + fake.base_url.rpartition(":")[2]
    async with aiohttp.ClientSession(connector=connector) as session:
        arguments = {"session": session, "base_url": base_url, "allow_insecure_http": True}
        client = make_client(fake, **arguments)
        export_id = await client.start()
        assert [listing.id for listing in await client.list_exports()] == [export_id]
    assert clock.sleeps == [1.0, 1.5]
    assert [request.method for request in fake.requests] == ["POST", "GET"]


async def test_start_gives_up_if_there_never_is_a_connection(
    fake: FakeSendGrid, make_client: MakeClient, clock: FakeClock
) -> None:
    async with make_client(fake, base_url=f"http://127.0.0.1:{free_port()}") as client:
        with pytest.raises(TransportError) as caught:
            await client.start()
    assert not caught.value.request_sent
    assert "may be running" not in str(caught.value)
    assert clock.sleeps == [1.0, 1.5, 2.25]


@pytest.mark.parametrize("reused", [False, True], ids=["new connection", "kept connection"])
@pytest.mark.parametrize("status", [None, 400, 401, 403, 404, 500, 502, 503])
async def test_start_is_never_sent_twice_if_it_may_have_worked(
    fake: FakeSendGrid,
    client: ExportClient,
    clock: FakeClock,
    status: int | None,
    reused: bool,
) -> None:
    if reused:
        await client.list_exports()
    fake.respond(status, on="start", processed=True, times=None)
    with pytest.raises(SendGridExportsError) as caught:
        await client.start()
    refused = status is not None and status < 500
    assert ("may be running" in str(caught.value)) is not refused
    assert [request.method for request in fake.requests].count("POST") == 1
    assert clock.sleeps == []
    assert len(await client.list_exports()) == 1, "the orphan is found again"


@pytest.mark.parametrize("body", ["", "null", "{}", '{"id": ""}', '{"id": true}', "[]", "<html>"])
async def test_a_start_answered_without_an_id_is_invalid(
    fake: FakeSendGrid, client: ExportClient, body: str
) -> None:
    fake.respond(202, body=body, times=None)
    with pytest.raises(InvalidResponseError) as caught:
        await client.start()
    assert caught.value.problems
    assert str(caught.value).endswith(
        "running all the same: list_exports(), or the command list, shows it."
    )
    assert len(fake.requests) == 1


# Polling once


async def test_get_is_one_request_for_every_field(
    fake: FakeSendGrid, client: ExportClient, clock: FakeClock
) -> None:
    export_id = await fake.add_export(statuses=["pending", "ready"], files=2)
    pending = await client.get(export_id)
    assert (pending.status, pending.urls) == (ExportStatus.PENDING, ())
    assert (pending.completed_at, pending.contact_count, pending.message) == (None, None, None)
    clock.advance(90.5)
    ready = await client.get(export_id)
    assert (ready.id, ready.status) == (export_id, ExportStatus.READY)
    assert ready.created_at == datetime(2026, 3, 2, 9, 30, tzinfo=UTC)
    assert ready.updated_at == ready.completed_at
    assert ready.completed_at == datetime(2026, 3, 2, 9, 31, 30, 500_000, tzinfo=UTC)
    assert ready.expires_at == datetime(2026, 3, 2, 21, 30, tzinfo=UTC)
    assert ready.contact_count == 3
    assert ready.metadata == ExportMetadata(self_=f"{fake.base_url}{EXPORTS}/{export_id}", count=1)
    assert len(ready.urls) == 2
    assert all(url.startswith(fake.storage_url) for url in ready.urls)
    assert [request.method for request in fake.requests] == ["GET", "GET"]
    assert clock.sleeps == []


@every_call
@pytest.mark.parametrize("status", [200, 201, 202, 203])
async def test_any_2xx_is_a_success(
    fake: FakeSendGrid, client: ExportClient, call: Call, status: int
) -> None:
    fake.respond(status, body=SUCCESS)
    await call(client)


async def test_unknown_and_missing_fields_are_tolerated(
    fake: FakeSendGrid, client: ExportClient
) -> None:
    new = {"id": "x", "status": "pending", "urls": None, "expires_at": "", "colour": {"deep": [1]}}
    fake.respond(200, body=new, on="status")
    export = await client.get("x")
    assert (export.id, export.urls, export.expires_at) == ("x", (), None)
    listed = {"result": [{"id": "x", "status": "ready", "colour": 1}], "more": 2}
    fake.respond(200, body=listed, on="list")
    assert [listing.id for listing in await client.list_exports()] == ["x"]


@pytest.mark.parametrize(
    "export_id",
    ["a/b", "..", ".", "../../user", "a b", "a%2Fb", "?x=1", "#y", "a;b,c+d&e", "~", "é/✓", "'\""],
)
async def test_an_export_id_is_percent_encoded_whatever_it_holds(
    fake: FakeSendGrid, client: ExportClient, export_id: str
) -> None:
    await fake.add_export(export_id=export_id)
    assert (await client.get(export_id)).id == export_id
    (request,) = fake.requests
    assert request.path.startswith(EXPORTS + "/")
    assert request.path.count("/") == EXPORTS.count("/") + 1
    assert request.query == ""


# Listing


async def test_the_list_reads_every_page_in_order(
    make_client: MakeClient, clock: FakeClock
) -> None:
    async with (
        FakeSendGrid(clock=clock, contacts=1, list_page_size=2) as fake,
        make_client(fake) as client,
    ):
        ids = [await fake.add_export() for _ in range(5)]
        assert [listing.id for listing in await client.list_exports()] == ids
        assert [request.query for request in fake.requests] == [
            "",
            "page_token=1",
            "page_token=2",
        ]


@pytest.mark.fake_sendgrid(scopes=["mail.send"])
async def test_scopes_are_what_the_key_may_do(fake: FakeSendGrid, client: ExportClient) -> None:
    assert await client.scopes() == ("mail.send",)
    assert fake.api_requests[-1].path == "/v3/scopes"


async def test_the_list_says_what_was_exported(fake: FakeSendGrid, client: ExportClient) -> None:
    export_id = await client.start(list_ids=["11111111-aa"])
    (listing,) = await client.list_exports()
    assert (listing.id, listing.status) == (export_id, ExportStatus.PENDING)
    assert (listing.user_id, listing.export_type) == ("1234567", "list_export")
    assert listing.lists == (NamedId(id="11111111-aa", name="List 11111111"),)
    assert listing.segments == ()


@pytest.mark.parametrize("body", [{"result": []}, {"result": None}, {"_metadata": None}])
async def test_an_empty_list_is_an_empty_tuple(
    fake: FakeSendGrid, client: ExportClient, body: dict[str, Any]
) -> None:
    fake.respond(200, body=body)
    assert await client.list_exports() == ()


async def test_the_next_page_never_leads_to_another_host(
    fake: FakeSendGrid, client: ExportClient
) -> None:
    elsewhere = f"{fake.storage_url}{EXPORTS}?page_token=7"
    page = {"result": [{"id": "x", "status": "ready"}], "_metadata": {"next": elsewhere}}
    fake.respond(200, body=page)
    assert [listing.id for listing in await client.list_exports()] == ["x"]
    assert fake.storage_requests == []


async def test_pages_that_lead_in_a_circle_are_read_once(
    fake: FakeSendGrid, client: ExportClient
) -> None:
    page = {"result": [], "_metadata": {"next": f"{fake.base_url}{EXPORTS}?page_token=1"}}
    fake.respond(200, body=page, times=None)
    assert await client.list_exports() == ()
    assert len(fake.requests) == 2


# Errors

LOOK = {"field": None, "help": None}


@pytest.mark.parametrize(
    ("status", "body", "error", "details"),
    [
        (
            400,
            {"errors": [{"message": "bad", "field": "f", "error_id": "e", "parameter": "p"}]},
            InvalidRequestError,
            (ErrorDetail(message="bad", field="f", error_id="e", parameter="p"),),
        ),
        (
            400,
            {"errors": [{"message": "one"}, {"message": "two"}]},
            InvalidRequestError,
            (ErrorDetail(message="one"), ErrorDetail(message="two")),
        ),
        (422, {"errors": [{"message": "no"}]}, InvalidRequestError, (ErrorDetail(message="no"),)),
        (
            401,
            {"errors": [{"message": "The provided grant is revoked", **LOOK}], "id": "1"},
            AuthenticationError,
            (ErrorDetail(message="The provided grant is revoked"),),
        ),
        (
            403,
            {"errors": [{"message": "access forbidden", "field": None, "help": {"a": 1}}]},
            PermissionDeniedError,
            (ErrorDetail(message="access forbidden", help='{"a": 1}'),),
        ),
        (
            404,
            {"errors": [{"message": "resource not found", **LOOK}]},
            ExportNotFoundError,
            (ErrorDetail(message="resource not found"),),
        ),
        (
            429,
            {"errors": [{"field": None, "message": "too many requests"}]},
            RateLimitedError,
            (ErrorDetail(message="too many requests"),),
        ),
        (409, {"errors": []}, APIError, ()),
        (500, {"errors": [{"message": "boom"}]}, ServerError, (ErrorDetail(message="boom"),)),
        (500, {"error": "boom"}, ServerError, (ErrorDetail(message="boom"),)),
        (500, "null", ServerError, ()),
        (502, "<html><body>Bad Gateway</body></html>", ServerError, ()),
        (503, "", ServerError, ()),
        (504, '"text"', ServerError, ()),
        (599, '{"errors": {"message": 5}}', ServerError, (ErrorDetail(message="5"),)),
    ],
)
async def test_every_error_body_becomes_the_right_error(
    fake: FakeSendGrid,
    client: ExportClient,
    status: int,
    body: dict[str, Any] | str,
    error: type[APIError],
    details: tuple[ErrorDetail, ...],
) -> None:
    fake.respond(status, body=body)
    with pytest.raises(APIError) as caught:
        await client.get("x")
    raised = caught.value
    assert type(raised) is error
    assert (raised.status, raised.errors) == (status, details)
    assert (raised.retry_after, raised.request_id) == (None, "fake-request-1")
    assert str(status) in str(raised)
    assert all(detail.message in str(raised) for detail in details)


@pytest.mark.parametrize(
    ("status", "headers", "retry_after"),
    [
        (429, {"Retry-After": "30"}, 30.0),
        (429, {"Retry-After": "Mon, 02 Mar 2026 09:31:00 GMT"}, 60.0),
        (429, {"Retry-After": "Mon, 02 Mar 2026 09:00:00 GMT"}, 0.0),
        (429, {"X-RateLimit-Limit": "500", "X-RateLimit-Reset": "45"}, 45.0),
        (429, {"X-RateLimit-Reset": "1772443815"}, 15.0),
        (503, {"Retry-After": "5"}, 5.0),
        (429, {"Retry-After": "soon"}, None),
        (429, {"Retry-After": "-1"}, None),
        (429, {"Retry-After": "inf"}, None),
    ],
)
async def test_an_error_has_the_seconds_to_wait(
    fake: FakeSendGrid,
    client: ExportClient,
    status: int,
    headers: dict[str, str],
    retry_after: float | None,
) -> None:
    fake.respond(status, headers=headers)
    with pytest.raises(APIError) as caught:
        await client.get("x")
    assert caught.value.retry_after == retry_after


async def test_a_wrong_key_is_named(fake: FakeSendGrid, clock: FakeClock) -> None:
    async with ExportClient("SG.wrong", base_url=fake.base_url, clock=clock) as client:
        with pytest.raises(AuthenticationError, match="key"):
            await client.list_exports()


async def test_a_missing_scope_is_named(fake: FakeSendGrid, client: ExportClient) -> None:
    fake.respond(403)
    with pytest.raises(PermissionDeniedError, match=r"marketing\.read.*legacy"):
        await client.list_exports()


@every_call
async def test_a_body_that_cannot_be_inflated_raises_transport_error(
    fake: FakeSendGrid, client: ExportClient, call: Call
) -> None:
    fake.respond(200, body=b"no gzip", headers={"Content-Encoding": "gzip"})
    with pytest.raises(TransportError):
        await call(client)


@every_call
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_no_redirect_is_followed(
    fake: FakeSendGrid, client: ExportClient, call: Call, status: int
) -> None:
    fake.respond(status, headers={"Location": fake.storage_url + EXPORTS})
    with pytest.raises(APIError) as caught:
        await call(client)
    assert caught.value.status == status
    assert "No redirect is followed" in str(caught.value)
    assert "base_url" in str(caught.value)
    assert len(fake.requests) == 1


# Where it goes, and on whose behalf


@every_call
async def test_a_parent_account_acts_for_a_subuser(
    fake: FakeSendGrid, make_client: MakeClient, call: Call
) -> None:
    fake.respond(200, body=SUCCESS)
    async with make_client(fake, on_behalf_of="a subuser") as client:
        await call(client)
    assert fake.requests[0].headers["on-behalf-of"] == "a subuser"


@pytest.mark.parametrize("tail", ["/", "//"])
async def test_slashes_at_the_end_of_base_url_are_ignored(
    fake: FakeSendGrid, make_client: MakeClient, tail: str
) -> None:
    async with make_client(fake, base_url=fake.base_url + tail) as client:
        await client.list_exports()
    assert fake.requests[0].path == EXPORTS


async def test_the_scheme_of_base_url_may_be_in_capitals(
    fake: FakeSendGrid, make_client: MakeClient, tmp_path: Path
) -> None:
    export_id = await fake.add_export()
    base_url = fake.base_url.replace("http://", "HTTP://")
    async with make_client(fake, base_url=base_url) as client:
        assert (await client.fetch(export_id, tmp_path)).contact_count == 3


async def test_the_key_goes_to_the_api_alone(
    fake: FakeSendGrid, client: ExportClient, tmp_path: Path
) -> None:
    export_id = await fake.add_export(files=2)
    await client.fetch(export_id, tmp_path)
    assert fake.storage_requests
    assert all(has_key(request, fake.api_key) for request in fake.api_requests)
    for request in fake.storage_requests:
        assert "Authorization" not in request.headers
        assert not has_key(request, fake.api_key)


@every_call
async def test_requests_to_sendgrid_name_the_library(
    fake: FakeSendGrid, client: ExportClient, call: Call
) -> None:
    fake.respond(200, body=SUCCESS)
    await call(client)
    (request,) = fake.requests
    assert request.headers["User-Agent"] == f"sendgrid-exports/{__version__}"


@pytest.mark.parametrize(
    "base_url",
    [
        "http://api.sendgrid.com",
        "HTTP://api.sendgrid.com",
        "http://10.0.0.1:8080",
        "http://localhost.evil.example",
        "http://127.0.0.1.evil.example",
        "http://[2001:db8::1]",
    ],
)
async def test_the_key_never_goes_to_another_machine_in_clear(
    fake: FakeSendGrid, base_url: str
) -> None:
    said = await nothing_sent_by(fake, base_url=base_url)
    assert "https://" in said
    assert "allow_insecure_http=True" in said
    assert fake.api_key not in said


async def test_http_to_another_machine_must_be_asked_for_by_name(
    fake: FakeSendGrid, make_client: MakeClient, tmp_path: Path
) -> None:
    export_id = await fake.add_export()
    connector = aiohttp.TCPConnector(resolver=LateResolver(0), use_dns_cache=False)
    base_url = UNKNOWN_HOST + ":" + fake.base_url.rpartition(":")[2]
    async with aiohttp.ClientSession(connector=connector) as session:
        arguments = {"session": session, "base_url": base_url, "allow_insecure_http": True}
        client = make_client(fake, **arguments)
        assert (await client.fetch(export_id, tmp_path)).contact_count == 3


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST", "127.0.0.1", "127.1.2.3", "[::1]"])
def test_http_to_this_machine_is_always_allowed(host: str) -> None:
    assert host.lower() in repr(ExportClient("key", base_url=f"http://{host}:1")).lower()


def test_allow_insecure_http_is_true_or_false() -> None:
    with pytest.raises(TypeError, match="allow_insecure_http"):
        ExportClient("key", allow_insecure_http="yes")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("Bearer {}", "Bearer"),
        ("bearer  {}", "Bearer"),
        ("Authorization: Bearer {}", "Bearer"),
        ('"{}"', "quotes"),
        ("'{}'", "quotes"),
        ("“{}”", "quotes"),
        ('"{}', "quotes"),
        ("SENDGRID_API_KEY={}", "="),
        ("export SENDGRID_API_KEY={}", "="),
        ('SENDGRID_API_KEY="{}"', "="),
        ("api_key = {}", "="),
        ("{} {}", "spaces"),
        (" {}", "spaces"),
        ("{} ", "spaces"),
        ("{}\n", "line break"),
        ("\ufeff{}", "byte order mark"),
        ("ï»¿{}", "byte order mark"),
        ("S\x00G\x00.{}\x00", "UTF-16"),
    ],
)
async def test_a_key_that_was_copied_badly_is_refused_with_the_reason(
    fake: FakeSendGrid, change: str, said: str
) -> None:
    key = change.format("SG.some-id.s3cr3t", "SG.some-id.s3cr3t")
    refusal = await nothing_sent_by(fake, api_key=key)
    assert refusal.startswith("api_key ")
    assert said in refusal
    assert "s3cr3t" not in refusal


@pytest.mark.parametrize("key", ["SG.a-b_c.d-e_f", "c2VjcmV0==", "key=", "a=", "ü"])
def test_any_other_key_is_taken_as_it_is(key: str) -> None:
    ExportClient(key)


@pytest.mark.parametrize(
    ("tail", "right"),
    [
        ("/v3", ""),
        ("/v3/", ""),
        ("/v3/marketing/contacts/exports", ""),
        ("/proxy/v3", "/proxy"),
    ],
)
async def test_a_base_url_with_the_version_is_refused_with_the_right_one(
    fake: FakeSendGrid, tail: str, right: str
) -> None:
    said = await nothing_sent_by(fake, base_url=fake.base_url + tail)
    assert said.startswith("base_url ")
    assert f" {fake.base_url}{right} " in f"{said} "


async def test_not_found_at_the_start_names_the_lists_and_segments(
    fake: FakeSendGrid, client: ExportClient
) -> None:
    fake.respond(404, times=None)
    with pytest.raises(ExportNotFoundError) as caught:
        await client.start(list_ids=["list-1", "list-2"], segment_ids=["segment-1"])
    assert "list-1, list-2" in str(caught.value)
    assert "segment-1" in str(caught.value)
    assert "export id" not in str(caught.value)


@pytest.mark.parametrize("call", ["start", "list"])
async def test_where_there_is_no_export_id_yet_none_is_to_be_checked(
    fake: FakeSendGrid, client: ExportClient, call: str
) -> None:
    fake.respond(404, times=None)
    with pytest.raises(ExportNotFoundError, match="base_url") as caught:
        await CALLS[call](client)
    assert "export id" not in str(caught.value)


async def test_a_start_answered_with_200_and_errors_is_not_a_start(
    fake: FakeSendGrid, client: ExportClient
) -> None:
    fake.respond(200, body={"errors": [{"message": "no such list"}], "id": "y"}, times=None)
    with pytest.raises(APIError, match="no such list") as caught:
        await client.start()
    assert "may be running" in str(caught.value)
    assert len(fake.requests) == 1


# Proxies and credentials of the environment


@pytest.fixture
def netrc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Credentials for every host, as curl and requests would send them."""
    path = tmp_path / "netrc"
    path.write_text("default login somebody password something\n")
    monkeypatch.setenv("NETRC", str(path))


@pytest.fixture
async def proxied(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[list[str]]:
    """Name a proxy that lets nothing through, and return the heads of what it was asked."""
    heads: list[str] = []

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append((await reader.readuntil(b"\r\n\r\n")).decode())
        writer.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()

    for name in ("http_proxy", "https_proxy", "no_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    async with serving(refuse) as url:
        proxy = url.replace("http://", "http://me:hidden@")
        monkeypatch.setenv("HTTPS_PROXY", proxy)
        yield heads


@pytest.mark.usefixtures("netrc")
async def test_https_proxy_is_obeyed_and_sees_no_key(
    proxied: list[str], clock: FakeClock, tmp_path: Path
) -> None:
    link = "https://bucket.example/x.csv.gzip?X-Amz-Signature=s3cr3t"
    export = ContactExport(id="x", status=ExportStatus.READY, urls=(link,))
    once = DownloadPolicy(attempts=1)
    async with ExportClient("SG.key", downloads=once, clock=clock) as client:
        with pytest.raises(TransportError, match="proxy") as refused:
            await client.list_exports()
        with pytest.raises(DownloadError, match="proxy"):
            await client.download(export, tmp_path)
    assert {head.partition("\r\n")[0] for head in proxied} == {
        "CONNECT api.sendgrid.com:443 HTTP/1.1",
        "CONNECT bucket.example:443 HTTP/1.1",
    }
    for head in proxied:
        assert "SG.key" not in head
        assert "s3cr3t" not in head
        assert "\r\nAuthorization" not in head
        assert "\r\nProxy-Authorization: Basic bWU6aGlkZGVu" in head
    assert "hidden" not in str(refused.value)
    assert not refused.value.request_sent


async def test_no_proxy_is_obeyed(
    proxied: list[str], clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_PROXY", ".invalid")
    async with ExportClient("SG.key", base_url="https://nowhere.invalid", clock=clock) as client:
        with pytest.raises(TransportError):
            await client.list_exports()
    assert proxied == []


async def test_this_machine_is_never_reached_through_a_proxy(
    proxied: list[str],
    fake: FakeSendGrid,
    client: ExportClient,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    result = await client.fetch(await fake.add_export(), tmp_path)
    assert result.contact_count == 3
    assert proxied == []


@pytest.mark.parametrize("proxy", ["socks5://me:hidden@127.0.0.1:1080", "http://me:hidden@[::1"])
async def test_a_proxy_that_cannot_be_used_is_named(
    proxied: list[str], clock: FakeClock, monkeypatch: pytest.MonkeyPatch, proxy: str
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", proxy)
    async with ExportClient("SG.key", clock=clock) as client:
        with pytest.raises(TransportError, match="HTTPS_PROXY") as caught:
            await client.list_exports()
    assert not caught.value.transient
    assert not caught.value.request_sent
    assert "hidden" not in str(caught.value)
    assert proxied == []


@pytest.mark.usefixtures("netrc")
@pytest.mark.parametrize("borrowed", [False, True], ids=["own", "borrowed"])
async def test_netrc_never_adds_credentials(
    fake: FakeSendGrid, make_client: MakeClient, tmp_path: Path, borrowed: bool
) -> None:
    export_id = await fake.add_export()
    async with aiohttp.ClientSession(trust_env=True, headers={"X-Ours": "yes"}) as session:
        client = make_client(fake, session=session if borrowed else None)
        result = await client.fetch(export_id, tmp_path / "exports")
        await client.close()
        assert not session.closed
        assert not session.connector.closed  # type: ignore[union-attr]
    assert result.contact_count == 3
    for request in fake.api_requests:
        assert request.headers["Authorization"] == f"Bearer {fake.api_key}"
    for request in fake.storage_requests:
        assert "Authorization" not in request.headers
    if borrowed:
        assert {request.headers["X-Ours"] for request in fake.requests} == {"yes"}


async def test_a_borrowed_session_without_trust_env_obeys_no_proxy(
    proxied: list[str], clock: FakeClock
) -> None:
    async with aiohttp.ClientSession() as session:
        client = ExportClient(
            "SG.key", base_url="https://nowhere.invalid", session=session, clock=clock
        )
        with pytest.raises(TransportError):
            await client.list_exports()
    assert proxied == []


async def test_a_borrowed_session_with_trust_env_obeys_https_proxy(
    proxied: list[str], clock: FakeClock
) -> None:
    async with aiohttp.ClientSession(trust_env=True) as session:
        client = ExportClient("SG.key", session=session, clock=clock)
        with pytest.raises(TransportError, match="proxy"):
            await client.list_exports()
    assert [head.split(" ", 1)[0] for head in proxied] == ["CONNECT"]


@pytest.mark.parametrize("server", ["api", "storage"])
async def test_a_session_that_changes_the_authorization_is_named(
    fake: FakeSendGrid, make_client: MakeClient, clock: FakeClock, tmp_path: Path, server: str
) -> None:
    async def add(request: aiohttp.ClientRequest, send: Any) -> aiohttp.ClientResponse:
        if (request.url.origin() == URL(fake.base_url)) is (server == "api"):
            request.headers["Authorization"] = "Bearer s3cr3t"
        response: aiohttp.ClientResponse = await send(request)
        return response

    export_id = await fake.add_export()
    async with aiohttp.ClientSession(middlewares=[add]) as session:
        client = make_client(fake, session=session)
        with pytest.raises(SendGridExportsError, match=r"session.*Authorization") as caught:
            await client.fetch(export_id, tmp_path)
    assert "s3cr3t" not in str(caught.value)
    assert clock.sleeps == []


# Sessions: borrowed, and our own


@pytest.mark.parametrize("shared", [False, True], ids=["own", "shared"])
async def test_no_session_of_ours_keeps_a_cookie(
    fake: FakeSendGrid, make_client: MakeClient, shared: bool
) -> None:
    # Those of a host that has no name are kept by no session.
    base_url = fake.base_url.replace("127.0.0.1", "localhost")
    session = open_shared_session(2) if shared else None
    client = make_client(fake, base_url=base_url, session=session)
    for _ in range(2):
        fake.respond(200, body=SUCCESS, headers={"Set-Cookie": "sticky=1; Path=/"}, on="status")
        await client.get("x")
    await client.close()
    if session is not None:
        await session.close()
    assert [request.headers.get("Cookie") for request in fake.api_requests] == [None, None]


async def test_an_answer_that_does_not_end_is_an_error(clock: FakeClock) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            writer.write(b"100000\r\n" + bytes(1 << 20) + b"\r\n")
            await writer.drain()

    async with serving(answer) as url, ExportClient("SG.key", base_url=url, clock=clock) as client:
        with pytest.raises(InvalidResponseError, match="longer than 67,108,864 bytes"):
            await client.get("x")


async def test_settings_of_a_borrowed_session_are_overridden(
    fake: FakeSendGrid, make_client: MakeClient, tmp_path: Path
) -> None:
    export_id = await fake.add_export()
    squeezed = gzip.compress(json.dumps({"id": "x", "status": "pending"}).encode())
    async with aiohttp.ClientSession(
        base_url="http://127.0.0.1:1/elsewhere/",
        timeout=aiohttp.ClientTimeout(total=1e-9),
        raise_for_status=True,
        auto_decompress=False,
        read_bufsize=1024,
        headers={"Accept-Encoding": "gzip", "X-Ours": "yes"},
    ) as session:
        async with make_client(fake, session=session) as client:
            with pytest.raises(ExportNotFoundError):
                await client.get("unknown")
            fake.respond(200, body=squeezed, headers={"Content-Encoding": "gzip"})
            assert (await client.get("x")).status is ExportStatus.PENDING
            result = await client.fetch(export_id, tmp_path)
        assert not session.closed
    (raw,) = await fake.file_bytes(export_id)
    assert result.files[0].path.read_bytes() == raw
    assert result.contact_count == 3
    assert {request.headers["Accept-Encoding"] for request in fake.storage_requests} == {"identity"}


@pytest.mark.filterwarnings("ignore:BasicAuth is deprecated", "ignore:The 'auth' parameter")
@pytest.mark.parametrize(
    "carry",
    [
        lambda: {"headers": {"Authorization": "Bearer other"}},
        lambda: {"headers": {"authorization": "Bearer other"}},
        lambda: {"auth": aiohttp.BasicAuth("me", "secret")},
    ],
    ids=["header", "small header", "auth"],
)
async def test_a_session_with_a_key_of_its_own_is_refused(
    fake: FakeSendGrid, make_client: MakeClient, carry: Callable[[], dict[str, Any]]
) -> None:
    async with aiohttp.ClientSession(**carry()) as session:
        with pytest.raises(ValueError, match=r"session.*Authorization"):
            make_client(fake, session=session)


def test_a_client_can_be_made_where_no_loop_runs() -> None:
    client = ExportClient("SG.key")
    with pytest.raises(RuntimeError):
        asyncio.get_running_loop()
    assert repr(client) == "ExportClient(base_url='https://api.sendgrid.com')"
    asyncio.run(client.close())


async def test_leaving_the_block_closes_our_own_session_and_closing_twice_is_fine(
    fake: FakeSendGrid, make_client: MakeClient
) -> None:
    client = make_client(fake)

    async def fail_inside() -> None:
        async with client:
            await client.list_exports()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail_inside()
    with pytest.raises(RuntimeError, match="closed"):
        await client.list_exports()
    await client.close()
    await client.close()
    await make_client(fake).close()


@pytest.mark.parametrize("borrowed", [False, True], ids=["own", "borrowed"])
@every_call
async def test_a_closed_client_raises_runtime_error(
    fake: FakeSendGrid, make_client: MakeClient, call: Call, borrowed: bool
) -> None:
    async with aiohttp.ClientSession() as session:
        client = make_client(fake, session=session if borrowed else None)
        await client.close()
        with pytest.raises(RuntimeError, match="ExportClient is closed"):
            await call(client)
        assert not session.closed
    assert fake.requests == []


@every_call
async def test_a_borrowed_session_that_was_closed_is_named(
    fake: FakeSendGrid, make_client: MakeClient, call: Call
) -> None:
    async with aiohttp.ClientSession() as session:
        client = make_client(fake, session=session)
    with pytest.raises(RuntimeError, match=r"session.*closed"):
        await call(client)
