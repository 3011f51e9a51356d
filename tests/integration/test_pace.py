"""How many requests are under way at once, for the whole and for one file, and how large."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sendgrid_exports import DownloadPolicy, ExportClient, ExportTimeoutError, Verify
from sendgrid_exports.session import Session, Stream
from sendgrid_exports.settings import Limits
from sendgrid_exports.testing import (
    Delay,
    EarlyEnd,
    FakeClock,
    FakeSendGrid,
    Fault,
    RecordedRequest,
    Reset,
    Slow,
    Stall,
    Status,
    TooManyAtOnce,
)
from tests.integration.conftest import MANY_AT_ONCE, MakeClient, MakeFake

KIB, MIB = 1024, 1024 * 1024


@attrs.define
class Gauge:
    """What is under way, and what it was whenever another request began."""

    under_way: list[str] = attrs.field(factory=list)
    opened: list[int] = attrs.field(factory=list)
    per_file: list[int] = attrs.field(factory=list)
    begun: list[int] = attrs.field(factory=list)
    _seen: set[str] = attrs.field(factory=set)

    def begin(self, path: str) -> None:
        self._seen.add(path)
        self.under_way.append(path)
        self.opened.append(len(self.under_way))
        self.per_file.append(self.under_way.count(path))
        self.begun.append(len(self._seen))


@asynccontextmanager
async def _counted(
    gauge: Gauge, stream: Any, session: Session, url: str, options: dict[str, Any]
) -> AsyncIterator[Stream]:
    path = url.partition("?")[0]
    gauge.begin(path)
    try:
        async with stream(session, url, **options) as answer:
            yield answer
    finally:
        gauge.under_way.remove(path)


@pytest.fixture
def gauge(monkeypatch: pytest.MonkeyPatch) -> Gauge:
    return watch(monkeypatch)


def watch(patch: pytest.MonkeyPatch) -> Gauge:
    gauge, stream = Gauge(), Session.stream
    patch.setattr(
        Session, "stream", lambda self, url, **options: _counted(gauge, stream, self, url, options)
    )
    return gauge


SMALL = Limits(discovery=8 * KIB, smallest_piece=4 * KIB, first_connections=1000)
"""Kilobytes stand for megabytes."""

small = pytest.mark.parametrize("limits", [SMALL])


def a_file(size: int) -> bytes:
    """Return an export of so many bytes."""
    return (b"EMAIL\n" + bytes(size))[:size] if size > 5 else b"\n" * size


def ranges(requests: list[RecordedRequest]) -> list[tuple[int, int]]:
    """Return what was asked for, each from its first byte to before its last."""
    asked = [request.headers["Range"].removeprefix("bytes=").split("-") for request in requests]
    return [(int(first), int(last) + 1) for first, last in asked]


async def arrives(
    fake: FakeSendGrid, client: ExportClient, export_id: str, directory: Path, **options: Any
) -> None:
    result = await client.fetch(export_id, directory, timeout=3000, **options)
    stored = await fake.file_bytes(export_id)
    for file, raw in zip(result.files, stored, strict=True):
        assert await asyncio.to_thread(file.path.read_bytes) == raw


async def test_there_are_few_at_first_and_more_while_they_bring_more(
    make_fake: MakeFake, make_client: MakeClient, tmp_path: Path, gauge: Gauge
) -> None:
    fake = await make_fake()
    fake.inject(Delay(1), times=None)
    export_id = await fake.add_export(files=60, contacts=120)
    await arrives(fake, make_client(fake), export_id, tmp_path)
    assert gauge.opened[:4] == [1, 2, 3, 4]
    assert max(gauge.opened) >= 14


async def test_nothing_that_came_is_no_reason_for_more_connections(
    make_fake: MakeFake, make_client: MakeClient, tmp_path: Path
) -> None:
    fake = await make_fake()
    fake.inject(Delay(1000), times=None)
    export_id = await fake.add_export(files=20, contacts=20)
    with pytest.raises(ExportTimeoutError):
        await make_client(fake).fetch(export_id, tmp_path, timeout=5)
    assert len(fake.storage_requests) == Limits().first_connections


@pytest.mark.parametrize("limits", [MANY_AT_ONCE])
async def test_slow_down_lowers_the_pace_for_all_files_and_it_recovers(
    make_fake: MakeFake, make_client: MakeClient, tmp_path: Path, gauge: Gauge
) -> None:
    fake = await make_fake()
    fake.inject(Status(503), times=3)
    fake.inject(Delay(1), times=None)
    export_id = await fake.add_export(files=110, contacts=220)
    client = make_client(fake)
    await arrives(fake, client, export_id, tmp_path)
    assert max(gauge.opened[:16]) == 16
    assert min(gauge.opened[16:30]) <= 12
    # One that has ended may not be followed yet when the next is counted.
    assert max(gauge.opened[30:]) >= 14
    assert len(fake.storage_requests) == 113


@pytest.mark.parametrize("limits", [MANY_AT_ONCE])
async def test_each_wave_of_slow_down_lowers_it_further(
    make_fake: MakeFake, make_client: MakeClient, tmp_path: Path, gauge: Gauge
) -> None:
    fake = await make_fake()
    fake.inject(Status(503), times=16 + 8 + 4)
    fake.inject(Delay(1), times=None)
    export_id = await fake.add_export(files=40, contacts=80)
    await arrives(fake, make_client(fake), export_id, tmp_path)
    assert max(gauge.opened[16:24]) <= 8
    assert max(gauge.opened[24:28]) <= 4
    assert max(gauge.opened[28:30]) <= 2
    assert max(gauge.opened) == 16
    assert len(fake.storage_requests) == 40 + 28


@pytest.mark.parametrize("limits", [MANY_AT_ONCE])
async def test_a_storage_that_takes_six_at_once_is_not_asked_much_in_vain(
    make_fake: MakeFake,
    make_client: MakeClient,
    clock: FakeClock,
    tmp_path: Path,
    gauge: Gauge,
) -> None:
    fake = await make_fake()
    fake.inject(TooManyAtOnce(6), times=None)
    fake.inject(Delay(1), times=None)
    export_id = await fake.add_export(files=60, contacts=120)
    began = clock.monotonic()
    await arrives(fake, make_client(fake), export_id, tmp_path)
    # A refusal now and then is how the pace finds its limit; no file is given up for it.
    assert [request.status for request in fake.storage_requests].count(503) < 100
    assert clock.monotonic() - began < 100
    assert max(gauge.opened[60:]) < 16


SIZES = st.lists(st.integers(1, 100 * KIB), min_size=1, max_size=5)
FAULTS = st.lists(
    st.sampled_from([Reset(after=5000), EarlyEnd(after=1000), Status(503), Status(500), Reset()]),
    max_size=3,
)


@settings(deadline=None, max_examples=15, derandomize=True)
@given(
    connections=st.integers(1, 9),
    per_file=st.integers(1, 5),
    piece_size=st.integers(1 * KIB, 64 * KIB),
    sizes=SIZES,
    faults=FAULTS,
)
def test_the_limits_hold_whatever_the_policy_and_the_sizes(
    connections: int, per_file: int, piece_size: int, sizes: list[int], faults: list[Fault]
) -> None:
    policy = DownloadPolicy(
        connections=connections,
        connections_per_file=per_file,
        piece_size=piece_size,
        limits=SMALL,
    )
    with pytest.MonkeyPatch.context() as patch:
        gauge = watch(patch)
        fake = asyncio.run(fetch(policy, sizes, faults))
    assert max(gauge.opened) <= connections
    assert max(gauge.per_file) <= per_file
    for together, begun in zip(gauge.per_file, gauge.begun, strict=True):
        assert together == 1 or begun == len(sizes)
    least = sum(max(1, -(-size // piece_size)) for size in sizes)
    assert len(fake.storage_requests) >= least
    split = sum(size // (4 * KIB) for size in sizes)
    assert len(fake.storage_requests) <= least + split + len(sizes) + 2 * len(faults)


async def fetch(policy: DownloadPolicy, sizes: list[int], faults: list[Fault]) -> FakeSendGrid:
    clock = FakeClock()
    with tempfile.TemporaryDirectory() as directory:
        async with (
            FakeSendGrid(clock=clock) as fake,
            ExportClient(
                fake.api_key, base_url=fake.base_url, clock=clock, downloads=policy
            ) as client,
        ):
            for place, fault in enumerate(faults):
                fake.inject(fault, skip=place)
            bodies = [a_file(size) for size in sizes]
            export_id = await fake.add_export(bodies=bodies)
            await arrives(fake, client, export_id, Path(directory))
    return fake


async def test_small_files_take_one_connection_each(
    make_fake: MakeFake, make_client: MakeClient, tmp_path: Path, gauge: Gauge
) -> None:
    fake = await make_fake()
    export_id = await fake.add_export(files=50, contacts=500)
    await arrives(fake, make_client(fake), export_id, tmp_path)
    assert len(fake.storage_requests) == 50
    assert set(gauge.per_file) == {1}
    assert max(gauge.opened) == 16


async def test_a_file_of_just_the_first_piece_takes_one_connection(
    make_fake: MakeFake, make_client: MakeClient, tmp_path: Path
) -> None:
    fake = await make_fake()
    export_id = await fake.add_export(bodies=[a_file(8 * MIB - 1)])
    await arrives(fake, make_client(fake, downloads=LENGTH), export_id, tmp_path)
    assert len(fake.storage_requests) == 1


LENGTH = DownloadPolicy(verify=Verify.LENGTH)


@small
async def test_every_file_is_begun_before_one_gets_several(
    make_fake: MakeFake, make_client: MakeClient, tmp_path: Path, gauge: Gauge
) -> None:
    fake = await make_fake()
    fake.inject(Slow(20 * KIB), times=None)
    export_id = await fake.add_export(bodies=[a_file(40 * KIB)] * 5)
    policy = DownloadPolicy(connections=6, verify=Verify.LENGTH, minimum_speed=0)
    await arrives(fake, make_client(fake, downloads=policy), export_id, tmp_path)
    assert len({request.path for request in fake.storage_requests[:5]}) == 5
    assert max(gauge.per_file) >= 2


@small
async def test_a_file_without_any_byte_goes_before_another_piece_of_one_begun(
    make_fake: MakeFake, make_client: MakeClient, tmp_path: Path
) -> None:
    fake = await make_fake()
    fake.inject(Slow(20 * KIB), times=None)
    export_id = await fake.add_export(bodies=[a_file(80 * KIB)] * 4)
    policy = DownloadPolicy(
        connections=2, piece_size=8 * KIB, verify=Verify.LENGTH, minimum_speed=0
    )
    await arrives(fake, make_client(fake, downloads=policy), export_id, tmp_path)
    # S3 judges a link when a request begins: what has not begun may find its link dead.
    assert len({request.path for request in fake.storage_requests[:4]}) == 4


@small
@pytest.mark.parametrize("per_file", [2, 4, 8])
async def test_pieces_get_smaller_towards_the_end_of_a_file(
    make_fake: MakeFake, make_client: MakeClient, tmp_path: Path, per_file: int
) -> None:
    fake = await make_fake()
    size = 400 * KIB
    export_id = await fake.add_export(bodies=[a_file(size)])
    policy = DownloadPolicy(verify=Verify.LENGTH, connections_per_file=per_file)
    await arrives(fake, make_client(fake, downloads=policy), export_id, tmp_path)
    # A range that begins within another is the half that another connection took over.
    ends = dict(ranges(fake.storage_requests))
    sizes, position = [], 0
    while position < size:
        sizes.append(ends[position] - position)
        position = ends[position]
    first, *others = sizes
    assert first == 8 * KIB
    assert others[0] == (size - first) // (2 * per_file)
    assert others[:-1] == sorted(others[:-1], reverse=True)
    # The last two share what is too little for two of the smallest, 4 KiB.
    assert min(others) >= 2 * KIB


@small
@pytest.mark.parametrize("per_file", [1, 2, 4, 8])
async def test_a_large_file_has_as_many_connections_as_it_may(
    make_fake: MakeFake, make_client: MakeClient, tmp_path: Path, gauge: Gauge, per_file: int
) -> None:
    fake = await make_fake()
    fake.inject(Slow(10_000), times=None)
    export_id = await fake.add_export(bodies=[a_file(400 * KIB)])
    policy = DownloadPolicy(verify=Verify.LENGTH, connections_per_file=per_file, minimum_speed=0)
    await arrives(fake, make_client(fake, downloads=policy), export_id, tmp_path)
    assert max(gauge.per_file) == per_file


@small
async def test_other_connections_start_when_the_size_is_known_not_with_the_first_bytes(
    make_fake: MakeFake, make_client: MakeClient, tmp_path: Path
) -> None:
    fake = await make_fake()
    fake.inject(Stall())
    export_id = await fake.add_export(bodies=[a_file(100 * KIB)])
    policy = DownloadPolicy(verify=Verify.LENGTH, connections_per_file=4, read_timeout=0.2)
    await arrives(fake, make_client(fake, downloads=policy), export_id, tmp_path)
    starts = [start for start, _ in ranges(fake.storage_requests)]
    assert starts[0] == 0
    # Until the first connection is given up for its silence.
    assert 0 not in starts[1:4]


@small
async def test_no_connection_idles_while_a_slow_one_has_much_left(
    make_fake: MakeFake, make_client: MakeClient, clock: FakeClock, tmp_path: Path
) -> None:
    fake = await make_fake()
    fake.inject(Slow(1000), skip=1)
    fake.inject(Slow(10_000), times=None)
    export_id = await fake.add_export(bodies=[a_file(240 * KIB)])
    policy = DownloadPolicy(connections_per_file=4, verify=Verify.LENGTH, minimum_speed=0)
    began = clock.monotonic()
    await arrives(fake, make_client(fake, downloads=policy), export_id, tmp_path)
    # Left alone, the slow one would take a minute for its quarter.
    assert clock.monotonic() - began < 30


@small
async def test_the_connections_of_a_finished_file_go_to_one_that_is_not(
    make_fake: MakeFake, make_client: MakeClient, tmp_path: Path, gauge: Gauge
) -> None:
    fake = await make_fake()
    fake.inject(Slow(20_000), times=None)
    export_id = await fake.add_export(bodies=[a_file(8 * KIB)] * 3 + [a_file(200 * KIB)])
    policy = DownloadPolicy(connections=4, verify=Verify.LENGTH, minimum_speed=0)
    await arrives(fake, make_client(fake, downloads=policy), export_id, tmp_path)
    assert max(gauge.per_file) == 4
