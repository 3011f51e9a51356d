"""The wire: what is asked, and what every documented answer means."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from urllib.parse import unquote

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sendgrid_exports.api.wire import (
    listing_request,
    read_export,
    read_id,
    read_listing,
    read_scopes,
    scopes_request,
    start_request,
    status_request,
)
from sendgrid_exports.errors import (
    APIError,
    AuthenticationError,
    ExportNotFoundError,
    InvalidRequestError,
    InvalidResponseError,
    PermissionDeniedError,
    RateLimitedError,
    SendGridExportsError,
    ServerError,
)
from sendgrid_exports.http import Request, Response
from sendgrid_exports.models import ErrorDetail, ExportStatus, NamedId

EXPORTS = "/v3/marketing/contacts/exports"
NOW = datetime(2026, 3, 2, 9, 30, tzinfo=UTC)
IN_90_S = str(int(NOW.timestamp()) + 90)
SECRET = "https://u:s3cr3t@h/p?X-Amz-Credential=s3cr3t&X-Amz-Signature=s3cr3t"
PENDING = {"id": "abc", "status": "pending"}
READERS: list[Callable[[Response, Request, datetime], Any]] = [
    *(read_export, read_id, read_listing, read_scopes)
]
quick = settings(derandomize=True, max_examples=100, deadline=None)


def answer(body: object = None, status: int = 200, **headers: str) -> Response:
    """An answer with `body` as it is if it is bytes, else as JSON."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Response(status=status, headers=named, body=data)


def refused(response: Response) -> APIError:
    with pytest.raises(APIError) as caught:
        read_export(response, status_request("abc"), NOW)
    return caught.value


def invalid(reader: Callable[..., Any], body: object) -> InvalidResponseError:
    with pytest.raises(InvalidResponseError) as caught:
        reader(answer(body), status_request("abc"), NOW)
    return caught.value


@pytest.mark.parametrize(
    ("arguments", "body"),
    [
        ({}, {}),
        ({"list_ids": [], "segment_ids": ()}, {}),
        ({"file_type": "csv", "max_file_size": None, "notify_email": False}, {}),
        ({"list_ids": ("a", "b")}, {"list_ids": ["a", "b"]}),
        ({"segment_ids": ["s"]}, {"segment_ids": ["s"]}),
        ({"file_type": "json"}, {"file_type": "json"}),
        ({"max_file_size": 500}, {"max_file_size": 500}),
        ({"notify_email": True}, {"notifications": {"email": True}}),
    ],
)
def test_a_start_sends_only_what_differs_from_the_defaults(
    arguments: dict[str, Any], body: dict[str, object]
) -> None:
    request = start_request(**arguments)
    assert (request.method, request.target) == ("POST", EXPORTS)
    assert json.loads(request.body or b"") == body


@pytest.mark.parametrize(
    ("name", "value", "kind"),
    [
        ("list_ids", "abc", TypeError),
        ("list_ids", [5], TypeError),
        ("list_ids", ["a", ""], ValueError),
        ("segment_ids", "abc", TypeError),
        ("segment_ids", [None], TypeError),
        ("segment_ids", ["a\n"], ValueError),
        ("file_type", "xml", ValueError),
        ("file_type", None, ValueError),
        ("max_file_size", 0, ValueError),
        ("max_file_size", 1.5, TypeError),
        ("max_file_size", True, TypeError),
        ("max_file_size", "5", TypeError),
    ],
)
def test_a_bad_argument_is_named(name: str, value: Any, kind: type[Exception]) -> None:
    with pytest.raises(kind, match=rf"^{name}\b") as caught:
        start_request(**{name: value})
    assert type(caught.value) is kind


@pytest.mark.parametrize(
    ("name", "value"), [("list_ids", 5), ("file_type", []), ("notify_email", "no")]
)
def test_every_bad_argument_is_named(name: str, value: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=rf"^{name}\b"):
        start_request(**{name: value})


@pytest.mark.parametrize(
    ("export_id", "escaped"),
    [
        ("ZGkrHSypTsudrGkmdpJJ", "ZGkrHSypTsudrGkmdpJJ"),
        ("a/b", "a%2Fb"),
        (".", "%2E"),
        ("..", "%2E%2E"),
        ("../..", "..%2F.."),
        ("a.b", "a.b"),
        ("a b", "a%20b"),
        ("100%", "100%25"),
        ("%2F", "%252F"),
        ("a?b#c&d", "a%3Fb%23c%26d"),
        ("ü", "%C3%BC"),
        ("a\r\nb", "a%0D%0Ab"),
    ],
)
def test_an_export_id_is_escaped(export_id: str, escaped: str) -> None:
    request = status_request(export_id)
    assert (request.method, request.target) == ("GET", f"{EXPORTS}/{escaped}")
    assert request.body is None


