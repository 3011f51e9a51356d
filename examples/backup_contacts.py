"""Back up every contact: start an export, wait for it, download it, say what came.

    python examples/backup_contacts.py [DIRECTORY]

With SENDGRID_API_KEY in the environment it asks SendGrid. Without it, a server that behaves like
SendGrid runs inside this program: 200,000 contacts over real sockets.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import sys

from sendgrid_exports import (
    BytesReceived,
    DownloadResult,
    Event,
    ExportStarted,
    FileFinished,
    FileStarted,
    LinkRenewed,
    Retrying,
    SendGridExportsError,
    StatusPolled,
    export_contacts,
)
from sendgrid_exports.testing import FakeSendGrid

MEGABYTE = 1_000_000


class Progress:
    """Prints what happens: a line an event, and one line that grows with the bytes."""

    def __init__(self) -> None:
        """Begin with no file."""
        self._received: dict[str, int] = {}
        self._sizes: dict[str, int] = {}
        self._files = 0

    def __call__(self, event: Event) -> None:
        """Print one event."""
        match event:
            case ExportStarted(export_id=export_id):
                self._line(f"Export {export_id} has started.")
            case StatusPolled(export=export, next_poll=next_poll):
                again = f"; looking again in {next_poll:.1f} s" if next_poll else ""
                self._line(f"Its status is {export.status_text}{again}.")
            case FileStarted(path=path, size=size) | BytesReceived(path=path, size=size):
                received = event.received
                self._received[path.name] = received
                self._sizes[path.name] = size or received
                self._bar()
            case FileFinished(file=file):
                self._received[file.path.name] = self._sizes[file.path.name] = file.size
                self._files += 1
                self._bar()
            case Retrying(reason=reason, delay=delay):
                self._line(f"Trying again in {delay:.1f} s: {reason}")
            case LinkRenewed(links=links):
                self._line(f"{links} links had died and were renewed.")

    def _bar(self) -> None:
        received, size = sum(self._received.values()), sum(self._sizes.values())
        done = f"{received / MEGABYTE:7.2f} of {size / MEGABYTE:.2f} MB"
        end = "" if sys.stdout.isatty() else "\n"
        start = "\r" if sys.stdout.isatty() else ""
        print(f"{start}{done}, finished files: {self._files} ", end=end, flush=True)

    def _line(self, text: str) -> None:
        print(("\n" if self._received and sys.stdout.isatty() else "") + text, flush=True)


async def back_up(directory: str) -> DownloadResult:
    """Export every contact into `directory`."""
    progress = Progress()
    if key := os.environ.get("SENDGRID_API_KEY"):
        return await export_contacts(directory, api_key=key, on_event=progress)
    print("SENDGRID_API_KEY is not set: this is a demonstration against an embedded server.")
    seed = secrets.randbits(32)  # every export has an id of its own
    async with FakeSendGrid(contacts=200_000, files=4, seed=seed) as fake:
        return await export_contacts(
            directory, api_key=fake.api_key, base_url=fake.base_url, on_event=progress
        )


def main() -> int:
    """Run the backup and print what came; 1 if it failed."""
    directory = sys.argv[1] if len(sys.argv) > 1 else "exports"
    try:
        result = asyncio.run(back_up(directory))
    except SendGridExportsError as error:
        print(f"\n{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    print()
    for file in result.files:
        print(f"{file.path}  {file.size:,} bytes  verified by {', '.join(file.verified_by)}")
    print(
        f"{result.contact_count} contacts; SendGrid says it exported {result.export.contact_count}."
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
