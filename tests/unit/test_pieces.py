"""The bookkeeping of bytes: none lost, none asked for twice at once."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from sendgrid_exports.transfer.pieces import FilePieces, Piece, Ranges

SPANS = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), max_size=12)


def bytes_of(ranges: list[tuple[int, int]]) -> set[int]:
    return {place for start, end in ranges for place in range(start, end)}


@settings(derandomize=True, max_examples=100, deadline=None)
@given(SPANS)
def test_ranges_are_a_set_of_bytes(spans: list[tuple[int, int]]) -> None:
    ranges, model = Ranges(spans), bytes_of(spans)
    found = ranges.as_list()
    assert bytes_of(found) == model
    assert ranges.size == len(model)
    assert ranges.prefix == next(n for n in range(61) if n not in model)
    assert all(start < end for start, end in found)
    assert all(one[1] < other[0] for one, other in pairwise(found))


@settings(derandomize=True, max_examples=100, deadline=None)
@given(SPANS, st.integers(60, 80))
def test_gaps_are_what_is_missing(spans: list[tuple[int, int]], total: int) -> None:
    gaps = Ranges(spans).gaps(total)
    assert bytes_of(gaps) == set(range(total)) - bytes_of(spans)
    assert all(start < end for start, end in gaps)


def test_gaps_end_with_the_total() -> None:
    assert Ranges([(0, 20), (30, 40)]).gaps(15) == []


def test_as_list_is_a_copy() -> None:
    ranges = Ranges([(0, 5)])
    ranges.as_list().clear()
    assert ranges.as_list() == [(0, 5)]


def test_tries_count_until_one_passes_the_furthest_byte() -> None:
    piece = Piece(10, 50)
    outcomes = []
    for position in (10, 10, 15, 12, 15, 16):
        piece.position = position
        outcomes.append((piece.tried(), piece.failures))
    assert outcomes == [(False, 1), (False, 2), (True, 0), (False, 1), (False, 2), (True, 0)]


@pytest.mark.parametrize(
    ("position", "end", "finished"),
    [(0, 10, False), (9, 10, False), (10, 10, True), (5, None, False), (0, 0, True)],
)
def test_finished(position: int, end: int | None, finished: bool) -> None:
    assert Piece(position, end).finished is finished


def spans(pieces: list[Piece]) -> list[tuple[int, int | None]]:
    return [(piece.position, piece.end) for piece in pieces]


def started(total: int | None, *, first: int = 10, whole: bool = False) -> tuple[FilePieces, Piece]:
    """A file whose first answer came."""
    file = FilePieces(first=first)
    piece = file.take(first)
    assert piece is not None
    file.discovered(piece, total, whole=whole)
    return file, piece


def test_a_new_file_asks_for_its_beginning_on_one_connection() -> None:
    file = FilePieces(first=10)
    assert not file.complete
    assert spans(file.waiting) == [(0, 10)]
    piece = file.take(4)
    assert piece is not None
    assert (piece.ranged, spans(file.active)) == (True, [(0, 10)])
    assert file.take(10) is None
    assert file.split(1) is None


@pytest.mark.parametrize(
    ("total", "active", "waiting"),
    [(25, (0, 10), [(10, 25)]), (11, (0, 10), [(10, 11)]), (10, (0, 10), []), (3, (0, 3), [])],
)
def test_the_first_answer_tells_the_size(
    total: int, active: tuple[int, int], waiting: list[tuple[int, int]]
) -> None:
    file, piece = started(total)
    assert (spans([piece]), spans(file.waiting)) == ([active], waiting)
    file.discovered(piece, total, whole=False)
    assert (spans([piece]), spans(file.waiting)) == ([active], waiting)


@pytest.mark.parametrize("total", [25, 10, 3, None])
def test_a_whole_answer_is_one_stream(total: int | None) -> None:
    file, piece = started(total, whole=True)
    assert (piece.end, piece.ranged, file.waiting) == (total, False, [])
    assert file.split(1) is None
    file.start_over()
    assert [(piece.end, piece.ranged) for piece in file.waiting] == [(None, False)]


def test_a_stream_of_unknown_size_counts_what_came() -> None:
    file, piece = started(None, whole=True)
    piece.position = 7
    assert (file.arrived, file.waiting_bytes, file.complete) == (7, 0, False)


def test_an_empty_file_is_complete_once_its_size_is_known() -> None:
    file = FilePieces(first=10)
    file.start_over(plain=True)
    assert (file.waiting_bytes, file.complete) == (0, False)
    piece = file.take(10)
    assert piece is not None
    assert (piece.end, piece.ranged) == (None, False)
    file.discovered(piece, 0, whole=True)
    file.put_back(piece)
    assert (file.complete, file.waiting, file.active) == (True, [], [])


def test_resuming_asks_for_the_gaps_alone() -> None:
    file = FilePieces(first=10)
    file.resume(100, [(0, 30), (50, 60)])
    assert spans(file.waiting) == [(30, 50), (60, 100)]
    assert (file.arrived, file.waiting_bytes, file.complete) == (40, 60, False)
    file.resume(100, [(0, 100)])
    assert (file.waiting, file.complete) == ([], True)


def test_take_cuts_and_leaves_the_rest_at_the_front() -> None:
    file = FilePieces(first=10)
    file.resume(100, [(30, 50)])
    taken = [file.take(largest) for largest in (20, 10, 100)]
    assert spans([piece for piece in taken if piece]) == [(0, 20), (20, 30), (50, 100)]
    assert file.take(1) is None


def test_split_halves_the_largest_rest_that_is_large_enough() -> None:
    file = FilePieces(first=10)
    file.resume(100, [(30, 40)])
    small, large = file.take(100), file.take(100)
    assert small is not None
    assert large is not None
    large.position = 60
    assert file.split(21) is None
    half = file.split(19)
    assert half is not None
    assert spans([small, large, half]) == [(0, 30), (60, 80), (80, 100)]
    small.resting = True
    assert file.split(15) is None


class OneFile(RuleBasedStateMachine):
    """A file of `size` bytes, requests that end anyhow, and every byte accounted for."""

    @initialize(size=st.integers(1, 120), first=st.integers(1, 50))
    def begin(self, size: int, first: int) -> None:
        self.size = size
        self.file = FilePieces(first=first)
        self.unwritten: dict[Piece, int] = {}

    def working(self) -> list[Piece]:
        return [piece for piece in self.file.active if not piece.resting]

    def is_working(self) -> bool:
        return bool(self.working())

    @rule(largest=st.integers(1, 60))
    def take(self, largest: int) -> None:
        piece = self.file.take(largest)
        assert piece is None or not piece.finished

    @precondition(is_working)
    @rule(data=st.data(), count=st.integers(0, 40), told=st.booleans())
    def receive(self, data: st.DataObject, count: int, told: bool) -> None:
        """An answer comes, and bytes; if `told` is false, a plain one does not say its size."""
        piece = data.draw(st.sampled_from(self.working()))
        if self.file.total is None and piece.position == 0:
            total = self.size if piece.ranged or told else None
            self.file.discovered(piece, total, whole=not piece.ranged)
        self.unwritten.setdefault(piece, piece.position)
        piece.position = min(piece.position + count, piece.end or self.size)

    def write(self, piece: Piece) -> None:
        self.file.written.add(self.unwritten.pop(piece, piece.position), piece.position)
        if not piece.ranged and piece.position == self.size:
            piece.end = self.file.total = self.size

    @precondition(is_working)
    @rule(data=st.data())
    def write_one(self, data: st.DataObject) -> None:
        self.write(data.draw(st.sampled_from(self.working())))

    @rule(smallest=st.integers(1, 10))
    def split(self, smallest: int) -> None:
        piece = self.file.split(smallest)
        if piece is not None:
            assert piece.end is not None
            assert piece.end - piece.position >= smallest

    @precondition(is_working)
    @rule(data=st.data(), kept=st.booleans(), rests=st.booleans())
    def end_request(self, data: st.DataObject, kept: bool, rests: bool) -> None:
        """A request ends, what it brought is written or lost, and it may rest for a while."""
        piece = data.draw(st.sampled_from(self.working()))
        if kept:
            self.write(piece)
        else:
            piece.position = self.unwritten.pop(piece, piece.position)
        progress, failures = piece.position > piece.furthest, piece.failures
        assert piece.tried() is progress
        assert piece.failures == (0 if progress else failures + 1)
        if not piece.ranged and not piece.finished:
            self.start_over(plain=True)
        elif rests and not piece.finished:
            piece.resting = True
        else:
            self.file.put_back(piece)

    @rule()
    def wake(self) -> None:
        for piece in [piece for piece in self.file.active if piece.resting]:
            piece.resting = False
            self.file.put_back(piece)

    @rule(plain=st.booleans(), really=st.integers(0, 9))
    def begin_anew(self, plain: bool, really: int) -> None:
        if really == 0:
            self.start_over(plain=plain)

    def start_over(self, *, plain: bool) -> None:
        self.file.start_over(plain=plain)
        self.unwritten = {}

    @invariant()
    def every_byte_is_in_one_place(self) -> None:
        times = [0] * self.size
        rests = [(piece.position, piece.end) for piece in [*self.file.active, *self.file.waiting]]
        for start, end in [
            *self.file.written.as_list(),
            *((start, piece.position) for piece, start in self.unwritten.items()),
            *((start, self.size if end is None else end) for start, end in rests),
        ]:
            for place in range(start, min(end, self.size)):
                times[place] += 1
        if self.file.total is None:
            # One piece, which may not reach the end: nobody knows the end.
            assert len(rests) == 1
            assert set(times) <= {0, 1}
        else:
            assert times == [1] * self.size
        received = self.file.written.size + sum(
            piece.position - start for piece, start in self.unwritten.items()
        )
        assert self.file.arrived == received
        assert self.file.complete == (self.file.written.size == self.file.total)

    def teardown(self) -> None:
        """From any state, requests that succeed complete the file."""
        self.wake()
        while piece := next(iter(self.working()), None) or self.file.take(30):
            self.unwritten.setdefault(piece, piece.position)
            if self.file.total is None:
                self.file.discovered(piece, self.size, whole=not piece.ranged)
            piece.position = self.size if piece.end is None else piece.end
            self.write(piece)
            self.file.put_back(piece)
        assert self.file.complete
        assert self.file.written.as_list() == [(0, self.size)]
        assert (self.file.active, self.file.waiting) == ([], [])


def test_every_byte_is_written_waited_for_or_on_its_way() -> None:
    run_state_machine_as_test(
        OneFile,
        settings=settings(
            derandomize=True, max_examples=100, stateful_step_count=40, deadline=None
        ),
    )