@quick
@given(st.text(st.characters(codec="utf-8"), min_size=1))
def test_any_id_stays_one_piece_of_the_path(export_id: str) -> None:
    target = status_request(export_id).target
    piece = target.removeprefix(f"{EXPORTS}/")
    assert unquote(piece) == export_id
    assert target.isascii()
    assert target.isprintable()
    assert piece not in {".", ".."}
    assert not set(piece) & set("/?# ")


def test_a_listing_is_asked_for_by_page() -> None:
    assert listing_request() == Request(method="GET", target=EXPORTS)
    assert listing_request("/v3/x?page=2") == Request(method="GET", target="/v3/x?page=2")


def test_an_id_is_read() -> None:
    request = start_request()
    body = {"id": "abc", "_metadata": {"self": "x"}, "more": 1}
    assert read_id(answer(body, 202), request, NOW) == "abc"
    assert read_id(answer(body, 200), request, NOW) == "abc"


@pytest.mark.parametrize(
    "body",
    [None, {}, [], "abc", {"id": None}, {"id": ""}, {"id": ["abc"]}, {"url": SECRET}, b"", b"<p>"],
    ids=repr,
)
def test_a_start_answered_without_an_id_is_invalid(body: object) -> None:
    error = invalid(read_id, body)
    assert error.problems
    assert "s3cr3t" not in str(error)
    if not isinstance(body, bytes):
        assert "named no id" in str(error)


@pytest.mark.parametrize("status", [200, 202, 203])
def test_an_export_is_read_from_any_success(status: int) -> None:
    export = read_export(answer(PENDING, status), status_request("abc"), NOW)
    assert (export.id, export.status, export.urls) == ("abc", ExportStatus.PENDING, ())


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "not JSON: (nothing)"),
        (b"<html>", "not JSON: an HTML page"),
        (None, "expected an object, not None @ $"),
        ([], "expected an object, not [] @ $"),
        ({}, "required field missing @ $.id"),
        ({**PENDING, "expires_at": 5}, "expected a time, not 5 @ $.expires_at"),
    ],
    ids=repr,
)
def test_a_status_that_is_not_an_export_is_invalid(body: object, words: str) -> None:
    error = invalid(read_export, body)
    assert words in str(error)
    assert f"GET {EXPORTS}/abc" in str(error)
    assert error.problems


def test_a_listing_is_read() -> None:
    body = {
        "result": [
            {
                **PENDING,
                "urls": None,
                "user_id": 12345,
                "export_type": "segment_export",
                "segments": [{"ID": "s", "Name": "Segment"}],
                "lists": None,
                "expires_at": "0001-01-01T00:00:00Z",
            },
            {"id": "def", "status": "ready", "urls": ["https://h/p?a"], "user_id": "u"},
        ],
        "_metadata": {"next": "https://api.sendgrid.com/v3/x?page_token=a%2Fb&page_size=1"},
    }
    (first, second), page = read_listing(answer(body), listing_request(), NOW)
    assert (first.id, first.user_id, first.urls, first.lists) == ("abc", "12345", (), ())
    assert first.segments == (NamedId(id="s", name="Segment"),)
    assert first.expires_at is None
    assert (second.id, second.status, second.urls) == (
        "def",
        ExportStatus.READY,
        ("https://h/p?a",),
    )
    assert page == "/v3/x?page_token=a%2Fb&page_size=1"


@pytest.mark.parametrize("body", [{}, {"result": None}, {"result": []}], ids=repr)
def test_a_list_without_exports_is_empty(body: object) -> None:
    assert read_listing(answer(body), listing_request(), NOW) == ((), None)


