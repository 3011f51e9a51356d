"""The list of faults on which downloads break, row by row.

Every row ends in the right bytes, or in a typed error with nothing under the final name: in time,
with few requests more than without the fault, and with no signature in any name, text or log.
Run with `-s` to see the table.
"""

from __future__ import annotations

import asyncio
import errno
import gzip
import logging
import math
import resource
import sys
import tempfile
import time
import traceback
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import parse_qs

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sendgrid_exports import (
    BytesReceived,
    CorruptDownloadError,
    DownloadError,
    DownloadInProgressError,
    DownloadPolicy,
    DownloadResult,
    Event,
    ExportClient,
    ExportExpiredError,
    ExportTimeoutError,
    IncompleteDownloadError,
    InsufficientDiskSpaceError,
    SendGridExportsError,
)
from sendgrid_exports.disk import write_file
from sendgrid_exports.settings import Limits
from sendgrid_exports.testing import (
    ContentDisposition,
    Delay,
    EarlyEnd,
    EndlessBody,
    ExpiredLink,
    FakeClock,
    FakeSendGrid,
    Fault,
    FlippedBit,
    IgnoreRange,
    LongerBody,
    NoLength,
    Redirect,
    Reset,
    Stall,
    Status,
    Trickle,
    TruncatedChunks,
    WrongContentRange,
    WrongETag,
)
from tests.integration.conftest import MANY_AT_ONCE, MakeClient, MakeFake

DEADLINE = 600.0
MIB = 1024 * 1024
CUT = 30_000
ALWAYS: dict[str, Any] = {"times": None}

USUAL = DownloadPolicy()
ONE_STREAM = DownloadPolicy(connections_per_file=1)
QUICK = DownloadPolicy(read_timeout=0.1)
PIECES = DownloadPolicy(piece_size=20_000)


@attrs.define
class Stage:
    """A service, a client and a directory for one row."""

    fake: FakeSendGrid
    client: ExportClient
    clock: FakeClock
    directory: Path
    export_id: str
    events: list[Event] = attrs.field(factory=list)

    async def fetch(self) -> DownloadResult:
        return await self.client.fetch(
            self.export_id, self.directory, timeout=DEADLINE, on_event=self.events.append
        )


Play: TypeAlias = Callable[[Stage], Awaitable[DownloadResult]]


async def usual(stage: Stage) -> DownloadResult:
    return await stage.fetch()


async def with_dead_links(stage: Stage) -> DownloadResult:
    export = await stage.client.wait(stage.export_id)
    stage.fake.expire_links()
    return await stage.client.download(export, stage.directory, timeout=DEADLINE)


async def with_another_object(stage: Stage) -> DownloadResult:
    """Put other bytes of the same length under the key while the next try is waited for."""
    [old] = await stage.fake.file_bytes(stage.export_id)
    sleep = stage.clock.sleep

    async def replace(seconds: float) -> None:
        await stage.fake.replace_file(stage.export_id, 1, b"EMAIL\n" + b"n" * (len(old) - 6))
        await sleep(seconds)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stage.clock, "sleep", replace)
        return await stage.fetch()


async def with_time_passing(stage: Stage) -> DownloadResult:
    def tick(event: Event) -> None:
        if isinstance(event, BytesReceived):
            stage.clock.advance(20)

    return await stage.client.fetch(
        stage.export_id, stage.directory, timeout=DEADLINE, on_event=tick
    )


async def twice_at_once(stage: Stage) -> DownloadResult:
    """Have another task try the same while the first one waits for its next try."""
    sleep = stage.clock.sleep

    async def meanwhile(seconds: float) -> None:
        with pytest.raises(DownloadInProgressError):
            await stage.fetch()
        await sleep(seconds)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stage.clock, "sleep", meanwhile)
        return await stage.fetch()


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


async def with_a_small_disk(stage: Stage) -> DownloadResult:
    with files_of_at_most(CUT):
        return await stage.fetch()


async def with_a_full_disk(stage: Stage) -> DownloadResult:
    def full(path: Path, data: memoryview) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sendgrid_exports.transfer.part.write_file", full)
        return await stage.fetch()


CHILD = """
import asyncio, sys
from sendgrid_exports import DownloadPolicy, fetch_export
_, base_url, key, export_id, directory = sys.argv
policy = DownloadPolicy(connections_per_file=1)
asyncio.run(fetch_export(export_id, directory, api_key=key, base_url=base_url, downloads=policy))
"""


