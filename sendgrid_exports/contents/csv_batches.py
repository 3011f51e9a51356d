"""A CSV file as Arrow batches: inflated here, parsed by Arrow in threads of ours. Blocking."""

from __future__ import annotations

from codecs import BOM_UTF8
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.csv

from sendgrid_exports.contents.columns import arrange, make_column
from sendgrid_exports.contents.plain import read_plain
from sendgrid_exports.formats.text import LONGEST_RECORD

__all__ = ["read_csv_batches"]

# Of smaller ones more time goes into beginning and ending each; larger ones are only more memory.
_BLOCK = 1024 * 1024
# They take the blocks about as fast as one inflates them.
_THREADS = 2


def read_csv_batches(
    path: Path, columns: Sequence[str], schema: pa.Schema, *, has_header: bool
) -> Iterator[pa.RecordBatch]:
    """Yield the contacts of a file whose columns are `columns`, as batches of `schema`.

    Raises:
        ArrowInvalid: Arrow can't read it; what was yielded before is right.
    """
    parser = _Parser(columns, schema)
    flights: deque[Future[pa.RecordBatch]] = deque()
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="sendgrid-exports-arrow") as threads:
        for number, block in enumerate(_blocks(path, parser.ending)):
            # When one is asked for, each thread has another.
            if len(flights) > _THREADS:
                yield from _filled(flights.popleft())
            header = has_header and number == 0
            flights.append(threads.submit(parser.parse, block, has_header=header))
        while flights:
            yield from _filled(flights.popleft())


def _filled(flight: Future[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    batch = flight.result()
    if batch.num_rows:
        yield batch


class _Parser:
    """Makes batches of blocks of CSV, each of whole records.

    Attributes:
        ending: a row to stand at the end of each block: only by its being there one knows that
            no quote was left open.
    """

    def __init__(self, columns: Sequence[str], schema: pa.Schema) -> None:
        self._columns = columns
        self._schema = schema
        self.ending = b'\n""' + b"," * (len(columns) - 1) + b"\n"
        fields = [schema.field(name) for name in columns]
        self._nested = [field for field in fields if pa.types.is_nested(field.type)]
        types = {field.name: field.type for field in fields}
        types |= {field.name: pa.string() for field in self._nested}
        # The blocks are known to be UTF-8, and no text but the empty one stands for a null.
        self._options = pyarrow.csv.ConvertOptions(
            check_utf8=False, column_types=types, null_values=[""], strings_can_be_null=False
        )

    def parse(self, block: pa.Buffer, *, has_header: bool) -> pa.RecordBatch:
        """Return the contacts in a block.

        Raises:
            ArrowInvalid: Arrow can't read it as what it is.
        """
        _check_beginning(block.slice(0, 2 * len(BOM_UTF8)).to_pybytes(), has_header=has_header)
        _check_utf8(block)
        table = pyarrow.csv.read_csv(
            pa.BufferReader(block),
            read_options=pyarrow.csv.ReadOptions(
                use_threads=False,
                block_size=block.size,
                column_names=self._columns,
                skip_rows_after_names=int(has_header),
            ),
            convert_options=self._options,
        )
        batches = table.to_batches()
        if len(batches) != 1 or batches[0].column(len(self._columns) - 1)[-1].as_py():
            raise pa.ArrowInvalid("a quote is never closed")
        batch = batches[0].slice(0, batches[0].num_rows - 1)
        arrays = dict(zip(self._columns, batch.columns, strict=True))
        for field in self._nested:
            arrays[field.name] = make_column(arrays[field.name], field)
        return arrange(arrays, batch.num_rows, self._schema)


def _blocks(path: Path, ending: bytes) -> Iterator[pa.Buffer]:
    """Yield a file's plain text in blocks of whole records, with `ending` after each.

    Raises:
        ArrowInvalid: a record is longer than any contact can be.
    """
    held: list[bytes] = []
    size = 0
    for piece in read_plain(path):
        held.append(piece)
        size += len(piece)
        if size < _BLOCK:
            continue
        if end := _record_end(piece):
            held[-1] = piece[:end]
            yield _join([*held, ending])
            held = [piece[end:]]
            size = len(held[0])
        elif size > _BLOCK + LONGEST_RECORD:
            raise pa.ArrowInvalid("a record has no end")
    if size:
        yield _join([*held, ending])


def _record_end(text: bytes) -> int:
    """Return where the last record ends of which that is certain, or 0.

    Within quotes there are none but in pairs. So an odd number of them that neither begins a line
    nor follows a comma ends a value, and commas after it can't be within another.
    """
    end = len(text)
    while (end := text.rfind(b"\n", 0, end)) >= 0:
        line = text[text.rfind(b"\n", 0, end) + 1 : end].rstrip(b",\r")
        value = line.rstrip(b'"')
        if (len(line) - len(value)) % 2 and value and not value.endswith(b","):
            return end + 1
    return 0


def _join(pieces: list[bytes]) -> pa.Buffer:
    # Arrow keeps the memory of a block for the next one; bytes so long get new pages each time.
    buffer = pa.allocate_buffer(sum(map(len, pieces)))
    with pa.FixedSizeBufferWriter(buffer) as file:
        for piece in pieces:
            file.write(piece)
    return buffer


def _check_beginning(beginning: bytes, *, has_header: bool) -> None:
    """Raise `ArrowInvalid` where Arrow would take off a mark that is text, or no header."""
    if has_header:
        beginning = beginning.removeprefix(BOM_UTF8)
    if beginning.startswith((BOM_UTF8, b"\n", b"\r")):
        raise pa.ArrowInvalid("there is no record at the beginning")


def _check_utf8(block: pa.Buffer) -> None:
    """Raise `ArrowInvalid` for a block that is not UTF-8."""
    # A cast of one long text is several times as fast as checking every value, or decoding.
    sizes = pa.py_buffer(block.size.to_bytes(8, "little").rjust(16, b"\0"))
    buffers = [None, sizes, block]
    pa.LargeBinaryArray.from_buffers(pa.large_binary(), 1, buffers).cast(pa.large_string())