@pytest.mark.parametrize(
    ("following", "target"),
    [
        ("https://api.sendgrid.com/v3/x?page=2", "/v3/x?page=2"),
        ("https://evil.example/v3/x?page=2", "/v3/x?page=2"),
        ("//evil.example/v3/x", "/v3/x"),
        ("/v3/x?page=2#f", "/v3/x?page=2"),
        ("https://api.sendgrid.com", None),
        ("x?page=2", "/v3/marketing/contacts/x?page=2"),
        ("?page=2", "/v3/marketing/contacts/exports?page=2"),
        ("https://[", None),
        ("", None),
        (None, None),
        (5, None),
    ],
)
def test_the_next_page_never_names_a_host(following: object, target: str | None) -> None:
    for metadata in ({"next": following}, {"next": following, "count": "?"}):
        body = {"result": [], "_metadata": metadata}
        assert read_listing(answer(body), listing_request(), NOW)[1] == target


@pytest.mark.parametrize("metadata", [None, [], "next", {}], ids=repr)
def test_a_listing_without_paging(metadata: object) -> None:
    assert read_listing(answer({"_metadata": metadata}), listing_request(), NOW) == ((), None)


@pytest.mark.parametrize("body", [None, [PENDING], "x", {"result": "x"}, {"result": [None]}, b""])
def test_a_list_that_is_not_documented_is_invalid(body: object) -> None:
    assert invalid(read_listing, body).problems


@pytest.mark.parametrize("result", [{}, "", 0, False], ids=repr)
def test_a_result_that_is_not_an_array_is_invalid(result: object) -> None:
    assert invalid(read_listing, {"result": result}).problems


def test_scopes_are_read() -> None:
    body = {"scopes": ["mail.send", "marketing.read"]}
    assert read_scopes(answer(body), scopes_request(), NOW) == ("mail.send", "marketing.read")
    assert read_scopes(answer({"scopes": []}), scopes_request(), NOW) == ()


@pytest.mark.parametrize("body", [{}, [], {"scopes": None}, {"scopes": "all"}, {"scopes": [1]}])
def test_scopes_that_are_not_a_list_of_texts_are_refused(body: object) -> None:
    assert invalid(read_scopes, body).problems == ("expected a list of texts @ $.scopes",)


def test_a_missing_page_of_scopes_does_not_name_an_export_id() -> None:
    with pytest.raises(ExportNotFoundError) as caught:
        read_scopes(answer({}, 404), scopes_request(), NOW)
    assert "export id" not in str(caught.value)


def test_a_misfit_in_a_listing_has_its_whole_path() -> None:
    problems = invalid(read_listing, {"result": [{"id": "abc"}]}).problems
    assert problems == ("required field missing @ $.result[0].status",)


GRANT = "The provided authorization grant is invalid, expired, or revoked"
DETAIL = {
    "message": "bad id",
    "field": "list_ids",
    "error_id": "e1",
    "parameter": "list_ids[0]",
}