async def killed_and_again(stage: Stage) -> DownloadResult:
    """Kill another process in the middle of it, then go on where it was."""
    fake, directory = stage.fake, stage.directory
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", CHILD, fake.base_url, fake.api_key, stage.export_id, str(directory)
    )
    journal = directory / f"{stage.export_id}.journal"
    async with asyncio.timeout(30):
        while not (journal.exists() and journal.read_bytes().count(b"\n") > 1):
            await asyncio.sleep(0.02)
    with pytest.raises(DownloadInProgressError):
        await stage.fetch()
    child.kill()
    await child.wait()
    assert finals(directory) == []
    result = await stage.fetch()
    resumed = fake.storage_requests[2].headers["Range"]
    assert int(resumed.removeprefix("bytes=").partition("-")[0]) >= Limits().sync_bytes
    return result


@attrs.frozen(kw_only=True)
class Row:
    """A fault and what comes of it.

    `clean` is the number of requests without the fault, which `starts_over` times more may be
    needed where another version of the object shows up. `requests` is exact, unless a row says
    `at most` because connections race there.
    """

    name: str
    faults: tuple[tuple[Fault, dict[str, Any]], ...] = ()
    service: dict[str, Any] = attrs.field(factory=dict)
    export: dict[str, Any] = attrs.field(factory=dict)
    policy: DownloadPolicy = USUAL
    play: Play = usual
    outcome: type[BaseException] | None = None
    clean: int = 1
    starts_over: int = 0
    requests: int = 1
    at_most: bool = False
    statuses: int = 1
    seconds: float = 1.0


def once(*faults: Fault, **options: Any) -> tuple[tuple[Fault, dict[str, Any]], ...]:
    return tuple((fault, options) for fault in faults)


PLAIN = b"EMAIL,CONTACT_ID\n" + b"ann@example.com,1\n" * 5000
IN_PIECES: dict[str, Any] = {"policy": PIECES, "export": {"bodies": [PLAIN]}, "clean": 5}
NO_RETRY_AFTER = 35.5
"""Half a second, doubled seven times, but at most ten seconds."""
WITHOUT_THE_FIRST = 25.5
"""The same, but the first try after a refusal is one with a fresh link, at once."""

