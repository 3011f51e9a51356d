"""The JSON documents, for machines. Pure; no link gets into them, as links are credentials."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

from sendgrid_exports import (
    ComparisonSummary,
    ContactChange,
    ContactExport,
    DownloadResult,
    ExportListing,
    VerificationReport,
)
from sendgrid_exports.cli.wording import status_of

__all__ = [
    "change_document",
    "export_document",
    "listing_document",
    "report_document",
    "result_document",
    "summary_document",
]


def export_document(export: ContactExport) -> dict[str, Any]:
    """Return an export as the status tells it."""
    return {
        "id": export.id,
        "status": status_of(export),
        "created_at": _time(export.created_at),
        "updated_at": _time(export.updated_at),
        "completed_at": _time(export.completed_at),
        "expires_at": _time(export.expires_at),
        "contact_count": export.contact_count,
        "files": len(export.urls),
    }


def listing_document(listing: ExportListing) -> dict[str, Any]:
    """Return an export as the list tells it."""
    return {
        "id": listing.id,
        "status": status_of(listing),
        "created_at": _time(listing.created_at),
        "completed_at": _time(listing.completed_at),
        "expires_at": _time(listing.expires_at),
        "export_type": listing.export_type,
        "lists": [{"id": item.id, "name": item.name} for item in listing.lists],
        "segments": [{"id": item.id, "name": item.name} for item in listing.segments],
        "files": len(listing.urls),
    }


def result_document(result: DownloadResult) -> dict[str, Any]:
    """Return everything that came of an export."""
    return {
        "export_id": result.export.id,
        "directory": str(result.directory),
        "contacts": result.contact_count,
        "contact_count": result.export.contact_count,
        "manifest": str(result.manifest),
        "files": [
            {
                "path": str(file.path),
                "size": file.size,
                "sha256": file.sha256,
                "etag": file.etag,
                "compressed": file.compressed,
                "verified_by": list(file.verified_by),
            }
            for file in result.files
        ],
    }


def report_document(directory: Path, report: VerificationReport) -> dict[str, Any]:
    """Return what an export on disk is worth."""
    return {
        "export_id": report.export_id,
        "directory": str(directory),
        "ok": report.ok,
        "complete": report.complete,
        "verified": [str(path) for path in report.verified],
        "missing": [str(path) for path in report.missing],
        "changed": [str(path) for path in report.changed],
        "extra": [str(path) for path in report.extra],
    }


def summary_document(summary: ComparisonSummary) -> dict[str, Any]:
    """Return how many contacts came, went and changed."""
    return {
        "added": summary.added,
        "removed": summary.removed,
        "changed": summary.changed,
        "unchanged": summary.unchanged,
        "fields": dict(summary.fields),
    }


def change_document(change: ContactChange) -> dict[str, Any]:
    """Return what became of a contact."""
    fields = {field.name: {"old": field.old, "new": field.new} for field in change.fields}
    return {"contact_id": change.contact_id, "kind": change.kind.value, "fields": fields}


def _time(moment: datetime | None) -> str | None:
    return moment.isoformat() if moment else None
