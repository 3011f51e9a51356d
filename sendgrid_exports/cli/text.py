"""Short texts for people: sizes, durations, one-line messages. Pure."""

from __future__ import annotations

import re
from datetime import datetime

from rich.filesize import decimal

from sendgrid_exports import ContactExport, Event, ExportListing, ExportStatus, FileFinished

__all__ = [
    "cause_first",
    "count",
    "duration_text",
    "event_text",
    "kept_text",
    "plain",
    "sentence",
    "short_name",
    "status_of",
    "status_text",
    "time_text",
]

# In words, what the classes of aiohttp mean that are seen most often.
_CAUSES = {
    "ClientConnectorDNSError": "the host name can't be resolved",
    "ClientConnectorCertificateError": "the host's certificate is not trusted",
    "ClientConnectorSSLError": "no TLS connection to the host",
    "ClientConnectorError": "no connection to the host",
    "ClientProxyConnectionError": "no connection to the proxy",
    "ClientHttpProxyError": "the proxy refused the connection",
    "ClientPayloadError": "the connection closed mid-response",
    "ClientOSError": "the connection was lost",
    "ServerDisconnectedError": "the server closed the connection",
    "ConnectionTimeoutError": "no connection in time",
    "SocketTimeoutError": "the server stopped sending",
}
_REQUEST = re.compile(r"\b(?:GET|POST) (?:https?://|/)\S+ ?")


def plain(text: str) -> str:
    """Return `text` as one line that moves no cursor."""
    return "".join(char if char.isprintable() else "�" for char in " ".join(text.split()))


_WORD = re.compile(r"[a-z'-]+[,:;]?( |$)")


def sentence(text: str) -> str:
    """Return `text` as one line that begins with a capital and ends with a full stop.

    A path, a url, an id or the name of a file remains as it is.
    """
    text = plain(text)
    if _WORD.match(text):
        text = text[:1].upper() + text[1:]
    return text + ("" if text.endswith((".", "?", "!")) else ".")


def count(number: int, noun: str) -> str:
    """Return a number and its noun: `1 file`, `2,000 contacts`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def duration_text(seconds: float) -> str:
    """Return a duration: `12 s`, `3:05`, `1:02:03`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, second = divmod(whole, 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"


def time_text(moment: datetime | None) -> str:
    """Return a moment as `2026-03-02 09:30:00 UTC`, or a dash."""
    return f"{moment:%Y-%m-%d %H:%M:%S %Z}" if moment else "-"


def short_name(name: str) -> str:
    """Return what tells a file from the others of its export: `00001.csv.gz`."""
    return name.rpartition("-")[2]


def status_of(export: ContactExport | ExportListing) -> str:
    """Return the status in SendGrid's word where it is a word, else as it is understood."""
    text = export.status_text
    return text if text.isidentifier() and len(text) <= 30 else export.status.value


def status_text(export: ContactExport, waited: float) -> str:
    """Return what was polled, after `waited` seconds."""
    if export.status is not ExportStatus.READY:
        return f"{status_of(export).capitalize()} after {duration_text(waited)}."
    contacts = f"{count(export.contact_count, 'contact')} in " if export.contact_count else ""
    return f"Ready after {duration_text(waited)}: {contacts}{count(len(export.urls), 'file')}."


def _cause(text: str) -> str | None:
    return next((words for kind, words in _CAUSES.items() if re.search(rf"\b{kind}\b", text)), None)


def cause_first(text: str) -> str:
    """Return the text of a failed request with its cause, in words, before everything else."""
    cause = _cause(text)
    return f"{cause}: {text}" if cause else text


def event_text(event: Event) -> str:
    """Return an event as one line, short enough for a terminal of 80 columns where it can be."""
    text = str(event)
    path = event.file.path if isinstance(event, FileFinished) else getattr(event, "path", None)
    if path:
        text = text.replace(path.name, short_name(path.name))
    if reason := getattr(event, "reason", None):
        text = text.replace(reason, _cause(reason) or _REQUEST.sub("", reason))
    return sentence(text)


def kept_text(verified: int, expected: int, received: int) -> str:
    """Return what an interruption leaves of `expected` files; `received` are the others' bytes."""
    verb = "is" if verified == 1 else "are"
    kept = f"{verified} of {count(expected, 'file')} {verb} verified."
    if not received:
        return kept
    return (
        f"{kept} {decimal(received)} of unfinished files are kept; resuming downloads at most "
        "the last second or 8 MiB of each again."
    )
