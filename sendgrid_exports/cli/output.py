"""What is said and where: the answer on stdout, the way to it on stderr."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from sendgrid_exports.cli.board import Board
from sendgrid_exports.cli.live import Lines, Screen
from sendgrid_exports.cli.wording import plain

__all__ = ["Output"]

_LOGGER = "sendgrid_exports"


class _Console(Console):
    def on_broken_pipe(self) -> None:
        # Not rich's own exit: the command has a code for a reader that leaves.
        raise BrokenPipeError


class Output:
    """How one command speaks.

    Attributes:
        quiet: only warnings, errors and what was asked for.
        verbose: with logs and tracebacks.
        json: whether the answer is one JSON document.
        board: what happened so far, where something was followed.
        goes_on: the command that goes on after a failure; the id takes the place of `ID`.
        errors: stderr, for people.
    """

    def __init__(self, *, quiet: bool = False, verbose: bool = False, form: str = "text") -> None:
        self.quiet = quiet
        self.verbose = verbose
        self.json = form == "json"
        self.board: Board | None = None
        self.goes_on: list[str] = []
        self._begun = False
        self.errors = Console(stderr=True, highlight=False, emoji=False, markup=False)
        self._answers = _Console(highlight=False, emoji=False, markup=False)
        logger = logging.getLogger(_LOGGER)
        logger.handlers = [_Handler(self.errors) if verbose else logging.NullHandler()]
        logger.setLevel(logging.DEBUG if verbose else logging.WARNING)
        logger.propagate = False

    @contextmanager
    def following(self) -> Iterator[Screen | Lines]:
        """Show events while the block runs: call what is yielded with each of them."""
        show: Screen | Lines
        if self.errors.is_terminal and not self.errors.is_dumb_terminal and not self.quiet:
            show = Screen(self.errors)
        else:
            show = Lines(self.note, self.warn)
        self.board = show.board
        with show:
            yield show

    def note(self, text: str) -> None:
        """Say how it goes, unless that is unwanted."""
        if not self.quiet:
            say(self.errors, text)

    def warn(self, text: str) -> None:
        """Say what has to be heard."""
        say(self.errors, text, "yellow")

    def fail(self, text: str) -> None:
        """Say why it failed."""
        say(self.errors, text, "red")

    def line(self, text: str) -> None:
        """Print what is to be copied: never broken by us, however long."""
        self.errors.print(Text(text), soft_wrap=True)

    def answer(self, text: str) -> None:
        """Print a line of the answer."""
        if not self.json:
            say(self._answers, text)

    def item(self, text: str) -> None:
        """Print one of many lines of the answer, which a terminal cuts at its edge."""
        self._answers.print(
            Text(text),
            no_wrap=True,
            overflow="ellipsis",
            soft_wrap=not self._answers.is_terminal,
        )

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Print a table: drawn on a terminal, elsewhere plain lines of any width."""
        if self.json:
            return
        cells = [[plain(cell) for cell in row] for row in rows]
        if self._answers.is_terminal:
            table = Table(
                box=None,
                pad_edge=False,
                padding=(0, 2, 0, 0),
                header_style="bold",
                show_header=any(columns),
            )
            for column in columns:
                table.add_column(column, overflow="ellipsis", no_wrap=True)
            for row in cells:
                table.add_row(*(Text(cell) for cell in row))
            self._answers.print(table)
            return
        widths = [max(map(len, column)) for column in zip(columns, *cells, strict=True)]
        for row in [list(columns), *cells] if any(columns) else cells:
            padded = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
            say(self._answers, "  ".join(padded).rstrip())

    @property
    def columns(self) -> int | None:
        """How wide the terminal is on which answers are read, or None where it is none."""
        return self._answers.width if self._answers.is_terminal else None

    def document(self, document: Mapping[str, Any]) -> None:
        """Print the one JSON document, where that is wanted and none has begun."""
        if self.json and not self._begun:
            _write(document, indent=2)
            sys.stdout.write("\n")

    def objects(
        self, objects: Iterable[Mapping[str, Any]], within: Mapping[str, Any] | None = None
    ) -> None:
        """Print each object on a line of its own; as a document they are one array.

        Args:
            objects: what to print.
            within: in a document, the object whose last member, `changes`, the array is.
        """
        between = "[\n" if self.json else ""
        if self.json and within is not None:
            between = json.dumps(within).removesuffix("}") + ', "changes": [\n'
        for item in objects:
            # After an error in the middle no second document follows what has begun.
            self._begun = True
            sys.stdout.write(between)
            _write(item)
            between = ",\n" if self.json else "\n"
        if self.json:
            start = "\n" if self._begun else between
            sys.stdout.write(f"{start}]\n" if within is None else f"{start}]}}\n")
        elif self._begun:
            sys.stdout.write("\n")


def say(console: Console, text: str, style: str = "") -> None:
    """Print a text: its words whole on a terminal, on one line elsewhere."""
    console.print(Text(text, style=style), soft_wrap=not console.is_terminal)


def _write(value: object, indent: int | None = None) -> None:
    # What else cannot be encoded, half a surrogate pair, is written as JSON's own escape.
    speaks_unicode = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
    sys.stdout.write(json.dumps(value, ensure_ascii=not speaks_unicode, indent=indent))


class _Handler(logging.Handler):
    """Prints log records beside the bars."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        # What happened is shown as an event already.
        if not hasattr(record, "event"):
            say(self._console, plain(f"{record.name}: {record.getMessage()}"), "dim")
