"""Models and events: frozen, keyword-only, and no secret of a link in any of their reprs."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any, get_args

import attrs
import pytest

import sendgrid_exports
from sendgrid_exports import events, models
from sendgrid_exports.events import Event, FileFinished, StatusPolled
from sendgrid_exports.models import (
    ContactExport,
    DownloadedFile,
    DownloadResult,
    ErrorDetail,
    ExportListing,
    ExportMetadata,
    ExportStatus,
    NamedId,
)

LINK = "https://user:s3cr3t@bucket/a.csv.gzip?X-Amz-Credential=s3cr3t&X-Amz-Signature=s3cr3t#s3cr3t"
EXPORT = ContactExport(id="abc", status=ExportStatus.READY, urls=(LINK, LINK, "s3cr3t?"))
LISTING = ExportListing(id="abc", status=ExportStatus.READY, urls=(LINK,))
FILE = DownloadedFile(
    number=1,
    url="file:///x",
    path=Path("a.csv.gz"),
    size=1,
    sha256=None,
    etag=None,
    compressed=True,
    verified_by=("length",),
)
RESULT = DownloadResult(
    export=EXPORT,
    target=Path(),
    files=(FILE,),
    contact_count=1,
    manifest=Path("m.json"),
    manifest_url="file:///m.json",
)
# Enumerations, and the one that is made of three values in order.
OTHERS = {"ExportStatus", "ChangeKind", "FieldChange"}
MODELS = [getattr(models, name) for name in models.__all__ if name not in OTHERS]
EVENTS = list(get_args(Event))


@pytest.mark.parametrize(
    "thing",
    [
        EXPORT,
        LISTING,
        RESULT,
        StatusPolled(export_id="abc", export=EXPORT, next_poll=None),
        FileFinished(export_id="abc", file=FILE),
        (EXPORT, {"listing": LISTING}),
    ],
    ids=lambda thing: type(thing).__name__,
)
def test_no_repr_shows_the_secrets_of_a_link(thing: object) -> None:
    for shown in (repr(thing), str(thing), f"{thing}"):
        assert "s3cr3t" not in shown


def test_a_repr_shows_where_the_links_lead() -> None:
    shown = "('https://bucket/a.csv.gzip?[redacted]',)"
    assert f"urls={shown}" in repr(LISTING)
    assert EXPORT.urls[0] == LINK


def test_no_repr_shows_a_link_in_a_message() -> None:
    failed = attrs.evolve(EXPORT, status=ExportStatus.FAILURE, message=f"could not write {LINK}")
    assert "s3cr3t" not in repr(failed)


@pytest.mark.parametrize("cls", [*MODELS, *EVENTS])
def test_each_is_public_frozen_keyword_only_and_documented(cls: Any) -> None:
    assert getattr(sendgrid_exports, cls.__name__) is cls
    assert cls.__doc__
    fields = attrs.fields(cls)
    assert fields
    assert all(field.kw_only for field in fields)
    values = {field.name: EXPORT if field.name == "export" else None for field in fields}
    thing = cls(**values)
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        setattr(thing, fields[0].name, 1)
    assert {thing, cls(**values)} == {thing}


@pytest.mark.parametrize("thing", [EXPORT, LISTING, RESULT], ids=lambda thing: type(thing).__name__)
def test_each_survives_pickle(thing: object) -> None:
    assert pickle.loads(pickle.dumps(thing)) == thing


@pytest.mark.parametrize(
    ("cls", "names"),
    [
        (
            ContactExport,
            "id status status_text created_at updated_at completed_at expires_at urls message "
            "contact_count metadata",
        ),
        (
            ExportListing,
            "id status status_text created_at completed_at expires_at urls user_id export_type "
            "segments lists",
        ),
        (ExportMetadata, "prev self_ next count"),
        (NamedId, "id name"),
        (ErrorDetail, "message field parameter error_id help"),
        (DownloadResult, "export target files contact_count manifest manifest_url"),
        (DownloadedFile, "number url path size sha256 etag compressed verified_by"),
    ],
)
def test_the_fields_are_those_that_are_documented(cls: type[Any], names: str) -> None:
    assert [field.name for field in attrs.fields(cls)] == names.split()


def test_the_statuses_are_those_that_are_documented() -> None:
    assert [status.value for status in ExportStatus] == ["pending", "ready", "failure"]


@pytest.mark.parametrize("cls", [ContactExport, ExportListing])
def test_an_absent_field_is_none_or_empty(cls: Any) -> None:
    export = attrs.asdict(cls(id="a", status=ExportStatus.PENDING))
    assert (export.pop("id"), export.pop("status")) == ("a", ExportStatus.PENDING)
    assert all(value in (None, "", ()) for value in export.values())


def test_the_stream_of_events_has_every_event() -> None:
    named = {getattr(events, name) for name in events.__all__} - {
        events.Event,
        events.OnEvent,
        events.log,
    }
    assert set(EVENTS) == named


@pytest.mark.parametrize("cls", EVENTS)
def test_no_event_has_a_link_of_its_own(cls: type[Any]) -> None:
    assert not {"url", "urls", "link", "headers"} & {field.name for field in attrs.fields(cls)}