@pytest.mark.parametrize(
    ("response", "cls", "errors", "words"),
    [
        (answer({"errors": [DETAIL]}, 400), InvalidRequestError, [DETAIL], "(field list_ids)"),
        (answer({"errors": [DETAIL]}, 422), InvalidRequestError, [DETAIL], "bad id"),
        (
            answer({"errors": [{"message": GRANT, "field": None, "help": None}], "id": "x"}, 401),
            AuthenticationError,
            [{"message": GRANT}],
            f"{GRANT}. Check the API key",
        ),
        (
            answer({"errors": [{"message": "access forbidden", "help": {"a": 1}}]}, 403),
            PermissionDeniedError,
            [{"message": "access forbidden", "help": '{"a": 1}'}],
            "marketing.read",
        ),
        (
            answer({"errors": [{"message": "not found", "field": None}], "id": "x"}, 404),
            ExportNotFoundError,
            [{"message": "not found"}],
            "Check the export id",
        ),
        (
            answer({"errors": [{"message": "too many requests", "field": None}]}, 429),
            RateLimitedError,
            [{"message": "too many requests"}],
            "too many requests",
        ),
        (
            answer({"errors": [{"message": "internal error"}]}, 500),
            ServerError,
            [{"message": "internal error"}],
            "try again later",
        ),
        (
            answer(b"<html><title>Bad Gateway</title>nginx</html>", 502),
            ServerError,
            [],
            ": an HTML page such as proxies send ('Bad Gateway'). SendGrid has a problem",
        ),
        (
            answer(b"<html><h1>Blocked by policy</h1></html>", 403),
            PermissionDeniedError,
            [],
            "('Blocked by policy'). Check base_url and the proxies on the way.",
        ),
        (answer(b"<html>Wait</html>", 429), RateLimitedError, [], "('Wait'). Send fewer requests."),
        (answer(b"", 503), ServerError, [], "no explanation"),
        (answer({"error": "bad"}, 400), InvalidRequestError, [{"message": "bad"}], "bad"),
        (answer({"errors": {"message": "m"}}, 418), APIError, [{"message": "m"}], "m"),
        (answer({"errors": ["a", "", 5, None, {}, []]}, 405), APIError, [{"message": "a"}], "a"),
        (
            answer({"errors": [{"message": "a"}, {"message": "b"}]}, 400),
            InvalidRequestError,
            [{"message": "a"}, {"message": "b"}],
            "a; b",
        ),
        (
            answer({"errors": [{"message": "Maximum credits exceeded"}]}, 401),
            AuthenticationError,
            [{"message": "Maximum credits exceeded"}],
            "Maximum credits exceeded. The plan's credits are used up",
        ),
        (
            answer({"errors": [{"message": "Authenticated user is not authorized"}]}, 401),
            AuthenticationError,
            [{"message": "Authenticated user is not authorized"}],
            "needs the scope marketing.read",
        ),
        (
            answer({"errors": [{"message": GRANT}]}, 401),
            AuthenticationError,
            [{"message": GRANT}],
            "needs base_url https://api.eu.sendgrid.com. An account whose credits are used up",
        ),
        (
            answer({"errors": [{"message": "Your IP address is not whitelisted"}]}, 403),
            PermissionDeniedError,
            [{"message": "Your IP address is not whitelisted"}],
            "not whitelisted. IP Access Management of the account",
        ),
        (
            answer({"errors": [{"message": "access forbidden"}]}, 403),
            PermissionDeniedError,
            [{"message": "access forbidden"}],
            "Where IP Access Management is on",
        ),
        (answer({"errors": [{"message": "m"}]}, 200), APIError, [{"message": "m"}], ": m."),
        (answer({"error": "m", "id": "abc"}, 202), APIError, [{"message": "m"}], ": m."),
        (answer(None, 404), ExportNotFoundError, [], "null"),
        (answer([], 404), ExportNotFoundError, [], "[]"),
        (answer({"errors": []}, 401), AuthenticationError, [], "Check the API key"),
        (answer(b"", 302), APIError, [], "answered 302"),
        (answer(b"\xff\xfe", 400), InvalidRequestError, [], "�"),
    ],
    ids=lambda value: str(value.status) if isinstance(value, Response) else "",
)
def test_an_error_status_becomes_its_error_with_advice(
    response: Response, cls: type[APIError], errors: list[dict[str, str]], words: str
) -> None:
    error = refused(response)
    assert type(error) is cls
    assert error.status == response.status
    assert error.errors == tuple(ErrorDetail(**entry) for entry in errors)
    assert error.retry_after is None
    assert words in str(error)
    assert str(error).startswith(f"SendGrid answered {response.status} to GET {EXPORTS}/abc: ")


def test_a_success_with_what_was_asked_for_is_not_an_error() -> None:
    errors = {"errors": [{"message": "m"}], "error": "m"}
    assert read_export(answer({**PENDING, **errors}), status_request("abc"), NOW).id == "abc"
    assert read_listing(answer({"result": [PENDING], **errors}), listing_request(), NOW)[0]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({}, "Check the account, and the region of base_url."),
        ({"list_ids": ["a", "b"]}, "Check the lists a, b, the account, and the region"),
        ({"segment_ids": ["s"]}, "Check the segments s, the account, and the region"),
        ({"list_ids": ["a"], "segment_ids": ["s"]}, "Check the lists a, the segments s, the acc"),
    ],
)
def test_404_to_a_start_names_what_was_asked_for(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ExportNotFoundError) as caught:
        read_id(answer({"errors": []}, 404), start_request(**arguments), NOW)
    assert words in str(caught.value)


def test_404_to_the_list_names_no_export_id() -> None:
    with pytest.raises(ExportNotFoundError) as caught:
        read_listing(answer({"errors": []}, 404), listing_request(), NOW)
    assert "Check the account, and the region of base_url." in str(caught.value)


