"""What is logged: under one name, with the fields as extras, by no handler of ours."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import attrs
import pytest

from sendgrid_exports import (
    BytesReceived,
    ContactExport,
    CountMismatch,
    DownloadedFile,
    Event,
    ExportStarted,
    ExportStatus,
    FileFinished,
    FileStarted,
    LinkRenewed,
    Retrying,
    RunningLate,
    StatusPolled,
)
from sendgrid_exports.events import log

PATH = Path("exports/x-00001.csv.gz")
FILE = DownloadedFile(
    number=1,
    url="file:///exports/x-00001.csv.gz",
    path=PATH,
    size=10,
    sha256=None,
    etag=None,
    compressed=True,
    verified_by=("length",),
)
LINK = "https://h/p?X-Amz-Signature=s3cr3t"


def seen(status: str, text: str = "") -> StatusPolled:
    export = ContactExport(
        id="x", status=ExportStatus(status), status_text=text or status, urls=(LINK, LINK)
    )
    return StatusPolled(export_id="x", export=export, next_poll=None)


TOLD: list[tuple[Event, int, str, dict[str, Any]]] = [
    (ExportStarted(export_id="x"), logging.INFO, "Export x started.", {}),
    (seen("pending"), logging.DEBUG, "Export x is pending.", {"status": "pending"}),
    (seen("ready"), logging.INFO, "Export x is ready.", {"files": 2, "contacts": None}),
    (
        seen("pending", f"see {LINK}"),
        logging.DEBUG,
        "Export x is see https://h/p?[redacted].",
        {"status": "see https://h/p?[redacted]"},
    ),
    (
        FileStarted(export_id="x", number=1, path=PATH, size=10),
        logging.DEBUG,
        "Downloading x-00001.csv.gz of 10 bytes.",
        {"path": str(PATH), "size": 10, "received": 0},
    ),
    (
        FileFinished(export_id="x", file=FILE),
        logging.INFO,
        "Downloaded and verified x-00001.csv.gz.",
        {"path": str(PATH), "size": 10, "verified_by": ("length",)},
    ),
    (LinkRenewed(export_id="x", links=2), logging.INFO, "Renewed 2 links.", {"links": 2}),
    (
        Retrying(export_id="x", number=1, path=PATH, reason="a reset", delay=0.5),
        logging.INFO,
        "Retrying x-00001.csv.gz in 0.5 s: a reset",
        {"path": str(PATH), "reason": "a reset", "delay": 0.5},
    ),
    (
        Retrying(export_id=None, path=None, reason="429", delay=1.0),
        logging.INFO,
        "Retrying in 1.0 s: 429",
        {"path": None, "export_id": None},
    ),
    (
        RunningLate(export_id="x", seconds_needed=90.0, seconds_left=30.0),
        logging.WARNING,
        "Export x needs 90 s more at this rate, and 30 s are left.",
        {"seconds_needed": 90.0, "seconds_left": 30.0},
    ),
    (
        CountMismatch(export_id="x", expected=2, counted=1),
        logging.WARNING,
        "SendGrid says that export x has 2 contacts; its files hold 1.",
        {"expected": 2, "counted": 1},
    ),
]


@pytest.mark.parametrize(("event", "level", "message", "extras"), TOLD)
def test_every_event_is_a_record_with_its_fields(
    caplog: pytest.LogCaptureFixture,
    event: Event,
    level: int,
    message: str,
    extras: dict[str, Any],
) -> None:
    caplog.set_level(logging.DEBUG, logger="sendgrid_exports")
    log(event)
    [record] = caplog.records
    assert (record.name, record.levelno) == ("sendgrid_exports", level)
    assert record.getMessage() == message
    told = vars(record)
    assert told["event"] == type(event).__name__
    expected = {"export_id": event.export_id, **extras}
    assert {name: told[name] for name in expected} == expected
    assert "s3cr3t" not in repr(told)


@pytest.mark.parametrize("event", [event for event, *_ in TOLD])
def test_an_event_of_an_account_names_it_in_its_line_and_in_the_log(
    caplog: pytest.LogCaptureFixture, event: Event
) -> None:
    caplog.set_level(logging.DEBUG, logger="sendgrid_exports")
    named = attrs.evolve(event, account="agency")
    assert str(named) == f"agency: {event}"
    log(event)
    log(named)
    without, record = caplog.records
    assert not hasattr(without, "account")
    assert vars(record)["account"] == "agency"


def test_a_finished_file_has_its_number_as_other_events_about_files_have() -> None:
    assert FileFinished(export_id="x", file=attrs.evolve(FILE, number=3)).number == 3


def test_bytes_are_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="sendgrid_exports")
    log(BytesReceived(export_id="x", number=1, path=PATH, received=1, size=2))
    assert caplog.records == []


def test_no_other_event_is_forgotten() -> None:
    told = {type(event) for event, *_ in TOLD} | {BytesReceived}
    assert told == set(Event.__args__)


def test_there_is_no_handler_of_ours() -> None:
    # In a process of its own: the command sets handlers, which it may.
    code = """
import logging
import sendgrid_exports.client
for name in ("sendgrid_exports", "sendgrid_exports.api"):
    logger = logging.getLogger(name)
    assert (logger.handlers, logger.level, logger.propagate) == ([], logging.NOTSET, True), name
"""
    subprocess.run([sys.executable, "-c", code], check=True)
