"""The demonstration: a backup from a server like SendGrid inside this program, without a key."""

from __future__ import annotations

import secrets
import shlex
from collections.abc import Callable
from pathlib import Path

import click

from sendgrid_exports import (
    DownloadResult,
    Event,
    ExportClient,
    PollPolicy,
    SystemClock,
    verify_download,
)
from sendgrid_exports.api.wire import start_request
from sendgrid_exports.cli.backups import discard_if_empty, make_folder
from sendgrid_exports.cli.commands import command, show_result
from sendgrid_exports.cli.options import speaks
from sendgrid_exports.cli.output import Output
from sendgrid_exports.cli.running import run

__all__ = ["back_up", "demo"]

_SECONDS = 4
# About what a contact of the embedded server takes, compressed.
_BYTES_A_CONTACT = 77


@click.command(short_help="Back up contacts from an embedded server; needs no key.")
@click.argument("directory", metavar="[DIR]", type=click.Path(path_type=Path), default="demo")
@click.option(
    "--contacts", type=click.IntRange(min=0), metavar="N", default=100_000, show_default=True
)
@click.option("--files", type=click.IntRange(min=1), metavar="N", default=4, show_default=True)
@speaks
def demo(directory: Path, *, contacts: int, files: int, output: Output) -> None:
    """Back up contacts from an embedded server into a dated folder of DIR; needs no key.

    Its line is slow, one connection breaks and one link dies, so that there is something to see.
    """
    output.note("This is a demonstration: a server like SendGrid runs inside this program.")
    folder = make_folder(directory, SystemClock())
    try:
        with output.following() as on_event:
            result = run(back_up(folder, contacts, files, on_event))
    finally:
        discard_if_empty(folder)
    show_result(output, result)
    report = run(verify_download(folder, result.export.id))
    output.note(f"Read again from the disk: {len(report.verified)} of {files} files verified.")
    again = command("contacts", str(folder), "--parquet", "contacts.parquet")
    if not output.quiet:
        output.line(f"To go on: {shlex.join(again)}")


async def back_up(
    folder: Path, contacts: int, files: int, on_event: Callable[[Event], None]
) -> DownloadResult:
    """Export `contacts` in `files` files from an embedded server into `folder`."""
    # The server is only there for those who want it.
    from sendgrid_exports.testing import ExpiredLink, FakeSendGrid, Reset, Slow

    seed = secrets.randbits(32)  # every export has an id of its own
    async with FakeSendGrid(
        contacts=contacts, files=files, seed=seed, statuses=["pending", "pending", "ready"]
    ) as fake:
        speed = max(20_000, contacts * _BYTES_A_CONTACT / files / _SECONDS)
        fake.inject(Reset(after=20_000), file=1)
        fake.inject(ExpiredLink(), file=min(2, files))
        for number in range(1, files + 1):
            fake.inject(Slow(speed * (2 - number / files)), file=number, times=None)
        async with ExportClient(
            fake.api_key, base_url=fake.base_url, polling=PollPolicy(initial=0.8)
        ) as client:
            return await client._export(  # noqa: SLF001
                start_request(), folder, timeout=None, on_event=on_event, demo=True
            )
