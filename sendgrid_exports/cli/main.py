"""The command as a whole: its help, and how a failure becomes a message and an exit code."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence

import click

from sendgrid_exports.cli import commands, local
from sendgrid_exports.cli.exits import PIPE_CLOSED, Exit, Failure
from sendgrid_exports.cli.output import Output
from sendgrid_exports.version import __version__

__all__ = ["cli", "run"]

_COMPLETION = """Completion, for bash (or zsh, fish):
  eval "$(_SENDGRID_EXPORTS_COMPLETE=bash_source sendgrid-exports)"
"""
_CODES = "\n".join(f"  {code:>3}  {code.meaning}" for code in Exit)


class _Group(click.Group):
    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args and not ctx.resilient_parsing:
            click.echo(ctx.get_help(), err=True)
            ctx.exit(Exit.USAGE)
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            name = error.option_name
            if any(name in option.opts for one in self.commands.values() for option in one.params):
                raise click.UsageError(
                    f"{name} goes after the command: {ctx.command_path} COMMAND {name}", ctx
                ) from None
            raise

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit):
            raise
        except (Exception, KeyboardInterrupt) as error:
            raise Failure(error) from error


@click.group(
    cls=_Group,
    no_args_is_help=False,
    context_settings={
        "help_option_names": ["-h", "--help"],
        "max_content_width": 100,
        "show_default": True,
    },
    epilog=f"\b\nExit codes:\n{_CODES}\n\n\b\n{_COMPLETION}",
)
@click.version_option(__version__, package_name="sendgrid-exports")
def cli() -> None:
    """Download SendGrid contact exports: complete, verified, before they expire.

    The API key comes from SENDGRID_API_KEY, a file, or a prompt; never from an argument, which
    everybody on the machine could read.
    """


for _command in (
    commands.backup,
    commands.start,
    commands.status,
    commands.list_,
    commands.fetch,
    local.verify,
    local.contacts,
    local.compare,
    commands.demo,
):
    cli.add_command(_command)


def run(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            # The caller closed it. Opened first, so that no file of ours takes its descriptor.
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: PTH123, SIM115
        elif isinstance(stream, io.TextIOWrapper):
            # A name that the terminal's encoding lacks must not end a backup.
            stream.reconfigure(errors="backslashreplace")
    output = Output()
    try:
        code = cli.main(
            arguments, complete_var="_SENDGRID_EXPORTS_COMPLETE", standalone_mode=False, obj=output
        )
        sys.stdout.flush()
    except click.ClickException as error:
        code = output.fail(error)
    except OSError as error:
        # Of what was printed, the help among it.
        code = output.fail(Failure(error))
    if code == PIPE_CLOSED:
        # At its exit Python would flush once more, and complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return code if isinstance(code, int) else Exit.DONE
