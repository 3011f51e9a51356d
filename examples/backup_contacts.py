"""Back up every contact: start an export, wait for it, download and verify its files.

    python examples/backup_contacts.py [DIRECTORY]

With SENDGRID_API_KEY in the environment this asks SendGrid. Without it, a server that behaves like
SendGrid runs inside this program and exports 200,000 contacts.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import sys

from sendgrid_exports import DownloadResult, SendGridExportsError, export_contacts
from sendgrid_exports.testing import FakeSendGrid


async def back_up(directory: str = "exports") -> DownloadResult:
    """Export every contact into `directory`, and print each event."""
    if key := os.environ.get("SENDGRID_API_KEY"):
        return await export_contacts(directory, api_key=key, on_event=print)
    print("SENDGRID_API_KEY is not set: this is a demonstration with made-up contacts.")
    seed = secrets.randbits(32)  # each run exports other contacts under another id
    async with FakeSendGrid(contacts=200_000, files=4, seed=seed) as fake:
        return await export_contacts(directory, **fake.credentials, on_event=print)


if __name__ == "__main__":
    try:
        result = asyncio.run(back_up(*sys.argv[1:2]))
    except SendGridExportsError as error:
        sys.exit(f"{type(error).__name__}: {error}")
    for file in result.files:
        print(f"{file.path}  {file.size:,} bytes  verified by {', '.join(file.verified_by)}")
    print(f"{result.contact_count} contacts of {result.export.contact_count} exported")
