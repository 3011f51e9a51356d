"""The command's pure parts: durations, sizes, sentences, exit codes, the board and its picture."""

from __future__ import annotations

import builtins
import io
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
)
from sendgrid_exports.cli.bars import draw
from sendgrid_exports.cli.board import Board, Rate
from sendgrid_exports.cli.exits import Exit, Stopped, exit_of, hide_keys, is_resumable
from sendgrid_exports.cli.live import arrived_text
from sendgrid_exports.cli.options import read_duration
from sendgrid_exports.cli.reading import fitting
from sendgrid_exports.cli.wording import (
    bytes_text,
    durable_text,
    duration_text,
    ended,
    plain,
    ready_text,
    sentence,
    status_of,
    time_text,
)

ID = "5f0cf4a3-0000-4000-8000-000000000000"
README = Path(__file__).parents[2] / "README.md"


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("90s", 90), ("30m", 1800), ("1h30m", 5400), ("1.5h", 5400), ("0.5", 0.5)],
)
def test_durations_are_read(text: str, seconds: float) -> None:
    assert read_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "0", "0s", "-1", "1d", "m", "30 m", "1e3", "inf", "nan", "٣"])
def test_other_texts_are_no_durations(text: str) -> None:
    with pytest.raises(ValueError, match="is no duration"):
        read_duration(text)


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1000, "1.0 kB"),
        (99_940, "99.9 kB"),
        (999_400, "999 kB"),
        (999_600, "1.0 MB"),
        (45_600_000, "45.6 MB"),
        (7_000_000_000, "7.0 GB"),
        (7_000_000_000_000, "7000 GB"),
    ],
)
def test_sizes_are_said(size: int, text: str) -> None:
    assert bytes_text(size) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (59.4, "59 s"), (59.6, "1:00"), (185, "3:05"), (3723, "1:02:03")],
)
def test_durations_are_said(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text


def test_a_moment_is_said_with_its_zone() -> None:
    assert time_text(datetime(2026, 3, 2, 9, 30, tzinfo=UTC)) == "2026-03-02 09:30:00 UTC"
    assert time_text(None) == "-"


def test_what_others_wrote_moves_no_cursor() -> None:
    assert plain("a\x1b[2Jb\r\n  c\u202e\0") == "a�[2Jb c��"


def finished(number: int = 1, size: int = 1000) -> FileFinished:
    file = DownloadedFile(
        number=1,
        url="file:///x",
        path=Path(f"exports/{ID}-{number:05}.csv.gz"),
        size=size,
        sha256="0" * 64,
        etag=None,
        compressed=True,
        verified_by=("length", "gzip-crc"),
    )
    return FileFinished(export_id=ID, file=file)


def seen(status: str, files: int = 0, contacts: int | None = None) -> StatusPolled:
    export = ContactExport(
        id=ID,
        status=ExportStatus(status),
        status_text=status,
        urls=tuple(f"https://h/{n}?X-Amz-Signature=s3cr3t" for n in range(files)),
        contact_count=contacts,
    )
    return StatusPolled(export_id=ID, export=export, next_poll=None if status == "ready" else 3.0)


PATH = Path(f"exports/{ID}-00001.csv.gz")
SENTENCES: list[tuple[Event, str | None]] = [
    (ExportStarted(export_id="x"), "Export x has started."),
    (seen("pending"), None),
    (FileStarted(export_id=ID, number=1, path=PATH, size=1), None),
    (BytesReceived(export_id=ID, number=1, path=PATH, received=1, size=1), None),
    (finished(), f"{PATH.name} is there: 1.0 kB, verified by length, gzip-crc."),
    (
        Retrying(export_id=ID, path=PATH, reason="GET https://h/p brought no\nanswer", delay=1.6),
        "Trying 00001.csv.gz again in 2 s: no answer.",
    ),
    (
        Retrying(export_id=None, path=None, reason="429", delay=0.1),
        "Trying again now: 429.",
    ),
    (LinkRenewed(export_id=ID, links=1), "1 link was renewed."),
    (LinkRenewed(export_id=ID, links=2), "2 links were renewed."),
    (
        RunningLate(export_id=ID, seconds_needed=90, seconds_left=30),
        "At this rate the rest takes 1:30, and 30 s are left.",
    ),
    (
        CountMismatch(export_id=ID, expected=1000, counted=999),
        "SendGrid says it exported 1,000 contacts; the files hold 999.",
    ),
]


@pytest.mark.parametrize(("event", "text"), SENTENCES, ids=[type(e).__name__ for e, _ in SENTENCES])
def test_every_event_has_its_sentence(event: Event, text: str | None) -> None:
    assert sentence(event) == text


@pytest.mark.parametrize(
    ("reason", "said"),
    [
        (
            "GET https://h/p brought no complete answer: ClientPayloadError (Response <not> whole)",
            "the answer broke off.",
        ),
        ("GET https://h/p brought no complete answer: Odd (a b)", "no complete answer: Odd (a b)."),
        (
            "SendGrid answered 500 to GET /v3/x: oh. Ask later.",
            "SendGrid answered 500: oh. Ask later.",
        ),
    ],
)
def test_what_broke_is_said_in_other_words_than_aiohttps(reason: str, said: str) -> None:
    event = Retrying(export_id=ID, path=None, reason=reason, delay=0.0)
    assert sentence(event) == f"Trying again now: {said}"


@pytest.mark.parametrize(
    ("status", "word"), [("failure", "Failed after"), ("pending", "Pending for")]
)
def test_how_long_it_was_waited_for(status: str, word: str) -> None:
    export = ContactExport(id="x", status=ExportStatus(status), status_text=status)
    assert ready_text(export, 2.0) == f"{word} 2 s."


@pytest.mark.parametrize("text", ["Is it?", "It is.", "It is"])
def test_a_sentence_ends_once(text: str) -> None:
    assert ended(text) == (text if text != "It is" else "It is.")


def test_no_event_is_forgotten() -> None:
    assert {type(event) for event, _ in SENTENCES} == set(Event.__args__)


@pytest.mark.parametrize(
    ("text", "said"),
    [("ready", "ready"), ("", "pending"), ("held for SG.x.y", "pending"), ("x" * 31, "pending")],
)
def test_a_status_is_said_in_sendgrids_word_where_it_is_one(text: str, said: str) -> None:
    assert status_of(ContactExport(id="x", status=ExportStatus.PENDING, status_text=text)) == said


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


def from_the_disk() -> ValueError:
    error = ValueError("directory is not writable")
    error.__cause__ = PermissionError(13, "no")
    return error


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (click.UsageError("x"), 2),
        (click.BadParameter("x"), 2),
        (ValueError("list_ids"), 2),
        (TypeError("x"), 2),
        (from_the_disk(), 8),
        (OSError(28, "full"), 8),
        (KeyboardInterrupt(), 130),
        (click.Abort(), 130),
        (Stopped(2), 130),
        (Stopped(15), 143),
        (RuntimeError("a fault of ours"), 1),
    ],
)
def test_other_ends_have_their_codes_too(error: BaseException, code: int) -> None:
    assert exit_of(error) == code


