"""The command's pure parts: what scripts depend on (codes, JSON), durations, keys, the picture."""

from __future__ import annotations

import errno
import io
import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import pytest
from rich.cells import cell_len
from rich.console import Console

import sendgrid_exports
from sendgrid_exports import (
    BytesReceived,
    ContactExport,
    CountMismatch,
    DownloadedFile,
    Event,
    ExportExpiredError,
    ExportStarted,
    ExportStatus,
    ExportTimeoutError,
    FileFinished,
    FileStarted,
    InsufficientDiskSpaceError,
    LinkRenewed,
    Retrying,
    RunningLate,
    SendGridExportsError,
    StatusPolled,
    TransportError,
)
from sendgrid_exports.cli.exits import Failure, Terminated, exit_of
from sendgrid_exports.cli.local import fitting
from sendgrid_exports.cli.options import read_duration, read_key
from sendgrid_exports.cli.output import fields_of, json_text
from sendgrid_exports.cli.progress import Progress
from sendgrid_exports.cli.text import (
    duration_text,
    event_text,
    kept_text,
    plain,
    sentence,
    status_of,
    time_text,
)

ID = "5f0cf4a3-0000-4000-8000-000000000000"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("timeout must be a number", "Timeout must be a number."),
        ("can't read it", "Can't read it."),
        ("interrupted", "Interrupted."),
        ("gone: there is no such file.", "Gone: there is no such file."),
        ("backups/b has several", "backups/b has several."),
        ("s3://lake/b is gone!", "s3://lake/b is gone!"),
        ("aabb-00001.csv.gz: it broke off", "aabb-00001.csv.gz: it broke off."),
        ("on_behalf_of must be text", "on_behalf_of must be text."),
    ],
)
def test_a_message_begins_with_a_capital_but_a_name_remains_as_it_is(text: str, shown: str) -> None:
    assert sentence(text) == shown


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("90s", 90), ("30m", 1800), ("1h30m", 5400), ("1.5h", 5400), ("0.5", 0.5)],
)
def test_durations_are_read(text: str, seconds: float) -> None:
    assert read_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "0", "0s", "-1", "1d", "m", "30 m", "1e3", "inf", "nan", "٣"])
def test_other_texts_are_not_durations(text: str) -> None:
    with pytest.raises(ValueError, match="is not a duration"):
        read_duration(text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (59.4, "59 s"), (59.6, "1:00"), (185, "3:05"), (3723, "1:02:03")],
)
def test_durations_are_printed(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text


def test_a_moment_is_printed_with_its_zone() -> None:
    assert time_text(datetime(2026, 3, 2, 9, 30, tzinfo=UTC)) == "2026-03-02 09:30:00 UTC"
    assert time_text(None) == "-"


def test_text_of_others_moves_no_cursor() -> None:
    assert plain("a\x1b[2Jb\r\n  c\u202e\0") == "a�[2Jb c��"


@pytest.mark.parametrize(
    "value", ["\u202e", "\u009b31m", "\x1b[2J", "\ud83d", "a\u2028b", "\U000e0001"]
)
@pytest.mark.parametrize("indent", [None, 2])
def test_json_moves_no_cursor_and_stays_the_same(value: str, indent: int | None) -> None:
    text = json_text({"name": value, "city": "Zürich 😀"}, indent)
    assert text.replace("\n", "").isprintable()
    assert json.loads(text) == {"name": value, "city": "Zürich 😀"}


# The key

KEY = "SG.abc-1.d_ef"


@pytest.mark.parametrize("data", [KEY, f"\n {KEY}\r\n", "another-key"])
def test_a_key_is_read(data: str) -> None:
    assert read_key(data.encode(), "key.txt") == data.strip()


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        (b"", "must hold an API key and nothing else"),
        (f"{KEY} {KEY}".encode(), "must hold an API key and nothing else"),
        (KEY.encode("utf-16"), "is in UTF-16"),
        (KEY.encode("utf-16-be"), "is in UTF-16"),
        (KEY.encode("utf-8-sig"), "begins with a byte order mark"),
        (f"Bearer {KEY}".encode(), "begins with Bearer"),
        (f"SENDGRID_API_KEY={KEY}".encode(), "has NAME= in front of the API key"),
        (f"export SENDGRID_API_KEY = '{KEY}'".encode(), "has NAME= in front of the API key"),
        (f'"{KEY}"'.encode(), "has quotes around the API key"),
        (f"'{KEY}".encode(), "has quotes around the API key"),
        (f"“{KEY}”".encode(), "has quotes around the API key"),
    ],
)
def test_what_is_wrong_with_a_key_is_named_and_the_key_is_not(data: bytes, fault: str) -> None:
    with pytest.raises(click.UsageError, match=f"^key.txt {fault}") as caught:
        read_key(data, "key.txt")
    assert "abc" not in str(caught.value)


