"""The library as its users write it. Checked by mypy and pyright, never run."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, assert_type

import aiohttp

from sendgrid_exports import (
    BytesReceived,
    ChangeKind,
    ComparisonSummary,
    Contact,
    ContactChange,
    ContactExport,
    DownloadedFile,
    DownloadPolicy,
    DownloadResult,
    Event,
    ExportClient,
    ExportListing,
    ExportStatus,
    ExportTimeoutError,
    PollPolicy,
    Verify,
    compare_exports,
    export_contacts,
    fetch_export,
    parse_contact,
    read_arrow,
    read_contacts,
    read_contacts_async,
    write_parquet,
)
from sendgrid_exports.testing import FakeClock, FakeSendGrid


async def script(key: str, list_id: str) -> None:
    result = await fetch_export("id", "exports/", api_key=key)
    assert_type(result, DownloadResult)
    await fetch_export(
        "id", Path("exports"), api_key=key, timeout=60, polling=PollPolicy(initial=2)
    )
    result = await export_contacts("exports/", api_key=key, list_ids=[list_id], file_type="json")
    assert_type(result.files, tuple[DownloadedFile, ...])
    assert_type(result.contact_count, int | None)
    assert_type(result.files[0].sha256, str | None)


async def service(key: str, session: aiohttp.ClientSession) -> None:
    client = ExportClient(key, session=session)
    export_id = await client.start(list_ids=["a"], segment_ids=("b",), max_file_size=500)
    assert_type(export_id, str)
    export = await client.wait(export_id, timeout=timedelta(minutes=30))
    assert_type(export, ContactExport)
    assert_type(export.status, ExportStatus)
    assert_type(export.expires_at, datetime | None)
    assert_type(await client.get(export_id), ContactExport)
    assert_type(await client.list_exports(), tuple[ExportListing, ...])
    assert_type(await client.scopes(), tuple[str, ...])
    assert_type(await client.download(export, "exports/", timeout=600), DownloadResult)
    await client.fetch(export_id, "exports/", on_event=listen)
    async with client.stream_contacts(export, batch_size=100, errors="replace") as batches:
        async for batch in batches:
            assert_type(batch, list[dict[str, Any]])
    await client.close()


def listen(event: Event) -> None:
    if isinstance(event, BytesReceived):
        assert_type(event.received, int)


async def settings(key: str) -> None:
    async with ExportClient(
        key,
        base_url="https://api.eu.sendgrid.com",
        on_behalf_of="subuser",
        polling=PollPolicy(initial=1, maximum=timedelta(seconds=30)),
        downloads=DownloadPolicy(connections=8, verify=Verify.CHECKSUM, read_timeout=10),
    ) as client:
        try:
            await client.fetch("id", "exports/")
        except ExportTimeoutError as error:
            assert_type(error.export_id, str)
            assert_type(error.export, ContactExport | None)


async def contents(result: DownloadResult) -> None:
    for row in read_contacts(result, errors="replace"):
        assert_type(row, dict[str, Any])
        contact = parse_contact(row)
        assert_type(contact, Contact)
        assert_type(contact.created_at, datetime | None)
        assert_type(contact.custom_fields, Mapping[str, str])
    read_contacts("exports", export_id="id")
    read_contacts([Path("a.csv.gz"), "b.csv.gz"])
    async with read_contacts_async("exports", batch_size=500) as batches:
        async for batch in batches:
            assert_type(batch, list[dict[str, Any]])


def elsewhere(result: DownloadResult) -> None:
    for batch in read_arrow(result):
        batch.to_pylist()
    assert_type(write_parquet("exports", "contacts.parquet", export_id="id"), int)
    write_parquet("exports", Path("parts"), one_file_per_part=True, compression="snappy")
    with compare_exports("old", result, old_export_id="id", ignore=["UPDATED_AT"]) as comparison:
        assert_type(comparison.summary, ComparisonSummary)
        assert_type(comparison.summary.fields, Mapping[str, int])
        for change in comparison:
            assert_type(change, ContactChange)
            assert_type(change.kind, ChangeKind)
            assert_type([field.old for field in change.fields], list[str])


async def tests_of_users() -> None:
    clock = FakeClock()
    async with FakeSendGrid(clock=clock) as fake, ExportClient(fake.api_key, clock=clock) as client:
        await client.get(await fake.add_export(contacts=10))