ROWS = [
    Row(name="none"),
    Row(name="connection reset in mid-body", faults=once(Reset(CUT)), requests=2),
    Row(name="connection reset before the body", faults=once(Reset()), requests=2),
    Row(
        name="body ends early on every request",
        faults=once(EarlyEnd(10_000), **ALWAYS),
        export={"bodies": [PLAIN]},
        requests=20,
        at_most=True,
        seconds=15,
    ),
    Row(name="chunked body truncated", faults=once(TruncatedChunks(CUT)), requests=2),
    Row(
        name="chunked body truncated, nothing pins it",
        faults=once(TruncatedChunks(CUT)),
        service={"etag": "none"},
        requests=2,
    ),
    Row(name="range ignored on resume", faults=once(Reset(CUT), IgnoreRange()), requests=3),
    Row(
        name="range ignored on every segment",
        faults=once(IgnoreRange(), skip=1, **ALWAYS),
        **IN_PIECES,
        requests=1 + 4 + 1,
        at_most=True,
    ),
    Row(
        name="object replaced, same length",
        faults=once(Reset(CUT)),
        play=with_another_object,
        requests=3,
    ),
    Row(name="stall in mid-body", faults=once(Stall(CUT)), policy=QUICK, requests=2),
    Row(name="stall before the headers", faults=once(Delay(math.inf)), policy=QUICK, requests=2),
    Row(
        name="trickle, 2.5 bytes a second",
        faults=once(Trickle(CUT, 1, 0.4)),
        requests=2,
        seconds=50,
    ),
    Row(name="link expired from the start", play=with_dead_links, requests=2, statuses=2),
    Row(
        name="link expired after a cut",
        faults=once(Reset(CUT), ExpiredLink()),
        requests=3,
        statuses=2,
    ),
    Row(
        name="link expired for all pieces at once",
        faults=once(ExpiredLink(), skip=1, times=4),
        **IN_PIECES,
        requests=9,
        statuses=2,
    ),
    Row(
        name="two pieces denied, for no known reason",
        faults=once(Status(403), skip=1, times=2),
        **IN_PIECES,
        requests=7,
        statuses=2,
    ),
    Row(
        name="link dead for ever",
        faults=once(ExpiredLink(), **ALWAYS),
        outcome=DownloadError,
        requests=4,
        statuses=4,
    ),
    Row(
        name="denied for ever",
        faults=once(Status(403), **ALWAYS),
        outcome=DownloadError,
        requests=8,
        statuses=2,
        seconds=WITHOUT_THE_FIRST,
    ),
    Row(
        name="signature does not match",
        faults=once(Status(403, code="SignatureDoesNotMatch"), **ALWAYS),
        outcome=DownloadError,
    ),
    Row(
        name="file gone",
        faults=once(Status(404), **ALWAYS),
        outcome=ExportExpiredError,
        requests=8,
        statuses=2,
        seconds=WITHOUT_THE_FIRST,
    ),
    Row(
        name="file not yet there, three times",
        faults=once(Status(404), times=3),
        requests=4,
        statuses=2,
        seconds=1.5,
    ),
    Row(
        name="a page in the place of the file",
        export={"bodies": [b"<html><title>Sign in</title></html>"]},
        outcome=CorruptDownloadError,
        clean=1,
        starts_over=1,
        requests=2,
    ),
    Row(name="503", faults=once(Status(503)), requests=2),
    Row(
        name="503, Retry-After in seconds",
        faults=once(Status(503, retry_after=44)),
        requests=2,
        seconds=45,
    ),
    Row(
        name="503, Retry-After as a date",
        faults=once(Status(503, retry_after="Mon, 02 Mar 2026 09:30:44 GMT")),
        requests=2,
        seconds=45,
    ),
    Row(
        name="503, Retry-After past the deadline",
        faults=once(Status(503, retry_after=6000)),
        outcome=IncompleteDownloadError,
    ),
    Row(
        name="503 for ever",
        faults=once(Status(503), **ALWAYS),
        outcome=IncompleteDownloadError,
        requests=8,
        seconds=NO_RETRY_AFTER,
    ),
    Row(
        name="Content-Encoding: gzip, cut and resumed",
        faults=once(Reset(CUT), EarlyEnd(CUT)),
        service={"content_encoding": "gzip"},
        requests=3,
        seconds=1.5,
    ),
    Row(
        name="one flipped bit, S3's checksum sent",
        faults=once(FlippedBit(at=1000)),
        service={"checksum_headers": True, "etag": "multipart"},
        export={"bodies": [PLAIN]},
        requests=2,
    ),
    Row(
        name="one flipped bit, no checksum but gzip's",
        faults=once(FlippedBit(at=1000)),
        service={"etag": "none"},
        requests=2,
    ),
    Row(
        name="one flipped bit every time",
        faults=once(FlippedBit(at=1000), **ALWAYS),
        service={"checksum_headers": True, "etag": "multipart"},
        export={"bodies": [PLAIN]},
        outcome=CorruptDownloadError,
        requests=2,
    ),
    Row(name="disk takes no larger file", play=with_a_small_disk, outcome=OSError),
    Row(name="disk full", play=with_a_full_disk, outcome=InsufficientDiskSpaceError),
    Row(
        name="SIGKILL at 80 %, another process meanwhile, restart",
        faults=once(Stall(12 * MIB), skip=1),
        export={"bodies": [b"EMAIL\n" + b"a" * (24 * MIB)]},
        play=killed_and_again,
        policy=ONE_STREAM,
        clean=2,
        requests=3,
        statuses=2,
    ),
    Row(
        name="two tasks, one target",
        faults=once(Reset(CUT)),
        play=twice_at_once,
        requests=2,
    ),
    Row(
        name="Content-Disposition: ../../x",
        faults=once(ContentDisposition('attachment; filename="../../x"')),
    ),
    Row(
        name="Content-Disposition: /abs/x",
        faults=once(ContentDisposition('attachment; filename="/tmp/x"')),
    ),
    Row(
        name="names of 300 characters",
        export={"names": ["n" * 300 + ".csv.gzip"], "bodies": [gzip.compress(PLAIN, mtime=0)]},
    ),
    Row(
        name="redirect to http",
        faults=once(Redirect("http://127.0.0.1:1/x?X-Amz-Signature=elsewhere")),
        outcome=DownloadError,
    ),
    Row(
        name="endless body",
        faults=once(EndlessBody(), **ALWAYS),
        play=with_time_passing,
        outcome=ExportTimeoutError,
        seconds=DEADLINE + 20,
    ),
    Row(name="body longer than asked for", faults=once(LongerBody()), requests=2),
    Row(name="another range than asked for", faults=once(WrongContentRange()), requests=2),
    Row(name="no length", faults=once(NoLength())),
    Row(
        name="wrong ETag at first",
        faults=once(WrongETag('"00000000000000000000000000000000"')),
        requests=2,
    ),
    Row(
        name="wrong ETag on one piece",
        faults=once(WrongETag('"00000000000000000000000000000000"'), skip=2),
        **IN_PIECES,
        starts_over=1,
        requests=10,
        at_most=True,
    ),
    Row(
        name="wrong ETag on every other piece",
        faults=once(WrongETag('"00000000000000000000000000000000"'), skip=1, **ALWAYS),
        **IN_PIECES,
        outcome=DownloadError,
        starts_over=3,
        requests=20,
        at_most=True,
    ),
    Row(name="ETag without quotes", faults=once(WrongETag("none that HTTP knows"))),
    Row(name="empty object", export={"bodies": [b""]}, clean=2, requests=2),
]


