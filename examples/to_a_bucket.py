"""Download an export into a bucket, and ask DuckDB about what arrived. Needs no key and no cloud.

    pip install 'sendgrid-exports[cloud,compare]'
    python examples/to_a_bucket.py                      # into a bucket in memory
    python examples/to_a_bucket.py s3://bucket/prefix   # with your credentials in the environment

The contacts come from an embedded server; for SendGrid, pass your `api_key=` and no `base_url=`.
"""

from __future__ import annotations

import asyncio
import sys

import duckdb

from sendgrid_exports import export_contacts, read_arrow, verify_download
from sendgrid_exports.testing import FakeSendGrid


async def main(target: str) -> None:
    """Export 20,000 contacts in four files to `target`, then count them by country."""
    async with FakeSendGrid(contacts=20_000, files=4, statuses=["pending", "ready"]) as fake:
        result = await export_contacts(
            target, api_key=fake.api_key, base_url=fake.base_url, on_event=print
        )
    for file in result.files:
        print(f"{file.url}  {file.size:,} bytes  SHA-256 {file.sha256}")
    report = await verify_download(target, result.export.id)
    print(f"{len(report.verified)} files verified; manifest: {result.manifest_url}")
    await asyncio.to_thread(count_by_country, target, result.export.id)


def count_by_country(target: str, export_id: str) -> None:
    """Print how many contacts there are in each country."""
    contacts = read_arrow(target, export_id=export_id)  # noqa: F841 - DuckDB reads it by its name
    print(duckdb.sql("SELECT COUNTRY, count(*) FROM contacts GROUP BY ALL ORDER BY 2 DESC"))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "memory://demo/exports"))