@pytest.mark.parametrize("status", [429, 500, 503])
@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry_after": "5"}, 5),
        ({"retry_after": "Mon, 02 Mar 2026 09:32:00 GMT"}, 120),
        ({"x_ratelimit_reset": "60"}, 60),
        ({"x_ratelimit_reset": IN_90_S}, 90),
        ({"x_ratelimit_reset": IN_90_S, "date": "Mon, 02 Mar 2026 09:30:30 GMT"}, 60),
    ],
)
def test_a_refusal_says_how_long_to_wait(
    status: int, headers: dict[str, str], seconds: float
) -> None:
    error = refused(answer({"errors": []}, status, **headers))
    assert error.retry_after == seconds
    assert f"{seconds} s" in str(error)


def test_only_a_transient_error_says_how_long_to_wait() -> None:
    assert refused(answer(None, 403, retry_after="5", x_ratelimit_reset="60")).retry_after is None


def test_a_refusal_has_the_id_of_the_request() -> None:
    assert refused(answer(None, 500, x_request_id="r1")).request_id == "r1"
    assert refused(answer(None, 500)).request_id is None


@pytest.mark.parametrize(
    ("reader", "status"),
    [
        (read_export, 200),
        (read_id, 202),
        *((reader, 400) for reader in READERS),
        (read_export, 500),
    ],
)
@pytest.mark.parametrize(
    "body",
    [
        f"<p>{SECRET}</p>".encode(),
        {"errors": [dict.fromkeys(("message", "field", "help", "error_id", "parameter"), SECRET)]},
        {"errors": [{"message": "m", "help": {"link": SECRET}}]},
        {"errors": [SECRET]},
        {"error": f"Authorization: Bearer SG.s3cr3t.{'s3cr3t' * 100}"},
        [SECRET],
        {"id": [SECRET], "result": SECRET},
    ],
    ids=["html", "details", "object", "text", "error", "array", "fields"],
)
def test_no_refusal_shows_a_secret(reader: Callable[..., Any], status: int, body: object) -> None:
    with pytest.raises(SendGridExportsError) as caught:
        reader(answer(body, status), status_request("abc"), NOW)
    assert "s3cr3t" not in f"{caught.value} {caught.value!r} {vars(caught.value)}"
    assert caught.value.__cause__ is None


def test_a_long_refusal_is_cut() -> None:
    assert len(str(refused(answer(b"<p>" * 10_000, 500)))) < 500
    assert len(str(refused(answer({"errors": [{"message": "long " * 10_000}]}, 500)))) < 500


@pytest.mark.parametrize("status", [200, 400])
def test_what_is_read_can_be_written(status: int) -> None:
    body = rb'{"id": "abc", "status": "ready", "message": "\ud800", "error": "\ud800"}'
    try:
        text = read_export(answer(body, status), status_request("abc"), NOW).message or ""
    except SendGridExportsError as error:
        text = str(error)
    text.encode()


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
ENTRIES = st.fixed_dictionaries({}, optional=dict.fromkeys(("message", "field", "help"), VALUES))
DOCUMENTS = st.fixed_dictionaries(
    {},
    optional={
        "id": VALUES,
        "status": st.text() | VALUES,
        "urls": VALUES,
        "expires_at": VALUES,
        "errors": st.lists(ENTRIES) | VALUES,
        "error": VALUES,
        "result": st.lists(st.just(PENDING) | VALUES) | VALUES,
        "scopes": st.lists(st.text()) | VALUES,
        "_metadata": st.dictionaries(st.just("next"), VALUES) | VALUES,
    },
)


@quick
@given(
    body=st.binary() | (VALUES | DOCUMENTS).map(lambda value: json.dumps(value).encode()),
    status=st.sampled_from([200, 202, 204, 301, 400, 401, 403, 404, 408, 422, 429, 500, 503]),
    header=st.text(max_size=20),
)
@example(body=b"[" * 100_000, status=200, header="")
@example(body=b'{"error": ' + b"[" * 950 + b"]" * 950 + b"}", status=400, header="1e400")
@example(body=b'{"id": ' + b"9" * 5000 + b"}", status=200, header="-0")
def test_no_answer_fails_outside_the_tree(body: bytes, status: int, header: str) -> None:
    response = answer(body, status, retry_after=header, x_ratelimit_reset=header, date=header)
    for reader in READERS:
        try:
            found = reader(response, status_request("abc"), NOW)
        except SendGridExportsError as error:
            assert str(pickle.loads(pickle.dumps(error))) == str(error)  # noqa: PT017
        else:
            assert status < 300
            assert found is not None


def test_an_id_that_is_a_number_is_text() -> None:
    assert read_id(answer({"id": 5}, 202), start_request(), NOW) == "5"
