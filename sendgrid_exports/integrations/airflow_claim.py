"""Which export belongs to a task instance of Airflow, so that a retry never starts a second one."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias
from urllib.parse import urlsplit

from sendgrid_exports import (
    Bucket,
    Clock,
    ContactExport,
    ExportClient,
    ExportExpiredError,
    ExportFailedError,
    ExportListing,
    ExportNotFoundError,
    ExportStatus,
    ExportTimeoutError,
    SendGridExportsError,
    SystemClock,
)
from sendgrid_exports.api.polling import may_have_started
from sendgrid_exports.bucket_errors import ConflictError
from sendgrid_exports.transfer.claim import ClaimObject
from sendgrid_exports.transfer.target import read_target

__all__ = ["Claim", "find_or_start"]

Seen: TypeAlias = ContactExport | ExportListing

logger = logging.getLogger(__name__)

_KEY = "sendgrid_export"
_CLOCK_SKEW = timedelta(minutes=5)
_SECONDS_NEW = 60.0
_FIRST_WAIT = 1.0


class Claim:
    """What outlives a try of a task instance: which export is its own. Its methods block.

    `since` is when a try was about to start it, `id` its id, and `done` the `max_tries` of the
    task instance when it was downloaded: Airflow raises that number when the task is cleared.
    """

    def __init__(self, context: Any, target: str) -> None:
        ti = context["ti"]
        store = context.get("task_state_store")
        self._place = _Stored(store) if store is not None else _place(ti, read_target(target))
        known = self._place.read()
        self.known = known if known.get("done", ti.max_tries) == ti.max_tries else {}

    def keep(self, known: Mapping[str, Any]) -> None:
        """Keep these values for the next try.

        Raises:
            FileExistsError: another try claimed the task instance in the same moment.
            DownloadError: the bucket can't be used.
            OSError: the disk failed.
        """
        self.known = known
        self._place.write(known)


class _Place(Protocol):
    def read(self) -> Mapping[str, Any]: ...

    def write(self, known: Mapping[str, Any], /) -> None: ...


def _place(ti: Any, target: Path | Bucket) -> _Place:
    instance = json.dumps([ti.dag_id, ti.run_id, ti.task_id, ti.map_index])
    name = f"airflow-{hashlib.sha256(instance.encode()).hexdigest()[:16]}.claim"
    return _Object(target, name) if isinstance(target, Bucket) else _File(target / name)


class _Stored:
    """In the state store of the task instance."""

    def __init__(self, store: Any) -> None:
        self._store = store

    def read(self) -> Mapping[str, Any]:
        return self._store.get(_KEY) or {}

    def write(self, known: Mapping[str, Any]) -> None:
        self._store.set(_KEY, dict(known))


class _File:
    """In a file in the target directory."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._exists = False

    def read(self) -> Mapping[str, Any]:
        if not self._path.exists():
            return {}
        self._exists, text = True, self._path.read_text()
        return json.loads(text) if text else {"since": self._path.stat().st_mtime}

    def write(self, known: Mapping[str, Any]) -> None:
        if self._exists:
            new = self._path.with_suffix(".claim.new")
            new.write_text(json.dumps(known))
            new.replace(self._path)
        else:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("x") as file:
                json.dump(known, file)
            self._exists = True


class _Object:
    """In an object of the target bucket, which is replaced if it is as it was read."""

    def __init__(self, bucket: Bucket, name: str) -> None:
        self._object = ClaimObject(bucket, name)

    def read(self) -> Mapping[str, Any]:
        return self._object.read()

    def write(self, known: Mapping[str, Any]) -> None:
        try:
            self._object.write(known)
        except ConflictError:
            url = self._object.url
            raise FileExistsError(f"Another try has claimed the task in {url}") from None


async def find_or_start(
    client: ExportClient,
    claim: Claim,
    *,
    list_ids: Sequence[str],
    segment_ids: Sequence[str],
    file_type: Literal["csv", "json"],
    max_file_size: int | None,
    clock: Clock | None = None,
) -> tuple[str, Seen | None]:
    """Return the export that an earlier try started, or start one: its id, and what was seen of it.

    Raises:
        What `ExportClient.start`, `ExportClient.wait` and `Claim.keep` raise.
    """
    known, now = claim.known, (clock or SystemClock()).utc()
    if export_id := known.get("id"):
        try:
            export = await _see(client, export_id)
            if export is None or _is_usable(export, now):
                logger.info("Export %s was started by an earlier try of this task.", export_id)
                return export_id, export
        except (ExportExpiredError, ExportNotFoundError):
            # SendGrid may not know yet what it started just now.
            if now.timestamp() - known.get("since", 0.0) < _SECONDS_NEW:
                raise
    elif "since" in known:
        earliest = datetime.fromtimestamp(known["since"], UTC) - _CLOCK_SKEW
        found = [
            export
            for export in await client.list_exports()
            if _is_of(export, earliest, list_ids, segment_ids, file_type)
            and _is_usable(export, now)
        ]
        if found:
            orphan = max(found, key=lambda export: export.created_at or earliest)
            logger.info("Export %s was started by an earlier try, which was lost.", orphan.id)
            await asyncio.to_thread(claim.keep, {**known, "id": orphan.id})
            return orphan.id, orphan
    # Airflow's state store is synchronous: in the loop's thread it would block.
    since = {"since": now.timestamp()}
    await asyncio.to_thread(claim.keep, since)
    try:
        export_id = await client.start(
            list_ids=list_ids,
            segment_ids=segment_ids,
            file_type=file_type,
            max_file_size=max_file_size,
        )
    except SendGridExportsError as error:
        if not may_have_started(error):
            await asyncio.to_thread(claim.keep, {})
        raise
    await asyncio.to_thread(claim.keep, {**since, "id": export_id})
    return export_id, await _see(client, export_id)


async def _see(client: ExportClient, export_id: str) -> ContactExport | None:
    """Return the export as it is within a second, or None where no poll succeeded."""
    try:
        return await client.wait(export_id, timeout=_FIRST_WAIT)
    except (ExportFailedError, ExportTimeoutError) as error:
        return error.export


def _is_of(
    export: ExportListing,
    earliest: datetime,
    list_ids: Sequence[str],
    segment_ids: Sequence[str],
    file_type: str,
) -> bool:
    """Whether the list shows an export of these contacts that was started since `earliest`."""
    other_type = ".json" if file_type == "csv" else ".csv"
    return (
        export.created_at is not None
        and export.created_at >= earliest
        and {one.id for one in export.lists} == {*list_ids}
        and {one.id for one in export.segments} == {*segment_ids}
        and not any(other_type in urlsplit(url).path for url in export.urls)
    )


def _is_usable(export: Seen, now: datetime) -> bool:
    expired = export.expires_at is not None and export.expires_at <= now
    return export.status is not ExportStatus.FAILURE and not expired
