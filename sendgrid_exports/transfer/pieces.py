"""Which bytes of a file are there, on their way, or still to be asked for. Pure bookkeeping.

Every byte belongs to exactly one of: `written`, an active piece, a waiting piece. Before the
size is known there is one piece, which asks for the beginning and so learns it.
"""

from __future__ import annotations

from bisect import bisect_left

import attrs

__all__ = ["FilePieces", "Piece", "Ranges"]


class Ranges:
    """A set of bytes as disjoint half-open ranges, in order."""

    def __init__(self, ranges: list[tuple[int, int]] | None = None) -> None:
        self._ranges: list[tuple[int, int]] = []
        for start, end in ranges or ():
            self.add(start, end)

    def add(self, start: int, end: int) -> None:
        """Add the bytes from `start` to before `end`, joining what touches."""
        if start >= end:
            return
        first = bisect_left(self._ranges, start, key=lambda found: found[1])
        last = first
        while last < len(self._ranges) and self._ranges[last][0] <= end:
            start = min(start, self._ranges[last][0])
            end = max(end, self._ranges[last][1])
            last += 1
        self._ranges[first:last] = [(start, end)]

    @property
    def size(self) -> int:
        """How many bytes are in the set."""
        return sum(end - start for start, end in self._ranges)

    @property
    def prefix(self) -> int:
        """How many bytes from 0 on are in the set without a gap."""
        return self._ranges[0][1] if self._ranges and self._ranges[0][0] == 0 else 0

    def as_list(self) -> list[tuple[int, int]]:
        """Return the ranges, in order."""
        return list(self._ranges)

    def gaps(self, total: int) -> list[tuple[int, int]]:
        """Return what is missing of `total` bytes."""
        gaps = []
        position = 0
        for start, end in self._ranges:
            if position < min(start, total):
                gaps.append((position, min(start, total)))
            position = end
        if position < total:
            gaps.append((position, total))
        return gaps


@attrs.define(eq=False)
class Piece:
    """A range of a file that one request at a time brings.

    Attributes:
        position: the next byte to be received.
        end: the byte after the last one, or None until the size is known.
        ranged: whether to ask for a range; otherwise for the whole object.
        furthest: the position that no try has passed yet.
        failures: tries in a row that did not pass it.
        resting: whether it waits for its next try.
    """

    position: int
    end: int | None
    ranged: bool = True
    furthest: int = attrs.field(init=False)
    failures: int = 0
    resting: bool = False

    def __attrs_post_init__(self) -> None:
        self.furthest = self.position

    def tried(self) -> bool:
        """Count a try that ended; return whether it made progress."""
        progress = self.position > self.furthest
        self.furthest = max(self.furthest, self.position)
        self.failures = 0 if progress else self.failures + 1
        return progress

    @property
    def finished(self) -> bool:
        """Whether every byte of it was received."""
        return self.end is not None and self.position >= self.end


class FilePieces:
    """The pieces of one file."""

    def __init__(self, *, first: int) -> None:
        self._first = first
        self.total: int | None = None
        self.splittable = True
        self.written = Ranges()
        self.waiting: list[Piece] = []
        self.active: list[Piece] = []
        self.start_over()

    def start_over(self, *, plain: bool = False) -> None:
        """Forget all bytes; `plain`: as one stream without ranges from now on."""
        self.splittable = self.splittable and not plain
        self.total = None
        self.written = Ranges()
        self.active = []
        self.waiting = [Piece(0, self._first if self.splittable else None, ranged=self.splittable)]

    def resume(self, total: int, written: list[tuple[int, int]]) -> None:
        """Go on from what an earlier run left on disk."""
        self.total = total
        self.written = Ranges(written)
        self.waiting = [Piece(start, end) for start, end in self.written.gaps(total)]

    def discovered(self, piece: Piece, total: int | None, *, whole: bool) -> None:
        """Note the size, which the first answer to `piece` told; `whole`: it brings everything."""
        known, self.total = self.total, total
        if whole:
            piece.end, piece.ranged = total, False
            self.splittable = False
        elif known is None and total is not None:
            asked = piece.end if piece.end is not None else total
            piece.end = min(asked, total)
            if piece.end < total:
                self.waiting.append(Piece(piece.end, total))

    @property
    def complete(self) -> bool:
        """Whether every byte is written; of no bytes, once the request for them has ended."""
        if self.total == 0:
            return not self.active
        return self.total is not None and self.written.prefix >= self.total

    @property
    def arrived(self) -> int:
        """How many bytes were received, written or not yet."""
        if self.total is None:
            return sum(piece.position for piece in self.active)
        return self.total - sum(_rest(piece) for piece in [*self.waiting, *self.active])

    def take(self, largest: int) -> Piece | None:
        """Make the first waiting piece active, cut to `largest` bytes, and return it."""
        if not self.waiting:
            return None
        piece = self.waiting.pop(0)
        if self.total is not None and piece.end is not None and _rest(piece) > largest:
            self.waiting.insert(0, Piece(piece.position + largest, piece.end))
            piece.end = piece.position + largest
        self.active.append(piece)
        return piece

    def split(self, smallest: int) -> Piece | None:
        """Return half of the largest active rest as a new active piece; None if all are small."""
        candidates = [piece for piece in self.active if piece.ranged and not piece.resting]
        if not self.splittable or self.total is None or not candidates:
            return None
        largest = max(candidates, key=_rest)
        if _rest(largest) <= 2 * smallest or largest.end is None:
            return None
        middle = largest.position + _rest(largest) // 2
        piece = Piece(middle, largest.end)
        largest.end = middle
        self.active.append(piece)
        return piece

    def put_back(self, piece: Piece) -> None:
        """Let a piece whose request ended wait again, unless it is finished."""
        self.active.remove(piece)
        if not piece.finished:
            self.waiting.insert(0, piece)

    @property
    def waiting_bytes(self) -> int:
        """How many bytes nobody has asked for yet, as far as is known."""
        return sum(_rest(piece) for piece in self.waiting)


def _rest(piece: Piece) -> int:
    return 0 if piece.end is None else piece.end - piece.position
