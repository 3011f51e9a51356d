"""Downloads that share connections: who may take one, and who is told that one is free."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from sendgrid_exports.transfer.plan import FEW

from sendgrid_exports.transfer.connections import Connections, Share


class Download:
    """A download that only counts how often it was woken."""

    def __init__(self, connections: Connections) -> None:
        self.woken = 0
        self.share = Share(connections, self.wake)

    def wake(self) -> None:
        self.woken += 1

    def take(self, most: int = 100) -> int:
        """Make as many requests as there is room for, and return how many."""
        taken = 0
        while taken < most and self.share.has_room(wanted=True):
            self.share.active += 1
            taken += 1
        return taken


@pytest.fixture
def connections() -> Connections:
    return Connections(FEW)


@pytest.fixture
def two(connections: Connections) -> Iterator[tuple[Download, Download]]:
    with ExitStack() as stack:
        downloads = Download(connections), Download(connections)
        for download in downloads:
            stack.enter_context(connections.among(download.share))
        yield downloads


@pytest.fixture
def waiting(connections: Connections) -> Iterator[tuple[Download, Download]]:
    """Two that stand in line one behind the other, for what a third has just given back."""
    first, second, third = (Download(connections) for _ in range(3))
    with ExitStack() as stack:
        for download in (first, second, third):
            stack.enter_context(connections.among(download.share))
        first.take()
        assert (second.take(), third.take()) == (0, 0)
        first.share.ended(active=3, resting=0)
        yield second, third


def test_one_that_comes_later_gets_its_part_as_connections_are_given_back(
    two: tuple[Download, Download],
) -> None:
    first, later = two
    assert first.take() == FEW == 4
    assert later.take() == 0
    first.share.ended(active=3, resting=0)
    assert first.take() == 0
    assert later.take() == 1
    first.share.ended(active=2, resting=0)
    assert first.take() == 0
    assert later.take() == 1
    assert later.take() == 0


def test_what_the_other_no_longer_wants_may_be_taken(two: tuple[Download, Download]) -> None:
    first, later = two
    first.take()
    assert later.take() == 0
    first.share.ended(active=3, resting=0)
    # It looks again, and has nothing to ask for after all.
    assert later.share.has_room(wanted=True)
    assert first.take() == 1


def test_room_that_its_turn_leaves_unused_goes_to_those_behind(
    waiting: tuple[Download, Download],
) -> None:
    second, third = waiting
    # The third looks before the second, whose turn it is, and who waits for a link.
    assert third.take() == 0
    assert second.share.has_room(wanted=True)
    woken = third.woken
    second.share.passes()
    assert third.woken == woken + 1
    assert third.take() == 1


def test_one_that_leaves_the_line_makes_place_for_those_behind(
    waiting: tuple[Download, Download],
) -> None:
    second, third = waiting
    assert third.take() == 0
    woken = third.woken
    second.share.has_room(wanted=False)
    assert third.woken == woken + 1
    assert third.take() == 1


def test_only_those_who_found_no_room_are_woken(two: tuple[Download, Download]) -> None:
    first, later = two
    later.take(1)
    first.take()
    first.share.ended(active=1, resting=0)
    assert (first.woken, later.woken) == (1, 0)


def test_only_what_gives_room_wakes(two: tuple[Download, Download]) -> None:
    first, later = two
    first.take()
    assert later.take() == 0
    first.share.ended(active=4, resting=0)
    assert later.woken == 0
    # What rests before its next try leaves its room to others, and takes it back.
    first.share.ended(active=4, resting=1)
    assert later.woken == 1
    assert later.take() == 1
    first.share.ended(active=4, resting=0)
    assert later.woken == 1


def test_whoever_leaves_gives_back_all_and_wakes_those_who_wait(connections: Connections) -> None:
    first, later = Download(connections), Download(connections)
    with connections.among(later.share):
        with connections.among(first.share):
            assert first.take() == 4
            assert later.take() == 0
            assert first.take() == 0
        assert later.woken == 1
        assert connections.active == 0
        assert later.take() == 4
    # Nobody who left is waited for or woken.
    assert first.woken == 0


def test_a_storage_that_asks_to_slow_down_is_heard_once_for_the_requests_of_all(
    connections: Connections, two: tuple[Download, Download]
) -> None:
    first, later = two
    first.take(3)
    later.take(1)
    later.share.slower()
    later.share.slower()
    assert connections.pace.limit == 2
    first.share.faster()
    assert connections.pace.limit == 3


def test_one_that_wants_nothing_is_not_waited_for(two: tuple[Download, Download]) -> None:
    first, later = two
    assert first.take() == 4
    assert not later.share.has_room(wanted=False)
    first.share.ended(active=3, resting=0)
    assert first.take() == 1
    assert later.woken == 0
    # It waited, and no longer does.
    assert later.take() == 0
    assert not later.share.has_room(wanted=False)
    first.share.ended(active=3, resting=0)
    assert first.take() == 1


def test_a_slow_line_of_one_leaves_the_others_alone(two: tuple[Download, Download]) -> None:
    first, later = two
    assert first.take() == 4
    first.share.line_is_slow()
    first.share.ended(active=2, resting=0)
    # Two are its own limit now, and nobody has to wait for it.
    assert first.take() == 0
    assert later.take(2) == 2
    first.share.faster()
    later.share.ended(active=1, resting=0)
    assert first.take() == 1
