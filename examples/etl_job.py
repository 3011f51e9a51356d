"""An ETL job: export the contacts, keep them as Parquet, ask DuckDB how many live where.

    pip install 'sendgrid-exports[arrow,compare]'
    python examples/etl_job.py [DIRECTORY]

With SENDGRID_API_KEY in the environment it asks SendGrid. Without it, a server that behaves like
SendGrid runs inside this program: 50,000 contacts over real sockets.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import sys
from pathlib import Path

import duckdb

from sendgrid_exports import (
    DownloadResult,
    SendGridExportsError,
    export_contacts,
    write_parquet,
)
from sendgrid_exports.testing import FakeSendGrid

BY_COUNTRY = """
    SELECT coalesce(nullif(COUNTRY, ''), '(none)') AS country, count(*) AS contacts
    FROM read_parquet(?) GROUP BY country ORDER BY contacts DESC, country
"""


async def extract(directory: Path) -> DownloadResult:
    """Bring every contact into `directory`."""
    if key := os.environ.get("SENDGRID_API_KEY"):
        return await export_contacts(directory, api_key=key)
    print("SENDGRID_API_KEY is not set: this is a demonstration against an embedded server.")
    seed = secrets.randbits(32)  # every export has an id of its own
    async with FakeSendGrid(contacts=50_000, files=2, seed=seed) as fake:
        return await export_contacts(directory, api_key=fake.api_key, base_url=fake.base_url)


def transform(result: DownloadResult) -> Path:
    """Write the contacts of all files as one Parquet file beside them."""
    path = result.manifest.with_name(result.manifest.name.replace(".manifest.json", ".parquet"))
    print(f"{write_parquet(result, path)} contacts in {path}")
    return path


def load(path: Path) -> list[tuple[str, int]]:
    """Return countries, and how many contacts live there."""
    with duckdb.connect() as database:
        return database.execute(BY_COUNTRY, [str(path)]).fetchall()


def main() -> int:
    """Run the job; 1 if it failed."""
    directory = Path(sys.argv[1] if len(sys.argv) > 1 else "exports")
    try:
        path = transform(asyncio.run(extract(directory)))
    except SendGridExportsError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    for country, contacts in load(path):
        print(f"{contacts:8}  {country}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
