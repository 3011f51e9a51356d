"""Draw the README's picture: a backup of a gigabyte on a terminal, in progress and finished.

nox -s screenshot
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import io
import tempfile
from pathlib import Path

from rich.console import Console

from sendgrid_exports import BytesReceived, Event, export_contacts
from sendgrid_exports.cli.commands import show_result
from sendgrid_exports.cli.output import Output
from sendgrid_exports.cli.progress import Progress
from sendgrid_exports.testing import FakeSendGrid
from sendgrid_exports.testing.contacts import CSV_COLUMNS, csv_values, make_contacts

TARGET = Path(__file__).with_name("progress.svg")
COLUMNS = 88
FILES = 4
# A file is a gzip member with the header and then one of contacts, so many times.
MEMBERS = 42
CONTACTS = 100_000


def make_file() -> bytes:
    """Return a quarter of a gigabyte of contacts, as an export has them."""
    header = ",".join(f'"{name}"' for name in CSV_COLUMNS)
    rows = "".join(
        ",".join(value and '"' + value.replace('"', '""') + '"' for value in csv_values(contact))
        + "\n"
        for contact in make_contacts(CONTACTS)
    )
    return gzip.compress(f"{header}\n".encode()) + gzip.compress(rows.encode()) * MEMBERS


async def main() -> None:
    """Back up a gigabyte from the embedded server, and keep what the terminal shows."""
    console = Console(
        file=io.StringIO(),
        record=True,
        force_terminal=True,
        highlight=False,
        width=COLUMNS,
        height=24,
        _environ={},
    )
    output = Output(errors=console, answers=console)
    progress = Progress(console, lambda _: None, lambda _: None, bars=False)
    console.print("[bold]$ sendgrid-exports backup backups[/bold]")
    drawn = False

    def on_event(event: Event) -> None:
        nonlocal drawn
        progress(event)
        share = event.received / (event.size or 1) if isinstance(event, BytesReceived) else 0
        if share > 0.7 and not drawn:
            drawn = True
            console.print(progress.picture())

    async with FakeSendGrid(statuses=["pending", "ready"]) as fake:
        export_id = await fake.add_export(
            bodies=[make_file()] * FILES, contact_count=FILES * MEMBERS * CONTACTS
        )
        fake.respond(202, body={"id": export_id}, on="start")
        with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
            result = await export_contacts(
                "backups/2026-03-02T030000Z",
                api_key=fake.api_key,
                base_url=fake.base_url,
                on_event=on_event,
            )
    show_result(output, result)
    TARGET.write_text(console.export_svg(title="sendgrid-exports"))


asyncio.run(main())
