"""The commands that ask SendGrid, and the demonstration, which asks an embedded server."""

from __future__ import annotations

import os
import re
import secrets
import shlex
import shutil
import sys
from collections.abc import Callable, Coroutine, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import click
from rich.filesize import decimal

from sendgrid_exports import (
    Bucket,
    ContactExport,
    DownloadResult,
    ExportClient,
    ExportStatus,
    FoundExport,
    PollPolicy,
    SystemClock,
    fetch_export,
    verify_download,
)
from sendgrid_exports.api.wire import start_request
from sendgrid_exports.cli.accounts import Order, back_up_accounts
from sendgrid_exports.cli.backups import (
    choose_prefix,
    discard_if_empty,
    drop_older_than,
    make_folder,
)
from sendgrid_exports.cli.exits import run
from sendgrid_exports.cli.options import (
    TargetType,
    access_options,
    accounts_options,
    check_accounts_options,
    client_arguments,
    output_options,
    repeat_options,
    selection_of,
    selection_options,
    timeout_option,
    transfer_options,
)
from sendgrid_exports.cli.output import Output, fields_of
from sendgrid_exports.cli.text import count, duration_text, plain, short_name, status_of, time_text
from sendgrid_exports.events import OnEvent
from sendgrid_exports.redaction import redact_url
from sendgrid_exports.transfer.target import is_url

__all__ = ["back_up_demo", "backup", "demo", "fetch", "list_", "show_result", "start", "status"]

T = TypeVar("T")

_TARGET = click.argument("target", metavar="DIR", type=TargetType(path_type=Path, file_okay=False))
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
_DEMO_SECONDS = 4
# About what a contact of the embedded server takes, compressed.
_BYTES_A_CONTACT = 77


def _ask(arguments: Mapping[str, Any], call: Callable[[ExportClient], Coroutine[Any, Any, T]]) -> T:
    async def work() -> T:
        async with ExportClient(**arguments) as client:
            return await call(client)

    return run(work())


async def _export(
    arguments: Mapping[str, Any],
    folder: Path | Bucket,
    selection: Mapping[str, Any],
    timeout: float | None,
    on_event: OnEvent,
    marks: Mapping[str, bool],
) -> DownloadResult:
    request = start_request(**selection)
    async with ExportClient(**arguments) as client:
        # What `export_contacts` does, with marks in the manifest that are the command's own.
        return await client._export(request, folder, timeout=timeout, on_event=on_event, **marks)  # noqa: SLF001


@click.command(short_help="Start, wait, download, verify: the line for cron.")
@_TARGET
@selection_options
@click.option(
    "--keep",
    type=click.IntRange(min=1),
    metavar="N",
    show_default="all",
    help="After a verified backup, drop the oldest verified ones of the same contacts beyond N.",
)
@click.option(
    "--allow-shrink",
    is_flag=True,
    help="Let the backup count although it is empty, in doubt or much smaller than the last one.",
)
@accounts_options
@timeout_option("everything together", "1h to wait, then until the export expires")
@transfer_options
@access_options
@output_options
@click.pass_context
def backup(
    ctx: click.Context,
    /,
    *,
    target: Path | Bucket,
    keep: int | None,
    allow_shrink: bool,
    all_subusers: bool,
    excepted: tuple[str, ...],
    jobs: int,
    eu_base_url: str | None,
    timeout: float | None,
    **options: Any,
) -> None:
    """Start an export, wait, download and verify it, into a dated folder of DIR.

    Without --list and --segment it holds every contact. Every run makes a folder of its own, such
    as DIR/2026-03-02T093000Z. DIR may be a bucket: s3://bucket/prefix, gs://, az://. With --keep
    the older ones of the same contacts are verified again; unfinished or damaged ones are neither
    counted nor dropped. A backup that is empty, in doubt, or holds less than half of the last one
    does not count either, and drops none, unless --allow-shrink says that this is meant.

    With --all-subusers it holds every contact of every subuser, each in DIR/ACCOUNT/2026-03-02; DIR
    may say where, as in backups/{date}/{account}. --keep and --timeout apply to each of them. The
    same command, run again within 12 hours, repeats nothing that was verified or started.
    """
    output: Output = ctx.obj
    check_accounts_options(ctx, all_subusers=all_subusers)
    if all_subusers:
        order = Order(
            target=target,
            client={**client_arguments(options), "eu_base_url": eu_base_url},
            excepted=excepted,
            jobs=jobs,
            keep=keep,
            allow_shrink=allow_shrink,
            selection={
                name: value
                for name, value in selection_of(options).items()
                if name in {"file_type", "max_file_size"}
            },
            timeout=timeout,
        )
        ctx.exit(back_up_accounts(output, order))
    arguments, selection = client_arguments(options), selection_of(options)
    folder = (
        choose_prefix(target, SystemClock())
        if isinstance(target, Bucket)
        else make_folder(target, SystemClock())
    )
    output.resume = partial(_resume_line, folder, options)
    try:
        with output.follow() as on_event:
            marks = {"allow_shrink": allow_shrink}
            result = run(_export(arguments, folder, selection, timeout, on_event, marks))
    finally:
        discard_if_empty(folder)
    output.resume = None

    def unfinished(found: FoundExport) -> None:
        expires = found.export.expires_at if found.export else None
        what = f"{found.target} is not counted: export {found.export_id} is unfinished"
        if expires and expires <= SystemClock().utc():
            output.warn(f"{what} and has expired. Remove the folder.")
            return
        output.warn(f"{what}. Resume it before it expires, or remove the folder:")
        output.line(_resume_line(found.target, options, found.export_id))

    dropped, counts = drop_older_than(result, keep, output.warn, unfinished)
    show_result(output, result, dropped, counts=counts)


