"""A file of an export during a transfer. No I/O: the tasks of the transfer change it."""

from __future__ import annotations

import asyncio
import math

import attrs

from sendgrid_exports.transfer.answers import Expected, Version
from sendgrid_exports.transfer.links import Link
from sendgrid_exports.transfer.pieces import FilePieces
from sendgrid_exports.transfer.retries import Tries

FIRST_TURN = (False, 0)
"""The smallest `File.turn`: that of a file that has not begun, and has no connection."""


@attrs.define(eq=False)
class Copy:
    """One version of a file, as far as it has come; dropped whole when the file starts over.

    Attributes:
        pieces: which of its bytes are where.
        version: what pins it, once known.
        expected: what the storage announced of it.
        received: how many of its bytes arrived, written or not.
        durable: how many of its bytes are synced, and in the journal.
        synced_at: when the last sync began, on the monotonic clock.
        syncing: whether one is under way.
        journaled: whether the journal mentions it.
        counted: whether the progress counts it.
        fits: whether the disk was found to have room for it.
        grown: set when bytes were written.
    """

    pieces: FilePieces
    version: Version | None = None
    expected: Expected = attrs.field(factory=Expected)
    received: int = 0
    durable: int = 0
    synced_at: float = math.inf
    syncing: bool = False
    journaled: bool = False
    counted: bool = False
    fits: bool = False
    grown: asyncio.Event = attrs.field(factory=asyncio.Event)

    @classmethod
    def new(cls, first: int | None, *, ranged: bool = True) -> Copy:
        """Return a copy of which nothing has arrived.

        Args:
            first: how many bytes its first request asks for; None: all.
            ranged: whether its requests have ranges.
        """
        return cls(FilePieces(first=first, ranged=ranged))


@attrs.define(eq=False)
class File:
    """A file of an export during a transfer: what survives when it starts over.

    Attributes:
        number: its place, from 1.
        link: where it is downloaded from.
        copy: the version that is being downloaded.
        tries: how often it was tried without success.
        link_dead: whether `link` must be replaced before the next request.
        connections: how many connections it has.
        compressed: whether it is gzip: by its name at first, then by its first bytes.
        announced: whether a `FileStarted` event was sent.
        event_at: when the last event about its bytes was sent, on the monotonic clock.
    """

    number: int
    link: Link
    copy: Copy
    tries: Tries = attrs.field(factory=Tries)
    link_dead: bool = False
    connections: int = 0
    compressed: bool = True
    announced: bool = False
    event_at: float = -math.inf

    @property
    def turn(self) -> tuple[bool, int]:
        """Which file gets a free connection: the smallest of these."""
        return self.copy.pieces.total is not None, self.connections