@pytest.fixture(scope="module")
def table() -> Iterator[list[str]]:
    lines = [
        "| fault | outcome | requests (without) | statuses | fake seconds |",
        "|---|---|---|---|---|",
    ]
    yield lines
    print("\n" + "\n".join(lines))


def finals(directory: Path) -> list[str]:
    """Return what lies under a final name."""
    return [
        path.name
        for path in directory.glob("*")
        if path.suffix in {".gz", ".csv", ".json"} and not path.name.endswith(".manifest.json")
    ]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
@pytest.mark.parametrize("limits", [MANY_AT_ONCE])
async def test_every_row_holds(
    row: Row,
    make_fake: MakeFake,
    make_client: MakeClient,
    clock: FakeClock,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    table: list[str],
) -> None:
    caplog.set_level(logging.DEBUG)
    fake = await make_fake(**row.service)
    export_id = await fake.add_export(**{"contacts": 2000, **row.export})
    for fault, options in row.faults:
        fake.inject(fault, **options)
    client = make_client(fake, downloads=row.policy)
    stage = Stage(fake, client, clock, tmp_path / "exports", export_id)
    began, error = clock.monotonic(), None
    try:
        result = await row.play(stage)
    except Exception as caught:  # noqa: BLE001
        error = caught
    seconds = clock.monotonic() - began
    requests, statuses = len(fake.storage_requests), len(fake.api_requests)
    ended = "the right bytes" if error is None else type(error).__name__
    table.append(
        f"| {row.name} | {ended} | {requests} ({row.clean}) | {statuses} | {seconds:.1f} |"
    )

    assert type(error) is (row.outcome or type(None)), error
    if error is None:
        [file] = result.files
        assert [file.path.read_bytes()] == list(await fake.file_bytes(export_id))
        assert sorted(path.name for path in stage.directory.iterdir()) == sorted(
            [file.path.name, result.manifest.name]
        )
    else:
        assert finals(stage.directory) == []
    assert [path.name for path in tmp_path.iterdir()] == ["exports"]
    assert not list(stage.directory.glob("*.lock"))
    assert requests <= row.requests if row.at_most else requests == row.requests
    assert requests <= row.clean * (1 + row.starts_over) + 2 * met(row, requests)
    assert statuses == row.statuses
    assert seconds <= row.seconds
    for text in everything_said(stage, error, caplog.text):
        for secret in secrets(fake):
            assert secret not in text


def met(row: Row, requests: int) -> int:
    """Return how many requests met a fault, or how often something else went wrong."""
    scripted = [options.get("times", 1) for _, options in row.faults]
    return requests if None in scripted else sum(scripted) + (row.play is not usual)


def secrets(fake: FakeSendGrid) -> set[str]:
    signatures = {
        value
        for request in fake.storage_requests
        for name in ("X-Amz-Signature", "X-Amz-Security-Token")
        for value in parse_qs(request.query).get(name, [])
    }
    assert signatures
    return signatures | {fake.api_key, "elsewhere"}


