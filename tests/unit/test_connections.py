"""The queue for connections: who is next, and how many there may be."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from typing import Any

import attrs
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from sendgrid_exports.transfer.connections import Connections
from sendgrid_exports.transfer.file import Copy, File
from sendgrid_exports.transfer.links import Link
from sendgrid_exports.transfer.pace import LARGE_READ, Pace
from sendgrid_exports.transfer.pieces import FilePieces

LINK = Link(url="https://storage.example/a.csv", identity="a.csv", kind="csv")


def make_file(number: int, *, begun: bool = False) -> File:
    file = File(number, LINK, Copy(FilePieces(first=None)))
    if begun:
        begin(file)
    return file


def begin(file: File) -> None:
    """Let the file's first answer come."""
    file.copy.pieces.total = 1000


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


@attrs.define(eq=False)
class Request:
    """A task that waits for a connection, and holds it until it is released."""

    file: File
    connections: Connections
    granted: list[Request]
    number: int = 0
    task: asyncio.Task[None] = attrs.field(init=False)
    released: asyncio.Event = attrs.field(factory=asyncio.Event)

    def __attrs_post_init__(self) -> None:
        self.task = asyncio.ensure_future(self._hold())

    async def _hold(self) -> None:
        async with self.connections.one(self.file):
            self.granted.append(self)
            await self.released.wait()

    async def release(self) -> None:
        self.released.set()
        await settle()

    async def cancel(self) -> None:
        self.task.cancel()
        await settle()


class Queue:
    """Requests for the connections of one client, in the order in which they got one."""

    def __init__(self, most: int) -> None:
        self.connections = Connections(most, most)
        self.granted: list[Request] = []
        self.requests: list[Request] = []

    async def request(self, *files: File) -> list[Request]:
        made = [Request(file, self.connections, self.granted) for file in files]
        self.requests += made
        await settle()
        return made

    @property
    def order(self) -> list[int]:
        """The numbers of the files, in the order in which they got a connection."""
        return [request.file.number for request in self.granted]


@pytest.fixture
async def queue() -> AsyncIterator[Queue]:
    queue = Queue(2)
    yield queue
    for request in queue.requests:
        await request.cancel()


async def test_every_file_gets_its_first_connection_before_any_gets_a_second(queue: Queue) -> None:
    one, two, three = (make_file(number) for number in (1, 2, 3))
    first, _ = await queue.request(one, one)
    await queue.request(two, three)
    assert queue.order == [1, 1]
    begin(one)
    await queue.request(one, one)
    await first.release()
    assert queue.order == [1, 1, 2]
    await queue.granted[1].release()
    assert queue.order == [1, 1, 2, 3]


async def test_a_file_that_has_not_begun_is_before_one_that_has_no_connection_now(
    queue: Queue,
) -> None:
    begun, other, fresh = make_file(1, begun=True), make_file(2, begun=True), make_file(3)
    first, _ = await queue.request(other, other)
    await queue.request(begun, fresh)
    await first.release()
    assert queue.order == [2, 2, 3]


async def test_the_file_with_the_fewest_connections_is_next(queue: Queue) -> None:
    many, few = make_file(1, begun=True), make_file(2, begun=True)
    await queue.request(many, many, many, many, few, few)
    assert queue.order == [1, 1]
    for _ in range(4):
        await next(request for request in queue.granted if not request.released.is_set()).release()
    # Each one that is released leaves its file with one less.
    assert queue.order == [1, 1, 2, 1, 2, 1]


async def test_a_file_that_lost_connections_while_it_waited_is_next(queue: Queue) -> None:
    queue.connections = Connections(3, 3)
    lost, kept = make_file(1, begun=True), make_file(2, begun=True)
    first, second, _ = await queue.request(lost, lost, kept)
    # While both wait, the first loses what it had more than the other.
    await queue.request(lost, kept)
    first.released.set()
    second.released.set()
    await settle()
    assert queue.order == [1, 1, 2, 1, 2]


async def test_of_equal_files_the_one_that_waits_longest_is_next(queue: Queue) -> None:
    files = [make_file(number) for number in range(1, 7)]
    await queue.request(*files)
    for number in range(4):
        await queue.granted[number].release()
    assert queue.order == [1, 2, 3, 4, 5, 6]


async def test_a_cancelled_waiter_frees_its_place(queue: Queue) -> None:
    files = [make_file(number) for number in range(1, 5)]
    first, _, third, _ = await queue.request(*files)
    await third.cancel()
    await first.release()
    assert queue.order == [1, 2, 4]
    assert [file.connections for file in files] == [0, 1, 0, 1]


async def test_a_cancel_that_meets_the_grant_passes_the_connection_on(queue: Queue) -> None:
    files = [make_file(number) for number in range(1, 5)]
    first, _, third, _ = await queue.request(*files)
    first.released.set()
    while not files[2].connections:
        await asyncio.sleep(0)
    # It has the connection, and has not run yet.
    assert queue.order == [1, 2]
    await third.cancel()
    assert queue.order == [1, 2, 4]
    assert third.task.cancelled()