@click.command(short_help="Start an export and print its id.")
@selection_options
@access_options
@output_options
@click.pass_obj
def start(output: Output, /, **options: Any) -> None:
    """Start an export and print its id, which is all that must be kept.

    Without --list and --segment it holds every contact.
    """
    start = partial(ExportClient.start, **selection_of(options))
    export_id = _ask(client_arguments(options), start)
    output.answer(export_id)
    output.document({"export_id": export_id})


@click.command(short_help="Show the status of an export.")
@click.argument("export_id", metavar="ID")
@click.option("--watch", is_flag=True, help="Wait until it is ready.")
@timeout_option("--watch", "1h")
@access_options
@output_options
@click.pass_obj
def status(
    output: Output, /, *, export_id: str, watch: bool, timeout: float | None, **options: Any
) -> None:
    """Show the status of an export."""
    arguments = client_arguments(options)
    if watch:
        wait = partial(ExportClient.wait, export_id=export_id, timeout=timeout)
        with output.follow() as on_event:
            export = _ask(arguments, partial(wait, on_event=on_event))
    else:
        export = _ask(arguments, partial(_poll_once, export_id=export_id))
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
    fields = fields_of(export, "metadata", "status_text", "message")
    output.document({**fields, "status": status_of(export), "files": len(export.urls)})


async def _poll_once(client: ExportClient, export_id: str) -> ContactExport:
    export = await client.get(export_id)
    # Waiting for one that failed ends at once, with the error that says why.
    return await client.wait(export_id) if export.status is ExportStatus.FAILURE else export


@click.command("list", short_help="List the exports at SendGrid.")
@access_options
@output_options
@click.pass_obj
def list_(output: Output, /, **options: Any) -> None:
    """List the exports at SendGrid, in progress or recent, the newest last."""
    listings = _ask(client_arguments(options), ExportClient.list_exports)
    now = SystemClock().utc()
    rows = []
    for one in listings:
        left = (one.expires_at - now).total_seconds() if one.expires_at else None
        expires = "-" if left is None else duration_text(left) if left > 0 else "expired"
        created = time_text(one.created_at)[:16]
        rows.append([one.id, status_of(one), str(len(one.urls)), created, expires])
    if rows:
        output.table(["export", "status", "files", "created (UTC)", "expires in"], rows)
    else:
        output.note("SendGrid lists no exports. The commands start and backup start one.")
    documents = [
        {**fields_of(one, "status_text"), "status": status_of(one), "files": len(one.urls)}
        for one in listings
    ]
    output.document({"exports": documents})


@click.command(short_help="Wait for an export and download its files.")
@click.argument("export_id", metavar="ID")
@_TARGET
@timeout_option("everything together", "1h to wait, then until the export expires")
@transfer_options
@access_options
@output_options
@click.pass_obj
def fetch(
    output: Output,
    /,
    *,
    export_id: str,
    target: Path | Bucket,
    timeout: float | None,
    **options: Any,
) -> None:
    """Wait for an export and download its files to DIR; resumes what an earlier run left."""
    # An empty one is no path, but a variable that was not set; Path('') is the directory '.'.
    is_path = os.path.isdir(export_id) or "/" in export_id  # noqa: PTH112
    if (is_path and isinstance(target, Path) and not target.is_dir()) or (
        _UUID.fullmatch(str(target)) and not _UUID.fullmatch(export_id)
    ):
        first = redact_url(export_id) if is_url(export_id) else export_id
        raise click.UsageError(
            f"The id comes before the directory: fetch {target} {first}",
            click.get_current_context(),
        )
    arguments = client_arguments(options) | {"timeout": timeout}
    output.resume = partial(_resume_line, target, options)
    with output.follow() as on_event:
        result = run(fetch_export(export_id, target, **arguments, on_event=on_event))
    show_result(output, result)


