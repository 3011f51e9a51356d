"""The journal: which bytes of unfinished files are durable. Pure; lines of text in and out.

Every line says all there is to say of one file, and the last line about it counts. A line is
written only after its bytes were synced, and carries a CRC-32 of itself. The last line may be
torn by a crash; anything else amiss makes the whole journal void, and its files start over.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable

import attrs

from sendgrid_exports.decoding import decode, encode, parse_json
from sendgrid_exports.errors import InvalidResponseError

__all__ = ["Record", "read_journal", "write_journal", "write_record"]

_HEADER = "sendgrid_exports journal 1"


@attrs.frozen(kw_only=True)
class Record:
    """What is durable of one file.

    Attributes:
        number: the file's place, from 1.
        link: its link without query.
        etag: the strong ETag of the version the bytes are of.
        total: the size of that version.
        md5: its MD5 in hex, where the storage announced one.
        checksums: S3's own checksums of it, by algorithm.
        done: the durable ranges, each from its first byte to before its last.
    """

    number: int
    link: str
    etag: str
    total: int
    md5: str | None = None
    checksums: dict[str, str] = attrs.field(factory=dict)
    done: tuple[tuple[int, int], ...] = ()


def write_journal(export_id: str, records: Iterable[Record]) -> bytes:
    """Return a new journal with `records`."""
    header = _line(json.dumps({"journal": _HEADER, "export_id": export_id}))
    return header + b"".join(write_record(record) for record in records)


def write_record(record: Record) -> bytes:
    """Return the line to append for `record`."""
    return _line(json.dumps(encode(record), separators=(",", ":")))


def _line(text: str) -> bytes:
    body = text.encode()
    return b"%08x %b\n" % (zlib.crc32(body), body)


def read_journal(data: bytes, export_id: str) -> dict[int, Record] | None:
    """Return the last record of each file; None if the journal is damaged or of another export."""
    *lines, _torn = data.split(b"\n")
    texts = [_read_line(line) for line in lines]
    if None in texts or texts[:1] != [json.dumps({"journal": _HEADER, "export_id": export_id})]:
        return None
    try:
        records = [_read_record(text) for text in texts[1:] if text is not None]
    except InvalidResponseError:
        return None
    last = {record.number: record for record in records}
    return {number: record for number, record in last.items() if _is_sound(record)}


def _read_line(line: bytes) -> str | None:
    checksum, _, body = line.partition(b" ")
    if checksum != b"%08x" % zlib.crc32(body):
        return None
    return body.decode("utf-8", "replace")


def _read_record(text: str) -> Record:
    what = "A line of the journal"
    return decode(Record, parse_json(text.encode(), what), what)


def _is_sound(record: Record) -> bool:
    return all(0 <= start < end <= record.total for start, end in record.done)
