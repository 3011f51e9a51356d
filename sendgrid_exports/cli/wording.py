"""What people read: sizes, durations, and a sentence for what happened. Pure."""

from __future__ import annotations

import json
import re
from datetime import datetime

from sendgrid_exports import (
    ContactChange,
    ContactExport,
    CountMismatch,
    Event,
    ExportListing,
    ExportStarted,
    ExportStatus,
    FileFinished,
    LinkRenewed,
    Retrying,
    RunningLate,
)

__all__ = [
    "bytes_text",
    "change_text",
    "count",
    "durable_text",
    "duration_text",
    "ended",
    "number_of",
    "plain",
    "ready_text",
    "sentence",
    "short_name",
    "status_of",
    "time_text",
]


# What breaks most often, in other words than aiohttp's.
_BROKEN = {
    "ClientPayloadError": "the answer broke off",
    "ServerDisconnectedError": "the server closed the connection",
    "SocketTimeoutError": "the connection fell silent",
}


def bytes_text(size: float) -> str:
    """Return bytes as people say them: `12.3 MB`."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 999.5 or unit == "GB":
            break
        size /= 1000
    return f"{size:.0f} {unit}" if unit == "bytes" or size >= 99.95 else f"{size:.1f} {unit}"


def duration_text(seconds: float) -> str:
    """Return a duration as people say it: `12 s`, `3:05`, `1:02:03`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, second = divmod(whole, 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"


def count(number: int, noun: str) -> str:
    """Return a number and its noun: `1 file`, `2,000 contacts`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def durable_text(verified: int, expected: int, received: int) -> str:
    """Return what an interruption leaves of `expected` files; `received` are the others' bytes."""
    verb = "is verified and stays" if verified == 1 else "are verified and stay"
    there = f"{verified} of {count(expected, 'file')} {verb}."
    if not verified:
        there = "No file is verified yet."
    if not received:
        return there
    return (
        f"{there} Of the files on their way {bytes_text(received)} had arrived; of each of them at "
        "most the last second or 8 MiB is fetched again."
    )


def plain(text: str) -> str:
    """Return `text` as one line that moves no cursor, whoever wrote it."""
    return "".join(char if char.isprintable() else "�" for char in " ".join(text.split()))


def ended(text: str) -> str:
    """Return `text` as a sentence that ends."""
    return text if text.endswith((".", "?")) else f"{text}."


def short_name(name: str) -> str:
    """Return what tells a file from the others of its export: `00001.csv.gz`."""
    return name.rpartition("-")[2]


def number_of(name: str) -> str:
    """Return the number of a file of an export, as its name has it: `00001`."""
    return short_name(name).partition(".")[0]


def time_text(moment: datetime | None) -> str:
    """Return a moment as `2026-03-02 09:30:00 UTC`, or a dash."""
    return f"{moment:%Y-%m-%d %H:%M:%S %Z}" if moment else "-"


def status_of(export: ContactExport | ExportListing) -> str:
    """Return the status in SendGrid's word where it is a word, else as it is understood."""
    text = export.status_text
    return text if text.isidentifier() and len(text) <= 30 else export.status.value


def sentence(event: Event) -> str | None:
    """Return what to say of an event, or None for those that only a bar can show."""
    match event:
        case ExportStarted(export_id=export_id):
            return f"Export {plain(export_id)} has started."
        case FileFinished(file=file):
            checks = ", ".join(file.verified_by)
            return f"{file.path.name} is there: {bytes_text(file.size)}, verified by {checks}."
        case Retrying(path=path, reason=reason, delay=delay):
            what = f"{short_name(path.name)} " if path else ""
            when = f"in {duration_text(delay)}" if delay >= 0.5 else "now"
            return ended(f"Trying {what}again {when}: {_seen(reason)}")
        case LinkRenewed(links=links):
            return f"{count(links, 'link')} {'was' if links == 1 else 'were'} renewed."
        case RunningLate(seconds_needed=needed, seconds_left=left):
            return (
                f"At this rate the rest takes {duration_text(needed)}, "
                f"and {duration_text(left)} are left."
            )
        case CountMismatch(expected=expected, counted=counted):
            return (
                f"SendGrid says it exported {count(expected, 'contact')}; "
                f"the files hold {counted:,}."
            )
    return None


def _seen(reason: str) -> str:
    # Which file it is was said, and its link tells people nothing.
    text = re.sub(r"\b(GET|POST) https?://\S+ brought ", "", plain(reason))
    text = re.sub(r"( answered \d+) to (GET|POST) /\S+:", r"\1:", text)
    kind = re.search(r"no complete answer: (\w+)", text)
    return _BROKEN.get(kind[1], text) if kind else text


def change_text(change: ContactChange) -> str:
    """Return what became of a contact, in one line."""
    if change.kind != "changed":
        email = next((field for field in change.fields if field.name == "EMAIL"), None)
        who = f" {email.new or email.old}" if email else ""
        return plain(f"{change.kind.value} {change.contact_id}{who}")
    fields = ", ".join(
        f"{field.name} {json.dumps(field.old, ensure_ascii=False)} → "
        f"{json.dumps(field.new, ensure_ascii=False)}"
        for field in change.fields
    )
    return plain(f"{change.kind.value} {change.contact_id} {fields}")


def ready_text(export: ContactExport, waited: float) -> str:
    """Return what to say of a status that was seen, after `waited` seconds."""
    if export.status is ExportStatus.READY:
        contacts = f"{count(export.contact_count, 'contact')} in " if export.contact_count else ""
        files = count(len(export.urls), "file")
        return f"Ready after {duration_text(waited)}: {contacts}{files}."
    if export.status is ExportStatus.FAILURE:
        return f"Failed after {duration_text(waited)}."
    return f"{status_of(export).capitalize()} for {duration_text(waited)}."
