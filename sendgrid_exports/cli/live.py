"""Showing events as they come: bars on a terminal, lines elsewhere."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from rich.console import Console, RenderableType
from rich.live import Live

from sendgrid_exports import (
    BytesReceived,
    CountMismatch,
    Event,
    ExportStarted,
    FileFinished,
    FileStarted,
    RunningLate,
    StatusPolled,
)
from sendgrid_exports.cli.bars import draw
from sendgrid_exports.cli.board import Board
from sendgrid_exports.cli.wording import bytes_text, duration_text, ready_text, sentence

__all__ = ["Lines", "Screen"]

_FRAMES_A_SECOND = 8
_SECONDS_BETWEEN_BYTES = 5.0
_SECONDS_BETWEEN_LOOKS = 30.0


class Screen:
    """Bars at the foot of a terminal; what goes wrong in passing stays above them."""

    def __init__(self, console: Console) -> None:
        self.board = Board(began=time.monotonic())
        self._console = console
        self._lock = threading.Lock()
        self._live = Live(
            console=console,
            get_renderable=self.picture,
            refresh_per_second=_FRAMES_A_SECOND,
            transient=True,
            redirect_stdout=False,
        )

    def __enter__(self) -> Self:
        self._live.start(refresh=True)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._live.stop()

    def __call__(self, event: Event) -> None:
        """Show what happened."""
        with self._lock:
            self.board.tell(event, time.monotonic())
        if not isinstance(event, ExportStarted | FileFinished) and (text := sentence(event)):
            self._console.print(text, style="yellow", no_wrap=True, overflow="ellipsis")

    def picture(self) -> RenderableType:
        """Return what stands at the foot of the terminal now."""
        # Called in a thread of rich's, so that a slow terminal holds up no download.
        with self._lock:
            return draw(self.board, now=time.monotonic(), height=self._console.height)


class Lines:
    """A line an event, and of bytes and looks one now and then: for logs and pipes."""

    def __init__(self, note: Callable[[str], None], warn: Callable[[str], None]) -> None:
        self.board = Board(began=time.monotonic())
        self._note = note
        self._warn = warn
        self._told = self.board.began
        self._status = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Nothing is open."""

    def __call__(self, event: Event) -> None:
        """Say what happened, if it is time to."""
        now = time.monotonic()
        self.board.tell(event, now)
        text = sentence(event)
        match event:
            case StatusPolled(export=export):
                changed = self._status != export.status_text
                self._status = export.status_text
                if changed or now - self._told >= _SECONDS_BETWEEN_LOOKS:
                    text = ready_text(export, now - self.board.began)
            case FileStarted() | BytesReceived() if now - self._told >= _SECONDS_BETWEEN_BYTES:
                text = arrived_text(self.board, now)
        if text is not None:
            self._told = now
            serious = isinstance(event, RunningLate | CountMismatch)
            (self._warn if serious else self._note)(text)


def arrived_text(board: Board, now: float) -> str:
    """Return how far a download is: `12.3 MB of 45.6 MB, 27 %, 10.2 MB/s, 3 s left.`."""
    parts = [f"{bytes_text(board.received)} so far"]
    if board.size:
        share = 100 * board.received // board.size
        parts = [f"{bytes_text(board.received)} of {bytes_text(board.size)}, {share} %"]
    if rate := board.rate.value(now):
        parts.append(f"{bytes_text(rate)}/s")
    if (left := board.left(now)) is not None:
        parts.append(f"{duration_text(left)} left")
    return ", ".join(parts) + "."
