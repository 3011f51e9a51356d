"""The commands that read what is on disk and ask nobody."""

from __future__ import annotations

from pathlib import Path

import click

from sendgrid_exports import VerificationReport, verify_download
from sendgrid_exports.cli.documents import report_document
from sendgrid_exports.cli.exits import Exit
from sendgrid_exports.cli.folders import exports_below
from sendgrid_exports.cli.options import speaks
from sendgrid_exports.cli.output import Output
from sendgrid_exports.cli.running import run
from sendgrid_exports.cli.wording import count, plain

__all__ = ["verify"]

_FOLDER = click.Path(path_type=Path, exists=True, file_okay=False)


@click.command(short_help="Prove what is on disk again.")
@click.argument("directory", metavar="DIR", type=_FOLDER)
@click.option("--export", "export_id", metavar="ID", help="Only this export.")
@speaks
def verify(directory: Path, *, export_id: str | None, output: Output) -> int:
    """Read every export in DIR again and compare it with its manifest.

    DIR holds the files of exports, or the dated folders of `backup`.
    """
    found = [one for one in exports_below(directory) if export_id in {None, one.export_id}]
    if not found:
        what = "no export" if export_id is None else f"no export {export_id}"
        raise click.UsageError(f"There is {what} in {directory}, nor in dated folders of it.")
    reports = []
    for one in found:
        report = run(verify_download(one.directory, one.export_id))
        reports.append(report_document(one.directory, report))
        if not output.quiet or not report.ok:
            output.answer(f"{plain(str(one.directory))}: {_verdict(report)}")
        for word in ("missing", "changed", "extra"):
            for path in getattr(report, word):
                output.answer(f"  {word}: {plain(path.name)}")
    sound = all(report["ok"] for report in reports)
    output.document({"ok": sound, "exports": reports})
    return Exit.DONE if sound else Exit.CORRUPT


def _verdict(report: VerificationReport) -> str:
    verified = count(len(report.verified), "file")
    if report.ok:
        return f"export {report.export_id} is whole: {verified} verified."
    state = "not as it was" if report.complete else "unfinished"
    return f"export {report.export_id} is {state}: {verified} verified."