async def test_an_error_gives_the_connection_back(queue: Queue) -> None:
    files = [make_file(number) for number in range(1, 4)]

    async def fail() -> None:
        async with queue.connections.one(files[0]):
            raise OSError("the connection is gone")

    await queue.request(files[1])
    with pytest.raises(OSError, match="the connection is gone"):
        await fail()
    await queue.request(files[2])
    assert queue.order == [2, 3]
    assert files[0].connections == 0


async def test_a_limit_that_shrinks_takes_nothing_away_and_grants_nothing(queue: Queue) -> None:
    files = [make_file(number) for number in range(1, 5)]
    first, second, _, _ = await queue.request(*files)
    queue.connections.slower()
    await first.release()
    assert queue.order == [1, 2]
    await second.release()
    assert queue.order == [1, 2, 3]
    queue.connections.faster()
    await settle()
    assert queue.order == [1, 2, 3, 4]


async def test_a_limit_that_grows_grants_at_once() -> None:
    queue = Queue(4)
    queue.connections = Connections(4, 1)
    requests = await queue.request(*(make_file(number) for number in range(1, 4)))
    assert queue.order == [1]
    queue.connections.received(1, 1)
    await settle()
    assert queue.order == [1, 2]
    for request in requests:
        await request.cancel()


class Model(RuleBasedStateMachine):
    """Requests that come, end and are cancelled in any order, while the limit moves."""

    runner: asyncio.Runner

    def __init__(self) -> None:
        super().__init__()
        self.granted: list[Request] = []
        self.waiting: list[Request] = []
        self.numbers = 0

    def run(self, work: Coroutine[Any, Any, None]) -> None:
        self.runner.run(work)

    @initialize(most=st.integers(1, 6), first=st.integers(1, 6))
    def start(self, most: int, first: int) -> None:
        self.connections = Connections(most, first)
        self.pace = Pace(most, min(most, first))
        self.files = [make_file(number) for number in range(4)]
        self.model = [0] * 4

    def holders(self) -> list[Request]:
        return [request for request in self.granted if not request.task.done()]

    def is_held(self) -> bool:
        return bool(self.holders())

    def is_waited_for(self) -> bool:
        return bool(self.waiting)

    async def see(self, *ended: Request) -> None:
        """Let what is due be granted; see that it went to those whose turn it was."""
        connections = self.model
        expected: list[Request] = []
        for request in ended:
            if request in self.waiting:
                self.waiting.remove(request)
            else:
                connections[request.file.number] -= 1
        holders = len(self.holders()) - sum(request in self.granted for request in ended)
        while self.waiting and holders < self.pace.limit:
            request = min(
                self.waiting,
                key=lambda request: (
                    request.file.copy.pieces.total is not None,
                    connections[request.file.number],
                    request.number,
                ),
            )
            self.waiting.remove(request)
            expected.append(request)
            connections[request.file.number] += 1
            holders += 1
        before = len(self.granted)
        await settle()
        assert self.granted[before:] == expected
        assert [file.connections for file in self.files] == connections

    @rule(number=st.integers(0, 3))
    def request(self, number: int) -> None:
        async def request() -> None:
            self.numbers += 1
            self.waiting.append(
                Request(self.files[number], self.connections, self.granted, self.numbers)
            )
            await self.see()

        self.run(request())

    @precondition(is_held)
    @rule(data=st.data(), cancel=st.booleans())
    def end(self, data: st.DataObject, cancel: bool) -> None:
        async def end() -> None:
            request = data.draw(st.sampled_from(self.holders()))
            if cancel:
                request.task.cancel()
            else:
                request.released.set()
            await self.see(request)

        self.run(end())

    @precondition(is_waited_for)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        async def leave() -> None:
            request = data.draw(st.sampled_from(self.waiting))
            request.task.cancel()
            await self.see(request)

        self.run(leave())

    @rule(number=st.integers(0, 3))
    def begin(self, number: int) -> None:
        begin(self.files[number])

    @rule(how=st.sampled_from(["small reads", "large reads", "slower", "faster"]))
    def move_the_limit(self, how: str) -> None:
        async def move() -> None:
            match how:
                case "slower":
                    self.pace.slower(len(self.holders()))
                    self.connections.slower()
                case "faster":
                    self.pace.faster()
                    self.connections.faster()
                case _:
                    size = LARGE_READ if how == "large reads" else 1
                    self.pace.received(size, 1)
                    self.connections.received(size, 1)
            await self.see()

        self.run(move())

    @invariant()
    def no_connection_idles_while_a_file_waits(self) -> None:
        if self.waiting:
            assert len(self.holders()) >= self.pace.limit

    def teardown(self) -> None:
        async def end() -> None:
            for request in [*self.granted, *self.waiting]:
                request.task.cancel()
            await settle()
            assert all(request.task.done() for request in [*self.granted, *self.waiting])
            assert [file.connections for file in self.files] == [0] * 4

        self.run(end())


def test_connections_go_to_those_whose_turn_it_is_and_never_above_the_limit() -> None:
    with asyncio.Runner() as Model.runner:
        run_state_machine_as_test(
            Model,
            settings=settings(
                derandomize=True, max_examples=100, stateful_step_count=40, deadline=None
            ),
        )
