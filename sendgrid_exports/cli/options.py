"""Options that several commands take, and how their texts become values."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, Required, TypedDict, TypeVar

import attrs
import click

from sendgrid_exports import DownloadPolicy, ExportClient
from sendgrid_exports.cli.output import Output

__all__ = [
    "Access",
    "Arguments",
    "Choice",
    "Transfer",
    "asks",
    "chooses",
    "limited",
    "read_duration",
    "speaks",
    "transfers",
]

F = TypeVar("F", bound=Callable[..., Any])

KEY_VARIABLE = "SENDGRID_API_KEY"
_SECONDS = {"h": 3600.0, "m": 60.0, "s": 1.0}
_DURATION = re.compile(r"(?:\d+(?:\.\d+)?[hms])+|\d+(?:\.\d+)?", re.ASCII)


def read_duration(text: str) -> float:
    """Return the seconds that `90s`, `30m`, `1h30m` or a bare number of seconds stand for.

    Raises:
        ValueError: it is none of those, or nothing.
    """
    if _DURATION.fullmatch(text):
        parts = re.findall(r"([\d.]+)([hms]?)", text)
        if seconds := sum(float(number) * _SECONDS[unit or "s"] for number, unit in parts):
            return seconds
    raise ValueError(f"{text!r} is no duration like 90s, 30m or 1h30m")


def _duration(ctx: click.Context, param: click.Parameter, value: str | None) -> float | None:
    try:
        return None if value is None else read_duration(value)
    except ValueError as error:
        raise click.BadParameter(f"{error}.", ctx, param) from None


def limited(what: str) -> Callable[[F], F]:
    """Return the option `--timeout`, which is about `what`."""
    help_text = f"For {what}: 90s, 30m, 1h30m."
    return click.option("--timeout", metavar="DURATION", callback=_duration, help=help_text)


class Choice(TypedDict):
    """What an export is made of, as `ExportClient.start` takes it."""

    list_ids: tuple[str, ...]
    segment_ids: tuple[str, ...]
    file_type: Literal["csv", "json"]
    max_file_size: int | None


class Arguments(TypedDict, total=False):
    """What `ExportClient` and the two functions take alike."""

    api_key: Required[str]
    base_url: str
    on_behalf_of: str | None


@attrs.frozen(kw_only=True)
class Access:
    """The way to SendGrid, as the options say it; the key itself is asked for when needed."""

    key_file: Path | None
    base_url: str
    on_behalf_of: str | None

    def arguments(self) -> Arguments:
        """Return the arguments of a client.

        Raises:
            click.UsageError: there is no key.
            OSError: the key file can't be read.
        """
        return {
            "api_key": self._key(),
            "base_url": self.base_url,
            "on_behalf_of": self.on_behalf_of,
        }

    def options(self) -> list[str]:
        """Return the options that say the same again, for the line that goes on."""
        words: list[str] = []
        if self.key_file is not None and str(self.key_file) != "-":
            words += ["--api-key-file", str(self.key_file)]
        if self.base_url != _default("base_url"):
            words += ["--base-url", self.base_url]
        if self.on_behalf_of is not None:
            words += ["--on-behalf-of", self.on_behalf_of]
        return words

    def _key(self) -> str:
        if self.key_file is not None:
            if str(self.key_file) == "-":
                return _key_of(sys.stdin.read(), "Standard input")
            return _key_of(self.key_file.read_text("utf-8", "replace"), str(self.key_file))
        if key := os.environ.get(KEY_VARIABLE, "").strip():
            return key
        if sys.stdin is not None and sys.stdin.isatty():
            return _key_of(
                click.prompt("SendGrid API key", hide_input=True, err=True), "The answer"
            )
        raise click.UsageError(
            f"There is no API key: set {KEY_VARIABLE}, or name a file by --api-key-file."
        )


@attrs.frozen(kw_only=True)
class Transfer:
    """How the files are brought, as the options say it."""

    timeout: float | None
    connections: int | None
    decompress: bool

    @property
    def policy(self) -> DownloadPolicy:
        """The settings of the library."""
        policy = DownloadPolicy(decompress=self.decompress)
        if self.connections is None:
            return policy
        return attrs.evolve(policy, connections=self.connections)

    def options(self) -> list[str]:
        """Return the options that say the same again; a timeout begins anew by itself."""
        words = [] if self.connections is None else ["--connections", str(self.connections)]
        return [*words, "--decompress"] if self.decompress else words


def _key_of(text: str, where: str) -> str:
    key = text.strip()
    if not key or len(key.split()) > 1:
        raise click.UsageError(f"{where} must hold an API key and nothing else.")
    return key


def _default(name: str) -> Any:
    return (ExportClient.__init__.__kwdefaults__ or {})[name]


def asks(command: F) -> F:
    """Give a command the options of `Access`, and pass it as `access`."""
    options = [
        click.option(
            "--api-key-file",
            "key_file",
            type=click.Path(path_type=Path, exists=True, dir_okay=False, allow_dash=True),
            help=f"A file with the key, - for standard input. Else {KEY_VARIABLE}, or a prompt.",
        ),
        click.option(
            "--base-url",
            default=_default("base_url"),
            show_default=True,
            metavar="URL",
            help="Where the API is; https://api.eu.sendgrid.com for subusers in the EU.",
        ),
        click.option("--on-behalf-of", metavar="SUBUSER", help="Act for a subuser."),
    ]
    return _gather(command, options, "access", Access)


def chooses(command: F) -> F:
    """Give a command the options of what to export, and pass them as `choice`."""
    options = [
        click.option(
            "--list",
            "list_ids",
            multiple=True,
            metavar="ID",
            help="A list to export; may be repeated.",
        ),
        click.option(
            "--segment", "segment_ids", multiple=True, metavar="ID", help="A segment, likewise."
        ),
        click.option("--json", "as_json", is_flag=True, help="Export JSON lines, not CSV."),
        click.option(
            "--max-file-size",
            type=click.IntRange(min=1),
            metavar="MB",
            help="Megabytes above which SendGrid splits the export.",
        ),
    ]

    def make(
        *,
        as_json: bool,
        list_ids: tuple[str, ...],
        segment_ids: tuple[str, ...],
        max_file_size: int | None,
    ) -> Choice:
        return {
            "list_ids": list_ids,
            "segment_ids": segment_ids,
            "file_type": "json" if as_json else "csv",
            "max_file_size": max_file_size,
        }

    return _gather(command, options, "choice", make)


def transfers(command: F) -> F:
    """Give a command the options of `Transfer`, and pass it as `transfer`."""
    options = [
        limited("everything together"),
        click.option(
            "--connections",
            type=click.IntRange(min=1),
            metavar="N",
            help="Downloads at once, at most.",
        ),
        click.option("--decompress", is_flag=True, help="Write plain files, not gzip."),
    ]
    return _gather(command, options, "transfer", Transfer)


def speaks(command: F) -> F:
    """Give a command the options of what it says, and pass it an `Output` as `output`."""
    options = [
        click.option("--quiet", "-q", is_flag=True, help="Nothing but warnings and errors."),
        click.option("--verbose", "-v", is_flag=True, help="Logs, and tracebacks; never a secret."),
        click.option(
            "--output",
            "form",
            type=click.Choice(["text", "json"]),
            default="text",
            help="json: one document on stdout, everything else on stderr.",
        ),
    ]

    def make(**values: Any) -> Output:
        output = Output(**values)
        # Where the command fails, whoever explains it speaks in the same way.
        click.get_current_context().find_root().obj["output"] = output
        return output

    return _gather(command, options, "output", make)


def _gather(command: F, options: list[Any], name: str, make: Callable[..., Any]) -> F:
    """Add `options` to a command, and pass what `make` makes of them as `name`."""

    def called(**values: Any) -> Any:
        own = {option: values.pop(option) for option in names}
        return command(**{name: make(**own)}, **values)

    called.__doc__ = command.__doc__
    called.__name__ = command.__name__
    earlier = getattr(command, "__click_params__", [])
    wrapped: Any = called
    wrapped.__click_params__ = list(earlier)
    for option in reversed(options):
        wrapped = option(wrapped)
    names = [p.name for p in wrapped.__click_params__ if p not in earlier]
    return wrapped  # type: ignore[no-any-return]