# Events


def finished(number: int = 1, size: int = 1000) -> FileFinished:
    file = DownloadedFile(
        number=number,
        url="file:///x",
        path=Path(f"exports/{ID}-{number:05}.csv.gz"),
        size=size,
        sha256="0" * 64,
        etag=None,
        compressed=True,
        verified_by=("length", "gzip-crc"),
    )
    return FileFinished(export_id=ID, file=file)


def polled(status: str, files: int = 0, contacts: int | None = None) -> StatusPolled:
    export = ContactExport(
        id=ID,
        status=ExportStatus(status),
        status_text=status,
        urls=tuple(f"https://h/{n}?X-Amz-Signature=s3cr3t" for n in range(files)),
        contact_count=contacts,
    )
    return StatusPolled(export_id=ID, export=export, next_poll=None if status == "ready" else 3.0)


PATH = Path(f"exports/{ID}-00001.csv.gz")


def retrying(reason: str, path: Path | None = PATH) -> Retrying:
    number = None if path is None else 1
    return Retrying(export_id=ID, number=number, path=path, reason=reason, delay=0)


@pytest.mark.parametrize(
    ("reason", "text"),
    [
        (
            "GET https://h/p brought no complete answer: ClientConnectorDNSError (Cannot connect "
            "to host h:443 [Name or service not known])",
            "Retrying 00001.csv.gz now: the host name can't be resolved.",
        ),
        (
            "GET https://h/p brought no complete answer: ClientPayloadError (Response <not> whole)",
            "Retrying 00001.csv.gz now: the connection closed mid-response.",
        ),
        ("SendGrid said:\n\x1b[2J 429", "Retrying 00001.csv.gz now: SendGrid said: �[2J 429."),
    ],
)
def test_the_cause_of_a_retry_fits_a_line_of_80_columns(reason: str, text: str) -> None:
    assert event_text(retrying(reason)) == text
    assert len(text) <= 80


def test_the_cause_stands_before_the_request_that_failed() -> None:
    error = TransportError(
        "GET https://h/p brought no complete answer: ClientConnectorDNSError (Cannot connect)",
        request_sent=False,
        transient=True,
    )
    assert Failure(error).message.startswith("The host name can't be resolved: GET https://h/p ")


@pytest.mark.parametrize(
    ("text", "said"),
    [("ready", "ready"), ("", "pending"), ("held for SG.x.y", "pending"), ("x" * 31, "pending")],
)
def test_a_status_is_sendgrids_word_where_it_is_one(text: str, said: str) -> None:
    assert status_of(ContactExport(id="x", status=ExportStatus.PENDING, status_text=text)) == said


def test_no_link_gets_into_a_document() -> None:
    assert "s3cr3t" not in json.dumps(fields_of(polled("ready", files=2).export))
    assert "urls" not in fields_of(polled("ready", files=2).export)


# Exit codes

