"""What is said and where: the answer on stdout, progress and errors on stderr."""

from __future__ import annotations

import json
import logging
import os
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TextIO

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from sendgrid_exports.cli.exits import PIPE_CLOSED, Failure
from sendgrid_exports.cli.progress import AccountsProgress, Progress
from sendgrid_exports.cli.text import kept_text, plain, sentence
from sendgrid_exports.decoding import encode
from sendgrid_exports.redaction import redact_text

__all__ = ["Output", "fields_of", "json_text"]

_STYLE: dict[str, Any] = {"highlight": False, "emoji": False, "markup": False}


class _Answers(Console):
    def on_broken_pipe(self) -> None:
        # Not rich's own exit: the command has a code for a reader that leaves.
        raise BrokenPipeError


class _Errors(Console):
    def on_broken_pipe(self) -> None:
        # The work does not depend on a reader of its progress.
        self.quiet = True
        _discard(sys.stderr)

    def _check_buffer(self) -> None:
        try:
            super()._check_buffer()
        except OSError:
            # Nor on room for it, such as on the disk of the logs.
            self.on_broken_pipe()


class Output:
    """How one command speaks; its options set the first three attributes.

    Attributes:
        quiet: only warnings, errors and what was asked for.
        verbose: with logs and tracebacks.
        form: `text`, or `json` for one document on stdout.
        progress: what happened so far, where something was followed.
        resume: returns the command that resumes an export after a failure.
    """

    def __init__(self, errors: Console | None = None, answers: Console | None = None) -> None:
        self.quiet = False
        self.verbose = False
        self.form = "text"
        self.progress: Progress | None = None
        self.resume: Callable[[str], str] | None = None
        self._begun = False
        self._errors = errors or _Errors(stderr=True, **_STYLE)
        self._answers = answers or _Answers(**_STYLE)

    def set_option(self, name: str, value: Any) -> None:
        """Take the value of `--quiet`, `--verbose` or `--output`."""
        setattr(self, name, value)
        if name == "verbose":
            logger = logging.getLogger("sendgrid_exports")
            logger.handlers = [_Handler(self._errors) if value else logging.NullHandler()]
            logger.setLevel(logging.DEBUG if value else logging.WARNING)
            logger.propagate = False

    @property
    def json(self) -> bool:
        """Whether the answer is one JSON document."""
        return self.form == "json"

    @property
    def columns(self) -> int | None:
        """How wide the terminal is on which answers are read, or None where it is a file."""
        return self._answers.width if self._answers.is_terminal else None

    @contextmanager
    def follow(self) -> Iterator[Progress]:
        """Show events while the block runs: call what is yielded with each of them."""
        self.progress = Progress(self._errors, self.note, self.warn, bars=self._draws)
        with self.progress:
            yield self.progress

    def follow_accounts(self) -> AccountsProgress:
        """Return what shows the events of many accounts, in a `with` block."""
        return AccountsProgress(self._errors, self.note, self.warn, bars=self._draws)

    @property
    def _draws(self) -> bool:
        return self._errors.is_terminal and not self._errors.is_dumb_terminal and not self.quiet

    def note(self, text: str) -> None:
        """Print progress, unless it is unwanted."""
        if not self.quiet:
            _say(self._errors, text)

    def warn(self, text: str) -> None:
        """Print what needs attention."""
        _say(self._errors, text, "yellow")

    def line(self, text: str) -> None:
        """Print what is to be copied: never broken, however long."""
        self._errors.print(Text(text), soft_wrap=True)

    def answer(self, text: str) -> None:
        """Print a line of the answer."""
        if not self.json:
            _say(self._answers, text)

    def item(self, text: str) -> None:
        """Print one of several lines of the answer, which a terminal cuts at its edge."""
        self._answers.print(Text(text), no_wrap=True, overflow="ellipsis")

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
                table.add_row(*map(Text, row))
            self._answers.print(table)
            return
        widths = [max(map(len, column)) for column in zip(columns, *cells, strict=True)]
        for row in [list(columns), *cells] if any(columns) else cells:
            padded = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
            _say(self._answers, "  ".join(padded).rstrip())

    def document(self, document: Mapping[str, Any]) -> None:
        """Print the one JSON document, where that is wanted and none has begun."""
        if self.json and not self._begun:
            sys.stdout.write(json_text(document, indent=2) + "\n")

    def objects(
        self, objects: Iterable[Mapping[str, Any]], within: Mapping[str, Any] | None = None
    ) -> None:
        """Print each object on a line of its own; as a document they are one array.

        Args:
            objects: what to print.
            within: in a document, the object whose last member, `changes`, the array is.
        """
        if not self.json:
            for item in objects:
                sys.stdout.write(json_text(item) + "\n")
            return
        head = "" if within is None else json_text(within).removesuffix("}") + ', "changes": '
        between = f"{head}["
        for item in objects:
            # After an error in the middle no second document follows what has begun.
            self._begun = True
            sys.stdout.write(f"{between}\n{json_text(item)}")
            between = ","
        between = "\n" if self._begun else between
        sys.stdout.write(f"{between}]\n" if within is None else f"{between}]}}\n")

    def trace(self, failure: Failure) -> None:
        """Print where a failure comes from, if that is wanted."""
        if self.verbose:
            # Without the values of variables, among which the key is.
            trace = "".join(traceback.format_exception(failure.__cause__)).rstrip()
            self.warn("\n".join(redact_text(row, longest=500) for row in trace.splitlines()))

    def fail(self, error: click.ClickException) -> int:
        """Print why the command failed and how to resume it, and return the exit code."""
        if error.exit_code == PIPE_CLOSED:
            return error.exit_code
        failure = error if isinstance(error, Failure) else None
        message, kind = sentence(redact_text(error.format_message(), longest=2000)), "UsageError"
        if failure is None and (context := getattr(error, "ctx", None)):
            message += f" Try: {context.command_path} --help"
        export_id, line = None, None
        if failure is not None:
            message, kind = failure.message, failure.kind
            progress = self.progress
            export_id = (progress.export_id if progress else None) or failure.export_id
            if failure.interrupted and progress and progress.expected:
                message += (
                    f" {kept_text(progress.verified, progress.expected, progress.unfinished)}"
                )
            if export_id and self.resume and failure.resumable:
                line = self.resume(export_id)
            self.trace(failure)
        _say(self._errors, message, "red")
        if line:
            self.line(f"Resume with: {line}")
        said = {"type": kind, "message": message, "exit_code": int(error.exit_code)}
        try:
            self.document({"error": {**said, "export_id": export_id, "resume": line}})
            sys.stdout.flush()
        except OSError:
            # That may be why it failed; it is said above.
            _discard(sys.stdout)
        return int(error.exit_code)


def _discard(stream: TextIO) -> None:
    """Let what is left for a stream go nowhere: Python would try again at its exit, and fail."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def fields_of(value: object, *without: str) -> dict[str, Any]:
    """Return the fields of an attrs object as JSON has them; links never are among them."""
    fields: dict[str, Any] = encode(value)
    return {name: item for name, item in fields.items() if name not in {"urls", *without}}


def json_text(value: object, indent: int | None = None) -> str:
    """Return a value as JSON that moves no cursor, whatever it holds."""
    # An encoding that lacks letters gets JSON's own escapes.
    unicode = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
    text = json.dumps(value, ensure_ascii=not unicode, indent=indent)
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() or char == "\n" else json.dumps(char)[1:-1] for char in text
    )


def _say(console: Console, text: str, style: str = "") -> None:
    # Whole words on a terminal, one line elsewhere.
    console.print(Text(text, style=style), soft_wrap=not console.is_terminal)


class _Handler(logging.Handler):
    """Prints log records beside the bars."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        # What happened is shown as an event already.
        if not hasattr(record, "event"):
            _say(self._console, plain(f"{record.name}: {record.getMessage()}"), "dim")
