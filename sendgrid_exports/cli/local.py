"""The commands that read what is on disk: no network, no key."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from rich.cells import cell_len

from sendgrid_exports import (
    Bucket,
    ContactChange,
    FoundExport,
    VerificationReport,
    compare_exports,
    read_contacts,
    verify_download,
    write_parquet,
)
from sendgrid_exports.cli.backups import find_backups, name_of
from sendgrid_exports.cli.exits import Exit, run, terminable
from sendgrid_exports.cli.options import TargetType, output_options
from sendgrid_exports.cli.output import Output, fields_of
from sendgrid_exports.cli.text import count, plain

__all__ = ["compare", "contacts", "fitting", "verify"]

# As wide as a CONTACT_ID.
_WIDEST = 36
_CHANGES_ON_A_TERMINAL = 20
_FILE = click.Path(path_type=Path, dir_okay=False)
_TARGET = TargetType(path_type=Path, exists=True, file_okay=False)


@click.command(short_help="Verify downloaded files.")
@click.argument("target", metavar="DIR", type=_TARGET)
@click.option("--export", "export_id", metavar="ID", show_default="all", help="Only this export.")
@output_options
@click.pass_obj
def verify(output: Output, /, *, target: Path | Bucket, export_id: str | None) -> int:
    """Compare every export in DIR with its manifest; files on disk are read again.

    DIR holds the files of exports, or the dated folders of `backup`. It may be a bucket, where
    size and ETag are compared: s3://bucket/prefix, gs://, az://.
    """
    found = [one for one in find_backups(target) if export_id in {None, one.export_id}]
    if not found:
        what = "no export" if export_id is None else f"no export {export_id}"
        raise click.UsageError(f"There is {what} in {target}, nor in dated folders of it.")
    reports = [(one.target, _report(one)) for one in found]
    shown = [pair for pair in reports if not output.quiet or not pair[1].ok]
    if shown:
        output.table(
            ["folder", "export", "files", "result"],
            [
                [
                    name_of(folder),
                    report.export_id,
                    str(len(report.verified)),
                    _result(report),
                ]
                for folder, report in shown
            ],
        )
    for folder, report in shown:
        for word in ("missing", "changed", "extra"):
            for path in getattr(report, word):
                output.answer(f"{word}: {plain(name_of(folder))}/{plain(name_of(path))}")
    ok = all(report.ok for _, report in reports)
    documents = [
        {**fields_of(report), "directory": str(folder), "ok": report.ok}
        for folder, report in reports
    ]
    output.document({"ok": ok, "exports": documents})
    return Exit.DONE if ok else Exit.CORRUPT


def _report(found: FoundExport) -> VerificationReport:
    if found.state != "damaged":
        return run(verify_download(found.target, found.export_id))
    return VerificationReport(
        export_id=found.export_id,
        complete=True,
        verified=(),
        missing=(),
        changed=(found.manifest,),
        extra=(),
    )


def _result(report: VerificationReport) -> str:
    if report.ok:
        return "verified"
    return "changed" if report.complete else "unfinished"


@click.command(short_help="Print contacts, or write them to a Parquet file.")
@click.argument("target", metavar="DIR", type=_TARGET)
@click.option("--export", "export_id", metavar="ID", help="Which export, where DIR holds several.")
@click.option("--parquet", metavar="FILE", type=_FILE, help="Write all contacts to this file.")
@click.option(
    "--head",
    type=click.IntRange(min=0),
    metavar="N",
    show_default="all",
    help="Only the first N contacts.",
)
@output_options
@click.pass_obj
def contacts(
    output: Output,
    /,
    *,
    target: Path | Bucket,
    export_id: str | None,
    parquet: Path | None,
    head: int | None,
) -> None:
    """Print the contacts of an export on disk, each as a line of JSON.

    DIR holds the files of exports, or the dated folders of `backup`, of which the newest finished
    one is taken. With --head on a terminal it is a table of the columns that fit.
    """
    if parquet is not None and head is not None:
        raise click.UsageError("--parquet writes all contacts: leave out --head.")
    if parquet is not None and not parquet.parent.is_dir():
        raise click.UsageError(f"There is no directory {parquet.parent} for the Parquet file.")
    found = _choose(target, export_id, output)
    if parquet is not None:
        with terminable():
            written = write_parquet(found.target, parquet, export_id=found.export_id)
        output.answer(f"{count(written, 'contact')} in {plain(str(parquet))}")
        output.document({"contacts": written, "path": str(parquet)})
        return
    rows = itertools.islice(read_contacts(found.target, export_id=found.export_id), head)
    if head is None or output.columns is None or output.json:
        output.objects(rows)
        return
    columns, cells = fitting(list(rows), output.columns)
    output.table(columns, cells)


@click.command(short_help="Show what changed between two exports on disk.")
@click.argument("old", metavar="OLD", type=_TARGET)
@click.argument("new", metavar="NEW", type=_TARGET)
@click.option(
    "--head",
    type=click.IntRange(min=0),
    metavar="N",
    show_default=f"{_CHANGES_ON_A_TERMINAL} on a terminal, else all",
    help="Only the first N changes.",
)
@output_options
@click.pass_obj
def compare(output: Output, /, *, old: Path | Bucket, new: Path | Bucket, head: int | None) -> None:
    """Show which contacts were added, removed and changed between two exports on disk.

    OLD and NEW hold the files of one export each: two dated folders of `backup`, say. A summary
    comes first; then the changes, of which a terminal shows the first ones, and a pipe or file
    gets all, each as a line of JSON.
    """
    before, after = (_choose(target, None, output) for target in (old, new))
    with (
        terminable(),
        compare_exports(
            before.target,
            after.target,
            old_export_id=before.export_id,
            new_export_id=after.export_id,
        ) as comparison,
    ):
        summary = comparison.summary
        if output.json:
            changes = itertools.islice(comparison, head)
            output.objects(map(change_fields, changes), within=fields_of(summary))
            return
        said = (
            f"{summary.added:,} added, {summary.removed:,} removed, {summary.changed:,} changed, "
            f"{summary.unchanged:,} unchanged"
        )
        if output.columns is None:
            output.note(said)
            output.objects(map(change_fields, itertools.islice(comparison, head)))
            return
        output.answer(said)
        shown = _CHANGES_ON_A_TERMINAL if head is None else head
        for change in itertools.islice(comparison, shown):
            output.item(change_text(change))
        more = summary.added + summary.removed + summary.changed - shown
        if more > 0 and head is None:
            output.answer(f"and {more:,} more: --head {shown + more} prints them, or a pipe")


def _choose(target: Path | Bucket, export_id: str | None, output: Output) -> FoundExport:
    """Return the export that is meant.

    Raises:
        click.UsageError: there is none, or more than one.
    """
    found = [one for one in find_backups(target) if export_id in {None, one.export_id}]
    if found and found[0].target != target:
        # Dated folders: the newest finished backup, and a demonstration only among themselves.
        found = [one for one in found if one.state == "complete"]
        found = [one for one in found if not (one.request and one.request.demo)] or found
        found = found[-1:]
        for one in found:
            output.note(f"Reading {plain(str(one.target))}.")
    if not found:
        what = "no finished export" if export_id is None else f"no export {export_id}"
        raise click.UsageError(f"There is {what} in {target}, nor in dated folders of it.")
    if len(found) > 1:
        ids = ", ".join(one.export_id for one in found)
        raise click.UsageError(
            f"The target {target} holds several exports. Choose one by --export: {ids}."
        )
    return found[0]


def change_fields(change: ContactChange) -> dict[str, Any]:
    """Return a change as JSON has it."""
    fields = {field.name: {"old": field.old, "new": field.new} for field in change.fields}
    return {"contact_id": change.contact_id, "kind": change.kind.value, "fields": fields}


def change_text(change: ContactChange) -> str:
    """Return a change as one line."""
    if change.kind != "changed":
        email = next((field for field in change.fields if field.name == "EMAIL"), None)
        address = f" {email.new or email.old}" if email else ""
        return plain(f"{change.kind.value} {change.contact_id}{address}")
    fields = ", ".join(
        f"{field.name} {json.dumps(field.old, ensure_ascii=False)} → "
        f"{json.dumps(field.new, ensure_ascii=False)}"
        for field in change.fields
    )
    return plain(f"{change.kind.value} {change.contact_id} {fields}")


def fitting(rows: Sequence[Mapping[str, Any]], width: int) -> tuple[list[str], list[list[str]]]:
    """Return those columns that have values and fit into `width`, and their cells."""
    names = dict.fromkeys(name for row in rows for name, value in row.items() if value)
    columns: list[str] = []
    for name in names:
        longest = max(cell_len(text) for text in [name, *(_cell(row.get(name)) for row in rows)])
        width -= longest + 2
        if width < 0:
            break
        columns.append(name)
    return columns, [[_cell(row.get(name)) for name in columns] for row in rows]


def _cell(value: object) -> str:
    text = value if isinstance(value, str) else "" if value is None else json.dumps(value)
    text = plain(text)
    return text if len(text) <= _WIDEST else f"{text[: _WIDEST - 1]}…"
