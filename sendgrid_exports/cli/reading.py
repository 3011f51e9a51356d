"""The commands that read what is on disk and ask nobody."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from rich.cells import cell_len

from sendgrid_exports import (
    FoundExport,
    VerificationReport,
    compare_exports,
    read_contacts,
    verify_download,
    write_parquet,
)
from sendgrid_exports.cli.backups import find_backups
from sendgrid_exports.cli.documents import (
    change_document,
    report_document,
    summary_document,
)
from sendgrid_exports.cli.exits import Exit
from sendgrid_exports.cli.options import speaks
from sendgrid_exports.cli.output import Output
from sendgrid_exports.cli.running import run
from sendgrid_exports.cli.wording import change_text, count, plain

__all__ = ["compare", "contacts", "verify"]

# As wide as a CONTACT_ID.
_WIDEST = 36
_FILE = click.Path(path_type=Path, dir_okay=False)
_HEAD = click.option("--head", type=click.IntRange(min=0), metavar="N", help="Only the first N.")
_FOLDER = click.Path(path_type=Path, exists=True, file_okay=False)


@click.command(short_help="Prove what is on disk again.")
@click.argument("directory", metavar="DIR", type=_FOLDER)
@click.option("--export", "export_id", metavar="ID", help="Only this export.")
@speaks
def verify(directory: Path, *, export_id: str | None, output: Output) -> int:
    """Read every export in DIR again and compare it with its manifest.

    DIR holds the files of exports, or the dated folders of `backup`.
    """
    found = [one for one in find_backups(directory) if export_id in {None, one.export_id}]
    if not found:
        what = "no export" if export_id is None else f"no export {export_id}"
        raise click.UsageError(f"There is {what} in {directory}, nor in dated folders of it.")
    reports = [(one.directory, _report(one)) for one in found]
    told = [pair for pair in reports if not output.quiet or not pair[1].ok]
    if told:
        output.table(
            ["folder", "export", "files", "result"],
            [
                [
                    where.resolve().name,
                    report.export_id,
                    str(len(report.verified)),
                    _verdict(report),
                ]
                for where, report in told
            ],
        )
    for where, report in told:
        for word in ("missing", "changed", "extra"):
            for path in getattr(report, word):
                output.answer(f"{word}: {plain(where.resolve().name)}/{plain(path.name)}")
    sound = all(report.ok for _, report in reports)
    documents = [report_document(where, report) for where, report in reports]
    output.document({"ok": sound, "exports": documents})
    return Exit.DONE if sound else Exit.CORRUPT


def _report(found: FoundExport) -> VerificationReport:
    if found.state != "damaged":
        return run(verify_download(found.directory, found.export_id))
    return VerificationReport(
        export_id=found.export_id,
        complete=True,
        verified=(),
        missing=(),
        changed=(found.manifest,),
        extra=(),
    )


@click.command(short_help="Print contacts, or write them to a Parquet file.")
@click.argument("directory", metavar="DIR", type=_FOLDER)
@click.option("--export", "export_id", metavar="ID", help="Which export, where DIR holds several.")
@click.option("--parquet", metavar="FILE", type=_FILE, help="Write all of them to this file.")
@_HEAD
@speaks
def contacts(
    directory: Path,
    *,
    export_id: str | None,
    parquet: Path | None,
    head: int | None,
    output: Output,
) -> None:
    """Print the contacts of an export on disk, each as JSON on a line of its own.

    DIR holds the files of exports, or the dated folders of `backup`, of which the newest finished
    one is taken. With --head on a terminal it is a table of the columns that fit.
    """
    if parquet is not None and head is not None:
        raise click.UsageError("--parquet writes all contacts, so there is no --head.")
    if parquet is not None and not parquet.parent.is_dir():
        raise click.UsageError(f"There is no directory {parquet.parent} for the Parquet file.")
    found = _choose(directory, export_id, output)
    if parquet is not None:
        written = write_parquet(found.directory, parquet, export_id=found.export_id)
        output.answer(f"{count(written, 'contact')} in {plain(str(parquet))}")
        output.document({"contacts": written, "path": str(parquet)})
        return
    rows = itertools.islice(read_contacts(found.directory, export_id=found.export_id), head)
    if head is None or output.columns is None or output.json:
        output.objects(rows)
        return
    columns, cells = fitting(list(rows), output.columns)
    output.table(columns, cells)


@click.command(short_help="Show what changed between two exports on disk.")
@click.argument("old", metavar="OLD", type=_FOLDER)
@click.argument("new", metavar="NEW", type=_FOLDER)
@_HEAD
@speaks
def compare(old: Path, new: Path, *, head: int | None, output: Output) -> None:
    """Show which contacts came, went and changed between two exports on disk.

    OLD and NEW hold the files of one export each: two dated folders of `backup`, say.
    """
    before, after = (_choose(directory, None, output) for directory in (old, new))
    with compare_exports(
        before.directory,
        after.directory,
        old_export_id=before.export_id,
        new_export_id=after.export_id,
    ) as comparison:
        summary = comparison.summary
        changes = itertools.islice(comparison, head)
        if output.json:
            output.objects(map(change_document, changes), within=summary_document(summary))
            return
        for change in changes:
            output.item(change_text(change))
    output.answer(
        f"{summary.added:,} added, {summary.removed:,} removed, {summary.changed:,} changed, "
        f"{summary.unchanged:,} unchanged"
    )


def _choose(directory: Path, export_id: str | None, output: Output) -> FoundExport:
    """Return the export that is meant.

    Raises:
        click.UsageError: there is none, or more than one.
    """
    below = find_backups(directory)
    found = [one for one in below if export_id in {None, one.export_id}]
    if found and found[0].directory != directory:
        # Dated folders: the newest finished backup, and a demonstration only among themselves.
        found = [one for one in found if one.state == "complete"]
        found = [one for one in found if not (one.request and one.request.demo)] or found
        found = found[-1:]
        for one in found:
            output.note(f"Reading {plain(str(one.directory))}.")
    if not found:
        what = "no finished export" if export_id is None else f"no export {export_id}"
        raise click.UsageError(f"There is {what} in {directory}, nor in dated folders of it.")
    if len(found) > 1:
        ids = ", ".join(one.export_id for one in found)
        raise click.UsageError(f"{directory} holds several exports; say by --export which: {ids}.")
    return found[0]


def fitting(rows: Sequence[Mapping[str, Any]], width: int) -> tuple[list[str], list[list[str]]]:
    """Return those columns that have values and fit into `width`, and their cells. Pure."""
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


def _verdict(report: VerificationReport) -> str:
    if report.ok:
        return "whole"
    return "not as it was" if report.complete else "unfinished"
