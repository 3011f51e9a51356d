"""Options that several commands take, and how their texts become values."""

from __future__ import annotations

import codecs
import itertools
import os
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click
from click.core import ParameterSource

from sendgrid_exports import Bucket, DownloadPolicy
from sendgrid_exports.transfer.target import is_url, read_target

__all__ = [
    "TargetType",
    "access_options",
    "accounts_options",
    "check_accounts_options",
    "client_arguments",
    "output_options",
    "read_duration",
    "read_key",
    "repeat_options",
    "selection_of",
    "selection_options",
    "timeout_option",
    "transfer_options",
]

F = TypeVar("F", bound=Callable[..., Any])

BASE_URL = "https://api.sendgrid.com"
KEY_VARIABLE = "SENDGRID_API_KEY"
_SECONDS = {"h": 3600.0, "m": 60.0, "s": 1.0}
_DURATION = re.compile(r"(?:\d+(?:\.\d+)?[hms])+|\d+(?:\.\d+)?", re.ASCII)
_CONNECTIONS = DownloadPolicy().connections


def read_duration(text: str) -> float:
    """Return the seconds that `90s`, `30m`, `1h30m` or a bare number of seconds stand for.

    Raises:
        ValueError: the text is something else, or nothing.
    """
    if _DURATION.fullmatch(text):
        parts = re.findall(r"([\d.]+)([hms]?)", text)
        if seconds := sum(float(number) * _SECONDS[unit or "s"] for number, unit in parts):
            return seconds
    raise ValueError(f"{text!r} is not a duration like 90s, 30m or 1h30m.")


def _duration(ctx: click.Context, param: click.Parameter, value: str | None) -> float | None:
    try:
        return None if value is None else read_duration(value)
    except ValueError as error:
        raise click.BadParameter(str(error), ctx, param) from None


def timeout_option(what: str, default: str) -> Callable[[F], F]:
    """Return the option `--timeout` for `what`."""
    return click.option(
        "--timeout",
        metavar="DURATION",
        callback=_duration,
        show_default=default,
        help=f"Time limit for {what}: 90s, 30m, 1h30m.",
    )


def _all(*options: Callable[[F], F]) -> Callable[[F], F]:
    def add(command: F) -> F:
        for option in reversed(options):
            command = option(command)
        return command

    return add


def _to_output(ctx: click.Context, param: click.Parameter, value: Any) -> None:
    ctx.obj.set_option(str(param.name), value)


_AT_LEAST_ONE = click.IntRange(min=1)
_KEY_FILE = click.Path(path_type=Path, exists=True, dir_okay=False, allow_dash=True)
_TO_OUTPUT: dict[str, Any] = {"expose_value": False, "callback": _to_output}

access_options = _all(
    click.option(
        "--api-key-file",
        "key_file",
        type=_KEY_FILE,
        show_default=f"{KEY_VARIABLE}, or a prompt",
        help="File with the API key; - for standard input.",
    ),
    click.option(
        "--base-url",
        default=BASE_URL,
        metavar="URL",
        help="The API; https://api.eu.sendgrid.com for subusers in the EU.",
    ),
    click.option("--on-behalf-of", metavar="SUBUSER", help="Act for a subuser."),
)
selection_options = _all(
    click.option(
        "--list", "list_ids", multiple=True, metavar="ID", help="List to export (repeatable)."
    ),
    click.option(
        "--segment",
        "segment_ids",
        multiple=True,
        metavar="ID",
        help="Segment to export (repeatable).",
    ),
    click.option("--json", "as_json", is_flag=True, help="Export JSON lines instead of CSV."),
    click.option(
        "--max-file-size",
        type=_AT_LEAST_ONE,
        metavar="MB",
        show_default="5000",
        help="Megabytes above which SendGrid splits the export.",
    ),
)
accounts_options = _all(
    click.option("--all-subusers", is_flag=True, help="Back up every subuser of the account."),
    click.option(
        "--except",
        "excepted",
        multiple=True,
        metavar="NAME",
        help="Subuser to leave out (repeatable).",
    ),
    click.option(
        "--jobs", type=_AT_LEAST_ONE, metavar="N", default=8, help="Maximum subusers at once."
    ),
    click.option(
        "--eu-base-url",
        metavar="URL",
        show_default="https://api.eu.sendgrid.com",
        help="The API for subusers in the EU.",
    ),
)
transfer_options = _all(
    click.option(
        "--connections",
        type=_AT_LEAST_ONE,
        metavar="N",
        default=_CONNECTIONS,
        help="Maximum parallel connections.",
    ),
    click.option("--decompress", is_flag=True, help="Write plain files instead of gzip."),
)
output_options = _all(
    click.option("--quiet", "-q", is_flag=True, help="Only warnings and errors.", **_TO_OUTPUT),
    click.option(
        "--verbose", "-v", is_flag=True, help="Logs and tracebacks; never a secret.", **_TO_OUTPUT
    ),
    click.option(
        "--output",
        "form",
        type=click.Choice(["text", "json"]),
        default="text",
        help="json: one document on stdout, everything else on stderr.",
        **_TO_OUTPUT,
    ),
)


