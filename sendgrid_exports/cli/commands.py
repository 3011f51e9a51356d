"""The commands that ask SendGrid."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import click

from sendgrid_exports import (
    ContactExport,
    DownloadResult,
    Event,
    ExportClient,
    ExportListing,
    ExportStatus,
    SystemClock,
    export_contacts,
    fetch_export,
)
from sendgrid_exports.cli.documents import export_document, listing_document, result_document
from sendgrid_exports.cli.folders import discard_if_empty, drop_old, make_folder
from sendgrid_exports.cli.options import (
    Access,
    Arguments,
    Choice,
    Transfer,
    asks,
    chooses,
    limited,
    speaks,
    transfers,
)
from sendgrid_exports.cli.output import Output
from sendgrid_exports.cli.running import run
from sendgrid_exports.cli.wording import (
    bytes_text,
    count,
    duration_text,
    plain,
    short_name,
    status_of,
    time_text,
)

__all__ = ["backup", "command", "fetch", "list_", "show_result", "start", "status"]

_DIRECTORY = click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))


@click.command(short_help="Start, wait, download, verify: the line for cron.")
@_DIRECTORY
@chooses
@click.option(
    "--keep",
    type=click.IntRange(min=1),
    metavar="N",
    help="Once the new backup is verified, drop the oldest verified ones beyond N.",
)
@transfers
@asks
@speaks
def backup(
    directory: Path,
    *,
    choice: Choice,
    keep: int | None,
    transfer: Transfer,
    access: Access,
    output: Output,
) -> None:
    """Start an export, wait, download and verify it, into a dated folder of DIR.

    Every run makes a folder of its own, such as DIR/2026-03-02T093000Z. With --keep the older
    ones are read again, and those that are unfinished or damaged are neither counted nor dropped.
    """
    arguments = access.arguments()
    folder = make_folder(directory, SystemClock())
    output.goes_on = goes_on(folder, access, transfer)
    try:
        with output.following() as on_event:
            result = run(
                export_contacts(
                    folder,
                    **choice,
                    **arguments,
                    downloads=transfer.policy,
                    timeout=transfer.timeout,
                    on_event=on_event,
                )
            )
    finally:
        discard_if_empty(folder)
    output.goes_on = []
    dropped = [] if keep is None else _keep(result, keep, output)
    show_result(output, result, dropped)


def _keep(result: DownloadResult, keep: int, output: Output) -> list[Path]:
    expected = result.export.contact_count
    if expected is not None and result.contact_count not in {None, expected}:
        output.warn("The count of the contacts is in doubt, so no older backup is dropped.")
        return []
    return drop_old(result.directory, keep, output.warn)


@click.command(short_help="Start an export and print its id.")
@chooses
@asks
@speaks
def start(*, choice: Choice, access: Access, output: Output) -> None:
    """Start an export and print its id, which is all that must be kept."""
    export_id = run(_start(access.arguments(), choice))
    output.answer(export_id)
    output.document({"export_id": export_id})


async def _start(arguments: Arguments, choice: Choice) -> str:
    async with ExportClient(**arguments) as client:
        return await client.start(**choice)


@click.command()
@click.argument("export_id", metavar="ID")
@click.option("--watch", is_flag=True, help="Wait until it is ready.")
@limited("--watch")
@asks
@speaks
def status(
    export_id: str, *, watch: bool, timeout: float | None, access: Access, output: Output
) -> None:
    """Show where an export stands."""
    arguments = access.arguments()
    if watch:
        with output.following() as on_event:
            export = run(_wait(arguments, export_id, timeout, on_event))
    else:
        export = run(_look(arguments, export_id))
    output.table(
        ["", ""],
        [
            ["export", export.id],
            ["status", status_of(export)],
            ["created", time_text(export.created_at)],
            ["completed", time_text(export.completed_at)],
            ["expires", time_text(export.expires_at)],
            ["files", str(len(export.urls))],
            ["contacts", "-" if export.contact_count is None else f"{export.contact_count:,}"],
        ],
    )
    output.document(export_document(export))


async def _wait(
    arguments: Arguments, export_id: str, timeout: float | None, on_event: Callable[[Event], None]
) -> ContactExport:
    async with ExportClient(**arguments) as client:
        return await client.wait(export_id, timeout=timeout, on_event=on_event)


async def _look(arguments: Arguments, export_id: str) -> ContactExport:
    async with ExportClient(**arguments) as client:
        export = await client.get(export_id)
        if export.status is ExportStatus.FAILURE:
            # Waiting ends at once, with the error that says why.
            return await client.wait(export_id)
        return export


@click.command("list", short_help="List the exports that SendGrid knows.")
@asks
@speaks
def list_(*, access: Access, output: Output) -> None:
    """List the exports that SendGrid knows: in flight or recent, the newest last."""
    listings = run(_list(access.arguments()))
    now = SystemClock().utc()
    rows = []
    for listing in listings:
        left = (listing.expires_at - now).total_seconds() if listing.expires_at else None
        rows.append(
            [
                listing.id,
                status_of(listing),
                str(len(listing.urls)),
                time_text(listing.created_at)[:16],
                "-" if left is None else duration_text(left) if left > 0 else "expired",
            ]
        )
    output.table(["export", "status", "files", "created (UTC)", "left"], rows)
    output.document({"exports": [listing_document(listing) for listing in listings]})


async def _list(arguments: Arguments) -> tuple[ExportListing, ...]:
    async with ExportClient(**arguments) as client:
        return await client.list_exports()


@click.command(short_help="Wait for an export and bring its files.")
@click.argument("export_id", metavar="ID")
@_DIRECTORY
@transfers
@asks
@speaks
def fetch(
    export_id: str, directory: Path, *, transfer: Transfer, access: Access, output: Output
) -> None:
    """Wait for an export and bring its files into DIR; goes on where an earlier run ended."""
    arguments = access.arguments()
    output.goes_on = goes_on(directory, access, transfer)
    with output.following() as on_event:
        result = run(
            fetch_export(
                export_id,
                directory,
                **arguments,
                downloads=transfer.policy,
                timeout=transfer.timeout,
                on_event=on_event,
            )
        )
    show_result(output, result)


def goes_on(directory: Path, access: Access, transfer: Transfer) -> list[str]:
    """Return the command that goes on with an export in `directory`."""
    return command("fetch", "ID", str(directory), *access.options(), *transfer.options())


def command(*words: str) -> list[str]:
    """Return the words of a command of this program, as they have to be typed here."""
    program = Path(sys.argv[0])
    if program.name == "__main__.py":
        return [sys.executable, "-m", "sendgrid_exports", *words]
    known = shutil.which(program.name)
    return [program.name if known and Path(known) == program else str(program), *words]


def show_result(output: Output, result: DownloadResult, dropped: Sequence[Path] = ()) -> None:
    """Print the files that came and what verified them."""
    output.document({**result_document(result), "dropped": [str(path) for path in dropped]})
    if output.quiet:
        return
    output.table(
        ["file", "size", "verified by"],
        [
            [short_name(file.path.name), bytes_text(file.size), ", ".join(file.verified_by)]
            for file in result.files
        ],
    )
    counted = (
        "not counted" if result.contact_count is None else count(result.contact_count, "contact")
    )
    files = count(len(result.files), "file")
    output.answer(f"{counted} in {files} of {plain(str(result.directory))}")
    for path in dropped:
        output.answer(f"dropped {plain(str(path))}")