def test_what_goes_on_and_what_does_not() -> None:
    assert is_resumable(ExportTimeoutError("x", export_id="x"))
    assert is_resumable(InsufficientDiskSpaceError("x"))
    assert is_resumable(Stopped(2))
    assert not is_resumable(ExportExpiredError("x", export_id="x"))


def test_the_readme_tells_every_code_and_the_errors_behind_it() -> None:
    section = README.read_text().partition("| exit code ")[2]
    rows = re.findall(r"^\| (\d+) \| ([^|]*)\|", section, re.MULTILINE)
    assert {int(code) for code, _ in rows} == {int(code) for code in Exit}
    for code, errors in rows:
        for name in re.findall(r"`(\w+)`", errors):
            kind = getattr(sendgrid_exports, name, None) or getattr(builtins, name)
            assert exit_of(kind.__new__(kind)) == int(code), name


def test_a_key_typed_where_none_belongs_is_hidden() -> None:
    assert hide_keys("extra argument (SG.abc-1.d_ef)") == "extra argument ([redacted])"


@pytest.mark.parametrize(
    ("verified", "expected", "said"),
    [
        (0, 4, "No file is verified yet."),
        (1, 4, "1 of 4 files is verified and stays."),
        (2, 4, "2 of 4 files are verified and stay."),
        (1, 1, "1 of 1 file is verified and stays."),
    ],
)
def test_an_interruption_says_what_stays(verified: int, expected: int, said: str) -> None:
    assert durable_text(verified, expected, 0) == said
    assert durable_text(verified, expected, 1200) == (
        f"{said} Of the files on their way 1.2 kB had arrived; of each of them at most the last "
        "second or 8 MiB is fetched again."
    )


# The board


def received(number: int, count: int, size: int | None = 1000) -> BytesReceived:
    path = Path(f"exports/{ID}-{number:05}.csv.gz")
    return BytesReceived(export_id=ID, number=1, path=path, received=count, size=size)


def begun(number: int, size: int | None = 1000, there: int = 0) -> FileStarted:
    path = Path(f"exports/{ID}-{number:05}.csv.gz")
    return FileStarted(export_id=ID, number=1, path=path, size=size, received=there)


def test_the_board_adds_up() -> None:
    board = Board(began=100.0)
    board.tell(ExportStarted(export_id=ID), 100.0)
    board.tell(seen("pending"), 101.0)
    assert (board.waited, board.next_poll, board.expected, board.size) == (None, 104.0, 0, 0)
    board.tell(seen("ready", files=2, contacts=10), 104.0)
    assert (board.waited, board.next_poll, board.expected) == (4.0, None, 2)
    board.tell(begun(1), 104.0)
    assert (board.size, board.received, board.left(105.0)) == (None, 0, None)
    board.tell(begun(2, there=500), 104.0)
    assert (board.size, board.received) == (2000, 500)
    board.tell(received(1, 250), 105.0)
    board.tell(received(2, 750), 106.0)
    # What an earlier run brought is no speed: 500 bytes in two seconds.
    assert board.rate.value(106.0) == 250.0
    assert board.left(106.0) == 4.0
    board.tell(finished(1), 107.0)
    assert (board.verified, board.received, len(board.active)) == (1, 1750, 1)
    board.tell(Retrying(export_id=ID, path=PATH, reason="r", delay=0), 107.0)
    board.tell(LinkRenewed(export_id=ID, links=2), 107.0)
    assert (board.retries, board.renewals) == (1, 2)


