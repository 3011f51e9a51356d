"""The commands that ask SendGrid."""

from __future__ import annotations

import shlex
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
    FoundExport,
    SystemClock,
    fetch_export,
    find_exports,
)
from sendgrid_exports.api.wire import start_request
from sendgrid_exports.cli.backups import discard_if_empty, drop_old, make_folder
from sendgrid_exports.cli.documents import export_document, listing_document, result_document
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
@click.option(
    "--allow-shrink",
    is_flag=True,
    help="Let the backup count although it is empty or much smaller than the one before.",
)
@transfers
@asks
@speaks
def backup(
    directory: Path,
    *,
    choice: Choice,
    keep: int | None,
    allow_shrink: bool,
    transfer: Transfer,
    access: Access,
    output: Output,
) -> None:
    """Start an export, wait, download and verify it, into a dated folder of DIR.

    Every run makes a folder of its own, such as DIR/2026-03-02T093000Z. With --keep the older
    ones of the same contacts are verified again; unfinished or damaged ones are neither counted
    nor dropped. A backup that is empty, in doubt, or less than half of the one before does not
    count either, and drops none, unless --allow-shrink says that this is meant.
    """
    arguments = access.arguments()
    folder = make_folder(directory, SystemClock())
    output.goes_on = goes_on(folder, access, transfer)
    try:
        with output.following() as on_event:
            result = run(
                _back_up(arguments, folder, choice, transfer, on_event, allow_shrink=allow_shrink)
            )
    finally:
        discard_if_empty(folder)
    output.goes_on = []
    [new] = [one for one in find_exports(folder) if one.export_id == result.export.id]
    resume = _unfinished(access, transfer, output)
    dropped, doubt = drop_old(new, keep or 0, output.warn, resume)
    if doubt:
        output.warn(
            f"{folder} does not count as a backup: {doubt}. No older one is dropped. If this is "
            "meant, add --allow-shrink."
        )
    show_result(output, result, dropped, counts=doubt is None)


async def _back_up(
    arguments: Arguments,
    folder: Path,
    choice: Choice,
    transfer: Transfer,
    on_event: Callable[[Event], None],
    *,
    allow_shrink: bool,
) -> DownloadResult:
    async with ExportClient(**arguments, downloads=transfer.policy) as client:
        return await client._export(  # noqa: SLF001
            start_request(**choice),
            folder,
            timeout=transfer.timeout,
            on_event=on_event,
            allow_shrink=allow_shrink,
        )


def _unfinished(
    access: Access, transfer: Transfer, output: Output
) -> Callable[[FoundExport], None]:
    def tell(found: FoundExport) -> None:
        expires = found.export.expires_at if found.export else None
        where = f"{found.directory} is not counted: export {found.export_id} is unfinished"
        if expires and expires <= SystemClock().utc():
            output.warn(f"{where} and has expired. Remove the folder.")
            return
        output.warn(f"{where}. Resume it before it expires, or remove the folder:")
        words = goes_on(found.directory, access, transfer)
        output.line(shlex.join([found.export_id if word == "ID" else word for word in words]))

    return tell


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
    if program.stem != "sendgrid-exports":
        return [sys.executable, "-m", "sendgrid_exports", *words]
    known = shutil.which(program.name)
    return [program.name if known and Path(known) == program else str(program), *words]


def show_result(
    output: Output, result: DownloadResult, dropped: Sequence[Path] = (), *, counts: bool = True
) -> None:
    """Print the files that came and what verified them."""
    output.document(
        {
            **result_document(result),
            "dropped": [str(path) for path in dropped],
            "counts": counts,
        }
    )
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
