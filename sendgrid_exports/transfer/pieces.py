"""Which bytes of a file are on disk, under way, or still to be requested. Pure bookkeeping.

Every byte belongs to exactly one of: `written`, an active piece, a waiting piece. Before the
size is known there is one piece, which asks for the beginning and so learns it.
"""

from __future__ import annotations

from bisect import bisect_left

import attrs


class Ranges:
    """A set of bytes as disjoint half-open ranges, in order.

    Attributes:
        size: how many bytes are in the set.
    """

    def __init__(self, ranges: list[tuple[int, int]] | None = None) -> None:
        self._ranges: list[tuple[int, int]] = []
        self.size = 0
        for start, end in ranges or ():
            self.add(start, end)

    def add(self, start: int, end: int) -> None:
        """Add the bytes from `start` to before `end`, joining what touches."""
        if start >= end:
            return
        first = bisect_left(self._ranges, start, key=lambda found: found[1])
        last = first
        while last < len(self._ranges) and self._ranges[last][0] <= end:
            known_start, known_end = self._ranges[last]
            self.size -= known_end - known_start
            start, end = min(start, known_start), max(end, known_end)
            last += 1
        self._ranges[first:last] = [(start, end)]
        self.size += end - start

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
    """A range of a file that one request at a time asks for.

    Attributes:
        position: the next byte to be received.
        end: the byte after the last one, or None until the size is known.
        ranged: whether to ask for a range; otherwise for the whole object.
        furthest: the position that no attempt has passed yet.
        failures: attempts in a row that did not pass it.
    """

    position: int
    end: int | None
    ranged: bool = True
    furthest: int = attrs.field(init=False)
    failures: int = 0

    def __attrs_post_init__(self) -> None:
        self.furthest = self.position

    def tried(self) -> bool:
        """Count an attempt that ended; return whether it made progress."""
        progress = self.position > self.furthest
        self.furthest = max(self.furthest, self.position)
        self.failures = 0 if progress else self.failures + 1
        return progress

    def take(self, block: memoryview) -> memoryview:
        """Advance by what arrived, and return as much of it as belongs to the piece."""
        if self.end is not None:
            block = block[: self.end - self.position]
        self.position += len(block)
        return block

    def end_of_body(self) -> None:
        """End a piece of unknown length where its body ended."""
        if self.end is None:
            self.end = self.position

    @property
    def rest(self) -> int:
        """How many bytes are still to come, as far as is known."""
        return 0 if self.end is None else self.end - self.position

    @property
    def finished(self) -> bool:
        """Whether every byte of it was received."""
        return self.end is not None and self.position >= self.end


class FilePieces:
    """The pieces of one version of a file.

    Args:
        first: how many bytes the first request asks for; None: all of them.
        ranged: whether to ask for ranges; otherwise the file comes as one stream.

    Attributes:
        total: the size of the file, or None until it is known.
        written: the bytes in the part file.
        waiting: pieces that no connection asks for yet.
        active: pieces that a connection asks for.
    """

    def __init__(self, *, first: int | None, ranged: bool = True) -> None:
        self.total: int | None = None
        self.written = Ranges()
        self.waiting = [Piece(0, first if ranged else None, ranged=ranged)]
        self.active: list[Piece] = []
        self._ranged = ranged

    def resume(self, total: int, written: list[tuple[int, int]]) -> None:
        """Start from what an earlier run left on disk."""
        self.total = total
        self.written = Ranges(written)
        self.waiting = [Piece(start, end) for start, end in self.written.gaps(total)]

    def discovered(self, piece: Piece, total: int | None, *, whole: bool) -> None:
        """Note the size, which the answer to `piece` gave; `whole`: it holds the whole file."""
        known, self.total = self.total, total
        if whole:
            piece.end, piece.ranged = total, False
            self._ranged = False
        elif known is None and total is not None:
            asked = piece.end if piece.end is not None else total
            piece.end = min(asked, total)
            if piece.end < total:
                self.waiting.append(Piece(piece.end, total))

    @property
    def complete(self) -> bool:
        """Whether every byte is written; of an empty file, once the request for it has ended."""
        if self.total == 0:
            return not self.active and not self.waiting
        return self.total is not None and self.written.prefix >= self.total

    @property
    def ranged(self) -> bool:
        """Whether the file is asked for in ranges."""
        return self._ranged

    def worth(self, smallest: int) -> int:
        """How many more connections the waiting bytes are worth; 0 while the size is unknown."""
        if self.total is None:
            return 0
        return -(-sum(piece.rest for piece in self.waiting) // smallest)

    def take(self, *, connections: int, smallest: int, largest: int) -> Piece | None:
        """Make the next waiting piece active and return it; None if there is none.

        With several connections its size is half of an even share of what waits: pieces get smaller
        towards the end of the file, so that all connections end at about the same time. Only the
        last two may be smaller than `smallest`, by up to a half.

        Args:
            connections: how many connections the file may have.
            smallest: below this, in bytes, another request costs more than it saves.
            largest: the largest piece, in bytes.
        """
        if not self.waiting:
            return None
        piece = self.waiting.pop(0)
        if self.total is not None and piece.end is not None:
            waiting = piece.rest + sum(other.rest for other in self.waiting)
            share = waiting if connections == 1 else waiting // (2 * connections)
            size = min(largest, max(smallest, share))
            if 0 < piece.rest - size < smallest:
                # The last two are alike, so that no connection is left alone with a large one.
                size = min(size, -(-piece.rest // 2))
            if size < piece.rest:
                self.waiting.insert(0, Piece(piece.position + size, piece.end))
                piece.end = piece.position + size
        self.active.append(piece)
        return piece

    def can_split(self, smallest: float) -> bool:
        """Whether an active piece has a rest of more than twice `smallest` bytes."""
        return self._ranged and any(piece.rest > 2 * smallest for piece in self.active)

    def split(self, smallest: float) -> Piece | None:
        """Return half of the largest active rest as a new active piece; None if all are small."""
        if self.total is None or not self.can_split(smallest):
            return None
        largest = max(self.active, key=lambda piece: piece.rest)
        middle = largest.position + largest.rest // 2
        piece = Piece(middle, largest.end)
        largest.end = middle
        self.active.append(piece)
        return piece

    def done(self, piece: Piece) -> None:
        """Drop a piece whose last byte was written."""
        self.active.remove(piece)
        if self.total is None:
            self.total = piece.end
