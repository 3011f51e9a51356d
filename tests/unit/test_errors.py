"""The tree of errors, and that each of them survives pickle and copy as it is."""

from __future__ import annotations

import copy
import errno
import pickle
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

import sendgrid_exports
from sendgrid_exports import errors
from sendgrid_exports.errors import (
    APIError,
    DownloadError,
    ExportError,
    ExportTimeoutError,
    InsufficientDiskSpaceError,
    InvalidResponseError,
    SendGridExportsError,
    TransportError,
)
from sendgrid_exports.models import ContactExport, ErrorDetail, ExportStatus

TREE: dict[str, tuple[str, ...]] = {
    "SendGridExportsError": ("Exception",),
    "APIError": ("SendGridExportsError",),
    "InvalidRequestError": ("APIError",),
    "AuthenticationError": ("APIError",),
    "PermissionDeniedError": ("APIError",),
    "ExportNotFoundError": ("APIError",),
    "RateLimitedError": ("APIError",),
    "ServerError": ("APIError",),
    "TransportError": ("SendGridExportsError",),
    "InvalidResponseError": ("SendGridExportsError",),
    "ExportError": ("SendGridExportsError",),
    "ExportFailedError": ("ExportError",),
    "ExportTimeoutError": ("ExportError", "TimeoutError"),
    "ExportExpiredError": ("ExportError",),
    "ExportNotReadyError": ("ExportError",),
    "DownloadError": ("SendGridExportsError",),
    "IncompleteDownloadError": ("DownloadError",),
    "CorruptDownloadError": ("DownloadError",),
    "DownloadInProgressError": ("DownloadError",),
    "InsufficientDiskSpaceError": ("DownloadError", "OSError"),
}
CLASSES: list[type[SendGridExportsError]] = [getattr(errors, name) for name in errors.__all__]
MESSAGE = "Seen ü, meaning 50 %, do {this}.\nAnd that."
EXPORT = ContactExport(
    id="abc",
    status=ExportStatus.PENDING,
    created_at=datetime(2026, 3, 2, tzinfo=UTC),
    urls=("https://h/p?X-Amz-Signature=s3cr3t",),
)
FULL: list[tuple[type[SendGridExportsError], dict[str, Any]]] = [
    (
        APIError,
        {
            "status": 429,
            "errors": (ErrorDetail(message="m", field="f", parameter="p", error_id="i", help="h"),),
            "retry_after": 1.5,
            "request_id": "r",
        },
    ),
    (TransportError, {"request_sent": False, "transient": False}),
    (InvalidResponseError, {"problems": ("bad @ $.a", "worse @ $.b")}),
    (ExportError, {"export_id": "abc", "export": EXPORT}),
    (InsufficientDiskSpaceError, {"path": Path("exports/a.csv.gz")}),
    (DownloadError, {"path": Path("a"), "url": "https://h/p", "status": 404, "code": "NoSuchKey"}),
    (SendGridExportsError, {}),
]
LEAST: dict[type[SendGridExportsError], dict[str, Any]] = {
    APIError: {"status": 500},
    ExportError: {"export_id": "abc"},
}
COPIES: list[Callable[[Any], Any]] = [
    copy.copy,
    copy.deepcopy,
    *(
        lambda error, protocol=protocol: pickle.loads(pickle.dumps(error, protocol))
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1)
    ),
]


def arguments(cls: type[SendGridExportsError]) -> dict[str, Any]:
    """All keywords of a class, with a value other than the default."""
    return next(keywords for base, keywords in FULL if issubclass(cls, base))


def check_same(copied: SendGridExportsError, error: SendGridExportsError) -> None:
    assert type(copied) is type(error)
    assert str(copied) == copied.message == str(error)
    assert copied.args == error.args
    assert vars(copied) == vars(error)
    assert getattr(copied, "errno", None) == getattr(error, "errno", None)


def test_the_tree_is_the_one_that_is_drawn() -> None:
    tree = {cls.__name__: tuple(base.__name__ for base in cls.__bases__) for cls in CLASSES}
    assert tree == TREE
    defined = {name for name, item in vars(errors).items() if isinstance(item, type)}
    assert {name for name in defined if name.endswith("Error")} == set(TREE)


def test_the_drawing_names_every_class_below_its_parent() -> None:
    drawing = (errors.__doc__ or "").splitlines()
    parents: list[str] = []
    drawn = {}
    for line in drawing:
        name = next((word for word in line.split() if word.endswith("Error")), None)
        if name is not None:
            depth = (line.index(name) - 4) // 4
            parents[depth:] = [name]
            drawn[name] = parents[depth - 1] if depth else "Exception"
    assert drawn == {name: bases[0] for name, bases in TREE.items()}


@pytest.mark.parametrize("cls", CLASSES)
def test_each_is_public_and_documented(cls: type[SendGridExportsError]) -> None:
    assert getattr(sendgrid_exports, cls.__name__) is cls
    assert cls.__name__ in sendgrid_exports.__all__
    assert cls.__doc__


@pytest.mark.parametrize("cls", CLASSES)
def test_each_survives_pickle_and_copy(cls: type[SendGridExportsError]) -> None:
    error = cls(MESSAGE, **arguments(cls))
    error.add_note("a note")
    error.add_note("another")
    for copying in COPIES:
        copied = copying(error)
        check_same(copied, error)
        assert copied.__notes__ == ["a note", "another"]
        kept = {name: value for name, value in arguments(cls).items() if name != "export"}
        assert kept.items() <= vars(copied).items()
        check_same(copying(copied), error)


@pytest.mark.parametrize("cls", CLASSES)
def test_each_survives_with_the_least_it_needs(cls: type[SendGridExportsError]) -> None:
    least = next((keywords for base, keywords in LEAST.items() if issubclass(cls, base)), {})
    error = cls("", **least)
    for copying in COPIES:
        check_same(copying(error), error)
        assert not hasattr(copying(error), "__notes__")


@pytest.mark.parametrize("cls", CLASSES)
def test_the_text_is_the_message_and_shows_no_secret(cls: type[SendGridExportsError]) -> None:
    error = cls(MESSAGE, **arguments(cls))
    assert str(error) == f"{error}" == error.message == MESSAGE
    assert error.args == (MESSAGE,)
    assert "s3cr3t" not in f"{error!r} {vars(error)}"
    assert b"s3cr3t" not in pickle.dumps(error)


@pytest.mark.parametrize("cls", CLASSES)
def test_details_are_keyword_only(cls: type[SendGridExportsError]) -> None:
    with pytest.raises(TypeError):
        cls(MESSAGE, "detail")  # type: ignore[call-arg]


def test_what_is_expected_by_the_standard_bases() -> None:
    late = ExportTimeoutError("late", export_id="abc")
    full = InsufficientDiskSpaceError("full", path=Path("a"))
    assert isinstance(late, TimeoutError)
    assert isinstance(full, OSError)
    assert (full.errno, full.url, full.status, full.code) == (errno.ENOSPC, None, None, None)


def test_subclasses_of_others_survive_too() -> None:
    error = DerivedError("mine", status=418)
    check_same(pickle.loads(pickle.dumps(error)), error)


class DerivedError(APIError):
    """What a user may derive."""
