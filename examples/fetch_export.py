"""Download an export by its id; run it again to resume a download that was interrupted.

    python examples/fetch_export.py EXPORT_ID [DIRECTORY]

With SENDGRID_API_KEY in the environment this asks SendGrid. Without it, a server that behaves like
SendGrid runs inside this program and has an export of that id.
"""

from __future__ import annotations

import asyncio
import os
import sys

from sendgrid_exports import DownloadResult, SendGridExportsError, fetch_export
from sendgrid_exports.testing import FakeSendGrid


async def fetch(export_id: str, directory: str = "exports") -> DownloadResult:
    """Wait up to an hour for the export, and download its files into `directory`."""
    if key := os.environ.get("SENDGRID_API_KEY"):
        return await fetch_export(export_id, directory, api_key=key, timeout=3600)
    print("SENDGRID_API_KEY is not set: this is a demonstration with made-up contacts.")
    async with FakeSendGrid() as fake:
        await fake.add_export(export_id=export_id, contacts=5_000, files=2)
        return await fetch_export(export_id, directory, **fake.credentials)


if __name__ == "__main__":
    if len(sys.argv) not in {2, 3}:
        sys.exit("usage: fetch_export.py EXPORT_ID [DIRECTORY]")
    try:
        result = asyncio.run(fetch(*sys.argv[1:]))
    except SendGridExportsError as error:
        sys.exit(f"{type(error).__name__}: {error}")
    for file in result.files:
        print(f"{file.path}  {file.size:,} bytes  SHA-256 {file.sha256}")
    print(f"{result.contact_count} contacts; manifest: {result.manifest}")
