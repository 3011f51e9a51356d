"""CSV as SendGrid writes it, taken apart at its quotes, faster than what reads any CSV.

Every value is quoted, and an empty one is nothing at all. So a text that is cut at every quote is
by turns outside and inside of values, and what is outside of a record, its shape, is commas and
one quote for each piece inside. Pieces that no comma parts are one value with quotes in it. A
shape with anything else in it is no such CSV, and all of the text is left to who reads any.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import compress, islice
from typing import TypeAlias

__all__ = ["QuotedCsv"]

# Of quotes alone, a text would be cut in as many pieces as it has characters.
_LONGEST_TEXT = 1024 * 1024
_LONGEST_SHAPE = 1024
_MOST_SHAPES = 2048

# The columns that have a value, which pieces are to be joined to one, how many pieces there are.
_Shape: TypeAlias = tuple[tuple[str, ...], tuple[slice, ...], int]


class _OddShapeError(ValueError):
    """A record is not one of a quoted value or nothing for each column."""


class _Shapes(dict[str, _Shape]):
    """What shapes mean: most records have one that was there before."""

    def __init__(self, columns: tuple[str, ...]) -> None:
        super().__init__()
        self._columns = columns

    def __missing__(self, outside: str) -> _Shape:
        values = outside.split(",")
        if len(values) != len(self._columns) or outside.strip('",'):
            raise _OddShapeError
        names = tuple(compress(self._columns, values))
        joined = tuple(_joined(filter(None, values))) if '""' in outside else ()
        shape = names, joined, outside.count('"')
        if len(outside) <= _LONGEST_SHAPE:
            if len(self) == _MOST_SHAPES:
                self.clear()
            self[outside] = shape
        return shape


class QuotedCsv:
    """The records of a file whose columns are known.

    Args:
        columns: those of the file.
        united: those that each row shall have; what the file hasn't got is empty.
    """

    def __init__(self, columns: tuple[str, ...], united: Iterable[str]) -> None:
        self._shapes = _Shapes(columns)
        self._blank = dict.fromkeys(united, "")

    def read(self, text: str) -> tuple[Iterator[dict[str, str]], int] | None:
        """Return the rows of the records that are whole in `text`, and where the last one ends.

        None, if it is not as SendGrid writes it.

        Args:
            text: whole lines, from the beginning of a record.
        """
        if len(text) > _LONGEST_TEXT:
            return None
        parts = text.split('"')
        rest = _take_off_open(parts)
        # An empty line is no record.
        lines = filter(None, '"'.join(parts[::2]).split("\n"))
        try:
            shapes = list(map(self._shapes.__getitem__, lines))
        except _OddShapeError:
            return None
        if "".join(rest[::2]).strip(","):
            return None
        return self._rows(shapes, iter(parts[1::2])), len(text) - len('"'.join(rest))

    def _rows(self, shapes: list[_Shape], pieces: Iterator[str]) -> Iterator[dict[str, str]]:
        blank = self._blank.copy
        for names, joined, count in shapes:
            row = blank()
            values = pieces
            if joined:
                own = list(islice(pieces, count))
                for place in joined:
                    own[place] = ['"'.join(own[place])]
                values = iter(own)
            # It takes no value more than there are names.
            row.update(zip(names, values))  # noqa: B905
            yield row


def _joined(values: Iterable[str]) -> Iterator[slice]:
    """Yield which pieces are one value, given those of each; the ones before are joined by then."""
    for place, pieces in enumerate(values):
        if len(pieces) > 1:
            yield slice(place, place + len(pieces))


def _take_off_open(parts: list[str]) -> list[str]:
    """Take off and return the parts of the record at the end, if its quotes are not closed."""
    if len(parts) % 2:
        return []
    place = len(parts) - 2
    while place > 0 and "\n" not in parts[place]:
        place -= 2
    before, line_feed, after = parts[place].rpartition("\n")
    rest = [after, *parts[place + 1 :]]
    parts[place:] = [before + line_feed]
    return rest