CODES = {
    "AuthenticationError": 3,
    "PermissionDeniedError": 3,
    "ExportFailedError": 4,
    "ExportExpiredError": 5,
    "ExportNotFoundError": 5,
    "ExportTimeoutError": 6,
    "CorruptDownloadError": 7,
    "InsufficientDiskSpaceError": 8,
    "IncompleteDownloadError": 9,
    "RateLimitedError": 9,
    "ServerError": 9,
    "TransportError": 9,
    "DownloadInProgressError": 10,
    "InvalidRequestError": 1,
    "InvalidResponseError": 1,
    "ExportNotReadyError": 1,
    "DownloadError": 1,
}


def test_every_error_has_its_code() -> None:
    abstract = {"SendGridExportsError", "APIError", "ExportError"}
    names = {name for name in sendgrid_exports.__all__ if name.endswith("Error")} - abstract
    assert names == set(CODES)
    for name, code in CODES.items():
        error: SendGridExportsError = getattr(sendgrid_exports, name).__new__(
            getattr(sendgrid_exports, name)
        )
        assert exit_of(error) == code, name


def behind(cause: OSError) -> ValueError:
    error = ValueError("directory can't be used")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ValueError("list_ids"), 2),
        (TypeError("x"), 2),
        (behind(PermissionError(13, "no")), 8),
        (behind(NotADirectoryError(20, "no")), 2),
        (NotADirectoryError(20, "no"), 2),
        (OSError(28, "full"), 8),
        (KeyboardInterrupt(), 130),
        (click.Abort(), 130),
        (Terminated(), 143),
        (BrokenPipeError(), 141),
        (RuntimeError("a bug"), 1),
    ],
)
def test_other_ends_have_their_codes_too(error: BaseException, code: int) -> None:
    assert Failure(error).exit_code == code


def test_what_can_be_resumed() -> None:
    assert Failure(ExportTimeoutError("x", export_id="x")).resumable
    assert Failure(InsufficientDiskSpaceError("x")).resumable
    assert Failure(Terminated()).resumable
    assert not Failure(ExportExpiredError("x", export_id="x")).resumable


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        (OSError(errno.EFBIG, "File too large", "some/file"), "--max-file-size"),
        (OSError(errno.EFBIG, "File too large", "some/file"), "some/file"),
        (
            FileNotFoundError(2, "No usable temporary directory found in ['/tmp']"),
            "Set TMPDIR to a directory",
        ),
        (RuntimeError("can't start new thread"), "ulimit -u"),
    ],
)
def test_what_the_system_lacks_is_named_with_what_to_do(error: Exception, advice: str) -> None:
    message = Failure(error).message
    assert advice in message
    assert "bug" not in message


def test_a_bug_shows_no_key() -> None:
    assert KEY not in Failure(RuntimeError(f"extra argument ({KEY})")).message


@pytest.mark.parametrize(
    ("verified", "expected", "said"),
    [(0, 4, "0 of 4 files are verified."), (1, 1, "1 of 1 file is verified.")],
)
def test_an_interruption_says_what_is_kept(verified: int, expected: int, said: str) -> None:
    assert kept_text(verified, expected, 0) == said
    assert kept_text(verified, expected, 1200).startswith(f"{said} 1.2 kB of unfinished files")


# Progress


def received(number: int, count: int, size: int | None = 1000) -> BytesReceived:
    path = Path(f"exports/{ID}-{number:05}.csv.gz")
    return BytesReceived(export_id=ID, number=number, path=path, received=count, size=size)


def begun(number: int, size: int | None = 1000, there: int = 0) -> FileStarted:
    path = Path(f"exports/{ID}-{number:05}.csv.gz")
    return FileStarted(export_id=ID, number=number, path=path, size=size, received=there)


