"""The board as people see it on a terminal: never wider, never higher than the screen. Pure."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from sendgrid_exports.cli.board import Board, FileProgress
from sendgrid_exports.cli.wording import (
    bytes_text,
    count,
    duration_text,
    plain,
    ready_text,
    short_name,
)

__all__ = ["draw"]

# Header, status, the bar for all, the footer, and a line for the cursor.
_LINES_BESIDE_FILES = 6


def _line(text: str, style: str = "") -> Text:
    """Return a text that is cut rather than wrapped."""
    return Text(text, style=style, no_wrap=True, overflow="ellipsis")


def draw(board: Board, *, now: float, height: int) -> RenderableType:
    """Return the picture of a board at `now`, for a screen of `height` lines."""
    return _Picture(board, now).whole(max(1, height - _LINES_BESIDE_FILES))


class _Picture:
    def __init__(self, board: Board, now: float) -> None:
        self._board = board
        self._now = now

    def whole(self, most_files: int) -> RenderableType:
        board = self._board
        name = f"Export {plain(board.export_id)}" if board.export_id else "Starting an export"
        parts: list[RenderableType] = [_line(name, "bold"), _line(self._status())]
        if not board.files:
            return Group(*parts)
        table = Table.grid(padding=(0, 1), expand=True)
        table.add_column(no_wrap=True)
        table.add_column(ratio=1, min_width=4)
        for _ in range(3):
            table.add_column(no_wrap=True, justify="right", overflow="ellipsis")
        active = board.active
        # Files whose bytes still come before those that only wait for their proof.
        shown = sorted(active, key=lambda file: file.arrived)[:most_files]
        for file in sorted(shown, key=lambda file: file.name):
            table.add_row(*self._file(file))
        table.add_row(*self._all())
        return Group(*parts, table, _line(self._footer(len(active) - len(shown)), "dim"))

    def _status(self) -> str:
        board = self._board
        if board.export is None:
            return f"Waiting for {duration_text(self._now - board.began)}."
        if board.waited is not None:
            return ready_text(board.export, board.waited)
        text = ready_text(board.export, self._now - board.began)
        if board.next_poll is None:
            return text
        return f"{text} Next look in {duration_text(max(0.0, board.next_poll - self._now))}."

    def _file(self, file: FileProgress) -> tuple[RenderableType, ...]:
        rate = file.rate.value(self._now)
        left = (file.size - file.received) / rate if file.size is not None and rate else None
        if file.arrived:
            return _row(short_name(file.name), file.received, file.size, "verifying", "", "blue")
        speed = f"{bytes_text(rate)}/s" if rate else ""
        return _row(short_name(file.name), file.received, file.size, speed, _left(left), "cyan")

    def _all(self) -> tuple[RenderableType, ...]:
        board = self._board
        rate = board.rate.value(self._now)
        speed = f"{bytes_text(rate)}/s" if rate else ""
        left = _left(board.left(self._now))
        return _row("all", board.received, board.size, speed, left, "green")

    def _footer(self, hidden: int) -> str:
        board = self._board
        waiting = board.expected - len(board.files)
        parts = [f"{board.verified} of {count(board.expected, 'file')} verified"]
        parts += [f"{hidden} more under way"] if hidden > 0 else []
        parts += [f"{waiting} waiting"] if waiting else []
        parts += ["1 retry" if board.retries == 1 else f"{board.retries} retries"]
        parts += [count(board.renewals, "link") + " renewed"]
        return ", ".join(parts)


def _row(
    name: str, received: int, size: int | None, speed: str, left: str, style: str
) -> tuple[RenderableType, ...]:
    bar = ProgressBar(total=size or None, completed=received, complete_style=style, pulse=False)
    return (Text(name), bar if size else Text(""), _of(received, size), speed, left)


def _of(received: int, size: int | None) -> str:
    """Return both in the unit of the larger: `12.3/45.6 MB`."""
    if size is None:
        return bytes_text(received)
    whole, unit = bytes_text(size).split()
    scale = {"bytes": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9}[unit]
    digits = 1 if "." in whole else 0
    return f"{received / scale:.{digits}f}/{whole} {unit}"


def _left(seconds: float | None) -> str:
    return "" if seconds is None else duration_text(seconds)
