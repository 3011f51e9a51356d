"""The columns of contacts as Arrow has them: names, types, and texts made into values.

Text stays as it is: an empty one is an empty text, never a null, and so is one that a file has no
column for. Only a column of another type has nulls, where the text is empty.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from sendgrid_exports.decoding import read_time
from sendgrid_exports.formats.rows import split_values

__all__ = [
    "AFTER_CUSTOM",
    "BEFORE_CUSTOM",
    "arrange",
    "is_nanoseconds",
    "join_emails",
    "make_column",
    "make_schema",
    "split_emails",
]

BEFORE_CUSTOM = (
    "EMAIL", "FIRST_NAME", "LAST_NAME", "ADDRESS_LINE_1", "ADDRESS_LINE_2", "CITY",
    "STATE_PROVINCE_REGION", "POSTAL_CODE", "COUNTRY", "ALTERNATE_EMAILS", "PHONE_NUMBER",
    "WHATSAPP", "LINE", "FACEBOOK", "UNIQUE_NAME", "CREATED_AT", "UPDATED_AT", "CONTACT_ID",
)  # fmt: skip
"""The reserved columns of every export, in SendGrid's order."""

AFTER_CUSTOM = ("PHONE_NUMBER_ID", "EXTERNAL_ID", "ANONYMOUS_ID")
"""Those that newer accounts have after the custom fields."""

_TIME = pa.timestamp("us", "UTC")
_RESERVED_TYPES = {
    "CREATED_AT": _TIME,
    "UPDATED_AT": _TIME,
    "ALTERNATE_EMAILS": pa.list_(pa.string()),
}


def make_schema(names: Iterable[str], column_types: Mapping[str, pa.DataType]) -> pa.Schema:
    """Return the schema of columns `names`, typed as asked, or else as SendGrid's columns are."""
    types = {**_RESERVED_TYPES, **column_types}
    return pa.schema([(name, types.get(name, pa.string())) for name in names])


def make_column(values: pa.ChunkedArray, field: pa.Field) -> pa.ChunkedArray:
    """Return the values of the column `field`; Go's zero time is a null.

    Args:
        values: its texts, or values of its type.
        field: its name and type.

    Raises:
        ValueError: a text can't be a value of its type.
    """
    if values.type != field.type:
        values = _parse_column(values, field)
    if not pa.types.is_timestamp(field.type):
        return values
    first = pc.year(pc.min(values)).as_py()
    if first is None or first > 1:
        return values
    return pc.if_else(pc.less_equal(pc.year(values), 1), None, values)


def _parse_column(texts: pa.ChunkedArray, field: pa.Field) -> pa.ChunkedArray:
    if pa.types.is_list(field.type) and field.name == "ALTERNATE_EMAILS":
        return pa.chunked_array([_split_column(texts.combine_chunks())]).cast(field.type)
    filled = pc.if_else(pc.equal(texts, ""), None, texts)
    try:
        values = filled.cast(field.type)
        # Only Arrow before 23 gives a time out of range as another one, instead of an error.
        if not is_nanoseconds(field.type) or _has_years(values, filled):  # pragma: no branch
            return values
    except pa.ArrowInvalid:
        if not pa.types.is_timestamp(field.type):
            raise
    # SendGrid has other spellings of a time, which Arrow's own reading refuses.
    times = pa.array(map(read_time, texts.to_pylist()), _TIME)
    return pa.chunked_array([times]).cast(field.type)


def is_nanoseconds(kind: pa.DataType) -> bool:
    """Whether a type has times of a range so short that those of contacts may be outside."""
    return pa.types.is_timestamp(kind) and bool(kind.unit == "ns")


def _has_years(times: pa.ChunkedArray, texts: pa.ChunkedArray) -> bool:
    """Whether no time is years away from its text, as Arrow before 23 reads one out of range."""
    years = pc.utf8_slice_codeunits(texts, 0, 4).cast(pa.int64())
    away = pc.abs(pc.subtract(pc.year(times), years))
    return not bool(pc.any(pc.greater(away, 1)).as_py())


def _split_column(texts: pa.StringArray) -> pa.ListArray:
    filled = pc.not_equal(texts, "")
    lists = _split_all(texts.filter(filled))
    lengths = pc.replace_with_mask(
        pa.repeat(pa.scalar(0, pa.int32()), len(texts)), filled, pc.list_value_length(lists)
    )
    ends = pc.cumulative_sum(lengths)
    offsets = pa.concat_arrays([pa.array([0], pa.int32()), ends])
    return pa.ListArray.from_arrays(offsets, lists.flatten())


def _split_all(texts: pa.StringArray) -> pa.ListArray:
    """Return what `split_emails` does, at several times its speed where nothing is odd."""
    quoted = pc.and_(pc.starts_with(texts, '"'), pc.ends_with(texts, '"'))
    lists = pc.split_pattern(pc.utf8_slice_codeunits(texts, 1, -1), '","')
    values = lists.flatten()
    # Where every quote that is left is one of a pair, this is the only way to read the texts.
    rest = pc.replace_substring(values, '""', "")
    odd = pc.any(pc.match_substring(rest, '"')).as_py()
    if odd or not pc.all(quoted).as_py() or pc.min(pc.binary_length(texts)).as_py() == 1:
        return pa.array(map(split_emails, texts.to_pylist()), pa.list_(pa.string()))
    return pa.ListArray.from_arrays(lists.offsets, pc.replace_substring(values, '""', '"'))


def split_emails(text: str) -> Sequence[str]:
    """Return the addresses in a text of `ALTERNATE_EMAILS`, a list of quoted values.

    A text that is not such a list is one address, so that nothing of it is lost.
    """
    try:
        return split_values(text) if text else ()
    except ValueError:
        return (text,)


def join_emails(emails: Iterable[str]) -> str:
    """Return addresses as the text that a CSV export has for them."""
    return ",".join('"' + email.replace('"', '""') + '"' for email in emails)


def arrange(columns: Mapping[str, pa.ChunkedArray], rows: int, schema: pa.Schema) -> pa.Table:
    """Return columns as a table of `schema`; those that are missing are empty."""
    nothing = pa.chunked_array([pa.repeat(pa.scalar("", pa.string()), rows)])
    arrays = [
        columns[name] if name in columns else make_column(nothing, schema.field(name))
        for name in schema.names
    ]
    return pa.Table.from_arrays(arrays, schema=schema)
