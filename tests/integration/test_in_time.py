"""A download that can't be done in time says so early, and ends in time all the same."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path

import pytest

from sendgrid_exports import (
    BytesReceived,
    DownloadPolicy,
    Event,
    ExportClient,
    ExportExpiredError,
    ExportTimeoutError,
    IncompleteDownloadError,
    RunningLate,
    Verify,
)
from sendgrid_exports.settings import Limits
from sendgrid_exports.testing import FakeClock, FakeSendGrid, Fault, Slow, Stall, Status, Trickle
from tests.integration.conftest import MakeClient, MakeFake

MIB = 1024 * 1024
ANY_SPEED = DownloadPolicy(minimum_speed=0)

# 200 000 bytes at 2000 a second take a hundred.
SIZE = 200_000
LINE = Trickle(size=1000, every=0.5)


def rows(size: int) -> bytes:
    return (b"EMAIL,CONTACT_ID\n" + b"ann@example.com,1\n" * (size // 18 + 1))[:size]


def durable(directory: Path) -> int:
    """Return how many bytes the journal claims, counting the last line about each file."""
    [journal] = directory.glob("*.journal")
    records = [json.loads(line[9:]) for line in journal.read_text().splitlines()[1:]]
    last = {record["number"]: record["done"] for record in records}
    return sum(end - start for done in last.values() for start, end in done)


def said(error: BaseException) -> int:
    found = re.search(r"([\d,]+) of [\d,]+ bytes of the unfinished files are durable", str(error))
    assert found is not None
    return int(found[1].replace(",", ""))


@pytest.mark.parametrize("files", [1, 4])
async def test_too_late_for_the_timeout_is_told_once_and_early(
    make_fake: MakeFake,
    make_client: MakeClient,
    clock: FakeClock,
    tmp_path: Path,
    files: int,
) -> None:
    fake = await make_fake()
    fake.inject(LINE, times=None)
    export_id = await fake.add_export(bodies=[rows(SIZE)] * files)
    began = clock.monotonic()
    told: list[tuple[float, RunningLate]] = []

    def listen(event: Event) -> None:
        if isinstance(event, RunningLate):
            told.append((clock.monotonic() - began, event))

    with pytest.raises(ExportTimeoutError) as caught:
        await make_client(fake, downloads=ANY_SPEED).fetch(
            export_id, tmp_path, timeout=60, on_event=listen
        )
    assert clock.monotonic() - began == pytest.approx(60, abs=1)
    [(at, late)] = told
    assert 10 <= at <= 15
    assert late.export_id == export_id
    assert late.seconds_left == pytest.approx(60 - at, abs=0.5)
    assert late.seconds_needed > 80
    # The last sync may end while everything is being stopped: then more is durable than said.
    assert 0 < said(caught.value) <= durable(tmp_path) <= files * SIZE * 0.7
    assert not list(tmp_path.glob("*.csv"))


@pytest.mark.parametrize("limits", [Limits(block=4096)])
async def test_bytes_are_told_of_at_most_ten_times_a_second_and_file(
    make_fake: MakeFake, make_client: MakeClient, clock: FakeClock, tmp_path: Path
) -> None:
    fake = await make_fake(compressed=False)
    export_id = await fake.add_export(contacts=2000, files=2)
    told: list[tuple[int, float]] = []

    def note(event: Event) -> None:
        if isinstance(event, BytesReceived):
            told.append((event.number, clock.monotonic()))
            clock.advance(0.011)

    await make_client(fake).fetch(export_id, tmp_path, on_event=note)
    assert sum(len(file) for file in await fake.file_bytes(export_id)) > 100 * 4096
    for number in (1, 2):
        times = [time for file, time in told if file == number]
        assert times
        assert all(later - time >= 0.1 - 1e-9 for time, later in itertools.pairwise(times))


async def test_too_late_for_the_expiry_is_told_and_ends_as_expired(
    make_fake: MakeFake,
    make_client: MakeClient,
    clock: FakeClock,
    tmp_path: Path,
    events: list[Event],
) -> None:
    fake = await make_fake(file_lifetime=60)
    fake.inject(LINE, times=None)
    export_id = await fake.add_export(bodies=[rows(SIZE)])
    began = clock.monotonic()
    with pytest.raises(ExportExpiredError) as caught:
        await make_client(fake, downloads=ANY_SPEED).fetch(
            export_id, tmp_path, timeout=600, on_event=events.append
        )
    assert clock.monotonic() - began == pytest.approx(60, abs=1)
    assert sum(isinstance(event, RunningLate) for event in events) == 1
    assert 0 < said(caught.value) <= durable(tmp_path)
    assert caught.value.export_id == export_id


async def test_whichever_comes_first_names_the_error(
    make_fake: MakeFake, make_client: MakeClient, tmp_path: Path
) -> None:
    fake = await make_fake(file_lifetime=60)
    fake.inject(LINE, times=None)
    export_id = await fake.add_export(bodies=[rows(SIZE)])
    with pytest.raises(ExportTimeoutError, match="fetch again"):
        await make_client(fake, downloads=ANY_SPEED).fetch(export_id, tmp_path, timeout=30)


async def test_what_is_said_to_be_durable_is_not_fetched_again(
    make_fake: MakeFake, make_client: MakeClient, tmp_path: Path
) -> None:
    fake = await make_fake()
    fake.inject(LINE)
    export_id = await fake.add_export(bodies=[rows(SIZE)])
    with pytest.raises(ExportTimeoutError) as caught:
        await make_client(fake, downloads=ANY_SPEED).fetch(export_id, tmp_path, timeout=30)
    kept = durable(tmp_path)
    await make_client(fake).fetch(export_id, tmp_path)
    assert fake.storage_requests[1].headers["Range"] == f"bytes={kept}-{SIZE - 1}"
    assert 0 < said(caught.value) <= kept


@pytest.mark.parametrize("timeout", [150, None])
async def test_fast_enough_is_not_told(
    make_fake: MakeFake,
    make_client: MakeClient,
    tmp_path: Path,
    events: list[Event],
    timeout: float | None,
) -> None:
    fake = await make_fake(file_lifetime=300)
    fake.inject(LINE, times=None)
    export_id = await fake.add_export(bodies=[rows(SIZE)])
    await make_client(fake, downloads=ANY_SPEED).fetch(
        export_id, tmp_path, timeout=timeout, on_event=events.append
    )
    assert not any(isinstance(event, RunningLate) for event in events)


async def test_resumed_bytes_do_not_count_as_speed(
    make_fake: MakeFake,
    make_client: MakeClient,
    clock: FakeClock,
    tmp_path: Path,
    events: list[Event],
) -> None:
    fake = await make_fake()
    fake.inject(LINE, times=None)
    export_id = await fake.add_export(bodies=[rows(SIZE)])
    client = make_client(fake, downloads=ANY_SPEED)
    with pytest.raises(ExportTimeoutError):
        await client.fetch(export_id, tmp_path, timeout=50)
    with pytest.raises(ExportTimeoutError):
        await client.fetch(export_id, tmp_path, timeout=40, on_event=events.append)
    [late] = [event for event in events if isinstance(event, RunningLate)]
    assert late.seconds_needed == pytest.approx(40, rel=0.5)


async def test_files_that_wait_for_their_turn_do_not_keep_it_from_being_told(
    make_fake: MakeFake, make_client: MakeClient, tmp_path: Path, events: list[Event]
) -> None:
    fake = await make_fake()
    fake.inject(LINE, times=None)
    export_id = await fake.add_export(bodies=[rows(SIZE)] * 5)
    policy = DownloadPolicy(minimum_speed=0, connections=2)
    with pytest.raises(ExportTimeoutError):
        await make_client(fake, downloads=policy).fetch(
            export_id, tmp_path, timeout=60, on_event=events.append
        )
    assert any(isinstance(event, RunningLate) for event in events)


async def test_a_stall_is_told_once_bytes_come_again(
    make_fake: MakeFake, make_client: MakeClient, tmp_path: Path, events: list[Event]
) -> None:
    fake = await make_fake()
    fake.inject(Trickle(after=100_000, size=100), times=None)
    export_id = await fake.add_export(bodies=[rows(SIZE)])
    with pytest.raises(ExportTimeoutError):
        await make_client(fake, downloads=ANY_SPEED).fetch(
            export_id, tmp_path, timeout=90, on_event=events.append
        )
    assert sum(isinstance(event, RunningLate) for event in events) == 1


async def split_requests(
    fake: FakeSendGrid, client: ExportClient, directory: Path, timeout: float
) -> int:
    """Fetch a file whose first big piece is so slow that others would gladly take half of it."""
    fake.inject(Slow(2 * MIB), skip=1, times=1)
    export_id = await fake.add_export(bodies=[rows(32 * MIB)])
    await client.fetch(export_id, directory, timeout=timeout)
    return len(fake.storage_requests)


@pytest.mark.parametrize(("timeout", "splits"), [(25, False), (600, True)])
async def test_near_the_end_nothing_is_split_further(
    make_fake: MakeFake, make_client: MakeClient, tmp_path: Path, timeout: float, *, splits: bool
) -> None:
    fake = await make_fake()
    policy = DownloadPolicy(connections_per_file=2, verify=Verify.LENGTH, piece_size=16 * MIB)
    client = make_client(fake, downloads=policy)
    requests = await split_requests(fake, client, tmp_path, timeout)
    # The beginning, and the rest in two even pieces.
    assert (requests > 3) is splits
    assert requests >= 3


@pytest.mark.parametrize(
    "fault", [Status(503), Status(500), Stall(), Status(503, retry_after=25)], ids=repr
)
@pytest.mark.parametrize("limit", ["timeout", "expiry"])
async def test_no_sleep_goes_past_the_deadline(
    make_fake: MakeFake,
    make_client: MakeClient,
    clock: FakeClock,
    tmp_path: Path,
    fault: Fault,
    limit: str,
) -> None:
    fake = await make_fake(file_lifetime=40 if limit == "expiry" else 9999)
    fake.inject(fault, times=None)
    policy = DownloadPolicy(attempts=1000, read_timeout=0.02)
    client = make_client(fake, downloads=policy)
    export_id = await fake.add_export()
    began = clock.monotonic()
    ends = (ExportTimeoutError, ExportExpiredError, IncompleteDownloadError)
    with pytest.raises(ends):
        await client.fetch(export_id, tmp_path, timeout=40 if limit == "timeout" else None)
    assert clock.monotonic() - began <= 40
    assert sum(clock.sleeps) <= 40.001