class TargetType(click.Path):
    """A directory, or the url of a bucket."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return a path or a `Bucket`."""
        if not value:
            # A variable that was not set, most likely; pathlib takes it for the directory "."
            self.fail("it is empty; the current directory is .", param, ctx)
        if not is_url(value):
            return super().convert(value, param, ctx)
        try:
            place = read_target(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)
        return place if isinstance(place, Bucket) else super().convert(str(place), param, ctx)


def selection_of(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of `ExportClient.start`."""
    selection = {name: options[name] for name in ("list_ids", "segment_ids", "max_file_size")}
    return {**selection, "file_type": "json" if options["as_json"] else "csv"}


def check_accounts_options(ctx: click.Context, *, all_subusers: bool) -> None:
    """See that no option is about one account alone, or about many where there is one.

    Raises:
        click.UsageError: one is.
    """
    alone = {"list_ids": "--list", "segment_ids": "--segment", "on_behalf_of": "--on-behalf-of"}
    many = {"excepted": "--except", "jobs": "--jobs", "eu_base_url": "--eu-base-url"}
    for name, option in (alone if all_subusers else many).items():
        if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            said = "can't be used with" if all_subusers else "is only for"
            raise click.UsageError(f"{option} {said} --all-subusers.", ctx)


def client_arguments(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a client; the key is read here.

    Not in an event loop: there Ctrl-C would not end the prompt for the key.

    Raises:
        click.UsageError: there is no key, or something else in its place.
        OSError: the key file can't be read.
    """
    transfer = {name: options[name] for name in ("connections", "decompress") if name in options}
    return {
        "api_key": _find_key(options["key_file"]),
        "base_url": options["base_url"],
        "on_behalf_of": options["on_behalf_of"],
        "downloads": DownloadPolicy(**transfer),
    }


def repeat_options(options: Mapping[str, Any]) -> list[str]:
    """Return the words that give `fetch` the same options, except for the timeout."""
    given = {
        "--api-key-file": options["key_file"],
        "--base-url": options["base_url"],
        "--on-behalf-of": options["on_behalf_of"],
        "--connections": options["connections"],
    }
    unsaid = {None, Path("-"), BASE_URL, _CONNECTIONS}
    words = [(name, str(value)) for name, value in given.items() if value not in unsaid]
    return [*itertools.chain(*words), *(["--decompress"] if options["decompress"] else [])]


def _find_key(path: Path | None) -> str:
    if path is not None:
        if str(path) == "-":
            return read_key(sys.stdin.buffer.read(), "Standard input")
        return read_key(path.read_bytes(), str(path))
    if key := os.environ.get(KEY_VARIABLE, "").strip():
        return read_key(key.encode("utf-8", "replace"), KEY_VARIABLE)
    if sys.stdin is not None and sys.stdin.isatty():
        typed: str = click.prompt("SendGrid API key", hide_input=True, err=True)
        return read_key(typed.encode("utf-8", "replace"), "The answer")
    raise click.UsageError(
        f"There is no API key: set {KEY_VARIABLE}, or name a file with --api-key-file."
    )


def read_key(data: bytes, where: str) -> str:
    """Return the API key in `data`; of anything else, no character is quoted.

    Raises:
        click.UsageError: something else is there, or more than the key.
    """
    text = data.decode("utf-8", "replace").strip()
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or b"\0" in data:
        fault = "is in UTF-16, as PowerShell writes it: save it as UTF-8"
    elif data.startswith(codecs.BOM_UTF8):
        fault = "begins with a byte order mark: save it as UTF-8 without one"
    elif re.match(r"bearer\b", text, re.IGNORECASE):
        fault = "begins with Bearer: leave that out"
    elif re.match(r"(?:export\s+|set\s+)?[A-Za-z_]\w*\s*=", text):
        fault = "has NAME= in front of the API key: leave that out"
    elif text[:1] in _QUOTES or text[-1:] in _QUOTES:
        fault = "has quotes around the API key: leave them out"
    elif len(text.split()) != 1:
        fault = "must hold an API key and nothing else"
    else:
        return text
    raise click.UsageError(f"{where} {fault}.")


_QUOTES = tuple("\"'`“”‘’")