def _resume_line(target: Path | Bucket, options: Mapping[str, Any], export_id: str) -> str:
    return _command("fetch", export_id, str(target), *repeat_options(options))


def _command(*words: str) -> str:
    program = Path(sys.argv[0])
    if program.stem != "sendgrid-exports":
        return shlex.join([sys.executable, "-m", "sendgrid_exports", *words])
    known = shutil.which(program.name)
    found = known is not None and Path(known) == program
    return shlex.join([program.name if found else str(program), *words])


def show_result(
    output: Output, result: DownloadResult, dropped: Sequence[Path | Bucket] = (), **document: bool
) -> None:
    """Print the files and what verified them; `document` is added to the JSON document."""
    output.document(
        {
            "export_id": result.export.id,
            "directory": str(result.target),
            "contacts": result.contact_count,
            "contact_count": result.export.contact_count,
            "manifest": str(result.manifest or result.manifest_url),
            "files": [fields_of(file) for file in result.files],
            "dropped": [str(path) for path in dropped],
            **document,
        }
    )
    if output.quiet:
        return
    output.table(
        ["file", "size", "verified by"],
        [
            [short_name(file.name), decimal(file.size), ", ".join(file.verified_by)]
            for file in result.files
        ],
    )
    contacts = result.contact_count
    counted = "contacts not counted" if contacts is None else count(contacts, "contact")
    files = count(len(result.files), "file")
    output.answer(f"{counted} in {files} of {plain(str(result.target))}")
    for path in dropped:
        output.answer(f"dropped {plain(str(path))}")


@click.command(short_help="Back up contacts from an embedded server; needs no key.")
@click.argument(
    "directory", metavar="[DIR]", type=click.Path(path_type=Path, file_okay=False), default="demo"
)
@click.option(
    "--contacts", type=click.IntRange(min=0), metavar="N", default=100_000, help="Contacts in all."
)
@click.option(
    "--files", type=click.IntRange(min=1), metavar="N", default=4, help="Files of the export."
)
@output_options
@click.pass_obj
def demo(output: Output, /, *, directory: Path, contacts: int, files: int) -> None:
    """Back up contacts from an embedded server into a dated folder of DIR (demo); needs no key.

    The server is slow, breaks one connection and lets one link expire, so that there is something
    to see. No contact in it exists.
    """
    output.note("Demonstration: an embedded server plays SendGrid.")
    folder = make_folder(directory, SystemClock())
    try:
        with output.follow() as on_event:
            result = run(back_up_demo(folder, contacts, files, on_event))
    except BaseException:
        # Its server is gone with it, so that nothing could resume this export.
        output.progress = None
        shutil.rmtree(folder)
        discard_if_empty(directory)
        output.note("The files of the demonstration were removed.")
        raise
    show_result(output, result)
    report = run(verify_download(folder, result.export.id))
    output.note(f"Verified again from disk: {len(report.verified)} of {count(files, 'file')}.")
    if not output.quiet:
        words = ("contacts", str(folder), "--parquet", "contacts.parquet")
        output.line(f"Next: {_command(*words)}")


async def back_up_demo(
    folder: Path, contacts: int, files: int, on_event: OnEvent
) -> DownloadResult:
    """Export `contacts` in `files` files from an embedded server into `folder`."""
    # Loaded by the demonstration alone.
    from sendgrid_exports.testing import ExpiredLink, FakeSendGrid, Reset, Slow

    seed = secrets.randbits(32)  # every export has an id of its own
    async with FakeSendGrid(
        contacts=contacts, files=files, seed=seed, statuses=["pending", "pending", "ready"]
    ) as fake:
        speed = max(20_000, contacts * _BYTES_A_CONTACT / files / _DEMO_SECONDS)
        fake.inject(Reset(after=20_000), file=1)
        fake.inject(ExpiredLink(), file=min(2, files))
        for number in range(1, files + 1):
            fake.inject(Slow(speed * (2 - number / files)), file=number, times=None)
        access = {"api_key": fake.api_key, "base_url": fake.base_url}
        arguments = {**access, "polling": PollPolicy(initial=0.8)}
        return await _export(arguments, folder, {}, None, on_event, {"demo": True})