def everything_said(stage: Stage, error: BaseException | None, log: str) -> Iterator[str]:
    yield log
    yield repr(stage.events)
    if error is not None:
        yield repr(error)
        yield "".join(traceback.format_exception(error))
    for path in stage.directory.iterdir():
        yield path.name
        if path.suffix in {".json", ".journal"}:
            yield path.read_text()


async def test_an_empty_object_on_a_slow_disk(
    make_fake: MakeFake, make_client: MakeClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write_slowly(path: Path, data: memoryview) -> None:
        time.sleep(0.05)
        write_file(path, data)

    monkeypatch.setattr("sendgrid_exports.transfer.part.write_file", write_slowly)
    fake = await make_fake()
    result = await make_client(fake).fetch(await fake.add_export(bodies=[b""]), tmp_path)
    assert [file.path.read_bytes() for file in result.files] == [b""]
    assert not list(tmp_path.glob("*.part"))


ANY: list[Fault] = [
    Reset(),
    Reset(5000),
    EarlyEnd(5000),
    TruncatedChunks(100),
    Stall(),
    Stall(5000),
    Trickle(100, 1, 0.4),
    Delay(3),
    Delay(math.inf),
    Status(500),
    Status(503, retry_after=20),
    Status(429, retry_after="Mon, 02 Mar 2026 09:31:00 GMT"),
    ExpiredLink(),
    Status(403),
    Status(400, code="ExpiredToken"),
    Status(404),
    Status(412),
    Status(416),
    Status(206),
    Redirect(),
    IgnoreRange(),
    WrongContentRange(),
    LongerBody(),
    NoLength(),
    FlippedBit(200),
    WrongETag('"x"'),
    WrongETag('W/"x"'),
    WrongETag(""),
]
POLICIES = st.builds(
    DownloadPolicy,
    connections=st.integers(1, 5),
    connections_per_file=st.integers(1, 4),
    piece_size=st.sampled_from([2000, 10_000, MIB]),
    attempts=st.integers(1, 5),
    speed_window=st.sampled_from([2, 20]),
    read_timeout=st.just(0.05),
    decompress=st.booleans(),
)


@settings(max_examples=30, derandomize=True, deadline=None)
@given(
    faults=st.lists(
        st.tuples(st.sampled_from(ANY), st.integers(1, 4), st.integers(0, 4)), max_size=5
    ),
    policy=POLICIES,
    files=st.integers(1, 3),
    link_lifetime=st.sampled_from([2, 300]),
)
def test_faults_in_any_order_come_to_an_end(
    faults: list[tuple[Fault, int, int]], policy: DownloadPolicy, files: int, link_lifetime: int
) -> None:
    asyncio.run(come_to_an_end(faults, policy, files, link_lifetime))


async def come_to_an_end(
    faults: list[tuple[Fault, int, int]], policy: DownloadPolicy, files: int, link_lifetime: int
) -> None:
    clock = FakeClock()
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        async with (
            FakeSendGrid(clock=clock, link_lifetime=link_lifetime, content_encoding="gzip") as fake,
            ExportClient(
                fake.api_key, base_url=fake.base_url, clock=clock, downloads=policy
            ) as client,
        ):
            for fault, times, skip in faults:
                fake.inject(fault, times=times, skip=skip)
            export_id = await fake.add_export(files=files, contacts=300)
            try:
                async with asyncio.timeout(30):
                    result = await client.fetch(export_id, directory, timeout=DEADLINE)
            except SendGridExportsError:
                assert not list(directory.glob("*.lock"))
            else:
                assert [plain(file.path) for file in result.files] == [
                    gzip.decompress(raw) for raw in await fake.file_bytes(export_id)
                ]
                assert len(list(directory.iterdir())) == files + 1
            for path in map(directory.joinpath, finals(directory)):
                assert plain(path)
            met = sum(times for _, times, _ in faults)
            assert len(fake.storage_requests) <= 300
            assert len(fake.api_requests) <= 4 + met + len(fake.storage_requests)
    assert clock.monotonic() - 1000 <= DEADLINE + 1


def plain(path: Path) -> bytes:
    data = path.read_bytes()
    return gzip.decompress(data) if path.suffix == ".gz" else data
