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


@pytest.mark.parametrize(
    ("position", "end", "rest"),
    [(0, 10, 10), (9, 10, 1), (10, 10, 0), (5, None, 0), (0, 0, 0)],
)
def test_the_rest_of_a_piece_is_what_is_known_to_come(
    position: int, end: int | None, rest: int
) -> None:
    assert Piece(position, end).rest == rest


@pytest.mark.parametrize(
    ("position", "end", "arrived", "taken"),
    [(0, 10, 4, 4), (0, 10, 10, 10), (0, 10, 11, 10), (8, 10, 100, 2), (5, None, 7, 7)],
)
def test_a_piece_takes_what_belongs_to_it(
    position: int, end: int | None, arrived: int, taken: int
) -> None:
    piece = Piece(position, end)
    block = memoryview(bytes(range(arrived)))
    assert piece.take(block) == block[:taken]
    assert piece.position == position + taken


def test_a_piece_of_unknown_length_ends_where_its_body_ends() -> None:
    piece = Piece(0, None, ranged=False)
    piece.take(memoryview(bytes(7)))
    piece.end_of_body()
    assert (piece.end, piece.finished) == (7, True)
    known = Piece(0, 10)
    known.end_of_body()
    assert (known.end, known.finished) == (10, False)


def spans(pieces: list[Piece]) -> list[tuple[int, int | None]]:
    return [(piece.position, piece.end) for piece in pieces]


def take(file: FilePieces, *, largest: int = 1000) -> Piece:
    piece = file.take(connections=1, smallest=1, largest=largest)
    assert piece is not None
    return piece


def started(
    total: int | None, *, first: int | None = 10, whole: bool = False
) -> tuple[FilePieces, Piece]:
    """Return a file, and its first piece, whose answer has come."""
    file = FilePieces(first=first)
    piece = take(file)
    file.discovered(piece, total, whole=whole)
    return file, piece


def test_a_new_file_asks_for_its_beginning_on_one_connection() -> None:
    file = FilePieces(first=10)
    assert not file.complete
    assert spans(file.waiting) == [(0, 10)]
    piece = file.take(connections=8, smallest=1, largest=4)
    assert piece is not None
    assert (piece.ranged, spans(file.active)) == (True, [(0, 10)])
    assert file.take(connections=8, smallest=1, largest=4) is None
    assert file.split(1) is None


def test_a_new_file_may_ask_for_all_of_it_at_once() -> None:
    file = FilePieces(first=None)
    piece = take(file)
    assert (piece.position, piece.end, piece.ranged) == (0, None, True)
    file.discovered(piece, 25, whole=False)
    assert (spans([piece]), file.waiting) == ([(0, 25)], [])


def test_without_ranges_a_file_is_one_stream() -> None:
    file = FilePieces(first=10, ranged=False)
    piece = take(file)
    assert (piece.end, piece.ranged, file.ranged) == (None, False, False)


