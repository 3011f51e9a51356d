"""Fetch an export by its id; run it again to go on with a download that broke off.

    python examples/fetch_export.py EXPORT_ID [DIRECTORY]

With SENDGRID_API_KEY in the environment it asks SendGrid. Without it, a server that behaves like
SendGrid runs inside this program and knows an export of that id.
"""

from __future__ import annotations

import asyncio
import os
import sys

from sendgrid_exports import (
    AuthenticationError,
    DownloadResult,
    ExportExpiredError,
    ExportNotFoundError,
    ExportTimeoutError,
    SendGridExportsError,
    fetch_export,
)
from sendgrid_exports.testing import FakeSendGrid


async def fetch(export_id: str, directory: str) -> DownloadResult:
    """Wait for the export and bring its files into `directory`."""
    if key := os.environ.get("SENDGRID_API_KEY"):
        return await fetch_export(export_id, directory, api_key=key, timeout=3600)
    print("SENDGRID_API_KEY is not set: this is a demonstration against an embedded server.")
    async with FakeSendGrid() as fake:
        await fake.add_export(export_id=export_id, contacts=5_000, files=2)
        return await fetch_export(
            export_id, directory, api_key=fake.api_key, base_url=fake.base_url
        )


def main() -> int:
    """Fetch, and print what came or what to do."""
    if len(sys.argv) not in {2, 3}:
        print("usage: fetch_export.py EXPORT_ID [DIRECTORY]", file=sys.stderr)
        return 2
    export_id = sys.argv[1]
    directory = sys.argv[2] if len(sys.argv) > 2 else "exports"
    try:
        result = asyncio.run(fetch(export_id, directory))
    except (AuthenticationError, ExportNotFoundError) as error:
        print(f"Nothing was fetched. {error}", file=sys.stderr)
        return 1
    except ExportExpiredError as error:
        print(f"Too late. {error}", file=sys.stderr)
        return 1
    except ExportTimeoutError as error:
        print(f"Not yet: run this again. {error}", file=sys.stderr)
        return 1
    except SendGridExportsError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    for file in result.files:
        print(f"{file.path}  {file.size:,} bytes  SHA-256 {file.sha256}")
    print(f"{result.contact_count} contacts; the manifest is {result.manifest}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
