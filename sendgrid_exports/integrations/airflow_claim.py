"""Which export belongs to a task instance of Airflow, so that a retry never starts a second one."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal, TypeAlias
from urllib.parse import urlsplit

from sendgrid_exports import (
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

__all__ = ["Claim", "find_or_start"]

Seen: TypeAlias = ContactExport | ExportListing

logger = logging.getLogger(__name__)

_KEY = "sendgrid_export"
_CLOCK_SKEW = timedelta(minutes=5)
_SECONDS_NEW = 60.0
_FIRST_WAIT = 1.0


class Claim:
    """What outlives a try of a task instance: which export is its own.

    `since` is when a try was about to start it, `id` its id, and `done` the `max_tries` of the
    task instance when it was downloaded: Airflow raises that number when the task is cleared.
    """

    def __init__(self, context: Any, target: str) -> None:
        ti = context["ti"]
        self._store = context.get("task_state_store")
        self._path: Path | None = None
        self._exists = False
        known: Mapping[str, Any] = {}
        if self._store is not None:
            known = self._store.get(_KEY) or {}
        elif "://" not in target:
            instance = json.dumps([ti.dag_id, ti.run_id, ti.task_id, ti.map_index])
            name = hashlib.sha256(instance.encode()).hexdigest()[:16]
            self._path = Path(target, f"airflow-{name}.claim")
            if self._path.exists():
                self._exists, text = True, self._path.read_text()
                known = json.loads(text) if text else {"since": self._path.stat().st_mtime}
        elif ti.try_number > 1:
            # Nothing can be kept: the list of exports has to show it.
            known = {"since": context["dag_run"].start_date.timestamp()}
        self.known = known if known.get("done", ti.max_tries) == ti.max_tries else {}

    def keep(self, known: Mapping[str, Any]) -> None:
        """Keep these values for the next try.

        Raises:
            FileExistsError: another try claimed the task instance in the same moment.
        """
        self.known = known
        if self._store is not None:
            self._store.set(_KEY, dict(known))
        elif self._path is not None and self._exists:
            new = self._path.with_suffix(".claim.new")
            new.write_text(json.dumps(known))
            new.replace(self._path)
        elif self._path is not None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("x") as file:
                json.dump(known, file)
            self._exists = True


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
        What `ExportClient.start` and `ExportClient.wait` raise; `OSError` from the target.
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
