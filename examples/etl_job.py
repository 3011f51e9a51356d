"""An ETL job: export the contacts, write them as Parquet, count them by country with DuckDB.

    pip install '.[arrow,compare]'
    python examples/etl_job.py [DIRECTORY]

With SENDGRID_API_KEY in the environment this asks SendGrid. Without it, a server that behaves like
SendGrid runs inside this program and exports 50,000 contacts.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import sys
from pathlib import Path

import duckdb

from sendgrid_exports import DownloadResult, SendGridExportsError, export_contacts, write_parquet
from sendgrid_exports.testing import FakeSendGrid

BY_COUNTRY = """
    SELECT coalesce(nullif(COUNTRY, ''), '(none)') AS country, count(*) AS contacts
    FROM read_parquet(?) GROUP BY country ORDER BY contacts DESC, country
"""


async def extract(directory: str = "exports") -> DownloadResult:
    """Export every contact into `directory`."""
    if key := os.environ.get("SENDGRID_API_KEY"):
        return await export_contacts(directory, api_key=key)
    print("SENDGRID_API_KEY is not set: this is a demonstration with made-up contacts.")
    async with FakeSendGrid(contacts=50_000, files=2, seed=secrets.randbits(32)) as fake:
        return await export_contacts(directory, **fake.credentials)


if __name__ == "__main__":
    try:
        result = asyncio.run(extract(*sys.argv[1:2]))
        parquet = Path(result.directory, f"{result.export.id}.parquet")
        print(f"{write_parquet(result, parquet)} contacts in {parquet}")
    except SendGridExportsError as error:
        sys.exit(f"{type(error).__name__}: {error}")
    for country, contacts in duckdb.execute(BY_COUNTRY, [str(parquet)]).fetchall():
        print(f"{contacts:8}  {country}")