class Screen:
    """Progress on a screen of a size; time is given by hand."""

    def __init__(self, width: int = 80, height: int = 24, *, bars: bool = True) -> None:
        self.now = 0.0
        self.console = Console(
            file=io.StringIO(),
            force_terminal=True,
            width=width,
            height=height,
            no_color=True,
            get_time=lambda: self.now,
        )
        self.notes: list[str] = []
        self.warnings: list[str] = []
        self.progress = Progress(
            self.console, self.notes.append, self.warnings.append, bars=bars, clock=lambda: self.now
        )

    def tell(self, *events: Event, at: float = 0.0) -> None:
        self.now = at
        for event in events:
            self.progress(event)

    def picture(self) -> list[str]:
        with self.console.capture() as capture:
            self.console.print(self.progress.picture())
        return re.sub(r"\x1b\[[\d;]*m", "", capture.get()).splitlines()


def test_progress_adds_up() -> None:
    screen = Screen()
    progress = screen.progress
    screen.tell(ExportStarted(export_id=ID), polled("pending"), at=1)
    assert (progress.export_id, progress.expected) == (ID, 0)
    screen.tell(polled("ready", files=2, contacts=10), begun(1), at=4)
    screen.tell(begun(2, there=500), received(1, 250), at=5)
    assert (progress.expected, progress.verified, progress.unfinished) == (2, 0, 750)
    screen.tell(received(2, 750), at=6)
    *_, total, status = screen.picture()
    # What an earlier run received does not count as speed: 500 bytes in two seconds.
    assert re.search(r"1\.0/2\.0 kB +250 bytes/s +00:04$", total)
    assert status == "0 of 2 files verified, 0 retries, 0 links renewed"
    screen.tell(finished(1), retrying("r"), LinkRenewed(export_id=ID, links=2), at=7)
    assert (progress.verified, progress.unfinished) == (1, 750)
    *_, status = screen.picture()
    assert status == "1 of 2 files verified, 1 retry, 2 links renewed"


def test_a_file_whose_suffix_is_known_later_is_one_file() -> None:
    screen = Screen()
    path = Path(f"exports/{ID}-00001.csv")
    screen.tell(
        polled("ready", files=1),
        FileStarted(export_id=ID, number=1, path=path, size=1000, received=300),
    )
    screen.tell(received(1, 600), at=1)
    assert [line.split()[0] for line in screen.picture()[1:-1]] == ["00001.csv.gz", "all"]
    screen.tell(finished(1), at=2)
    assert (screen.progress.expected, screen.progress.verified) == (1, 1)


def test_a_file_that_starts_over_gives_no_negative_speed() -> None:
    screen = Screen()
    screen.tell(polled("ready", files=1), begun(1, size=10_000))
    for at, total in [(1, 5000), (2, 10), (3, 500)]:
        screen.tell(received(1, total, 10_000), at=at)
    assert "-" not in screen.picture()[1].replace("--:--", "").partition("━")[2]
    assert screen.progress.unfinished == 500


