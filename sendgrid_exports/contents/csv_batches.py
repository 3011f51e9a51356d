"""A CSV file as Arrow batches: inflated in one thread, parsed by Arrow in another. Blocking."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.csv

from sendgrid_exports.contents.columns import arrange, make_column
from sendgrid_exports.contents.plain import read_plain

__all__ = ["read_csv_batches"]

# Arrow reads 32 blocks ahead, which is most of the memory it takes.
_BLOCK = 512 * 1024


def read_csv_batches(
    path: Path, columns: Sequence[str], schema: pa.Schema, *, has_header: bool
) -> Iterator[pa.RecordBatch]:
    """Yield the contacts of a file whose columns are `columns`, as batches of `schema`.

    Raises:
        ArrowInvalid: Arrow can't read it; what was yielded before is right.
    """
    types = {
        name: pa.string() if pa.types.is_nested(field.type) else field.type
        for name in columns
        for field in [schema.field(name)]
    }
    ending = b'\n""' + b"," * (len(columns) - 1) + b"\n"
    with contextlib.closing(_Blocks(_blocks(path, ending))) as blocks:
        reader = pyarrow.csv.open_csv(
            pa.PythonFile(blocks, "r"),
            read_options=pyarrow.csv.ReadOptions(
                use_threads=False,
                block_size=_BLOCK,
                column_names=columns,
                skip_rows_after_names=int(has_header),
            ),
            parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True),
            # The blocks are known to be UTF-8, and no text but the empty one stands for a null.
            convert_options=pyarrow.csv.ConvertOptions(
                check_utf8=False, column_types=types, null_values=[""], strings_can_be_null=False
            ),
        )
        for batch in _without_ending(reader):
            yield arrange(
                {
                    name: make_column(column, schema.field(name))
                    if types[name] != schema.field(name).type
                    else column
                    for name, column in zip(columns, batch.columns, strict=True)
                },
                batch.num_rows,
                schema,
            )


def _without_ending(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Take off the last row, by whose being there one knows that no quote was left open."""
    held = next(batches)
    for batch in batches:
        yield held
        held = batch
    if held.column(held.num_columns - 1)[-1].as_py():
        raise pa.ArrowInvalid("a quote is never closed")
    if held.num_rows > 1:
        yield held.slice(0, held.num_rows - 1)


class _Blocks:
    """A file's plain text for Arrow to read, which it does ahead, in a thread of its own."""

    closed = False

    def __init__(self, blocks: Iterator[bytes]) -> None:
        self._blocks = blocks

    def read(self, _size: int) -> bytes:
        """Return the next block, or nothing at the end."""
        return next(self._blocks, b"")

    def close(self) -> None:
        """Begin no other block."""
        self._blocks = iter(())


def _blocks(path: Path, ending: bytes) -> Iterator[bytes]:
    """Yield a file's plain text in blocks of UTF-8, as large as each other but for the last."""
    held = bytearray()
    for piece in itertools.chain(read_plain(path), [ending]):
        held += piece
        while len(held) > _BLOCK:
            end = _last_start(held)
            with memoryview(held) as whole:
                block = bytes(whole[:end])
            del held[:end]
            yield _utf8(block)
    yield _utf8(bytes(held))


def _last_start(text: bytearray) -> int:
    """Return where the last character begins that does so in the first block of `text`."""
    start = _BLOCK
    while start > _BLOCK - 4 and text[start] & 0xC0 == 0x80:
        start -= 1
    return start


def _utf8(block: bytes) -> bytes:
    """Return `block` as it is.

    Raises:
        ArrowInvalid: it is not UTF-8.
    """
    # A cast of one long text is several times as fast as checking every value, or decoding.
    sizes = pa.py_buffer(len(block).to_bytes(8, "little").rjust(16, b"\0"))
    buffers = [None, sizes, pa.py_buffer(block)]
    pa.LargeBinaryArray.from_buffers(pa.large_binary(), 1, buffers).cast(pa.large_string())
    return block
