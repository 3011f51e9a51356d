"""The command as a whole: its help, and what is said and returned when a command fails."""

from __future__ import annotations

import io
import os
import shlex
import sys
import traceback
from collections.abc import Sequence

import click

from sendgrid_exports import SendGridExportsError, __version__
from sendgrid_exports.cli import commands, reading
from sendgrid_exports.cli.demo import demo
from sendgrid_exports.cli.exits import (
    Exit,
    Stopped,
    exit_of,
    export_of,
    hide_keys,
    is_resumable,
)
from sendgrid_exports.cli.output import Output
from sendgrid_exports.cli.wording import durable_text, ended, plain

__all__ = ["explain", "main", "run"]

_SIGPIPE = 13
_COMPLETION = """Completion, for bash (or zsh, fish):
  eval "$(_SENDGRID_EXPORTS_COMPLETE=bash_source sendgrid-exports)"
"""
_CODES = "\n".join(f"  {code:>3}  {code.meaning}" for code in Exit)


class _ReaderGone(Exception):  # noqa: N818
    """Nobody reads stdout any more."""


class _Group(click.Group):
    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except BrokenPipeError as error:
            # Under its own name click would end the process with the code of any other error.
            raise _ReaderGone from error


@click.group(
    cls=_Group,
    no_args_is_help=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=f"\b\nExit codes:\n{_CODES}\n\n\b\n{_COMPLETION}",
)
@click.version_option(__version__, package_name="sendgrid-exports")
def main() -> None:
    """Bring SendGrid contact exports to disk: whole, verified, before they expire.

    The key comes from SENDGRID_API_KEY, a file, or a prompt; never from an argument, which
    anybody on the machine could read.
    """


for _command in (
    commands.backup,
    commands.start,
    commands.status,
    commands.list_,
    commands.fetch,
    reading.verify,
    reading.contacts,
    reading.compare,
    demo,
):
    main.add_command(_command)


def run(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A name that the terminal's encoding lacks ends no backup.
            stream.reconfigure(errors="backslashreplace")
    # A command puts its output here, so that a failure is told in the same way.
    told: dict[str, Output] = {}
    try:
        code = main.main(
            arguments,
            complete_var="_SENDGRID_EXPORTS_COMPLETE",
            standalone_mode=False,
            obj=told,
        )
        sys.stdout.flush()
    except (BrokenPipeError, _ReaderGone):
        # The reader has what it wanted. At its exit Python would flush once more, and complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + _SIGPIPE
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001
        return explain(error, told.get("output") or Output())
    return code if isinstance(code, int) else Exit.DONE


def explain(error: BaseException, output: Output) -> int:
    """Say what `error` means and what goes on from there, and return the exit code."""
    code = exit_of(error)
    board = output.board
    export_id = (board.export_id if board else None) or export_of(error)
    line = ""
    if export_id and output.goes_on and is_resumable(error):
        line = shlex.join([export_id if word == "ID" else word for word in output.goes_on])
    if output.verbose:
        # Without the values of variables, among which the key is.
        output.warn(hide_keys("".join(traceback.format_exception(error)).rstrip()))
    message = _message(error, output)
    output.fail(message)
    if line:
        output.line(f"Go on with: {line}")
    told = {"type": type(error).__name__, "message": message, "exit_code": int(code)}
    output.document({"error": {**told, "export_id": export_id, "go_on": line or None}})
    return code


def _message(error: BaseException, output: Output) -> str:
    if isinstance(error, Stopped | KeyboardInterrupt | click.Abort):
        board = output.board
        if board is None or not board.files:
            return "Interrupted."
        received = sum(file.received for file in board.active)
        return f"Interrupted. {durable_text(board.verified, board.expected, received)}"
    if isinstance(error, click.ClickException):
        context = getattr(error, "ctx", None)
        hint = f" {context.command_path} --help says more." if context else ""
        return ended(plain(hide_keys(error.format_message()))) + hint
    if isinstance(error, SendGridExportsError | ValueError | TypeError | ImportError):
        return ended(plain(str(error)))
    if isinstance(error, OSError):
        where = f"{plain(str(error.filename))}: " if error.filename else ""
        return ended(f"The disk fails: {where}{error.strerror or error}")
    if isinstance(error, RuntimeError) and "start new thread" in str(error):
        return (
            "This process may start no more threads. Raise the limit (ulimit -u, or the "
            "container's limit of pids), or run less beside it."
        )
    return (
        f"{type(error).__name__}: {plain(hide_keys(str(error)))}. "
        "This is a fault of the program; --verbose shows where."
    )
