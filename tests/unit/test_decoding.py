"""Decoding: every spelling of a time, what is absent, what is unknown, what does not fit."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sendgrid_exports.decoding import decode, encode, parse_json, read_time
from sendgrid_exports.errors import InvalidResponseError
from sendgrid_exports.models import (
    ContactExport,
    DownloadedFile,
    ErrorDetail,
    ExportListing,
    ExportMetadata,
    ExportStatus,
    NamedId,
)

LEAST = {"id": "abc", "status": "pending"}
NOON = datetime(2026, 3, 2, 12, 0, 5, tzinfo=UTC)
quick = settings(derandomize=True, max_examples=100, deadline=None)


@attrs.frozen(kw_only=True)
class Kept:
    """What a file of our own may hold."""

    flag: bool
    path: Path
    at: datetime
    sizes: tuple[int, ...] = ()


def export(**fields: object) -> ContactExport:
    return decode(ContactExport, {**LEAST, **fields}, "The answer")


def problems(cls: type[Any], value: object) -> list[str]:
    with pytest.raises(InvalidResponseError, match=r"^The answer is not what is ") as caught:
        decode(cls, value, "The answer")
    for problem in caught.value.problems:
        assert problem in str(caught.value)
    return sorted(caught.value.problems)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-03-02T12:00:05Z", NOON),
        ("2026-03-02t12:00:05z", NOON),
        ("2026-03-02T12:00:05", NOON),
        ("2026-03-02 12:00:05", NOON),
        ("2026-03-02 12:00:05 +0000 UTC", NOON),
        ("2026-03-02 05:00:05 -0700 MST", NOON),
        ("2026-03-02T14:00:05+02:00", NOON),
        ("2026-03-02T06:30:05-05:30", NOON),
        ("2026-03-02T12:00:05-00:00", NOON),
        ("2026-03-02T12:00:05.5Z", NOON + timedelta(milliseconds=500)),
        ("2026-03-02 12:00:05.123456789 +0000 UTC", NOON + timedelta(microseconds=123456)),
        ("2026-03-02T12:00:05.000000999Z", NOON),
        ("0001-01-01T00:00:00Z", None),
        ("0001-01-01 00:00:00 +0000 UTC", None),
        ("0000-00-00 00:00:00", None),
        ("", None),
        (None, None),
    ],
)
def test_a_time(text: str | None, moment: datetime | None) -> None:
    found = read_time(text)
    assert found == moment
    assert found is None or found.tzinfo is UTC
    assert export(expires_at=text).expires_at == moment


@pytest.mark.parametrize(
    "value",
    [
        "soon",
        "2026-03-02",
        "2026-03-02T12:00",
        "2026-13-02T12:00:05Z",
        "2026-02-30T12:00:05Z",
        "2026-03-02T24:00:05Z",
        "2026-03-02T12:00:05.Z",
        "2026-03-02T12:00:05.1234567890Z",
        "2026-03-02T12:00:05+24:00",
        "2026-03-02T12:00:05+99:99",
        "2026-03-02T12:00:05Z and on",
        "२०२६-03-02T12:00:05Z",
        "9999-12-31T23:59:59-01:00",
        1772452805,
        True,
        {},
        [],
    ],
    ids=repr,
)
def test_what_is_no_time(value: object) -> None:
    with pytest.raises(ValueError):
        read_time(value)
    (problem,) = problems(ContactExport, {**LEAST, "created_at": value})
    assert problem.endswith(" @ $.created_at")


@quick
@given(
    moment=st.datetimes(datetime(2, 1, 2), datetime(9999, 12, 30)),  # noqa: DTZ001
    minutes=st.none() | st.integers(-23 * 60, 23 * 60),
    digits=st.integers(0, 9),
    nanos=st.integers(0, 10**9 - 1),
    between=st.sampled_from("T "),
    colon=st.sampled_from([":", ""]),
)
def test_every_spelling_is_the_same_instant(
    moment: datetime, minutes: int | None, digits: int, nanos: int, between: str, colon: str
) -> None:
    fraction = f"{nanos:09}"[:digits]
    zone = timezone(timedelta(minutes=minutes or 0))
    sign, (hours, rest) = "-" if (minutes or 0) < 0 else "+", divmod(abs(minutes or 0), 60)
    text = moment.strftime(f"{moment.year:04}-%m-%d{between}%H:%M:%S")
    text += f".{fraction}" if fraction else ""
    text += "Z" if minutes is None else f"{sign}{hours:02}{colon}{rest:02}"
    micros = int(fraction.ljust(6, "0")[:6])
    assert read_time(text) == moment.replace(microsecond=micros, tzinfo=zone)


@quick
@given(st.text("0123456789-+:.TZ UTC", max_size=40) | st.text(max_size=40))
def test_any_text_is_a_time_or_a_value_error(text: str) -> None:
    try:
        found = read_time(text)
    except ValueError:
        return
    assert found is None or found.tzinfo is UTC


@pytest.mark.parametrize(
    ("body", "value"),
    [(b"null", None), (b' {"a": [1]}\n', {"a": [1]}), (b'\xef\xbb\xbf"x"', "x")],
)
def test_json(body: bytes, value: object) -> None:
    assert parse_json(body, "The answer") == value


@pytest.mark.parametrize(
    ("body", "quoted"),
    [
        (b"", "(nothing)"),
        (b" \n", "(nothing)"),
        (b"<html>502</html>", "an HTML page such as proxies send ('502')"),
        (b'{"id": "cut', '{"id": "cut'),
        (b"\xff\xfe\xff", "�"),
        (b"[" * 100_000, "[["),
        (b"1" * 10_000, "111"),
        (b'{"a": "https://h/p?sig=s3cr3t"', "https://h/p?[redacted]"),
    ],
    ids=lambda value: repr(value[:20]),
)
def test_what_is_no_json(body: bytes, quoted: str) -> None:
    with pytest.raises(InvalidResponseError, match=r"^The answer is not JSON: ") as caught:
        parse_json(body, "The answer")
    assert quoted in str(caught.value)
    assert "s3cr3t" not in str(caught.value)
    assert len(str(caught.value)) < 400
    assert caught.value.__cause__ is None
    assert [problem.endswith(" @ $") for problem in caught.value.problems] == [True]


def test_a_whole_export() -> None:
    times = dict.fromkeys(
        ["created_at", "updated_at", "completed_at", "expires_at"], "2026-03-02T12:00:05Z"
    )
    found = export(
        **times,
        status="ready",
        urls=["https://h/1?a=1", "https://h/2"],
        message="m",
        contact_count=7,
        _metadata={"prev": "p", "self": "s", "next": "n", "count": 3, "more": 1},
        unknown={"a": [None]},
        metadata={"count": 4},
    )
    assert found == ContactExport(
        id="abc",
        status=ExportStatus.READY,
        status_text="ready",
        created_at=NOON,
        updated_at=NOON,
        completed_at=NOON,
        expires_at=NOON,
        urls=("https://h/1?a=1", "https://h/2"),
        message="m",
        contact_count=7,
        metadata=ExportMetadata(prev="p", self_="s", next="n", count=3),
    )


@pytest.mark.parametrize(
    "name",
    [field.name for field in attrs.fields(ContactExport) if field.name not in {"id", "status"}],
)
def test_null_is_absent(name: str) -> None:
    wire = "_metadata" if name == "metadata" else name
    assert export(**{wire: None}) == export()
    assert getattr(export(), name) in (None, (), "pending")


@pytest.mark.parametrize(
    ("text", "status"),
    [
        ("pending", ExportStatus.PENDING),
        ("ready", ExportStatus.READY),
        ("failure", ExportStatus.FAILURE),
        ("failed", ExportStatus.PENDING),
        ("READY", ExportStatus.PENDING),
        ("", ExportStatus.PENDING),
    ],
)
def test_an_unknown_status_is_pending_and_keeps_its_text(text: str, status: ExportStatus) -> None:
    assert (export(status=text).status, export(status=text).status_text) == (status, text)


def test_a_status_that_is_a_number_keeps_its_text() -> None:
    assert (export(status=5).status, export(status=5).status_text) == (ExportStatus.PENDING, "5")


@pytest.mark.parametrize(("count", "read"), [(0, 0), (7, 7), (7.0, 7), (10**12, 10**12)])
def test_a_count(count: object, read: int) -> None:
    assert export(contact_count=count).contact_count == read
    assert type(export(contact_count=count).contact_count) is int


def test_a_listing_has_numbers_for_users_and_capitals_for_names() -> None:
    found = decode(
        ExportListing,
        {
            **LEAST,
            "user_id": 12345,
            "export_type": "list_export",
            "segments": [{"ID": "s", "Name": "Segment"}, {"ID": 7}],
            "lists": [{"ID": "l", "Name": None}],
        },
        "The answer",
    )
    assert found.user_id == "12345"
    assert found.segments == (NamedId(id="s", name="Segment"), NamedId(id="7"))
    assert found.lists == (NamedId(id="l"),)


@pytest.mark.parametrize(
    ("cls", "fields", "problem"),
    [
        (ContactExport, {"id": None}, "required field missing @ $.id"),
        (ContactExport, {"id": True}, "expected text, not True @ $.id"),
        (ContactExport, {"id": 1.5}, "expected text, not 1.5 @ $.id"),
        (ContactExport, {"status": None}, "required field missing @ $.status"),
        (ContactExport, {"status": []}, "expected text, not [] @ $.status"),
        (ContactExport, {"urls": "u"}, "expected an array, not 'u' @ $.urls"),
        (ContactExport, {"urls": ["a", None]}, "expected text, not None @ $.urls[1]"),
        (ContactExport, {"contact_count": "7"}, "expected a whole number, not '7'"),
        (ContactExport, {"contact_count": True}, "expected a whole number, not True"),
        (ContactExport, {"contact_count": 0.5}, "expected a whole number, not 0.5"),
        (ContactExport, {"contact_count": math.nan}, "expected a whole number, not nan"),
        (ContactExport, {"contact_count": math.inf}, "expected a whole number, not inf"),
        (ContactExport, {"_metadata": []}, "expected an object, not [] @ $._metadata"),
        (ContactExport, {"_metadata": {"count": []}}, "not [] @ $._metadata.count"),
        (ExportListing, {"lists": [{"ID": "a"}, 5]}, "expected an object, not 5 @ $.lists[1]"),
        (Kept, {"flag": 1}, "expected true or false, not 1 @ $.flag"),
        (Kept, {"at": ""}, "expected a time, not its absence @ $.at"),
        (Kept, {"path": []}, "expected text, not [] @ $.path"),
        (ErrorDetail, {"message": []}, "expected text, not [] @ $.message"),
    ],
)
def test_what_does_not_fit_is_named_with_its_path(
    cls: type[Any], fields: dict[str, object], problem: str
) -> None:
    least = {"flag": True, "path": "a", "at": "2026-03-02T12:00:05Z"} if cls is Kept else LEAST
    (found,) = problems(cls, {**least, **fields})
    assert problem in found
    assert f" @ $.{next(iter(fields))}" in found


@pytest.mark.parametrize("value", [None, [], "x", 5, True], ids=repr)
def test_what_is_no_object(value: object) -> None:
    assert problems(ContactExport, value) == [f"expected an object, not {value!r} @ $"]
    (found,) = problems(tuple[ContactExport, ...], [LEAST, value])
    assert found == f"expected an object, not {value!r} @ $[1]"


def test_every_misfit_is_named_and_none_shows_a_secret() -> None:
    link = "https://h/p?X-Amz-Signature=s3cr3t"
    found = problems(ContactExport, {"id": [link], "urls": {"a": link}, "message": {}})
    paths = sorted(problem.rpartition(" @ ")[2] for problem in found)
    assert paths == ["$.id", "$.message", "$.status", "$.urls"]
    assert "s3cr3t" not in str(found)


def test_a_misfit_is_quoted_shortly() -> None:
    (problem,) = problems(ContactExport, {**LEAST, "urls": "x" * 10_000})
    assert len(problem) < 200


@pytest.mark.parametrize(
    "model",
    [
        ContactExport(id="a", status=ExportStatus.PENDING, status_text="pending"),
        ContactExport(
            id="a",
            status=ExportStatus.READY,
            status_text="ready",
            created_at=NOON,
            expires_at=NOON + timedelta(microseconds=1),
            urls=("https://h/p",),
            message="ü",
            contact_count=0,
        ),
        ErrorDetail(message="m", field="f", help="h"),
        Kept(flag=True, path=Path("a/b"), at=NOON, sizes=(1, 2)),
        DownloadedFile(
            number=1,
            url="file:///x",
            path=Path("a"),
            size=1,
            sha256=None,
            etag="e",
            compressed=False,
            verified_by=("length",),
        ),
    ],
    ids=lambda model: type(model).__name__,
)
def test_models_go_to_json_and_back(model: Any) -> None:
    text = json.dumps(encode(model))
    assert decode(type(model), json.loads(text), "The file") == model


def test_times_are_written_in_utc() -> None:
    local = NOON.astimezone(timezone(timedelta(hours=-7)))
    kept = Kept(flag=False, path=Path("a"), at=local)
    assert json.loads(json.dumps(encode(kept))) == {
        "flag": False,
        "path": "a",
        "at": "2026-03-02T12:00:05Z",
        "sizes": [],
    }


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
FIELDS = {field.name: VALUES for field in attrs.fields(ContactExport)} | {"_metadata": VALUES}
TEXTS = {"id": st.text(), "status": st.text()}


@quick
@given(VALUES | st.fixed_dictionaries({}, optional=FIELDS) | st.fixed_dictionaries(FIELDS | TEXTS))
@example({"id": "a", "status": "ready", "contact_count": math.inf})
def test_any_value_is_a_model_or_the_one_error(value: object) -> None:
    for cls in (ContactExport, ExportListing):
        try:
            assert isinstance(decode(cls, value, "The answer"), cls)
        except InvalidResponseError as error:
            assert all(" @ $" in problem for problem in error.problems)  # noqa: PT017