def test_a_file_whose_ending_is_known_later_is_one_file() -> None:
    board = Board(began=0.0)
    board.tell(seen("ready", files=1), 0.0)
    path = Path(f"exports/{ID}-00001.csv")
    board.tell(FileStarted(export_id=ID, number=1, path=path, size=1000, received=300), 0.0)
    board.tell(received(1, 600), 1.0)
    assert [file.name for file in board.active] == [f"{ID}-00001.csv.gz"]
    board.tell(finished(1), 2.0)
    assert (board.expected, board.verified, board.received) == (1, 1, 1000)


def test_a_file_that_starts_over_gives_no_negative_speed() -> None:
    rate = Rate()
    for now, total in [(0.0, 0), (1.0, 100), (2.0, 10), (3.0, 40)]:
        rate.add(now, total)
    assert rate.value(3.0) == 30.0


def test_the_first_bytes_are_no_speed_yet() -> None:
    rate = Rate()
    rate.add(0.0, 0)
    rate.add(0.01, 20_000)
    assert rate.value(0.02) is None
    assert rate.value(1.0) == 20_000


def test_speed_is_that_of_the_last_seconds() -> None:
    rate = Rate()
    for second in range(20):
        rate.add(second, 1000 * min(second, 10))
    assert rate.value(19.0) == 0.0
    assert rate.value(0.0) is None


def test_a_line_says_how_far_it_is() -> None:
    board = Board(began=0.0)
    board.tell(seen("ready", files=1), 0.0)
    board.tell(begun(1, size=4_000_000), 0.0)
    board.tell(received(1, 1_000_000, 4_000_000), 1.0)
    assert arrived_text(board, 1.0) == "1.0 MB of 4.0 MB, 25 %, 1.0 MB/s, 3 s left."
    unknown = Board(began=0.0)
    unknown.tell(begun(1, size=None), 0.0)
    unknown.tell(received(1, 5000, None), 0.0)
    assert arrived_text(unknown, 0.0) == "5.0 kB so far."


def picture(board: Board, width: int, height: int) -> list[str]:
    console = Console(
        file=io.StringIO(), force_terminal=True, width=width, height=height, no_color=True
    )
    with console.capture() as capture:
        console.print(draw(board, now=10.0, height=height))
    return re.sub(r"\x1b\[[\d;]*m", "", capture.get()).splitlines()


def many(files: int) -> Board:
    board = Board(began=0.0)
    board.tell(seen("ready", files=files, contacts=1_234_567), 3.0)
    for number in range(1, files + 1 - files // 4):
        board.tell(begun(number, size=123_456_789), 4.0)
        board.tell(received(number, 3_456_789 * (number % 30), 123_456_789), 9.0)
    for number in range(1, files // 3):
        board.tell(finished(number), 9.5)
    return board


@pytest.mark.parametrize("width", [30, 80, 200])
@pytest.mark.parametrize("height", [10, 24, 100])
@pytest.mark.parametrize("files", [0, 1, 4, 60])
def test_the_picture_stays_within_the_screen(width: int, height: int, files: int) -> None:
    lines = picture(many(files), width, height)
    assert len(lines) < height
    assert max(map(cell_len, lines)) <= width


def test_the_picture_tells_what_is_not_shown() -> None:
    *_, footer = picture(many(60), 100, 24)
    assert footer == (
        "19 of 60 files verified, 8 more under way, 15 waiting, 0 retries, 0 links renewed"
    )


def test_a_bar_has_bytes_speed_and_time_left() -> None:
    board = Board(began=0.0)
    board.tell(seen("ready", files=2, contacts=1), 3.0)
    board.tell(begun(1, size=40_000_000), 4.0)
    board.tell(received(1, 10_000_000, 40_000_000), 5.0)
    board.tell(begun(2, size=5_000_000), 4.0)
    board.tell(received(2, 5_000_000, 5_000_000), 5.0)
    head, status, first, second, whole, _ = picture(board, 80, 24)
    assert head == f"Export {ID}"
    assert status == "Ready after 3 s: 1 contact in 2 files."
    assert first.startswith("00001.csv.gz ━")
    assert first.endswith("10.0/40.0 MB  1.7 MB/s 18 s")
    assert second.split()[2:] == ["5.0/5.0", "MB", "verifying"]
    assert whole.startswith("all")


def test_while_it_waits_the_picture_says_how_long() -> None:
    board = Board(began=4.0)
    assert picture(board, 80, 24) == ["Starting an export", "Waiting for 6 s."]
    board.tell(seen("pending"), 9.0)
    assert picture(board, 80, 24)[1] == "Pending for 6 s. Next look in 2 s."


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