def many(screen: Screen, files: int) -> None:
    screen.tell(polled("ready", files=files, contacts=1_234_567), at=3)
    for number in range(1, files + 1 - files // 4):
        screen.tell(begun(number, size=123_456_789), at=4)
        screen.tell(received(number, 3_456_789 * (number % 30), 123_456_789), at=9)
    for number in range(1, files // 3):
        screen.tell(finished(number), at=9.5)
    screen.now = 10


@pytest.mark.parametrize("width", [30, 80, 200])
@pytest.mark.parametrize("height", [10, 24, 100])
@pytest.mark.parametrize("files", [0, 1, 4, 60])
def test_the_picture_stays_within_the_screen(width: int, height: int, files: int) -> None:
    screen = Screen(width, height)
    many(screen, files)
    lines = screen.picture()
    assert len(lines) < height
    assert max(map(cell_len, lines)) <= width


def test_the_picture_tells_what_is_not_shown() -> None:
    screen = Screen(100, 24)
    many(screen, 60)
    *_, status = screen.picture()
    assert status == "19 of 60 files verified, 7 more in progress, 0 retries, 0 links renewed"


def test_a_bar_has_bytes_speed_and_time_left() -> None:
    screen = Screen()
    screen.tell(polled("ready", files=2, contacts=1), at=3)
    screen.tell(begun(1, size=40_000_000), begun(2, size=5_000_000), at=4)
    screen.tell(received(1, 5_000_000, 40_000_000), at=5)
    screen.tell(received(1, 10_000_000, 40_000_000), received(2, 5_000_000, 5_000_000), at=6)
    head, first, second, whole, _ = screen.picture()
    assert head == f"Export {ID}, 1 contact"
    assert re.match(r"00001\.csv\.gz +━", first)
    assert re.search(r"10\.0/40\.0 MB +5\.0 MB/s +00:06$", first)
    assert re.search(r"5\.0/5\.0 MB +verifying", second)
    assert whole.startswith("all ")


def test_while_it_waits_the_picture_says_how_long() -> None:
    screen = Screen()
    screen.now = 6
    assert [screen.picture()[0], screen.picture()[-1]] == ["Starting an export", "Waiting for 6 s."]
    screen.tell(polled("pending"), at=6)
    screen.now = 7
    assert screen.picture()[-1] == "Pending for 7 s, next poll in 2 s."


def test_lines_are_as_few_as_a_log_needs() -> None:
    screen = Screen(bars=False)
    screen.tell(ExportStarted(export_id=ID))
    for at in range(0, 45, 3):
        screen.tell(polled("pending"), at=at)
    assert screen.notes == [f"Export {ID} started.", "Pending after 0 s.", "Pending after 30 s."]
    del screen.notes[:]
    screen.tell(polled("ready", files=1, contacts=7), begun(1, 4000), at=50)
    for at in range(51, 54):
        screen.tell(received(1, 1000 * (at - 50), 4000), at=at)
    screen.tell(received(1, 3500, 4000), at=56)
    screen.tell(finished(1), at=57)
    ready, progress, done = screen.notes
    assert ready == "Ready after 50 s: 7 contacts in 1 file."
    assert re.fullmatch(r"3\.5 kB of 4\.0 kB, 87 %, \d+ bytes/s, \d+ s left\.", progress)
    assert done == "Downloaded and verified 00001.csv.gz."


@pytest.mark.parametrize("bars", [True, False])
@pytest.mark.parametrize(
    "event",
    [
        RunningLate(export_id=ID, seconds_needed=90, seconds_left=30),
        CountMismatch(export_id=ID, expected=1000, counted=999),
    ],
)
def test_what_is_serious_is_a_warning(event: Event, bars: bool) -> None:
    screen = Screen(bars=bars)
    with screen.console.capture() as capture:
        screen.tell(event)
    assert screen.warnings == [] if bars else [str(event)]
    assert (str(event)[:40] in capture.get()) == bars


ROWS: list[dict[str, Any]] = [
    {"EMAIL": "a@example.org", "PHONE_NUMBER": "", "CITY": "Zürich"},
    {"EMAIL": "", "PHONE_NUMBER": "", "CITY": "x" * 99, "lists": ["a"]},
]


@pytest.mark.parametrize(
    ("width", "columns"),
    [
        (200, ["EMAIL", "CITY", "lists"]),
        # 13, 36 where a value is cut, and 5, with two more for each.
        (60, ["EMAIL", "CITY", "lists"]),
        (59, ["EMAIL", "CITY"]),
        (15, ["EMAIL"]),
        (14, []),
    ],
)
def test_columns_with_values_are_shown_as_far_as_they_fit(width: int, columns: list[str]) -> None:
    found, cells = fitting(ROWS, width)
    assert found == columns
    assert all(len(row) == len(columns) for row in cells)
    assert all(cell_len(cell) <= 36 for row in cells for cell in row)


def test_an_id_is_shown_whole() -> None:
    assert fitting([{"CONTACT_ID": ID}], 80) == (["CONTACT_ID"], [[ID]])