@pytest.mark.parametrize(
    ("total", "active", "waiting"),
    [
        (25, (0, 10), [(10, 25)]),
        (11, (0, 10), [(10, 11)]),
        (10, (0, 10), []),
        (3, (0, 3), []),
    ],
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
    assert not file.can_split(1)
    assert file.split(1) is None


def test_a_stream_of_unknown_size_is_complete_once_its_body_ended() -> None:
    file, piece = started(None, whole=True)
    piece.take(memoryview(bytes(7)))
    file.written.add(0, 7)
    assert not file.complete
    piece.end_of_body()
    file.done(piece)
    assert (file.total, file.complete) == (7, True)


def test_an_empty_file_is_complete_once_its_request_has_ended() -> None:
    file = FilePieces(first=10, ranged=False)
    piece = take(file)
    file.discovered(piece, 0, whole=True)
    assert (piece.finished, file.complete) == (True, False)
    file.done(piece)
    assert (file.complete, file.waiting, file.active) == (True, [], [])


def test_resuming_asks_for_the_gaps_alone() -> None:
    file = FilePieces(first=10)
    file.resume(100, [(0, 30), (50, 60)])
    assert spans(file.waiting) == [(30, 50), (60, 100)]
    assert (file.written.size, file.complete) == (40, False)
    file.resume(100, [(0, 100)])
    assert (file.waiting, file.complete) == ([], True)


@pytest.mark.parametrize(
    ("done", "smallest", "worth"),
    [([(0, 30), (50, 60)], 10, 6), ([(0, 95)], 10, 1), ([(0, 89)], 10, 2), ([(0, 100)], 10, 0)],
)
def test_waiting_bytes_are_worth_a_connection_for_each_smallest_piece(
    done: list[tuple[int, int]], smallest: int, worth: int
) -> None:
    file = FilePieces(first=10)
    file.resume(100, done)
    assert file.worth(smallest) == worth


@pytest.mark.parametrize("first", [None, 10])
def test_a_file_of_unknown_size_is_worth_no_more_connections(first: int | None) -> None:
    assert FilePieces(first=first).worth(1) == 0


@pytest.mark.parametrize(
    ("done", "connections", "smallest", "largest", "taken"),
    [
        pytest.param([], 1, 10, 1000, [(0, 800)], id="one connection takes all"),
        pytest.param([], 1, 10, 300, [(0, 300), (300, 600), (600, 800)], id="up to the largest"),
        pytest.param([], 4, 10, 1000, [(0, 100), (100, 187), (187, 263)], id="half of a share"),
        pytest.param([], 4, 200, 1000, [(0, 200), (200, 400), (400, 600)], id="but a small piece"),
        pytest.param([], 4, 500, 1000, [(0, 400), (400, 800)], id="the last two are alike"),
        pytest.param([], 4, 500, 60, [(0, 60), (60, 120)], id="the largest wins"),
        pytest.param(
            [(300, 600)], 1, 10, 1000, [(0, 300), (600, 800)], id="a piece is never over a gap"
        ),
        pytest.param(
            [(300, 600)], 4, 10, 1000, [(0, 62), (62, 116)], id="all that waits is shared"
        ),
    ],
)
def test_pieces_are_taken_in_guided_sizes(
    done: list[tuple[int, int]],
    connections: int,
    smallest: int,
    largest: int,
    taken: list[tuple[int, int]],
) -> None:
    file = FilePieces(first=10)
    file.resume(800, done)
    pieces = [file.take(connections=connections, smallest=smallest, largest=largest) for _ in taken]
    assert spans([piece for piece in pieces if piece]) == taken


@settings(derandomize=True, max_examples=100, deadline=None)
@given(st.integers(1, 5000), st.integers(1, 9), st.integers(1, 500), st.integers(1, 5000))
def test_pieces_get_smaller_and_none_is_empty_or_too_large(
    total: int, connections: int, smallest: int, largest: int
) -> None:
    file = FilePieces(first=None)
    file.resume(total, [])
    sizes = []
    while piece := file.take(connections=connections, smallest=smallest, largest=largest):
        sizes.append(piece.rest)
    assert sum(sizes) == total
    assert min(sizes) >= 1
    assert max(sizes) <= largest
    assert all(later <= size for size, later in pairwise(sizes[:-1]))
    if smallest <= largest:
        assert all(2 * size >= min(smallest, total) for size in sizes)


def test_split_halves_the_largest_rest_that_is_large_enough() -> None:
    file = FilePieces(first=10)
    file.resume(100, [(30, 40)])
    small, large = take(file), take(file)
    large.take(memoryview(bytes(20)))
    assert not file.can_split(20)
    assert file.split(20) is None
    assert file.can_split(19)
    half = file.split(19)
    assert half is not None
    assert spans([small, large, half]) == [(0, 30), (60, 80), (80, 100)]
    # What arrives for the first half and belongs to the second is dropped.
    assert len(large.take(memoryview(bytes(30)))) == 20


class OneFile(RuleBasedStateMachine):
    """A file of `size` bytes, requests that end anyhow, and every byte accounted for."""

    @initialize(
        size=st.integers(1, 120), first=st.none() | st.integers(1, 50), ranged=st.booleans()
    )
    def begin(self, size: int, first: int | None, ranged: bool) -> None:
        self.size = size
        self.file = FilePieces(first=first, ranged=ranged)

    def is_active(self) -> bool:
        return bool(self.file.active)

    @rule(connections=st.integers(1, 5), smallest=st.integers(1, 20), largest=st.integers(1, 60))
    def take(self, connections: int, smallest: int, largest: int) -> None:
        known = self.file.total is not None
        piece = self.file.take(connections=connections, smallest=smallest, largest=largest)
        if piece is not None and known:
            assert not piece.finished
            assert piece.rest <= largest

    @precondition(is_active)
    @rule(data=st.data(), count=st.integers(0, 40), told=st.booleans())
    def receive(self, data: st.DataObject, count: int, told: bool) -> None:
        """An answer comes, and bytes; if `told` is false, a plain one does not say its size."""
        piece = data.draw(st.sampled_from(self.file.active))
        if self.file.total is None and piece.position == 0:
            total = self.size if piece.ranged or told else None
            self.file.discovered(piece, total, whole=not piece.ranged)
        start = piece.position
        block = memoryview(bytes(min(count, self.size - start)))
        taken = piece.take(block)
        assert piece.position == start + len(taken)
        self.file.written.add(start, piece.position)
        if piece.position == self.size:
            piece.end_of_body()

    @rule(smallest=st.integers(1, 10))
    def split(self, smallest: int) -> None:
        could = self.file.total is not None and self.file.can_split(smallest)
        piece = self.file.split(smallest)
        assert (piece is not None) is could
        if piece is not None:
            assert piece.rest > smallest

    @precondition(is_active)
    @rule(data=st.data())
    def end_request(self, data: st.DataObject) -> None:
        """A request ends; its piece is done, or stays with its connection for another attempt."""
        piece = data.draw(st.sampled_from(self.file.active))
        progress, failures = piece.position > piece.furthest, piece.failures
        assert piece.tried() is progress
        assert piece.failures == (0 if progress else failures + 1)
        if piece.finished:
            self.file.done(piece)

    @invariant()
    def every_byte_is_in_one_place(self) -> None:
        times = [0] * self.size
        rests = [(piece.position, piece.end) for piece in [*self.file.active, *self.file.waiting]]
        for start, end in [*self.file.written.as_list(), *rests]:
            for place in range(start, self.size if end is None else min(end, self.size)):
                times[place] += 1
        if self.file.total is None:
            # One piece, which may not reach the end: the end is not known.
            assert len(rests) == 1
            assert set(times) <= {0, 1}
        else:
            assert times == [1] * self.size
        assert self.file.complete == (self.file.written.size == self.file.total)
        waits = any(piece.rest for piece in self.file.waiting)
        assert (self.file.worth(1) > 0) == (self.file.total is not None and waits)

    def teardown(self) -> None:
        """From any state, requests that succeed complete the file."""
        file = self.file
        while piece := next(iter(file.active), None) or file.take(
            connections=3, smallest=5, largest=30
        ):
            if file.total is None:
                file.discovered(piece, self.size, whole=not piece.ranged)
            start = piece.position
            piece.take(memoryview(bytes(self.size - start)))
            file.written.add(start, piece.position)
            file.done(piece)
        assert file.complete
        assert file.written.as_list() == [(0, self.size)]
        assert (file.active, file.waiting) == ([], [])


def test_every_byte_is_written_waited_for_or_on_its_way() -> None:
    run_state_machine_as_test(
        OneFile,
        settings=settings(
            derandomize=True, max_examples=100, stateful_step_count=40, deadline=None
        ),
    )
